"""The classifier: learns, repeats itself, keeps the best epoch, round trips, refuses nonsense."""

import json

import h5py
import numpy as np
import pytest
from lazymodule import LazyModule

from l3hpc.arrays.row_file import RowFile
from l3hpc.errors import InputError, L3hpcError

tagging, training = LazyModule("l3hpc.tagging.classifier"), LazyModule("l3hpc.tagging.training")
network, clip_inputs = (LazyModule(f"l3hpc.tagging.{name}")
                        for name in ("network", "clip_inputs"))


def bags(rng, taxonomy, clips=64, frames=5, dim=12, level="coarse", model="mil"):
    """Clips with one tag each: audible in one frame (mil) or in all of them (framewise)."""
    directions = np.random.default_rng(99).standard_normal((len(taxonomy.fine), dim)) * 4
    y = np.zeros((clips, len(taxonomy.fine)), np.float32)
    x = rng.standard_normal((clips, frames, dim)).astype(np.float32)
    for clip in range(clips):
        tag = taxonomy.complete_fine[clip % len(taxonomy.complete_fine)]
        y[clip, tag] = 1
        x[clip, rng.integers(frames) if model == "mil" else slice(None)] += directions[tag]
    if level == "fine":
        return x * 3 + 1, y
    coarse = np.stack([y[:, taxonomy.complete(tag.id)].max(axis=1) for tag in taxonomy.coarse], 1)
    return x * 3 + 1, coarse


class Spy(RowFile):
    """Notes the largest block of bytes that was read or written at once, of all files."""

    largest = 0

    def _transfer(self, rows, block, call):
        Spy.largest = max(Spy.largest, block.nbytes)
        super()._transfer(rows, block, call)

    def _view(self, shape, offset):
        view = super()._view(shape, offset)
        view.__class__ = Spy
        return view


@pytest.fixture(scope="module")
def trained():
    from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy

    taxonomy = sonyc_ust_taxonomy()
    rng = np.random.default_rng(3)
    data, made = {}, {}
    for level, model in (("coarse", "mil"), ("fine", "mil"), ("coarse", "framewise"),
                         ("fine", "framewise")):
        data[level, model] = [array for clips in (230, 46) for array in bags(
            rng, taxonomy, clips, level=level, model=model)]
        config = tagging.ClassifierConfig(level, model, learning_rate=0.03, epochs=25, seed=4,
                                          batch_size=32, hidden_layers=int(model == "framewise"),
                                          hidden_size=32)
        made[level, model] = training.train(config, taxonomy, *data[level, model])
    return data, made


def test_every_kind_learns(trained):
    data, made = trained
    for (level, model), classifier in made.items():
        _, _, x, y = data[level, model]
        assert classifier.history[-1]["loss"] < 0.8 * classifier.history[0]["loss"]
        likely = classifier.predict(x, "max" if model == "framewise" else "mean")
        tags = range(8) if level == "coarse" else classifier.taxonomy.complete_fine
        assert likely.shape == (46, len(tags)) and likely.min() >= 0 and likely.max() <= 1
        right = np.mean(likely.argmax(axis=1) == y[:, list(tags)].argmax(axis=1))
        assert right > 0.8  # chance: 0.17 coarse, 0.04 fine


def test_autopool_grew_where_single_frames_decide(trained):
    alpha = trained[1]["coarse", "mil"].model.get_weights()[-1]
    assert alpha.shape == (8,) and (alpha >= 0).all() and alpha.max() > 0.1


