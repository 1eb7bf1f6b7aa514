import numpy as np
import pytest

from l3hpc.audio import levels
from l3hpc.audio.framing import frame_audio
from l3hpc.audio.levels import FLOOR_DB, a_weighting_db, frame_levels

# IEC 61672-1 table 3: nominal frequency, A-weighting in dB (rounded to 0.1)
IEC = [(10, -70.4), (20, -50.5), (31.5, -39.4), (63, -26.2), (125, -16.1), (250, -8.6),
       (500, -3.2), (1000, 0.0), (2000, 1.2), (4000, 1.0), (8000, -1.1), (16000, -6.6),
       (20000, -9.3)]


@pytest.mark.parametrize(("nominal", "expected"), IEC)
def test_curve_is_that_of_the_standard(nominal, expected):
    exact = 1000.0 * 10.0 ** (round(10 * np.log10(nominal / 1000)) / 10)
    assert a_weighting_db(exact) == pytest.approx(expected, abs=0.051)


def test_zero_frequency_has_no_weight():
    assert a_weighting_db(0.0) == -np.inf


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("hz", [31.5, 125, 1000, 3150])
def test_tones_have_the_level_of_the_curve(rate, hz):
    tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(5 * rate) / rate)
    found = frame_levels(tone, rate)
    expected = 20 * np.log10(0.5 / np.sqrt(2)) + a_weighting_db(hz)
    assert found[2:-2] == pytest.approx(np.full(len(found) - 4, expected), abs=0.02)


def test_noise_level_is_that_of_its_weighted_spectrum():
    rate = 16000
    noise = np.random.default_rng(0).standard_normal(rate * 4) * 0.05
    power = np.abs(np.fft.rfft(noise)) ** 2 * 10 ** (
        a_weighting_db(np.fft.rfftfreq(len(noise), 1 / rate)) / 10)
    expected = 10 * np.log10(2 * power.sum() / len(noise) ** 2)
    found = frame_levels(noise, rate, center=False, hop_s=1.0)
    assert 10 * np.log10(np.mean(10 ** (found / 10))) == pytest.approx(expected, abs=0.02)


def test_same_frames_as_frame_audio_and_padding_is_not_counted():
    for length in (4000, 8000, 80000, 83217):
        for center in (True, False):
            signal = np.sin(np.arange(length))
            found = frame_levels(signal, 8000, 1.0, 0.5, center)
            assert found.dtype == np.float32
            assert len(found) == len(frame_audio(signal, 8000, 0.5, center)[0])
            assert np.ptp(found) < 0.3


def test_blocks_do_not_show(monkeypatch):
    signal = np.random.default_rng(1).standard_normal(100_000) * 0.1
    whole = frame_levels(signal, 8000)
    rare = frame_levels(signal, 8000, hop_s=3.0)
    monkeypatch.setattr(levels, "BLOCK", 20_000)
    np.testing.assert_allclose(frame_levels(signal, 8000), whole, atol=1e-3)
    np.testing.assert_allclose(frame_levels(signal, 8000, hop_s=3.0), rare, atol=1e-3)


def test_a_drifting_offset_does_not_count(monkeypatch):
    monkeypatch.setattr(levels, "BLOCK", 20_000)
    noise = np.random.default_rng(1).standard_normal(100_000) * 1e-3
    drift = np.linspace(0.0, 0.5, len(noise))
    inside = slice(2, -1)  # at its ends the recording really jumps
    np.testing.assert_allclose(frame_levels(noise + drift, 8000)[inside],
                               frame_levels(noise, 8000)[inside], atol=1e-2)


def test_silence_offset_and_constant():
    assert (frame_levels(np.zeros(16000), 8000) == FLOOR_DB).all()
    assert (frame_levels(np.full(16000, 0.3), 8000) < -100).all()
    tone = np.sin(np.arange(16000))
    np.testing.assert_allclose(frame_levels(tone, 8000, offset_db=94.0),
                               frame_levels(tone, 8000) + 94, atol=1e-4)
