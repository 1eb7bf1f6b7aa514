"""An array of 1,000 tasks on a Slurm of 20 simulated nodes: times of the commands, load, files.

    python -m benchmarks.big_array [--quick] [--json FILE]

The cluster is the one of the tests (``make slurm``) with 20 slurmd on this machine, each of 50
cores by its own account. The tasks run the real job script; instead of Python, which would take
the whole machine for minutes, they start a shell script that writes a result, and fails for a tenth
of them until ``resume``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.scheduling import FAKES, MEMORY, held, timed
from benchmarks.tables import Claim, Table, figure, run

NODES, CORES = 20, 50
TASKS, QUICK_TASKS = 1000, 40
AT_ONCE = 50
IN_A_JOB = 8
RUNS = 3
WATCH_S, QUICK_WATCH_S = 60, 10
MAX_FILES = 6  # small ones of a finished task
WAIT_S = 1800
STEP = """#!/bin/bash
# what the job script starts in place of Python
case "$*" in *job_entry*) ;; *) exit 0 ;; esac
if [ "$((SLURM_ARRAY_TASK_ID % 10))" = 3 ] && [ ! -e {place}/fixed ]; then
    echo "told to fail" >&2
    exit 1
fi
folder={artifact}/$(printf %04d "$SLURM_ARRAY_TASK_ID")
mkdir "$folder" && echo rows > "$folder/rows.txt"
printf '{{"summary": {{"rows": 1}}, "started": 1, "finished": 2}}' > "$folder/result.json"
"""
COUNTER = """#!/bin/sh
echo {name} >> {log}
exec {program} "$@"
"""


def tables(quick: bool, work: Path) -> list[Table]:
    """Measure everything on one cluster."""
    sys.path.insert(0, str(FAKES))
    from realslurm import RealSlurm

    size = {} if quick else {"nodes": NODES, "cores": CORES}
    # slurmctld keeps ended jobs for five minutes, and by default no more than 10,000 at once
    cluster = RealSlurm(True, place=MEMORY if MEMORY.is_dir() else None, MaxJobCount="50000",
                        **size).start()
    try:
        os.environ |= cluster.env
        place = work / "big-array"
        shutil.rmtree(place, ignore_errors=True)
        bench = _Bench(cluster, place, QUICK_TASKS if quick else TASKS, 2 if quick else RUNS)
        bench.submit()
        commands = [bench.status("all pending")]
        load = [bench.watch(QUICK_WATCH_S if quick else WATCH_S),
                bench.empty_queue(f"running {bench.tasks:,} tasks")]
        commands += [bench.status("a tenth failed"), bench.resume()]
        load.append(bench.empty_queue(f"running the {bench.failing} again"))
        commands.append(bench.status("all done"))
        files = bench.files(quick)
        packed = bench.pack()
        commands[:0] = [bench.submission(), bench.submission(IN_A_JOB)]
        return [
            Table(f"An array of {bench.tasks:,} tasks: the commands",
                  ["command", "s", "Slurm's own commands, s"], commands, [
                      "Without starting Python; medians of "
                      f"{bench.runs}, resume once. Slurm's own: sbatch of the same script; one "
                      "squeue and one sacct of all jobs.",
                      f"{len(cluster.nodes)} nodes of {cluster.cores} cores by their own account, "
                      "on one machine."]),
            Table("The load of such an array", [
                "what", "s", "squeue", "sacct", "requests to slurmctld", "CPU of slurmctld, s"],
                load, [
                    "status --watch refreshes every 5 seconds, while all tasks are pending; squeue "
                    "and sacct are its own calls.",
                    f"At most {AT_ONCE} tasks run at once. Each is a job script, srun, and a step "
                    "that does nothing: the machine and Slurm decide how long they take."]),
            files,
            Table("The files of that run in one", ["what", "s", "files", "MB"], packed, [
                "All files in the folder of the run, before and after each command."])]
    finally:
        cluster.stop()


class _Bench:
    """One array. failing: number of tasks that fail at first."""

    def __init__(self, cluster: Any, place: Path, tasks: int, runs: int) -> None:
        import chains as fakes

        self.cluster, self.place, self.tasks, self.runs = cluster, place, tasks, runs
        self.failing = len(range(3, tasks, 10))
        self.profile = fakes.profile(name="test", slots={}, array_parallelism=AT_ONCE, **{
            **cluster.profile, "python": str(place / "python")})
        self.plan = self._plan("workspace")
        _program(place / "python", STEP.format(place=place, artifact=self.plan.steps[0].artifact))
        self.calls = place / "calls"
        for name in ("squeue", "sacct"):
            _program(place / "bin" / name, COUNTER.format(
                name=name, log=self.calls, program=shutil.which(name)))

    def submit(self) -> None:
        """Submit the array that everything is about, and keep it pending."""
        from l3hpc.runs import submit

        self._partition("DOWN")
        submit.submit(self.plan)

    def submission(self, in_a_job: int = 1) -> list[str]:
        """Submit others; they are cancelled. Status would list them, so this comes last."""
        from l3hpc.runs import submit

        ours, bare = [], []
        for number in range(self.runs):
            plan = self._plan(f"workspace-{in_a_job}-{number}", in_a_job)
            with held(self.cluster):
                ours.append(timed(lambda plan=plan: submit.submit(plan)))
            script = plan.step_folder("extract").script()
            with held(self.cluster):
                bare.append(timed(lambda script=script: subprocess.run(
                    ["sbatch", "--parsable", str(script)], check=True, capture_output=True)))
        several = f", {in_a_job} in a job" if in_a_job > 1 else ""
        return [f"submit, {self.tasks:,} tasks{several}", f"{median(ours):.3f}",
                f"{median(bare):.3f}"]

    def status(self, when: str) -> list[str]:
        """Determine the status of the run; it has to be right."""
        from l3hpc.runs import status

        ours, bare = [], []
        for _ in range(self.runs):
            ours.append(timed(lambda: status.collect(self.plan.workspace, [self.plan.run])))
            bare.append(timed(lambda: [
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL) for words in (
                    ["squeue", "--array", "--states=all"],
                    ["sacct", "--allocations", "--parsable2", "--starttime=today"])]))
        [found] = status.collect(self.plan.workspace, [self.plan.run])
        [step] = found.steps
        expected = {"all pending": (0, 0), "all done": (self.tasks, 0)}.get(
            when, (self.tasks - self.failing, self.failing))
        assert (step.done, len(step.failed_tasks)) == expected, (when, step.state, step.detail)
        return [f"status, {when}", f"{median(ours):.3f}", f"{median(bare):.3f}"]

    def watch(self, seconds: float) -> list[str]:
        """Follow the run with ``status --watch`` for a while."""
        before = self._load()
        watching = subprocess.Popen(
            [sys.executable, "-m", "l3hpc", "status", self.plan.run, "--watch", "--workspace",
             str(self.plan.workspace)], stdout=subprocess.DEVNULL,
            env={**os.environ, "PATH": f"{self.place / 'bin'}:{os.environ['PATH']}"})
        time.sleep(seconds)
        watching.terminate()
        watching.wait()
        called = self.calls.read_text().split()
        return ["status --watch", f"{seconds:.0f}",
                *(str(called.count(name)) for name in ("squeue", "sacct")), *self._since(before)]

    def empty_queue(self, what: str) -> list[str]:
        """Let everything run that is pending."""
        before = self._load()
        self._partition("UP")
        seconds = timed(lambda: self.cluster.until(
            lambda: not self.cluster.jobs(), "the array does not end", WAIT_S))
        return [what, f"{seconds:.0f}", "–", "–", *self._since(before)]

    def resume(self) -> list[str]:
        """Resume the run: only the failed tasks may be submitted."""
        from l3hpc.runs import resume, status
        from l3hpc.schedulers.slurm.parsing import expand
        from l3hpc.workspace import records

        (self.place / "fixed").touch()
        self._partition("DOWN")
        seconds = timed(lambda: resume.resume(self.plan.workspace, self.plan.run, self.profile))
        entry = records.step(records.read(self.plan.workspace, self.plan.run), "extract")
        assert entry.attempts[-1].tasks == list(range(3, self.tasks, 10)), entry.attempts[-1].tasks
        # not --array: in Slurm 22.05 it leaves out the last of every tenth task
        listed = self.cluster.command("squeue", "-h", "--states=all", "-o", "%i",
                                      "-j", entry.attempts[-1].base).split()
        known = [task.partition("_")[2] for line in listed for task in expand(line)]
        assert sorted(map(int, known)) == entry.attempts[-1].tasks, listed
        [found] = status.collect(self.plan.workspace, [self.plan.run])
        assert not found.steps[0].failed_tasks and found.state == "running", found.steps[0]
        return [f"resume: {self.failing} failed tasks", f"{seconds:.3f}", "–"]

    def files(self, quick: bool) -> Table:
        """Count the files of the finished run and of its artifact, by where they are."""
        run_folder = self.plan.step_folder("extract")
        places = {"logs, and the pickled calls": run_folder.logs, "markers": run_folder.markers,
                  "artifact, with result.json": self.plan.steps[0].artifact}
        rows, small = [], 0
        for what, folder in places.items():
            paths = [path for path in folder.rglob("*") if path.name != "rows.txt"]
            number = sum(path.is_file() for path in paths)
            folders, size = len(paths) - number, sum(path.lstat().st_size for path in paths)
            small += number
            rows.append([what, figure(number / self.tasks), figure(folders / self.tasks),
                         figure(size / self.tasks / 1e3)])
        return Table("Small files of a finished task", ["where", "files", "folders", "kB"], rows, [
            f"Of {self.tasks:,} tasks, of which a tenth had two attempts, each with its own logs "
            "and call. What the step computes is not counted."],
            [] if quick else [Claim("small files of a finished task", "", small / self.tasks,
                                    MAX_FILES + 0.5, "", at_least=False,
                                    limit="two of them are Slurm's logs")])

    def pack(self) -> list[list[str]]:
        """Pack the finished run, look at it, and unpack it."""
        from l3hpc.runs import pack, status

        workspace, run = self.plan.workspace, self.plan.run

        def row(what: str, seconds: str) -> list[str]:
            sizes = [path.lstat().st_size for path in self.plan.folder.path.rglob("*")
                     if path.is_file() and not path.is_symlink()
                     and not path.name.startswith(self.plan.folder.submission_lease.name)]
            return [what, seconds, f"{len(sizes):,}", figure(sum(sizes) / 1e6)]

        rows = [row("the finished run", "–")]
        rows.append(row("runs pack", f"{timed(lambda: pack.pack(workspace, run)):.3f}"))
        rows.append(row("status", f"{timed(lambda: status.collect(workspace, [run])):.3f}"))
        rows.append(row("runs unpack", f"{timed(lambda: pack.unpack(workspace, run)):.3f}"))
        assert rows[3][2:] == rows[0][2:], rows
        return rows

    def _plan(self, name: str, in_a_job: int = 1) -> Any:
        import chains as fakes

        from l3hpc.config.resources import Resources

        return fakes.plan(self.place / name, names=("extract",), tasks={"extract": self.tasks},
                          on=self.profile,
                          resources={"extract": Resources(1, 100, 0, 5, in_a_job)})

    def _partition(self, state: str) -> None:
        self.cluster.command("scontrol", "update", "PartitionName=cpu", f"State={state}")

    def _load(self) -> tuple[int, float]:
        """(requests, CPU seconds) of slurmctld so far."""
        counts = re.findall(r"^\s+REQUEST_\S+.*?count:(\d+)", self.cluster.command("sdiag"), re.M)
        stat = Path(f"/proc/{self.cluster.processes['slurmctld'].pid}/stat").read_text()
        used = stat.rpartition(")")[2].split()[11:13]
        return sum(map(int, counts)), sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    def _since(self, before: tuple[int, float]) -> list[str]:
        requests, cpu = self._load()
        return [str(requests - before[0]), f"{cpu - before[1]:.1f}"]


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


if __name__ == "__main__":
    run("big_array", __doc__, tables)
