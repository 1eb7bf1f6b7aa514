"""Cut a signal into the one-second frames that the networks take, as the published packages do.

Rule of openl3 0.4 and edgel3 0.2: centring puts half a second of zeros in front (and nothing
behind), then the end is padded with zeros to a whole number of hops, so that no sample is lost.
"""

from __future__ import annotations

import math

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


def hop_samples(rate: int, hop_s: float) -> int:
    """The hop in samples, ``int(hop_s * rate)``; below one sample it is an ``InputError``."""
    hop = int(hop_s * rate)
    if hop < 1:
        raise InputError(f"a hop of {hop_s} s is less than one sample at {rate} Hz",
                         allowed=f"at least {1 / rate:g} s")
    return hop
