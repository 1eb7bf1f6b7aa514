"""The jobs of a local run: ``<run folder>/local.json``, which its runner keeps up to date.

The runner writes the file at every change; status and cancel read it. Jobs have ids and states as
on Slurm (``12``, ``13_4``; ``JobState``), so that status treats both alike.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import read_json, write_json, write_text
from l3hpc.io.processes import process_start
from l3hpc.io.values import check_mapping, dataclass_from
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.run_record import RunRecord
from l3hpc.workspace.states import JobState


class SpoolEntry(TypedDict):
    """What ``local/jobs/<id>.json`` holds of a job: its run, and the jobs that it waits for."""

    run: str
    after: NotRequired[list[str]]
    after_any: NotRequired[list[str]]


class _State(TypedDict):
    jobs: dict[str, dict[str, Any]]


@dataclass
class LocalJob:
    """One job of a local run.

    Attributes
    ----------
    state : JobState
        PENDING, RUNNING, COMPLETED, FAILED, OUT_OF_MEMORY, TIMEOUT, CANCELLED or BLOCKED (a job
        that it depends on has failed).
    step : str
        Name of its step.
    task : int
        Index of its task.
    job : str
        Its id; of an array the base id.
    array : bool
        Whether it is a task of an array.
    after : list of str
        Ids of the jobs that have to succeed first.
    pid, start, host : int, int, str or None
        Process of a running job, when it began (clock ticks since boot), and on which machine.
    started, ended : float or None
        Unix seconds.
    exit : int or None
        Exit code of its script.
    restarts : int
        How often it was requeued.
    time_min, mem_mb : float, int or None
        Minutes and MiB that its requeues have granted; minutes also those of a packed job.
    warned, over : bool
        Whether it was warned before its time limit, and killed because it exceeded its memory.
    kernel_kills : int or None
        How many processes the kernel had killed for lack of memory when the job began.
    by : list of str
        Ids of the jobs that block it.
    after_any : list of str
        Ids of the jobs that have to end first.
    tasks : list of int
        Indices of all tasks of a packed job, of which ``task`` is the first; empty for others.
    """

    state: JobState
    step: str
    task: int
    job: str
    array: bool
    after: list[str]
    pid: int | None = None
    start: int | None = None
    host: str | None = None
    started: float | None = None
    ended: float | None = None
    exit: int | None = None
    restarts: int = 0
    time_min: float | None = None
    mem_mb: int | None = None
    warned: bool = False
    over: bool = False
    kernel_kills: int | None = None
    by: list[str] = field(default_factory=list)
    after_any: list[str] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the job as JSON values, without the fields that have no content."""
        always = ("state", "step", "task", "job", "array", "after")
        return {name: value for name, value in vars(self).items()
                if name in always or value not in (None, 0, [])
                or name in ("exit", "kernel_kills") and value is not None}

    @classmethod
    def from_json(cls, value: object, name: str) -> LocalJob:
        """Read a job back from its JSON values.

        Parameters
        ----------
        value
            What ``to_json`` returned, also in an earlier version.
        name
            Id of the job, for messages.

        Raises
        ------
        InputError
            If a field is missing, unknown or of another type.
        """
        if isinstance(value, dict):
            fields = cls.__dataclass_fields__
            # earlier versions wrote missing values as null
            value = {key: item for key, item in value.items() if key in fields and item is not None}
            state = value.get("state")
            if isinstance(state, str) and state in JobState.__members__:
                value["state"] = JobState(state)
        return dataclass_from(cls, value, name)

    def end(self, state: JobState, code: int | None = None, ran_s: float | None = None) -> None:
        """Note that the job has ended now.

        Parameters
        ----------
        state
            How it ended.
        code
            Its exit code; None keeps the one it has, if any.
        ran_s
            How long it has run, seconds: the clock may have been set since it began.
        """
        self.state = state
        self.ended = time.time() if ran_s is None or self.started is None else self.started + ran_s
        self.exit = self.exit if code is None else code

    def requeue(self) -> None:
        """Make the job pending again and forget everything about the attempt that has ended."""
        self.state, self.restarts = JobState.PENDING, self.restarts + 1
        self.pid = self.start = self.started = self.ended = self.exit = None
        self.warned = self.over = False


