"""From weights to a microcontroller: TensorFlow Lite files, tiled graphs, costs, C code, model
cards.

``conversion`` makes a TensorFlow Lite flatbuffer of a network, with a fused front end where asked;
``tiling`` rewrites its graph (``graph``) so that the first blocks are computed strip by strip in
little memory; ``build`` does both, from a model file and real frames. ``costs`` computes memory,
arithmetic and time, ``interpreter`` runs the model, ``ccode`` writes C. ``package.export_model``
does all of it for one model and writes the folder.
"""
