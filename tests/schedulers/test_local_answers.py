"""What the files of a local run say about its jobs: with a runner, without one, and in between."""

import os
import socket
import time
from types import SimpleNamespace

import pytest

from l3hpc.io.processes import process_start
from l3hpc.schedulers.jobs import EndedJob, LiveJob
from l3hpc.schedulers.local.scheduler import _GONE, STARTING_S, _jobs_of
from l3hpc.workspace.lease import EXPIRES_S
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.states import JobState

HERE = socket.gethostname()
FREE = "waits for free cores and memory"


def job(state, number="1", **values):
    return LocalJob(state, "extract", 0, number, False, values.pop("after", []), **values)


def alive(number="1", **values):
    """A job whose process runs: this one."""
    return job(JobState.RUNNING, number, pid=os.getpid(), start=process_start(os.getpid()),
               host=HERE, started=10.0, **values)


def answer(jobs=(), submitted=("1",), ago=0.0, runner=None, had_runner=False, stop=False,
           minutes=None):
    """The jobs ``submitted`` are on record, and those in ``jobs`` have been taken up."""
    attempt = SimpleNamespace(time=time.time() - ago,
                              task_ids=dict(enumerate(submitted)))
    step = SimpleNamespace(name="extract", attempts=[attempt],
                           resources={} if minutes is None else {"time_min": minutes})
    local = SimpleNamespace(jobs={each.job: each for each in jobs}, runner=lambda: runner,
                            had_runner=lambda since: had_runner, asked_to_stop=lambda: stop)
    found, notes = _jobs_of(SimpleNamespace(steps=[step]), local)
    assert found.queried and found.gone == _GONE
    return found.live, found.ended, notes


RUNNER = {"host": HERE, "pid": 7, "age": 1.0, "own": True}
STARTING = LiveJob(JobState.PENDING, "about to start")


def test_a_run_that_was_just_submitted_is_about_to_start():
    live, ended, [note] = answer(submitted=("1", "2_0", "2_1"))
    assert live == {"1": STARTING, "2_0": STARTING, "2_1": STARTING} and ended == {}
    assert note.startswith("its local runner has not started yet")


@pytest.mark.parametrize("case", [{"ago": STARTING_S + 1}, {"had_runner": True}])
def test_later_or_after_a_runner_has_gone_nothing_waits_any_more(case):
    jobs = [job(JobState.PENDING), job(JobState.RUNNING, "2", pid=2**22 + 1, start=1, host=HERE,
                                       started=1.0)]
    assert answer(jobs, submitted=("1", "2", "3"), **case) == ({}, {}, [_GONE])


def test_one_job_that_waits_is_enough_for_a_run_to_have_lost_its_runner():
    jobs = [job(JobState.COMPLETED, exit=0), job(JobState.PENDING, "2")]
    live, ended, notes = answer(jobs, submitted=("1", "2"), ago=STARTING_S + 1)
    assert (live, set(ended), notes) == ({}, {"1"}, [_GONE])


def test_the_last_submission_counts():
    old, new = (SimpleNamespace(time=time.time() - ago, task_ids={0: number})
                for ago, number in [(10**6, "1"), (0, "2")])
    local = SimpleNamespace(jobs={"1": job(JobState.COMPLETED, exit=0)}, runner=lambda: None,
                            had_runner=lambda since: since < new.time, asked_to_stop=lambda: False)
    step = SimpleNamespace(name="extract", attempts=[old, new], resources={})
    for attempts in ([old, new], [new, old]):
        step.attempts = attempts
        found, _ = _jobs_of(SimpleNamespace(steps=[step]), local)
        assert found.live == {"2": STARTING}


def test_what_still_runs_without_a_runner_is_running():
    live, _, notes = answer([job(JobState.PENDING), alive("2")], ago=STARTING_S + 1)
    assert set(live) == {"2"} and live["2"].state is JobState.RUNNING and notes == [_GONE]


