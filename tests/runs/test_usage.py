"""What a run asked for and used, from results that are known to the digit."""

import json
from pathlib import Path

import pytest

from l3hpc.config.units import parse_memory, parse_time
from l3hpc.runs import submit, usage
from l3hpc.runs.usage import table
from l3hpc.schedulers.slurm import queue
from l3hpc.workspace import records
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord


def result(index, started, elapsed, cpu, peak, job, array=None):
    return {"index": index, "started": started, "finished": started + elapsed,
            "elapsed_s": elapsed, "cpu_s": cpu, "peak_memory_mb": peak,
            "environment": {"job": job, "array_job": array}}


def write(folder, results):
    for one in results:
        path = Path(folder) / f"{one['index']:04d}" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one))


@pytest.fixture
def run(tmp_path):
    extract, fit, old = (tmp_path / "artifacts" / name for name in ("extract", "fit", "old"))
    write(extract, [result(0, 1010.0, 100.0, 180.0, 900, "21", "20"),
                    result(1, 1040.0, 200.0, 300.0, 1500, "22", "20"),
                    result(2, 10.0, 50.0, 50.0, 99999, "7")])  # of an earlier run
    write(fit, [result(0, 1300.0, 30.0, 29.0, 400, "23")])
    write(old, [result(0, 1.0, 1.0, 1.0, 1, "3")])

    def step(name, job, **more):
        values = {"tasks": 1, "needs": [], "state": "submitted", "job": job, "resources": {
            "cpus": 4, "mem_mb": 16384, "gpus": 1, "time_min": 240}, **more}
        return StepRecord(name=name, kind=name, artifact=str(tmp_path / "artifacts" / name),
                          **values)

    record = RunRecord("demo", "upstream", "greene", 1000.0, "you", "host", [], {}, "submitted", [
        step("extract", "20", tasks=3, attempts=[
            Attempt("20", True, [0, 1], 1000.0)]),
        step("fit", "23", needs=["extract"], attempts=[
            Attempt("23", False, [0], 1000.0)],
            resources={"cpus": 1, "mem_mb": 512, "gpus": 0, "time_min": 5}),
        step("old", None, state="reused")])
    records.write(tmp_path, record)
    return tmp_path


def test_used_and_asked(run):
    extract, fit = usage.collect(run, "demo", accounting=False)
    assert (extract.name, extract.tasks, extract.cpus, extract.gpus) == ("extract", 2, 4, 1)
    assert extract.cpus_used == pytest.approx(480 / 300)
    assert (extract.mem_used_mb, extract.time_used_s) == (1500, 200)
    assert extract.waited_s == 40  # the second task: submitted at 1000, began at 1040
    assert extract.core_hours == pytest.approx(480 / 3600)
    assert extract.core_hours_asked == pytest.approx(300 * 4 / 3600)
    assert extract.gpu_hours == pytest.approx(300 / 3600)
    assert extract.suggestion == "mem=2GB, time=10min, cpus=2"
    assert fit.waited_s == 1300 - 1240  # only since its parent's end
    assert fit.suggestion == ""  # 400 of 512 MB, 30 s of 5 min


def test_a_wait_is_not_known_where_the_clock_was_set_back(run):
    record = records.read(run, "demo")
    record.steps[0].attempts[0].time += 3600.0
    record.steps[1].attempts[0].time += 60.0  # noted late, after an answer that was lost
    records.write(run, record)
    extract, fit = usage.collect(run, "demo", accounting=False)
    assert (extract.waited_s, fit.waited_s) == (None, 60.0)
    shown = table("demo", [extract, fit]).splitlines()
    assert "  –       mem=2GB" in shown[2] and shown[3].split()[-2:] == ["1:00", "fits"]


def test_what_requeues_have_granted_is_what_a_task_had(run):
    """Otherwise it seems to have used three times its memory."""
    marks = run / "runs/demo/steps/extract/markers"
    marks.mkdir(parents=True)
    (marks / "1.requeues.json").write_text(json.dumps([
        {"reason": "out of memory", "time": 1.0, "words": "", "mem_mb": 32768},
        {"reason": "time limit", "time": 2.0, "words": "", "time_min": 480}]))
    steps = usage.collect(run, "demo", accounting=False)
    assert (steps[0].mem_mb, steps[0].mem_granted_mb) == (16384, 32768)
    assert (steps[0].time_min, steps[0].time_granted_min) == (240, 480)
    assert (steps[1].mem_granted_mb, steps[1].time_granted_min) == (512, 5)
    assert "1.5 GB of 32 GB" in table("demo", steps).replace("1.46", "1.5")
    assert "3:20 of 8 h" in table("demo", steps)


