"""A matrix in a file of its own, for rows that do not fit in memory and are read in any order.

``RowFile`` is for intermediate results of a task. Embeddings and other data sets are read through
``rows``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

FLAGS = {"r": os.O_RDONLY, "r+": os.O_RDWR, "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC}
MAX_TRANSFER = 1 << 30  # bytes per system call; Linux transfers at most 2 GB
RowIndex: TypeAlias = int | np.integer | slice | Sequence[int] | np.ndarray


class RowFile:
    """An array in a file, read and written by rows (its first axis).

    Rows are selected by a slice without step, a number, or an array of numbers. Several threads may
    read, and write different rows, at the same time.

    Parameters
    ----------
    path
        The file.
    dtype, shape
        Type and shape of the whole array.
    mode
        ``'r'`` (read), ``'r+'`` (read and write), or ``'w+'`` (make a file of zeros).

    Raises
    ------
    OSError
        The file does not exist or is too short (``'r'``, ``'r+'``).
    """

    # The file is not mapped: a scheduler counts the pages of a mapped file as memory of the job and
    # may kill it for them, while it does not count the cache of a file that is read.

    def __init__(self, path: Path, dtype: DTypeLike, shape: Sequence[int],
                 mode: Literal["r", "r+", "w+"] = "r") -> None:
        self.dtype, self.shape = np.dtype(dtype), tuple(shape)
        self._handle = _Handle(Path(path), mode)
        self._offset = 0
        if mode == "w+":
            # Rows are written in any order; the file has its whole length from the start, so that a
            # part of it can be read while others are missing.
            os.ftruncate(self._handle.number, self.nbytes)
        elif os.fstat(self._handle.number).st_size < self.nbytes:
            raise OSError(f"{path} is too short for an array of shape {self.shape}")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Size of all rows in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: RowIndex) -> np.ndarray:
        if isinstance(rows, (int, np.integer)):
            return self[np.array([rows])][0]
        # preadv takes the position with the call, so threads can share the file: there is no seek
        # that another thread could undo.
        out = np.empty((self._count(rows), *self.shape[1:]), self.dtype)
        self._transfer(rows, out, os.preadv)
        return out

    def __setitem__(self, rows: RowIndex, values: ArrayLike) -> None:
        if isinstance(rows, (int, np.integer)):
            rows = np.array([rows])
        shape = (self._count(rows), *self.shape[1:])
        block = np.ascontiguousarray(np.broadcast_to(np.asarray(values), shape), self.dtype)
        self._transfer(rows, block, os.pwritev)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def part(self, first: int, stop: int) -> RowFile:
        """Return a view of the rows from ``first`` to ``stop``; nothing is read."""
        first, stop, _ = slice(first, stop).indices(len(self))
        return self._view((max(stop - first, 0), *self.shape[1:]),
                          self._offset + first * self._row_bytes)

    def reshape(self, *shape: int) -> RowFile:
        """Return a view with another shape, of which one side may be -1; nothing is read."""
        known = math.prod(side for side in shape if side >= 0)
        total = math.prod(self.shape)
        sides = tuple(side if side >= 0 else total // max(known, 1) for side in shape)
        if math.prod(sides) != total:
            raise ValueError(f"cannot reshape {self.shape} into {shape}")
        return self._view(sides, self._offset)

    def flush(self) -> None:
        """Wait until everything written is on disk."""
        os.fsync(self._handle.number)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def _view(self, shape: tuple[int, ...], offset: int) -> RowFile:
        view = object.__new__(RowFile)
        view.dtype, view.shape, view._handle, view._offset = self.dtype, shape, self._handle, offset
        return view

    def _count(self, rows: slice | Sequence[int] | np.ndarray) -> int:
        return len(range(*rows.indices(len(self)))) if isinstance(rows, slice) else len(rows)

    def _transfer(self, rows: slice | Sequence[int] | np.ndarray, block: np.ndarray,
                  call: Callable[[int, list[memoryview], int], int]) -> None:
        size = self._row_bytes
        memory = block.reshape(-1).view(np.uint8).data
        done = 0
        for first, count in self._runs(rows):
            start, stop = done * size, (done + count) * size
            position = self._offset + first * size
            while start < stop:
                part = memory[start:min(stop, start + MAX_TRANSFER)]
                moved = call(self._handle.number, [part], position)
                if moved <= 0:
                    raise OSError(f"file ends before row {first}")
                start, position = start + moved, position + moved
            done += count

    def _runs(self, rows: slice | Sequence[int] | np.ndarray) -> Iterator[tuple[int, int]]:
        """(first row, number of rows) of every run of consecutive rows."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                raise IndexError("a slice of rows cannot have a step")
            yield start, max(stop - start, 0)
            return
        numbers = np.asarray(rows)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(f"row outside 0…{len(self) - 1}")
        edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            if stop > start:
                yield int(numbers[start]), stop - start


class _Handle:
    """An open file that is closed when the last view of it is gone."""

    def __init__(self, path: Path, mode: str) -> None:
        self.number = os.open(path, FLAGS[mode] | os.O_CLOEXEC, 0o666)

    # os.close is bound here, because modules may be gone when the interpreter exits.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)
