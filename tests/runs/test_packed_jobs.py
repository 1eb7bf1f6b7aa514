"""Packed jobs on a fake Slurm: what status, logs and resume make of them."""

import json
import time

import pytest
from fakeslurm import queue_line
from submitted import Case

from l3hpc import schedulers
from l3hpc.config.profile import Limits
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.runs import logs, resume, resume_plan, step_status
from l3hpc.runs.step_status import read_snapshot
from l3hpc.runs.task_state import NO_TURN
from l3hpc.schedulers.jobs import JobId
from l3hpc.schedulers.local import requeue
from l3hpc.workspace import attempts, markers, records
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.states import JobState

FOUR = Resources(1, 100, 0, 5, pack=4)


@pytest.fixture
def case(chains, slurm, tmp_path):
    return Case(chains, slurm, tmp_path, names=("extract", "sample"), tasks={"extract": 6},
                resources={"extract": FOUR})


def begin(case, task, job="100_0", code=None, **more):
    now = time.time()
    case.mark("extract", f"{task}.begin", {"job": job, "time": now - 60, "restarts": 0})
    if code is not None:
        case.mark("extract", f"{task}.exit", {"code": code, "time": now, "job": job, **more})


def fail(case):
    """Task 1 failed; the others of its job, and the other job, are done."""
    for task in (0, 2, 3, 4, 5):
        case.finish("extract", task)
    begin(case, 1, code=1)
    case.queue()
    case.sacct("100_0|FAILED|1:0|60|n1", "100_1|COMPLETED|0:0|60|n1")


def again(case, **options):
    return resume.resume(case.workspace, "demo", case.profile, **options)


def test_one_sbatch_one_pickle_for_each_job(case):
    [attempt] = records.read(case.workspace, "demo").steps[0].attempts
    assert (attempt.job, attempt.pack, attempt.tasks) == ("100", 4, [0, 1, 2, 3, 4, 5])
    step = case.made.step_folder("extract")
    assert sorted(path.name for path in step.logs.glob("*.pkl")) == [
        "100_0_submitted.pkl", "100_1_submitted.pkl"]
    text = step.script().read_text()
    assert "#SBATCH --array=0-1\n" in text and "#SBATCH --time=0-00:20:00\n" in text
    assert json.loads(step.requeue_policy.read_text())["time_min"] == 20


def test_a_step_whose_job_runs_shows_what_its_tasks_do(case):
    case.finish("extract", 0)
    begin(case, 0, code=0)
    begin(case, 1, code=1)
    begin(case, 2)
    case.queue(queue_line("100_0", "RUNNING", used="3:00", limit="20:00"),
               queue_line("100_1", "PENDING", "Priority"))
    step = case.step("extract")
    assert (step.state, step.done, step.failed_tasks) == ("running", 1, [1])
    assert step.detail == "starting, limit in 17:00, 1 of 6 tasks failed (task 1)"
    assert step.elapsed_s == pytest.approx(60, abs=30)
    case.finish("extract", 2)
    begin(case, 2, code=0)  # between two tasks
    step = case.step("extract")
    assert (step.state, step.detail) == ("running", "limit in 17:00, 1 of 6 tasks failed (task 1)")
    begin(case, 3)
    case.finish("extract", 3)
    case.queue(queue_line("100_1", "RUNNING", used="3:00", limit="20:00"))
    begin(case, 4, "100_1")
    record = records.read(case.workspace, "demo")
    snapshot = read_snapshot(case.workspace, record, record.steps[0])
    own = snapshot.own(schedulers.of_record(case.workspace, record).jobs(record))
    assert step_status._in_turn(snapshot, own, attempts.packed(snapshot.record)) == set()
    assert case.step("extract").detail == "starting, limit in 17:00, 1 of 6 tasks failed (task 1)"


def test_what_was_not_started_is_lost_and_resume_is_next(case):
    for task in (4, 5):
        case.finish("extract", task)
    case.finish("extract", 0)
    begin(case, 0, code=0)
    case.queue()
    case.sacct("100_0|FAILED|9:0|60|n1", "100_1|COMPLETED|0:0|60|n1")
    assert case.look()["extract"] == ("lost", NO_TURN)
    assert case.run.next == "l3hpc resume demo"


