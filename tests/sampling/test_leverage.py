"""Leverage bounds: never below the exact score, whichever precision the pass ran in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.arrays.features import FeatureRows, features
from l3hpc.arrays.rows import ArrayRows
from l3hpc.sampling import projection_dpp
from l3hpc.sampling.kdpp import KDPP
from l3hpc.sampling.projection_dpp import leverage_bounds


def exact(b, mapping):
    projected = b.astype(np.longdouble) @ mapping.astype(np.longdouble)
    return np.asarray((projected ** 2).sum(axis=1))


def mapping_of(b, m):
    values, vectors = np.linalg.eigh(b.T @ b)
    return vectors[:, -m:] / np.sqrt(values[-m:]), float(values.sum())


@given(st.integers(0, 10_000), st.integers(0, 9), st.sampled_from(["l2", "l1", "none"]),
       st.sampled_from([1e-30, 1e-8, 1.0, 1e9, 1e25]), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=60, deadline=None)
def test_bounds_hold_and_are_close(seed, spread, norm, unit, kind):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(500, 24)) * np.logspace(0, -spread, 24) * unit).astype(kind)
    x[rng.integers(0, 500, 3)] = 0
    x[rng.integers(0, 500, 20)] *= 1e-4
    quality = rng.uniform(0, 1, 500)
    rows = FeatureRows(x, quality, norm)
    b = features(x, quality, norm)
    mapping, trace = mapping_of(b, int(rng.integers(1, 13)))
    bounds = leverage_bounds(rows, mapping, trace)
    scores = exact(b, mapping)
    assert (bounds >= scores * (1 - 1e-12)).all()
    assert bounds.sum() <= 1.3 * scores.sum()


def test_precision_is_chosen_by_the_spectrum(monkeypatch):
    kinds = []
    inner = projection_dpp._leverage_pass
    monkeypatch.setattr(projection_dpp, "_leverage_pass",
                        lambda *args: kinds.append(args[2].name) or inner(*args))
    rng = np.random.default_rng(0)
    even = rng.normal(size=(2000, 32))
    steep = even * np.logspace(0, -7, 32)
    huge = even * 1e30
    for b in (even, steep, huge):
        mapping, trace = mapping_of(b, 32)
        leverage_bounds(ArrayRows(b), mapping, trace)
    assert kinds == ["float32", "float64", "float64"]


@pytest.mark.slow
@pytest.mark.parametrize("steepness", [0, 6])
def test_the_sample_does_not_depend_on_the_precision(steepness, monkeypatch):
    """Inclusion of rows over many draws agrees between the two precisions."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 8)) * np.logspace(0, -steepness, 8)
    counts = {}
    for name, worthwhile in (("single", 1e9), ("double", 0.0)):
        monkeypatch.setattr(projection_dpp, "MAX_ERROR", worthwhile)
        dpp, draws = KDPP(x, 1e-20), np.random.default_rng(2)
        counts[name] = np.zeros(60)
        for _ in range(1500):
            counts[name][dpp.sample(6, draws)] += 1
    p = (counts["single"] + counts["double"]) / 3000
    z = (counts["single"] - counts["double"]) / np.sqrt(3000 * p * (1 - p) + 1e-9)
    assert np.abs(z).max() < 4.5
    assert np.mean(z ** 2) < 1.6
