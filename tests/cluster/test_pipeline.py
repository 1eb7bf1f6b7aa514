"""The real pipelines on a real Slurm, typed as a person types them: from audio to ledger rows."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from invoke import invoke
from realslurm import LIMIT_S

from l3hpc.datasets.synth import City, make_city
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec, student_spec
from l3hpc.models.weights import RANDOM_WEIGHTS, save

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SMALL = ("--emb-dim", "8", "--filters", "4,4,8,8,16,16,8,8", "--samples", "40", "--epochs", "2",
         "--set", "train.learning_rate=0.01", "--set", "extract.files_per_task=5")
UPSTREAM = ("submit", "upstream", "--approx", "pca", "--asr", "8000", "--mels", "64", *SMALL,
            "--yes")


@pytest.fixture(scope="module")
def data(tmp_path_factory, timed):
    """Two sensors, twelve tagged clips, and a small teacher with random weights."""
    folder = tmp_path_factory.mktemp("data")
    make_city(folder / "city", City(sensors=2, recordings_per_sensor=6, ust_clips=12, seconds=3.0,
                                    rate=16000, days=4))
    spec = NetworkSpec(rate=16000, n_mels=32, hop=320, n_dft=1024,
                       filters=(4, 4, 8, 8, 16, 16, 24, 24))
    save(untrained(spec, 1), folder / "teacher.h5", {"teacher": {"random_weights": True}})
    timed(spec)
    timed(student_spec(emb_dim=8, filters=(4, 4, 8, 8, 16, 16, 8, 8)))
    return folder


@pytest.fixture
def l3hpc(slurm_cluster, slurm_plain, data, tmp_path, monkeypatch):
    """``l3hpc(WORDS)``: the command in a working folder whose cluster.yaml names both clusters of
    the tests; ``looks``: the same for commands that only look, in this process, which need not
    import anything for that. Both reach the cluster ``l3hpc.on`` alone, as from its login node."""
    small = {"cpus": 1, "mem": "1500MB", "gpus": 0, "time": "20m"}
    steps = ("extract", "sample", "fit", "reduce", "train", "embed", "classify", "evaluate")
    clusters = {"accounting": slurm_cluster, "plain": slurm_plain}
    (tmp_path / "cluster.yaml").write_text(json.dumps({
        "cluster": "accounting", "clusters": {
            name: {**cluster.profile, "steps": dict.fromkeys(steps, small)}
            for name, cluster in clusters.items()},
        "paths": {"audio": str(data / "city/audio"), "sonyc_ust": str(data / "city/sonyc_ust"),
                  "weights": str(data / "teacher.h5")}}))
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        done = subprocess.run([sys.executable, "-m", "l3hpc", *words], capture_output=True,
                              text=True, env={**os.environ, **clusters[run.on].env})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    def looks(*words):
        with monkeypatch.context() as patch:
            patch.setenv("SLURM_CONF", clusters[run.on].env["SLURM_CONF"])
            return invoke(*words).stdout

    run.on, run.looks = "accounting", looks
    return run


def finished(l3hpc, seconds=LIMIT_S):
    """The newest run, once nothing of it is to come."""
    end = time.monotonic() + seconds
    while True:
        newest = json.loads(l3hpc.looks("status", "latest", "--json"))["runs"][0]
        if newest["state"] not in ("running", "submitting"):
            return newest
        assert time.monotonic() < end, json.dumps(newest, indent=1)
        time.sleep(1)


def only_row(l3hpc, tab):
    """The row of a tab of which there must be one."""
    [shown] = json.loads(l3hpc.looks("ledger", "show", "--json", "--tab", tab))
    [row] = shown["rows"]
    return row


def test_from_audio_to_the_ledger_and_again_and_a_sweep_elsewhere(l3hpc):
    """The sweep goes to the cluster without accounting, and takes up what the other one computed.
    """
    text = l3hpc(*UPSTREAM)
    assert "submitted upstream-" in text
    assert "→ train" in text
    upstream = finished(l3hpc)
    assert upstream["state"] == "done", upstream
    assert {step["name"]: (step["state"], step["tasks"]) for step in upstream["steps"]} == {
        "extract": ("done", 3), "sample": ("done", 2), "fit": ("done", 1), "reduce": ("done", 3),
        "train": ("done", 1)}

    l3hpc("submit", "downstream", "--yes")
    downstream = finished(l3hpc)
    assert downstream["state"] == "done", downstream
    assert [step["name"] for step in downstream["steps"]] == ["embed", "classify", "evaluate"]

    row = only_row(l3hpc, "embedding_approx_mse")
    assert row["values"]["Student Emb Len"] == 8
    assert row["values"]["Latest Epoch"] == 1
    assert (row["state"], row["note"]) == ("finished", RANDOM_WEIGHTS)
    row = only_row(l3hpc, "sonyc_ust")
    assert 0 <= row["values"]["Micro AUPRC"] <= 1
    assert (row["state"], row["note"]) == ("finished", RANDOM_WEIGHTS)

    again = l3hpc(*UPSTREAM)
    assert again.count("done before") == 5
    only_row(l3hpc, "embedding_approx_mse")
    l3hpc.on = "plain"
    _sweep(l3hpc)


def _sweep(l3hpc):
    """Two more students by a grid: one array of trainings behind what is there, a row for each."""
    grid = ("--grid", "train.batch_size=16,32", "--name", "sizes", "--cluster", "plain")
    asked = l3hpc.looks(*UPSTREAM, *grid, "--dry-run")
    assert "2 combinations; shared: extract sample fit reduce" in asked
    assert "one job array: train-16 train-32" in asked
    l3hpc(*UPSTREAM, *grid)
    sizes = finished(l3hpc)
    assert sizes["state"] == "done", sizes
    steps = {step["name"]: step for step in sizes["steps"]}
    assert {name: step["state"] for name, step in steps.items()} == {
        "extract": "reused", "sample": "reused", "fit": "reused", "reduce": "reused",
        "train-16": "done", "train-32": "done"}
    base = steps["train-16"]["job"].removesuffix("_0")
    assert steps["train-32"]["job"] == f"{base}_1"
    assert [each["values"] for each in sizes["combinations"]] == [
        {"train.batch_size": "16"}, {"train.batch_size": "32"}]
    [shown] = json.loads(l3hpc.looks("ledger", "show", "--json", "--tab", "embedding_approx_mse"))
    assert sorted(row["values"]["Train Batch Size"] for row in shown["rows"]) == [16, 32, 64]


def test_what_slurm_would_refuse_is_said_before_anything_is_submitted(l3hpc):
    asked = l3hpc(*UPSTREAM, "--test-only", "--set", "train.mem=900GB", code=2)
    assert "train" in asked and "nothing was submitted" in asked
    assert not list(Path("workspace").glob("runs/*/run.json"))