def test_same_seed_same_numbers_and_other_seed_other_numbers(trained, taxonomy):
    data = trained[0]["coarse", "mil"]
    runs = [training.train(tagging.ClassifierConfig(epochs=3, seed=seed), taxonomy, *data)
            for seed in (1, 1, 2)]
    assert runs[0].history == runs[1].history
    for one, two in zip(runs[0].model.get_weights(), runs[1].model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert runs[0].history != runs[2].history


@pytest.mark.parametrize("model", ["mil", "framewise"])
def test_embeddings_on_disk_give_the_same_classifier_and_are_never_read_as_a_whole(
        trained, taxonomy, tmp_path, monkeypatch, model):
    x, y, x_validate, y_validate = trained[0]["coarse", model]
    everything = {"sensor_factor": True, "proximity_factor": True, "cooccurrence_loss": True}
    config = tagging.ClassifierConfig(model=model, epochs=2,
                                      **everything if model == "mil" else {})
    more = {"sensors": "ab", "sensor": np.arange(len(x)) % 2,
            "proximity": (np.arange(8 * len(x)) % 3 - 1).reshape(-1, 8)}
    whole = training.train(config, taxonomy, x, y, x_validate, y_validate, **more)
    expected = whole.predict(x_validate)
    monkeypatch.setattr("l3hpc.tagging.clip_inputs.BLOCK_BYTES", 20 * x[0].nbytes)
    file = Spy(tmp_path / "x.bin", "f4", (len(x) + len(x_validate), *x.shape[1:]), "w+")
    file[:] = np.concatenate([x, x_validate])
    Spy.largest = 0
    found = training.train(config, taxonomy, file.part(0, len(x)), y, file.part(len(x), len(file)),
                           y_validate, **more)
    for one, two in zip(whole.model.get_weights(), found.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert [row["epoch"] for row in found.history] == [1, 2]
    np.testing.assert_allclose([row["val_loss"] for row in found.history],
                               [row["val_loss"] for row in whole.history], rtol=1e-6)
    rows = np.array([7, 3, 45, 0])
    np.testing.assert_allclose(found.predict(file.part(len(x), len(file)), rows=rows),
                               expected[rows], atol=1e-6)
    found.predict(file)
    assert 20 * x[0].nbytes <= Spy.largest <= 64 * x[0].nbytes  # a batch has 64 clips


def test_blocks_are_smaller_than_those_that_the_c_library_keeps(taxonomy, tmp_path):
    # glibc gives freed blocks of 4 MB back, and keeps those of 32 MB for the thread that had them.
    clips = Spy(tmp_path / "x.bin", "f4", (800, 91, 128), "w+")
    Spy.largest = 0
    scaling = clip_inputs.fit_scaling(clips, standardize=True)
    classifier = tagging.untrained(tagging.ClassifierConfig(), taxonomy, scaling)
    classifier.predict(clips)
    training.Loop(classifier, clips, np.zeros((800, 8), np.float32)).loss()
    clip_inputs.fit_scaling(clips.part(0, 400), standardize=True, pca=True)
    assert 4e6 < Spy.largest < 5e6


def test_the_best_epoch_is_kept_and_patience_ends_training(trained, taxonomy):
    x, y, x_validate, y_validate = trained[0]["coarse", "mil"]
    seen = []
    config = tagging.ClassifierConfig(learning_rate=0.05, epochs=50, patience=4, l2=0.0)
    classifier = training.train(  # targets of validate are turned round: worse from the start
        config, taxonomy, x, y, x_validate, 1 - y_validate,
        on_epoch=lambda epoch, values: seen.append((epoch, values)))
    losses = [one["val_loss"] for one in classifier.history]
    assert classifier.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == classifier.best_epoch + 4 < 50
    assert [epoch for epoch, _ in seen] == list(range(1, len(losses) + 1))
    assert seen[-1][1]["best"] == min(losses)
    probability = classifier.predict(x_validate)
    again = float(network.TagLoss("coarse", taxonomy)(1 - y_validate, probability))
    assert again == pytest.approx(min(losses), rel=1e-5)


def test_round_trip_executes_nothing_and_changes_nothing(trained, tmp_path):
    data, made = trained
    for key, classifier in made.items():
        path = tmp_path / "classifier.h5"
        classifier.save(path)
        back = tagging.Classifier.load(path)
        assert back.config == classifier.config and back.taxonomy == classifier.taxonomy
        assert back.history == classifier.history and back.best_epoch == classifier.best_epoch
        x = data[key][2]
        np.testing.assert_array_equal(back.predict(x, "max"), classifier.predict(x, "max"))
        with h5py.File(path) as file:
            assert json.loads(file.attrs["settings"])["config"]["level"] == key[0]


def test_other_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = [1]
    with pytest.raises(InputError, match="not a tag classifier"):
        tagging.Classifier.load(tmp_path / "x.h5")
    (tmp_path / "y.h5").write_text("no")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        tagging.Classifier.load(tmp_path / "y.h5")


def test_poolings_of_framewise_predictions(trained):
    data, made = trained
    classifier, x = made["coarse", "framewise"], data["coarse", "framewise"][2][:3]
    frames = classifier.frame_probabilities(x).astype(np.float64)
    assert frames.shape == (3, 5, 8)
    np.testing.assert_allclose(classifier.predict(x, "max"), frames.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(classifier.predict(x, "mean"), frames.mean(axis=1), rtol=1e-6)
    weight = np.exp(frames) / np.exp(frames).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.predict(x, "softmax"), (weight * frames).sum(axis=1),
                               rtol=1e-5)
    with pytest.raises(InputError, match="did you mean 'mean'"):
        classifier.predict(x, "mena")


def test_predictions_table_of_both_levels(trained):
    data, made = trained
    coarse = made["coarse", "mil"].predictions(["a", "b"], data["coarse", "mil"][2][:2])
    assert coarse.coarse.shape == (2, 8) and not coarse.fine.any()
    fine = made["fine", "mil"].predictions(["a", "b"], data["fine", "mil"][2][:2])
    assert fine.fine.shape == (2, 29) and fine.coarse.max() == fine.fine.max()


def test_autopool_is_a_softmax_weighted_mean(rng):
    x = rng.random((2, 6, 3)).astype(np.float32)
    layer = network.AutoPool()
    np.testing.assert_allclose(np.asarray(layer(x)), x.mean(axis=1), rtol=1e-6)
    alpha = np.array([0.0, 3.0, 500.0], np.float32)
    layer.set_weights([alpha])
    weight = np.exp(alpha * x - (alpha * x).max(axis=1, keepdims=True))
    expected = (x * weight).sum(axis=1) / weight.sum(axis=1)
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(layer(x))[:, 2], x[:, :, 2].max(axis=1), rtol=2e-2)


def test_fine_loss_leaves_out_categories_whose_x_is_true(taxonomy, rng):
    y = (rng.random((4, 29)) < 0.4).astype(np.float32)
    p = rng.uniform(0.05, 0.95, (4, 23)).astype(np.float32)
    expected = 0.0
    for clip in range(4):
        for place, column in enumerate(taxonomy.complete_fine):
            other = taxonomy.other(taxonomy.fine[column].coarse)
            if other is None or not y[clip, other]:
                probability = float(p[clip, place])
                hit = y[clip, column]
                expected -= np.log(probability if hit else 1 - probability)
    got = float(network.TagLoss("fine", taxonomy)(y, p))
    assert got == pytest.approx(expected / 4, rel=1e-5)
    coarse_y, coarse_p = y[:, :8], p[:, :8]
    soft = rng.random((4, 8)).astype(np.float32)
    assert float(network.TagLoss("coarse", taxonomy)(soft, coarse_p)) == pytest.approx(-np.mean(
        soft * np.log(coarse_p) + (1 - soft) * np.log(1 - coarse_p)), rel=1e-5)
    mean = -np.mean(np.where(coarse_y == 1, np.log(coarse_p), np.log(1 - coarse_p)))
    assert float(network.TagLoss("coarse", taxonomy)(coarse_y, coarse_p)) == pytest.approx(
        mean, rel=1e-5)


def test_standardizer_equals_the_plain_formula_far_from_zero(rng):
    x = (rng.standard_normal((40, 7, 5)) * [1, 2, 3, 1e-3, 0] + [0, 1e4, -5, 3, 8]).astype("f4")
    mean, scale = clip_inputs.standardizer(x)
    flat = x.reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scale[:4], flat.std(axis=0)[:4], rtol=1e-4)
    assert scale[4] == 1


