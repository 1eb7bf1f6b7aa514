"""What Slurm answers: damaged, through submit, status, usage, resume and cancel."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import bases
from .oracle import command, strict_json
from .runner import Case, Fault, Surface, Verdict

PROGRAMS = ("squeue", "sacct", "scontrol", "sbatch", "scancel", "sinfo", "srun", "sacctmgr")
READING = (("status", "--json"), ("status",), ("usage", "slurm-1"), ("resume", "slurm-1",
                                                                     "--dry-run", "--json"),
           ("cancel", "slurm-1", "--json"), ("logs", "slurm-1", "extract"),
           ("retry", "slurm-1", "extract", "--dry-run"), ("doctor", "--quick", "--json"))
STATES = (("PENDING",) * 3, ("RUNNING", "PENDING", "PENDING"), ("COMPLETED", "FAILED", "PENDING"),
          ("FAILED", "PENDING", "PENDING"), ("CANCELLED",) * 3)


class SlurmAnswers(Surface):
    """A run of three jobs on a cluster that answers oddly."""

    name = "slurm"
    share = 500

    def prepare(self, folder: Path) -> None:
        bases.fakes()
        import chains

        from l3hpc.runs import submit
        from l3hpc.workspace import records

        (folder / "cluster.yaml").write_text(bases.CLUSTER.replace("cluster: local",
                                                                   "cluster: greene"))
        self.base = folder
        programs = folder / "bin"
        programs.mkdir()
        place = Path(__file__).with_name("slurm_program.py")
        for name in PROGRAMS:
            (programs / name).write_text(
                f'#!/bin/sh\nexec {sys.executable} -S -E {place} "$FUZZ_SLURM/{name}" "$@"\n')
            (programs / name).chmod(0o755)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
        self._answers(folder, [], {})
        profile = chains.profile(name="greene", executor="slurm", slots={})
        # a path of the same length in every case: it stands in the scripts
        self.plan = chains.plan(folder / "ws", "slurm-1", ("extract", "sample", "fit"),
                                tasks={"extract": 3}, on=profile)
        submit.submit(self.plan)
        bases.workspace(folder / "ws")
        self.jobs = json.loads((folder / "jobs.json").read_text())
        self.ours = {job["id"] for job in self.jobs}
        record = records.read(folder / "ws", "slurm-1")
        if {step.job for step in record.steps} != self.ours:
            raise Fault(f"the harness's Slurm and the record differ: {record}, {self.jobs}")

    def _answers(self, folder: Path, jobs: list[dict[str, str]], damage: dict[str, list[int]]
                 ) -> None:
        os.environ["FUZZ_SLURM"] = str(folder)
        (folder / "jobs.json").write_text(json.dumps(jobs))
        (folder / "damage.json").write_text(json.dumps(damage))

    def judge(self, case: Case) -> Verdict:
        rng, here = case.rng, case.folder
        shutil.copy(self.base / "cluster.yaml", here)
        submitting = rng.random() < 0.3
        damage: dict[str, list[int]] = {}
        for change in case.damages():
            weights = ("sbatch", "sbatch", "squeue") if submitting else (
                "squeue", "squeue", "sacct", "sacct", "scontrol", "scancel")
            damage.setdefault(change.choice(weights), []).append(change.getrandbits(32))
        if submitting:
            return self._submit(case, damage)
        shutil.copytree(self.base / "ws", here / "ws", symlinks=True)
        moved = json.loads(json.dumps(self.jobs).replace(str(self.base), str(here)))
        jobs = [dict(job, state=state) for job, state in
                zip(moved, rng.choice(STATES), strict=True)]
        self._answers(here, jobs, damage)
        words = rng.choice(READING)
        with hurried():
            said = command(*words)
        if words[0] == "status":
            if said.code:
                raise Fault(f"{words} ends with {said.code}: {said.err}")
            for name in ("slurm-1", "good-1", "third-3"):
                if name not in said.out:
                    raise Fault(f"{name} is not listed: {said.out}")
            if not case.changes and "--json" in words:
                self._states(said.out, jobs)
        calls = [json.loads(line) for line in (here / "calls").read_text().splitlines()] if (
            here / "calls").exists() else []
        for program, *asked in calls:
            if program == "scancel":
                named = {word.split("_")[0] for word in asked if word[:1].isdigit()}
                if not named <= self.ours:
                    raise Fault(f"a stranger's job is cancelled: {asked}")
            if program == "sbatch" and "--dry-run" in words:
                raise Fault(f"{words} submits: {asked}")
        return Verdict(said.code == 0, said.code)

    def _states(self, text: str, jobs: list[dict[str, str]]) -> None:
        """Without damage, what Slurm says is what status says."""
        run = next(run for run in strict_json(text)["runs"] if run["run"] == "slurm-1")
        right = {"PENDING": ("queued", "waiting", "blocked"), "RUNNING": ("running",),
                 "FAILED": ("failed",), "CANCELLED": ("cancelled", "blocked", "failed"),
                 "COMPLETED": ("failed",)}
        for step, job in zip(run["steps"], jobs, strict=True):
            if step["state"] not in right[job["state"]]:
                raise Fault(f"{step['name']} is {job['state']} and shown as {step['state']}: "
                            f"{text}")

    def _submit(self, case: Case, damage: dict[str, list[int]]) -> Verdict:
        """Whatever sbatch answers: what was submitted is recorded, or the command fails."""
        import chains

        from l3hpc.errors import L3hpcError
        from l3hpc.runs import submit
        from l3hpc.workspace import records

        from .oracle import call

        self._answers(case.folder, [], damage)
        profile = chains.profile(name="greene", executor="slurm", slots={})
        plan = chains.plan(case.folder / "ws", "new-1", ("extract", "sample"),
                           tasks={"extract": 2}, on=profile)
        with hurried():
            found = call(submit.submit, plan)
        jobs = json.loads((case.folder / "jobs.json").read_text())
        live = {job["id"] for job in jobs if job["state"] not in ("CANCELLED",)}
        if isinstance(found, L3hpcError):
            unknown = live - self._known(case.folder)
            if unknown and not any(number in str(found) for number in unknown) and \
                    "sbatch" not in str(found) and "squeue" not in str(found):
                raise Fault(f"jobs {sorted(unknown)} were submitted and nobody is told: {found}")
            return Verdict(False, found.exit_code)
        recorded = {step.job for step in records.read(case.folder / "ws", "new-1").steps}
        if recorded != live:
            raise Fault(f"submitted {sorted(live)}, recorded {sorted(map(str, recorded))}")
        return Verdict(True)

    def _known(self, folder: Path) -> set[str]:
        from l3hpc.workspace import records, run_names

        if "new-1" not in run_names.names(folder / "ws"):
            return set()
        return {str(step.job) for step in records.read(folder / "ws", "new-1").steps}


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Nothing waits between two tries: the clock goes on by itself."""
    sleep, monotonic, ahead = time.sleep, time.monotonic, 0.0

    def skip(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    time.sleep, time.monotonic = skip, lambda: monotonic() + ahead
    try:
        yield
    finally:
        time.sleep, time.monotonic = sleep, monotonic
