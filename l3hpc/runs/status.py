"""Where runs stand: records and markers tell what happened; squeue and sacct refine it.

Order of evidence for a task: its result in the artifact; what squeue says now; the script's exit
marker; what accounting remembers; silence. What ends while Slurm is asked is looked at again. A
step that cannot run any more because an earlier one failed is ``blocked``, through any number of
generations, whatever Slurm calls it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l3hpc import schedulers
from l3hpc.errors import InputError, collect_damage, command_line
from l3hpc.runs import logs, submission_lock
from l3hpc.runs.task_state import TaskStatus, judge
from l3hpc.schedulers.base import Hold, JobAnswer, JobQuery, LiveJob, StepJobs
from l3hpc.workspace import artifacts, markers, records
from l3hpc.workspace import attempts as waiting
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.markers import RunState, StepState, TaskState
from l3hpc.workspace.records import RunRecord, StepRecord

SCHEMA = 1
_ORDER = (TaskState.RUNNING, TaskState.FAILED, TaskState.REQUEUED, TaskState.QUEUED,
          TaskState.WAITING, TaskState.BLOCKED, TaskState.LOST, TaskState.CANCELLED)
_WITH_LOG = (StepState.RUNNING, StepState.FAILED, StepState.LOST, StepState.CANCELLED,
             StepState.REQUEUED)


@dataclass
class StepStatus:
    """One step of a run.

    state: ``waiting`` (for earlier steps), ``queued``, ``running``, ``requeued``, ``done``,
    ``reused``, ``failed``, ``blocked``, ``lost``, ``cancelled`` or ``planned`` (not submitted).
    detail: the rest in words. blocked_by: the step that it cannot do without. log: of the first
    failed or running task. progress: of the first running task. last_words: lines of the error.
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
    """One run.

    state: ``done``, ``running`` (anything still moves), ``failed``, ``cancelled``, ``refused`` or
    ``lost``. next: the command that helps, if any. notes: what Slurm did not answer, and why a run
    was refused. damaged: files of the run that cannot be used, each with what is wrong: all else
    was found out without them. combinations: of a sweep, each with ``values`` and ``steps`` (base
    step → step).
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
    combinations: list[dict[str, dict[str, str]]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """JSON values: the fields of ``RunStatus`` and ``StepStatus``, and ``schema``."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class LiveTask:
    """A task that waits or runs. job: its id. now: what the queue says of it."""

    job: str
    now: LiveJob


@dataclass
class _Look:
    """What was read of one step before Slurm is asked."""

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
        return {index: job for index, job in waiting.latest(self.record).items()
                if index not in self.done}

    def own(self, answer: JobAnswer) -> StepJobs:
        """What the scheduler says of the unfinished tasks."""
        return answer.of(self.run, self.record, self.open_ids.values())


def collect(
    workspace: Path, runs: Iterable[str] | None = None, *, last: int | None = None,
    broken: list[InputError] | None = None,
) -> list[RunStatus]:
    """The status of the named runs (all of them by default), the newest first.

    last: at most so many. broken: gets the errors of records that cannot be read. Slurm is asked
    once, and only when a task needs it.
    """
    with collect_damage() as damage:
        if runs is None:
            chosen = records.read_all(workspace, broken)[:last]
        else:
            chosen = [records.read(workspace, run) for run in runs]
        queries = _queries(workspace, chosen)
        looks = {}
        for record in chosen:
            looks[record.run] = [_look(workspace, record, step) for step in record.steps]
            queries[record.executor].add(record, _open(looks[record.run]))
        answers = {name: query.answer() for name, query in queries.items()}
        found = [_run_status(workspace, record, looks[record.run], answers[record.executor])
                 for record in chosen]
    for status in found if damage else ():
        folders = [str(Workspace(workspace).run(status.run)),
                   *(step.artifact for step in status.steps)]
        status.damaged = [f"{error.where}: {error.message}" for error in damage
                          if str(error.where).startswith(tuple(f"{each}/" for each in folders))]
    return found


def live_tasks(workspace: Path, record: RunRecord) -> dict[str, dict[int, LiveTask]]:
    """Step → task index → its job, of the unfinished tasks that wait or run now. Where squeue does
    not answer: a ``ClusterError`` (nothing may be submitted twice)."""
    looks = [_look(workspace, record, step) for step in record.steps]
    answer = schedulers.of_record(workspace, record).jobs(record, _open(looks))
    return {look.record.name: _live_of(look, look.own(answer)) for look in looks}


def _live_of(look: _Look, own: StepJobs) -> dict[int, LiveTask]:
    return {index: LiveTask(job, own.live[job])
            for index, job in look.open_ids.items() if job in own.live}


def _open(looks: list[_Look]) -> dict[str, Collection[str]]:
    """Step → ids of the jobs that have its unfinished tasks."""
    return {look.record.name: look.open_ids.values() for look in looks if look.open_ids}


