"""Chains of small steps on a real Slurm, with accounting and without."""

import json
import os
import re
import subprocess
import sys

import pytest
from follow import profile, settled, states, until

from l3hpc.config.resources import Resources
from l3hpc.errors import ClusterError, InputError
from l3hpc.runs import status, submit, usage
from l3hpc.runs.resume import cancel, resume
from l3hpc.runs.resume_plan import plan_now
from l3hpc.workspace import records

WHOLE = "(0 (0 (0) (1) (2)) (0 (0 (0 (0) (1) (2)))))"


def test_a_chain_of_five_with_an_array_runs_to_its_end(any_slurm, chains, tmp_path, gate):
    made = chains.plan(tmp_path, on=profile(chains, any_slurm), tasks={"extract": 3},
                       params={"extract": {"gate": str(gate)}})
    record = submit.submit(made)
    assert [step.state for step in record.steps] == ["submitted"] * 5
    for step in made.steps:
        script = made.step_folder(step.name).script().read_text()
        job = records.step(record, step.name).job
        given = any_slurm.command("scontrol", "write", "batch_script", job, "-")
        assert given.rstrip("\n\0") == script.rstrip("\n")
    first = until(tmp_path, "demo", lambda found: found.steps[0].state == "running")
    assert states(first) == {"extract": "running", "sample": "waiting", "fit": "waiting",
                             "reduce": "waiting", "train": "waiting"}
    assert any(word in first.steps[0].detail
               for word in ("starting", "loading", "working", "3 tasks")), first.steps[0].detail
    gate.unlink()
    last = until(tmp_path, "demo", settled)
    assert states(last) == dict.fromkeys(states(last), "done")
    assert [step.done for step in last.steps] == [3, 1, 1, 1, 1]
    assert chains.output(made, "reduce")[0] == "(0 (0) (1) (2) (0 (0 (0) (1) (2))))"
    result = json.loads((made.steps[0].artifact / "0002" / "result.json").read_text())
    assert result["environment"]["job"] and result["files"]["out.txt"]["bytes"] == 3


def test_a_submission_again_skips_what_is_done(slurm_cluster, chains, tmp_path):
    on = profile(chains, slurm_cluster)
    names = ("extract", "sample")
    submit.submit(chains.plan(tmp_path, "first", names, on=on, tasks={"extract": 2}))
    until(tmp_path, "first", settled)
    again = chains.plan(tmp_path, "again", ("extract", "sample", "fit"), on=on,
                        tasks={"extract": 2})
    record = submit.submit(again)
    assert [step.state for step in record.steps] == ["reused", "reused", "submitted"]
    assert states(until(tmp_path, "again", settled)) == {
        "extract": "reused", "sample": "reused", "fit": "done"}


def test_only_the_missing_tasks_of_an_array_are_submitted(slurm_cluster, chains, tmp_path):
    on = profile(chains, slurm_cluster)
    broken = {"extract": {"fail": "scratch", "fail_task": 2}}
    made = chains.plan(tmp_path, "first", ("extract",), on=on, tasks={"extract": 4}, params=broken)
    submit.submit(made)
    found = until(tmp_path, "first", settled)
    assert (found.steps[0].state, found.steps[0].done) == ("failed", 3)
    assert found.steps[0].failed_tasks == [2]
    again = chains.plan(tmp_path, "again", ("extract",), on=on, tasks={"extract": 4},
                        params=broken)
    assert again.steps[0].missing == (2,)
    record = submit.submit(again)
    assert record.steps[0].submitted_tasks == [2]
    assert "#SBATCH --array=2\n" in again.step_folder("extract").script().read_text()
    assert states(until(tmp_path, "again", settled)) == {"extract": "done"}
    assert chains.output(again, "extract") == {n: f"({n})" for n in range(4)}


def test_what_is_behind_a_failed_step_is_blocked_by_it(any_slurm, chains, tmp_path):
    made = chains.plan(tmp_path, on=profile(chains, any_slurm),
                       params={"sample": {"fail": "error"}})
    submit.submit(made)
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "done", "sample": "failed", "fit": "blocked",
                             "reduce": "blocked", "train": "blocked"}
    assert [step.blocked_by for step in found.steps[2:]] == ["sample"] * 3
    assert found.steps[1].detail == "the fake was told to fail"
    assert found.steps[1].last_words == ["fake:1", "Do not ask it to."]
    assert (found.state, found.next, found.then) == (
        "failed", "l3hpc logs demo sample", "l3hpc resume demo")


