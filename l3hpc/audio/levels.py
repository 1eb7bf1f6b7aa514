"""A-weighted sound levels of frames (IEC 61672-1), relative to full scale.

Relevance by relative loudness needs only the order of the levels at one sensor. With the
calibration of the microphone as ``offset_db`` they are sound pressure levels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from l3hpc.audio import fft
from l3hpc.audio.framing import frame_count, frame_start, frame_starts, frames_before
from l3hpc.errors import InputError

FLOOR_DB = -160.0
BLOCK = 1 << 20  # samples that are filtered at once
CONTEXT_S = 0.5  # seconds of signal on either side of a block, longer than the filter rings
ROW_S = 2.5  # filtered at once within a block: short transforms of several rows are faster


def a_weighting_db(frequency: np.ndarray | float) -> np.ndarray:
    """Return the A-weighting in dB at frequencies in Hz (0 dB at 1 kHz).

    Parameters
    ----------
    frequency
        Hz, of any shape.

    Returns
    -------
    numpy.ndarray
        dB, of the same shape; -inf at 0 Hz.

    References
    ----------
    IEC 61672-1:2013, "Electroacoustics - Sound level meters", annex E (analytical form).

    Examples
    --------
    >>> a_weighting_db(np.array([100.0, 1000.0])).round(1).tolist()
    [-19.1, 0.0]
    """
    squared = np.asarray(frequency, dtype=np.float64) ** 2
    with np.errstate(divide="ignore"):
        return 20.0 * np.log10(_a_gain(squared) / _a_gain(np.array(1e6)))


def frame_levels(signal: np.ndarray, rate: int, frame_s: float = 1.0, hop_s: float = 0.5,
                 center: bool = True, offset_db: float = 0.0) -> np.ndarray:
    """Compute the A-weighted levels of the frames that ``frame_audio`` cuts.

    The zeros that framing adds before and after the recording are not counted: a level is the mean
    over the part of the frame inside the recording. The mean of the signal (DC offset) is removed
    first.

    Parameters
    ----------
    signal
        (n,) samples, at least one.
    rate
        Hz.
    frame_s, hop_s
        Length of a frame, and seconds from one frame to the next.
    center
        As in ``frame_audio``.
    offset_db
        Added to every level: the calibration of the microphone.

    Returns
    -------
    numpy.ndarray
        (frames,) float32 in dB: 0 dB is a root mean square of 1 (a full-scale sine has -3.01 dB).
        The smallest value is ``FLOOR_DB`` + ``offset_db``.

    Raises
    ------
    InputError
        The signal is empty or not one-dimensional.

    References
    ----------
    IEC 61672-1:2013, "Electroacoustics - Sound level meters", annex E.
    """
    signal = np.asarray(signal, dtype=np.float32)
    if signal.ndim != 1 or not len(signal):
        raise InputError(f"cannot measure the level of audio of shape {signal.shape}",
                         allowed="one channel with at least one sample")
    blocks = (signal[start:start + BLOCK] for start in range(0, len(signal), BLOCK))
    return np.concatenate(list(level_blocks(blocks, rate, frame_s, hop_s, center, offset_db)))


def level_blocks(blocks: Iterable[np.ndarray], rate: int, frame_s: float = 1.0, hop_s: float = 0.5,
                 center: bool = True, offset_db: float = 0.0) -> Iterator[np.ndarray]:
    """Compute the levels of a signal that comes in blocks, with memory for two blocks.

    Parameters
    ----------
    blocks
        Blocks (n,) of samples, of half a second or more.
    rate, frame_s, hop_s, center, offset_db
        As for ``frame_levels``.

    Yields
    ------
    numpy.ndarray
        (m,) float32 in dB: the frames that became complete with the last block, perhaps none.
    """
    length = round(frame_s * rate)
    before = length // 2 if center else 0
    energy = np.zeros(1)  # cumulative, of the samples from ``low`` on
    low = number = 0

    def levels(stop: int) -> np.ndarray:
        starts = frame_starts(number, stop, rate, hop_s) - before - low
        first = np.clip(starts, 0, len(energy) - 1)
        last = np.clip(starts + length, 0, len(energy) - 1)
        # Over the samples inside the recording alone: framing's zeros would make its ends quieter.
        power = (energy[last] - energy[first]) / np.maximum(last - first, 1)
        floor = 10.0 ** (FLOOR_DB / 10.0)
        return (10.0 * np.log10(np.maximum(power, floor)) + offset_db).astype(np.float32)

    for weighted in _a_weighted(blocks, rate):
        # Neither converted on the way nor in place: then NumPy would keep all other threads of
        # Python waiting, and 16 readers did not feed a GPU.
        more = np.add.accumulate(np.square(weighted, out=weighted).astype(np.float64))
        more += energy[-1]
        energy = np.concatenate((energy, more))
        total = low + len(energy) - 1
        complete = frames_before(total + before - length + 1, rate, hop_s)
        ready = max(min(complete, frame_count(total, rate, hop_s, center, frame_s)), number)
        yield levels(ready)
        number = ready
        done = min(max(frame_start(number, rate, hop_s) - before - low, 0), len(energy) - 1)
        # Subtracted, so that the sums start near 0 again: over a day of audio they would lose
        # digits.
        energy, low = energy[done:] - energy[done], low + done
    yield levels(frame_count(low + len(energy) - 1, rate, hop_s, center, frame_s))


def _a_gain(squared: np.ndarray) -> np.ndarray:
    """The amplitude of the A-weighting at squared frequencies, not yet normalised."""
    return (12194.217**2 * squared**2) / (
        (squared + 20.598997**2)
        * np.sqrt((squared + 107.65265**2) * (squared + 737.86223**2))
        * (squared + 12194.217**2))


def _a_weighted(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The blocks after a zero-phase filter with the amplitude of the A-weighting, float32."""
    context = int(CONTEXT_S * rate)
    before, block = np.empty(0, np.float32), None
    for following in itertools.chain(blocks, [np.empty(0, np.float32)]):
        if block is not None:
            yield _filtered(before, block, following[:context], rate)
            before = np.concatenate((before[-context:], block[-context:]))[-context:]
        block = following


