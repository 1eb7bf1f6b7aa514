"""The jobs that a step depends on, determined whenever it is about to be submitted.

A submission may wait for hours while the queue is full. Meanwhile jobs end, fail, and leave Slurm's
memory; newer versions then refuse ``afterok`` on their ids, and older ones take it as satisfied.
So at every attempt the artifacts determine what is finished, and the queue what is live.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from l3hpc import schedulers
from l3hpc.errors import InputError, L3hpcError, command_line
from l3hpc.io.owners import current_user
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import status
from l3hpc.schedulers.jobs import JobId
from l3hpc.workspace import artifacts, attempts, records
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState

OUTCOMES = {StepState.PLANNED: "was not submitted", StepState.LOST: "was lost",
            StepState.BLOCKED: "is blocked", StepState.CANCELLED: "was cancelled"}
FRESH_S = 1.0  # Slurm keeps a job that has ended for at least two seconds


class ParentFailedError(L3hpcError):
    """A step cannot be submitted: one that it needs has failed, or was not submitted itself."""


@dataclass(frozen=True)
class JobDependencies:
    """The jobs that a step depends on.

    Attributes
    ----------
    after_ok : tuple of JobId
        They must succeed first.
    after_any : tuple of JobId
        They must end first, in any way: they compute the same result, or the pipeline says so.
    """

    after_ok: tuple[JobId, ...] = ()
    after_any: tuple[JobId, ...] = ()


class Dependencies:
    """The dependencies of the steps of a run while its jobs are submitted.

    Parameters
    ----------
    plan
        The plan of the run.
    record
        Its record, to which the caller adds every job that is submitted.
    elsewhere
        What ``computed_elsewhere`` found before the first submission.
    """

    def __init__(self, plan: Plan, record: RunRecord,
                 elsewhere: Mapping[str, Collection[int]]) -> None:
        self._plan = plan
        self._elsewhere = elsewhere
        self._record = record
        self._entries = {entry.name: entry for entry in record.steps}
        self._queue_answer = (0.0, dict[str, dict[int, status.LiveTask]]())
        self._invalidated = 0.0

    def of(self, step: PlannedStep, tasks: Collection[int] = ()) -> JobDependencies:
        """Determine what some tasks of a step depend on now.

        Parameters
        ----------
        step
            The step.
        tasks
            Indices of the tasks.

        Raises
        ------
        ParentFailedError
            If a step that it needs will not be done.
        InputError
            If a job of another run that computes an input has failed.
        ClusterError
            If squeue does not respond.
        """
        own = [(self._entries[name], job) for name in step.needs if name not in step.any_needs
               for job in self._parent_jobs(self._entries[name])]
        artifacts_elsewhere = {str(step.artifact)} if self._elsewhere.get(step.name) else set()
        # whether they succeed does not matter: the task then finds the result, or computes it
        after_any = [job for _, live in _live_elsewhere(self._plan, artifacts_elsewhere)
                     for job in live.ids(tasks)]
        after_any += [job for name in step.any_needs
                      for job in self._live_jobs(self._entries[name])]
        return JobDependencies(
            (*(JobId(job, _cluster_of(entry, job) or "") for entry, job in own),
             *(JobId(job, self._cluster(job)) for job in _live_input_jobs(self._plan, step))),
            tuple(JobId(job, self._cluster(job)) for job in dict.fromkeys(after_any)))

    def _cluster(self, job: str) -> str:
        """The cluster of a job that a record of this workspace names."""
        known = itertools.chain([self._record], records.read_all(self._plan.workspace, []))
        clusters = (_cluster_of(entry, job) for record in known
                    for entry in reversed(record.steps))
        return next((cluster for cluster in clusters if cluster is not None), "")

    def invalidate(self) -> None:
        """Discard what was seen before: Slurm has refused a dependency."""
        self._queue_answer, self._invalidated = (0.0, {}), time.time()

    def _parent_jobs(self, entry: StepRecord) -> list[str]:
        done = artifacts.finished(entry.artifact, entry.tasks)
        if len(done) >= entry.tasks:
            return []
        live = self._live(entry, done)
        missing = {*range(entry.tasks)} - done - live.keys()
        if missing:  # its result may have appeared while Slurm was queried
            done = artifacts.finished(entry.artifact)
            missing -= done
        if missing:
            [run] = status.collect(self._plan.workspace, [self._record.run])
            state = next(step.state for step in run.steps if step.name == entry.name)
            raise ParentFailedError(f"{entry.name} {OUTCOMES.get(state, 'failed')}",
                                    hint=f"See: {command_line('status', self._record.run)}")
        return attempts.live_ids(entry, done, live)

    def _live_jobs(self, entry: StepRecord) -> list[str]:
        """The jobs of a parent that are pending or running, whatever has become of the others."""
        done = artifacts.finished(entry.artifact, entry.tasks)
        return attempts.live_ids(entry, done, self._live(entry, done))

    def _live(self, entry: StepRecord, done: Collection[int]) -> dict[int, str]:
        """Task → id, of the unfinished tasks that are pending or running. A task that was submitted
        just now is, without a query.
        """
        since = max(time.time() - FRESH_S, self._invalidated)
        fresh = {job for attempt in entry.attempts if attempt.time > since
                 for job in attempt.task_ids.values()}
        unfinished = {index: job for index, job in attempts.latest(entry).items()
                      if index not in done}
        if fresh.issuperset(unfinished.values()):
            return unfinished
        queued = {index: task.job for index, task in self._queue()[entry.name].items()}
        return {index: job for index, job in unfinished.items()
                if job in fresh or queued.get(index) == job}

    def _queue(self) -> dict[str, dict[int, status.LiveTask]]:
        queried, tasks = self._queue_answer
        if time.monotonic() - queried > FRESH_S or not tasks:
            tasks = status.live_tasks(self._plan.workspace, self._record)
            self._queue_answer = (time.monotonic(), tasks)
        return tasks


def computed_elsewhere(plan: Plan) -> dict[str, set[int]]:
    """Find the tasks that jobs of other runs compute or will compute.

    Without a dependency, such a task would start, find the other one running, and occupy its node
    until that is done.

    Parameters
    ----------
    plan
        The plan.

    Returns
    -------
    dict of str to set of int
        Step → indices of those missing tasks.
    """
    tasks_of: dict[str, set[int]] = {}
    by_artifact = {str(step.artifact): step for step in plan.steps
                   if step.missing and ArtifactFolder(step.artifact).config.exists()}
    for artifact, live in _live_elsewhere(plan, by_artifact):
        step = by_artifact[artifact]
        if tasks := set(step.missing).intersection(live.of_tasks):
            tasks_of.setdefault(step.name, set()).update(tasks)
    return tasks_of


@dataclass(frozen=True)
class _LiveStep:
    """A step of another run, and the job of each of its tasks that is pending or running."""

    entry: StepRecord
    of_tasks: dict[int, str]

    def ids(self, tasks: Collection[int]) -> list[str]:
        """The jobs that compute any of these tasks, in as few ids as possible."""
        chosen = {index: job for index, job in self.of_tasks.items() if index in tasks}
        done = artifacts.finished(self.entry.artifact)
        return attempts.live_ids(self.entry, done, chosen) if chosen else []


def _live_elsewhere(plan: Plan, wanted: Collection[str]) -> Iterator[tuple[str, _LiveStep]]:
    """Those of these artifacts that jobs of this user's other runs are computing, without jobs that
    somebody has to release and those that can never start.
    """
    if not wanted or not plan.profile.capabilities.after_end:
        return
    user, answer = current_user(), None
    for record in records.read_all(plan.workspace, []):
        if record.run == plan.run or record.state is RunState.CANCELLED or (
                record.executor, record.cluster, record.user) != (
                plan.profile.executor, plan.profile.name, user):
            continue
        for entry in record.steps:
            if entry.artifact not in wanted or not entry.attempts \
                    or len(artifacts.finished(entry.artifact, entry.tasks)) >= entry.tasks:
                continue
            # asked at most once: one answer has the jobs of all runs of this user
            answer = answer or schedulers.of_record(plan.workspace, record).jobs(record)
            jobs = attempts.latest(entry)
            own = answer.of(record, entry, jobs.values()).live
            yield entry.artifact, _LiveStep(entry, {
                # a job that is held, or whose dependency failed, may never end
                index: job for index, job in jobs.items() if job in own
                and own[job].hold is None and not own[job].dependency_failed})


def _live_input_jobs(plan: Plan, step: PlannedStep) -> list[str]:
    """The jobs of other runs that compute an input and are still live.

    ``waits_for`` has their ids as of the planning; meanwhile they may have been resumed. An id that
    Slurm has purged would count as satisfied, so our own records decide.
    """
    jobs: list[str] = []
    for record, entry in _input_steps(plan, step):
        if len(artifacts.finished(Path(entry.artifact))) >= entry.tasks:
            continue
        live = {index: task.job for index, task
                in status.live_tasks(plan.workspace, record)[entry.name].items()}
        done = artifacts.finished(Path(entry.artifact))
        missing = sorted({*range(entry.tasks)} - {*done, *live})
        if missing:
            [run] = status.collect(plan.workspace, [record.run])
            state = next(step.state for step in run.steps if step.name == entry.name)
            raise InputError(
                f"an input is computed by {entry.name} of {record.run}, "
                + (f"whose task {missing[0]} failed" if state.is_active
                   else f"which is {state}"),
                hint=f"Finish it first: {command_line('resume', record.run)}")
        jobs += attempts.live_ids(entry, done, live)
    return jobs


def _input_steps(plan: Plan, step: PlannedStep) -> list[tuple[RunRecord, StepRecord]]:
    """The steps of other runs whose jobs, also earlier ones, a step depends on; each once."""
    steps: dict[tuple[str, str], tuple[RunRecord, StepRecord]] = {}
    recorded = records.read_all(plan.workspace, []) if step.waits_for else []
    for job in step.waits_for:
        matches = [(record, entry) for record in recorded
                   if record.executor == plan.profile.executor for entry in record.steps
                   if job == entry.job or job in {attempt.job for attempt in entry.attempts}]
        if not matches:
            raise InputError(f"an input is computed by job {job}, which does not belong to any run "
                             f"of this workspace on {plan.profile.name}",
                             hint=f"Wait until it is done: {command_line('status')}")
        record, entry = matches[0]
        steps[record.run, entry.name] = record, entry
    return list(steps.values())


def _cluster_of(entry: StepRecord, job: str) -> str | None:
    """The cluster of a job or array task; None if it is none of this step."""
    base = job.partition("_")[0]
    return next((attempt.cluster for attempt in reversed(entry.attempts) if attempt.base == base),
                None)
