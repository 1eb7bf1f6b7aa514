"""``l3hpc init`` on a real Slurm: the doctor finds nothing to repair in the file that it writes."""

import json
from pathlib import Path

import pytest
from invoke import invoke

from l3hpc import doctor
from l3hpc.config import settings
from l3hpc.schedulers.slurm import site

pytestmark = pytest.mark.slurm


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("SCRATCH", "WORK", "WORKDIR", "LOADEDMODULES", "OUTPUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_doctor_finds_nothing_to_repair(any_slurm, here, ask_all_but_tensorflow):
    said = invoke("init").stdout
    assert "wrote cluster.yaml" in said and "l3test, slurm" in said
    found = {}
    for line in doctor.examine(settings.load(environ={}), ask=ask_all_but_tensorflow):
        found.setdefault(line.subject, line)
    assert [str(line) for line in found.values() if line.severity == "red"] == []
    assert found["configuration"].message.endswith("cluster l3test")
    for subject in ("Slurm", "partition cpu", "scripts", "workspace", "workspace is shared"):
        assert found[subject].severity == "green", found[subject]
    assert not [name for name in found if name.startswith("pipeline ")]


def test_what_is_found(any_slurm, here):
    value = json.loads(invoke("init", "--dry-run", "--json").stdout)
    assert not Path("cluster.yaml").exists() and not value["written"]
    slurm, chosen = value["found"]["site"], value["chosen"]
    assert (slurm["cluster"], slurm["max_array"]) == ("l3test", 1001)
    assert set(slurm["partitions"]) == {"cpu", "low"}
    assert (chosen["partition"], chosen["memory_request"]) == ("cpu", "mem")
    assert chosen["gpu_request"] == ("gres" if slurm["partitions"]["cpu"]["gpus"] else "none")
    assert chosen["limits"] == {"time": "1d", "mem": "64000MB", "array": 1001}
    assert chosen["steps"] == {"avc_train": {"time": "1d"}}  # the only one that asks for two days
    assert (chosen["account"] in slurm["accounts"]) == any_slurm.accounting
    assert ("lab" in slurm["accounts"]) == any_slurm.accounting
    assert bool(slurm["notes"]) != any_slurm.accounting


def test_limits_of_the_account_count(slurm_cluster, here):
    slurm_cluster.command("sacctmgr", "-i", "add", "qos", "short", "MaxWall=02:00:00",
                          "MaxSubmitJobsPerUser=40")
    slurm_cluster.command("sacctmgr", "-i", "modify", "account", "lab", "set", "qos=normal,short",
                          "defaultqos=short")
    try:
        found = site.ask("lab")
        assert (found.default_qos, found.max_submit) == ("short", 40)
        assert found.partitions["cpu"].time_min == 120
        assert {one.name for one in found.qualities} == {"normal", "short"}
        invoke("init", "--account", "lab")
        text = Path("cluster.yaml").read_text()
        assert "array: 20" in text and "time: 2h" in text
        assert "account: lab" in text and "short (default, up to 2 h, 40 jobs)" in text
    finally:
        slurm_cluster.command("sacctmgr", "-i", "modify", "account", "lab", "set", "qos=normal",
                              "defaultqos=normal")
        slurm_cluster.command("sacctmgr", "-i", "delete", "qos", "short")


def test_what_sbatch_refuses_is_noticed(slurm_cluster, here):
    assert site.refusal(("--partition=cpu", "--mem=50M")) == ""
    assert "invalid partition" in site.refusal(("--partition=nowhere",))
    assert slurm_cluster.jobs() == []
