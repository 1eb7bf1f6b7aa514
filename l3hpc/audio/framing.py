"""Cutting a signal into the one-second frames that the networks take, as in the published packages.

As in openl3 0.4 and edgel3 0.2, centring adds half a second of zeros before the signal (and none
after it), and then the end is padded with zeros to a whole number of hops, so that no sample is
lost.

There is one difference. The packages cut every ``int(hop_s * rate)`` samples but give frame i the
time ``i * hop_s``, so that the two drift apart if ``hop_s * rate`` is not a whole number or is
rounded down (0.29 s at 48 kHz). Here frame i begins at the sample nearest to its time at any rate,
so that frame i is the same moment for a teacher and a student. The published frames for such a hop
are those of ``int(hop_s * rate) / rate``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from l3hpc.errors import InputError

MAX_DENOMINATOR = 10**6  # of a hop as a fraction of seconds: 0.1 is 1/10


def frame_count(samples: int, rate: int, hop_s: float, center: bool = True) -> int:
    """Return the number of one-second frames that ``frame_audio`` cuts from a signal.

    Parameters
    ----------
    samples
        Length of the signal.
    rate
        Hz.
    hop_s
        Seconds from one frame to the next.
    center
        Add half a second of zeros before the signal.

    Returns
    -------
    int
        The number of frames.

    Examples
    --------
    >>> frame_count(10 * 8000, 8000, 0.5)
    20
    >>> frame_count(10 * 8000, 8000, 0.1), frame_count(10 * 8000, 8000, 0.1, center=False)
    (96, 91)
    """
    return 1 + frames_before(samples + (rate // 2 if center else 0) - rate, rate, hop_s)


def frame_audio(signal: np.ndarray, rate: int, hop_s: float, center: bool = True
                ) -> tuple[np.ndarray, np.ndarray]:
    """Cut a signal into frames of one second.

    Parameters
    ----------
    signal
        (n,) samples, at least one.
    rate
        Hz.
    hop_s
        Seconds from one frame to the next, at least one sample.
    center
        Times are centres of frames, the first at 0; otherwise starts of frames.

    Returns
    -------
    frames
        (frames, rate) float32. If the hop is a whole number of samples they are a read-only view,
        so that overlapping frames take no further memory.
    times
        (frames,) float64 seconds, multiples of ``hop_s``.

    Raises
    ------
    InputError
        The signal is empty or not one-dimensional, or the hop is below one sample.

    Examples
    --------
    >>> frames, times = frame_audio(np.ones(16000), 8000, 0.5)
    >>> frames.shape, times.tolist()
    ((4, 8000), [0.0, 0.5, 1.0, 1.5])
    """
    frames, times = cut_frames(signal, rate, hop_s, center)
    return np.asarray(frames[:]), times


def cut_frames(signal: np.ndarray, rate: int, hop_s: float, center: bool = True
               ) -> tuple[np.ndarray | CutFrames, np.ndarray]:
    """Cut frames as ``frame_audio`` does, but copy unevenly spaced ones only when sliced.

    Parameters
    ----------
    signal, rate, hop_s, center
        As for ``frame_audio``.

    Returns
    -------
    frames
        (frames, rate) float32: a view, or ``CutFrames``.
    times
        (frames,) float64 seconds.

    Raises
    ------
    InputError
        As for ``frame_audio``.
    """
    signal = np.asarray(signal, dtype=np.float32)
    if signal.ndim != 1 or not len(signal):
        raise InputError(f"cannot frame audio of shape {signal.shape}",
                         allowed="one channel with at least one sample")
    count = frame_count(len(signal), rate, hop_s, center)
    before = rate // 2 if center else 0
    starts = frame_starts(0, count, rate, hop_s)
    times = np.arange(count, dtype=np.float64) * hop_s
    # With a hop of more than a second the last frame may start after the end of the signal.
    covered = int(min(starts[-1], before + len(signal)))
    padded = np.zeros(covered + rate, np.float32)
    padded[before:before + len(signal)] = signal
    frames = CutFrames(padded, starts, rate)
    return (frames[:] if frames.even else frames), times


def frame_blocks(
    blocks: Iterable[np.ndarray], rate: int, hop_s: float, center: bool = True, *,
    size: int = 256, skip: int = 0,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Cut a signal that comes in blocks as ``frame_audio`` does, with memory for one block.

    Parameters
    ----------
    blocks
        Blocks (n,) of samples.
    rate, hop_s, center
        As for ``frame_audio``.
    size
        Most frames at once.
    skip
        Number of frames to skip at the beginning.

    Yields
    ------
    number : int
        The number of the first frame.
    frames : numpy.ndarray
        (m, rate) float32.
    times : numpy.ndarray
        (m,) float64 seconds.

    Raises
    ------
    InputError
        The signal is empty, or the hop is below one sample.
    """
    # The part of the padded signal from sample ``low`` on that is still needed.
    held = np.zeros(rate // 2 if center else 0, np.float32)
    low = number = total = 0

    def frames(stop: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for first in range(max(number, skip), stop, size):
            last = min(first + size, stop)
            windows = _windows(held, frame_starts(first, last, rate, hop_s) - low, rate)
            yield first, windows, np.arange(first, last, dtype=np.float64) * hop_s

    for block in blocks:
        held = np.concatenate((held, block))
        total += len(block)
        ready = frames_before(low + len(held) - rate + 1, rate, hop_s)
        yield from frames(ready)
        number = ready
        done = min(frame_start(number, rate, hop_s) - low, len(held))
        held, low = held[done:], low + done
    if not total:
        raise InputError("cannot frame audio without samples")
    count = frame_count(total, rate, hop_s, center)
    last = frame_start(count - 1, rate, hop_s) - low
    held = np.pad(held, (0, max(min(last, len(held)) + rate - len(held), 0)))
    yield from frames(count)


class CutFrames:
    """Frames of one signal, (n, rate); a slice is an array.

    Parameters
    ----------
    signal
        (samples,) float32, padded.
    starts
        (n,) first samples of the frames.
    rate
        Hz, and samples per frame.

    Attributes
    ----------
    even : bool
        Whether all frames together can be a view of the signal.
    """

    def __init__(self, signal: np.ndarray, starts: np.ndarray, rate: int) -> None:
        self._signal, self._starts, self._rate = signal, starts, rate
        self.shape = (len(starts), rate)
        self.even = len(np.unique(np.diff(starts))) < 2 and starts[-1] + rate <= len(signal)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, rows: slice) -> np.ndarray:
        starts = self._starts[rows]
        if not len(starts):
            return np.empty((0, self._rate), np.float32)
        return _windows(self._signal, starts, self._rate)


class JoinedFrames:
    """Frames of several signals, one after the other, (n, rate); only slices are copied.

    Parameters
    ----------
    arrays
        The frames (m, rate) of each signal.
    """

    def __init__(self, arrays: Sequence[np.ndarray | CutFrames]) -> None:
        self._arrays = list(arrays)
        self._stops = np.cumsum([len(array) for array in self._arrays], dtype=np.int64)
        self.shape = (int(self._stops[-1]), int(self._arrays[0].shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        empty = np.empty((0, self.shape[1]), np.float32)
        return np.concatenate([empty, *self.parts(start, stop)])[::step]

    def parts(self, start: int, stop: int) -> list[np.ndarray]:
        """Return the frames from ``start`` to ``stop`` as views, one for each signal."""
        views = []
        for array, end in zip(self._arrays, self._stops.tolist(), strict=True):
            first = end - len(array)
            part = array[max(start - first, 0):max(stop - first, 0)]
            if len(part):
                views.append(part)
        return views


def frame_start(number: int, rate: int, hop_s: float) -> int:
    """Return the first sample of a frame.

    Parameters
    ----------
    number
        The number of the frame, from 0.
    rate, hop_s
        As for ``frame_audio``.

    Returns
    -------
    int
        The position in the signal including the zeros of centring.
    """
    return int(frame_starts(number, number + 1, rate, hop_s)[0])


def frame_starts(first: int, stop: int, rate: int, hop_s: float) -> np.ndarray:
    """Return the first samples of several frames.

    Frame i begins at ``i * hop_s * rate``, rounded to the nearest sample (half a sample up).

    Parameters
    ----------
    first, stop
        The number of the first frame, and the one after the last.
    rate, hop_s
        As for ``frame_audio``.

    Returns
    -------
    numpy.ndarray
        (stop - first,) int64 positions, as from ``frame_start``.
    """
    hop = hop_samples(rate, hop_s)
    # Integer arithmetic: floating point would round differently for long recordings.
    doubled = 2 * hop.numerator * np.arange(first, stop, dtype=np.int64)
    return np.asarray((doubled + hop.denominator) // (2 * hop.denominator))


def frames_before(sample: int, rate: int, hop_s: float) -> int:
    """Return the number of frames that begin before a sample.

    Parameters
    ----------
    sample
        A position as from ``frame_start``.
    rate, hop_s
        As for ``frame_audio``.
    """
    hop = hop_samples(rate, hop_s)
    halves = (2 * sample - 1) * hop.denominator
    return max(-(-halves // (2 * hop.numerator)), 0)


def hop_samples(rate: int, hop_s: float) -> Fraction:
    """Return the hop in samples as an exact fraction.

    Raises
    ------
    InputError
        The hop is less than one sample, infinite or NaN.

    Examples
    --------
    >>> hop_samples(8000, 0.1), hop_samples(44100, 1 / 3)
    (Fraction(800, 1), Fraction(14700, 1))
    """
    hop = Fraction()
    if 0 < hop_s < math.inf:
        hop = Fraction(float(hop_s)).limit_denominator(MAX_DENOMINATOR) * rate
    if hop < 1:
        raise InputError(f"a hop of {hop_s} s is less than one sample at {rate} Hz",
                         allowed=f"at least {1 / rate:g} s")
    return hop


def _windows(signal: np.ndarray, starts: np.ndarray, rate: int) -> np.ndarray:
    """One second from each start, a view if evenly spaced; zeros follow the signal."""
    inside = int(np.searchsorted(starts, len(signal) - rate, "right"))
    if inside < len(starts):
        frames = np.zeros((len(starts), rate), np.float32)
        if inside:
            frames[:inside] = _windows(signal, starts[:inside], rate)
        for row, start in zip(frames[inside:], starts[inside:].tolist(), strict=True):
            part = signal[start:start + rate]
            row[:len(part)] = part
        return frames
    windows = np.lib.stride_tricks.sliding_window_view(signal, rate)
    steps = np.unique(np.diff(starts))
    if len(steps) > 1:
        return np.asarray(windows[starts])
    step = int(steps[0]) if len(steps) else 1
    return np.asarray(windows[starts[0]:starts[-1] + 1:step])
