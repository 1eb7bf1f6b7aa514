"""What every scheduler offers and is given: jobs, their states, and the ``Scheduler`` protocol.

``slurm`` and ``local`` implement it; ``schedulers.of`` finds the one that a profile names. Nothing
outside of this package needs to know which one that is: differences are asked through
``capabilities``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from l3hpc.config.capabilities import Capabilities
from l3hpc.errors import ClusterError
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.records import Attempt, RunRecord, StepRecord

if TYPE_CHECKING:
    from l3hpc.pipelines.planned import Plan, PlannedStep
    from l3hpc.schedulers.requeue_policy import Decision


class JobState(str, Enum):
    """The state of a job, in the words of Slurm, which ``local`` writes to disk as well.

    A word that this version does not know (a newer Slurm's) becomes a state of that name.
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
    BLOCKED = "BLOCKED"  # of ``local``: a job that it waits for has failed

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)

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
        return self in _TERMINAL

    @property
    def is_active(self) -> bool:
        """Whether the job waits, runs or is just ending."""
        return self not in _TERMINAL

    @property
    def is_running(self) -> bool:
        """Whether the job has its resources."""
        return self in _RUNNING

    @property
    def is_waiting(self) -> bool:
        """Whether the job waits to be started (again)."""
        return self in _WAITING


_TERMINAL = frozenset({
    JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT,
    JobState.OUT_OF_MEMORY, JobState.NODE_FAIL, JobState.BOOT_FAIL, JobState.DEADLINE,
    JobState.PREEMPTED, JobState.REVOKED, JobState.BLOCKED})
_RUNNING = frozenset({
    JobState.RUNNING, JobState.SUSPENDED, JobState.STOPPED, JobState.CONFIGURING,
    JobState.SIGNALING, JobState.STAGE_OUT})
_WAITING = frozenset({
    JobState.PENDING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.SPECIAL_EXIT})


class Hold(Enum):
    """Why a job waits until somebody releases it."""

    USER = "by its user"
    REQUEUED = "after a requeue"
    LAUNCH = "after it could not be started"
    ADMINISTRATOR = "by an administrator"


@dataclass(frozen=True)
class JobId:
    """A job: its id, and the cluster that has it ('' where the scheduler has only one, or for its
    default). id: ``12``; ``13_4`` for a task of an array."""

    id: str
    cluster: str = ""

    @property
    def base(self) -> str:
        """The id without the index of an array's task."""
        return self.id.partition("_")[0]


@dataclass(frozen=True)
class LiveJob:
    """A job or array task that waits or runs.

    Attributes
    ----------
    state : JobState
    words : str
        Why it waits, for a person.
    elapsed_s, limit_s : float or None
        How long it has run, and how long it may.
    start : float or None
        Expected or real, unix seconds.
    restarts : int
    after_others : bool
        Whether it waits for other jobs.
    never : bool
        Whether it waits for a job that has failed.
    hold : Hold or None
        Why it is held; None where it is not.
    """

    state: JobState
    words: str = ""
    elapsed_s: float | None = None
    start: float | None = None
    restarts: int = 0
    limit_s: float | None = None
    after_others: bool = False
    never: bool = False
    hold: Hold | None = None

    @property
    def held(self) -> bool:
        """Whether it waits to be released by its own user (a requeue holds it so)."""
        return self.hold not in (None, Hold.ADMINISTRATOR)


@dataclass(frozen=True)
class EndedJob:
    """A job or array task that has ended. exit_code: of the script (128 + n: a signal)."""

    state: JobState
    exit_code: int | None
    elapsed_s: float | None
    node: str = ""


@dataclass
class StepJobs:
    """What a scheduler says of jobs of one step, and of no others.

    Attributes
    ----------
    live, ended : dict of str to LiveJob, EndedJob
        By task id (``12`` or ``13_4``).
    asked : bool
        Whether the scheduler was asked at all.
    silent : str
        Who did not answer (``squeue``); '' where there is nothing to complain about.
    """

    live: Mapping[str, LiveJob] = field(default_factory=dict)
    ended: Mapping[str, EndedJob] = field(default_factory=dict)
    asked: bool = False
    silent: str = ""


Tasks = Mapping[str, Collection[str]]  # step → ids of jobs or array tasks


class JobAnswer(Protocol):
    """What a scheduler says of the jobs of some runs."""

    def of(self, record: RunRecord, step: StepRecord, tasks: Collection[str]) -> StepJobs:
        """What it says of these tasks of a step (it may say more)."""

    def notes(self, record: RunRecord) -> list[str]:
        """What could not be found out about a run, for a person."""

    def queued(self, jobs: Collection[str]) -> bool:
        """Whether any of these jobs of other runs of this workspace waits or runs."""

    def untracked(self, record: RunRecord) -> list[JobId]:
        """Live jobs of a run that its record does not know: the submitting process was killed, or
        the scheduler's answer was lost. They never find their tasks, and can only be cancelled."""


