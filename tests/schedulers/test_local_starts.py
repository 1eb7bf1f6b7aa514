"""What the runner of ``local`` does where a job cannot start, or ends, as it should."""

import os
import time

import pytest
from chains import submit_behind
from people import root

from l3hpc.config.resources import Resources
from l3hpc.runs import status
from l3hpc.schedulers.local.requeue import REQUEUE
from l3hpc.schedulers.local.runner import Runner
from l3hpc.schedulers.requeue_policy import WARNED
from l3hpc.workspace import records
from l3hpc.workspace.local_jobs import LocalJobs
from l3hpc.workspace.states import JobState, RunState

pytestmark = pytest.mark.slow


def run(workspace, run="demo", limit_s=120, **options):
    """Until every job has ended: one that waits for ever is an error."""
    end = time.monotonic() + limit_s

    def look(record, jobs):
        assert time.monotonic() < end, jobs

    assert Runner(workspace, run, show=look, **options).run()


def only_job(workspace, run="demo"):
    [job] = LocalJobs(workspace, run).jobs.values()
    return job


def test_more_than_this_machine_has_is_cut_to_what_it_has(chains, tmp_path):
    """As of a run that was submitted on a larger one: its job would wait for ever."""
    submit_behind(chains.plan(tmp_path, names=("extract",),
                              resources={"extract": Resources(99, 10**6, 0, 5)}))
    run(tmp_path)
    assert only_job(tmp_path).state == "COMPLETED"


@root
def test_a_script_of_somebody_else_is_not_run(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract",))
    submit_behind(made)
    folder = made.step_folder("extract")
    os.chown(folder.script(), 65534, -1)
    run(tmp_path)
    job = only_job(tmp_path)
    assert (job.state, job.exit) == ("FAILED", 2)
    assert "belongs to" in folder.log(job.job).read_text()


def test_a_folder_that_is_gone_since_the_submission_stops_no_job(chains, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    submit_behind(chains.plan(tmp_path, names=("extract",)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rmdir()
    run(tmp_path)
    assert only_job(tmp_path).state == "COMPLETED"


def test_a_warning_before_python_could_take_it_requeues_the_job(chains, tmp_path):
    setup = f"[ -e {tmp_path}/warned ] || {{ touch {tmp_path}/warned; exit {WARNED}; }}"
    submit_behind(chains.plan(tmp_path, names=("extract",), on=chains.profile(setup=(setup,))))
    run(tmp_path)
    job = only_job(tmp_path)
    assert (job.state, job.restarts) == ("COMPLETED", 1)


def test_a_requeue_is_on_record_before_the_job_starts_again(chains, tmp_path, monkeypatch):
    """Its markers are reset by then; a runner that is killed here must not lose it."""
    setup = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; exit {REQUEUE}; }}"
    submit_behind(chains.plan(tmp_path, names=("extract",), on=chains.profile(setup=(setup,))))
    real, at_start = Runner._start, []

    def start(runner, name, job, cpus):
        saved = LocalJobs(tmp_path, "demo").jobs[name]
        at_start.append((saved.state, saved.restarts))
        real(runner, name, job, cpus)

    monkeypatch.setattr(Runner, "_start", start)
    run(tmp_path)
    assert at_start == [(JobState.PENDING, 0), (JobState.PENDING, 1)]
    assert only_job(tmp_path).state == "COMPLETED"


def test_cancelling_keeps_what_another_command_has_just_written_into_the_record(chains, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    submit_behind(chains.plan(tmp_path, names=("extract",), params={"extract": {
        "gate": str(gate)}}))

    def look(record, jobs):
        if any(job.state is JobState.RUNNING for job in jobs.values()):
            changed = records.read(tmp_path, "demo")
            changed.options = {"written": "meanwhile"}
            records.write(tmp_path, changed)
            LocalJobs(tmp_path, "demo").ask_to_stop()

    assert Runner(tmp_path, "demo", show=look, grace_s=5).run()
    record = records.read(tmp_path, "demo")
    assert (record.options, record.state) == ({"written": "meanwhile"}, RunState.CANCELLED)
    assert only_job(tmp_path).state == "CANCELLED"


def test_a_job_above_its_memory_that_gets_no_more_ran_out_of_memory(chains, tmp_path):
    submit_behind(chains.plan(tmp_path, names=("extract",),
                              params={"extract": {"memory_mb": 600, "memory_s": 20}},
                              resources={"extract": Resources(1, 200, 0, 5)}, heal={"memory": 0}))
    run(tmp_path)
    assert only_job(tmp_path).state == "OUT_OF_MEMORY"
    [found] = status.collect(tmp_path, ["demo"])
    assert found.steps[0].detail.startswith("out of memory")


def test_a_job_that_a_killed_runner_has_taken_up_keeps_no_other_run_waiting(chains, tmp_path):
    submit_behind(chains.plan(tmp_path, run="first", names=("extract",)))
    taken_up = LocalJobs(tmp_path, "first")
    taken_up.take_up(records.read(tmp_path, "first"))
    taken_up.save()
    submit_behind(chains.plan(tmp_path, run="second", names=("extract",), salt="b",
                              waits_for=("1",)))
    run(tmp_path, "second", orphan_s=0.5)
    job = only_job(tmp_path, "second")
    assert (job.state, job.by) == (JobState.BLOCKED, ["1"])
