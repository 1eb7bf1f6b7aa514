"""Limits that heal themselves, on a real Slurm: more memory, more time, off a failed node."""

import json
import os
import time

import pytest
from follow import profile, settled, states, until

from l3hpc.config.resources import Resources
from l3hpc.runs import submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.runs.resume_plan import plan_now
from l3hpc.workspace import markers
from l3hpc.workspace.layout import Workspace

pytestmark = pytest.mark.slow


def run(chains, cluster, folder, *, request=None, **step):
    names = ("extract", "sample")
    made = chains.plan(folder, names=names, on=profile(chains, cluster, **step.pop("on", {})),
                       resources={"extract": request or Resources(1, 200, 0, 5)}, **step)
    return made, submit.submit(made)


def requeues(folder, task=0):
    marks = markers.read(Workspace(folder).run("demo").step("extract").markers)
    return marks[task].requeues


def test_out_of_memory_asks_for_more_under_the_same_id(any_slurm, chains, tmp_path):
    made, record = run(chains, any_slurm, tmp_path, params={"extract": {"memory_mb": 500}})
    until(tmp_path, "demo", lambda found: found.steps[0].state in ("running", "requeued"))
    with any_slurm.draining():  # nor does the small job that changes the request
        found = until(tmp_path, "demo", lambda found: found.steps[0].state == "requeued")
    assert found.steps[1].state == "waiting"
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "done", "sample": "done"}
    assert [entry["mem_mb"] for entry in requeues(tmp_path)] == [400, 800]
    result = json.loads((made.steps[0].artifact / "0000" / "result.json").read_text())
    assert result["environment"]["job"] == record.steps[0].job
    assert result["environment"]["restarts"] == "2"


def test_the_cap_ends_it_and_status_says_how_it_went(any_slurm, chains, tmp_path):
    run(chains, any_slurm, tmp_path, params={"extract": {"memory_mb": 800}},
        on={"limits": {"mem": "300MB"}})
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "failed", "sample": "blocked"}
    assert found.steps[0].detail.startswith(
        "out of memory (300 MB) after 1 requeue (200 MB → 300 MB, the profile's cap)")


def test_one_task_of_an_array_heals_alone(slurm_cluster, chains, tmp_path):
    made, record = run(chains, slurm_cluster, tmp_path, tasks={"extract": 3},
                       params={"extract": {"memory_mb": 300, "memory_task": 1}})
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "done", "sample": "done"}
    assert [entry["mem_mb"] for entry in requeues(tmp_path, 1)] == [400]
    restarts = {index: json.loads((made.steps[0].artifact / f"{index:04d}" / "result.json")
                                  .read_text())["environment"]["restarts"] for index in range(3)}
    assert restarts == {0: "0", 1: "1", 2: "0"}


def test_the_time_limit_sends_a_task_back(slurm_cluster, chains, tmp_path):
    """The warning comes 90 s before a limit of two minutes, when the script has long begun: before
    one minute it would come at once, and on a busy machine end the setup."""
    made, record = run(chains, slurm_cluster, tmp_path, params={"extract": {"seconds": 600}},
                       request=Resources(1, 200, 0, 2))
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    with slurm_cluster.draining():
        found = until(tmp_path, "demo", lambda found: found.steps[0].state == "requeued")
    assert "time limit" in found.steps[0].detail


def test_where_jobs_may_not_submit_it_is_held_until_someone_resumes(
        slurm_cluster, chains, tmp_path):
    on = profile(chains, slurm_cluster)
    made, record = run(chains, slurm_cluster, tmp_path, params={"extract": {"memory_mb": 300}})
    rules = tmp_path / "runs/demo/steps/extract/heal.json"
    value = json.loads(rules.read_text())
    rules.write_text(json.dumps({**value, "helper": [*value["helper"], "--partition=nowhere"]}))
    found = until(tmp_path, "demo", lambda found: "held" in found.steps[0].detail)
    assert (found.steps[0].state, found.steps[1].state) == ("requeued", "waiting")
    assert found.steps[0].detail.startswith("held until 'resume' changes its request")
    [job] = plan_now(tmp_path, "demo", on).held
    assert plan_now(tmp_path, "demo", on).held == {job: ["MinMemoryNode=400"]}
    again = resume(tmp_path, "demo", on)
    assert again.steps[0].attempts == record.steps[0].attempts  # nothing was submitted
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    assert json.loads((made.steps[0].artifact / "0000/result.json").read_text())[
        "environment"]["job"] == job.id


