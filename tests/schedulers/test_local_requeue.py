"""What the runner of ``local`` decides about a job that has ended, by the markers of its tasks."""

import pytest

from l3hpc.io.files import write_json
from l3hpc.schedulers.local import requeue
from l3hpc.schedulers.requeue_policy import MEMORY, TIME, Policy
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.states import JobState


@pytest.fixture
def folder(tmp_path):
    made = StepFolder(tmp_path / "runs/demo/steps/extract")
    made.markers.mkdir(parents=True)
    write_json(made.requeue_policy, Policy(mem_mb=100, time_min=20).to_json())
    return made


def packed(number=7, tasks=(4, 5, 6)):
    return LocalJob(JobState.RUNNING, "extract", tasks[0], str(number), True, [], pid=3, start=4,
                    host="here", started=5.0, tasks=[*tasks], warned=True, over=True)


def note(folder, task, what, **value):
    write_json(markers.path(folder.markers, task, what), value)


def begin(folder, task, job="7_1", time=10):
    note(folder, task, "begin", job=job, time=str(time))


def test_the_task_that_a_packed_job_runs_is_the_one_that_began_last(folder):
    assert requeue.current_task(folder, packed()) == 4  # none has begun
    begin(folder, 4, time=10)
    begin(folder, 6, time=12)
    begin(folder, 5, time=11)
    begin(folder, 9, time=99)  # of another element
    assert requeue.current_task(folder, packed()) == 6
    begin(folder, 5, time=12)  # within the same second
    assert requeue.current_task(folder, packed()) == 6
    begin(folder, 5, time=13)
    assert requeue.current_task(folder, packed()) == 5
    begin(folder, 6, job="3_1", time=50)  # left by an earlier job
    assert requeue.current_task(folder, packed()) == 5


def test_failed_tasks_are_those_of_this_job_that_have_no_result(folder):
    for task, job, code in [(4, "7_1", 0), (5, "7_1", 3), (6, "7_1", 137), (9, "7_2", 1)]:
        begin(folder, task, job)
        note(folder, task, "exit", code=code, time=20)
    assert requeue.failed_tasks(folder, packed(), ()) == {5: 3, 6: 137}
    assert requeue.failed_tasks(folder, packed(), {6}) == {5: 3}
    begin(folder, 5, "3_1")
    assert requeue.failed_tasks(folder, packed(), ()) == {6: 137}


@pytest.mark.parametrize(("codes", "done", "code"), [
    ({4: 0, 5: 0, 6: 0}, (), 0),
    ({4: 0, 5: 3, 6: 5}, (), 3),  # the first that failed
    ({4: 0, 5: 0}, (), 1),        # killed in its last task
    ({4: 0, 5: 0}, (6,), 0),      # whose result came from an attempt before
    ({4: 0, 5: 3}, (5, 6), 3),
    ({}, (4, 5, 6), 0),
])
def test_the_exit_code_of_a_packed_job_that_nobody_waited_for(folder, codes, done, code):
    for task, own in codes.items():
        begin(folder, task)
        note(folder, task, "exit", code=own, time=20)
    assert requeue.noted_exit_code(folder, packed(), done) == code


def test_what_an_earlier_job_left_is_no_exit_code_of_a_packed_one(folder):
    for task in (4, 5, 6):
        begin(folder, task, "3_1" if task == 5 else "7_1")
        note(folder, task, "exit", code=0, time=20)
    assert requeue.noted_exit_code(folder, packed(), ()) == 1


@pytest.mark.parametrize(("noted", "done", "code"), [(0, (), 0), (4, (), 4), (None, (), 1),
                                                     (None, (2,), 1)])
def test_the_exit_code_of_a_single_job_that_nobody_waited_for(folder, noted, done, code):
    job = LocalJob(JobState.RUNNING, "extract", 2, "8", False, [])
    if noted is not None:
        note(folder, 2, "exit", code=noted, time=20)
    note(folder, 3, "exit", code=9, time=20)
    assert requeue.noted_exit_code(folder, job, done) == code


def test_a_packed_job_gets_the_most_that_any_of_its_tasks_was_granted(folder):
    markers.add_requeue(folder.markers, 4, MEMORY, 1.0, mem_mb=400)
    markers.add_requeue(folder.markers, 5, MEMORY, 2.0, mem_mb=200)
    markers.add_requeue(folder.markers, 6, TIME, 3.0, time_min=80)
    markers.add_requeue(folder.markers, 9, MEMORY, 4.0, mem_mb=6400, time_min=999)
    for task in (4, 5):
        job = packed()
        job.task = task
        requeue.reset_for_requeue(folder, job)
        assert (job.mem_mb, job.time_min) == (400, 80)
        assert (job.state, job.restarts, job.warned, job.over) == (
            JobState.PENDING, 1, False, False)
        assert job.pid is job.start is job.started is job.exit is None


def test_more_memory_begins_at_what_the_job_has_not_at_what_the_task_was_granted(folder):
    markers.add_requeue(folder.markers, 4, MEMORY, 1.0, mem_mb=400)
    begin(folder, 5)
    job = packed()
    assert requeue.requeue_or_give_up(folder, job, MEMORY)
    assert (job.mem_mb, job.time_min, job.state) == (800, 20, JobState.PENDING)
    [entry] = markers.read_task(folder.markers, 5).requeues
    assert (entry["reason"], entry["mem_mb"], entry["words"]) == (
        MEMORY, 800, "out of memory: 400 MB → 800 MB")
    assert requeue.requeue_or_give_up(folder, job, TIME, task=6)
    assert (job.mem_mb, job.time_min, job.restarts) == (800, 40, 2)


def test_a_task_that_has_used_up_its_requeues_is_given_up_and_the_job_not_reset(folder):
    write_json(folder.requeue_policy, Policy(mem_mb=100, time_min=20, memory=1).to_json())
    begin(folder, 5)
    job = packed()
    assert requeue.requeue_or_give_up(folder, job, MEMORY)
    job.state = JobState.RUNNING
    assert not requeue.requeue_or_give_up(folder, job, MEMORY)
    assert (job.state, job.restarts, job.mem_mb) == (JobState.RUNNING, 1, 200)
    marks = markers.read_task(folder.markers, 5)
    assert marks.gave_up.startswith("out of memory (200 MB) after 1 requeue")
    assert len(marks.requeues) == 1
    assert requeue.requeue_or_give_up(folder, job, MEMORY, task=4)  # another task may, still
    assert job.mem_mb == 400
