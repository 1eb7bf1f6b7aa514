"""The states of tasks, steps and runs.

They are text as well: records and ``--json`` hold the plain word, and an older record is read as it
is. What a scheduler says of a job is a ``JobState`` (``l3hpc.schedulers.base``).
"""

from __future__ import annotations

from enum import Enum


class _State(str, Enum):
    """A state that prints as its word (a plain ``str, Enum`` prints as ``TaskState.LOST``)."""

    __str__ = str.__str__

    @property
    def is_active(self) -> bool:
        """Whether it still waits, runs or comes back to the queue."""
        return self.value in _ACTIVE

    @property
    def is_terminal(self) -> bool:
        """Whether it stays so until somebody submits again."""
        return self.value in _TERMINAL


class TaskState(_State):
    """An unfinished task of a step that was submitted (a finished one has its result)."""

    WAITING = "waiting"  # for earlier steps
    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"
    FAILED = "failed"
    BLOCKED = "blocked"  # a step that it needs will not be done
    LOST = "lost"
    CANCELLED = "cancelled"


class StepState(_State):
    """A step: as its record has it (planned, submitted, reused), or as its tasks make it."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    REUSED = "reused"  # done before this run, or meanwhile by another
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    LOST = "lost"
    CANCELLED = "cancelled"

    @property
    def is_done(self) -> bool:
        """Whether its artifact is complete."""
        return self in (StepState.DONE, StepState.REUSED)

    @property
    def is_stuck(self) -> bool:
        """Whether steps behind it cannot run."""
        return self in (StepState.FAILED, StepState.CANCELLED, StepState.LOST, StepState.BLOCKED)


class RunState(_State):
    """A run: as its record has it (submitting, submitted, refused, cancelled), or as its steps make
    it."""

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    TESTED = "tested"  # ``submit --test-only``: nothing is kept
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


_ACTIVE = frozenset({"submitting", "waiting", "queued", "running", "requeued"})
_TERMINAL = frozenset({"done", "reused", "failed", "blocked", "lost", "cancelled", "refused"})
