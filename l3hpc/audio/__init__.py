"""Audio in, spectrograms out: files, resampling, one-second windows, frontends, levels. NumPy."""
