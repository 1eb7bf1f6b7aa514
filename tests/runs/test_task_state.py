"""The state of one task, from its markers and what the scheduler reports."""

import time

import pytest

from l3hpc.runs.task_state import IN_TURN, NO_RESULT, NO_TURN, evaluate
from l3hpc.schedulers.jobs import EndedJob, LiveJob, StepJobs
from l3hpc.workspace.markers import TaskMarks
from l3hpc.workspace.states import JobState, TaskState

STOPPED = {"exit_code": 143, "terminated": True}  # by Slurm, for the requeue


@pytest.mark.parametrize(("ago", "began", "marks", "state"), [
    (1.0, 60.0, STOPPED, TaskState.REQUEUED),
    (1.0, 60.0, {}, TaskState.REQUEUED),
    (-2.0, 60.0, STOPPED, TaskState.REQUEUED),  # the clock of the node is ahead of ours
    (600.0, 700.0, STOPPED, TaskState.FAILED),  # nothing came of it
    (60.0, 30.0, STOPPED, TaskState.FAILED),  # the attempt after it was stopped, too
    (1.0, 60.0, {"exit_code": 1}, TaskState.FAILED),  # scontrol refused it
    (1.0, 60.0, {**STOPPED, "gave_up": "out of memory"}, TaskState.FAILED)])
@pytest.mark.parametrize("shown", [JobState.FAILED, JobState.OUT_OF_MEMORY, None])
def test_between_the_end_of_an_attempt_and_the_queue(ago, began, marks, state, shown):
    """Slurm may show the end of the first attempt before the job is pending again."""
    now = time.time()
    found = TaskMarks(begin={"job": "7", "time": now - began},
                      requeues=[{"reason": "out of memory", "time": now - ago, "mem_mb": 400}],
                      **marks)
    ended = {} if shown is None else {"7": EndedJob(shown, 143, 9.0)}
    if shown is None and found.exit_code is None:
        state = TaskState.LOST  # nobody knows of it: it was killed before it was queued again
    assert evaluate(0, "7", found, StepJobs(ended=ended)).state is state


@pytest.mark.parametrize(("ago", "detail"), [
    (600.0, "killed by signal 9; no evidence that memory was the cause"),  # the one after it
    (800.0, "exit 167")])  # of the attempt that was requeued, and of the one that followed
def test_an_attempt_that_was_killed_before_its_first_line(ago, detail):
    """Only accounting knows of it: the markers are those of the attempt that was requeued."""
    now = time.time()
    found = TaskMarks(begin={"job": "7", "time": now - 700}, exit_code=167, terminated=True,
                      requeues=[{"reason": "node failure", "time": now - ago}])
    status = evaluate(0, "7", found, StepJobs(ended={"7": EndedJob(JobState.FAILED, 137, 9.0)}))
    assert (status.state, status.detail) == (TaskState.FAILED, detail)


def test_a_failure_of_which_slurm_knows_no_exit_code_is_not_called_exit_0():
    """Seen in sacct, for a moment: slurmdbd had been told of the state, but not of the code."""
    status = evaluate(0, "7", None, StepJobs(ended={"7": EndedJob(JobState.FAILED, 0, 9.0)}))
    assert (status.state, status.detail) == (TaskState.FAILED,
                                             "failed; Slurm shows no exit code")


@pytest.mark.parametrize(("exited", "elapsed"), [(107.0, 7.0), (99.5, 0.0), (-3500.0, None)])
def test_a_duration_is_not_known_where_the_clock_was_set_back(exited, elapsed):
    found = TaskMarks(begin={"job": "7", "time": 100.0}, exit_code=1, exited=exited)
    assert evaluate(0, "7", found, StepJobs(queried=True)).elapsed_s == elapsed
    now = time.time()
    found = TaskMarks(begin={"job": "7", "time": now + 100.0 - exited})
    live = StepJobs({"7": LiveJob(JobState.RUNNING, elapsed_s=5000.0)})
    since = evaluate(0, "7", found, live, packed=True).elapsed_s
    assert since == (None if elapsed is None else pytest.approx(elapsed, abs=1.0))


@pytest.mark.parametrize(("marks", "requeued", "shown", "state"), [
    (STOPPED, True, None, TaskState.REQUEUED),  # it may still wait in the queue
    (STOPPED, False, None, TaskState.RUNNING),  # preempted, perhaps
    ({}, True, None, TaskState.REQUEUED),
    (STOPPED, False, JobState.PREEMPTED, TaskState.RUNNING),
    (STOPPED, False, JobState.NODE_FAIL, TaskState.RUNNING),
    (STOPPED, False, JobState.TIMEOUT, TaskState.FAILED),
    ({"exit_code": 1}, True, None, TaskState.FAILED),
    ({**STOPPED, "gave_up": "out of memory"}, True, None, TaskState.FAILED)])