def test_a_suggestion_can_be_typed(run):
    for step in usage.collect(run, "demo", accounting=False):
        for word in filter(None, step.suggestion.split(", ")):
            name, _, value = word.partition("=")
            assert {"mem": parse_memory, "time": parse_time, "cpus": int}[name](value) > 0


@pytest.mark.parametrize(("change", "words"), [
    ({"mem_used_mb": 500.0, "mem_mb": 512}, "mem=768MB"),  # too close to its limit
    ({"time_used_s": 290.0, "time_min": 5}, "time=10min"),
    ({"time_used_s": 5.0, "time_min": 240}, "time=5min"),  # 90 s before it, the task is warned
    ({"time_used_s": 190.0, "time_min": 240}, "time=10min"),  # at 5 min it would not end in time
    ({"cpus_used": 3.9, "cpus": 4}, ""),
    ({"cpus_used": 1.05, "cpus": 4}, "cpus=1"),
    ({"cpus_used": 1.05, "cpus": 4, "time_used_s": 20.0}, ""),  # too short to tell
])
def test_suggestions(change, words):
    fits = {"name": "fit", "tasks": 1, "cpus": 1, "mem_mb": 512, "gpus": 0, "time_min": 5,
            "cpus_used": 1.0, "mem_used_mb": 400.0, "time_used_s": 60.0, "waited_s": 0.0,
            "core_hours": 0.0, "core_hours_asked": 0.0, "gpu_hours": 0.0, "requeues": 0,
            "lost_s": None, "suggestion": "", "mem_granted_mb": 512, "time_granted_min": 5}
    assert usage.suggestion(usage.StepUsage(**fits)) == ""
    assert usage.suggestion(usage.StepUsage(**{**fits, **change})) == words


def test_lost_attempts_are_counted_where_accounting_tells(run, monkeypatch):
    told = "20_0|REQUEUED|0:0|70|n1\n20_0|COMPLETED|0:0|100|n1\n20_1|OUT_OF_MEMORY|0:9|30|n2\n"
    monkeypatch.setattr(queue, "call", lambda command, timeout_s: told)
    extract, fit = usage.collect(run, "demo")
    assert (extract.lost_s, fit.lost_s) == (100.0, 0.0)
    assert "1:40 in attempts without a result" in table("demo", [extract, fit])


@pytest.fixture
def packed(run):
    """``extract`` in one job: task 0 failed, 1 was computed after it."""
    record = records.read(run, "demo")
    record.steps[0].attempts = [Attempt("20", True, [2, 0, 1], 1000.0, pack=3)]
    records.write(run, record)
    return run


def test_of_a_packed_job_only_what_has_no_result_is_lost(packed, monkeypatch):
    for lines, lost in (
            ("20_0|FAILED|1:0|360|n1\n", 60.0),  # two results took 300 s
            ("20_0|FAILED|1:0|250|n1\n", 0.0),
            ("20_0|COMPLETED|0:0|360|n1\n", 0.0),
            ("20_0|NODE_FAIL|1:0|150|n1\n20_0|COMPLETED|0:0|210|n1\n", 60.0)):
        monkeypatch.setattr(queue, "call", lambda command, timeout_s, told=lines: told)
        assert usage.collect(packed, "demo")[0].lost_s == lost


def test_a_packed_job_waits_in_the_queue_once(packed):
    assert usage.collect(packed, "demo", accounting=False)[0].waited_s == 10  # 1010 - 1000
    folder = packed / "runs/demo/steps/extract/markers"
    folder.mkdir(parents=True)
    for task, began in ((2, 1004.0), (1, 990.0)):  # 990: of an earlier job
        (folder / f"{task}.begin").write_text(json.dumps({"job": "20_0", "time": began}))
    assert usage.collect(packed, "demo", accounting=False)[0].waited_s == 4


def test_the_table_reads_well(run):
    lines = table("demo", usage.collect(run, "demo", accounting=False)).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "demo used of requested, of the largest task",
        "step tasks cores memory time waited suggestion",
        "extract 2 1.6 of 4 1.46 GB of 16 GB 3:20 of 4 h 0:40 mem=2GB, time=10min, cpus=2",
        "fit 1 1.0 of 1 400 MB of 512 MB 0:30 of 5 min 1:00 fits",
        "0.141 of 0.342 core-hours, 0.0833 GPU-hours"]
    assert lines[1].index("memory") == lines[2].index("1.46 GB") == lines[3].index("400 MB")


@pytest.mark.slow
def test_a_real_local_run_is_measured(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"), tasks={"extract": 2},
                       params={"extract": {"seconds": 0.5}})
    submit.submit(made)
    extract, sample = usage.collect(tmp_path, "demo")
    assert (extract.tasks, sample.tasks) == (2, 1)
    assert extract.time_used_s >= 0.5 and extract.mem_used_mb > 20 and extract.lost_s is None
