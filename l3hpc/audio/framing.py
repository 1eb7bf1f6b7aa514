"""Cut a signal into the one-second frames that the networks take, as the published packages do.

Rule of openl3 0.4 and edgel3 0.2: centring puts half a second of zeros in front (and nothing
behind), then the end is padded with zeros to a whole number of hops, so that no sample is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from l3hpc.errors import InputError


def frame_count(samples: int, rate: int, hop_s: float, center: bool = True) -> int:
    """How many one-second frames ``frame_audio`` cuts from ``samples`` samples at ``rate`` Hz.

    10 s, hop 0.5 s, centred: 20. 10 s, hop 0.1 s: 96 centred, 91 not.
    """
    hop = hop_samples(rate, hop_s)
    length = samples + (rate // 2 if center else 0)
    if length <= rate:
        return 1
    return 1 + math.ceil((length - rate) / hop)


def frame_audio(signal: np.ndarray, rate: int, hop_s: float, center: bool = True
                ) -> tuple[np.ndarray, np.ndarray]:
    """Frames (n, rate) float32 of one second each, and their times (n,) float64 in seconds.

    Times are multiples of ``hop_s``: window centres when ``center``, window starts otherwise. The
    frames are a read-only view: overlapping frames take no memory of their own.
    Raises ``InputError`` for an empty signal, one that is not 1-D, or a hop below one sample.
    """
    signal = np.asarray(signal, dtype=np.float32)
    if signal.ndim != 1 or not len(signal):
        raise InputError(f"cannot frame audio of shape {signal.shape}",
                         allowed="one channel with at least one sample")
    hop = hop_samples(rate, hop_s)
    count = frame_count(len(signal), rate, hop_s, center)
    before = rate // 2 if center else 0
    padded = np.zeros((count - 1) * hop + rate, np.float32)
    padded[before:before + len(signal)] = signal
    windows = np.lib.stride_tricks.sliding_window_view(padded, rate)
    return windows[::hop], np.arange(count, dtype=np.float64) * hop_s


def frame_blocks(
    blocks: Iterable[np.ndarray], rate: int, hop_s: float, center: bool = True, *,
    size: int = 256, skip: int = 0,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """``frame_audio`` of a signal that comes in blocks, in memory for one block.

    Yields (number of the first frame, frames, times), at most ``size`` frames at once and without
    the first ``skip``. An empty signal is an ``InputError``.
    """
    hop = hop_samples(rate, hop_s)
    held = np.zeros(rate // 2 if center else 0, np.float32)  # the padded signal from ``low`` on
    low = number = total = 0

    def frames(stop: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for first in range(max(number, skip), stop, size):
            last = min(first + size, stop)
            part = held[first * hop - low:(last - 1) * hop - low + rate]
            windows = np.lib.stride_tricks.sliding_window_view(part, rate)[::hop]
            yield first, windows, np.arange(first, last, dtype=np.float64) * hop_s

    for block in blocks:
        held = np.concatenate((held, block))
        total += len(block)
        ready = max((low + len(held) - rate) // hop + 1, number)
        yield from frames(ready)
        number = ready
        done = min(max(number * hop - low, 0), len(held))
        held, low = held[done:], low + done
    if not total:
        raise InputError("cannot frame audio without samples")
    count = frame_count(total, rate, hop_s, center)
    held = np.pad(held, (0, max((count - 1) * hop + rate - low - len(held), 0)))
    yield from frames(count)


def hop_samples(rate: int, hop_s: float) -> int:
    """The hop in samples, ``int(hop_s * rate)``; below one sample it is an ``InputError``."""
    hop = int(hop_s * rate)
    if hop < 1:
        raise InputError(f"a hop of {hop_s} s is less than one sample at {rate} Hz",
                         allowed=f"at least {1 / rate:g} s")
    return hop
