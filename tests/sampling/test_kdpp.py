"""The k-DPP as an object: sources of rows, seeds, refusals, large k and n, memory."""

import tracemalloc
from math import comb, log, prod

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.arrays.rows import ArrayRows, ChunkRows, ConcatRows, SubsetRows
from l3hpc.errors import InputError
from l3hpc.sampling.kdpp import KDPP, FeatureRows, features

pytestmark = pytest.mark.slow


def embeddings(n=600, d=16, seed=1):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_same_seed_same_sample_wherever_the_rows_lie(tmp_path):
    x = embeddings(9000, 8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(128, 8))
    with h5py.File(tmp_path / "x.h5", "r") as file:
        sources = {
            "array": x, "float64": x.astype(float), "hdf5": file["x"],
            "blocks": lambda: (x[i:i + 700] for i in range(0, len(x), 700)),
            "other blocks": lambda: (x[i:i + 5000] for i in range(0, len(x), 5000)),
            "parts": ConcatRows([x[:10], x[10:5000], x[5000:]]),
            "subset": SubsetRows(np.concatenate([x[::-1], x]), np.arange(len(x) - 1, -1, -1)),
        }
        draws = {name: KDPP(FeatureRows(source), 0.001).sample(40, 9)
                 for name, source in sources.items()}
    for name, drawn in draws.items():
        np.testing.assert_array_equal(drawn, draws["array"], err_msg=name)
    assert not np.array_equal(KDPP(FeatureRows(x), 0.001).sample(40, 10), draws["array"])


def test_repeated_draws_are_independent():
    """Published defect 3: every draw from a frame restarted at the same set."""
    dpp = KDPP(FeatureRows(embeddings()), 0.001)
    rng = np.random.default_rng(0)
    draws = [set(dpp.sample(20, rng).tolist()) for _ in range(30)]
    shared = [len(a & b) for a, b in zip(draws[:-1], draws[1:], strict=True)]
    assert np.mean(shared) < 3  # 20 · 20 / 600 = 0.7 expected
    assert len(set().union(*draws)) > 250


def test_default_kernel_repels_and_the_published_one_does_not():
    """Published defect 1: L1 features and ε = 0.1 leave nothing of the kernel."""
    rng = np.random.default_rng(2)
    x = np.abs(rng.normal(size=(500, 512))) * np.abs(rng.normal(size=512))
    published = KDPP(FeatureRows(x, norm="l1"), 0.1).expected_diverse(92)
    swamped = KDPP(FeatureRows(x, norm="l2"), 0.1).expected_diverse(92)
    ours = KDPP(FeatureRows(x, norm="l2"), 0.001).expected_diverse(92)
    assert published < 3
    assert published < swamped < ours
    assert ours > 85


def test_samples_are_more_diverse_than_random_sets():
    x = np.repeat(embeddings(40, 32), 15, axis=0) + 0.01 * embeddings(600, 32, seed=4)
    dpp = KDPP(FeatureRows(x), 0.001)
    rng = np.random.default_rng(0)
    dpp.sample(30, rng)
    ours = dpp.log_det_
    uniform = [dpp.log_det(rng.choice(600, 30, replace=False)) for _ in range(50)]
    assert ours > max(uniform)


@pytest.mark.parametrize(("k", "n", "d"), [
    (400, 3000, 24), (1000, 3000, 24), (2500, 3000, 24), (10_000, 12_000, 512),
    (10_000, 10_000, 512)])
def test_large_k_stays_finite(k, n, d):
    """Published defect 2: determinants underflowed to 0 for k above about 310."""
    dpp = KDPP(FeatureRows(embeddings(n, d)), 0.001)
    with np.errstate(all="raise", under="ignore"):
        rows = dpp.sample(k, 0)
    assert len(np.unique(rows)) == k
    assert np.isfinite([dpp.log_det_, dpp.log_likelihood_]).all()
    assert dpp.log_likelihood_ < 1e-6
    assert dpp.diverse_size_ <= d
    assert dpp.expected_diverse(k) == pytest.approx(dpp.diverse_size_, abs=30)


