"""The k-DPP is exact: against enumeration of all subsets, and against brute-force inclusion.

Seeds are fixed, so nothing here is flaky. Each χ² test would fail for a right sampler with
probability ERROR_RATE under a new seed.
"""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2

from l3hpc.sampling.kdpp import KDPP, FeatureRows

pytestmark = pytest.mark.slow

ERROR_RATE = 1e-3
DRAWS = 3000
N = 7


def dense(features, epsilon):
    return features @ features.T + epsilon * np.eye(len(features))


def enumerate_subsets(kernel, k):
    """All subsets of size k and their probabilities, from determinants."""
    subsets = list(combinations(range(len(kernel)), k))
    weights = np.array([max(np.linalg.det(kernel[np.ix_(s, s)]), 0.0) for s in subsets])
    return subsets, weights


def gaussian(d, seed=5):
    return np.random.default_rng(seed).normal(size=(N, d))


def duplicates():
    x = gaussian(3)
    x[4], x[5] = x[0], x[0]
    return x


def rank_deficient():
    x = gaussian(5)
    x[:, 3], x[:, 4] = x[:, 0] - x[:, 1], 2 * x[:, 2]
    return x


def zero_rows():
    x = gaussian(3)
    x[2] = 0.0
    return x


def scaled_by_quality():
    quality = np.array([0.05, 1.0, 0.5, 0.2, 0.9, 0.35, 0.6])
    return np.concatenate(list(FeatureRows(gaussian(3), quality, "l2").chunks()))


CASES = {
    "d=2": (gaussian(2), 0.1), "d=3": (gaussian(3), 0.001), "d=n": (gaussian(N), 0.1),
    "d>n": (gaussian(20), 0.001), "epsilon large": (gaussian(3), 5.0),
    "duplicates": (duplicates(), 0.01), "duplicates, small epsilon": (duplicates(), 1e-9),
    "rank deficient": (rank_deficient(), 0.01), "zero row": (zero_rows(), 0.1),
    "quality": (scaled_by_quality(), 0.001), "epsilon 0": (gaussian(5), 0.0),
    "one row is huge": (gaussian(3) * np.r_[1e4, np.ones(N - 1)][:, None], 0.01),
    "nothing but the regulariser": (np.zeros((N, 3)), 0.5),
}


# With ε = 0 no more rows than the rank can be drawn; that refusal is tested in test_kdpp.py.
ALLOWED = [(name, k) for name in CASES for k in range(1, N + 1) if name != "epsilon 0" or k <= 5]


@pytest.mark.parametrize(("name", "k"), ALLOWED)
def test_normalizer_and_likelihood_of_every_subset(name, k):
    features, epsilon = CASES[name]
    dpp = KDPP(features, epsilon)
    subsets, weights = enumerate_subsets(dense(features, epsilon), k)
    # A dense L holds ε = 1e-9 beside entries of 1 to 7 digits only.
    digits = 2e-6 if 0 < epsilon < 1e-6 else 1e-8
    assert dpp.log_normalizer(k) == pytest.approx(np.log(weights.sum()), abs=digits)
    probabilities = weights / weights.sum()
    ours = np.exp([dpp.log_likelihood(np.array(s)) for s in subsets])
    np.testing.assert_allclose(ours, probabilities, rtol=1e-5, atol=1e-9)
    assert ours.sum() == pytest.approx(1.0, abs=1e-8)


def chi_square(counts, expected):
    """p-value, with the rarest cells (under 5 expected) put together."""
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    used = wanted > 1e-9
    assert observed[~used].sum() == 0
    observed, wanted = observed[used], wanted[used]
    if len(wanted) < 2:
        return 1.0
    return chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1)


