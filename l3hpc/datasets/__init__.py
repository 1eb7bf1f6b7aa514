"""Data on disk: listings of audio, readers of embeddings and clips, SONYC-UST, a synthetic city."""
