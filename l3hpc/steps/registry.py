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
    "extract": "extract:Extract", "sample": "reduction:Sample", "fit": "reduction:Fit",
    "reduce": "reduction:Reduce", "train": "train:Train", "embed": "embed:Embed",
    "classify": "tagging:Classify", "evaluate": "tagging:Evaluate", "folds": "folds:Folds",
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
    found = list(_search()[1])
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


def _registered() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Name → the entry points that register it."""
    return _search()[0]


@functools.cache
def _search() -> tuple[dict[str, list[importlib.metadata.EntryPoint]], list[InputError]]:
    """The entry points of all installed packages, and the packages that cannot be read.

    One package at a time: what one of them has damaged must not hide the others. Of a package that
    is on the path twice the first one counts, as for an import.
    """
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    unreadable, seen = [], set[str]()
    for package in importlib.metadata.distributions():
        place = getattr(package, "_path", None)
        try:
            name = _normalised(package.metadata["Name"] or str(place))
            entries = [entry for entry in package.entry_points if entry.group == GROUP]
        except Exception as error:  # files of a stranger may be damaged in any way
            unreadable.append(InputError(
                f"the entry points cannot be read: {type(error).__name__}: {error}",
                where=str(place), hint="Repair or uninstall the package."))
            continue
        if name in seen:
            continue
        seen.add(name)
        for entry in entries:
            found.setdefault(entry.name, []).append(entry)
    return found, unreadable


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's code may raise anything, also SystemExit
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
