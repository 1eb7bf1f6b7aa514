"""This machine as a ``Scheduler``: the same scripts, run by bash.

A spool in the workspace gives out the job ids: ``local/jobs/<id>.json`` is created exclusively, so
two submissions at once never get the same one. ``runner.Runner`` then runs the jobs of a run;
``workspace.local_jobs`` tells how they stand.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from l3hpc.config import capabilities
from l3hpc.config.capabilities import Capabilities
from l3hpc.errors import ClusterError
from l3hpc.pipelines.planned import Plan
from l3hpc.schedulers import scripts
from l3hpc.schedulers.base import (
    EndedJob,
    JobAnswer,
    JobId,
    JobQuery,
    JobRequest,
    JobState,
    LiveJob,
    Show,
    StepJobs,
    Tasks,
)
from l3hpc.schedulers.local.runner import Runner
from l3hpc.schedulers.requeue_policy import Decision
from l3hpc.schedulers.slurm.commands import call, scrubbed
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease
from l3hpc.workspace.local_jobs import LIVE, LocalJobs, alive
from l3hpc.workspace.records import RunRecord, StepRecord

CHECK_S = 60.0
START_S = 20.0
STARTING_S = 30.0  # a runner may take so long to take up what was just submitted
FOLLOW_S = 0.5


class LocalScheduler:
    """The jobs of ``local`` in one workspace. It also starts them: ``base.Starts``."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return capabilities.of(capabilities.LOCAL)

    def prepare(self) -> None:
        """There is nothing to ask: the plan's resources were cut to this machine's."""

    def validate(self, plan: Plan) -> str:
        """Every plan fits, for the same reason."""
        return ""

    def check_command(self, script: Path) -> list[str]:
        """bash, which reads the script and runs nothing."""
        return ["bash", "-n", str(script)]

    def check(self, script: Path) -> None:
        """Raise ``ClusterError`` where bash cannot read the script."""
        call(self.check_command(script), timeout_s=CHECK_S)

    def submit(self, request: JobRequest) -> JobId:
        """Enter a script into the spool. ``run_jobs`` or ``start_runner`` starts it."""
        assert request.step is not None  # nothing follows a run on this machine
        LocalJobs(self._workspace, request.run).forget_stop()
        return scripts.submitted(request, lambda: JobId(spool(
            self._workspace, run=request.run, step=request.script.parent.name,
            after=[job.id for job in request.after])))

    def query(self, records: Sequence[RunRecord]) -> JobQuery:
        """A question about the jobs of these runs: their files answer it."""
        return _Query(self._workspace)

    def jobs(self, record: RunRecord, tasks: Tasks | None = None) -> JobAnswer:
        """How the jobs of one run stand."""
        return _Answer(self._workspace)

    def history(self, record: RunRecord) -> list[tuple[str, EndedJob]] | None:
        """Nothing remembers the attempts before the last one."""
        return None

    def cancel(self, jobs: Sequence[JobId], run: str = "") -> None:
        """Nothing: a runner starts only what is on record, so a job that its submission takes back
        is never started."""

    def cancel_run(self, record: RunRecord) -> list[JobId]:
        """Ask the runner to stop, also one that is about to start; where there is none, end what it
        left behind."""
        jobs = LocalJobs(self._workspace, record.run)
        jobs.take_up(record)
        live = [name for name, job in jobs.jobs.items() if job.state in LIVE]
        if live:
            jobs.ask_to_stop()
            if jobs.runner() is None:
                jobs.stop_orphans()
        return [JobId(name) for name in live[::-1]]

    def changes(self, decision: Decision) -> list[str]:
        """Nothing: the runner never holds a job."""
        return []

    def release(self, job: JobId, changes: Sequence[str]) -> None:
        """Nothing: the runner never holds a job."""

    def run_jobs(self, run: str, show: Show) -> None:
        """Run what was submitted of a run until all has ended; where another runner has it, look
        on."""
        while not Runner(self._workspace, run, look=show).run():
            jobs, record = LocalJobs(self._workspace, run), records.read(self._workspace, run)
            show(record, jobs.jobs)
            if jobs.settled(record):
                break
            time.sleep(FOLLOW_S)

    def start_runner(self, run: str, folder: Path) -> None:
        """Start a runner that outlives this shell, and wait until it has taken the run over."""
        start_detached(self._workspace, run, folder)


