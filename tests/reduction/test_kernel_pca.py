"""Kernel PCA: scikit-learn's numbers exactly, and close to them with fewer landmarks than rows."""

import numpy as np
import pytest
from sklearn.decomposition import KernelPCA
from sklearn.preprocessing import StandardScaler

from l3hpc.arrays.rows import ChunkRows
from l3hpc.errors import InputError
from l3hpc.reduction import kernel_fit
from l3hpc.reduction.kernel_pca import StreamingKernelPCA
from l3hpc.reduction.kernel_projection import BLOCK_ROWS, KernelProjection
from l3hpc.reduction.kernels import Kernel

KERNELS = {"rbf": {"kernel": "rbf"}, "narrow": {"kernel": "rbf", "gamma": 0.5},
           "poly": {"kernel": "poly"},
           "square": {"kernel": "poly", "gamma": 0.2, "degree": 2, "coef0": 0.0}}


def rows(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    mixed = np.tanh(rng.normal(size=(n, d)) @ rng.normal(size=(d, d))) * np.arange(1, d + 1) + 3
    return mixed.astype(np.float32)


def reference(x, kept, settings):
    """scikit-learn's scores of standardised rows, their transform, and its eigenvalues."""
    scaler = StandardScaler().fit(x.astype(float))
    model = KernelPCA(kept, eigen_solver="dense", **settings)
    scores = model.fit_transform(scaler.transform(x.astype(float)))
    total = np.trace(model._centerer.fit_transform(
        model._get_kernel(scaler.transform(x.astype(float)))))
    return scores, lambda new: model.transform(scaler.transform(new.astype(float))), \
        model.eigenvalues_, total


@pytest.mark.slow
@pytest.mark.parametrize("settings", KERNELS.values(), ids=KERNELS)
def test_all_rows_give_what_scikit_learn_gives(settings):
    x, new = rows(), rows(50, seed=1)
    scores, transform, values, total = reference(x, 5, settings)
    ours = StreamingKernelPCA(5, **settings).fit(x)
    assert ours.exact_
    # scikit-learn has the same rule for signs, up to entries that are almost as large
    turn = np.sign((ours.transform(x.astype(float)) * scores).sum(axis=0))
    np.testing.assert_allclose(ours.transform(x.astype(float)), scores * turn, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.transform(new.astype(float)), transform(new) * turn,
                               rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.explained_variance_, values / (len(x) - 1), rtol=1e-10)
    np.testing.assert_allclose(ours.explained_variance_ratio_, values / total, rtol=1e-9)
    single = ours.transform(new)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, transform(new) * turn, atol=1e-4 * np.abs(scores).max())


def spectrum(*values):
    """A symmetric matrix (120, 120) with these eigenvalues, the others being 0.1."""
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(120, 120)))[0]
    return (basis * np.append(values, np.full(120 - len(values), 0.1))) @ basis.T


@pytest.mark.parametrize(("values", "is_found"), [
    ((9, 7, 5, 4, 3, 2), True),
    ((9, 9, 9, 4, 3, 2), None),  # it may find all three, or the matrix shows that it did not
    ((9, 7, 5, 0, 0, 0), True),  # the others repeat 0.1
])
def test_lanczos_finds_the_largest_or_says_that_it_does_not(values, is_found):
    found = kernel_fit._lanczos(spectrum(*values), 4)
    assert found is not None or is_found is None
    if found is not None:
        expected, _ = kernel_fit._leading(spectrum(*values), 4)
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(spectrum(*values) @ found[1], found[1] * found[0], atol=1e-12)
        np.testing.assert_allclose(found[1].T @ found[1], np.eye(4), atol=1e-12)


def test_lanczos_refuses_what_misses_an_eigenvalue_or_is_rounding(monkeypatch):
    from scipy.sparse import linalg

    inner = linalg.eigsh

    def misses_the_second(matrix, count, **settings):
        values, vectors = inner(matrix, count + 1, **settings)
        return np.delete(values, -2), np.delete(vectors, -2, axis=1)

    assert kernel_fit._lanczos(spectrum(9, 7, 5, 4, 3, 2) - 0.1 * np.eye(120), 6) is not None
    assert kernel_fit._lanczos(spectrum(9, 7, 5, 4, -3, 2), 6) is not None
    assert kernel_fit._lanczos(-spectrum(9, 7, 5, 4, 3, 2), 2) is None
    assert kernel_fit._lanczos(spectrum(9, 7, 5, 4, 3, 2) - 0.1 * np.eye(120), 7) is None
    monkeypatch.setattr(linalg, "eigsh", misses_the_second)
    assert kernel_fit._lanczos(spectrum(9, 7, 5, 4, 3, 2), 4) is None


