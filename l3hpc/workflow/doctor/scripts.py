"""What would be submitted: pipelines are read, their scripts rendered, and the scheduler asked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from l3hpc.errors import L3hpcError
from l3hpc.steps import step as step_module
from l3hpc.workflow import assets, pipelines
from l3hpc.workflow.config import Config
from l3hpc.workflow.doctor.line import Ask, Line, from_error
from l3hpc.workflow.model import Plan, PlannedStep, Resources
from l3hpc.workflow.render import render


def script_lines(config: Config, ask: Ask) -> Iterator[Line]:
    """One line when every script of every pipeline is accepted; a red one for each that is not."""
    texts: dict[str, str] = {}
    faults: list[Line] = []
    for name, path in assets.pipelines().items():
        try:
            for step, text in rendered(pipelines.load_file(path), config):
                texts.setdefault(text, f"{step} ({name})")  # pipelines share most of their steps
        except L3hpcError as error:
            faults.append(from_error(f"pipeline {name}", error, f"correct {path}"))
    local = config.profile.executor == "local"
    refused = 0
    for text, label in texts.items():
        with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            answer = ask(["bash", "-n", file.name] if local
                         else ["sbatch", "--test-only", file.name])
        if answer.code is None:
            yield Line("scripts", "red", f"cannot be tried: {answer.reason}",
                       "run this where jobs are submitted")
            return
        if answer.code != 0:
            refused += 1
            faults.append(Line(
                f"script of {label}", "red", answer.reason.removeprefix("allocation failure: "),
                f"change clusters.{config.profile.name} in {config.file}, or the resources in "
                "jobs/; see it: l3hpc render"))
    how = "bash reads them" if local else "sbatch --test-only accepts them"
    yield Line("scripts", "green" if not faults else "yellow",
               f"{len(texts) - refused} of {len(texts)} scripts for "
               f"{len(assets.pipelines())} pipelines, {how}",
               "see the red lines below" if faults else "")
    yield from faults


def rendered(pipeline: pipelines.Pipeline, config: Config) -> Iterator[tuple[str, str]]:
    """(step, script) of a pipeline as a run called ``doctor`` would have them; needs no data."""
    steps = []
    for step in pipeline.steps.values():
        wanted = config.profile.at(step.kind).over(step.resources.over(Resources()))
        steps.append(PlannedStep(
            name=step.name, kind=step.kind, params={}, needs=step.needs, inputs={},
            fingerprint="0" * 16, artifact=config.workspace / "artifacts" / step.kind / ("0" * 16),
            shards=[{}], done=(), resources=config.profile.granted(step.name, wanted),
            extra={"version": step_module(step.kind).VERSION}))
    plan = Plan("doctor", "doctor", config.workspace, config.profile, tuple(steps))
    for planned in steps:
        yield planned.name, render(plan, planned)