class LocalJobs:
    """The jobs of one local run, read from its file.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.

    Attributes
    ----------
    jobs : dict of str to LocalJob
        By job id; of an array by task id (``13_4``).
    """

    def __init__(self, workspace: Path, run: str) -> None:
        self._workspace, self._folder = Path(workspace), Workspace(workspace).run(run)
        self.jobs: dict[str, LocalJob] = {}
        self.load()

    @property
    def path(self) -> Path:
        """The file ``local.json``."""
        return self._folder.local_state

    def load(self) -> None:
        """Read the file again; a damaged one is noted as damage and counts as empty."""
        self.jobs = {}
        try:
            jobs = check_mapping(_State, read_json(self.path), "state")["jobs"]
            self.jobs = {name: LocalJob.from_json(job, name) for name, job in jobs.items()}
        except FileNotFoundError:
            pass
        except InputError as error:
            report_damage(InputError(error.message, where=error.where or str(self.path)))

    def save(self) -> None:
        """Replace the file."""
        write_json(self.path, {"schema": 1, "host": socket.gethostname(), "jobs": {
            name: job.to_json() for name, job in self.jobs.items()}})

    def take_up(self, record: RunRecord) -> None:
        """Add the jobs of a record that are not here yet, as pending. Nothing is saved.

        Parameters
        ----------
        record
            The record of the run.
        """
        for step in record.steps:
            for attempt in step.attempts:
                names = attempt.task_ids
                for together in attempt.elements:
                    name = names[together[0]]
                    if name not in self.jobs:
                        spooled = spool_entry(self._workspace, attempt.job)
                        self.jobs[name] = LocalJob(
                            JobState.PENDING, step.name, together[0], attempt.job, attempt.array,
                            spooled.get("after", []) if spooled else [],
                            after_any=spooled.get("after_any", []) if spooled else [],
                            tasks=[*together] if attempt.pack > 1 else [],
                            time_min=float(step.resources.get("time_min", 0)) * attempt.pack
                            if attempt.pack > 1 else None)

    def settled(self, record: RunRecord) -> bool:
        """Whether every job of a record is here, and none is pending or running.

        Parameters
        ----------
        record
            The record of the run.
        """
        known = {job.job for job in self.jobs.values()}
        return all(attempt.job in known for step in record.steps for attempt in step.attempts) \
            and not any(job.state.is_active for job in self.jobs.values())

    def runner(self) -> dict[str, Any] | None:
        """Return the live runner of the run (``host``, ``pid``, ``label``), or None."""
        return Lease(self._folder.runner_lease).holder()

    def had_runner(self, since: float) -> bool:
        """Whether a runner has begun since then, alive or not.

        Parameters
        ----------
        since
            Unix seconds.
        """
        latest = Lease(self._folder.runner_lease).latest()
        began = latest.get("since") if latest is not None else None  # unknown to earlier versions
        return isinstance(began, float) and began >= since

    def ask_to_stop(self) -> None:
        """Leave a request to stop, which the runner notices from any machine."""
        # a file, because a signal does not reach another machine
        write_text(self._folder.stop_runner, "")

    def asked_to_stop(self) -> bool:
        """Whether somebody has asked the runner to stop."""
        return self._folder.stop_runner.exists()

    def forget_stop(self) -> None:
        """Remove an earlier request to stop."""
        self._folder.stop_runner.unlink(missing_ok=True)

    def stop_orphans(self) -> None:
        """Terminate the processes that a runner left here, and mark all jobs as cancelled."""
        for job in self.jobs.values():
            if job.state.is_terminal:
                continue
            if job.pid and is_alive(job):
                with suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGTERM)
            job.state = JobState.CANCELLED
        if self.jobs:
            self.save()


def is_alive(job: LocalJob) -> bool:
    """Whether the process of a job still runs on this machine."""
    # a process id alone may have been given to another process since
    return bool(job.pid and job.host == socket.gethostname()
                and process_start(job.pid) == job.start)


def spool_entry(workspace: Path, job: str) -> SpoolEntry | None:
    """Read the spool's entry of a local job.

    Parameters
    ----------
    workspace
        The workspace folder.
    job
        Id of the job; of an array its base id.

    Returns
    -------
    SpoolEntry or None
        None if there is no such job, or its entry is damaged (which is noted as damage).
    """
    path = Workspace(workspace).local_job(job)
    try:
        return cast("SpoolEntry", check_mapping(SpoolEntry, read_json(path), "job"))
    except FileNotFoundError:
        return None
    except InputError as error:
        report_damage(InputError(error.message, where=error.where or str(path)))
        return None
