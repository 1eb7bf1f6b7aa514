"""Elementary symmetric polynomials in log space, and the choice of eigenvectors that they give.

e_m(λ) = Σ over subsets J of size m of Π_{j∈J} λ_j. Values reach e^±10000: only logarithms are kept.
"""

from __future__ import annotations

import numpy as np


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
