"""What earlier runs have made, found by the names that options take: RUN, RUN/STEP, latest.

Every option that names something of a run (``--student``, ``--weights``, ``--phi``, ``--avc``,
``--input`` …) is resolved here. Runs are read from their records
(``<workspace>/runs/<run>/run.json``) without a query to the scheduler: whether a job is still
active is checked when the plan is submitted.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from typing_extensions import NotRequired, TypedDict

from l3hpc import steps
from l3hpc.errors import InputError, command_line, nearest, report_damage
from l3hpc.io.files import read_json, task_folders
from l3hpc.io.values import check_mapping
from l3hpc.steps import Params, RunFile
from l3hpc.workspace import artifacts, attempts, records, step_config
from l3hpc.workspace.layout import ArtifactFolder, RunFolder, Workspace
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


# a file, or the folder of an artifact -----------------------------------------------------------


def run_file(workspace: Path, wanted: RunFile, value: str, origin: str) -> str:
    """The file that an option names by the run that made it, or by its path.

    Parameters
    ----------
    workspace
        The workspace whose runs are searched.
    wanted
        Which steps make such a file.
    value
        A run or the beginning of its name, ``RUN/STEP``, ``RUN/STEP/TASK``, ``latest``,
        ``latest/STEP``, the folder of a run, of an artifact or of a task, or the file.
    origin
        The option that names it, for messages.

    Returns
    -------
    str
        Absolute. What is neither a path nor the name of a run is returned unchanged where
        ``wanted.others`` are allowed.

    Raises
    ------
    InputError
        Where there is no such run or file; where the step of the run is not finished; and where
        there are several, with their names.
    """
    if wanted.others and value.partition(":")[0] in ("untrained", "hear"):
        return value
    path = Path(value).expanduser()
    if path.is_file():
        return os.path.abspath(path)
    if path.is_dir() and (found := file_in_folder(path, wanted)):
        return os.path.abspath(found)
    runs, _ = read_records(workspace)
    first, names = value.partition("/")[0], [record.run for record in runs]
    # a name in full comes before a path, a path before the beginning of a name
    if first in names or not path.exists() and (
            first == records.LATEST or begins_a_run(value, runs)):
        return str(_file_of_run(workspace, wanted, value, runs, origin))
    if wanted.others and (path.exists() or not difflib.get_close_matches(first, names, n=1)):
        return value
    if path.is_dir():
        if not wanted.files:
            return os.path.abspath(path)
        raise InputError(f"contains no {' or '.join(wanted.files)}", where=f"{origin} {value}",
                         hint=f"The step {wanted.kinds[0]} writes it.")
    usable = [record.run for record in runs if outputs_of(workspace, record, wanted.kinds, None)]
    raise InputError(f"{value!r} is neither a run nor a {'file' if wanted.files else 'folder'}",
                     where=origin, allowed=nearest(value, usable) if usable else None,
                     hint=f"list the runs: {command_line('status')}")


def file_in_folder(folder: Path, wanted: RunFile) -> Path | None:
    """The only such file in the folder of a run, of an artifact or of a task; None without one.

    Parameters
    ----------
    folder
        The folder.
    wanted
        As for ``run_file``.

    Raises
    ------
    InputError
        Where there are several, with the folders that hold one each.
    """
    links = [link for link in sorted(RunFolder(folder).artifacts.glob("*"))
             if link.resolve().parent.name in wanted.kinds]
    found = {file.resolve(): file for place in links or [folder]
             for file in (_files(place, wanted) if wanted.files else [place] if links else [])}
    if len(found) > 1:
        raise InputError("holds several: name the folder of one", where=str(folder),
                         allowed=", ".join(str(file.parent if wanted.files else file)
                                           for file in found.values()))
    # in the artifact, which outlives the folder of the run
    return next(iter(found if links else found.values()), None)


def _file_of_run(workspace: Path, wanted: RunFile, value: str, runs: Sequence[RunRecord],
                 origin: str) -> Path:
    """The file of a run, one of its steps or tasks; an error where there are several."""
    value, task = _split_task(value)
    value = newest(value, workspace, wanted.kinds, runs, None, origin)
    output = run_output(workspace, value, wanted.kinds, runs, None, origin)
    if not wanted.files:
        return output.path
    files = _files(output.path, wanted)
    name = f"{output.run}/{output.step}"
    named = {f"{name}/{file.parent.name}": file for file in files}
    if task is not None:
        file = next((file for file in files if int(file.parent.name) == task), None)
        if file is None:
            raise InputError(f"the step {name} has no task {task}", where=origin,
                             allowed=f"valid: {', '.join(named)}")
        return file
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(f"contains no {' or '.join(wanted.files)}", where=str(output.path),
                         hint=f"The step {output.step} writes it.")
    plans = [f"{one} ({', '.join(f'{key} {text}' for key, text in shard.items() if key != 'part')})"
             if shard else one for one, shard in zip(
                 named, output.shards or [{}] * len(named), strict=False)]
    raise InputError(f"the step {name} has made {len(files)}: name one of them", where=origin,
                     allowed="; ".join(plans))


def _split_task(value: str) -> tuple[str, int | None]:
    """``RUN/STEP/TASK`` without and with the number of the task; None where none is given."""
    name, slash, number = value.rpartition("/")
    if slash and "/" in name and number.isdecimal():
        return name, int(number)
    return value, None


def _files(folder: Path, wanted: RunFile) -> list[Path]:
    """Such files of the tasks of an artifact, or of one task."""
    places = task_folders(folder) or [folder, ArtifactFolder(folder).task(0)]
    found = (next((path for name in wanted.files if (path := place / name).is_file()), None)
             for place in places)
    return [path for path in found if path is not None]


# the output of a step ---------------------------------------------------------------------------


def run_output(workspace: Path, name: str, kinds: Sequence[str], runs: Sequence[RunRecord],
               cluster: str | None, origin: str | None = None) -> ExternalInput:
    """The output of one step of an earlier run.

    Parameters
    ----------
    workspace
        The workspace whose runs are searched.
    name
        Name of the run or a unique beginning of it, or ``RUN/STEP`` where it has several such
        steps.
    kinds
        The kinds of steps whose output is wanted, the preferred one first.
    runs
        The records of all runs.
    cluster
        Only jobs of this profile can be waited for. None: the output has to be finished.
    origin
        The option that names it, for messages.

    Raises
    ------
    InputError
        Where the run has no such output, and no job that makes it; and where it has several and
        ``name`` says none of them, with their names.
    """
    usable = [record.run for record in runs if outputs_of(workspace, record, kinds, cluster)]
    run, slash, step = name.partition("/")
    # a name in full comes before a beginning: run-1 is not run-10
    if run not in {record.run for record in runs} and begins_a_run(name, runs):
        run = records.find(workspace, run)
        name = f"{run}{slash}{step}"
    for record in runs:
        if record.run == run:
            kinds = _kinds_of(record, kinds, step)
            outputs = outputs_of(workspace, record, kinds, cluster)
            named = [f"{run}/{entry.name}" for entry in record.steps if entry.kind in kinds]
            if step and name not in named:
                raise InputError(f"the run {run!r} has no {_step_of(kinds, step)}", where=origin,
                                 allowed=nearest(name, named) if named else None)
            if step:
                outputs = [output for output in outputs if output.step == step]
            if outputs:
                return outputs[0] if step else only(
                    record, kinds, outputs, f"{origin} {run}" if origin else run)
            waiting = f", and no job on {cluster} that makes it" if cluster else ""
            raise InputError(f"the run {run!r} has no finished {step or _result(kinds)}{waiting}",
                             allowed=f"these have one: {', '.join(usable)}" if usable else None)
    raise InputError(f"{name!r} is neither a run nor a file",
                     allowed=nearest(name, usable) if usable else None,
                     hint=f"list the runs with {command_line('status')}; a HEAR module is "
                          "hear:package.module")


def _step_of(kinds: Sequence[str], name: str) -> str:
    return f"{kinds[0]} step {name!r}" if len(kinds) == 1 else f"step {name!r} with a network"


def _result(kinds: Sequence[str]) -> str:
    return kinds[0] if len(kinds) == 1 else "network"


def has_only_others(value: str, runs: Sequence[RunRecord], kind: str, others: Sequence[str]
                    ) -> bool:
    """Whether the run or step that is named has outputs of other kinds than ``kind``, and none of
    it.

    Parameters
    ----------
    value
        ``RUN``, ``RUN/STEP`` or ``RUN/STEP/TASK``; the beginning of a run's name is enough.
    runs
        The records of all runs.
    kind, others
        Kinds of steps.
    """
    run, _, step = _split_task(value)[0].partition("/")
    found = {entry.kind for record in runs if record.run.startswith(run)
             for entry in record.steps if not step or entry.name == step}
    return kind not in found and bool(found & {*others})


def _kinds_of(record: RunRecord, kinds: Sequence[str], step: str) -> tuple[str, ...]:
    """Those of ``kinds`` that a run has (with a name: that such a step has); the preferred one
    alone if that is among them, or none is.
    """
    there = {entry.kind for entry in record.steps if entry.name == step} & {*kinds} \
        or {entry.kind for entry in record.steps} & {*kinds}
    if kinds[0] in there or not there:
        return (kinds[0],)
    return tuple(kind for kind in kinds if kind in there)


def read_records(workspace: Path) -> tuple[list[RunRecord], list[InputError]]:
    """The records of all runs, newest first, and why some cannot be read.

    Parameters
    ----------
    workspace
        The workspace.
    """
    damaged: list[InputError] = []
    runs = records.read_all(workspace, damaged)
    for error in damaged:
        report_damage(error)
    return runs, damaged


def newest(value: str, workspace: Path, kinds: Sequence[str], runs: Sequence[RunRecord],
           cluster: str | None, origin: str) -> str:
    """Put the newest run that has such an output in place of ``latest``.

    Parameters
    ----------
    value
        ``latest`` or ``latest/STEP``; any other value, and a path that exists, is returned
        unchanged.
    workspace, kinds, runs, cluster, origin
        As for ``run_output``.

    Raises
    ------
    InputError
        Where no run has one.
    """
    run, slash, step = value.partition("/")
    if run != records.LATEST or step and Path(value).exists():
        return value
    for record in runs:
        outputs = outputs_of(workspace, record, kinds, cluster)
        if outputs and (not step or any(output.step == step for output in outputs)):
            return f"{record.run}{slash}{step}"
    raise InputError(f"no run in {workspace} has a finished "
                     + (_step_of(kinds, step) if step else _result(kinds)),
                     where=f"{origin} {value}",
                     hint=f"list the runs: {command_line('status')}")


def names_a_run(value: str, runs: Sequence[RunRecord]) -> bool:
    """Whether a value is the name of a run, or ``RUN/STEP`` of a step that it has.

    Parameters
    ----------
    value
        Of an option.
    runs
        The records of all runs.
    """
    return any(value in (record.run, *(f"{record.run}/{entry.name}" for entry in record.steps))
               for record in runs)


def begins_a_run(value: str, runs: Sequence[RunRecord]) -> bool:
    """Whether the name of a run begins with a value, which may be followed by ``/STEP``.

    Parameters
    ----------
    value
        Of an option.
    runs
        The records of all runs.
    """
    run = value.partition("/")[0]
    return bool(run) and any(record.run.startswith(run) for record in runs)


def outputs_of(workspace: Path, record: RunRecord, kinds: Sequence[str], cluster: str | None
               ) -> list[ExternalInput]:
    """The outputs of a run's steps of these kinds that are finished, or that a job makes.

    Parameters
    ----------
    workspace, kinds, cluster
        As for ``run_output``.
    record
        The run.
    """
    found = []
    for step in record.steps:
        if step.kind not in kinds:
            continue
        artifact = Path(step.artifact)
        finished = artifacts.finished(artifact)
        if len(finished) >= step.tasks:
            waits: tuple[str, ...] = ()
        elif step.job and record.cluster == cluster and _is_active(workspace, record, step):
            waits = tuple(attempts.open_jobs(step, finished))
        else:
            continue
        config = read_config(artifact, workspace, record.run, step.name)
        found.append(ExternalInput(artifact, artifact.name, config.get("shards", []), waits,
                                   record.run, step=step.name, params=config.get("params")))
    return found


def only(record: RunRecord, kinds: Sequence[str], usable: Sequence[ExternalInput], origin: str
         ) -> ExternalInput:
    """The output of the only such step; a sweep has several, of which none is the obvious one, even
    if the others are not finished.

    Parameters
    ----------
    record
        The run.
    kinds, origin
        As for ``run_output``.
    usable
        Its outputs.

    Raises
    ------
    InputError
        Where there are several, with their names.
    """
    if len({step.artifact for step in record.steps if step.kind in kinds}) == 1:
        return usable[0]
    swept = record.swept()
    names = []
    for output in usable:
        values = ", ".join(f"{option}={value}"
                           for option, value in swept.get(str(output.path), {}).items())
        names.append(f"{record.run}/{output.step}" + (f" ({values})" if values else ""))
    several = f"several {kinds[0]} steps" if len(kinds) == 1 else "several networks"
    raise InputError(f"the run {record.run!r} has {several}: name one of them",
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
    return list(read_config(path, workspace, run, step).get("shards", []))


def read_config(artifact: Path, workspace: Path, run: str | None = None, step: str | None = None
                ) -> dict[str, Any]:
    """The settings of the step that makes an artifact, from the first place where they can be read:
    the artifact, the step of ``run``, or that run; empty for published files.

    Parameters
    ----------
    artifact, workspace, run, step
        As in ``ExternalInput``, and the workspace.
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