def test_a_cancelled_step_that_does_not_end_at_term_does_not_come_back(any_slurm, chains, tmp_path):
    """Slurm kills it then, which is no want of memory."""
    run(chains, any_slurm, tmp_path, params={"extract": {"seconds": 600}})
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    cancel(tmp_path, "demo")
    any_slurm.until(lambda: not any_slurm.jobs(), "the job does not end")
    time.sleep(1)
    found = until(tmp_path, "demo", settled)
    assert states(found) == {"extract": "cancelled", "sample": "cancelled"}
    assert requeues(tmp_path) == [] and not any_slurm.jobs()


@pytest.mark.parametrize("how", ["scancel --signal=KILL JOB", "scancel JOB.0", "kill"])
def test_a_kill_alone_is_not_out_of_memory(slurm_plain, chains, tmp_path, how):
    made, record = run(chains, slurm_plain, tmp_path, params={"extract": {"seconds": 600}})
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    job = record.steps[0].job
    if how == "kill":
        slurm_plain.kill_processes("L3HPC_REQUEUES=1")  # all that the script started for the step
    else:
        slurm_plain.command(*how.replace("JOB", job).split())
    found = until(tmp_path, "demo", settled)
    assert requeues(tmp_path) == [] and found.steps[0].state in ("failed", "cancelled")
    if how == "kill":
        assert found.steps[0].detail == "killed by signal 9; no evidence that memory was the cause"
        assert found.steps[0].last_words[-1] == (
            "if it needs more memory: l3hpc resume demo --set extract.mem=400MB")


def test_a_site_that_exports_nothing_does_not_empty_the_step(
        slurm_plain, chains, tmp_path, monkeypatch):
    """As with an sbatch that a site has wrapped."""
    on = profile(chains, slurm_plain)
    on = on.model_copy(update={"env": {**on.env, "WANTED": "it's here"}})
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    real = slurm_plain.command("which", "sbatch").strip()
    wrapper.write_text(f'#!/bin/sh\nexec {real} --export=NONE "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on, tasks={"extract": 2},
                       params={"extract": {"show": "WANTED"}, "sample": {"show": "WANTED"}})
    submit.submit(made)
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    assert chains.output(made, "extract") == {0: "(it's here)", 1: "(it's here)"}
    assert chains.output(made, "sample")[0].startswith("(it's here ")


def test_a_container_without_slurm_heals_as_any_other(slurm_cluster, chains, tmp_path):
    """Memory and the time limit; in the container no command of Slurm is found."""
    inside, empty = tmp_path / "container", tmp_path / "empty"
    empty.mkdir()
    inside.write_text(f'#!/bin/sh\nPATH={empty} exec "$@"\n')
    inside.chmod(0o755)
    on = profile(chains, slurm_cluster, container=[str(inside)])
    made = chains.plan(tmp_path, names=("extract", "embed"), on=on,
                       params={"extract": {"memory_mb": 300}, "embed": {"seconds": 600}},
                       resources={"extract": Resources(1, 200, 0, 5),
                                  "embed": Resources(1, 200, 0, 2)})
    submit.submit(made)
    found = until(tmp_path, "demo", lambda found: found.steps[0].state == "done"
                  and found.steps[1].restarts)
    assert [entry["mem_mb"] for entry in requeues(tmp_path)] == [400]
    assert "time limit: 2 min → 4 min" in found.steps[1].detail
    cancel(tmp_path, "demo")
