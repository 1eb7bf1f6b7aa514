"""Rows on directions: the definition, in any cuts, on any number of threads, for any mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.reduction import projection as module
from l3hpc.reduction.projection import Projection


def some(d=7, kept=3, mean=5.0, seed=0):
    rng = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(rng.normal(size=(d, d)))
    arrays = rng.normal(size=d) * mean, rng.uniform(0.5, 2, size=d), directions[:kept]
    return Projection(*arrays), arrays


def expected(x, arrays):
    mean, scale, components = (array.astype(np.longdouble) for array in arrays)
    return ((x.astype(np.longdouble) - mean) / scale @ components.T).astype(float)


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 5000])
def test_the_definition(n):
    ours, arrays = some()
    x = np.random.default_rng(n).normal(size=(n, 7)) + arrays[0]
    np.testing.assert_allclose(ours.transform(x), expected(x, arrays), rtol=1e-12, atol=1e-13)
    assert ours.transform(x).dtype == np.float64
    single = x.astype(np.float32)
    np.testing.assert_allclose(ours.transform(single), expected(single, arrays), atol=5e-6)
    assert ours.transform(single).dtype == np.float32
    streamed = np.concatenate([np.empty((0, 3)), *(
        block.copy() for block in ours.stream([single], threads=2))])
    np.testing.assert_array_equal(streamed, ours.transform(single))


def test_whole_numbers_are_projected_in_double_precision():
    ours, arrays = some(mean=0.001)
    x = np.random.default_rng(0).integers(-9, 9, size=(40, 7))
    np.testing.assert_allclose(ours.transform(x), expected(x, arrays), rtol=1e-12, atol=1e-13)


def test_a_mean_that_float32_cannot_hold_shifts_no_score():
    rng = np.random.default_rng(2)
    ours, arrays = some(mean=1e5)
    near = arrays[0].astype(np.float32)
    x = near + (rng.integers(-64, 65, size=(300, 7)) / 64).astype(np.float32)  # exact in float32
    assert np.abs(near - arrays[0]).max() > 1e-4
    np.testing.assert_allclose(ours.transform(x), expected(x, arrays), atol=5e-6)
    streamed = next(iter(ours.stream([x])))
    assert streamed.dtype == np.float32
    np.testing.assert_allclose(streamed, expected(x, arrays), atol=5e-6)


@pytest.mark.slow
@given(st.lists(st.integers(1, 90), max_size=12), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_neither_cuts_nor_threads_matter_in_any_bit(lengths, threads):
    x = np.random.default_rng(8).normal(size=(500, 7)).astype(np.float32)
    starts = np.minimum(np.cumsum([0, *lengths]), len(x))
    parts = [x[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)] + [x[starts[-1]:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", 64)
        ours = some()[0]
        one = np.concatenate([block.copy() for block in ours.stream(parts, threads)])
        whole = np.concatenate([block.copy() for block in ours.stream([x], 1)])
    assert len(one) == 500
    np.testing.assert_array_equal(one, whole)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_of_an_array_are_projected_by_all_cores_in_the_same_bits(monkeypatch, dtype):
    x = np.random.default_rng(8).normal(size=(2000, 7)).astype(dtype)
    ours = some()[0]
    seen = []
    inner = module.map_in_order

    def watched(work, items, threads):
        seen.append(threads)
        return inner(work, items, threads)

    monkeypatch.setattr(module, "map_in_order", watched)
    scores = []
    for cores in (1, 3):
        monkeypatch.setattr(module, "available_threads", lambda cores=cores: cores)
        scores.append(ours.transform(x))
    assert seen == [1, 3]
    np.testing.assert_array_equal(*scores)
    ours.transform(x[:1000])  # one block: no thread is worth while
    assert seen == [1, 3]


def test_other_lengths_are_refused():
    ours, _ = some()
    for wrong in (np.zeros((3, 6)), np.zeros(7), np.zeros((3, 8), np.float32)):
        with pytest.raises(InputError, match="expected rows of length 7"):
            ours.transform(wrong)
    with pytest.raises(InputError, match="expected rows of length 7, found an array of shape"):
        list(ours.stream([np.zeros((3, 6), np.float32)]))
