"""Exact k-DPP sampling for kernels L = B Bᵀ + εI of low rank, without ever forming n × n numbers.

A k-DPP draws a set S of k rows with P(S) ∝ det(L_S) [1]_. Because
det(L_S) = Σ_{T⊆S} ε^{k−|T|} det((B Bᵀ)_T), the pair (T, S) is drawn instead: first the size m of
T, then T from the m-DPP of B Bᵀ, then the other k − m rows uniformly. T is the *diverse part*: the
rows that repel each other; the rest comes from the regulariser εI alone.

The m-DPP is drawn in two steps. m eigenvectors are chosen by the elementary symmetric polynomials
of the eigenvalues (``choose_values``). What they span is a projection DPP, whose rows are chosen
by the chain rule with rejection [2]_ (``sample_projection``): a row is proposed with probability
∝ its leverage score ‖v_i‖² (``leverage_bounds``).

Cost: one pass of n·d² operations in double precision for the Gram matrix BᵀB, one of n·(2d − m)·m
in single precision for the leverage scores; memory O(n + d²). Where n ≤ d, the n × n side is
decomposed instead.

The file reads from top to bottom, which is why it is long: the sampler, then the three steps.

References
----------
.. [1] A. Kulesza and B. Taskar, "Determinantal point processes for machine learning", Foundations
   and Trends in Machine Learning 5 (2012).
.. [2] S. Barthelmé, N. Tremblay and P.-O. Amblard, "A faster sampler for discrete determinantal
   point processes", AISTATS 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from l3hpc.arrays.features import FeatureRows, features
from l3hpc.arrays.passes import map_blocks, reproducible_blas
from l3hpc.arrays.rows import Rows, as_rows
from l3hpc.errors import InputError, L3hpcError

__all__ = ["KDPP", "FeatureRows", "features"]

UNIT_ROUNDOFF = 2.0 ** -24
WORTHWHILE = 0.1  # single precision if the error stays below this part of the scores' length
PANEL = 128  # columns that are multiplied at once
SAFE = (1e-20, 1e20)  # mean ‖b‖² whose squares neither vanish nor overflow in single precision
BLOCK_PROPOSALS = 128
TAKE_BYTES = 64 << 20
TURN = 32  # fewer dimensions are not worth turning
REFUSED_BLOCKS = 10_000


class KDPP:
    """The k-DPP of L = B Bᵀ + εI over the rows of B. Decomposed once, sampled any number of times.

    Parameters
    ----------
    rows
        B, shape (n, d): an array, an HDF5 dataset, any ``Rows`` (``FeatureRows`` for embeddings
        with quality and norm), or a function that starts a pass over blocks of rows.
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
        For NaN or infinite values, a negative ε, or a k that cannot be drawn.

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
        with reproducible_blas(min(self.n_, self.dim_)):
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
        with reproducible_blas(self.n_):
            lowest = self._decompose((kernel + kernel.T) / 2, wide=True)
        if lowest < -1e-8 * scale:
            raise InputError(f"the kernel is not positive semidefinite (eigenvalue {lowest:.3g})")
        self._kernel = kernel

    def _gram(self) -> np.ndarray:
        assert self.rows is not None
        gram = np.zeros((self.dim_, self.dim_))
        for product in map_blocks(self.rows, lambda block: block.T @ block, np.dtype(np.float64)):
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
        """Log of Σ det(L_S) over all sets S of k rows."""
        return float(np.logaddexp.reduce(self._log_weights(k)))

    def diverse_probabilities(self, k: int) -> np.ndarray:
        """P(the diverse part has m rows) for m = 0 … min(k, rank): float64, (min(k, rank) + 1,)."""
        weights = self._log_weights(k)
        return np.exp(weights - np.logaddexp.reduce(weights))

    def expected_diverse(self, k: int) -> float:
        """Expected size of the diverse part of a sample of k rows."""
        probabilities = self.diverse_probabilities(k)
        return float(np.arange(len(probabilities)) @ probabilities)

    def sample(
        self, k: int, random_state: int | np.random.Generator | None = None,
    ) -> np.ndarray:
        """Draw k rows.

        Parameters
        ----------
        k
            How many, 1 to n (with ε = 0: to the rank of B).
        random_state
            A generator, or a seed: the same seed and rows give the same sample. None: a sample
            that cannot be repeated.

        Returns
        -------
        ndarray of int64, shape (k,)
            Row numbers, ascending. The attributes of the last sample are set.
        """
        generator = np.random.default_rng(random_state)
        probabilities = self.diverse_probabilities(k)
        cumulative = np.cumsum(probabilities)
        size = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
        size = min(size, len(probabilities) - 1)
        with reproducible_blas(min(self.n_, self.dim_)):
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
        """Log det(L_S) of the rows ``indices`` (−∞ where the determinant is 0)."""
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
        """Log P(S) of a set of distinct rows among all sets of its size."""
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