class _Query:
    """Nothing is asked: the files are read when the answer is used."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace

    def add(self, record: RunRecord, tasks: Tasks) -> None:
        """Nothing to do ahead."""

    def answer(self) -> JobAnswer:
        """The answer."""
        return _Answer(self._workspace)


class _Answer:
    """How the jobs of local runs stand, by the file of each run, which is read once."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._runs: dict[str, tuple[StepJobs, list[str]]] = {}

    def of(self, record: RunRecord, step: StepRecord, tasks: Collection[str]) -> StepJobs:
        """How the jobs of the run stand."""
        return self._run(record)[0]

    def notes(self, record: RunRecord) -> list[str]:
        """Whether the runner is gone."""
        return list(self._run(record)[1])

    def queued(self, jobs: Collection[str]) -> bool:
        """False: the runner blocks a job behind one of another run by itself."""
        return False

    def untracked(self, record: RunRecord) -> list[JobId]:
        """None: the runner starts what is on record."""
        return []

    def _run(self, record: RunRecord) -> tuple[StepJobs, list[str]]:
        if record.run not in self._runs:
            self._runs[record.run] = _standing(record, LocalJobs(self._workspace, record.run))
        return self._runs[record.run]


def _standing(record: RunRecord, jobs: LocalJobs) -> tuple[StepJobs, list[str]]:
    """The jobs of a run, and what is to be said of it. A job that waits or runs counts only while
    a runner is there, or may still come, or its process lives."""
    now, starting = time.time(), dict[str, LiveJob]()
    for step in record.steps:  # submitted, but not taken up by the runner yet
        starting |= {name: LiveJob(JobState.PENDING, "about to start")
                     for attempt in step.attempts for name in attempt.task_ids.values()
                     if name not in jobs.jobs}
    unfinished = bool(starting) or any(job.state in LIVE for job in jobs.jobs.values())
    fresh = any(now - attempt.time < STARTING_S
                for step in record.steps for attempt in step.attempts)
    orphaned = unfinished and not fresh and jobs.runner() is None
    live = {} if orphaned else starting
    ended: dict[str, EndedJob] = {}
    minutes = {step.name: step.resources.get("time_min") for step in record.steps}
    for name, job in jobs.jobs.items():
        state, started = JobState(job.state), job.started
        elapsed = None if started is None else (job.ended or now) - started
        if state.is_terminal:
            ended[name] = EndedJob(state, job.exit, elapsed)
        elif not orphaned or alive(job):
            limit = 60.0 * float(job.time_min or minutes.get(job.step) or 0)
            live[name] = LiveJob(
                state, "" if job.after else "waits for free cores and memory", elapsed,
                start=started, restarts=job.restarts, limit_s=limit or None,
                after_others=bool(job.after))
    return StepJobs(live, ended, asked=True), ["its local runner is gone"] if orphaned else []


def spool(workspace: Path, *, run: str, step: str, after: Sequence[str]) -> str:
    """A new job id, one above the highest, and its entry in the spool."""
    places = Workspace(workspace)
    folder = places.local_jobs
    folder.mkdir(parents=True, exist_ok=True)
    entry = json.dumps({"run": run, "step": step, "after": list(after), "time": time.time(),
                        "host": socket.gethostname()})
    known = (name.removesuffix(".json") for name in os.listdir(folder))
    number = max((int(name) for name in known if name.isdecimal()), default=0) + 1
    while True:
        try:
            handle = os.open(places.local_job(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:  # another submission took it
            number += 1
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(entry)
        return str(number)


def start_detached(workspace: Path, run: str, cwd: Path) -> None:
    """Start a runner that outlives this shell, and wait until it has taken the run over."""
    folder = Workspace(workspace).run(run)
    record = records.read(workspace, run)
    with open(folder.runner_log, "ab") as log:
        subprocess.run(  # the shell ends at once: the runner is nobody's child
            ["sh", "-c", '"$@" &', "sh", sys.executable, "-m", "l3hpc.schedulers.local.runner",
             str(workspace), run], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
            env=scrubbed(), start_new_session=True, check=True)
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if Lease(folder.runner_lease).holder() is not None or \
                LocalJobs(workspace, run).settled(record):
            return
        time.sleep(0.05)
    raise ClusterError(f"the local runner did not start within {START_S:.0f} s",
                       where=str(folder.runner_log))
