"""Cut a signal into the one-second frames that the networks take, as the published packages do.

Rule of openl3 0.4 and edgel3 0.2: centring puts half a second of zeros in front (and nothing
behind), then the end is padded with zeros to a whole number of hops, so that no sample is lost.

One thing is not theirs: they cut every ``int(hop_s * rate)`` samples but call the frames
``i * hop_s``, so that the two drift apart where the product is not a whole number of samples, or
its rounding falls below one (0.29 s at 48 kHz). Here frame i begins at the sample nearest to its
time, at any rate: frame i of a recording is the same moment for teacher and student. The published
frames of such a hop are those of ``int(hop_s * rate) / rate``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from l3hpc.errors import InputError

FINEST = 10**6  # a hop is read as a fraction with at most this denominator: 0.1 is 1/10


def frame_count(samples: int, rate: int, hop_s: float, center: bool = True) -> int:
    """How many one-second frames ``frame_audio`` cuts from a signal.

    Parameters
    ----------
    samples
        Length of the signal.
    rate
        Hz.
    hop_s
        Seconds from one frame to the next.
    center
        Whether half a second of zeros goes before the signal.

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
    """Frames of one second each, and their times.

    Parameters
    ----------
    signal
        (n,) samples, at least one.
    rate
        Hz.
    hop_s
        Seconds from one frame to the next, at least one sample.
    center
        Times are window centres, the first at 0; otherwise window starts.

    Returns
    -------
    frames
        (frames, rate) float32. Where a hop is a whole number of samples they are a read-only view:
        overlapping frames take no memory of their own.
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
    """``frame_audio`` without copies: where frames lie unevenly, a slice copies its own."""
    signal = np.asarray(signal, dtype=np.float32)
    if signal.ndim != 1 or not len(signal):
        raise InputError(f"cannot frame audio of shape {signal.shape}",
                         allowed="one channel with at least one sample")
    count = frame_count(len(signal), rate, hop_s, center)
    before = rate // 2 if center else 0
    starts = frame_starts(0, count, rate, hop_s)
    times = np.arange(count, dtype=np.float64) * hop_s
    covered = int(min(starts[-1], before + len(signal)))  # the last frame may lie after it all
    padded = np.zeros(covered + rate, np.float32)
    padded[before:before + len(signal)] = signal
    frames = CutFrames(padded, starts, rate)
    return (frames[:] if frames.even else frames), times


def frame_blocks(
    blocks: Iterable[np.ndarray], rate: int, hop_s: float, center: bool = True, *,
    size: int = 256, skip: int = 0,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """``frame_audio`` of a signal that comes in blocks, in memory for one block.

    Yields (number of the first frame, frames, times), at most ``size`` frames at once and without
    the first ``skip``. An empty signal is an ``InputError``.
    """
    held = np.zeros(rate // 2 if center else 0, np.float32)  # the padded signal from ``low`` on
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
    """The frames of one signal, (n, rate); a slice of them is an array.

    even: whether all of them can be had as a view, that is without memory of their own.
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
    """Frames of several signals, one after the other, without copying them: (n, rate).

    Slices are arrays, as those of an HDF5 data set; ``parts`` are the views that a slice joins.
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
        """The frames ``start`` to ``stop`` as views, one for each signal that has some."""
        found = []
        for array, end in zip(self._arrays, self._stops.tolist(), strict=True):
            first = end - len(array)
            part = array[max(start - first, 0):max(stop - first, 0)]
            if len(part):
                found.append(part)
        return found


def frame_start(number: int, rate: int, hop_s: float) -> int:
    """The sample, in the signal with its centring zeros, at which frame ``number`` begins."""
    return int(frame_starts(number, number + 1, rate, hop_s)[0])


def frame_starts(first: int, stop: int, rate: int, hop_s: float) -> np.ndarray:
    """The samples (int64) at which the frames ``first`` to ``stop`` begin (see ``frame_start``).

    Frame i begins at ``i * hop_s * rate``, rounded to the nearest sample (half a sample up).
    """
    hop = hop_samples(rate, hop_s)
    doubled = 2 * hop.numerator * np.arange(first, stop, dtype=np.int64)
    return np.asarray((doubled + hop.denominator) // (2 * hop.denominator))


def frames_before(sample: int, rate: int, hop_s: float) -> int:
    """How many frames begin before ``sample`` (a position as in ``frame_start``)."""
    hop = hop_samples(rate, hop_s)
    halves = (2 * sample - 1) * hop.denominator
    return max(-(-halves // (2 * hop.numerator)), 0)


def hop_samples(rate: int, hop_s: float) -> Fraction:
    """The hop in samples, exactly; below one sample it is an ``InputError``."""
    possible = 0 < hop_s < math.inf
    hop = Fraction(float(hop_s)).limit_denominator(FINEST) * rate if possible else Fraction()
    if hop < 1:
        raise InputError(f"a hop of {hop_s} s is less than one sample at {rate} Hz",
                         allowed=f"at least {1 / rate:g} s")
    return hop


def _windows(signal: np.ndarray, starts: np.ndarray, rate: int) -> np.ndarray:
    """One second from each start: a view where the starts are evenly spaced, else a copy. Behind
    the signal there are zeros."""
    inside = int(np.searchsorted(starts, len(signal) - rate, "right"))
    if inside < len(starts):
        found = np.zeros((len(starts), rate), np.float32)
        if inside:
            found[:inside] = _windows(signal, starts[:inside], rate)
        for row, start in zip(found[inside:], starts[inside:].tolist(), strict=True):
            part = signal[start:start + rate]
            row[:len(part)] = part
        return found
    windows = np.lib.stride_tricks.sliding_window_view(signal, rate)
    steps = np.unique(np.diff(starts))
    if len(steps) > 1:
        return np.asarray(windows[starts])
    step = int(steps[0]) if len(steps) else 1
    return np.asarray(windows[starts[0]:starts[-1] + 1:step])
