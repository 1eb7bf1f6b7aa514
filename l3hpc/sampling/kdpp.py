"""Exact k-DPP sampling for kernels L = B Bᵀ + εI of low rank, without ever forming n × n numbers.

A k-DPP draws a set S of k rows with P(S) ∝ det(L_S) [1]_. Because
det(L_S) = Σ_{T⊆S} ε^{k−|T|} det((B Bᵀ)_T), the pair (T, S) is drawn instead: first the size m of
T, then T from the m-DPP of B Bᵀ, then the other k − m rows uniformly. T is the *diverse part*: the
rows that repel each other; the rest comes from the regulariser εI alone.

The m-DPP is drawn in two steps. m eigenvectors are chosen by the elementary symmetric polynomials
of the eigenvalues (``choose_values``). What they span is a projection DPP, whose rows are proposed
by their leverage scores and accepted by the chain rule [2]_ (``projection_dpp``).

Cost: one pass of n·d² operations in double precision for the Gram matrix BᵀB, one of n·(2d − m)·m
in single precision for the leverage scores; memory O(n + d²). Where n ≤ d, the n × n side is
decomposed instead.

References
----------
.. [1] A. Kulesza and B. Taskar, "Determinantal point processes for machine learning", Foundations
   and Trends in Machine Learning 5 (2012).
.. [2] S. Barthelmé, N. Tremblay and P.-O. Amblard, "A faster sampler for discrete determinantal
   point processes", AISTATS 2023.
"""

from __future__ import annotations

import numpy as np

from l3hpc.arrays.features import FeatureRows, features
from l3hpc.arrays.passes import map_blocks, reproducible_blas
from l3hpc.arrays.rows import Rows, RowSource, as_rows, block_rows, in_order_only, require_real
from l3hpc.errors import InputError
from l3hpc.sampling.projection_dpp import leverage_bounds, sample_projection

__all__ = ["KDPP", "FeatureRows", "features"]


