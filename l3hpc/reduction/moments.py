"""Count, means and scatter of columns in one pass over blocks of rows, without losing digits.

Each block is centred on the mean of its first rows before it is multiplied with itself; the
remainders and the means of the blocks are combined in double precision [1]_. So neither a large
mean nor a mean that drifts from block to block costs digits, in single precision too.

References
----------
.. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance:
   analysis and recommendations", The American Statistician 37 (1983).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle

import numpy as np
import numpy.typing as npt

from l3hpc.arrays.rows import rechunk
from l3hpc.arrays.threads import available_threads, blas_threads, pull_in_order
from l3hpc.errors import InputError

PIECE_ROWS = 2048  # read and centred at once: few enough to stay in the cache
BLOCK_PIECES = {np.dtype(np.float32): 4, np.dtype(np.float64): 2}  # multiplied at once
MEANS_AT_ONCE = 64
BUFFER_BYTES = 512 * 2**20  # of all threads: very wide rows get fewer, each with more BLAS threads
NOISE = 10 * np.finfo(np.float64).eps  # relative size of differences that are rounding error


@dataclass
class Moments:
    """Count, mean and scatter of n rows with d columns, from which a covariance follows.

    Attributes
    ----------
    count : int
        n.
    mean : ndarray of float64, shape (d,)
        Means of the columns.
    scatter : ndarray of float64, shape (d, d)
        The sum over rows of (x − mean)(x − mean)ᵀ.
    constant : ndarray of bool, shape (d,)
        Columns in which all numbers are equal.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray
    constant: np.ndarray


