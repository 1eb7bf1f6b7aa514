"""Training on pairs: as if it had never been killed; and how accuracy is told."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from lazymodule import LazyModule

training = LazyModule("l3hpc.avc.training")

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from l3hpc.avc import training
from l3hpc.avc.vision import VisionSpec
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.state import Schedule

SPEC = NetworkSpec(2000, 16, 100, 256, filters=(4,) * 5)

class Data:
    def batch(self, rows):
        rng = np.random.default_rng(7)
        sound = rng.uniform(-80, 0, (60, *SPEC.frontend.shape, 1)).astype(np.float32)
        image = rng.uniform(-1, 1, (60, 16, 16, 3)).astype(np.float32)
        label = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 60)]
        return (sound[rows], image[rows]), label[rows]

class Killed(training.AvcEngine):
    calls, kill_at = 0, 0
    def train(self, batch, first):
        Killed.calls += 1
        if Killed.calls == Killed.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        super().train(batch, first)

training.AvcEngine = Killed

folder, Killed.kill_at = Path(sys.argv[1]), int(sys.argv[2])
training.AvcTraining(
    SPEC, Data(), (np.arange(48), np.arange(48, 60)), folder, Schedule(epochs=2),
    learning_rate=1e-3, batch_size=8, checkpoint_batches=2, seed=5, settings="same",
    start=training.InitialNetworks(VisionSpec(16, (4,) * 8))).run()
"""


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bits(forked, tmp_path):
    """kill -9 in the second epoch; started again it goes on at its last checkpoint."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert forked.run(KILLED, killed, 10) == -9
    with np.load(killed / "checkpoint.npz") as file:
        assert file["position"] == 8  # six batches an epoch, and two
    assert forked.run(KILLED, killed, 0) == 0, forked.errors()
    assert forked.run(KILLED, whole, 0) == 0, forked.errors()
    names = {path.name for path in whole.iterdir()}
    assert names == {"avc_latest.h5", "avc_best_valid_loss.h5", "avc_best_valid_accuracy.h5",
                     "history.csv", "checkpoint.npz"}
    for name in names - {"checkpoint.npz"}:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    with np.load(killed / "checkpoint.npz") as one, np.load(whole / "checkpoint.npz") as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    with open(whole / "history.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy",
                             "learning_rate"]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(0 <= float(row["val_accuracy"]) <= 1 for row in rows)


def test_accuracy_and_its_interval():
    given = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    labels = np.eye(2)[[0, 1, 0, 1]]
    found = training.pair_accuracy(given, labels)
    assert (found.pairs, found.right, found.accuracy) == (4, 2, 0.5)
    assert (found.matching_right, found.non_matching_right) == (0.5, 0.5)
    assert training.pair_accuracy(given[:1], labels[:1]).matching_right is None
    told = found.as_json()
    assert told["interval"] == list(training.binomial_interval(2, 4)) and told["accuracy"] == 0.5


@pytest.mark.parametrize(("right", "pairs", "expected"), [
    (8, 10, (0.4439, 0.9748)),  # Clopper and Pearson's own way, as tables have it
    (0, 10, (0.0, 0.3085)), (10, 10, (0.6915, 1.0)), (50, 100, (0.3983, 0.6017)),
])
def test_the_interval_is_the_exact_one(right, pairs, expected):
    np.testing.assert_allclose(training.binomial_interval(right, pairs), expected, atol=5e-5)


def test_evaluation_runs_over_all_batches():
    import tensorflow as tf

    from l3hpc.avc.training import evaluate

    class Half:
        rows = 10

        def chunks(self, size):
            return [np.arange(first, min(first + size, 10)) for first in range(0, 10, size)]

    def batch(rows):
        x = rows.astype(np.float32)[:, None]
        return (x, x), np.eye(2, dtype=np.float32)[(rows >= 5).astype(int)]

    def model(given, training):
        assert training is False
        return tf.concat([tf.cast(given[0] < 7, tf.float32), tf.cast(given[1] >= 7, tf.float32)], 1)

    found = evaluate(SimpleNamespace(model=model), SimpleNamespace(batches=Half(), batch=batch), 4)
    assert (found.pairs, found.right) == (10, 8)
    assert (found.matching_right, found.non_matching_right) == (0.6, 1.0)