@pytest.mark.parametrize(("name", "k"), [
    ("d=2", 1), ("d=2", 4), ("d=3", 3), ("d=3", 5), ("d=n", 3), ("d>n", 4), ("epsilon large", 3),
    ("duplicates", 3), ("duplicates, small epsilon", 2), ("rank deficient", 4), ("zero row", 3),
    ("quality", 2), ("epsilon 0", 4), ("one row is huge", 2), ("nothing but the regulariser", 3),
    ("d=3", N),
])
def test_draws_follow_the_enumerated_probabilities(name, k):
    features, epsilon = CASES[name]
    dpp = KDPP(features, epsilon)
    rng = np.random.default_rng(20180216)
    subsets, weights = enumerate_subsets(dense(features, epsilon), k)
    number = {subset: i for i, subset in enumerate(subsets)}
    counts = np.zeros(len(subsets))
    for _ in range(DRAWS):
        counts[number[tuple(dpp.sample(k, rng).tolist())]] += 1
    assert chi_square(counts, DRAWS * weights / weights.sum()) > ERROR_RATE


def test_the_diverse_part_follows_its_joint_distribution():
    """(T, S) has weight ε^(k−|T|) det((BBᵀ)_T) for every T ⊆ S."""
    features, epsilon = gaussian(2)[:5], 0.3
    k = 3
    gram = features @ features.T
    pairs, weights = [], []
    for subset in combinations(range(5), k):
        for size in range(k + 1):
            for part in combinations(subset, size):
                pairs.append((part, subset))
                weights.append(epsilon ** (k - size)
                               * max(np.linalg.det(gram[np.ix_(part, part)]), 0.0))
    weights = np.array(weights)
    weights[weights < 1e-12] = 0.0
    dpp = KDPP(features, epsilon)
    mean = sum(len(part) * w for (part, _), w in zip(pairs, weights, strict=True)) / weights.sum()
    assert dpp.expected_diverse(k) == pytest.approx(mean, rel=1e-9)
    number = {pair: i for i, pair in enumerate(pairs)}
    counts = np.zeros(len(pairs))
    rng = np.random.default_rng(7)
    for _ in range(2 * DRAWS):
        chosen = dpp.sample(k, rng)
        counts[number[tuple(dpp.diverse_.tolist()), tuple(chosen.tolist())]] += 1
        assert dpp.diverse_size_ == len(dpp.diverse_)
    assert chi_square(counts, 2 * DRAWS * weights / weights.sum()) > ERROR_RATE


def symmetric_polynomial(values, k):
    """e_k by the plain recursion in float64 (small cases only)."""
    table = np.zeros(k + 1)
    table[0] = 1.0
    for value in values:
        table[1:] += value * table[:-1].copy()
    return table[k]


def inclusion_probabilities(kernel, k):
    """P(i ∈ S) = Σ_j u_ij² λ_j e_{k−1}(λ without j) / e_k(λ), from the dense kernel."""
    values, vectors = np.linalg.eigh(kernel)
    total = symmetric_polynomial(values, k)
    chosen = [values[j] * symmetric_polynomial(np.delete(values, j), k - 1) / total
              for j in range(len(values))]
    return (vectors ** 2) @ np.array(chosen)


@pytest.mark.parametrize(("d", "k", "epsilon"), [(12, 15, 0.01), (12, 6, 0.1), (90, 20, 0.1)])
def test_inclusion_probabilities_at_middle_size(d, k, epsilon):
    """z-scores of 80 inclusion counts; |z| > 4.5 anywhere has a probability below 80 × 7e-6."""
    rng = np.random.default_rng(3)
    n, draws = 80, 2500
    quality = rng.uniform(0.2, 1.0, n)
    features = np.concatenate(list(FeatureRows(rng.normal(size=(n, d)), quality).chunks()))
    expected = inclusion_probabilities(dense(features, epsilon), k)
    assert expected.sum() == pytest.approx(k)
    dpp = KDPP(features, epsilon)
    counts = np.zeros(n)
    for _ in range(draws):
        counts[dpp.sample(k, rng)] += 1
    z = (counts - draws * expected) / np.sqrt(draws * expected * (1 - expected))
    assert np.abs(z).max() < 4.5
    assert 0.6 < np.mean(z ** 2) < 1.5
