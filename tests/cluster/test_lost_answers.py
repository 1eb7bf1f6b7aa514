"""sbatch behind a wrapper, or cut off in the middle: real jobs, and what is known of them."""

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from follow import profile, settled, states, until
from realslurm import LIMIT_S

from l3hpc.config.resources import Resources
from l3hpc.runs import submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers.slurm import sbatch
from l3hpc.workspace import records

NAMES = ("extract", "sample")


@pytest.fixture
def wrapped(slurm_plain, tmp_path, monkeypatch):
    """``wrapped(text)``: a program of that name in front of sbatch; $REAL is the real one."""

    before = os.environ["PATH"]

    def put(text, name="sbatch"):
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        real = shutil.which(name, path=before)
        (folder / name).write_text(f"#!/bin/bash\nREAL={real}\nHERE={folder}\n{text}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{before}")

    return put


def submitted(cluster, chains, tmp_path, **params):
    made = chains.plan(tmp_path, names=NAMES, on=profile(chains, cluster),
                       params={"extract": params})
    return submit.submit(made)


def jobs(cluster):
    """Also those that have ended, unless they left Slurm's memory, as those of earlier tests do."""
    return set(cluster.command("squeue", "-h", "-t", "all", "-o", "%A").split())


@pytest.mark.parametrize("text", [
    '"$REAL" "$@"; echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv'
    ' operation" >&2; exit 1',
    '"$REAL" "$@" > "$HERE/id"; exec sleep 300',
    '"$REAL" "${@:2}" | sed "s/$/ (cost: 7 units)/"; echo "Thank you."',
    'echo "*** maintenance on 12 May ***"; "$REAL" "$@"; echo "24"'],
    ids=["exit 1 after submitting", "silent", "no --parsable", "a banner around it"])
def test_a_chain_whose_answers_are_lost_is_submitted_once(
        slurm_plain, wrapped, chains, tmp_path, monkeypatch, text):
    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 1.0)
    before = jobs(slurm_plain)
    wrapped(text)
    record = submitted(slurm_plain, chains, tmp_path)
    assert len(jobs(slurm_plain) - before) == 2
    assert states(until(tmp_path, "demo", settled)) == dict.fromkeys(NAMES, "done")
    assert records.read(tmp_path, "demo").steps[1].job == record.steps[1].job


def test_a_controller_that_is_away_while_submitting(slurm_plain, wrapped, chains, tmp_path,
                                                    monkeypatch):
    """It stops after the first job, and comes back while the second is tried."""
    monkeypatch.setattr(sbatch, "RETRY_S", (1.0,) * 60)
    wrapped('if [ -e "$HERE/first" ]; then\n'
            '    touch "$HERE/second"\n'
            '    for _ in {1..3000}; do [ -e "$HERE/stopped" ] && break; sleep 0.1; done\n'
            '    touch "$HERE/tried"\n'
            'fi\n'
            'touch "$HERE/first"\nexec "$REAL" "$@"')
    site, before, gate = tmp_path / "site", jobs(slurm_plain), tmp_path / "gate"
    gate.touch()
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submitted, slurm_plain, chains, tmp_path, gate=str(gate))
        slurm_plain.until((site / "second").exists, "no second sbatch")
        # A controller that stops between starting a job and telling the node of it leaves the job
        # "running" until the node registers again, which may be many minutes later.
        until(tmp_path, "demo", lambda found: found.steps[0].progress)
        slurm_plain.stop_daemon("slurmctld")
        (site / "stopped").touch()
        slurm_plain.until((site / "tried").exists, "sbatch is not tried again")
        slurm_plain.start_controller()
        record = submitting.result(LIMIT_S)
    gate.unlink()
    assert record.state == "submitted" and len(jobs(slurm_plain) - before) == 2
    assert states(until(tmp_path, "demo", settled)) == dict.fromkeys(NAMES, "done")


def test_a_kill_while_two_are_submitted_at_a_time(slurm_plain, wrapped, chains, tmp_path):
    """Jobs run by then; ``resume`` finds those that are on no record, and submits theirs again."""
    wrapped('echo >> "$HERE/calls"\n'
            '"$REAL" "$@"; code=$?\n'
            '[ "$(wc -l < "$HERE/calls")" -ge 9 ] && kill -9 $PPID\n'
            'exit $code')
    before = jobs(slurm_plain)
    plan = chains.many(tmp_path, 10, 2, profile(chains, slurm_plain))
    plan = replace(plan, steps=tuple(replace(step, resources=Resources(1, 100, 0, 5))
                                     for step in plan.steps))
    if not (child := os.fork()):
        try:
            submit.submit(plan)
        finally:
            os._exit(9)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    noted = {step.name: step.job for step in records.read(tmp_path, "demo").steps if step.job}
    assert 7 <= len(noted) < 10
    wrapped('exec "$REAL" "$@"')
    resume(tmp_path, "demo", plan.profile)
    found = until(tmp_path, "demo", settled)
    assert set(states(found).values()) == {"done"}
    now = {step.name: step.job for step in records.read(tmp_path, "demo").steps}
    assert noted.items() <= now.items() and len(set(now.values())) == 20
    others = jobs(slurm_plain) - before - set(now.values())
    assert 1 <= len(others) <= 2
    ended = slurm_plain.command("squeue", "-h", "-t", "all", "-o", "%A %T").splitlines()
    assert {f"{job} CANCELLED" for job in others} <= set(ended)


def test_nothing_is_said_to_be_known_while_the_queue_is_silent(
        slurm_plain, wrapped, chains, tmp_path, monkeypatch):
    monkeypatch.setattr(sbatch, "GIVE_UP_S", 1.0)
    monkeypatch.setattr(sbatch, "RETRY_S", (0.2,) * 60)
    before = jobs(slurm_plain)
    wrapped('"$REAL" "$@" > /dev/null; echo "sbatch: error: Batch job submission failed: Socket '
            'timed out on send/recv operation" >&2; exit 1')
    wrapped("exit 1", "squeue")
    with pytest.raises(sbatch.OutcomeUnknownError) as caught:
        submitted(slurm_plain, chains, tmp_path, seconds=60.0)
    assert caught.value.allowed == "whether extract was submitted is not known"
    assert "l3hpc cancel demo" in caught.value.hint
    assert records.read(tmp_path, "demo").state == "submitting"
    wrapped('exec "$REAL" "$@"', "squeue")
    assert len(cancel(tmp_path, "demo")) == 1 and len(jobs(slurm_plain) - before) == 1