class KDPP:
    """The k-DPP of L = B Bᵀ + εI over the rows of B, decomposed once and sampled repeatedly.

    Parameters
    ----------
    rows
        B, real numbers of shape (n, d): an array, a DataFrame, an HDF5 dataset, any ``Rows``
        (``FeatureRows`` for embeddings with quality and norm), or a function that starts a pass
        over blocks of rows.
    epsilon
        The regulariser ε ≥ 0. With 0, no more rows than the rank of B can be drawn.
    kernel
        Instead of ``rows``, a symmetric positive semidefinite matrix K, shape (n, n), with
        L = K + εI.

    Attributes
    ----------
    n_, dim_ : int
        Rows and columns of B.
    rank_ : int
        Numerical rank of B.
    eigenvalues_ : ndarray, shape (rank_,)
        The non-zero eigenvalues of B Bᵀ, ascending.
    diverse_ : ndarray of int64
        Row numbers of the diverse part T of the last sample; ``diverse_size_`` of them.
    log_det_, log_likelihood_ : float
        log det(L_S) and log P(S) of the last sample.

    Raises
    ------
    InputError
        For values that are NaN, infinite or complex, for no rows or no columns, a negative ε, and
        a k that cannot be drawn.

    Examples
    --------
    Two of three directions are nearly the same: a sample of two hardly ever has both.

    >>> import numpy as np
    >>> from l3hpc.sampling import KDPP
    >>> dpp = KDPP(np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]), epsilon=1e-6)
    >>> dpp.rank_
    2
    >>> draws = [tuple(dpp.sample(2, seed).tolist()) for seed in range(50)]
    >>> (0, 1) in draws
    False
    """

    def __init__(
        self, rows: RowSource | None = None, epsilon: float = 0.001, *,
        kernel: np.ndarray | None = None,
    ) -> None:
        if not (np.isfinite(epsilon) and epsilon >= 0):
            raise InputError(f"epsilon {epsilon} is not allowed", allowed="0 or a positive number")
        if (rows is None) == (kernel is None):
            raise InputError("give either rows or a kernel")
        self.epsilon = float(epsilon)
        self.log_epsilon = float(np.log(epsilon)) if epsilon > 0 else -np.inf
        self.rows: Rows | None = None
        self.diverse_ = np.empty(0, dtype=np.int64)
        self.diverse_size_ = 0
        self.log_det_ = self.log_likelihood_ = float("nan")
        self._log_symmetric = np.zeros(1)
        if kernel is not None:
            self._from_kernel(np.asarray(kernel))
            return
        assert rows is not None
        self.rows = as_rows(rows)
        self.n_, self.dim_ = self.rows.shape
        if self.n_ == 0:
            raise InputError("no rows to sample from")
        if self.dim_ == 0:
            raise InputError(f"the {self.n_} rows have no columns")
        with reproducible_blas(min(self.n_, self.dim_)):
            # The smaller of B Bᵀ and Bᵀ B has all eigenvalues that are not zero.
            if self.n_ <= self.dim_:
                matrix = np.concatenate(
                    [np.asarray(chunk, np.float64) for chunk in self.rows.chunks()])
                self._decompose(matrix @ matrix.T, wide=True)
            else:
                self._decompose(self._gram(), wide=False)

    def _from_kernel(self, kernel: np.ndarray) -> None:
        if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not len(kernel):
            raise InputError(f"a kernel is square, found shape {kernel.shape}")
        require_real(kernel.dtype)
        kernel = kernel.astype(np.float64)
        self.n_ = self.dim_ = len(kernel)
        scale = float(np.abs(kernel).max())
        if not np.allclose(kernel, kernel.T, rtol=0, atol=1e-10 * scale):
            raise InputError("the kernel is not symmetric")
        with reproducible_blas(self.n_):
            lowest = self._decompose((kernel + kernel.T) / 2, wide=True)
        if lowest < -1e-8 * scale:
            raise InputError(f"the kernel is not positive semidefinite (eigenvalue {lowest:.3g})")
        self._kernel = kernel

    def _gram(self) -> np.ndarray:
        """Bᵀ B, float64 (d, d)."""
        assert self.rows is not None
        gram = np.zeros((self.dim_, self.dim_))
        for product in map_blocks(self.rows, lambda block: block.T @ block, np.dtype(np.float64)):
            gram += product
        return gram

    def _decompose(self, matrix: np.ndarray, wide: bool) -> float:
        """Set eigenvalues and vectors; ``wide``: of B Bᵀ. Returns the lowest eigenvalue."""
        if not np.isfinite(matrix).all():
            raise InputError("rows hold NaN or infinite values")
        values, vectors = np.linalg.eigh(matrix)
        tolerance = max(float(values[-1]), 0.0) * 4 * len(values) * np.finfo(np.float64).eps
        kept = values > tolerance
        self.eigenvalues_ = values[kept]
        self._vectors = vectors[:, kept]
        self.rank_ = int(kept.sum())
        self._log_values = np.log(self.eigenvalues_)
        self._wide = wide
        return float(values[0])

    def _log_weights(self, k: int) -> np.ndarray:
        """Log of e_m(λ) ε^{k−m} C(n−m, k−m) for m = 0 … min(k, rank)."""
        if not (isinstance(k, (int, np.integer)) and 1 <= k <= self.n_):
            raise InputError(f"cannot draw {k} of {self.n_} rows", allowed=f"1 to {self.n_}")
        largest = min(int(k), self.rank_)
        if len(self._log_symmetric) <= largest:
            self._log_symmetric = log_symmetric(self._log_values, largest)
        sizes = np.arange(largest + 1)
        powers = np.zeros(largest + 1)
        # With ε = 0 the logarithm is −∞, and 0 · −∞ would be NaN: ε⁰ stays 1.
        np.multiply(k - sizes, self.log_epsilon, out=powers, where=sizes < k)
        weights = self._log_symmetric[:largest + 1] + powers + _log_choose(self.n_, int(k), largest)
        if not np.isfinite(weights).any():
            raise InputError(f"cannot draw {k} rows of rank {self.rank_} with epsilon 0",
                             allowed=f"at most {self.rank_} rows, or a positive epsilon")
        return weights

    def log_normalizer(self, k: int) -> float:
        """Log of Σ det(L_S) over all sets S of k rows.

        Raises
        ------
        InputError
            For a k that cannot be drawn.
        """
        return float(np.logaddexp.reduce(self._log_weights(k)))

    def diverse_probabilities(self, k: int) -> np.ndarray:
        """Distribution of the size m of the diverse part of a sample of k rows.

        Returns
        -------
        ndarray of float64, shape (min(k, rank) + 1,)
            P(m) for m = 0 … min(k, rank).

        Raises
        ------
        InputError
            For a k that cannot be drawn.
        """
        weights = self._log_weights(k)
        return np.exp(weights - np.logaddexp.reduce(weights))

    def expected_diverse(self, k: int) -> float:
        """Mean of ``diverse_probabilities``: the expected size of the diverse part."""
        probabilities = self.diverse_probabilities(k)
        return float(np.arange(len(probabilities)) @ probabilities)

    def sample(
        self, k: int, random_state: int | np.random.Generator | None = None,
    ) -> np.ndarray:
        """Draw k rows.

        Parameters
        ----------
        k
            Number of rows, 1 to n (with ε = 0: to the rank of B).
        random_state
            A generator, or a seed: the same seed and rows give the same sample. None: a sample
            that cannot be reproduced.

        Returns
        -------
        ndarray of int64, shape (k,)
            Row numbers, ascending. The attributes of the last sample are set.

        Raises
        ------
        InputError
            For a k that cannot be drawn.
        """
        generator = np.random.default_rng(random_state)
        probabilities = self.diverse_probabilities(k)
        cumulative = np.cumsum(probabilities)
        size = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
        size = min(size, len(probabilities) - 1)
        with reproducible_blas(min(self.n_, self.dim_)):
            diverse = np.sort(self._sample_diverse(size, generator))
            rest = generator.choice(self.n_ - size, int(k) - size, replace=False)
            # From positions among the rows that are left to row numbers.
            rest = rest + np.searchsorted(diverse - np.arange(size), rest, side="right")
            chosen = np.sort(np.concatenate([diverse, rest])).astype(np.int64)
            self.diverse_, self.diverse_size_ = diverse, size
            self.log_det_ = self.log_det(chosen)
        self.log_likelihood_ = self.log_det_ - self.log_normalizer(int(k))
        return chosen

    def _sample_diverse(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """The diverse part T: ``size`` rows from the m-DPP of B Bᵀ."""
        if size == 0:
            return np.empty(0, dtype=np.int64)
        chosen = choose_values(self._log_values, size, rng)
        if self._wide:
            basis = self._vectors[:, chosen]
            leverage = np.einsum("ij,ij->i", basis, basis)
            return sample_projection(leverage, basis.__getitem__, np.eye(size), rng)
        rows = self.rows
        assert rows is not None
        mapping = self._vectors[:, chosen] / np.sqrt(self.eigenvalues_[chosen])
        bounds = leverage_bounds(rows, mapping, float(self.eigenvalues_.sum()))
        return sample_projection(
            bounds, lambda picks: np.asarray(rows.take(picks), np.float64), mapping, rng)

    def log_det(self, indices: np.ndarray) -> float:
        """Log det(L_S) of a set of rows.

        Parameters
        ----------
        indices
            Row numbers, 0 to n − 1.

        Returns
        -------
        float
            −∞ where the determinant is 0.

        Raises
        ------
        InputError
            For numbers that are not those of rows.
        """
        indices = self._row_numbers(indices)
        if self.rows is None:
            matrix = self._kernel[np.ix_(indices, indices)]
        else:
            matrix = self._small_product(indices)
        missing = len(indices) - len(matrix)
        precision = len(matrix) * np.finfo(np.float64).eps
        # Cholesky is faster, but fails where ε is lost in the rounding of the diagonal.
        if self.epsilon > precision * float(np.trace(matrix)):
            factor = np.linalg.cholesky(matrix + self.epsilon * np.eye(len(matrix)))
            total = 2.0 * float(np.log(np.diag(factor)).sum())
        else:
            values = np.linalg.eigvalsh(matrix)
            floor = precision * max(float(values[-1]), 0.0) if self.epsilon == 0 else 0.0
            with np.errstate(divide="ignore"):
                total = float(np.log(np.where(values > floor, values, 0.0) + self.epsilon).sum())
        return total + missing * self.log_epsilon if missing else total

    def _small_product(self, indices: np.ndarray) -> np.ndarray:
        """The smaller of B_S B_Sᵀ and B_Sᵀ B_S, which have the same eigenvalues but zeros."""
        assert self.rows is not None
        if len(indices) <= self.dim_:
            chosen = np.asarray(self.rows.take(indices), np.float64)
            return chosen @ chosen.T
        size = len(indices) if in_order_only(self.rows) else block_rows(self.dim_)
        gram = np.zeros((self.dim_, self.dim_))
        for start in range(0, len(indices), size):
            block = np.asarray(self.rows.take(indices[start:start + size]), np.float64)
            gram += block.T @ block
        return gram

    def log_likelihood(self, indices: np.ndarray) -> float:
        """Log P(S) of a set of rows among all sets of its size.

        Parameters
        ----------
        indices
            Row numbers, 0 to n − 1, each once.

        Raises
        ------
        InputError
            For numbers that are not those of rows, and for a row that is repeated.
        """
        indices = self._row_numbers(indices)
        if len(np.unique(indices)) != len(indices):
            raise InputError("a row is repeated", allowed="each row number once")
        return self.log_det(indices) - self.log_normalizer(len(indices))

    def _row_numbers(self, indices: np.ndarray) -> np.ndarray:
        numbers = np.asarray(indices)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise InputError(f"row numbers have shape {numbers.shape} and type {numbers.dtype}",
                             allowed="a list of whole numbers")
        outside = numbers[(numbers < 0) | (numbers >= self.n_)]
        if outside.size:
            raise InputError(f"there is no row {outside[0]}", allowed=f"0 to {self.n_ - 1}")
        return numbers.astype(np.int64)


def _log_choose(n: int, k: int, smaller: int) -> np.ndarray:
    """Log of C(n − m, k − m) for m = 0 … ``smaller``."""
    # Sums of logarithms: differences of log-gamma would lose eight digits at n = 10⁷.
    few = min(k, n - k)
    whole = np.log((n - few + np.arange(1.0, few + 1)) / np.arange(1.0, few + 1)).sum()
    below = np.arange(smaller, dtype=np.float64)
    return whole + np.concatenate([[0.0], np.cumsum(np.log((k - below) / (n - below)))])


# which eigenvectors: elementary symmetric polynomials ------------------------------------------
#
# e_m(λ) = Σ over subsets J of size m of Π_{j∈J} λ_j. Values reach e^±10000: only logarithms are
# kept.


def log_symmetric(log_values: np.ndarray, largest: int) -> np.ndarray:
    """Log of the elementary symmetric polynomials e_m for m = 0 … ``largest``.

    Parameters
    ----------
    log_values
        Shape (count,): logarithms of the values.
    largest
        The largest m.

    Returns
    -------
    ndarray of float64, shape (largest + 1,)
        −∞ for m above the number of values.
    """
    result = np.full(largest + 1, -np.inf)
    result[0] = 0.0
    for log_value in log_values:
        result[1:] = np.logaddexp(result[1:], log_value + result[:-1])
    return result


def choose_values(
    log_values: np.ndarray, size: int, rng: np.random.Generator,
) -> np.ndarray:
    """Draw a subset J of the values with probability proportional to Π_{j∈J} λ_j.

    The backward recursion of Kulesza and Taskar (2012, algorithm 8), on logarithms. Memory: a table
    of (values + 1) × (size + 1) numbers.

    Parameters
    ----------
    log_values
        Shape (count,): logarithms of the λ_j.
    size
        Number of values to draw, 0 to count.
    rng
        The generator.

    Returns
    -------
    ndarray of int64, shape (size,)
        Ascending positions.
    """
    count = len(log_values)
    if size == count:
        return np.arange(count)
    table = np.full((count + 1, size + 1), -np.inf)
    table[:, 0] = 0.0
    for number, log_value in enumerate(log_values, start=1):
        np.logaddexp(table[number - 1, 1:], log_value + table[number - 1, :-1],
                     out=table[number, 1:])
    uniform = np.log(rng.random(count))
    chosen: list[int] = []
    left = size
    for number in range(count, 0, -1):
        if left == 0:
            break
        log_probability = log_values[number - 1] + table[number - 1, left - 1] - table[number, left]
        # When as many values are left as are needed, all are taken: rounding must not skip one.
        if left == number or uniform[number - 1] < log_probability:
            chosen.append(number - 1)
            left -= 1
    return np.array(chosen[::-1], dtype=np.int64)
