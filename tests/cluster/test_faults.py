"""What a real cluster does to a chain: nodes that die, queues that preempt, daemons that stop, ids
that are forgotten. Each test checks results, and the words of ``status``."""

import json
import time

import pytest
from follow import logs, profile, settled, states, until

from l3hpc.config.resources import Resources
from l3hpc.doctor import slurm as doctor_slurm
from l3hpc.doctor.environment import ask
from l3hpc.runs import status, submit, usage
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers.slurm import queue
from l3hpc.workspace import markers
from l3hpc.workspace.layout import Workspace

pytestmark = pytest.mark.slow

QUICK = """#!/bin/bash
# stands in for Python: leaves the result that the worker would
config="${@: -1}/../config.json"
artifact="$(sed -n 's/.*"artifact": "\\([^"]*\\)".*/\\1/p' "$config")"
mkdir -p "$artifact/.0.tmp"
printf '{"index": 0, "summary": {}, "started": %(%s)T, "finished": %(%s)T}' -1 -1 \
    > "$artifact/.0.tmp/result.json"
mv "$artifact/.0.tmp" "$artifact/0000"
"""


def reasons(folder, step="extract", task=0):
    marks = markers.read(Workspace(folder).run("demo").step(step).markers)
    return [entry["reason"] for entry in marks[task].requeues]


def running_on(cluster, job):
    return cluster.command("squeue", "-h", "-j", job, "-t", "RUNNING", "-o", "%N").strip()


def result(made, index=0):
    path = made.steps[0].artifact / f"{index:04d}" / "result.json"
    return json.loads(path.read_text())


def test_a_preempted_job_goes_on_and_status_says_why(slurm_cluster, chains, tmp_path, gate):
    low = profile(chains, slurm_cluster, partition="low")
    made = chains.plan(tmp_path, names=("extract", "sample"), on=low,
                       params={"extract": {"gate": str(gate)}},
                       resources={"extract": Resources(4, 200, 0, 5)})
    record = submit.submit(made)
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    blocker = slurm_cluster.command(  # every core of every node, in the better partition
        "sbatch", "--parsable", "--partition=cpu", "--nodes=3", "--exclusive", "--time=5",
        "--output=/dev/null", "--wrap", "sleep 600").strip()
    found = until(tmp_path, "demo", lambda found: found.steps[0].state == "requeued")
    assert found.steps[1].state == "waiting"
    slurm_cluster.command("scancel", blocker)
    slurm_cluster.until(lambda: blocker not in slurm_cluster.command("squeue", "-h", "-o", "%A"),
                        "the better job does not end")
    until(tmp_path, "demo", lambda found: found.steps[0].state == "running"
          and "requeued once (preempted)" in found.steps[0].detail)
    gate.unlink()
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    assert reasons(tmp_path) == ["preempted"]
    assert result(made)["environment"]["job"] == record.steps[0].job


def test_a_node_that_dies_costs_one_requeue(slurm_cluster, chains, tmp_path, gate):
    disks = tmp_path / "disks"
    on = profile(chains, slurm_cluster, scratch=f"{disks}/$SLURMD_NODENAME",
                 setup=(f'mkdir -p {disks}/"$SLURMD_NODENAME"',))
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on,
                       params={"extract": {"gate": str(gate)}})
    record = submit.submit(made)
    job = record.steps[0].job
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    node = running_on(slurm_cluster, job)
    slurm_cluster.kill_node(node)
    try:
        # Slurm is made to look now: with such a limit all the time, a machine that is too busy for
        # a while would lose its nodes.
        with slurm_cluster.configured(SlurmdTimeout="6"):
            slurm_cluster.until(lambda: "DOWN" in slurm_cluster.node_state(node),
                                "Slurm misses no node")
        found = until(tmp_path, "demo", lambda found: found.steps[0].restarts > 0)
        gate.unlink()
        assert states(until(tmp_path, "demo", settled)) == {
            "extract": "done", "sample": "done"}
        assert reasons(tmp_path) == ["node failure"]
        assert result(made)["environment"]["job"] == job
        begin = markers.read(Workspace(tmp_path).run("demo").step("extract").markers)[0].begin
        assert begin["node"] != node
        used = [name for name in (node, begin["node"])
                if f"working in {disks}/{name}/l3hpc-" in logs(tmp_path, "demo")]
        assert used == [node, begin["node"]]
        assert not list((disks / begin["node"]).glob("l3hpc-*/extract-*"))
        assert found.steps[1].state == "waiting"
    finally:
        slurm_cluster.start_node(node)
        slurm_cluster.idle()


