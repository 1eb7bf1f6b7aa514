"""Parameters of a pipeline's steps, from its file and the command line.

Later sources override earlier ones: the pipeline's file, then options (``--asr``), then
``--set step.parameter=value``. The origin of every value is kept, so that an error can name it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from l3hpc import steps as kinds
from l3hpc.config import positions
from l3hpc.config.profile import ResourceSpec
from l3hpc.config.settings import ENVIRONMENT, Config
from l3hpc.errors import InputError, command_line, named, nearest, setting
from l3hpc.io.values import in_number
from l3hpc.pipelines import offered, run_outputs
from l3hpc.pipelines.definition import (
    DECLARED,
    RESOURCES,
    Pipeline,
    StepDefinition,
    parameter_names,
)
from l3hpc.pipelines.options import OPTIONS, PATH_OPTIONS
from l3hpc.steps import Params, RunFile

_PLACEHOLDER = re.compile(r"\{(paths\.[a-z0-9_]+)\}")


@dataclass(frozen=True)
class UnsetPath:
    """A path that a step needs, and that nothing sets.

    Attributes
    ----------
    step, parameter : str
        The step, and its parameter.
    path : str
        The path: ``paths.audio``.
    """

    step: str
    parameter: str
    path: str


class UnsetPathsError(InputError):
    """Paths that steps need are not set.

    Parameters
    ----------
    unset
        All of them, of one step or of several.
    """

    def __init__(self, unset: Sequence[UnsetPath]) -> None:
        self.unset = tuple(unset)
        needs: dict[str, dict[str, None]] = {}
        first = {each.path: each.step for each in reversed(unset)}  # step that needs it first
        for each in unset:
            if first[each.path] == each.step:
                needs.setdefault(each.step, {})[each.parameter] = None
        paths = list(dict.fromkeys(each.path for each in unset))
        options = [named(f"{PATH_OPTIONS[path]} PATH") + (
            f" (or {named('--weights untrained')}: random weights, for demonstration only)"
            if path == "paths.weights" else "") for path in paths]
        variables = [ENVIRONMENT[path] for path in paths]
        super().__init__(
            "; ".join(f"{step} needs {_and(list(names))}" for step, names in needs.items())
            + f": {_and(paths)} {in_number('[is|are]', len(paths))} not set",
            hint=f"use {_and(options)}, or set {_and(paths)} in cluster.yaml "
                 f"(or {_and(variables)})")


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + [*words[-1:]])


@dataclass(frozen=True)
class ResolvedStep:
    """A step with the values of its file, the options and ``--set``, not yet validated.

    Attributes
    ----------
    step : StepDefinition
        The step in the pipeline's file.
    params : dict
        Parameter → value.
    resources : ResourceSpec
        Only those of the command line.
    origins : dict
        Parameter → where its value comes from: ``file:line`` or an option.
    """

    step: StepDefinition
    params: Mapping[str, Any]
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def from_command_line(self) -> frozenset[str]:
        """Parameters whose value was given on the command line."""
        return frozenset(name for name, origin in self.origins.items() if origin.startswith("--"))

    def with_value(self, parameter: str, value: object, origin: str) -> ResolvedStep:
        """This step with one parameter set to another value."""
        return replace(self, params={**self.params, parameter: value},
                       origins={**self.origins, parameter: origin})


def resolve_steps(
    pipeline: Pipeline, options: Mapping[str, object], sets: Sequence[str],
) -> dict[str, ResolvedStep]:
    """All steps of a pipeline with the options and ``--set`` values applied to its file.

    Parameters
    ----------
    pipeline
        The checked pipeline.
    options
        Command-line option without ``--`` → value; None counts as not given.
    sets
        ``step.parameter=value`` each.

    Returns
    -------
    dict
        Name → step, in the order of the pipeline.

    Raises
    ------
    InputError
        For an option that the pipeline does not have, and a ``--set`` of an unknown step or
        parameter.
    """
    result = {name: ResolvedStep(step, dict(step.params), origins=dict(step.origins))
              for name, step in pipeline.steps.items()}
    for option, value in options.items():
        if value is None:
            continue
        for target in targets_of(pipeline, option):
            name, _, parameter = target.partition(".")
            result[name] = result[name].with_value(parameter, value, f"--{option}")
    for text in sets:
        _apply_set(result, text)
    return result


def targets_of(pipeline: Pipeline, option: str) -> tuple[str, ...]:
    """The ``step.parameter`` that an option sets.

    Parameters
    ----------
    pipeline
        The pipeline.
    option
        Without ``--``.

    Raises
    ------
    InputError
        Where the pipeline does not have the option.
    """
    if option not in pipeline.options:
        names = ", ".join(named(f"--{name}") for name in pipeline.options if name in OPTIONS)
        raise InputError(f"pipeline {pipeline.name!r} has no option {named('--' + option)}",
                         allowed=offered.set_instead(pipeline, option) or (
                             f"it offers: {names}" if names else None),
                         hint=f"its options: {command_line('submit', pipeline.name, '--help')}")
    return pipeline.options[option]


def split_set(text: str) -> tuple[str, str, str]:
    """Step, parameter and value of a ``--set`` argument.

    Raises
    ------
    InputError
        For a text that is not ``step.parameter=value``.

    Examples
    --------
    >>> from l3hpc.pipelines.resolve import split_set
    >>> split_set("train.epochs=5")
    ('train', 'epochs', '5')
    """
    target, equals, value = text.partition("=")
    name, dot, parameter = target.strip().partition(".")
    if not equals or not dot or not name or not parameter:
        raise InputError(f"{named('--set')} {text!r} is not STEP.NAME=VALUE",
                         allowed=f"for example {setting('train.epochs', 5)} or "
                                 + setting("classify.mem", "40GB"))
    return name, parameter, value


def _apply_set(steps: dict[str, ResolvedStep], text: str) -> None:
    """Apply one ``--set`` to the parameter or the resource that it names."""
    name, parameter, value = split_set(text)
    origin = f"--set {name}.{parameter}"
    if name not in steps:
        raise InputError(f"{named('--set')}: there is no step {name!r} in this pipeline",
                         allowed=nearest(name, steps))
    item = steps[name]
    model: type[BaseModel] = kinds.step(item.step.kind).params_type
    names = parameter_names(item.step)
    if parameter in names:
        typed = parse_value(model, parameter, value) if parameter in model.model_fields \
            else _like(item.step.params[parameter], value)
        steps[name] = item.with_value(parameter, typed, origin)
    elif parameter in RESOURCES:
        try:
            resources = ResourceSpec.model_validate({parameter: value})
        except ValidationError as error:
            refusal = positions.explain(error, ResourceSpec, None, prefix=f"{name}.")
            message = refusal.message.removeprefix(f"{name}.{parameter}: ")
            raise InputError(message, where=origin, allowed=refusal.allowed) from None
        update = resources.model_dump(exclude_none=True)
        steps[name] = replace(item, resources=item.resources.model_copy(update=update))
    else:
        valid = [*names, *RESOURCES]
        raise InputError(f"{named('--set')}: {name} has no parameter {parameter!r}",
                         allowed=nearest(parameter, valid))


def _like(declared: object, text: str) -> object:
    """The value of a parameter that the pipeline's file declares: text where it declares text."""
    return text if isinstance(declared, str) or not text.strip() \
        else positions.loads(text, Path("--set")).data


