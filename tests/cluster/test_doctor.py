"""The doctor on a real Slurm: what it calls right works, and what it calls wrong is refused."""

import json

import pytest

from l3hpc import doctor
from l3hpc.config import settings as config
from l3hpc.config import sources
from l3hpc.doctor import environment
from l3hpc.steps import BUILT_IN

pytestmark = pytest.mark.slurm


def examined(cluster, folder, ask, **profile):
    small = {step: {"mem": "200MB", "cpus": 1, "gpus": 0} for step in BUILT_IN}
    entry = {**cluster.profile, "steps": small, **profile}
    (folder / "cluster.yaml").write_text(json.dumps(
        {"cluster": "greene", "clusters": {"greene": entry}}))
    found = {}
    for line in doctor.examine(config.load(folder / "cluster.yaml", environ={}), ask=ask):
        found.setdefault(line.subject, line)
    return found


def test_a_working_cluster_is_green(any_slurm, tmp_path, ask_all_but_tensorflow):
    found = examined(any_slurm, tmp_path,
                     environment.ask if any_slurm.accounting else ask_all_but_tensorflow)
    assert found["Slurm"].severity == "green" and "3 nodes in use or free" in found["Slurm"].message
    assert found["accounting"].severity == ("green" if any_slurm.accounting else "yellow")
    assert found["partition cpu"].severity == "green"
    assert "gpu" in found["partition cpu"].message
    assert found["scripts"].severity == "green", found
    assert found["workspace is shared"].severity == "green", found["workspace is shared"]
    assert [line for line in found.values() if line.severity == "red"] == []


def test_what_slurm_would_refuse_is_red(slurm_cluster, tmp_path, ask_all_but_tensorflow):
    found = examined(slurm_cluster, tmp_path, ask_all_but_tensorflow, partition="gpus", steps={
        "train": {"partition": "cpu", "gpus": 1, "gpu_type": "h100", "mem": "900GB"}})
    assert found["partition gpus"].severity == "red"
    assert "cpu" in found["partition gpus"].advice
    assert "900 GB" in found["partition cpu"].message and "h100" in found["partition cpu"].message
    assert found["scripts"].severity == "yellow"
    refused = {name.removeprefix("pipeline ") for name, line in found.items()
               if name.startswith("pipeline ") and line.severity == "red"}
    assert refused == set(sources.pipelines())  # every one of them has a step that asks for this


def test_a_workspace_that_only_this_machine_has_is_red(
        slurm_cluster, tmp_path, monkeypatch, ask_all_but_tensorflow):
    """The nodes of the test cluster share this machine, so the job is pointed elsewhere."""
    from l3hpc.doctor import storage

    plain = storage.srun
    monkeypatch.setattr(storage, "srun", lambda config: [*plain(config), "env", "sh", "-c",
                                                         'cat "$4.elsewhere"', "sh"])
    found = examined(slurm_cluster, tmp_path, ask_all_but_tensorflow)
    assert found["workspace is shared"].severity == "red"
    assert "a node cannot read" in found["workspace is shared"].message
