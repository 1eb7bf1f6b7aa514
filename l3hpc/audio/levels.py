"""A-weighted sound levels of the frames that are embedded (IEC 61672-1), relative to full scale.

Relative loudness needs only the order of levels at one sensor; with a microphone's calibration as
``offset_db`` they are sound pressure levels.
"""

from __future__ import annotations

import numpy as np

from l3hpc.audio.framing import frame_count, hop_samples
from l3hpc.errors import InputError

FLOOR_DB = -160.0
BLOCK = 1 << 20  # samples filtered at once
CONTEXT_S = 0.5  # of signal on either side of a block, longer than the filter rings


def a_weighting_db(frequency: np.ndarray | float) -> np.ndarray:
    """The A curve in dB at frequencies in Hz (IEC 61672-1, analytical form; 0 dB at 1 kHz)."""
    squared = np.asarray(frequency, dtype=np.float64) ** 2
    with np.errstate(divide="ignore"):
        return 20.0 * np.log10(_a_gain(squared) / _a_gain(np.array(1e6)))


def frame_levels(signal: np.ndarray, rate: int, frame_s: float = 1.0, hop_s: float = 0.5,
                 center: bool = True, offset_db: float = 0.0) -> np.ndarray:
    """A-weighted levels (n,) float32 in dB of the frames that ``frame_audio`` would cut.

    0 dB is a root mean square of 1 (a full-scale sine is -3.01 dB), plus ``offset_db``; the least
    value is ``FLOOR_DB``. Zeros that framing puts before or behind the recording are not counted: a
    level is the mean over the part of the frame inside the recording. The recording's own mean
    (DC offset) is removed first. Memory: three values per sample.
    """
    signal = np.asarray(signal, dtype=np.float32)
    if signal.ndim != 1 or not len(signal):
        raise InputError(f"no levels of audio of shape {signal.shape}",
                         allowed="one channel with at least one sample")
    energy = np.concatenate(([0.0], np.cumsum(_a_weighted(signal, rate) ** 2)))
    hop, length = hop_samples(rate, hop_s), round(frame_s * rate)
    before = rate // 2 if center else 0
    count = frame_count(len(signal), rate, hop_s, center)
    starts = np.arange(count) * hop - before
    first = np.clip(starts, 0, len(signal))
    last = np.clip(starts + length, 0, len(signal))
    power = (energy[last] - energy[first]) / np.maximum(last - first, 1)
    least = 10.0 ** (FLOOR_DB / 10.0)
    return (10.0 * np.log10(np.maximum(power, least)) + offset_db).astype(np.float32)


def _a_gain(squared: np.ndarray) -> np.ndarray:
    """The A curve's amplitude, not yet normalised, at squared frequencies."""
    return (12194.217**2 * squared**2) / (
        (squared + 20.598997**2)
        * np.sqrt((squared + 107.65265**2) * (squared + 737.86223**2))
        * (squared + 12194.217**2))


def _a_weighted(signal: np.ndarray, rate: int) -> np.ndarray:
    """The signal through a zero-phase filter with the A curve's amplitude, float64, block-wise."""
    from scipy import fft

    result = np.empty(len(signal))
    mean = float(signal.mean(dtype=np.float64))
    context = int(CONTEXT_S * rate)
    for start in range(0, len(signal), BLOCK):
        low, high = max(start - context, 0), min(start + BLOCK + context, len(signal))
        part = signal[low:high].astype(np.float64) - mean
        if low > 0:
            part[:context] *= np.linspace(0.0, 1.0, context)
        if high < len(signal):
            part[len(part) - context:] *= np.linspace(1.0, 0.0, context)
        size = fft.next_fast_len(len(part) + 2 * context, real=True)
        frequency = np.arange(size // 2 + 1) * (rate / size)
        gain = _a_gain(frequency**2) / _a_gain(np.array(1e6))
        filtered = fft.irfft(fft.rfft(part, size) * gain, size)
        stop = min(start + BLOCK, len(signal))
        result[start:stop] = filtered[start - low:stop - low]
    return result
