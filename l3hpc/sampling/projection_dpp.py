"""Samples of a projection DPP: the rows that repel each other, one after another.

The chain rule with rejection [1]_: a row i is proposed with probability proportional to its
leverage score ‖v_i‖², and accepted with probability ‖part of v_i orthogonal to the rows chosen so
far‖² / ‖v_i‖². ``leverage_bounds`` computes these scores in one pass. About m·ln m proposals give
m rows. Most of them come when few rows are missing; so, whenever half of the dimensions are
spanned, the basis is rotated and only the other half is multiplied from then on.

References
----------
.. [1] S. Barthelmé, N. Tremblay and P.-O. Amblard, "A faster sampler for discrete determinantal
   point processes", AISTATS 2023.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from l3hpc.arrays.passes import map_blocks
from l3hpc.arrays.rows import Rows
from l3hpc.errors import L3hpcError

BLOCK_PROPOSALS = 128
TAKE_BYTES = 64 << 20  # memory of the proposed rows that are read at once
MIN_ROTATED = 32  # with fewer dimensions, a rotation costs more than it saves
# only a basis that is not orthonormal, of which no further row is accepted, comes this far
MAX_ROUNDS = 10_000
UNIT_ROUNDOFF = 2.0 ** -24
MAX_ERROR = 0.1  # of the scores' length, up to which single precision is used
SAFE_SCALES = (1e-20, 1e20)  # mean ‖b‖² whose squares neither vanish nor overflow in float32
PANEL_COLUMNS = 128  # multiplied at once


def sample_projection(
    bounds: np.ndarray, take: Callable[[np.ndarray], np.ndarray], mapping: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw m rows of the projection DPP with kernel V Vᵀ, where V = B · mapping.

    Parameters
    ----------
    bounds
        Shape (n,): not below the leverage score ‖v_i‖² of each row, and little above it.
    take
        Row numbers → rows of B, float64 (count, d).
    mapping
        Shape (d, m), so that the columns of V are orthonormal.
    rng
        The generator.

    Returns
    -------
    ndarray of int64, shape (m,)
        Distinct row numbers, in the order in which they were chosen.

    Raises
    ------
    L3hpcError
        Where V is not orthonormal, so that too few rows are accepted.
    """
    d, size = mapping.shape
    cumulative = np.cumsum(bounds, dtype=np.float64)
    # Exact leverage scores add up to m. Bounds add up to more, and as many more proposals are
    # rejected.
    inflation = cumulative[-1] / max(size, 1)
    chain = _Chain(mapping)
    at_once = max(BLOCK_PROPOSALS, TAKE_BYTES // (8 * d))
    # All proposals are drawn at once: rows that can only be read in order then take one pass.
    # Another round comes only where the proposals ran out.
    for _ in range(MAX_ROUNDS):
        left = size - len(chain.chosen)
        if left == 0:
            return np.array(chain.chosen, dtype=np.int64)
        # The harmonic number of ``left``, by Euler's constant, and a margin of two per row.
        expected = inflation * size * (np.log(left) + 1.0 / left + 0.5772)
        count = int(expected + 2.0 * inflation * size + 16)
        picks = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        # Rounding may put the product at the very end of the last interval.
        picks = np.minimum(picks, len(bounds) - 1)
        accept = rng.random(count) * bounds[picks]
        for first in range(0, count, at_once):
            rows = take(picks[first:first + at_once])
            for start in range(0, len(rows), BLOCK_PROPOSALS):
                part = slice(first + start, min(first + start + BLOCK_PROPOSALS, first + at_once))
                chain.process(picks[part], rows[start:start + BLOCK_PROPOSALS], accept[part])
                if len(chain.chosen) == size:
                    return np.array(chain.chosen, dtype=np.int64)
    raise L3hpcError(
        f"only {len(chain.chosen)} of {size} rows accepted: the basis is not orthonormal")


class _Chain:
    """The rows chosen so far, and an orthonormal basis of what they span."""

    def __init__(self, mapping: np.ndarray) -> None:
        self.chosen: list[int] = []
        self.mapping = mapping
        self.basis = np.empty((mapping.shape[1], mapping.shape[1]))
        self.spanned = 0

    def process(self, picks: np.ndarray, rows: np.ndarray, accept: np.ndarray) -> None:
        """Accept or reject one block of proposals, in order.

        A row (of ``rows``, (count, d)) is chosen where ``accept`` is below ‖its part orthogonal to
        the rows chosen so far‖².
        """
        basis = self.basis[:self.spanned]
        rows = rows @ self.mapping
        shares = rows @ basis.T
        left = np.einsum("ij,ij->i", rows, rows) - np.einsum("ij,ij->i", shares, shares)
        # The orthogonal part of a chosen row is zero only up to rounding, and a row must not come
        # twice.
        left[np.isin(picks, self.chosen)] = 0.0
        # The orthogonal part only shrinks as rows are chosen: the others stay rejected.
        candidates = np.flatnonzero(accept < left)
        if not len(candidates):
            return
        residual = rows[candidates] - shares[candidates] @ basis
        # Twice is enough to be orthogonal to rounding error.
        residual -= (residual @ basis.T) @ basis
        taken = _pivots(picks[candidates], residual @ residual.T, accept[candidates],
                        len(self.basis) - self.spanned)
        if taken:
            after = self.spanned + len(taken)
            self.basis[self.spanned:after] = np.linalg.qr(residual[taken].T)[0].T
            self.spanned = after
            self.chosen.extend(int(row) for row in picks[candidates[taken]])
            if len(self.basis) > MIN_ROTATED and len(self.basis) <= 2 * after < 2 * len(self.basis):
                self._rotate()

    def _rotate(self) -> None:
        """Rotate the basis, and keep only the dimensions orthogonal to the chosen rows."""
        whole, _ = np.linalg.qr(self.basis[:self.spanned].T, mode="complete")
        self.mapping = self.mapping @ whole[:, self.spanned:]
        self.basis = np.empty((self.mapping.shape[1], self.mapping.shape[1]))
        self.spanned = 0


def _pivots(picks: np.ndarray, gram: np.ndarray, accept: np.ndarray, most: int) -> list[int]:
    """Positions accepted one after another, by a Cholesky factor of ``gram`` that grows."""
    left = np.diag(gram).copy()
    factor = np.empty((len(gram), min(most, len(gram))))
    taken: list[int] = []
    for position in range(len(gram)):
        if accept[position] >= left[position]:
            continue
        size = len(taken)
        column = gram[:, position] - factor[:, :size] @ factor[position, :size]
        factor[:, size] = column / np.sqrt(left[position])
        taken.append(position)
        if len(taken) == most:
            break
        left -= factor[:, size] ** 2
        # A row may be proposed more than once, but chosen only once.
        left[picks == picks[position]] = 0.0
    return taken


# how likely each row is to be proposed: leverage scores -----------------------------------------
#
# The sampler needs a close upper bound only, because a proposed row is tested again in double
# precision. So the pass can run in single precision, at twice the speed: a bound on the rounding
# error of each score is added to it, and where that is large, double precision is used.


def leverage_bounds(rows: Rows, mapping: np.ndarray, trace: float) -> np.ndarray:
    """Close upper bounds of the leverage scores ‖b_i · mapping‖² of all rows b_i.

    Parameters
    ----------
    rows
        B, shape (n, d).
    mapping
        Shape (d, m), with orthonormal B · mapping.
    trace
        The sum of ‖b_i‖².

    Returns
    -------
    ndarray of float64, shape (n,)
        The bounds.
    """
    n, m = rows.shape[0], mapping.shape[1]
    per_length = error_per_length(mapping)
    small = per_length * np.sqrt(trace) <= MAX_ERROR * np.sqrt(m)
    if small and SAFE_SCALES[0] < trace / n < SAFE_SCALES[1]:
        return _leverage_pass(rows, mapping, np.dtype(np.float32), per_length)
    return _leverage_pass(rows, mapping, np.dtype(np.float64), 0.0)


def error_per_length(mapping: np.ndarray) -> float:
    """The c with ‖(b · mapping in single precision) − b · mapping‖ ≤ c ‖b‖ for every row b.

    Parameters
    ----------
    mapping
        Shape (d, m).
    """
    # The standard bound for sums of d products, (d + 2) u ‖b‖ ‖column‖ with unit roundoff u; u for
    # each rounding of features (two) and mapping; a tenth more for terms of second order.
    return 1.1 * (len(mapping) + 5) * UNIT_ROUNDOFF * float(np.linalg.norm(mapping))


def _leverage_pass(
    rows: Rows, mapping: np.ndarray, dtype: np.dtype, per_length: float,
) -> np.ndarray:
    """Squared lengths of all rows times ``mapping``, with the error bound, in ``dtype``."""
    d, m = mapping.shape
    # Rounding of the row's own scale (a sum of d terms) and of the sum of m squares.
    relative = 1.0 + (d + m + 10) * UNIT_ROUNDOFF
    # A triangular mapping saves up to half of the products, but costs a QR decomposition.
    panels = _panels(mapping if rows.shape[0] <= 16 * d else _triangular(mapping), dtype)

    def lengths(block: np.ndarray) -> np.ndarray:
        squares = np.zeros(len(block), dtype)
        for first, weights in panels:
            projected = block[:, first:] @ weights
            squares += np.einsum("ij,ij->i", projected, projected)
        result = np.sqrt(squares.astype(np.float64))
        if per_length:
            norms = np.einsum("ij,ij->i", block, block).astype(np.float64)
            result = relative * (result + relative * per_length * np.sqrt(norms))
        return result

    result = np.empty(rows.shape[0])
    start = 0
    for lengths_of_block in map_blocks(rows, lengths, dtype):
        result[start:start + len(lengths_of_block)] = lengths_of_block ** 2
        start += len(lengths_of_block)
    return result


def _triangular(mapping: np.ndarray) -> np.ndarray:
    """``mapping`` rotated to be lower triangular; ‖b · mapping‖ stays the same."""
    return np.asarray(np.linalg.qr(mapping.T, mode="r")).T


def _panels(mapping: np.ndarray, dtype: np.dtype) -> list[tuple[int, np.ndarray]]:
    """Groups of columns: (first row that is not all zero, the columns from that row on)."""
    panels = []
    for column in range(0, mapping.shape[1], PANEL_COLUMNS):
        columns = mapping[:, column:column + PANEL_COLUMNS]
        first = int(np.argmax(columns.any(axis=1)))
        panels.append((first, np.ascontiguousarray(columns[first:], dtype)))
    return panels
