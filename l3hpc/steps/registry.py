"""The steps by name: those of l3hpc, and those that installed packages register.

Importing this is cheap: the module of a step is imported when the step is requested, and installed
packages are searched only for a name that is not one of ours. A package registers a step in the
entry-point group ``l3hpc.steps``, as ``name = module:Class``. A pipeline, a workspace or a
``config.json`` can only name a step: a name that is not registered is refused, and nothing is
imported for it.

Code of another package may be wrong in any way. Its attributes are checked when it is loaded, and
its methods are wrapped, so that every error names the package and the step (``_wrap_methods``).
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from l3hpc.errors import InputError, L3hpcError, nearest
from l3hpc.steps.base import (
    Input,
    LedgerFolder,
    LedgerTab,
    Output,
    Params,
    ReportItem,
    Results,
    Step,
)
from l3hpc.steps.task import refuse_exit

AnyStep = Step[Any]  # the type of the parameters of a step that is requested by name is unknown
GROUP = "l3hpc.steps"
VALID_NAME = "1 to 64 letters, digits, _ and -, beginning with a letter"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # used in paths, and before the dot in --set
_CLASSES = {
    "extract": "extract:Extract", "sample": "sample:Sample", "fit": "reduction:Fit",
    "reduce": "reduction:Reduce", "train": "train:Train", "embed": "embed:Embed",
    "classify": "classify:Classify", "evaluate": "evaluate:Evaluate", "folds": "folds:Folds",
    "score": "folds:Score", "avc_pairs": "avc:AvcPairs", "avc_train": "avc_train:AvcTrain",
    "sensitivity": "prune:Sensitivity", "prune": "prune:Prune", "distill": "retrain:Distill",
    "finetune": "retrain:Finetune", "compare": "compare:Compare", "shell": "shell:Shell",
    "python": "function:Python",
}
BUILT_IN = tuple(_CLASSES)


def names() -> tuple[str, ...]:
    """All steps: ours in the order of the pipelines, then those of other packages."""
    return (*BUILT_IN, *sorted(set(_registered()) - set(BUILT_IN)))


def is_known(name: str) -> bool:
    """Whether there is a step of this name."""
    return name in _CLASSES or name in _registered()


def is_valid_name(name: str) -> bool:
    """Whether a step may have this name (``VALID_NAME``)."""
    return _NAME.fullmatch(name) is not None


@functools.cache
def step(name: str) -> AnyStep:
    """The step of this name.

    Parameters
    ----------
    name
        One of ``names()``.

    Raises
    ------
    InputError
        For an unknown name, with similar ones; for a step of another package that cannot be
        loaded, or that two packages register, with the package.
    """
    if name in _CLASSES:
        module, _, cls = _CLASSES[name].partition(":")
        built_in: AnyStep = getattr(importlib.import_module(f"l3hpc.steps.{module}"), cls)()
        return built_in
    entries = _registered().get(name)
    if not entries:
        raise InputError(f"unknown step {name!r}", allowed=nearest(name, names()))
    problem = _registration_problem(name, entries)
    if problem:
        raise problem
    return _load(entries[0])


def foreign() -> dict[str, str]:
    """Steps of other packages → package and version, usable or not."""
    return {name: ", ".join(map(_package, entries)) for name, entries in _registered().items()}


def problems() -> list[InputError]:
    """What is wrong with the steps of other packages; imports all of them."""
    result = list(_search()[1])
    for name, entries in sorted(_registered().items()):
        problem = _registration_problem(name, entries)
        if problem is None:
            try:
                _load(entries[0])
            except InputError as error:
                problem = error
        if problem is not None:
            result.append(problem)
    return result


def summary_text(known: AnyStep, results: Results) -> str:
    """The one-line summary of a step's output, or what went wrong in making it.

    Results of a network with random weights are labelled as such. The output is complete without
    the text, so an error here must not fail a task whose work is done: the text says that the
    summary failed, and the traceback goes to standard error.

    Parameters
    ----------
    known
        The step.
    results
        What ``run`` returned, task by task.
    """
    from l3hpc.steps.networks import is_noted

    try:
        text = str(known.summary(results))
        return f"{text}, random-weight teacher" if text and is_noted(results) else text
    except Exception as error:
        traceback.print_exc()
        reason = (f"{error.where}: {error.message}" if isinstance(error, L3hpcError)
                  else f"{type(error).__name__}: {error}")
        return f"no summary ({reason}; the output is complete, the traceback is in the log)"


# steps of other packages: search ---------------------------------------------------------------


def _registered() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Name → the entry points that register it."""
    return _search()[0]


