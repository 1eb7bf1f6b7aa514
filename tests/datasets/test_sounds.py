"""The synthesised sounds: finite, level, repeatable, and different enough to be told apart."""

import numpy as np
import pytest

from l3hpc.datasets import sounds
from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy

RATE = 16000


def test_every_complete_tag_has_a_sound():
    tags = sonyc_ust_taxonomy().fine
    assert set(sounds.MAKERS) == {(tag.coarse, int(tag.fine)) for tag in tags if not tag.is_x}


@pytest.mark.parametrize("key", sounds.MAKERS)
@pytest.mark.parametrize(("seconds", "rate"), [(2.0, RATE), (1.0, 8000), (1.37, 44100)])
def test_sounds_are_finite_level_and_repeatable(key, seconds, rate):
    n = round(seconds * rate)
    sound = sounds.MAKERS[key](np.random.default_rng(3), n, rate)
    assert sound.shape == (n,) and sound.dtype == np.float32
    assert np.isfinite(sound).all()
    assert 0.05 < np.sqrt(np.mean(sound ** 2)) < 1.3
    assert np.abs(sound).max() < 20
    np.testing.assert_array_equal(sound, sounds.MAKERS[key](np.random.default_rng(3), n, rate))


def features(sound):
    frames = sound[:len(sound) // 512 * 512].reshape(-1, 512)
    power = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
    bands = np.stack([block.mean(axis=1) for block in np.array_split(power[:, 1:], 24, axis=1)])
    level = np.log(bands + 1e-6)
    return np.concatenate([level.mean(axis=1), level.std(axis=1)])


@pytest.mark.slow
def test_categories_can_be_learned():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    rows, labels = [], []
    for _ in range(12):
        for key, make in sounds.MAKERS.items():
            rows.append(features(make(rng, 2 * RATE, RATE) + 0.01 * rng.standard_normal(2 * RATE)))
            labels.append(key[0])
    half = len(rows) // 2
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(rows[:half], labels[:half])
    assert model.score(rows[half:], labels[half:]) > 0.8  # chance is 0.17
