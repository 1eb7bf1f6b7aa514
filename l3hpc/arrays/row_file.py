"""A matrix in a plain file, for rows that do not fit in memory and are read in any order.

Reading and writing copy. Nothing is mapped: pages of a mapped file count as memory of the job, and
a scheduler may end it for them; what the system caches of a file that is read does not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

FLAGS = {"r": os.O_RDONLY, "r+": os.O_RDWR, "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC}
AT_ONCE = 1 << 30  # bytes of one call of the system, which may take 2 GB at most


class RowFile:
    """Rows of one shape and type, used like an array with the rows along its first axis.

    shape, dtype: of the whole. Rows are read and set by a slice without step, a number, or an array
    of numbers, from 0. ``w+`` makes a file of zeros; ``r`` and ``r+`` want one that is long enough
    (``OSError``). Several threads may read, and write different rows, at the same time.
    """

    def __init__(self, path: Path, dtype: Any, shape: Sequence[int],
                 mode: Literal["r", "r+", "w+"] = "r") -> None:
        self.dtype, self.shape = np.dtype(dtype), tuple(shape)
        self._handle = _Handle(Path(path), mode)
        self._offset = 0
        if mode == "w+":
            os.ftruncate(self._handle.number, self.nbytes)
        elif os.fstat(self._handle.number).st_size < self.nbytes:
            raise OSError(f"{path} is too short for an array of shape {self.shape}")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Size of all rows."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, (int, np.integer)):
            return self[np.array([rows])][0]
        out = np.empty((self._count(rows), *self.shape[1:]), self.dtype)
        self._transfer(rows, out, os.preadv)
        return out

    def __setitem__(self, rows: Any, values: Any) -> None:
        if isinstance(rows, (int, np.integer)):
            rows = np.array([rows])
        shape = (self._count(rows), *self.shape[1:])
        block = np.ascontiguousarray(np.broadcast_to(np.asarray(values), shape), self.dtype)
        self._transfer(rows, block, os.pwritev)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def part(self, first: int, stop: int) -> RowFile:
        """Rows ``first`` to ``stop`` of the same file: nothing is read."""
        first, stop, _ = slice(first, stop).indices(len(self))
        return self._view((max(stop - first, 0), *self.shape[1:]),
                          self._offset + first * self._row_bytes)

    def reshape(self, *shape: int) -> RowFile:
        """The same numbers in another shape, of which one side may be -1: nothing is read."""
        known = math.prod(side for side in shape if side >= 0)
        total = math.prod(self.shape)
        sides = tuple(side if side >= 0 else total // max(known, 1) for side in shape)
        if math.prod(sides) != total:
            raise ValueError(f"cannot reshape {self.shape} into {shape}")
        return self._view(sides, self._offset)

    def flush(self) -> None:
        """Make sure that everything written survives a crash of the machine."""
        os.fsync(self._handle.number)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def _view(self, shape: tuple[int, ...], offset: int) -> RowFile:
        view = object.__new__(RowFile)
        view.dtype, view.shape, view._handle, view._offset = self.dtype, shape, self._handle, offset
        return view

    def _count(self, rows: Any) -> int:
        return len(range(*rows.indices(len(self)))) if isinstance(rows, slice) else len(rows)

    def _transfer(self, rows: Any, block: np.ndarray, call: Callable[..., int]) -> None:
        size = self._row_bytes
        memory = block.reshape(-1).view(np.uint8).data
        done = 0
        for first, count in self._runs(rows):
            start, stop = done * size, (done + count) * size
            place = self._offset + first * size
            while start < stop:
                moved = call(self._handle.number, [memory[start:min(stop, start + AT_ONCE)]], place)
                if moved <= 0:
                    raise OSError(f"file ends before row {first}")
                start, place = start + moved, place + moved
            done += count

    def _runs(self, rows: Any) -> Iterator[tuple[int, int]]:
        """(first row, rows) of every run of neighbours."""
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
    """An open file, closed when nobody uses it any more."""

    def __init__(self, path: Path, mode: str) -> None:
        self.number = os.open(path, FLAGS[mode] | os.O_CLOEXEC, 0o666)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)