def test_ten_thousand_of_ten_million_in_little_memory():
    """n·d numbers are never held; a sample reads the rows a few times; log Z to the last digits."""
    n, d, size, k, epsilon = 10_000_000, 2, 50_000, 10_000, 1e-4
    block = np.repeat(np.array([[0.25, 0.0], [0.0, 0.125]]), size // 2, axis=0)
    passes = []

    def rows():
        passes.append(1)
        for _ in range(n // size):
            yield block

    tracemalloc.start()
    dpp = KDPP(ChunkRows(rows, (n, d)), epsilon)
    chosen = dpp.sample(k, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(chosen)) == k
    assert chosen[0] >= 0 and chosen[-1] < n
    assert dpp.diverse_size_ == 2
    assert len(set((dpp.diverse_ % size >= size // 2).tolist())) == 2  # one row along each axis
    assert len(passes) <= 4  # Gram matrix, leverage, proposed rows, determinant
    assert peak < n * 8 * 3 + size * d * 8 * 6  # leverage and its running sum, a few blocks
    values = (n // 2 / 16, n // 2 / 64)
    np.testing.assert_allclose(dpp.eigenvalues_, sorted(values), rtol=1e-12)
    terms = [log(weight) + log(comb(n - m, k - m)) + (k - m) * log(epsilon)
             for m, weight in enumerate((1.0, sum(values), prod(values)))]
    assert dpp.log_normalizer(k) == pytest.approx(np.logaddexp.reduce(terms), rel=1e-12)
    assert np.isfinite(dpp.log_likelihood_)
    assert np.isfinite(dpp.log_normalizer(n))


def sides(monkeypatch, make):
    """What ``make`` returns, and the sizes of the matrices that it decomposes."""
    sizes = []
    inner = np.linalg.eigh
    with monkeypatch.context() as patch:
        patch.setattr(np.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or inner(matrix))
        made = make()
    return made, sizes


def test_the_smaller_side_is_decomposed(monkeypatch):
    """The same kernel by rows of 5 and of 400 numbers: n = 30 is between them."""
    x = embeddings(30, 5).astype(float)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(400, 5)))[0].T
    narrow, sizes = sides(monkeypatch, lambda: KDPP(x, 0.01))
    assert sizes == [5]
    wide, sizes = sides(monkeypatch, lambda: KDPP(x @ turn, 0.01))
    assert sizes == [30]
    square, sizes = sides(monkeypatch, lambda: KDPP(x @ turn[:, :30], 0.01))
    assert sizes == [30]
    assert narrow.rank_ == wide.rank_ == square.rank_ == 5
    np.testing.assert_allclose(wide.eigenvalues_, narrow.eigenvalues_, rtol=1e-10)
    subset = np.arange(3, 25, 2)
    for k in (1, 4, 11, 30):
        assert wide.log_normalizer(k) == pytest.approx(narrow.log_normalizer(k), rel=1e-10)
        np.testing.assert_allclose(wide.diverse_probabilities(k), narrow.diverse_probabilities(k),
                                   rtol=1e-8)
    assert wide.log_likelihood(subset) == pytest.approx(narrow.log_likelihood(subset), abs=1e-8)


def test_both_sides_draw_the_same_distribution():
    """Inclusion counts of 30 rows by either side, 2,500 draws each."""
    x = embeddings(30, 5, seed=3) * np.linspace(0.2, 2, 30)[:, None]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 5)))[0].T
    counts, diverse = [], []
    for rows, seed in ((x, 1), (x @ turn, 2)):
        dpp, rng = KDPP(rows, 0.05), np.random.default_rng(seed)
        count, sizes = np.zeros(30), np.zeros(8)
        for _ in range(2500):
            count[dpp.sample(7, rng)] += 1
            sizes[dpp.diverse_size_] += 1
        counts.append(count)
        diverse.append(sizes)
    p = (counts[0] + counts[1]) / 5000
    z = (counts[0] - counts[1]) / np.sqrt(5000 * p * (1 - p))
    assert np.abs(z).max() < 4.5
    assert 0.5 < np.mean(z ** 2) < 1.6
    q = (diverse[0] + diverse[1]) / 5000
    z = (diverse[0] - diverse[1]) / np.sqrt(5000 * q * (1 - q) + 1e-9)
    assert np.abs(z).max() < 4.5
    assert p.max() > 2 * p.min()  # far from uniform


def test_normalizer_of_a_known_kernel_at_large_n():
    """L = (1 + ε) I on d axes, ε elsewhere: e_k in closed form through scipy's binomials."""
    from scipy.special import gammaln

    n, d, k, epsilon = 5000, 3, 200, 0.01
    x = np.zeros((n, d))
    x[np.arange(d), np.arange(d)] = 1.0

    def log_choose(a, b):
        return gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1)

    terms = [log_choose(d, j) + j * np.log1p(epsilon) + (k - j) * np.log(epsilon)
             + log_choose(n - d, k - j) for j in range(d + 1)]
    expected = np.logaddexp.reduce(terms)
    assert KDPP(x, epsilon).log_normalizer(k) == pytest.approx(expected, rel=1e-12)


