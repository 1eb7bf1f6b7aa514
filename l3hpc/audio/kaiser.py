"""Resample as openl3 and edgel3 do (resampy 0.2, ``kaiser_best``), for numbers to compare with.

Band-limited interpolation (Smith 2002, "Digital audio resampling"): a sinc under a Kaiser window of
64 zero crossings, read from a table of 512 values per crossing with linear interpolation. Going
down, the table is read in whole steps, as published; that makes its filter a little wider than
meant. ``resample`` is better and faster.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from l3hpc.errors import InputError

CROSSINGS = 64
PER_CROSSING = 512
BETA = 14.769656459379492
ROLLOFF = 0.9475937167399596


def resample_kaiser(signal: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """``signal`` (n,) at ``target_rate`` Hz, float32 of length ``floor(n * target / source)``.

    Raises ``InputError`` for rates below 1 Hz, and for a signal with less than one output sample.
    """
    if source_rate < 1 or target_rate < 1:
        raise InputError(f"cannot resample from {source_rate} Hz to {target_rate} Hz",
                         allowed="sampling rates are positive whole numbers of Hz")
    if source_rate == target_rate:
        return np.ascontiguousarray(signal, np.float32)
    common = math.gcd(source_rate, target_rate)
    up, down = target_rate // common, source_rate // common
    length = len(signal) * up // down
    if not length:
        raise InputError(f"{len(signal)} samples at {source_rate} Hz are less than one at "
                         f"{target_rate} Hz")
    side = _reach(up, down)
    padded = np.pad(np.asarray(signal, np.float64), (side, side + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * side + 1)
    result = np.empty(length, np.float32)
    for phase in range(min(up, length)):
        first, rest = divmod(phase * down, up)
        count = len(result[phase::up])
        rows = windows[first + 1:first + 1 + (count - 1) * down + 1:down]
        result[phase::up] = np.ascontiguousarray(rows) @ _weights(up, down, rest, side)
    return result


def _step(up: int, down: int) -> int:
    """How far apart in the table the weights of neighbouring samples lie."""
    return max(int(min(1.0, up / down) * PER_CROSSING), 1)


def _reach(up: int, down: int) -> int:
    """Samples to each side of an output that have a weight."""
    return len(_table()) // _step(up, down) + 1


def _weights(up: int, down: int, rest: int, side: int) -> np.ndarray:
    """Of the samples n - side + 1 … n + side + 1, for an output ``rest / up`` behind sample n."""
    scale = min(1.0, up / down)
    after = scale * rest / up  # in crossings
    before, behind = _wing(after, up, down), _wing(scale - after, up, down)
    weights = np.zeros(2 * side + 1)
    weights[side - len(before):side] = before[::-1]
    weights[side:side + len(behind)] = behind
    return weights * scale


def _wing(distance: float, up: int, down: int) -> np.ndarray:
    """Weights of the samples to one side, the nearest of which is ``distance`` crossings away."""
    place = distance * PER_CROSSING
    start = int(place)
    table, step = _table(), _step(up, down)
    count = (len(table) - start) // step
    at = start + step * np.arange(count)
    slope = np.append(np.diff(table), 0.0)
    return np.asarray(table[at] + (place - start) * slope[at])


@functools.lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """The right half of the filter, from its middle, (CROSSINGS * PER_CROSSING + 1,)."""
    size = CROSSINGS * PER_CROSSING
    time = np.arange(size + 1) / PER_CROSSING
    window = np.kaiser(2 * size + 1, BETA)[size:]
    return np.asarray(ROLLOFF * np.sinc(ROLLOFF * time) * window)
