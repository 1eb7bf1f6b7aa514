"""The preview of a plan before it is submitted: steps, tasks, resources, state and cost.

The cost is a limit, which is reached where every task runs as long as it may, and what the same
steps used in the last run of the pipeline.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l3hpc import steps as kinds
from l3hpc.config.units import format_memory, format_task_memory
from l3hpc.console import formatting
from l3hpc.io.values import count_of
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.steps import Output
from l3hpc.workspace import artifacts, records

CONFIRM_CORE_HOURS = 1000.0
CONFIRM_GPU_HOURS = 100.0
_COLUMNS = ("step", "tasks", "needs", "cpus", "mem", "gpus", "time", "state")
_RIGHT = [_COLUMNS.index(name) for name in ("tasks", "cpus", "mem", "gpus")]


@dataclass(frozen=True)
class Cost:
    """Core-hours and GPU-hours of a plan or a run."""

    core_hours: float
    gpu_hours: float

    def as_text(self) -> str:
        """``4,320 core-hours and 336 GPU-hours``; without GPUs only the first."""
        text = _hours(self.core_hours, "core-hour")
        return f"{text} and {_hours(self.gpu_hours, 'GPU-hour')}" if self.gpu_hours else text


def maximum_cost(plan: Plan) -> Cost:
    """The cost if every missing task runs to its time limit."""
    cores = gpus = 0.0
    for step in plan.steps:
        hours = step.jobs * step.of_a_job.job_min / 60
        cores += hours * step.resources.cpus
        gpus += hours * step.resources.gpus
    return Cost(cores, gpus)


def last_cost(plan: Plan) -> tuple[str, Cost] | None:
    """What the tasks that a plan has to run used in the last run of its pipeline.

    Parameters
    ----------
    plan
        The plan.

    Returns
    -------
    (str, Cost) or None
        The newest run in which all steps of these kinds are finished, and the mean of their tasks
        times the number of tasks to run. None where there is no such run.
    """
    missing: Counter[str] = Counter()
    for step in plan.steps:
        missing[step.kind] += len(step.missing)
    # drops kinds of which nothing is missing
    missing = +missing
    for record in records.read_all(plan.workspace, broken=[]) if missing else ():
        past = [old for old in record.steps if old.kind in missing]
        # a run that is not finished would make everything look cheap
        if record.pipeline != plan.pipeline or {old.kind for old in past} != set(missing) or any(
                len(artifacts.finished(Path(old.artifact))) < old.tasks for old in past):
            continue
        cores = gpus = 0.0
        for kind, count in missing.items():
            done = [(old, artifacts.results(Path(old.artifact)))
                    for old in past if old.kind == kind]
            share = count / max(1, sum(len(results) for _, results in done))
            for old, results in done:
                hours = sum(result.get("elapsed_s", 0.0) for result in results) / 3600 * share
                cores += hours * old.resources.get("cpus", 1)
                gpus += hours * old.resources.get("gpus", 0)
        if cores:
            return record.run, Cost(cores, gpus)
    return None


def needs_confirmation(plan: Plan) -> bool:
    """Whether the plan is so expensive that submission asks first (never for local runs)."""
    cost = maximum_cost(plan)
    return plan.profile.capabilities.remote and (
        cost.core_hours > CONFIRM_CORE_HOURS or cost.gpu_hours > CONFIRM_GPU_HOURS)


def _hours(value: float, unit: str) -> str:
    if 0 < value < 0.01:  # what a demonstration or a test of a pipeline uses
        return f"less than 0.01 {unit}s"
    number = f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
    return f"{number} {unit}" if number == "1" else f"{number} {unit}s"


def as_text(plan: Plan) -> str:
    """The whole preview: heading, table, what the steps do, cost."""
    steps = formatting.table_lines([_COLUMNS, *(_row(step) for step in plan.steps)], right=_RIGHT)
    named = [(f"{name}:", text) for name, text in descriptions(plan).items()]
    details = formatting.table_lines(named, gap=" ")
    lines = [heading(plan), "", *steps, "", *details, f"  {cost_text(plan)}"]
    return "\n".join([*lines, *(f"  note: {note}" for note in notes(plan))])


def notes(plan: Plan) -> list[str]:
    """Say what was asked for with ``--set`` and is not given, or has no effect, and which time
    limits are too short.

    Parameters
    ----------
    plan
        The plan. Steps of a sweep share a note.
    """
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        short = step.of_a_job.warned_at_once(plan.profile.capabilities.warning_s)
        for text in (*step.not_granted, *([short] if short and step.missing else [])):
            found.setdefault(text, []).append(step.name)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def heading(plan: Plan) -> str:
    """``upstream on greene (partition gpu, account pr_42)   workspace …``."""
    profile = plan.profile
    facts = [f"{name} {getattr(profile, name)}" for name in ("partition", "account", "qos")
             if getattr(profile, name)]
    if not profile.capabilities.remote:
        cores = profile.slot_cpus()
        facts = [f"{count_of(cores, 'core')}", format_memory(profile.slot_mem_mb())]
    details = f" ({', '.join(facts)})" if facts else ""
    return f"{plan.pipeline} on {profile.name}{details}    workspace {plan.workspace}"


def descriptions(plan: Plan) -> dict[str, str]:
    """Step → what it will do, or for a finished one the summary of its output."""
    by_name = {step.name: step for step in plan.steps}
    result: dict[str, str] = {}
    for step in plan.steps:
        text = artifacts.detail(step.artifact) if not step.missing else ""
        if not text:
            params = {each.kind: kinds.step(each.kind).parse(each.params)
                      for each in (*_ancestors(step, by_name), step)}
            text = kinds.step(step.kind).describe(params[step.kind], params)
            if plan.profile.requests_gpus(step.like or step.kind):
                note = kinds.step(step.kind).check_gpus(params[step.kind], step.resources.gpus)
                text = "; ".join(filter(None, (text, note)))
        after = f"after job {', '.join(step.waits_for)}" if step.waits_for else ""
        text = "; ".join(filter(None, (text, _external_inputs(step, plan), after)))
        if text:
            result[step.name] = text
    return result


def cost_text(plan: Plan) -> str:
    """``limit: 4,320 core-hours and 336 GPU-hours; the last similar run used 12 … (RUN)``."""
    if not any(step.missing for step in plan.steps):
        return "nothing is left to compute"
    text = f"limit: {maximum_cost(plan).as_text()}"
    last = last_cost(plan)
    return f"{text}; the last similar run used {last[1].as_text()} ({last[0]})" if last else text


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for ``--json``, schema 1."""
    most, past = maximum_cost(plan), last_cost(plan)
    last = {**vars(past[1]), "run": past[0]} if past else None
    return {
        "schema": 1, "run": plan.run, "pipeline": plan.pipeline, "cluster": plan.profile.name,
        "workspace": str(plan.workspace),
        "steps": [{
            "name": step.name, "kind": step.kind, "state": step.state, "tasks": step.tasks,
            "missing": len(step.missing), "needs": list(step.needs),
            "waits_for": list(step.waits_for),
            "given": {kind: vars(source) for kind, source in step.given.items()},
            "fingerprint": step.fingerprint,
            "artifact": str(step.artifact), "params": step.params, "inputs": step.inputs,
            "resources": step.resources.to_json(),
        } for step in plan.steps],
        "cost": {"at_most": vars(most), "last": last}, "notes": notes(plan),
    }