@pytest.mark.parametrize(("state", "detail", "memory"), [
    ("FAILED|1:0", "exit 1", None), ("OUT_OF_MEMORY|0:125", "out of memory", 200),
    ("TIMEOUT|0:0", "time limit", None), ("NODE_FAIL|1:0", "node failure (n1)", None)])
@pytest.mark.parametrize("in_work", [0, 1])
def test_what_ended_the_job_happened_to_one_task_and_the_others_were_not_started(
        case, state, detail, memory, in_work):
    """Also if it ended before any task had begun: then it is the first one."""
    for task in (4, 5, *range(in_work)):
        case.finish("extract", task)
    if in_work:
        begin(case, 0, code=0)
        begin(case, 1)
    case.queue()
    case.sacct(f"100_0|{state}|60|n1", "100_1|COMPLETED|0:0|60|n1")
    step = case.step("extract")
    assert (step.state, step.failed_tasks, step.needs_mem_mb) == ("failed", [in_work], memory)
    assert step.detail == f"{detail}, 1 of 6 tasks failed (task {in_work})"
    assert step.repeats is state.startswith("FAILED")


def test_a_job_that_was_cancelled_before_it_began(case):
    case.queue()
    case.sacct("100_0|CANCELLED|0:0|0|", "100_1|CANCELLED|0:0|0|")
    assert case.look()["extract"] == ("cancelled", "cancelled")


def test_status_of_a_job_of_many_tasks_looks_at_each_once(chains, slurm, tmp_path, monkeypatch):
    case = Case(chains, slurm, tmp_path, names=("extract",), tasks={"extract": 60},
                resources={"extract": Resources(1, 100, 0, 1, pack=60)})
    case.queue(queue_line("100_0", "RUNNING", used="3:00", limit="60:00"))
    looked, of = [], markers.TaskMarks.of
    monkeypatch.setattr(markers.TaskMarks, "of",
                        lambda marks, job: looked.append(job) or of(marks, job))
    assert case.step("extract").state == "running"
    assert len(looked) <= 3 * 60


def test_logs_of_a_task_and_where_it_has_none_those_of_its_job(case):
    fail(case)
    step = case.made.step_folder("extract")
    record = records.read(case.workspace, "demo")
    assert logs.find_log(case.workspace, record, record.steps[0], task=3) == step.log("100_0_3")
    assert logs.find_log(case.workspace, record, record.steps[0]) == step.log("100_0_1")
    step.log("100_0").write_text("")
    assert logs.find_log(case.workspace, record, record.steps[0]) == step.log("100_0_1")
    step.log("100_0").write_text("slurmstepd: error: *** JOB 100 CANCELLED ***\n")
    assert logs.find_log(case.workspace, record, record.steps[0]) == step.log("100_0")
    assert case.step("extract").log == str(step.log("100_0"))
    step.log("100_0_1").write_text("error: something\n")
    assert case.step("extract").log == str(step.log("100_0_1"))


def test_why_slurm_killed_the_job_stands_in_the_log_of_the_job(case):
    for task in (0, 4, 5):
        case.finish("extract", task)
    begin(case, 1)
    step = case.made.step_folder("extract")
    step.log("100_0_1").write_text("loading\n")
    step.log("100_0").write_text("slurmstepd: error: Exceeded job memory limit\n")
    case.queue()
    case.sacct("100_0|FAILED|0:9|60|n1", "100_1|COMPLETED|0:0|60|n1")
    found = case.step("extract")
    assert found.last_words[0] == "slurmstepd: error: Exceeded job memory limit"
    assert found.log == str(step.log("100_0_1"))
    # not of a task that had ended by itself
    begin(case, 1, code=9)
    assert case.step("extract").last_words[0] == "loading"
    # a job of one task has one log
    record = records.read(case.workspace, "demo")
    assert logs.log_of_job(step, record.steps[0], 1) == step.log("100_0")
    record.steps[0].attempts[0].pack = 1
    assert logs.log_of_job(step, record.steps[0], 1) is None


