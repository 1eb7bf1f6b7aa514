"""Kernel PCA of standardised rows that are read in blocks; exact, or by landmarks.

Kernel PCA [1]_ is a PCA of k(x, ·), for which all rows are needed in pairs. With up to
``landmarks`` rows that is done exactly. With more, the Nyström method [2]_ is used: the kernel is
replaced by the closest one that ``landmarks`` of the rows can express, whose features have finite
length, and a PCA of these features is computed in one pass over all rows. Memory depends on the
number of landmarks only, and the time grows with the rows, not with their square.

This is what jobs compute. ``kernel_pca.StreamingKernelPCA`` is the same as an estimator, for which
scikit-learn has to be imported.

References
----------
.. [1] B. Schölkopf, A. Smola and K.-R. Müller, "Nonlinear component analysis as a kernel eigenvalue
   problem", Neural Computation 10 (1998).
.. [2] C. Williams and M. Seeger, "Using the Nyström method to speed up kernel machines", NIPS 13
   (2000).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from l3hpc.arrays.passes import reproducible_blas
from l3hpc.arrays.rows import Rows
from l3hpc.arrays.threads import available_threads, map_in_order
from l3hpc.errors import InputError
from l3hpc.reduction.kernel_projection import BLOCK_ROWS
from l3hpc.reduction.kernels import Kernel, KernelName
from l3hpc.reduction.linear_fit import signs
from l3hpc.reduction.moments import column_scales, moments

LANDMARKS = 5000  # at most 1.5 GB for the fit and, of 512 numbers each, 15 MB for the file of φ
SEED = 20180216
# Share of the largest eigenvalue of the kernel matrix below which an eigenvalue is rounding error.
RANK_TOLERANCE = 1e-12
# From this size on a matrix exceeds the caches, and Lanczos' method is faster for up to a sixteenth
# of the eigenvalues.
LANCZOS_SIDE, LANCZOS_SHARE = 2000, 16
# Condition of the landmarks' kernel (1-norm) up to which the scatter of all kernels is turned into
# that of their features at the end, which saves a product per block, and may lose as many digits
# as this number has. Beyond, every block is turned.
DIRECT_CONDITION = 1e5
LANCZOS_TOLERANCE = 1e-10  # of the largest eigenvalue: one larger than those found by this is found


@dataclass(frozen=True)
class KernelFit:
    """A kernel PCA of standardised rows.

    Attributes
    ----------
    kernel : Kernel
        The kernel, with its gamma.
    mean, scale : ndarray, shape (d,)
        Column means and standard deviations (population; 1 for a constant column).
    landmarks : ndarray, shape (m, d)
        The landmarks, as they were read.
    centre : ndarray, shape (m,)
        Mean kernel of all rows with each landmark.
    weights : ndarray, shape (m, kept)
        As in ``KernelProjection``; 0 for components without variance.
    explained_variance, explained_variance_ratio : ndarray, shape (kept,)
        As in ``StreamingKernelPCA``.
    is_exact : bool
        Whether all rows are landmarks.
    seed : int
        Seed of the draw of landmarks.
    n_samples : int
        Rows that were fitted.
    """

    kernel: Kernel
    mean: np.ndarray
    scale: np.ndarray
    landmarks: np.ndarray
    centre: np.ndarray
    weights: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    is_exact: bool
    seed: int
    n_samples: int


@dataclass(frozen=True)
class _Solution:
    """What either method finds; ``total``: the variance of all components."""

    centre: np.ndarray
    weights: np.ndarray
    variance: np.ndarray
    total: float


def fit_kernel(
    rows: Rows, n_components: int, kernel: KernelName = "rbf", *, gamma: float | None = None,
    degree: int = 3, coef0: float = 1.0, landmarks: int = LANDMARKS, seed: int = SEED,
    on_rows: Callable[[int], None] | None = None, threads: int | None = None,
) -> KernelFit:
    """Fit a kernel PCA in two passes over the rows: standardisation, and kernel.

    Parameters
    ----------
    rows
        (n, d) matrix.
    n_components, kernel, gamma, degree, coef0, landmarks, seed
        As in ``StreamingKernelPCA``.
    on_rows
        Called with the number of rows of each block that is done.
    threads
        Number of threads (None: one per core).

    Returns
    -------
    KernelFit
        The fit.

    Raises
    ------
    InputError
        For invalid parameters, fewer rows or landmarks than components, and NaN or infinite values.
    """
    n, d = rows.shape
    is_exact = n <= landmarks
    chosen_kernel = Kernel(kernel, 1 / d if gamma is None else gamma, degree, coef0)
    _check_components(n_components, n, landmarks)
    columns = moments(rows.chunks(), threads=threads)
    mean, scale = columns.mean, column_scales(columns)
    chosen = np.arange(n)
    if not is_exact:
        draw = np.random.default_rng(seed)
        chosen = np.sort(draw.choice(n, landmarks, replace=False))
    marks = np.array(rows.take(chosen))
    standard = (marks - mean) / scale
    if is_exact:
        found = _solve(chosen_kernel, standard, n_components)
        if on_rows is not None:
            on_rows(n)
    else:
        blocks = ((block - mean) / scale for block in rows.chunks(BLOCK_ROWS))
        found = _solve_landmarks(chosen_kernel, standard, blocks, n_components, on_rows, threads)
    kept, total = found.variance, found.total
    return KernelFit(
        kernel=chosen_kernel, mean=mean, scale=scale, landmarks=marks, centre=found.centre,
        weights=found.weights, explained_variance=np.ascontiguousarray(kept),
        explained_variance_ratio=kept / total if total > 0 else np.zeros(len(kept)),
        is_exact=is_exact, seed=seed, n_samples=n)


def _check_components(kept: int, n: int, landmarks: int) -> None:
    if n < 2:
        raise InputError(f"a variance cannot be computed from {n} row{'s' * (n != 1)}",
                         allowed="2 rows or more")
    available, kind = min((landmarks, "landmarks"), (n, "rows"))
    if not 1 <= kept <= available:
        raise InputError(f"cannot keep {kept} components of {available} {kind}",
                         allowed=f"1 to {available}")


def _solve(kernel: Kernel, standard: np.ndarray, kept: int) -> _Solution:
    """Components from all rows."""
    n = len(standard)
    gram, centre = _centred_kernel(kernel, standard)
    total = float(np.trace(gram))
    found = None
    if n >= LANCZOS_SIDE and kept * LANCZOS_SHARE <= n:
        with reproducible_blas(n):
            found = _lanczos(gram, kept)
        if found is None:
            del gram  # was overwritten
            gram, _ = _centred_kernel(kernel, standard)
    values, vectors = found or _leading(gram, kept)
    real = values > RANK_TOLERANCE * values[0]
    values = np.where(real, values, 0.0)
    # The scores of the rows are these vectors, times the root of the eigenvalue.
    weights = np.where(real, vectors * signs(vectors), 0.0) / np.sqrt(np.where(real, values, 1.0))
    return _Solution(centre, weights, values / (n - 1), total / (n - 1))


def _centred_kernel(kernel: Kernel, standard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kernel matrix of all rows, centred, and the mean of its rows."""
    gram = kernel(standard, standard)
    centre = gram.mean(axis=0)
    gram -= centre
    gram -= centre[:, None]
    gram += centre.mean()
    return gram, centre


