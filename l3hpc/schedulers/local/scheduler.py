"""This machine as a ``Scheduler``: the same scripts, run by bash.

A spool in the workspace assigns the job ids: ``local/jobs/<id>.json`` is created exclusively, so
that two submissions at once never get the same one. ``runner.Runner`` then runs the jobs of a run,
and ``workspace.local_jobs`` has their states.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from l3hpc.config import capabilities
from l3hpc.config.capabilities import Capabilities
from l3hpc.errors import ClusterError
from l3hpc.io.processes import process_age_s
from l3hpc.pipelines.planned import Plan
from l3hpc.schedulers import pickled_calls
from l3hpc.schedulers.base import JobAnswer, JobQuery, Show, Tasks
from l3hpc.schedulers.jobs import EndedJob, JobId, LiveJob, StepJobs
from l3hpc.schedulers.local.runner import Runner
from l3hpc.schedulers.requests import JobRequest
from l3hpc.schedulers.requeue_policy import Decision
from l3hpc.schedulers.slurm.commands import call, clean_environment
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import DEAD_S, EXPIRES_S, Lease
from l3hpc.workspace.local_jobs import LocalJobs, is_alive
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import JobState

CHECK_S = 60.0
START_S = 20.0
# "$0": script of the last job, if there is one; "$1": its log; the rest: the runner. The shell ends
# at once, so that the runner is not a child of this process.
_DETACHED = """log=$1; shift
("$@"; if [ -f "$0" ]; then exec bash "$0" >> "$log" 2>&1; fi) &"""
STARTING_S = 30.0  # a runner may take this long to take up what has just been submitted
FOLLOW_S = 0.5
_GONE = "its local runner is gone"


class LocalScheduler:
    """The jobs of ``local`` in one workspace. It also starts them: see ``base.Starts``.

    The methods are those of ``base.Scheduler``, which documents their parameters.

    Parameters
    ----------
    workspace
        The workspace folder.
    """

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return capabilities.of(capabilities.LOCAL)

    def prepare(self) -> None:
        """Do nothing: the resources of a plan have been limited to those of this machine."""

    def validate(self, plan: Plan) -> str:
        """Accept every plan, for the same reason."""
        return ""

    def check_command(self, script: Path) -> list[str]:
        """Return the bash command that parses a script without running it."""
        return ["bash", "-n", str(script)]

    def check(self, script: Path) -> None:
        """Check that bash can parse the script.

        Raises
        ------
        ClusterError
            If it cannot.
        """
        call(self.check_command(script), timeout_s=CHECK_S)

    def submit(self, request: JobRequest) -> JobId:
        """Enter a script into the spool; ``run_jobs`` or ``start_runner`` starts it."""
        # only Slurm runs jobs that belong to no step
        assert request.step is not None
        LocalJobs(self._workspace, request.run).forget_stop()
        return pickled_calls.submit(request, lambda: JobId(spool(
            self._workspace, run=request.run, step=request.script.parent.name,
            after=[job.id for job in request.after_ok],
            after_any=[job.id for job in request.after_any])))

    def query(self) -> JobQuery:
        """Return a query, which the files of the runs answer."""
        return _Query(self._workspace)

    def jobs(self, record: RunRecord, tasks: Tasks | None = None) -> JobAnswer:
        """Return the jobs of one run, as its file has them."""
        return _Answer(self._workspace)

    def history(self, record: RunRecord) -> list[tuple[str, EndedJob]] | None:
        """Return None: attempts before the last one are not remembered."""
        return None

    def cancel(self, jobs: Sequence[JobId], run: str = "") -> None:
        """Do nothing: a runner starts only jobs on record, so a job that its submission withdraws
        is never started.
        """

    def cancel_run(self, record: RunRecord) -> list[JobId]:
        """Ask the runner to stop, also one that is about to start; without a runner, end its jobs.
        """
        jobs = LocalJobs(self._workspace, record.run)
        jobs.take_up(record)
        live = [name for name, job in jobs.jobs.items() if job.state.is_active]
        if live:
            # the request first: a runner that starts between the two lines finds it
            jobs.ask_to_stop()
            if jobs.runner() is None:
                jobs.stop_orphans()
        return [JobId(name) for name in live[::-1]]

    def changes(self, decision: Decision) -> list[str]:
        """Return nothing: the runner never holds a job."""
        return []

    def release(self, job: JobId, changes: Sequence[str]) -> None:
        """Do nothing: the runner never holds a job."""

    def run_jobs(self, run: str, show: Show) -> None:
        """Run the submitted jobs of a run until all have ended; watch, if another runner has them.
        """
        while not Runner(self._workspace, run, show=show).run():
            jobs, record = LocalJobs(self._workspace, run), records.read(self._workspace, run)
            show(record, jobs.jobs)
            if jobs.settled(record):
                break
            time.sleep(FOLLOW_S)

    def start_runner(self, run: str, folder: Path) -> None:
        """Start a runner that outlives this shell, and wait until it has taken over the run."""
        start_detached(self._workspace, run, folder)


class _Query:
    """A query that does nothing in advance: the files are read when the answer is used."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace

    def add(self, record: RunRecord, tasks: Tasks) -> None:
        """Do nothing."""

    def answer(self) -> JobAnswer:
        """Return the answer."""
        return _Answer(self._workspace)


