"""The local cluster while somebody sets the clock of the machine: nothing is lost by it."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from chains import submit_behind
from waiting import until

from l3hpc.runs import status, usage
from l3hpc.schedulers.local import runner as local_runner
from l3hpc.schedulers.local.runner import Runner
from l3hpc.workspace import markers
from l3hpc.workspace.lease import DEAD_S
from l3hpc.workspace.local_jobs import LocalJobs

pytestmark = pytest.mark.slow
HOUR = 3600.0


@pytest.fixture
def set_clock(monkeypatch):
    """Call it with seconds: by so much the time of day of this process is wrong from now on."""
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, seconds)


@pytest.fixture
def running(chains, tmp_path):
    """A chain of two whose first step works until ``gate`` is removed, and its runner."""
    gate = tmp_path / "gate"
    gate.touch()
    made = chains.plan(tmp_path, names=("extract", "sample"),
                       params={"extract": {"gate": str(gate)}})
    submit_behind(made)
    ended, looks = [], []
    runner = Runner(tmp_path, "demo", grace_s=5, show=lambda *_: looks.append(1))
    thread = threading.Thread(target=lambda: ended.append(runner.run()), daemon=True)
    thread.start()
    until(lambda: (made.step_folder("extract").markers / "0.progress.json").exists())
    yield made, gate, looks, lambda: (thread.join(240), ended)[1]
    gate.unlink(missing_ok=True)
    thread.join(240)
    for process in runner._processes.values():  # one that was replaced waits for none
        process.wait(240)


@pytest.mark.parametrize("ahead", [2 * HOUR, -2 * HOUR])
def test_a_job_is_not_ended_because_the_clock_was_set(tmp_path, running, set_clock, ahead):
    made, gate, looks, ended = running
    set_clock(ahead)
    before = len(looks)
    until(lambda: len(looks) > before + 3)
    [found] = status.collect(tmp_path, ["demo"])
    assert [step.state for step in found.steps] == ["running", "waiting"]
    assert 0 <= found.steps[0].elapsed_s < 60 and not any("gone" in note for note in found.notes)
    gate.unlink()
    assert ended() == [True]
    [found] = status.collect(tmp_path, ["demo"])
    assert [step.state for step in found.steps] == ["done", "done"]
    assert markers.read(made.step_folder("extract").markers)[0].requeues == []
    for job in LocalJobs(tmp_path, "demo").jobs.values():
        assert 0 <= job.ended - job.started < 60
    for step in usage.collect(tmp_path, "demo"):
        assert 0 <= step.time_used_s < 60 and step.waited_s >= 0


def test_a_runner_is_not_gone_because_its_claim_looks_old(tmp_path, running):
    """As with the clock of a file server that is an hour behind."""
    claim = tmp_path / "runs/demo/runner.owner.1"
    os.utime(claim, (time.time() - HOUR,) * 2)
    [found] = status.collect(tmp_path, ["demo"])
    assert [step.state for step in found.steps] == ["running", "waiting"]
    assert all("gone" not in note for note in found.notes)
    if found.notes:  # it has not written its claim again meanwhile
        assert f"if it was stopped (Ctrl-Z): kill -CONT {os.getpid()}" in found.notes[0]
    assert not Runner(tmp_path, "demo").run()


def test_a_runner_that_was_replaced_while_it_was_stopped_leaves_the_run_alone(
        tmp_path, running, monkeypatch):
    _, gate, _, ended = running
    monkeypatch.setattr(local_runner, "STOPPED_S", 0.0)  # as if it had just been continued
    claim = tmp_path / "runs/demo/runner.owner.2"
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": 1, "token": "x"}))
    assert ended() == [False]
    [job, behind] = LocalJobs(tmp_path, "demo").jobs.values()
    assert (job.state, behind.state) == ("RUNNING", "PENDING") and Path(f"/proc/{job.pid}").exists()
    assert json.loads(claim.read_text())["token"] == "x"
    os.utime(claim, (time.time() - DEAD_S - 60,) * 2)
    monkeypatch.undo()
    gate.unlink()
    assert Runner(tmp_path, "demo").run()
    [found] = status.collect(tmp_path, ["demo"])
    assert [step.state for step in found.steps] == ["done", "done"]
