"""Which jobs a step waits for, worked out afresh whenever it is about to be submitted.

A submission may wait for hours at a queue limit. Meanwhile jobs end, fail, and leave Slurm's
memory, where newer versions refuse ``afterok`` on their ids and older ones take it as fulfilled. So
artifacts say what is finished and the queue says what is at work, at every attempt.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from l3hpc import schedulers
from l3hpc.errors import InputError, L3hpcError, command_line
from l3hpc.io.files import current_user
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.runs import status
from l3hpc.schedulers.base import JobId
from l3hpc.workspace import artifacts, attempts, records
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.markers import RunState, StepState
from l3hpc.workspace.records import RunRecord, StepRecord

_OUTCOMES = {StepState.PLANNED: "was not submitted", StepState.LOST: "was lost",
             StepState.BLOCKED: "is blocked", StepState.CANCELLED: "was cancelled"}
FRESH_S = 1.0  # Slurm keeps what has ended for at least two seconds


class ParentFailed(L3hpcError):
    """A step cannot be submitted: one that it needs has failed, or was not submitted itself."""


@dataclass(frozen=True)
class Waits:
    """Jobs that have to end first.

    Attributes
    ----------
    ok : tuple of JobId
        They must succeed.
    ended : tuple of JobId
        They must have ended, however: they compute the same result.
    """

    ok: tuple[JobId, ...] = ()
    ended: tuple[JobId, ...] = ()


class Dependencies:
    """The dependencies of the steps of a run while it is handed over.

    Parameters
    ----------
    plan : Plan
    record : RunRecord
        Kept up to date by the caller with every job that is submitted.
    elsewhere : mapping of str to set of int
        What ``made_elsewhere`` found before the first submission.
    """

    def __init__(self, plan: Plan, record: RunRecord,
                 elsewhere: Mapping[str, Collection[int]]) -> None:
        self._plan = plan
        self._elsewhere = elsewhere
        self._record = record
        self._entries = {entry.name: entry for entry in record.steps}
        self._asked = (0.0, dict[str, dict[int, status.LiveTask]]())
        self._doubted = 0.0

    def of(self, step: PlannedStep, tasks: Collection[int] = ()) -> Waits:
        """What these tasks of a step wait for now.

        Raises ``ParentFailed`` where a step that it needs will not be done, ``InputError`` where a
        job of another run that makes an input failed, ``ClusterError`` where squeue is silent.
        """
        ok = [job for name in step.needs for job in self._of_parent(self._entries[name])]
        ok += _still_made(self._plan, step)
        made = {str(step.artifact)} if self._elsewhere.get(step.name) else set()
        ended = [job for _, live in _at_work_elsewhere(self._plan, made)
                 for job in live.ids(tasks)]
        return Waits(tuple(JobId(job, self._place(job)) for job in ok),
                     tuple(JobId(job, self._place(job)) for job in dict.fromkeys(ended)))

    def _place(self, job: str) -> str:
        """The cluster of a job that a record of this workspace names."""
        if (here := _cluster_of(self._record, job)) is not None:
            return here
        elsewhere = (_cluster_of(record, job)
                     for record in records.read_all(self._plan.workspace, []))
        return next((place for place in elsewhere if place is not None), "")

    def look_again(self) -> None:
        """Believe nothing that was seen before: Slurm has refused a dependency."""
        self._asked, self._doubted = (0.0, {}), time.time()

    def _of_parent(self, entry: StepRecord) -> list[str]:
        done = artifacts.finished(entry.artifact, entry.tasks)
        if len(done) >= entry.tasks:
            return []
        live = self._live(entry, done)
        lacking = {*range(entry.tasks)} - done - live.keys()
        if lacking:  # its result may have appeared while Slurm was asked
            done = artifacts.finished(entry.artifact)
            lacking -= done
        if lacking:
            [found] = status.collect(self._plan.workspace, [self._record.run])
            state = next(one.state for one in found.steps if one.name == entry.name)
            raise ParentFailed(f"{entry.name} {_OUTCOMES.get(state, 'failed')}",
                               hint=f"See: {command_line('status', self._record.run)}")
        return attempts.live_ids(entry, done, live)

    def _live(self, entry: StepRecord, done: Collection[int]) -> dict[int, str]:
        """Task → id, of the unfinished tasks that wait or run. What was submitted just now does,
        without asking."""
        since = max(time.time() - FRESH_S, self._doubted)
        fresh = {job for attempt in entry.attempts if attempt.time > since
                 for job in attempt.task_ids.values()}
        unfinished = {index: job for index, job in attempts.latest(entry).items()
                      if index not in done}
        if fresh.issuperset(unfinished.values()):
            return unfinished
        known = {index: task.job for index, task in self._queue()[entry.name].items()}
        return {index: job for index, job in unfinished.items()
                if job in fresh or known.get(index) == job}

    def _queue(self) -> dict[str, dict[int, status.LiveTask]]:
        asked, known = self._asked
        if time.monotonic() - asked > FRESH_S or not known:
            self._asked = (time.monotonic(), status.live_tasks(self._plan.workspace, self._record))
        return self._asked[1]


def made_elsewhere(plan: Plan) -> dict[str, set[int]]:
    """Step → those of its missing tasks that a job of another run computes or will compute.

    Such a task would start, find the other one at work, and hold its node until that is done.
    """
    found: dict[str, set[int]] = {}
    by_artifact = {str(step.artifact): step for step in plan.steps
                   if step.missing and ArtifactFolder(step.artifact).config.exists()}
    for artifact, live in _at_work_elsewhere(plan, by_artifact):
        step = by_artifact[artifact]
        if tasks := set(step.missing).intersection(live.of_tasks):
            found.setdefault(step.name, set()).update(tasks)
    return found


@dataclass(frozen=True)
class _LiveStep:
    """A step of another run, and the job of each of its tasks that waits or runs."""

    entry: StepRecord
    of_tasks: dict[int, str]

    def ids(self, tasks: Collection[int]) -> list[str]:
        """Of the jobs that compute any of these tasks, as few as say it."""
        chosen = {index: job for index, job in self.of_tasks.items() if index in tasks}
        done = artifacts.finished(self.entry.artifact)
        return attempts.live_ids(self.entry, done, chosen) if chosen else []


def _at_work_elsewhere(plan: Plan, wanted: Collection[str]) -> Iterator[tuple[str, _LiveStep]]:
    """Of these artifacts: what jobs of this person's other runs are at work on, without jobs that
    someone has to release and those that can never start."""
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
            answer = answer or schedulers.of_record(plan.workspace, record).jobs(record)
            jobs = attempts.latest(entry)
            own = answer.of(record, entry, jobs.values()).live
            yield entry.artifact, _LiveStep(entry, {
                index: job for index, job in jobs.items() if job in own
                and own[job].hold is None and not own[job].never})


def _still_made(plan: Plan, step: PlannedStep) -> list[str]:
    """Of the other runs' jobs that make an input: those that still have to be waited for.

    ``waits_for`` has their ids of the time of planning; meanwhile they may have been resumed. An id
    that Slurm has purged would count as fulfilled, so our own records decide.
    """
    jobs: list[str] = []
    for record, entry in _makers(plan, step):
        if len(artifacts.finished(Path(entry.artifact))) >= entry.tasks:
            continue
        live = {index: task.job for index, task
                in status.live_tasks(plan.workspace, record)[entry.name].items()}
        done = artifacts.finished(Path(entry.artifact))
        lacking = sorted({*range(entry.tasks)} - {*done, *live})
        if lacking:
            [found] = status.collect(plan.workspace, [record.run])
            state = next(each.state for each in found.steps if each.name == entry.name)
            raise InputError(
                f"an input is made by {entry.name} of {record.run}, "
                + (f"whose task {lacking[0]} failed" if state.is_active
                   else f"which is {state}"),
                hint=f"Finish it first: {command_line('resume', record.run)}")
        jobs += attempts.live_ids(entry, done, live)
    return jobs


def _makers(plan: Plan, step: PlannedStep) -> list[tuple[RunRecord, StepRecord]]:
    """The steps of other runs whose jobs, also earlier ones, a step waits for; each once."""
    found: dict[tuple[str, str], tuple[RunRecord, StepRecord]] = {}
    known = records.read_all(plan.workspace, []) if step.waits_for else []
    for job in step.waits_for:
        made = [(record, entry) for record in known
                if record.executor == plan.profile.executor for entry in record.steps
                if job == entry.job or job in {attempt.job for attempt in entry.attempts}]
        if not made:
            raise InputError(f"an input is made by job {job}, which is not a job of any run here "
                             f"on {plan.profile.name}", hint="Wait until it is done: l3hpc status")
        found[made[0][0].run, made[0][1].name] = made[0]
    return list(found.values())


def _cluster_of(record: RunRecord, job: str) -> str | None:
    """The cluster of a job or a task of one; None where the record does not have it. A submission
    of many steps asks this for each."""
    base = job.partition("_")[0]
    return next((attempt.cluster for step in reversed(record.steps)
                 for attempt in reversed(step.attempts)
                 if attempt.base == base), None)
