"""Labels of planned steps: what only the ledger needs (user, run, folders), never the content."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from l3hpc import steps
from l3hpc.config.settings import Config
from l3hpc.io.files import read_json
from l3hpc.pipelines.planned import PlannedStep
from l3hpc.pipelines.run_outputs import ExternalInput
from l3hpc.steps import LEDGER_FOLDERS
from l3hpc.workspace import artifacts
from l3hpc.workspace.layout import ArtifactFolder, Workspace


def with_labels(planned: Mapping[str, PlannedStep], config: Config, pipeline: str, run: str,
                user: str, students: Sequence[ExternalInput]) -> tuple[PlannedStep, ...]:
    """The steps of a plan with the labels that only the ledger needs.

    Parameters
    ----------
    planned
        Name → step.
    config
        The configuration.
    pipeline, run, user
        Their names.
    students
        The students among the external inputs.
    """
    labels = _labels(planned.values(), config, pipeline, run, user, students)
    return tuple(replace(step, labels={**labels, **_ledger_folders(step, planned, config, run),
                                       "step": step.name}) for step in planned.values())


def _labels(planned: Collection[PlannedStep], config: Config, pipeline: str, run: str, user: str,
            students: Sequence[ExternalInput]) -> dict[str, Any]:
    """Labels of the whole run; ``model_dir`` is the folder of the student that is used."""
    workspace = Workspace(config.workspace)
    labels = {"username": user, "run": run, "pipeline": pipeline, "exp_id": run,
              "cluster": config.profile.name}
    given = {kind: path for step in planned for kind, path in step.inputs.items()}
    for label, kind in LEDGER_FOLDERS.items():
        if any(step.kind == kind for step in planned):
            labels[label] = str(workspace.run(run).artifact(kind))
        elif kind in given:  # the output of another run, or a folder
            labels[label] = given[kind]
    if students:
        student = students[0]
        labels["model_dir"] = str(student.path)
        if student.run:
            labels["student_run"] = student.run
            step = student.step or LEDGER_FOLDERS["model_dir"]
            labels["model_dir"] = _recorded_model_dir(
                student.path, workspace.run(student.run).artifact(step))
    return labels


def _ledger_folders(step: PlannedStep, planned: Mapping[str, PlannedStep], config: Config,
                    run: str) -> dict[str, str]:
    """``model_dir`` and ``output_dir`` of the step itself or of the closest step before it."""
    folders: dict[str, str] = {}
    names = [step.name]
    for name in names:
        other = planned[name]
        label = steps.step(other.kind).ledger_folder
        if label and label not in folders:
            folder = Workspace(config.workspace).run(run).artifact(name)
            reused = label == "model_dir" and not other.missing
            folders[label] = _recorded_model_dir(other.artifact, folder) if reused else str(folder)
        names += [need for need in other.needs if need not in names]
    return folders


def _recorded_model_dir(artifact: Path, planned: Path) -> str:
    """The Model Dir of the row of a reused student; ``planned`` of one that is to be computed."""
    config = ArtifactFolder(artifact).config
    if config.is_file() and artifacts.finished(Path(artifact)):
        frozen = read_json(config)
        if isinstance(frozen, dict) and isinstance(frozen.get("labels"), dict):
            return str(frozen["labels"].get("model_dir") or planned)
    return str(planned)
