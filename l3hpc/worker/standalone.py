"""A step run by hand: typed parameters and inputs from a person, files into a folder of choice."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import l3hpc.steps
from l3hpc.console.progress import for_person
from l3hpc.errors import InputError, nearest
from l3hpc.io.files import is_task_folder, whole_folder
from l3hpc.pipelines.parameters import read_value
from l3hpc.steps import AnyStep
from l3hpc.steps.base import NoRecorder
from l3hpc.worker import execute
from l3hpc.workspace.layout import ArtifactFolder


def run(
    step: str, settings: Mapping[str, str], inputs: Mapping[str, Path], output: Path, *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run one step into ``output`` (files and result.json, flat) and return its result.

    A step that would make several tasks is refused. An input may be an artifact, a folder of
    published files, or the output of another step run by hand. The folder appears whole or not at
    all.
    """
    known = l3hpc.steps.step(step)
    for name in inputs:
        if name not in known.inputs:
            raise InputError(f"{step} has no input {name!r}",
                             allowed=nearest(name, known.inputs) if known.inputs else
                             "it takes none")
    for name, need in known.inputs.items():
        if need.required and name not in inputs:
            raise InputError(f"{step} needs the output of {name}", hint=f"--input {name}=FOLDER")
    typed = execute.validated(known, parameters(known, settings), f"--set of {step}")
    output = Path(output).absolute()
    if output.exists() and any(output.iterdir()):
        if not overwrite:
            raise InputError(f"{output} is not empty",
                             hint="Use another folder, or --overwrite.")
        if not is_task_folder(output):
            raise InputError(f"{output} is not the output of a step: it is not removed",
                             hint="Name another folder.")
    known.check(typed, {step: typed})
    shards = known.shards(typed, {name: _shards(folder) for name, folder in inputs.items()})
    if len(shards) != 1:
        raise InputError(f"{step} makes {len(shards)} tasks of this; by hand it runs one",
                         hint="Submit it as a pipeline with l3hpc submit, or give it less.")
    progress = for_person()
    replaced = None
    if output.exists():
        replaced = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.replaced")
        output.rename(replaced)
    try:
        with whole_folder(output) as folder, tempfile.TemporaryDirectory() as scratch:
            folders = {name: _as_artifact(path, Path(scratch) / "inputs" / name)
                       for name, path in inputs.items()}
            result = execute.run_step(
                known, typed.model_dump(mode="json"),
                folders, folder, shard=shards[0], scratch=Path(scratch) / "scratch",
                progress=progress, recorder=NoRecorder(), where=step)
    except BaseException:
        if replaced is not None and not output.exists():
            replaced.rename(output)
        raise
    if replaced is not None:
        shutil.rmtree(replaced)
    return result


def parameters(step: AnyStep, settings: Mapping[str, str]) -> dict[str, Any]:
    """Texts as values, read as ``--set`` of a pipeline reads them."""
    values: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in step.params_type.model_fields:
            raise InputError(f"{step.name} has no parameter {name!r}",
                             allowed=nearest(name, step.params_type.model_fields))
        values[name] = read_value(step.params_type, name, text)
    return values


def _as_artifact(path: Path, stand_in: Path) -> Path:
    """``path``; or, where it is the flat output of a step run by hand, an artifact of that task."""
    path = Path(path).absolute()
    if not is_task_folder(path):
        return path
    stand_in.mkdir(parents=True)
    ArtifactFolder(stand_in).task(0).symlink_to(path)
    return stand_in


def _shards(folder: Path) -> list[dict[str, Any]]:
    """The frozen shards of an artifact used as input ([] for published files)."""
    path = ArtifactFolder(folder).config
    if not path.is_file():
        return []
    value = execute.read_config(path)["shards"]
    assert isinstance(value, list)
    return value
