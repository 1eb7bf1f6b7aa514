"""One-second windows of a recording at a network's rate, piece by piece, with their loudness.

Teacher, student and training all cut audio here, so that row *i* of one is row *i* of the others.
A few windows that stand for many recordings (``spread``, ``windows_of``) give the ranges and errors
of reduced precision; which ones depends on the list of recordings alone, so that every task of an
array takes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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

PIECE = 256
ROWS = 32  # read at once: larger arrays would get new pages from the system every time


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
        raise AudioError("holds no samples", reason="empty", where=str(path))
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
