"""Packed jobs on a real Slurm: several tasks in one element of an array."""

import json
import os
from dataclasses import replace

import pytest
from follow import profile, settled, states, until

from l3hpc.config.resources import Resources
from l3hpc.runs import status, submit, usage
from l3hpc.runs.resume import cancel, resume
from l3hpc.workspace import markers, records

pytestmark = pytest.mark.slow
TWO = Resources(1, 200, 0, 5, pack=2)


def run(chains, cluster, folder, *, tasks=4, request=TWO, names=("extract", "sample"), on=None,
        heal=None, **params):
    made = chains.plan(folder, names=names, tasks={"extract": tasks},
                       on=profile(chains, cluster, **on or {}), params={"extract": params},
                       resources={"extract": request}, heal=heal)
    return made, submit.submit(made)


def marks(made):
    return markers.read(made.step_folder("extract").markers)


def restarts(made, tasks):
    return {task: int(json.loads((made.steps[0].artifact / f"{task:04d}/result.json").read_text())
                      ["environment"]["restarts"]) for task in range(tasks)}


def test_a_failed_task_stops_none_and_is_resumed_alone(any_slurm, chains, tmp_path):
    made, record = run(chains, any_slurm, tmp_path, tasks=5, fail="scratch", fail_task=2)
    job = record.steps[0].job
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "failed", "sample": "blocked"}
    assert (found.steps[0].done, found.steps[0].failed_tasks) == (4, [2])
    assert found.steps[0].detail.startswith("first attempt fails")
    assert {task: mark.begin["job"] for task, mark in marks(made).items()} == {
        task: f"{job}_{task // 2}" for task in range(5)}
    if any_slurm.accounting:  # it learns of the ends a little later
        any_slurm.until(lambda: sorted(any_slurm.command(
            "sacct", "-nPX", "-j", job, "-o", "JobID,State").split()) == [
                f"{job}_0|COMPLETED", f"{job}_1|FAILED", f"{job}_2|COMPLETED"],
            "accounting does not learn how the jobs ended")
    any_slurm.until(lambda: not any_slurm.jobs(), "the failed job does not end")
    again = resume(tmp_path, "demo", made.profile)
    assert again.steps[0].attempts[1].tasks == [2]
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    extract = usage.collect(tmp_path, "demo")[0]
    assert (extract.tasks, extract.requeues, extract.time_min) == (5, 0, 5)
    if any_slurm.accounting:  # of the failed job, only what the failed task took
        spent = [json.loads((made.steps[0].artifact / f"{task:04d}/result.json").read_text())
                 ["elapsed_s"] for task in (2, 3)]
        assert extract.lost_s is not None and extract.lost_s < 120 and spent


def test_more_memory_is_for_the_job_and_what_failed_or_is_done_is_not_repeated(
        slurm_cluster, chains, tmp_path):
    made, record = run(chains, slurm_cluster, tmp_path, tasks=4, names=("extract",),
                       request=replace(TWO, pack=4), memory_mb=300, memory_task=2,
                       fail="error", fail_task=1)
    found = until(tmp_path, "demo", settled)
    assert (found.steps[0].state, found.steps[0].failed_tasks, found.steps[0].done) == (
        "failed", [1], 3)
    slurm_cluster.until(lambda: not slurm_cluster.jobs(), "the job does not end")
    seen = marks(made)
    assert {task: [entry["mem_mb"] for entry in seen[task].requeues] for task in range(4)} == {
        0: [], 1: [], 2: [400], 3: []}
    assert [restarts_of.begin["restarts"] for _, restarts_of in sorted(seen.items())] == [
        "0", "0", "1", "0"]
    log = made.step_folder("extract").log(f"{record.steps[0].job}_0_1").read_text()
    assert log.count("the fake was told to fail") == 1
    assert not list(made.step_folder("extract").markers.glob(".*"))


