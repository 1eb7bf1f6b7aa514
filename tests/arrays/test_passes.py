"""Passes over the rows: every block once, in order, the same bits on any number of cores."""

import numpy as np
import pytest

from l3hpc.arrays import passes
from l3hpc.arrays.features import FeatureRows, features
from l3hpc.arrays.passes import map_blocks, reproducible_blas
from l3hpc.arrays.rows import ArrayRows, ChunkRows
from l3hpc.sampling.kdpp import KDPP
from l3hpc.sampling.projection_dpp import leverage_bounds

DOUBLE = np.dtype(np.float64)


def embeddings(n=7000, d=48, seed=0):
    rng = np.random.default_rng(seed)
    return np.abs(rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5).astype(np.float32)


@pytest.fixture(params=[1, 2, 5])
def cores(request, monkeypatch):
    monkeypatch.setattr(passes, "allocated_cores", lambda: request.param)
    return request.param


@pytest.mark.parametrize("n", [1, 5, 2047, 2048, 2049, 7000])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_every_row_once_and_in_order(n, kind, cores):
    x = embeddings(n)
    found = list(map_blocks(ArrayRows(x), lambda block: block, np.dtype(kind)))
    assert all(block.dtype == kind for block in found)
    assert all(len(block) == passes.BLOCK_ROWS for block in found[:-1])
    np.testing.assert_array_equal(np.concatenate(found), x.astype(kind))


def test_features_are_made_of_the_right_rows(cores):
    x, quality = embeddings(), np.random.default_rng(1).uniform(0, 1, 7000)
    for norm in ("l2", "l1", "none"):
        rows = FeatureRows(x, quality, norm)
        found = np.concatenate(list(map_blocks(rows, lambda block: block, DOUBLE)))
        np.testing.assert_array_equal(found, features(x, quality, norm))


def test_a_source_may_fill_one_buffer_again_and_again(cores):
    x = embeddings()

    def refilled():
        buffer = np.empty((300, 48), np.float32)
        for start in range(0, len(x), 300):
            count = min(300, len(x) - start)
            buffer[:count] = x[start:start + count]
            yield buffer[:count]

    for size in (300, 2048):
        buffers = ChunkRows(refilled if size == 300 else lambda: whole(x, 2048), x.shape)
        found = np.concatenate(list(map_blocks(buffers, lambda block: block, DOUBLE)))
        np.testing.assert_array_equal(found, x)


def whole(x, size):
    buffer = np.empty((size, x.shape[1]), np.float32)
    for start in range(0, len(x), size):
        count = min(size, len(x) - start)
        buffer[:count] = x[start:start + count]
        yield buffer[:count]


def test_types_may_change_between_blocks():
    x = embeddings(5000)
    mixed = ChunkRows(lambda: iter([x[:2048], x[2048:4096].astype(np.float64), x[4096:]]), x.shape)
    found = np.concatenate(list(map_blocks(mixed, lambda block: block, DOUBLE)))
    np.testing.assert_array_equal(found, x)


def test_the_same_bits_on_any_number_of_cores(monkeypatch):
    x = embeddings(9000, 160)
    results = []
    for cores in (1, 2, 3, 7):
        monkeypatch.setattr(passes, "allocated_cores", lambda cores=cores: cores)
        dpp = KDPP(FeatureRows(x), 0.001)
        mapping = dpp._vectors[:, -90:] / np.sqrt(dpp.eigenvalues_[-90:])
        bounds = leverage_bounds(FeatureRows(x), mapping, float(dpp.eigenvalues_.sum()))
        drawn = dpp.sample(120, 3)
        results.append((dpp.eigenvalues_, dpp._vectors, bounds, drawn, dpp.log_likelihood_))
    for other in results[1:]:
        for one, again in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, again)


@pytest.mark.slow
def test_wide_rows_get_fewer_workers_not_more_memory(monkeypatch):
    """At 6,144 columns the products of one worker alone are 302 MB."""
    asked = []
    inner = passes.pull_in_order
    monkeypatch.setattr(passes, "pull_in_order", lambda work, items, threads: asked.append(threads)
                        or inner(work, items, threads))
    monkeypatch.setattr(passes, "allocated_cores", lambda: 16)
    for d, most in ((48, 4), (512, 8), (2048, 1), (6144, 1)):
        list(map_blocks(ArrayRows(np.ones((8192, d), np.float32)), len, DOUBLE))
        assert asked[-1] <= most, d
    assert asked == [4, 4, 1, 1]


def test_blas_is_kept_to_one_thread_up_to_a_size(monkeypatch):
    from threadpoolctl import threadpool_info

    monkeypatch.setattr(passes, "allocated_cores", lambda: 3)

    def threads():
        return {info["num_threads"] for info in threadpool_info()
                if info["user_api"] == "blas" and "numpy" in info["filepath"]}

    before = threads()
    with reproducible_blas(passes.ALONE):
        assert threads() == {1}
    with reproducible_blas(passes.ALONE + 1):
        assert threads() == {3}
    assert threads() == before


def test_an_error_of_a_block_is_raised(cores):
    x = embeddings()
    x[6000, 3] = np.nan
    with pytest.raises(Exception, match="NaN or infinite"):
        list(map_blocks(FeatureRows(x), lambda block: block, DOUBLE))
