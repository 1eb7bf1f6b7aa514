"""Unix timestamps as local calendar numbers, for whole arrays, through daylight saving changes.

One-second windows of a recording at a network's rate, piece by piece, with their loudness.

Teacher, student and training all cut audio here, so that row *i* of one is row *i* of the others.
A few windows that stand for many recordings (``spread``, ``windows_of``) give the ranges and errors
of reduced precision; which ones depends on the list of recordings alone, so that every task of an
array takes the same.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from l3hpc.audio.files import (
    AudioError,
    Contents,
    check_samples,
    count_rows,
    is_hdf5,
    probe,
    read_rows,
    row_blocks,
    usable_blocks,
)
from l3hpc.audio.framing import frame_blocks, frame_count
from l3hpc.audio.resample import resample_blocks, resample_rows
from l3hpc.datasets.corpus import Recording
from l3hpc.errors import InputError

DAY_S = 86_400
HOUR_S = 3_600
# 0001-01-03 to 9999-12-30: what the datetime module can shift by any offset.
EARLIEST_S, LATEST_S = -62_135_424_000.0, 253_402_128_000.0
BLOCK = 1 << 16
PIECE = 256
ROWS = 32  # read at once: larger arrays would get new pages from the system every time


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


@dataclass(frozen=True)
class Piece:
    """Neighbouring windows of one recording.

    first: number of the first window in the recording. windows: (m, rate) float32.
    starts: (m,) seconds in the recording (of the window's centre where framing is centred).
    levels: (m,) dB(A) re full scale, or None where not asked for.
    """

    first: int
    windows: np.ndarray
    starts: np.ndarray
    levels: np.ndarray | None


def pieces(
    path: Path, rate: int, hop: float, center: bool, *, min_seconds: float = 1.0,
    levels: bool = False, skip: int = 0, size: int = PIECE, contents: Contents | None = None,
) -> Iterator[Piece]:
    """All windows of a recording at a network's rate.
     A sound file is read and resampled in blocks and framed as by ``frame_audio``. In an HDF5 file
    every row of ``audio`` that lasts one second is one window (the published pairing of rows and
    embeddings); longer rows are framed one by one. Memory: two blocks, whatever a recording's
    length.

    Parameters
    ----------
    path
        The recording.
    rate
        Hz of the windows.
    hop
        Seconds from one window to the next.
    center
        As in ``frame_audio``.
    min_seconds
        A shorter sound file is refused.
    levels
        Measure the loudness too, before resampling, on the same windows.
    skip
        Leave out the first windows (a resumed task has them).
    size
        Windows at a time, at most.
    contents
        Filled with what was found in a sound file.

    Yields
    ------
    Piece
        Neighbouring windows, in order.

    Raises
    ------
    AudioError
        The recording is unreadable, empty, silent or too short.
    """
    own = probe(path).rate
    if own * hop < 1:  # of a damaged header: 1 Hz
        raise AudioError(f"has a rate of {own} Hz, less than one sample in a hop of {hop:g} s",
                         where=str(path))
    if is_hdf5(path):
        yield from _row_pieces(path, rate, hop, center, levels, skip, size)
        return
    yield from _frames(usable_blocks(path, min_seconds, contents), own, rate, hop, center,
                       levels, skip, size)


def window_count(path: Path, hop: float, center: bool) -> int:
    """How many windows ``pieces`` will give, from the header alone; 0 for what cannot be read."""
    try:
        info = probe(path)
        if is_hdf5(path):
            rows = count_rows(path)
            return rows * _windows_per_row(info.frames // max(rows, 1), info.rate, hop, center)
        return frame_count(info.frames, info.rate, hop, center) if info.frames else 0
    except (AudioError, InputError):  # a rate of 1 Hz, in a damaged header: no hop is so long
        return 0


def _windows_per_row(samples: int, rate: int, hop: float, center: bool) -> int:
    return 1 if samples == rate else frame_count(samples, rate, hop, center)


def _row_pieces(
    path: Path, rate: int, hop: float, center: bool, levels: bool, skip: int, size: int,
) -> Iterator[Piece]:
    count, info = count_rows(path), probe(path)
    if not info.frames:
        raise AudioError("contains no samples", reason="empty", where=str(path))
    samples, source_rate = info.frames // count, info.rate
    if samples != source_rate:
        per_row = _windows_per_row(samples, source_rate, hop, center)
        for number in range(skip // per_row, count):
            before = number * per_row
            for piece in _frames(row_blocks(path, number), source_rate, rate, hop, center, levels,
                                 max(skip - before, 0), size):
                yield Piece(before + piece.first, piece.windows,
                            number * samples / source_rate + piece.starts, piece.levels)
        return
    for first in range(skip, count, size):
        numbers = np.arange(first, min(first + size, count))
        windows = np.empty((len(numbers), rate), np.float32)
        measured = np.empty(len(numbers), np.float32) if levels else None
        for start in range(0, len(numbers), ROWS):
            part = slice(start, min(start + ROWS, len(numbers)))
            rows = _read_rows(path, first + part.start, first + part.stop)
            windows[part] = resample_rows(rows, source_rate, rate)
            if measured is not None:
                measured[part] = _levels_of_rows(rows, source_rate)
        yield Piece(first, windows, numbers.astype(np.float64), measured)


def _read_rows(path: Path, start: int, stop: int) -> np.ndarray:
    rows, _ = read_rows(path, start, stop)
    check_samples(rows, path)
    return rows


def _levels_of_rows(rows: np.ndarray, rate: int) -> np.ndarray:
    from l3hpc.audio.levels import frame_levels

    return np.array([frame_levels(row, rate, hop_s=1.0, center=False)[0] for row in rows],
                    np.float32)


def _frames(
    blocks: Iterable[np.ndarray], source_rate: int, rate: int, hop: float, center: bool,
    levels: bool, skip: int, size: int,
) -> Iterator[Piece]:
    from l3hpc.audio.levels import level_blocks

    measured = None
    if levels:  # the two readers are never more than two blocks apart
        blocks, again = itertools.tee(blocks)
        measured = _Levels(level_blocks(again, source_rate, hop_s=hop, center=center))
    sound = resample_blocks(blocks, source_rate, rate)
    for first, windows, starts in frame_blocks(sound, rate, hop, center, size=size, skip=skip):
        yield Piece(first, windows, starts,
                    measured.take(first, first + len(windows)) if measured else None)


class _Levels:
    """Levels by window number, from a stream that is read as far as asked for.

    A hop that is not a whole number of samples may fit once more at the rate of the windows than at
    that of the recording: the last level is given again.
    """

    def __init__(self, stream: Iterator[np.ndarray]) -> None:
        self._stream = stream
        self._held = np.empty(0, np.float32)
        self._first = 0

    def take(self, start: int, stop: int) -> np.ndarray:
        """Levels of the windows ``start`` to ``stop``, which follow those taken before."""
        while self._first + len(self._held) < stop:
            more = next(self._stream, None)
            if more is None:
                more = np.repeat(self._held[-1:], stop - self._first - len(self._held))
            self._held = np.concatenate((self._held, more))
        found = self._held[start - self._first:stop - self._first]
        done = stop - self._first - 1  # one stays, for the end
        self._held, self._first = self._held[done:], stop - 1
        return found


def spread(recordings: Sequence[Recording], count: int) -> list[Recording]:
    """At most ``count`` recordings, evenly through the list, from the first to the last."""
    places = np.linspace(0, len(recordings) - 1, min(count, len(recordings)))
    return [recordings[place] for place in np.rint(places).astype(int)]


def windows_of(folder: Path, recordings: Sequence[Recording], rate: int, hop: float, center: bool,
               count: int, min_seconds: float = 1.0) -> np.ndarray:
    """About ``count`` windows (n, rate) float32, as many of each recording, evenly through it.

    Of a long recording the first 256 windows are looked at. What cannot be used is left out; n is 0
    where nothing can.
    """
    each = -(-count // max(len(recordings), 1))
    found = [np.empty((0, rate), np.float32)]
    for recording in recordings:
        path = Path(folder) / recording.file
        try:
            first = next(pieces(path, rate, hop, center, min_seconds=min_seconds), None)
        except (AudioError, OSError):  # the step itself lists it with its reason
            continue
        if first is None:
            continue
        places = np.linspace(0, len(first.windows) - 1, min(each, len(first.windows)))
        found.append(first.windows[np.rint(places).astype(int)])
    return np.concatenate(found)
