"""Means and scatter in one pass: the definition, whatever the cuts, the drift and the means."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from l3hpc.errors import InputError
from l3hpc.reduction import moments as module
from l3hpc.reduction.moments import moments

KINDS = [np.float64, np.float32]
DIGITS = {np.float64: 1e-12, np.float32: 2e-6}


def sure(x):
    """Mean and scatter by the definition, in the longest floats there are."""
    x = x.astype(np.longdouble)
    mean = x.mean(axis=0)
    return mean.astype(float), ((x - mean).T @ (x - mean)).astype(float)


def agrees(found, x, digits):
    mean, scatter = sure(x)
    size = np.sqrt(np.outer(np.diag(scatter), np.diag(scatter)))
    assert found.count == len(x)
    assert (np.abs(found.scatter - scatter) <= digits * size + 1e-18).all()
    np.testing.assert_allclose(found.mean, mean, rtol=1e-14,
                               atol=digits * np.sqrt(np.diag(scatter).max() / len(x)))


@pytest.fixture
def small(monkeypatch):
    """Many blocks from few rows, with flushes in between."""
    monkeypatch.setattr(module, "PIECE_ROWS", 8)
    monkeypatch.setattr(module, "BLOCK_PIECES", {np.dtype(kind): 2 for kind in KINDS})
    monkeypatch.setattr(module, "MEANS_AT_ONCE", 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 16 * 3, 16 * 7 + 5])
def test_the_definition(small, kind, n):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 5)) * [1, 10, 0.1, 1, 3] + [0, 1, -5, 2, 30]
    agrees(moments([x], kind), x, DIGITS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [1.0, 1e3, 1e6])
def test_large_means_cost_no_digits(small, kind, offset):
    x = np.random.default_rng(3).normal(size=(500, 4)) + offset * np.arange(1, 5)
    agrees(moments([x], kind), x, DIGITS[kind] if offset < 1e6 else max(1e-10, DIGITS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_means_that_drift_from_block_to_block_cost_no_digits(small, kind):
    """Recordings follow each other: a first block of silence must not set the shift of all."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(16 * 200, 3)) + 1000.0
    x[:16] = rng.normal(size=(16, 3)) * 1e-3
    agrees(moments([x], kind), x, DIGITS[kind])
    walk = np.repeat(np.cumsum(rng.normal(size=(200, 3)) * 50, axis=0), 16, axis=0)
    agrees(moments([x[16:] + walk[16:]], kind), x[16:] + walk[16:], DIGITS[kind])


def test_the_middle_of_a_drift_keeps_the_digits_of_single_precision(small):
    """Within blocks the rows differ by 1, between them by 10⁴: only float32 rows about the mean
    of their own block still know the correlation within."""
    rng = np.random.default_rng(5)
    steps = np.repeat(rng.permuted(np.arange(100.0)) * 1e4, 16)[:, None]
    inside = rng.normal(size=(1600, 2)) @ [[1, 0.9], [0, 0.3]]
    x = np.hstack([inside, inside[:, :1] + steps])
    found, (_, scatter) = moments([x], np.float32), sure(x)
    np.testing.assert_allclose(found.scatter[:2, :2], scatter[:2, :2], rtol=1e-6)
    np.testing.assert_allclose(found.scatter[2, 2], scatter[2, 2], rtol=1e-12)


@pytest.mark.slow
@given(st.lists(st.integers(1, 70), max_size=12), st.sampled_from(KINDS), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_neither_cuts_nor_threads_matter_in_any_bit(lengths, kind, threads):
    x = np.random.default_rng(8).normal(size=(700, 6)).astype(np.float32)
    starts = np.minimum(np.cumsum([0, *lengths]), len(x))
    parts = [x[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)] + [x[starts[-1]:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_ROWS", 32)
        patch.setattr(module, "MEANS_AT_ONCE", 4)
        ours, whole = moments(parts, kind, threads=threads), moments([x], kind, threads=1)
    np.testing.assert_array_equal(ours.scatter, whole.scatter)
    np.testing.assert_array_equal(ours.mean, whole.mean)


def test_each_product_has_one_thread(monkeypatch):
    """What makes the bits independent of the machine, and cores wait for nothing."""
    seen = []
    multiply = module._multiply

    def watched(block):
        seen.append({info["num_threads"] for info in threadpool_info()
                     if info["user_api"] == "blas"})
        return multiply(block)

    monkeypatch.setattr(module, "_multiply", watched)
    moments([np.ones((9000, 3))], threads=3)
    assert seen == [{1}] * 3


def test_wide_rows_take_fewer_threads_and_the_same_sums(monkeypatch):
    x = np.random.default_rng(1).normal(size=(9000, 30))
    expected = moments([x], threads=4)
    seen = []
    monkeypatch.setattr(module, "BUFFER_BYTES", 1)
    monkeypatch.setattr(module, "pull_in_order", lambda work, items, threads: (
        seen.append(threads), map(work, items))[1])
    np.testing.assert_allclose(moments([x], threads=4).scatter, expected.scatter, rtol=1e-10,
                               atol=1e-8)
    assert seen == [1]


def test_constant_columns_are_named(small):
    x = np.random.default_rng(0).normal(size=(200, 6))
    x[:, 1], x[:, 3] = 0.1, 1e30
    x[:, 4] = 7
    x[-1, 4] = 7.0000001
    x[:, 5] = np.arange(200) // 8  # constant within each piece
    assert moments([x]).constant.tolist() == [False, True, False, True, False, False]


def test_whole_numbers_and_half_floats():
    x = np.random.default_rng(0).integers(-300, 300, size=(3000, 4))
    for kind in (np.int16, np.int64, np.uint16, np.float16, np.float32):
        y = np.abs(x).astype(kind) if kind == np.uint16 else x.astype(kind)
        agrees(moments([y]), y.astype(float), 1e-12)
    big = np.full((4096, 2), 60000, np.float16)  # their sum is not a half float
    big[::2] = 0
    agrees(moments([big]), big.astype(float), 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_refused_with_its_place(small, bad, kind):
    x = np.random.default_rng(0).normal(size=(100, 3))
    x[37, 1] = bad
    with pytest.raises(InputError, match="NaN or infinite values in rows 32 to 47"):
        moments([x], kind)


def test_what_cannot_be_squared_is_refused(small):
    x = np.random.default_rng(0).normal(size=(100, 3)) * 1e25
    with pytest.raises(InputError, match="too large to be squared in float32"):
        moments([x], np.float32)
    agrees(moments([x]), x, 1e-12)


def test_no_rows():
    found = moments(iter([]))
    assert (found.count, found.mean.shape, found.scatter.shape) == (0, (0,), (0, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_rows(monkeypatch, kind):
    monkeypatch.setattr(module, "PIECE_ROWS", 64)
    d = 32

    def peak(pieces):
        tracemalloc.start()
        rng = np.random.default_rng(1)
        found = moments((rng.normal(size=(1000, d)).astype(np.float32) for _ in range(pieces)),
                        kind, threads=2)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.count == pieces * 1000
        return most

    few, many = peak(20), peak(160)
    assert many < few * 1.1
