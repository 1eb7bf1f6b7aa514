"""Time frames: which rows of a sensor belong to the same local day, ISO week or month."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from l3hpc.datasets.local_time import Calendar, calendar_keys
from l3hpc.errors import InputError, nearest

UNKNOWN = "unknown"
LAST = np.iinfo(np.int32).max  # the key of rows without a timestamp
KEYS: dict[str, Callable[[Calendar], np.ndarray]] = {
    "day": lambda local: local.day,
    "week": lambda local: local.iso_year * 54 + local.iso_week,
    "month": lambda local: local.month,
}
TIMESCALES = tuple(KEYS)


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
    timestamps = np.asarray(timestamps)
    if timestamps.ndim != 1:
        raise InputError(f"expected one timestamp per row, found shape {timestamps.shape}")
    keys = calendar_keys(timestamps, timezone, KEYS[timescale], LAST)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return [(_label(int(keys[rows[0]]), timescale), rows)
            for rows in np.split(order, cuts) if len(rows)]


def _label(key: int, timescale: str) -> str:
    if key == LAST:
        return UNKNOWN
    if timescale == "day":
        return str(np.datetime64(key, "D"))
    if timescale == "month":
        return str(np.datetime64(key, "M"))
    year, week = divmod(key, 54)
    return f"{year:04d}-W{week:02d}"