def _solve_landmarks(
    kernel: Kernel, standard: np.ndarray, blocks: Iterator[np.ndarray], kept: int,
    on_rows: Callable[[int], None] | None, threads: int | None,
) -> _Solution:
    """Components by a PCA of the Nyström features of all rows, standardised, in blocks.

    The features of a row are its kernel with the landmarks times a matrix; their products are the
    approximated kernel.
    """
    to_features, is_direct = _features_of(kernel, standard, kept)
    own, sums = 0.0, np.zeros(len(standard))

    def work(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        values = kernel(scaled, standard)
        return (values if is_direct else values @ to_features, values.sum(axis=0),
                float(kernel.diagonal(scaled).sum()))

    def parts() -> Iterator[np.ndarray]:
        nonlocal own
        for part, block_sums, diagonal in map_in_order(work, blocks, available_threads(threads)):
            np.add(sums, block_sums, out=sums)
            own += diagonal
            yield part

    columns = moments(parts(), on_rows=on_rows, threads=threads)
    n, centre, scatter = columns.count, sums / columns.count, columns.scatter
    if is_direct:
        with reproducible_blas(len(standard)):
            scatter = to_features.T @ (scatter @ to_features)
    mean = centre @ to_features
    values, directions = _leading(scatter, kept)
    weights = to_features @ directions
    # By the landmarks' scores, as in the exact solution, where they are the weights, scaled.
    scores = (kernel(standard, standard) - centre) @ weights
    return _Solution(centre, weights * signs(scores), np.maximum(values, 0) / (n - 1),
                     (own - n * float(mean @ mean)) / (n - 1))


def _features_of(
    kernel: Kernel, standard: np.ndarray, kept: int,
) -> tuple[np.ndarray, bool]:
    """Matrix (m, rank) that makes features of kernels with the landmarks.

    Also: whether it is so well conditioned that the scatter of all kernels can be turned.
    """
    gram = kernel(standard, standard)
    with reproducible_blas(len(gram)):
        factor, failed_at = scipy.linalg.lapack.dpotrf(gram, lower=1)
        if not failed_at:
            size = float(np.abs(gram).sum(axis=0).max())
            inverse_condition, _ = scipy.linalg.lapack.dpocon(factor, size, uplo="L")
            if inverse_condition * DIRECT_CONDITION >= 1:
                # With gram = L Lᵀ, this is the transpose of L⁻¹. Any root would do.
                inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)
                return inverse.T, True
        del factor
        values, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False)
    real = values > RANK_TOLERANCE * values[-1]
    if real.sum() < kept:
        raise InputError(
            f"the kernel of the landmarks has {real.sum()} directions, fewer than the "
            f"{kept} components to keep",
            allowed="fewer components, or a larger gamma or degree")
    return vectors[:, real] / np.sqrt(values[real]), False


