"""PCA of standardised rows in one pass, without holding the matrix in memory.

The published pipeline standardises each column and then takes (kernel) PCA, which needs an n × n
matrix on a CPU. Mean, variance and covariance are sums over rows, so one pass over blocks
(``moments``) gives them all; the standardisation is applied to the d × d matrix afterwards.

This is what jobs compute. ``pca.StreamingPCA`` is the same as an estimator, for which scikit-learn
has to be imported: that takes longer than the fit of a small sample, and 100 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from l3hpc.arrays.passes import reproducible_blas
from l3hpc.errors import InputError
from l3hpc.reduction.moments import Moments, column_scales, constant_columns, moments

MODES = ("float64", "float32")
SIGN_TOLERANCE = 1e-3  # entries that differ by less count as equally large


@dataclass(frozen=True)
class LinearFit:
    """A PCA of standardised rows.

    Attributes
    ----------
    mean, scale : ndarray, shape (d,)
        Column means and standard deviations (population; 1 for a constant column).
    components : ndarray, shape (kept, d)
        Orthonormal rows; the leading entry of each (see ``signs``) is positive.
    explained_variance : ndarray, shape (kept,)
        Descending variances (n − 1) of the scores.
    explained_variance_ratio : ndarray, shape (kept,)
        The same as fractions of ``total_variance``.
    spectrum : ndarray, shape (d,)
        These fractions for all directions.
    total_variance : float
        Sum of the variances of all directions.
    n_samples : int
        Rows that were fitted.
    mode : {'float64', 'float32'}
        Precision of the products within a block.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    spectrum: np.ndarray
    total_variance: float
    n_samples: int
    mode: str


def fit_linear(
    chunks: Iterable[np.ndarray], n_components: int | None = None, mode: str = "float64", *,
    standardize: bool = True, on_rows: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> LinearFit:
    """Fit a PCA in one pass over rows.

    Parameters
    ----------
    chunks
        Arrays (m, d) of numbers, cut in any way: the result does not depend on it.
    n_components, mode, standardize
        As in ``StreamingPCA``.
    on_rows
        Called with the number of rows of each block that is done.
    threads
        Number of threads (None: one per core). The result does not depend on it.

    Returns
    -------
    LinearFit
        The fit.

    Raises
    ------
    InputError
        For invalid parameters, fewer than two rows, fewer rows or columns than components, chunks
        of different row lengths, and NaN or infinite values.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.reduction.linear_fit import fit_linear
    >>> fit = fit_linear([np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[4.0, 5.0]])])
    >>> fit.mean.tolist(), fit.explained_variance_ratio.round(9).tolist()
    ([2.0, 3.0], [1.0, 0.0])
    """
    check_settings(n_components, mode)
    columns = moments(chunks, np.float32 if mode == "float32" else np.float64, on_rows, threads)
    return solve(columns, n_components, mode, standardize=standardize)


def check_settings(n_components: object, mode: str) -> None:
    """Refuse settings of a PCA that make no sense.

    Parameters
    ----------
    n_components, mode
        As in ``StreamingPCA``.

    Raises
    ------
    InputError
        For another mode, and a number of components that is not a whole number from 1.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}", allowed=f"valid: {', '.join(MODES)}")
    if n_components is not None and (
            not isinstance(n_components, Integral) or isinstance(n_components, bool)
            or n_components < 1):
        raise InputError(f"n_components is {n_components!r}",
                         allowed="a whole number from 1, or None for all directions")


def solve(
    columns: Moments, n_components: int | None, mode: str, *, standardize: bool,
) -> LinearFit:
    """The PCA of rows of which only the moments are known.

    Parameters
    ----------
    columns
        The moments of all rows.
    n_components, mode, standardize
        As in ``StreamingPCA``.

    Returns
    -------
    LinearFit
        The fit.

    Raises
    ------
    InputError
        For fewer than two rows, and fewer rows or columns than components.
    """
    n, d = columns.count, len(columns.mean)
    if n < 2:
        raise InputError(f"cannot fit a PCA to {n} rows", allowed="2 rows or more")
    kept = n_components or min(n, d)
    if kept > min(n, d):
        raise InputError(f"cannot keep {kept} components of {n} rows with {d} columns",
                         allowed=f"at most {min(n, d)}")
    constant = constant_columns(columns)
    scale = column_scales(columns) if standardize else np.ones(d)
    covariance = columns.scatter / np.outer(scale, scale) / (n - 1)
    # A constant column has scale 1, and what its row and column hold is rounding error.
    covariance[constant, :] = 0.0
    covariance[:, constant] = 0.0
    with reproducible_blas(d):
        # eigh reads one triangle; of the mean, both count.
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    # Rounding makes small eigenvalues negative, and a negative share of the variance would be
    # reported.
    values = np.maximum(values[::-1], 0.0)
    vectors = vectors[:, ::-1][:, :kept]
    total = float(np.trace(covariance))
    spectrum = values / total if total > 0 else np.zeros(len(values))
    return LinearFit(
        mean=columns.mean, scale=scale,
        components=np.ascontiguousarray((vectors * signs(vectors)).T),
        explained_variance=values[:kept].copy(), explained_variance_ratio=spectrum[:kept].copy(),
        spectrum=spectrum, total_variance=total, n_samples=n, mode=mode)


def signs(vectors: np.ndarray) -> np.ndarray:
    """The sign of each column that makes its leading entry positive.

    Parameters
    ----------
    vectors
        Shape (d, k).

    Returns
    -------
    ndarray of float64, shape (k,)
        1 or −1.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.reduction.linear_fit import signs
    >>> signs(np.array([[-0.8, 0.6], [0.6, 0.8]])).tolist()
    [-1.0, 1.0]
    """
    size = np.abs(vectors)
    # The first entry that is about as large as the largest: between equal entries, as those of two
    # standardised columns always are, rounding must not decide.
    leading = np.argmax(size >= (1 - SIGN_TOLERANCE) * size.max(axis=0), axis=0)
    return np.where(vectors[leading, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