def test_resume_submits_what_is_missing_packed_again(case):
    fail(case)
    (case.made.steps[0].artifact / "0003/result.json").unlink()
    (case.made.steps[0].artifact / "0005/result.json").unlink()
    record = again(case, sets=["extract.pack=2"])
    attempt = record.steps[0].attempts[1]
    assert (attempt.job, attempt.pack, attempt.tasks) == ("102", 2, [1, 3, 5])
    assert attempt.task_ids == {1: "102_0", 3: "102_0", 5: "102_1"}
    assert record.steps[0].resources["pack"] == 2
    text = case.made.step_folder("extract").script().read_text()
    assert "all=(1 3 5)" in text and "#SBATCH --time=0-00:10:00\n" in text
    for value in ("0", "x", "1.5"):
        with pytest.raises(InputError, match="is not a number of tasks"):
            again(case, sets=[f"extract.pack={value}"])


def test_a_failed_task_of_a_live_job_is_left_until_the_job_ends(case):
    begin(case, 0, code=1)
    begin(case, 1)
    case.queue(queue_line("100_0", "RUNNING"), queue_line("100_1", "PENDING", "Priority"),
               queue_line("101", "PENDING", "Dependency"))
    todo = resume_plan.plan_now(case.workspace, "demo", case.profile)
    assert todo.steps == [] and todo.live == {"extract": ["100"], "sample": ["101"]}


def test_what_a_requeue_granted_the_job_is_shared_by_its_tasks(case):
    fail(case)
    markers.add_requeue(case.made.step_folder("extract").markers, 1, "time limit", 1.0,
                        time_min=80, mem_mb=400)
    step, _ = resume_plan.plan_now(case.workspace, "demo", case.profile).steps
    assert (step.resources.time_min, step.resources.mem_mb, step.resources.pack) == (20, 400, 4)
    assert step.of_a_job.job_min == 20  # one task is missing
    short = case.profile.model_copy(update={"limits": Limits(time="50m")})
    step, _ = resume_plan.plan_now(case.workspace, "demo", short).steps
    assert (step.resources.time_min, step.resources.pack) == (20, 2)


def test_a_held_job_is_released_once_with_all_that_its_tasks_need(case):
    folder = case.made.step_folder("extract").markers
    begin(case, 0, code=143, signal="TERM")
    markers.add_requeue(folder, 0, "time limit", time.time(), time_min=40, held=True)
    case.queue(queue_line("100_0", "PENDING", "JobHeldUser", restarts=1),
               queue_line("100_1", "PENDING", "JobHeldUser"),
               queue_line("101", "PENDING", "Dependency"))
    found = resume_plan.plan_now(case.workspace, "demo", case.profile)
    assert found.held == {JobId("100_0"): ["TimeLimit=40"], JobId("100_1"): []}


@pytest.mark.parametrize(("codes", "done", "expected"), [
    ({0: 0, 1: 0}, (), 0), ({0: 0, 1: 7}, (), 7), ({0: 3, 1: 7}, (), 3), ({0: 0}, (), 1),
    ({1: 0}, (0,), 0), ({}, (0, 1), 0)])
def test_the_exit_code_of_a_local_job_that_nobody_waited_for(tmp_path, codes, done, expected):
    step = tmp_path / "steps/extract"
    (step / "markers").mkdir(parents=True)
    for task, code in codes.items():
        (step / f"markers/{task}.begin").write_text(json.dumps({"job": "7_0", "time": 10 + task}))
        (step / f"markers/{task}.exit").write_text(json.dumps({"code": code, "time": 20}))
    job = LocalJob(JobState.RUNNING, "extract", 0, "7", True, [], tasks=[0, 1])
    assert requeue.noted_exit_code(step, job, done) == expected
    assert requeue.current_task(step, job) == max(codes, default=0)
    other = LocalJob(JobState.RUNNING, "extract", 0, "8", True, [], tasks=[0, 1])
    assert requeue.current_task(step, other) == 0
    assert requeue.noted_exit_code(step, other, done) == (0 if len(done) == 2 else 1)
    alone = LocalJob(JobState.RUNNING, "extract", 0, "9", False, [])
    assert requeue.noted_exit_code(step, alone, (0,)) == codes.get(0, 1)