def test_without_kill_on_invalid_dep_the_grandchildren_are_blocked_too(
        slurm_cluster, chains, tmp_path):
    made = chains.plan(tmp_path, on=profile(chains, slurm_cluster, kill_on_invalid_dep=False),
                       params={"sample": {"fail": "crash"}})
    submit.submit(made)
    found = until(tmp_path, "demo", lambda found: found.steps[1].state == "failed")
    assert "RuntimeError: an unforeseen crash" in found.steps[1].detail
    slurm_cluster.until(lambda: "DependencyNeverSatisfied" in slurm_cluster.command(
        "squeue", "-h", "-o", "%r"), "Slurm does not notice")
    [found] = status.collect(tmp_path, ["demo"])
    assert [step.state for step in found.steps[2:]] == ["blocked"] * 3
    assert [step.detail for step in found.steps[2:]] == ["by sample"] * 3
    assert len(slurm_cluster.jobs()) == 3
    assert len(cancel(tmp_path, "demo")) == 3
    slurm_cluster.until(lambda: not slurm_cluster.jobs(), "not cancelled")


def test_cancel_stops_the_whole_chain_and_no_other_run(any_slurm, chains, tmp_path):
    on = profile(chains, any_slurm)
    slow = {"extract": {"seconds": 600.0}}
    submit.submit(chains.plan(tmp_path, "mine", on=on, params=slow))
    submit.submit(chains.plan(tmp_path, "mine-2", ("extract", "sample"), on=on, params=slow,
                              salt="other"))
    until(tmp_path, "mine", lambda found: found.steps[0].state == "running")
    stopped = cancel(tmp_path, "mine")
    record = records.read(tmp_path, "mine")
    assert stopped == [step.job for step in record.steps[::-1]]
    any_slurm.until(lambda: set(any_slurm.jobs()) == {"l3-mine-2-extract", "l3-mine-2-sample"},
                    "not exactly the other run is left")
    found = until(tmp_path, "mine", settled)
    assert found.state == "cancelled"
    assert states(found) == dict.fromkeys(chains.CHAIN, "cancelled")
    assert cancel(tmp_path, "mine") == []


def test_a_refused_job_takes_the_earlier_ones_back(any_slurm, chains, tmp_path):
    on = profile(chains, any_slurm, steps={"reduce": {"partition": "nowhere"}})
    made = chains.plan(tmp_path, on=on, params={"extract": {"seconds": 600}})
    with pytest.raises(ClusterError) as caught:
        submit.submit(made)
    refused, cancelled, hint = str(caught.value).splitlines()
    assert refused == ("reduce: sbatch: invalid partition specified: nowhere; Batch job submission "
                       "failed: Invalid partition name specified")
    assert re.fullmatch(r"submitted, then cancelled: extract \d+, sample \d+, fit \d+", cancelled)
    assert hint == "Set partition: in the profile (cluster.yaml) to one that `sinfo` lists."
    assert caught.value.exit_code == 4
    any_slurm.until(lambda: not any_slurm.jobs(), "jobs of a refused run are left")
    record = records.read(tmp_path, "demo")
    assert record.state == "refused"
    assert [step.state for step in record.steps] == ["planned"] * 5
    [found] = status.collect(tmp_path, ["demo"])
    assert found.state == "refused" and "reduce" in found.notes[0]


def test_slurm_can_be_asked_first(slurm_cluster, chains, tmp_path):
    good = chains.plan(tmp_path, on=profile(chains, slurm_cluster), tasks={"extract": 3})
    submit.submit(good, test_only=True)
    assert not good.folder.path.exists() and not slurm_cluster.jobs()
    bad = chains.plan(tmp_path, on=profile(chains, slurm_cluster, partition="nowhere"))
    with pytest.raises(ClusterError, match="extract: .*invalid partition") as caught:
        submit.submit(bad, test_only=True)
    assert "partition: in the profile" in caught.value.hint


def test_what_would_wait_for_ever_is_refused(slurm_cluster, chains, tmp_path):
    """Slurm takes a job above the partition's MaxTime, which never starts."""
    on = profile(chains, slurm_cluster, gpu_type="h100")
    job = slurm_cluster.command("sbatch", "--parsable", "--time=2-00:00:00", "--output=/dev/null",
                                "--wrap", "true").strip()
    slurm_cluster.until(lambda: "PartitionTimeLimit" in slurm_cluster.command(
        "squeue", "-h", "-j", job, "-o", "%r"), "Slurm takes it after all")
    for wanted, message in (
            (Resources(1, 100, 0, 1441), "extract requests 1 d 1 min; partition cpu allows 1 d"),
            (Resources(5, 100, 0, 5),
             "extract requests 5 cores; the largest node of partition cpu has 4"),
            (Resources(1, 100, 1, 5), "extract requests a GPU of type h100; partition cpu has GPUs "
                                      "without a type")):
        made = chains.plan(tmp_path, names=("extract",), on=on, resources={"extract": wanted})
        for test_only in (True, False):
            with pytest.raises(InputError) as caught:
                submit.submit(made, test_only=test_only)
            assert caught.value.message == message
    assert not made.folder.path.exists() and slurm_cluster.jobs() == ["wrap"]


