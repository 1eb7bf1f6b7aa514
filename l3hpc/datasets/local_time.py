"""Unix timestamps as local calendar numbers, through changes of daylight saving time."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np

from l3hpc.errors import InputError

DAY_S = 86_400
HOUR_S = 3_600
# 0001-01-03 to 9999-12-30: the times that the datetime module can shift by any offset.
EARLIEST_S, LATEST_S = -62_135_424_000.0, 253_402_128_000.0
BLOCK = 1 << 16  # timestamps


@dataclass(frozen=True)
class Calendar:
    """Local calendar numbers, each an int64 array of the shape of the timestamps.

    Attributes
    ----------
    day
        Days since 1970-01-01.
    month
        Months since 1970-01.
    hour
        0–23.
    weekday
        0 is Monday.
    iso_year
        Year of the ISO 8601 week date.
    iso_week
        Week of the ISO 8601 week date.
    """

    day: np.ndarray
    month: np.ndarray
    hour: np.ndarray
    weekday: np.ndarray
    iso_year: np.ndarray
    iso_week: np.ndarray


def time_zone(name: str) -> ZoneInfo:
    """The time zone with a name.

    Parameters
    ----------
    name
        IANA name, such as America/New_York.

    Returns
    -------
    zoneinfo.ZoneInfo
        The zone.

    Raises
    ------
    InputError
        There is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InputError(f"unknown time zone {name!r}",
                         allowed="an IANA name such as America/New_York or UTC") from None


def utc_offsets(timestamps: np.ndarray, timezone: str) -> np.ndarray:
    """How far local time is ahead of UTC.

    The zone is asked once per hour that occurs in the data, and once per timestamp only in hours in
    which the offset changes.

    Parameters
    ----------
    timestamps
        Finite unix timestamps (s), any shape.
    timezone
        IANA name.

    Returns
    -------
    numpy.ndarray
        Seconds, float64, in the same shape.

    Raises
    ------
    InputError
        A timestamp is outside the years 1 to 9999, or there is no such zone.
    """
    timestamps = np.asarray(timestamps, dtype=np.float64)
    if timestamps.size == 0:
        return np.zeros(timestamps.shape)
    if timestamps.min() < EARLIEST_S or timestamps.max() > LATEST_S:
        raise InputError("timestamps outside the years 1 to 9999",
                         allowed="unix time in seconds", hint="are they in milliseconds?")
    tz = time_zone(timezone)
    # datetime is slow: a month of windows has millions of timestamps, but few hours.
    hours, back = np.unique(np.floor(timestamps / HOUR_S), return_inverse=True)
    first = np.array([_offset(hour * HOUR_S, tz) for hour in hours])
    # An hour with the same offset at both ends is taken to have it throughout.
    last = np.array([_offset(hour * HOUR_S + HOUR_S - 1, tz) for hour in hours])
    back = back.reshape(timestamps.shape)
    offsets = first[back]
    for position in zip(*np.nonzero((first != last)[back]), strict=True):
        offsets[position] = _offset(float(timestamps[position]), tz)
    return offsets


def _offset(timestamp: float, tz: ZoneInfo) -> float:
    moment = datetime.datetime.fromtimestamp(int(np.floor(timestamp)), tz=tz)
    offset = moment.utcoffset()
    return offset.total_seconds() if offset is not None else 0.0


def calendar(timestamps: np.ndarray, timezone: str) -> Calendar:
    """Local calendar numbers of timestamps.

    Parameters
    ----------
    timestamps
        Finite unix timestamps (s), any shape.
    timezone
        IANA name.

    Returns
    -------
    Calendar
        In the same shape.

    Raises
    ------
    InputError
        As ``utc_offsets``.

    Examples
    --------
    >>> calendar(np.array([0.0]), "America/New_York").hour
    array([19])
    """
    timestamps = np.asarray(timestamps, dtype=np.float64)
    seconds = np.floor(timestamps + utc_offsets(timestamps, timezone)).astype(np.int64)
    day = seconds // DAY_S
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
    thursday = day - weekday + 3  # a week belongs to the year of its Thursday
    years = thursday.astype("datetime64[D]").astype("datetime64[Y]")
    new_year = years.astype("datetime64[D]").astype(np.int64)
    return Calendar(
        day=day,
        month=day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64),
        hour=seconds % DAY_S // HOUR_S,
        weekday=weekday,
        iso_year=years.astype(np.int64) + 1970,
        iso_week=(thursday - new_year) // 7 + 1,
    )


def calendar_keys(
    timestamps: np.ndarray, timezone: str, key: Callable[[Calendar], np.ndarray], unknown: int,
) -> np.ndarray:
    """A key of the local calendar of each timestamp, computed in blocks.

    Parameters
    ----------
    timestamps
        (n,) unix timestamps (s), or NaN.
    timezone
        IANA name.
    key
        Computes the key from a calendar.
    unknown
        The key where the timestamp is NaN.

    Returns
    -------
    numpy.ndarray
        (n,) int32.

    Raises
    ------
    InputError
        As ``utc_offsets``.
    """
    keys = np.full(len(timestamps), unknown, np.int32)
    for start in range(0, len(timestamps), BLOCK):
        block = np.asarray(timestamps[start:start + BLOCK], np.float64)
        dated = np.isfinite(block)
        keys[start:start + BLOCK][dated] = key(calendar(block[dated], timezone))
    return keys
