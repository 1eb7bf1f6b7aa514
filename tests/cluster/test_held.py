"""Jobs that wait for somebody or for something outside of their run."""

import json

import pytest
from follow import profile, settled, states, until

from l3hpc.cli import main
from l3hpc.runs import status, submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.runs.resume_plan import plan_resume


def held(found):
    return found.steps[0].held


def test_held_jobs_are_named_released_or_left_to_an_administrator(
        slurm_cluster, chains, tmp_path, gate):
    on = profile(chains, slurm_cluster)
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on,
                       params={"extract": {"gate": str(gate)}})
    job = submit.submit(made).steps[0].job
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    slurm_cluster.command("scontrol", "requeuehold", job)
    found = until(tmp_path, "demo", held)
    gate.unlink()
    assert (found.steps[0].state, found.steps[0].held) == ("requeued", [job])
    assert found.steps[0].detail.startswith(
        "held after a requeue (job requeued in held state): 'resume' releases it")
    assert found.next == "l3hpc resume demo" and found.steps[1].state == "waiting"

    slurm_cluster.command("scontrol", "release", job)
    slurm_cluster.command("scontrol", "hold", job)  # by root
    found = until(tmp_path, "demo", lambda found: found.steps[0].held_by_administrator)
    assert found.next is None and found.steps[0].held == []
    assert found.notes == [f"job {job} of extract is held by an administrator: ask your site to "
                           f"release it (scontrol show job {job})"]
    assert not plan_resume(tmp_path, "demo", on).is_needed

    slurm_cluster.command("scontrol", "release", job)
    slurm_cluster.command("scontrol", "uhold", job)
    found = until(tmp_path, "demo", held)
    assert "held by its user (JobHeldUser)" in found.steps[0].detail
    assert plan_resume(tmp_path, "demo", on).describe() == f"release job {job}"
    record = resume(tmp_path, "demo", on)
    assert [step.job for step in record.steps][0] == job
    assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}


def test_a_prolog_that_fails(slurm_cluster, chains, tmp_path, capsys, monkeypatch):
    """Slurm drains the node, puts the job back and holds it; nothing of ours has run."""
    broken, prolog = tmp_path / "broken", tmp_path / "prolog.sh"
    broken.touch()
    prolog.write_text(f"#!/bin/sh\n[ ! -e {broken} ]\n")
    prolog.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    entry = {**slurm_cluster.profile, "env": {"PYTHONPATH": str(chains.FAKES)}}
    (tmp_path / "cluster.yaml").write_text(json.dumps({
        "cluster": "test", "clusters": {"test": entry}, "paths": {"workspace": "."}}))
    made = chains.plan(tmp_path, names=("extract", "sample"), on=profile(chains, slurm_cluster))
    with slurm_cluster.configured(Prolog=prolog):
        job = submit.submit(made).steps[0].job
        found = until(tmp_path, "demo", held)
        assert "held because it could not start on its node (launch failed requeued held)" \
            in found.steps[0].detail
        broken.unlink()
        for node in slurm_cluster.command("sinfo", "-h", "-N", "-t", "drain", "-o", "%N").split():
            slurm_cluster.command("scontrol", "update", f"NodeName={node}", "State=RESUME",
                                  check=False)
        with pytest.raises(SystemExit) as end:
            main(["resume", "demo"])
        assert not end.value.code
        assert capsys.readouterr().out.startswith(f"resuming demo: release job {job}\nresumed demo")
        assert states(until(tmp_path, "demo", settled)) == {"extract": "done", "sample": "done"}
    slurm_cluster.idle()


def test_what_another_run_computes_is_waited_for_in_the_queue(any_slurm, chains, tmp_path, gate):
    """Not on a node. When the other one is cancelled, this one computes it."""
    on = profile(chains, any_slurm)
    slow = {"extract": {"gate": str(gate)}}
    plans = {name: chains.plan(tmp_path, name, names=("extract", "sample"), on=on, params=slow)
             for name in ("first", "second", "third")}
    jobs = {}
    for name, made in plans.items():
        jobs[name] = submit.submit(made).steps[0].job
    until(tmp_path, "first", lambda found: found.steps[0].progress)
    for name in ("second", "third"):
        [found] = status.collect(tmp_path, [name])
        assert states(found)["extract"] == "waiting", found
    assert any_slurm.command("squeue", "-h", "-t", "RUNNING", "-o", "%A").split() == [jobs["first"]]
    cancel(tmp_path, "first")
    any_slurm.until(lambda: "l3-first-extract" not in any_slurm.jobs(),
                    "the cancelled job does not end")
    gate.unlink()
    found = until(tmp_path, "second", settled)
    assert states(found) == {"extract": "done", "sample": "done"}
    assert found.steps[0].job == jobs["second"]
    assert states(until(tmp_path, "third", settled)) == {"extract": "done", "sample": "done"}
    result = json.loads((plans["third"].steps[0].artifact / "0000/result.json").read_text())
    assert result["environment"]["job"] == jobs["second"]
