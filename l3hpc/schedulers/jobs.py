"""What a scheduler reports about jobs: their ids, and the state of live and of ended jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from l3hpc.workspace.states import JobState

if TYPE_CHECKING:
    from l3hpc.workspace.run_record import Attempt


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
    helped : bool
        Whether a helper job is in the queue, which changes the request of a held job.
    """

    live: Mapping[str, LiveJob] = field(default_factory=dict)
    ended: Mapping[str, EndedJob] = field(default_factory=dict)
    queried: bool = False
    unreachable: str = ""
    gone: str = "its job no longer exists"
    helped: bool = False


def submitted_job(attempt: Attempt) -> JobId:
    """Return the job of a submission on record.

    Parameters
    ----------
    attempt
        The submission.
    """
    return JobId(attempt.job, attempt.cluster)


def list_jobs(ids: Sequence[str], most: int = 8) -> str:
    """Name jobs in a message; neighbouring tasks of an array as Slurm writes them.

    Parameters
    ----------
    ids
        Their ids, in any order.
    most
        How many jobs and groups of tasks are named; the others are counted.

    Examples
    --------
    >>> list_jobs(["12"]), list_jobs(["14", "13_3", "13_2", "13_1", "12_0", "12_2"])
    ('job 12', 'jobs 14, 13_[1-3], 12_0, 12_2')
    >>> list_jobs(["1", "2", "3_0", "3_1"], most=2)
    'jobs 1, 2 and 2 more'
    """
    groups: list[tuple[str, list[int]]] = []  # array and its tasks; another job, and none
    for job in ids:
        array, _, number = job.partition("_")
        task = int(number) if re.fullmatch("[0-9]+", number) else None
        if task is not None and groups and groups[-1][0] == array \
                and abs(task - groups[-1][1][-1]) == 1:
            groups[-1][1].append(task)
        else:
            groups.append((job, []) if task is None else (array, [task]))
    named = [f"{job}_[{min(tasks)}-{max(tasks)}]" if len(tasks) > 1
             else "_".join([job, *map(str, tasks)]) for job, tasks in groups[:most]]
    rest = len(ids) - sum(len(tasks) or 1 for _, tasks in groups[:most])
    return (f"job{'s' if len(ids) > 1 else ''} {', '.join(named)}"
            + (f" and {rest:,} more" if rest else ""))
