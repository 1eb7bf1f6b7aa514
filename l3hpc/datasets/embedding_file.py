"""One file of embeddings, HDF5 or NPZ: its matrix, provenance, attributes and audio.

A file is opened when it is read, and read in bounded memory. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.rows import block_rows
from l3hpc.errors import InputError, nearest, setting
from l3hpc.io import hdf5, npz

TEACHER_KEY = "l3_embedding"
NPZ_KEY = "embedding"
AUDIO_KEY = "audio"
LAYOUT = ("an artifact's folder, or *.h5 with 'l3_embedding' or a reduced key (pca_batch_…), "
           "or *.npz with 'embedding'; train/ and validate/ below are fine")
_ROW_COLUMNS = ("recording", "frame", "start", "timestamp", "loudness",
                "source_shard", "source_row")
_RECORDING_COLUMNS = ("recordings/file", "recordings/sensor", "recordings/timestamp",
                      "recordings/size", "recordings/mtime_ns", "recordings/digest")
_TEXT_COLUMNS = ("recordings/file", "recordings/sensor")


@dataclass(frozen=True)
class EmbeddingFile:
    """One file of a source: a matrix (rows, dim) under ``key``. It is opened when it is read.

    Attributes
    ----------
    path
        The file.
    split
        ``train``, ``validate`` or ``test`` where the file is in such a folder, else None.
    expected_key
        The key that the file must have; None: see ``key``.
    expected_dim
        The dimension that it must have; None: any.
    """

    path: Path
    split: str | None = None
    expected_key: str | None = None
    expected_dim: int | None = None

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int]]:
        return _npz_shapes(self.path) if npz.is_npz(self.path) else hdf5_shapes(self.path)

    @property
    def matrices(self) -> list[str]:
        """Names of all matrices in the file, whichever is read."""
        return [name for name in self._shapes if name != AUDIO_KEY]

    @cached_property
    def _shape(self) -> tuple[str, int, int]:
        if npz.is_npz(self.path):
            shapes = self._shapes
            key = _choose_key(self.path, shapes, self.expected_key)
        else:
            with hdf5.open_hdf5(self.path) as file:
                shapes = hdf5.matrix_shapes(file)
                key = _choose_key(self.path, shapes, self.expected_key)
                # Refuses rows that were never written, before tasks are planned for them.
                hdf5.numeric_dataset(file, key)
        rows, dim = shapes[key]
        if not dim:
            raise InputError(f"'{key}' has shape {shapes[key]}", where=str(self.path),
                             allowed="(rows, dimensions), one dimension or more")
        if self.expected_dim is not None and dim != self.expected_dim:
            raise InputError(
                f"'{key}' has {dim} dimensions, {self.expected_dim} expected",
                where=str(self.path), allowed="all files of one source share one dimension")
        return key, rows, dim

    @property
    def key(self) -> str:
        """Name of the matrix: as expected, or the only matrix of the file."""
        return self._shape[0]

    @property
    def rows(self) -> int:
        """Number of embeddings."""
        return self._shape[1]

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._shape[2]

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read consecutive rows.

        Parameters
        ----------
        start
            First row.
        stop
            Row after the last; None: the end.

        Returns
        -------
        numpy.ndarray
            (stop - start, dim) float32.

        Raises
        ------
        InputError
            A value is not finite.
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        if npz.is_npz(self.path):
            return self._floats(npz.read_npz(self.path, [self.key])[self.key][start:stop], start)
        with hdf5.open_hdf5(self.path) as file:
            return self._floats(hdf5.numeric_dataset(file, self.key)[start:stop], start)

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Read all rows in order.

        Parameters
        ----------
        size
            Rows at a time; None: see ``arrays.rows.block_rows``.

        Yields
        ------
        numpy.ndarray
            (at most ``size``, dim) float32.

        Raises
        ------
        InputError
            A value is not finite.
        """
        if npz.is_npz(self.path):
            # NPZ arrays cannot be read in part: the whole matrix is in memory either way.
            matrix = self.read()
            size = size or block_rows(self.dim)
            for start in range(0, self.rows, size):
                yield matrix[start:start + size]
            return
        with hdf5.open_hdf5(self.path) as file:
            data = hdf5.numeric_dataset(file, self.key)
            size = size or block_rows(self.dim, data.chunks[0] if data.chunks else 1)
            for start in range(0, self.rows, size):
                yield self._floats(data[start:start + size], start)

    def take(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read some rows, and only the blocks that hold them.

        Parameters
        ----------
        rows
            (n,) row numbers, in any order.

        Returns
        -------
        numpy.ndarray
            (n, dim) float32, in the given order.

        Raises
        ------
        IndexError
            There is no such row.
        InputError
            A value is not finite.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.rows):
            raise IndexError(f"{self.path}: row outside 0…{self.rows - 1}")
        if npz.is_npz(self.path):
            return self.read()[rows]
        out = np.empty((rows.size, self.dim), np.float32)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        with hdf5.open_hdf5(self.path) as file:
            data = hdf5.numeric_dataset(file, self.key)
            # One read per chunk of the file: h5py's own selection of rows is far slower.
            step = data.chunks[0] if data.chunks else 1024
            edges = np.flatnonzero(np.diff(ordered // step)) + 1
            for group in np.split(np.arange(rows.size), edges):
                if group.size:
                    low, high = ordered[group[0]], ordered[group[-1]] + 1
                    block = data[low:high][ordered[group] - low]
                    out[order[group]] = self._floats(block, ordered[group])
        return out

    def _floats(self, block: np.ndarray, rows: int | np.ndarray) -> np.ndarray:
        return finite_float32(block, self.path, rows, self.key)

    def provenance(self, only: Collection[str] | None = None) -> dict[str, np.ndarray] | None:
        """Where each row comes from.

        Per row: ``recording`` (index into the next six), ``frame``, ``start`` (s), ``timestamp``
        (unix s), ``loudness`` (dB(A)), and in samples ``source_shard``, ``source_row``. Per
        recording: ``recordings/file``, ``recordings/sensor`` (str objects),
        ``recordings/timestamp``, and what was read (see ``audio.formats.FileState``; earlier
        versions did not record it): ``recordings/size``, ``recordings/mtime_ns``,
        ``recordings/digest``.

        Parameters
        ----------
        only
            Names of columns; None: all that the file has.

        Returns
        -------
        dict or None
            Name → values; None where the file has no provenance.

        Raises
        ------
        InputError
            Columns have different lengths, or refer to recordings that do not exist.
        """
        if npz.is_npz(self.path):
            return None
        with hdf5.open_hdf5(self.path) as file:
            if "recording" not in file or "recordings/file" not in file:
                return None
            columns = {}
            for name in (*_ROW_COLUMNS, *_RECORDING_COLUMNS):
                if name in file and (only is None or name in only):
                    columns[name] = (hdf5.read_strings(file, name) if name in _TEXT_COLUMNS
                                     else hdf5.numeric_dataset(file, name, dims=1)[()])
            recordings = len(hdf5.string_dataset(file, "recordings/file"))
        for name, values in columns.items():
            expected = self.rows if name in _ROW_COLUMNS else recordings
            if len(values) != expected:
                raise InputError(f"'{name}' has {len(values)} rows, {expected} expected",
                                 where=str(self.path), allowed=f"as many as '{self.key}'"
                                 if name in _ROW_COLUMNS else "as many as 'recordings/file'")
        which = columns.get("recording")
        # NumPy would count a negative number from the end, without an error.
        if which is not None and len(which) and not (
                which.dtype.kind in "iu" and which.min() >= 0 and which.max() < recordings):
            raise InputError(f"'recording' refers to recordings outside 0 to {recordings - 1}",
                             where=str(self.path))
        return columns

    def attributes(self) -> dict[str, Any]:
        """The file's attributes; JSON texts (such as ``teacher``) are decoded.

        Returns
        -------
        dict
            Empty for NPZ files.
        """
        if npz.is_npz(self.path):
            return {}
        with hdf5.open_hdf5(self.path) as file:
            return {name: _decode_attribute(value)
                    for name, value in hdf5.read_attributes(file, self.path).items()}

    @cached_property
    def audio_shape(self) -> tuple[int, int] | None:
        """(rows, samples) of the dataset ``audio``; None without one."""
        if npz.is_npz(self.path):
            return None
        with hdf5.open_hdf5(self.path) as file:
            if AUDIO_KEY not in file:
                return None
            shape = tuple(hdf5.numeric_dataset(file, AUDIO_KEY).shape)
        # The published files have an axis for the one channel.
        if len(shape) == 3 and shape[1] == 1:
            shape = (shape[0], shape[2])
        if len(shape) != 2:
            raise InputError(f"'audio' has shape {shape}", where=str(self.path),
                             allowed="(N, samples) or (N, 1, samples)")
        return shape


def finite_float32(block: np.ndarray, path: Path, rows: int | np.ndarray = 0,
                   key: str | None = None) -> np.ndarray:
    """Rows of a file as float32, which must be finite.

    Parameters
    ----------
    block
        (n, dim).
    path
        The file, for the message.
    rows
        Number of the block's first row in the file, or (n,) numbers of all its rows.
    key
        Name of the matrix, for the message.

    Returns
    -------
    numpy.ndarray
        (n, dim) float32.

    Raises
    ------
    InputError
        A value is not finite; the message names file and row.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asarray(block, np.float32)
        flat = values.reshape(-1)
        # A dot product runs at the speed of the memory, isfinite does not.
        seems_finite = np.isfinite(np.dot(flat, flat))
    if not seems_finite:  # or the squares of large values overflow: check each
        invalid = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(invalid):
            row = rows[invalid[0]] if isinstance(rows, np.ndarray) else rows + invalid[0]
            raise InputError(
                f"row {row} {f'of {key!r} ' if key else ''}holds NaN or infinite values",
                where=str(path), allowed="finite numbers (rows count from 0)",
                hint="Compute the embeddings of that recording again, or remove the row.")
    return values


def hdf5_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """Shapes of the matrices in an HDF5 file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Name → (rows, columns).

    Raises
    ------
    InputError
        It is not an HDF5 file.
    """
    with hdf5.open_hdf5(path) as file:
        return hdf5.matrix_shapes(file)


def _npz_shapes(path: Path) -> dict[str, tuple[int, int]]:
    return {name: (header.shape[0], header.shape[1]) for name, header in npz.headers(path).items()
            if len(header.shape) == 2 and header.dtype.kind in "fiu"}


def _choose_key(path: Path, shapes: Mapping[str, tuple[int, int]], expected: str | None) -> str:
    names = [name for name in shapes if name != AUDIO_KEY]
    if expected is not None:
        if expected in names:
            return expected
        allowed = nearest(expected, names) if names else "a matrix: the file holds none"
        raise InputError(f"holds no embeddings under '{expected}'", where=str(path),
                         allowed=allowed)
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError("holds no embeddings", where=str(path), allowed=LAYOUT)
    usual = NPZ_KEY if npz.is_npz(path) else TEACHER_KEY
    if usual in names:
        return usual
    raise InputError(f"holds several matrices: {', '.join(sorted(names))}", where=str(path),
                     allowed=f"one matrix, or one called '{usual}' among them",
                     hint=f"To train on one of them: {setting('train.embedding_key', 'NAME')}. "
                          "Otherwise rename or remove the others.")


def _decode_attribute(value: object) -> Any:
    """An attribute as JSON-ready values, with JSON texts decoded."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):  # text that only begins like JSON
            return value
    return value
