"""What a local job may use, and what happens when it wants more: the runner's counterpart of
slurmd's accounting and of ``healing.job``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from l3hpc.schedulers import requeue_policy
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.local_jobs import LocalJob

REQUEUE = 85  # the exit code by which a job says that it goes on later
WARNING_S = 90.0
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_SESSION, _RESIDENT = 3, 21  # fields of /proc/PID/stat, counted after the command's name


def resident_mb(sessions: Iterable[int]) -> dict[int, float]:
    """MiB in memory of all processes of each session (a local job is one), by session id."""
    found = dict.fromkeys(sessions, 0.0)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended just now
            continue
        fields = text.rpartition(")")[2].split()
        session = int(fields[_SESSION])
        if session in found:
            found[session] += int(fields[_RESIDENT]) * PAGE_MB
    return found


def kernel_kills() -> int:
    """How many processes the kernel has killed since boot because memory ran out (0 where it does
    not say)."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def warning_s(limit_s: float) -> float:
    """How long before its time limit a job is warned: 90 s as on Slurm, of short ones a quarter."""
    return min(WARNING_S, limit_s / 4)


def heal(folder: Path | StepFolder, job: LocalJob, cause: str) -> bool:
    """Put a job back to the queue with what the policy grants; False where it is given up.

    folder: of the step in the run. The job gets ``mem_mb`` and ``time_min``.
    """
    found = decision(folder, job.task, cause)
    if not found.again:
        markers.give_up(StepFolder(folder).markers, job.task, found.words, time.time())
        return False
    note(folder, job.task, cause, found)
    put_back(folder, job)
    return True


def decision(folder: Path | StepFolder, task: int, cause: str) -> requeue_policy.Decision:
    """What the step's policy says of a task that met ``cause``."""
    marks = markers.read(StepFolder(folder).markers).get(task, markers.TaskMarks())
    return requeue_policy.decide(requeue_policy.read(folder), cause, marks.requeues)


def note(folder: Path | StepFolder, task: int, cause: str, found: requeue_policy.Decision) -> None:
    """Write a requeue into the task's markers."""
    markers.add_requeue(StepFolder(folder).markers, task, cause, time.time(), words=found.words,
                        mem_mb=found.mem_mb, time_min=found.time_min)


def put_back(folder: Path | StepFolder, job: LocalJob) -> None:
    """The job waits again, under its id, with what its requeues have granted it."""
    marks = markers.read(StepFolder(folder).markers).get(job.task, markers.TaskMarks())
    mem, minutes = requeue_policy.granted(requeue_policy.read(folder), marks.requeues)
    job.wait_again()
    job.mem_mb, job.time_min = mem, minutes
