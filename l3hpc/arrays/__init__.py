"""Rows of numbers in blocks, passes over them in parallel, cores and BLAS threads. NumPy alone."""