# which eigenvectors: elementary symmetric polynomials ------------------------------------------
#
# e_m(λ) = Σ over subsets J of size m of Π_{j∈J} λ_j. Values reach e^±10000: only logarithms are
# kept.


def log_symmetric(log_values: np.ndarray, largest: int) -> np.ndarray:
    """log e_m for m = 0 … ``largest`` of the values whose logarithms are given, (largest + 1,)."""
    result = np.full(largest + 1, -np.inf)
    result[0] = 0.0
    for log_value in log_values:
        result[1:] = np.logaddexp(result[1:], log_value + result[:-1])
    return result


def choose_values(
    log_values: np.ndarray, size: int, rng: np.random.Generator,
) -> np.ndarray:
    """Draw a subset J of ``size`` of the values with probability ∝ Π_{j∈J} λ_j; sorted positions.

    The backward recursion of Kulesza & Taskar (2012, algorithm 8), on logarithms. Memory: a table
    of (values + 1) × (size + 1) numbers.
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
        if left == number or uniform[number - 1] < log_probability:
            chosen.append(number - 1)
            left -= 1
    return np.array(chosen[::-1], dtype=np.int64)


# how likely each row is to be proposed: leverage scores -----------------------------------------
#
# The sampler needs an upper bound that is close, because a proposed row is judged again in double
# precision. So the pass may run in single precision, at twice the speed: a bound on the rounding
# error of each score is added to it, and where that is large, double precision is used.


def leverage_bounds(rows: Rows, mapping: np.ndarray, trace: float) -> np.ndarray:
    """(n,) float64, not below ‖b_i · mapping‖² of any row b_i, and little above it.

    mapping: (d, m) with orthonormal B · mapping; trace: the sum of ‖b_i‖².
    """
    n, m = rows.shape[0], mapping.shape[1]
    per_length = error_per_length(mapping)
    small = per_length * np.sqrt(trace) <= WORTHWHILE * np.sqrt(m)
    if small and SAFE[0] < trace / n < SAFE[1]:
        return _leverage_pass(rows, mapping, np.dtype(np.float32), per_length)
    return _leverage_pass(rows, mapping, np.dtype(np.float64), 0.0)


def error_per_length(mapping: np.ndarray) -> float:
    """c with ‖(b · mapping in single precision) − b · mapping‖ ≤ c ‖b‖ for every row b.

    The standard bound for sums of d products, (d + 2) u ‖b‖ ‖column‖ with unit roundoff u; u for
    each rounding of features (two) and mapping; a tenth more for terms of second order.
    """
    return 1.1 * (len(mapping) + 5) * UNIT_ROUNDOFF * float(np.linalg.norm(mapping))


def _leverage_pass(
    rows: Rows, mapping: np.ndarray, kind: np.dtype, per_length: float,
) -> np.ndarray:
    d, m = mapping.shape
    # Rounding of the row's own scale (a sum of d terms) and of the sum of m squares.
    relative = 1.0 + (d + m + 10) * UNIT_ROUNDOFF
    panels = _panels(mapping if rows.shape[0] <= 16 * d else _lower(mapping), kind)

    def lengths(block: np.ndarray) -> np.ndarray:
        squares = np.zeros(len(block), kind)
        for first, weights in panels:
            projected = block[:, first:] @ weights
            squares += np.einsum("ij,ij->i", projected, projected)
        found = np.sqrt(squares.astype(np.float64))
        if per_length:
            own = np.einsum("ij,ij->i", block, block).astype(np.float64)
            found = relative * (found + relative * per_length * np.sqrt(own))
        return found

    result = np.empty(rows.shape[0])
    start = 0
    for found in map_blocks(rows, lengths, kind):
        result[start:start + len(found)] = found ** 2
        start += len(found)
    return result


def _lower(mapping: np.ndarray) -> np.ndarray:
    """``mapping`` turned so that nothing is above its diagonal; ‖b · mapping‖ stays the same."""
    return np.asarray(np.linalg.qr(mapping.T, mode="r")).T


def _panels(mapping: np.ndarray, kind: np.dtype) -> list[tuple[int, np.ndarray]]:
    """Groups of columns: (first row that is not all zero, the columns from that row on)."""
    found = []
    for column in range(0, mapping.shape[1], PANEL):
        columns = mapping[:, column:column + PANEL]
        first = int(np.argmax(columns.any(axis=1)))
        found.append((first, np.ascontiguousarray(columns[first:], kind)))
    return found


# which rows: the projection DPP, by the chain rule with rejection ---------------------------------
#
# A proposed row i is accepted with probability ‖part of v_i orthogonal to the rows chosen so far‖²
# / ‖v_i‖². About m·ln m proposals give m rows. Most of them come when few rows are missing; so,
# whenever half of the dimensions are spanned, the basis is turned and only the other half is
# multiplied from then on.


def sample_projection(
    bounds: np.ndarray, take: Callable[[np.ndarray], np.ndarray], mapping: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """m distinct row numbers of the projection DPP with kernel V Vᵀ, in order of choice.

    bounds: (n,) not below the leverage ‖v_i‖² of each row (equal to it, or a little above).
    take: row numbers → rows of B, (count, d) float64. mapping: (d, m); V = B · mapping has
    orthonormal columns.
    Proposals are drawn all at once, so ``take`` is called once as a rule (one pass where rows can
    only be read in order), and again only when the proposals ran out or would fill the memory.
    """
    d, size = mapping.shape
    cumulative = np.cumsum(bounds, dtype=np.float64)
    inflation = cumulative[-1] / max(size, 1)
    chain = _Chain(mapping)
    at_once = max(BLOCK_PROPOSALS, TAKE_BYTES // (8 * d))
    for _ in range(REFUSED_BLOCKS):
        left = size - len(chain.chosen)
        if left == 0:
            return np.array(chain.chosen, dtype=np.int64)
        expected = inflation * size * (np.log(left) + 1.0 / left + 0.5772)
        count = int(expected + 2.0 * inflation * size + 16)
        picks = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        picks = np.minimum(picks, len(bounds) - 1)
        accept = rng.random(count) * bounds[picks]
        for first in range(0, count, at_once):
            rows = take(picks[first:first + at_once])
            for start in range(0, len(rows), BLOCK_PROPOSALS):
                part = slice(first + start, min(first + start + BLOCK_PROPOSALS, first + at_once))
                chain.go_through(picks[part], rows[start:start + BLOCK_PROPOSALS], accept[part])
                if len(chain.chosen) == size:
                    return np.array(chain.chosen, dtype=np.int64)
    raise L3hpcError(
        f"only {len(chain.chosen)} of {size} rows accepted: the basis is not orthonormal")


class _Chain:
    """The rows chosen so far, and what they span of the basis as it is turned now."""

    def __init__(self, mapping: np.ndarray) -> None:
        self.chosen: list[int] = []
        self.mapping = mapping
        self.known = np.empty((mapping.shape[1], mapping.shape[1]))
        self.spanned = 0

    def go_through(self, picks: np.ndarray, rows: np.ndarray, accept: np.ndarray) -> None:
        """One block of proposals in order; a row is chosen where ``accept`` < what is left of it.

        rows: (count, d), rows of B.
        """
        known = self.known[:self.spanned]
        rows = rows @ self.mapping
        shares = rows @ known.T
        left = np.einsum("ij,ij->i", rows, rows) - np.einsum("ij,ij->i", shares, shares)
        left[np.isin(picks, self.chosen)] = 0.0
        hopeful = np.flatnonzero(accept < left)  # what is left of a row only becomes less
        if not len(hopeful):
            return
        residual = rows[hopeful] - shares[hopeful] @ known
        residual -= (residual @ known.T) @ known
        taken = _pivots(picks[hopeful], residual @ residual.T, accept[hopeful],
                        len(self.known) - self.spanned)
        if taken:
            after = self.spanned + len(taken)
            self.known[self.spanned:after] = np.linalg.qr(residual[taken].T)[0].T
            self.spanned = after
            self.chosen.extend(int(row) for row in picks[hopeful[taken]])
            if len(self.known) > TURN and len(self.known) <= 2 * after < 2 * len(self.known):
                self._turn()

    def _turn(self) -> None:
        """Keep only the dimensions that the chosen rows leave free."""
        whole, _ = np.linalg.qr(self.known[:self.spanned].T, mode="complete")
        self.mapping = self.mapping @ whole[:, self.spanned:]
        self.known = np.empty((self.mapping.shape[1], self.mapping.shape[1]))
        self.spanned = 0


def _pivots(picks: np.ndarray, gram: np.ndarray, accept: np.ndarray, most: int) -> list[int]:
    """Positions that are accepted one after another: a Cholesky factor of ``gram`` that grows."""
    left = np.diag(gram).copy()
    factor = np.empty((len(gram), min(most, len(gram))))
    taken: list[int] = []
    for place in range(len(gram)):
        if accept[place] >= left[place]:
            continue
        size = len(taken)
        column = (gram[:, place] - factor[:, :size] @ factor[place, :size]) / np.sqrt(left[place])
        factor[:, size] = column
        taken.append(place)
        if len(taken) == most:
            break
        left -= column ** 2
        left[picks == picks[place]] = 0.0
    return taken
