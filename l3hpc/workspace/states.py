"""The states of jobs, tasks, steps and runs.

Every state is also a string: records, markers and ``--json`` hold the plain word. ``JobState`` is
what a scheduler reports of a job; the other three are what l3hpc concludes from it and from the
files of the workspace.
"""

from __future__ import annotations

from enum import Enum


class _Word(str, Enum):
    """A state that prints as its word (a plain ``str, Enum`` prints as ``TaskState.LOST``)."""

    __str__ = str.__str__


class _State(_Word):
    """What tasks, steps and runs have in common."""

    @property
    def is_active(self) -> bool:
        """Whether it is waiting, running or about to be requeued."""
        return self.value in _ACTIVE

    @property
    def is_terminal(self) -> bool:
        """Whether it stays so until somebody submits again."""
        return self.value in _TERMINAL


class TaskState(_State):
    """The state of an unfinished task of a submitted step (a finished task has its result)."""

    WAITING = "waiting"  # for earlier steps
    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"
    FAILED = "failed"
    BLOCKED = "blocked"  # a step that it needs will not be done
    LOST = "lost"
    CANCELLED = "cancelled"


class StepState(_State):
    """The state of a step: planned, submitted or reused in its record, else that of its tasks."""

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
        """Whether the steps that depend on it cannot run."""
        return self in (StepState.FAILED, StepState.CANCELLED, StepState.LOST, StepState.BLOCKED)


class RunState(_State):
    """The state of a run: submitting, submitted, tested, refused or cancelled in its record, else
    that of its steps."""

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


class JobState(_Word):
    """The state of a job, in Slurm's terms, which ``local`` writes to disk as well.

    A state that this version does not define (of a newer Slurm) becomes a member of that name; it
    counts as active.
    """

    PENDING = "PENDING"
    REQUEUED = "REQUEUED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    SIGNALING = "SIGNALING"
    STAGE_OUT = "STAGE_OUT"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    PREEMPTED = "PREEMPTED"
    REVOKED = "REVOKED"
    BLOCKED = "BLOCKED"  # only on ``local``: a job that it depends on has failed

    @classmethod
    def _missing_(cls, value: object) -> JobState | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_, unknown._value_ = value, value
        return unknown

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self in _JOB_TERMINAL

    @property
    def is_active(self) -> bool:
        """Whether the job is waiting, running or completing."""
        return self not in _JOB_TERMINAL

    @property
    def is_running(self) -> bool:
        """Whether the job has its resources."""
        return self in _JOB_RUNNING

    @property
    def is_waiting(self) -> bool:
        """Whether the job is waiting to be started (again)."""
        return self in _JOB_WAITING


_JOB_TERMINAL = frozenset({
    JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT,
    JobState.OUT_OF_MEMORY, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.DEADLINE,
    JobState.PREEMPTED, JobState.REVOKED, JobState.BLOCKED})
_JOB_RUNNING = frozenset({
    JobState.RUNNING, JobState.SUSPENDED, JobState.STOPPED, JobState.CONFIGURING,
    JobState.SIGNALING, JobState.STAGE_OUT})
_JOB_WAITING = frozenset({
    JobState.PENDING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.SPECIAL_EXIT})
