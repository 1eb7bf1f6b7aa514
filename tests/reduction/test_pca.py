"""Streaming PCA against scikit-learn and against the definition, in float64."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

from l3hpc.errors import InputError
from l3hpc.reduction.linear_fit import signs
from l3hpc.reduction.moments import BLOCK_PIECES, PIECE_ROWS
from l3hpc.reduction.pca import StreamingPCA

ROWS = PIECE_ROWS * max(BLOCK_PIECES.values())


def correlated(n=3000, d=24, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.logspace(-3, 2, d)
    return mixed + offset * np.logspace(-2, 3, d)


def cut(x, size):
    return (x[start:start + size] for start in range(0, len(x), size))


def reference(x, components):
    """StandardScaler and a full float64 SVD, as scikit-learn does them."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    pca = PCA(components, svd_solver="full").fit(scaler.transform(x))
    return scaler, pca


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4])
def test_agrees_with_scikit_learn(offset):
    x = correlated(offset=offset)
    scaler, expected = reference(x, 10)
    ours = StreamingPCA(10).fit(cut(x, 500))
    np.testing.assert_allclose(ours.mean_, scaler.mean_, rtol=1e-10)
    np.testing.assert_allclose(ours.scale_, scaler.scale_, rtol=1e-9)
    np.testing.assert_allclose(ours.explained_variance_, expected.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(ours.explained_variance_ratio_,
                               expected.explained_variance_ratio_, rtol=1e-8)
    signs = np.sign((ours.components_ * expected.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components_, signs[:, None] * expected.components_, atol=1e-7)
    np.testing.assert_allclose(ours.transform(x),
                               signs * expected.transform(scaler.transform(x)), atol=1e-6)
    assert ours.n_samples_ == len(x)


def eigenvalues(x):
    """Of the correlation matrix of rows, from singular values: no digits lost by squaring."""
    x = x.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return np.linalg.svd(x - x.mean(axis=0), compute_uv=False)**2 / (len(x) - 1)


def test_every_eigenvalue_of_teacher_sized_rows():
    x = correlated(6000, 128).astype(np.float32)
    expected = eigenvalues(x)
    exact = StreamingPCA(mode="float64").fit(cut(x, 1000)).explained_variance_
    fast = StreamingPCA(mode="float32").fit(cut(x, 1000)).explained_variance_
    np.testing.assert_allclose(exact, expected, rtol=1e-8)
    used = expected > 1e-3 * expected[0]
    np.testing.assert_allclose(fast[used], expected[used], rtol=1e-5)
    np.testing.assert_allclose(fast, expected, atol=1e-7 * expected[0])


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e3])
def test_eigenvalues_over_seven_powers_of_ten(mean):
    rng = np.random.default_rng(7)
    turn, _ = np.linalg.qr(rng.normal(size=(48, 48)))
    x = rng.normal(size=(20_000, 48)) * np.logspace(0, -3.6, 48) @ turn + mean * rng.normal(size=48)
    expected = eigenvalues(x)
    assert expected[-1] < 2e-7 * expected[0]
    exact = StreamingPCA().fit([x]).explained_variance_
    np.testing.assert_allclose(exact, expected, rtol=1e-8)
    fast = StreamingPCA(mode="float32").fit([x]).explained_variance_
    used = expected > 1e-3 * expected[0]
    assert used.sum() > 15
    np.testing.assert_allclose(fast[used], expected[used], rtol=1e-5)


