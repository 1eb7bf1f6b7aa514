"""The status of one step of a run, from its artifact, its markers and what the scheduler says.

Runs share artifacts. A task whose result another run computed is done in this run only if its own
job did not fail: otherwise the step keeps the state that its jobs had, with the name of that run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from l3hpc.config.units import memory_setting
from l3hpc.errors import command_line
from l3hpc.io.values import in_number
from l3hpc.runs import logs
from l3hpc.runs.task_state import NO_RESULT, TaskStatus, evaluate
from l3hpc.schedulers.base import JobAnswer
from l3hpc.schedulers.jobs import Hold, LiveJob, StepJobs
from l3hpc.workspace import artifacts, attempts, markers, origin
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import JobState, RunState, StepState, TaskState

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
    computed_by : list of str
        The other runs that have since computed what its own jobs did not.
    repeats : bool
        Whether it failed in a way that ``resume`` alone would repeat.
    needs_mem_mb : int or None
        What to request after it ran out of memory: twice the last request, MiB.
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
    computed_by: list[str] = field(default_factory=list)
    repeats: bool = False
    needs_mem_mb: int | None = None


@dataclass
class Snapshot:
    """What was read of one step before Slurm is queried."""

    workspace: Path
    run: RunRecord
    record: StepRecord
    done: set[int]
    marks: dict[int, markers.TaskMarks]
    by_others: dict[int, str]  # of a finished step: task index → the run that computed it
    # task index → id of the job that has it, for the tasks whose own job tells their state: the
    # unfinished ones, or of a finished step those that another run computed
    open_ids: dict[int, str]
    summary: dict[str, Any]  # of the artifact, if the step is finished

    def own(self, answer: JobAnswer) -> StepJobs:
        """What the scheduler reports about the unfinished tasks."""
        return answer.of(self.run, self.record, self.open_ids.values())


def read_snapshot(workspace: Path, record: RunRecord, step: StepRecord, *,
                  listed: bool = False) -> Snapshot:
    """Read the artifact and the markers of a step.

    Parameters
    ----------
    workspace
        The workspace folder.
    record, step
        The record of the run, and the step in it.
    listed
        List the folder of the artifact even for one task. Slower, but opening a folder makes a
        network file system drop what it has cached about missing files.
    """
    done = artifacts.finished(step.artifact, None if listed else step.tasks)
    submitted = step.state is not StepState.REUSED
    left = submitted and len(done) < step.tasks
    summary = artifacts.summary(step.artifact) if len(done) >= step.tasks else {}
    by_others = origin.computed_by_others(workspace, record.run, step, summary) \
        if submitted and step.attempts and not left else {}
    # markers of finished tasks are not needed otherwise, and there may be thousands
    asked = set(range(step.tasks)) - done if left else set(by_others)
    open_ids = dict[int, str]()
    if len(done) < step.tasks or by_others:
        open_ids = {index: job for index, job in attempts.latest(step).items() if (
            index not in done if len(done) < step.tasks else index in by_others)}
    marks = dict[int, markers.TaskMarks]()
    if asked and step.attempts:  # without a job there may not even be a folder for them
        folder = Workspace(workspace).run(record.run).step(step.name)
        marks = markers.read(folder.markers_text, asked)
    return Snapshot(workspace, record, step, done, marks, by_others, open_ids, summary)


def reread(snapshot: Snapshot, answer: JobAnswer) -> Snapshot:
    """Read a step again if one of its tasks has neither a result nor a live job.

    The task may have succeeded between the first reading and the answer of the scheduler, unless
    its job never started.

    Parameters
    ----------
    snapshot
        What was read before.
    answer
        What the scheduler reports.
    """
    if not snapshot.open_ids:
        return snapshot
    own = snapshot.own(answer)
    gone = any(job not in own.live and not (job in own.ended and own.ended[job].never_started)
               for job in snapshot.open_ids.values())
    if own.queried and gone:
        return read_snapshot(snapshot.workspace, snapshot.run, snapshot.record, listed=True)
    return snapshot


def describe(snapshot: Snapshot, parents: list[StepStatus], answer: JobAnswer, *,
             interrupted: bool, others_unfinished: bool) -> StepStatus:
    """Determine the status of a step.

    Parameters
    ----------
    snapshot
        What was read of it, as of after the answer.
    parents
        The steps that have to succeed first.
    answer
        What the scheduler reports.
    interrupted
        Whether the submission of the run was killed.
    others_unfinished
        Whether other steps of the run are not done: a job that was requeued and held although its
        result exists delays them.
    """
    record, step = snapshot.run, snapshot.record
    done = len(snapshot.done)
    status = StepStatus(step.name, step.kind, step.job, StepState.PLANNED, min(done, step.tasks),
                        step.tasks, artifact=step.artifact)
    if done >= step.tasks:
        # the last task writes it after its result, perhaps just after the first reading
        _describe_done(status, step, snapshot.summary or artifacts.summary(step.artifact))
        if others_unfinished:
            every = {task for attempt in step.attempts for task in attempt.task_ids.values()}
            _note_holds(status, answer.of(record, step, every).live)
        if snapshot.by_others:
            _recall_failure(status, snapshot, snapshot.own(answer), parents, answer)
        return status
    if step.state is StepState.REUSED:
        status.state, status.detail = StepState.LOST, "its artifact no longer exists"
    elif step.state is StepState.PLANNED:
        _describe_planned(status, record, [one for one in parents if one.state.is_stuck],
                          interrupted)
    else:
        _describe_jobs(status, snapshot, snapshot.own(answer), parents, answer)
    return status


def _recall_failure(status: StepStatus, snapshot: Snapshot, own: StepJobs,
                    parents: list[StepStatus], answer: JobAnswer) -> None:
    """Give a finished step the state of its own jobs, if these failed or did not run."""
    before = replace(status, elapsed_s=None, detail="")
    _describe_jobs(before, snapshot, own, parents, answer)
    if not before.state.is_stuck:
        return
    before.computed_by = sorted(set(snapshot.by_others.values()))
    since = f"({origin.in_words(before.computed_by)})"
    before.detail = f"{before.detail} {since}".strip()
    vars(status).update(vars(before))


def _describe_jobs(status: StepStatus, snapshot: Snapshot, own: StepJobs,
                   parents: list[StepStatus], answer: JobAnswer) -> None:
    """Describe a step by the jobs of its open tasks."""
    record, step = snapshot.run, snapshot.record
    stuck = [parent for parent in parents if parent.state.is_stuck]
    was_cancelled = record.state is RunState.CANCELLED
    packed = attempts.packed(step)
    in_turn = _in_turn(snapshot, own, packed)
    tasks = {index: evaluate(index, job, snapshot.marks.get(index), own,
                             was_cancelled=was_cancelled,
                             packed=index in packed and index not in in_turn)
             for index, job in snapshot.open_ids.items()}
    if snapshot.by_others:  # a job that finds the result of another run ends well
        tasks = {index: task for index, task in tasks.items() if task.detail != NO_RESULT}
        if not tasks:
            return
    _merge(status, tasks, stuck, was_cancelled=was_cancelled)
    if status.state is StepState.QUEUED and _is_between_tasks(snapshot, own):
        status.state, status.detail = StepState.RUNNING, "between two tasks"
    if status.state is StepState.FAILED:
        _note_remedy(status, snapshot, tasks)
        # it lacked what they compute: Slurm before 23.11 starts a job whose parent it has forgotten
        status.repeats = status.repeats and not stuck
    _note_holds(status, own.live)
    if not stuck and step.waits_for and (
            status.state is StepState.BLOCKED
            or status.state is StepState.CANCELLED and not was_cancelled
            and not any(task.started for task in tasks.values())
            and not answer.queued(step.waits_for)):
        # Slurm cancelled it because the job of the other run failed or was cancelled
        status.state = StepState.BLOCKED
        status.detail = f"by job {', '.join(step.waits_for)} of another run"
    _point_to_log(status, snapshot, own, tasks)


def _is_between_tasks(snapshot: Snapshot, own: StepJobs) -> bool:
    """Whether a job of the step is ending that has written its result: it makes room for the next.
    """
    every = {job for attempt in snapshot.record.attempts for job in attempt.task_ids.values()}
    return any(own.live[job].state.is_running or own.live[job].state == JobState.COMPLETING
               for job in every.intersection(own.live) - {*snapshot.open_ids.values()})


def _in_turn(snapshot: Snapshot, own: StepJobs, packed: Mapping[int, tuple[int, ...]]) -> set[int]:
    """The tasks that have not begun, and for which the state of their packed job stands: the next
    one of a job that is between two tasks, and the first one of a job that ended before any began.
    """
    of_job: dict[str, list[int]] = {}
    for index, job in sorted(snapshot.open_ids.items()):
        if index in packed:
            of_job.setdefault(job, []).append(index)
    found = set()
    for job, indices in of_job.items():
        marks = {index: snapshot.marks.get(index, markers.TaskMarks()).of(job)
                 for index in indices}
        waiting = [index for index, mark in marks.items() if mark.begin is None]
        begun = [mark for mark in marks.values() if mark.begin is not None]
        if waiting and (all(mark.exit_code is not None for mark in begun) if job in own.live
                        else len(waiting) == len(packed[waiting[0]])):
            found.add(waiting[0])
    return found


def _describe_done(status: StepStatus, step: StepRecord, summary: dict[str, Any]) -> None:
    # done before, or meanwhile by another run
    reused = step.state is not StepState.SUBMITTED
    status.state = StepState.REUSED if reused else StepState.DONE
    status.elapsed_s = None if reused else artifacts.wall_clock_s(step.artifact, summary)
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
    # what has started ran before its parent failed: its own state says more than ``blocked``
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


def _note_remedy(status: StepStatus, snapshot: Snapshot, tasks: Mapping[int, TaskStatus]) -> None:
    """Note what a resumption needs so that it does not fail in the same way."""
    # a requeue for another reason, such as a failed node, requests nothing new
    granted = [int(requeue["mem_mb"]) for index, task in tasks.items()
               if task.needs_memory and index in snapshot.marks
               for requeue in snapshot.marks[index].requeues if requeue.get("mem_mb")]
    requested = max([int(snapshot.record.resources.get("mem_mb") or 0), *granted])
    needs_memory = any(task.needs_memory for task in tasks.values())
    if needs_memory and requested:
        status.needs_mem_mb = 2 * requested
    # a request of 0 is all memory of the node: there is no more
    status.repeats = any(task.repeats for task in tasks.values()) or needs_memory and not requested


def _merged_state(by_state: Mapping[TaskState, Sequence[int]]) -> TaskState:
    """One state for all tasks; a failed task does not count while others are active."""
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
        name = in_number("[task|tasks]", len(status.failed_tasks))
        shown = ", ".join(map(str, status.failed_tasks[:8]))
        more = ", …" if len(status.failed_tasks) > 8 else ""
        yield f"{len(status.failed_tasks)} of {status.tasks} tasks failed ({name} {shown}{more})"
    if status.restarts and status.state in (StepState.RUNNING, StepState.REQUEUED,
                                            StepState.FAILED):
        times = {1: "once", 2: "twice"}.get(status.restarts, f"{status.restarts} times")
        yield f"requeued {times}" + (f" ({first.requeue_reason})" if first.requeue_reason else "")


def _point_to_log(status: StepStatus, snapshot: Snapshot, own: StepJobs,
                  tasks: dict[int, TaskStatus]) -> None:
    index = next((index for index, task in sorted(tasks.items()) if task.state == status.state),
                 None)
    if index is None or status.state not in _WITH_LOG:
        return
    job = snapshot.open_ids[index]
    if job in own.ended and own.ended[job].never_started and not tasks[index].started:
        return  # Slurm makes the log when the job starts
    folder = Workspace(snapshot.workspace).run(snapshot.run.run).step(status.name)
    log = logs.existing_log(folder, snapshot.record, index)
    if log.exists():
        status.log = str(log)
    marks = snapshot.marks.get(index, markers.TaskMarks()).of(job)
    if status.state is StepState.FAILED and marks.error is None and not marks.gave_up:
        memory = int(snapshot.record.resources.get("mem_mb") or 0)
        # without an exit code, the task was killed together with its packed job
        of_job = marks.exit_code is None and logs.log_of_job(folder, snapshot.record, index)
        status.last_words = logs.last_lines(of_job or log, began=bool(of_job) or (
            marks.progress is not None or marks.in_setup))
        if marks.exit_code == 137 and not marks.terminated and memory:
            more = f"{status.name}.mem={memory_setting(2 * memory)}"
            status.last_words = [*status.last_words[-2:], "if it needs more memory: "
                                 + command_line("resume", snapshot.run.run, "--set", more)]


def _note_holds(status: StepStatus, live: Mapping[str, LiveJob]) -> None:
    for task, job in live.items():
        if job.hold is Hold.ADMINISTRATOR:
            status.held_by_administrator.append(task)
        elif job.held:
            status.held.append(task)
