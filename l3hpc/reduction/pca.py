"""Means and scatter of columns in one pass over blocks of rows, without losing digits.

Each block is centred, about, before it is multiplied with itself: on the mean of its first rows.
What is left, and the means of the blocks, are brought together in double precision (Chan, Golub and
LeVeque 1983). So neither a large mean nor rows whose mean drifts from block to block cost digits,
in single precision too.

Principal components of standardised rows, in one pass and without ever holding the matrix.

The published pipeline standardises each column and then takes (kernel) PCA, which needs an n × n
matrix on a CPU. Mean, variance and covariance are sums over rows, so one pass over blocks gives
them all; the standardisation is folded into the d × d matrix afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from l3hpc.arrays.passes import reproducible_blas
from l3hpc.arrays.rows import as_rows, rechunk
from l3hpc.arrays.threads import available_threads, blas_threads, map_in_order
from l3hpc.errors import InputError
from l3hpc.reduction.phi import Projection

PIECE_ROWS = 2048  # read and centred at once: they stay in the cache
BLOCK_PIECES = {np.dtype(np.float32): 4, np.dtype(np.float64): 2}  # multiplied at once
MEANS_AT_ONCE = 64
BUFFER_BYTES = 512 * 2**20  # of all threads: very wide rows get fewer, each with more BLAS threads
MODES = ("float64", "float32")
SAME_SIZE = 1e-3
NOISE = 10 * np.finfo(np.float64).eps


@dataclass
class Moments:
    """What a covariance needs of n rows with d columns.

    mean: (d,). scatter: (d, d), the sum over rows of (x − mean)(x − mean)ᵀ. constant: (d,) bool,
    columns that hold one number throughout. All in float64.
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

    The result depends neither on how the chunks are cut nor, unless d is in the thousands, on
    ``threads``, in any bit.

    Parameters
    ----------
    chunks
        Arrays (m, d) of numbers, cut in any way.
    kind
        Precision of the products within a block; sums over blocks are always float64.
    on_rows
        Is called with the number of rows of each block that is done.
    threads
        None: one per core.

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
    >>> from l3hpc.reduction.pca import moments
    >>> found = moments([np.array([[1.0, 0.0]]), np.array([[3.0, 0.0]])])
    >>> found.count, found.mean.tolist(), found.constant.tolist()
    (2, [2.0, 0.0], [False, True])
    """
    kind, cores = np.dtype(kind), available_threads(threads)
    pieces = rechunk(chunks, PIECE_ROWS)
    first = next(pieces, None)
    if first is None:
        return Moments(0, np.empty(0), np.empty((0, 0)), np.empty(0, dtype=bool))
    size, d = PIECE_ROWS * BLOCK_PIECES[kind], first.shape[1]
    workers = max(1, min(cores, BUFFER_BYTES // (kind.itemsize * (d + 1) * (d + size))))
    reader = _Reader(first, [_Block(size, d, kind) for _ in range(workers + 1)])
    sums = _Sums(d, kind)
    with blas_threads(max(1, cores // workers)):
        for block in map_in_order(_multiply, reader.blocks(chain([first], pieces)), workers):
            sums.add(block)
            if on_rows is not None:
                on_rows(block.count)
    return sums.result(reader.constant())


class _Block:
    """Buffers for one block: its rows less their shift, and their product and sum."""

    def __init__(self, size: int, d: int, kind: np.dtype) -> None:
        self.rows = np.empty((size, d), kind)
        self.product = np.empty((d, d), kind)
        self.total = np.empty(d, kind)
        self.ones = np.ones(size, kind)
        self.shift = np.empty(d, kind)
        self.count = 0


class _Reader:
    """Fills the buffers in turn, and watches which columns change."""

    def __init__(self, first: np.ndarray, buffers: Sequence[_Block]) -> None:
        self.first = first[0].copy()
        self.same = np.arange(first.shape[1])  # columns that have not changed so far
        self.buffers = buffers

    def blocks(self, pieces: Iterable[np.ndarray]) -> Iterator[_Block]:
        """Every block less (about) its mean, from pieces of ``PIECE_ROWS`` rows."""
        turn = cycle(self.buffers)
        block = next(turn)
        block.count = 0
        for rows in pieces:
            if block.count == len(block.rows):
                yield block
                block = next(turn)
                block.count = 0
            self._fill(block, rows)
        yield block

    def _fill(self, block: _Block, rows: np.ndarray) -> None:
        centred = block.rows[block.count:block.count + len(rows)]
        with np.errstate(invalid="ignore", over="ignore"):  # refused afterwards, with the place
            if block.count == 0:
                known = rows.dtype in (np.float32, np.float64)
                floats = rows if known else rows.astype(np.float64)
                block.shift[...] = np.ones(len(rows), floats.dtype) @ floats / len(rows)
            np.subtract(rows, block.shift, out=centred, casting="unsafe")
        if self.same.size:
            self.same = self.same[(rows[:, self.same] == self.first[self.same]).all(axis=0)]
        block.count += len(rows)

    def constant(self) -> np.ndarray:
        """Columns that never changed, (d,) bool."""
        result = np.zeros(len(self.first), dtype=bool)
        result[self.same] = True
        return result


def _multiply(block: _Block) -> _Block:
    rows = block.rows[:block.count]
    with np.errstate(invalid="ignore", over="ignore"):
        np.matmul(block.ones[:block.count], rows, out=block.total)
        np.matmul(rows.T, rows, out=block.product)  # numpy takes the symmetric BLAS routine here
    return block


class _Sums:
    """The sums over blocks, in double precision.

    ``inner`` is the scatter about the shift of each block until ``_flush`` takes off what the
    shifts left of the means; ``between`` is that of the blocks' means about the first one.
    """

    def __init__(self, d: int, kind: np.dtype) -> None:
        self.kind = kind
        self.count = 0
        self.reference, self.total = np.zeros(d), np.zeros(d)
        self.inner, self.between = np.zeros((d, d)), np.zeros((d, d))
        self.means: list[np.ndarray] = []
        self.rests: list[np.ndarray] = []

    def add(self, block: _Block) -> None:
        """Bring one multiplied block in; refuses numbers that are not finite."""
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
            raise InputError(f"values too large to be squared in {self.kind}")
        return Moments(self.count, self.reference + away, scatter, constant)


class StreamingPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """StandardScaler and PCA of rows that come in blocks; the result does not depend on the cuts.

    An estimator of scikit-learn, for pipelines, ``clone`` and ``get_params``. X may be one array,
    an HDF5 dataset, any ``Rows``, or an iterable of chunks, arrays (m, d) cut in any way.

    Parameters
    ----------
    n_components : int, optional
        Directions to keep, 1 to the number of columns (None: all).
    mode : {'float64', 'float32'}
        'float64': eigenvalues agree with an in-memory float64 PCA to 1e-8 relative. 'float32':
        block products in single precision, sums in double: 1e-5, in about half the time. Errors
        are relative to each eigenvalue, down to 1e-7 (float32: 1e-3) of the largest; below, an
        error of about 1e-15 (1e-8) of the largest remains.
    standardize : bool
        Divide each column by its standard deviation (as published); False only centres.

    Attributes
    ----------
    mean_, scale_ : ndarray, shape (d,)
        Column means and standard deviations (population, as StandardScaler; 1 for a constant
        column).
    components_ : ndarray, shape (n_components, d)
        Orthonormal rows; the leading entry of each (see ``signs``) is positive.
    explained_variance_ : ndarray, shape (n_components,)
        Descending variances (sample, n − 1) of the scores.
    explained_variance_ratio_ : ndarray, shape (n_components,)
        The same as parts of ``total_variance_``.
    spectrum_ : ndarray, shape (d,)
        The same parts for all directions, also those that are not kept.
    n_samples_ : int
        Rows seen.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance:
       analysis and recommendations", The American Statistician 37 (1983).

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.reduction import StreamingPCA
    >>> x = np.random.default_rng(0).normal(size=(100, 3)) @ np.diag([1.0, 2.0, 3.0])
    >>> whole = StreamingPCA(2).fit(x)
    >>> chunks = StreamingPCA(2).fit(x[start:start + 30] for start in range(0, 100, 30))
    >>> bool((whole.components_ == chunks.components_).all())
    True
    >>> whole.transform(x).shape
    (100, 2)
    """

    n_features_in_: int

    def __init__(
        self, n_components: int | None = None, mode: str = "float64", *, standardize: bool = True,
    ) -> None:
        self.n_components = n_components
        self.mode = mode
        self.standardize = standardize

    def fit(
        self, X: Any, y: None = None, *, on_rows: Callable[[int], None] | None = None,  # noqa: N803
        threads: int | None = None,
    ) -> StreamingPCA:
        """Fit in one pass over the rows.

        Parameters
        ----------
        X
            Rows of d numbers: one array (n, d), an HDF5 dataset, ``Rows``, or chunks (m, d).
        y
            Ignored.
        on_rows
            Is called with the number of rows of each block that is done.
        threads
            None: one per core. The result does not depend on it.

        Raises
        ------
        InputError
            For fewer than two rows, fewer rows or columns than components, chunks of different
            row lengths, and NaN or infinite values. scikit-learn's own checks of one array raise
            ``ValueError``.
        """
        self._check_params()
        found = self._moments_of(X, on_rows, threads, reset=True, least=2)
        self._solve(found)
        self._moments = found
        return self

    def fit_transform(self, X: Any, y: None = None, **options: Any) -> np.ndarray:  # noqa: N803
        """``fit`` and ``transform`` of the same rows: two passes over them.

        Raises
        ------
        InputError
            Also for an iterator, which is empty after its first pass.
        """
        if isinstance(X, Iterator):
            raise InputError("fit_transform reads the rows twice, and an iterator gives them once",
                             allowed="an array, an HDF5 dataset, a list of chunks, or a function "
                                     "that starts a pass over the chunks")
        return self.fit(X, y, **options).transform(X)

    def partial_fit(self, X: Any, y: None = None) -> StreamingPCA:  # noqa: N803
        """Take more rows in. The result is that of one ``fit`` to all rows, to rounding.

        It can be used as soon as there are two rows, and as many as components.
        """
        self._check_params()
        known = getattr(self, "_moments", None)
        found = self._moments_of(X, None, None, reset=known is None, least=1)
        self._moments = found if known is None else together(known, found)
        if self._moments.count >= max(2, self.n_components or 0):
            self._solve(self._moments)
        return self

    def _check_params(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"unknown mode {self.mode!r}", allowed=f"valid: {', '.join(MODES)}")
        if self.n_components is not None and self.n_components < 1:
            raise InputError(f"cannot keep {self.n_components} components", allowed="1 or more")

    def _moments_of(self, x: Any, on_rows: Callable[[int], None] | None, threads: int | None, *,
                    reset: bool, least: int) -> Moments:
        kind = np.float32 if self.mode == "float32" else np.float64
        chunks = _chunks(x)
        if chunks is None:
            return moments([_validated(self, x, reset=reset, least=least)], kind, on_rows, threads)
        found = moments(chunks, kind, on_rows, threads)
        dim = len(found.mean)
        if not reset and dim != self.n_features_in_:
            raise InputError(f"X has {dim} features, but StreamingPCA is expecting "
                             f"{self.n_features_in_} features as input")
        self.n_features_in_ = dim
        return found

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
        constant = found.constant | (deviation <= NOISE * np.abs(self.mean_))
        self.scale_ = np.ones(d)
        if self.standardize:
            self.scale_[~constant] = deviation[~constant]
        covariance = found.scatter / np.outer(self.scale_, self.scale_) / (n - 1)
        covariance[constant, :] = 0.0
        covariance[:, constant] = 0.0
        with reproducible_blas(d):
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

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Scores of rows.

        Parameters
        ----------
        X
            Rows as for ``fit``.

        Returns
        -------
        ndarray, shape (n, n_components)
            float32 for float32 rows, else float64.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self, "components_")
        projection = Projection(self.mean_, self.scale_, self.components_)
        chunks = _chunks(X)
        if chunks is None:
            return projection.transform(_validated(self, X, reset=False, least=0))
        return np.concatenate([np.empty((0, projection.kept), np.float32),
                               *(projection.transform(chunk) for chunk in chunks)])

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Rows (n, d) whose scores are X (n, n_components), as near as the components allow."""
        check_is_fitted(self, "components_")
        return np.asarray(X) @ self.components_ * self.scale_ + self.mean_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def together(one: Moments, other: Moments) -> Moments:
    """The moments of the rows of both."""
    count = one.count + other.count
    apart = other.mean - one.mean
    constant = one.constant & other.constant & (np.abs(apart) <= NOISE * np.abs(one.mean))
    return replace(
        one, count=count, mean=one.mean + apart * (other.count / count), constant=constant,
        scatter=one.scatter + other.scatter
        + np.outer(apart, apart) * (one.count * other.count / count))


