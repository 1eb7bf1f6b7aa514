"""From weights to a microcontroller: TFLite files, tiled graphs, memory, C code, model cards.

``conversion`` makes a TensorFlow Lite flatbuffer of a network, with a fused front end where asked;
``tiling`` rewrites its graph so that the first blocks are computed strip by strip in little memory;
``costs`` says what it needs, ``interpreter`` runs it, ``ccode`` writes C, ``report`` describes it.
``package.export_model`` does all of that for one model.
"""
