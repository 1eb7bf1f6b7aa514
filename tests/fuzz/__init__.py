"""Odd and damaged input over every surface of l3hpc: ``python -m tests.fuzz``."""