def test_the_warning_before_the_time_limit_sends_the_job_back(slurm_cluster, chains, tmp_path):
    """Two minutes for two tasks, and the warning after 30 seconds: the first has ended then, or
    not; what is left goes on with four minutes.
    """
    made, record = run(chains, slurm_cluster, tmp_path, tasks=2, names=("extract",),
                       request=Resources(1, 200, 0, 1, pack=2), seconds=25.0)
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "done"}
    times = sorted(entry["time_min"] for task in range(2) for entry in marks(made)[task].requeues
                   if entry.get("time_min"))
    assert times and times == [4 * 2**n for n in range(len(times))]
    assert sum(restarts(made, 2).values()) == sum(
        len(marks(made)[task].requeues) for task in range(2))


def test_status_and_cancel_speak_of_tasks(slurm_plain, chains, tmp_path, gate):
    made, record = run(chains, slurm_plain, tmp_path, tasks=4, gate=str(gate))
    job = record.steps[0].job
    found = until(tmp_path, "demo", lambda found: found.steps[0].progress)
    assert states(found) == {"extract": "running", "sample": "waiting"}
    assert (found.steps[0].done, found.steps[0].tasks) == (0, 4)
    assert sorted(each.split("|")[0] for each in slurm_plain.command(
        "squeue", "--array", "--noheader", "--format=%i|%j").split()) == [
        *sorted([f"{job}_0", f"{job}_1", record.steps[1].job])]
    assert cancel(tmp_path, "demo") == [record.steps[1].job, job]
    gate.unlink()
    slurm_plain.until(lambda: not slurm_plain.jobs(), "the jobs do not end")
    assert states(until(tmp_path, "demo", settled)) == {
        "extract": "cancelled", "sample": "cancelled"}
    assert marks(made)[0].terminated and 1 not in marks(made)
    resume(tmp_path, "demo", made.profile)
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}


def test_a_node_that_dies_costs_the_task_that_it_had(slurm_cluster, chains, tmp_path, gate):
    """The gate is closed from the beginning: on NFS, one that is closed later stays open for a
    minute where it was once looked for."""
    at = 1
    made, record = run(chains, slurm_cluster, tmp_path, tasks=3, names=("extract",),
                       request=replace(TWO, pack=3), gate=str(gate), gate_task=at)
    until(tmp_path, "demo", lambda found: found.steps[0].progress
          and found.steps[0].done == at)
    node = slurm_cluster.command("squeue", "-h", "-j", record.steps[0].job, "-t", "RUNNING",
                                 "-o", "%N").strip()
    slurm_cluster.kill_node(node)
    try:
        with slurm_cluster.configured(SlurmdTimeout="6"):
            slurm_cluster.until(lambda: "DOWN" in slurm_cluster.node_state(node),
                                "Slurm misses no node")
        until(tmp_path, "demo", lambda found: found.steps[0].restarts > 0)
        gate.unlink()
        assert states(until(tmp_path, "demo", settled)) == {"extract": "done"}
        seen = marks(made)
        assert {task: [entry["reason"] for entry in seen[task].requeues] for task in range(3)} == {
            **{task: [] for task in range(3)}, at: ["node failure"]}
        assert restarts(made, 3) == {**dict.fromkeys(range(3), 0), at: 1}
        assert (seen[0].begin["node"], seen[at].begin["node"] != node) == (node, True)
    finally:
        slurm_cluster.start_node(node)
        slurm_cluster.idle()


def test_a_job_whose_script_is_killed_leaves_done_what_was_done(
        slurm_cluster, chains, tmp_path, gate):
    made, record = run(chains, slurm_cluster, tmp_path, tasks=3, names=("extract",),
                       request=replace(TWO, pack=3), gate=str(gate), gate_task=1)
    found = until(tmp_path, "demo", lambda found: found.steps[0].done == 1
                  and found.steps[0].progress)
    slurm_cluster.command("scancel", "--signal=KILL", "--full", f"{record.steps[0].job}_0")
    found = until(tmp_path, "demo", settled)
    assert found.steps[0].state in ("failed", "cancelled") and found.steps[0].done == 1
    gate.unlink()
    before = (made.steps[0].artifact / "0000/result.json").read_text()
    again = resume(tmp_path, "demo", made.profile)
    assert again.steps[0].attempts[1].tasks == [1, 2]
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done"}
    assert (made.steps[0].artifact / "0000/result.json").read_text() == before