def test_without_standardising_a_framewise_model_normalises_itself(trained, taxonomy):
    data = trained[0]["coarse", "mil"]
    config = tagging.ClassifierConfig("coarse", "framewise", standardize=False, epochs=2)
    classifier = training.train(config, taxonomy, *data)
    assert (classifier.scaling.mean == 0).all() and (classifier.scaling.scale == 1).all()
    moving = classifier.model.layers[1].moving_mean.numpy()
    assert np.abs(moving).max() > 0.01


def test_nonsense_is_refused(taxonomy, rng):
    x, y = bags(rng, taxonomy, 8)
    config = tagging.ClassifierConfig(epochs=1)
    with pytest.raises(InputError, match="split 'validate' has no clips"):
        training.train(config, taxonomy, x, y, x[:0], y[:0])
    with pytest.raises(InputError, match="8 clips, 7 targets"):
        training.train(config, taxonomy, x, y[:7], x, y)
    with pytest.raises(InputError, match="train has 12 dimensions, validate 5"):
        training.train(config, taxonomy, x, y, x[:, :, :5], y)
    with pytest.raises(InputError, match=r"split 'train': embeddings of shape \(8, 0, 12\)"):
        training.train(config, taxonomy, x[:, :0], y, x, y)
    with pytest.raises(InputError, match="clips of 0 frames"):
        training.train(config, taxonomy, x, y, x, y).predict(x[:, :0])
    with pytest.raises(InputError, match="did you mean 'coarse'"):
        tagging.ClassifierConfig("corse")
    x[0, 0, 0] = np.nan
    with pytest.raises(L3hpcError, match="training diverged: the loss is not finite in epoch 1"):
        training.train(config, taxonomy, x, y, x, y)


def test_small_sets_have_smaller_batches():
    from l3hpc.tagging.classifier import batch_for

    assert [batch_for(samples) for samples in (1, 64, 127, 128, 500, 1023, 1024, 10 ** 6)] == [
        4, 4, 4, 8, 16, 32, 64, 64]
