"""A chain with submitit alone, in the failure scenarios that l3hpc's tests cover.

    python -m benchmarks.submitit_alone [--quick] [--json FILE]

submitit is the library through which l3hpc submits; alone, it submits pickled functions and asks
sacct. It is used at its best here: AutoExecutor, dependencies by hand, ``checkpoint`` where a job
can continue. Each line states what was observed on a real three-node Slurm with accounting.
``--quick`` leaves out the slow ones (preemption, a dead node, 200 jobs).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.scheduling import FAKES
from benchmarks.tables import Table, run

OURS = {
    "chain of five": ("done", "`test_chains`: a chain of five"),
    "a step fails": ("failed, with the error message; the rest blocked; `resume` continues",
                     "`test_chains`: behind a failed step"),
    "out of memory": ("requeued with the same ID and twice the memory, done",
                      "`test_healing`: under the same id"),
    "one array task is cancelled": ("cancelled; `resume` submits only this task",
                                    "`test_faults`: one cancelled task"),
    "sbatch refuses one of five": ("the jobs submitted before it are cancelled",
                                   "`test_chains`: a refused job"),
    "more tasks than MaxArraySize": ("split into several arrays",
                                     "`test_chains`: an array above the site's limit"),
    "accounting stops": ("done, according to squeue and the markers",
                         "`test_faults`: a stopped accounting database"),
    "the controller restarts": ("done", "`test_faults`: a restarted controller"),
    "ids are forgotten": ("state known from the records; an old ID is never used",
                          "`test_faults`: jobs that Slurm forgot"),
    "preemption": ("requeued with the same ID, done; the reason is shown",
                   "`test_faults`: a preempted job"),
    "a node dies": ("requeued with the same ID without that node, done; the reason is shown",
                    "`test_faults`: a node that dies"),
    "200 chained jobs": ("done", "`test_faults`: two hundred chained jobs"),
}
WAIT_S = 60.0


class Line:
    """Puts what came before and its own name into one line; can go on after an interruption."""

    def __call__(self, name: str, before: str | None, seconds: float = 0.0) -> str:
        time.sleep(seconds)
        if name == "fails":
            raise RuntimeError("no audio in it")
        return f"{before or ''}{name} "

    def checkpoint(self, *arguments: Any) -> Any:
        """Run again from the start."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def hungry(mb: int) -> int:
    """Uses memory for a while."""
    block = b"x" * (mb << 20)
    time.sleep(4)
    return len(block)


