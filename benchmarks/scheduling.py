"""What l3hpc adds to Slurm's own commands: submitting chains, asking for status, starting.

    python -m benchmarks.scheduling [--quick] [--json FILE]

Runs against a real three-node Slurm with accounting, started on this machine (``make slurm``). The
peers are the bare commands with the same scripts (``sbatch --parsable --dependency=…``; one
``squeue`` and one ``sacct`` for all jobs), a Python that does nothing, and a chain through submitit
alone. All jobs are held back (``--begin`` in a week), so that only submission is measured.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from benchmarks.tables import Claim, Table, run
from l3hpc import schedulers
from l3hpc.runs import job_scripts, submit
from l3hpc.runs.job_scripts import RunScripts
from l3hpc.workspace.layout import Workspace

FAKES = Path(__file__).resolve().parent.parent / "tests" / "fakes"
MEMORY = Path("/dev/shm")  # on a cluster, too, slurmctld's files are not on the users' disk
RUNS = 9
PRICE = ("before the first sbatch, settings and record are written; after the last one, the disk "
         "has confirmed the record")


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure all tables on one cluster."""
    sys.path.insert(0, str(FAKES))
    from realslurm import RealSlurm

    cluster = RealSlurm(True, place=MEMORY if MEMORY.is_dir() else None).start()
    try:
        os.environ |= cluster.env
        runs = 2 if quick else RUNS
        with held(cluster):  # imports what the first submission needs
            _ours(_plan(cluster, work / "first", 1, 1))
            _submitit(work / "first-submitit", 1)
        return [*_submission(cluster, work, 20 if quick else 200, runs),
                _status(cluster, work, 5 if quick else 50, runs),
                _listing(work, 50 if quick else 1000, runs), _start(runs)]
    finally:
        cluster.stop()


def _plan(cluster: Any, folder: Path, chains: int, length: int, run: str = "demo") -> Any:
    import chains as fakes

    profile = fakes.profile(name="test", slots={}, **cluster.profile)
    return fakes.many(folder, chains, length, profile, run)


@contextlib.contextmanager
def held(cluster: Any) -> Iterator[None]:
    """Keep jobs from starting while the block runs."""
    cluster.command("scontrol", "update", "PartitionName=cpu", "State=DOWN")
    try:
        yield
    finally:
        cluster.drain()
        cluster.command("scontrol", "update", "PartitionName=cpu", "State=UP")


