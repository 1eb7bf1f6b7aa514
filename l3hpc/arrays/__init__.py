"""Matrices read row by row or in blocks, parallel passes over them, and the threads of BLAS."""
