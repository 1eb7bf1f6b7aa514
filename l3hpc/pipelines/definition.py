"""Pipeline files: ``jobs/*.yaml`` read, merged with what they include, and checked.

A pipeline names its steps, what each needs, their parameters and resources, and which command-line
option sets which parameter. docs/pipelines/ describes the format. Every error names the file, the
line and the valid names.

The schema of the file comes first, then what it is turned into (``Pipeline``), reading and merging,
and the checks.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from l3hpc import steps as kinds
from l3hpc.config import positions, sources
from l3hpc.config.positions import Document
from l3hpc.config.profile import RequeueLimits, ResourceSpec, Section, Word
from l3hpc.errors import InputError, nearest
from l3hpc.io.yaml import KeyPath
from l3hpc.pipelines.options import OPTIONS

RESOURCES = tuple(ResourceSpec.model_fields)
_StringOrList = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


def _needs(value: Any) -> Any:
    """``needs: a``, ``needs: [a, b]`` and ``needs: {a: any}`` as a mapping."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value, "ok")
    return value


_Needs = Annotated[dict[str, Literal["ok", "any"]], BeforeValidator(_needs)]


# the file --------------------------------------------------------------------------------------


class StepEntry(Section):
    """One step in a pipeline file.

    Attributes
    ----------
    kind : str or None
        Which step it is; None: the one of the same name.
    needs : dict or None
        Steps of this pipeline whose output it reads → ``ok`` if they must succeed first, ``any``
        if they need only have ended.
    given : list of str or None
        External inputs: kinds of steps whose output no step of this pipeline makes.
    params : dict
        Parameters of the step.
    resources : ResourceSpec
        What one task requests from the scheduler.
    heal : RequeueLimits
        How often a task is requeued when its memory or time was too short.
    unless : dict or None
        ``step.parameter`` → value with which the step is skipped (``fit.approx: none``).
    like : str or None
        The kind of step for which the profile says where this step runs; None: its own.
    command, function, inputs, outputs, each, code
        Parameters that a kind of step declares here and not in ``params`` (``Step.declares``).
    """

    kind: Word | None = None
    needs: _Needs | None = None
    given: _StringOrList | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    resources: ResourceSpec = Field(default_factory=ResourceSpec)
    heal: RequeueLimits = Field(default_factory=RequeueLimits)
    unless: dict[str, Any] | None = None
    like: Word | None = None
    command: Any = None
    function: Any = None
    inputs: Any = None
    outputs: Any = None
    each: Any = None
    code: Any = None

    @property
    def declared(self) -> dict[str, Any]:
        """The parameters that stand beside ``params``."""
        return {name: value for name in DECLARED if (value := getattr(self, name)) is not None}


DECLARED = ("command", "function", "inputs", "outputs", "each", "code")


class PipelineFile(Section):
    """A whole file in ``jobs/``.

    Attributes
    ----------
    description : str
        One line for the help of ``l3hpc submit``.
    include : list of str
        Pipelines whose steps and options are taken over.
    options : dict
        Command-line option → the ``step.parameter`` that it sets; an empty list removes an option
        of an included pipeline.
    steps : dict
        Name → step; an empty entry stands for all defaults.
    """

    description: str = ""
    include: _StringOrList = Field(default_factory=list)
    options: dict[str, _StringOrList] = Field(default_factory=dict)
    steps: dict[Word, StepEntry | None] = Field(default_factory=dict)


# what it is turned into ------------------------------------------------------------------------


