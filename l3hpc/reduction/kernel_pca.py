"""``StreamingKernelPCA``: the kernel PCA of ``kernel_fit`` as an estimator of scikit-learn.

Importing this module imports scikit-learn; jobs use ``kernel_fit``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from l3hpc.arrays.rows import RowSource, as_rows
from l3hpc.reduction.kernel_fit import LANDMARKS, SEED, KernelFit, fit_kernel
from l3hpc.reduction.kernel_projection import KernelProjection
from l3hpc.reduction.kernels import KernelName


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
        fit = fit_kernel(
            as_rows(X), self.n_components, self.kernel, gamma=self.gamma, degree=self.degree,
            coef0=self.coef0, landmarks=self.landmarks, seed=self.seed, on_rows=on_rows,
            threads=threads)
        self.kernel_, self.exact_, self.n_samples_ = fit.kernel, fit.is_exact, fit.n_samples
        self.mean_, self.scale_, self.landmarks_ = fit.mean, fit.scale, fit.landmarks
        self.centre_, self.weights_ = fit.centre, fit.weights
        self.explained_variance_ = fit.explained_variance
        self.explained_variance_ratio_ = fit.explained_variance_ratio
        return self

    def as_fit(self) -> KernelFit:
        """The fitted attributes, as jobs keep them.

        Returns
        -------
        KernelFit
            Its attributes are those of the estimator.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self, "weights_")
        return KernelFit(
            self.kernel_, self.mean_, self.scale_, self.landmarks_, self.centre_, self.weights_,
            self.explained_variance_, self.explained_variance_ratio_, self.exact_, self.seed,
            self.n_samples_)

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
