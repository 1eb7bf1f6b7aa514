"""``StreamingPCA``: the PCA of ``linear_fit`` as an estimator of scikit-learn.

Importing this module imports scikit-learn; jobs use ``linear_fit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from l3hpc.arrays.rows import RowSource, as_rows
from l3hpc.errors import InputError
from l3hpc.reduction.linear_fit import LinearFit, check_settings, solve
from l3hpc.reduction.moments import Moments, combine, moments
from l3hpc.reduction.projection import Projection

Samples: TypeAlias = npt.ArrayLike | RowSource | Iterable[np.ndarray]


class StreamingPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """StandardScaler and PCA of rows that come in blocks; the result does not depend on the cuts.

    A scikit-learn estimator, for pipelines, ``clone`` and ``get_params``. X may be one array, an
    HDF5 dataset, any ``Rows``, or an iterable of chunks, arrays (m, d) cut in any way.

    Parameters
    ----------
    n_components : int, optional
        Number of directions to keep, 1 to the number of columns (None: all). A fraction of the
        variance and 'mle' are not supported, because the rows are read only once.
    mode : {'float64', 'float32'}
        'float64': eigenvalues agree with an in-memory float64 PCA to 1e-8 relative. 'float32':
        block products in single precision, sums in double: 1e-5, in about half the time. This
        holds for eigenvalues down to 1e-7 (float32: 1e-3) of the largest; smaller ones have an
        error of about 1e-15 (1e-8) of the largest.
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
        The same as fractions of ``total_variance_``.
    spectrum_ : ndarray, shape (d,)
        These fractions for all directions, including those that are not kept.
    total_variance_ : float
        Sum of the variances of all directions.
    n_samples_ : int
        Rows that were fitted.

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
        self, X: Samples, y: None = None, *, on_rows: Callable[[int], None] | None = None,  # noqa: N803
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
            Called with the number of rows of each block that is done.
        threads
            Number of threads (None: one per core). The result does not depend on it.

        Returns
        -------
        StreamingPCA
            The estimator itself.

        Raises
        ------
        InputError
            For invalid parameters, fewer than two rows, fewer rows or columns than components,
            chunks of different row lengths, and NaN or infinite values. scikit-learn's own checks
            of one array raise ``ValueError``.
        """
        check_settings(self.n_components, self.mode)
        fitted = self._moments_of(X, on_rows, threads, reset=True, min_rows=2)
        self._solve(fitted)
        # Kept so that partial_fit can continue from here.
        self._moments = fitted
        return self

    def fit_transform(self, X: Samples, y: None = None, **options: Any) -> np.ndarray:  # noqa: N803
        """``fit`` and ``transform`` of the same rows, in two passes.

        Parameters
        ----------
        X
            Rows as for ``fit``, but no iterator, which would be empty after the first pass.
        y
            Ignored.
        **options
            As for ``fit``.

        Returns
        -------
        ndarray, shape (n, n_components)
            Scores of the rows.

        Raises
        ------
        InputError
            For an iterator, and as for ``fit``.
        """
        if isinstance(X, Iterator):
            raise InputError("fit_transform reads the rows twice; an iterator can be read once",
                             allowed="an array, an HDF5 dataset, a list of chunks, or a function "
                                     "that starts a pass over the chunks")
        return self.fit(X, y, **options).transform(X)

    def partial_fit(self, X: Samples, y: None = None) -> StreamingPCA:  # noqa: N803
        """Add more rows. The result is that of one ``fit`` to all rows, up to rounding.

        The estimator is fitted as soon as there are two rows, and as many as components.

        Parameters
        ----------
        X
            Rows as for ``fit``.
        y
            Ignored.

        Returns
        -------
        StreamingPCA
            The estimator itself.

        Raises
        ------
        InputError
            As for ``fit``, and for rows of another length than those before.
        """
        check_settings(self.n_components, self.mode)
        earlier = getattr(self, "_moments", None)
        new = self._moments_of(X, None, None, reset=earlier is None, min_rows=1)
        self._moments = new if earlier is None else combine(earlier, new)
        if self._moments.count >= max(2, self.n_components or 0):
            self._solve(self._moments)
        return self

    def _moments_of(self, x: Samples, on_rows: Callable[[int], None] | None, threads: int | None, *,
                    reset: bool, min_rows: int) -> Moments:
        """The moments of X; ``reset``: forget the number of columns of earlier rows."""
        kind = np.float32 if self.mode == "float32" else np.float64
        chunks = _chunks(x)
        if chunks is None:
            return moments([_validated(self, x, reset=reset, min_rows=min_rows)], kind,
                           on_rows, threads)
        result = moments(chunks, kind, on_rows, threads)
        dim = len(result.mean)
        if not reset and dim != self.n_features_in_:
            raise InputError(f"X has {dim} features, but StreamingPCA is expecting "
                             f"{self.n_features_in_} features as input")
        self.n_features_in_ = dim
        return result

    def _solve(self, columns: Moments) -> None:
        """Set the fitted attributes from the moments."""
        fit = solve(columns, self.n_components, self.mode, standardize=self.standardize)
        self.mean_, self.scale_ = fit.mean, fit.scale
        self.components_ = fit.components
        self.explained_variance_ = fit.explained_variance
        self.explained_variance_ratio_ = fit.explained_variance_ratio
        self.spectrum_, self.total_variance_ = fit.spectrum, fit.total_variance
        self.n_samples_ = fit.n_samples

    def as_fit(self) -> LinearFit:
        """The fitted attributes, as jobs keep them.

        Returns
        -------
        LinearFit
            Its attributes are those of the estimator.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self, "components_")
        return LinearFit(
            self.mean_, self.scale_, self.components_, self.explained_variance_,
            self.explained_variance_ratio_, self.spectrum_, self.total_variance_,
            self.n_samples_, self.mode)

    def transform(self, X: Samples) -> np.ndarray:  # noqa: N803
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
        InputError
            For rows of another length.
        """
        check_is_fitted(self, "components_")
        projection = Projection(self.mean_, self.scale_, self.components_)
        chunks = _chunks(X)
        if chunks is None:
            return projection.transform(_validated(self, X, reset=False, min_rows=0))
        return np.concatenate([np.empty((0, projection.kept), np.float32),
                               *(projection.transform(chunk) for chunk in chunks)])

    def inverse_transform(self, X: npt.ArrayLike) -> np.ndarray:  # noqa: N803
        """Rows from their scores, without the parts that the reduction dropped.

        Parameters
        ----------
        X
            Scores, shape (n, n_components).

        Returns
        -------
        ndarray, shape (n, d)
            The rows.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self, "components_")
        return np.asarray(X) @ self.components_ * self.scale_ + self.mean_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def _chunks(x: Samples) -> Iterable[np.ndarray] | None:
    """The chunks of X; None where it is, or can be converted to, one array."""
    if callable(x) and not hasattr(x, "shape"):
        return x()
    # An HDF5 dataset is read in blocks: converted to an array, as below, it would be read whole.
    if hasattr(x, "take") and hasattr(x, "chunks") or type(x).__module__.startswith("h5py."):
        return as_rows(cast("RowSource", x)).chunks()
    if isinstance(x, (list, tuple)):
        # A list of matrices is chunks; a list of lists of numbers is one matrix.
        return x if len(x) and all(np.ndim(one) == 2 for one in x[:1]) else None
    if hasattr(x, "__iter__") and not hasattr(x, "__array__") and not hasattr(x, "shape") \
            and not isinstance(x, (str, bytes)):
        return cast("Iterable[np.ndarray]", x)
    return None


def _validated(estimator: StreamingPCA, x: Samples, *, reset: bool, min_rows: int) -> np.ndarray:
    """One array, checked by scikit-learn; ``reset``: store its number of columns, not compare."""
    options: dict[str, Any] = {"reset": reset, "dtype": [np.float64, np.float32],
                               "ensure_min_samples": min_rows}
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:  # before scikit-learn 1.6
        return np.asarray(estimator._validate_data(x, **options))
    return np.asarray(validate_data(estimator, x, **options))
