"""The status of runs: records and markers tell what happened; squeue and sacct refine it.

The evidence for a task, in order: its result in the artifact; what squeue reports now; the exit
marker of the script; what accounting remembers; that nothing is known. A task that ends while Slurm
is queried is read again. A step that cannot run because an earlier one failed is ``blocked``.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l3hpc import schedulers
from l3hpc.console.progress import doing
from l3hpc.errors import InputError, collect_damage, command_line
from l3hpc.runs import combinations, logs, submission_lock
from l3hpc.runs.task_state import TaskStatus, evaluate
from l3hpc.schedulers.base import Hold, JobAnswer, JobQuery, LiveJob, StepJobs
from l3hpc.workspace import artifacts, attempts, markers, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState, TaskState

SCHEMA = 1
_ORDER = (TaskState.RUNNING, TaskState.FAILED, TaskState.REQUEUED, TaskState.QUEUED,
          TaskState.WAITING, TaskState.BLOCKED, TaskState.LOST, TaskState.CANCELLED)
_WITH_LOG = (StepState.RUNNING, StepState.FAILED, StepState.LOST, StepState.CANCELLED,
             StepState.REQUEUED)


@dataclass
class StepStatus:
    """The status of one step of a run.

    Attributes
    ----------
    name, kind : str
        Its name, and which step it is.
    job : str or None
        Its latest job.
    state : StepState
        ``planned`` (not submitted), ``submitting``, ``waiting`` (for earlier steps), ``queued``,
        ``running``, ``requeued``, ``done``, ``reused``, ``failed``, ``blocked``, ``lost`` or
        ``cancelled``.
    done, tasks : int
        Numbers of finished tasks and of all tasks.
    elapsed_s : float or None
        How long it has been running, or ran, seconds.
    detail : str
        Everything else that is worth a mention.
    blocked_by : str or None
        The step whose failure blocks it.
    restarts : int
        How often a task was requeued.
    log, progress : str or None, dict or None
        Those of the first failed or running task.
    last_words : list of str
        The last lines of the error.
    failed_tasks : list of int
        Indices of the failed tasks.
    artifact : str
        Folder of its artifact.
    held, held_by_administrator : list of str
        Jobs that its user, or only an administrator, can release.
    """

    name: str
    kind: str
    job: str | None
    state: StepState
    done: int
    tasks: int
    elapsed_s: float | None = None
    detail: str = ""
    blocked_by: str | None = None
    restarts: int = 0
    log: str | None = None
    progress: dict[str, Any] | None = None
    last_words: list[str] = field(default_factory=list)
    failed_tasks: list[int] = field(default_factory=list)
    artifact: str = ""
    held: list[str] = field(default_factory=list)
    held_by_administrator: list[str] = field(default_factory=list)


@dataclass
class RunStatus:
    """The status of one run.

    Attributes
    ----------
    run, pipeline, cluster : str
        Names of the run, of its pipeline and of the cluster profile.
    state : RunState
        ``running`` if any step is still active.
    created : float
        When it was submitted, unix seconds.
    steps : list of StepStatus
        In the order of submission.
    next : str or None
        The command that helps, if any.
    notes : list of str
        What could not be determined, and why a run was refused.
    damaged : list of str
        Files of the run that cannot be used, each with what is wrong. Everything else was
        determined without them.
    combinations : list of CombinationStatus
        Those of a sweep.
    """

    run: str
    pipeline: str
    cluster: str
    state: RunState
    created: float
    steps: list[StepStatus]
    next: str | None = None
    notes: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    combinations: list[combinations.CombinationStatus] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values: its fields, those of its steps, and ``schema``."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class LiveTask:
    """A task that is pending or running.

    Attributes
    ----------
    job : str
        Its id.
    now : LiveJob
        What the queue reports about it.
    """

    job: str
    now: LiveJob


@dataclass
class _Snapshot:
    """What was read of one step before Slurm is queried."""

    workspace: Path
    run: RunRecord
    record: StepRecord
    done: set[int]
    marks: dict[int, markers.TaskMarks]

    @functools.cached_property
    def open_ids(self) -> dict[int, str]:
        """Task index → id of the job that has it, for the unfinished tasks."""
        if len(self.done) >= self.record.tasks:
            return {}
        return {index: job for index, job in attempts.latest(self.record).items()
                if index not in self.done}

    def own(self, answer: JobAnswer) -> StepJobs:
        """What the scheduler reports about the unfinished tasks."""
        return answer.of(self.run, self.record, self.open_ids.values())


def collect(
    workspace: Path, runs: Iterable[str] | None = None, *, last: int | None = None,
    broken: list[InputError] | None = None,
) -> list[RunStatus]:
    """Determine the status of runs.

    Slurm is queried once, and only if an unfinished task needs it.

    Parameters
    ----------
    workspace
        The workspace folder.
    runs
        Names of the runs. None: all runs, the newest first.
    last
        Largest number of runs, with ``runs=None``.
    broken
        Receives the errors of records that cannot be read, with ``runs=None``.

    Returns
    -------
    list of RunStatus
        In the order of ``runs``.

    Raises
    ------
    InputError
        If there is no such run, or its record cannot be read.
    """
    with collect_damage() as damage:
        if runs is None:
            chosen = records.read_all(workspace, broken)[:last]
        else:
            chosen = [records.read(workspace, run) for run in runs]
        queries = _queries(workspace, chosen)
        snapshots = {}
        for record in chosen:
            snapshots[record.run] = [_snapshot(workspace, record, step) for step in record.steps]
            # start the queries before the files of the next run are read
            queries[record.executor].add(record, _open(snapshots[record.run]))
        with doing("waiting for the scheduler"):
            answers = {name: query.answer() for name, query in queries.items()}
        statuses = [_run_status(workspace, record, snapshots[record.run], answers[record.executor])
                    for record in chosen]
    for status in statuses if damage else ():
        folders = [str(Workspace(workspace).run(status.run)),
                   *(step.artifact for step in status.steps)]
        status.damaged = [f"{error.where}: {error.message}" for error in damage
                          if str(error.where).startswith(tuple(f"{each}/" for each in folders))]
    return statuses


def live_tasks(workspace: Path, record: RunRecord) -> dict[str, dict[int, LiveTask]]:
    """Find the unfinished tasks of a run that are pending or running now.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.

    Returns
    -------
    dict of str to dict of int to LiveTask
        Step → task index → its job.

    Raises
    ------
    ClusterError
        If squeue does not respond: nothing may be submitted twice.
    """
    snapshots = [_snapshot(workspace, record, step) for step in record.steps]
    answer = schedulers.of_record(workspace, record).jobs(record, _open(snapshots))
    return {each.record.name: _live_of(each, each.own(answer)) for each in snapshots}


def _live_of(snapshot: _Snapshot, own: StepJobs) -> dict[int, LiveTask]:
    return {index: LiveTask(job, own.live[job])
            for index, job in snapshot.open_ids.items() if job in own.live}


def _open(snapshots: list[_Snapshot]) -> dict[str, Collection[str]]:
    """Step → ids of the jobs that have its unfinished tasks."""
    return {each.record.name: each.open_ids.values() for each in snapshots if each.open_ids}


def _queries(workspace: Path, chosen: Sequence[RunRecord]) -> dict[str, JobQuery]:
    """One query for each scheduler that has any of these runs."""
    by_scheduler: dict[str, list[RunRecord]] = {}
    for record in chosen:
        by_scheduler.setdefault(record.executor, []).append(record)
    return {name: schedulers.of_record(workspace, members[0]).query(members)
            for name, members in by_scheduler.items()}


def _snapshot(
    workspace: Path, record: RunRecord, step: StepRecord, *, listed: bool = False
) -> _Snapshot:
    """Read one step. listed: list the folder of the artifact even for one task (slower, but opening
    a folder makes a network file system drop what it has cached about missing files).
    """
    done = artifacts.finished(step.artifact, None if listed else step.tasks)
    left = step.state is not StepState.REUSED and len(done) < step.tasks
    # markers of finished steps are never needed, and there may be thousands
    folder = Workspace(workspace).run(record.run).step(step.name)
    marks = markers.read(folder.markers) if left else {}
    return _Snapshot(workspace, record, step, done, marks)


def _run_status(
    workspace: Path, record: RunRecord, snapshots: list[_Snapshot], answer: JobAnswer
) -> RunStatus:
    interrupted = submission_lock.interrupted(workspace, record)
    steps: list[StepStatus] = []
    others_unfinished = any(len(each.done) < each.record.tasks for each in snapshots)
    for first in snapshots:
        own = first.own(answer)
        snapshot = _reread(workspace, record, first, own)
        parents = [step for step in steps if step.name in snapshot.record.ok_needs]
        steps.append(_step_status(workspace, record, snapshot, own, parents, interrupted, answer,
                                  others_unfinished))
    state = _run_state(record, steps)
    swept = combinations.collect(record.options.get("combinations", ()), steps)
    status = RunStatus(record.run, record.pipeline, record.cluster, state, record.created, steps,
                       notes=answer.notes(record), combinations=swept)
    if interrupted and state is not RunState.DONE:
        status.notes.insert(0, record.note or "the submitting process was killed before it had "
                               "submitted all jobs")
    if record.note and state in (RunState.REFUSED, RunState.CANCELLED):
        status.notes.insert(0, record.note)
    status.notes += [held_message(step.name, step.held_by_administrator) for step in steps
                     if step.held_by_administrator]
    unfinished = state in (RunState.FAILED, RunState.LOST, RunState.CANCELLED) \
        or interrupted and state is not RunState.DONE
    if unfinished or any(step.held for step in steps):
        status.next = command_line("resume", record.run)
    return status


def _note_holds(status: StepStatus, live: Mapping[str, LiveJob]) -> None:
    for task, job in live.items():
        if job.hold is Hold.ADMINISTRATOR:
            status.held_by_administrator.append(task)
        elif job.held:
            status.held.append(task)


def held_message(step: str, jobs: Sequence[str]) -> str:
    """Describe jobs that an administrator holds, and what to do.

    Parameters
    ----------
    step, jobs
        Name of the step and ids of its held jobs.
    """
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return (f"job {jobs[0]}{more} of {step} is held by an administrator: ask your site to release "
            f"it (scontrol show job {jobs[0]})")


def _reread(workspace: Path, record: RunRecord, snapshot: _Snapshot, own: StepJobs) -> _Snapshot:
    """A newer snapshot if a task has neither a result nor a live job: it may have succeeded between
    the first snapshot and the answer.
    """
    gone = any(job not in own.live for job in snapshot.open_ids.values())
    if own.queried and gone:
        return _snapshot(workspace, record, snapshot.record, listed=True)
    return snapshot


def _step_status(
    workspace: Path, record: RunRecord, snapshot: _Snapshot, own: StepJobs,
    parents: list[StepStatus], interrupted: bool, answer: JobAnswer, others_unfinished: bool,
) -> StepStatus:
    """The status of one step. others_unfinished: whether other steps of the run are not done: a job
    that was requeued and held although its result exists delays them.
    """
    step = snapshot.record
    done = len(snapshot.done)
    status = StepStatus(step.name, step.kind, step.job, StepState.PLANNED, min(done, step.tasks),
                        step.tasks, artifact=step.artifact)
    if done >= step.tasks:
        _describe_done(status, step)
        if others_unfinished:
            every = {task for attempt in step.attempts for task in attempt.task_ids.values()}
            _note_holds(status, answer.of(record, step, every).live)
        return status
    stuck = [parent for parent in parents if parent.state.is_stuck]
    if step.state is StepState.REUSED:
        status.state, status.detail = StepState.LOST, "its artifact no longer exists"
        return status
    if step.state is StepState.PLANNED:
        _describe_planned(status, record, stuck, interrupted)
        return status
    was_cancelled = record.state is RunState.CANCELLED
    tasks = {index: evaluate(index, job, snapshot.marks.get(index), own,
                             was_cancelled=was_cancelled)
             for index, job in snapshot.open_ids.items()}
    _merge(status, tasks, stuck, was_cancelled=was_cancelled)
    _note_holds(status, own.live)
    if not stuck and step.waits_for and (
            status.state is StepState.BLOCKED
            or status.state is StepState.CANCELLED and not was_cancelled
            and not any(task.started for task in tasks.values())
            and not answer.queued(step.waits_for)):
        # Slurm cancelled it because the job of the other run failed or was cancelled
        status.state = StepState.BLOCKED
        status.detail = f"by job {', '.join(step.waits_for)} of another run"
    _point_to_log(workspace, record, status, snapshot, tasks)
    return status


def _describe_done(status: StepStatus, step: StepRecord) -> None:
    # done before, or meanwhile by another run
    reused = step.state is not StepState.SUBMITTED
    status.state = StepState.REUSED if reused else StepState.DONE
    summary = artifacts.summary(step.artifact)
    status.elapsed_s = None if reused else artifacts.wall_clock_s(Path(step.artifact), summary)
    status.detail = str(summary.get("text") or (step.artifact[-16:] if reused else ""))


def _describe_planned(status: StepStatus, record: RunRecord, stuck: Sequence[StepStatus],
                      interrupted: bool) -> None:
    """Describe a step that has not been submitted."""
    status.detail = "not submitted"
    if record.state is RunState.SUBMITTING and not interrupted:
        status.state = StepState.SUBMITTING
    elif record.state is not RunState.REFUSED or interrupted:
        status.state = StepState.CANCELLED
    if stuck and record.state is RunState.SUBMITTED:
        # a step that it needs had failed before this one was to be submitted
        _block(status, stuck, ", not submitted")


def _merge(
    status: StepStatus, tasks: dict[int, TaskStatus], stuck: list[StepStatus], *,
    was_cancelled: bool,
) -> None:
    """Merge the states of all unfinished tasks into that of the step: active ones first, then
    failures.

    stuck: parents that will not be done. was_cancelled: the whole run, by ``cancel``; otherwise it
    was Slurm that cancelled what depended on a cancelled job (--kill-on-invalid-dep).
    """
    by_state: dict[TaskState, list[int]] = {}
    for index, task in tasks.items():
        by_state.setdefault(task.state, []).append(index)
    status.failed_tasks = sorted(by_state.get(TaskState.FAILED, []))
    status.restarts = max((task.restarts for task in tasks.values()), default=0)
    state = _merged_state(by_state)
    started = any(task.started for task in tasks.values())
    if stuck and not started and state not in (TaskState.RUNNING, TaskState.FAILED):
        cancelled = was_cancelled and all(parent.state is StepState.CANCELLED for parent in stuck)
        if not (cancelled and state is TaskState.CANCELLED):
            _block(status, stuck)
            return
    status.state = StepState(state)
    first = tasks[min(by_state[state])] if state in by_state else TaskStatus(TaskState.LOST)
    running = [tasks[index].elapsed_s or 0 for index in by_state.get(TaskState.RUNNING, ())]
    if state is TaskState.RUNNING:
        status.progress, status.elapsed_s = first.progress, max(running)
    elif first.elapsed_s:
        status.elapsed_s = first.elapsed_s
    status.detail = ", ".join(_details(status, first, len(running)))
    status.last_words = first.last_words


def _merged_state(by_state: Mapping[TaskState, Sequence[int]]) -> TaskState:
    """The state that stands for all; a failed task does not count while others are active."""
    state = next((each for each in _ORDER if each in by_state), TaskState.LOST)
    if state is TaskState.FAILED:
        return next((each for each in _ORDER if each in by_state and each.is_active), state)
    return state


def _block(status: StepStatus, stuck: Sequence[StepStatus], note: str = "") -> None:
    """The step cannot run, because of the steps that these parents wait for in turn."""
    roots = sorted({parent.blocked_by or parent.name for parent in stuck})
    status.state, status.blocked_by = StepState.BLOCKED, roots[0]
    status.detail = f"by {', '.join(roots)}{note}"


def _details(status: StepStatus, first: TaskStatus, running: int) -> Iterator[str]:
    """The parts of the column ``detail``. running: number of running tasks."""
    if running > 1:
        yield f"{running} tasks running"
    if first.detail:
        yield first.detail
    if status.failed_tasks and status.tasks > 1:
        shown = ", ".join(map(str, status.failed_tasks[:8]))
        more = ", …" if len(status.failed_tasks) > 8 else ""
        yield f"{len(status.failed_tasks)} of {status.tasks} tasks failed ({shown}{more})"
    if status.restarts and status.state in (StepState.RUNNING, StepState.REQUEUED,
                                            StepState.FAILED):
        times = {1: "once", 2: "twice"}.get(status.restarts, f"{status.restarts} times")
        yield f"requeued {times}" + (f" ({first.requeue_reason})" if first.requeue_reason else "")


def _point_to_log(
    workspace: Path, record: RunRecord, status: StepStatus, snapshot: _Snapshot,
    tasks: dict[int, TaskStatus],
) -> None:
    index = next((index for index, task in sorted(tasks.items()) if task.state == status.state),
                 None)
    if index is None or status.state not in _WITH_LOG:
        return
    job = snapshot.open_ids[index]
    log = Workspace(workspace).run(record.run).step(status.name).log(job)
    if log.exists():
        status.log = str(log)
    marks = snapshot.marks.get(index, markers.TaskMarks()).of(job)
    if status.state is StepState.FAILED and marks.error is None and not marks.gave_up:
        memory = int(snapshot.record.resources.get("mem_mb") or 0)
        status.last_words = logs.last_lines(log, began=marks.progress is not None or marks.in_setup)
        if marks.exit_code == 137 and not marks.terminated and memory:
            status.last_words = [*status.last_words[-2:], (
                "if it needs more memory: " + command_line(
                    "resume", record.run, "--set", f"{status.name}.mem={2 * memory}MB"))]


def _run_state(record: RunRecord, steps: list[StepStatus]) -> RunState:
    states = {step.state for step in steps}
    if record.state is RunState.REFUSED:
        return RunState.REFUSED
    if all(state.is_done for state in states):
        return RunState.DONE
    active = {state for state in states if state.is_active}
    if active:
        return RunState.SUBMITTING if active == {StepState.SUBMITTING} else RunState.RUNNING
    for state in (StepState.FAILED, StepState.LOST, StepState.CANCELLED):
        if state in states:
            return RunState(state)
    return RunState.FAILED