def _filtered(before: np.ndarray, block: np.ndarray, after: np.ndarray, rate: int) -> np.ndarray:
    """The A-weighted ``block``, filtered in rows; the context at both ends is faded in and out."""
    context, length = int(CONTEXT_S * rate), int(ROW_S * rate)
    count = max(-(-len(block) // length), 1)
    length = -(-len(block) // count)
    # In float32: the rounding, 140 dB below the signal, is uncorrelated with it, so that it changes
    # no level unless the weighting takes away 100 dB.
    part = np.zeros(count * length + 2 * context, np.float32)
    first = context - len(before)
    whole = part[first:context + len(block) + len(after)]
    np.concatenate((before, block, after), out=whole, casting="same_kind")
    whole -= np.float32(whole.mean(dtype=np.float64))
    whole[:len(before)] *= np.linspace(0.0, 1.0, len(before), dtype=np.float32)
    whole[len(whole) - len(after):] *= np.linspace(1.0, 0.0, len(after), dtype=np.float32)
    rows = np.lib.stride_tricks.sliding_window_view(part, length + 2 * context)[::length]
    # The context on both sides takes what a circular convolution wraps around.
    size = fft.next_fast_len(length + 2 * context)
    spectrum = fft.rfft(rows, size)
    spectrum *= _gains(size, rate)
    filtered = fft.irfft(spectrum, size)
    return np.asarray(filtered[:, context:context + length]).reshape(-1)[:len(block)]


@functools.lru_cache(maxsize=4)
def _gains(size: int, rate: int) -> np.ndarray:
    """The amplitude of the A-weighting at the frequencies of a DFT of ``size`` samples."""
    frequency = np.arange(size // 2 + 1) * (rate / size)
    return np.asarray(_a_gain(frequency**2) / _a_gain(np.array(1e6)), np.float32)
