"""The ``local`` cluster: the same scripts, run by bash on this machine.

Submission is submitit's, with a spool in the workspace in place of sbatch: ``local/jobs/<id>.json``
is created exclusively, so two submissions at once never get the same id. ``runner.Runner`` then
runs the jobs of a run; ``local_jobs`` tells how they stand (for status and cancel).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from l3hpc.errors import ClusterError
from l3hpc.schedulers.slurm.commands import scrubbed
from l3hpc.schedulers.slurm.executor import ScriptExecutor
from l3hpc.schedulers.slurm.identity import JobId
from l3hpc.workspace import records
from l3hpc.workspace.layout import StepFolder, Workspace
from l3hpc.workspace.lease import Owner
from l3hpc.workspace.local_jobs import LocalJobs

START_S = 20.0


class LocalExecutor(ScriptExecutor):
    """Puts a script into the workspace's spool instead of handing it to sbatch.

    folder: ``<workspace>/runs/<run>/steps/<step>/logs``.
    """

    def __init__(self, folder: Path, *, workspace: Path) -> None:
        super().__init__(folder)
        self._workspace = Path(workspace)

    @classmethod
    def affinity(cls) -> int:
        """Works everywhere."""
        return 1

    def _sbatch(self, command: list[str]) -> JobId:
        step = StepFolder(self.folder.parent)
        return JobId(spool(self._workspace, run=step.run.name, step=step.name,
                           after=self._dependencies))


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
        if Owner(folder.runner_lease).holder() is not None or \
                LocalJobs(workspace, run).settled(record):
            return
        time.sleep(0.05)
    raise ClusterError(f"the local runner did not start within {START_S:.0f} s",
                       where=str(folder.runner_log))
