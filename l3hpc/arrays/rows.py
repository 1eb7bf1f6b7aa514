"""Matrices that are read by rows: from memory, from one HDF5 file or from several.

Samplers and reductions never hold a whole matrix in memory. They read it through ``Rows``: blocks
in order for passes over the data, and single rows by number (from 0). ``as_rows`` makes ``Rows``
from an array, a data set or a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from l3hpc.errors import InputError

BLOCK_ROWS = 4096
BLOCK_VALUES = BLOCK_ROWS * 512  # 8 MB in float32
GAP = 4  # rows read too many take less time than another read


@runtime_checkable
class Rows(Protocol):
    """A matrix of ``shape`` (n, d) that is read in blocks or by row number."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def chunks(self, size: int = ...) -> Iterator[np.ndarray]:
        """Yield all rows in order, in blocks (m, d) with m at most ``size``."""

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, (len(indices), d); any order, repeats allowed."""


class Sliceable(Protocol):
    """An array, memory map or HDF5 data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Rows by a slice."""


# What as_rows accepts.
RowSource: TypeAlias = (Rows | Sliceable | Sequence[Sequence[float]]
                        | Callable[[], Iterable[np.ndarray]])


def require_real(dtype: np.dtype) -> None:
    """Refuse numbers of which a conversion to float64 would lose a part, and what is no number.

    Raises
    ------
    InputError
        For complex numbers, objects, strings and dates.
    """
    if dtype.kind in "cOSUMm":
        raise InputError(f"expected real numbers, found values of type {dtype}")


def block_rows(columns: int, whole: int = 1) -> int:
    """How many rows to read at once, so that blocks of long rows are no larger than others.

    Parameters
    ----------
    columns
        Length of a row.
    whole
        Rows of a chunk of the file. Blocks are whole chunks where possible: a compressed chunk is
        decompressed as often as a part of it is read.

    Returns
    -------
    int
        From 1 to ``BLOCK_ROWS``.

    Examples
    --------
    >>> block_rows(512), block_rows(6144), block_rows(6144, whole=100), block_rows(6144, whole=500)
    (4096, 341, 300, 500)
    """
    rows = min(BLOCK_ROWS, max(1, BLOCK_VALUES // max(1, columns)))
    return min(BLOCK_ROWS, max(1, rows // whole) * whole)


def rechunk(chunks: Iterable[np.ndarray], size: int | None = None) -> Iterator[np.ndarray]:
    """Regroup rows into blocks of ``size``, so that results do not depend on the input's blocks.

    Parameters
    ----------
    chunks
        Blocks (m, d) of any number of rows, all with the same number of columns.
    size
        Rows per block; None: see ``block_rows``.

    Yields
    ------
    numpy.ndarray
        (size, d), fewer rows in the last block. Only valid until the next one is requested.

    Raises
    ------
    InputError
        A block is not two-dimensional, or the number of columns changes.
    """
    buffer: np.ndarray | None = None
    filled = 0
    for chunk in chunks:
        chunk = np.asarray(chunk)
        if chunk.ndim != 2:
            raise InputError(f"expected blocks of shape (rows, columns), found shape {chunk.shape}")
        require_real(chunk.dtype)
        size = size or block_rows(chunk.shape[1])
        start = 0
        while start < len(chunk):
            # A block that lies within one chunk is passed on without a copy.
            if filled == 0 and len(chunk) - start >= size:
                yield chunk[start:start + size]
                start += size
                continue
            if buffer is None:
                buffer = np.empty((size, chunk.shape[1]), chunk.dtype)
            elif buffer.shape[1] != chunk.shape[1]:
                raise InputError(
                    f"blocks differ in row length: {buffer.shape[1]} and {chunk.shape[1]}")
            elif buffer.dtype != chunk.dtype:
                buffer = buffer.astype(np.promote_types(buffer.dtype, chunk.dtype))
            count = min(size - filled, len(chunk) - start)
            buffer[filled:filled + count] = chunk[start:start + count]
            filled, start = filled + count, start + count
            if filled == size:
                yield buffer
                filled = 0
    if filled and buffer is not None:
        yield buffer[:filled]


class ArrayRows:
    """Rows of a NumPy array, memory map or HDF5 data set (n, d).

    Raises
    ------
    InputError
        The array is not two-dimensional.
    """

    def __init__(self, array: Sliceable) -> None:
        shape = tuple(array.shape)
        if len(shape) != 2:
            raise InputError(f"expected an array of shape (rows, columns), found shape {shape}")
        require_real(np.dtype(array.dtype))
        self.array = array
        self._shape = (int(shape[0]), int(shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._shape

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yield all rows in order, ``size`` at a time."""
        if size is None:
            stored = getattr(self.array, "chunks", None)  # of an HDF5 data set
            size = block_rows(self._shape[1], stored[0] if stored else 1)
        for start in range(0, self._shape[0], size):
            yield np.asarray(self.array[start:start + size])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers; neighbouring rows are read from a file at once."""
        indices = np.asarray(indices, dtype=np.int64)
        if isinstance(self.array, np.ndarray):
            return self.array[indices]
        if is_contiguous(indices):
            return np.asarray(self.array[int(indices[0]):int(indices[-1]) + 1])
        # HDF5 reads ascending row numbers only, each once.
        distinct, back = np.unique(indices, return_inverse=True)
        rows = np.empty((len(distinct), self._shape[1]), self.array.dtype)
        for start, stop in _runs(distinct, block_rows(self._shape[1])):
            first, last = int(distinct[start]), int(distinct[stop - 1])
            block = np.asarray(self.array[first:last + 1])
            rows[start:stop] = block[distinct[start:stop] - first]
        return rows[back.reshape(-1)]


def is_contiguous(indices: np.ndarray) -> bool:
    """Whether row numbers are consecutive and ascending, so that one slice reads them."""
    return (len(indices) > 0 and int(indices[-1]) - int(indices[0]) == len(indices) - 1
            and bool((np.diff(indices) == 1).all()))


def _runs(distinct: np.ndarray, longest: int) -> list[tuple[int, int]]:
    """Split sorted distinct numbers where two are far apart, or a run is long."""
    cuts = [0]
    for position in (np.flatnonzero(np.diff(distinct) > GAP) + 1).tolist() + [len(distinct)]:
        while position - cuts[-1] > longest:
            cuts.append(cuts[-1] + longest)
        if position > cuts[-1]:
            cuts.append(position)
    return list(zip(cuts[:-1], cuts[1:], strict=True))


class ChunkRows:
    """Rows that can only be read in order.

    Parameters
    ----------
    factory
        Starts a new pass and returns the blocks (m, d).
    shape
        (n, d) if known; otherwise one pass counts the rows.
    """

    def __init__(
        self, factory: Callable[[], Iterable[np.ndarray]], shape: tuple[int, int] | None = None,
    ) -> None:
        self.factory = factory
        self._shape = shape

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns); counted in one pass if not given."""
        if self._shape is None:
            n, d = 0, 0
            for chunk in self.factory():
                n, d = n + len(chunk), int(np.shape(chunk)[1])
            self._shape = (n, d)
        return self._shape

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yield all rows in order, in blocks of ``size``."""
        return rechunk(self.factory(), size)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, by one pass over the data."""
        indices = np.asarray(indices, dtype=np.int64)
        distinct, back = np.unique(indices, return_inverse=True)
        parts: list[np.ndarray] = []
        start = 0
        for chunk in self.factory():
            low, high = np.searchsorted(distinct, (start, start + len(chunk)))
            if high > low:
                parts.append(np.asarray(chunk)[distinct[low:high] - start])
            start += len(chunk)
        rows = np.concatenate(parts) if parts else np.empty((0, self.shape[1]))
        if len(rows) != len(distinct):
            raise InputError(f"row {int(distinct[-1])} was requested, but there are only "
                             f"{start} rows")
        return rows[back.reshape(-1)]


