"""The ``Scheduler`` protocol, and what a scheduler receives and returns.

``slurm`` and ``local`` implement it; ``schedulers.of`` returns the one that a profile names. No
other package depends on which one that is: differences are expressed by its ``capabilities``.

First jobs and their state, then the answers of a scheduler about them, then what is submitted and
how it can be refused, then the protocol itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from l3hpc.config.capabilities import Capabilities
from l3hpc.errors import EXIT_INTERRUPTED, ClusterError
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord
from l3hpc.workspace.states import JobState

if TYPE_CHECKING:
    from l3hpc.pipelines.planned import Plan, PlannedStep
    from l3hpc.schedulers.requeue_policy import Decision


class Hold(Enum):
    """Why a job is held until somebody releases it."""

    USER = "by its user"
    REQUEUED = "after a requeue"
    LAUNCH = "after it could not be started"
    ADMINISTRATOR = "by an administrator"


@dataclass(frozen=True)
class JobId:
    """The identity of a job.

    Attributes
    ----------
    id : str
        ``12``, or ``13_4`` for a task of an array.
    cluster : str
        The cluster that has it; '' if the scheduler has only one, or for its default.
    """

    id: str
    cluster: str = ""

    @property
    def base(self) -> str:
        """The id without the array index."""
        return self.id.partition("_")[0]


@dataclass(frozen=True)
class LiveJob:
    """A job or array task that is waiting or running.

    Attributes
    ----------
    state : JobState
        Its state in the queue.
    reason : str
        Why it is waiting, in plain English.
    elapsed_s, limit_s : float or None
        How long it has been running, and its time limit, seconds.
    start : float or None
        Expected or actual start, unix seconds.
    restarts : int
        How often it was requeued.
    waits_for_jobs : bool
        Whether it is waiting for other jobs.
    dependency_failed : bool
        Whether it is waiting for a job that has failed, so that it can never start.
    hold : Hold or None
        Why it is held; None if it is not.
    """

    state: JobState
    reason: str = ""
    elapsed_s: float | None = None
    start: float | None = None
    restarts: int = 0
    limit_s: float | None = None
    waits_for_jobs: bool = False
    dependency_failed: bool = False
    hold: Hold | None = None

    @property
    def held(self) -> bool:
        """Whether its own user can release it (a requeue may leave it held, too)."""
        return self.hold not in (None, Hold.ADMINISTRATOR)


# states of jobs that may have been waiting until they ended
NEVER_STARTED = (JobState.CANCELLED, JobState.REVOKED, JobState.BLOCKED)


@dataclass(frozen=True)
class EndedJob:
    """A job or array task that has ended.

    Attributes
    ----------
    state : JobState
        How it ended.
    exit_code : int or None
        Exit code of the script; 128 + n for signal n.
    elapsed_s : float or None
        How long it ran, seconds.
    node : str
        Where it ran ('' if unknown).
    """

    state: JobState
    exit_code: int | None
    elapsed_s: float | None
    node: str = ""

    @property
    def never_started(self) -> bool:
        """Whether it was cancelled while it waited, so that it has written nothing."""
        return self.state in NEVER_STARTED and self.elapsed_s == 0


@dataclass
class StepJobs:
    """What a scheduler reports about the jobs of one step, and no others.

    Attributes
    ----------
    live, ended : dict of str to LiveJob, EndedJob
        By task id (``12`` or ``13_4``).
    queried : bool
        Whether the scheduler was queried at all.
    unreachable : str
        The command that did not answer (``squeue``); '' if all did.
    gone : str
        Why a job that is in neither mapping will not start, for messages.
    """

    live: Mapping[str, LiveJob] = field(default_factory=dict)
    ended: Mapping[str, EndedJob] = field(default_factory=dict)
    queried: bool = False
    unreachable: str = ""
    gone: str = "its job no longer exists"


Tasks = Mapping[str, Collection[str]]  # step → ids of jobs or array tasks


class JobAnswer(Protocol):
    """What a scheduler reports about the jobs of some runs."""

    def of(self, record: RunRecord, step: StepRecord, tasks: Collection[str]) -> StepJobs:
        """Return the jobs of one step.

        Parameters
        ----------
        record
            The record of the run.
        step
            The step in it.
        tasks
            Ids of the jobs or array tasks in question; others may be returned as well.
        """

    def notes(self, record: RunRecord) -> list[str]:
        """Return what could not be determined about a run, one sentence each.

        Parameters
        ----------
        record
            The record of the run.
        """

    def queued(self, jobs: Collection[str]) -> bool:
        """Whether any of these jobs is waiting or running, in this workspace.

        Parameters
        ----------
        jobs
            Ids of jobs of other runs.
        """

    def untracked(self, record: RunRecord) -> list[JobId]:
        """Return live jobs of a run that are not in its record.

        The submitting process was killed, or the scheduler's answer was lost. Such jobs never find
        their tasks, and can only be cancelled.

        Parameters
        ----------
        record
            The record of the run.
        """

    def following(self, record: RunRecord) -> list[JobId]:
        """Return the live jobs that were submitted with the script of the job that follows a run,
        on record or not, oldest first.

        Parameters
        ----------
        record
            The record of the run.
        """


class JobQuery(Protocol):
    """A query about the jobs of several runs, which may start before it is complete."""

    def add(self, record: RunRecord, tasks: Tasks) -> None:
        """Add a run.

        Parameters
        ----------
        record
            The record of the run.
        tasks
            Its unfinished tasks.
        """

    def answer(self) -> JobAnswer:
        """Wait for the answer. A scheduler that does not respond is not an error here."""


@dataclass(frozen=True)
class Call:
    """Tasks of a step, as one job or as element ``index`` of an array runs them.

    Attributes
    ----------
    work
        What is pickled, and called in the job (of a packed job, ``work.of(task)`` is).
    folder : Path
        For the pickle and the logs.
    tasks : tuple of int
        Indices of the tasks; one, unless the job is packed.
    index : int
        Index in the array.
    """

    work: Any
    folder: Path
    tasks: tuple[int, ...]
    index: int = 0


@dataclass(frozen=True)
class JobRequest:
    """One script to submit.

    Attributes
    ----------
    script : Path
        The script.
    run : str
        Name of the run.
    step : PlannedStep or None
        None for a job that belongs to no step.
    calls : tuple of Call
        What its job, or each task of its array, runs.
    after_ok, after_any : tuple of JobId
        Jobs that must succeed first, and jobs that must end first, in any way.
    cluster : str
        Where it is to run, from the profile or the record; several if the scheduler chooses.
    last_cluster : str or None
        Where the last job of the run went; None if this is the first one.
    refusals : int
        How often the queue was full before.
    recorded : callable
        Returns the base ids of the jobs of the run that are on record.
    notify : callable
        Receives messages for the user who is waiting.
    pause : callable
        Waits for a number of seconds; may raise to stop the submission.
    give_up_s : float or None
        How long to retry while the scheduler does not respond; None: the scheduler's default.
    pickles : tuple of Path
        The calls as ``pickled_calls.write`` wrote them, which the caller removes if nothing is
        submitted.
    meanwhile : callable
        May be called while the scheduler is at work, any number of times; never raises.
    waiting : callable
        Returns a context manager for the time during which the scheduler does not answer, which
        may raise a ``GivenUpError``. Its argument returns the command that shows whether the job
        exists.
    submitted : callable
        Called with the job before anything else that may fail (a full disk), so that the caller
        can cancel it.
    started : object or None
        What ``StartsAhead.start`` returned for this request.
    doubtful : bool
        Whether an earlier attempt got no answer, and may have submitted the job later.
    """

    script: Path
    run: str
    step: PlannedStep | None = None
    calls: tuple[Call, ...] = ()
    after_ok: tuple[JobId, ...] = ()
    after_any: tuple[JobId, ...] = ()
    cluster: str = ""
    last_cluster: str | None = None
    refusals: int = 0
    recorded: Callable[[], Collection[str]] = tuple
    notify: Callable[[str], None] = lambda text: None
    pause: Callable[[float], None] = time.sleep
    give_up_s: float | None = None
    pickles: tuple[Path, ...] = ()
    meanwhile: Callable[[], None] = lambda: None
    waiting: Callable[[Callable[[], str]], AbstractContextManager[None]] = (
        lambda lookup: nullcontext())
    submitted: Callable[[JobId], None] = lambda job: None
    started: object = None
    doubtful: bool = False


class NotReachedError(ClusterError):
    """The scheduler did not respond, and nothing was submitted."""


class OutcomeUnknownError(ClusterError):
    """It could not be determined whether the job was submitted."""


class GivenUpError(OutcomeUnknownError):
    """The user does not wait until it is known whether the job was submitted."""

    exit_code = EXIT_INTERRUPTED


class QueueFullError(ClusterError):
    """The user, account or QOS has as many jobs as allowed: there will be room later."""


class DependencyGoneError(ClusterError):
    """A job to depend on is no longer known to the scheduler."""


class Scheduler(Protocol):
    """Where jobs run. It belongs to one workspace; submitting needs a profile as well."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def prepare(self) -> None:
        """Start to fetch what ``validate`` will need, while the caller does other things."""

    def validate(self, plan: Plan) -> str:
        """Check that every step of a plan can run.

        Parameters
        ----------
        plan
            The plan.

        Returns
        -------
        str
            Why nothing could be checked; '' if it was.

        Raises
        ------
        InputError
            For a step that can never run.
        """

    def check_command(self, script: Path) -> list[str]:
        """Return the command that checks a script without submitting or running it.

        Parameters
        ----------
        script
            The script.
        """

    def check(self, script: Path) -> None:
        """Check a script with that command.

        Parameters
        ----------
        script
            The script.

        Raises
        ------
        ClusterError
            If it would be refused.
        """

    def submit(self, request: JobRequest) -> JobId:
        """Submit a script, once.

        Parameters
        ----------
        request
            The script, and what it depends on.

        Raises
        ------
        InputError
            If a job that it depends on is on another cluster.
        QueueFullError, DependencyGoneError, NotReachedError, OutcomeUnknownError
            See these classes.
        ClusterError
            For any other refusal, with the scheduler's message.
        """

    def query(self) -> JobQuery:
        """Return a query about the jobs of the runs that are then added to it."""

    def jobs(self, record: RunRecord, tasks: Tasks | None = None) -> JobAnswer:
        """Query the jobs of one run now.

        Parameters
        ----------
        record
            The record of the run.
        tasks
            Its unfinished tasks, if only these matter.

        Raises
        ------
        ClusterError
            If the scheduler does not respond.
        """

    def history(self, record: RunRecord) -> list[tuple[str, EndedJob]] | None:
        """Return every attempt of the jobs of a run that has ended.

        Parameters
        ----------
        record
            The record of the run.

        Returns
        -------
        list of (str, EndedJob) or None
            Task ids and how they ended; None if there is no accounting, or it does not respond.
        """

    def cancel(self, jobs: Sequence[JobId], run: str = "") -> None:
        """Cancel jobs in the given order. Ids that the scheduler has forgotten are not an error.

        Parameters
        ----------
        jobs
            The jobs.
        run
            Name of their run, for messages.

        Raises
        ------
        ClusterError
            Lists what may be left.
        """

    def cancel_run(self, record: RunRecord) -> list[JobId]:
        """Cancel all jobs of a run that are waiting or running, also those not in its record.

        Parameters
        ----------
        record
            The record of the run.

        Returns
        -------
        list of JobId
            The cancelled jobs, those of the last step first.
        """

    def changes(self, decision: Decision) -> list[str]:
        """Return the changes to the request of a held job, in the scheduler's syntax.

        Parameters
        ----------
        decision
            What the job is to request.
        """

    def release(self, job: JobId, changes: Sequence[str]) -> None:
        """Change the request of a held job and release it.

        Parameters
        ----------
        job
            The job.
        changes
            What ``changes`` returned.
        """


