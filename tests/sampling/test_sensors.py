"""Sensors far apart: distances, kernel, choice."""

from itertools import combinations

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.sampling.sensors import choose_sensors, haversine_km, sensor_kernel


def places(n=24, seed=0):
    rng = np.random.default_rng(seed)
    return 40.73 + 0.02 * rng.normal(size=n), -73.99 + 0.02 * rng.normal(size=n)


def test_distances_on_the_globe():
    quarter = np.pi / 2 * 6371.0088
    distances = haversine_km(np.array([0, 90, 0, -90.0]), np.array([0, 0, 180, 17.0]))
    np.testing.assert_allclose(distances[0], [0, quarter, 2 * quarter, quarter], rtol=1e-12)
    np.testing.assert_allclose(distances, distances.T)
    times_square, brooklyn = (40.7580, -73.9855), (40.6782, -73.9442)
    pair = haversine_km(*np.array([times_square, brooklyn]).T)
    assert pair[0, 1] == pytest.approx(9.535, abs=0.02)


def test_near_places_keep_their_digits():
    metre = np.degrees(0.001 / 6371.0088)
    assert haversine_km(np.array([40.0, 40.0 + metre]), np.array([-74.0, -74.0]))[0, 1] == \
        pytest.approx(0.001, rel=1e-6)


def test_kernel_is_positive_and_not_diagonal():
    """Published defect 8: a diagonal of 1e15 made every choice equally likely."""
    kernel = sensor_kernel(*places())
    np.testing.assert_allclose(np.diag(kernel), 1.0)
    assert np.linalg.eigvalsh(kernel).min() > -1e-12
    off = kernel[np.triu_indices(24, 1)]
    assert np.median(off) == pytest.approx(np.exp(-1), rel=1e-3)
    assert off.max() > 0.8


@pytest.mark.slow
def test_choice_is_a_k_dpp_of_the_kernel():
    lat, lon = places(6)
    lat[3:], lon[3:] = lat[:3] + 0.001, lon[:3]  # three pairs of neighbours, 111 m apart
    kernel = sensor_kernel(lat, lon) + 1e-6 * np.eye(6)
    sets = list(combinations(range(6), 3))
    expected = np.array([np.linalg.det(kernel[np.ix_(s, s)]) for s in sets])
    expected *= 3000 / expected.sum()
    rng = np.random.default_rng(1)
    drawn = [tuple(choose_sensors(lat, lon, 3, rng).tolist()) for _ in range(3000)]
    counts = np.array([drawn.count(s) for s in sets])
    from scipy.stats import chi2

    big = expected > 5
    statistic = ((counts - expected) ** 2 / expected)[big].sum()
    assert chi2.sf(statistic, big.sum()) > 1e-3
    assert expected.max() / expected.min() > 5  # far from uniform


def test_seed_decides_and_twins_are_kept_apart():
    """Published defect 8: the choice was the unseeded start of a chain."""
    lat, lon = places()
    assert choose_sensors(lat, lon, 14, 7).tolist() == choose_sensors(lat, lon, 14, 7).tolist()
    assert choose_sensors(lat, lon, 14, 7).tolist() != choose_sensors(lat, lon, 14, 8).tolist()
    lat[1], lon[1] = lat[0], lon[0]
    for seed in range(40):
        assert not {0, 1} <= set(choose_sensors(lat, lon, 14, seed).tolist())


def test_one_place_or_none():
    assert choose_sensors(np.array([1.0]), np.array([2.0]), 1, 0).tolist() == [0]
    assert len(choose_sensors(np.full(4, 1.0), np.full(4, 2.0), 2, 0)) == 2
    with pytest.raises(InputError, match="0 latitudes"):
        choose_sensors(np.empty(0), np.empty(0), 1, 0)
    with pytest.raises(InputError, match=r"valid position: \[1\]"):
        choose_sensors(np.array([1.0, np.nan]), np.array([2.0, 3.0]), 1, 0)
    with pytest.raises(InputError, match="2 latitudes for 1 longitudes"):
        choose_sensors(np.array([1.0, 2.0]), np.array([2.0]), 1, 0)
    with pytest.raises(InputError, match="length 0"):
        choose_sensors(np.array([1.0]), np.array([2.0]), 1, 0, length_km=0)
