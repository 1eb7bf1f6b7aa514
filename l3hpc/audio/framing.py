"""Cutting a signal into the frames that the networks take, as in the published packages.

As in openl3 0.4 and edgel3 0.2, centring adds half a frame of zeros before the signal (and none
after it), and then the end is padded with zeros to a whole number of hops, so that no sample is
lost. Frames last one second there; here they last ``window_s`` seconds.

Two networks whose frames differ in length share their centres: with ``teacher_s``, frame i has the
centre of the i-th frame of ``teacher_s`` seconds, and there are as many. Where frames begin
``center``-ed, that is at ``i * hop_s``; otherwise half a frame of the teacher later.

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


def window_samples(window_s: float, rate: int) -> int:
    """Return the number of samples of a frame.

    Parameters
    ----------
    window_s
        Its length in seconds.
    rate
        Hz.
    """
    return round(window_s * rate)


def format_seconds(window_s: float) -> str:
    """``one second each``, or ``3 s each``: the length of frames, for messages."""
    return "one second each" if window_s == 1 else f"{window_s:g} s each"


def zeros_before(rate: int, center: bool, window_s: float = 1.0,
                 teacher_s: float | None = None) -> int:
    """Return how many zeros precede the signal; negative: how many samples are left out.

    Parameters
    ----------
    rate
        Hz.
    center, window_s, teacher_s
        As for ``frame_audio``.

    Examples
    --------
    >>> zeros_before(8000, True), zeros_before(8000, False, 1.0, 3.0)
    (4000, -8000)
    """
    half = window_samples(window_s, rate) // 2
    if center:
        return half
    return half - window_samples(window_s if teacher_s is None else teacher_s, rate) // 2


def frame_count(samples: int, rate: int, hop_s: float, center: bool = True,
                window_s: float = 1.0) -> int:
    """Return the number of frames that ``frame_audio`` cuts from a signal.

    Parameters
    ----------
    samples
        Length of the signal.
    rate
        Hz.
    hop_s
        Seconds from one frame to the next.
    center
        Add half a frame of zeros before the signal.
    window_s
        Length of a frame in seconds (of the teacher's, where frames share their centres).

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
    length = window_samples(window_s, rate)
    return 1 + frames_before(samples + (length // 2 if center else 0) - length, rate, hop_s)


def frame_audio(signal: np.ndarray, rate: int, hop_s: float, center: bool = True,
                window_s: float = 1.0, teacher_s: float | None = None
                ) -> tuple[np.ndarray, np.ndarray]:
    """Cut a signal into frames.

    Parameters
    ----------
    signal
        (n,) samples, at least one.
    rate
        Hz.
    hop_s
        Seconds from one frame to the next, at least one sample.
    center
        Times are centres of frames, the first at 0; otherwise starts of frames (of the teacher's).
    window_s
        Length of a frame in seconds.
    teacher_s
        Length of the frames whose centres these share; None: their own.

    Returns
    -------
    frames
        (frames, window) float32. If the hop is a whole number of samples they are a read-only
        view, so that overlapping frames take no further memory.
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
    >>> frame_audio(np.ones(5 * 8000), 8000, 1.0, False, 1.0, teacher_s=3.0)[0].shape
    (3, 8000)
    """
    frames, times = cut_frames(signal, rate, hop_s, center, window_s, teacher_s)
    return np.asarray(frames[:]), times


def cut_frames(signal: np.ndarray, rate: int, hop_s: float, center: bool = True,
               window_s: float = 1.0, teacher_s: float | None = None
               ) -> tuple[np.ndarray | CutFrames, np.ndarray]:
    """Cut frames as ``frame_audio`` does, but copy unevenly spaced ones only when sliced.

    Parameters
    ----------
    signal, rate, hop_s, center, window_s, teacher_s
        As for ``frame_audio``.

    Returns
    -------
    frames
        (frames, window) float32: a view, or ``CutFrames``.
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
    window = window_samples(window_s, rate)
    count = frame_count(len(signal), rate, hop_s, center,
                        window_s if teacher_s is None else teacher_s)
    before = zeros_before(rate, center, window_s, teacher_s)
    signal, before = signal[max(-before, 0):], max(before, 0)
    starts = frame_starts(0, count, rate, hop_s)
    times = np.arange(count, dtype=np.float64) * hop_s
    # With a long hop, or a longer frame of the teacher, the last frame may start after the end.
    covered = int(min(starts[-1], before + len(signal)))
    padded = np.zeros(max(covered + window, before + len(signal)), np.float32)
    padded[before:before + len(signal)] = signal
    frames = CutFrames(padded, starts, window)
    return (frames[:] if frames.even else frames), times


def frame_blocks(
    blocks: Iterable[np.ndarray], rate: int, hop_s: float, center: bool = True,
    window_s: float = 1.0, teacher_s: float | None = None, *, size: int = 256, skip: int = 0,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Cut a signal that comes in blocks as ``frame_audio`` does, with memory for one block.

    Parameters
    ----------
    blocks
        Blocks (n,) of samples.
    rate, hop_s, center, window_s, teacher_s
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
        (m, window) float32.
    times : numpy.ndarray
        (m,) float64 seconds.

    Raises
    ------
    InputError
        The signal is empty, or the hop is below one sample.
    """
    window = window_samples(window_s, rate)
    counted_s = window_s if teacher_s is None else teacher_s
    before = zeros_before(rate, center, window_s, teacher_s)
    unused = max(-before, 0)  # samples before the first frame
    # The part of the padded signal from sample ``low`` on that is still needed.
    held = np.zeros(max(before, 0), np.float32)
    low = number = total = 0

    def frames(stop: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for first in range(max(number, skip), stop, size):
            last = min(first + size, stop)
            windows = _windows(held, frame_starts(first, last, rate, hop_s) - low, window)
            yield first, windows, np.arange(first, last, dtype=np.float64) * hop_s

    for block in blocks:
        held = np.concatenate((held, block[unused:]))
        unused = max(unused - len(block), 0)
        total += len(block)
        ready = frames_before(low + len(held) - window + 1, rate, hop_s)
        if counted_s > window_s:  # a signal that ends here has fewer frames of the teacher
            ready = max(number, min(ready, frame_count(total, rate, hop_s, center, counted_s)))
        yield from frames(ready)
        number = ready
        done = min(frame_start(number, rate, hop_s) - low, len(held))
        held, low = held[done:], low + done
    if not total:
        raise InputError("cannot frame audio without samples")
    count = frame_count(total, rate, hop_s, center, counted_s)
    last = frame_start(count - 1, rate, hop_s) - low
    held = np.pad(held, (0, max(min(last, len(held)) + window - len(held), 0)))
    yield from frames(count)


class CutFrames:
    """Frames of one signal, (n, window); a slice is an array.

    Parameters
    ----------
    signal
        (samples,) float32, padded.
    starts
        (n,) first samples of the frames.
    window
        Samples per frame.

    Attributes
    ----------
    even : bool
        Whether all frames together can be a view of the signal.
    """

    def __init__(self, signal: np.ndarray, starts: np.ndarray, window: int) -> None:
        self._signal, self._starts, self._window = signal, starts, window
        self.shape = (len(starts), window)
        self.even = len(np.unique(np.diff(starts))) < 2 and starts[-1] + window <= len(signal)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, rows: slice) -> np.ndarray:
        starts = self._starts[rows]
        if not len(starts):
            return np.empty((0, self._window), np.float32)
        return _windows(self._signal, starts, self._window)


class JoinedFrames:
    """Frames of several signals, one after the other, (n, window); only slices are copied.

    Parameters
    ----------
    arrays
        The frames (m, window) of each signal.
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
    # A frame begins before a sample if its time, rounded half up, is less: compared in halves of a
    # sample to stay in whole numbers.
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
        # The float 0.1 is not a tenth: as a fraction with a small denominator, the hop is what was
        # meant, and frames do not drift after hours.
        hop = Fraction(float(hop_s)).limit_denominator(MAX_DENOMINATOR) * rate
    if hop < 1:
        raise InputError(f"a hop of {hop_s} s is less than one sample at {rate} Hz",
                         allowed=f"at least {1 / rate:g} s")
    return hop


def _windows(signal: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """``length`` samples from each start, a view if evenly spaced; zeros follow the signal."""
    inside = int(np.searchsorted(starts, len(signal) - length, "right"))
    if inside < len(starts):
        frames = np.zeros((len(starts), length), np.float32)
        if inside:
            frames[:inside] = _windows(signal, starts[:inside], length)
        for row, start in zip(frames[inside:], starts[inside:].tolist(), strict=True):
            part = signal[start:start + length]
            row[:len(part)] = part
        return frames
    windows = np.lib.stride_tricks.sliding_window_view(signal, length)
    steps = np.diff(starts)  # not np.unique, which imports masked arrays
    if (steps != steps[:1]).any():
        return np.asarray(windows[starts])
    step = int(steps[0]) if len(steps) else 1
    return np.asarray(windows[starts[0]:starts[-1] + 1:step])