def parse_value(model: type[BaseModel], parameter: str, text: str) -> object:
    """Convert a text of the command line to a value.

    Parameters
    ----------
    model
        The class of the parameters.
    parameter
        Name of one of its fields.
    text
        As typed.

    Returns
    -------
    object
        The first of these that the field accepts: the text itself, the text as a YAML value
        (``null``, ``[1, 2]``), the text as a list without brackets (``1,2``). The text where the
        field accepts none of them, so that validation quotes what was typed.
    """
    annotation: Any = model.model_fields[parameter].annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    value = positions.loads(text, Path("--set")).data if text.strip() else text
    candidates = [text, value]
    if value is None and text.strip():
        # "null" would also pass as a text where a parameter may be a text or nothing.
        candidates = [None]
    elif "," in text and isinstance(value, str):
        candidates.append(positions.loads(f"[{text}]", Path("--set")).data)
    for candidate in candidates:
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        return candidate
    return text


def skipped_steps(steps: Mapping[str, ResolvedStep]) -> dict[str, str]:
    """Steps that their ``unless:`` skips → the condition that holds (``fit.approx=none``)."""
    result: dict[str, str] = {}
    for name, item in steps.items():
        for target, value in item.step.unless.items():
            other, _, parameter = target.partition(".")
            if _value_or_default(steps[other], parameter) == value:
                result[name] = f"{target}={value}"
    return result


def _value_or_default(item: ResolvedStep, parameter: str) -> object:
    if parameter in item.params:  # always, where the file itself declares it
        return item.params[parameter]
    return kinds.step(item.step.kind).params_type.model_fields[parameter].default


def marked_as_bound(item: ResolvedStep) -> ResolvedStep:
    """The step with ``--teacher``: one that marks the results of a teacher is told of them.

    Parameters
    ----------
    item
        The step.
    """
    parameter = kinds.step(item.step.kind).bound_parameter
    return item.with_value(parameter, True, "--teacher") if parameter else item


