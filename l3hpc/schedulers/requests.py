"""What a scheduler is asked to submit, and the errors with which it may refuse.

A ``JobRequest`` is one script, with the jobs that it depends on. Any refusal that needs no
treatment of its own is a plain ``ClusterError`` with the scheduler's message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.errors import EXIT_INTERRUPTED, ClusterError, L3hpcError, command_line
from l3hpc.schedulers.jobs import JobId, list_jobs

if TYPE_CHECKING:
    from l3hpc.pipelines.planned import PlannedStep


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
    index : int or None
        Index in the array; None: the job is no array.
    """

    work: Any
    folder: Path
    tasks: tuple[int, ...]
    index: int | None = None


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
        May be called during the submission, any number of times; never raises.
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


class GivenUpError(L3hpcError):
    """The user no longer waits to learn what the scheduler has done.

    It is no ``ClusterError``, because those may be tried again.
    """

    exit_code = EXIT_INTERRUPTED


def cancelling_given_up(jobs: Sequence[JobId], run: str) -> GivenUpError:
    """Return the error of a user who does not wait until jobs are cancelled.

    Parameters
    ----------
    jobs, run
        What was to be cancelled, and the name of the run.
    """
    return GivenUpError("interrupted before Slurm had cancelled all jobs; may still be in the "
                        f"queue: {list_jobs([job.id for job in jobs])}",
                        hint=f"To cancel them: {command_line('cancel', run or 'RUN')}")


class QueueFullError(ClusterError):
    """The user, account or QOS has as many jobs as allowed: there will be room later."""


class DependencyGoneError(ClusterError):
    """A job to depend on is no longer known to the scheduler."""
