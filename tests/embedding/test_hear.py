"""Our models keep the rules of the HEAR 2021 interface, at the lengths that its validator tries.

The rules are those of the validator, checked strictly: what it only warns about fails here. The
validator itself is old (Python below 3.9) and needs PyTorch, so the suite does not install it.
"""

import importlib

import numpy as np
import pytest

from l3hpc.audio.resample import resample
from l3hpc.embedding.embed import get_embedding
from l3hpc.errors import InputError
from l3hpc.models import weights
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec

LENGTHS = (1.07, 1.98, 4.0)
SCENE_LENGTH = 2.74
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hear():
    return importlib.import_module("l3hpc.hear")


@pytest.fixture(scope="module")
def hear_student(hear, student):
    return hear.load_model(str(student), engine="ncnn")


def batch(seconds, rate, sounds=2):
    """Noise in [-1, 1], as the validator makes it."""
    noise = np.random.default_rng(3).uniform(-1, 1, (sounds, int(seconds * rate)))
    return noise.astype(np.float32)


def tensor(hear, audio):
    return hear.tf.constant(audio)


@pytest.mark.parametrize("seconds", LENGTHS)
def test_timestamp_embeddings_keep_the_rules(hear, hear_student, seconds):
    audio = tensor(hear, batch(seconds, hear_student.sample_rate))
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, hear_student)
    assert isinstance(embeddings, hear.tf.Tensor) and isinstance(timestamps, hear.tf.Tensor)
    assert embeddings.dtype == timestamps.dtype == hear.tf.float32
    assert embeddings.shape[:2] == timestamps.shape and embeddings.shape[0] == 2
    assert embeddings.shape[2] == hear_student.timestamp_embedding_size == 5
    times = timestamps.numpy()
    interval = np.diff(times).mean()
    assert interval == 50 and np.abs(np.diff(times) - interval).max() < 1e-3
    assert times.min() <= interval
    assert 1000 * seconds - interval <= times.max() <= 1000 * seconds


def test_scene_embeddings_keep_the_rules(hear, hear_student):
    audio = tensor(hear, batch(SCENE_LENGTH, hear_student.sample_rate, sounds=4))
    embeddings = hear.get_scene_embeddings(audio, hear_student)
    assert isinstance(embeddings, hear.tf.Tensor) and embeddings.dtype == hear.tf.float32
    assert embeddings.shape == (4, hear_student.scene_embedding_size)


def test_a_model_is_a_tensorflow_module_with_whole_numbers(hear, hear_student):
    assert isinstance(hear_student, hear.tf.Module)
    assert (type(hear_student.sample_rate), hear_student.sample_rate) == (int, 16000)
    assert type(hear_student.scene_embedding_size) is int


def test_timestamps_are_the_centres_of_the_windows(hear, hear_student):
    """As from get_embedding; half a second of zeros at the end gives windows up to the end."""
    audio = batch(1.98, 16000)
    embeddings, _ = hear.get_timestamp_embeddings(tensor(hear, audio), hear_student)
    for row, found in zip(audio, embeddings.numpy(), strict=True):
        padded = np.pad(resample(row, 16000, 8000), (0, 4000))
        expected, times = get_embedding(padded, 8000, hear_student.model, hop_size=0.05)
        assert len(found) == 40 and times[39] == pytest.approx(1.95)
        np.testing.assert_allclose(found, expected[:40], rtol=1e-4, atol=1e-5)


def test_a_scene_is_the_mean_of_windows_within_the_sound(hear, hear_student):
    audio = batch(SCENE_LENGTH, 16000)
    found = hear.get_scene_embeddings(tensor(hear, audio), hear_student).numpy()
    for row, mean in zip(audio, found, strict=True):
        expected, _ = get_embedding(row, 16000, hear_student.model, center=False)
        np.testing.assert_allclose(mean, expected.mean(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rate", "announced"), [(22050, 22050), (24000, 44100), (96000, 48000)])
def test_the_announced_rate_has_all_that_the_network_hears(hear, networks, tmp_path, rate,
                                                           announced):
    """At 22,050 Hz an interval is 1102.5 samples: windows do not drift."""
    spec = NetworkSpec(rate, 32, rate // 50, 256, filters=(2, 2, 3, 3, 4, 4, 5, 5))
    weights.save(Parameters(spec, tuple(networks.random_layers(spec))), tmp_path / "student.h5")
    model = hear.load_model(str(tmp_path / "student.h5"), engine="ncnn")
    assert model.sample_rate == announced
    audio = batch(1.07, announced)
    _, timestamps = hear.get_timestamp_embeddings(tensor(hear, audio), model)
    assert timestamps.numpy()[0].tolist() == [50.0 * number for number in range(22)]


def test_windows_of_another_length_share_their_centres(hear):
    """A model that shows the middle of its window: the time of each row of a ramp."""
    class Middle:
        rate, window_s, dim = 16000, 3.0, 1

        def embed(self, frames):
            return frames[:][:, 24000:24001]

    model = hear.HearModel(Middle())
    ramp = np.arange(2 * 16000, dtype=np.float32)[np.newaxis] / 16
    embeddings, timestamps = hear.get_timestamp_embeddings(tensor(hear, ramp), model)
    np.testing.assert_array_equal(embeddings.numpy()[0, :40, 0], timestamps.numpy()[0, :40])
    assert hear.get_scene_embeddings(tensor(hear, ramp), model).numpy().tolist() == [[1500.0]]


def test_other_shapes_and_no_weights_are_refused(hear, hear_student):
    with pytest.raises(InputError, match=r"audio has the shape \(16000,\)"):
        hear.get_scene_embeddings(tensor(hear, batch(1, 16000)[0]), hear_student)
    with pytest.raises(InputError, match=r"audio has the shape \(2, 0\)"):
        hear.get_timestamp_embeddings(tensor(hear, batch(0, 16000)), hear_student)
    with pytest.raises(InputError, match="no model was given"):
        hear.load_model()