class JobQuery(Protocol):
    """A question about the jobs of several runs, which is asked while it is still being put."""

    def add(self, record: RunRecord, tasks: Tasks) -> None:
        """Ask for the unfinished tasks of a run as well."""

    def answer(self) -> JobAnswer:
        """Wait for the answer. A scheduler that is silent is no error here."""


@dataclass(frozen=True)
class Call:
    """Task ``task`` of a step, as one job or as element ``index`` of an array runs it.

    work: what is pickled and called. folder: for the pickle and the logs.
    """

    work: Callable[[], Any]
    folder: Path
    task: int
    index: int = 0


@dataclass(frozen=True)
class JobRequest:
    """One script to be submitted.

    Attributes
    ----------
    script : Path
    run : str
    step : PlannedStep or None
        None for a job that belongs to no step.
    calls : tuple of Call
        What its job, or each task of its array, runs.
    after, behind : tuple of JobId
        Jobs that must succeed first, and jobs that must have ended first, however they end.
    cluster : str
        Where it is to run, as the profile or the record says; several where the scheduler chooses.
    placed : str or None
        Where the run's last job went; None where this is the first one.
    max_timeouts : int
        How often a task may meet its time limit and go on.
    refused : int
        How often the queue was full before.
    known : callable
        Gives the base ids of the jobs of the run that are on record.
    say : callable
        Takes lines for the person who waits.
    pause : callable
        Waits so many seconds; may raise to stop the submission.
    give_up_s : float or None
        How long to retry while the scheduler does not answer; None: as long as it sees fit.
    """

    script: Path
    run: str
    step: PlannedStep | None = None
    calls: tuple[Call, ...] = ()
    after: tuple[JobId, ...] = ()
    behind: tuple[JobId, ...] = ()
    cluster: str = ""
    placed: str | None = None
    max_timeouts: int = 3
    refused: int = 0
    known: Callable[[], Collection[str]] = tuple
    say: Callable[[str], None] = lambda words: None
    pause: Callable[[float], None] = time.sleep
    give_up_s: float | None = None


class NotReachedError(ClusterError):
    """The scheduler did not answer, and nothing was submitted."""


class OutcomeUnknownError(ClusterError):
    """Nothing shows whether the job was submitted."""


class QueueFullError(ClusterError):
    """As many jobs wait or run as this person, account or QOS may have: there is room later."""


class DependencyGoneError(ClusterError):
    """A job to wait for has left the scheduler's memory."""


class Scheduler(Protocol):
    """Where jobs run. One for a workspace; the profile is known where jobs are submitted."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def prepare(self) -> None:
        """Start to ask for what ``validate`` will need, while the caller does other things."""

    def validate(self, plan: Plan) -> str:
        """Raise ``InputError`` for a step that can never run; return why nothing could be checked
        ('' where it was)."""

    def check_command(self, script: Path) -> list[str]:
        """The command that checks a script without running or submitting it."""

    def check(self, script: Path) -> None:
        """Raise ``ClusterError`` where the script would be refused."""

    def submit(self, request: JobRequest) -> JobId:
        """Submit a script, once.

        Raises
        ------
        InputError
            A job that it waits for is on another cluster.
        QueueFullError, DependencyGoneError, NotReachedError, OutcomeUnknownError
        ClusterError
            Any other refusal, with the scheduler's words.
        """

    def query(self, records: Sequence[RunRecord]) -> JobQuery:
        """A question about the jobs of these runs."""

    def jobs(self, record: RunRecord, tasks: Tasks | None = None) -> JobAnswer:
        """What it says of one run's jobs now; a ``ClusterError`` where it does not answer.

        tasks: the unfinished ones, where only those count.
        """

    def history(self, record: RunRecord) -> list[tuple[str, EndedJob]] | None:
        """Every attempt of a run's jobs that has ended: (task id, how); None where accounting does
        not answer."""

    def cancel(self, jobs: Sequence[JobId], run: str = "") -> None:
        """Cancel these jobs in this order. Ids that the scheduler forgot are no error; a
        ``ClusterError`` lists what may be left."""

    def cancel_run(self, record: RunRecord) -> list[JobId]:
        """Cancel all of a run that waits or runs, also what its record does not know; return it,
        the last step first."""

    def changes(self, decision: Decision) -> list[str]:
        """What of a held job's request is to be changed, in the scheduler's words."""

    def release(self, job: JobId, changes: Sequence[str]) -> None:
        """Change the request of a held job and let it go."""


Show = Callable[[RunRecord, dict[str, LocalJob]], None]  # a run and its jobs as they stand


class Starts(Protocol):
    """A scheduler without a daemon (``capabilities.runner``) also starts the jobs itself."""

    def run_jobs(self, run: str, show: Show) -> None:
        """Run what was submitted of a run, until all has ended. show: called now and then."""

    def start_runner(self, run: str, folder: Path) -> None:
        """Leave a runner behind that does so, in this working folder."""


def submitted_job(attempt: Attempt) -> JobId:
    """The job of a submission on record."""
    return JobId(attempt.job, attempt.cluster)
