"""From weights to a microcontroller: TFLite files, strip-wise graphs, arenas, C code, model cards.

A network becomes a TensorFlow Lite flatbuffer (``plain``), whose graph is then rewritten so that
its first blocks are computed strip by strip in little memory (``strips``); ``arena`` and ``counts``
say what it needs, ``accuracy`` what quantisation changed, ``ccode`` and ``frontend_table`` make C
of it, ``card`` and ``report`` tell it. ``package.export_model`` does all of that for one model.
"""
