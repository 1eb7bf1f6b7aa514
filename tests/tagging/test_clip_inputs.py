"""Inputs of the classifier: metadata, whitened PCA, and synthetic clips mixed when read."""

import numpy as np
import pytest
from lazymodule import LazyModule

from l3hpc.arrays.row_file import RowFile
from l3hpc.errors import InputError
from l3hpc.tagging.balancing import Mixes

clip_inputs = LazyModule("l3hpc.tagging.clip_inputs")
classifier, network, training = (LazyModule(f"l3hpc.tagging.{name}")
                                 for name in ("classifier", "network", "training"))


@pytest.fixture
def x(rng):
    return (rng.standard_normal((20, 6, 5)) @ rng.standard_normal((5, 5)) * 3 + 7).astype("f4")


@pytest.fixture
def metadata(rng):
    return np.concatenate([rng.normal([40.7, -74], 0.05, (20, 2)),
                           rng.integers(0, 2, (20, 83))], axis=1).astype("f4")


def mixed(rng, count=7):
    return Mixes(rng.integers(0, 20, count), rng.integers(0, 20, count),
                 rng.random(count).astype("f4"))


@pytest.mark.parametrize("on_disk", [False, True])
def test_clips_metadata_and_mixtures_are_one_array(x, metadata, rng, tmp_path, on_disk):
    mixes = mixed(rng)
    whole = np.concatenate([x, np.repeat(metadata[:, None], 6, axis=1)], axis=2)
    alpha = mixes.alpha[:, None, None]
    made = alpha * whole[mixes.seed] + (1 - alpha) * whole[mixes.neighbour]
    whole = np.concatenate([whole, made])
    source = x
    if on_disk:
        source = RowFile(tmp_path / "x.bin", "f4", x.shape, "w+")
        source[:] = x
    inputs = clip_inputs.ClipInputs(source, metadata, mixes)
    assert inputs.shape == whole.shape == (27, 6, 90) and len(inputs) == 27
    order = rng.permutation(27)
    np.testing.assert_allclose(inputs[order], whole[order], atol=1e-5)
    np.testing.assert_allclose(inputs[18:23], whole[18:23], atol=1e-5)
    frames = inputs.reshape(-1, 90)
    order = rng.permutation(27 * 6)
    np.testing.assert_allclose(frames[order], whole.reshape(-1, 90)[order], atol=1e-5)
    assert len(frames) == 162
    np.testing.assert_array_equal(clip_inputs.ClipInputs(source)[:], x)
    with pytest.raises(ValueError, match="cannot reshape"):
        inputs.reshape(27, -1)
    with pytest.raises(InputError, match="20 clips, metadata of 3"):
        clip_inputs.ClipInputs(source, metadata[:3])


@pytest.mark.parametrize("standardize", [True, False])
def test_whitened_pca_is_that_of_scikit_learn(x, metadata, rng, standardize):
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    frames = x.reshape(-1, 5).astype(np.float64)
    if standardize:
        frames = StandardScaler().fit_transform(frames)
    expected = PCA(3, whiten=True).fit_transform(frames).reshape(20, 6, 3)
    scaling = clip_inputs.fit_scaling(x, standardize=standardize, pca=True, components=3)
    found = np.asarray(scaling(x))
    assert scaling.width == 3
    sign = np.sign(np.sum(found * expected, axis=(0, 1)))
    np.testing.assert_allclose(found, expected * sign, atol=2e-4)
    np.testing.assert_allclose(found.reshape(-1, 3).var(axis=0, ddof=1), 1, atol=1e-3)
    # Metadata stand behind the components; statistics are those of the real clips.
    inputs = clip_inputs.ClipInputs(x, metadata, mixed(rng))
    scaling = clip_inputs.fit_scaling(inputs, standardize=standardize, pca=True, components=3)
    both = np.asarray(scaling(inputs[:20]))
    assert scaling.width == 88 and both.shape == (20, 6, 88)
    np.testing.assert_allclose(both[..., :3], found, atol=1e-6)
    place = metadata[:, :2].astype(np.float64)
    np.testing.assert_allclose(both[:, 2, 3:5], (place - place.mean(0)) / place.std(0), atol=1e-3)
    np.testing.assert_array_equal(both[:, 2, 5:], metadata[:, 2:])


def test_directions_and_places_without_variance_give_zeros(x, metadata):
    flat = np.concatenate([x, x[..., :1], np.ones_like(x[..., :1])], axis=2)
    metadata[:, :2] = metadata[0, :2]
    inputs = clip_inputs.ClipInputs(flat, metadata)
    scaled = np.asarray(clip_inputs.fit_scaling(inputs, standardize=True, pca=True)(inputs[:]))
    assert not scaled[..., 5:7].any() and scaled[..., :5].std() == pytest.approx(1, abs=0.01)
    assert np.abs(scaled[..., 7:9]).max() < 1e-3
    with pytest.raises(InputError, match=r"(?s)8 components.*7 dimensions.*at most 7"):
        clip_inputs.fit_scaling(flat, standardize=True, pca=True, components=8)


def test_a_classifier_is_trained_on_all_of_it(x, metadata, rng, taxonomy, tmp_path):
    y = (rng.random((20, 8)) < 0.3).astype("f4")
    mixes = mixed(rng)
    inputs = clip_inputs.ClipInputs(x, metadata, mixes)
    targets = np.concatenate([y, mixes.targets(y)])
    validate = clip_inputs.ClipInputs(x[:5], metadata[:5])
    config = classifier.ClassifierConfig(
        epochs=1, pca=True, pca_components=4, batch_size=9, l2=0, learning_rate=1e-12)
    found = training.train(config, taxonomy, inputs, targets, validate, y[:5])
    likely = found.predict(inputs)
    # With weights that do not move, the losses are those of the predictions.
    loss_of = network.TagLoss("coarse", taxonomy)
    assert found.history[0]["loss"] == pytest.approx(float(loss_of(targets, likely)), rel=1e-5)
    assert found.history[0]["val_loss"] == pytest.approx(
        float(loss_of(y[:5], likely[:5])), rel=1e-5)
    kernel, bias, _ = found.model.get_weights()
    ready = np.asarray(clip_inputs.fit_scaling(x, standardize=True, pca=True, components=4)(x))
    place = (metadata[:, :2] - metadata[:, :2].mean(0)) / metadata[:, :2].std(0)
    ready = np.concatenate([ready, np.repeat(np.concatenate([place, metadata[:, 2:]], axis=1)[
        :, None], 6, axis=1)], axis=2)
    np.testing.assert_allclose(likely[:20], (1 / (1 + np.exp(-ready @ kernel - bias))).mean(axis=1),
                               atol=1e-3)
    found.save(tmp_path / "c.h5")
    back = classifier.Classifier.load(tmp_path / "c.h5")
    np.testing.assert_array_equal(back.predict(inputs), likely)
    with pytest.raises(InputError, match="5 values per frame; the classifier was trained on 90"):
        back.predict(x)