def test_kernel_instead_of_rows():
    x = embeddings(9, 4).astype(float)
    by_rows, by_kernel = KDPP(x, 0.1), KDPP(kernel=x @ x.T, epsilon=0.1)
    assert by_kernel.log_normalizer(5) == pytest.approx(by_rows.log_normalizer(5), abs=1e-9)
    subset = np.array([0, 3, 4, 8])
    assert by_kernel.log_likelihood(subset) == pytest.approx(
        by_rows.log_likelihood(subset), abs=1e-9)
    assert len(by_kernel.sample(5, 0)) == 5


@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 10_000),
       st.sampled_from([1e-6, 0.01, 1.0]), st.data())
@settings(max_examples=60, deadline=None)
def test_properties_of_any_sample(n, d, seed, epsilon, data):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(n, d)).astype(float)  # often duplicate and rank deficient
    k = data.draw(st.integers(1, n))
    dpp = KDPP(x, epsilon)
    rows = dpp.sample(k, rng)
    assert rows.dtype == np.int64
    assert rows.shape == (k,)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < n
    assert set(dpp.diverse_.tolist()) <= set(rows.tolist())
    assert dpp.diverse_size_ <= min(k, dpp.rank_)
    assert dpp.rank_ == np.linalg.matrix_rank(x)
    assert dpp.log_likelihood_ <= 1e-6
    assert dpp.diverse_probabilities(k).sum() == pytest.approx(1)
    order = rng.permutation(n)
    back = np.argsort(order)
    assert KDPP(x[order], epsilon).log_likelihood(back[rows]) == pytest.approx(
        dpp.log_likelihood_, abs=1e-6)
    assert KDPP(3 * x, 9 * epsilon).log_likelihood(rows) == pytest.approx(
        dpp.log_likelihood_, abs=1e-6)


def test_duplicates_never_share_the_diverse_part():
    x = np.repeat(np.eye(4), 5, axis=0)
    dpp = KDPP(x, 1e-3)
    rng = np.random.default_rng(0)
    for _ in range(100):
        dpp.sample(6, rng)
        groups = dpp.diverse_ // 5
        assert len(set(groups.tolist())) == dpp.diverse_size_