@dataclass(frozen=True)
class StepDefinition:
    """A step of a pipeline, as its file defines it.

    Attributes
    ----------
    name, kind : str
        Its name in the pipeline, and which step it is.
    needs, given : tuple of str
        As in ``StepEntry``.
    params, unless : dict
        As in ``StepEntry``.
    resources : ResourceSpec
        As in ``StepEntry``.
    heal : RequeueLimits
        As in ``StepEntry``.
    origins : dict
        Parameter or key → ``file:line``, for messages; ``""`` for the step itself.
    any_needs : tuple of str
        Those of ``needs`` that need only have ended.
    like : str
        As in ``StepEntry``; empty for its own kind.
    """

    name: str
    kind: str
    needs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    heal: RequeueLimits = field(default_factory=RequeueLimits)
    unless: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    any_needs: tuple[str, ...] = ()
    like: str = ""

    def with_needs(self, kept: Container[str]) -> StepDefinition:
        """This step with only those of its needs that are in ``kept``."""
        return replace(self, needs=tuple(need for need in self.needs if need in kept),
                       any_needs=tuple(need for need in self.any_needs if need in kept))

    def where(self, key: str = "") -> str:
        """``file:line`` of a key of this step, or of the step."""
        return self.origins.get(key, self.origins.get("", self.name))


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline.

    Attributes
    ----------
    name, description : str
        The name of the file, and its one line.
    path : Path
        The file.
    steps : dict
        Name → step, each after the steps that it needs.
    options : dict
        Command-line option → the ``step.parameter`` that it sets.
    """

    name: str
    description: str
    path: Path
    steps: Mapping[str, StepDefinition]
    options: Mapping[str, tuple[str, ...]]


def parameter_names(step: StepDefinition) -> list[str]:
    """Names of the parameters of a step that can be set from outside the file.

    Raises
    ------
    InputError
        For a step of an unknown kind.
    """
    known = kinds.step(step.kind)
    names = [name for name in known.params_type.model_fields if name not in known.declares]
    if known.has_own_params:
        names = [name for name in step.params if name not in known.params_type.model_fields]
    return names


# reading and merging ---------------------------------------------------------------------------


def load_pipeline(name: str, folder: Path | None = None) -> Pipeline:
    """The pipeline ``name`` of a working folder, otherwise the one that l3hpc ships.

    Parameters
    ----------
    name
        Without ``.yaml``.
    folder
        The working folder (None: the current one).

    Raises
    ------
    InputError
        For an unknown name, with similar ones, and for an invalid file, with its line.
    """
    return load_pipeline_file(sources.pipeline_file(name, folder), folder)


def load_pipeline_file(path: Path, folder: Path | None = None) -> Pipeline:
    """Read and check one file with everything that it includes.

    Parameters
    ----------
    path
        The file.
    folder
        The working folder in which included pipelines are searched first (None: the current one).

    Raises
    ------
    InputError
        For an invalid file, with its line and the valid names.
    """
    description, steps, options = _read(path, folder, ())
    document = positions.load(path)
    if not steps:
        raise InputError("a pipeline needs at least one step", where=document.where())
    for step in steps.values():
        _check_needs(step, steps)
    ordered = {name: steps[name] for name in _sorted_by_needs(steps)}
    for step in ordered.values():
        _check_step(step, steps)
    for option, (targets, where) in options.items():
        for target in targets:
            _check_target(target, ordered, where, f"option {option}")
    return Pipeline(path.stem, description, path, ordered,
                    {option: targets for option, (targets, _) in options.items()})


_Options = dict[str, tuple[tuple[str, ...], str]]  # option → its targets and ``file:line``


def _read(path: Path, folder: Path | None, including: tuple[Path, ...]
          ) -> tuple[str, dict[str, StepDefinition], _Options]:
    """Description, steps and options of a file; ``including``: the files that include it."""
    document = positions.load(path)
    content = positions.validated(PipelineFile, document)
    if path in including:
        chain = " → ".join(item.stem for item in (*including[including.index(path):], path))
        raise document.refuse(("include",), f"pipelines include each other: {chain}")
    steps: dict[str, StepDefinition] = {}
    options: _Options = {}
    for index, name in enumerate(content.include):
        try:
            file = sources.pipeline_file(name, folder)
        except InputError as error:
            raise document.refuse(("include", index), error.message,
                                  allowed=error.allowed) from None
        _, more_steps, more_options = _read(file, folder, (*including, path))
        steps.update(more_steps)
        # Two included pipelines may offer one option: it then sets the parameters of both.
        for option, (targets, where) in more_options.items():
            earlier = options.get(option, ((), ""))[0]
            options[option] = ((*earlier, *targets), where)
    for name, entry in content.steps.items():
        steps[name] = _merge(name, entry or StepEntry(), steps.get(name), document)
    for option, own in content.options.items():
        where = document.where(("options", option))
        if option not in OPTIONS:
            raise InputError(f"unknown option {option!r}", where=where,
                             allowed=nearest(option, OPTIONS))
        options[option] = (tuple(own), where)
        if not own:
            del options[option]
    return content.description, steps, options


def _merge(name: str, entry: StepEntry, included: StepDefinition | None, document: Document
           ) -> StepDefinition:
    """The step of a file, laid over the step of the same name in an included file."""
    place: KeyPath = ("steps", name)
    if not kinds.is_valid_name(name):
        raise document.refuse(place, f"{name!r} is not a valid name of a step",
                              allowed=kinds.VALID_NAME)
    kind = entry.kind or (included.kind if included else name)
    _check_kind(name, kind, entry, document)
    origins = {"": document.where(place)}
    for key in ("needs", "given", "unless"):
        origins[key] = document.where((*place, key))
    for key in entry.params:
        origins[key] = document.where((*place, "params", key))
    for key in entry.declared:
        origins[key] = document.where((*place, key))
    params = {**entry.declared, **entry.params}
    needs = entry.needs or {}
    any_needs = tuple(need for need, how in needs.items() if how == "any")
    if included is None:
        return StepDefinition(name, kind, tuple(needs), tuple(entry.given or ()), params,
                              entry.resources, entry.heal, dict(entry.unless or {}), origins,
                              any_needs, entry.like or "")
    return replace(
        included, kind=kind, params={**included.params, **params},
        like=entry.like or included.like,
        needs=included.needs if entry.needs is None else tuple(needs),
        any_needs=included.any_needs if entry.needs is None else any_needs,
        given=included.given if entry.given is None else tuple(entry.given),
        unless=included.unless if entry.unless is None else dict(entry.unless),
        resources=included.resources.model_copy(
            update=entry.resources.model_dump(exclude_none=True)),
        # Only the keys that are written: a default must not replace what was included.
        heal=included.heal.model_copy(
            update={key: getattr(entry.heal, key) for key in entry.heal.model_fields_set}),
        origins={**included.origins, **origins},
    )


# checks ----------------------------------------------------------------------------------------


def _check_kind(name: str, kind: str, entry: StepEntry, document: Document) -> None:
    """Refuse an unknown kind of step, and parameters that it does not have."""
    place: KeyPath = ("steps", name)
    if not kinds.is_known(kind):
        where = (*place, "kind") if entry.kind else place
        hint = None if entry.kind else f"a step with a name of your own needs kind: below {name}:"
        raise document.refuse(where, f"unknown step {kind!r}",
                              allowed=nearest(kind, kinds.names()), hint=hint)
    if entry.like is not None and not kinds.is_known(entry.like):
        raise document.refuse((*place, "like"), f"unknown step {entry.like!r}",
                              allowed=nearest(entry.like, kinds.names()))
    known = kinds.step(kind)
    for key in entry.declared:
        if key not in known.declares:
            users = [other for other in kinds.BUILT_IN if key in kinds.step(other).declares]
            raise document.refuse((*place, key), f"{kind} takes no {key}",
                                  allowed=f"{key}: belongs to kind: {' or '.join(users)}")
    valid = [key for key in known.params_type.model_fields if key not in known.declares]
    for key in entry.params:
        if key in known.declares:
            raise document.refuse((*place, "params", key), f"{key!r} cannot stand in params:",
                                  hint=f"Move {key}: beside params:, or rename the parameter.")
        if key not in valid and not known.has_own_params:
            hint = f"move it to resources: of {name}" if key in RESOURCES else None
            raise document.refuse((*place, "params", key), f"{kind} has no parameter {key!r}",
                                  allowed=nearest(key, valid), hint=hint)


def _check_needs(step: StepDefinition, steps: Mapping[str, StepDefinition]) -> None:
    """Refuse needs that name no step of the pipeline."""
    for need in step.needs:
        if need not in steps:
            raise InputError(f"{step.name} needs {need!r}, which is not a step of this pipeline",
                             where=step.where("needs"), allowed=nearest(need, steps),
                             hint=f"for an external input, write it under given: of {step.name}")


def _check_step(step: StepDefinition, steps: Mapping[str, StepDefinition]) -> None:
    """Refuse inputs that the step does not have, has twice, or is missing."""
    known = kinds.step(step.kind)
    inputs = known.inputs
    no_inputs = f"{step.kind} takes no input of another step"
    providers: dict[str, str] = {}
    # a step that failed has left no output that ours could read
    if step.any_needs and not known.takes_any:
        users = [other for other in kinds.BUILT_IN if kinds.step(other).takes_any]
        raise InputError(f"{step.name} cannot run after {step.any_needs[0]!r} has failed",
                         where=step.where("needs"),
                         allowed=f"any is for steps of kind {' or '.join(users)}")
    for need in step.needs if not known.takes_any else ():
        kind = steps[need].kind
        if kind not in inputs:
            raise InputError(f"{step.name} cannot use the output of {need!r}",
                             where=step.where("needs"),
                             allowed=nearest(kind, inputs) if inputs else no_inputs)
        if kind in providers:
            raise InputError(f"{step.name} needs both {providers[kind]!r} and {need!r}, "
                             f"but takes one {kind}", where=step.where("needs"))
        providers[kind] = need
    for kind in step.given:
        if known.takes_any and not kinds.is_known(kind):
            raise InputError(f"there is no kind of step {kind!r}", where=step.where("given"),
                             allowed=nearest(kind, kinds.names()))
        if kind not in inputs and not known.takes_any:
            raise InputError(f"{step.name} has no input {kind!r}", where=step.where("given"),
                             allowed=nearest(kind, inputs) if inputs else no_inputs)
    missing = [kind for kind, need in inputs.items()
               if need.required and kind not in providers and kind not in step.given]
    if missing:
        raise InputError(f"{step.name} is missing its input {missing[0]!r}",
                         where=step.where("needs"),
                         allowed=f"write needs: [{', '.join([*step.needs, missing[0]])}]",
                         hint=f"or given: [{missing[0]}] for an external input")
    for key in step.unless:
        _check_target(key, steps, step.where("unless"), f"unless of {step.name}")


def _check_target(target: str, steps: Mapping[str, StepDefinition], where: str, what: str) -> None:
    """Refuse a ``step.parameter`` that does not exist; ``what`` names its user in the message."""
    name, dot, parameter = str(target).partition(".")
    if not dot or name not in steps:
        raise InputError(f"{what}: {target!r} is not a step.parameter of this pipeline",
                         where=where, allowed=nearest(name, steps))
    valid = parameter_names(steps[name])
    if parameter not in valid:
        raise InputError(f"{what}: {name} has no parameter {parameter!r}", where=where,
                         allowed=nearest(parameter, valid) if valid else None)


def _sorted_by_needs(steps: Mapping[str, StepDefinition]) -> list[str]:
    """Names so that each comes after its needs, otherwise as in the file."""
    ordered: list[str] = []
    remaining = list(steps)
    # Not graphlib: among the steps that are ready, the file's order must be kept.
    while remaining:
        ready = next((name for name in remaining
                      if all(need in ordered for need in steps[name].needs)), None)
        if ready is None:
            cycle = _cycle(steps, remaining)
            raise InputError(f"circular dependency between steps: {' → '.join(cycle)}",
                             where=steps[cycle[0]].where("needs"))
        ordered.append(ready)
        remaining.remove(ready)
    return ordered


def _cycle(steps: Mapping[str, StepDefinition], remaining: Iterable[str]) -> list[str]:
    """A cycle among steps of which each needs another one of them."""
    candidates = list(remaining)
    trail = [candidates[0]]
    while True:
        following = next(need for need in steps[trail[-1]].needs if need in candidates)
        if following in trail:
            return [*trail[trail.index(following):], following]
        trail.append(following)
