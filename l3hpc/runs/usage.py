"""What a run requested and what it used, step by step; the table of ``l3hpc usage``.

The figures come from our own records alone (the ``result.json`` of every task, markers, times of
submission), so no accounting is needed. If ``sacct`` responds, the time of failed attempts is
added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l3hpc import schedulers
from l3hpc.config.units import format_memory, format_task_memory, format_time
from l3hpc.console.formatting import clock, table_lines
from l3hpc.schedulers.jobs import EndedJob
from l3hpc.schedulers.requeue_policy import WARNING_S
from l3hpc.workspace import artifacts, attempts, markers, origin, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import JobState

MEMORY_MARGIN, TIME_MARGIN = 1.25, 1.5
ROUND_MB = 256
TOLERANCE = 1.3  # requests up to this multiple of the suggestion are left alone
_NOT_LOST = (JobState.COMPLETED, JobState.RUNNING)
LATEST_NOTE_S = 1800.0  # so much later than a job begins its submission may be noted, at the most
TITLES = ("step", "tasks", "cores", "memory", "time", "waited", "suggestion")


@dataclass(frozen=True)
class StepUsage:
    """What one step requested and used.

    Attributes
    ----------
    name : str
        Name of the step.
    tasks : int
        Tasks that finished in this run.
    cpus, mem_mb, gpus, time_min : int
        The request of one task: cores, MiB, GPUs, minutes.
    mem_granted_mb, time_granted_min : int
        What the largest and the longest task had, after their requeues.
    cpus_used : float
        Mean number of busy cores.
    mem_used_mb, time_used_s : float
        Memory of the largest task, MiB, and time of the longest one, seconds.
    waited_s : float or None
        The longest time in the queue, from when a task could have started, seconds.
    core_hours, core_hours_asked, gpu_hours : float
        Used, requested, and GPU hours, of all finished tasks together.
    requeues : int
        Of all tasks together.
    lost_s : float or None
        Time of attempts that ended without a result, seconds; None without accounting.
    suggestion : str
        What the next run should request; '' if the request fits.
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
    mem_granted_mb: int
    time_granted_min: int

    def to_json(self) -> dict[str, Any]:
        """Return the usage as JSON values."""
        return asdict(self)


def collect(workspace: Path, run: str, *, accounting: bool = True) -> list[StepUsage]:
    """Determine what each step of a run requested and used.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    accounting
        Whether to query the scheduler for failed attempts.

    Returns
    -------
    list of StepUsage
        In the order of the run, without steps that ran nothing here.
    """
    record = records.read(workspace, run)
    lost = _lost_seconds(workspace, record) if accounting and record.capabilities.accounting else {}
    ready: dict[str, float] = {}
    usages = []
    for step in record.steps:
        # results of early versions lack these
        results = [result for result in origin.own_results(run, step)
                   if {"index", "elapsed_s"} <= result.keys()]
        ends = [result["finished"] for result in artifacts.results(Path(step.artifact))]
        ready[step.name] = max(ends, default=0.0)
        if not results:
            continue
        marks = markers.read(Workspace(workspace).run(run).step(step.name).markers)
        could_start = max((ready.get(need, 0.0) for need in step.needs), default=0.0)
        usages.append(_step_usage(step, results, marks, could_start, lost.get(step.name)))
    return usages


