"""Audio-visual correspondence: does this picture belong to this second of sound? How L3 is taught.

Videos (or generated scenes) are cut into matching and non-matching pairs; a vision and an audio
network learn to tell them apart (Arandjelović and Zisserman 2017; Cramer et al. 2019). The audio
branch is a teacher for everything else in this package.
"""
