"""Inputs that no step of the plan makes: a student of an earlier run, folders of published files.

Runs are read from their records (``<workspace>/runs/<run>/run.json``) as they are; nothing asks
the scheduler here. Whether a job still lives is decided when the plan is submitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, nearest, note_damage
from l3hpc.io.files import read_json
from l3hpc.io.typed import mapping
from l3hpc.pipelines import fingerprint
from l3hpc.workspace import artifacts, attempts, records
from l3hpc.workspace.layout import ArtifactFolder, Workspace
from l3hpc.workspace.local_jobs import LIVE, LocalJobs
from l3hpc.workspace.records import RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState


@dataclass(frozen=True)
class Outside:
    """Where an input lies, what identifies it, and the jobs that still have to make it.

    file: the input is one file (a student's weights) and goes into the parameter ``student``.
    """

    path: Path
    fingerprint: str
    shards: list[dict[str, Any]] = field(default_factory=list)
    waits_for: tuple[str, ...] = ()
    run: str | None = None
    file: bool = False


def student(workspace: Path, kind: str, word: str, cluster: str) -> Outside:
    """The trained student that ``--student`` names: a run, a weight file, or ``latest``.

    kind: the step that trains students. cluster: the profile of the new plan; only its jobs can
    wait for a run that still works there.

    Raises ``InputError`` with the runs that have one.
    """
    known, broken = _known(workspace)
    if word == "latest":
        for record in known:
            found = _usable(workspace, record, kind, cluster)
            if found is not None:
                return found
        raise InputError(
            f"no run in {workspace} has trained a student", where="--student latest",
            allowed=f"(skipped: {broken[0].where}: {broken[0].message})" if broken else None,
            hint="train one with l3hpc submit upstream, or name a weight file: --student FILE")
    if any(record.run == word for record in known) or not Path(word).is_file():
        return of_run(workspace, word, kind, known, cluster)
    path = Path(word).resolve()
    return Outside(path, "", run=None, file=True)


def _known(workspace: Path) -> tuple[list[RunRecord], list[InputError]]:
    """All records, and what is wrong with those that cannot be read, which is said too."""
    broken: list[InputError] = []
    known = records.read_all(workspace, broken)
    for error in broken:
        note_damage(error)
    return known, broken


def given(workspace: Path, kind: str, word: str, where: str, cluster: str) -> Outside:
    """An input named on the command line: a folder, or a run that made it."""
    known, _ = _known(workspace)
    if any(record.run == word for record in known):
        return of_run(workspace, word, kind, known, cluster)
    path = Path(word)
    if not path.is_dir():
        raise InputError(f"{word!r} is neither a folder nor a run", where=where)
    path = path.resolve()
    if Workspace(workspace).is_artifact(path):
        return Outside(path, path.name, _shards(ArtifactFolder(path).config))
    return Outside(path, fingerprint.of_folder(path))


def embedding_dim(source: Outside, key: str | None = None) -> int | None:
    """Length of an embedding in a folder of ready embeddings; None while jobs still make it.

    key: the name of the matrix, where the files hold several. ``InputError`` for no embeddings.
    """
    if source.waits_for or (source.shards
                            and len(artifacts.finished(source.path)) < len(source.shards)):
        return None
    from l3hpc.datasets.embeddings import open_source

    return open_source(source.path, key=key).dim


def of_run(workspace: Path, run: str, kind: str, known: list[RunRecord],
           cluster: str) -> Outside:
    """The output of the step ``kind`` of one run; ``InputError`` if it has and will have none."""
    usable = [record.run for record in known if _usable(workspace, record, kind, cluster)]
    for record in known:
        if record.run == run:
            found = _usable(workspace, record, kind, cluster)
            if found is None:
                raise InputError(f"the run {run!r} has no finished {kind}, and no job on {cluster} "
                                 "that makes it",
                                 allowed=f"these have one: {', '.join(usable)}" if usable else None)
            return found
    raise InputError(f"{run!r} is neither a run nor a file",
                     allowed=nearest(run, usable) if usable else None,
                     hint="list the runs with l3hpc status")


def _usable(workspace: Path, record: RunRecord, kind: str, cluster: str) -> Outside | None:
    for step in record.steps:
        if step.kind == kind:
            artifact = Path(step.artifact)
            if _finished(step):
                waits: tuple[str, ...] = ()
            elif step.job and record.cluster == cluster and _lives(workspace, record, step):
                waits = tuple(attempts.open_jobs(step, artifacts.finished(artifact)))
            else:
                continue
            frozen = Workspace(workspace).run(record.run).step(step.name).config
            shards = _shards(ArtifactFolder(artifact).config, frozen)
            return Outside(artifact, artifact.name, shards, waits, record.run)
    return None


def _lives(workspace: Path, record: RunRecord, step: StepRecord) -> bool:
    """Whether the record says that a job is at work on the step (a scheduler is not asked)."""
    if (record.state, step.state) != (RunState.SUBMITTED, StepState.SUBMITTED):
        return False
    if not record.capabilities.runner:
        return True
    jobs = LocalJobs(workspace, record.run)
    return jobs.runner() is not None and any(
        job.state in LIVE for job in jobs.jobs.values() if job.job == step.job)


def _finished(step: StepRecord) -> bool:
    return len(artifacts.finished(Path(step.artifact))) >= step.tasks


def _shards(*frozen: Path) -> list[dict[str, Any]]:
    for path in frozen:
        if path.is_file():
            try:
                return list(mapping(_Shards, read_json(path), "config").get("shards", []))
            except InputError as error:
                note_damage(InputError(error.message, where=error.where or str(path)))
    return []


class _Shards(TypedDict):
    shards: NotRequired[list[dict[str, Any]]]