def _chunks(x: Any) -> Iterable[np.ndarray] | None:
    """The chunks of anything that is not one array; None for an array or what becomes one."""
    if callable(x) and not hasattr(x, "shape"):
        return x()
    if hasattr(x, "take") and hasattr(x, "chunks") or type(x).__module__.startswith("h5py."):
        return as_rows(x).chunks()
    if isinstance(x, (list, tuple)):
        return x if len(x) and all(np.ndim(one) == 2 for one in x[:1]) else None
    if hasattr(x, "__iter__") and not hasattr(x, "__array__") and not hasattr(x, "shape") \
            and not isinstance(x, (str, bytes)):
        return x
    return None


def _validated(estimator: StreamingPCA, x: Any, *, reset: bool, least: int) -> np.ndarray:
    """One array as scikit-learn checks it; notes (``reset``) or compares its number of columns."""
    options: dict[str, Any] = {"reset": reset, "dtype": [np.float64, np.float32],
                               "ensure_min_samples": least}
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:  # before scikit-learn 1.6
        return np.asarray(estimator._validate_data(x, **options))
    return np.asarray(validate_data(estimator, x, **options))


def signs(vectors: np.ndarray) -> np.ndarray:
    """1.0 or −1.0 for each column of ``vectors`` (d, k): what makes its leading entry positive.

    The leading entry is the first that is as large as the largest, to ``SAME_SIZE``: entries of
    equal size, as two standardised columns always have, do not leave the sign to rounding.
    """
    size = np.abs(vectors)
    leading = np.argmax(size >= (1 - SAME_SIZE) * size.max(axis=0), axis=0)
    return np.where(vectors[leading, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
