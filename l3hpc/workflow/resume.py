"""Going on with a run: only what is missing or failed, task by task, waiting only for live jobs.

What is finished is known from the artifacts, what lives from the queue. The ids of finished or
forgotten jobs are never used: Slurm would take them as fulfilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, nearest
from l3hpc.files import read_json, write_text
from l3hpc.progress import Progress
from l3hpc.workflow import artifacts, records, render, status, submission
from l3hpc.workflow.model import Plan, PlannedStep, Resources, RunRecord, StepRecord
from l3hpc.workflow.owner import Owner
from l3hpc.workflow.units import parse_memory, parse_time

RESOURCES = ("cpus", "mem", "gpus", "time")


@dataclass(frozen=True)
class Todo:
    """What a resumption will do. steps: to submit again (``missing`` says which tasks); alive:
    step → ids that still work on it; stale: ids that wait for something that cannot come."""

    plan: Plan
    steps: list[PlannedStep]
    alive: dict[str, list[str]]
    stale: list[str]


def resume(
    workspace: Path, run: str, profile: Any, *, sets: Sequence[str] = (), detach: bool = False,
    progress: Progress | None = None, on_submitted: Any = None,
) -> RunRecord:
    """Submit again what is missing of a run and not alive; return its record.

    profile: the cluster profile of the run. sets: ``STEP.mem=160GB`` and the like (resources only:
    a parameter would make it another run). Two at once submit once: the second one finds the jobs
    of the first alive.
    """
    folder = records.run_folder(workspace, run)
    claim = Owner(folder / "resume", "resume")
    if not claim.acquire():
        raise InputError(f"{run} is being resumed by another command just now",
                         hint=f"See: l3hpc status {run}")
    with claim, submission.umask(profile):
        todo = missing(workspace, run, profile, sets)
        record = records.read(workspace, run)
        if not todo.steps:
            return record
        texts = {step.name: render.render(todo.plan, step) for step in todo.steps}
        if not record.local:
            submission.cancel_jobs(todo.stale)
        for step in todo.steps:
            write_text(todo.plan.step_folder(step.name) / "script.sbatch", texts[step.name])
            records.step(record, step.name).resources = vars(step.resources).copy()
        submission.hand_over(todo.plan, todo.steps, texts, record, progress or Progress(),
                             alive=todo.alive)
    if on_submitted is not None:
        on_submitted(record)
    if record.local:
        with submission.umask(profile):
            submission.run_local(workspace, run, detach=detach)
        record = records.read(workspace, run)
    return record


def missing(workspace: Path, run: str, profile: Any, sets: Sequence[str] = ()) -> Todo:
    """What of a run has to be submitted again."""
    record = records.read(workspace, run)
    [found] = status.collect(workspace, [run])
    live = status.live_tasks(workspace, record)
    wishes = _resources(record, sets)
    steps, alive, stale = [], {}, []
    for entry, now in zip(record.steps, found.steps, strict=True):
        done = artifacts.finished(Path(entry.artifact))
        if len(done) >= entry.tasks:
            continue
        running = live.get(entry.name, {})
        if now.state == "blocked":  # waits in the queue for what cannot come
            stale += sorted({job.partition("_")[0] for job in running.values()})
            running = {}
        if running:
            alive[entry.name] = list(running.values())
        step = _planned(workspace, record, entry, profile, wishes.get(entry.name, {}),
                        {*done, *running})
        if step.missing:
            steps.append(step)
    plan = Plan(run=run, pipeline=record.pipeline, workspace=Path(workspace), profile=profile,
                steps=tuple(steps), options=record.options)
    return Todo(plan, steps, alive, stale[::-1])


def _planned(
    workspace: Path, record: RunRecord, entry: StepRecord, profile: Any, wishes: dict[str, int],
    not_again: set[int],
) -> PlannedStep:
    config = read_json(records.step_folder(workspace, record.run, entry.name) / "config.json")
    wanted = replace(Resources(**entry.resources), **wishes)
    return PlannedStep(
        name=entry.name, kind=entry.kind, params=config["params"], needs=tuple(entry.needs),
        inputs=config["inputs"], fingerprint=config["fingerprint"], artifact=Path(entry.artifact),
        shards=config["shards"], done=tuple(sorted(not_again)),
        resources=profile.granted(entry.name, wanted), labels=config["labels"],
        waits_for=tuple(entry.waits_for), extra={"version": config["version"]})


def _resources(record: RunRecord, sets: Sequence[str]) -> dict[str, dict[str, int]]:
    """``classify.mem=160GB`` … by step, in the units of ``Resources``."""
    wishes: dict[str, dict[str, int]] = {}
    for text in sets:
        place, sign, value = text.partition("=")
        step, dot, name = place.partition(".")
        if not sign or not dot:
            raise InputError(f"--set {text!r} is not STEP.RESOURCE=VALUE",
                             allowed=f"resources: {', '.join(RESOURCES)}")
        records.step(record, step)
        if name not in RESOURCES:
            raise InputError(
                f"--set {place}: only resources can change when a run is resumed",
                allowed=nearest(name, RESOURCES),
                hint="Another parameter makes another run: l3hpc submit")
        wishes.setdefault(step, {}).update(_wish(name, value, text))
    return wishes


def _wish(name: str, value: str, text: str) -> dict[str, int]:
    if name == "mem":
        return {"mem_mb": parse_memory(value)}
    if name == "time":
        return {"time_min": parse_time(value)}
    if not value.isdigit() or (name == "cpus" and value == "0"):
        raise InputError(f"--set {text!r}: {value!r} is not a number")
    return {name: int(value)}