@pytest.mark.parametrize(("mode", "digits"), [("float64", 1e-8), ("float32", 1e-5)])
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_large_means_do_not_cost_digits(mode, digits, offset):
    """Sums of squares without a shift would lose all digits here."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5000, 6)) @ rng.normal(size=(6, 6)) + offset * np.arange(1, 7)
    ours = StreamingPCA(6, mode).fit(cut(x, 700))
    np.testing.assert_allclose(ours.explained_variance_, eigenvalues(x), rtol=digits)


@pytest.mark.parametrize(("mode", "digits"), [("float64", 1e-8), ("float32", 1e-5)])
def test_recordings_that_differ_do_not_cost_digits(mode, digits):
    """A first block of silence, and means that wander: no one shift is right for all rows."""
    rng = np.random.default_rng(6)
    x = correlated(10 * ROWS, 8, seed=2) / 100
    x += np.repeat(rng.normal(size=(10, 8)) * 1e3, ROWS, axis=0)
    x[:ROWS] = 1e-4 * rng.normal(size=(ROWS, 8))
    ours = StreamingPCA(8, mode, standardize=False).fit([x])
    expected = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)**2 / (len(x) - 1)
    used = expected > 1e-3 * expected[0]
    assert used.sum() >= 7
    np.testing.assert_allclose(ours.explained_variance_[used], expected[used], rtol=digits)


@pytest.mark.slow
@given(st.lists(st.integers(1, 900), min_size=1, max_size=30),
       st.sampled_from(["float64", "float32"]))
@settings(max_examples=20, deadline=None)
def test_cuts_do_not_matter_in_any_bit(lengths, mode):
    x = correlated(2 * ROWS + 123, 5, seed=8)
    starts = np.minimum(np.cumsum([0, *lengths]), len(x))
    parts = [x[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)] + [x[starts[-1]:]]
    ours, whole = StreamingPCA(3, mode).fit(iter(parts)), StreamingPCA(3, mode).fit([x])
    one = StreamingPCA(3, mode).fit([x], threads=1)
    for name in ("mean_", "scale_", "components_", "explained_variance_"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(one, name), getattr(whole, name))


def test_any_number_of_rows_is_used_up():
    """Published defect 11: only an exact multiple of the batch size ever ended the reading."""
    for n in (1024, 1025, 500, ROWS, ROWS + 1):
        x = correlated(n, 4)
        ours = StreamingPCA(2).fit(cut(x, 1024))
        assert ours.n_samples_ == n
        np.testing.assert_allclose(ours.mean_, x.mean(axis=0), rtol=1e-9)


@pytest.mark.parametrize("mode", ["float64", "float32"])
def test_one_pass_and_never_the_whole_matrix(mode):
    """Published defects 10 and 11: an n × n matrix, or all rows at once."""
    n, d, size = 200_000, 32, 2000
    started = []

    def rows():
        started.append(1)
        rng = np.random.default_rng(1)
        for _ in range(n // size):
            yield rng.normal(size=(size, d)).astype(np.float32)

    tracemalloc.start()
    ours = StreamingPCA(8, mode).fit(rows(), threads=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(started) == 1
    assert ours.n_samples_ == n
    assert peak < n * d * 4 / 5  # 25.6 MB of rows; the blocks take about 3


@pytest.mark.slow
@given(st.integers(0, 100_000), st.integers(2, 40), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_properties_of_any_fit(seed, n, d):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(n, d)).astype(float)  # constant and equal columns happen
    kept = int(rng.integers(1, min(n, d) + 1))
    ours = StreamingPCA(kept).fit([x])
    np.testing.assert_allclose(ours.components_ @ ours.components_.T, np.eye(kept), atol=1e-9)
    assert (np.diff(ours.explained_variance_) <= 1e-12).all()
    assert (ours.explained_variance_ >= 0).all()
    assert ours.explained_variance_ratio_.sum() <= 1 + 1e-9
    size = np.abs(ours.components_)
    for row, sizes in zip(ours.components_, size, strict=True):
        leading = next(i for i in range(d) if sizes[i] >= 0.999 * sizes.max())
        assert row[leading] > 0
    scores = ours.transform(x)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(scores.var(axis=0, ddof=1), ours.explained_variance_, atol=1e-8)
    assert (ours.scale_ > 0).all()
    varying = int((x != x[0]).any(axis=0).sum())
    total = float(ours.total_variance_)
    assert total == pytest.approx(varying * n / (n - 1), abs=1e-8)


def test_sign_convention_does_not_depend_on_the_rows_order():
    x = correlated(1000, 8)
    forward, backward = StreamingPCA(8).fit([x]), StreamingPCA(8).fit([x[::-1]])
    np.testing.assert_allclose(forward.components_, backward.components_, atol=1e-8)


def test_the_leading_entry_is_positive():
    vectors = np.array([[0.1, -0.9, 0.3], [-0.8, 0.3, -0.5], [0.5, 0.2, -0.4]])
    assert signs(vectors).tolist() == [-1.0, -1.0, -1.0]
    assert signs(-vectors).tolist() == [1.0, 1.0, 1.0]
    for noise in (-1e-6, 0, 1e-6):  # as large as the largest: the first one leads
        assert signs(np.array([[-0.5 + noise], [0.5], [0.5]])).tolist() == [-1.0]
    assert signs(np.array([[-0.5], [0.51]])).tolist() == [1.0]


def test_two_standardised_columns_have_signs_too():
    """Both directions are (±1, ±1) / √2: rounding decided their signs where the largest led."""
    half = np.sqrt(0.5)
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(50, 2)) @ [[1, 0.6], [0, 1]]
        for mode in ("float64", "float32"):
            found = StreamingPCA(2, mode).fit([x]).components_
            np.testing.assert_allclose(found, [[half, half], [half, -half]], atol=1e-6)


def test_constant_columns():
    x = correlated(400, 6)
    x[:, 1], x[:, 4] = 0.1, 1e8 + 0.3
    ours = StreamingPCA(4).fit(cut(x, 33))
    assert ours.scale_[[1, 4]].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(ours.components_[:, [1, 4]], 0, atol=1e-12)
    assert ours.explained_variance_ratio_.sum() == pytest.approx(1)
    late = np.zeros((2 * ROWS, 3))
    late[:, 0], late[-1, 1] = np.arange(len(late)), 5.0
    assert StreamingPCA(2).fit([late]).scale_[1] == pytest.approx(late[:, 1].std())
    same = StreamingPCA(1).fit([np.ones((5, 2))])
    assert same.explained_variance_ratio_.tolist() == [0.0]


def test_a_column_that_changes_by_rounding_alone_is_constant():
    x = correlated(400, 3)
    x[:, 1] = 0.3
    x[::2, 1] = 0.1 + 0.2
    ours = StreamingPCA(2).fit([x])
    assert ours.scale_[1] == 1.0
    assert ours.components_[:, 1].tolist() == [0.0, 0.0]


def test_centred_only():
    x = correlated(500, 5)
    ours = StreamingPCA(5, standardize=False).fit([x])
    np.testing.assert_allclose(ours.explained_variance_,
                               np.linalg.eigvalsh(np.cov(x.T))[::-1], rtol=1e-8, atol=1e-10)
    assert ours.scale_.tolist() == [1.0] * 5


def test_types_of_rows():
    x = np.random.default_rng(0).integers(-300, 300, size=(200, 4))
    expected = StreamingPCA(2).fit([x.astype(float)])
    for kind in (np.int16, np.int64, np.float32):
        ours = StreamingPCA(2).fit([x.astype(kind)])
        np.testing.assert_allclose(ours.explained_variance_, expected.explained_variance_,
                                   rtol=1e-9)
    assert expected.transform(x.astype(np.float32)).dtype == np.float32
    assert expected.transform(x.astype(np.int16)).dtype == np.float64
    assert expected.transform(x[:0].astype(np.float32)).shape == (0, 2)


def test_progress_counts_rows():
    seen = []
    StreamingPCA(2).fit(cut(correlated(10_000, 3), 700), on_rows=seen.append)
    assert seen == [4096, 4096, 1808]


def test_refusals():
    x = correlated(20, 6)
    with pytest.raises(InputError, match="cannot keep 7 components of 20 rows with 6 columns"):
        StreamingPCA(7).fit([x])
    with pytest.raises(InputError, match="cannot keep 6 components of 4 rows with 6 columns"):
        StreamingPCA(6).fit([x[:4]])
    with pytest.raises(InputError, match="cannot fit a PCA to 1 rows"):
        StreamingPCA(1).fit([x[:1]])
    with pytest.raises(InputError, match="cannot fit a PCA to 0 rows"):
        StreamingPCA(1).fit(iter([]))
    with pytest.raises(InputError, match="unknown mode 'half'"):
        StreamingPCA(1, "half").fit([x])
    with pytest.raises(InputError, match="n_components is 0"):
        StreamingPCA(0).fit([x])
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[13, 2] = bad
        with pytest.raises(InputError, match="NaN or infinite values in rows 0 to 19"):
            StreamingPCA(2).fit([broken])
    with pytest.raises(InputError, match="differ in row length"):
        StreamingPCA(2).fit([x, x[:, :4]])
    with pytest.raises(ValueError, match="is expecting 6 features"):
        StreamingPCA(2).fit([x]).transform(x[:, :5])
    with pytest.raises(NotFittedError, match="not fitted"):
        StreamingPCA(2).transform(x)


def test_spectrum_holds_all_directions_and_begins_with_the_kept_ones():
    x = np.random.default_rng(5).normal(size=(60, 9)) @ np.diag(np.arange(1.0, 10.0))
    pca = StreamingPCA(4, standardize=False).fit([x])
    assert pca.spectrum_.shape == (9,)
    np.testing.assert_array_equal(pca.spectrum_[:4], pca.explained_variance_ratio_)
    assert pca.spectrum_.sum() == pytest.approx(1.0, abs=1e-12)
    expected = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(pca.spectrum_, expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize("kept", [2.0, 0.95, "mle", True, -1, np.float64(2)])
def test_a_number_of_components_that_is_not_whole_is_refused_before_any_pass(kept):
    def pass_over_rows():
        raise AssertionError("the rows were read")

    for method in ("fit", "partial_fit"):
        with pytest.raises(InputError, match="n_components is") as refused:
            getattr(StreamingPCA(kept), method)(pass_over_rows)
        assert refused.value.allowed == "a whole number from 1, or None for all directions"
