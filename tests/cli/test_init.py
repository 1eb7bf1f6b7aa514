import json
import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("OUTPUT_DIR", "SCRATCH", "WORK", "WORKDIR", "LOADEDMODULES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def greene(slurm):
    slurm.says("sinfo", "printf 'cpu*|up|1-00:00:00|64000|8|(null)|3\\n'")
    slurm.says("scontrol", "printf 'ClusterName = greene\\nSLURM_VERSION = 23.11.4\\n'")
    slurm.says("sacctmgr", "exit 1")
    return slurm


def test_a_profile_is_written_and_summed_up(say, greene):
    code, out, err = say("init")
    assert (code, err) == (0, "")
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "greene, slurm 23.11.4" in rows["cluster"]
    assert "cpu: 3 nodes, up to 1 d, 8 cores" in rows["partition"]
    assert "avc_train (time 1d)" in rows["steps"]
    assert "accounts and QOS are unknown" in rows["look at"]
    assert out.endswith("wrote cluster.yaml\nnext: l3hpc doctor\n")
    assert json.loads(say("config", "show", "--json")[1])["values"]["cluster"]["value"] == "greene"
    assert not [line for line in greene.calls("sbatch") if "--test-only" not in line]


def test_an_existing_file_stays(say, greene):
    Path("cluster.yaml").write_text("cluster: local\n")
    code, out, err = say("init")
    assert (code, out) == (2, "") and "cluster.yaml: exists already" in err and "--force" in err
    assert greene.calls() == []  # refused before anybody is asked
    assert Path("cluster.yaml").read_text() == "cluster: local\n"
    assert say("init", "--force")[0] == 0
    assert "greene" in Path("cluster.yaml").read_text()


def test_dry_run_prints_what_would_be_written(say, greene):
    code, out, _ = say("init", "--dry-run")
    assert code == 0 and not Path("cluster.yaml").exists()
    say("init", "-o", "mine.yaml")
    assert Path("mine.yaml").read_text() == out
    assert "l3hpc doctor --config mine.yaml" in say("init", "-o", "mine.yaml", "--force")[1]


def test_json_says_what_was_found(say, greene):
    value = json.loads(say("init", "--json")[1])
    assert value["written"] and value["profile"] == "greene"
    assert value["found"]["site"]["partitions"]["cpu"]["cpus"] == 8
    assert value["chosen"]["limits"]["time"] == "1d"
    assert Path("cluster.yaml").read_text() == value["text"]


def test_local(say, greene):
    code, out, _ = say("init", "--local")
    assert code == 0 and greene.calls() == [] and "no Slurm" in out
    code, _, err = say("init", "--local", "--force", "--partition", "cpu")
    assert code == 2 and "--partition cpu has no effect with --local" in err


def test_slurm_that_does_not_answer(say, greene):
    greene.says("sinfo", "exit 1")
    code, _, err = say("init")
    assert code == 4 and "l3hpc init --local" in err and not Path("cluster.yaml").exists()


@pytest.mark.parametrize("words", [
    ("--name", "local"), ("--name", "a: b"), ("--name", ""), ("--account", "a b"),
    ("--partition", "-x"), ("-o", ""), ("-o", "-"), ("-o", "a\nb.yaml")])
def test_what_a_profile_or_a_file_cannot_be_called(say, greene, words):
    code, out, err = say("init", *words)
    assert (code, out) == (2, "") and words[0] in err and "bug" not in err
    assert not list(Path().glob("*.yaml")) and not Path("-").exists()


def test_a_pipe_stays_one(say, greene):
    os.mkfifo("cluster.yaml")
    code, _, err = say("init", "--force")
    assert code == 2 and "cluster.yaml: is a named pipe" in err and Path("cluster.yaml").is_fifo()
