"""One-second windows of a recording at a network's rate, piece by piece, with their loudness.

Teacher, student and training all cut audio here, so that row *i* of one is row *i* of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l3hpc.audio.files import (
    AudioError,
    check_usable,
    count_rows,
    is_hdf5,
    probe,
    read_audio,
    read_rows,
)
from l3hpc.audio.framing import frame_audio, frame_count
from l3hpc.audio.resample import resample

PIECE = 256


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
    levels: bool = False, skip: int = 0, size: int = PIECE,
) -> Iterator[Piece]:
    """All windows of a recording at ``rate`` Hz, at most ``size`` at a time.

    Sound files: resampled as a whole, framed by ``frame_audio`` with ``hop`` seconds; silent or
    too short ones raise ``AudioError``. HDF5: every row of ``audio`` that lasts one second is one
    window (the published pairing of rows and embeddings); longer rows are framed one by one.
    skip: leave out the first windows (a resumed task has them). Levels are measured before
    resampling, on the same windows.
    """
    if is_hdf5(path):
        yield from _row_pieces(path, rate, hop, center, levels, skip, size)
        return
    signal, source_rate = read_audio(path)
    check_usable(signal, source_rate, min_seconds=min_seconds, where=str(path))
    yield from _frames(signal, source_rate, rate, hop, center, levels, skip, size)


def window_count(path: Path, hop: float, center: bool) -> int:
    """How many windows ``pieces`` will give, from the header alone; 0 for what cannot be read."""
    try:
        info = probe(path)
        if is_hdf5(path):
            rows = count_rows(path)
            return rows * _windows_per_row(info.frames // max(rows, 1), info.rate, hop, center)
        return frame_count(info.frames, info.rate, hop, center) if info.frames else 0
    except AudioError:
        return 0


def _windows_per_row(samples: int, rate: int, hop: float, center: bool) -> int:
    return 1 if samples == rate else frame_count(samples, rate, hop, center)


def _row_pieces(
    path: Path, rate: int, hop: float, center: bool, levels: bool, skip: int, size: int,
) -> Iterator[Piece]:
    count = count_rows(path)
    if not count:
        raise AudioError("holds no rows", reason="empty", where=str(path))
    shape, source_rate = read_rows(path, 0, 1)
    samples = shape.shape[1]
    if samples != source_rate:
        per_row = _windows_per_row(samples, source_rate, hop, center)
        for number in range(skip // per_row, count):
            row, _ = read_rows(path, number, number + 1)
            before = number * per_row
            for piece in _frames(row[0], source_rate, rate, hop, center, levels,
                                 max(skip - before, 0), size):
                yield Piece(before + piece.first, piece.windows,
                            number * samples / source_rate + piece.starts, piece.levels)
        return
    for first in range(skip, count, size):
        rows, _ = read_rows(path, first, min(first + size, count))
        if not np.isfinite(rows).all():
            raise AudioError("holds samples that are not finite numbers", where=str(path))
        found = _levels_of_rows(rows, source_rate) if levels else None
        if source_rate != rate:
            rows = np.stack([resample(row, source_rate, rate) for row in rows])
        yield Piece(first, rows, np.arange(first, first + len(rows), dtype=np.float64), found)


def _levels_of_rows(rows: np.ndarray, rate: int) -> np.ndarray:
    from l3hpc.audio.levels import frame_levels

    return np.array([frame_levels(row, rate, hop_s=1.0, center=False)[0] for row in rows],
                    np.float32)


def _frames(
    signal: np.ndarray, source_rate: int, rate: int, hop: float, center: bool, levels: bool,
    skip: int, size: int,
) -> Iterator[Piece]:
    from l3hpc.audio.levels import frame_levels

    measured = None
    if levels:
        measured = frame_levels(signal, source_rate, hop_s=hop, center=center)
    windows, starts = frame_audio(resample(signal, source_rate, rate), rate, hop, center)
    if measured is not None and len(measured) != len(windows):
        # a hop that is no whole number of samples may fit once more, or once less, at another rate
        missing = max(len(windows) - len(measured), 0)
        measured = np.pad(measured, (0, missing), mode="edge")[:len(windows)]
    for first in range(skip, len(windows), size):
        stop = min(first + size, len(windows))
        yield Piece(first, windows[first:stop], starts[first:stop],
                    None if measured is None else measured[first:stop])
