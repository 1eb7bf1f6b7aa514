"""The published resampling filter against its definition, one output sample at a time."""

import math

import numpy as np
import pytest
from scipy.special import i0

from l3hpc.audio.resample import resample, resample_kaiser
from l3hpc.errors import InputError


def filter_at(crossings):
    """sinc under the Kaiser window, between table entries by a straight line."""
    def value(index):
        time = index / 512
        if index > 64 * 512:
            return 0.0
        window = i0(14.769656459379492 * math.sqrt(max(1 - (time / 64) ** 2, 0))) / i0(
            14.769656459379492)
        rolloff = 0.9475937167399596
        return rolloff * np.sinc(rolloff * time) * window

    low = int(crossings * 512)
    part = crossings * 512 - low
    here, there = value(low), value(low + 1) if low < 64 * 512 else value(low)
    return here + part * (there - here)


def sample(signal, number, source, target):
    """By Smith's rule with table steps cut to whole ones, as published."""
    scale = min(1.0, target / source)
    step = int(scale * 512)
    up, down = target // math.gcd(source, target), source // math.gcd(source, target)
    first, rest = divmod(number * down, up)
    total = 0.0
    for index, direction, distance in ((first, -1, scale * rest / up),
                                       (first + 1, 1, scale - scale * rest / up)):
        count = (64 * 512 + 1 - int(distance * 512)) // step
        for tap in range(count):
            place = index + direction * tap
            if 0 <= place < len(signal):
                total += signal[place] * filter_at(distance + tap * step / 512)
    return total * scale


@pytest.mark.parametrize(("source", "target"), [
    (44100, 48000), (48000, 8000), (44100, 8000), (8000, 48000), (11025, 8000)])
def test_equals_its_definition(source, target):
    signal = np.random.default_rng(0).standard_normal(700)
    have = resample_kaiser(signal, source, target)
    assert have.dtype == np.float32 and len(have) == 700 * target // source
    for number in {0, 1, 5, len(have) // 2, len(have) - 1}:
        assert have[number] == pytest.approx(sample(signal, number, source, target), abs=3e-6)


def test_a_tone_in_the_band_is_the_same_as_by_soxr():
    time = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 1000 * time)
    middle = slice(1000, -1000)
    for rate in (48000, 16000):
        np.testing.assert_allclose(resample_kaiser(tone, 44100, rate)[middle],
                                   resample(tone, 44100, rate)[middle],
                                   atol=5e-3)  # its gain is 0.3% off


def test_edges():
    signal = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(resample_kaiser(signal, 8000, 8000), signal)
    assert len(resample_kaiser(signal, 8000, 8001)) == 5
    with pytest.raises(InputError, match="less than one"):
        resample_kaiser(signal, 48000, 8000)
    with pytest.raises(InputError, match="positive whole"):
        resample_kaiser(signal, 0, 8000)
