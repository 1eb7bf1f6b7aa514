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
    """Group rows by local day, ISO week or month.

    Parameters
    ----------
    timestamps
        Shape (n,): Unix time in seconds, in any order; rows of one frame need not be neighbours.
    timescale
        'day' (labels like 2017-01-01), 'week' (ISO week, 2016-W52) or 'month' (2017-01).
    timezone
        IANA name of the site's time zone.

    Returns
    -------
    list of (str, ndarray)
        Label and ascending row numbers of every frame, in order of time. Rows without a finite
        timestamp form one last frame, 'unknown'. Every row is in exactly one frame.

    Raises
    ------
    InputError
        For an unknown timescale or time zone, and timestamps that are not one-dimensional.

    Examples
    --------
    The second recording was made at 23:00 in New York, still on the first day:

    >>> import numpy as np
    >>> from l3hpc.sampling import time_frames
    >>> for label, rows in time_frames(np.array([1483290000.0, 1483329600.0, 1483376400.0])):
    ...     print(label, rows)
    2017-01-01 [0 1]
    2017-01-02 [2]
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
