"""The processes of local jobs: all of them end with their job, and no others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from chains import submit_behind
from waiting import until

from l3hpc.config.resources import Resources
from l3hpc.io.processes import process_start, resident_mb
from l3hpc.runs import status
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers.local.runner import Runner, _groups, _signal
from l3hpc.workspace import markers, records
from l3hpc.workspace.local_jobs import LocalJob, LocalJobs
from l3hpc.workspace.states import JobState

pytestmark = pytest.mark.slow


def states(workspace, run="demo"):
    [found] = status.collect(workspace, [run])
    return {step.name: step.state for step in found.steps}


def test_ctrl_c_asks_the_jobs_to_stop_and_is_recorded(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"), params={"extract": {"seconds": 600}})
    submit_behind(made)
    code = ("from l3hpc.runs import submit; from pathlib import Path; import signal; "
            "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's job is deaf
            f"submit.run_local(Path({str(tmp_path)!r}), 'demo', detach=False)")
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    until(lambda: (made.step_folder("extract").markers / "0.progress.json").exists())
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=240)[1]
    record = records.read(tmp_path, "demo")
    assert (record.state, record.note) == ("cancelled", "interrupted")
    assert states(tmp_path) == {"extract": "cancelled", "sample": "cancelled"}
    exit_marker = json.loads((made.step_folder("extract").markers / "0.exit").read_text())
    assert exit_marker["code"] == 143
    resume(tmp_path, "demo", made.profile, detach=True)
    cancel(tmp_path, "demo")
    until(lambda: LocalJobs(tmp_path, "demo").runner() is None)


@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("name", ["HUP", "USR1", "XCPU"])
def test_a_signal_that_ends_the_script_ends_its_python_too(chains, tmp_path, name, pack):
    gate = tmp_path / "gate"
    gate.touch()
    made = chains.plan(tmp_path, names=("extract",), tasks={"extract": pack},
                       params={"extract": {"gate": str(gate)}},
                       resources={"extract": Resources(1, 100, 0, 5, pack=pack)})
    submit_behind(made)
    step, number, groups = made.step_folder("extract"), getattr(signal, f"SIG{name}"), []

    def look(record, jobs):
        if not groups and (step.markers / "0.progress.json").exists():
            groups.extend(job.pid for job in jobs.values())
            os.kill(groups[0], number)

    assert Runner(tmp_path, "demo", show=look).run()
    assert not any(resident_mb(groups).values())
    seen = markers.read_task(step.markers, 0)
    assert (seen.exit_code, seen.error["type"]) == (128 + number, "SystemExit")
    assert states(tmp_path) == {"extract": "failed"}
    gate.unlink()
    resume(tmp_path, "demo", made.profile)
    assert states(tmp_path) == {"extract": "done"}


STAYS = "bash -c 'trap \"\" TERM; while :; do sleep 1; done' &"


def test_what_a_script_leaves_behind_and_ignores_term_is_killed(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract",), on=chains.profile(setup=(STAYS,)))
    submit_behind(made)
    assert Runner(tmp_path, "demo", grace_s=0.5).run()
    assert states(tmp_path) == {"extract": "done"}
    [job] = LocalJobs(tmp_path, "demo").jobs.values()
    until(lambda: not any(resident_mb([job.pid]).values()))


def test_the_other_jobs_do_not_wait_for_what_a_script_leaves_behind(chains, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    made = chains.plan(tmp_path, names=("extract",), tasks={"extract": 2},
                       params={"extract": {"gate": str(gate), "gate_task": 1}},
                       on=chains.profile(setup=(
                           f"if [ $SLURM_ARRAY_TASK_ID = 0 ]; then {STAYS} fi",)))
    submit_behind(made)
    runner, seen = Runner(tmp_path, "demo", grace_s=600), []

    def look(record, jobs):
        seen.append((str(jobs["1_0"].state), str(jobs["1_1"].state)))
        if "1_0" in runner._ending:
            gate.unlink(missing_ok=True)
        if seen[-1] == ("RUNNING", "COMPLETED"):
            runner._ending["1_0"] = 0.0  # as if it had had its time

    runner._show_jobs = look
    assert runner.run()
    assert states(tmp_path) == {"extract": "done"}
    assert ("RUNNING", "COMPLETED") in seen


def test_ctrl_c_kills_what_an_ended_script_has_left_behind(chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract",), on=chains.profile(setup=(STAYS,)))
    submit_behind(made)
    runner = Runner(tmp_path, "demo", grace_s=60)

    def look(record, jobs):
        if runner._ending:
            raise KeyboardInterrupt

    runner._show_jobs = look
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    [job] = LocalJobs(tmp_path, "demo").jobs.values()
    assert job.state == "COMPLETED"
    until(lambda: not any(resident_mb([job.pid]).values()))


@pytest.mark.parametrize("why", ["left", "limit", "cancel"])
def test_processes_of_a_job_that_are_groups_of_their_own_end_with_it(chains, tmp_path, why):
    """Those of ``timeout``, and of shells with job control."""
    wait = "" if why == "left" else " wait"
    made = chains.plan(
        tmp_path, names=("extract",), on=chains.profile(setup=(f"timeout 300 sleep 300 &{wait}",)),
        heal={"time": 0})
    submit_behind(made)
    seen = []

    def look(record, jobs):
        [job] = jobs.values()
        if job.pid and not seen and why != "left":
            until(lambda: len(_groups(job)) > 1)
            seen.append(job)
            if why == "limit":  # it has run for that long by the clock that counts
                runner._began[job.pid, job.start] = time.monotonic() - 600
            else:
                LocalJobs(tmp_path, "demo").ask_to_stop()

    runner = Runner(tmp_path, "demo", grace_s=0.5, show=look)
    runner.run()
    [job] = LocalJobs(tmp_path, "demo").jobs.values()
    assert job.state == {"left": "COMPLETED", "limit": "TIMEOUT", "cancel": "CANCELLED"}[why]
    until(lambda: not any(resident_mb([job.pid]).values()))


def test_a_process_that_has_got_the_id_of_a_job_is_not_signalled():
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    job = LocalJob(JobState.RUNNING, "extract", 0, "1", False, [], pid=stranger.pid,
                   host=socket.gethostname(), start=process_start(stranger.pid))
    try:
        assert _groups(job) == {stranger.pid}
        job.start -= 1
        assert not _signal(job, signal.SIGKILL) and stranger.poll() is None
        job.start, job.host = job.start + 1, "elsewhere"
        assert not _signal(job, signal.SIGKILL) and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