@pytest.mark.parametrize("is_missed", [False, True])
def test_large_matrices_give_the_same_by_lanczos(monkeypatch, is_missed):
    x = np.random.default_rng(0).normal(size=(160, 12))
    expected = StreamingKernelPCA(5).fit(x)
    calls = []
    inner = kernel_fit._lanczos

    def lanczos(matrix, count):
        calls.append(count)
        found = inner(matrix, count)
        return None if is_missed else found

    monkeypatch.setattr(kernel_fit, "LANCZOS_SIDE", 100)
    monkeypatch.setattr(kernel_fit, "_lanczos", lanczos)
    found = StreamingKernelPCA(5).fit(x)
    assert calls == [5]
    for name in ("explained_variance_", "explained_variance_ratio_", "centre_", "weights_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-10)


def test_the_largest_score_of_a_landmark_is_positive():
    for landmarks in (400, 150):
        scores = StreamingKernelPCA(4, landmarks=landmarks).fit(rows()).transform(
            StreamingKernelPCA(4, landmarks=landmarks).fit(rows()).landmarks_)
        assert (scores[np.abs(scores).argmax(axis=0), np.arange(4)] > 0).all()


@pytest.mark.parametrize("settings", KERNELS.values(), ids=KERNELS)
def test_landmarks_are_the_kernel_pca_of_the_kernel_that_they_express(settings):
    """By brute force: the Nyström kernel of all pairs of rows, centred, and its eigenvectors."""
    x, new = rows(150).astype(float), rows(30, seed=1).astype(float)
    ours = StreamingKernelPCA(3, landmarks=60, **settings).fit(x)
    assert not ours.exact_ and len(ours.landmarks_) == 60
    scaler = StandardScaler().fit(x)
    x, new, marks = map(scaler.transform, (x, new, ours.landmarks_))
    kernel = ours.kernel_
    inverse = np.linalg.pinv(kernel(marks, marks), rcond=1e-12, hermitian=True)
    gram = kernel(x, marks) @ inverse @ kernel(marks, x)
    centring = np.eye(len(x)) - 1 / len(x)
    values, vectors = np.linalg.eigh(centring @ gram @ centring)
    values, vectors = values[:-4:-1], vectors[:, :-4:-1]
    expected = (kernel(new, marks) @ inverse @ kernel(marks, x) - gram.mean(axis=0)) @ centring \
        @ vectors / np.sqrt(values)
    found = ours.transform(scaler.inverse_transform(new))
    turn = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * turn, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(ours.explained_variance_, values / (len(x) - 1), rtol=1e-6)
    whole = centring @ kernel(x, x) @ centring
    assert (ours.explained_variance_ratio_ <= values / np.trace(whole) * (1 + 1e-9)).all()


def test_the_scatter_of_kernels_gives_what_that_of_features_gives(monkeypatch):
    """Where the kernel of the landmarks is well conditioned; elsewhere it is not used."""
    x = np.random.default_rng(0).normal(size=(400, 8))
    found = {gamma: StreamingKernelPCA(5, gamma=gamma, landmarks=150).fit(x)
             for gamma in (1 / 8, 1e-3)}  # condition 5e3 and 2e11
    monkeypatch.setattr(kernel_fit, "DIRECT_CONDITION", 0)
    for gamma, ours in found.items():
        by_features = StreamingKernelPCA(5, gamma=gamma, landmarks=150).fit(x)
        for name in ("explained_variance_", "explained_variance_ratio_", "centre_", "weights_"):
            one, other = getattr(ours, name), getattr(by_features, name)
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())
        same = np.array_equal(ours.weights_, by_features.weights_)
        assert same == (gamma == 1e-3)


def test_repeated_landmarks_are_no_obstacle():
    """Their kernel has no Cholesky factor, or one of rounding errors."""
    x = np.repeat(np.random.default_rng(0).normal(size=(60, 4)), 3, axis=0)
    standard = StandardScaler().fit_transform(x)
    features, is_direct = kernel_fit._features_of(Kernel("rbf", 0.25), standard, 5)
    assert not is_direct and features.shape == (180, 60)
    features, is_direct = kernel_fit._features_of(Kernel("rbf", 0.25), standard[::3], 5)
    assert is_direct and features.shape == (60, 60)
    gram = Kernel("rbf", 0.25)(standard[::3], standard[::3])
    np.testing.assert_allclose(features @ features.T @ gram, np.eye(60), atol=1e-9)


