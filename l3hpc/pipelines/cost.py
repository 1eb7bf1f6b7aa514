"""What a plan may use at most, and what the last run of the same pipeline really used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from l3hpc.pipelines.model import Plan
from l3hpc.workspace import artifacts, records
from l3hpc.workspace.states import RunState

CONFIRM_CORE_HOURS = 1000.0
CONFIRM_GPU_HOURS = 100.0


@dataclass(frozen=True)
class Cost:
    """Core-hours and GPU-hours."""

    core_hours: float
    gpu_hours: float

    def words(self) -> str:
        """``4,320 core-hours and 336 GPU-hours``; without GPUs only the first."""
        text = f"{_number(self.core_hours)} core-hours"
        return f"{text} and {_number(self.gpu_hours)} GPU-hours" if self.gpu_hours else text


def at_most(plan: Plan) -> Cost:
    """Every missing task at its full time limit."""
    cores = gpus = 0.0
    for step in plan.steps:
        hours = len(step.missing) * step.resources.time_min / 60
        cores += hours * step.resources.cpus
        gpus += hours * step.resources.gpus
    return Cost(cores, gpus)


def last_like(plan: Plan) -> Cost | None:
    """What the newest finished run of this pipeline used, from its tasks' results."""
    for record in records.read_all(plan.workspace, broken=[]):
        if record.pipeline != plan.pipeline or record.state != RunState.SUBMITTED:
            continue
        cores = gpus = 0.0
        complete = True
        for step in record.steps:
            submitted = set(step.submitted_tasks)
            results = [result for result in artifacts.results(Path(step.artifact))
                       if result.get("index") in submitted]
            complete = complete and len(results) == len(submitted)
            hours = sum(result.get("elapsed_s", 0.0) for result in results) / 3600
            cores += hours * step.resources.get("cpus", 1)
            gpus += hours * step.resources.get("gpus", 0)
        if complete and cores:
            return Cost(cores, gpus)
    return None


def needs_confirmation(plan: Plan) -> bool:
    """Whether a person should say yes first (never on this machine)."""
    cost = at_most(plan)
    return plan.profile.capabilities.remote and (
        cost.core_hours > CONFIRM_CORE_HOURS or cost.gpu_hours > CONFIRM_GPU_HOURS)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
