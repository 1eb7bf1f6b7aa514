import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio import frontends
from l3hpc.audio.conventions import CONVENTIONS
from l3hpc.audio.frontends import OPENL3_FRONTENDS, Frontend
from l3hpc.audio.mels import max_mels_without_empty
from l3hpc.errors import InputError

_spec = importlib.util.spec_from_file_location(
    "audio_reference", Path(__file__).with_name("reference.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def noise(count, rate, seed=0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((count, rate))).astype(np.float32)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("n_dft", "hop", "n_mels", "fmax"), [
    (1024, 160, 64, None), (512, 130, None, None), (1024, 160, 40, 3000.0), (256, 100, 32, None)])
def test_equals_float64_reference_at_8_khz(convention, n_dft, hop, n_mels, fmax):
    frames = noise(3, 8000) * np.array([[1.0], [0.1], [3.0]], np.float32)
    expected = reference.spectrograms(frames, 8000, n_dft, hop, n_mels, fmax, convention)
    found = Frontend(8000, n_dft, hop, n_mels, fmax, convention)(frames)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (3, *Frontend(8000, n_dft, hop, n_mels, fmax,
                                                          convention).shape)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", OPENL3_FRONTENDS)
def test_equals_float64_reference_with_openl3_geometry(convention, name):
    front = OPENL3_FRONTENDS[name]
    frames = noise(1, 48000)
    expected = reference.spectrograms(frames, 48000, front.n_dft, 242, front.n_mels, None,
                                      convention)
    found = Frontend(48000, front.n_dft, 242, front.n_mels, None, convention)(frames)
    assert np.abs(found - expected).max() < 1e-3


@settings(max_examples=60, deadline=None)
@given(rate=st.integers(1000, 6000), half=st.integers(16, 300), hop=st.integers(20, 700),
       mels=st.one_of(st.none(), st.integers(1, 40)),
       top=st.one_of(st.none(), st.floats(0.05, 1.0)), convention=st.sampled_from(CONVENTIONS))
def test_any_geometry_equals_the_reference(rate, half, hop, mels, top, convention):
    fmax = None if top is None else top * rate / 2
    frames = noise(2, rate, seed=rate) * np.array([[1.0], [0.2]], np.float32)
    expected = reference.spectrograms(frames, rate, 2 * half, hop, mels, fmax, convention)
    front = Frontend(rate, 2 * half, hop, mels, fmax, convention)
    found = front(frames)
    assert found.shape == expected.shape == (2, *front.shape)
    assert np.abs(found - expected).max() < 1e-3
    lowest = found.min(axis=(1, 2), keepdims=True)  # what an empty band says of any sound
    assert (found[:, front.empty_bands()] == lowest).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("rate", "n_dft", "hop", "n_mels", "fmax"), [
    (44100, 1764, 441, 96, 16000.0), (22050, 1000, 220, 80, None), (16000, 400, 160, 80, 7600.0),
    (11025, 512, 99, None, None), (32000, 2048, 3000, 64, 14000.0), (96000, 2400, 960, 40, None)])
def test_other_rates_equal_the_reference(rate, n_dft, hop, n_mels, fmax, convention):
    frames = noise(1, rate, seed=rate)
    expected = reference.spectrograms(frames, rate, n_dft, hop, n_mels, fmax, convention)
    found = Frontend(rate, n_dft, hop, n_mels, fmax, convention)(frames)
    assert np.abs(found - expected).max() < 1e-3


@settings(max_examples=30, deadline=None)
@given(rate=st.integers(100, 500), half=st.integers(4, 40), hop=st.integers(3, 100))
def test_padding_is_that_of_tensorflow(rate, half, hop):
    """A pads as a strided "SAME" convolution (kapre 0.1.4), B as stft(pad_end=True) (0.3.5)."""
    import tensorflow as tf

    n_dft = 2 * half
    frame = noise(1, rate, seed=rate).astype(np.float64)
    angles = 2 * np.pi * np.outer(np.arange(n_dft), np.arange(half + 1)) / n_dft
    kernels = np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)
    kernels *= frontends.hann(n_dft)[:, None]
    parts = tf.nn.conv1d(frame[..., None], kernels[:, None], hop, "SAME").numpy()[0]
    power = (parts[:, :half + 1] ** 2 + parts[:, half + 1:] ** 2).T
    spectra = tf.signal.stft(frame, n_dft, hop, n_dft, pad_end=True).numpy()[0]
    for convention, before_mels in (("A", power), ("B", np.abs(spectra).T)):
        front = Frontend(rate, n_dft, hop, 3, None, convention)
        energy = front.filterbank().T @ before_mels
        decibels = 10 * np.log10(np.maximum(
            np.sqrt(energy) if convention == "A" else energy, 1e-10))
        expected = np.maximum(decibels - decibels.max(), -80)
        assert np.abs(front(frame)[0] - expected).max() < 1e-3



def test_a_filterbank_that_no_memory_holds_is_refused():
    for mels in (2**31, 70_000):
        with pytest.raises(InputError, match="mel bands of a DFT of 1024 samples"):
            Frontend(8000, 1024, 160, mels)
    assert Frontend(8000, 1024, 160, 512).bands == 512


