"""Slurm as a ``Scheduler``: sbatch, squeue, sacct, scancel and scontrol behind one class.

The calls themselves are in the modules beside this one; here they meet the records of runs.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from l3hpc.config import capabilities
from l3hpc.config.capabilities import Capabilities
from l3hpc.config.profile import ClusterProfile
from l3hpc.errors import ClusterError, InputError, command_line
from l3hpc.pipelines.planned import Plan
from l3hpc.schedulers import pickled_calls
from l3hpc.schedulers.base import JobAnswer, JobQuery, Tasks
from l3hpc.schedulers.jobs import EndedJob, JobId, StepJobs
from l3hpc.schedulers.requests import (
    GivenUpError,
    JobRequest,
    NotReachedError,
    OutcomeUnknownError,
    QueueFullError,
)
from l3hpc.schedulers.requeue_policy import Decision
from l3hpc.schedulers.slurm import identity, partitions, queue, refusals, requeue, sbatch
from l3hpc.schedulers.slurm.commands import (
    call,
    default_cluster,
    is_several,
    on_cluster,
    slurm_environment,
)
from l3hpc.schedulers.slurm.identity import Identity
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import JobState, RunState

TEST_S = 60.0
_T = TypeVar("_T")


class SlurmScheduler:
    """The Slurm of a site.

    The methods are those of ``base.Scheduler``, which documents their parameters.

    Parameters
    ----------
    workspace
        The workspace folder.
    profile
        The cluster profile; needed to validate and to submit, not to query and to cancel.
    """

    def __init__(self, workspace: Path, profile: ClusterProfile | None = None) -> None:
        self._workspace, self._profile = workspace, profile
        self._limits: partitions.LimitCheck | None = None

    @functools.cached_property
    def _environment(self) -> dict[str, str]:
        """The environment of sbatch, the same for all jobs of a submission."""
        return slurm_environment()

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return capabilities.of(capabilities.SLURM)

    def prepare(self) -> None:
        """Query sinfo in the background."""
        if self._limits is None and self._profile is not None:
            self._limits = partitions.LimitCheck(self._profile)

    def validate(self, plan: Plan) -> str:
        """Refuse a step that none of its partitions can run."""
        self.prepare()
        return self._limits.check(plan) if self._limits is not None else ""

    def check_command(self, script: Path) -> list[str]:
        """Return ``sbatch --test-only``, which submits nothing."""
        clusters = self._profile.slurm_clusters if self._profile is not None else ""
        return [*on_cluster(["sbatch", "--test-only"], clusters), str(script)]

    def check(self, script: Path) -> None:
        """Check a script with ``sbatch --test-only``.

        Raises
        ------
        ClusterError
            If sbatch would refuse it.
        """
        try:
            call(self.check_command(script), timeout_s=TEST_S)
        except ClusterError as error:
            error.hint = error.hint or refusals.hint_for(error.message)
            raise

    def submit(self, request: JobRequest) -> JobId:
        """Submit a script, once."""
        return pickled_calls.submit(request, lambda: self._sbatch(request))

    def start(self, request: JobRequest) -> object:
        """Start an sbatch, for which ``submit`` waits.

        Raises
        ------
        InputError, ClusterError
            If it was not started.
        """
        return sbatch.start(self._submission(request))

    def has_answered(self, started: object) -> bool:
        """Whether an sbatch that was started has ended."""
        return sbatch.has_answered(started)

    def give_up(self, started: object) -> bool:
        """Kill an sbatch that was started, unless it has ended."""
        return sbatch.give_up(started)

    def _submission(self, request: JobRequest) -> sbatch.Submission:
        profile, cluster = self._profile, self._cluster_for(request)
        command = sbatch.sbatch_command(
            request.script, [job.id for job in request.after_ok],
            profile is None or profile.kill_on_invalid_dep, cluster,
            [job.id for job in request.after_any])
        own = Identity("", cluster, str(request.script)) if request.step is None \
            else identity.of_script(request.script, cluster)
        return sbatch.Submission(
            command, own, recorded=request.recorded, notify=request.notify, pause=request.pause,
            give_up_s=sbatch.GIVE_UP_S if request.give_up_s is None else request.give_up_s,
            environment=self._environment, meanwhile=request.meanwhile, waiting=request.waiting)

    def _sbatch(self, request: JobRequest) -> JobId:
        profile, submission = self._profile, self._submission(request)
        try:
            return sbatch.submit(submission, request.started, doubtful=request.doubtful)
        except (NotReachedError, OutcomeUnknownError):
            raise
        except ClusterError as error:
            refusal = refusals.classify(error)
            if isinstance(refusal, QueueFullError) and profile is not None \
                    and request.step is not None:
                # waiting for room is in vain if the whole queue is smaller than this request
                refusals.check_fits(profile, request.step.placement, len(request.calls), refusal,
                                    again=request.refusals > 0)
            raise refusal from None

    def _cluster_for(self, request: JobRequest) -> str:
        """The value of ``--clusters``: where its dependencies are, else where Slurm put the first
        job of the run, else what the profile sets.

        An ``InputError`` for a dependency on another cluster: Slurm has none between clusters.
        """
        cluster = request.cluster
        if is_several(cluster) and request.last_cluster:
            cluster = request.last_cluster
        for job in (*request.after_ok, *request.after_any):
            if is_several(cluster):
                cluster = job.cluster or default_cluster()
            elif job.cluster != cluster and (job.cluster or default_cluster()) != (
                    cluster or default_cluster()):
                other = job.cluster or default_cluster()
                name = self._profile.name if self._profile is not None else ""
                raise InputError(
                    f"it depends on job {job.id} on cluster {other} and would run on "
                    f"{cluster or default_cluster()}: Slurm has no dependencies between clusters",
                    hint=f"Wait until that job is done ({command_line('status')}), or set "
                         f"clusters: {other} in the profile {name}")
        return cluster

    def query(self) -> JobQuery:
        """Return a query about the jobs of the runs that are added."""
        return _Query(self._workspace)

    def jobs(self, record: RunRecord, tasks: Tasks | None = None) -> _Answer:
        """Query squeue for the jobs of one run."""
        answer = _Answer(self._workspace)
        clusters = {answer.identities(record, step)[task].cluster
                    for step in record.steps for task in (tasks or {}).get(step.name, ())}
        answer.slurm = queue.query(record.user, clusters or identity.clusters(record))
        return answer

    def history(self, record: RunRecord) -> list[tuple[str, EndedJob]] | None:
        """Return every attempt of the jobs of a run that sacct remembers."""
        return queue.query_history({
            task: job for step in record.steps
            for task, job in identity.of_step(self._workspace, record, step).items()})

    def cancel(self, jobs: Sequence[JobId], run: str = "") -> None:
        """Cancel jobs with scancel, once for each cluster."""
        queue.cancel(jobs, run)

    def cancel_run(self, record: RunRecord) -> list[JobId]:
        """Cancel the live jobs of a run: first those that are not in its record, then the last step
        first.

        An id alone may be that of another user's job, so nothing is cancelled if squeue does not
        respond.

        Raises
        ------
        ClusterError
            If squeue does not respond.
        """
        try:
            answer = self.jobs(record)
        except ClusterError as error:
            raise ClusterError(
                error.message,
                hint=f"When Slurm responds again: {command_line('cancel', record.run)}",
                allowed="nothing was cancelled: squeue has to confirm that the jobs belong to this "
                        "run") from None
        except KeyboardInterrupt:
            raise GivenUpError("interrupted before squeue had answered",
                               allowed="nothing was cancelled",
                               hint=f"To cancel it: {command_line('cancel', record.run)}") from None
        # a helper job has nothing left to change, and may wait in the queue for long
        jobs = answer.untracked(record, helpers=True)
        for step in record.steps[::-1]:
            ids = identity.of_step(self._workspace, record, step)
            live = {JobId(ids[task].id, ids[task].cluster)
                    for task in answer.of(record, step, ids).live}
            # the last task first, so that no task starts because an earlier one was cancelled
            jobs += sorted(live, key=lambda job: [-int(part) for part in job.id.split("_")])
        self.cancel(jobs, record.run)
        return jobs

    def changes(self, decision: Decision) -> list[str]:
        """Return the arguments of ``scontrol update``."""
        return requeue.arguments(decision)

    def release(self, job: JobId, changes: Sequence[str]) -> None:
        """Change the request of a held job and release it."""
        requeue.release(job.id, changes, wait_s=0, cluster=job.cluster)


class _Answer:
    """What squeue and sacct report about the jobs of some runs."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self.slurm = queue.Answer()
        self._identities: dict[tuple[str, str], dict[str, Identity]] = {}
        self._own: dict[tuple[str, str], tuple[tuple[str, ...], StepJobs]] = {}

    def identities(self, record: RunRecord, step: StepRecord) -> dict[str, Identity]:
        """The identities of all jobs of a step, by task id."""
        key = record.run, step.name
        if key not in self._identities:
            self._identities[key] = identity.of_step(self._workspace, record, step)
        return self._identities[key]

    def of(self, record: RunRecord, step: StepRecord, tasks: Collection[str]) -> StepJobs:
        """What Slurm reports about these tasks."""
        # the identities of the jobs are worked out only if there is anything to compare them with
        if not tasks or not (self.slurm.live or self.slurm.ended or self.slurm.silent):
            return self.slurm.of({})
        # needed several times before the state of a step is known
        asked, known = tuple(tasks), self._own.get((record.run, step.name))
        if known is None or known[0] != asked:
            ids = self.identities(record, step)
            known = asked, self.slurm.of({task: ids[task] for task in asked})
            if any(job.held for job in known[1].live.values()):
                known[1].helped = any(
                    identity.is_helper(self._workspace, record.run, step.name, origin)
                    for origins in self._origins().values() for origin in origins)
            self._own[record.run, step.name] = known
        return known[1]

    def forget(self) -> None:
        """More has been asked: what was selected of the answer before is not all of it."""
        self._own.clear()

    def notes(self, record: RunRecord) -> list[str]:
        """Which commands did not respond."""
        return list(self.slurm.notes)

    def queued(self, jobs: Collection[str]) -> bool:
        """Whether any of these jobs is in the queue and belongs to this workspace."""
        return any(identity.in_workspace(self._workspace, job.origin)
                   for task, found in self.slurm.live.items()
                   if task in jobs or task.partition("_")[0] in jobs for job in found)

    def untracked(self, record: RunRecord, *, helpers: bool = False) -> list[JobId]:
        """Live jobs of a run that are not in its record."""
        return identity.untracked(self._workspace, record, self._origins(), helpers=helpers)

    def following(self, record: RunRecord, *, pending: bool = False) -> list[JobId]:
        """Live jobs of the script of the job that follows a run."""
        live = {task: [job.origin for job in found if not pending or job.state is JobState.PENDING]
                for task, found in self.slurm.live.items()}
        return identity.following(self._workspace, record, live)

    def _origins(self) -> dict[str, list[identity.Origin]]:
        return {task: [job.origin for job in found] for task, found in self.slurm.live.items()}


