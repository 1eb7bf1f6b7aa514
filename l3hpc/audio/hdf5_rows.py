"""Recordings in HDF5 files, as in the published corpora.

Each row of the data set ``audio``, ``(rows, n)`` or ``(rows, 1, n)`` in int16, float32 or float64,
is one recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.audio import decoding
from l3hpc.audio.formats import AudioError
from l3hpc.audio.samples import RATES, check_samples, is_sample_type, to_float
from l3hpc.errors import InputError

if TYPE_CHECKING:
    import h5py

EMPTY_RATE = 48_000  # Hz, for rows without samples, for which any rate is right


def count_rows(path: Path) -> int:
    """Return the number of recordings (rows) in the data set ``audio`` of an HDF5 file."""
    with open_rows(path) as (audio, _):
        return int(audio.shape[0])


def read_rows(path: Path, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, int]:
    """Read rows of the data set ``audio`` of an HDF5 file, one recording each.

    Parameters
    ----------
    path
        The HDF5 file.
    start, stop
        The first row, and the one after the last (None for the end).

    Returns
    -------
    rows
        (rows, n) float32 in [-1, 1].
    rate
        Hz: the attribute ``rate``, ``sample_rate`` or ``sr`` of the data set or the file. If there
        is none, a row is one second, as in the published corpora.

    Raises
    ------
    AudioError
        The file or one of the rows cannot be read.
    """
    with open_rows(path) as (audio, rate):
        rows = audio[start:stop]
    rows = rows.reshape(rows.shape[0], rows.shape[-1])
    return to_float(rows), rate


def row_blocks(path: Path, number: int) -> Iterator[np.ndarray]:
    """Read one row of the data set ``audio`` in blocks, with memory for one block.

    Parameters
    ----------
    path
        The HDF5 file.
    number
        The row, from 0.

    Yields
    ------
    numpy.ndarray
        (n,) float32 in [-1, 1].

    Raises
    ------
    AudioError
        The row is damaged, or has samples that no recording has.
    """
    with open_rows(path) as (audio, _):
        row = (number, 0) if audio.ndim == 3 else (number,)
        for start in range(0, audio.shape[-1], decoding.BLOCK):
            samples = to_float(audio[(*row, slice(start, start + decoding.BLOCK))])
            check_samples(samples, path)
            yield samples


def all_row_blocks(path: Path) -> Iterator[np.ndarray]:
    """Read all rows of the data set ``audio``, joined end to end, as ``row_blocks`` does."""
    with open_rows(path) as (audio, _):
        rows, samples = audio.shape[0], audio.shape[-1]
    if samples > decoding.BLOCK:
        for number in range(rows):
            yield from row_blocks(path, number)
        return
    step = max(decoding.BLOCK // max(samples, 1), 1)
    for start in range(0, rows, step):
        block = read_rows(path, start, start + step)[0].reshape(-1)
        check_samples(block, path)
        yield block


class open_rows:
    """Context manager: the data set ``audio`` of an HDF5 file, and its rate in Hz.

    Parameters
    ----------
    path
        The HDF5 file.

    Raises
    ------
    AudioError
        It cannot be read, or has no such data set.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def __enter__(self) -> tuple[h5py.Dataset, int]:
        from l3hpc.io.hdf5 import open_hdf5

        try:
            self._file = open_hdf5(self._path)
        except InputError as error:
            raise _unreadable(error) from None
        try:
            return self._audio()
        except InputError as error:
            self._file.close()
            raise _unreadable(error) from None
        except BaseException:
            self._file.close()
            raise

    def _audio(self) -> tuple[h5py.Dataset, int]:
        from l3hpc.io.hdf5 import numeric_dataset, read_attributes

        path = self._path
        audio = numeric_dataset(self._file, "audio") if "audio" in self._file else None
        if audio is None or not (audio.ndim == 2 or (audio.ndim == 3 and audio.shape[1] == 1)):
            problem = "contains no data set 'audio'" if audio is None else (
                f"'audio' has shape {audio.shape}")
            raise AudioError(problem, where=str(path),
                             allowed="'audio' of shape (rows, n) or (rows, 1, n), int16 or float")
        if not is_sample_type(audio.dtype):
            raise AudioError(f"'audio' has type {audio.dtype}, whose full scale is unknown",
                             where=str(path),
                             allowed="int16, or float32 or float64 in [-1, 1]")
        for owner in (audio, self._file):
            values = read_attributes(owner, path)
            for name in ("rate", "sample_rate", "sr"):
                if name in values:
                    return audio, _rate(values[name], name, path)
        # The published corpora state no rate: each of their rows is one second.
        return audio, int(audio.shape[-1]) or EMPTY_RATE

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self._file.__exit__(kind, error, trace)
        except InputError as damage:
            raise _unreadable(damage) from None


def _unreadable(error: InputError) -> AudioError:
    return AudioError(error.message, where=error.where, allowed=error.allowed, hint=error.hint)


def _rate(value: object, name: str, path: Path) -> int:
    """The sampling rate in an attribute; an ``AudioError`` if it is not one."""
    array = np.asarray(value)
    if array.size == 1 and array.dtype.kind in "iuf" and np.isfinite(array).all():
        rate = float(array.reshape(-1)[0])
        if RATES[0] <= rate <= RATES[1] and rate == int(rate):
            return int(rate)
    text = " ".join(repr(value.decode("utf-8", "replace") if isinstance(value, bytes)
                         else value.tolist() if isinstance(value, (np.ndarray, np.generic))
                         else value).split())
    raise AudioError(f"attribute '{name}' is {text[:80]}", where=str(path),
                     allowed=f"a whole number of Hz from {RATES[0]} to {RATES[1]:,}")
