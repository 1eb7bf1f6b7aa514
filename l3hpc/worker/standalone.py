"""One task of a step outside of a run: parameters from the user, output in a folder of choice."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import l3hpc.steps
from l3hpc.console.progress import default_progress
from l3hpc.errors import InputError, by_hand, command_line, nearest
from l3hpc.io.files import is_task_folder
from l3hpc.io.folders import atomic_folder, real_folder
from l3hpc.steps import AnyStep
from l3hpc.steps.task import NoRecorder
from l3hpc.worker.execute import run_step, validated
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.step_config import read_config


def run_standalone(
    step: str, settings: Mapping[str, str], inputs: Mapping[str, Path], output: Path, *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run one step that has a single task.

    Parameters
    ----------
    step
        Name of the step.
    settings
        Parameter → its value as text, as ``--set`` takes it.
    inputs
        Input → an artifact, a folder of published files, or the output of another step that was run
        like this.
    output
        Receives the files and ``result.json``; it appears whole or not at all.
    overwrite
        Whether ``output`` may be the output of a step, which is then replaced.

    Returns
    -------
    dict
        What ``result.json`` holds.

    Raises
    ------
    InputError
        For an input, parameter or output folder that is not allowed, and if the step would have
        several tasks.
    """
    known = l3hpc.steps.step(step)
    with by_hand(step, known.params_type.model_fields):
        return _run(known, settings, inputs, real_folder(output), overwrite)


def _run(known: AnyStep, settings: Mapping[str, str], inputs: Mapping[str, Path], output: Path,
         overwrite: bool) -> dict[str, Any]:
    step = known.name
    _check_inputs(known, inputs)
    typed = validated(known, parse_parameters(known, settings), step)
    _check_output(output, overwrite)
    known.check(typed, {step: typed})
    shards = known.shards(typed, {name: _shards(folder) for name, folder in inputs.items()})
    if len(shards) != 1:
        raise InputError(f"{step} has {len(shards)} tasks with this input; only a single task can "
                         "be run outside of a pipeline",
                         hint=f"Use {command_line('submit')}, or a smaller input.")
    with _replacing(output), atomic_folder(output) as folder, \
            tempfile.TemporaryDirectory() as scratch:
        folders = {name: _as_artifact(path, Path(scratch) / "inputs" / name)
                   for name, path in inputs.items()}
        return run_step(known, typed.model_dump(mode="json"), folders, folder, shard=shards[0],
                        scratch=Path(scratch) / "scratch", progress=default_progress(),
                        recorder=NoRecorder(), where=step)


def parse_parameters(step: AnyStep, settings: Mapping[str, str]) -> dict[str, Any]:
    """Parse the values of parameters as ``--set`` of a pipeline does.

    Parameters
    ----------
    step
        The step.
    settings
        Parameter → its value as text.

    Raises
    ------
    InputError
        If the step has no such parameter.
    """
    # imported here because jobs import this package and start without the planner
    from l3hpc.pipelines.resolve import parse_value

    values = {}
    for name, text in settings.items():
        if name not in step.params_type.model_fields:
            raise InputError(f"{step.name} has no parameter {name!r}",
                             allowed=nearest(name, step.params_type.model_fields))
        values[name] = parse_value(step.params_type, name, text)
    return values


def _check_inputs(step: AnyStep, inputs: Mapping[str, Path]) -> None:
    for name in inputs:
        if name not in step.inputs and not step.takes_any:
            raise InputError(f"{step.name} has no input {name!r}",
                             allowed=nearest(name, step.inputs) if step.inputs
                             else f"{step.name} takes no input")
    for name, need in step.inputs.items():
        if need.required and name not in inputs:
            raise InputError(f"{step.name} is missing its input {name!r}",
                             hint=f"Add --input {name}=FOLDER.")


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse a folder with content, unless it is the output of a step and may be overwritten."""
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{output} is not empty",
                         hint="Choose another folder, or use --overwrite.")
    if not is_task_folder(output):
        raise InputError(f"{output} is not the output of a step and is not overwritten",
                         hint="Choose another folder.")


@contextlib.contextmanager
def _replacing(output: Path) -> Iterator[None]:
    """Set an existing output aside; remove it after success, and put it back after a failure."""
    if not output.exists():
        yield
        return
    # beside it, so that setting it aside is one rename within a file system
    previous = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.replaced")
    output.rename(previous)
    try:
        yield
    except BaseException:
        if not output.exists():
            previous.rename(output)
        raise
    shutil.rmtree(previous)


def _as_artifact(path: Path, stand_in: Path) -> Path:
    """``path``, or an artifact made of it if it is the flat output of a standalone step."""
    path = Path(path).absolute()
    if not is_task_folder(path):
        return path
    stand_in.mkdir(parents=True)
    ArtifactFolder(stand_in).task(0).symlink_to(path)
    return stand_in


def _shards(folder: Path) -> list[dict[str, Any]]:
    """The frozen shards of an artifact that is an input ([] for published files)."""
    path = ArtifactFolder(folder).config
    if not path.is_file():
        return []
    shards = read_config(path)["shards"]
    assert isinstance(shards, list)
    return shards
