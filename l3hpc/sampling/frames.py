"""Time frames: which rows of a sensor belong to the same local day, ISO week or month."""

from __future__ import annotations

import numpy as np

from l3hpc.errors import InputError, nearest
from l3hpc.sampling.localtime import calendar

TIMESCALES = ("day", "week", "month")
UNKNOWN = "unknown"


def time_frames(
    timestamps: np.ndarray, timescale: str = "day", timezone: str = "America/New_York",
) -> list[tuple[str, np.ndarray]]:
    """Rows of each time frame: (label, ascending row numbers), in order of time.

    timestamps: (n,) unix time in seconds, in any order; rows of one frame need not be neighbours.
    timescale: 'day' (labels 2017-01-01), 'week' (ISO week, 2016-W52) or 'month' (2017-01).
    Rows without a finite timestamp form one last frame, 'unknown'. Every row is in one frame.
    """
    if timescale not in TIMESCALES:
        raise InputError(f"unknown timescale {timescale!r}", allowed=nearest(timescale, TIMESCALES))
    timestamps = np.asarray(timestamps, dtype=np.float64)
    if timestamps.ndim != 1:
        raise InputError(f"expected one timestamp per row, found shape {timestamps.shape}")
    known = np.flatnonzero(np.isfinite(timestamps))
    local = calendar(timestamps[known], timezone)
    if timescale == "day":
        keys = local.day
    elif timescale == "month":
        keys = local.month
    else:
        keys = local.iso_year * 54 + local.iso_week
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    frames = [(_label(int(keys[group[0]]), timescale), known[group])
              for group in np.split(order, cuts) if len(group)]
    if len(known) < len(timestamps):
        frames.append((UNKNOWN, np.flatnonzero(~np.isfinite(timestamps))))
    return frames


def _label(key: int, timescale: str) -> str:
    if timescale == "day":
        return str(np.datetime64(key, "D"))
    if timescale == "month":
        return str(np.datetime64(key, "M"))
    year, week = divmod(key, 54)
    return f"{year:04d}-W{week:02d}"
