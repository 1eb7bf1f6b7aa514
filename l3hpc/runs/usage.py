"""What a run asked for and what it used, step by step, what it should ask for next time, and the
table of ``l3hpc usage``.

From our own records alone (every task's ``result.json``, markers, submission times), so it works
without accounting; where ``sacct`` answers, the time that failed attempts used is added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l3hpc import schedulers
from l3hpc.config.units import format_memory, format_time
from l3hpc.console.formatting import clock, table_lines
from l3hpc.schedulers.base import JobState
from l3hpc.workspace import artifacts, markers, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.records import RunRecord, StepRecord

MEMORY_MARGIN, TIME_MARGIN = 1.25, 1.5
ROUND_MB = 256
_NOT_LOST = (JobState.COMPLETED, JobState.RUNNING)
ENOUGH = 1.3  # a request up to so many times the suggestion is left alone
TITLES = ("step", "tasks", "cores", "memory", "time", "waited", "suggestion")


@dataclass(frozen=True)
class StepUsage:
    """One step. tasks: those that finished here. Asked: cpus, mem_mb, gpus, time_min of one task.

    cpus_used: mean cores at work. mem_used_mb: the largest task. time_used_s: the longest task.
    waited_s: the longest wait in the queue, from when a task could have started. core_hours,
    core_hours_asked, gpu_hours: of all finished tasks together. lost_s: seconds of attempts that
    ended without a result, None where accounting is silent. suggestion: words for the next request
    ('' where it fits).
    """

    name: str
    tasks: int
    cpus: int
    mem_mb: int
    gpus: int
    time_min: int
    cpus_used: float
    mem_used_mb: float
    time_used_s: float
    waited_s: float | None
    core_hours: float
    core_hours_asked: float
    gpu_hours: float
    requeues: int
    lost_s: float | None
    suggestion: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def collect(workspace: Path, run: str, *, accounting: bool = True) -> list[StepUsage]:
    """What each step of a run asked for and used. Steps that ran nothing here are left out."""
    record = records.read(workspace, run)
    lost = _lost(workspace, record) if accounting and record.capabilities.accounting else {}
    ready: dict[str, float] = {}
    found = []
    for step in record.steps:
        results = _own_results(step)
        ends = [result["finished"] for result in artifacts.results(Path(step.artifact))]
        ready[step.name] = max(ends, default=0.0)
        if not results:
            continue
        marks = markers.read(Workspace(workspace).run(run).step(step.name).markers)
        could_start = max((ready.get(need, 0.0) for need in step.needs), default=0.0)
        found.append(_step_usage(step, results, marks, could_start, lost.get(step.name)))
    return found


def _own_results(step: StepRecord) -> list[dict[str, Any]]:
    """Results of the tasks that this run submitted and that its own jobs computed."""
    jobs = {job for attempt in step.attempts for job in attempt.task_ids.values()}
    bases = {job.partition("_")[0] for job in jobs}
    return [result for result in artifacts.results(Path(step.artifact))
            if {"index", "elapsed_s"} <= result.keys() and (
                str(result.get("environment", {}).get("job", "")).partition("_")[0] in bases
                or _raw_id(result, bases))]


def _raw_id(result: Mapping[str, Any], bases: set[str]) -> bool:
    """Tasks of an array have raw ids of their own in SLURM_JOB_ID."""
    return str(result.get("environment", {}).get("array_job", "")) in bases


def _step_usage(
    step: StepRecord, results: Sequence[Mapping[str, Any]], marks: Mapping[int, markers.TaskMarks],
    could_start: float, lost_s: float | None,
) -> StepUsage:
    asked = step.resources
    elapsed = [float(result["elapsed_s"]) for result in results]
    total = sum(elapsed)
    cpus = max(int(asked.get("cpus", 1)), 1)
    waits = []
    for result in results:
        submitted = max((attempt.time for attempt in step.attempts
                         if result["index"] in attempt.tasks), default=None)
        if submitted is not None:
            waits.append(float(result["started"]) - max(submitted, could_start))
    used = sum(float(result.get("cpu_s", 0.0)) for result in results)
    memory = max(float(result.get("peak_memory_mb", 0.0)) for result in results)
    requeues = sum(mark.restarts for mark in marks.values())
    usage = StepUsage(
        name=step.name, tasks=len(results), cpus=cpus, mem_mb=int(asked.get("mem_mb", 0)),
        gpus=int(asked.get("gpus", 0)), time_min=int(asked.get("time_min", 0)),
        cpus_used=used / total if total else 0.0, mem_used_mb=memory, time_used_s=max(elapsed),
        waited_s=max(0.0, max(waits)) if waits else None, core_hours=used / 3600,
        core_hours_asked=total * cpus / 3600, gpu_hours=total * int(asked.get("gpus", 0)) / 3600,
        requeues=requeues, lost_s=lost_s, suggestion="")
    return StepUsage(**{**asdict(usage), "suggestion": suggestion(usage)})


def suggestion(usage: StepUsage) -> str:
    """``mem=2GB, cpus=2``: what the next run should ask for, '' where the request fits."""
    words = []
    memory = _rounded(usage.mem_used_mb * MEMORY_MARGIN, ROUND_MB)
    if usage.mem_mb > memory * ENOUGH or usage.mem_mb < usage.mem_used_mb * 1.1:
        words.append(f"mem={format_memory(memory).replace(' ', '')}")
    minutes = max(math.ceil(usage.time_used_s * TIME_MARGIN / 60), 1)
    minutes = _rounded(minutes, 5 if minutes > 5 else 1)
    if usage.time_min > max(minutes * ENOUGH, 15) or usage.time_min * 60 < usage.time_used_s * 1.1:
        words.append(f"time={format_time(minutes).replace(' ', '')}")
    cores = max(math.ceil(usage.cpus_used - 0.1), 1)
    if usage.cpus > cores and usage.cpus_used < 0.75 * usage.cpus and usage.time_used_s > 30:
        words.append(f"cpus={cores}")
    return ", ".join(words)


def _rounded(value: float, to: int) -> int:
    return max(math.ceil(value / to), 1) * to


def _lost(workspace: Path, record: RunRecord) -> dict[str, float | None]:
    """Step → seconds of attempts that ended without a result, where accounting tells."""
    ended = schedulers.of_record(workspace, record).history(record)
    if ended is None:
        return {step.name: None for step in record.steps}
    lost: dict[str, float | None] = {}
    for step in record.steps:
        jobs = {job for attempt in step.attempts for job in attempt.task_ids.values()}
        lost[step.name] = sum(each.elapsed_s or 0.0 for job, each in ended
                              if job in jobs and each.state not in _NOT_LOST)
    return lost


def table(run: str, steps: Sequence[StepUsage]) -> str:
    """One line per step: used of asked; sums below."""
    rows = [TITLES, *(_row(step) for step in steps)]
    used = sum(step.core_hours for step in steps)
    asked = sum(step.core_hours_asked for step in steps)
    total = f"  {used:,.3g} of {asked:,.3g} core-hours"
    if any(step.gpu_hours for step in steps):
        total += f", {sum(step.gpu_hours for step in steps):,.3g} GPU-hours"
    lost = sum(step.lost_s or 0.0 for step in steps)
    if lost:
        total += f"; {clock(lost)} in attempts that gave no result"
    return "\n".join([f"{run}   used of asked, of the largest task", *table_lines(rows), total])


def _row(step: StepUsage) -> tuple[str, ...]:
    waited = "–" if step.waited_s is None else clock(step.waited_s)
    tasks = str(step.tasks) + (f" ({step.requeues} requeued)" if step.requeues else "")
    return (step.name, tasks, f"{step.cpus_used:.1f} of {step.cpus}",
            f"{format_memory(round(step.mem_used_mb))} of {format_memory(step.mem_mb)}",
            f"{clock(step.time_used_s)} of {format_time(step.time_min)}", waited,
            step.suggestion or "fits")