def test_one_cancelled_task_of_an_array_is_all_that_is_missing(any_slurm, chains, tmp_path, gate):
    on = profile(chains, any_slurm)
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on, tasks={"extract": 3},
                       params={"extract": {"gate": str(gate)}})
    record = submit.submit(made)
    until(tmp_path, "demo", lambda found: found.steps[0].state == "running")
    any_slurm.command("scancel", f"{record.steps[0].job}_1")
    any_slurm.until(lambda: f"{record.steps[0].job}_1" not in any_slurm.command(
        "squeue", "-h", "-r", "-o", "%i").split(), "the cancelled task does not end")
    gate.unlink()
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "cancelled", "sample": "blocked"}
    assert found.steps[0].done == 2
    record = resume(tmp_path, "demo", on)
    assert record.steps[0].submitted_tasks == [1]
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    assert chains.output(made, "sample") == {0: "(0 (0) (1) (2))"}


def test_resume_right_after_cancel_waits_for_the_job_that_is_ending(
        any_slurm, chains, tmp_path, gate):
    on = profile(chains, any_slurm)
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on,
                       params={"extract": {"gate": str(gate)}})
    first = submit.submit(made)
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    cancel(tmp_path, "demo")
    second = resume(tmp_path, "demo", on)
    any_slurm.until(lambda: first.steps[0].job not in any_slurm.command(
        "squeue", "-h", "-o", "%A").split(), "the cancelled job does not end")
    gate.unlink()
    assert {step.job for step in first.steps}.isdisjoint(step.job for step in second.steps)
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    assert result(made)["environment"]["job"] == second.steps[0].job


def test_a_run_that_waits_for_another_goes_on_once_that_was_resumed(
        any_slurm, chains, tmp_path, gate):
    on = profile(chains, any_slurm)
    maker = chains.plan(tmp_path, "maker", names=("extract",), on=on,
                        params={"extract": {"gate": str(gate), "fail": "scratch"}})
    job = submit.submit(maker).steps[0].job
    user = chains.plan(tmp_path, "user", names=("embed",), on=on, waits_for=(job,))
    submit.submit(user)
    gate.unlink()
    assert states(until(tmp_path, "maker", settled)) == {"extract": "failed"}
    [embed] = until(tmp_path, "user", settled).steps
    assert (embed.state, embed.detail) == ("blocked", f"by job {job} of another run")
    resume(tmp_path, "maker", on)
    found = until(tmp_path, "maker", lambda found: found.steps[0].state != "failed")
    assert found.steps[0].state in ("queued", "running", "done")
    resume(tmp_path, "user", on)
    assert states(until(tmp_path, "user", settled)) == {"embed": "done"}
    assert states(until(tmp_path, "maker", settled)) == {"extract": "done"}
    assert result(maker)["finished"] <= result(user)["started"]


def test_a_restarted_controller_changes_nothing(any_slurm, chains, tmp_path, gate):
    made = chains.plan(tmp_path, names=("extract", "sample"), on=profile(chains, any_slurm),
                       params={"extract": {"gate": str(gate)}})
    submit.submit(made)
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    any_slurm.stop_daemon("slurmctld")
    try:
        [found] = status.collect(tmp_path, ["demo"])
    finally:
        any_slurm.start_controller()
    assert states(found)["extract"] == "running"
    assert "squeue does not respond" in found.steps[0].detail
    assert states(found)["sample"] in ("queued", "waiting")
    gate.unlink()
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}


def test_a_stopped_accounting_database_changes_nothing(slurm_cluster, chains, tmp_path):
    on = profile(chains, slurm_cluster)
    made = chains.plan(tmp_path, on=on, params={"sample": {"fail": "scratch"}})
    slurm_cluster.stop_daemon("slurmdbd")
    try:
        submit.submit(made)
        found = until(tmp_path, "demo", settled)
        assert states(found) == {"extract": "done", "sample": "failed", "fit": "blocked",
                                 "reduce": "blocked", "train": "blocked"}
        resume(tmp_path, "demo", on)
        found = until(tmp_path, "demo", settled)
        assert states(found) == dict.fromkeys(chains.CHAIN, "done")
    finally:
        slurm_cluster.start_slurmdbd()


def test_jobs_that_slurm_forgot_are_known_from_our_records(short_memory, chains, tmp_path):
    """No accounting, and finished jobs leave Slurm's memory after two seconds: an old id would
    count as fulfilled, though that job failed."""
    on = profile(chains, short_memory)
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on,
                       params={"sample": {"fail": "scratch"}})
    first = submit.submit(made)
    until(tmp_path, "demo", settled)
    short_memory.until(lambda: _forgotten(short_memory, first), "Slurm does not forget")
    [found] = status.collect(tmp_path, ["demo"])
    assert states(found) == {"extract": "done", "sample": "failed", "fit": "blocked"}
    assert found.steps[1].last_words == [] and "first attempt fails" in found.steps[1].detail
    record = resume(tmp_path, "demo", on)
    assert record.steps[0].attempts == first.steps[0].attempts
    found = until(tmp_path, "demo", settled)
    assert states(found) == dict.fromkeys(("extract", "sample", "fit"), "done")
    scripts = short_memory.command("sacct", check=False)  # nothing to ask: our records sufficed
    assert first.steps[1].job not in scripts


