"""Leverage scores of all rows, in one pass: how likely each row is to be proposed.

The sampler only needs an upper bound that is close, because a proposed row is judged again in
double precision. So the pass may run in single precision, at twice the speed: a bound on the
rounding error of each score is added to it, and where that is large, double precision is used.
"""

from __future__ import annotations

import numpy as np

from l3hpc.arrays.passes import over_blocks
from l3hpc.arrays.rows import Rows

UNIT_ROUNDOFF = 2.0 ** -24
WORTHWHILE = 0.1  # single precision if the error stays below this part of the scores' length
PANEL = 128  # columns that are multiplied at once
SAFE = (1e-20, 1e20)  # mean ‖b‖² whose squares neither vanish nor overflow in single precision


def leverage_bounds(rows: Rows, mapping: np.ndarray, trace: float) -> np.ndarray:
    """(n,) float64, not below ‖b_i · mapping‖² of any row b_i, and little above it.

    mapping: (d, m) with orthonormal B · mapping; trace: the sum of ‖b_i‖².
    """
    n, m = rows.shape[0], mapping.shape[1]
    per_length = error_per_length(mapping)
    small = per_length * np.sqrt(trace) <= WORTHWHILE * np.sqrt(m)
    if small and SAFE[0] < trace / n < SAFE[1]:
        return _pass(rows, mapping, np.dtype(np.float32), per_length)
    return _pass(rows, mapping, np.dtype(np.float64), 0.0)


def error_per_length(mapping: np.ndarray) -> float:
    """c with ‖(b · mapping in single precision) − b · mapping‖ ≤ c ‖b‖ for every row b.

    The standard bound for sums of d products, (d + 2) u ‖b‖ ‖column‖ with unit roundoff u; u for
    each rounding of features (two) and mapping; a tenth more for terms of second order.
    """
    return 1.1 * (len(mapping) + 5) * UNIT_ROUNDOFF * float(np.linalg.norm(mapping))


def _pass(rows: Rows, mapping: np.ndarray, kind: np.dtype, per_length: float) -> np.ndarray:
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
    for found in over_blocks(rows, lengths, kind):
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
