"""Auxiliary outputs, co-occurrence and L-BFGS, compared with the same in NumPy."""

import json

import h5py
import numpy as np
import pytest
from lazymodule import LazyModule
from scipy import optimize

from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, L3hpcError

tagging, training = LazyModule("l3hpc.tagging.classifier"), LazyModule("l3hpc.tagging.training")
network = LazyModule("l3hpc.tagging.network")
pytestmark = pytest.mark.slow

CLIPS, FRAMES, DIM, SENSORS = 21, 3, 4, ("a", "b", "c")
EVERYTHING = {"sensor_factor": True, "proximity_factor": True, "cooccurrence_loss": True,
              "cooccurrence_loss_factor": 0.02, "l2": 1e-2, "batch_size": 8, "seed": 3}


@pytest.fixture(scope="module")
def small():
    """Three categories, two of them with X."""
    return Taxonomy({1: "engine", 2: "music", 3: "dog"},
                    {1: {1: "small", 2: "large", "X": "engine-X"}, 2: {1: "live", "X": "music-X"},
                     3: {1: "bark"}})


@pytest.fixture(scope="module")
def data(small):
    """Training clips: embeddings, targets of all columns (0 to 1), sensors and proximities."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((CLIPS, FRAMES, DIM)).astype(np.float32) * 2 + 1
    return (x, rng.random((CLIPS, len(small.fine))).astype(np.float32),
            rng.integers(0, 3, CLIPS), rng.integers(-1, 2, (CLIPS, 4)).astype(np.int8))


def scaling(x):
    from l3hpc.tagging.clip_inputs import fit_scaling

    return fit_scaling(x, standardize=True)


def softmax(values):
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def forward(arrays, x, mil):
    """Outputs (tags, sensor, proximity) of the network with one hidden layer, in float64."""
    (w, b), (wp, bp), (ws, bs), (wt, bt) = zip(arrays[0:8:2], arrays[1:8:2], strict=True)
    hidden = np.maximum(x @ w + b, 0)
    sensor = softmax(hidden @ ws + bs)
    pairs = hidden @ wp + bp
    near = softmax(pairs.reshape(*pairs.shape[:-1], -1, 2))
    joined = np.concatenate([hidden, sensor, near.reshape(pairs.shape)], axis=-1)
    tags = 1 / (1 + np.exp(-(joined @ wt + bt)))
    if mil:
        weight = softmax(np.moveaxis(arrays[8] * tags, 1, -1))
        tags = (np.moveaxis(tags, 1, -1) * weight).sum(axis=-1)
        sensor, near = sensor.mean(axis=1), near.mean(axis=1)
    return tags, sensor, near


def fine_loss(y, p, taxonomy):
    """Loss of the fine tags of each sample; of categories with X only what X leaves."""
    total = np.zeros(len(y))
    for place, column in enumerate(taxonomy.complete_fine):
        other = taxonomy.other(taxonomy.fine[column].coarse)
        known = 1 if other is None else 1 - y[:, other]
        hit = y[:, column]
        total -= known * (hit * np.log(p[:, place]) + (1 - hit) * np.log(1 - p[:, place]))
    return total


def objective(arrays, config, taxonomy, x, y, sensor, proximity, order):
    """The loss in training of all samples, one after the other."""
    mil = config.model == "mil"
    tags, place, near = forward(arrays, x if mil else x.reshape(-1, x.shape[-1]), mil)
    clip = np.arange(len(tags)) // (1 if mil else x.shape[1])
    total = 0.0
    for sample, loss in enumerate(fine_loss(y[clip], tags, taxonomy)):
        total += loss - np.log(place[sample, sensor[clip[sample]]])
        for tag, side in enumerate(proximity[clip[sample]]):
            if side:
                total -= np.log(near[sample, tag, 0 if side > 0 else 1])
    shown = y[:, taxonomy.complete_fine]
    graph = np.zeros((4, 4))
    for one in range(4):
        for two in range(4):
            if one != two:
                graph[one, two] = -np.mean(shown[:, one] * shown[:, two])
                graph[one, one] += np.mean(shown[:, one] * shown[:, two])
    for first in range(0, len(order), config.batch_size):
        batch = order[first:first + config.batch_size]
        summed = tags[batch].sum(axis=0)
        total += len(batch) * config.cooccurrence_loss_factor * summed @ graph @ summed
    return total / len(tags) + config.l2 * sum(np.sum(arrays[place] ** 2)
                                               for place in (0, 2, 4, 6))


def shaped(vector, arrays):
    edges = np.cumsum([one.size for one in arrays])[:-1]
    return [part.reshape(one.shape) for part, one in
            zip(np.split(vector, edges), arrays, strict=True)]


@pytest.mark.parametrize("model", ["mil", "framewise"])
def test_loss_of_everything_and_its_gradient_equal_numpy(small, data, model, monkeypatch):
    x, y, sensor, proximity = data
    monkeypatch.setattr("l3hpc.tagging.clip_inputs.BLOCK_BYTES", 1)  # a batch is a block
    config = tagging.ClassifierConfig("fine", model, hidden_layers=1, hidden_size=5, **EVERYTHING)
    classifier = tagging.untrained(config, small, scaling(x), SENSORS)
    loop = training.Loop(classifier, x, y, sensor, proximity)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 0.5, one.shape) for one in classifier.model.get_weights()]
    vector = np.concatenate([one.ravel() for one in arrays])
    order = rng.permutation(loop.samples)
    standard = scaling(x)(x.astype(np.float64))

    def of(point):
        return objective(shaped(point, arrays), config, small, standard, y, sensor, proximity,
                         order)

    value, gradient = loop.value(vector, order)
    assert value == pytest.approx(of(vector), rel=1e-5)
    np.testing.assert_allclose(gradient, optimize.approx_fprime(vector, of, 1e-6), rtol=2e-3,
                               atol=2e-4)
    tags, place, _ = forward(arrays, standard, True) if model == "mil" else (None, None, None)
    if model == "mil":
        np.testing.assert_allclose(classifier.predict(x), tags, atol=1e-6)
        assert place.shape == (CLIPS, 3)


def test_lbfgs_descends_and_keeps_the_bounds_of_autopool(small, data):
    x, y, sensor, proximity = data
    bound, free = (training.train(
        tagging.ClassifierConfig("fine", epochs=8, optimizer="lbfgs", **options), small, x, y,
        x, y, sensors=SENSORS, sensor=sensor, proximity=proximity)
        for options in (EVERYTHING, {"autopool_constraint": False}))
    for classifier in (bound, free):
        losses = [row["loss"] for row in classifier.history]
        assert np.all(np.diff(losses) < 0) and len(losses) == 8
    assert bound.model.get_weights()[-1].min() >= 0 > free.model.get_weights()[-1].min()
    assert bound.sensors == SENSORS and free.sensors == ()


def test_lbfgs_ends_by_patience_and_keeps_the_best_iteration(small, data):
    x, y, _, _ = data
    config = tagging.ClassifierConfig("coarse", "framewise", patience=3, epochs=60,
                                      optimizer="lbfgs")
    coarse = np.round(y[:, :3])
    classifier = training.train(config, small, x, coarse, x, 1 - coarse)
    losses = [row["val_loss"] for row in classifier.history]
    assert classifier.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == classifier.best_epoch + 3 < 60


def test_file_keeps_the_auxiliary_outputs_and_older_files_are_read(small, data, tmp_path):
    x = data[0]
    config = tagging.ClassifierConfig("fine", **EVERYTHING)
    classifier = tagging.untrained(config, small, scaling(x), SENSORS)
    classifier.save(tmp_path / "new.h5")
    back = tagging.Classifier.load(tmp_path / "new.h5")
    assert back.config == config and back.sensors == SENSORS
    np.testing.assert_array_equal(back.predict(x), classifier.predict(x))
    plain = tagging.untrained(tagging.ClassifierConfig(), small, scaling(x))
    plain.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        settings = json.loads(file.attrs["settings"])
        del settings["sensors"]
        for name in ("sensor_factor", "proximity_factor", "cooccurrence_loss", "optimizer",
                     "cooccurrence_loss_factor", "autopool_constraint"):
            del settings["config"][name]
        file.attrs["settings"] = json.dumps(settings)
    old = tagging.Classifier.load(tmp_path / "old.h5")
    np.testing.assert_array_equal(old.predict(x), plain.predict(x))


def test_autopool_without_its_constraint_keeps_it_in_its_configuration():
    layer = network.AutoPool(constraint=False)
    layer.build((None, None, 3))
    assert layer.alpha.constraint is None
    assert not network.AutoPool.from_config(layer.get_config()).constraint


@pytest.mark.parametrize("change, message", [
    ({"sensors": ("a",)}, "needs two sensors, found 1"),
    ({"sensor": None}, "needs one sensor for each of 21 clips"),
    ({"sensor": np.full(CLIPS, 3)}, "the number of a sensor is out of range"),
    ({"proximity": None}, r"needs proximities of shape \(21, 4\), found none"),
    ({"proximity": np.zeros((CLIPS, 6))}, r"found an array of shape \(21, 6\)"),
    ({"proximity": np.full((CLIPS, 4), 2)}, "a proximity is out of range"),
])
def test_targets_of_auxiliary_outputs_that_do_not_fit_are_refused(small, data, change, message):
    x, y, sensor, proximity = data
    config = tagging.ClassifierConfig("fine", **EVERYTHING)
    more = {"sensors": SENSORS, "sensor": sensor, "proximity": proximity, **change}
    with pytest.raises(InputError, match=message):
        training.train(config, small, x, y, x, y, **more)


def test_settings_that_mean_nothing_are_refused(small, data):
    with pytest.raises(InputError, match="a framewise classifier has no AutoPool"):
        tagging.ClassifierConfig(model="framewise", autopool_constraint=False)
    with pytest.raises(InputError, match="L-BFGS has no batches by which"):
        tagging.ClassifierConfig(model="framewise", optimizer="lbfgs", standardize=False)
    with pytest.raises(InputError, match="did you mean 'lbfgs'"):
        tagging.ClassifierConfig(optimizer="lbgfs")
    x, y = data[0].copy(), np.round(data[1][:, :3])
    x[0, 0, 0] = np.nan
    with pytest.raises(L3hpcError, match="the loss is not finite in epoch 1") as caught:
        training.train(tagging.ClassifierConfig(optimizer="lbfgs"), small, x, y, x, y)
    assert caught.value.hint == "Are all embeddings finite?"