def test_what_slurm_stopped_has_not_failed_while_squeue_is_silent(marks, requeued, shown, state):
    """However long it does not respond: the job may be back in the queue."""
    entry = {"reason": "out of memory", "time": time.time() - 3600, "mem_mb": 400}
    found = TaskMarks(begin={"job": "7", "time": time.time() - 7200},
                      requeues=[entry] * requeued, **marks)
    answer = StepJobs(ended={} if shown is None else {"7": EndedJob(shown, 143, 9.0)},
                      unreachable="squeue")
    status = evaluate(0, "7", found, answer)
    assert status.state is state
    assert state is TaskState.FAILED or status.detail.endswith("squeue does not respond")
    if marks and shown is None:
        cancelled = evaluate(0, "7", found, answer, was_cancelled=True)
        assert cancelled.state is (TaskState.FAILED if "terminated" not in marks
                                   else TaskState.CANCELLED)


RUNNING = LiveJob(JobState.RUNNING, elapsed_s=500.0, limit_s=3600.0)


@pytest.mark.parametrize(("marks", "state", "detail"), [
    ({"begin": None}, TaskState.QUEUED, IN_TURN),
    ({}, TaskState.RUNNING, "starting, limit in 51:40"),
    ({"exit_code": 1}, TaskState.FAILED, "exit 1"),
    ({"exit_code": 0}, TaskState.RUNNING, "starting, limit in 51:40"),  # its result is just coming
    ({"exit_code": 85}, TaskState.RUNNING, "starting, limit in 51:40"),  # it goes back
    ({"exit_code": 140}, TaskState.RUNNING, "starting, limit in 51:40"),
    (STOPPED, TaskState.RUNNING, "starting, limit in 51:40")])
def test_a_task_of_a_running_packed_job(marks, state, detail):
    began = {"job": "7_0", "time": str(time.time() - 60)}
    found = evaluate(3, "7_0", TaskMarks(**{"begin": began, **marks}),
                     StepJobs(live={"7_0": RUNNING}), packed=True)
    assert found.state is state and found.detail == detail
    if state is TaskState.RUNNING:  # not how long the job has been running
        assert found.elapsed_s == pytest.approx(60, abs=30)
    # the markers of an earlier job are not its own
    other = TaskMarks(begin={"job": "6_0", "time": "1"}, exit_code=1)
    assert evaluate(3, "7_0", other, StepJobs(live={"7_0": RUNNING}), packed=True).detail == IN_TURN


def test_a_task_that_had_not_begun_does_not_run_while_its_job_ends():
    ending = StepJobs(live={"7_0": LiveJob(JobState.COMPLETING, elapsed_s=500.0)})
    assert evaluate(3, "7_0", None, ending, packed=True).state is TaskState.QUEUED
    began = TaskMarks(begin={"job": "7_0", "time": "1"})
    in_work = evaluate(2, "7_0", began, ending, packed=True)
    assert (in_work.state, in_work.detail) == (TaskState.RUNNING, "ending")


def test_before_its_job_is_started_again_a_failed_task_has_failed():
    waiting = StepJobs(live={"7_0": LiveJob(JobState.PENDING, "priority", restarts=1)})
    began = {"job": "7_0", "time": "1"}
    failed = evaluate(0, "7_0", TaskMarks(begin=began, exit_code=1), waiting, packed=True)
    assert failed.state is TaskState.FAILED
    stopped = evaluate(0, "7_0", TaskMarks(begin=began, **STOPPED), waiting, packed=True)
    assert (stopped.state, stopped.detail) == (TaskState.REQUEUED, "priority")
    assert evaluate(0, "7_0", None, waiting, packed=True).state is TaskState.REQUEUED


@pytest.mark.parametrize(("job", "marks", "state", "detail"), [
    (JobState.FAILED, {"begin": None}, TaskState.LOST, NO_TURN),
    (JobState.COMPLETED, {"begin": None}, TaskState.LOST, NO_TURN),
    (JobState.CANCELLED, {"begin": None}, TaskState.CANCELLED, "cancelled"),
    (JobState.BLOCKED, {"begin": None}, TaskState.BLOCKED, "an earlier step failed"),
    (JobState.TIMEOUT, {"begin": None}, TaskState.LOST, NO_TURN),
    (JobState.OUT_OF_MEMORY, {"begin": None}, TaskState.LOST, NO_TURN),
    (JobState.TIMEOUT, {"exit_code": 3}, TaskState.FAILED, "exit 3"),
    (JobState.TIMEOUT, {}, TaskState.FAILED, "time limit"),
    (JobState.COMPLETED, {"exit_code": 0}, TaskState.FAILED, NO_RESULT),
    (JobState.OUT_OF_MEMORY, {"exit_code": 3}, TaskState.FAILED, "exit 3"),
    (JobState.NODE_FAIL, {}, TaskState.FAILED, "node failure (n7)")])
def test_a_task_of_a_packed_job_that_has_ended(job, marks, state, detail):
    found = evaluate(0, "7_0", TaskMarks(**{"begin": {"job": "7_0", "time": "1"}, **marks}),
                     StepJobs(ended={"7_0": EndedJob(job, 1, 9.0, "n7")}), packed=True)
    assert (found.state, found.detail) == (state, detail)
    # an end of its own comes again, whatever has become of the other tasks of the job
    assert found.repeats is (detail in ("exit 3", NO_RESULT)) and not found.needs_memory