@pytest.mark.parametrize("gamma", [1 / 8, 1e-3])
def test_a_fit_depends_on_neither_cuts_nor_threads(gamma):
    x = rows(2 * BLOCK_ROWS + 100)
    one, other = (StreamingKernelPCA(3, gamma=gamma, landmarks=60).fit(
        ChunkRows(lambda cuts=cuts: np.split(x, cuts)), threads=threads)
        for cuts, threads in (((7, 600), 1), ((500, 900), 3)))
    for name in ("explained_variance_", "explained_variance_ratio_", "centre_", "weights_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_more_landmarks_come_closer():
    x = rows(600)
    exact = StreamingKernelPCA(3).fit(x)
    errors = []
    for landmarks in (30, 120, 480):
        ours = StreamingKernelPCA(3, landmarks=landmarks).fit(x)
        found, expected = ours.transform(x), exact.transform(x)
        turn = np.sign((found * expected).sum(axis=0))
        errors.append(np.linalg.norm(found - expected * turn) / np.linalg.norm(expected))
        assert ours.explained_variance_.sum() < exact.explained_variance_.sum()
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[2] < 1e-2


def test_landmarks_are_those_of_the_seed_and_of_no_cut():
    x = rows()
    one, again, other = (StreamingKernelPCA(2, landmarks=50, seed=seed).fit(source)
                         for seed, source in ((1, x), (1, ChunkRows(lambda: np.split(x, 8))),
                                              (2, x)))
    np.testing.assert_array_equal(one.landmarks_, again.landmarks_)
    np.testing.assert_array_equal(one.weights_, again.weights_)
    assert (one.landmarks_ != other.landmarks_).any()


def test_streamed_scores_depend_on_neither_cuts_nor_threads():
    x = rows(2 * BLOCK_ROWS + 100)
    ours = StreamingKernelPCA(3, landmarks=40).fit(x)
    projection = KernelProjection(ours.kernel_, ours.mean_, ours.scale_, ours.landmarks_,
                                  ours.centre_, ours.weights_)
    whole = projection.transform(x)
    for cuts, threads in (((7, 600), 1), ((500, 900), 3)):
        streamed = np.concatenate(list(projection.stream(np.split(x, cuts), threads)))
        np.testing.assert_array_equal(streamed, whole)


def test_constant_columns_and_repeated_rows_add_nothing():
    x = np.column_stack([rows(40, 3), np.full(40, 7.0)])
    twice = np.repeat(x, 2, axis=0)
    ours = StreamingKernelPCA(60).fit(twice)  # of 80 rows, 40 differ: 39 directions
    assert (ours.explained_variance_[:39] > 0).all()
    assert (ours.explained_variance_[39:] == 0).all() and (ours.transform(x)[:, 39:] == 0).all()
    np.testing.assert_allclose(ours.explained_variance_ratio_.sum(), 1)


@pytest.mark.parametrize(("settings", "message"), [
    ({"kernel": "linear"}, "unknown kernel 'linear'"), ({"gamma": 0.0}, "gamma is 0"),
    ({"degree": 0}, "degree is 0"), ({"coef0": -1.0}, "coef0 is -1"),
    ({"landmarks": 2}, "3 components of 2 landmarks"), ({"n_components": 41}, "of 40 rows")])
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        StreamingKernelPCA(**{"n_components": 3, **settings}).fit(rows(40))


def test_values_that_are_not_finite_are_refused():
    x = rows(40)
    x[3, 2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        StreamingKernelPCA(2).fit(x)


def test_too_few_directions_for_the_components_are_refused():
    with pytest.raises(InputError, match="has 4 directions, fewer than the 5 components"):
        StreamingKernelPCA(5, "poly", degree=1, landmarks=30).fit(rows(60, 3))


def test_the_diagonal_is_that_of_the_kernel():
    x = rows(20).astype(float)
    for kernel in (Kernel("rbf", 0.3), Kernel("poly", 0.3), Kernel("poly", 2.0, 1, 0.0)):
        np.testing.assert_allclose(kernel.diagonal(x), np.diag(kernel(x, x)))


@pytest.mark.parametrize("settings", [{"gamma": np.inf}, {"gamma": np.nan}, {"coef0": np.inf},
                                      {"degree": 11}, {"degree": 2.5}, {"gamma": "x"}])
def test_settings_that_are_no_kernel_are_refused(settings):
    with pytest.raises(InputError, match=f"{next(iter(settings))} is"):
        StreamingKernelPCA(2, "poly", **settings).fit(rows(20, 3))


def test_one_row_is_refused():
    with pytest.raises(InputError, match="from 1 row\n2 rows or more"):
        StreamingKernelPCA(1).fit(rows(1, 3))
