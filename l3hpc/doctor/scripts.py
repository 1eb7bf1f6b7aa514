"""What would be submitted: pipelines are read, their scripts rendered, and the scheduler asked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from l3hpc import schedulers
from l3hpc.config import sources
from l3hpc.config.resources import Resources
from l3hpc.config.settings import Config
from l3hpc.doctor.programs import Answer, Ask
from l3hpc.errors import InputError, L3hpcError, command_line, nearest
from l3hpc.findings import Finding, Severity, from_error
from l3hpc.pipelines import definition
from l3hpc.pipelines.model import Plan, PlannedStep
from l3hpc.schedulers.base import Scheduler
from l3hpc.schedulers.scripts import render
from l3hpc.steps import step as step_of_kind
from l3hpc.workspace.layout import Workspace


def check_names(asked: Sequence[str]) -> None:
    """An ``InputError`` for a name that no pipeline has."""
    known = sources.pipelines()
    for name in asked:
        if name not in known:
            raise InputError(f"there is no pipeline {name!r}", allowed=nearest(name, known))


def script_lines(config: Config, ask: Ask, asked: Sequence[str] = ()) -> Iterator[Finding]:
    """One line when every script of every pipeline is accepted; one more for each that is not.

    Parameters
    ----------
    asked
        The pipelines that a person wants to submit. What is wrong with one of them is red. Without
        any, a pipeline that the cluster refuses is something to look at (a cluster without GPUs
        need not train); only where it refuses all of them is that red.
    """
    chosen = {name: path for name, path in sources.pipelines().items()
              if not asked or name in asked}
    scripts: dict[str, dict[str, str]] = {}  # pipeline → step → text
    faults: list[Finding] = []
    for name, path in chosen.items():
        try:
            scripts[name] = dict(rendered(definition.load_file(path), config))
        except L3hpcError as error:
            faults.append(from_error(f"pipeline {name}", error, f"correct {path}"))
    texts = {text for steps in scripts.values() for text in steps.values()}
    refused: dict[str, str] = {}  # pipelines share most of their steps: each text is tried once
    for text in sorted(texts):
        answer = _tried(text, schedulers.of(config.profile, config.workspace), ask)
        if answer.code is None:
            yield Finding("scripts", "red", f"cannot be tried: {answer.reason}",
                          "run this on a machine that submits jobs")
            return
        if answer.code != 0:
            refused[text] = answer.reason.removeprefix("allocation failure: ")
    unusable = {name: {step: refused[text] for step, text in steps.items() if text in refused}
                for name, steps in scripts.items()}
    severity: Severity = "red" if asked or all(unusable.values()) else "yellow"
    faults += [Finding(f"pipeline {name}", severity, _reasons(steps),
                       f"only for {command_line('submit', name)}: change "
                       f"clusters.{config.profile.name} in {config.file}, or the resources in "
                       f"jobs/; see them: {command_line('render', name)}")
               for name, steps in unusable.items() if steps]
    how = "bash reads them" if not config.profile.capabilities.remote \
        else "sbatch --test-only accepts them"
    yield Finding("scripts", "green" if not faults else "yellow",
               f"{len(texts) - len(refused)} of {len(texts)} scripts for "
               f"{len(chosen)} pipeline{'s' * (len(chosen) != 1)}, {how}",
               "see the lines below" if faults else "")
    yield from faults


def _tried(text: str, scheduler: Scheduler, ask: Ask) -> Answer:
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return ask(scheduler.check_command(Path(file.name)))


def _reasons(steps: Mapping[str, str]) -> str:
    """``train, classify: Invalid qos``: the steps by why they are refused."""
    by_reason: dict[str, list[str]] = {}
    for step, reason in steps.items():
        by_reason.setdefault(reason, []).append(step)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def rendered(pipeline: definition.Pipeline, config: Config) -> Iterator[tuple[str, str]]:
    """(step, script) of a pipeline as a run called ``doctor`` would have them; needs no data."""
    steps = []
    for step in pipeline.steps.values():
        wanted = config.profile.at(step.kind).over(step.resources.over(Resources()))
        steps.append(PlannedStep(
            name=step.name, kind=step.kind, params={}, needs=step.needs, inputs={},
            fingerprint="0" * 16,
            artifact=Workspace(config.workspace).artifact(step.kind, "0" * 16).path,
            shards=[{}], done=(), resources=config.profile.granted(step.name, wanted),
            version=step_of_kind(step.kind).version))
    plan = Plan("doctor", "doctor", config.workspace, config.profile, tuple(steps))
    for planned in steps:
        yield planned.name, render(plan, planned)
