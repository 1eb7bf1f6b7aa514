"""Packed jobs on ``local``: several tasks, one after another, in one job."""

import json
import os
import signal
from dataclasses import replace

import pytest
from chains import submit_behind
from waiting import until

from l3hpc import schedulers
from l3hpc.config.resources import Resources
from l3hpc.runs import logs, status, submit, usage
from l3hpc.runs.resume import resume
from l3hpc.runs.step_status import read_snapshot
from l3hpc.runs.task_state import IN_TURN, evaluate
from l3hpc.schedulers.local.runner import Runner
from l3hpc.workspace import markers, records
from l3hpc.workspace.local_jobs import LocalJobs

pytestmark = pytest.mark.slow
FOUR = Resources(cpus=1, mem_mb=100, time_min=5, pack=4)


def plan(chains, folder, tasks=10, resources=FOUR, on=None, names=("extract", "sample"), **step):
    return chains.plan(folder, names=names, tasks={"extract": tasks}, on=on,
                       params={"extract": step}, resources={"extract": resources})


def states(workspace):
    [found] = status.collect(workspace, ["demo"])
    return {step.name: str(step.state) for step in found.steps}


def marks(made):
    return markers.read(made.step_folder("extract").markers)


def test_three_jobs_run_ten_tasks_each_with_its_own_files(chains, tmp_path):
    made = plan(chains, tmp_path)
    record = submit.submit(made)
    [attempt] = record.steps[0].attempts
    assert (attempt.pack, attempt.tasks) == (4, [*range(10)])
    assert record.steps[0].resources == {
        "cpus": 1, "mem_mb": 100, "gpus": 0, "time_min": 5, "pack": 4}
    assert "pack" not in record.steps[1].resources
    jobs = LocalJobs(tmp_path, "demo").jobs
    assert {name: (job.task, job.tasks, job.time_min) for name, job in jobs.items()} == {
        "1_0": (0, [0, 1, 2, 3], 20), "1_1": (4, [4, 5, 6, 7], 20), "1_2": (8, [8, 9], 20),
        "2": (0, [], None)}
    assert states(tmp_path) == {"extract": "done", "sample": "done"}
    assert chains.output(made, "extract") == {n: f"({n})" for n in range(10)}
    step = made.step_folder("extract")
    assert {path.name for path in step.markers.iterdir()} == {
        f"{task}.{what}" for task in range(10) for what in ("begin", "exit")}
    elements = {task: task // 4 for task in range(10)}
    assert {path.name for path in step.logs.iterdir()} == {
        "1_submission.sh", *(f"1_{n}_submitted.pkl" for n in range(3)),
        *(f"1_{n}_0_log.{which}" for n in range(3) for which in ("out", "err")),
        *(f"1_{n}_{task}_0_log.{which}" for task, n in elements.items()
          for which in ("out", "err"))}
    assert {task: mark.begin["job"] for task, mark in marks(made).items()} == {
        task: f"1_{n}" for task, n in elements.items()}
    assert (step.logs / "1_2_0_log.out").read_text() == \
        "task 8: exit code 0\ntask 9: exit code 0\n"
    # one after another: each began when the one before had ended
    times = marks(made)
    assert all(times[task].started >= int(times[task - 1].exited) for task in (1, 2, 3, 5, 9))


def test_a_failed_task_stops_none_of_its_job_and_resume_packs_what_is_missing(chains, tmp_path):
    made = plan(chains, tmp_path, tasks=6, resources=replace(FOUR, pack=3),
                fail="scratch", fail_task=1)
    submit.submit(made)
    assert states(tmp_path) == {"extract": "failed", "sample": "blocked"}
    [found] = status.collect(tmp_path, ["demo"])
    assert (found.steps[0].done, found.steps[0].failed_tasks) == (5, [1])
    assert found.steps[0].detail == "first attempt fails, 1 of 6 tasks failed (task 1)"
    assert found.steps[0].log == str(made.step_folder("extract").log("1_0_1"))
    assert "first attempt fails" in (made.step_folder("extract").log("1_0_1")).read_text()
    job = LocalJobs(tmp_path, "demo").jobs["1_0"]
    assert (job.state, job.exit) == ("FAILED", marks(made)[1].exit_code)
    assert not list(made.step_folder("extract").markers.glob(".*"))
    record = resume(tmp_path, "demo", made.profile)
    again = record.steps[0].attempts[1]
    assert (again.tasks, again.pack, record.steps[0].resources["pack"]) == ([1], 1, 3)
    assert states(tmp_path) == {"extract": "done", "sample": "done"}


def test_killed_in_the_middle_done_stays_done_and_the_rest_is_resumed(chains, tmp_path):
    gate, at = tmp_path / "gate", 2
    gate.touch()
    made = plan(chains, tmp_path, tasks=4, names=("extract",), gate=str(gate), gate_task=at)
    submit_behind(made)

    def look(record, jobs):
        if gate.exists() and at in (seen := marks(made)) and seen[at].progress:
            os.killpg(jobs["1_0"].pid, signal.SIGKILL)
            gate.unlink()

    assert Runner(tmp_path, "demo", show=look).run()
    [found] = status.collect(tmp_path, ["demo"])
    assert (found.steps[0].state, found.steps[0].done) == ("failed", at)
    before = (made.steps[0].artifact / "0000/result.json").read_text()
    record = resume(tmp_path, "demo", made.profile)
    assert record.steps[0].attempts[1].tasks == [*range(at, 4)]
    assert states(tmp_path) == {"extract": "done"}
    assert (made.steps[0].artifact / "0000/result.json").read_text() == before


def test_while_it_runs_the_others_wait_for_their_turn(chains, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    made = plan(chains, tmp_path, tasks=4, gate=str(gate))
    submit.submit(made, detach=True)
    until(lambda: 0 in marks(made) and marks(made)[0].progress)
    record = records.read(tmp_path, "demo")
    snapshot = read_snapshot(tmp_path, record, record.steps[0])
    own = snapshot.own(schedulers.of_record(tmp_path, record).jobs(record))
    found = {index: evaluate(index, job, snapshot.marks.get(index), own, packed=True)
             for index, job in snapshot.open_ids.items()}
    assert {index: (str(task.state), task.detail == IN_TURN) for index, task in found.items()} == {
        0: ("running", False), 1: ("queued", True), 2: ("queued", True), 3: ("queued", True)}
    assert states(tmp_path)["extract"] == "running"
    assert logs.find_log(tmp_path, record, record.steps[0]) == \
        made.step_folder("extract").log("1_0_0")
    gate.unlink()
    until(lambda: states(tmp_path)["extract"] == "done")


def test_at_the_time_limit_of_the_job_the_rest_goes_on_later(chains, tmp_path, monkeypatch):
    """The limit is that of all tasks; what was done is not computed again."""
    monkeypatch.setattr("l3hpc.schedulers.local.runner.warning_s", lambda limit: limit - 3)
    made = plan(chains, tmp_path, tasks=3, names=("extract",),
                resources=replace(FOUR, pack=3, time_min=1), seconds=4.0)
    submit_behind(made)
    assert Runner(tmp_path, "demo", grace_s=5).run()
    assert states(tmp_path) == {"extract": "done"}
    found = marks(made)
    reasons = [entry for task in range(3) for entry in found[task].requeues]
    assert reasons and {entry["reason"] for entry in reasons} == {"time limit"}
    # 3 × 1 min, and twice as much with every requeue of the job, whichever task asked for it
    times = sorted(entry["time_min"] for entry in reasons)
    assert times == [6 * 2**n for n in range(len(times))]
    [job] = LocalJobs(tmp_path, "demo").jobs.values()
    assert job.restarts == len(reasons) == sum(
        int(json.loads((made.steps[0].artifact / f"{task:04d}/result.json").read_text())
            ["environment"]["restarts"]) for task in range(3))
    [used] = usage.collect(tmp_path, "demo")
    assert (used.tasks, used.requeues, used.time_min) == (3, len(reasons), 1)


def test_more_memory_for_the_job_runs_only_what_is_not_done(chains, tmp_path):
    made = plan(chains, tmp_path, tasks=3, names=("extract",), memory_mb=500, memory_task=1,
                resources=replace(FOUR, pack=3, mem_mb=250))
    submit.submit(made)
    assert states(tmp_path) == {"extract": "done"}
    found = marks(made)
    assert {task: [entry["mem_mb"] for entry in found[task].requeues] for task in range(3)} == {
        0: [], 1: [500, 1000][:len(found[1].requeues)], 2: []} and found[1].requeues
    assert [found[task].begin["restarts"] for task in range(3)] == [
        "0", str(len(found[1].requeues)), "0"]


def test_a_task_that_the_kernel_kills_gets_more_memory_and_failed_ones_are_not_repeated(
        chains, tmp_path, monkeypatch):
    """The script goes on after the kill: the requeue is that of the killed task, not the last."""
    made = plan(chains, tmp_path, tasks=4, names=("extract",), fail="kill once", fail_task=1,
                error_task=2)
    killed = made.steps[0].artifact.glob
    monkeypatch.setattr("l3hpc.schedulers.local.runner.kernel_kills",
                        lambda: len(list(killed(".work/*/killed"))))
    submit.submit(made)
    [found] = status.collect(tmp_path, ["demo"])
    assert (found.steps[0].state, found.steps[0].done, found.steps[0].failed_tasks) == (
        "failed", 3, [2])
    seen = marks(made)
    assert {task: [(entry["reason"], entry["mem_mb"]) for entry in seen[task].requeues]
            for task in range(4)} == {0: [], 1: [("out of memory", 200)], 2: [], 3: []}
    assert [seen[task].begin["restarts"] for task in range(4)] == ["0", "1", "0", "0"]
    step = made.step_folder("extract")
    assert step.log("1_0_2").read_text().count("this task always fails") == 1
    assert not list(step.markers.glob(".*"))


def test_a_task_that_someone_kills_is_no_matter_of_memory(chains, tmp_path):
    made = plan(chains, tmp_path, tasks=3, names=("extract",), fail="kill once", fail_task=1)
    submit.submit(made)
    [found] = status.collect(tmp_path, ["demo"])
    assert (found.steps[0].state, found.steps[0].done, found.steps[0].failed_tasks) == (
        "failed", 2, [1])
    assert found.steps[0].detail.startswith("killed by signal 9") and not marks(made)[1].requeues
    resume(tmp_path, "demo", made.profile)
    assert states(tmp_path) == {"extract": "done"}