@functools.cache
def _search() -> tuple[dict[str, list[importlib.metadata.EntryPoint]], list[InputError]]:
    """The entry points of all installed packages, and the packages that cannot be read."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    unreadable, seen = [], set[str]()
    # Not entry_points(): one damaged package would hide the steps of all others.
    for package in importlib.metadata.distributions():
        location = str(getattr(package, "_path", None))
        try:
            name = re.sub(r"[-_.]+", "-", package.metadata["Name"] or location).lower()
            entries = [entry for entry in package.entry_points if entry.group == GROUP]
        except Exception as error:
            unreadable.append(InputError(
                f"the entry points cannot be read: {type(error).__name__}: {error}",
                where=location, hint="Repair or uninstall the package."))
            continue
        # Of a package that is on the path twice, the first one counts, as for an import.
        if name in seen:
            continue
        seen.add(name)
        for entry in entries:
            found.setdefault(entry.name, []).append(entry)
    return found, unreadable


def _registration_problem(name: str, entries: list[importlib.metadata.EntryPoint]
                          ) -> InputError | None:
    """Why no step can be loaded from these entry points; None where one can."""
    where = ", ".join(map(_package, entries))
    hint = "Rename the step there, or uninstall the package."
    if name in _CLASSES:
        return InputError(f"registers a step {name!r}, which is the name of a step of l3hpc",
                          where=where, hint=hint)
    if not is_valid_name(name):
        return InputError(f"registers {name[:80]!r}, which is not a valid name of a step",
                          where=where, allowed=VALID_NAME)
    if len(entries) > 1:
        return InputError(f"both register a step {name!r}", where=where, hint=hint)
    return None


def _package(entry: importlib.metadata.EntryPoint) -> str:
    """Name and version of the package, or its folder where it has no metadata."""
    package = entry.dist
    if package is None:
        return "a package without a name"
    if not package.metadata["Name"]:
        return str(getattr(package, "_path", "a package without a name"))
    return f"{package.name} {package.version}"


# steps of other packages: load and check -------------------------------------------------------


class _Attributes(BaseModel):
    """The attributes that a step must have, with their types."""

    model_config = ConfigDict(strict=True, from_attributes=True, arbitrary_types_allowed=True)

    name: str
    version: int
    title: str
    params_type: type[Params]
    inputs: Mapping[str, Input]
    not_in_fingerprint: frozenset[str]
    output: Output
    continues: bool
    tab: LedgerTab | None
    ledger_folder: LedgerFolder | None
    report_items: frozenset[ReportItem]
    kept_files: tuple[str, ...] | list[str]
    takes_any: bool
    declares: frozenset[str]
    literal: frozenset[str]
    executes_config: bool


# Names of earlier versions: without this, a step that still uses one would lose it silently.
_RENAMED = {"findings": "report_items"}
# method → type that it must return; None: not checked
_METHODS: dict[str, type | None] = {
    "parse": Params, "implied": dict, "check": None, "check_embeddings": None,
    "ledger_tab": None, "packages": dict,
    "describe": str, "shards": list, "digests": dict, "summary": str, "networks": Sequence,
}


def _load(entry: importlib.metadata.EntryPoint) -> AnyStep:
    where = f"{_package(entry)}, step {entry.name!r}"
    try:
        cls = entry.load()
        loaded = cls() if isinstance(cls, type) else cls
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # including SystemExit, which would end the command silently
        raise InputError(f"{entry.value} cannot be loaded: {type(error).__name__}: {error}",
                         where=where, hint="Repair or uninstall the package.") from error
    if not isinstance(loaded, Step):
        raise InputError(f"{entry.value} is not a step", where=where,
                         allowed="a subclass of l3hpc.steps.Step")
    for former, name in _RENAMED.items():
        if hasattr(loaded, former):
            raise InputError(f"{entry.value}.{former} is now called {name!r}", where=where,
                             hint="See docs/steps/your-own.md.")
    try:
        _Attributes.model_validate(loaded)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        attribute = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise InputError(f"{entry.value} has no attribute {attribute!r}", where=where,
                             hint="See docs/steps/your-own.md.") from None
        raise InputError(f"{entry.value}.{attribute} is {first['input']!r:.80}", where=where,
                         allowed=first["msg"]) from None
    if loaded.name != entry.name:
        raise InputError(f"{entry.value} has the name {loaded.name!r}", where=where,
                         allowed=f"the name under which it is registered, {entry.name!r}")
    _wrap_methods(loaded, where)
    return loaded


def _wrap_methods(loaded: AnyStep, where: str) -> None:
    """Let every method of a step of another package name the package when it fails."""
    for method, returns in _METHODS.items():
        setattr(loaded, method, _named_errors(getattr(loaded, method), method, returns, where))
    loaded.run = _without_exit(loaded.run, where)  # type: ignore[method-assign]


def _named_errors(function: Callable[..., Any], method: str,
                  returns: type | None, where: str) -> Callable[..., Any]:
    """``function``, whose unexpected errors and return types become an ``InputError``."""
    hint = "Report this to the authors of the package; --debug shows the traceback."
    expected: tuple[type[BaseException], ...] = (L3hpcError, KeyboardInterrupt)
    if method == "parse":
        expected = (*expected, ValidationError)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            value = function(*args, **kwargs)
        except expected:
            raise
        except BaseException as error:  # including SystemExit, which would end the command silently
            raise InputError(f"{method} raised {type(error).__name__}: {error}", where=where,
                             hint=hint) from error
        if returns is not None and not isinstance(value, returns):
            raise InputError(f"{method} returned {value!r:.80}", where=where,
                             allowed=f"a value of type {returns.__name__}", hint=hint)
        return value

    return wrapped


def _without_exit(run: Callable[..., dict[str, Any]], where: str
                 ) -> Callable[..., dict[str, Any]]:
    """``run``, of which ``sys.exit()`` is an error that names the package."""

    @functools.wraps(run)
    def wrapped(*args: Any, **kwargs: Any) -> dict[str, Any]:
        with refuse_exit("run", where):
            return run(*args, **kwargs)

    return wrapped
