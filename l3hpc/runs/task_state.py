"""What became of one task: weighs its markers and what the scheduler says against each other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from l3hpc.console.formatting import (
    describe_exit,
    describe_limit,
    describe_progress,
    local_time,
)
from l3hpc.schedulers.base import EndedJob, Hold, JobState, LiveJob, StepJobs
from l3hpc.workspace.markers import TaskMarks, TaskState

FRESH_S = 300.0
KILL_WAIT_S = 30.0  # Slurm's default between the signal and the end of a cancelled job
HOLDS = {False: ": l3hpc resume releases it", True: ": only an administrator can release it"}
NEVER = "an earlier step failed"
OUTCOMES = {
    JobState.COMPLETED: ("done", ""),
    JobState.FAILED: ("failed", "ended with an error"),
    JobState.OUT_OF_MEMORY: ("failed", "out of memory"),
    JobState.TIMEOUT: ("failed", "time limit"),
    JobState.DEADLINE: ("failed", "deadline passed"),
    JobState.NODE_FAIL: ("failed", "node failure"),
    JobState.BOOT_FAIL: ("failed", "node failure (did not boot)"),
    JobState.PREEMPTED: ("failed", "preempted"),
    JobState.CANCELLED: ("cancelled", "cancelled"),
    JobState.REVOKED: ("cancelled", "revoked"),
}
_NOT_OVER = (JobState.PENDING, JobState.RUNNING, JobState.REQUEUED)  # as accounting has them


@dataclass
class TaskStatus:
    """state: as in ``status.StepStatus``. words: why, or how far. started: it ran at least once."""

    state: TaskState
    words: str = ""
    started: bool = False
    elapsed_s: float | None = None
    restarts: int = 0
    why_again: str = ""
    progress: dict[str, Any] | None = None
    last_words: list[str] = field(default_factory=list)


def judge(
    index: int, job: str, marks: TaskMarks | None, answer: StepJobs, *, was_cancelled: bool = False
) -> TaskStatus:
    """The state of an unfinished task whose latest job is ``job``."""
    marks = (marks or TaskMarks()).of(job)
    live = answer.live.get(job)
    if live is not None:
        status = _live(live, marks)
    elif job in answer.ended and answer.ended[job].state not in _NOT_OVER:
        status = _ended(answer.ended[job], marks)
    elif marks.exit_code is not None:
        status = _exited(marks)
    else:
        status = _silent(job, marks, answer)
    if was_cancelled and (status.state in (TaskState.LOST, TaskState.CANCELLED)
                          or status.state is TaskState.FAILED and _by_signal(marks)):
        status.state, status.words, status.last_words = TaskState.CANCELLED, "", []
    status.started = status.started or marks.begin is not None
    status.restarts = max(status.restarts, marks.restarts)
    if marks.requeues:
        last = marks.requeues[-1]
        status.why_again = str(last.get("words") or last.get("reason", ""))
        if live is not None and live.held and marks.wanted and status.state is TaskState.REQUEUED:
            status.words = "held until " + ("l3hpc resume gives it what it needs"
                                            if last.get("held") else "a helper job has changed it")
    return status


def _flushed(ended: EndedJob, marks: TaskMarks) -> bool:
    """Whether the script had failed by itself: what accounting still holds for running when a
    controller starts with an empty state, it closes as cancelled, some time later.

    A small exit code alone does not say so: a job that is cancelled before srun starts its step
    ends with one too. Its step leaves no error, and accounting ends when the script does.
    """
    if ended.state != JobState.CANCELLED or marks.requeues or marks.exit_code not in range(1, 129):
        return False
    if marks.error is not None:
        return True
    return marks.started is not None and marks.exited is not None and ended.elapsed_s is not None \
        and ended.elapsed_s > marks.exited - marks.started + KILL_WAIT_S


def _by_signal(marks: TaskMarks) -> bool:
    """Whether the script was stopped from outside, as a cancellation does it."""
    return marks.exit_code is None or marks.exit_code > 128


def _live(live: LiveJob, marks: TaskMarks) -> TaskStatus:
    if live.state == JobState.COMPLETING:
        return TaskStatus(TaskState.RUNNING, "ending", elapsed_s=live.elapsed_s,
                          restarts=live.restarts, started=True)
    if live.state.is_running:
        status = TaskStatus(TaskState.RUNNING, elapsed_s=live.elapsed_s, restarts=live.restarts,
                            progress=marks.progress, started=True)
        parts = [describe_progress(marks.progress)] if marks.progress else []
        if live.limit_s and live.elapsed_s is not None:
            parts.append(describe_limit(live.limit_s - live.elapsed_s, marks.progress))
        status.words = ", ".join(word for word in parts if word)
        return status
    if live.never:
        return TaskStatus(TaskState.BLOCKED, words=live.words or NEVER)
    if live.after_others:
        return TaskStatus(TaskState.WAITING)
    words = live.words
    if live.hold is not None:
        words += HOLDS[live.hold is Hold.ADMINISTRATOR]
    if live.start:
        words += f", expected to start {local_time(live.start)}"
    if live.restarts or marks.begin is not None:
        return TaskStatus(TaskState.REQUEUED, words=words, restarts=live.restarts, started=True)
    return TaskStatus(TaskState.QUEUED, words=words)


def _ended(ended: EndedJob, marks: TaskMarks) -> TaskStatus:
    outcome, words = OUTCOMES.get(ended.state, ("failed", ended.state.lower()))
    state = TaskState.CANCELLED if outcome == TaskState.CANCELLED else TaskState.FAILED
    if _flushed(ended, marks):
        return _exited(marks)
    if ended.state == JobState.BLOCKED:
        return TaskStatus(TaskState.BLOCKED, words=NEVER)
    if ended.state == JobState.COMPLETED:
        words = "the job ended well, but left no result"
    status = TaskStatus(state, words, elapsed_s=ended.elapsed_s,
                        started=ended.elapsed_s not in (None, 0.0))
    if ended.state == JobState.FAILED or state is TaskState.FAILED and marks.gave_up:
        status.words = _cause(marks, marks.exit_code or ended.exit_code)
    elif ended.state == JobState.NODE_FAIL and ended.node:
        status.words += f" ({ended.node})"
    status.last_words = _tail(marks)
    return status


def _exited(marks: TaskMarks) -> TaskStatus:
    status = TaskStatus(TaskState.FAILED, started=True)
    if marks.exit_code == 0:
        status.words = "the job ended well, but left no result"
    else:
        status.words = _cause(marks, marks.exit_code)
    if marks.started and marks.exited:
        status.elapsed_s = max(marks.exited - marks.started, 0.0)
    status.last_words = _tail(marks)
    return status


def _silent(job: str, marks: TaskMarks, answer: StepJobs) -> TaskStatus:
    """Neither queue nor accounting nor an exit marker: judge by what there is."""
    if answer.silent:
        if marks.begin is None:
            return TaskStatus(TaskState.QUEUED, words=f"{answer.silent} does not answer")
        status = TaskStatus(TaskState.RUNNING, started=True, progress=marks.progress)
        words = describe_progress(marks.progress) if marks.progress else ""
        quiet = time.time() - marks.progress["written"] if marks.progress else 0.0
        if quiet > FRESH_S:
            words += f"{', ' if words else ''}silent for {int(quiet // 60)} min"
        status.words = f"{words}{', ' if words else ''}{answer.silent} does not answer"
        return status
    if marks.error:
        return TaskStatus(TaskState.FAILED, words=_cause(marks, None), started=True,
                          last_words=_tail(marks))
    if marks.begin is not None:
        return TaskStatus(TaskState.LOST, started=True, words=(
            "it began and ended without output "
            "(killed: out of memory, node failure or a forced stop)"))
    return TaskStatus(TaskState.LOST, words="it never began, and Slurm no longer knows its job")


def _cause(marks: TaskMarks, code: int | None) -> str:
    """The short reason: why healing gave up, the error's own message, or the exit code."""
    if marks.gave_up:
        return marks.gave_up
    if marks.error:
        kind, message = str(marks.error.get("type", "")), str(marks.error.get("message", ""))
        first = message.splitlines()[0] if message else ""
        if kind in ("MemoryError", "ResourceExhaustedError"):
            return f"out of memory: {first}" if first else "out of memory"
        own = "exit_code" in marks.error  # an error that was written for a person
        return first if own else f"{kind}: {first}"
    if code == 137 and marks.asked_to_end:
        return "killed by signal 9, because it did not end when it was asked to"
    words = describe_exit(1 if code is None else code)
    return f"{words}, in the setup lines" if marks.in_setup else words


def _tail(marks: TaskMarks) -> list[str]:
    if not marks.error:
        return []
    lines = [str(marks.error[name]) for name in ("where", "allowed", "hint")
             if marks.error.get(name)]
    return lines or [str(line) for line in (marks.error.get("tail") or [])][-3:]
