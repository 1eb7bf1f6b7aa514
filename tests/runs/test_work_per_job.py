"""What submission and status do for each job, counted in calls of Python functions: a clock would
differ from machine to machine."""

import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

from fakeslurm import queue_line

from l3hpc.io.files import read_json
from l3hpc.runs import status, submit
from l3hpc.schedulers.slurm import identity
from l3hpc.workspace.layout import Workspace


def calls(function):
    """How many Python functions this thread calls meanwhile."""
    count = 0

    def look(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(look)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def site(chains):
    return chains.profile(name="site", executor="slurm", slots={}, partition="cpu")


def test_submission_does_not_list_all_earlier_jobs_for_each(chains, slurm, tmp_path, monkeypatch):
    listed, real = [], identity._of_attempt
    monkeypatch.setattr(identity, "_of_attempt",
                        lambda *given: (listed.append(given), real(*given))[1])
    submit.submit(chains.many(tmp_path, 2, 10, site(chains)))
    assert len(listed) <= 20


def test_status_of_many_jobs_takes_few_calls_for_each(chains, slurm, tmp_path):
    lines = []
    for number in range(3):
        plan = chains.many(tmp_path, 2, 10, site(chains))
        steps = tuple(replace(step, artifact=Path(f"{step.artifact}-{number}"))
                      for step in plan.steps)
        record = submit.submit(replace(plan, run=f"run-{number}", steps=steps))
        lines += [queue_line(step.job, "PENDING", "Dependency", script=str(
            Workspace(tmp_path).run(record.run).step(step.name).script()))
            for step in record.steps]
    (tmp_path / "queue").write_text("\n".join(lines) + "\n")
    slurm.says("squeue", f"cat {tmp_path}/queue")
    found = status.collect(tmp_path)
    assert {step.state for run in found for step in run.steps} == {"waiting"}
    assert calls(lambda: status.collect(tmp_path)) < 60 * 250


def test_a_small_file_takes_little_memory_to_read(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    tracemalloc.start()
    try:
        assert read_json(tmp_path / "x.json") == {"a": 1}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
