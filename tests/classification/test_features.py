"""Frames or statistics: exact numbers, and clips in the order asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l3hpc.classification import folds
from l3hpc.classification.folds import Standardizer, statistics
from l3hpc.errors import InputError


@pytest.fixture
def bags(tmp_path):
    """Three clips of 1, 4 and 2 windows with 3 dimensions, as files."""
    rng = np.random.default_rng(3)
    found = {name: rng.normal(size=(count, 3)).astype(np.float32)
             for name, count in (("a", 1), ("b", 4), ("c", 2))}
    for name, frames in found.items():
        np.savez(tmp_path / f"{name}.npz", embedding=frames)
    return tmp_path, found


def test_frames_of_clips_follow_each_other(bags):
    folder, made = bags
    found = folds.load_features(folder, ["c.wav", "none.wav", "a.wav", "b.wav"], "framewise")
    assert found.files == ["c.wav", "a.wav", "b.wav"] and found.missing == ["none.wav"]
    assert found.counts.tolist() == [2, 1, 4]
    np.testing.assert_array_equal(found.x, np.concatenate([made["c"], made["a"], made["b"]]))
    assert found.rows(np.array([2, 0])).tolist() == [3, 4, 5, 6, 0, 1]
    assert found.rows(np.array([], int)).tolist() == []


def test_every_second_window(bags):
    folder, made = bags
    found = folds.load_features(folder, ["a.wav", "b.wav", "c.wav"], "framewise", every=3)
    assert found.counts.tolist() == [1, 2, 1]
    np.testing.assert_array_equal(found.x, np.concatenate(
        [made["a"], made["b"][[0, 3]], made["c"][:1]]))


def test_one_row_of_statistics_per_clip(bags):
    folder, made = bags
    found = folds.load_features(folder, ["b.wav", "a.wav"], "stats")
    assert found.x.shape == (2, 21) and found.counts.tolist() == [1, 1]
    np.testing.assert_allclose(found.x[0], statistics(made["b"]), rtol=1e-6)
    one = made["a"][0]
    np.testing.assert_array_equal(found.x[1], np.concatenate(
        [one, one, one, one, np.zeros(9)]).astype(np.float32))


def test_files_of_different_length_are_refused(bags):
    folder, _ = bags
    np.savez(folder / "b.npz", embedding=np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match="'b.wav' has 5 dimensions, the others 3"):
        folds.load_features(folder, ["a.wav", "b.wav"], "framewise")
    with pytest.raises(InputError, match="holds no embeddings of the clip") as refused:
        folds.load_features(folder, ["x.wav"], "stats")
    assert "submit esc50" in refused.value.hint


def test_statistics_of_known_numbers():
    found = statistics(np.array([[1.0], [2.0], [6.0]]))
    # deviations from 3: -2, -1, 3
    np.testing.assert_allclose(found, [1, 6, 2, 3, 14 / 3, (18 / 3) / (14 / 3) ** 1.5,
                                       (98 / 3) / (14 / 3) ** 2 - 3], rtol=1e-14)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(2, 12), st.just(3)),
              elements=st.integers(-50, 50).map(float)))
def test_statistics_are_those_of_scipy(x):
    from scipy import stats

    varies = x.min(axis=0) < x.max(axis=0)
    with np.errstate(all="ignore"):
        skew = np.where(varies, stats.skew(np.where(varies, x, np.arange(len(x))[:, None])),
                        0.0)
        kurtosis = np.where(varies, stats.kurtosis(
            np.where(varies, x, np.arange(len(x))[:, None])), 0.0)
    np.testing.assert_allclose(statistics(x), np.concatenate(
        [x.min(axis=0), x.max(axis=0), np.median(x, axis=0), x.mean(axis=0), x.var(axis=0),
         skew, kurtosis]), rtol=1e-9, atol=1e-9)


def test_standardisation_is_that_of_the_training_samples():
    train = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0]], np.float32)
    standard = Standardizer.fit(train)
    np.testing.assert_array_equal(standard(train), [[-1, 0, -1], [1, 0, 1]])
    np.testing.assert_array_equal(standard(np.array([[5.0, 6.0, 2.0]], np.float32)), [[4, 1, 0]])
