"""The state of one task, from its markers and what the scheduler reports."""

import time

import pytest

from l3hpc.runs.task_state import evaluate
from l3hpc.schedulers.base import EndedJob, StepJobs
from l3hpc.workspace.markers import TaskMarks
from l3hpc.workspace.states import JobState, TaskState

STOPPED = {"exit_code": 143, "terminated": True}  # by Slurm, for the requeue


@pytest.mark.parametrize(("ago", "began", "marks", "state"), [
    (1.0, 60.0, STOPPED, TaskState.REQUEUED),
    (1.0, 60.0, {}, TaskState.REQUEUED),
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
