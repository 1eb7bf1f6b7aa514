"""The local cluster: the same scripts, run by bash in dependency order."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from chains import submit_behind
from waiting import until

from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.io.processes import process_start
from l3hpc.runs import display, status, submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.runs.resume_plan import plan_now, used_by
from l3hpc.schedulers.local.runner import Runner
from l3hpc.schedulers.local.scheduler import _jobs_of, spool
from l3hpc.workspace import markers, records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.local_jobs import LocalJob, LocalJobs
from l3hpc.workspace.states import JobState

pytestmark = pytest.mark.slow


def states(workspace, run="demo"):
    [found] = status.collect(workspace, [run])
    return {step.name: step.state for step in found.steps}


@pytest.mark.parametrize("begun, said", [
    (False, (True, "")), (True, (False, "waits for free cores and memory"))])
def test_between_the_tasks_of_an_array_nothing_waits_for_earlier_steps(begun, said):
    first = LocalJob(JobState.COMPLETED if begun else JobState.PENDING, "classify", 0, "2", True,
                     ["1"], started=1.0 if begun else None, ended=2.0 if begun else None)
    second = LocalJob(JobState.PENDING, "classify", 1, "2", True, ["1"])
    local = SimpleNamespace(jobs={"2_0": first, "2_1": second}, runner=lambda: {"host": "here"},
                            asked_to_stop=lambda: False)
    found, _ = _jobs_of(SimpleNamespace(steps=[]), local)
    assert (found.live["2_1"].waits_for_jobs, found.live["2_1"].reason) == said


def test_a_chain_of_five_runs_to_its_end(chains, tmp_path):
    made = chains.plan(tmp_path, tasks={"extract": 3})
    said = []
    record = submit.submit(made, on_submitted=lambda record: said.append(
        submit.describe_jobs(record)))
    assert said == ["extract 1 → sample 2 → fit 3 → reduce 4 → train 5"]
    assert record.state == "submitted"
    assert [step.state for step in record.steps] == ["submitted"] * 5
    assert submit.succeeded(tmp_path, record)
    assert chains.output(made, "extract") == {0: "(0)", 1: "(1)", 2: "(2)"}
    assert chains.output(made, "train") == {
        0: "(0 (0 (0) (1) (2) (0 (0 (0) (1) (2)))))"}
    assert {job.state for job in LocalJobs(tmp_path, "demo").jobs.values()} == {"COMPLETED"}
    step = made.step_folder("extract")
    assert {path.name for folder in (step.logs, step.markers) for path in folder.iterdir()} == {
        "1_submission.sh", *(name for task in range(3) for name in (
            f"1_{task}_0_log.err", f"1_{task}_0_log.out", f"1_{task}_submitted.pkl",
            f"{task}.begin", f"{task}.exit"))}
    assert states(tmp_path) == dict.fromkeys(chains.CHAIN, "done")
    for name in chains.CHAIN:
        link = made.folder.artifact(name)
        assert link.resolve() == (tmp_path / "artifacts" / name / link.resolve().name)


def test_an_array_that_has_begun_is_running_until_it_is_done(chains, tmp_path):
    """Between the result of a task and the start of the next one it was shown as queued."""
    made = chains.plan(tmp_path, names=("extract",), tasks={"extract": 4},
                       on=chains.profile(slots={"cpus": 1, "mem": "4GB"}))
    seen, ended = [], threading.Event()

    def look():
        while not ended.is_set():
            if (tmp_path / "runs/demo/run.json").exists():
                [found] = status.collect(tmp_path, ["demo"])
                seen.append(str(found.steps[0].state))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        submit.submit(made)
    finally:
        ended.set()
        looking.join()
    assert "queued" not in seen[seen.index("running"):] and len(seen) > 20


def test_the_second_submission_runs_nothing_again(chains, tmp_path, capsys):
    names = ("extract", "sample")
    submit.submit(chains.plan(tmp_path, "first", names))
    before = (tmp_path / "runs/first/steps/extract/config.json").stat().st_mtime_ns
    record = submit.submit(chains.plan(tmp_path, "second", names))
    assert [step.state for step in record.steps] == ["reused", "reused"]
    assert [step.job for step in record.steps] == [None, None]
    assert states(tmp_path, "second") == {"extract": "reused", "sample": "reused"}
    assert (tmp_path / "runs/first/steps/extract/config.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="already exists"):
        submit.submit(chains.plan(tmp_path, "second", names))


def test_behind_a_failed_step_nothing_runs(chains, tmp_path, capsys):
    made = chains.plan(tmp_path, params={"sample": {"fail": "error"}})
    record = submit.submit(made)
    assert not submit.succeeded(tmp_path, record)
    jobs = LocalJobs(tmp_path, "demo").jobs
    assert [job.state for job in jobs.values()] == ["COMPLETED", "FAILED"] + ["BLOCKED"] * 3
    assert states(tmp_path) == {"extract": "done", "sample": "failed", "fit": "blocked",
                                "reduce": "blocked", "train": "blocked"}
    assert not any((made.step_folder(name).markers / "0.begin").exists()
                   for name in ("fit", "reduce", "train"))
    lines = capsys.readouterr().err.splitlines()
    assert "sample: failed: the fake was told to fail" in lines
    assert {path.name for path in made.step_folder("sample").markers.iterdir()} == {
        "0.begin", "0.exit", "0.error.json", "0.progress.json"}
    assert {path.name for path in made.step_folder("sample").logs.iterdir()} == {
        "2_submission.sh", "2_0_log.err", "2_0_log.out", "2_submitted.pkl"}


def test_after_any_end_a_step_runs_also_behind_a_failed_and_a_blocked_one(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), tasks={"extract": 2},
                       params={"extract": {"fail": "error", "fail_task": 1}})
    extract, sample, fit = made.steps
    fit = replace(fit, needs=("extract", "sample"), any_needs=("extract", "sample"),
                  inputs={"extract": str(extract.artifact)}, partial_inputs=("extract",))
    submit.submit(replace(made, steps=(extract, sample, fit)))
    assert states(tmp_path) == {"extract": "failed", "sample": "blocked", "fit": "done"}
    assert chains.output(made, "fit") == {0: "(0 (0))"}
    [step] = [step for step in records.read(tmp_path, "demo").steps if step.name == "fit"]
    assert (step.any_needs, step.ok_needs) == (["extract", "sample"], [])


def test_a_failed_run_resumes_where_it_failed(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), tasks={"extract": 3},
                       params={"extract": {"fail": "scratch", "fail_task": 1}})
    submit.submit(made)
    assert states(tmp_path) == {"extract": "failed", "sample": "blocked", "fit": "blocked"}
    record = resume(tmp_path, "demo", made.profile, sets=["extract.mem=150MB"])
    assert records.step(record, "extract").attempts[1].tasks == [1]
    assert records.step(record, "extract").resources["mem_mb"] == 150
    assert states(tmp_path) == {"extract": "done", "sample": "done", "fit": "done"}
    with pytest.raises(InputError, match="only resources"):
        resume(tmp_path, "demo", made.profile, sets=["extract.text=x"])
    with pytest.raises(InputError, match="no step 'extra'"):
        resume(tmp_path, "demo", made.profile, sets=["extra.mem=1GB"])


def test_jobs_share_the_cores_and_memory_that_there_are(chains, tmp_path):
    seen, gate = [], tmp_path / "gate"
    gate.touch()

    def look(record, jobs):
        seen.append(sum(job.state == "RUNNING" for job in jobs.values()))
        if seen.count(2) > 5:  # it has looked for room several times
            gate.unlink(missing_ok=True)

    wide = chains.profile(slots={"cpus": 8, "mem": "1000MB"})
    made = chains.plan(tmp_path, names=("extract",), tasks={"extract": 5}, on=wide,
                       params={"extract": {"gate": str(gate)}},
                       resources={"extract": Resources(cpus=2, mem_mb=400, time_min=5)})
    submit_behind(made)
    assert Runner(tmp_path, "demo", show=look).run()
    assert max(seen) == 2  # memory for two, cores for four
    assert states(tmp_path) == {"extract": "done"}


def test_a_job_gets_the_variables_of_slurm(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"), tasks={"extract": 2})
    submit.submit(made)
    result = json.loads((made.steps[0].artifact / "0001/result.json").read_text())
    assert (result["threads"], result["environment"]["job"]) == (1, "1")
    begin = json.loads((made.step_folder("extract").markers / "1.begin").read_text())
    assert begin["job"] == "1_1" and begin["restarts"] == 0
    assert (made.step_folder("extract").logs / "1_1_0_log.err").exists()
    assert (made.step_folder("sample").logs / "2_0_log.err").exists()


def test_ids_are_unique_when_many_submit_at_once(tmp_path):
    found = []

    def many():
        for _ in range(20):
            found.append(spool(tmp_path, run="r", step="s", after=()))

    threads = [threading.Thread(target=many) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == list(range(1, 101))


def test_a_detached_run_outlives_its_starter_and_is_started_once(chains, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"gate": str(gate)}})
    record = submit.submit(made, detach=True)
    assert [step.state for step in record.steps] == ["submitted", "submitted"]
    until(lambda: states(tmp_path)["extract"] == "running")
    assert Runner(tmp_path, "demo").run() is False  # another one has it
    gate.unlink()
    until(lambda: states(tmp_path) == {"extract": "done", "sample": "done"})
    assert len(records.read(tmp_path, "demo").steps[0].attempts) == 1
    until(lambda: LocalJobs(tmp_path, "demo").runner() is None)
    exits = list((made.folder.path / "steps").glob("*/markers/*.exit"))
    assert len(exits) == 2


def notes(workspace):
    return status.collect(workspace, ["demo"])[0].notes


def test_cancel_reaches_a_detached_run(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"), params={"extract": {"seconds": 600}})
    submit.submit(made, detach=True)
    until(lambda: (made.step_folder("extract").markers / "0.progress.json").exists())
    pid = LocalJobs(tmp_path, "demo").jobs["1"].pid
    runner = LocalJobs(tmp_path, "demo").runner()["pid"]
    os.kill(runner, signal.SIGSTOP)
    try:
        assert cancel(tmp_path, "demo") == ["2", "1"]
        assert notes(tmp_path) == [
            "it is being cancelled: running tasks save their work and end"]
    finally:
        os.kill(runner, signal.SIGCONT)
    until(lambda: process_start(pid) is None)
    until(lambda: LocalJobs(tmp_path, "demo").runner() is None)
    assert states(tmp_path) == {"extract": "cancelled", "sample": "cancelled"}
    assert notes(tmp_path) == []
    assert cancel(tmp_path, "demo") == []


def test_resume_right_after_cancel_waits_for_what_is_ending(chains, tmp_path):
    """Otherwise it finds all jobs at work, says that there is nothing to do, and they end."""
    gate = tmp_path / "gate"
    gate.touch()
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"gate": str(gate)}})
    submit.submit(made, detach=True)
    until(lambda: (made.step_folder("extract").markers / "0.progress.json").exists())
    runner = LocalJobs(tmp_path, "demo").runner()["pid"]
    os.kill(runner, signal.SIGSTOP)
    assert cancel(tmp_path, "demo") == ["2", "1"]
    threading.Timer(1.0, os.kill, (runner, signal.SIGCONT)).start()
    resume(tmp_path, "demo", made.profile, detach=True)
    gate.unlink()
    until(lambda: states(tmp_path)["sample"] == "done")
    assert states(tmp_path) == {"extract": "done", "sample": "done"}
    record = records.read(tmp_path, "demo")
    assert record.state == "submitted" and [len(step.attempts) for step in record.steps] == [2, 2]


def test_a_run_whose_runner_was_killed_is_told_and_goes_on(chains, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"gate": str(gate)}})
    submit.submit(made, detach=True)
    until(lambda: (made.step_folder("extract").markers / "0.progress.json").exists())
    holder = LocalJobs(tmp_path, "demo").runner()
    os.kill(holder["pid"], signal.SIGKILL)
    until(lambda: LocalJobs(tmp_path, "demo").runner() is None)
    record = records.read(tmp_path, "demo")
    for step in record.steps:
        for attempt in step.attempts:
            attempt.time -= 60  # not just submitted
    records.write(tmp_path, record)
    [found] = status.collect(tmp_path, ["demo"])
    assert {step.name: step.state for step in found.steps} == {
        "extract": "running", "sample": "lost"}
    assert found.steps[1].detail == "never started, and its local runner is gone"
    assert "its local runner is gone" in found.notes
    gate.unlink()
    assert Runner(tmp_path, "demo").run()  # waits for the job that still works
    assert states(tmp_path) == {"extract": "done", "sample": "done"}
    assert LocalJobs(tmp_path, "demo").jobs["1"].state == "COMPLETED"


def test_resume_goes_on_at_once_after_the_runner_was_killed(chains, tmp_path):
    """Of a run that has just been submitted: its runner has begun, so it is not about to."""
    gate = tmp_path / "gate"
    gate.touch()
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"gate": str(gate)}})
    submit.submit(made, detach=True)
    until(lambda: (made.step_folder("extract").markers / "0.progress.json").exists())
    os.kill(LocalJobs(tmp_path, "demo").runner()["pid"], signal.SIGKILL)
    until(lambda: LocalJobs(tmp_path, "demo").runner() is None)
    assert states(tmp_path) == {"extract": "running", "sample": "lost"}
    gate.unlink()
    resume(tmp_path, "demo", made.profile)
    assert states(tmp_path) == {"extract": "done", "sample": "done"}


@pytest.mark.parametrize("detach", [False, True])
def test_a_run_that_has_ended_keeps_no_lease(chains, tmp_path, detach):
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"sample": {"fail": "scratch"}})
    submit.submit(made, detach=detach)
    folder = tmp_path / "runs/demo"
    until(lambda: states(tmp_path)["sample"] == "failed")
    until(lambda: not list(folder.glob("*.owner.*")))
    resume(tmp_path, "demo", made.profile, detach=detach)
    until(lambda: states(tmp_path)["sample"] == "done")
    until(lambda: not list(folder.glob("*.owner.*")))


def test_a_run_without_a_runner_yet_or_with_a_silent_one_says_until_when(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract",))
    record = submit_behind(made)
    todo = plan_now(tmp_path, "demo", made.profile)
    counts = time.strftime("%H:%M:%S", time.localtime(record.steps[0].attempts[0].time + 30))
    assert not todo.is_needed and todo.notes == [
        f"its local runner has not started yet; if it does not, it counts as gone from {counts} on"]
    claim = tmp_path / "runs/demo/runner.owner.1"
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 7, "start": 1, "token": "x",
                                 "beat": 1}))
    seen = time.time() - 100
    os.utime(claim, (seen, seen))
    [note] = plan_now(tmp_path, "demo", made.profile).notes
    seen, counts = (time.strftime("%H:%M:%S", time.localtime(seen + more)) for more in (0, 900))
    assert note == (f"its local runner, process 7 on elsewhere, was last seen at {seen}; if it "
                    f"stays silent, it counts as gone from {counts} on")


def test_what_waits_for_a_run_without_runner_is_blocked_not_left_waiting(chains, tmp_path):
    submit_behind(chains.plan(tmp_path, run="first", names=("extract",)))  # its runner was killed
    behind = chains.plan(tmp_path, run="second", names=("extract",), salt="b", waits_for=("1",))
    submit_behind(behind)
    started = time.monotonic()
    assert Runner(tmp_path, "second", orphan_s=0.5).run()
    assert 0.5 < time.monotonic() - started < 300
    [found] = status.collect(tmp_path, ["second"])
    assert (found.steps[0].state, found.steps[0].detail) == ("blocked", "by job 1 of another run")
    assert Runner(tmp_path, "first").run()
    resume(tmp_path, "second", behind.profile)
    assert states(tmp_path, "second") == {"extract": "done"}


def test_a_job_above_its_time_limit_is_ended(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract",), params={"extract": {"seconds": 600}},
                       resources={"extract": Resources(cpus=1, mem_mb=100, time_min=1)},
                       heal={"time": 0})
    record = submit_behind(made)
    record.steps[0].resources["time_min"] = 0.05
    records.write(tmp_path, record)
    assert Runner(tmp_path, "demo", grace_s=5).run()
    [found] = status.collect(tmp_path, ["demo"])
    assert (found.steps[0].state, found.steps[0].detail) == ("failed", "time limit (1 min)")


def test_a_job_above_its_memory_gets_more_under_the_same_id(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"memory_mb": 600, "memory_s": 3}},
                       resources={"extract": Resources(1, 200, 0, 5)})
    record = submit.submit(made)
    assert states(tmp_path) == {"extract": "done", "sample": "done"}
    marks = markers.read(Workspace(tmp_path).run("demo").step("extract").markers)[0]
    assert [entry["mem_mb"] for entry in marks.requeues][-1] == 800
    assert marks.requeues[0]["reason"] == "out of memory"
    result = json.loads((made.steps[0].artifact / "0000/result.json").read_text())
    assert result["environment"]["job"] == record.steps[0].job
    assert result["environment"]["restarts"] == str(len(marks.requeues))


def test_the_memory_of_this_machine_is_the_cap(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"memory_mb": 600}},
                       on=chains.profile(slots={"cpus": 1, "mem": "300MB"}),
                       resources={"extract": Resources(1, 200, 0, 5)})
    submit.submit(made)
    [found] = status.collect(tmp_path, ["demo"])
    assert [step.state for step in found.steps] == ["failed", "blocked"]
    assert found.steps[0].detail.startswith(
        "out of memory (300 MB) after 1 requeue (200 MB → 300 MB, the profile's cap)")


def test_at_its_time_limit_a_job_goes_on_later(chains, tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.schedulers.local.runner.warning_s", lambda limit: 24.0)
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"seconds": 8.0}})
    record = submit_behind(made)
    record.steps[0].resources["time_min"] = 0.5  # 30 s, warned after 6 s
    records.write(tmp_path, record)
    policy = tmp_path / "runs/demo/steps/extract/heal.json"
    policy.write_text(json.dumps({**json.loads(policy.read_text()), "time_min": 0.5}))
    assert Runner(tmp_path, "demo", grace_s=5).run()
    assert states(tmp_path) == {"extract": "done", "sample": "done"}
    marks = markers.read(Workspace(tmp_path).run("demo").step("extract").markers)[0]
    assert [entry["reason"] for entry in marks.requeues] == ["time limit"]
    result = json.loads((made.steps[0].artifact / "0000/result.json").read_text())
    assert result["environment"]["restarts"] == "1"


def test_a_resumed_step_keeps_what_healing_gave_it_and_counts_anew(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"), heal={"memory": 1},
                       params={"extract": {"memory_mb": 600, "memory_s": 3}},
                       resources={"extract": Resources(1, 200, 0, 5)})
    submit.submit(made)
    [found] = status.collect(tmp_path, ["demo"])
    assert found.steps[0].detail.startswith(
        "out of memory (400 MB) after 1 requeue (200 MB → 400 MB)")
    record = resume(tmp_path, "demo", made.profile)
    assert states(tmp_path) == {"extract": "done", "sample": "done"}
    assert records.step(record, "extract").resources["mem_mb"] == 400
    [first, second] = records.step(record, "extract").attempts
    assert first.requeues["0"][0]["mem_mb"] == 400 and first.job != second.job
    marks = markers.read(Workspace(tmp_path).run("demo").step("extract").markers)[0]
    assert [entry["mem_mb"] for entry in marks.requeues] == [800]


def test_retry_takes_the_named_step_and_what_waits_for_it(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "embed", "classify"), params={
        "extract": {"fail": "scratch"}, "embed": {"fail": "scratch"}})
    submit.submit(made)
    assert states(tmp_path) == {"extract": "failed", "embed": "failed", "classify": "blocked"}
    resume(tmp_path, "demo", made.profile, only=("embed",))
    assert states(tmp_path) == {"extract": "failed", "embed": "done", "classify": "done"}
    with pytest.raises(InputError, match="no step 'embedd'"):
        resume(tmp_path, "demo", made.profile, only=("embedd",))


def test_from_a_step_on_everything_is_computed_anew(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"))
    first = submit.submit(made)
    before = [(step.artifact / "0000/result.json").stat().st_mtime_ns for step in made.steps]
    record = resume(tmp_path, "demo", made.profile, again="sample")
    assert states(tmp_path) == {"extract": "done", "sample": "done", "fit": "done"}
    after = [(step.artifact / "0000/result.json").stat().st_mtime_ns for step in made.steps]
    assert [new > old for old, new in zip(before, after, strict=True)] == [False, True, True]
    assert [len(step.attempts) for step in record.steps] == [1, 2, 2]
    assert first.steps[1].job != record.steps[1].job
    assert used_by(tmp_path, "other", record.steps) == ["demo"]
    assert used_by(tmp_path, "demo", record.steps) == []


def test_a_line_names_the_phase_that_has_come_so_far(tmp_path, monkeypatch):
    """58% of the spectra are not 58% of the training."""
    told = []
    monkeypatch.setattr(display, "_advance", lambda *_: told[-1])
    for tasks, advance, line in (
            (1, (0.58, "preparing spectra 116/200 windows"),
             "train after 0:00: preparing spectra 116/200 windows"),
            (1, (0.0, ""), "train after 0:00: 0%"), (1, (1.0, ""), "train after 0:00: ending"),
            (4, (0.25, "1/4 tasks, epoch 1/9"), "train after 0:00: 25%, 1/4 tasks, epoch 1/9")):
        told.append(advance)
        step = SimpleNamespace(name="train", tasks=tasks)
        assert display.PlainDisplay(tmp_path)._line(None, step, "", Counter()) == line


def test_plain_lines_tell_a_log_what_happens(chains, tmp_path, capsys):
    made = chains.plan(tmp_path, names=("extract", "sample"), tasks={"extract": 2})
    submit_behind(made)
    shown = display.PlainDisplay(tmp_path)
    Runner(tmp_path, "demo", show=shown).run()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "extract: started (2 tasks)"
    assert any(re.fullmatch(r"extract: done in \d+:\d\d, 3 rows", line) for line in lines), lines
