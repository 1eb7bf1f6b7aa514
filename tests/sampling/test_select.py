"""Choosing the rows of a frame by each method."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from l3hpc.errors import InputError
from l3hpc.sampling.selection import METHODS, select, weighted_without_replacement

ERROR_RATE = 1e-3


def embeddings(n=300, d=12, seed=1):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def never():
    raise AssertionError("embeddings were read")


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_rows(method):
    x = embeddings()
    relevance = np.linspace(0.01, 1, 300)
    first = select(method, x, relevance, 25, 4)
    again = select(method, lambda: x, relevance, 25, np.random.default_rng(4))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert first.rows.tolist() != select(method, x, relevance, 25, 5).rows.tolist()
    assert (np.diff(first.rows) > 0).all()
    assert len(first.rows) == 25
    assert first.missing == 0
    assert (first.requested, first.available) == (25, 300)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_frame_gives_all_it_has(method):
    """Published defect 7: a frame with fewer than k rows was dropped without a word."""
    chosen = select(method, embeddings(7), np.full(7, 0.5), 10, 0)
    assert chosen.rows.tolist() == list(range(7))
    assert (chosen.requested, chosen.available, chosen.missing) == (10, 7, 3)
    exact = select(method, embeddings(7), np.full(7, 0.5), 7, 0)
    assert exact.rows.tolist() == list(range(7))
    assert exact.missing == 0


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_frame(method):
    chosen = select(method, np.empty((0, 4)), np.empty(0), 3, 0)
    assert chosen.rows.size == 0
    assert chosen.missing == 3


def test_only_dpp_reads_embeddings():
    assert len(select("random", never, None, 5, 0, count=50).rows) == 5
    assert len(select("spl", never, np.ones(50), 5, 0).rows) == 5
    assert len(select("random", None, None, 5, 0, count=50).rows) == 5


def test_dpp_reports_what_it_did():
    x = embeddings()
    chosen = select("dpp-div", x, None, 10, 0)
    assert set(chosen.diverse.tolist()) <= set(chosen.rows.tolist())
    assert chosen.expected_diverse == pytest.approx(10, abs=0.5)
    unit = x / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    kernel = unit[chosen.rows] @ unit[chosen.rows].T + 0.001 * np.eye(10)
    assert chosen.log_det == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-9)
    assert chosen.log_likelihood < 0
    weighted = select("dpp", x, np.linspace(0.1, 1, 300), 10, 0)
    q = np.linspace(0.1, 1, 300)[weighted.rows]
    scaled = unit[weighted.rows] * q[:, None]
    kernel = scaled @ scaled.T + 0.001 * np.eye(10)
    assert weighted.log_det == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-9)
    assert np.isnan(select("random", x, None, 5, 0).log_det)


def test_dpp_prefers_relevant_rows_and_dpp_div_does_not():
    x, relevance = embeddings(300, 32), np.where(np.arange(300) % 2, 1.0, 0.1)
    share = {method: np.mean([(select(method, x, relevance, 20, seed).rows % 2).mean()
                              for seed in range(20)]) for method in METHODS}
    assert share["dpp"] > 0.85
    assert share["spl"] > 0.85
    assert 0.4 < share["dpp-div"] < 0.6
    assert 0.4 < share["random"] < 0.6


def test_published_options_are_accepted():
    chosen = select("dpp", embeddings(), np.ones(300), 12, 0, 0.1, "l1")
    ours = select("dpp", embeddings(), np.ones(300), 12, 0)
    assert chosen.expected_diverse < 6 < ours.expected_diverse
    assert len(chosen.rows) == 12


def successive(weights, k):
    """P of each set when rows are drawn one after another, ∝ weight among those left."""
    result = {}
    for subset in combinations(range(len(weights)), k):
        total = 0.0
        for order in permutations(subset):
            left, p = weights.sum(), 1.0
            for row in order:
                p *= weights[row] / left
                left -= weights[row]
            total += p
        result[subset] = total
    return result


def p_value(draw, expected, draws=4000):
    counts = dict.fromkeys(expected, 0)
    for _ in range(draws):
        counts[tuple(draw().tolist())] += 1
    statistic = sum((counts[s] - draws * p) ** 2 / (draws * p) for s, p in expected.items())
    return chi2.sf(statistic, len(expected) - 1)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_spl_draws_one_after_another_by_weight(k):
    weights = np.array([0.2, 1.0, 0.4, 0.6, 0.8])
    expected = successive(weights, k)
    assert sum(expected.values()) == pytest.approx(1)
    rng = np.random.default_rng(11)
    assert p_value(lambda: weighted_without_replacement(weights, k, rng), expected) > ERROR_RATE
    same = np.random.default_rng(12)  # numpy's own choice has the same distribution
    assert p_value(lambda: np.sort(same.choice(5, k, replace=False, p=weights / weights.sum())),
                   expected) > ERROR_RATE


def test_random_draws_uniform_sets():
    sets = list(combinations(range(6), 3))
    rng = np.random.default_rng(5)
    assert p_value(lambda: select("random", None, None, 3, rng, count=6).rows,
                   dict.fromkeys(sets, 1 / len(sets))) > ERROR_RATE


def test_rows_of_weight_zero_come_last():
    weights = np.array([0, 1, 0, 2, 0, 3.0])
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert set(weighted_without_replacement(weights, 2, rng)) <= {1, 3, 5}
        assert {1, 3, 5} < set(weighted_without_replacement(weights, 4, rng).tolist())
    extra = {int(r) for _ in range(60) for r in weighted_without_replacement(weights, 4, rng)}
    assert extra == set(range(6))


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=30), st.integers(0, 1000), st.data())
@settings(max_examples=60, deadline=None)
def test_weighted_draws_are_sets_of_the_right_size(weights, seed, data):
    k = data.draw(st.integers(1, len(weights)))
    rows = weighted_without_replacement(np.array(weights), k, np.random.default_rng(seed))
    assert rows.shape == (k,)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < len(weights)


def test_refusals():
    x = embeddings(10)
    with pytest.raises(InputError, match="unknown sampling method 'dpp_div'"):
        select("dpp_div", x, None, 3, 0)
    with pytest.raises(InputError, match="did you mean 'dpp-div'"):
        select("dpp_div", x, None, 3, 0)
    for k in (0, 2.5, 2.0, None):
        with pytest.raises(InputError, match=f"cannot select {k} rows"):
            select("random", x, None, k, 0)
    for method in ("spl", "dpp"):
        with pytest.raises(InputError, match="needs a relevance"):
            select(method, x, None, 3, 0)
        with pytest.raises(InputError, match="one finite number, 0 or more"):
            select(method, x, np.r_[np.ones(9), -1], 3, 0)
        with pytest.raises(InputError, match="one finite number, 0 or more"):
            select(method, x, np.r_[np.ones(9), np.nan], 3, 0)
    with pytest.raises(InputError, match="9 quality values for 10 rows"):
        select("dpp", x, np.ones(9), 3, 0)
    with pytest.raises(InputError, match="no embeddings"):
        select("dpp-div", None, None, 3, 0)