def test_published_geometries():
    assert {name: (front.rate, front.n_dft, front.hop, front.n_mels, front.fmax, front.convention)
            for name, front in OPENL3_FRONTENDS.items()} == {
        "linear": (48000, 512, 242, None, None, "A"),
        "mel128": (48000, 2048, 242, 128, None, "A"),
        "mel256": (48000, 2048, 242, 256, None, "A")}


def test_published_shapes():
    assert {name: front.shape for name, front in OPENL3_FRONTENDS.items()} == {
        "linear": (257, 197), "mel128": (128, 199), "mel256": (256, 199)}
    assert Frontend(8000, 1024, 160, 64).shape == (64, 50)
    assert Frontend(8000, 1024, 160, 64, convention="D").shape == (64, 51)
    assert Frontend(8000, 1024, 160, 64).padding() == (432, 432)
    assert OPENL3_FRONTENDS["mel256"].padding() == (982, 982)


def test_teacher_has_its_two_known_empty_bands_and_they_stay_at_minus_80():
    front = OPENL3_FRONTENDS["mel256"]
    assert front.empty_bands() == [0, 7]
    assert (front(noise(1, 48000))[0, [0, 7]] == -80).all()
    assert OPENL3_FRONTENDS["mel128"].empty_bands() == []
    assert OPENL3_FRONTENDS["linear"].empty_bands() == []


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from([8000, 16000, 22050, 44100, 48000]),
       n_dft=st.sampled_from([256, 400, 512, 1024, 2048]), mels=st.integers(1, 512),
       htk=st.booleans())
def test_empty_bands_are_the_zero_columns(rate, n_dft, mels, htk):
    front = Frontend(rate, n_dft, 160, mels, convention="A" if htk else "B")
    assert front.empty_bands() == np.flatnonzero(~front.filterbank().any(axis=0)).tolist()


def test_most_mels_without_an_empty_band():
    most = max_mels_without_empty(8000, 1024)
    assert most == 342
    assert all(not Frontend(8000, 1024, 160, count).empty_bands() for count in range(1, most + 1))
    assert Frontend(8000, 1024, 160, most + 1).empty_bands()


def test_filters_have_unit_area():
    bank = Frontend(8000, 4096, 160, 40).filterbank()
    assert bank.sum(axis=0) * 8000 / 4096 == pytest.approx(np.ones(40), rel=2e-3)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_silence_is_zero_everywhere(convention):
    assert (Frontend(8000, 1024, 160, 64, None, convention)(np.zeros((2, 8000))) == 0).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_batched_equals_single_except_for_the_batch_wide_one(convention, monkeypatch):
    front = Frontend(8000, 1024, 160, 64, None, convention)
    frames = noise(7, 8000) * np.linspace(0.01, 1, 7, dtype=np.float32)[:, None]
    together = front(frames)
    single = np.concatenate([front(frame[None]) for frame in frames])
    monkeypatch.setattr(frontends, "CHUNK_BYTES", 2 * 50 * 1024 * 8)
    np.testing.assert_allclose(front(frames, threads=2), together, atol=2e-5)
    if convention == "A'":
        assert np.abs(together - single).max() > 1
        assert together.max() == 0 and (together.max(axis=(1, 2)) < 0).sum() == 6
    else:
        np.testing.assert_allclose(single, together, atol=2e-5)


@pytest.mark.parametrize(("n_dft", "hop", "mels", "step"), [
    (1024, 160, 64, 800), (1024, 160, 64, 160), (512, 130, None, 260), (1024, 150, 40, 7050),
    (1000, 100, 32, 2000)])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_overlapping_frames_share_spectra_and_give_the_same(convention, n_dft, hop, mels, step,
                                                            monkeypatch):
    front = Frontend(8000, n_dft, hop, mels, None, convention)
    signal = np.concatenate(noise(4, 8000) * np.array([[1], [0.01], [0.3], [1]], np.float32))
    frames = np.lib.stride_tricks.sliding_window_view(signal, 8000)[::step]
    computed = []
    decibels = Frontend._decibels
    monkeypatch.setattr(Frontend, "_decibels", lambda self, windows, out: (
        computed.append(windows.shape[0] * windows.shape[1]), decibels(self, windows, out)))
    expected = front(np.ascontiguousarray(frames))
    assert sum(computed) == len(frames) * front.shape[1]
    alone = sum(computed)
    computed.clear()
    np.testing.assert_allclose(front(frames), expected, atol=2e-5)
    assert sum(computed) < alone or step == 7050  # too far apart to share anything
    computed.clear()
    monkeypatch.setattr(frontends, "CHUNK_BYTES", 100 * n_dft * 8)
    np.testing.assert_allclose(front(frames, threads=2), expected, atol=2e-5)


