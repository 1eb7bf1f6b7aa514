"""Sampling rate conversion, with soxr at its best quality or as in openl3 and edgel3.

The latter (resampy 0.2, ``kaiser_best``) serves to reproduce published numbers; soxr is better and
faster. It is band-limited interpolation (Smith 2002): a sinc with a Kaiser window over 64 zero
crossings, read from a table of 512 values per crossing with linear interpolation. For downsampling
the table is read in whole steps, as in resampy, which makes the filter slightly wider than meant.

Each method has a function for a whole signal and one for a signal that comes in blocks.
"""

from __future__ import annotations

import atexit
import functools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np

from l3hpc.errors import InputError

if TYPE_CHECKING:
    import soxr

MAX_OUTPUT = 1 << 23  # most output samples at once; a block at a very low rate would become huge

# The filter of resampy's kaiser_best.
CROSSINGS = 64
PER_CROSSING = 512
BETA = 14.769656459379492
ROLLOFF = 0.9475937167399596
PART = 1 << 16  # samples that are converted at once,
GROUPS = 8  # but at least this many periods of the phases of the ratio

# soxr -----------------------------------------------------------------------------------------

_streams: WeakSet[soxr.ResampleStream] = WeakSet()


def resample(signal: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Convert the sampling rate of a signal with very high quality (soxr VHQ).

    The filter has a flat pass band, no aliasing above the 16-bit noise floor, and no delay. The
    published pipeline uses resampy's ``kaiser_best`` (``resample_kaiser``). The two differ near and
    above the band edge, which matters for networks at a higher rate.

    Parameters
    ----------
    signal
        (n,) samples.
    source_rate, target_rate
        Hz.

    Returns
    -------
    numpy.ndarray
        float32 of length ``ceil(n * target_rate / source_rate)``.

    Raises
    ------
    InputError
        A rate is below 1 Hz.

    Examples
    --------
    >>> resample(np.zeros(48000), 48000, 8000).shape
    (8000,)
    """
    signal = np.ascontiguousarray(signal, dtype=np.float32)
    blocks = list(resample_blocks([signal], source_rate, target_rate))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def resample_rows(rows: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Convert the sampling rate of several signals of the same length, as ``resample`` does.

    Parameters
    ----------
    rows
        (n, samples).
    source_rate, target_rate
        Hz.

    Returns
    -------
    numpy.ndarray
        (n, ``ceil(samples * target_rate / source_rate)``) float32.

    Raises
    ------
    InputError
        A rate is below 1 Hz.
    """
    _check(source_rate, target_rate)
    if source_rate == target_rate:
        return np.ascontiguousarray(rows, dtype=np.float32)
    # One stream for all rows: designing its filter takes as long as half a second of sound.
    stream = _stream(source_rate, target_rate)
    result = np.zeros((len(rows), -(-rows.shape[1] * target_rate // source_rate)), np.float32)
    for row, out in zip(rows, result, strict=True):
        stream.clear()
        converted = stream.resample_chunk(np.ascontiguousarray(row, dtype=np.float32), last=True)
        out[:len(converted)] = converted[:len(out)]
    return result


def resample_blocks(
    blocks: Iterable[np.ndarray], source_rate: int, target_rate: int,
) -> Iterator[np.ndarray]:
    """Convert the sampling rate of a signal that comes in blocks.

    Parameters
    ----------
    blocks
        Blocks (n,) of samples.
    source_rate, target_rate
        Hz.

    Yields
    ------
    numpy.ndarray
        (m,) float32; together the samples that ``resample`` gives.

    Raises
    ------
    InputError
        A rate is below 1 Hz.
    """
    _check(source_rate, target_rate)
    if source_rate == target_rate:
        yield from blocks
        return
    stream = _stream(source_rate, target_rate)
    taken = produced = 0
    for block in _parts(blocks, max(MAX_OUTPUT * source_rate // target_rate, 1)):
        taken += len(block)
        result = stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float32))
        produced += len(result)
        if len(result):
            yield result
    # soxr may give a sample more or less at the end, depending on the blocks. The length is fixed
    # here.
    missing = max(-(-taken * target_rate // source_rate) - produced, 0)
    rest = stream.resample_chunk(np.empty(0, np.float32), last=True)[:missing]
    yield np.pad(rest, (0, missing - len(rest)))


def _stream(source_rate: int, target_rate: int) -> soxr.ResampleStream:
    import soxr

    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="VHQ")
    _streams.add(stream)
    return stream


@atexit.register
def _end_streams() -> None:
    """Free the streams that errors still refer to: nothing else does, where a process ends without
    a search for garbage, and soxr's bindings would report a leak, in fifteen lines of the log.
    """
    for stream in list(_streams):
        vars(stream).clear()


# kaiser_best ----------------------------------------------------------------------------------


def resample_kaiser(signal: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Convert the sampling rate of a signal as resampy 0.2 does with ``kaiser_best``.

    Parameters
    ----------
    signal, source_rate, target_rate
        As for ``resample``.

    Returns
    -------
    numpy.ndarray
        float32 of length ``floor(n * target_rate / source_rate)``.

    Raises
    ------
    InputError
        A rate is below 1 Hz, or the signal is shorter than one output sample.

    References
    ----------
    J. O. Smith, "Digital audio resampling home page", 2002,
    https://ccrma.stanford.edu/~jos/resample/

    Examples
    --------
    >>> resample_kaiser(np.zeros(44100), 44100, 8000).shape
    (8000,)
    """
    _check(source_rate, target_rate)
    return np.concatenate(list(resample_kaiser_blocks([signal], source_rate, target_rate)))


def resample_kaiser_blocks(
    blocks: Iterable[np.ndarray], source_rate: int, target_rate: int,
) -> Iterator[np.ndarray]:
    """Convert the sampling rate of a signal that comes in blocks as ``resample_kaiser`` does.

    Parameters
    ----------
    blocks, source_rate, target_rate
        As for ``resample_blocks``.

    Yields
    ------
    numpy.ndarray
        (m,) float32; together the samples that ``resample_kaiser`` gives.

    Raises
    ------
    InputError
        A rate is below 1 Hz, or the signal is shorter than one output sample.
    """
    if source_rate == target_rate:
        yield from (np.ascontiguousarray(block, np.float32) for block in blocks)
        return
    _check(source_rate, target_rate)
    common = math.gcd(source_rate, target_rate)
    up, down = target_rate // common, source_rate // common
    side = _reach(up, down)
    # Samples that are still needed: from ``side`` samples before the next ``up`` outputs on.
    held = np.zeros(side)
    taken = produced = 0
    for block in _parts(blocks, max(PART, GROUPS * down)):
        taken += len(block)
        held = np.concatenate((held, np.asarray(block, np.float64)))
        groups = max((len(held) - 2 * side - 1) // down, 0)
        if groups:
            yield _converted(held, groups * up, up, down, side)
            produced += groups * up
            held = held[groups * down:]
    # resampy rounds the length down, soxr's is rounded up.
    length = taken * up // down
    if not length:
        raise InputError(f"{taken} samples at {source_rate} Hz are less than one sample at "
                         f"{target_rate} Hz")
    if length > produced:
        yield _converted(np.pad(held, (0, side + 1)), length - produced, up, down, side)


def _converted(padded: np.ndarray, length: int, up: int, down: int, side: int) -> np.ndarray:
    """``length`` outputs for a signal with ``side`` samples before it and enough after it."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * side + 1)
    result = np.empty(length, np.float32)
    for phase in range(min(up, length)):
        # Outputs ``up`` apart lie at the same distance from their samples, so they share one set of
        # weights and are one matrix product.
        first, rest = divmod(phase * down, up)
        count = len(result[phase::up])
        rows = windows[first + 1:first + 1 + (count - 1) * down + 1:down]
        result[phase::up] = np.ascontiguousarray(rows) @ _weights(up, down, rest, side)
    return result


def _step(up: int, down: int) -> int:
    """The distance in the table between the weights of neighbouring samples."""
    # Cut to a whole number, as resampy does (see the module): a bug that published embeddings
    # contain.
    return max(int(min(1.0, up / down) * PER_CROSSING), 1)


def _reach(up: int, down: int) -> int:
    """The number of samples on each side of an output that have a weight."""
    return len(_table()) // _step(up, down) + 1


@functools.lru_cache(maxsize=1024)
def _weights(up: int, down: int, rest: int, side: int) -> np.ndarray:
    """Weights of samples n - side + 1 … n + side + 1 for an output at n + ``rest / up``."""
    scale = min(1.0, up / down)
    distance = scale * rest / up  # from sample n, in zero crossings
    left, right = _wing(distance, up, down), _wing(scale - distance, up, down)
    weights = np.zeros(2 * side + 1)
    weights[side - len(left):side] = left[::-1]
    weights[side:side + len(right)] = right
    return weights * scale


def _wing(distance: float, up: int, down: int) -> np.ndarray:
    """Weights of the samples on one side, of which the nearest is ``distance`` crossings away."""
    position = distance * PER_CROSSING
    start = int(position)
    table, step = _table(), _step(up, down)
    count = (len(table) - start) // step
    at = start + step * np.arange(count)
    slope = np.append(np.diff(table), 0.0)
    return np.asarray(table[at] + (position - start) * slope[at])


@functools.lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """The right half of the filter, from its centre, (CROSSINGS * PER_CROSSING + 1,)."""
    size = CROSSINGS * PER_CROSSING
    time = np.arange(size + 1) / PER_CROSSING
    window = np.kaiser(2 * size + 1, BETA)[size:]
    return np.asarray(ROLLOFF * np.sinc(ROLLOFF * time) * window)


def _parts(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    for block in blocks:
        yield from (block[start:start + size] for start in range(0, len(block), size))


def _check(source_rate: int, target_rate: int) -> None:
    if source_rate < 1 or target_rate < 1:
        raise InputError(f"cannot resample from {source_rate} Hz to {target_rate} Hz",
                         allowed="sampling rates are positive whole numbers of Hz")
