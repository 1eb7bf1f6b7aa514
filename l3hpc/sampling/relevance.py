"""Relevance of a sound: how loud it is beside others of the same two hours, weekday and week.

The published pipeline's relative loudness, with the year of the ISO week in the key, in the site's
own time zone, and row for row in the order of the input.
"""

from __future__ import annotations

import numpy as np

from l3hpc.errors import InputError
from l3hpc.sampling.localtime import calendar

WINDOW_HOURS = 2


def relevance_groups(timestamps: np.ndarray, timezone: str) -> np.ndarray:
    """Number of the comparison group of each row, (n,) int64; rows without a timestamp share −1.

    A group is one local (two-hour window, weekday, ISO week, ISO year). When clocks go back, the
    hour that comes twice falls into one group.
    """
    timestamps = np.asarray(timestamps, dtype=np.float64)
    groups = np.full(timestamps.shape, -1, dtype=np.int64)
    known = np.isfinite(timestamps)
    local = calendar(timestamps[known], timezone)
    key = (local.iso_year * 54 + local.iso_week) * 7 + local.weekday
    groups[known] = key * (24 // WINDOW_HOURS) + local.hour // WINDOW_HOURS
    return groups


def relative_loudness(
    levels: np.ndarray, timestamps: np.ndarray, timezone: str = "America/New_York",
    *, decimals: int | None = 2,
) -> np.ndarray:
    """Rank of each level in its group divided by the size of the group, (n,) float64 in (0, 1].

    Parameters
    ----------
    levels: (n,) sound levels in dB(A); −∞ (digital silence) is allowed, NaN is refused.
    timestamps: (n,) unix time in seconds; rows with NaN form one group of their own.
    timezone: IANA name of the site's time zone.
    decimals: levels are rounded to this many decimals first, as published (None: not rounded).

    Equal levels share the lowest rank: the quietest of n distinct levels gets 1/n, the loudest 1,
    and n equal levels get 1/n each.
    """
    levels = np.asarray(levels, dtype=np.float64)
    if levels.ndim != 1 or levels.shape != np.shape(timestamps):
        raise InputError(f"{levels.size} levels for {np.size(timestamps)} timestamps")
    if np.isnan(levels).any():
        raise InputError(f"{int(np.isnan(levels).sum())} of {levels.size} levels are NaN",
                         allowed="a level in dB(A) for every row (silence may be -inf)")
    if decimals is not None:
        levels = np.round(levels, decimals)
    groups = relevance_groups(timestamps, timezone)
    order = np.lexsort((levels, groups))
    ordered_groups, ordered_levels = groups[order], levels[order]
    positions = np.arange(len(order))
    new_group = np.ones(len(order), dtype=bool)
    new_group[1:] = ordered_groups[1:] != ordered_groups[:-1]
    new_level = new_group.copy()
    new_level[1:] |= ordered_levels[1:] != ordered_levels[:-1]
    starts = np.flatnonzero(new_group)
    sizes = np.diff(np.append(starts, len(order)))
    first = np.repeat(starts, sizes)
    tied = np.maximum.accumulate(np.where(new_level, positions, 0))
    result = np.empty(len(order))
    result[order] = (tied - first + 1) / np.repeat(sizes, sizes)
    return result
