"""Unix timestamps as local calendar numbers, for whole arrays, through daylight saving changes."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np

from l3hpc.errors import InputError

DAY_S = 86_400
HOUR_S = 3_600
# 0001-01-03 to 9999-12-30: what the datetime module can shift by any offset.
EARLIEST_S, LATEST_S = -62_135_424_000.0, 253_402_128_000.0
BLOCK = 1 << 16


@dataclass(frozen=True)
class Calendar:
    """Local calendar numbers, each an int64 array of the shape of the timestamps.

    day: days since 1970-01-01; month: months since 1970-01; hour: 0–23; weekday: Monday is 0;
    iso_year, iso_week: ISO 8601 week date (the year that the week belongs to).
    """

    day: np.ndarray
    month: np.ndarray
    hour: np.ndarray
    weekday: np.ndarray
    iso_year: np.ndarray
    iso_week: np.ndarray


def zone(name: str) -> ZoneInfo:
    """The time zone of this IANA name; an unknown name is refused."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InputError(f"unknown time zone {name!r}",
                         allowed="an IANA name such as America/New_York or UTC") from None


def utc_offsets(timestamps: np.ndarray, timezone: str) -> np.ndarray:
    """Seconds that local time is ahead of UTC at each finite unix timestamp, float64.

    The zone is asked once per hour that occurs in the data, and once per timestamp only in hours in
    which the offset changes.
    """
    timestamps = np.asarray(timestamps, dtype=np.float64)
    if timestamps.size == 0:
        return np.zeros(timestamps.shape)
    if timestamps.min() < EARLIEST_S or timestamps.max() > LATEST_S:
        raise InputError("timestamps outside the years 1 to 9999",
                         allowed="unix time in seconds", hint="are they in milliseconds?")
    tz = zone(timezone)
    hours, back = np.unique(np.floor(timestamps / HOUR_S), return_inverse=True)
    first = np.array([_offset(hour * HOUR_S, tz) for hour in hours])
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
    """Local calendar numbers of finite unix timestamps (s) in an IANA time zone."""
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
    """``key`` of the local calendar of each timestamp, (n,) int32; ``unknown`` where it is NaN.

    A calendar is only made of ``BLOCK`` rows at a time.
    """
    keys = np.full(len(timestamps), unknown, np.int32)
    for start in range(0, len(timestamps), BLOCK):
        block = np.asarray(timestamps[start:start + BLOCK], np.float64)
        known = np.isfinite(block)
        keys[start:start + BLOCK][known] = key(calendar(block[known], timezone))
    return keys