def with_files_of_runs(item: ResolvedStep, workspace: Path) -> ResolvedStep:
    """The step with files in place of the runs that its parameters name.

    Parameters
    ----------
    item
        The step.
    workspace
        The workspace whose runs are searched.

    Raises
    ------
    InputError
        As for ``run_outputs.run_file``.
    """
    for parameter, wanted in kinds.step(item.step.kind).run_files.items():
        value = item.params.get(parameter)
        if not isinstance(wanted, RunFile):
            wanted = RunFile((wanted[0],), (wanted[1],))
        # "{paths.weights}" is resolved with the configuration
        if value is not None and not _PLACEHOLDER.search(str(value)):
            origin = item.origins.get(parameter, item.step.where())
            item = item.with_value(parameter, run_outputs.run_file(
                workspace, wanted, str(value), origin), origin)
    return item


def validate_all(items: Mapping[str, ResolvedStep], config: Config, *, teacher: bool = False
                 ) -> dict[str, Params]:
    """The typed parameters of all steps of a plan, with what follows from the earlier steps where
    nothing is given.

    Parameters
    ----------
    items
        Name → step, each after those that it needs.
    config
        The configuration.
    teacher
        Whether the teacher of the configuration is evaluated in place of a student.

    Raises
    ------
    InputError
        For an invalid value, with its origin and what is allowed.
    UnsetPathsError
        For all paths that are not set.
    """
    params: dict[str, Params] = {}
    unset: list[UnsetPath] = []
    for name, item in items.items():
        earlier = {items[other].step.kind: values for other, values in params.items()}
        step = kinds.step(item.step.kind)
        try:
            implied = step.implied(item.params, earlier, config.paths.audio)
            params[name] = validate(
                replace(item, params={**item.params, **implied}), config)
        except UnsetPathsError as error:
            unset += error.unset
        except InputError:
            if not unset:  # otherwise perhaps because an earlier step has no parameters
                raise
    if unset:
        if teacher and config.paths.weights is None:
            unset += [UnsetPath(name, "teacher", "paths.weights")
                      for name, item in items.items()
                      if any(kinds.step(kind).output is kinds.Output.STUDENT
                             for kind in item.step.given)]
        raise UnsetPathsError(unset)
    return params


def validate(item: ResolvedStep, config: Config) -> Params:
    """The typed parameters of a step, with ``{paths.…}`` replaced.

    Parameters
    ----------
    item
        The step.
    config
        The configuration, for the paths.

    Raises
    ------
    InputError
        For an invalid value, with its origin and what is allowed.
    UnsetPathsError
        For all paths of the step that are not set.
    """
    name = item.step.name
    step = kinds.step(item.step.kind)
    unset: list[UnsetPath] = []
    values = {key: value if key in step.literal else _fill_paths(value, key, item, config, unset)
              for key, value in item.params.items()}
    if unset:
        raise UnsetPathsError(unset)
    try:
        with located(item.step):
            params: Params = step.parse(values)
    except ValidationError as error:
        refusal = positions.explain(error, step.params_type, None, prefix=f"{name}.")
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        hint = None
        if first["type"] == "missing":
            hint = f"write {key}: below {name}: in {item.step.where()}" if key in step.declares \
                else f"{setting(f'{name}.{key}', '…')}, or params: of {name} in {item.step.where()}"
        origin = item.origins.get(key, item.step.where())
        # "--set train.epochs" as the place names the parameter already.
        message = refusal.message.removeprefix(
            f"{name}.{key}: " if origin.startswith("--set") else "")
        raise InputError(message, where=origin, allowed=refusal.allowed,
                         hint=refusal.hint or hint) from None
    return params


@contextlib.contextmanager
def located(step: StepDefinition) -> Iterator[None]:
    """While the block runs, an error about a key of the step names the file and line of the key.

    Parameters
    ----------
    step
        A step that its pipeline defines itself; the errors of others stay as they are.
    """
    try:
        yield
    except InputError as error:
        if kinds.step(step.kind).takes_any and error.where in (None, "params", *DECLARED):
            error.where = step.where(error.where or "")
        raise


def _fill_paths(value: object, key: str, item: ResolvedStep, config: Config,
                unset: list[UnsetPath]) -> object:
    """``value`` with ``{paths.audio}`` and the like replaced by the paths of the configuration;
    ``unset`` receives those that are not set.
    """
    if isinstance(value, Mapping):
        return {name: _fill_paths(each, key, item, config, unset) for name, each in value.items()}
    if not isinstance(value, str):
        return value

    def path_of(match: re.Match[str]) -> str:
        name = match[1].split(".")[1]
        if not hasattr(config.paths, name):
            raise InputError(f"{item.step.name}.{key}: there is no {match[1]!r}",
                             where=item.origins.get(key),
                             allowed=nearest(match[1], PATH_OPTIONS))
        path = getattr(config.paths, name)
        if path is None:
            unset.append(UnsetPath(item.step.name, key, match[1]))
        return str(path)

    return _PLACEHOLDER.sub(path_of, value)