def test_refusals():
    x = embeddings(10, 3)
    with pytest.raises(InputError, match="cannot draw 0 of 10"):
        KDPP(x).sample(0, 0)
    with pytest.raises(InputError, match="cannot draw 11 of 10"):
        KDPP(x).sample(11, 0)
    with pytest.raises(InputError, match="rank 3 with epsilon 0"):
        KDPP(x, 0.0).sample(4, 0)
    with pytest.raises(InputError, match="epsilon -1"):
        KDPP(x, -1)
    with pytest.raises(InputError, match="no rows"):
        KDPP(np.empty((0, 3)))
    with pytest.raises(InputError, match="NaN or infinite"):
        KDPP(np.array([[1.0, np.nan], [0, 1], [1, 1]]))
    with pytest.raises(InputError, match="NaN or infinite"):
        KDPP(FeatureRows(np.array([[1.0, np.inf], [0, 1], [1, 1]])))
    with pytest.raises(InputError, match="a row is repeated"):
        KDPP(x).log_likelihood(np.array([1, 1]))
    with pytest.raises(InputError, match="not positive semidefinite"):
        KDPP(kernel=np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(InputError, match="not symmetric"):
        KDPP(kernel=np.array([[1.0, 0.5], [0.2, 1.0]]))
    with pytest.raises(InputError, match="either rows or a kernel"):
        KDPP()


def test_features():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, -1.0]])
    np.testing.assert_allclose(features(x), [[0.6, 0.8], [0, 0], [0.5 ** 0.5, -(0.5 ** 0.5)]])
    np.testing.assert_allclose(features(x, norm="l1"), [[3 / 7, 4 / 7], [0, 0], [0.5, -0.5]])
    np.testing.assert_allclose(features(x, np.array([2.0, 1.0, 0.0]), "none"),
                               [[6, 8], [0, 0], [0, 0]])
    with pytest.raises(InputError, match="unknown norm 'l3'"):
        features(x, norm="l3")
    with pytest.raises(InputError, match="unknown norm 'L2'"):
        FeatureRows(x, norm="L2")
    with pytest.raises(InputError, match="2 quality values for 3 rows"):
        FeatureRows(x, np.ones(2))
    with pytest.raises(InputError, match="not negative"):
        FeatureRows(x, np.array([1, -1, 1]))
    rows = FeatureRows(ArrayRows(x), np.array([1.0, 2.0, 3.0]), "l1")
    np.testing.assert_array_equal(rows.take(np.array([2, 0])),
                                  np.concatenate(list(rows.chunks(2)))[[2, 0]])


def test_rows_without_columns_and_complex_numbers_are_refused():
    with pytest.raises(InputError, match="the 3 rows have no columns"):
        KDPP(np.empty((3, 0)))
    x = np.ones((40, 2)) + 1j
    for rows in (x, x.tolist(), lambda: iter([x]), x[:1]):
        with pytest.raises(InputError, match="expected real numbers, found values of type complex"):
            KDPP(rows)
    with pytest.raises(InputError, match="expected real numbers"):
        FeatureRows(x)
    with pytest.raises(InputError, match="expected real numbers"):
        KDPP(kernel=np.eye(3) * 1j)
    with pytest.raises(InputError, match="expected real numbers, found values of type object"):
        KDPP(np.array([["a", 1]], dtype=object))


def test_a_data_frame_is_a_matrix():
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).normal(size=(50, 3))
    frame = pandas.DataFrame(x, index=np.arange(50)[::-1])
    assert KDPP(frame).sample(5, 1).tolist() == KDPP(x).sample(5, 1).tolist()


@pytest.mark.parametrize("rows", [[49, -1], [0, 50], [1.5, 2.0], [[1, 2]], [True, False]])
def test_numbers_that_are_not_those_of_rows_are_refused(rows):
    dpp = KDPP(np.random.default_rng(0).normal(size=(50, 3)))
    for function in (dpp.log_likelihood, dpp.log_det):
        with pytest.raises(InputError, match="there is no row|row numbers have"):
            function(rows)
    assert np.isfinite(dpp.log_likelihood([49, 0]))


@pytest.mark.parametrize("k", [2.5, 2.0, np.float64(2), "2", None])
def test_a_k_that_is_not_a_whole_number_is_refused(k):
    dpp = KDPP(np.eye(5))
    for function in (dpp.sample, dpp.log_normalizer, dpp.expected_diverse):
        with pytest.raises(InputError, match="cannot draw .* of 5 rows"):
            function(k)
