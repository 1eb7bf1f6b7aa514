"""Elementary symmetric polynomials in log space: exact sums, any scale, and the draws they give."""

from fractions import Fraction
from itertools import combinations
from math import comb, log, prod

import numpy as np
import pytest
from scipy.stats import chi2

from l3hpc.sampling.kdpp import _log_choose, choose_values, log_symmetric

ERROR_RATE = 1e-3  # of each χ² test, for a right sampler under a new seed


def exact_log(number):
    """log of a positive Fraction of any size."""
    return log(number.numerator) - log(number.denominator)


def test_against_exact_sums_over_subsets():
    values = [Fraction(3, 7), Fraction(1, 10**9), Fraction(5), Fraction(10**6), Fraction(2, 3)]
    found = log_symmetric(np.array([exact_log(value) for value in values]), 5)
    for size in range(6):
        total = sum((prod(subset, start=Fraction(1)) for subset in combinations(values, size)),
                    Fraction(0))
        assert found[size] == pytest.approx(exact_log(total), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("scale", [-700.0, 0.0, 25.0, 700.0])
def test_values_that_leave_the_range_of_floats(scale):
    """512 values of e^scale: e_m = C(512, m) e^(m·scale), up to e^358400."""
    found = log_symmetric(np.full(512, scale), 512)
    expected = [log(comb(512, m)) + m * scale for m in range(513)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)


def test_more_than_there_are_values_is_impossible():
    found = log_symmetric(np.zeros(3), 5)
    np.testing.assert_allclose(np.exp(found), [1, 3, 3, 1, 0, 0])


def test_recursion_at_ten_thousand():
    """k = 10⁴ of n = 10,200 equal values: both ends of the table, no under- or overflow."""
    with np.errstate(all="raise", under="ignore"):
        found = log_symmetric(np.full(200, 50.0), 200)
    weights = found + _log_choose(10_200, 10_000, 200) + np.arange(10_000, 9_799, -1) * -7.0
    expected = [log(comb(200, m) * comb(10_200 - m, 10_000 - m)) + 50.0 * m - 7.0 * (10_000 - m)
                for m in range(201)]
    np.testing.assert_allclose(weights, expected, rtol=1e-13)


@pytest.mark.parametrize(("n", "k", "smaller"), [
    (10, 3, 3), (10, 10, 4), (5, 1, 1), (8000, 500, 512), (10**7, 10**4, 512), (10**7, 10**7, 3)])
def test_binomials_to_the_last_digits(n, k, smaller):
    smaller = min(smaller, k)
    with np.errstate(all="raise"):
        found = _log_choose(n, k, smaller)
    assert found.shape == (smaller + 1,)
    for m in {0, smaller // 2, smaller}:
        assert found[m] == pytest.approx(log(comb(n - m, k - m)), rel=1e-13, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, -600.0, 600.0])
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_draws_follow_the_products_at_any_scale(size, shift):
    values = np.array([0.3, 2.0, 1.0, 5.0, 0.05])
    subsets = list(combinations(range(5), size))
    weights = np.array([np.prod(values[list(subset)]) for subset in subsets])
    expected = 3000 * weights / weights.sum()
    rng = np.random.default_rng(11)
    drawn = [tuple(choose_values(np.log(values) + shift, size, rng).tolist()) for _ in range(3000)]
    counts = np.array([drawn.count(subset) for subset in subsets])
    assert counts.sum() == 3000
    if len(subsets) > 1:
        statistic = ((counts - expected) ** 2 / expected)[expected > 5].sum()
        assert chi2.sf(statistic, (expected > 5).sum() - 1) > ERROR_RATE


def test_values_far_apart_are_chosen_by_size():
    logs = np.array([-800.0, 300.0, -5.0, 900.0])
    for seed in range(30):
        assert choose_values(logs, 2, np.random.default_rng(seed)).tolist() == [1, 3]