def _step_usage(
    step: StepRecord, results: Sequence[Mapping[str, Any]], marks: Mapping[int, markers.TaskMarks],
    could_start: float, lost_s: float | None,
) -> StepUsage:
    requested = step.resources
    elapsed = [float(result["elapsed_s"]) for result in results]
    total = sum(elapsed)
    cpus = max(int(requested.get("cpus", 1)), 1)
    waits = []
    together, started = attempts.packed(step), _started(results, marks)
    first: dict[tuple[int, float], float] = {}  # first task of a packed job, since → its beginning
    for result in results:
        # the queue time of a dependent task starts when its parents are done, not at its submission
        submitted = max((attempt.time for attempt in step.attempts
                         if result["index"] in attempt.tasks), default=None)
        if submitted is not None:
            # a task of a packed job has waited until the first of them began
            began = float(result["started"])
            if of_job := together.get(result["index"]):
                if (key := (of_job[0], submitted)) not in first:
                    first[key] = min((started[index] for index in of_job
                                      if started.get(index, 0.0) >= submitted), default=began)
                began = min(began, first[key])
            waits.append(began - max(submitted, could_start))
    used = sum(float(result.get("cpu_s", 0.0)) for result in results)
    memory = max(float(result.get("peak_memory_mb", 0.0)) for result in results)
    largest = max(results, key=lambda result: float(result.get("peak_memory_mb", 0.0)))["index"]
    longest = max(results, key=lambda result: float(result["elapsed_s"]))["index"]
    packs = {task: attempt.pack for attempt in step.attempts for task in attempt.tasks}
    mem_mb, time_min = int(requested.get("mem_mb", 0)), int(requested.get("time_min", 0))
    requeues = sum(mark.restarts for mark in marks.values())
    usage = StepUsage(
        name=step.name, tasks=len(results), cpus=cpus, mem_mb=mem_mb,
        gpus=int(requested.get("gpus", 0)), time_min=time_min,
        cpus_used=used / total if total else 0.0, mem_used_mb=memory, time_used_s=max(elapsed),
        waited_s=_longest(waits), core_hours=used / 3600,
        core_hours_asked=total * cpus / 3600,
        gpu_hours=total * int(requested.get("gpus", 0)) / 3600,
        requeues=requeues, lost_s=lost_s, suggestion="",
        mem_granted_mb=_granted(marks, largest, "mem_mb") or mem_mb,
        time_granted_min=_granted(marks, longest, "time_min") // packs.get(longest, 1) or time_min)
    return StepUsage(**{**asdict(usage), "suggestion": suggestion(usage)})


def _longest(waits: Sequence[float]) -> float | None:
    """The longest time that a task waited; None if the clocks of submission and node disagree."""
    if not waits or min(waits) < -LATEST_NOTE_S:
        return None
    return max(0.0, max(waits))


def _granted(marks: Mapping[int, markers.TaskMarks], index: int, name: str) -> int:
    """What the requeues of a task have granted; 0 for nothing."""
    requeues = marks[index].requeues if index in marks else []
    return next((int(each[name]) for each in reversed(requeues) if each.get(name)), 0)


def _started(results: Sequence[Mapping[str, Any]], marks: Mapping[int, markers.TaskMarks]
             ) -> dict[int, float]:
    """Task index → when it began: also of those without a result."""
    begun = {index: mark.started for index, mark in marks.items() if mark.started is not None}
    return begun | {result["index"]: float(result["started"]) for result in results}


def suggestion(usage: StepUsage) -> str:
    """Suggest what the next run should request.

    Parameters
    ----------
    usage
        What a step requested and used.

    Returns
    -------
    str
        ``mem=2GB, cpus=2``; '' if the request fits.
    """
    parts = []
    memory = _rounded(usage.mem_used_mb * MEMORY_MARGIN, ROUND_MB)
    # 0 requests all memory of the node, which is neither too much nor too little
    if usage.mem_mb and (usage.mem_mb > memory * TOLERANCE
                         or usage.mem_mb < usage.mem_used_mb * 1.1):
        parts.append(f"mem={format_memory(memory).replace(' ', '')}")
    # so long before its limit a task is warned, and stops
    minutes = _rounded((usage.time_used_s * TIME_MARGIN + WARNING_S) / 60, 5)
    if usage.time_min > max(minutes * TOLERANCE, 15) \
            or usage.time_min * 60 < usage.time_used_s * 1.1:
        parts.append(f"time={format_time(minutes).replace(' ', '')}")
    cores = max(math.ceil(usage.cpus_used - 0.1), 1)
    # short tasks mostly start up, which says nothing about their cores
    if usage.cpus > cores and usage.cpus_used < 0.75 * usage.cpus and usage.time_used_s > 30:
        parts.append(f"cpus={cores}")
    return ", ".join(parts)


def _rounded(value: float, to: int) -> int:
    return max(math.ceil(value / to), 1) * to


def _lost_seconds(workspace: Path, record: RunRecord) -> dict[str, float | None]:
    """Step → seconds of attempts that ended without a result; None without accounting."""
    ended = schedulers.of_record(workspace, record).history(record)
    if ended is None:
        return {step.name: None for step in record.steps}
    lost: dict[str, float | None] = {}
    for step in record.steps:
        jobs = {job for attempt in step.attempts for job in attempt.task_ids.values()}
        seconds: dict[str, float] = {}
        for job, each in ended:
            if job in jobs and each.state not in _NOT_LOST:
                seconds[job] = seconds.get(job, 0.0) + (each.elapsed_s or 0.0)
        lost[step.name] = sum(seconds.values()) - _results_of_packed(record.run, step, ended,
                                                                     seconds)
    return lost


def _results_of_packed(run: str, step: StepRecord, ended: Sequence[tuple[str, EndedJob]],
                       seconds: Mapping[str, float]) -> float:
    """What packed jobs that did not end well have nevertheless computed, at most ``seconds`` each.
    """
    together = attempts.packed(step)
    jobs = {index: job for index, job in attempts.latest(step).items() if index in together}
    computed: dict[str, float] = {}
    for result in origin.own_results(run, step) if seconds and jobs else ():
        if (job := jobs.get(result.get("index", -1))) is not None:
            computed[job] = computed.get(job, 0.0) + float(result.get("elapsed_s", 0.0))
    # what the attempt that ended well has computed was not lost anyway
    for job, each in ended:
        if each.state in _NOT_LOST and job in computed:
            computed[job] = max(computed[job] - (each.elapsed_s or 0.0), 0.0)
    return sum(min(seconds.get(job, 0.0), spent) for job, spent in computed.items())


def table(run: str, steps: Sequence[StepUsage]) -> str:
    """Format the table of ``l3hpc usage``.

    Parameters
    ----------
    run
        Name of the run.
    steps
        Its steps.

    Returns
    -------
    str
        One line per step (used and requested), and the sums.
    """
    rows = [TITLES, *(_row(step) for step in steps)]
    used = sum(step.core_hours for step in steps)
    requested = sum(step.core_hours_asked for step in steps)
    total = f"  {used:,.3g} of {requested:,.3g} core-hours"
    if any(step.gpu_hours for step in steps):
        total += f", {sum(step.gpu_hours for step in steps):,.3g} GPU-hours"
    lost = sum(step.lost_s or 0.0 for step in steps)
    if lost:
        total += f"; {clock(lost)} in attempts without a result"
    return "\n".join([f"{run}   used of requested, of the largest task", *table_lines(rows), total])


def _row(step: StepUsage) -> tuple[str, ...]:
    waited = "–" if step.waited_s is None else clock(step.waited_s)
    tasks = str(step.tasks) + (f" ({step.requeues} requeued)" if step.requeues else "")
    return (step.name, tasks, f"{step.cpus_used:.1f} of {step.cpus}",
            f"{format_memory(round(step.mem_used_mb))} of "
            f"{format_task_memory(step.mem_granted_mb)}",
            f"{clock(step.time_used_s)} of {format_time(step.time_granted_min)}", waited,
            step.suggestion or "fits")
