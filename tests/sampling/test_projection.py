"""The chain rule with rejection: projection DPPs of known law, rotated bases, loose bounds."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2

from l3hpc.errors import L3hpcError
from l3hpc.sampling import projection_dpp
from l3hpc.sampling.projection_dpp import sample_projection

pytestmark = pytest.mark.slow

ERROR_RATE = 1e-3


def orthonormal(n, m, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    scale = np.exp(spread * rng.normal(size=(n, 1)))
    return np.linalg.qr(rng.normal(size=(n, m)) * scale)[0]


def leverage(basis):
    return (basis ** 2).sum(axis=1)


def draw(basis, rng, bounds=None):
    bounds = leverage(basis) if bounds is None else bounds
    return sample_projection(bounds, basis.__getitem__, np.eye(basis.shape[1]), rng)


@pytest.mark.parametrize("looseness", [1.0, 3.0])
@pytest.mark.parametrize("turn", [32, 1])
@pytest.mark.parametrize("m", [1, 2, 4, 5])
def test_draws_follow_the_determinants(m, turn, looseness, monkeypatch):
    """P(S) = det(V_S)²; MIN_ROTATED = 1 rotates the basis after every second dimension."""
    monkeypatch.setattr(projection_dpp, "MIN_ROTATED", turn)
    monkeypatch.setattr(projection_dpp, "BLOCK_PROPOSALS", 3)
    basis = orthonormal(7, m)
    bounds = leverage(basis) * np.linspace(1, looseness, 7)
    subsets = list(combinations(range(7), m))
    expected = 3000 * np.array([np.linalg.det(basis[list(s)]) ** 2 for s in subsets])
    assert expected.sum() == pytest.approx(3000)
    rng = np.random.default_rng(5)
    drawn = [tuple(sorted(draw(basis, rng, bounds).tolist())) for _ in range(3000)]
    counts = np.array([drawn.count(s) for s in subsets])
    assert counts.sum() == 3000
    big = expected > 5
    statistic = ((counts - expected) ** 2 / expected)[big].sum()
    assert chi2.sf(statistic, big.sum()) > ERROR_RATE


def test_inclusion_with_blocks_and_turns_as_they_are():
    """P(i ∈ S) = ‖v_i‖², and pairs P(i, j ∈ S) = their 2 × 2 determinant; 90 dimensions rotate."""
    n, m, draws = 150, 90, 1500
    basis = orthonormal(n, m, spread=0.5)
    kernel = basis @ basis.T
    rng = np.random.default_rng(6)
    inside = np.zeros((draws, n))
    for number in range(draws):
        inside[number, draw(basis, rng)] = 1
    assert (inside.sum(axis=1) == m).all()
    p = np.diag(kernel)
    z = (inside.sum(axis=0) - draws * p) / np.sqrt(draws * p * (1 - p))
    assert np.abs(z).max() < 4.5
    assert 0.6 < np.mean(z ** 2) < 1.5
    upper = np.triu_indices(n, 1)
    pairs = (inside.T @ inside)[upper]
    expected = (np.outer(p, p) - kernel ** 2)[upper]
    z = (pairs - draws * expected) / np.sqrt(draws * expected * (1 - expected))
    assert np.abs(z).max() < 5.5  # of 11,175 pairs
    assert 0.85 < np.mean(z ** 2) < 1.15


def test_all_rows_of_a_square_basis():
    rng = np.random.default_rng(1)
    for m in (1, 3, 40, 130):
        assert sorted(draw(orthonormal(m, m), rng).tolist()) == list(range(m))


def test_the_chosen_rows_stay_orthonormal_in_the_chain():
    """Rows that are nearly the same: what is left of the second is one part in 10¹⁰."""
    rng = np.random.default_rng(3)
    pairs = np.repeat(rng.normal(size=(40, 60)), 2, axis=0)
    basis = np.linalg.qr(pairs + 1e-5 * rng.normal(size=pairs.shape))[0]
    chain = projection_dpp._Chain(np.eye(60))
    picks = rng.integers(0, 80, 4000)
    accept = rng.random(4000) * leverage(basis)[picks]
    for start in range(0, 4000, 100):
        part = slice(start, start + 100)
        size = chain.basis.shape[1]
        chain.process(picks[part], basis[picks[part]], accept[part])
        known = chain.basis[:chain.spanned]
        np.testing.assert_allclose(known @ known.T, np.eye(len(known)), atol=1e-12)
        np.testing.assert_allclose(chain.mapping.T @ chain.mapping,
                                   np.eye(chain.mapping.shape[1]), atol=1e-12)
        if chain.basis.shape[1] == size:
            continue
        assert np.abs(basis[chain.chosen] @ chain.mapping).max() < 1e-7
    assert len(set(chain.chosen)) == len(chain.chosen) == 60


def test_rows_are_read_in_one_go_unless_memory_is_short(monkeypatch):
    basis = orthonormal(400, 20)
    reads = []

    def take(picks):
        reads.append(len(picks))
        return basis[picks]

    rng = np.random.default_rng(0)
    first = sample_projection(leverage(basis), take, np.eye(20), np.random.default_rng(7))
    assert len(reads) == 1
    monkeypatch.setattr(projection_dpp, "TAKE_BYTES", 8 * 20 * 128)
    again = sample_projection(leverage(basis), take, np.eye(20), np.random.default_rng(7))
    assert max(reads[1:]) == 128
    np.testing.assert_array_equal(first, again)
    assert sample_projection(np.ones(5), take, np.empty((3, 0)), rng).shape == (0,)


def test_a_basis_that_is_not_orthonormal_is_an_error_not_a_loop(monkeypatch):
    monkeypatch.setattr(projection_dpp, "MAX_ROUNDS", 3)
    basis = np.zeros((10, 2))
    basis[:, 0] = 0.1 ** 0.5
    with pytest.raises(L3hpcError, match="only 1 of 2 rows accepted"):
        draw(basis, np.random.default_rng(0), np.ones(10))
