"""A run's usage as a table for a person."""

from __future__ import annotations

from collections.abc import Sequence

from l3hpc.config.units import format_memory, format_time
from l3hpc.console.formatting import clock
from l3hpc.console.table import lines
from l3hpc.runs.usage import StepUsage

TITLES = ("step", "tasks", "cores", "memory", "time", "waited", "suggestion")


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
    return "\n".join([f"{run}   used of asked, of the largest task", *lines(rows), total])


def _row(step: StepUsage) -> tuple[str, ...]:
    waited = "–" if step.waited_s is None else clock(step.waited_s)
    tasks = str(step.tasks) + (f" ({step.requeues} requeued)" if step.requeues else "")
    return (step.name, tasks, f"{step.cpus_used:.1f} of {step.cpus}",
            f"{format_memory(round(step.mem_used_mb))} of {format_memory(step.mem_mb)}",
            f"{clock(step.time_used_s)} of {format_time(step.time_min)}", waited,
            step.suggestion or "fits")
