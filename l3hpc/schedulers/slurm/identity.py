"""Which of the jobs that Slurm shows are ours: a job id alone is not enough.

Slurm counts from the start again after it has lost its state, and the clusters of one site use the
same ids. Only our job has our script, which lies in the folder of one step of one run, as its log
does. Another workspace or another person may have jobs of the same name and id.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from l3hpc.schedulers.base import JobId
from l3hpc.schedulers.slurm.commands import several
from l3hpc.workspace.layout import StepFolder, Workspace
from l3hpc.workspace.records import Attempt, RunRecord, StepRecord

HELPER = "-heal"  # ends the name of the job that changes the request of a held one
ARRAY_SCRIPT = "array.sbatch"  # of several steps of one sweep, in the folder of the first one
_SCRIPT = re.compile(r"script(-\d+)?\.sbatch")
_HELPER = "heal.log"  # of the small job that changes a held one; it lies beside the step's logs
CLOCKS_S = 2 * 3600.0  # clocks differ, and Slurm's times are local: an hour comes twice in autumn
NAME_S = 600.0


@dataclass(frozen=True)
class Origin:
    """Where a job comes from, as far as Slurm shows it ('' and None: it does not).

    script: the file that was submitted. output: the file of its standard output. line: the command
    line of sbatch. submitted: unix seconds; a requeue changes it. asked: the cluster that was
    queried, as in ``Identity.cluster``.
    """

    cluster: str = ""
    script: str = ""
    name: str = ""
    output: str = ""
    line: str = ""
    submitted: float | None = None
    asked: str = ""


@dataclass(frozen=True)
class Identity:
    """One submission of ours: its id, and what distinguishes it from other jobs of that id.

    Attributes
    ----------
    id: as sbatch gave it; ``13_4`` for one step of a sweep's job array; '' for any id.
    cluster: Slurm's name of the cluster ('' for the default of its commands).
    script: the path that sbatch was given.
    folder: the step's folder in the run, which holds script and logs ('' for a job of no step).
    names: the names that the job may have.
    submitted: unix seconds (0: unknown).
    """

    id: str
    cluster: str = ""
    script: str = ""
    folder: str = ""
    names: tuple[str, ...] = ()
    submitted: float = 0.0

    @property
    def base(self) -> str:
        """The id without the index of an array's task."""
        return self.id.partition("_")[0]

    def owns(self, origin: Origin) -> bool:
        """Whether a job of this id with that origin is this one.

        The script decides. Where a site's sbatch submits a copy of it, the log does; where Slurm
        shows neither (sacct before 21.08), name and time of submission together.
        """
        if self.cluster and origin.cluster and self.cluster != origin.cluster:
            return False
        if origin.submitted is not None and origin.submitted < self.submitted - CLOCKS_S:
            return False
        if self._is_script(origin.script) or self._ends_with_script(origin.line):
            return True
        folder, log = os.path.split(origin.output)
        if self.folder and log not in ("", _HELPER) \
                and _real(folder) == _real(str(StepFolder(self.folder).logs)):
            return True
        if origin.script or origin.line or origin.output:
            return False
        if not origin.name:  # Slurm shows nothing at all of it
            return True
        return origin.name in self.names and (
            origin.submitted is None or abs(origin.submitted - self.submitted) < NAME_S)

    def _is_script(self, path: str) -> bool:
        if not path or path == self.script:
            return bool(path)
        folder, name = os.path.split(path)
        if not self.folder:
            return bool(self.script) and _real(path) == _real(self.script)
        if name == ARRAY_SCRIPT:
            return _real(os.path.dirname(folder)) == _real(os.path.dirname(self.folder))
        return bool(_SCRIPT.fullmatch(name)) and _real(folder) == _real(self.folder)

    def _ends_with_script(self, line: str) -> bool:
        """A path may hold spaces, and the line is not quoted."""
        if self.script and line.endswith(f" {self.script}"):
            return True
        return any(self._is_script(line[match.start() + 1:])
                   for match in re.finditer(r" /", line))


@functools.lru_cache(maxsize=8192)
def _real(path: str) -> str:
    return os.path.realpath(path)


def of_attempt(workspace: Path, record: RunRecord, step: StepRecord,
               attempt: Attempt) -> Identity:
    """The identity of an attempt in a record, also of one that an earlier version wrote: there the
    folder gives the script."""
    return _of_attempt(str(Workspace(workspace).run(record.run).step(step.name)), record, step,
                       attempt)


def _of_attempt(folder: str, record: RunRecord, step: StepRecord, attempt: Attempt
                ) -> Identity:
    return Identity(
        id=attempt.job, cluster=attempt.cluster,
        script=attempt.script or "", folder=folder,
        submitted=attempt.time,
        names=(f"l3-{record.run}-{step.name}", f"l3-{record.run}-{step.kind}"))


def of_step(workspace: Path, record: RunRecord, step: StepRecord) -> dict[str, Identity]:
    """Task id (``12``, ``13_4``) → identity, of all submissions of a step; the latest one wins."""
    folder = str(Workspace(workspace).run(record.run).step(step.name))
    return {task: job for attempt in step.attempts
            for job in (_of_attempt(folder, record, step, attempt),)
            for task in attempt.task_ids.values()}


def clusters(record: RunRecord) -> set[str]:
    """The clusters on which a run may have jobs, as in ``Identity.cluster``. Where Slurm may
    choose, the first job decides for all of them."""
    of_jobs = {attempt.cluster for step in record.steps for attempt in step.attempts}
    if of_jobs and several(record.clusters):
        return of_jobs
    return of_jobs | {name for name in record.clusters.split(",") if name} or {""}


def of_script(script: Path, cluster: str = "") -> Identity:
    """Any job that was submitted with a script of a step, whatever its id."""
    return Identity("", cluster, str(script), str(script.parent))


def step_of(workspace: Path, run: str, origin: Origin) -> str | None:
    """The step of a run whose folder holds a job's script or log; None for any other job."""
    steps = _real(str(Workspace(workspace).run(run).steps))
    for path, depth in ((origin.script, 1), (origin.output, 2)):
        folder = path
        for _ in range(depth):
            folder = os.path.dirname(folder)
        if folder and os.path.dirname(_real(folder)) == steps:
            return os.path.basename(_real(folder))
    return None


def untracked(workspace: Path, record: RunRecord, live: Mapping[str, Iterable[Origin]]
              ) -> list[JobId]:
    """Of these live jobs (task id → where it comes from) those that were submitted with a script of
    this run and that no step of its record names, the leaf first. Such a job does not find its
    pickle, which never got the id."""
    known: dict[str, list[Identity]] = {}
    for step in record.steps:
        for task, job in of_step(workspace, record, step).items():
            known.setdefault(task.partition("_")[0], []).append(job)
    ranks = {step.name: rank for rank, step in enumerate(record.steps[::-1])}
    found: dict[JobId, int] = {}
    for task, origins in live.items():
        base = task.partition("_")[0]
        for origin in set(origins):
            rank = ranks.get(step_of(workspace, record.run, origin) or "")
            if origin.name.endswith(HELPER):  # its log lies beside the step's
                continue
            if rank is not None and not any(one.owns(origin) for one in known.get(base, ())):
                found[JobId(base, origin.asked)] = rank
    return sorted(found, key=lambda job: (found[job], -int(job.id)))


def in_workspace(workspace: Path, origin: Origin) -> bool:
    """Whether a job was submitted with the script of any run here (or Slurm does not say)."""
    if not origin.script:
        return not origin.output
    runs = _real(str(Workspace(workspace).runs))
    return _real(os.path.dirname(origin.script)).startswith(f"{runs}/")
