"""Exact k-DPP sampling for kernels L = B Bᵀ + εI of low rank, without ever forming n × n numbers.

A k-DPP draws a set S of k rows with P(S) ∝ det(L_S) (Kulesza & Taskar 2012). Because
det(L_S) = Σ_{T⊆S} ε^{k−|T|} det((B Bᵀ)_T), the pair (T, S) is drawn instead: first the size m of
T, then T from the m-DPP of B Bᵀ, then the other k − m rows uniformly. T is the *diverse part*: the
rows that repel each other; the rest comes from the regulariser εI alone.

Cost: one pass of n·d² operations in double precision for the Gram matrix BᵀB, one of n·(2d − m)·m
in single precision for the leverage scores; memory O(n + d²). Where n ≤ d, the n × n side is
decomposed instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from l3hpc.arrays.features import FeatureRows, features
from l3hpc.arrays.passes import over_blocks, steady_blas
from l3hpc.arrays.rows import Rows, as_rows
from l3hpc.errors import InputError
from l3hpc.sampling.leverage import leverage_bounds
from l3hpc.sampling.projection import sample_projection
from l3hpc.sampling.symmetric import choose_values, log_symmetric

__all__ = ["KDPP", "FeatureRows", "features"]


class KDPP:
    """The k-DPP of L = B Bᵀ + εI over the rows of B. Decomposed once, sampled any number of times.

    Parameters
    ----------
    rows: B, (n, d): an array, an HDF5 dataset, any ``Rows`` (``FeatureRows`` for embeddings with
        quality and norm), or a function that starts a pass over blocks of rows.
    epsilon: the regulariser ε ≥ 0. With 0, no more rows than the rank of B can be drawn.
    kernel: instead of ``rows``, a symmetric positive semidefinite matrix K (n, n) with L = K + εI.

    Attributes
    ----------
    n_, dim_: rows and columns of B; rank_: numerical rank of B.
    eigenvalues_: the rank_ non-zero eigenvalues of B Bᵀ, ascending.
    diverse_: row numbers of the diverse part T of the last sample; diverse_size_: how many.
    log_det_, log_likelihood_: log det(L_S) and log P(S) of the last sample.

    Raises ``InputError`` for NaN or infinite values, a negative ε, or a k that cannot be drawn.
    """

    def __init__(
        self, rows: Any = None, epsilon: float = 0.001, *, kernel: np.ndarray | None = None,
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
        self._symmetric = np.zeros(1)
        if kernel is not None:
            self._from_kernel(np.asarray(kernel, dtype=np.float64))
            return
        self.rows = as_rows(rows)
        self.n_, self.dim_ = self.rows.shape
        if self.n_ == 0:
            raise InputError("no rows to sample from")
        with steady_blas(min(self.n_, self.dim_)):
            if self.n_ <= self.dim_:
                matrix = np.concatenate(
                    [np.asarray(chunk, np.float64) for chunk in self.rows.chunks()])
                self._decompose(matrix @ matrix.T, wide=True)
            else:
                self._decompose(self._gram(), wide=False)

    def _from_kernel(self, kernel: np.ndarray) -> None:
        if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not len(kernel):
            raise InputError(f"a kernel is square, found shape {kernel.shape}")
        self.n_ = self.dim_ = len(kernel)
        scale = float(np.abs(kernel).max())
        if not np.allclose(kernel, kernel.T, rtol=0, atol=1e-10 * scale):
            raise InputError("the kernel is not symmetric")
        with steady_blas(self.n_):
            lowest = self._decompose((kernel + kernel.T) / 2, wide=True)
        if lowest < -1e-8 * scale:
            raise InputError(f"the kernel is not positive semidefinite (eigenvalue {lowest:.3g})")
        self._kernel = kernel

    def _gram(self) -> np.ndarray:
        assert self.rows is not None
        gram = np.zeros((self.dim_, self.dim_))
        for product in over_blocks(self.rows, lambda block: block.T @ block, np.dtype(np.float64)):
            gram += product
        return gram

    def _decompose(self, matrix: np.ndarray, wide: bool) -> float:
        """Eigenvalues and vectors of the smaller side; returns the lowest eigenvalue."""
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
        """log of e_m(λ) ε^{k−m} C(n−m, k−m) for m = 0 … min(k, rank)."""
        if not (isinstance(k, (int, np.integer)) and 1 <= k <= self.n_):
            raise InputError(f"cannot draw {k} of {self.n_} rows", allowed=f"1 to {self.n_}")
        largest = min(int(k), self.rank_)
        if len(self._symmetric) <= largest:
            self._symmetric = log_symmetric(self._log_values, largest)
        sizes = np.arange(largest + 1)
        powers = np.zeros(largest + 1)
        np.multiply(k - sizes, self.log_epsilon, out=powers, where=sizes < k)
        weights = self._symmetric[:largest + 1] + powers + _log_choose(self.n_, int(k), largest)
        if not np.isfinite(weights).any():
            raise InputError(f"cannot draw {k} rows of rank {self.rank_} with epsilon 0",
                             allowed=f"at most {self.rank_} rows, or a positive epsilon")
        return weights

    def log_normalizer(self, k: int) -> float:
        """log of Σ det(L_S) over all sets S of k rows."""
        return float(np.logaddexp.reduce(self._log_weights(k)))

    def diverse_probabilities(self, k: int) -> np.ndarray:
        """P(the diverse part has m rows) for m = 0 … min(k, rank)."""
        weights = self._log_weights(k)
        return np.exp(weights - np.logaddexp.reduce(weights))

    def expected_diverse(self, k: int) -> float:
        """Expected size of the diverse part of a sample of k rows."""
        probabilities = self.diverse_probabilities(k)
        return float(np.arange(len(probabilities)) @ probabilities)

    def sample(self, k: int, rng: np.random.Generator | int) -> np.ndarray:
        """Draw k rows: sorted row numbers, (k,) int64. Sets the attributes of the last sample."""
        generator = np.random.default_rng(rng)
        probabilities = self.diverse_probabilities(k)
        cumulative = np.cumsum(probabilities)
        size = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
        size = min(size, len(probabilities) - 1)
        with steady_blas(min(self.n_, self.dim_)):
            diverse = np.sort(self._sample_diverse(size, generator))
            rest = generator.choice(self.n_ - size, int(k) - size, replace=False)
            rest = rest + np.searchsorted(diverse - np.arange(size), rest, side="right")
            chosen = np.sort(np.concatenate([diverse, rest])).astype(np.int64)
            self.diverse_, self.diverse_size_ = diverse, size
            self.log_det_ = self.log_det(chosen)
        self.log_likelihood_ = self.log_det_ - self.log_normalizer(int(k))
        return chosen

    def _sample_diverse(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """T of ``size`` rows from the m-DPP of B Bᵀ."""
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
        """log det(L_S) of the rows ``indices`` (−∞ where the determinant is 0)."""
        indices = np.asarray(indices, dtype=np.int64)
        if self.rows is None:
            matrix = self._kernel[np.ix_(indices, indices)]
        else:
            chosen = np.asarray(self.rows.take(indices), np.float64)
            tall = len(chosen) > self.dim_
            matrix = chosen.T @ chosen if tall else chosen @ chosen.T
        missing = len(indices) - len(matrix)
        precision = len(matrix) * np.finfo(np.float64).eps
        if self.epsilon > precision * float(np.trace(matrix)):
            factor = np.linalg.cholesky(matrix + self.epsilon * np.eye(len(matrix)))
            total = 2.0 * float(np.log(np.diag(factor)).sum())
        else:
            values = np.linalg.eigvalsh(matrix)
            floor = precision * max(float(values[-1]), 0.0) if self.epsilon == 0 else 0.0
            with np.errstate(divide="ignore"):
                total = float(np.log(np.where(values > floor, values, 0.0) + self.epsilon).sum())
        return total + missing * self.log_epsilon if missing else total

    def log_likelihood(self, indices: np.ndarray) -> float:
        """log P(S) of a set of distinct rows among all sets of its size."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(np.unique(indices)) != len(indices):
            raise InputError("a set holds each row once")
        return self.log_det(indices) - self.log_normalizer(len(indices))


def _log_choose(n: int, k: int, smaller: int) -> np.ndarray:
    """log of C(n − m, k − m) for m = 0 … ``smaller``.

    Sums of logarithms: differences of log-gamma would lose eight digits at n = 10⁷.
    """
    few = min(k, n - k)
    whole = np.log((n - few + np.arange(1.0, few + 1)) / np.arange(1.0, few + 1)).sum()
    below = np.arange(smaller, dtype=np.float64)
    return whole + np.concatenate([[0.0], np.cumsum(np.log((k - below) / (n - below)))])
