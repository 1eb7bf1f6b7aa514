"""Kernel PCA of standardised rows that are read in blocks, with a transform for new rows.

Kernel PCA [1]_ is a PCA of k(x, ·), for which all rows are needed in pairs. With up to
``landmarks`` rows that is done exactly. With more, the Nyström method [2]_ is used: the kernel is
replaced by the closest one that ``landmarks`` of the rows can express, whose features have finite
length, and a PCA of these features is computed in one pass over all rows. Memory depends on the
number of landmarks only, and the time grows with the rows, not with their square.

References
----------
.. [1] B. Schölkopf, A. Smola and K.-R. Müller, "Nonlinear component analysis as a kernel eigenvalue
   problem", Neural Computation 10 (1998).
.. [2] C. Williams and M. Seeger, "Using the Nyström method to speed up kernel machines", NIPS 13
   (2000).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import scipy.linalg
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from l3hpc.arrays.passes import reproducible_blas
from l3hpc.arrays.rows import Rows, RowSource, as_rows, rechunk
from l3hpc.arrays.threads import available_threads, blas_threads, map_in_order
from l3hpc.errors import InputError
from l3hpc.reduction.kernels import Kernel, KernelName
from l3hpc.reduction.moments import column_scales, moments
from l3hpc.reduction.pca import signs

LANDMARKS = 5000  # at most 1.5 GB for the fit and, of 512 numbers each, 15 MB for the file of φ
SEED = 20180216
BLOCK_ROWS = 512  # compared with all landmarks at once, by each thread
# Share of the largest eigenvalue of the kernel matrix below which an eigenvalue is rounding error.
RANK_TOLERANCE = 1e-12
# From this size on a matrix exceeds the caches, and Lanczos' method is faster for up to a sixteenth
# of the eigenvalues.
LANCZOS_SIDE, LANCZOS_SHARE = 2000, 16
LANCZOS_TOLERANCE = 1e-10  # of the largest eigenvalue: one larger than those found by this is found


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
        self._check(x)
        result = np.empty((len(x), self.kept), _dtype_of(x))
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
        self._check(rows)
        landmarks, centre, weights = self._parts[_dtype_of(rows)]
        values = self._kernel(((rows - self._mean) / self._scale).astype(weights.dtype), landmarks)
        # Before the product, in which the large common part would cancel and cost digits.
        values -= centre
        return values @ weights

    def _check(self, x: np.ndarray) -> None:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InputError(
                f"expected rows of length {self.dim}, found an array of shape {x.shape}")


class StreamingKernelPCA(TransformerMixin, BaseEstimator):
    """StandardScaler and kernel PCA of rows that are read in blocks; exact or by landmarks.

    Parameters
    ----------
    n_components : int
        Number of components, at most that of the landmarks.
    kernel : {'rbf', 'poly'}
        As in ``Kernel``.
    gamma : float, optional
        Above 0 (None: 1 / d, as in scikit-learn).
    degree : int
        Of 'poly', from 1.
    coef0 : float
        Of 'poly', from 0.
    landmarks : int
        Rows that the kernel is computed with. Up to as many rows are fitted exactly; of more, as
        many are drawn uniformly. The fit takes about 60 · landmarks² bytes, an exact one 20.
    seed : int
        Seed of this draw.

    Attributes
    ----------
    mean_, scale_ : ndarray, shape (d,)
        As in ``StreamingPCA``.
    kernel_ : Kernel
        The kernel, with its gamma.
    landmarks_ : ndarray, shape (m, d)
        The landmarks, as they were read.
    centre_ : ndarray, shape (m,)
        Mean kernel of all rows with each landmark.
    weights_ : ndarray, shape (m, n_components)
        As in ``KernelProjection``; 0 for components without variance. Of the landmarks' scores of
        a component, the largest in magnitude is positive (see ``signs``).
    explained_variance_ : ndarray, shape (n_components,)
        Descending variances (n − 1) of the scores: the eigenvalues of the centred kernel matrix,
        divided by n − 1.
    explained_variance_ratio_ : ndarray, shape (n_components,)
        The same as fractions of the variance of k(x, ·), of which landmarks give an upper bound:
        then these are lower bounds.
    exact_ : bool
        Whether all rows are landmarks.
    n_samples_ : int
        Rows that were fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.reduction import StreamingKernelPCA
    >>> x = np.random.default_rng(0).normal(size=(300, 4))
    >>> exact = StreamingKernelPCA(2).fit(x)
    >>> fewer = StreamingKernelPCA(2, landmarks=150).fit(x)
    >>> exact.exact_, fewer.exact_, fewer.transform(x).shape
    (True, False, (300, 2))
    """

    def __init__(
        self, n_components: int, kernel: KernelName = "rbf", *, gamma: float | None = None,
        degree: int = 3, coef0: float = 1.0, landmarks: int = LANDMARKS, seed: int = SEED,
    ) -> None:
        self.n_components = n_components
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.landmarks = landmarks
        self.seed = seed

    def fit(
        self, X: RowSource, y: None = None, *, on_rows: Callable[[int], None] | None = None,  # noqa: N803
        threads: int | None = None,
    ) -> StreamingKernelPCA:
        """Fit, in two passes over the rows: standardisation, and kernel.

        Parameters
        ----------
        X
            Rows of d numbers: one array (n, d), an HDF5 dataset, ``Rows``, or a function that
            starts a pass over chunks.
        y
            Ignored.
        on_rows
            Called with the number of rows of each block that is done.
        threads
            Number of threads (None: one per core).

        Returns
        -------
        StreamingKernelPCA
            The estimator itself.

        Raises
        ------
        InputError
            For invalid parameters, fewer rows or landmarks than components, and NaN or infinite
            values.
        """
        rows = as_rows(X)
        n, d = rows.shape
        self.exact_ = n <= self.landmarks
        gamma = 1 / d if self.gamma is None else self.gamma
        self.kernel_ = Kernel(self.kernel, gamma, self.degree, self.coef0)
        self._check_components(n)
        columns = moments(rows.chunks(), threads=threads)
        self.mean_, self.scale_ = columns.mean, column_scales(columns)
        chosen = np.arange(n)
        if not self.exact_:
            draw = np.random.default_rng(self.seed)
            chosen = np.sort(draw.choice(n, self.landmarks, replace=False))
        self.landmarks_ = np.array(rows.take(chosen))
        self.n_samples_ = n
        standard = self._standardised(self.landmarks_)
        if self.exact_:
            self._solve(standard)
            if on_rows is not None:
                on_rows(n)
        else:
            self._solve_landmarks(standard, rows, on_rows, threads)
        return self

    def _check_components(self, n: int) -> None:
        if n < 2:
            raise InputError(f"a variance cannot be computed from {n} row{'s' * (n != 1)}",
                             allowed="2 rows or more")
        available, kind = min((self.landmarks, "landmarks"), (n, "rows"))
        if not 1 <= self.n_components <= available:
            raise InputError(f"cannot keep {self.n_components} components of {available} {kind}",
                             allowed=f"1 to {available}")

    def _standardised(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean_) / self.scale_

    def _solve(self, standard: np.ndarray) -> None:
        """Set the fitted attributes from all rows."""
        n, kept = len(standard), self.n_components
        gram = self._centred_kernel(standard)
        total = float(np.trace(gram))
        found = None
        if n >= LANCZOS_SIDE and kept * LANCZOS_SHARE <= n:
            # One thread: the products are limited by the memory, and several threads would wait for
            # one another a thousand times.
            with blas_threads(1):
                found = _lanczos(gram, kept)
            if found is None:
                del gram  # was overwritten
                gram = self._centred_kernel(standard)
        values, vectors = found or _leading(gram, kept)
        real = values > RANK_TOLERANCE * values[0]
        values = np.where(real, values, 0.0)
        # The scores of the rows are these vectors, times the root of the eigenvalue.
        self.weights_ = np.where(real, vectors * signs(vectors), 0.0) \
            / np.sqrt(np.where(real, values, 1.0))
        self._set_variance(values / (n - 1), total / (n - 1))

    def _centred_kernel(self, standard: np.ndarray) -> np.ndarray:
        """The kernel matrix of all rows, centred; sets ``centre_``."""
        gram = self.kernel_(standard, standard)
        self.centre_ = gram.mean(axis=0)
        gram -= self.centre_
        gram -= self.centre_[:, None]
        gram += self.centre_.mean()
        return gram

    def _to_features(self, standard: np.ndarray) -> np.ndarray:
        """Matrix (m, rank) that makes Nyström features of kernels with the landmarks.

        The products of these features are the approximated kernel.
        """
        gram = self.kernel_(standard, standard)
        with reproducible_blas(len(gram)):
            values, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False)
        real = values > RANK_TOLERANCE * values[-1]
        if real.sum() < self.n_components:
            raise InputError(
                f"the kernel of the landmarks has {real.sum()} directions, fewer than the "
                f"{self.n_components} components to keep",
                allowed="fewer components, or a larger gamma or degree")
        return vectors[:, real] / np.sqrt(values[real])

    def _solve_landmarks(
        self, standard: np.ndarray, rows: Rows, on_rows: Callable[[int], None] | None,
        threads: int | None,
    ) -> None:
        """Set the fitted attributes from all rows, by a PCA of their Nyström features."""
        to_features = self._to_features(standard)
        sums, own = np.zeros(len(standard)), 0.0

        def features() -> Iterator[np.ndarray]:
            nonlocal own
            for block in rows.chunks(BLOCK_ROWS):
                scaled = self._standardised(block)
                values = self.kernel_(scaled, standard)
                np.add(sums, values.sum(axis=0), out=sums)
                own += float(self.kernel_.diagonal(scaled).sum())
                yield values @ to_features

        of_features = moments(features(), on_rows=on_rows, threads=threads)
        n = self.n_samples_
        values, directions = _leading(of_features.scatter, self.n_components)
        self.centre_ = sums / n
        weights = to_features @ directions
        # By the landmarks' scores, as in the exact solution, where they are the weights, scaled.
        scores = (self.kernel_(standard, standard) - self.centre_) @ weights
        self.weights_ = weights * signs(scores)
        mean = of_features.mean
        self._set_variance(np.maximum(values, 0) / (n - 1),
                           (own - n * float(mean @ mean)) / (n - 1))

    def _set_variance(self, kept: np.ndarray, total: float) -> None:
        self.explained_variance_ = np.ascontiguousarray(kept)
        self.explained_variance_ratio_ = kept / total if total > 0 else np.zeros(len(kept))

    def transform(self, X: npt.ArrayLike) -> np.ndarray:  # noqa: N803
        """Scores of rows.

        Parameters
        ----------
        X
            Rows, shape (m, d).

        Returns
        -------
        ndarray, shape (m, n_components)
            float32 for float32 rows, else float64.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        InputError
            For rows of another length.
        """
        check_is_fitted(self, "weights_")
        return KernelProjection(self.kernel_, self.mean_, self.scale_, self.landmarks_,
                                self.centre_, self.weights_).transform(np.asarray(X))


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
    from scipy.sparse.linalg import ArpackError, eigsh

    n = len(matrix)
    try:
        # A start of its own: ARPACK's is another one in every call.
        start = np.random.default_rng(SEED).standard_normal(n)
        values, vectors = eigsh(matrix, count, which="LA", v0=start)
    except ArpackError:
        return None
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    # Of equal eigenvalues, Lanczos' method may find too few, and without a sign of it. Then the
    # matrix without those found has a larger one than the least of them.
    for first in range(0, n, BLOCK_ROWS):
        rows = matrix[first:first + BLOCK_ROWS]
        np.negative(rows, out=rows)
        rows += (vectors[first:first + BLOCK_ROWS] * values) @ vectors.T
    matrix.flat[::n + 1] += values[-1] + LANCZOS_TOLERANCE * values[0]
    _, failed_at = scipy.linalg.lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    is_complete = failed_at == 0 and values[-1] > RANK_TOLERANCE * values[0]
    return (values, vectors) if is_complete else None


def _dtype_of(x: np.ndarray) -> np.dtype:
    return np.dtype(np.float32 if x.dtype == np.float32 else np.float64)
