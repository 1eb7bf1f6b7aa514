"""Training a student: the loop over epochs, the state between them, and the compiled steps.

``state`` (schedule, history, patience, checkpoint) needs no TensorFlow; ``engine`` compiles one
training step and one validation step; ``loop`` runs them, keeps the best models and restarts at the
next batch after an interruption.
"""