def test_submitting_inside_a_job_inherits_nothing(slurm_cluster, chains, tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "999999")
    made = chains.plan(tmp_path, names=("extract",), on=profile(chains, slurm_cluster))
    submit.submit(made)
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done"}


def test_a_killed_job_is_told_with_its_cause(slurm_cluster, chains, tmp_path):
    made = chains.plan(
        tmp_path, names=("extract", "sample"), on=profile(chains, slurm_cluster), params={
            "extract": {"memory_mb": 600}}, heal={"memory": 0},
        resources={"extract": Resources(cpus=1, mem_mb=200, time_min=5)})
    submit.submit(made)
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "failed", "sample": "blocked"}
    assert "out of memory" in found.steps[0].detail


@pytest.mark.parametrize("then", ["resume", "cancel"])
def test_a_submission_killed_between_sbatch_and_its_note(
        slurm_cluster, chains, tmp_path, gate, then):
    """Slurm has a job that no record names, and whose pickle never got its id."""
    slow = {"extract": {"gate": str(gate)}}
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(chains.FAKES)!r})
import chains
from l3hpc.runs import submit as runs_submit
from l3hpc.schedulers.slurm import sbatch
inner = sbatch.submit
def submit(one, *rest, **options):
    answer = inner(one, *rest, **options)
    if one.command[-1].endswith('sample/script.sbatch'):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
sbatch.submit = submit
profile = chains.profile(name='test', slots={{}}, **{slurm_cluster.profile!r})
runs_submit.submit(chains.plan({str(tmp_path)!r}, names=('extract', 'sample', 'fit'), on=profile,
                              params={slow!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, **slurm_cluster.env})
    assert done.returncode == -9, done.stderr
    assert len(slurm_cluster.jobs()) == 2
    [found] = status.collect(tmp_path, ["demo"])
    assert [step.state for step in found.steps[1:]] == ["cancelled", "cancelled"]
    assert "killed" in found.notes[0]
    if then == "cancel":
        assert len(cancel(tmp_path, "demo")) == 2
    else:
        on = profile(chains, slurm_cluster)
        first = records.read(tmp_path, "demo").steps[0].job
        assert resume(tmp_path, "demo", on).steps[0].job == first
        gate.unlink()
        found = until(tmp_path, "demo", settled)
        assert states(found) == dict.fromkeys(("extract", "sample", "fit"), "done")
    slurm_cluster.until(lambda: not slurm_cluster.jobs(), "a job was left behind")


def test_ctrl_c_while_submitting_leaves_no_job_behind(slurm_cluster, chains, tmp_path):
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell may start deaf to it
sys.path.insert(0, {str(chains.FAKES)!r})
import chains
from l3hpc.runs import submit as runs_submit
from l3hpc.schedulers.slurm import sbatch
inner = sbatch.submit
def submit(one, *rest, **options):
    answer = inner(one, *rest, **options)
    if 'sample' in open(one.command[-1]).read().splitlines()[1]:
        os.kill(os.getpid(), signal.SIGINT)
    return answer
sbatch.submit = submit
profile = chains.profile(name='test', slots={{}}, **{slurm_cluster.profile!r})
slow = {{'extract': {{'seconds': 600}}}}
runs_submit.submit(chains.plan({str(tmp_path)!r}, on=profile, params=slow))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, **slurm_cluster.env})
    assert "KeyboardInterrupt" in done.stderr
    slurm_cluster.until(lambda: not slurm_cluster.jobs(), "a job was left behind")
    record = records.read(tmp_path, "demo")
    assert record.state == "cancelled"
    [found] = status.collect(tmp_path, ["demo"])
    assert found.state == "cancelled"


def test_resume_submits_only_what_is_missing(any_slurm, chains, tmp_path):
    on = profile(chains, any_slurm)
    made = chains.plan(tmp_path, on=on, tasks={"extract": 3},
                       params={"extract": {"fail": "scratch", "fail_task": 1}})
    submit.submit(made)
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "failed", "sample": "blocked", "fit": "blocked",
                             "reduce": "blocked", "train": "blocked"}
    record = resume(tmp_path, "demo", on)
    assert records.step(record, "extract").submitted_tasks == [1]
    assert len(records.step(record, "extract").attempts) == 2
    assert plan_now(tmp_path, "demo", on).steps == []  # all of it is alive
    found = until(tmp_path, "demo", settled)
    assert states(found) == dict.fromkeys(chains.CHAIN, "done")
    assert chains.output(made, "extract") == {0: "(0)", 1: "(1)", 2: "(2)"}
    assert resume(tmp_path, "demo", on).steps[0].attempts == record.steps[0].attempts