def test_accounting_says_why_jobs_failed_that_slurm_forgot(
        short_memory_accounting, chains, tmp_path, gate):
    """Killed together with their scripts: no marker says how they ended."""
    cluster = short_memory_accounting
    made = chains.plan(tmp_path, names=("extract", "embed"), on=profile(chains, cluster),
                       tasks={"extract": 3}, params={"extract": {"gate": str(gate)},
                                                     "embed": {"seconds": 600}})
    record = submit.submit(made)
    until(tmp_path, "demo", lambda found: all(step.progress for step in found.steps)
          and (made.step_folder("extract").markers / "1.begin").exists())
    cluster.kill_processes("SLURM_ARRAY_TASK_ID=1")
    cluster.kill_processes(f"SLURM_JOB_ID={record.steps[1].job}")
    gate.unlink()
    cluster.until(lambda: _forgotten(cluster, record), "Slurm does not forget")
    killed = "killed by signal 9; no evidence that memory was the cause"
    found = until(tmp_path, "demo",  # the controller tells slurmdbd when it has time
                  lambda found: states(found) == {"extract": "failed", "embed": "failed"}
                  and all(step.detail.startswith(killed) for step in found.steps))
    assert found.notes == []
    assert found.steps[0].detail == f"{killed}, 1 of 3 tasks failed (task 1)"
    assert found.steps[1].detail == killed
    used = {step.name: step for step in usage.collect(tmp_path, "demo")}
    assert used["extract"].lost_s is not None
    assert doctor_slurm.accounting_line(ask).severity == "green"
    sparse = [*range(0, 80, 2), *range(81, 85)]  # longer than what sacct writes by itself
    job = cluster.command("sbatch", "--parsable", "--hold", "--wrap", "true", "--output=/dev/null",
                          f"--array={','.join(map(str, sparse))}").strip()
    until_sacct_lists(cluster, job, {f"{job}_{index}" for index in sparse})


def until_sacct_lists(cluster, job, tasks):
    def listed():
        answer = queue.Answer()
        queue.query_sacct([job], answer)
        return {*answer.ended} == tasks

    cluster.until(listed, "sacct does not list every task")


def _forgotten(cluster, record):
    answer = queue.Answer()
    queue.query_squeue([record.user], answer)
    known = {job.partition("_")[0] for job in (*answer.live, *answer.ended)}
    return not {step.job for step in record.steps} & known


def test_a_job_that_vanished_without_a_word_is_lost(short_memory, chains, tmp_path):
    made = chains.plan(tmp_path, names=("extract",), on=profile(chains, short_memory),
                       params={"extract": {"seconds": 600}})
    record = submit.submit(made)
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    short_memory.kill_processes(f"SLURM_JOB_ID={record.steps[0].job}")
    short_memory.until(lambda: _forgotten(short_memory, record), "Slurm does not forget")
    [found] = status.collect(tmp_path, ["demo"])
    assert states(found) == {"extract": "lost"}
    assert "started and ended without output" in found.steps[0].detail
    assert found.next == "l3hpc resume demo"


def test_runs_of_two_workspaces_do_not_meet(slurm_cluster, chains, tmp_path, gate):
    """The same run name and the same job names in both."""
    on = profile(chains, slurm_cluster)
    folders = [tmp_path / "one", tmp_path / "two"]
    made = [chains.plan(folder, names=("extract", "sample"), on=on,
                        params={"extract": {"gate": str(gate)}}) for folder in folders]
    for plan in made:
        submit.submit(plan)
    cancel(folders[0], "demo")
    slurm_cluster.until(lambda: len(slurm_cluster.jobs()) == 2, "not exactly one is left")
    gate.unlink()
    assert states(until(folders[1], "demo", settled)) == {"extract": "done", "sample": "done"}
    found = until(folders[0], "demo", settled)
    assert found.state == "cancelled" and chains.output(made[0], "sample") == {}
    assert chains.output(made[1], "sample") == {0: "(0 (0))"}


def test_two_hundred_chained_jobs_are_submitted_and_followed(slurm_cluster, chains, tmp_path):
    """Twenty chains of ten. Each job is real, its command a line of shell."""
    quick = tmp_path / "quick"
    quick.write_text(QUICK)
    quick.chmod(0o755)
    on = profile(chains, slurm_cluster, srun=False, python=str(quick))
    made = chains.many(tmp_path, 20, 10, on)
    started = time.monotonic()
    record = submit.submit(made)
    assert len({step.job for step in record.steps}) == 200
    print(f"submitted in {time.monotonic() - started:.1f} s")
    found = until(tmp_path, "demo", settled)
    assert found.state == "done", logs(tmp_path, "demo")
    assert all(step.state == "done" for step in found.steps) and len(found.steps) == 200


@pytest.fixture
def short_memory(slurm_plain):
    """A cluster without accounting that forgets finished jobs after two seconds."""
    with slurm_plain.configured(MinJobAge="2"):
        yield slurm_plain
        slurm_plain.drain()


@pytest.fixture
def short_memory_accounting(slurm_cluster):
    """The same with accounting."""
    with slurm_cluster.configured(MinJobAge="2"):
        yield slurm_cluster
        slurm_cluster.drain()
