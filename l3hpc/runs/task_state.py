"""The state of one task, from its markers and from what the scheduler reports."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from l3hpc.console.formatting import describe_exit, describe_limit, describe_progress, local_time
from l3hpc.schedulers.jobs import NEVER_STARTED, EndedJob, Hold, LiveJob, StepJobs
from l3hpc.schedulers.requeue_policy import CAP, MEMORY, WARNED
from l3hpc.workspace.markers import TaskMarks
from l3hpc.workspace.states import JobState, TaskState

REQUEUE = 85  # exit code of a task that goes back to the queue
_SILENT_S = 300.0
_BETWEEN_S = 120.0  # for which a job that is being requeued may look as if it had ended
_CLOCKS_S = 60.0  # by so much, clocks of the machines of a site may differ
_KILL_WAIT_S = 30.0  # Slurm's default between the signal and the end of a cancelled job
MOST_ALLOWED = 3  # lines of what would have been allowed
_HOLD_HINTS = {False: ": 'resume' releases it", True: ": only an administrator can release it"}
_DEPENDENCY_FAILED = "an earlier step failed"
NO_RESULT = "the job succeeded, but there is no result: it left none, or it was removed"
IN_TURN = "waits for the tasks before it in the same job"
NO_TURN = "not started: its job ended before its turn"
_OUTCOMES = {
    JobState.COMPLETED: (TaskState.FAILED, ""),
    JobState.FAILED: (TaskState.FAILED, "ended with an error"),
    JobState.OUT_OF_MEMORY: (TaskState.FAILED, "out of memory"),
    JobState.TIMEOUT: (TaskState.FAILED, "time limit"),
    JobState.DEADLINE: (TaskState.FAILED, "deadline passed"),
    JobState.NODE_FAIL: (TaskState.FAILED, "node failure"),
    JobState.BOOT_FAIL: (TaskState.FAILED, "node failure (did not boot)"),
    JobState.PREEMPTED: (TaskState.FAILED, "preempted"),
    JobState.CANCELLED: (TaskState.CANCELLED, "cancelled"),
    JobState.REVOKED: (TaskState.CANCELLED, "revoked"),
}
_UNFINISHED = (JobState.PENDING, JobState.RUNNING, JobState.REQUEUED)  # in accounting
# after these Slurm requeues a job, which accounting learns later than squeue
_MAY_RETURN = (*_UNFINISHED, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.PREEMPTED)


@dataclass
class TaskStatus:
    """The state of one unfinished task.

    Attributes
    ----------
    state : TaskState
        The state.
    detail : str
        Why, or how far it is.
    started : bool
        Whether it has run at least once.
    elapsed_s : float or None
        How long it has been running, or ran, seconds.
    restarts : int
        How often it was requeued.
    requeue_reason : str
        Why it was requeued last.
    progress : dict or None
        Its latest progress.
    last_words : list of str
        The details of its error, or the last lines of its traceback.
    repeats : bool
        Whether it failed in a way that another attempt would repeat.
    needs_memory : bool
        Whether it ran out of memory.
    """

    state: TaskState
    detail: str = ""
    started: bool = False
    elapsed_s: float | None = None
    restarts: int = 0
    requeue_reason: str = ""
    progress: dict[str, Any] | None = None
    last_words: list[str] = field(default_factory=list)
    repeats: bool = False
    needs_memory: bool = False


def evaluate(
    index: int, job: str, marks: TaskMarks | None, answer: StepJobs, *,
    was_cancelled: bool = False, packed: bool = False,
) -> TaskStatus:
    """Determine the state of an unfinished task.

    Parameters
    ----------
    index
        Index of the task.
    job
        Id of its latest job.
    marks
        Its markers, if there are any.
    answer
        What the scheduler reports about the step.
    was_cancelled
        Whether the run was cancelled by ``l3hpc cancel``.
    packed
        Whether its job runs other tasks too, so that the state of the job is not that of the task.

    Returns
    -------
    TaskStatus
        Its state.
    """
    marks = (marks or TaskMarks()).of(job)
    live = answer.live.get(job)
    if packed and (in_turn := _in_turn(job, marks, answer)) is not None:
        status = in_turn
    elif live is not None:
        status = _live(live, marks)
    elif job in answer.ended and answer.ended[job].state not in (
            _MAY_RETURN if answer.unreachable else _UNFINISHED):
        status = _ended(answer.ended[job], marks)
    elif marks.exit_code is not None and (
            not (answer.unreachable and marks.terminated) or marks.gave_up or was_cancelled):
        status = _exited(marks)
    else:  # also what Slurm has stopped, and may have requeued
        status = _unknown(job, marks, answer)
    if was_cancelled and (status.state in (TaskState.LOST, TaskState.CANCELLED)
                          or status.state is TaskState.FAILED and _by_signal(marks)):
        status.state, status.detail, status.last_words = TaskState.CANCELLED, "", []
    if live is None and not was_cancelled and status.state in (
            TaskState.FAILED, TaskState.RUNNING) and _is_being_requeued(marks, answer.unreachable):
        status = TaskStatus(TaskState.REQUEUED, started=True, detail=(
            f"{answer.unreachable} does not respond" if answer.unreachable else ""))
    if status.state is TaskState.FAILED:
        # the end of a packed job says nothing about a task that had ended before
        of_others = packed and marks.exit_code is not None and marks.exit_code < 128
        _note_remedy(status, None if of_others else answer.ended.get(job), marks)
    status.started = status.started or marks.begin is not None
    status.restarts = max(status.restarts, marks.restarts)
    if marks.requeues:
        last = marks.requeues[-1]
        status.requeue_reason = str(last.get("words") or last.get("reason", ""))
        if live is not None and live.held and marks.requested \
                and status.state is TaskState.REQUEUED:
            status.detail = "held until " + (
                "a helper job has changed its request" if answer.helped and not last.get("held")
                else "'resume' changes its request")
    return status


def _in_turn(job: str, marks: TaskMarks, answer: StepJobs) -> TaskStatus | None:
    """The state of a task of a packed job, where it is another one than that of the job."""
    live, ended = answer.live.get(job), answer.ended.get(job)
    has_failed = marks.exit_code not in (None, 0, REQUEUE, WARNED) and not marks.terminated
    if live is not None:
        if has_failed:
            return _exited(marks)
        if not live.state.is_running and live.state != JobState.COMPLETING:
            return None
        if marks.begin is None:
            return TaskStatus(TaskState.QUEUED, IN_TURN)
        status = _live(live, marks)
        status.restarts, started = marks.restarts, marks.started
        if status.elapsed_s is not None and started is not None:  # of the job
            status.elapsed_s = _between(started, time.time(), status.elapsed_s)
        return status
    if ended is not None and ended.state not in _UNFINISHED:
        if has_failed or marks.exit_code == 0:
            return _exited(marks)
        # what ended the job (such as its time limit) happened to the task that was running
        if marks.begin is None and ended.state not in NEVER_STARTED:
            return TaskStatus(TaskState.LOST, NO_TURN)
    return None


def _is_being_requeued(marks: TaskMarks, unreachable: str) -> bool:
    """Whether a script has asked for a requeue, and was stopped for it.

    Slurm ends the job before it queues it again. In between, squeue or sacct may show its end;
    after a while their answer counts. As long as squeue does not respond, the job may be waiting.
    """
    return _has_asked(marks) and (bool(unreachable) or -_CLOCKS_S < time.time() - float(
        marks.requeues[-1].get("time", 0.0)) < _BETWEEN_S)


def _has_asked(marks: TaskMarks) -> bool:
    """Whether the attempt that the markers are about asked for a requeue and was stopped for it."""
    return bool(marks.requeues) and not marks.gave_up and (
        marks.terminated or marks.exit_code is None) and (
        marks.started or 0.0) <= float(marks.requeues[-1].get("time", 0.0))


def _note_remedy(status: TaskStatus, ended: EndedJob | None, marks: TaskMarks) -> None:
    """Note whether another attempt can end differently: after a failure of its node or at its time
    limit it can, because every step continues with what is not done yet.
    """
    ended_as = None if ended is None else ended.state
    given_up = marks.gave_up
    # a ResourceExhaustedError may be about the memory of a GPU
    status.needs_memory = CAP not in given_up and (
        ended_as == JobState.OUT_OF_MEMORY or given_up.startswith(MEMORY)
        or marks.error is not None and marks.error.get("type") == "MemoryError")
    may_pass = given_up and not given_up.startswith(MEMORY) or ended_as in (
        JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.TIMEOUT, JobState.PREEMPTED,
        JobState.DEADLINE)
    status.repeats = not status.needs_memory and not may_pass


def _failed_before_cancellation(ended: EndedJob, marks: TaskMarks) -> bool:
    """Whether the script had failed by itself before accounting closed the job as cancelled.

    A controller that starts with an empty state later closes all jobs that accounting lists as
    running as cancelled. A small exit code alone is no proof: a job that is cancelled before srun
    starts its step ends with one too. But its step leaves no error, and accounting ends when the
    script does.
    """
    if ended.state != JobState.CANCELLED or marks.requeues or marks.exit_code not in range(1, 129):
        return False
    if marks.error is not None:
        return True
    return marks.started is not None and marks.exited is not None and ended.elapsed_s is not None \
        and ended.elapsed_s > marks.exited - marks.started + _KILL_WAIT_S


def _by_signal(marks: TaskMarks) -> bool:
    """Whether the script was stopped from outside, as by a cancellation."""
    return marks.exit_code is None or marks.exit_code > 128


def _live(live: LiveJob, marks: TaskMarks) -> TaskStatus:
    # the script has ended, but Slurm still cleans up on the node
    if live.state == JobState.COMPLETING:
        return TaskStatus(TaskState.RUNNING, "ending", elapsed_s=live.elapsed_s,
                          restarts=live.restarts, started=True)
    if live.state.is_running:
        status = TaskStatus(TaskState.RUNNING, elapsed_s=live.elapsed_s, restarts=live.restarts,
                            progress=marks.progress, started=True)
        parts = [_activity(marks)]
        if live.limit_s and live.elapsed_s is not None:
            parts.append(describe_limit(live.limit_s - live.elapsed_s, marks.progress))
        status.detail = ", ".join(word for word in parts if word)
        return status
    if live.dependency_failed:
        return TaskStatus(TaskState.BLOCKED, detail=live.reason or _DEPENDENCY_FAILED)
    if live.waits_for_jobs:
        return TaskStatus(TaskState.WAITING)
    detail = live.reason
    if live.hold is not None:
        detail += _HOLD_HINTS[live.hold is Hold.ADMINISTRATOR]
    if live.start:
        detail += f", expected to start {local_time(live.start)}"
    # a pending job with a mark of its beginning has run before
    if live.restarts or marks.begin is not None:
        return TaskStatus(TaskState.REQUEUED, detail=detail, restarts=live.restarts, started=True)
    return TaskStatus(TaskState.QUEUED, detail=detail)


def _activity(marks: TaskMarks) -> str:
    """What a running task does: its progress, or that its script has begun."""
    if marks.progress is None:
        return "starting" if marks.begin is not None else ""
    return describe_progress(marks.progress)


def _ended(ended: EndedJob, marks: TaskMarks) -> TaskStatus:
    state, detail = _OUTCOMES.get(ended.state, (TaskState.FAILED, ended.state.lower()))
    if _failed_before_cancellation(ended, marks):
        return _exited(marks)
    if ended.state == JobState.BLOCKED:
        return TaskStatus(TaskState.BLOCKED, detail=_DEPENDENCY_FAILED)
    if ended.state == JobState.COMPLETED:
        detail = NO_RESULT
    status = TaskStatus(state, detail, elapsed_s=ended.elapsed_s,
                        started=ended.elapsed_s not in (None, 0.0))
    if ended.state == JobState.FAILED or state is TaskState.FAILED and marks.gave_up:
        # the attempt after a requeue may have been killed before it could write any marker
        if _has_asked(marks) and marks.exit_code != ended.exit_code:
            marks = TaskMarks(begin=marks.begin, requeues=marks.requeues)
        status.detail = _cause(marks, marks.exit_code or ended.exit_code)
    elif ended.state == JobState.NODE_FAIL and ended.node:
        status.detail += f" ({ended.node})"
    status.last_words = _error_lines(marks)
    return status


def _exited(marks: TaskMarks) -> TaskStatus:
    status = TaskStatus(TaskState.FAILED, started=True)
    if marks.exit_code == 0:
        status.detail = NO_RESULT
    else:
        status.detail = _cause(marks, marks.exit_code)
    if marks.started and marks.exited:
        status.elapsed_s = _between(marks.started, marks.exited)
    status.last_words = _error_lines(marks)
    return status


def _between(begin: float, end: float, most: float = math.inf) -> float | None:
    """The seconds between two times, at most ``most``; None if a clock was set back in between."""
    return None if end < begin - _CLOCKS_S else min(max(end - begin, 0.0), most)


def _unknown(job: str, marks: TaskMarks, answer: StepJobs) -> TaskStatus:
    """The state of a task without a job in queue or accounting, and without an exit marker."""
    if answer.unreachable:
        if marks.begin is None:
            return TaskStatus(TaskState.QUEUED, detail=f"{answer.unreachable} does not respond")
        status = TaskStatus(TaskState.RUNNING, started=True, progress=marks.progress)
        parts = [_activity(marks)]
        silent_s = time.time() - marks.progress["written"] if marks.progress else 0.0
        if silent_s > _SILENT_S:
            parts.append(f"no progress for {int(silent_s // 60)} min")
        parts.append(f"{answer.unreachable} does not respond")
        status.detail = ", ".join(part for part in parts if part)
        return status
    if marks.error:
        return TaskStatus(TaskState.FAILED, detail=_cause(marks, None), started=True,
                          last_words=_error_lines(marks))
    if marks.begin is not None:
        return TaskStatus(TaskState.LOST, started=True, detail=(
            "started and ended without output "
            "(killed: out of memory, node failure or a forced stop)"))
    return TaskStatus(TaskState.LOST, detail=f"never started, and {answer.gone}")


def _cause(marks: TaskMarks, code: int | None) -> str:
    """The short reason: why the task was given up, the message of its error, or its exit code."""
    if marks.gave_up:
        return marks.gave_up
    if marks.error:
        kind, message = str(marks.error.get("type", "")), str(marks.error.get("message", ""))
        first = message.splitlines()[0] if message else ""
        if kind in ("MemoryError", "ResourceExhaustedError"):
            return f"out of memory: {first}" if first else "out of memory"
        # errors of this package have an exit code, and messages that need no type before them
        return first if "exit_code" in marks.error else f"{kind}: {first}"
    if code == 137 and marks.terminated:
        return "killed by signal 9, because it did not stop after SIGTERM"
    # slurmdbd can be told of the state before it is told of the code
    text = "failed; Slurm shows no exit code" if code == 0 else \
        describe_exit(1 if code is None else code)
    return f"{text}, in the setup lines" if marks.in_setup else text


def _error_lines(marks: TaskMarks) -> list[str]:
    """The details of the error, or the end of its traceback."""
    if not marks.error:
        return []
    lines = [str(marks.error["where"])] if marks.error.get("where") else []
    # these two may have several lines; a path has one, whatever is in it
    allowed, hint = (str(marks.error.get(name) or "").splitlines() for name in ("allowed", "hint"))
    if len(allowed) > MOST_ALLOWED:  # the hint is among the few lines that status shows
        allowed[MOST_ALLOWED - 1:] = [f"and {len(allowed) - MOST_ALLOWED + 1} more in the log"]
    lines += allowed + hint
    return lines or [str(line) for line in (marks.error.get("tail") or [])][-3:]
