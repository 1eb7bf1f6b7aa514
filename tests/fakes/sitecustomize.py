"""Loaded by every Python that has this folder in PYTHONPATH: the steps become the fake ones."""

import fakestep

import l3hpc.steps

l3hpc.steps.step = lambda name: fakestep.named(name)
