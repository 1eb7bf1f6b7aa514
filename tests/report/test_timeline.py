"""When the tasks of a run waited, ran and were requeued."""

import pytest
from submitted import Case

from l3hpc.io.files import write_json
from l3hpc.report import timeline
from l3hpc.report.data import Span, StepTimes, TaskTimes
from l3hpc.workspace import records
from l3hpc.workspace.run_record import Attempt

START = 1000.0


@pytest.fixture
def case(chains, slurm, tmp_path):
    """``extract`` (two tasks) and ``sample``, submitted at ``START``."""
    case = Case(chains, slurm, tmp_path / "ws", names=("extract", "sample"), tasks={"extract": 2})
    case.record = records.read(case.workspace, "demo")
    for step in case.record.steps:
        step.attempts[0].time = START
    records.write(case.workspace, case.record)
    return case


def times(case, running=()):
    found = timeline.collect(case.workspace, records.read(case.workspace, "demo"),
                             dict.fromkeys(running, True))
    return {(step.step, task.task): task.spans for step in found for task in step.tasks}


def result(case, step, index, begun, ended, job):
    case.mark(step, f"{index}.begin", {"job": job, "time": str(begun)})
    case.mark(step, f"{index}.exit", {"code": "0", "time": str(ended)})
    artifact = next(one.artifact for one in case.made.steps if one.name == step)
    write_json(artifact / f"{index:04d}/result.json", {
        "index": index, "started": begun, "finished": ended, "elapsed_s": ended - begun,
        "environment": {"job": job}, "summary": {}})


def test_waiting_for_steps_then_for_the_queue_then_running(case):
    result(case, "extract", 0, 1010.0, 1100.0, "100_0")
    result(case, "extract", 1, 1020.0, 1200.0, "100_1")
    result(case, "sample", 0, 1230.0, 1300.0, "101")
    found = times(case)
    assert found["extract", 1] == (Span("queued", START, 1020.0), Span("running", 1020.0, 1200.0))
    assert found["sample", 0] == (Span("waiting", START, 1200.0), Span("queued", 1200.0, 1230.0),
                                  Span("running", 1230.0, 1300.0))


def test_a_task_of_a_packed_job_waits_for_those_before_it(case):
    step = case.record.steps[0]
    step.attempts[0].pack = 2
    records.write(case.workspace, case.record)
    result(case, "extract", 0, 1010.0, 1100.0, "100_0")
    result(case, "extract", 1, 1101.0, 1200.0, "100_0")
    found = times(case)
    assert found["extract", 0] == (Span("queued", START, 1010.0), Span("running", 1010.0, 1100.0))
    assert found["extract", 1] == (Span("queued", START, 1010.0), Span("turn", 1010.0, 1101.0),
                                   Span("running", 1101.0, 1200.0))


def test_requeues_and_the_failure_after_them(case):
    case.mark("extract", "0.requeues.json", [
        {"reason": "memory", "time": 1050.0, "words": "out of memory, now 2 GB"},
        {"reason": "time", "time": 1090.0}])
    case.mark("extract", "0.begin", {"job": "100_0", "time": "1100.0"})
    case.mark("extract", "0.exit", {"code": "3", "time": "1150.0"})
    assert times(case)["extract", 0] == (
        Span("requeued", START, 1050.0, "out of memory, now 2 GB"),
        Span("requeued", 1050.0, 1090.0, "time"), Span("queued", 1090.0, 1100.0),
        Span("failed", 1100.0, 1150.0, "exit code 3"))


def test_a_resumed_step_shows_its_earlier_submission(case):
    step = case.record.steps[1]
    step.attempts.append(Attempt("200", False, [0], 5000.0))
    records.write(case.workspace, case.record)
    result(case, "sample", 0, 5010.0, 5020.0, "200")
    spans = times(case)["sample", 0]
    assert [span.kind for span in spans] == ["earlier", "queued", "running"]
    assert (spans[0].start, spans[0].end) == (START, 5000.0)


def test_what_is_live_reaches_to_now_and_what_never_ran_has_no_bar(case, monkeypatch):
    monkeypatch.setattr(timeline.time, "time", lambda: 1500.0)
    case.mark("extract", "0.begin", {"job": "100_0", "time": "1100.0"})
    found = times(case, running=["extract"])
    assert found["extract", 0][-1] == Span("running", 1100.0, 1500.0)
    assert found["extract", 1] == (Span("queued", START, 1500.0),)
    assert found["sample", 0] == ()
    # it does not queue before the step that it needs has ended, whatever that has done already
    result(case, "extract", 1, 1010.0, 1200.0, "100_1")
    assert times(case, running=["extract", "sample"])["sample", 0] == (
        Span("waiting", START, 1500.0),)


def test_the_figure_has_a_bar_for_every_part_and_survives_a_run_without_times():
    steps = [StepTimes("a" * 60, (TaskTimes(0, "1", (Span("queued", 0.0, 1.0),
                                                     Span("running", 1.0, 1.0))),)),
             StepTimes("b", tuple(TaskTimes(index, "2", (Span("failed", 5.0, 9.0, "x<y"),))
                                  for index in range(24)), 976)]
    for width in (1030, 340):
        drawn = str(timeline.figure(steps, width))
        assert drawn.count('class="t-') == 26 and "×1000" in drawn and "x&lt;y" in drawn
    assert timeline.figure([StepTimes("a", (TaskTimes(0, "1", ()),))], 340) is None
    assert len(timeline.rows(steps)) == 26