class Scenarios:
    """Each method returns what was observed, as text."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster, self.folder, self.count = cluster, folder, 0

    def executor(self, **more: Any) -> Any:
        """Return a new executor with a folder of its own."""
        import submitit

        self.count += 1
        executor = submitit.AutoExecutor(self.folder / str(self.count), cluster="slurm")
        given = {"timeout_min": 5, "slurm_partition": "cpu", "slurm_mem": "200MB",
                 "cpus_per_task": 1, **more}
        executor.update_parameters(**given)
        return executor

    def chain(self, names: list[str], seconds: float = 0.0, **more: Any) -> list[Any]:
        """Submit jobs of which each depends on the one before."""
        jobs: list[Any] = []
        for name in names:
            extra = {"slurm_additional_parameters": {"dependency": f"afterok:{jobs[-1].job_id}"}} \
                if jobs else {}
            jobs.append(self.executor(**more, **extra).submit(Line(), name, None, seconds))
        return jobs

    def said(self, jobs: list[Any], seconds: float = WAIT_S) -> str:
        """Return the states that submitit reports once they no longer change, or after a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(job.done() for job in jobs):
            time.sleep(1)
        states = Counter(job.watcher.get_state(job.job_id, mode="force").split()[0]
                         for job in jobs)
        left = len(self.cluster.jobs())
        self.cluster.drain()
        text = ", ".join(f"{count} {state}" for state, count in states.items())
        return text + (f"; {left} left in the queue" if left else "")

    def chain_of_five(self) -> str:
        return self.said(self.chain(["a", "b", "c", "d", "e"]))

    def a_step_fails(self) -> str:
        return self.said(self.chain(["a", "fails", "c", "d", "e"]), 30)

    def out_of_memory(self) -> str:
        return self.said([self.executor(slurm_mem="200MB").submit(hungry, 600)], 40)

    def one_array_task_is_cancelled(self) -> str:
        jobs = self.executor(slurm_array_parallelism=3).map_array(
            Line(), ["a", "b", "c"], [None] * 3, [5.0] * 3)
        self._running(jobs[0])
        self.cluster.command("scancel", jobs[1].job_id)
        return self.said(jobs, 40) + "; the array has to be submitted again by hand"

    def sbatch_refuses_one_of_five(self) -> str:
        jobs: list[Any] = self.chain(["a", "b", "c"], 30.0)
        try:
            self.executor(slurm_partition="nowhere").submit(Line(), "d", None)
        except Exception as error:
            left = len(self.cluster.jobs())
            self.cluster.drain()
            return f"{type(error).__name__}; {left} of {len(jobs)} earlier jobs stay in the queue"
        raise AssertionError("Slurm took a job for a partition that does not exist")

    def more_tasks_than_maxarraysize(self) -> str:
        many = 1002
        try:
            self.executor(slurm_array_parallelism=2).map_array(
                Line(), ["a"] * many, [None] * many, [0.0] * many)
        except Exception as error:
            return f"{type(error).__name__}: nothing is submitted"
        finally:
            self.cluster.drain()
        raise AssertionError("Slurm took an array above its limit")

    def accounting_stops(self) -> str:
        self.cluster.stop_daemon("slurmdbd")
        try:
            return self.said(self.chain(["a", "b"]), 40)
        finally:
            self.cluster.start_slurmdbd()

    def the_controller_restarts(self) -> str:
        jobs = self.chain(["a", "b"], 4.0)
        self._running(jobs[0])
        self.cluster.stop_daemon("slurmctld")
        self.cluster.start_controller()
        return self.said(jobs)

    def ids_are_forgotten(self) -> str:
        """Without accounting, and with a short memory: a cluster of its own."""
        from realslurm import RealSlurm

        known = {name: os.environ.get(name) for name in self.cluster.env}
        cluster = RealSlurm(False, MinJobAge="2", SlurmdTimeout="20").start()
        os.environ |= cluster.env
        try:
            job = self.executor().submit(Line(), "fails", None)
            with contextlib.suppress(Exception):
                cluster.until(lambda: job.paths.result_pickle.exists(), "no result", 30)
            cluster.until(lambda: job.job_id not in cluster.command(
                "squeue", "-h", "--states=all", "-o", "%A"), "Slurm does not forget")
            after = {"dependency": f"afterok:{job.job_id}"}
            late = self.executor(slurm_additional_parameters=after).submit(Line(), "b", None)
            with contextlib.suppress(Exception):
                cluster.until(lambda: late.paths.result_pickle.exists(), "no result", 20)
            ran = late.paths.result_pickle.exists()
            state = job.watcher.get_state(job.job_id, mode="force")
            return (f"{state} for the failed job; one submitted behind its id "
                    + ("runs, as if it had ended well" if ran else "does not run"))
        finally:
            cluster.stop()
            os.environ |= {name: value for name, value in known.items() if value is not None}

    def preemption(self) -> str:
        job = self.executor(slurm_partition="low", cpus_per_task=4).submit(Line(), "a", None, 8.0)
        self._running(job)
        self.cluster.command("sbatch", "--partition=cpu", "--nodes=3", "--exclusive", "--time=5",
                             "--output=/dev/null", "--wrap", "sleep 6")
        return self.said([job], 90)

    def a_node_dies(self) -> str:
        job = self.executor().submit(Line(), "a", None, 15.0)
        self._running(job)
        node = self.cluster.command("squeue", "-h", "-j", job.job_id, "-o", "%N").strip()
        self.cluster.kill_node(node)
        try:
            return self.said([job], 150)
        finally:
            self.cluster.start_node(node)
            self.cluster.idle()

    def chained_200_jobs(self) -> str:
        jobs: list[Any] = []
        for number in range(20):
            jobs += self.chain([f"{number}-{place}" for place in range(10)])
        return self.said(jobs, 300)

    def _running(self, job: Any) -> None:
        self.cluster.until(lambda: "RUNNING" in self.cluster.command(
            "squeue", "-h", "-j", job.job_id, "-o", "%T", check=False), "it does not start")
        time.sleep(2)


SLOW = ("preemption", "a node dies", "200 chained jobs")


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    sys.path.insert(0, str(FAKES))
    from realslurm import RealSlurm

    cluster = RealSlurm(True, SlurmdTimeout="20").start()
    os.environ |= cluster.env
    try:
        yield cluster
    finally:
        cluster.stop()


def tables(quick: bool, work: Path) -> list[Table]:
    """Return a table of the scenarios: submitit alone, l3hpc, and the test of the latter."""
    rows = []
    with _cluster() as cluster:
        scenarios = Scenarios(cluster, work)
        for name, (ours, proof) in OURS.items():
            if quick and name in SLOW:
                continue
            print(f"  {name}", file=sys.stderr, flush=True)
            method = "chained_200_jobs" if name == "200 chained jobs" \
                else name.lower().replace(" ", "_")
            look: Callable[[], str] = getattr(scenarios, method)
            rows.append([name, look(), ours, proof])
    version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True).stdout.strip()
    return [Table("A chain through submitit alone, and through l3hpc", [
        "scenario", "submitit alone", "l3hpc", "proved by"], rows, [
        f"The submitit column was observed on a three-node {version} with accounting: the states "
        "reported by its watcher, and what remains in Slurm's queue. The l3hpc column is what the "
        "test demands on the same cluster."])]


if __name__ == "__main__":
    run("submitit_alone", __doc__, tables)
