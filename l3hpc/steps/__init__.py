"""The steps by name. Importing this room is cheap: a step's module loads when it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from l3hpc.errors import InputError, nearest

STEPS = ("extract", "sample", "fit", "reduce", "train", "embed", "classify", "evaluate",
         "folds", "score", "avc_pairs", "avc_train", "sensitivity", "prune", "distill", "finetune",
         "compare")


def step(name: str) -> ModuleType:
    """The module of the step ``name``; an ``InputError`` with the valid names for any other."""
    if name not in STEPS:
        raise InputError(f"unknown step {name!r}", allowed=nearest(name, STEPS))
    return importlib.import_module(f"l3hpc.steps.{name}")
