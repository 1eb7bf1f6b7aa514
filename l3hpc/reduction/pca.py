"""Principal components of standardised rows, in one pass and without ever holding the matrix.

The published pipeline standardises each column and then takes (kernel) PCA, which needs an n × n
matrix on a CPU. Mean, variance and covariance are sums over rows, so one pass over blocks gives
them all; the standardisation is folded into the d × d matrix afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from l3hpc.errors import InputError
from l3hpc.sampling.rows import blocks

MODES = ("float64", "float32")
BLOCK_ROWS = 4096
TRANSFORM_ROWS = 4096


class StreamingPCA:
    """StandardScaler and PCA of rows that come in blocks; the result does not depend on the cuts.

    Parameters
    ----------
    n_components: directions to keep, 1 to the number of columns (None: all).
    mode: 'float64' (eigenvalues agree with an in-memory float64 PCA to 1e-8 relative) or 'float32'
        (block products in single precision, sums in double: 1e-5, in about half the time).
    standardize: divide each column by its standard deviation (as published); False only centres.

    Attributes after ``fit``
    ------------------------
    mean_, scale_: (d,) column means and standard deviations (population, as StandardScaler; 1 for a
        constant column).
    components_: (n_components, d), orthonormal rows; the entry of largest magnitude of each is
        positive.
    explained_variance_: (n_components,) descending variances (sample, n − 1) of the scores.
    explained_variance_ratio_: the same as parts of total_variance_.
    spectrum_: (d,) the same parts for all directions, also those that are not kept.
    n_samples_: rows seen.
    """

    def __init__(
        self, n_components: int | None = None, mode: str = "float64", *, standardize: bool = True,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"unknown mode {mode!r}", allowed=f"valid: {', '.join(MODES)}")
        if n_components is not None and n_components < 1:
            raise InputError(f"cannot keep {n_components} components", allowed="1 or more")
        self.n_components = n_components
        self.mode = mode
        self.standardize = standardize

    def fit(
        self, chunks: Iterable[np.ndarray], on_rows: Callable[[int], None] | None = None,
    ) -> StreamingPCA:
        """One pass over ``chunks``: arrays (m, d) of numbers.

        ``on_rows`` is told the number of rows of each block that is done. Raises ``InputError`` for
        fewer than two rows, fewer rows or columns than components, rows of different lengths, and
        NaN or infinite values.
        """
        sums = _Sums(self.mode)
        for block in blocks(chunks, BLOCK_ROWS):
            sums.add(block)
            if on_rows is not None:
                on_rows(len(block))
        self._solve(sums)
        return self

    def _solve(self, sums: _Sums) -> None:
        n = sums.count
        if n < 2:
            raise InputError(f"cannot fit a PCA to {n} rows", allowed="2 rows or more")
        d = len(sums.shift)
        kept = self.n_components or min(n, d)
        if kept > min(n, d):
            raise InputError(f"cannot keep {kept} components of {n} rows with {d} columns",
                             allowed=f"at most {min(n, d)}")
        offset = sums.total / n
        scatter = sums.gram - np.outer(offset, offset) * n
        self.mean_ = sums.shift + offset
        variance = np.maximum(np.diag(scatter), 0.0) / n
        self.scale_ = np.ones(d)
        noise = 10 * np.finfo(np.float64).eps
        constant = sums.constant() | (np.sqrt(variance) <= noise * np.abs(self.mean_))
        if self.standardize:
            self.scale_[~constant] = np.sqrt(variance[~constant])
        scatter[constant, :] = 0.0
        scatter[:, constant] = 0.0
        covariance = scatter / np.outer(self.scale_, self.scale_) / (n - 1)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        values = np.maximum(values[::-1], 0.0)
        vectors = vectors[:, ::-1][:, :kept]
        largest = np.argmax(np.abs(vectors), axis=0)
        signs = np.where(vectors[largest, np.arange(kept)] < 0, -1.0, 1.0)
        self.components_ = np.ascontiguousarray((vectors * signs).T)
        self.total_variance_ = float(np.trace(covariance))
        self.explained_variance_ = values[:kept].copy()
        total = self.total_variance_
        self.spectrum_ = values / total if total > 0 else np.zeros(len(values))
        self.explained_variance_ratio_ = self.spectrum_[:kept].copy()
        self.n_samples_ = n

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Scores of rows (m, d): (m, n_components), float32 for float32 rows, else float64."""
        if not hasattr(self, "components_"):
            raise InputError("this PCA is not fitted yet")
        return project(x, self.mean_, self.scale_, self.components_)


def project(
    x: np.ndarray, mean: np.ndarray, scale: np.ndarray, components: np.ndarray,
) -> np.ndarray:
    """((x − mean) / scale) · componentsᵀ, block by block; in float32 if ``x`` is, else float64."""
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != len(mean):
        raise InputError(f"expected rows of length {len(mean)}, found an array of shape {x.shape}")
    kind = np.float32 if x.dtype == np.float32 else np.float64
    weights = np.ascontiguousarray((components / scale).T, dtype=kind)
    centre = mean.astype(kind)
    result = np.empty((len(x), len(components)), kind)
    buffer = np.empty((min(TRANSFORM_ROWS, len(x)), x.shape[1]), kind)
    for start in range(0, len(x), TRANSFORM_ROWS):
        part = x[start:start + TRANSFORM_ROWS]
        centred = buffer[:len(part)]
        np.subtract(part, centre, out=centred, casting="unsafe")
        np.matmul(centred, weights, out=result[start:start + len(part)])
    return result


class _Sums:
    """Count, sum and Gram matrix of shifted rows: the shift saves digits where means are large."""

    def __init__(self, mode: str) -> None:
        self.kind = np.dtype(np.float32 if mode == "float32" else np.float64)
        self.count = 0
        self.shift = self.total = self.gram = self.first = np.empty(0)
        self.buffer = self.ones = np.empty(0, self.kind)
        self.same = np.empty(0, dtype=np.int64)  # columns that have not changed so far

    def add(self, block: np.ndarray) -> None:
        if self.count == 0:
            self._start(block)
        shifted = self.buffer[:len(block)]
        with np.errstate(invalid="ignore", over="ignore"):  # refused below, with the place
            np.subtract(block, self.shift.astype(self.kind), out=shifted, casting="unsafe")
            total = self.ones[:len(block)] @ shifted
        if not np.isfinite(total).all():
            raise InputError(f"NaN or infinite values in rows {self.count} to "
                             f"{self.count + len(block) - 1}")
        self.gram += shifted.T @ shifted  # numpy takes the symmetric BLAS routine for this
        self.total += total
        if self.same.size:
            self.same = self.same[(block[:, self.same] == self.first[self.same]).all(axis=0)]
        self.count += len(block)

    def _start(self, block: np.ndarray) -> None:
        d = block.shape[1]
        # Rounded to the working precision, so that the shift is the same number in every use.
        with np.errstate(invalid="ignore", over="ignore"):
            mean = block.mean(axis=0, dtype=np.float64)
            self.shift = mean.astype(self.kind).astype(np.float64)
        self.first = block[0].copy()
        self.same = np.arange(d)
        self.gram, self.total = np.zeros((d, d)), np.zeros(d)
        self.buffer = np.empty((BLOCK_ROWS, d), self.kind)
        self.ones = np.ones(BLOCK_ROWS, self.kind)

    def constant(self) -> np.ndarray:
        """Columns that never changed, (d,) bool."""
        result = np.zeros(len(self.shift), dtype=bool)
        result[self.same] = True
        return result
