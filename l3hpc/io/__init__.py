"""Whatever is read from outside or written for good: one guarded reader and writer per format.

Each reader names the file, the place and what to do about it; a file appears whole or not at all.
"""