def _leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric matrix, descending, and their vectors, as columns.

    The matrix is overwritten: its copy would be as large as all that is kept.
    """
    n = len(matrix)
    with reproducible_blas(n):
        values, vectors = scipy.linalg.eigh(
            matrix, overwrite_a=True, check_finite=False, subset_by_index=(n - count, n - 1))
    return values[::-1], vectors[:, ::-1]


def _lanczos(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """As ``_leading``, by Lanczos' method; None where it misses one. The matrix is overwritten."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    n = len(matrix)

    def multiply(vector: np.ndarray) -> np.ndarray:
        # Reads half of the matrix; the products are limited by the memory.
        return scipy.linalg.blas.dsymv(1.0, matrix.T, vector.reshape(n), lower=1)

    try:
        # A start of its own: ARPACK's is another one in every call.
        start = np.random.default_rng(SEED).standard_normal(n)
        values, vectors = eigsh(LinearOperator(matrix.shape, multiply, dtype=matrix.dtype), count,
                                which="LA", v0=start)
    except ArpackError:
        return None
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    if values[-1] <= RANK_TOLERANCE * values[0]:
        return None
    # Of equal eigenvalues, Lanczos' method may find too few, and without a sign of it. Then the
    # matrix without those found has a larger one than the least of them, and this is no positive
    # definite matrix: those found, minus the matrix, plus the least of them.
    scipy.linalg.blas.dsyrk(1.0, vectors * np.sqrt(values), beta=-1.0, c=matrix.T, lower=1,
                            overwrite_c=1)
    matrix.flat[::n + 1] += values[-1] + LANCZOS_TOLERANCE * values[0]
    _, failed_at = scipy.linalg.lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    return (values, vectors) if failed_at == 0 else None
