"""Small plans of fake steps, and the script that a cluster would run for them."""

import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

from l3hpc.workflow import artifacts
from l3hpc.workflow.model import Plan, PlannedStep, Resources
from l3hpc.workflow.profile import ClusterProfile

FAKES = Path(__file__).parent
CHAIN = ("extract", "sample", "fit", "reduce", "train")
NEEDS = {"extract": (), "sample": ("extract",), "fit": ("sample",), "reduce": ("extract", "fit"),
         "train": ("reduce",), "embed": (), "classify": ("embed",), "evaluate": ("classify",)}


def profile(**changes):
    values = {"name": "local", "slots": {"cpus": 2, "mem": "4GB"},
              "env": {"PYTHONPATH": str(FAKES)}, **changes}
    return ClusterProfile.model_validate(values)


def plan(workspace, run="demo", names=CHAIN, tasks=None, params=None, on=None, salt="",
         resources=None, waits_for=()):
    """A chain of fake steps. tasks, params, resources: by step name."""
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
            waits_for=tuple(waits_for) if not needs else (), extra={"version": 1}))
    return Plan(run=run, pipeline="fake", workspace=workspace, profile=on or profile(),
                steps=tuple(made), options={})


def script(made, step):
    """A script with everything that the real templates promise, and nothing more."""
    folder = made.step_folder(step.name)
    local = made.profile.executor == "local"
    is_array = step.tasks > 1
    log = "%A_%a" if is_array else "%j"
    lines = ["#!/bin/bash", f"#SBATCH --job-name=l3-{made.run}-{step.name}",
             f"#SBATCH --output={folder}/logs/{log}_0_log.out",
             f"#SBATCH --error={folder}/logs/{log}_0_log.err", "#SBATCH --open-mode=append",
             f"#SBATCH --time={step.resources.time_min}",
             f"#SBATCH --cpus-per-task={step.resources.cpus}",
             f"#SBATCH --mem={step.resources.mem_mb}M"]
    if made.profile.partition:
        lines.append(f"#SBATCH --partition={made.profile.partition}")
    if is_array:
        lines.append("#SBATCH --array=" + ",".join(map(str, step.missing)))
    task = "${SLURM_ARRAY_TASK_ID}" if is_array else str(step.missing[0])
    marks = shlex.quote(f"{folder}/markers")
    lines += [
        "set -euo pipefail", f"marks={marks}", f"task={task}", 'rm -f "$marks/$task.exit"',
        'echo "job=$SLURM_JOB_ID time=$(date +%s) restarts=${SLURM_RESTART_COUNT:-0}" '
        '> "$marks/$task.begin"',
        "trap 'code=$?; echo \"code=$code time=$(date +%s)\" > \"$marks/$task.exit\"' EXIT",
        *(f"export {name}={shlex.quote(value)}" for name, value in made.profile.env.items()),
        "export SUBMITIT_EXECUTOR=slurm",
        ("" if local else "srun --unbuffered ") + f"{shlex.quote(sys.executable)} -u -m "
        f"submitit.core._submit {shlex.quote(str(folder / 'logs'))}", ""]
    return "\n".join(lines)


def fake_render(monkeypatch):
    """Let submission render with ``script``."""
    from l3hpc.workflow import submission

    monkeypatch.setattr(submission, "_render", lambda: SimpleNamespace(render=script))


def output(made, name):
    """What the fake step wrote: text by task index."""
    step = next(step for step in made.steps if step.name == name)
    return {index: (artifacts.task_folder(step.artifact, index) / "out.txt").read_text()
            for index in sorted(artifacts.finished(step.artifact))}


def clean_environment(monkeypatch):
    for key in list(os.environ):
        if key.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(key)
