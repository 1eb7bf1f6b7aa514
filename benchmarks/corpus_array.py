"""The corpus of 15 sensors as arrays of 15 tasks on Slurm, beside what ``docs/scale.md`` predicts.

    python -m benchmarks.corpus_array [--sensors 15] [--rows 200000] [--quick] [--json FILE]

``sample`` and ``reduce`` are arrays with a task for each sensor, ``fit`` is one task between them,
submitted together to the three-node cluster of the tests (``make slurm``). ``--rows`` is the number
of one sensor's rows, in days of 20,300: as many as the disk holds (2.7 kB each).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import cost
from benchmarks.scheduling import FAKES, MEMORY
from benchmarks.sensor_year import ROWS_PER_DAY, measured_here, refuse_full_disk
from benchmarks.tables import Table, figure, run

SENSORS, ROWS = 15, 200_000
WAIT_S = 1800


def tables(quick: bool, work: Path, sensors: int, rows: int) -> list[Table]:
    """Run the three steps on a cluster of its own."""
    sys.path.insert(0, str(FAKES))
    from realslurm import RealSlurm

    from benchmarks import scaling_data as data

    if quick:
        sensors, rows = 3, 2 * ROWS_PER_DAY
    samples = cost.SAMPLES * rows // cost.WINDOWS  # of one sensor
    refuse_full_disk(work, sensors * rows)
    place = work / "corpus"
    cluster = RealSlurm(True, place=MEMORY if MEMORY.is_dir() else None).start()
    try:
        os.environ |= cluster.env
        print(f"  making {sensors} x {rows:,} rows", file=sys.stderr, flush=True)
        source = data.embeddings(place / "extract", rows, cost.TEACHER_DIM,
                                 rows_per_day=ROWS_PER_DAY, sensors=sensors)
        plan = _plan(cluster, place / "workspace", source, sensors * samples)
        started = time.perf_counter()
        _run(cluster, plan)
        wall = time.perf_counter() - started
        return [_table(plan, rows, samples, wall)]
    finally:
        cluster.stop()
        shutil.rmtree(place, ignore_errors=True)


def _plan(cluster: Any, workspace: Path, source: Path, samples: int) -> Any:
    """Plan the three steps over embeddings that exist."""
    import chains as fakes

    from l3hpc.config.resources import Resources
    from l3hpc.io.files import read_json
    from l3hpc.pipelines.planned import Plan, PlannedStep
    from l3hpc.steps import step as load_step

    profile = fakes.profile(name="test", slots={}, env={}, **cluster.profile)
    shards = {"extract": read_json(source / "config.json")["shards"]}
    folders, steps = {"extract": source}, []
    for name, given in (("sample", {"samples": samples}), ("fit", {}), ("reduce", {})):
        module = load_step(name)
        params = module.params_type(**given)
        shards[name] = module.shards(params, shards)
        mark = hashlib.sha256(name.encode()).hexdigest()[:16]
        folders[name] = workspace / "artifacts" / name / mark
        steps.append(PlannedStep(
            name=name, kind=name, params=params.model_dump(mode="json"),
            needs=tuple(need for need in module.inputs if need in folders and need != "extract"),
            inputs={need: str(folders[need]) for need in module.inputs}, fingerprint=mark,
            artifact=folders[name], shards=shards[name], done=(),
            resources=Resources(cpus=1, mem_mb=2000, time_min=60), version=module.version))
    return Plan(run="corpus", pipeline="corpus", workspace=workspace, profile=profile,
                steps=tuple(steps), options={})


def _run(cluster: Any, plan: Any) -> None:
    """Submit all steps and wait until they are done."""
    from l3hpc.runs import status, submit

    print(f"  running {', '.join(step.name for step in plan.steps)}", file=sys.stderr, flush=True)
    submit.submit(plan)
    cluster.until(lambda: not cluster.jobs(), "the jobs do not end", WAIT_S)
    [found] = status.collect(plan.workspace, [plan.run])
    assert found.state == "done", [(step.name, step.state, step.detail) for step in found.steps]


def _table(plan: Any, rows: int, samples: int, wall: float) -> Table:
    from l3hpc.workspace import artifacts

    sensors = plan.steps[0].tasks
    known = measured_here()
    one, whole = (cost.one_sensor(known, rows, count) for count in (samples, sensors * samples))
    cells = []
    for step in plan.steps:
        results = artifacts.results(step.artifact)
        predicted = whole[step.name] if step.name == "fit" else one[step.name]
        cpu = sum(result["cpu_s"] for result in results)
        peak = max(result["peak_memory_mb"] for result in results) * 2**20 / 1e6
        cells.append([
            step.name, str(step.tasks),
            f"{figure(cpu)} ({figure(predicted.core_s * step.tasks)})",
            f"{figure(peak)} ({figure(predicted.peak_mb)})",
            f"{figure(max(result['elapsed_s'] for result in results))}"])
    return Table(
        f"A corpus of {sensors} sensors with {rows:,} rows each, {samples:,} of them sampled",
        ["step", "tasks", "core-seconds (predicted)", "largest peak of a task, MB (predicted)",
         "slowest task, s"], cells, [
            f"All three steps took {wall:.0f} s from submission to the end, on three nodes of four "
            "cores by their own account, which share the cores of one machine.",
            "Core-seconds and memory are those of result.json: the step, without its start. The "
            "peak includes the largest process that the step started: Python asks uname for the "
            "processor, and until that begins it is a copy of Python, of about 70 MB."])


if __name__ == "__main__":
    run("corpus_array", __doc__, tables, sensors=SENSORS, rows=ROWS)