class _Answer:
    """The jobs of local runs; the file of each run is read once."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._runs: dict[str, tuple[StepJobs, list[str]]] = {}

    def of(self, record: RunRecord, step: StepRecord, tasks: Collection[str]) -> StepJobs:
        """Return the jobs of the run."""
        return self._run(record)[0]

    def notes(self, record: RunRecord) -> list[str]:
        """Return whether the runner is gone."""
        return list(self._run(record)[1])

    def queued(self, jobs: Collection[str]) -> bool:
        """Return False: the runner itself blocks a job whose dependency in another run has failed.
        """
        return False

    def untracked(self, record: RunRecord) -> list[JobId]:
        """Return nothing: the runner starts only jobs on record."""
        return []

    def following(self, record: RunRecord, *, pending: bool = False) -> list[JobId]:
        """Return nothing: the script runs here after the last job."""
        return []

    def _run(self, record: RunRecord) -> tuple[StepJobs, list[str]]:
        if record.run not in self._runs:
            self._runs[record.run] = _jobs_of(record, LocalJobs(self._workspace, record.run))
        return self._runs[record.run]


def _jobs_of(record: RunRecord, jobs: LocalJobs) -> tuple[StepJobs, list[str]]:
    """The jobs of a run, and notes about them. A job that is pending or running counts only while a
    runner exists or may still start, or while its process is alive.
    """
    now, starting = time.time(), dict[str, LiveJob]()
    for step in record.steps:  # submitted, but not taken up by the runner yet
        starting |= {name: LiveJob(JobState.PENDING, "about to start")
                     for attempt in step.attempts for name in attempt.task_ids.values()
                     if name not in jobs.jobs}
    unfinished = bool(starting) or any(job.state.is_active for job in jobs.jobs.values())
    submitted = max((attempt.time for step in record.steps for attempt in step.attempts),
                    default=0.0)
    runner = jobs.runner() if unfinished else None
    # a run that has just been submitted gets its runner in a moment
    starting_until = submitted + STARTING_S
    fresh = unfinished and runner is None and now < starting_until \
        and not jobs.had_runner(submitted)
    orphaned = unfinished and not fresh and runner is None
    live = {} if orphaned else starting
    ended: dict[str, EndedJob] = {}
    # All tasks of an array wait for the same jobs, which have ended once one of them has started.
    begun = {job.job for job in jobs.jobs.values() if job.started is not None}
    minutes = {step.name: step.resources.get("time_min") for step in record.steps}
    working = {job.state for job in jobs.jobs.values()} & {JobState.RUNNING}
    # resume waits for these: a runner that is being stopped cancels whatever has not ended
    ending = (working or {JobState.PENDING}) if runner and jobs.asked_to_stop() else set()
    for name, job in jobs.jobs.items():
        state, started = job.state, job.started
        elapsed = None if started is None else max((job.ended or now) - started, 0.0)
        if state.is_terminal:
            ended[name] = EndedJob(state, job.exit, elapsed)
        elif not orphaned or is_alive(job):
            if job.start is not None and is_alive(job):
                elapsed = process_age_s(job.start)
            limit = 60.0 * float(job.time_min or minutes.get(job.step) or 0)
            waits = bool(job.after or job.after_any) and job.job not in begun
            live[name] = LiveJob(
                JobState.COMPLETING if state in ending else state,
                "" if waits else "waits for free cores and memory", elapsed, start=started,
                restarts=job.restarts, limit_s=limit or None, waits_for_jobs=waits)
    if orphaned:
        note = _GONE
    elif fresh:
        note = (f"its local runner has not started yet; if it does not, it counts as gone from "
                f"{_clock(starting_until)} on")
    else:
        note = _about_runner(jobs, runner, now)
    return StepJobs(live, ended, queried=True, gone=_GONE), [note] if note else []


def _about_runner(jobs: LocalJobs, runner: Mapping[str, Any] | None, now: float) -> str:
    """What a user should know about the runner of a run; '' if it is at work, or not needed."""
    if runner is None:
        return ""
    if runner.get("age", 0.0) > EXPIRES_S:
        seen = now - runner["age"]
        if runner.get("host") == socket.gethostname() and runner.get("own", True):
            return (f"its local runner, process {runner.get('pid')}, was last seen at "
                    f"{_clock(seen)}; if it was stopped (Ctrl-Z): kill -CONT {runner.get('pid')}")
        return (f"its local runner, process {runner.get('pid')} on {runner.get('host')}, was last "
                f"seen at {_clock(seen)}; if it stays silent, it counts as gone from "
                f"{_clock(seen + DEAD_S)} on")
    if jobs.asked_to_stop():
        return "it is being cancelled: running tasks save their work and end"
    return ""


def _clock(then: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(then))


def spool(workspace: Path, *, run: str, step: str, after: Sequence[str],
          after_any: Sequence[str] = ()) -> str:
    """Reserve a job id, one above the highest, and write its entry into the spool.

    Parameters
    ----------
    workspace
        The workspace folder.
    run, step
        What the job belongs to.
    after
        Ids of the jobs that have to succeed first.
    after_any
        Ids of the jobs that have to end first.

    Returns
    -------
    str
        The new id.
    """
    layout = Workspace(workspace)
    folder = layout.local_jobs
    folder.mkdir(parents=True, exist_ok=True)
    entry = json.dumps({"run": run, "step": step, "after": list(after), "time": time.time(),
                        "host": socket.gethostname(),
                        **({"after_any": list(after_any)} if after_any else {})})
    taken = (name.removesuffix(".json") for name in os.listdir(folder))
    # above the highest, also of removed runs, so that an id is never used twice
    number = max((int(name) for name in taken if name.isdecimal()), default=0) + 1
    while True:
        try:
            handle = os.open(layout.local_job(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:  # another submission was faster
            number += 1
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(entry)
        return str(number)


def start_detached(workspace: Path, run: str, cwd: Path) -> None:
    """Start a runner that outlives this shell, and wait until it has taken over the run.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    cwd
        Working folder of the runner.

    Raises
    ------
    ClusterError
        If it does not start.
    """
    folder = Workspace(workspace).run(run)
    record = records.read(workspace, run)
    with open(folder.runner_log, "ab") as log:
        subprocess.run(
            ["sh", "-c", _DETACHED, str(folder.sync_script), str(folder.sync_log),
             sys.executable, "-m", "l3hpc.schedulers.local.runner",
             str(workspace), run], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
            env=clean_environment(), start_new_session=True, check=True)
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if Lease(folder.runner_lease).holder() is not None or \
                LocalJobs(workspace, run).settled(record):
            return
        time.sleep(0.05)
    raise ClusterError(f"the local runner did not start within {START_S:.0f} s",
                       where=str(folder.runner_log))
