"""What submission and status do for each job, counted in calls of Python functions: a clock would
differ from machine to machine."""

import gc
import itertools
import json
import os
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

from fakeslurm import queue_line

from l3hpc.io.files import read_json
from l3hpc.runs import status, submit
from l3hpc.schedulers.jobs import JobId
from l3hpc.schedulers.slurm import commands, identity, sbatch
from l3hpc.workspace import artifacts
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


def test_a_submission_calls_few_functions_for_each_job(chains, slurm, tmp_path, monkeypatch):
    ids = map(str, itertools.count(7))
    monkeypatch.setattr(sbatch, "submit", lambda *given, **named: JobId(next(ids)))
    monkeypatch.setattr(sbatch, "start", lambda submission: None)
    submit.submit(chains.many(tmp_path / "first", 1, 1, site(chains)))  # imports
    plan = chains.many(tmp_path, 4, 10, site(chains))
    # Jinja resumes a generator for each piece of a script, which counts as a call
    assert calls(lambda: submit.submit(plan)) < 40 * 1700


def test_a_job_costs_few_files_and_calls_of_the_file_system(chains, slurm, tmp_path, monkeypatch):
    counts = Counter()

    def counting(name):
        real = getattr(os, name)

        def call(*given, **named):
            creates = name != "open" or given[1] & os.O_CREAT
            counts[name] += bool(creates)
            return real(*given, **named)
        return call

    submit.submit(chains.many(tmp_path / "first", 1, 1, site(chains)))
    for name in ("mkdir", "link", "symlink", "rename", "replace", "open", "fsync"):
        monkeypatch.setattr(os, name, counting(name))
    submit.submit(chains.many(tmp_path / "one", 1, 1, site(chains)))
    of_one, counts = dict(counts), Counter()
    submit.submit(chains.many(tmp_path / "six", 1, 6, site(chains)))
    # folder, logs, markers, artifact; its settings and the script of the job; the artifact's link;
    # the pickle gets its name; settings, script, policy, pickle
    assert {name: (count - of_one[name]) / 5 for name, count in counts.items()} == {
        "mkdir": 4, "link": 2, "symlink": 1, "rename": 1, "replace": 0, "open": 4, "fsync": 0}
    assert of_one["replace"] == 2  # the record, before the jobs and after them
    # the record, the settings and the two folders; then the noted job, its folder, the new record
    assert of_one["fsync"] == 7


def test_the_environment_of_sbatch_is_made_once(chains, slurm, tmp_path, monkeypatch):
    made, real = [], commands.clean_environment
    monkeypatch.setattr(commands, "clean_environment", lambda: made.append(1) or real())
    submit.submit(chains.many(tmp_path, 1, 6, site(chains)))
    assert len(made) == 2  # that of sinfo, too


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
    assert calls(lambda: status.collect(tmp_path)) < 60 * 185


def test_status_looks_for_no_garbage_while_it_reads(chains, slurm, tmp_path):
    submit.submit(chains.many(tmp_path, 2, 10, site(chains)))
    looked, threshold = [], gc.get_threshold()
    gc.set_threshold(10)
    gc.callbacks.append(note := lambda phase, info: looked.append(phase))
    try:
        looked.clear()
        status.collect(tmp_path)
        assert len(looked) < 20
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*threshold)


def test_a_small_file_takes_little_memory_to_read(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    tracemalloc.start()
    try:
        assert read_json(tmp_path / "x.json") == {"a": 1}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_status_reads_the_summary_of_a_finished_step_once(chains, slurm, tmp_path, monkeypatch):
    plan = chains.many(tmp_path, 2, 3, site(chains))
    submit.submit(plan)
    for step in plan.steps:
        (step.artifact / "0000").mkdir(parents=True)
        (step.artifact / "0000/result.json").write_text(json.dumps(
            {"index": 0, "run": plan.run, "started": 1, "finished": 2}))
        (step.artifact / "summary.json").write_text(json.dumps(
            {"text": "3 rows", "started": 1, "finished": 2, "runs": [plan.run]}))
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *given, **named: (
        opened.append(str(path)), real(path, *given, **named))[1])
    [run] = status.collect(tmp_path)
    assert [step.detail for step in run.steps] == ["3 rows"] * 6
    assert sum(path.endswith("summary.json") for path in opened) == 6


def test_a_summary_that_comes_just_after_its_result_is_shown(chains, slurm, tmp_path, monkeypatch):
    plan = chains.many(tmp_path, 1, 1, site(chains))
    submit.submit(plan)
    [step] = plan.steps
    (step.artifact / "0000").mkdir(parents=True)
    (step.artifact / "0000/result.json").write_text(json.dumps(
        {"index": 0, "run": plan.run, "started": 1, "finished": 2}))
    real = artifacts.summary

    def summary(artifact):
        found = real(artifact)
        (step.artifact / "summary.json").write_text(json.dumps(
            {"text": "3 rows", "started": 1, "finished": 2, "runs": [plan.run]}))
        return found

    monkeypatch.setattr(artifacts, "summary", summary)
    [run] = status.collect(tmp_path)
    assert [step.detail for step in run.steps] == ["3 rows"]