def test_a_checkpoint_signal_sends_the_job_back_and_its_child_still_waits(
        slurm_cluster, chains, tmp_path, gate):
    made = chains.plan(tmp_path, names=("extract", "sample"), on=profile(chains, slurm_cluster),
                       params={"extract": {"gate": str(gate)}})
    record = submit.submit(made)
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    with slurm_cluster.draining():
        slurm_cluster.command("scancel", "--signal=USR2", "--batch", record.steps[0].job)
        found = until(tmp_path, "demo", lambda found: found.steps[0].state == "requeued")
    assert "requeued once (signal before its time limit)" in found.steps[0].detail
    assert found.steps[1].state == "waiting"
    gate.unlink()
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "done", "sample": "done"}
    result = json.loads((made.steps[0].artifact / "0000" / "result.json").read_text())
    assert result["environment"]["restarts"] == "1"
    assert result["environment"]["job"] == record.steps[0].job


def test_an_array_above_the_sites_limit_is_split_and_all_of_it_is_waited_for(
        slurm_cluster, chains, tmp_path):
    on = profile(chains, slurm_cluster, limits={"array": 3})
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on, tasks={"extract": 7},
                       params={"extract": {"fail": "scratch", "fail_task": 5}})
    record = submit.submit(made)
    attempts = record.steps[0].attempts
    assert [(each.offset, each.tasks) for each in attempts] == [
        (0, [0, 1, 2]), (3, [3, 4, 5]), (6, [6])]
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "failed", "sample": "blocked"}
    assert found.steps[0].failed_tasks == [5]
    assert found.steps[0].log.endswith(f"/{attempts[1].job}_2_0_log.err")
    record = resume(tmp_path, "demo", on)
    assert record.steps[0].attempts[3].tasks == [5] and record.steps[0].submitted_tasks == [5]
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    assert chains.output(made, "sample") == {0: "(0 (0) (1) (2) (3) (4) (5) (6))"}


def test_a_sweep_goes_as_an_array_and_each_step_stands_alone(any_slurm, chains, tmp_path):
    """One combination fails, one has too little memory; logs, states and attempts are its own."""
    on = profile(chains, any_slurm)
    made = chains.sweep(tmp_path, ("a", "b", "c"), on, resources={
        f"sample-{value}": Resources(1, 200, 0, 5) for value in "abc"}, params={
            "sample-b": {"text": "b", "fail": "scratch"},
            "sample-c": {"text": "c", "memory_mb": 300}})
    record = submit.submit(made)
    jobs = {step.name: step.job for step in record.steps}
    base = jobs["sample-a"].removesuffix("_0")
    assert [jobs[f"sample-{value}"] for value in "abc"] == [f"{base}_{n}" for n in range(3)]
    found = until(tmp_path, "demo", settled)
    assert states(found) == {
        "extract": "done", "sample-a": "done", "fit-a": "done", "sample-b": "failed",
        "fit-b": "blocked", "sample-c": "done", "fit-c": "done"}
    failed = next(step for step in found.steps if step.name == "sample-b")
    assert "first attempt fails" in failed.detail
    assert failed.log == str(made.step_folder("sample-b").logs / f"{base}_1_0_log.err")
    healed = next(step for step in made.steps if step.name == "sample-c").artifact
    environment = json.loads((healed / "0000/result.json").read_text())["environment"]
    assert environment["restarts"] == "1" and environment["array_job"] == base
    again = resume(tmp_path, "demo", on)
    assert records.step(again, "sample-c").job == f"{base}_2"  # not touched
    assert "_" not in records.step(again, "sample-b").job
    found = until(tmp_path, "demo", settled)
    assert set(states(found).values()) == {"done"}
    outputs = {step.name: (step.artifact / "0000/out.txt").read_text() for step in made.steps}
    assert [outputs[f"fit-{value}"] for value in "abc"] == ["(a (a (0)))", "(b (b (0)))",
                                                            "(c (c (0)))"]
    used = {step.name: step for step in usage.collect(tmp_path, "demo")}
    assert all(used[f"sample-{value}"].tasks == 1 for value in "abc")
    assert used["sample-c"].requeues == 1 and used["sample-a"].requeues == 0


def test_a_sweep_is_cancelled_whole(slurm_cluster, chains, tmp_path):
    slow = {f"sample-{value}": {"text": value, "seconds": 600} for value in "ab"}
    submit.submit(chains.sweep(tmp_path, ("a", "b"), profile(chains, slurm_cluster),
                               params=slow))
    until(tmp_path, "demo", lambda found: "running" in states(found).values())
    cancel(tmp_path, "demo")
    slurm_cluster.until(lambda: not slurm_cluster.jobs(), "a job was left behind")
    [found] = status.collect(tmp_path, ["demo"])
    assert found.state == "cancelled"
