"""How the jobs of a local run stand: ``<run folder>/local.json``, kept by its runner.

The runner writes it at every change; status and cancel read it. Each job is named as Slurm would
(``12``, ``13_4``) and has one of Slurm's states, so that status need not know the difference.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import read_json, write_json, write_text
from l3hpc.io.values import check_mapping, dataclass_from
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease, process_start
from l3hpc.workspace.records import RunRecord

LIVE = ("PENDING", "RUNNING")


def entry(workspace: Path, job: str) -> dict[str, Any] | None:
    """The spool's entry of a local job; None when there is no such job."""
    path = Workspace(workspace).local_job(job)
    try:
        return check_mapping(_Entry, read_json(path), "job")
    except FileNotFoundError:
        return None
    except InputError as error:
        report_damage(InputError(error.message, where=error.where or str(path)))
        return None


class _Entry(TypedDict):
    run: str
    after: NotRequired[list[str]]


@dataclass
class LocalJob:
    """One job of a local run.

    Attributes
    ----------
    state : str
        PENDING, RUNNING, COMPLETED, FAILED, OUT_OF_MEMORY, TIMEOUT, CANCELLED or BLOCKED (a job
        that it waits for has failed).
    step, task
        Which task of which step it runs.
    job : str
        Its id; of an array the base id.
    array : bool
    after : list of str
        Ids of the jobs that it waits for.
    pid, start, host
        The process of a running job, when it began in clock ticks since boot, and where.
    started, ended : float or None
        Unix seconds.
    exit : int or None
    restarts : int
    time_min, mem_mb
        What its requeues have granted it, in minutes and MiB.
    warned, over : bool
        Whether it was warned before its time limit, and killed above its memory.
    kernel_kills : int or None
        How many processes the kernel had killed for memory when the job began.
    by : list of str
        The jobs that block it.
    """

    state: str
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

    def to_json(self) -> dict[str, Any]:
        """JSON values; what says nothing is left out."""
        always = ("state", "step", "task", "job", "array", "after")
        return {name: value for name, value in vars(self).items()
                if name in always or value not in (None, 0, [])
                or name in ("exit", "kernel_kills") and value is not None}

    @classmethod
    def from_json(cls, value: Any, name: str) -> LocalJob:
        """The job read back. name: its id, for the message of an ``InputError``."""
        if isinstance(value, dict):
            known = cls.__dataclass_fields__
            # what an earlier version wrote as null is not there
            value = {key: item for key, item in value.items() if key in known and item is not None}
        return dataclass_from(cls, value, name)

    def end(self, state: str, code: int | None = None) -> None:
        """The job has ended now. code: its exit code, where it has one of its own."""
        self.state, self.ended = state, time.time()
        self.exit = self.exit if code is None else code

    def wait_again(self) -> None:
        """Back to the queue: nothing of the attempt that has ended counts any more."""
        self.state, self.restarts = "PENDING", self.restarts + 1
        self.pid = self.start = self.started = self.ended = self.exit = None
        self.warned = self.over = False


class _State(TypedDict):
    jobs: dict[str, dict[str, Any]]


class LocalJobs:
    """The jobs of one local run. ``jobs``: task id → job."""

    def __init__(self, workspace: Path, run: str) -> None:
        self._workspace, self._folder = Path(workspace), Workspace(workspace).run(run)
        self.jobs: dict[str, LocalJob] = {}
        self.load()

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder.local_state

    def load(self) -> None:
        """Read the file again."""
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
        """Add the jobs of the record that are not here yet (nothing is saved)."""
        for step in record.steps:
            for attempt in step.attempts:
                for index, name in attempt.task_ids.items():
                    if name not in self.jobs:
                        spooled = entry(self._workspace, attempt.job) or {}
                        self.jobs[name] = LocalJob("PENDING", step.name, index, attempt.job,
                                                   attempt.array, spooled.get("after", []))

    def settled(self, record: RunRecord) -> bool:
        """True when every job of the record is known here, and none waits or runs."""
        known = {job.job for job in self.jobs.values()}
        return all(attempt.job in known for step in record.steps for attempt in step.attempts) \
            and not any(job.state in LIVE for job in self.jobs.values())

    def runner(self) -> dict[str, Any] | None:
        """The live runner of the run (``host``, ``pid``); None when there is none."""
        return Lease(self._folder.runner_lease).holder()

    def ask_to_stop(self) -> None:
        """Leave a request that the runner looks for (from any machine)."""
        write_text(self._folder.stop_runner, "")

    def asked_to_stop(self) -> bool:
        """True when someone asked the runner to stop."""
        return self._folder.stop_runner.exists()

    def forget_stop(self) -> None:
        """Remove an old request."""
        self._folder.stop_runner.unlink(missing_ok=True)

    def stop_orphans(self) -> None:
        """Without a runner: end the processes it left here, and mark all as cancelled."""
        for job in self.jobs.values():
            if job.state not in LIVE:
                continue
            if job.pid and alive(job):
                with suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGTERM)
            job.state = "CANCELLED"
        if self.jobs:
            self.save()


def alive(job: LocalJob) -> bool:
    """True when the process of a job still runs on this machine."""
    return bool(job.pid and job.host == socket.gethostname()
                and process_start(job.pid) == job.start)
