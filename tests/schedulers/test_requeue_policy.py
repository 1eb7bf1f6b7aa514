"""The requeue policy: what happens to a task, from what happened to it and what was granted."""

import json
import signal

import pytest
from chains import plan, profile

from l3hpc.config.resources import Resources
from l3hpc.schedulers import requeue_policy
from l3hpc.schedulers.requeue_policy import (
    MEMORY,
    NODE,
    PREEMPTED,
    TIME,
    WARNED,
    WARNING_S,
    Decision,
    Policy,
    decide,
    granted_resources,
    granted_to_job,
)
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder

GB = 1024
POLICY = Policy(memory=2, time=1, nodes=2, mem_mb=20 * GB, time_min=60)


def entry(reason, **granted):
    return {"reason": reason, "time": 1.0, **granted}


TWICE = [entry(MEMORY, mem_mb=40 * GB), entry(MEMORY, mem_mb=80 * GB)]


@pytest.mark.parametrize(("change", "cause", "requeues", "expected"), [
    ({}, MEMORY, [], Decision(True, "out of memory: 20 GB → 40 GB", mem_mb=40 * GB)),
    ({}, MEMORY, TWICE[:1], Decision(True, "out of memory: 40 GB → 80 GB", mem_mb=80 * GB)),
    ({}, MEMORY, TWICE, Decision(
        False, "out of memory (80 GB) after 2 requeues (20 GB → 40 GB → 80 GB)")),
    # other causes do not count
    ({}, MEMORY, [entry(NODE), entry(TIME, time_min=120), entry(PREEMPTED)],
     Decision(True, "out of memory: 20 GB → 40 GB", mem_mb=40 * GB)),
    ({"memory": 0}, MEMORY, [], Decision(False, "out of memory (20 GB)")),
    ({"mem_mb": 101, "factor": 1.5}, MEMORY, [],
     Decision(True, "out of memory: 101 MB → 152 MB", mem_mb=152)),  # rounded up
    # the cap of the profile
    ({"mem_cap_mb": 30 * GB}, MEMORY, [],
     Decision(True, "out of memory: 20 GB → 30 GB", mem_mb=30 * GB)),
    ({"mem_cap_mb": 40 * GB}, MEMORY, TWICE[:1], Decision(
        False, "out of memory (40 GB) after 1 requeue (20 GB → 40 GB, the profile's cap)")),
    ({"mem_cap_mb": 10 * GB}, MEMORY, [], Decision(
        False, "out of memory (20 GB), the profile's cap")),
    ({"time_cap_min": 1, "mem_cap_mb": None}, MEMORY, [],
     Decision(True, "out of memory: 20 GB → 40 GB", mem_mb=40 * GB)),
    # all memory of the node
    ({"mem_mb": 0}, MEMORY, [], Decision(False, "out of memory (whole node)")),
    ({}, TIME, [], Decision(True, "time limit: 1 h → 2 h", time_min=120)),
    ({}, TIME, [entry(TIME, time_min=120)], Decision(
        False, "time limit (2 h) after 1 requeue (1 h → 2 h)")),
    # more time is not to be had: what is done stays done
    ({"time_cap_min": 60}, TIME, [], Decision(True, "time limit")),
    ({"time_cap_min": 90}, TIME, [],
     Decision(True, "time limit: 1 h → 1 h 30 min", time_min=90)),
    ({"mem_cap_mb": 1}, TIME, [], Decision(True, "time limit: 1 h → 2 h", time_min=120)),
    ({"continues": True}, TIME, [], Decision(True, "time limit")),
    ({"continues": True}, TIME, [entry(TIME)], Decision(
        False, "time limit (1 h) after 1 requeue")),
    # which is over before the warning has helped anybody
    ({"continues": True, "time_min": WARNING_S // 60}, TIME, [],
     Decision(True, "time limit: 2 min → 4 min", time_min=4)),
    ({"continues": True, "time_min": WARNING_S // 60 + 1}, TIME, [], Decision(True, "time limit")),
    ({}, PREEMPTED, [entry(PREEMPTED)] * 9, Decision(True, "preempted")),
    ({}, NODE, [entry(NODE)], Decision(True, "node failure", exclude="n7")),
    ({}, NODE, [entry(NODE)] * 2, Decision(False, "node failure after 2 requeues")),
    ({"nodes": 0}, NODE, [], Decision(False, "node failure")),
])
def test_what_happens_to_a_task(change, cause, requeues, expected):
    policy = Policy(**{**POLICY.__dict__, **change})
    assert decide(policy, cause, requeues, "n7") == expected


def test_a_node_without_a_name_is_not_avoided():
    assert decide(POLICY, NODE, []) == Decision(True, "node failure")


def test_other_tasks_of_a_packed_job_raise_the_request_and_use_up_nothing():
    others = [[entry(MEMORY, mem_mb=40 * GB)] * 5, [entry(TIME, time_min=240)]]
    assert decide(POLICY, MEMORY, [], others=others).mem_mb == 80 * GB
    assert decide(POLICY, TIME, [], others=others).time_min == 480
    assert decide(POLICY, TIME, [entry(TIME, time_min=120)], others=others).again is False


def test_what_was_granted_last_counts_for_a_task_and_the_most_for_a_job():
    own = [entry(MEMORY, mem_mb=80 * GB), entry(NODE), entry(MEMORY, mem_mb=40 * GB)]
    assert granted_resources(POLICY, own) == (40 * GB, 60)
    assert granted_resources(POLICY, [entry(TIME, time_min=90)]) == (20 * GB, 90)
    assert granted_to_job(POLICY, [own, [entry(TIME, time_min=90)]]) == (40 * GB, 90)
    assert granted_to_job(POLICY, []) == (20 * GB, 60)


def test_the_exit_code_of_a_process_that_the_warning_ended():
    assert WARNED == 128 + signal.SIGUSR2 == 140


def test_the_policy_of_a_planned_step(tmp_path):
    site = profile(name="greene", executor="slurm", slots={}, account="pr_1", partition="cpu",
                   limits={"mem": "64GB", "time": "2-00:00"}, constraint="ib")
    [step] = plan(tmp_path, names=("extract",), tasks={"extract": 8}, on=site,
                  heal={"memory": 7, "nodes": 1},
                  resources={"extract": Resources(2, 3000, 0, 10, pack=4)}).steps
    policy = requeue_policy.of(site, step)
    assert (policy.memory, policy.time, policy.nodes) == (7, 3, 1)
    assert (policy.mem_mb, policy.time_min) == (3000, 40)  # of a job of four tasks
    assert (policy.mem_cap_mb, policy.time_cap_min) == (64 * GB, 2880)
    assert policy.helper[:3] == ("--account=pr_1", "--partition=cpu", "--constraint=ib")
    assert policy.helper_memory == ("--mem=100M",)
    for request, words in [("none", ()), ("mem-per-cpu", ("--mem-per-cpu=100M",))]:
        other = site.model_copy(update={"memory_request": request})
        assert requeue_policy.of(other, step).helper_memory == words


def test_on_this_machine_its_memory_is_the_cap(tmp_path):
    here = profile(slots={"cpus": 2, "mem": "4GB"})
    [step] = plan(tmp_path, names=("extract",), on=here).steps
    assert requeue_policy.of(here, step).mem_cap_mb == 4 * GB
    less = profile(slots={"cpus": 2, "mem": "4GB"}, limits={"mem": "1GB"})
    assert requeue_policy.of(less, step).mem_cap_mb == GB


@pytest.fixture
def folder(tmp_path):
    made = StepFolder(tmp_path / "runs/demo/steps/extract")
    made.markers.mkdir(parents=True)
    return made


def test_what_is_written_is_read(folder):
    policy = Policy(memory=1, helper=("--account=a",), helper_memory=(), mem_cap_mb=None,
                    continues=True)
    folder.requeue_policy.write_text(json.dumps({**policy.to_json(), "of_a_later_version": 1}))
    assert requeue_policy.read(folder) == policy


@pytest.mark.parametrize("content", [None, "{", '{"memory": "many"}'])
def test_a_lost_policy_is_that_of_the_record_and_without_one_nothing_is_requeued(folder, content):
    if content is not None:
        folder.requeue_policy.write_text(content)
    assert requeue_policy.read(folder) == Policy(memory=0, time=0, nodes=0)
    step = {"name": "extract", "state": "submitted",
            "resources": {"mem_mb": 700, "time_min": 9, "pack": 3}}
    other = {"name": "fit", "state": "submitted", "resources": {"mem_mb": 1, "time_min": 1}}
    folder.run.record.write_text(json.dumps({"steps": [other, step]}))
    assert requeue_policy.read(folder) == Policy(mem_mb=700, time_min=27)
    del step["resources"]["pack"]
    folder.run.record.write_text(json.dumps({"steps": [other, step]}))
    assert requeue_policy.read(folder).time_min == 9
    step["state"] = "planned"
    folder.run.record.write_text(json.dumps({"steps": [other, step]}))
    assert requeue_policy.read(folder).memory == 0


def test_the_requeues_of_a_task_and_of_the_others_of_its_job(folder):
    for task in (1, 2, 2, 3, 9):
        markers.add_requeue(folder.markers, task, MEMORY, 1.0)
    own, others = requeue_policy.requeues_of(folder, 2, (1, 2, 3))
    assert len(own) == 2 and sorted(map(len, others)) == [1, 1]
    assert [len(part) for part in requeue_policy.requeues_of(folder, 2)] == [2, 0]
    assert requeue_policy.requeues_of(folder, 5) == ([], [])
