"""``l3hpc tensorboard``: which folders it finds, and what it starts."""

import importlib.util
import json

import pytest

from l3hpc.workspace import records
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.run_record import RunRecord, StepRecord

FAKE = """#!/bin/sh
exec > "$(dirname "$0")/../printed"
echo "$1 $3 $4"
cd "$2" && find -L . -type f | sort
exit 7
"""
find_spec = importlib.util.find_spec


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Two runs: a finished and a running student of a sweep, and two teachers without anything."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: (
        None if name == "tensorboard" else find_spec(name)))
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.chdir(tmp_path)
    for run, steps in (("sweep-1", ("train-64", "train-128", "scan")), ("plain-2", ("train",))):
        (tmp_path / "runs" / run).mkdir(parents=True)
        records.write(tmp_path, RunRecord(
            run, "upstream", "local", 1.0, "ada", "login1", ["l3hpc"], {}, "submitted",
            [StepRecord(name, "train", f"{tmp_path}/artifacts/train/{run}{name}",
                        2 if name == "scan" else 1, []) for name in steps]))
    return tmp_path


def events(workspace, step, *parts, run="sweep-1"):
    artifact = ArtifactFolder(workspace / "artifacts/train" / f"{run}{step}")
    base = artifact.scratch(0) if parts[0] == "scratch" else artifact.task(int(parts[0]))
    folder = base.joinpath(*parts[1:], "tensorboard")
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1").write_text("")
    return folder


def test_one_tree_of_all_runs(workspace, say):
    events(workspace, "train-64", "0")
    events(workspace, "train-128", "scratch", "training")
    events(workspace, "scan", "1")
    (workspace / "bin/tensorboard").write_text(FAKE)
    (workspace / "bin/tensorboard").chmod(0o755)
    code, _, _ = say("tensorboard", "sweep", "sweep-1", "plain", "--port", "7000",
                     "--workspace", str(workspace))
    assert code == 7
    assert (workspace / "printed").read_text().splitlines() == [
        "--logdir --port 7000", "./sweep-1/scan/0001/events.out.tfevents.1",
        "./sweep-1/train-128/events.out.tfevents.1", "./sweep-1/train-64/events.out.tfevents.1"]


def test_the_folders_alone(workspace, say):
    folder = events(workspace, "train-64", "0")
    _, out, _ = say("tensorboard", "sweep-1", "--path", "--workspace", str(workspace))
    assert out == f"{folder}\n"
    _, out, _ = say("tensorboard", "sweep-1", "--json", "--workspace", str(workspace))
    assert json.loads(out) == {"schema": 1, "folders": {"sweep-1/train-64": str(folder)}}


def test_nothing_to_show_and_nothing_to_show_it_with(workspace, say):
    code, _, err = say("tensorboard", "plain-2", "--workspace", str(workspace))
    assert code == 2 and "no step of plain-2 has written event files" in err
    assert "--set train.tensorboard=true" in err and "l3hpc report plain-2" in err
    events(workspace, "train", "0", run="plain-2")
    code, _, err = say("tensorboard", "plain-2", "--workspace", str(workspace))
    assert code == 2 and "TensorBoard is not installed" in err and "[tensorboard]" in err
