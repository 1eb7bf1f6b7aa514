"""Exact sampling of the projection DPP of an orthonormal basis: the chain rule with rejection.

Source: Barthelmé, Tremblay & Amblard (2023), "A faster sampler for discrete determinantal point
processes". A row i is proposed with probability ∝ ‖v_i‖² (its leverage) and accepted with
probability ‖part of v_i orthogonal to the rows chosen so far‖² / ‖v_i‖². About m·ln m proposals
give m rows. Most of them come when few rows are missing; so, whenever half of the dimensions are
spanned, the basis is turned and only the other half is multiplied from then on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from l3hpc.errors import L3hpcError

BLOCK_PROPOSALS = 128
TAKE_BYTES = 64 << 20
TURN = 32  # fewer dimensions are not worth turning
REFUSED_BLOCKS = 10_000


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
