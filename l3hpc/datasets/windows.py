"""Cut recordings into windows at a network's rate.

Teacher, student and training all cut audio by ``read_pieces``, so that row *i* of one is row *i* of
the others; windows of another length than the teacher's share its centres. A few windows that
represent many recordings (``evenly_spaced``, ``sample_windows``) determine the ranges and errors of
reduced precision; which ones depends on the list of recordings alone, so that every task of an
array takes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l3hpc.audio.files import AudioError, Contents, is_hdf5, probe, unchanged, usable_blocks
from l3hpc.audio.framing import frame_blocks, frame_count, window_samples
from l3hpc.audio.hdf5_rows import count_rows, read_rows, row_blocks
from l3hpc.audio.resample import resample_blocks, resample_rows
from l3hpc.audio.samples import check_samples
from l3hpc.datasets.corpus import Recording
from l3hpc.errors import InputError

PIECE = 256  # windows
ROWS = 32  # of a file that are read at once: the system gives larger arrays new pages every time


@dataclass(frozen=True)
class Piece:
    """Consecutive windows of one recording.

    Attributes
    ----------
    first
        Number of the first window in the recording.
    windows
        (m, window) float32.
    starts
        (m,) seconds in the recording (of the window's centre where framing is centred).
    levels
        (m,) dB(A) re full scale; None where they are not measured.
    """

    first: int
    windows: np.ndarray
    starts: np.ndarray
    levels: np.ndarray | None


def read_pieces(
    path: Path, rate: int, hop: float, center: bool, *, window_s: float = 1.0,
    teacher_s: float | None = None, min_seconds: float = 1.0, levels: bool = False,
    skip: int = 0, size: int = PIECE, contents: Contents | None = None,
) -> Iterator[Piece]:
    """All windows of a recording at a network's rate.

    A sound file is read and resampled in blocks and framed as by ``frame_audio``. In an HDF5 file
    every row of ``audio`` that lasts one second (the published pairing of rows and embeddings), or
    as long as a window of the teacher, is one window, cut or padded around its centre; other rows
    are framed one by one. Memory: two blocks, whatever a recording's length.

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
    window_s
        Length of a window in seconds.
    teacher_s
        Length of the windows whose centres these share; None: their own.
    min_seconds
        A shorter sound file is refused.
    levels
        Whether to measure the loudness too, before resampling, on the same windows.
    skip
        Leave out the first windows (a resumed task has them).
    size
        Windows at a time, at most.
    contents
        Filled with what a sound file holds.

    Yields
    ------
    Piece
        Consecutive windows, in order.

    Raises
    ------
    AudioError
        The recording is unreadable, empty, silent or too short, or changes meanwhile.
    """
    cut = _Cut(hop, center, window_s, teacher_s)
    with unchanged(path):  # it is opened several times
        source_rate = probe(path).rate
        if source_rate * hop < 1:  # a damaged header: 1 Hz
            raise AudioError(f"has a sample rate of {source_rate} Hz, less than one sample per hop "
                             f"of {hop:g} s", where=str(path))
        if is_hdf5(path):
            yield from _row_pieces(path, rate, cut, levels, skip, size)
        else:
            yield from _frames(usable_blocks(path, min_seconds, contents), source_rate, rate, cut,
                               levels, skip, size)


def window_count(path: Path, hop: float, center: bool, window_s: float = 1.0) -> int:
    """How many windows ``read_pieces`` gives, from the header alone.

    Parameters
    ----------
    path
        The recording.
    hop
        Seconds from one window to the next.
    center
        As in ``frame_audio``.
    window_s
        Length of a window in seconds (of the teacher's, where windows share their centres).

    Returns
    -------
    int
        0 for a file that cannot be read.
    """
    try:
        info = probe(path)
        if is_hdf5(path):
            rows = count_rows(path)
            return rows * _windows_per_row(info.frames // max(rows, 1), info.rate,
                                           _Cut(hop, center, window_s))
        return frame_count(info.frames, info.rate, hop, center, window_s) if info.frames else 0
    except (AudioError, InputError):  # unreadable, or a rate of 1 Hz in a damaged header
        return 0


@dataclass(frozen=True)
class _Cut:
    """How a recording is cut into windows, see ``read_pieces``."""

    hop: float
    center: bool
    window_s: float = 1.0
    teacher_s: float | None = None

    @property
    def counted_s(self) -> float:
        """Length of the windows that decide how many there are."""
        return self.window_s if self.teacher_s is None else self.teacher_s


def _windows_per_row(samples: int, rate: int, cut: _Cut) -> int:
    if _is_one_window(samples, rate, cut):
        return 1
    return frame_count(samples, rate, cut.hop, cut.center, cut.counted_s)


def _is_one_window(samples: int, rate: int, cut: _Cut) -> bool:
    return samples in (rate, window_samples(cut.counted_s, rate))


def _around_centre(rows: np.ndarray, length: int) -> np.ndarray:
    """``length`` samples around the centre of each row, with zeros where a row is shorter."""
    first = rows.shape[1] // 2 - length // 2
    part = rows[:, max(first, 0):max(first + length, 0)]
    before = max(-first, 0)
    return np.pad(part, ((0, 0), (before, length - before - part.shape[1])))


def _row_pieces(path: Path, rate: int, cut: _Cut, levels: bool, skip: int, size: int
                ) -> Iterator[Piece]:
    count, info = count_rows(path), probe(path)
    if not info.frames:
        raise AudioError("contains no samples", reason="empty", where=str(path))
    samples, source_rate = info.frames // count, info.rate
    if not _is_one_window(samples, source_rate, cut):
        per_row = _windows_per_row(samples, source_rate, cut)
        for number in range(skip // per_row, count):
            before = number * per_row
            for piece in _frames(row_blocks(path, number), source_rate, rate, cut, levels,
                                 max(skip - before, 0), size):
                yield Piece(before + piece.first, piece.windows,
                            number * samples / source_rate + piece.starts, piece.levels)
        return
    window = window_samples(cut.window_s, rate)
    for first in range(skip, count, size):
        numbers = np.arange(first, min(first + size, count))
        windows = np.empty((len(numbers), window), np.float32)
        measured = np.empty(len(numbers), np.float32) if levels else None
        for start in range(0, len(numbers), ROWS):
            part = slice(start, min(start + ROWS, len(numbers)))
            rows = _read_rows(path, first + part.start, first + part.stop)
            windows[part] = _around_centre(resample_rows(rows, source_rate, rate), window)
            if measured is not None:
                measured[part] = _levels_of_rows(rows, source_rate)
        yield Piece(first, windows, numbers * (samples / source_rate), measured)


def _read_rows(path: Path, start: int, stop: int) -> np.ndarray:
    rows, _ = read_rows(path, start, stop)
    check_samples(rows, path)
    return rows


def _levels_of_rows(rows: np.ndarray, rate: int) -> np.ndarray:
    from l3hpc.audio.levels import frame_levels

    seconds = rows.shape[1] / rate
    return np.array([frame_levels(row, rate, seconds, hop_s=seconds, center=False)[0]
                     for row in rows], np.float32)


def _frames(
    blocks: Iterable[np.ndarray], source_rate: int, rate: int, cut: _Cut, levels: bool, skip: int,
    size: int,
) -> Iterator[Piece]:
    from l3hpc.audio.levels import level_blocks

    measured = None
    if levels:  # memory: the two readers are never more than two blocks apart
        blocks, again = itertools.tee(blocks)
        measured = _Levels(level_blocks(again, source_rate, cut.counted_s, cut.hop, cut.center))
    sound = resample_blocks(blocks, source_rate, rate)
    for first, windows, starts in frame_blocks(sound, rate, cut.hop, cut.center, cut.window_s,
                                               cut.teacher_s, size=size, skip=skip):
        yield Piece(first, windows, starts,
                    measured.take(first, first + len(windows)) if measured else None)


class _Levels:
    """Levels by window number, from a stream that is read as far as needed.

    A hop that is not a whole number of samples may fit once more at the rate of the windows than at
    that of the recording: then the last level is repeated.
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
        levels = self._held[start - self._first:stop - self._first]
        done = stop - self._first - 1  # the last one stays, to be repeated at the end
        self._held, self._first = self._held[done:], stop - 1
        return levels


def evenly_spaced(recordings: Sequence[Recording], count: int) -> list[Recording]:
    """Choose recordings spread evenly through a list, from the first to the last.

    Parameters
    ----------
    recordings
        To choose from.
    count
        How many at most.

    Returns
    -------
    list of Recording
        In their order.
    """
    positions = np.linspace(0, len(recordings) - 1, min(count, len(recordings)))
    return [recordings[index] for index in np.rint(positions).astype(int)]


def sample_windows(folder: Path, recordings: Sequence[Recording], rate: int, hop: float,
                   center: bool, count: int, min_seconds: float = 1.0, window_s: float = 1.0
                   ) -> np.ndarray:
    """Read about ``count`` windows, as many of each recording, spread evenly through it.

    Of a long recording the first 256 windows are used. Recordings that cannot be read are left out.

    Parameters
    ----------
    folder
        Where the recordings are.
    recordings
        Which ones.
    rate
        Hz.
    hop
        Seconds from one window to the next.
    center
        As in ``frame_audio``.
    count
        How many windows, about.
    min_seconds
        A shorter sound file is left out.
    window_s
        Length of a window in seconds.

    Returns
    -------
    numpy.ndarray
        (n, window) float32; n is 0 where nothing can be read.
    """
    per_recording = -(-count // max(len(recordings), 1))
    windows = [np.empty((0, window_samples(window_s, rate)), np.float32)]
    for recording in recordings:
        path = Path(folder) / recording.file
        try:
            first = next(read_pieces(path, rate, hop, center, window_s=window_s,
                                     min_seconds=min_seconds), None)
        except (AudioError, OSError):  # the step lists it with the reason
            continue
        if first is None:
            continue
        positions = np.linspace(0, len(first.windows) - 1, min(per_recording, len(first.windows)))
        windows.append(first.windows[np.rint(positions).astype(int)])
    return np.concatenate(windows)