def _queries(workspace: Path, chosen: Sequence[RunRecord]) -> dict[str, JobQuery]:
    """One for each scheduler that has any of these runs."""
    by_scheduler: dict[str, list[RunRecord]] = {}
    for record in chosen:
        by_scheduler.setdefault(record.executor, []).append(record)
    return {name: schedulers.of_record(workspace, members[0]).query(members)
            for name, members in by_scheduler.items()}


def _look(
    workspace: Path, record: RunRecord, step: StepRecord, *, listed: bool = False
) -> _Look:
    """listed: list the artifact's folder even for one task (slower, but opening a folder makes a
    network file system forget what it remembers to be missing)."""
    done = artifacts.finished(step.artifact, None if listed else step.tasks)
    left = step.state is not StepState.REUSED and len(done) < step.tasks
    folder = Workspace(workspace).run(record.run).step(step.name)
    marks = markers.read(folder.markers) if left else {}
    return _Look(workspace, record, step, done, marks)


def _run_status(
    workspace: Path, record: RunRecord, looks: list[_Look], answer: JobAnswer
) -> RunStatus:
    broken_off = submission_lock.interrupted(workspace, record)
    steps: list[StepStatus] = []
    waited_for = any(len(one.done) < one.record.tasks for one in looks)
    for seen in looks:
        own = seen.own(answer)
        look = _once_more(workspace, record, seen, own)
        parents = [step for step in steps if step.name in look.record.needs]
        steps.append(_step_status(workspace, record, look, own, parents, broken_off, answer,
                                  waited_for))
    state = _run_state(record, steps)
    status = RunStatus(record.run, record.pipeline, record.cluster, state, record.created, steps,
                       notes=answer.notes(record),
                       combinations=list(record.options.get("combinations", ())))
    if broken_off and state is not RunState.DONE:
        status.notes.insert(0, record.note or "the submitting process was killed before it had "
                               "handed over all")
    if record.note and state in (RunState.REFUSED, RunState.CANCELLED):
        status.notes.insert(0, record.note)
    status.notes += [held_words(step.name, step.held_by_administrator) for step in steps
                     if step.held_by_administrator]
    unfinished = state in (RunState.FAILED, RunState.LOST, RunState.CANCELLED) \
        or broken_off and state is not RunState.DONE
    if unfinished or any(step.held for step in steps):
        status.next = command_line("resume", record.run)
    return status


def _note_holds(status: StepStatus, live: Mapping[str, LiveJob]) -> None:
    for task, job in live.items():
        if job.hold is Hold.ADMINISTRATOR:
            status.held_by_administrator.append(task)
        elif job.held:
            status.held.append(task)


def held_words(step: str, jobs: Sequence[str]) -> str:
    """What to do about jobs that an administrator holds."""
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    return (f"job {jobs[0]}{more} of {step} is held by an administrator: ask your site to release "
            f"it (scontrol show job {jobs[0]})")


def _once_more(workspace: Path, record: RunRecord, look: _Look, own: StepJobs) -> _Look:
    """A newer look where a task has neither a result nor a live job: it may have ended well
    between the first look and the answer."""
    gone = any(job not in own.live for job in look.open_ids.values())
    if own.asked and gone:
        return _look(workspace, record, look.record, listed=True)
    return look


def _step_status(
    workspace: Path, record: RunRecord, look: _Look, own: StepJobs,
    parents: list[StepStatus], broken_off: bool, answer: JobAnswer, waited_for: bool,
) -> StepStatus:
    """waited_for: whether other steps of the run are not done. A job that was put back and held
    when its result was there already holds them up."""
    step = look.record
    done = len(look.done)
    status = StepStatus(step.name, step.kind, step.job, StepState.PLANNED, min(done, step.tasks),
                        step.tasks, artifact=step.artifact)
    if done >= step.tasks:
        _describe_done(status, step)
        if waited_for:
            every = {task for attempt in step.attempts for task in attempt.task_ids.values()}
            _note_holds(status, answer.of(record, step, every).live)
        return status
    stuck = [parent for parent in parents if parent.state.is_stuck]
    if step.state is StepState.REUSED:
        status.state, status.detail = StepState.LOST, "its artifact is no longer there"
        return status
    if step.state is StepState.PLANNED:
        _describe_planned(status, record, stuck, broken_off)
        return status
    was_cancelled = record.state is RunState.CANCELLED
    tasks = {index: judge(index, job, look.marks.get(index), own, was_cancelled=was_cancelled)
             for index, job in look.open_ids.items()}
    _merge(status, tasks, stuck, was_cancelled=was_cancelled)
    _note_holds(status, own.live)
    if not stuck and step.waits_for and (
            status.state is StepState.BLOCKED
            or status.state is StepState.CANCELLED and not was_cancelled
            and not any(task.started for task in tasks.values())
            and not answer.queued(step.waits_for)):
        status.state = StepState.BLOCKED  # Slurm cancelled it, with the other run's job
        status.detail = f"by job {', '.join(step.waits_for)} of another run"
    _point_to_log(workspace, record, status, look, tasks)
    return status


