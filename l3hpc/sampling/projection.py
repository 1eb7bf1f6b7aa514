"""Exact sampling of the projection DPP of an orthonormal basis: the chain rule with rejection.

Source: Barthelmé, Tremblay & Amblard (2023), "A faster sampler for discrete determinantal point
processes". A row i is proposed with probability ∝ ‖v_i‖² (its leverage) and accepted with
probability ‖part of v_i orthogonal to the rows chosen so far‖² / ‖v_i‖². About m·ln m proposals
give m rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from l3hpc.errors import L3hpcError

BLOCK_PROPOSALS = 128
TAKE_BYTES = 64 << 20
REFUSED_BLOCKS = 10_000


def sample_projection(
    bounds: np.ndarray, take: Callable[[np.ndarray], np.ndarray], size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """``size`` distinct row numbers of the projection DPP with kernel V Vᵀ, in order of choice.

    bounds: (n,) not below the leverage ‖v_i‖² of each row (equal to it, or a little above).
    take: row numbers → rows of V, (count, size) float64; V has orthonormal columns.
    Proposals are drawn all at once, so ``take`` is called once as a rule (one pass where rows can
    only be read in order), and again only when the proposals ran out or would fill the memory.
    """
    if size == 0:
        return np.empty(0, dtype=np.int64)
    cumulative = np.cumsum(bounds, dtype=np.float64)
    inflation = cumulative[-1] / size
    basis = np.empty((size, size))
    chosen: list[int] = []
    for _ in range(REFUSED_BLOCKS):
        left = size - len(chosen)
        expected = inflation * size * (np.log(left) + 1.0 / left + 0.5772)
        count = int(expected + 2.0 * inflation * size + 16)
        picks = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        picks = np.minimum(picks, len(bounds) - 1)
        accept = rng.random(count) * bounds[picks]
        at_once = max(BLOCK_PROPOSALS, TAKE_BYTES // (8 * size))
        for first in range(0, count, at_once):
            rows = take(picks[first:first + at_once])
            for start in range(0, len(rows), BLOCK_PROPOSALS):
                part = slice(first + start, min(first + start + BLOCK_PROPOSALS, first + at_once))
                block = rows[start:start + BLOCK_PROPOSALS]
                _accept_in_order(picks[part], block, accept[part], basis, chosen)
                if len(chosen) == size:
                    return np.array(chosen, dtype=np.int64)
    raise L3hpcError(f"only {len(chosen)} of {size} rows accepted: the basis is not orthonormal")


def _accept_in_order(
    picks: np.ndarray, rows: np.ndarray, accept: np.ndarray, basis: np.ndarray, chosen: list[int],
) -> None:
    """Go through one block of proposals; adds to ``chosen`` and fills the rows of ``basis``."""
    known = basis[:len(chosen)]
    left = np.einsum("ij,ij->i", rows, rows)  # squared length that the chosen rows do not span
    spanned = rows @ known.T
    left -= np.einsum("ij,ij->i", spanned, spanned)
    left[np.isin(picks, chosen)] = 0.0
    position = 0
    while position < len(picks):
        passed = accept[position:] < left[position:]
        if not passed.any():
            return
        position += int(np.argmax(passed))
        known = basis[:len(chosen)]
        direction = rows[position].copy()
        for _ in range(2):
            direction -= (known @ direction) @ known
        length = np.sqrt(direction @ direction)
        if length > 0:
            direction /= length
            basis[len(chosen)] = direction
            chosen.append(int(picks[position]))
            if len(chosen) == len(basis):
                return
            left[position:] -= (rows[position:] @ direction) ** 2
            left[picks == picks[position]] = 0.0
        position += 1
