"""What Slurm reports about our jobs, by one squeue and at most one sacct per cluster; and scancel.

squeue and sacct may be missing, slow or broken; the answer then says so, and status relies on
markers alone. ``Answer`` holds all listed jobs, and ``Answer.of`` selects those that are ours: a
job id alone does not identify a job (see ``identity``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from l3hpc.errors import ClusterError, command_line
from l3hpc.io.owners import current_user
from l3hpc.schedulers.jobs import EndedJob, JobId, LiveJob, StepJobs, list_jobs
from l3hpc.schedulers.requests import cancelling_given_up
from l3hpc.schedulers.slurm.commands import call, is_unreachable, on_cluster
from l3hpc.schedulers.slurm.identity import Identity
from l3hpc.schedulers.slurm.parsing import (
    END,
    WHOLE,
    WIDTHS,
    AccountedJob,
    QueuedJob,
    parse_sacct,
    parse_squeue,
)
from l3hpc.workspace.states import JobState

SQUEUE_S = 20.0
SACCT_S = 20.0
CANCEL_WAITS_S = (2.0, 5.0, 15.0)
MAX_IDS_LENGTH = 100_000
_ACCOUNTED = "JobID,State,ExitCode,ElapsedRaw,NodeList,Cluster,Submit,JobName,SubmitLine"

Job = TypeVar("Job", QueuedJob, AccountedJob)


@dataclass
class Answer:
    """All jobs that squeue and sacct listed, whoever submitted them.

    Attributes
    ----------
    live, ended : dict of str to list
        By task id; several clusters, or attempts, may have the same one.
    squeue, sacct : bool or None
        Whether they responded; None: not queried.
    notes : list of str
        Why not.
    silent : set of str
        Clusters whose squeue did not respond ('' for the default one).
    """

    live: dict[str, list[QueuedJob]] = field(default_factory=dict)
    ended: dict[str, list[AccountedJob]] = field(default_factory=dict)
    squeue: bool | None = None
    sacct: bool | None = None
    notes: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)

    def add(self, other: Answer) -> None:
        """Add the answer of another cluster.

        Parameters
        ----------
        other
            Its answer.
        """
        for task, live in other.live.items():
            self.live.setdefault(task, []).extend(live)
        for task, ended in other.ended.items():
            self.ended.setdefault(task, []).extend(ended)
        if other.squeue is not None:
            self.squeue = other.squeue and self.squeue is not False
        self.notes += other.notes
        self.silent |= other.silent

    def of(self, ids: Mapping[str, Identity]) -> StepJobs:
        """Select the jobs that are ours.

        Parameters
        ----------
        ids
            Task id → identity.
        """
        live, ended = dict[str, LiveJob](), dict[str, EndedJob]()
        for task, job in ids.items():
            if (waiting := _own_job(self.live, task, job)) is not None:
                live[task] = waiting
            if (over := _own_job(self.ended, task, job)) is not None:
                ended[task] = over
        live |= _left_out(ids, live, ended)
        silent = self.squeue is False
        if self.silent:
            silent = any(job.cluster in self.silent for job in ids.values())
        return StepJobs(live, ended, self.squeue is not None, "squeue" if silent else "",
                        gone="its job is no longer in Slurm")

    def submitted_with(self, identity: Identity
                       ) -> dict[tuple[str, str], list[QueuedJob | AccountedJob]]:
        """Select the jobs that were submitted with one script.

        A job of which Slurm shows neither script nor log is not among them.

        Parameters
        ----------
        identity
            Identity of any job of that script.

        Returns
        -------
        dict of (str, str) to list
            Cluster to query and base id → its tasks.
        """
        found: dict[tuple[str, str], list[QueuedJob | AccountedJob]] = {}
        for jobs in (self.live, self.ended):
            for task, seen in jobs.items():
                for job in seen:
                    shown = job.origin.script or job.origin.line or job.origin.output
                    if shown and identity.owns(job.origin):
                        place = (job.origin.queried, task.partition("_")[0])
                        found.setdefault(place, []).append(job)
        return found


def _left_out(ids: Iterable[str], live: Mapping[str, LiveJob], ended: Mapping[str, EndedJob]
              ) -> dict[str, LiveJob]:
    """The pending tasks that ``squeue --array`` does not list: of an array of which every s-th task
    is pending (``3-993:10``), Slurm 22.05 leaves out the last one.

    It would be taken for lost, and ``resume`` would submit it a second time.
    """
    pending: dict[str, list[int]] = {}
    for task, job in live.items():
        base, _, index = task.partition("_")
        if job.state.is_waiting and index.isdecimal():
            pending.setdefault(base, []).append(int(index))
    found = {}
    for base, indices in pending.items():
        before, last = sorted(indices)[-2:] if len(indices) > 1 else (0, 0)
        task = f"{base}_{2 * last - before}"
        is_over = task in ended and ended[task].state.is_terminal
        if last - before > 1 and task in ids and task not in live and not is_over:
            found[task] = live[f"{base}_{last}"]
    return found


def _own_job(jobs: Mapping[str, list[Job]], task: str, job: Identity) -> Job | None:
    """Of the jobs with one id the one that is ``job``; of several attempts the last."""
    found = [seen for seen in jobs.get(task, ()) if job.owns(seen.origin)]
    return max(found, key=lambda seen: seen.origin.submitted or 0.0, default=None)


def squeue_command(users: Iterable[str], cluster: str = "") -> list[str]:
    """Return the squeue command of ``status``, which ``doctor`` tries: every job of some users.

    Parameters
    ----------
    users
        Their names.
    cluster
        The value of ``--clusters``.
    """
    fields = [f"{name}:{width}" for name, width in WIDTHS.items()]
    fields += [f"{name}:0{END}" for name in WHOLE]
    return on_cluster(["squeue", "--noheader", "--array", "--states=all",
                       "--user", ",".join(sorted(set(users))), "--Format", ",".join(fields)],
                      cluster)


def sacct_command(
    jobs: Iterable[str], *, users: Iterable[str] = (), since: float = 0.0, cluster: str = "",
    fields: str = _ACCOUNTED,
) -> list[str]:
    """Return the sacct command of ``status``, which ``doctor`` tries: every attempt of some jobs.

    It has only options of Slurm 22.05 and later: not ``--array``, without which pending array tasks
    are listed as ``13_[0-2]`` (see ``expand``). ``--duplicates`` includes the attempts before a
    requeue, and jobs that had the id before Slurm started counting again.

    Parameters
    ----------
    jobs
        Base ids.
    users, since
        Used instead if the ids do not fit on a command line: names, and unix seconds.
    cluster
        The value of ``--clusters``.
    fields
        The columns.
    """
    # sorted, so that equal queries are equal commands
    which = ["--jobs", ",".join(sorted(set(jobs), key=lambda job: (len(job), job)))]
    # the kernel limits the length of a command line
    if len(which[1]) > MAX_IDS_LENGTH:
        start = datetime.fromtimestamp(since).isoformat(timespec="seconds")
        which = ["--user", ",".join(sorted(set(users))), "--starttime", start]
    return on_cluster(["sacct", "--noheader", "--allocations", "--parsable2", "--duplicates",
                       *which, "--format", fields], cluster)


def query_squeue(users: Iterable[str], answer: Answer, cluster: str = "") -> None:
    """Add every pending or running job of some users, with one call.

    Jobs that ended so recently that Slurm still lists them (MinJobAge) are added too, which helps
    where there is no accounting.

    Parameters
    ----------
    users
        Their names.
    answer
        Receives the jobs, or why there are none.
    cluster
        The value of ``--clusters``.
    """
    try:
        text = call(squeue_command(users, cluster), timeout_s=SQUEUE_S)
    except ClusterError as error:
        answer.squeue = False
        answer.silent.add(cluster)
        answer.notes.append(error.message + (f" (cluster {cluster})" if cluster else ""))
        return
    answer.squeue = answer.squeue is not False
    live, ended = parse_squeue(text, cluster)
    for task, job in live:
        answer.live.setdefault(task, []).append(job)
    for task, over in ended:
        answer.ended.setdefault(task, []).append(over)


def query(user: str, clusters: Iterable[str]) -> Answer:
    """Query squeue of some clusters.

    Parameters
    ----------
    user
        Whose jobs.
    clusters
        Values of ``--clusters``.

    Raises
    ------
    ClusterError
        If one of them does not respond.
    """
    answer = Answer()
    for cluster in sorted(clusters):
        query_squeue([user], answer, cluster)
    if not answer.squeue:
        raise ClusterError(answer.notes[0], hint="Try again when Slurm responds.")
    return answer


def query_sacct(
    jobs: Iterable[str], answer: Answer, *, users: Iterable[str] = (), since: float = 0.0,
    cluster: str = "",
) -> None:
    """Add what accounting has about some jobs, with one call (none for no jobs).

    Parameters
    ----------
    jobs
        Base ids.
    answer
        Receives the jobs, or why there are none.
    users, since, cluster
        As in ``sacct_command``.
    """
    ids = set(jobs)
    if not ids:
        return
    try:
        text = _sacct(ids, users, since, cluster)
    except ClusterError as error:
        answer.sacct = False
        answer.notes.append(error.message + (f" (cluster {cluster})" if cluster else ""))
        return
    answer.sacct = answer.sacct is not False
    for task, job in parse_sacct(text):
        answer.ended.setdefault(task, []).append(job)


def _sacct(jobs: set[str], users: Iterable[str], since: float, cluster: str) -> str:
    try:
        return call(sacct_command(jobs, users=users, since=since, cluster=cluster),
                    timeout_s=SACCT_S)
    except ClusterError as error:
        # SubmitLine exists since Slurm 21.08
        if "SubmitLine" not in error.message:
            raise
        fields = _ACCOUNTED.removesuffix(",SubmitLine")
        return call(sacct_command(jobs, users=users, since=since, cluster=cluster, fields=fields),
                    timeout_s=SACCT_S)


def query_history(ids: Mapping[str, Identity]) -> list[tuple[str, EndedJob]] | None:
    """Return every attempt of some jobs, also those before a requeue, with one call per cluster.

    Parameters
    ----------
    ids
        Task id → identity.

    Returns
    -------
    list of (str, EndedJob) or None
        Task ids and how they ended; None if accounting does not respond.
    """
    clusters: dict[str, set[str]] = {}
    for job in ids.values():
        clusters.setdefault(job.cluster, set()).add(job.base)
    answer = Answer()
    for cluster, jobs in clusters.items():
        query_sacct(jobs, answer, cluster=cluster)
    if answer.sacct is False:
        return None
    return [(task, ended) for task, seen in answer.ended.items() if task in ids
            for ended in seen if ids[task].owns(ended.origin)]


def cancel(jobs: Sequence[JobId], run: str = "") -> None:
    """Run one scancel per cluster, in the given order. Ids that Slurm has forgotten are not an
    error.

    If scancel gets no response, the queue is checked and scancel repeated.

    Parameters
    ----------
    jobs
        The jobs; the caller has checked that they are ours.
    run
        Name of the run, for messages.

    Raises
    ------
    ClusterError
        Lists what may be left.
    GivenUpError
        Does so after Ctrl-C.
    """
    try:
        for cluster in dict.fromkeys(job.cluster for job in jobs):
            _cancel(cluster, [job.id for job in jobs if job.cluster == cluster], run)
    except KeyboardInterrupt:
        raise cancelling_given_up(jobs, run) from None


def _cancel(cluster: str, ids: list[str], run: str) -> None:
    for wait in (*CANCEL_WAITS_S, None):
        try:
            call(on_cluster(["scancel", *ids], cluster), timeout_s=60)
            return
        except ClusterError as error:
            if "Invalid job id" in error.message or "already complet" in error.message:
                return
            if not is_unreachable(error.message):
                raise
            message = error.message
        left = _left(cluster, ids)
        if left == []:
            return
        if wait is None:
            state = "still in the queue" if left else "may still be in the queue"
            raise ClusterError(
                f"{message}; {state}: {list_jobs(left or ids)}",
                hint=f"When Slurm responds again: {command_line('cancel', run or 'RUN')}")
        ids = left or ids
        time.sleep(wait)


def _left(cluster: str, ids: list[str]) -> list[str] | None:
    """Which of these jobs are pending or running; None if the queue cannot be queried."""
    try:
        live = query(current_user(), [cluster]).live
    except ClusterError:
        return None
    left = {task for task, jobs in live.items() if any(job.state is not JobState.COMPLETING
                                                       for job in jobs)}
    bases = {task.partition("_")[0] for task in left}
    return [job for job in ids if job in left or job in bases]
