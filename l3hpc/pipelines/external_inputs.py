"""Inputs that no step of the plan makes: a student or artifact of an earlier run, published files.

Earlier runs are read from their records (``<workspace>/runs/<run>/run.json``) without a query to
the scheduler: whether a job is still active is checked when the plan is submitted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from typing_extensions import NotRequired, TypedDict

from l3hpc import steps
from l3hpc.errors import InputError, command_line, nearest, report_damage
from l3hpc.io.files import read_json
from l3hpc.io.values import check_mapping
from l3hpc.pipelines.definition import StepDefinition
from l3hpc.pipelines.planned import fingerprint_of_folder
from l3hpc.steps.base import Output
from l3hpc.steps.params import Params
from l3hpc.workspace import artifacts, attempts, records, run_names, step_config
from l3hpc.workspace.layout import ArtifactFolder, Workspace
from l3hpc.workspace.local_jobs import LocalJobs
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState


@dataclass(frozen=True)
class ExternalInput:
    """An input that no step of the plan makes.

    Attributes
    ----------
    path : Path
        Its folder, or file.
    fingerprint : str
        16 hex digits; empty for a file, whose content the step digests itself.
    shards : list of dict
        What each task of the artifact worked on; empty for published files.
    waits_for : tuple of str
        Ids of the jobs that still have to make it.
    run, step : str or None
        The run that made it, and the name that its step has there.
    is_file : bool
        Whether it is one file, or another name of a teacher, which becomes a parameter of the step
        that reads it.
    params : dict or None
        The parameters of the step that makes it, as its run froze them; None for published files.
    """

    path: Path
    fingerprint: str
    shards: list[dict[str, Any]] = field(default_factory=list)
    waits_for: tuple[str, ...] = ()
    run: str | None = None
    is_file: bool = False
    step: str | None = None
    params: dict[str, Any] | None = None


def left_out(step: StepDefinition, parent: StepDefinition) -> str:
    """The input that comes from outside where ``--from`` leaves out a step that another one needs.

    Parameters
    ----------
    step
        The step that runs.
    parent
        The one that it needs.

    Raises
    ------
    InputError
        Where no earlier run can be searched for it.
    """
    # Earlier runs are searched by kind, and all steps that a pipeline defines itself share a few.
    if steps.step(parent.kind).takes_any or (
            steps.step(step.kind).takes_any and parent.kind != parent.name):
        raise InputError(f"{step.name} reads the output of {parent.name}, which cannot come from "
                         "outside the run", where="--from",
                         hint="Submit without --from: finished steps are not computed again.")
    return parent.kind


def student_input(workspace: Path, kind: str, value: str, cluster: str | None,
                  origin: str = "--student") -> ExternalInput:
    """The trained student, or the teacher, that ``--student`` names.

    Parameters
    ----------
    workspace
        The workspace whose runs are searched.
    kind
        The step that trains students.
    value
        A run, one of its steps (``RUN/STEP``), a weight file or another name of a teacher,
        ``latest`` or ``latest/STEP``.
    cluster
        The profile of the new plan: only its jobs can wait for a run that is still active there.
        None: the student has to be finished.
    origin
        The option that names it, for messages.

    Raises
    ------
    InputError
        Where there is no such student, with the runs that have one; and for a run that has trained
        several, with their names.
    """
    runs, damaged = _read_records(workspace)
    if value == records.LATEST:
        for record in runs:
            outputs = _outputs_of(workspace, record, kind, cluster)
            if outputs:
                return _only(record, kind, outputs, f"{origin} latest")
        raise InputError(
            f"no run in {workspace} has trained a student", where=f"{origin} latest",
            allowed=f"(skipped: {damaged[0].where}: {damaged[0].message})" if damaged else None,
            hint=f"train one with {command_line('submit', 'upstream')}, or name a weight file: "
                 f"{origin} FILE")
    value = _newest(value, workspace, kind, runs, cluster, origin)
    from l3hpc.teachers.find import absolute, has_random_weights

    if has_random_weights(value):
        raise InputError("random weights cannot be a student", where=f"{origin} {value}",
                         allowed="a run, a weight file, a HEAR module (hear:package.module) or "
                                 "'latest'",
                         hint=f"Evaluate a random teacher: --teacher --weights {value}"
                         if origin == "--student" else None)
    network = absolute(value)
    if _find(value, runs) or network is None:
        return run_output(workspace, value, kind, runs, cluster, origin)
    return ExternalInput(Path(network), "", is_file=True)


def teacher_input(weights: str | None) -> ExternalInput:
    """The teacher of the configuration, which ``--teacher`` evaluates in place of a student.

    Parameters
    ----------
    weights
        ``paths.weights`` of the configuration.

    Raises
    ------
    InputError
        Where it is not set.
    """
    if weights is None:
        raise InputError("no teacher is named: paths.weights is not set", where="--teacher",
                         hint="use --weights PATH, or set paths.weights in cluster.yaml (or "
                              "L3_MODEL_PATH)")
    return ExternalInput(Path(weights), "", is_file=True)


def run_file(workspace: Path, kind: str, name: str, value: str, origin: str) -> Path:
    """The file of a finished step, named by its run, its folder or its own path.

    Parameters
    ----------
    workspace
        The workspace whose runs are searched.
    kind
        The step that writes the file.
    name
        Name of the file in the folder of the step's first task.
    value
        A run, ``RUN/STEP``, ``latest``, ``latest/STEP``, a folder that contains the file, or the
        file.
    origin
        The option that names it, for messages.

    Raises
    ------
    InputError
        Where there is no such run or file; where the step of the run is not finished; and where
        the run has several.
    """
    runs, _ = _read_records(workspace)
    value = _newest(value, workspace, kind, runs, None, origin)
    path = Path(value)
    # a name in full comes before a path, a path before the beginning of a name
    if value.partition("/")[0] in {record.run for record in runs} or (
            not path.exists() and _begins_a_run(value, runs)):
        path = run_output(workspace, value, kind, runs, None, origin).path
    for candidate in (path / "0000" / name, path / name, path):
        if candidate.is_file():
            return candidate.absolute()
    if path.is_dir():
        raise InputError(f"contains no {name}", where=f"{origin} {value}",
                         hint=f"The step {kind} writes it.")
    usable = [record.run for record in runs if _outputs_of(workspace, record, kind, None)]
    raise InputError(f"{value!r} is neither a run nor a file", where=origin,
                     allowed=nearest(value, usable) if usable else None,
                     hint=f"list the runs: {command_line('status')}")


def finished_student(workspace: Path, name: str, origin: str) -> Path | None:
    """The artifact of a finished student, by its run.

    Parameters
    ----------
    workspace, origin
        As for ``student_input``.
    name
        A run, ``RUN/STEP``, ``latest`` or ``latest/STEP``.

    Returns
    -------
    Path or None
        None where this is the name of no run.

    Raises
    ------
    InputError
        As for ``student_input``.
    """
    run = name.partition("/")[0]
    if run != records.LATEST and run not in run_names.names(workspace):
        return None
    kind = next(kind for kind in steps.names() if steps.step(kind).output is Output.STUDENT)
    return student_input(workspace, kind, name, None, origin).path


def named_input(workspace: Path, kind: str, value: str, origin: str, cluster: str
                ) -> ExternalInput:
    """An input named on the command line or in the configuration.

    Parameters
    ----------
    workspace, kind, cluster
        As for ``student_input``.
    value
        A run that made it, one of its steps (``RUN/STEP``), ``latest``, ``latest/STEP``, or a
        folder.
    origin
        The option or line that names it, for messages.

    Raises
    ------
    InputError
        Where there is neither, for an empty folder, and for a run that has several.
    """
    runs, _ = _read_records(workspace)
    path = Path(value)
    if not path.is_dir():
        path = Path(value := _newest(value, workspace, kind, runs, cluster, origin))
    is_step = not path.is_dir() and any(value.startswith(f"{record.run}/") for record in runs)
    if _find(value, runs) or is_step or not path.is_dir() and _begins_a_run(value, runs):
        return run_output(workspace, value, kind, runs, cluster, origin)
    if not path.is_dir():
        raise InputError(f"{value!r} is neither a folder nor a run", where=origin)
    path = path.resolve()
    if Workspace(workspace).is_artifact(path):
        config = _read_config(path, workspace)
        return ExternalInput(path, path.name, config.get("shards", []),
                             params=config.get("params"))
    return ExternalInput(path, fingerprint_of_folder(path))


def run_output(workspace: Path, name: str, kind: str, runs: Sequence[RunRecord],
               cluster: str | None, origin: str | None = None) -> ExternalInput:
    """The output of one step of an earlier run.

    Parameters
    ----------
    workspace, kind, cluster
        As for ``student_input``.
    name
        Name of the run or a unique beginning of it, or ``RUN/STEP`` where it has several steps of
        this kind.
    runs
        The records of all runs.
    origin
        The option that names it, for messages.

    Raises
    ------
    InputError
        Where the run has no such output, and no job that makes it; and where it has several and
        ``name`` says none of them, with their names.
    """
    usable = [record.run for record in runs if _outputs_of(workspace, record, kind, cluster)]
    run, slash, step = name.partition("/")
    # a name in full comes before a beginning: run-1 is not run-10
    if run not in {record.run for record in runs} and _begins_a_run(name, runs):
        run = records.find(workspace, run)
        name = f"{run}{slash}{step}"
    for record in runs:
        if record.run == run:
            outputs = _outputs_of(workspace, record, kind, cluster)
            named = [f"{run}/{entry.name}" for entry in record.steps if entry.kind == kind]
            if step and name not in named:
                raise InputError(f"the run {run!r} has no {kind} step {step!r}", where=origin,
                                 allowed=nearest(name, named) if named else None)
            if step:
                outputs = [output for output in outputs if output.step == step]
            if outputs:
                return outputs[0] if step else _only(
                    record, kind, outputs, f"{origin} {run}" if origin else run)
            waiting = f", and no job on {cluster} that makes it" if cluster else ""
            raise InputError(f"the run {run!r} has no finished {step or kind}{waiting}",
                             allowed=f"these have one: {', '.join(usable)}" if usable else None)
    raise InputError(f"{name!r} is neither a run nor a file",
                     allowed=nearest(name, usable) if usable else None,
                     hint=f"list the runs with {command_line('status')}; a HEAR module is "
                          "hear:package.module")


def embedding_dim(source: ExternalInput, key: str | None = None) -> int | None:
    """Length of an embedding in a folder of existing embeddings.

    Parameters
    ----------
    source
        The folder.
    key
        HDF5 dataset, where the files contain several (None: the only one).

    Returns
    -------
    int or None
        None while jobs are still writing them.

    Raises
    ------
    InputError
        For a folder without embeddings.
    """
    if source.waits_for or (source.shards
                            and len(artifacts.finished(source.path)) < len(source.shards)):
        return None
    from l3hpc.datasets.embeddings import open_source

    return open_source(source.path, key=key).dim


def _read_records(workspace: Path) -> tuple[list[RunRecord], list[InputError]]:
    """The records of all runs, newest first, and why some cannot be read."""
    damaged: list[InputError] = []
    runs = records.read_all(workspace, damaged)
    for error in damaged:
        report_damage(error)
    return runs, damaged


def _newest(value: str, workspace: Path, kind: str, runs: Sequence[RunRecord],
            cluster: str | None, origin: str) -> str:
    """Put the newest run that has such an output in place of ``latest`` in ``latest`` or
    ``latest/STEP``; return any other value, and a path that exists, unchanged.
    """
    run, slash, step = value.partition("/")
    if run != records.LATEST or step and Path(value).exists():
        return value
    for record in runs:
        outputs = _outputs_of(workspace, record, kind, cluster)
        if outputs and (not step or any(output.step == step for output in outputs)):
            return f"{record.run}{slash}{step}"
    raise InputError(f"no run in {workspace} has a finished {kind}"
                     + (f" step {step!r}" if step else ""), where=f"{origin} {value}",
                     hint=f"list the runs: {command_line('status')}")


def _find(value: str, runs: Sequence[RunRecord]) -> bool:
    """Whether a value is the name of a run, or ``RUN/STEP`` of a step that it has."""
    return any(value in (record.run, *(f"{record.run}/{entry.name}" for entry in record.steps))
               for record in runs)


def _begins_a_run(value: str, runs: Sequence[RunRecord]) -> bool:
    """Whether the name of a run begins with a value, which may be followed by ``/STEP``."""
    run = value.partition("/")[0]
    return bool(run) and any(record.run.startswith(run) for record in runs)


def _outputs_of(workspace: Path, record: RunRecord, kind: str, cluster: str | None
                ) -> list[ExternalInput]:
    """The outputs of a run's steps of this kind that are finished or that a job on ``cluster``
    makes.
    """
    found = []
    for step in record.steps:
        if step.kind != kind:
            continue
        artifact = Path(step.artifact)
        finished = artifacts.finished(artifact)
        if len(finished) >= step.tasks:
            waits: tuple[str, ...] = ()
        elif step.job and record.cluster == cluster and _is_active(workspace, record, step):
            waits = tuple(attempts.open_jobs(step, finished))
        else:
            continue
        config = _read_config(artifact, workspace, record.run, step.name)
        found.append(ExternalInput(artifact, artifact.name, config.get("shards", []), waits,
                                   record.run, step=step.name, params=config.get("params")))
    return found


def _only(record: RunRecord, kind: str, usable: Sequence[ExternalInput], origin: str
          ) -> ExternalInput:
    """The output of the only step of this kind; a sweep has several, of which none is the obvious
    one, even if the others are not finished.
    """
    if len({step.artifact for step in record.steps if step.kind == kind}) == 1:
        return usable[0]
    swept = record.swept()
    names = []
    for output in usable:
        values = ", ".join(f"{option}={value}"
                           for option, value in swept.get(str(output.path), {}).items())
        names.append(f"{record.run}/{output.step}" + (f" ({values})" if values else ""))
    raise InputError(f"the run {record.run!r} has several {kind} steps: name one of them",
                     where=origin, allowed="; ".join(names),
                     hint=f"Compare their results: {command_line('status', record.run)}")


def _is_active(workspace: Path, record: RunRecord, step: StepRecord) -> bool:
    """Whether the step has a job that is not finished, by the record alone."""
    if (record.state, step.state) != (RunState.SUBMITTED, StepState.SUBMITTED):
        return False
    if not record.capabilities.runner:
        return True
    # Without its runner process, a local job of the record will never start.
    jobs = LocalJobs(workspace, record.run)
    return jobs.runner() is not None and any(
        job.state.is_active for job in jobs.jobs.values() if job.job == step.job)


class _FrozenConfig(TypedDict):
    """The part of ``config.json`` that is read here."""

    shards: NotRequired[list[dict[str, Any]]]
    params: NotRequired[dict[str, Any]]


def params_of(kind: str, source: ExternalInput) -> Params | None:
    """The parameters of the step of an earlier run that makes an input.

    Parameters
    ----------
    kind
        Kind of the step.
    source
        Its output.

    Returns
    -------
    Params or None
        None for published files, and for parameters of a version that had others.
    """
    if source.params is None:
        return None
    try:
        return steps.step(kind).parse(source.params)
    except (ValidationError, InputError):
        # The run is valid under the version that planned it: no reason to refuse a new plan.
        return None


def shards_of(workspace: Path, path: Path, run: str | None, step: str | None
              ) -> list[dict[str, Any]]:
    """What each task of an external input worked on; empty for published files.

    Parameters
    ----------
    workspace
        The workspace.
    path, run, step
        As in ``ExternalInput``.
    """
    return list(_read_config(path, workspace, run, step).get("shards", []))


def _read_config(artifact: Path, workspace: Path, run: str | None = None, step: str | None = None
                 ) -> dict[str, Any]:
    """The settings of the step that makes an artifact, from the first place where they can be read:
    the artifact, the step of ``run``, or that run; empty for published files.
    """
    found = [ArtifactFolder(artifact).config]
    if run and step:
        folder = Workspace(workspace).run(run)
        found.append(folder.step(step).config)
    for path in found:
        if path.is_file():
            try:
                return check_mapping(_FrozenConfig, read_json(path), "config")
            except InputError as error:
                report_damage(InputError(error.message, where=error.where or str(path)))
    if run and step:  # it is just being submitted
        with contextlib.suppress(InputError, OSError):
            return step_config.of_run(folder, step)
    return {}
