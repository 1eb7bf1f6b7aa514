"""The steps by name: ours, and those that installed packages register.

Importing this is cheap: the module of a step loads when the step is asked for, and the packages
that are installed are looked through only for a name that is not one of ours. A package registers
a step in the entry-point group ``l3hpc.steps``, as ``name = module:Class``. A pipeline, a workspace
or a ``config.json`` can only name a step: what is not registered is refused and nothing of that
name is imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
from typing import Any

from l3hpc.errors import InputError, nearest
from l3hpc.steps.base import Step

AnyStep = Step[Any]  # the parameters of a step that is known by its name alone have no type
GROUP = "l3hpc.steps"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # of a folder, and before the dot in --set
_CLASSES = {
    "extract": "extract:Extract", "sample": "sample:Sample", "fit": "reduction:Fit",
    "reduce": "reduction:Reduce", "train": "train:Train", "embed": "embed:Embed",
    "classify": "classify:Classify", "evaluate": "evaluate:Evaluate", "folds": "folds:Folds",
    "score": "folds:Score", "avc_pairs": "avc:AvcPairs", "avc_train": "avc:AvcTrain",
    "sensitivity": "prune:Sensitivity", "prune": "prune:Prune", "distill": "retrain:Distill",
    "finetune": "retrain:Finetune", "compare": "compare:Compare",
}
BUILT_IN = tuple(_CLASSES)


def names() -> tuple[str, ...]:
    """All steps: ours in the order in which they work, then those of other packages."""
    return (*BUILT_IN, *sorted(set(_registered()) - set(BUILT_IN)))


def is_known(name: str) -> bool:
    """Whether there is a step of this name."""
    return name in _CLASSES or name in _registered()


@functools.cache
def step(name: str) -> AnyStep:
    """The step of this name.

    Raises
    ------
    InputError
        For an unknown name, with those that are close to it; for a step of another package that
        cannot be loaded, or that two packages register, with the package.
    """
    if name in _CLASSES:
        module, _, kind = _CLASSES[name].partition(":")
        found: AnyStep = getattr(importlib.import_module(f"l3hpc.steps.{module}"), kind)()
        return found
    entries = _registered().get(name)
    if not entries:
        raise InputError(f"unknown step {name!r}", allowed=nearest(name, names()))
    problem = _refusal(name, entries)
    if problem:
        raise problem
    return _loaded(entries[0])


def foreign() -> dict[str, str]:
    """Steps of other packages → package and version, sound or not."""
    return {name: ", ".join(map(_package, entries)) for name, entries in _registered().items()}


def problems() -> list[InputError]:
    """What is wrong with the steps of other packages; loads all of them."""
    found = []
    for name, entries in sorted(_registered().items()):
        problem = _refusal(name, entries)
        if problem is None:
            try:
                _loaded(entries[0])
            except InputError as error:
                problem = error
        if problem is not None:
            found.append(problem)
    return found


@functools.cache
def _registered() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Name → the entry points that register it (of one package named twice on the path: one)."""
    found: dict[str, dict[tuple[str, str], importlib.metadata.EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        found.setdefault(entry.name, {}).setdefault((_package(entry), entry.value), entry)
    return {name: list(entries.values()) for name, entries in found.items()}


def _refusal(name: str, entries: list[importlib.metadata.EntryPoint]) -> InputError | None:
    """Why no step may be taken from these entry points; None where one may."""
    where = ", ".join(map(_package, entries))
    hint = "Give it another name there, or uninstall the package."
    if name in _CLASSES:
        return InputError(f"registers a step {name!r}, which l3hpc has itself", where=where,
                          hint=hint)
    if not _NAME.fullmatch(name):
        return InputError(f"registers {name[:80]!r}, which cannot name a step", where=where,
                          allowed="letters, digits, _ and -, beginning with a letter")
    if len(entries) > 1:
        return InputError(f"both register a step {name!r}", where=where, hint=hint)
    return None


def _loaded(entry: importlib.metadata.EntryPoint) -> AnyStep:
    where = f"{_package(entry)}, step {entry.name!r}"
    try:
        kind = entry.load()
        found = kind() if isinstance(kind, type) else kind
    except Exception as error:  # the code of a stranger may raise anything
        raise InputError(f"{entry.value} cannot be loaded: {type(error).__name__}: {error}",
                         where=where, hint="Repair or uninstall the package.") from error
    if not isinstance(found, Step):
        raise InputError(f"{entry.value} is not a step", where=where,
                         allowed="a subclass of l3hpc.steps.Step")
    if getattr(found, "name", None) != entry.name:
        raise InputError(f"{entry.value} calls itself {getattr(found, 'name', None)!r}",
                         where=where, allowed="the name under which it is registered")
    missing = [one for one in ("title", "params_type") if not hasattr(found, one)]
    if missing:
        raise InputError(f"{entry.value} does not state {' and '.join(missing)}", where=where)
    return found


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "a package without a name"