def _submission(cluster: Any, work: Path, many: int, runs: int) -> list[Table]:
    rows, claims = [], []
    cases = [("", work, 1, 5), ("", work, many // 10, 10)]
    if MEMORY.is_dir():
        cases.insert(1, (", runs in memory", MEMORY / work.name, 1, 5))
    for where, folder, chains, length in cases:
        ours, bare, alone, rendering = list[_Time](), list[_Time](), list[_Time](), list[_Time]()
        workspace = folder / f"submit-{chains}"
        with held(cluster):  # the folders that all runs share
            _ours(_plan(cluster, workspace, 1, 1, "first"))
        for number in range(runs):
            plan = _plan(cluster, workspace, chains, length, f"run-{number}")
            scheduler = schedulers.prepared(plan.profile, plan.workspace)
            rendering.append(_times(lambda plan=plan: job_scripts.render(plan)))
            scripts = job_scripts.render(plan)
            scheduler.validate(plan)  # sinfo has answered, as at the end of any real planning
            with held(cluster):
                ours.append(_times(functools.partial(_ours, plan, scheduler, scripts)))
            with held(cluster):
                bare.append(_times(lambda plan=plan: _bare(plan)))
            if length == 5 and not where:
                with held(cluster):
                    alone.append(_times(lambda number=number, length=length: _submitit(
                        work / f"submitit-{number}", length)))
        jobs = chains * length
        for name, times in (("l3hpc", ours), ("sbatch --parsable", bare),
                            ("submitit alone", alone), ("l3hpc, rendering before", rendering)):
            if times:
                low, middle, high = quantiles([one.wall for one in times])
                own, called = (median(one.own for one in times),
                               median(one.commands for one in times))
                rows.append([f"{jobs} jobs{where}", name, f"{middle:.3f}",
                             f"{low:.3f} to {high:.3f}", f"{middle / jobs * 1000:.1f}",
                             f"{own / jobs * 1000:.1f}", f"{called / jobs * 1000:.1f}"])
        # each pair ran one after the other: what else the machine does hits both
        ratio = median(one.wall / other.wall for one, other in zip(ours, bare, strict=True))
        claims.append(Claim(f"submitting {jobs} chained jobs{where}", "bare sbatch calls", ratio,
                            1.25, at_least=False, limit=PRICE))
        if where:
            shutil.rmtree(folder)
    return [Table("Submitting chains", [
        "chain", "by", "s", "quartiles, s", "ms per job", "own CPU, ms per job",
        "CPU of Slurm's commands, ms per job"], rows, [
        f"Median of {runs} alternating runs, after Python and its packages have started. l3hpc "
        "also writes the folder of the run, the frozen configs, and its record after every job; "
        "what a job reads is written while sbatch submits the one before it. The workspace exists. "
        "Of 20 jobs and more, two are submitted at a time where neither needs the other; the loop "
        "submits one at a time.",
        "Planning is not part of these times: there, l3hpc asks sinfo for the limits and renders "
        "the scripts meanwhile (a row of its own). The loop finds its scripts on disk.",
        "submitit alone pickles one function per job; the dependencies are passed by hand.",
        "The files of the cluster are in memory, those of the runs on disk unless the table says "
        "otherwise. A run of five jobs writes about 60 files and folders; the time for that varies "
        "with the disk and its load (quartiles)."], claims)]


def _ours(plan: Any, scheduler: Any = None, scripts: RunScripts | None = None) -> None:
    submit.submit(plan, scheduler=scheduler, rendered=scripts)


def _bare(plan: Any) -> None:
    """Submit the same scripts as a shell loop would."""
    ids: dict[str, str] = {}
    for step in plan.steps:
        script = plan.step_folder(step.name).script()
        command = ["sbatch", "--parsable"]
        if step.needs:
            command += ["--dependency=afterok:" + ":".join(ids[need] for need in step.needs),
                        "--kill-on-invalid-dep=yes"]
        done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=True)
        ids[step.name] = done.stdout.strip()


def _submitit(folder: Path, length: int) -> None:
    import submitit

    job = None
    for _ in range(length):
        executor = submitit.AutoExecutor(folder, cluster="slurm")
        more = {"slurm_additional_parameters": {"dependency": f"afterok:{job.job_id}"}} \
            if job else {}
        executor.update_parameters(timeout_min=5, slurm_partition="cpu", mem_gb=1, **more)
        job = executor.submit(sum, (1, 2))


def _status(cluster: Any, work: Path, runs_of_twenty: int, runs: int) -> Table:
    from l3hpc.runs import status

    folder = work / "status"
    with held(cluster):
        for number in range(runs_of_twenty):
            submit.submit(_plan(cluster, folder, 2, 10, f"run-{number}"))
        jobs = runs_of_twenty * 20
        pairs = [(_times(lambda: status.collect(folder)), _times(_ask_slurm)) for _ in range(runs)]
    rows = [[name, *(f"{median(values):.3f}" for values in zip(*times, strict=True))]
            for name, times in zip(("l3hpc status", "squeue and sacct"),
                                   zip(*pairs, strict=True), strict=True)]
    return Table(f"Status of {jobs:,} jobs in {runs_of_twenty} runs", [
        "by", "s", "own CPU, s", "CPU of Slurm's commands, s"], rows, [
        f"Median of {runs} alternating runs, without starting Python. The peer prints; l3hpc reads "
        "its records and markers, calls squeue once (and sacct only for jobs not in squeue), and "
        "determines the state of every task."],
        [Claim(f"status of {jobs:,} jobs", "one squeue and one sacct",
               median(one.wall / other.wall for one, other in pairs), 1.3, at_least=False,
               limit="the record of every step is read and checked, and every job proved to be "
                     "the step's own")])


def _listing(work: Path, many: int, runs: int) -> Table:
    """Runs that Slurm has forgotten: 8 in 10 are done, one failed, one ended without a word."""
    import chains as fakes

    from l3hpc.runs import status
    from l3hpc.schedulers.slurm import queue
    from l3hpc.workspace import records
    from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord
    from l3hpc.workspace.states import RunState, StepState

    folder = work / "listing"
    for number in range(many):
        name = f"run-{number:04d}"
        plan = fakes.many(folder, 2, 10, fakes.profile())
        entries = []
        for place, step in enumerate(plan.steps):
            artifact = folder / "artifacts/extract" / f"{number:08d}{place:08d}"
            marks = Workspace(folder).run(name).step(step.name).markers
            marks.mkdir(parents=True)
            job = str(number * 20 + place + 1_000_000)
            if number % 10 < 8 or place < 10:
                (artifact / "0000").mkdir(parents=True)
                (artifact / "0000/result.json").write_text(json.dumps(
                    {"index": 0, "run": name, "started": 1, "finished": 2}))
                (artifact / "summary.json").write_text(json.dumps(
                    {"text": "3 rows", "started": 1, "finished": 2, "runs": [name]}))
            elif place == 10:
                (marks / "0.begin").write_text(f'{{"job": "{job}", "node": "n1", "time": 1}}')
                if number % 10 == 8:
                    (marks / "0.exit").write_text('{"code": 1, "time": 2}')
                    (marks / "0.error.json").write_text('{"message": "no audio in it"}')
            entries.append(StepRecord(
                step.name, step.kind, str(artifact), 1, list(step.needs), StepState.SUBMITTED, job,
                [0], {}, [], [Attempt(job, False, [0], 1.0)]))
        records.write(folder, RunRecord(name, "fake", "test", float(number), "nobody", "here", [],
                                        {}, RunState.SUBMITTED, entries))
    found = status.collect(folder)
    states = [[run.state for run in found].count(state)
              for state in (RunState.DONE, RunState.FAILED, RunState.LOST)]
    assert states == [many * 8 // 10, many // 10, many // 10], states
    assert not any(run.damaged for run in found), found[0].damaged
    whole, slurm = [], []
    asking = {name: getattr(queue, name) for name in ("query_squeue", "query_sacct")}
    for _ in range(runs):
        waited: list[float] = []
        for name, ask in asking.items():
            setattr(queue, name, functools.partial(_noting, waited, ask))
        try:
            whole.append(timed(lambda: status.collect(folder)))
        finally:
            for name, ask in asking.items():
                setattr(queue, name, ask)
        slurm.append(sum(waited))
    own = [one - other for one, other in zip(whole, slurm, strict=True)]
    return Table(f"Listing {many:,} runs of 20 tasks", ["part", "s"], [
        ["records, artifacts, markers, states", f"{median(own):.3f}"],
        ["waiting for squeue and sacct", f"{median(slurm):.3f}"]], [
        f"Median of {runs}; 8 in 10 runs are done, one failed, one is lost."],
        [Claim(f"status of {many:,} runs of 20 tasks, our own time", "a target", median(own), 2,
               "s", at_least=False)])


def _noting(waited: list[float], ask: Any, *arguments: Any, **options: Any) -> Any:
    """Return the answer of ``ask``; its seconds are added to ``waited``."""
    started = time.perf_counter()
    try:
        return ask(*arguments, **options)
    finally:
        waited.append(time.perf_counter() - started)


def _ask_slurm() -> None:
    for command in (["squeue", "--array", "--states=all"],
                    ["sacct", "--allocations", "--parsable2", "--starttime=today"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _start(runs: int) -> Table:
    commands = {"python -c pass": [sys.executable, "-c", "pass"],
                "l3hpc --version": [sys.executable, "-m", "l3hpc", "--version"],
                "l3hpc --help": [sys.executable, "-m", "l3hpc", "--help"],
                "l3hpc status (nothing there)": [
                    sys.executable, "-m", "l3hpc", "status", "--workspace", "/nonexistent"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(3 * runs):
        for name, command in commands.items():
            times[name].append(timed(lambda command=command: subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
    base = median(times["python -c pass"])
    return Table("Starting", ["command", "ms", "beyond python -c pass, ms"], [
        [name, f"{median(value) * 1000:.0f}", f"{(median(value) - base) * 1000:.0f}"]
        for name, value in times.items()], [f"Median of {3 * runs} alternating runs."])


class _Time(NamedTuple):
    """Seconds. own, commands: CPU time, user and system, of this process and of its children."""

    wall: float
    own: float
    commands: float


def _times(work: Callable[[], object]) -> _Time:
    before = _cpu()
    wall = timed(work)
    own, commands = (after - then for after, then in zip(_cpu(), before, strict=True))
    return _Time(wall, own, commands)


def _cpu() -> list[float]:
    """CPU time of this process and of its children that have ended, s."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return [one.ru_utime + one.ru_stime for one in used]


def timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    run("scheduling", __doc__, tables)
