"""Packed jobs: which element runs which tasks, what the scripts say, and what records keep."""

import json
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.config.profile import ClusterProfile, Limits
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.pipelines import preview
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import packing, requeue_policy, scripts
from l3hpc.worker import job_entry, requeue
from l3hpc.worker.execute import TaskCall
from l3hpc.worker.packed import PackedCall
from l3hpc.workspace import attempts, markers
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.run_record import Attempt, StepRecord

FAR = ClusterProfile(name="greene", python="/usr/bin/python3", array_parallelism=5)
LOCAL = ClusterProfile(name="local", python="/usr/bin/python3", slots={"cpus": 4, "mem": "64GB"})


def packed(tasks=20, pack=8, done=()):
    return PlannedStep(
        name="extract", kind="extract", params={}, needs=(), inputs={}, fingerprint="0" * 16,
        artifact=Path("/ws/artifacts/extract/0000000000000000"), shards=[{}] * tasks,
        done=tuple(done), resources=Resources(4, 32768, 0, 60, pack))


def plan(step, profile):
    return Plan("demo", "upstream", Path("/ws"), profile, (step,))


def as_submitted(part, text):
    return Attempt("7", "\n#SBATCH --array" in text, [*part.tasks], 1.0, offset=part.offset,
                   pack=part.pack)


@given(tasks=st.integers(2, 60), pack=st.integers(1, 70), limit=st.none() | st.integers(1, 9),
       done=st.sets(st.integers(0, 59), max_size=50))
