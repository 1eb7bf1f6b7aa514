"""Pipelines: the files in ``jobs/``, checked and put in order.

A pipeline names its steps, what each needs, their parameters and resources, and which command-line
option sets which parameter. docs/pipelines/ describes the format; every refusal names file, line
and the valid names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from l3hpc import steps as kinds
from l3hpc.config import positions, sources
from l3hpc.config.positions import Document
from l3hpc.config.profile import Healing, ResourceSpec, Section, Word
from l3hpc.errors import InputError, nearest
from l3hpc.io.yaml import KeyPath
from l3hpc.pipelines.options import OPTIONS

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # also of a folder, and before the dot in --set
RESOURCES = tuple(ResourceSpec.model_fields)
_Listed = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class StepEntry(Section):
    """One step in a file. given: inputs that come from outside this pipeline. unless: leave the
    step out when a parameter (``fit.approx``) has this value. heal: how often a task may go back
    to the queue when its memory or time was too short."""

    kind: Word | None = None
    needs: _Listed | None = None
    given: _Listed | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    resources: ResourceSpec = Field(default_factory=ResourceSpec)
    heal: Healing = Field(default_factory=Healing)
    unless: dict[str, Any] | None = None


class PipelineFile(Section):
    """A whole file in ``jobs/``."""

    description: str = ""
    include: _Listed = Field(default_factory=list)
    options: dict[str, _Listed] = Field(default_factory=dict)
    steps: dict[Word, StepEntry | None] = Field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A step of a pipeline. places: parameter or key → ``file:line``, for messages."""

    name: str
    kind: str
    needs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    heal: Healing = field(default_factory=Healing)
    unless: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def where(self, key: str = "") -> str:
        """``file:line`` of a key of this step, or of the step."""
        return self.places.get(key, self.places.get("", self.name))


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline: steps in an order that respects their needs; option → targets."""

    name: str
    description: str
    path: Path
    steps: Mapping[str, Step]
    options: Mapping[str, tuple[str, ...]]


def load(name: str, folder: Path | None = None) -> Pipeline:
    """The pipeline ``name`` of the working folder (or ``folder``), else the delivered one."""
    return load_file(sources.pipeline_file(name, folder), folder)


def load_file(path: Path, folder: Path | None = None) -> Pipeline:
    """Read and check one file with everything that it includes."""
    description, steps, options = _read(path, folder, ())
    document = positions.load(path)
    if not steps:
        raise InputError("a pipeline needs at least one step", where=document.where())
    for step in steps.values():
        _check_needs(step, steps)
    ordered = {name: steps[name] for name in _order(steps)}
    for step in ordered.values():
        _check_step(step, steps)
    for option, (targets, where) in options.items():
        for target in targets:
            _check_target(target, ordered, where, f"option {option}")
    return Pipeline(path.stem, description, path, ordered,
                    {option: targets for option, (targets, _) in options.items()})


def parameter_names(kind: str) -> list[str]:
    """Names of the parameters of a kind of step."""
    return list(kinds.step(kind).params_type.model_fields)


_Options = dict[str, tuple[tuple[str, ...], str]]


def _read(path: Path, folder: Path | None, above: tuple[Path, ...]
          ) -> tuple[str, dict[str, Step], _Options]:
    document = positions.load(path)
    content = positions.validated(PipelineFile, document)
    if path in above:
        chain = " → ".join(item.stem for item in (*above[above.index(path):], path))
        raise document.refuse(("include",), f"pipelines include each other: {chain}")
    steps: dict[str, Step] = {}
    options: _Options = {}
    for index, name in enumerate(content.include):
        try:
            file = sources.pipeline_file(name, folder)
        except InputError as error:
            raise document.refuse(("include", index), error.message,
                                  allowed=error.allowed) from None
        _, more_steps, more_options = _read(file, folder, (*above, path))
        steps.update(more_steps)
        for option, (targets, where) in more_options.items():
            earlier = options.get(option, ((), ""))[0]
            options[option] = ((*earlier, *targets), where)
    for name, entry in content.steps.items():
        place: KeyPath = ("steps", name)
        steps[name] = _merged(name, entry or StepEntry(), steps.get(name), document, place)
    for option, listed in content.options.items():
        where = document.where(("options", option))
        if option not in OPTIONS:
            raise InputError(f"unknown option {option!r}", where=where,
                             allowed=nearest(option, OPTIONS))
        options[option] = (tuple(listed), where)
    return content.description, steps, options


def _merged(name: str, entry: StepEntry, earlier: Step | None, document: Document,
            place: KeyPath) -> Step:
    if not _NAME.fullmatch(name):
        raise document.refuse(place, f"{name!r} cannot name a step",
                              allowed="letters, digits, _ and -, beginning with a letter")
    kind = entry.kind or (earlier.kind if earlier else name)
    if not kinds.is_known(kind):
        where = (*place, "kind") if entry.kind else place
        hint = None if entry.kind else f"a step of your own name needs a kind: under {name}:"
        raise document.refuse(where, f"unknown step {kind!r}",
                              allowed=nearest(kind, kinds.names()), hint=hint)
    places = {"": document.where(place)}
    for key in ("needs", "given", "unless"):
        places[key] = document.where((*place, key))
    for key in entry.params:
        places[key] = document.where((*place, "params", key))
    valid = parameter_names(kind)
    for key in entry.params:
        if key not in valid:
            hint = f"resources go under resources: of {name}" if key in RESOURCES else None
            raise document.refuse((*place, "params", key), f"{kind} has no parameter {key!r}",
                                  allowed=nearest(key, valid), hint=hint)
    if earlier is None:
        return Step(name, kind, tuple(entry.needs or ()), tuple(entry.given or ()),
                    dict(entry.params), entry.resources, entry.heal, dict(entry.unless or {}),
                    places)
    said = entry.resources.model_dump(exclude_none=True)
    return replace(
        earlier, kind=kind, params={**earlier.params, **entry.params},
        needs=earlier.needs if entry.needs is None else tuple(entry.needs),
        given=earlier.given if entry.given is None else tuple(entry.given),
        unless=earlier.unless if entry.unless is None else dict(entry.unless),
        resources=earlier.resources.model_copy(update=said),
        heal=earlier.heal.model_copy(
            update={name: getattr(entry.heal, name) for name in entry.heal.model_fields_set}),
        places={**earlier.places, **places},
    )


def _check_needs(step: Step, steps: Mapping[str, Step]) -> None:
    for need in step.needs:
        if need not in steps:
            raise InputError(f"{step.name} needs {need!r}, which is not a step of this pipeline",
                             where=step.where("needs"), allowed=nearest(need, steps),
                             hint=f"or write it under given: of {step.name}, if it comes "
                                  "from outside")


def _check_step(step: Step, steps: Mapping[str, Step]) -> None:
    inputs = kinds.step(step.kind).inputs
    takes_none = f"{step.kind} takes no input of another step"
    seen: dict[str, str] = {}
    for need in step.needs:
        kind = steps[need].kind
        if kind not in inputs:
            raise InputError(f"{step.name} cannot use the output of {need!r}",
                             where=step.where("needs"),
                             allowed=nearest(kind, inputs) if inputs else takes_none)
        if kind in seen:
            raise InputError(f"{step.name} needs both {seen[kind]!r} and {need!r}, "
                             f"but takes one {kind}", where=step.where("needs"))
        seen[kind] = need
    for kind in step.given:
        if kind not in inputs:
            raise InputError(f"{step.name} has no input {kind!r}", where=step.where("given"),
                             allowed=nearest(kind, inputs) if inputs else takes_none)
    missing = [kind for kind, need in inputs.items()
               if need.required and kind not in seen and kind not in step.given]
    if missing:
        raise InputError(f"{step.name} lacks its input {missing[0]!r}", where=step.where("needs"),
                         allowed=f"write needs: [{', '.join([*step.needs, missing[0]])}]",
                         hint=f"or given: [{missing[0]}] if it comes from outside this pipeline")
    for key in step.unless:
        _check_target(key, steps, step.where("unless"), f"unless of {step.name}")


def _check_target(target: str, steps: Mapping[str, Step], where: str, what: str) -> None:
    name, dot, parameter = str(target).partition(".")
    if not dot or name not in steps:
        raise InputError(f"{what}: {target!r} is not step.parameter of this pipeline", where=where,
                         allowed=nearest(name, steps))
    valid = parameter_names(steps[name].kind)
    if parameter not in valid:
        raise InputError(f"{what}: {name} has no parameter {parameter!r}", where=where,
                         allowed=nearest(parameter, valid))


def _order(steps: Mapping[str, Step]) -> list[str]:
    """Names so that each comes after its needs, otherwise as in the file; a cycle is refused."""
    ordered: list[str] = []
    waiting = list(steps)
    while waiting:
        ready = next((name for name in waiting
                      if all(need in ordered for need in steps[name].needs)), None)
        if ready is None:
            cycle = _cycle(steps, waiting)
            raise InputError(f"the steps wait for each other: {' → '.join(cycle)}",
                             where=steps[cycle[0]].where("needs"))
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def _cycle(steps: Mapping[str, Step], waiting: Iterable[str]) -> list[str]:
    waiting = list(waiting)
    trail = [waiting[0]]
    while True:
        following = next(need for need in steps[trail[-1]].needs if need in waiting)
        if following in trail:
            return [*trail[trail.index(following):], following]
        trail.append(following)