def moments(
    chunks: Iterable[np.ndarray], kind: npt.DTypeLike = np.float64,
    on_rows: Callable[[int], None] | None = None, threads: int | None = None,
) -> Moments:
    """Count, mean and scatter of rows, in one pass.

    The result is identical bit for bit however the chunks are cut and, unless d is in the
    thousands, for any number of threads.

    Parameters
    ----------
    chunks
        Arrays (m, d) of numbers, cut in any way.
    kind
        Precision of the products within a block; sums over blocks are always float64.
    on_rows
        Called with the number of rows of each block that is done.
    threads
        Number of threads (None: one per core).

    Returns
    -------
    Moments
        Of all rows; without any chunk, those of no rows.

    Raises
    ------
    InputError
        For rows of different lengths, and values that are NaN, infinite, or too large to be
        squared.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.reduction.moments import moments
    >>> both = moments([np.array([[1.0, 0.0]]), np.array([[3.0, 0.0]])])
    >>> both.count, both.mean.tolist(), both.constant.tolist()
    (2, [2.0, 0.0], [False, True])
    """
    kind, cores = np.dtype(kind), available_threads(threads)
    pieces = rechunk(chunks, PIECE_ROWS)
    first = next(pieces, None)
    if first is None:
        return Moments(0, np.empty(0), np.empty((0, 0)), np.empty(0, dtype=bool))
    size, d = PIECE_ROWS * BLOCK_PIECES[kind], first.shape[1]
    workers = max(1, min(cores, BUFFER_BYTES // (kind.itemsize * (d + 1) * (d + size))))
    reader = _Reader(first, [_Block(size, d, kind) for _ in range(workers)])
    sums = _Sums(d, kind)
    with blas_threads(max(1, cores // workers)):
        for block in pull_in_order(_multiply, reader.blocks(chain([first], pieces)), workers):
            sums.add(block)
            if on_rows is not None:
                on_rows(block.count)
    return sums.result(reader.constant())


def column_scales(columns: Moments) -> np.ndarray:
    """Standard deviations of the columns (population), 1 for a constant one, as StandardScaler.

    Parameters
    ----------
    columns
        The moments of at least one row.

    Returns
    -------
    ndarray of float64, shape (d,)
        Positive.
    """
    scales = _deviations(columns)
    scales[constant_columns(columns)] = 1.0
    return scales


def constant_columns(columns: Moments) -> np.ndarray:
    """The columns whose numbers are equal, up to rounding.

    Parameters
    ----------
    columns
        The moments of at least one row.

    Returns
    -------
    ndarray of bool, shape (d,)
        True for constant columns.
    """
    # A deviation that is only rounding error would be blown up to 1 by the division.
    return columns.constant | (_deviations(columns) <= NOISE * np.abs(columns.mean))


def _deviations(columns: Moments) -> np.ndarray:
    return np.sqrt(np.maximum(np.diag(columns.scatter), 0.0) / columns.count)


class _Block:
    """Buffers for one block: its rows minus their shift, and their product and sum."""

    def __init__(self, size: int, d: int, dtype: np.dtype) -> None:
        self.rows = np.empty((size, d), dtype)
        self.product = np.empty((d, d), dtype)
        self.total = np.empty(d, dtype)
        self.ones = np.ones(size, dtype)
        self.shift = np.empty(d, dtype)
        self.count = 0


class _Reader:
    """Fills the buffers in turn, and keeps track of columns that are constant so far."""

    def __init__(self, first: np.ndarray, buffers: Sequence[_Block]) -> None:
        self.first = first[0].copy()
        self.same = np.arange(first.shape[1])
        self.buffers = buffers

    def blocks(self, pieces: Iterable[np.ndarray]) -> Iterator[_Block]:
        """Every block minus (approximately) its mean, from pieces of ``PIECE_ROWS`` rows."""
        buffers = cycle(self.buffers)
        block = next(buffers)
        block.count = 0
        for rows in pieces:
            if block.count == len(block.rows):
                yield block
                block = next(buffers)
                block.count = 0
            self._fill(block, rows)
        yield block

    def _fill(self, block: _Block, rows: np.ndarray) -> None:
        centred = block.rows[block.count:block.count + len(rows)]
        # Values that are not finite are refused in ``_Sums.add``, which can tell the rows.
        with np.errstate(invalid="ignore", over="ignore"):
            if block.count == 0:
                is_float = rows.dtype in (np.float32, np.float64)
                floats = rows if is_float else rows.astype(np.float64)
                block.shift[...] = np.ones(len(rows), floats.dtype) @ floats / len(rows)
            np.subtract(rows, block.shift, out=centred, casting="unsafe")
        if self.same.size:
            self.same = self.same[(rows[:, self.same] == self.first[self.same]).all(axis=0)]
        block.count += len(rows)

    def constant(self) -> np.ndarray:
        """Columns that are constant, (d,) bool."""
        result = np.zeros(len(self.first), dtype=bool)
        result[self.same] = True
        return result


def _multiply(block: _Block) -> _Block:
    rows = block.rows[:block.count]
    with np.errstate(invalid="ignore", over="ignore"):
        np.matmul(block.ones[:block.count], rows, out=block.total)
        # For X.T @ X of one array, numpy calls the symmetric BLAS routine, which is twice as fast.
        np.matmul(rows.T, rows, out=block.product)
    return block


class _Sums:
    """The sums over blocks, in double precision.

    ``inner`` is the scatter about the shift of each block; ``_flush`` subtracts what the shifts
    left of the means. ``between`` is the scatter of the blocks' means about the first one.
    """

    def __init__(self, d: int, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.count = 0
        self.reference, self.total = np.zeros(d), np.zeros(d)
        self.inner, self.between = np.zeros((d, d)), np.zeros((d, d))
        self.means: list[np.ndarray] = []
        self.rests: list[np.ndarray] = []

    def add(self, block: _Block) -> None:
        """Add one multiplied block; refuse numbers that are not finite."""
        rest = block.total.astype(np.float64) / block.count
        if not np.isfinite(rest).all():
            raise InputError(f"NaN or infinite values in rows {self.count} to "
                             f"{self.count + block.count - 1}")
        if self.count == 0:
            self.reference[...] = block.shift
        away = block.shift - self.reference + rest
        with np.errstate(invalid="ignore"):
            self.inner += block.product
        self.total += away * block.count
        self.means.append(away * np.sqrt(block.count))
        self.rests.append(rest * np.sqrt(block.count))
        self.count += block.count
        if len(self.means) == MEANS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        # Outer products of many means are one matrix product, which is faster than one by one.
        if self.means:
            means, rests = np.stack(self.means), np.stack(self.rests)
            self.between += means.T @ means
            self.inner -= rests.T @ rests
            self.means, self.rests = [], []

    def result(self, constant: np.ndarray) -> Moments:
        """The moments of all rows so far."""
        self._flush()
        away = self.total / self.count
        scatter = self.inner + (self.between - np.outer(away, away) * self.count)
        if not np.isfinite(scatter).all():
            raise InputError(f"values too large to be squared in {self.dtype}")
        return Moments(self.count, self.reference + away, scatter, constant)


def combine(one: Moments, other: Moments) -> Moments:
    """The moments of two sets of rows taken together.

    Parameters
    ----------
    one, other
        Moments of rows with the same columns.
    """
    count = one.count + other.count
    difference = other.mean - one.mean
    constant = one.constant & other.constant & (np.abs(difference) <= NOISE * np.abs(one.mean))
    return replace(
        one, count=count, mean=one.mean + difference * (other.count / count), constant=constant,
        scatter=one.scatter + other.scatter
        + np.outer(difference, difference) * (one.count * other.count / count))
