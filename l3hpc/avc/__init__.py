"""Audio-visual correspondence: does this image belong to this second of sound? How L3 is trained.

Videos (``videos``, ``audioset``) or generated scenes (``scenes``) are cut into matching and
non-matching pairs (``pairs``, ``batches``); a vision and an audio network (``vision``, ``network``)
learn to tell them apart (``training``; Arandjelović and Zisserman 2017, Cramer et al. 2019). The
audio branch is a teacher for everything else in this package.
"""