class _Query:
    """One squeue per cluster, which runs while the caller reads files (and another for the jobs of
    users that appear only then); then at most one sacct for each, about the tasks that
    squeue did not list.
    """

    def __init__(self, workspace: Path) -> None:
        self._answer = _Answer(workspace)
        self._users: set[str] = set()
        self._runs: list[tuple[RunRecord, Tasks]] = []
        # by cluster: whose jobs were asked for, and the answer
        self._pending: dict[str, tuple[set[str], Future[queue.Answer]]] = {}

    def add(self, record: RunRecord, tasks: Tasks) -> None:
        """Query the clusters that have unfinished tasks of this run, unless that has been done
        already.
        """
        self._runs.append((record, tasks))
        self._users.add(record.user)
        clusters = {self._answer.identities(record, step)[task].cluster
                    for step in record.steps for task in tasks.get(step.name, ())}
        # its jobs may be on any of its clusters, also those that never got on record
        if record.state is RunState.SUBMITTING:
            clusters |= identity.clusters(record)
        for cluster in clusters - self._pending.keys():
            users = {*self._users}
            self._pending[cluster] = users, _in_background(_squeue, users, cluster)

    def answer(self) -> JobAnswer:
        """Wait for squeue, and query sacct for the rest."""
        slurm = self._answer.slurm
        for cluster, (users, future) in self._pending.items():
            slurm.add(future.result())
            if others := self._users - users:
                slurm.add(_squeue(others, cluster))
        if slurm.squeue is None:
            return self._answer
        missing: dict[str, set[str]] = {}
        for record, tasks in self._runs:
            for step in record.steps:
                if not (unfinished := tasks.get(step.name)):
                    continue
                own = self._answer.of(record, step, unfinished)
                for task in unfinished:
                    if task not in own.live and task not in own.ended:
                        ids = self._answer.identities(record, step)
                        missing.setdefault(ids[task].cluster, set()).add(ids[task].base)
        since = min((record.created for record, _ in self._runs), default=0.0)
        for cluster, jobs in missing.items():
            queue.query_sacct(jobs, slurm, users=self._users, since=since, cluster=cluster)
        if missing:
            self._answer.forget()
        return self._answer


def _in_background(function: Callable[..., _T], *arguments: object) -> Future[_T]:
    """Call a function in a thread that the command does not wait for at its end. It would wait for
    those of a pool: after Ctrl-C, until the time limit of a squeue that hangs.
    """
    future = Future[_T]()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _squeue(users: Collection[str], cluster: str) -> queue.Answer:
    answer = queue.Answer()
    queue.query_squeue(users, answer, cluster)
    return answer
