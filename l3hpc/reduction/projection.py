"""Rows projected on principal directions: all at once, or as a stream at the speed of the disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from l3hpc.arrays.rows import rechunk
from l3hpc.arrays.threads import available_threads, blas_threads, map_in_order
from l3hpc.errors import InputError

BLOCK_ROWS = 1024  # projected at once, by each thread: few enough to stay in the cache


class Projection:
    """((x − mean) / scale) · componentsᵀ of rows x.

    Rows of float32 are projected in float32, all others in float64.

    Parameters
    ----------
    mean, scale
        Shape (d,).
    components
        Shape (kept, d).
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray, components: np.ndarray) -> None:
        self.dim, self.kept = len(mean), len(components)
        self._mean, self._scale, self._components = mean, scale, components
        self._ready: dict[np.dtype, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _parts(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre (d,), weights (d, kept) and what is added to every score (kept,), as ``dtype``."""
        if dtype not in self._ready:
            weights = (self._components / self._scale).T
            # Centred first and multiplied then: with a large mean, the products would cancel and
            # lose digits.
            centre = self._mean.astype(dtype)
            # The part of the mean that is lost in float32 is added to the scores instead.
            rest = (centre - self._mean) @ weights
            self._ready[dtype] = (centre, np.ascontiguousarray(weights, dtype), rest.astype(dtype))
        return self._ready[dtype]

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Scores of rows.

        Parameters
        ----------
        x
            Rows, shape (m, d).

        Returns
        -------
        ndarray, shape (m, kept)
            float32 for float32 rows, else float64.

        Raises
        ------
        InputError
            For rows of another length.
        """
        x = np.asarray(x)
        check_rows(x, self.dim)
        dtype = dtype_of(x)
        result = np.empty((len(x), self.kept), dtype)
        blocks = [(x[start:start + BLOCK_ROWS], result[start:start + BLOCK_ROWS])
                  for start in range(0, len(x), BLOCK_ROWS)]
        if len(blocks) == 1:
            rows, scores = blocks[0]
            self._score((self._less_mean(rows, np.empty(rows.shape, dtype)), scores))
            return result
        threads = available_threads()
        buffers = [np.empty((BLOCK_ROWS, self.dim), dtype) for _ in blocks[:threads + 1]]
        with blas_threads(1):
            for _ in map_in_order(lambda item: self._score((self._less_mean(*item[:2]), item[2])), (
                    (rows, buffers[number % len(buffers)][:len(rows)], scores)
                    for number, (rows, scores) in enumerate(blocks)), threads):
                pass
        return result

    def stream(
        self, chunks: Iterable[np.ndarray], threads: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Scores of rows that are read in chunks, in their order.

        The scores are identical bit for bit however the chunks are cut and for any number of
        threads.

        Parameters
        ----------
        chunks
            Arrays (m, d), cut in any way.
        threads
            Number of threads (None: one per core).

        Yields
        ------
        ndarray of float32, shape (m, kept)
            Valid only until the next one is requested.

        Raises
        ------
        InputError
            For rows of another length.
        """
        count = available_threads(threads)
        with blas_threads(1):
            yield from map_in_order(self._score, self._centred(chunks, count + 1), count)

    def _centred(
        self, chunks: Iterable[np.ndarray], buffers: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows minus the mean, a buffer for their scores), in pairs that are used in rotation."""
        dtype = np.dtype(np.float32)
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        # Blocks of one size: BLAS may add in another order for another number of rows.
        for number, rows in enumerate(rechunk(chunks, BLOCK_ROWS)):
            check_rows(rows, self.dim)
            if len(pairs) < buffers:
                pairs.append((np.empty((BLOCK_ROWS, self.dim), dtype),
                              np.empty((BLOCK_ROWS, self.kept), dtype)))
            centred, scores = (buffer[:len(rows)] for buffer in pairs[number % buffers])
            yield self._less_mean(rows, centred), scores

    def _less_mean(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        np.subtract(rows, self._parts(out.dtype)[0], out=out, casting="unsafe")
        return out

    def _score(self, pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        centred, scores = pair
        _, weights, rest = self._parts(centred.dtype)
        np.matmul(centred, weights, out=scores)
        scores += rest
        return scores


def check_rows(x: np.ndarray, dim: int) -> None:
    """Refuse an array that is not a matrix of rows of this length.

    Parameters
    ----------
    x
        The array.
    dim
        Length of the rows.

    Raises
    ------
    InputError
        If it is not.
    """
    if x.ndim != 2 or x.shape[1] != dim:
        raise InputError(f"expected rows of length {dim}, found an array of shape {x.shape}")


def dtype_of(x: np.ndarray) -> np.dtype:
    """Return the type in which rows are projected: float32 for float32 rows, else float64.

    Parameters
    ----------
    x
        The rows.
    """
    return np.dtype(np.float32 if x.dtype == np.float32 else np.float64)
