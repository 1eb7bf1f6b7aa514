"""Training a student: the loop over epochs, the state between them, and the compiled steps.

``state`` (schedule, history, patience, checkpoint) and ``loop`` need no TensorFlow: ``loop`` runs
the two steps of an engine, keeps the best models and restarts at the next batch after an
interruption, and says what it needs of an engine; ``tensorflow_engine`` and ``torch_engine`` have
one training step and one validation step each.
"""
