"""Which of the jobs that Slurm lists are ours: a job id alone does not identify a job.

Slurm starts counting again after it has lost its state, and the clusters of a site use the same
ids. Only our job has our script, which is in the folder of one step of one run, and so is its log.
Another workspace or another user may have jobs with the same name and id.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from l3hpc.schedulers.jobs import JobId
from l3hpc.schedulers.slurm.commands import is_several
from l3hpc.workspace.layout import StepFolder, Workspace
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord

HELPER = "-heal"  # ends the name of the job that changes the request of a held one
ARRAY_SCRIPT = "array.sbatch"  # of several steps of one sweep, in the folder of the first one
_SCRIPT = re.compile(r"script(-\d+)?\.sbatch")
_HELPER_LOG = "heal.log"  # the log of that helper job, beside the logs of the step
CLOCKS_S = 2 * 3600.0  # clocks differ, and Slurm's times are local: an hour comes twice in autumn
NAME_S = 600.0


@dataclass(frozen=True)
class Origin:
    """Where a job comes from, as far as Slurm shows it ('' or None if it does not).

    Attributes
    ----------
    cluster, name : str
        Its cluster and its name.
    script, output : str
        The file that was submitted, and that of its standard output.
    line : str
        The command line of sbatch.
    submitted : float or None
        Unix seconds; a requeue changes it.
    queried : str
        The cluster that was queried, as in ``Identity.cluster``.
    """

    cluster: str = ""
    script: str = ""
    name: str = ""
    output: str = ""
    line: str = ""
    submitted: float | None = None
    queried: str = ""


@dataclass(frozen=True)
class Identity:
    """One submission of ours: its id, and what distinguishes it from other jobs with that id.

    Attributes
    ----------
    id : str
        As sbatch printed it; ``13_4`` for one step of a sweep's job array; '' for any id.
    cluster : str
        Slurm's name of the cluster ('' for the default of its commands).
    script : str
        The path that sbatch was given.
    folder : str
        Folder of the step in the run, which holds script and logs ('' for a job of no step).
    names : tuple of str
        The names that the job may have.
    submitted : float
        Unix seconds; 0 if unknown.
    """

    id: str
    cluster: str = ""
    script: str = ""
    folder: str = ""
    names: tuple[str, ...] = ()
    submitted: float = 0.0

    @property
    def base(self) -> str:
        """The id without the array index."""
        return self.id.partition("_")[0]

    def owns(self, origin: Origin) -> bool:
        """Whether a job with this id and that origin is this submission.

        The script decides. If a site's sbatch submits a copy of it, the log does; if Slurm shows
        neither (sacct before 21.08), the name together with the time of submission.

        Parameters
        ----------
        origin
            Where the job comes from.
        """
        if self.cluster and origin.cluster and self.cluster != origin.cluster:
            return False
        # an earlier job had the same id
        if origin.submitted is not None and origin.submitted < self.submitted - CLOCKS_S:
            return False
        if self._is_script(origin.script) or self._ends_with_script(origin.line):
            return True
        folder, log = os.path.split(origin.output)
        if self.folder and log not in ("", _HELPER_LOG) \
                and _real(folder) == _real(str(StepFolder(self.folder).logs)):
            return True
        if origin.script or origin.line or origin.output:
            return False
        if not origin.name:  # Slurm shows only the id
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
        """Whether a command line ends with the script (a path may hold spaces, and the line is not
        quoted).
        """
        if self.script and line.endswith(f" {self.script}"):
            return True
        return any(self._is_script(line[match.start() + 1:])
                   for match in re.finditer(r" /", line))


# each component of a path is looked up on the file server; thousands of jobs share a few folders
@functools.lru_cache(maxsize=8192)
def _real(path: str) -> str:
    return os.path.realpath(path)


def _of_attempt(folder: str, record: RunRecord, step: StepRecord, attempt: Attempt
                ) -> Identity:
    # in the record of an early version, which has no script, the folder identifies it
    return Identity(
        id=attempt.job, cluster=attempt.cluster,
        script=attempt.script or "", folder=folder,
        submitted=attempt.time,
        names=(f"l3-{record.run}-{step.name}", f"l3-{record.run}-{step.kind}"))


def of_step(workspace: Path, record: RunRecord, step: StepRecord) -> dict[str, Identity]:
    """Return the identities of all submissions of a step.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    step
        The step in it.

    Returns
    -------
    dict of str to Identity
        By task id (``12``, ``13_4``); the latest submission with an id counts.
    """
    folder = str(Workspace(workspace).run(record.run).step(step.name))
    return {task: job for attempt in step.attempts
            for job in (_of_attempt(folder, record, step, attempt),)
            for task in attempt.task_ids.values()}


def clusters(record: RunRecord) -> set[str]:
    """Return the clusters on which a run may have jobs.

    Parameters
    ----------
    record
        The record of the run.

    Returns
    -------
    set of str
        As in ``Identity.cluster``. If Slurm may choose, the first job decides for all of them.
    """
    of_jobs = {attempt.cluster for step in record.steps for attempt in step.attempts}
    if of_jobs and is_several(record.clusters):
        return of_jobs
    return of_jobs | {name for name in record.clusters.split(",") if name} or {""}


def of_script(script: Path, cluster: str = "") -> Identity:
    """Return an identity that matches any job submitted with a script of a step.

    Parameters
    ----------
    script
        The script.
    cluster
        As in ``Identity.cluster``.
    """
    return Identity("", cluster, str(script), str(script.parent))


def step_of(workspace: Path, run: str, origin: Origin) -> str | None:
    """Find the step of a run that a job belongs to.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    origin
        Where the job comes from.

    Returns
    -------
    str or None
        The step whose folder holds the script or log of the job; None for any other job.
    """
    steps = _real(str(Workspace(workspace).run(run).steps))
    for path, depth in ((origin.script, 1), (origin.output, 2)):
        folder = path
        for _ in range(depth):
            folder = os.path.dirname(folder)
        if folder and os.path.dirname(_real(folder)) == steps:
            return os.path.basename(_real(folder))
    return None


def is_helper(workspace: Path, run: str, step: str, origin: Origin) -> bool:
    """Return whether a job changes the request of a held job of a step.

    Parameters
    ----------
    workspace
        The workspace folder.
    run, step
        Name of the run, and of the step.
    origin
        Where the job comes from. One of which Slurm does not show the log may be that of any step.
    """
    return origin.name.endswith(HELPER) and (
        not origin.output or step_of(workspace, run, origin) == step)


def untracked(workspace: Path, record: RunRecord, live: Mapping[str, Iterable[Origin]], *,
              helpers: bool = False) -> list[JobId]:
    """Find the live jobs of a run that are not in its record.

    Such a job does not find its pickle, which was never renamed to its id.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    live
        Task id → where the job comes from.
    helpers
        Also the helper jobs, which change the request of a held job.

    Returns
    -------
    list of JobId
        Those submitted with a script of this run, the last step first.
    """
    recorded: dict[str, list[Identity]] = {}
    for step in record.steps:
        for task, job in of_step(workspace, record, step).items():
            recorded.setdefault(task.partition("_")[0], []).append(job)
    # the last step first, so that cancelling a job does not let one start that waited for its end
    ranks = {step.name: rank for rank, step in enumerate(record.steps[::-1])}
    found: dict[JobId, int] = {}
    for task, origins in live.items():
        base = task.partition("_")[0]
        for origin in set(origins):
            rank = ranks.get(step_of(workspace, record.run, origin) or "")
            # a helper job has its log beside those of the step
            if origin.name.endswith(HELPER) and not helpers:
                continue
            if rank is not None and not any(job.owns(origin) for job in recorded.get(base, ())):
                found[JobId(base, origin.queried)] = rank
    return sorted(found, key=lambda job: (found[job], -int(job.id)))


def following(workspace: Path, record: RunRecord, live: Mapping[str, Iterable[Origin]]
              ) -> list[JobId]:
    """Find the live jobs that were submitted with the script of the job that follows a run.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    live
        Task id → where the job comes from.

    Returns
    -------
    list of JobId
        Oldest first.
    """
    folder = Workspace(workspace).run(record.run)
    script, log = _real(str(folder.sync_script)), _real(str(folder.sync_log))
    # a site's sbatch may submit a copy of the script, with the same log
    found = {JobId(task, origin.queried) for task, origins in live.items() for origin in origins
             if origin.script and _real(origin.script) == script
             or origin.output and _real(origin.output) == log}
    return sorted(found, key=lambda job: int(job.id))


def in_workspace(workspace: Path, origin: Origin) -> bool:
    """Whether a job was submitted with the script of any run of a workspace, or Slurm does not show
    it.

    Parameters
    ----------
    workspace
        The workspace folder.
    origin
        Where the job comes from.
    """
    if not origin.script:
        return not origin.output
    runs = _real(str(Workspace(workspace).runs))
    return _real(os.path.dirname(origin.script)).startswith(f"{runs}/")
