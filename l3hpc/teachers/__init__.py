"""Teachers: whatever turns windows of audio into an embedding per window.

``base`` says what a teacher is (``Teacher``) and what a kind of teachers must do (``Kind``);
``find`` chooses the kind by the name that the user gives, and is what steps and
``l3hpc.embedding`` call.
A new kind is a module with a class of the methods of ``Kind``, and a line in ``find.KINDS``.
"""
