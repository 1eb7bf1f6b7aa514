"""How the jobs of a local run stand: ``<run folder>/local.json``, kept by its runner.

The runner writes it at every change; status and cancel read it. Each job is named as Slurm would
(``12``, ``13_4``) and has one of Slurm's states, so that status need not know the difference.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.errors import InputError, note_damage
from l3hpc.io.files import read_json, write_json, write_text
from l3hpc.io.typed import mapping
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Owner, process_start
from l3hpc.workspace.records import RunRecord

LIVE = ("PENDING", "RUNNING")


def entry(workspace: Path, job: str) -> dict[str, Any] | None:
    """The spool's entry of a local job; None when there is no such job."""
    path = Workspace(workspace).local_job(job)
    try:
        return mapping(_Entry, read_json(path), "job")
    except FileNotFoundError:
        return None
    except InputError as error:
        note_damage(InputError(error.message, where=error.where or str(path)))
        return None


class _Entry(TypedDict):
    run: str
    after: NotRequired[list[str]]


class _Job(TypedDict):
    state: str
    step: str
    task: int
    job: str
    array: bool
    after: list[str]
    pid: NotRequired[int | None]
    started: NotRequired[float | None]
    ended: NotRequired[float | None]
    exit: NotRequired[int | None]
    restarts: NotRequired[int]
    time_min: NotRequired[float | None]
    mem_mb: NotRequired[int | None]


class _State(TypedDict):
    jobs: dict[str, dict[str, Any]]


class LocalJobs:
    """The jobs of one local run. ``jobs``: task id → state, step, task, exit, started, ended, pid.

    state: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT or BLOCKED (a parent failed).
    """

    def __init__(self, workspace: Path, run: str) -> None:
        self._workspace, self._folder = Path(workspace), Workspace(workspace).run(run)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.load()

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder.local_state

    def load(self) -> None:
        """Read the file again."""
        self.jobs = {}
        try:
            jobs = mapping(_State, read_json(self.path), "state")["jobs"]
            self.jobs = {name: mapping(_Job, job, name) for name, job in jobs.items()}
        except FileNotFoundError:
            pass
        except InputError as error:
            note_damage(InputError(error.message, where=error.where or str(self.path)))

    def save(self) -> None:
        """Replace the file."""
        write_json(self.path, {"schema": 1, "host": socket.gethostname(), "jobs": self.jobs})

    def take_up(self, record: RunRecord) -> None:
        """Add the jobs of the record that are not here yet (nothing is saved)."""
        for step in record.steps:
            for attempt in step.attempts:
                for index, name in attempt.task_ids.items():
                    if name not in self.jobs:
                        told = entry(self._workspace, attempt.job) or {}
                        self.jobs[name] = {
                            "state": "PENDING", "step": step.name, "task": index,
                            "job": attempt.job, "array": attempt.array,
                            "after": told.get("after", [])}

    def settled(self, record: RunRecord) -> bool:
        """True when every job of the record is known here, and none waits or runs."""
        known = {job["job"] for job in self.jobs.values()}
        return all(attempt.job in known for step in record.steps for attempt in step.attempts) \
            and not any(job["state"] in LIVE for job in self.jobs.values())

    def runner(self) -> dict[str, Any] | None:
        """The live runner of the run (``host``, ``pid``); None when there is none."""
        return Owner(self._folder.runner_lease).holder()

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
            if job["state"] not in LIVE:
                continue
            if alive(job):
                with suppress(ProcessLookupError):
                    os.killpg(job["pid"], signal.SIGTERM)
            job["state"] = "CANCELLED"
        if self.jobs:
            self.save()


def alive(job: dict[str, Any]) -> bool:
    """True when the process of a job still runs on this machine."""
    return bool(job.get("pid") and job.get("host") == socket.gethostname()
                and process_start(job["pid"]) == job.get("start"))
