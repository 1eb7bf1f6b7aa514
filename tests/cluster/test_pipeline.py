"""The real pipelines on a real Slurm, typed as a person types them: from audio to ledger rows."""

import json
import os
import subprocess
import sys
import time

import pytest

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
def l3hpc(any_slurm, data, tmp_path):
    """Runs the command in a working folder whose cluster.yaml names the test cluster."""
    small = {"cpus": 1, "mem": "1500MB", "gpus": 0, "time": "20m"}
    steps = ("extract", "sample", "fit", "reduce", "train", "embed", "classify", "evaluate")
    (tmp_path / "cluster.yaml").write_text(json.dumps({
        "cluster": "test", "clusters": {"test": {
            **any_slurm.profile, "steps": dict.fromkeys(steps, small)}},
        "paths": {"audio": str(data / "city/audio"), "sonyc_ust": str(data / "city/sonyc_ust"),
                  "weights": str(data / "teacher.h5")}}))

    def run(*words, code=0):
        done = subprocess.run([sys.executable, "-m", "l3hpc", *words], cwd=tmp_path,
                              capture_output=True, text=True, env={**os.environ, **any_slurm.env})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    run.folder = tmp_path
    return run


def finished(l3hpc, seconds=240):
    """The newest run, once nothing of it is to come."""
    end = time.monotonic() + seconds
    while True:
        newest = json.loads(l3hpc("status", "latest", "--json"))["runs"][0]
        if newest["state"] not in ("running", "submitting"):
            return newest
        assert time.monotonic() < end, json.dumps(newest, indent=1)
        time.sleep(1)


def only_row(l3hpc, tab):
    """The row of a tab of which there must be one."""
    [shown] = json.loads(l3hpc("ledger", "show", "--json", "--tab", tab))
    [row] = shown["rows"]
    return row


def test_from_audio_to_the_ledger_and_again(l3hpc):
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
    _sweep(l3hpc)


def _sweep(l3hpc):
    """Two more students by a grid: one array of trainings behind what is there, a row for each."""
    grid = ("--grid", "train.batch_size=16,32", "--name", "sizes")
    asked = l3hpc(*UPSTREAM, *grid, "--dry-run")
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
    [shown] = json.loads(l3hpc("ledger", "show", "--json", "--tab", "embedding_approx_mse"))
    assert sorted(row["values"]["Train Batch Size"] for row in shown["rows"]) == [16, 32, 64]


def test_what_slurm_would_refuse_is_said_before_anything_is_submitted(l3hpc):
    asked = l3hpc(*UPSTREAM, "--test-only", "--set", "train.mem=900GB", code=2)
    assert "train" in asked and "nothing was submitted" in asked
    assert not list((l3hpc.folder / "workspace").glob("runs/*/run.json"))
