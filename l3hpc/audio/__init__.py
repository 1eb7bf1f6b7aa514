"""From audio files to spectrograms: reading, resampling, one-second frames, front ends, levels."""
