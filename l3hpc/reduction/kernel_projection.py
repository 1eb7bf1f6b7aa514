"""Rows projected on the components of a kernel PCA: all at once, or as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from l3hpc.arrays.rows import rechunk
from l3hpc.arrays.threads import available_threads, blas_threads, map_in_order
from l3hpc.reduction.kernels import Kernel
from l3hpc.reduction.projection import check_rows, dtype_of

BLOCK_ROWS = 512  # compared with all landmarks at once, by each thread


class KernelProjection:
    """Scores of rows by their kernel with landmarks: (k((x − mean) / scale) − centre) · weights.

    Kernels of float32 rows are computed in float32, all others in float64.

    Parameters
    ----------
    kernel
        The kernel k, of standardised rows.
    mean, scale
        Shape (d,).
    landmarks
        Rows as they are read, shape (m, d).
    centre
        Shape (m,).
    weights
        Shape (m, kept).
    """

    def __init__(
        self, kernel: Kernel, mean: np.ndarray, scale: np.ndarray, landmarks: np.ndarray,
        centre: np.ndarray, weights: np.ndarray,
    ) -> None:
        self.dim, self.kept = len(mean), weights.shape[1]
        self._kernel, self._mean, self._scale = kernel, mean, scale
        parts = (landmarks - mean) / scale, centre, weights
        self._parts = {kind: tuple(part.astype(kind) for part in parts)
                       for kind in map(np.dtype, (np.float32, np.float64))}

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
        result = np.empty((len(x), self.kept), dtype_of(x))
        for start in range(0, len(x), BLOCK_ROWS):
            result[start:start + BLOCK_ROWS] = self._scores(x[start:start + BLOCK_ROWS])
        return result

    def stream(
        self, chunks: Iterable[np.ndarray], threads: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Scores of rows that are read in chunks, in their order.

        They do not depend on how the chunks are cut or on the number of threads. Each thread holds
        twice the kernel of 512 rows and all landmarks: 20 MB for 5,000 landmarks.

        Parameters
        ----------
        chunks
            Arrays (m, d), cut in any way.
        threads
            Number of threads (None: one per core).

        Yields
        ------
        ndarray of float32, shape (m, kept)
            Scores.

        Raises
        ------
        InputError
            For rows of another length.
        """
        # Copied: a block is only valid until the next one is read.
        blocks = (rows.astype(np.float32) for rows in rechunk(chunks, BLOCK_ROWS))
        with blas_threads(1):
            yield from map_in_order(self._scores, blocks, available_threads(threads))

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        check_rows(rows, self.dim)
        landmarks, centre, weights = self._parts[dtype_of(rows)]
        values = self._kernel(((rows - self._mean) / self._scale).astype(weights.dtype), landmarks)
        # Before the product, in which the large common part would cancel and cost digits.
        values -= centre
        return values @ weights
