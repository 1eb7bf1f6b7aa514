"""Reading of files from outside and durable writing: one checked reader and writer per format.

Readers refuse damaged or malicious files, with an error that names file, line and what to do.
Files are written atomically.
"""
