"""Small plans of fake steps, for the real templates."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from l3hpc.config.profile import ClusterProfile, RequeueLimits
from l3hpc.config.resources import Resources
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.workspace import artifacts

FAKES = Path(__file__).parent
CHAIN = ("extract", "sample", "fit", "reduce", "train")
NEEDS = {"extract": (), "sample": ("extract",), "fit": ("sample",), "reduce": ("extract", "fit"),
         "train": ("reduce",), "embed": (), "classify": ("embed",), "evaluate": ("classify",)}


def profile(**changes):
    values = {"name": "local", "slots": {"cpus": 2, "mem": "4GB"},
              "env": {"PYTHONPATH": str(FAKES)}, "report": False, **changes}
    return ClusterProfile.model_validate(values)


def plan(workspace, run="demo", names=CHAIN, tasks=None, params=None, on=None, salt="",
         resources=None, waits_for=(), heal=None):
    """A chain of fake steps. tasks, params, resources: by step name.
    heal: how often a task goes back, as under ``heal:`` of a pipeline."""
    workspace = Path(workspace)
    made, prints = [], {}
    for name in names:
        needs = tuple(need for need in NEEDS[name] if need in names)
        given = (params or {}).get(name, {})
        count = (tasks or {}).get(name, 1)
        text = json.dumps([name, given, count, salt, [prints[need] for need in needs]])
        prints[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder = workspace / "artifacts" / name / prints[name]
        made.append(PlannedStep(
            name=name, kind=name, params=given, needs=needs,
            inputs={need: str(workspace / "artifacts" / need / prints[need]) for need in needs},
            fingerprint=prints[name], artifact=folder, shards=[{"n": n} for n in range(count)],
            done=tuple(sorted(artifacts.finished(folder))),
            resources=(resources or {}).get(name, Resources(cpus=1, mem_mb=100, time_min=5)),
            waits_for=tuple(waits_for) if not needs else (),
            version=1, requeue_limits=RequeueLimits(**heal or {})))
    return Plan(run=run, pipeline="fake", workspace=workspace, profile=on or profile(),
                steps=tuple(made), options={})


def output(made, name):
    """What the fake step wrote: text by task index."""
    step = next(step for step in made.steps if step.name == name)
    return {index: (artifacts.task_folder(step.artifact, index) / "out.txt").read_text()
            for index in sorted(artifacts.finished(step.artifact))}


def clean_environment(monkeypatch):
    for key in list(os.environ):
        if key.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(key)


def many(workspace, chains_, length, on, run="demo"):
    """Chains side by side, in one run, which shares no artifact with others."""
    made = []
    for chain in range(chains_):
        for place in range(length):
            name = f"c{chain}-{place}"
            mark = hashlib.sha256(f"{run} {name}".encode()).hexdigest()[:16]
            made.append(PlannedStep(
                name=name, kind="extract", params={},
                needs=(f"c{chain}-{place - 1}",) * bool(place), inputs={}, fingerprint=mark,
                artifact=Path(workspace) / "artifacts/extract" / mark,
                shards=[{}], done=(), resources=Resources(1, 50, 0, 5), version=1))
    return Plan(run=run, pipeline="fake", workspace=Path(workspace), profile=on,
                steps=tuple(made), options={})


def sweep(workspace, values, on, resources=None, params=None):
    """``extract``, then ``sample-V`` and ``fit-V`` for every value. params: by step name."""
    base = plan(workspace, names=("extract", "sample", "fit"), on=on)
    extract, sample, fit = base.steps

    def step(like, value, needs, inputs):
        name = f"{like.kind}-{value}"
        given = (params or {}).get(name, {"text": value})
        mark = hashlib.sha256(f"{name} {given}".encode()).hexdigest()[:16]
        return replace(
            like, name=name, params=given, needs=needs, inputs=inputs, fingerprint=mark,
            artifact=Path(workspace) / "artifacts" / like.kind / mark,
            done=tuple(artifacts.finished(Path(workspace) / "artifacts" / like.kind / mark)),
            resources=(resources or {}).get(name, like.resources))

    steps = [extract]
    for value in values:
        first = step(sample, value, ("extract",), {"extract": str(extract.artifact)})
        steps += [first, step(fit, value, (first.name,), {"sample": str(first.artifact)})]
    return replace(base, steps=tuple(steps), options={"grid": {"text": list(values)}})


def submit_behind(made):
    """Submit on ``local`` without running anything."""
    from l3hpc.runs import submit

    run_local = submit.run_local
    submit.run_local = lambda *args, **options: None
    try:
        return submit.submit(made)
    finally:
        submit.run_local = run_local
