"""The protocol of a scheduler.

``slurm`` and ``local`` implement it; ``schedulers.of`` returns the one that a profile names. No
other package depends on which one that is: differences are expressed by its ``capabilities``.
``requests`` has what it receives, and ``jobs`` what it reports.

First the queries about jobs, then the scheduler itself, then what only some schedulers can do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.run_record import RunRecord, StepRecord

if TYPE_CHECKING:
    from l3hpc.config.capabilities import Capabilities
    from l3hpc.pipelines.planned import Plan
    from l3hpc.schedulers.jobs import EndedJob, JobId, StepJobs
    from l3hpc.schedulers.requests import JobRequest
    from l3hpc.schedulers.requeue_policy import Decision


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

    def following(self, record: RunRecord, *, pending: bool = False) -> list[JobId]:
        """Return the live jobs that were submitted with the script of the job that follows a run,
        on record or not, oldest first.

        Parameters
        ----------
        record
            The record of the run.
        pending
            Whether to leave out those that have started.
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
    """A scheduler that can begin to submit a script before another one is submitted."""

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
        """End what was begun, in place of ``submit``. The job may have been submitted nevertheless.

        Parameters
        ----------
        started
            What ``start`` returned.

        Returns
        -------
        bool
            False if it has already answered: ``submit`` still has to follow.
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
