"""What a pipeline offers on the command line: its options step by step, with its own defaults.

The help and the completion of ``l3hpc submit PIPELINE`` show this, and so do the pages in
docs/pipelines/. ``options`` defines the options; this module finds those that a pipeline has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined

from l3hpc import steps as kinds
from l3hpc.config import sources
from l3hpc.errors import InputError, setting
from l3hpc.pipelines.definition import RESOURCES, Pipeline, load_pipeline, parameter_names
from l3hpc.pipelines.options import OPTIONS, PATH_OPTIONS
from l3hpc.steps import Output

# options that only a pipeline with an input of this kind has
_INPUT_OPTIONS = {Output.STUDENT: ("--student", "--teacher"),
                  Output.EMBEDDINGS: ("--embedding-dir", "--embedding-valid-dir")}
_OF_ANY_PIPELINE = ("--workspace",)


@dataclass(frozen=True)
class OfferedOption:
    """An option of a pipeline.

    Attributes
    ----------
    name : str
        With ``--``.
    steps : tuple of str
        The steps whose parameters it sets.
    default : str
        What applies without it; empty for a path, which ``cluster.yaml`` may set.
    usual : bool
        Whether most people set it.
    """

    name: str
    steps: tuple[str, ...]
    default: str
    usual: bool


def options_by_step(pipeline: Pipeline) -> dict[str, list[OfferedOption]]:
    """The options of a pipeline, each under the first step that it sets.

    Parameters
    ----------
    pipeline
        The pipeline.

    Returns
    -------
    dict
        Step → its options, paths first; steps without options are left out.

    Examples
    --------
    >>> from l3hpc.pipelines.definition import load_pipeline
    >>> [option.name for option in options_by_step(load_pipeline("upstream"))["extract"]]
    ['--audio-dir', '--weights', '--precision', '--extract-engine']
    """
    found: dict[str, list[OfferedOption]] = {name: [] for name in pipeline.steps}
    for option, users in _paths(pipeline).items():
        found[users[0]].append(OfferedOption(option, users, "", True))
    for name, targets in pipeline.options.items():
        users = tuple(dict.fromkeys(target.partition(".")[0] for target in targets))
        # In the order of the steps, not in that of the file.
        users = tuple(step for step in pipeline.steps if step in users)
        found[users[0]].append(OfferedOption(
            f"--{name}", users, _default(pipeline, name, targets), OPTIONS[name].usual))
    return {name: options for name, options in found.items() if options}


def own_parameters(pipeline: Pipeline) -> dict[str, dict[str, str]]:
    """The parameters that the pipeline file itself declares of its steps.

    Parameters
    ----------
    pipeline
        The pipeline.

    Returns
    -------
    dict
        Step → parameter → its value in the file; steps without any are left out.
    """
    found = {step.name: {name: _typed(step.params[name]) for name in parameter_names(step)}
             for step in pipeline.steps.values() if kinds.step(step.kind).has_own_params}
    return {name: params for name, params in found.items() if params}


def set_instead(pipeline: Pipeline, option: str) -> str | None:
    """How to set what an option that the pipeline lacks would set; None if no step has it.

    Parameters
    ----------
    pipeline
        The pipeline.
    option
        With or without ``--``.

    Examples
    --------
    >>> from l3hpc.pipelines.definition import load_pipeline
    >>> set_instead(load_pipeline("upstream"), "--files-per-task")
    'set the parameter: --set extract.files_per_task=VALUE'
    """
    wanted = option.lstrip("-").replace("-", "_")
    targets = [setting(target, "VALUE") for target in settable(pipeline)
               if target.partition(".")[2].replace("-", "_") == wanted]
    return f"set the parameter: {' or '.join(targets)}" if targets else None


def usual_options(pipeline: Pipeline) -> list[str]:
    """The options that most people set, with ``--``.

    Parameters
    ----------
    pipeline
        The pipeline.
    """
    given = {kinds.step(kind).output for step in pipeline.steps.values() for kind in step.given}
    options = [option for of_step in options_by_step(pipeline).values() for option in of_step]
    return [option.name for option in options if option.usual] + [
        names[0] for output, names in _INPUT_OPTIONS.items() if output in given]


def is_offered(pipeline: Pipeline, option: str) -> bool:
    """Whether an option of ``l3hpc submit`` has an effect on a pipeline.

    Parameters
    ----------
    pipeline
        The pipeline.
    option
        With ``--``. One that is neither a pipeline's, nor a path, nor an input is offered by all.
    """
    by_input = [kind for kind, names in _INPUT_OPTIONS.items() if option in names]
    if by_input:
        return any(kinds.step(need).output in by_input
                   for step in pipeline.steps.values() for need in kinds.step(step.kind).inputs)
    if option.removeprefix("--") in OPTIONS:
        return option.removeprefix("--") in pipeline.options
    if option == "--weights" and is_offered(pipeline, "--teacher"):
        return True
    if option in PATH_OPTIONS.values() and option not in _OF_ANY_PIPELINE:
        return option in _paths(pipeline)
    return True


def settable(pipeline: Pipeline) -> Iterator[str]:
    """Everything that ``--set`` may name: ``step.parameter`` and ``step.resource``."""
    for step in pipeline.steps.values():
        for name in (*parameter_names(step), *RESOURCES):
            yield f"{step.name}.{name}"


def descriptions() -> dict[str, str]:
    """All pipelines with their one line; of a file with an error, where the error is."""
    found: dict[str, str] = {}
    for name in sources.pipelines():
        try:
            found[name] = load_pipeline(name).description
        except InputError as error:
            found[name] = f"(invalid: {error.where})"
    return found


def _paths(pipeline: Pipeline) -> dict[str, tuple[str, ...]]:
    """Option of a path → the steps that have it as a parameter, ``{paths.audio}``."""
    found: dict[str, tuple[str, ...]] = {}
    for step in pipeline.steps.values():
        for value in _texts(step.params):
            for key in re.findall(r"\{(paths\.\w+)\}", value):
                if key in PATH_OPTIONS:
                    users = found.get(PATH_OPTIONS[key], ())
                    found[PATH_OPTIONS[key]] = tuple(dict.fromkeys((*users, step.name)))
    return found


def _texts(value: object) -> Iterator[str]:
    """The texts in the values of a mapping, of any depth."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else ():
        yield from _texts(item)


def _default(pipeline: Pipeline, option: str, targets: tuple[str, ...]) -> str:
    """The value of an option's parameters in this pipeline, as it would be typed."""
    values: dict[str, list[str]] = {}
    for target in targets:
        step, _, parameter = target.partition(".")
        definition = pipeline.steps[step]
        # None: the pipeline itself declares the parameter, with its value
        field: Any = kinds.step(definition.kind).params_type.model_fields.get(parameter)
        value = definition.params[parameter] if field is None else definition.params.get(
            parameter, field.get_default(call_default_factory=True))
        if value is None or value is PydanticUndefined:
            # the parameter may say in words what no value means: "Upper edge (none: half the rate)"
            # (not of a switch, which is off)
            words = re.search(r"\(none: (.+?)\)", field.description or "") \
                if field and OPTIONS[option].kind != "each" else None
            text = words[1] if words else OPTIONS[option].default
        else:
            text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else _typed(value)
        values.setdefault(text, []).append(step)
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{text} ({' '.join(users)})" for text, users in values.items())


def _typed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