@runtime_checkable
class StartsAhead(Protocol):
    """A scheduler that can begin to submit a script while it is at work on another one."""

    def start(self, request: JobRequest) -> object:
        """Begin to submit a script.

        Parameters
        ----------
        request
            The script. ``submit`` of this request has to follow, with ``started`` set to what is
            returned here: whether there is a job is not known before.

        Raises
        ------
        InputError, ClusterError
            If nothing was begun.
        """

    def has_answered(self, started: object) -> bool:
        """Whether ``submit`` of the request would not have to wait.

        Parameters
        ----------
        started
            What ``start`` returned.
        """

    def give_up(self, started: object) -> bool:
        """End what was begun, in place of ``submit``; there may be a job all the same.

        Parameters
        ----------
        started
            What ``start`` returned.

        Returns
        -------
        bool
            False if it has its answer: ``submit`` has to follow after all.
        """


Show = Callable[[RunRecord, dict[str, LocalJob]], None]  # receives a run and its jobs


class Starts(Protocol):
    """A scheduler without a daemon (``capabilities.runner``), which also starts the jobs itself."""

    def run_jobs(self, run: str, show: Show) -> None:
        """Run the submitted jobs of a run until all have ended.

        Parameters
        ----------
        run
            Name of the run.
        show
            Called now and then with the record and the jobs.
        """

    def start_runner(self, run: str, folder: Path) -> None:
        """Start a process in the background that does so.

        Parameters
        ----------
        run
            Name of the run.
        folder
            Its working folder.
        """


def submitted_job(attempt: Attempt) -> JobId:
    """Return the job of a submission on record.

    Parameters
    ----------
    attempt
        The submission.
    """
    return JobId(attempt.job, attempt.cluster)