def test_a_second_long_hop_apart_or_every_other_sample_shares_nothing():
    front = Frontend(8000, 1024, 160, 64)
    signal = noise(1, 80_000)[0]
    expected = front(np.ascontiguousarray(signal.reshape(10, 8000)))
    np.testing.assert_array_equal(front(signal.reshape(10, 8000)), expected)
    thin = np.lib.stride_tricks.as_strided(signal, (4, 8000), (160 * 4, 8))
    np.testing.assert_allclose(front(thin), front(np.ascontiguousarray(thin)), atol=2e-5)
    twice = np.broadcast_to(signal[:8000], (3, 8000))
    np.testing.assert_allclose(front(twice), front(np.ascontiguousarray(twice)), atol=2e-5)


def test_spectrograms_go_where_they_are_wanted():
    front = Frontend(8000, 1024, 160, 64)
    frames, place = noise(3, 8000), np.empty((3, 64, 50), np.float32)
    assert front(frames, out=place) is place
    np.testing.assert_array_equal(place, front(frames))


def test_no_frames_give_no_spectrograms():
    assert Frontend(8000, 1024, 160, 64)(np.zeros((0, 8000))).shape == (0, 64, 50)
    assert Frontend(8000, 1024, 160, 64, None, "A'")(np.zeros((0, 8000))).shape == (0, 64, 50)


@pytest.mark.parametrize(("values", "said"), [
    ((0, 1024, 160, 64), "a rate of 0"), ((8000, 1023, 160, 64), "a DFT of 1023"),
    ((8000, 0, 160, 64), "a DFT of 0"), ((8000, 8002, 160, 64), "a DFT of 8002"),
    ((8000, 1024, 0, 64), "a hop of 0"), ((8000, 1024, 8001, 64), "a hop of 8001"),
    ((8000, 1024, 160, 0), "0 mel bands"), ((8000, 1024, 160, 64, 4000.5), "fmax 4000.5"),
    ((8000, 1024, 160, 64, 0.0), "fmax 0.0"), ((8000, 1024, 160, 64, None, "Z"), "'Z'")])
def test_refuses_impossible_geometry(values, said):
    with pytest.raises(InputError, match=said):
        Frontend(*values)


def test_takes_what_is_just_possible():
    assert Frontend(8000, 8000, 8000, 1, 4000.0).shape == (1, 1)
    assert Frontend(8000, 2, 1, 1, 0.5).shape == (1, 8000)


def test_memory_does_not_grow_with_the_frames(monkeypatch):
    monkeypatch.setattr(frontends, "CHUNK_BYTES", 1 << 20)
    front = Frontend(8000, 1024, 160, 64)
    frames = noise(1, 8000).repeat(100, axis=0)
    front(frames[:1])  # the filters are kept
    tracemalloc.start()
    result = front(frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result.nbytes + 5 * (1 << 20)


def test_refuses_frames_of_another_length():
    with pytest.raises(InputError, match="8000"):
        Frontend(8000, 1024, 160, 64)(np.zeros((2, 48000)))


@pytest.mark.parametrize("geometry", [
    (8000, 1024, 160, 64, None), (8000, 1024, 160, 32, 3000.0), (48000, 512, 242, None, None),
    (48000, 2048, 242, 256, None), (4000, 100, 333, 12, None), (11025, 500, 99, 24, 5000.0)])
def test_keras_layer_equals_the_frontend(geometry):
    from l3hpc.audio.frontend_layer import MelFrontend

    frames = noise(2, geometry[0])
    layer = MelFrontend(*geometry)
    found = np.asarray(layer(frames))
    expected = Frontend(*geometry)(frames)
    assert found.shape == (*expected.shape, 1)
    assert layer.compute_output_shape((None, geometry[0])) == (None, *expected.shape[1:], 1)
    assert np.abs(found[..., 0] - expected).max() < 1e-3
    assert not layer.weights
    again = MelFrontend.from_config(layer.get_config())
    assert again.frontend == layer.frontend


def test_keras_layer_stays_in_float32_and_refuses_other_conventions():
    import keras

    from l3hpc.audio.frontend_layer import MelFrontend

    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        layer = MelFrontend(8000, 1024, 160, 64)
        frames = noise(2, 8000)
        assert np.abs(np.asarray(layer(frames))[..., 0]
                      - Frontend(8000, 1024, 160, 64)(frames)).max() < 1e-3
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    with pytest.raises(InputError, match="convention"):
        MelFrontend(8000, 1024, 160, 64, convention="B")


@pytest.mark.parametrize("front", [
    Frontend(48000, 2048, 242, 256), Frontend(48000, 2048, 242, 128), Frontend(8000, 1024, 160, 64),
    Frontend(48000, 4096, 100, 8), Frontend(8000, 256, 160, 128)], ids=str)
def test_filter_blocks_are_the_filterbank_in_pieces_too_small_for_threads_of_blas(front):
    bank = np.zeros((front.n_dft // 2 + 1, front.n_mels))
    after = 0
    for first, last, low, high, weights in front._blocks():
        assert first == after and weights.shape == (last - first, high - low)
        assert weights.size * front.shape[1] <= 2**18 or last == first + 1
        bank[low:high, first:last] = weights.T
        after = last
    np.testing.assert_array_equal(bank, front.filterbank().astype(np.float32))
    assert len(front._blocks()) <= max(front.n_mels / 4, 8)  # not one band at a time