def test_every_missing_task_is_in_exactly_one_element(tasks, pack, limit, done):
    done = {index for index in done if index < tasks}
    if len(done) == tasks:
        done.discard(0)
    step = packed(tasks, pack, sorted(done))
    made = plan(step, profile=FAR.model_copy(update={"limits": Limits(array=limit)}))
    missing = [index for index in range(tasks) if index not in done]
    together = []
    for part in scripts.parts(made, step):
        assert limit is None or len(part.elements) <= limit
        assert max(part.elements) < (limit or tasks)
        # the record finds the tasks where the script has them
        attempt = as_submitted(part, "\n#SBATCH --array")
        assert attempt.task_ids == {task: f"7_{index}" for index, mine in part.elements.items()
                                    for task in mine}
        assert attempt.elements == [*part.elements.values()]
        assert Attempt.from_json(attempt.to_json(), "attempt") == attempt
        together += part.elements.values()
    assert sorted(index for mine in together for index in mine) == missing
    size = min(pack, len(missing))
    assert all(len(mine) <= size for mine in together)
    if limit is None:
        assert len(together) == -(-len(missing) // size) == step.jobs


def test_the_elements_of_a_new_run_are_runs_of_n():
    [part] = scripts.parts(plan(packed(), profile=FAR), packed())
    assert part.elements == {0: (0, 1, 2, 3, 4, 5, 6, 7), 1: (8, 9, 10, 11, 12, 13, 14, 15),
                             2: (16, 17, 18, 19)}
    assert [each.elements for each in part.split({2, 9})] == [
        {0: (0, 1, 3, 4, 5, 6, 7, 8), 1: (10, 11, 12, 13, 14, 15, 16, 17), 2: (18, 19)},
        {0: (2, 9)}]


def test_the_limit_of_a_job_is_that_of_its_tasks_together():
    step = packed()
    lines = scripts.directives(plan(step, profile=FAR), step)
    assert "#SBATCH --time=0-08:00:00" in lines and "#SBATCH --array=0-2%5" in lines
    assert "#SBATCH --mem=32768M" in lines and "#SBATCH --cpus-per-task=4" in lines
    few = packed(3)  # no room for more tasks than there are
    assert "#SBATCH --time=0-03:00:00" in scripts.directives(plan(few, profile=FAR), few)
    rest = packed(20, done=range(18))
    assert "#SBATCH --time=0-02:00:00" in scripts.directives(plan(rest, profile=FAR), rest)
    policy = requeue_policy.of(FAR, step)
    assert (policy.mem_mb, policy.time_min) == (32768, 480)


def test_the_script_knows_its_tasks_and_one_without_pack_does_not_speak_of_it():
    step = packed(20, done=(1, 2, 9))
    text = scripts.render(plan(step, profile=FAR), step)
    assert "    all=(0 {3..8} {10..19})\n" in text and ':element * 8:8}")' in text
    assert text.count(' --task "$task" &\n') == 1
    for profile in (FAR, LOCAL):
        alone = scripts.render(plan(packed(pack=1), profile=profile), packed(pack=1))
        assert not any(word in alone for word in ("pack", "L3HPC_WARNED", "--task"))


def test_what_a_plan_costs_and_shows():
    made = plan(packed(), profile=FAR)
    assert preview.maximum_cost(made).core_hours == 3 * 8 * 4
    row = preview._row(packed())
    assert (row[1], row[-2:]) == ("20", ("8 × 1 h", "to run in 3 jobs"))
    assert preview._row(packed(20, done=range(19)))[-2:] == (
        "1 h", "to run (19 of 20 tasks done before)")
    assert preview._row(packed(1))[-2:] == ("1 h", "to run")
    assert preview._row(packed(20, done=range(12)))[-1] == (
        "to run in 1 job (12 of 20 tasks done before)")


def test_a_site_that_allows_less_is_told_what_fits():
    short = FAR.model_copy(update={"limits": Limits(time="5h")})
    with pytest.raises(InputError, match="extract requests 8 × 1 h; greene allows 5 h") as found:
        short.granted("extract", "extract", Resources(time_min=60, pack=8))
    assert found.value.hint.startswith("--set extract.pack=5, or raise limits.time")
    with pytest.raises(InputError) as found:
        short.granted("extract", "extract", Resources(time_min=600, pack=8))
    assert found.value.hint.startswith("--set extract.time=300m")
    fits = Resources(time_min=60, pack=5)
    assert short.granted("extract", "extract", fits) == fits


def test_records_of_earlier_versions_are_one_to_one():
    old = {"job": "20", "array": True, "tasks": [5, 7], "time": 1.0, "offset": 4}
    attempt = Attempt.from_json(old, "attempt")
    assert attempt.task_ids == attempt.log_names == {5: "20_1", 7: "20_3"}
    assert attempt.elements == [(5,), (7,)] and attempt.to_json() == {**old}
    entry = StepRecord("extract", "extract", "a", 8, [], attempts=[attempt])
    assert attempts.packed(entry) == {}
    assert attempts.log_names(entry) == attempts.latest(entry)
    assert Resources(1, 2, 3, 4).to_json() == {"cpus": 1, "mem_mb": 2, "gpus": 3, "time_min": 4}


def test_the_latest_submission_of_a_task_says_whom_it_shares_its_job_with():
    entry = StepRecord("extract", "extract", "a", 5, [], attempts=[
        Attempt("1", True, [0, 1, 2, 3, 4], 1.0, pack=2), Attempt("2", True, [1, 4], 2.0),
        Attempt("3", True, [4, 0, 2], 3.0, pack=2)])
    assert attempts.packed(entry) == {3: (2, 3), 4: (4, 0), 0: (4, 0), 2: (2,)}
    assert attempts.log_names(entry) == {0: "3_0_0", 1: "2_1", 2: "3_1_2", 3: "1_1_3", 4: "3_0_4"}


def test_a_dependency_names_a_job_once():
    entry = StepRecord("extract", "extract", "a", 6, [], attempts=[
        Attempt("1", True, [*range(6)], 1.0, pack=3)])
    live = {index: f"1_{index // 3}" for index in range(6)}
    assert attempts.live_ids(entry, {0}, live) == ["1"]
    gone = {index: job for index, job in live.items() if index != 5}  # it failed
    assert attempts.live_ids(entry, {0}, gone) == ["1_0", "1_1"]


@pytest.mark.parametrize(("text", "found"), [
    ("100.5 0 1 2", packing.PackedJob(100.5, (0, 1, 2))), ("", None), ("x 1", None),
    ("7 a", None)])
def test_what_a_process_learns_of_its_job(text, found):
    assert packing.of_this_process({packing.VARIABLE: text}) == found
    assert packing.of_this_process({}) is None


def test_other_jobs_that_it_submits_do_not_inherit_it(monkeypatch):
    monkeypatch.setattr(packing, "_kept", {})
    monkeypatch.setenv(packing.VARIABLE, "7 0 1")
    packing.keep()
    assert packing.VARIABLE not in os.environ
    assert packing.of_this_process() == packing.PackedJob(7.0, (0, 1))
    packing.keep()
    assert packing.of_this_process() is None


def test_one_pickle_for_all_tasks_of_a_job(tmp_path):
    from submitit.core.utils import DelayedSubmission

    path = tmp_path / "7_0_submitted.pkl"
    path.write_bytes(pickle.dumps(DelayedSubmission(PackedCall("config.json", [3, 4]))))
    call = job_entry.load(path, 4).function
    assert type(call) is TaskCall and (call.config_path, call.index) == ("config.json", 4)
    with pytest.raises(InputError, match="no task 5") as error:
        job_entry.load(path, 5)
    assert error.value.allowed == "tasks: 3, 4"


@pytest.fixture
def folder(tmp_path):
    step = StepFolder(tmp_path / "runs/demo/steps/extract")
    step.markers.mkdir(parents=True)
    step.requeue_policy.write_text('{"mem_mb": 200, "time_min": 20, "memory": 3, "time": 3}')
    return step


def test_what_one_task_was_granted_the_whole_job_has(folder, monkeypatch):
    markers.add_requeue(folder.markers, 0, "time limit", 1.0, time_min=40, mem_mb=400)
    markers.path(folder.markers, 1, "begin").write_text('{"job": "7_0", "time": 50.0}')
    alone = requeue.decide(folder.path, 1, requeue_policy.TIME)
    assert alone.time_min == 40
    markers.path(folder.markers, 1, "requeues.json").unlink()
    monkeypatch.setenv(packing.VARIABLE, "10 0 1 2")
    assert requeue.decide(folder.path, 1, requeue_policy.TIME).time_min == 80
    markers.path(folder.markers, 1, "requeues.json").unlink()
    assert requeue.decide(folder.path, 1, requeue_policy.MEMORY).mem_mb == 800


def test_the_clock_of_the_job_decides_whether_its_time_is_over(folder, monkeypatch):
    now = time.time()
    markers.path(folder.markers, 1, "begin").write_text(f'{{"job": "7_0", "time": {now - 60}}}')
    assert not requeue.near_time_limit(folder.path, 1)
    monkeypatch.setenv(packing.VARIABLE, f"{now - 19 * 60} 0 1 2")
    assert requeue.near_time_limit(folder.path, 1)
    markers.add_requeue(folder.markers, 2, "time limit", 1.0, time_min=40)
    assert not requeue.near_time_limit(folder.path, 1)


def test_a_policy_made_from_the_record_has_the_time_of_the_job(tmp_path):
    step = StepFolder(tmp_path / "runs/demo/steps/extract")
    step.path.mkdir(parents=True)
    for more, minutes in (({}, 5), ({"pack": 4}, 20)):
        step.run.record.write_text(json.dumps({"steps": [
            {"name": "extract", "state": "submitted",
             "resources": {"mem_mb": 100, "time_min": 5, **more}}]}))
        assert requeue_policy.read(step).time_min == minutes


def test_the_doctor_and_partitions_count_all_tasks_of_a_job():
    from l3hpc.schedulers.slurm.partitions import Partition, excesses

    found = Partition("cpu", True, time_min=120, mem_mb=64000, cpus=8)
    [over] = excesses(found, "extract", "extract", FAR, Resources(1, 100, 0, 60, 3))
    assert (over.requested, over.available) == ("requests 3 × 1 h", "partition cpu allows 2 h")
    assert over.hint.startswith("--set extract.pack=2, or name")
    assert excesses(found, "extract", "extract", FAR, Resources(1, 100, 0, 60, 2)) == []


def test_more_than_there_are_is_as_many_as_there_are():
    assert Resources(pack=8).packed(3) == Resources(pack=3)
    assert Resources(pack=8).packed(8) == Resources(pack=8)
    assert Resources(pack=8).packed(0) == Resources(pack=1)
    assert replace(packed(5), done=(0, 1)).of_a_job.pack == 3