def test_a_killed_task_takes_nothing_from_the_others_on_the_disk_of_the_node(
        slurm_cluster, chains, tmp_path):
    """Two jobs of three tasks; the second task of the first one is killed while it writes."""
    disks = tmp_path / "disks"
    made, record = run(chains, slurm_cluster, tmp_path, tasks=6, names=("extract",),
                       request=replace(TWO, pack=3), fail="kill once", fail_task=1,
                       on={"scratch": f"{disks}/$SLURMD_NODENAME",
                           "setup": (f'mkdir -p {disks}/"$SLURMD_NODENAME"',)})
    found = until(tmp_path, "demo", settled)
    assert (found.steps[0].state, found.steps[0].done, found.steps[0].failed_tasks) == (
        "failed", 5, [1])
    assert found.steps[0].detail.startswith("killed by signal 9")
    assert chains.output(made, "extract") == {n: f"({n})" for n in (0, 2, 3, 4, 5)}
    job, step, seen = record.steps[0].job, made.step_folder("extract"), marks(made)
    for task in (0, 2, 3, 4, 5):  # srun may end before it has got what a killed task had written
        log = step.log(f"{job}_{task // 3}_{task}").read_text()
        assert f"working in {disks}/{seen[task].begin['node']}/l3hpc-" in log
    # what it left there, the next task of its job has removed; nothing of it came back
    assert not list(disks.glob("*/l3hpc-*/extract-*"))
    assert not list(made.steps[0].artifact.rglob("half.txt"))
    slurm_cluster.until(lambda: not slurm_cluster.jobs(), "the jobs do not end")
    before = {path: path.stat().st_mtime_ns for path in made.steps[0].artifact.glob("0*/*")}
    again = resume(tmp_path, "demo", made.profile)
    assert again.steps[0].attempts[1].tasks == [1]
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done"}
    assert chains.output(made, "extract") == {n: f"({n})" for n in range(6)}
    assert not list(made.steps[0].artifact.rglob("half.txt"))
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_in_a_container_and_on_the_disk_of_the_node_a_task_gets_more_memory(
        slurm_cluster, chains, tmp_path):
    """No command of Slurm is found inside; the script requeues the job from outside."""
    inside, empty, disks = tmp_path / "container", tmp_path / "empty", tmp_path / "disks"
    empty.mkdir()
    inside.write_text(f'#!/bin/sh\nPATH={empty} exec "$@"\n')
    inside.chmod(0o755)
    made, record = run(chains, slurm_cluster, tmp_path, tasks=2, names=("extract",),
                       memory_mb=300, memory_task=1, on={
                           "container": [str(inside)], "scratch": f"{disks}/$SLURMD_NODENAME",
                           "setup": (f'mkdir -p {disks}/"$SLURMD_NODENAME"',)})
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done"}
    assert chains.output(made, "extract") == {0: "(0)", 1: "(1)"}
    seen = marks(made)
    assert {task: [entry["mem_mb"] for entry in seen[task].requeues] for task in range(2)} == {
        0: [], 1: [400]}
    assert restarts(made, 2) == {0: 0, 1: 1}
    logs = [made.step_folder("extract").log(f"{record.steps[0].job}_0_{task}").read_text()
            for task in range(2)]
    assert [log.count(f"working in {disks}/") for log in logs] == [1, 2]
    assert not list(disks.glob("*/l3hpc-*/extract-*"))


def test_arrays_are_split_by_elements_and_the_next_step_waits_for_all(
        slurm_plain, chains, tmp_path):
    made, record = run(chains, slurm_plain, tmp_path, tasks=7, request=replace(TWO, pack=2),
                       on={"limits": {"array": 2}})
    assert [attempt.tasks for attempt in record.steps[0].attempts] == [[0, 1, 2, 3], [4, 5, 6]]
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    assert chains.output(made, "extract") == {n: f"({n})" for n in range(7)}
    [found] = status.collect(tmp_path, ["demo"])
    assert found.steps[0].done == 7
    assert records.read(tmp_path, "demo").steps[0].job and os.path.exists(
        made.step_folder("extract").script(1))
