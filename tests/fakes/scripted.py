"""A folder with a stand-in for Python, and a way to run rendered scripts in it as jobs."""

import json
import os
import signal
import subprocess
from pathlib import Path

from l3hpc.config.profile import ClusterProfile
from l3hpc.config.resources import Resources
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import scripts

STUB = """#!/bin/bash
printf '%s\\0' "$@" > "$STUB_OUT/arguments"
env -0 > "$STUB_OUT/environment"
pwd > "$STUB_OUT/touched"
exit "${STUB_CODE:-0}"
"""


def step(name="train", tasks=1, done=()):
    return PlannedStep(name=name, kind="train", params={}, needs=(), inputs={},
                       fingerprint="0" * 16, artifact=Path("/none"), shards=[{}] * tasks,
                       done=tuple(done), resources=Resources(2, 1024, 0, 60))


def _listening():
    """The tests may run where Ctrl-C is ignored; bash cannot trap what it finds ignored."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Machine:
    """A folder with a stand-in for Python, and a way to run a script as a job."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.python = self.folder / "python"
        self.python.write_text(STUB)
        self.python.chmod(0o755)
        self.work = self.folder / "work"
        self.work.mkdir()

    def plan(self, item, workspace=None, **profile):
        values = {"name": "local", "python": str(self.python), **profile}
        return Plan("r-20261120-1a2b", "r", Path(workspace or self.folder / "ws"),
                    ClusterProfile.model_validate(values), (item,))

    def script(self, item=None, workspace=None, **profile):
        item = item or step()
        made = self.plan(item, workspace, **profile)
        path = self.folder / "script"
        path.write_text(scripts.render(made, item))
        return path, made.step_folder(item.name).path

    def start(self, path, variables=None):
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder),
                       "STUB_OUT": str(self.work), "SLURM_JOB_ID": "77",
                       "SLURM_CPUS_PER_TASK": "3", **(variables or {})}
        return subprocess.Popen(["bash", str(path)], env=environment, cwd=self.work,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                preexec_fn=_listening)

    def run(self, path, variables=None):
        process = self.start(path, variables)
        out, err = process.communicate(timeout=240)
        return process.returncode, out + err

    def arguments(self):
        return (self.work / "arguments").read_bytes().decode().split("\0")[:-1]

    def environment(self):
        pairs = (self.work / "environment").read_bytes().decode().split("\0")[:-1]
        return dict(pair.split("=", 1) for pair in pairs)


def marker(folder, name):
    return json.loads((folder / "markers" / name).read_text())