def _describe_done(status: StepStatus, step: StepRecord) -> None:
    # done before, or meanwhile by another run
    reused = step.state is not StepState.SUBMITTED
    status.state = StepState.REUSED if reused else StepState.DONE
    left = artifacts.summary(step.artifact)
    status.elapsed_s = None if reused else _elapsed(step.artifact, left)
    status.detail = str(left.get("text") or (step.artifact[-16:] if reused else ""))


def _describe_planned(status: StepStatus, record: RunRecord, stuck: Sequence[StepStatus],
                      broken_off: bool) -> None:
    """Of a step that was not submitted (yet)."""
    status.detail = "not submitted"
    if record.state is RunState.SUBMITTING and not broken_off:
        status.state = StepState.SUBMITTING
    elif record.state is not RunState.REFUSED or broken_off:
        status.state = StepState.CANCELLED
    if stuck and record.state is RunState.SUBMITTED:
        # what it needs had failed before it was its turn
        _block(status, stuck, ", not submitted")


def _merge(
    status: StepStatus, tasks: dict[int, TaskStatus], stuck: list[StepStatus], *,
    was_cancelled: bool,
) -> None:
    """One state for all unfinished tasks: what moves first, then what went wrong.

    stuck: parents that will not be done. was_cancelled: the whole run, by ``cancel``; elsewhere
    it was Slurm that cancelled what waits for a cancelled job (--kill-on-invalid-dep).
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
    """The state that stands for all; a failed task does not count while others still move."""
    state = next((one for one in _ORDER if one in by_state), TaskState.LOST)
    if state is TaskState.FAILED:
        return next((one for one in _ORDER if one in by_state and one.is_active), state)
    return state


def _block(status: StepStatus, stuck: Sequence[StepStatus], note: str = "") -> None:
    """The step cannot run, because of the steps that these parents wait for in turn."""
    roots = sorted({parent.blocked_by or parent.name for parent in stuck})
    status.state, status.blocked_by = StepState.BLOCKED, roots[0]
    status.detail = f"by {', '.join(roots)}{note}"


def _details(status: StepStatus, first: TaskStatus, running: int) -> Iterator[str]:
    """What the table says beside the state. running: how many tasks run."""
    if running > 1:
        yield f"{running} tasks running"
    if first.words:
        yield first.words
    if status.failed_tasks and status.tasks > 1:
        shown = ", ".join(map(str, status.failed_tasks[:8]))
        more = ", …" if len(status.failed_tasks) > 8 else ""
        yield f"{len(status.failed_tasks)} of {status.tasks} tasks failed ({shown}{more})"
    if status.restarts and status.state in (StepState.RUNNING, StepState.REQUEUED,
                                            StepState.FAILED):
        times = {1: "once", 2: "twice"}.get(status.restarts, f"{status.restarts} times")
        yield f"requeued {times}" + (f" ({first.why_again})" if first.why_again else "")


def _point_to_log(
    workspace: Path, record: RunRecord, status: StepStatus, look: _Look,
    tasks: dict[int, TaskStatus],
) -> None:
    index = next((index for index, task in sorted(tasks.items()) if task.state == status.state),
                 None)
    if index is None or status.state not in _WITH_LOG:
        return
    job = look.open_ids[index]
    log = Workspace(workspace).run(record.run).step(status.name).log(job)
    if log.exists():
        status.log = str(log)
    marks = look.marks.get(index, markers.TaskMarks()).of(job)
    if status.state is StepState.FAILED and marks.error is None and not marks.gave_up:
        memory = int(look.record.resources.get("mem_mb") or 0)
        status.last_words = logs.end_of(log, began=marks.progress is not None or marks.in_setup)
        if marks.exit_code == 137 and not marks.asked_to_end and memory:
            status.last_words = [*status.last_words[-2:], (
                "if it needs more memory: " + command_line(
                    "resume", record.run, "--set", f"{status.name}.mem={2 * memory}MB"))]


def _elapsed(artifact: str, left: dict[str, Any]) -> float | None:
    """Wall-clock seconds from the first task's start to the last one's end."""
    try:
        if not left:
            results = artifacts.results(Path(artifact))
            left = {"started": min(result["started"] for result in results),
                    "finished": max(result["finished"] for result in results)}
        return float(left["finished"] - left["started"])
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError):
        return None


def _run_state(record: RunRecord, steps: list[StepStatus]) -> RunState:
    states = {step.state for step in steps}
    if record.state is RunState.REFUSED:
        return RunState.REFUSED
    if all(state.is_done for state in states):
        return RunState.DONE
    moving = {state for state in states if state.is_active}
    if moving:
        return RunState.SUBMITTING if moving == {StepState.SUBMITTING} else RunState.RUNNING
    for state in (StepState.FAILED, StepState.LOST, StepState.CANCELLED):
        if state in states:
            return RunState(state)
    return RunState.FAILED
