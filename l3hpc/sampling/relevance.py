"""Relevance of a sound: how loud it is beside others of the same two hours, weekday and week.

The published pipeline's relative loudness, with the year of the ISO week in the key, in the site's
own time zone, and row for row in the order of the input.
"""

from __future__ import annotations

import numpy as np

from l3hpc.datasets.local_time import calendar_keys
from l3hpc.errors import InputError

WINDOW_HOURS = 2


def relevance_groups(timestamps: np.ndarray, timezone: str) -> np.ndarray:
    """Number of the comparison group of each row, (n,) int32; rows without a timestamp share −1.

    A group is one local (two-hour window, weekday, ISO week, ISO year). When clocks go back, the
    hour that comes twice falls into one group.
    """
    return calendar_keys(
        timestamps, timezone, lambda local: (
            ((local.iso_year * 54 + local.iso_week) * 7 + local.weekday) * (24 // WINDOW_HOURS)
            + local.hour // WINDOW_HOURS), unknown=-1)


def relative_loudness(
    levels: np.ndarray, timestamps: np.ndarray, timezone: str = "America/New_York",
    *, decimals: int | None = 2,
) -> np.ndarray:
    """Rank of each level within its comparison group, divided by the size of the group.

    Equal levels share the lowest rank: the quietest of n distinct levels gets 1/n, the loudest 1,
    and n equal levels get 1/n each.

    Parameters
    ----------
    levels
        Shape (n,): sound levels in dB(A); −∞ (digital silence) is allowed, NaN is refused.
    timestamps
        Shape (n,): Unix time in seconds; rows with NaN form one group of their own.
    timezone
        IANA name of the site's time zone.
    decimals
        Levels are rounded to this many decimals first, as published (None: not rounded).

    Returns
    -------
    ndarray of float64, shape (n,)
        Values in (0, 1].

    Raises
    ------
    InputError
        For NaN among the levels, and shapes that do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.sampling import relative_loudness
    >>> relative_loudness(np.array([50.0, 60.0, 55.0, 55.0]), np.zeros(4)).tolist()
    [0.25, 1.0, 0.5, 0.5]
    """
    levels = np.asarray(levels)
    if levels.ndim != 1 or levels.shape != np.shape(timestamps):
        raise InputError(f"{levels.size} levels for {np.size(timestamps)} timestamps")
    if np.isnan(levels).any():
        raise InputError(f"{int(np.isnan(levels).sum())} of {levels.size} levels are NaN",
                         allowed="a level in dB(A) for every row (silence may be -inf)")
    groups = relevance_groups(timestamps, timezone)
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    result = np.empty(len(order))
    for rows in np.split(order, cuts):
        values = levels[rows].astype(np.float64)
        if decimals is not None:
            values = np.round(values, decimals)
        result[rows] = (np.searchsorted(np.sort(values), values) + 1) / max(len(rows), 1)
    return result