def in_order_only(rows: object) -> bool:
    """Whether every ``take`` is a pass over the data: ``ChunkRows``, and what consists of them."""
    inner = [*getattr(rows, "parts", ()), getattr(rows, "rows", None)]
    return isinstance(rows, ChunkRows) or any(
        in_order_only(each) for each in inner if each is not None)


class SubsetRows:
    """Selected rows of another matrix, for example one period of a sensor's recordings.

    Parameters
    ----------
    rows
        (n, d) matrix.
    indices
        (m,) row numbers, in any order.
    """

    def __init__(self, rows: RowSource, indices: np.ndarray) -> None:
        self.rows = as_rows(rows)
        self.indices = np.asarray(indices, dtype=np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.indices), self.rows.shape[1]

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yield the selected rows in order, ``size`` at a time."""
        size = size or block_rows(self.shape[1])
        for start in range(0, len(self.indices), size):
            yield self.rows.take(self.indices[start:start + size])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows by their number within the subset."""
        return self.rows.take(self.indices[np.asarray(indices, dtype=np.int64)])


class ConcatRows:
    """Several matrices with the same columns, one below the other: the shards of one sensor.

    Raises
    ------
    InputError
        There are no parts, or their numbers of columns differ.
    """

    def __init__(self, parts: Sequence[RowSource]) -> None:
        if not parts:
            raise InputError("no rows: an empty list of parts")
        self.parts = [as_rows(part) for part in parts]
        widths = sorted({part.shape[1] for part in self.parts})
        if len(widths) > 1:
            raise InputError(f"parts differ in row length: {', '.join(map(str, widths))}")
        self.starts = np.concatenate([[0], np.cumsum([part.shape[0] for part in self.parts])])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.starts[-1]), self.parts[0].shape[1]

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Yield all rows in order, in blocks of ``size`` across the parts."""
        size = size or block_rows(self.shape[1])
        # Across the borders of parts, so that a result does not depend on how a sensor was cut into
        # shards.
        return rechunk((chunk for part in self.parts for chunk in part.chunks(size)), size)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows with these numbers, counted over all parts."""
        indices = np.asarray(indices, dtype=np.int64)
        part = np.searchsorted(self.starts, indices, side="right") - 1
        if len(indices) and (part == part[0]).all():
            return self.parts[part[0]].take(indices - self.starts[part[0]])
        rows: np.ndarray | None = None
        for number in np.unique(part):
            selected = np.flatnonzero(part == number)
            values = self.parts[number].take(indices[selected] - self.starts[number])
            if rows is None:
                rows = np.empty((len(indices), self.shape[1]), values.dtype)
            rows[selected] = values
        return np.empty((0, self.shape[1])) if rows is None else rows


def as_rows(source: RowSource) -> Rows:
    """Make ``Rows`` from an array, a data set or a function.

    Parameters
    ----------
    source
        An array, DataFrame or HDF5 dataset (n, d), ``Rows``, a nested list, or a function without
        arguments that starts a pass and returns blocks (m, d). Real numbers.

    Returns
    -------
    Rows
        The matrix, read in blocks or by row number.

    Raises
    ------
    InputError
        ``source`` is none of these, or not two-dimensional.

    Examples
    --------
    >>> as_rows([[1, 2], [3, 4], [5, 6]]).take(np.array([2, 0])).tolist()
    [[5, 6], [1, 2]]
    """
    if isinstance(source, Rows):
        return source
    if hasattr(source, "to_numpy"):  # a DataFrame, whose rows are not read by slices
        source = source.to_numpy()
    if hasattr(source, "shape"):
        return ArrayRows(cast("Sliceable", source))
    if callable(source):
        return ChunkRows(source)
    if isinstance(source, (list, tuple)):
        return ArrayRows(np.asarray(source))
    raise InputError(f"cannot read rows from a {type(source).__name__}",
                     allowed="an array, an HDF5 dataset, Rows, or a function that returns blocks")
