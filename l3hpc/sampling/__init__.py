"""A small, relevant and diverse subset: exact k-DPP, relative loudness, time frames, selection."""