def _external_inputs(step: PlannedStep, plan: Plan) -> str:
    """``student of upstream-20261120-1a2b``; empty for a step without external inputs."""
    network = "teacher" if plan.options.get("teacher") else "student"
    students = {kind for kind in kinds.step(step.kind).inputs
                if kinds.step(kind).output is Output.STUDENT}
    named = []
    for kind, origin in step.given.items():
        # The name of a sweep's step says which of several it is.
        suffix = f"/{origin.step}" if origin.step not in (None, kind) else ""
        named.append(f"{'student' if kind in students else kind} "
                     + (f"of {origin.run}{suffix}" if origin.run else f"in {origin.path}"))
    for kind in students:
        parameter = kinds.step(step.kind).inputs[kind].parameter
        if step.params.get(parameter):
            named.append(f"{network} {step.params[parameter]}")
    return ", ".join(named)


def _ancestors(step: PlannedStep, by_name: dict[str, PlannedStep]) -> list[PlannedStep]:
    """The steps on which a step depends, each after its own needs."""
    parents = [by_name[need] for need in step.needs]
    return [older for parent in parents for older in _ancestors(parent, by_name)] + parents


def _row(step: PlannedStep) -> tuple[str, ...]:
    resources = step.resources
    needs = " ".join(f"{need} (any)" if need in step.any_needs else need for need in step.needs)
    return (step.name, f"{step.tasks:,}", needs or "–", str(resources.cpus),
            format_task_memory(resources.mem_mb), str(resources.gpus or "–"),
            step.of_a_job.time_text, _state(step))


def _state(step: PlannedStep) -> str:
    if not step.missing:
        return f"done before (fingerprint {step.fingerprint[:4]}…)"
    jobs = f" in {step.jobs:,} job{'s' * (step.jobs > 1)}" if step.of_a_job.pack > 1 else ""
    if step.done:
        return f"to run{jobs} ({len(step.done):,} of {step.tasks:,} tasks done before)"
    return f"to run{jobs}"
