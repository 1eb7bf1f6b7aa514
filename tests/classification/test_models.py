"""The classifiers: published grids and sizes, losses from the definition, early stopping."""

import numpy as np
import pytest

from l3hpc.classification import models
from l3hpc.classification.models import FitSettings, Fitted, fit


@pytest.fixture(scope="module")
def clouds():
    """(train, valid) of three classes in 5 dimensions, the classes 0, 1 and 3 of four."""
    rng = np.random.default_rng(1)
    found = []
    for count in (90, 60):
        y = rng.choice([0, 1, 3], count)
        found.append(((np.eye(5)[y] * 2 + rng.normal(size=(count, 5))).astype(np.float32), y))
    return found


def test_the_published_grids():
    assert [one["C"] for one in models.GRIDS["svm"]] == [0.1, 1, 10, 100, 1000]
    assert [one["trees"] for one in models.GRIDS["rf"]] == [100, 500, 1000]
    tens = [1e-5, 1e-4, 1e-3]
    assert [(one["learning_rate"], one["weight_decay"]) for one in models.GRIDS["mlp"]] == [
        (rate, decay) for rate in tens for decay in tens]


@pytest.mark.parametrize(("kind", "params"), [
    ("mlp", {"learning_rate": 1e-3, "weight_decay": 1e-5}), ("svm", {"C": 1.0}),
    ("rf", {"trees": 20})])
def test_a_class_that_nobody_taught_is_never_predicted(kind, params, clouds):
    train, valid = clouds
    fitted = fit(FitSettings(kind, 4, epochs=25), params, train, valid)
    scores = fitted.scores(valid[0])
    assert scores.shape == (60, 4) and scores.dtype == np.float64
    predicted = scores.argmax(axis=1)
    assert set(predicted) == {0, 1, 3} and (predicted == valid[1]).mean() > 0.75
    if kind != "svm":
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)
    again = fit(FitSettings(kind, 4, epochs=25), params, train, valid)
    np.testing.assert_array_equal(again.scores(valid[0]), scores)


def test_the_network_is_the_published_one(clouds):
    network = fit(FitSettings("mlp", 4, epochs=1), models.GRIDS["mlp"][0], clouds[0]).estimator
    assert [one.shape for one in network.coefs_] == [(5, 512), (512, 128), (128, 4)]
    assert (network.activation, network.out_activation_, network.solver) == (
        "relu", "softmax", "adam")


def test_the_penalty_is_decay_times_squared_weights(clouds):
    """One batch of everything: scikit-learn's loss is cross-entropy + decay · |W|²."""
    (x, y), _ = clouds
    decay = 0.05
    params = {"learning_rate": 1e-12, "weight_decay": decay}
    fitted = fit(FitSettings("mlp", 4, epochs=1, batch_size=1000), params, (x, y))
    squares = sum(float((one.astype(np.float64) ** 2).sum()) for one in fitted.estimator.coefs_)
    expected = fitted.loss(fitted.scores(x), y) + decay * squares
    assert fitted.history[0][0] == pytest.approx(expected, rel=1e-5)


def test_the_weights_of_the_best_epoch_are_kept(clouds):
    train, valid = clouds
    rng = np.random.default_rng(0)
    noisy = valid[0], rng.permutation(valid[1])
    fitted = fit(FitSettings("mlp", 4, epochs=60, patience=5), {"learning_rate": 1e-3,
                 "weight_decay": 0.0}, train, noisy)
    losses = [loss for _, loss in fitted.history]
    assert fitted.epochs == int(np.argmin(losses)) + 1
    assert len(losses) == fitted.epochs + 5 < 60
    assert fitted.loss(fitted.scores(noisy[0]), noisy[1]) == pytest.approx(min(losses), rel=1e-6)


def test_without_validation_every_epoch_is_trained(clouds):
    fitted = fit(FitSettings("mlp", 4, epochs=4, patience=1), models.GRIDS["mlp"][-1], clouds[0])
    assert fitted.epochs == len(fitted.history) == 4
    assert [loss for _, loss in fitted.history] == [None] * 4


def test_every_epoch_has_its_own_order(clouds):
    """With one order for all epochs two epochs would see the same batches: the same in both."""
    (x, y), _ = clouds
    seen = []
    network = fit(FitSettings("mlp", 4, epochs=1), models.GRIDS["mlp"][0], (x, y)).estimator
    original = network._backprop

    def spy(batch, *arguments):
        seen.append(batch.copy())
        return original(batch, *arguments)

    network._backprop = spy
    network.partial_fit(x, y)
    network.partial_fit(x, y)
    half = len(seen) // 2
    assert half == 2 and not np.array_equal(seen[0], seen[half])


def test_losses_by_hand():
    scores = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    y = np.array([0, 1])
    assert Fitted(FitSettings("rf", 3), None).loss(scores, y) == pytest.approx(
        -(np.log(0.7) + np.log(0.5)) / 2, rel=1e-12)
    assert Fitted(FitSettings("rf", 3), None).loss(scores, np.array([0, 0])) == pytest.approx(
        -(np.log(0.7) + np.log(1e-15)) / 2, rel=1e-12)
    # margins 0.5 and 0 → 0.5 and 1; a margin of 2 costs nothing
    svm = Fitted(FitSettings("svm", 3), None)
    assert svm.loss(scores, y) == pytest.approx(0.75, rel=1e-12)
    assert svm.loss(np.array([[3.0, 1.0, 0.0]]), np.array([0])) == 0


def test_two_classes_of_the_svm(clouds):
    (x, y), _ = clouds
    two = y != 3
    fitted = fit(FitSettings("svm", 2), {"C": 1.0}, (x[two], y[two]))
    scores = fitted.scores(x[two])
    np.testing.assert_array_equal(scores[:, 0], -scores[:, 1])
    np.testing.assert_array_equal(scores.argmax(axis=1), fitted.estimator.predict(x[two]))