def test_a_run_that_has_ended_needs_no_runner():
    jobs = [job(JobState.COMPLETED, started=10.0, ended=14.5, exit=0),
            job(JobState.FAILED, "2", started=20.0, ended=19.0, exit=3),  # the clock was set
            job(JobState.BLOCKED, "3", by=["2"])]
    live, ended, notes = answer(jobs, submitted=("1", "2", "3"), ago=10**6)
    assert (live, notes) == ({}, [])
    assert ended == {"1": EndedJob(JobState.COMPLETED, 0, 4.5),
                     "2": EndedJob(JobState.FAILED, 3, 0.0),
                     "3": EndedJob(JobState.BLOCKED, None, None)}


def test_with_a_runner_jobs_wait_for_others_or_for_room():
    jobs = [alive(), job(JobState.PENDING, "2"), job(JobState.PENDING, "3", after=["1"]),
            job(JobState.PENDING, "4", after_any=["1"], restarts=2)]
    live, _, notes = answer(jobs, submitted=("1", "2", "3", "4", "5"), ago=10**6, runner=RUNNER)
    assert notes == []
    assert {name: (each.state, each.reason, each.waits_for_jobs, each.restarts)
            for name, each in live.items() if name != "1"} == {
        "2": (JobState.PENDING, FREE, False, 0), "3": (JobState.PENDING, "", True, 0),
        "4": (JobState.PENDING, "", True, 2), "5": (JobState.PENDING, "about to start", False, 0)}
    # by the age of the process, not by the clock, which may have been set
    assert (live["1"].state, live["1"].start) == (JobState.RUNNING, 10.0)
    assert live["1"].elapsed_s < 10**6


def test_of_a_job_on_another_machine_only_the_clock_says_how_long_it_has_run():
    began = time.time() - 5000
    elsewhere = job(JobState.RUNNING, pid=7, start=1, host="elsewhere", started=began)
    live, _, _ = answer([elsewhere], runner=RUNNER)
    assert 5000 <= live["1"].elapsed_s < 9000


@pytest.mark.parametrize(("granted", "requested", "limit"), [
    (None, None, None), (None, 5, 300.0), (20.0, 5, 1200.0), (None, 0, None)])
def test_the_limit_of_a_job_is_what_it_was_granted(granted, requested, limit):
    live, _, _ = answer([alive(time_min=granted)], runner=RUNNER, minutes=requested)
    assert live["1"].limit_s == limit


@pytest.mark.parametrize(("running", "expected"), [
    (True, {"1": JobState.COMPLETING, "2": JobState.PENDING}), (False, {"2": JobState.COMPLETING})])
def test_what_a_runner_that_is_being_stopped_still_has_to_end(running, expected):
    jobs = [alive()] * running + [job(JobState.PENDING, "2")]
    live, _, notes = answer(jobs, submitted=("2",), ago=10**6, runner=RUNNER, stop=True)
    assert {name: each.state for name, each in live.items()} == expected
    assert notes == ["it is being cancelled: running tasks save their work and end"]
    live, _, notes = answer(jobs, submitted=("2",), ago=10**6, stop=True)  # it is gone
    assert JobState.COMPLETING not in {each.state for each in live.values()} and notes == [_GONE]


@pytest.mark.parametrize(("change", "words"), [
    ({}, "if it was stopped (Ctrl-Z): kill -CONT 7"),
    ({"host": "elsewhere"}, "process 7 on elsewhere, was last seen"),
    ({"own": False}, "if it stays silent, it counts as gone from")])
def test_a_silent_runner_is_named(change, words):
    silent = {**RUNNER, "age": EXPIRES_S + 1, **change}
    [note] = answer(runner=silent, stop=True)[2]
    assert words in note
    seen = time.time() - EXPIRES_S - 1  # give or take what a busy machine needs
    assert any(f"last seen at {time.strftime('%H:%M:%S', time.localtime(seen - late))}" in note
               for late in range(600))
    assert answer(runner={**silent, "age": EXPIRES_S - 1})[2] == []
