"""Principal components of standardised rows, in one pass and without ever holding the matrix.

The published pipeline standardises each column and then takes (kernel) PCA, which needs an n × n
matrix on a CPU. Mean, variance and covariance are sums over rows, so one pass over blocks gives
them all; the standardisation is folded into the d × d matrix afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from l3hpc.arrays.passes import steady_blas
from l3hpc.errors import InputError
from l3hpc.reduction.moments import Moments, moments
from l3hpc.reduction.projection import Projection

MODES = ("float64", "float32")
SAME_SIZE = 1e-3


class StreamingPCA:
    """StandardScaler and PCA of rows that come in blocks; the result does not depend on the cuts.

    Parameters
    ----------
    n_components: directions to keep, 1 to the number of columns (None: all).
    mode: 'float64' (eigenvalues agree with an in-memory float64 PCA to 1e-8 relative) or 'float32'
        (block products in single precision, sums in double: 1e-5, in about half the time). Errors
        are relative to each eigenvalue, down to 1e-7 (float32: 1e-3) of the largest; below, an
        error of about 1e-15 (1e-8) of the largest remains.
    standardize: divide each column by its standard deviation (as published); False only centres.

    Attributes after ``fit``
    ------------------------
    mean_, scale_: (d,) column means and standard deviations (population, as StandardScaler; 1 for a
        constant column).
    components_: (n_components, d), orthonormal rows; the leading entry of each (see ``signs``) is
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
        threads: int | None = None,
    ) -> StreamingPCA:
        """One pass over ``chunks``: arrays (m, d) of numbers; ``threads`` as in ``moments``.

        ``on_rows`` is told the number of rows of each block that is done. Raises ``InputError`` for
        fewer than two rows, fewer rows or columns than components, rows of different lengths, and
        NaN or infinite values.
        """
        kind = np.float32 if self.mode == "float32" else np.float64
        self._solve(moments(chunks, kind, on_rows, threads))
        return self

    def _solve(self, found: Moments) -> None:
        n, d = found.count, len(found.mean)
        if n < 2:
            raise InputError(f"cannot fit a PCA to {n} rows", allowed="2 rows or more")
        kept = self.n_components or min(n, d)
        if kept > min(n, d):
            raise InputError(f"cannot keep {kept} components of {n} rows with {d} columns",
                             allowed=f"at most {min(n, d)}")
        self.mean_ = found.mean
        deviation = np.sqrt(np.maximum(np.diag(found.scatter), 0.0) / n)
        noise = 10 * np.finfo(np.float64).eps
        constant = found.constant | (deviation <= noise * np.abs(self.mean_))
        self.scale_ = np.ones(d)
        if self.standardize:
            self.scale_[~constant] = deviation[~constant]
        covariance = found.scatter / np.outer(self.scale_, self.scale_) / (n - 1)
        covariance[constant, :] = 0.0
        covariance[:, constant] = 0.0
        with steady_blas(d):
            values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        values = np.maximum(values[::-1], 0.0)
        vectors = vectors[:, ::-1][:, :kept]
        self.components_ = np.ascontiguousarray((vectors * signs(vectors)).T)
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
        return Projection(self.mean_, self.scale_, self.components_).transform(x)


def signs(vectors: np.ndarray) -> np.ndarray:
    """1.0 or −1.0 for each column of ``vectors`` (d, k): what makes its leading entry positive.

    The leading entry is the first that is as large as the largest, to ``SAME_SIZE``: entries of
    equal size, as two standardised columns always have, do not leave the sign to rounding.
    """
    size = np.abs(vectors)
    leading = np.argmax(size >= (1 - SAME_SIZE) * size.max(axis=0), axis=0)
    return np.where(vectors[leading, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
