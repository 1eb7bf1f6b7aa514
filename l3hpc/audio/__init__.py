"""From audio files to spectrograms: reading, resampling, one-second frames, front ends, levels.

``files`` reads recordings. ``conventions`` names the front ends and ``frontends`` computes them.
"""
