"""Choosing sensors that are far from each other: a k-DPP over their positions on the globe.

The published kernel 1/(distance + 1e-15) has 1e15 on its diagonal, which makes all choices equally
likely. Here the similarity of two sensors is exp(−distance/length): 1 for the same position,
positive semidefinite on the sphere [1]_, so that sensors close to each other do repel.

References
----------
.. [1] T. Gneiting, "Strictly and non-strictly positive definite functions on spheres", Bernoulli 19
   (2013).
"""

from __future__ import annotations

import numpy as np

from l3hpc.errors import InputError
from l3hpc.sampling.kdpp import KDPP

EARTH_RADIUS_KM = 6371.0088


def haversine_km(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Great-circle distances between all pairs of positions.

    Parameters
    ----------
    latitudes, longitudes
        Positions in degrees, shape (n,) each.

    Returns
    -------
    ndarray of float64, shape (n, n)
        Distances in km.

    Raises
    ------
    InputError
        For positions outside the globe, and lists of different lengths.

    Examples
    --------
    >>> from l3hpc.sampling.sensors import haversine_km
    >>> haversine_km([0.0, 0.0], [0.0, 90.0]).round().tolist()
    [[0.0, 10008.0], [10008.0, 0.0]]
    """
    latitude, longitude = _radians(latitudes, longitudes)
    across = np.sin((latitude[:, None] - latitude) / 2) ** 2
    along = np.sin((longitude[:, None] - longitude) / 2) ** 2
    inner = across + np.cos(latitude[:, None]) * np.cos(latitude) * along
    # For opposite points rounding may give slightly more than 1, of which arcsin is NaN.
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(inner, 0.0, 1.0)))


def sensor_kernel(
    latitudes: np.ndarray, longitudes: np.ndarray, length_km: float | None = None,
) -> np.ndarray:
    """Similarity exp(−distance/length) of all pairs of sensors.

    Parameters
    ----------
    latitudes, longitudes
        Positions in degrees, shape (n,) each.
    length_km
        Distance at which the similarity has fallen to 1/e (None: the median distance between two
        sensors).

    Returns
    -------
    ndarray of float64, shape (n, n)
        Values in (0, 1].

    Raises
    ------
    InputError
        For positions outside the globe, and a length that is not positive.
    """
    distances = haversine_km(latitudes, longitudes)
    if length_km is None:
        pairs = distances[np.triu_indices(len(distances), 1)]
        # All sensors in one place, or one sensor: every length gives the same kernel.
        length_km = float(np.median(pairs)) if pairs.size and np.median(pairs) > 0 else 1.0
    if not (np.isfinite(length_km) and length_km > 0):
        raise InputError(f"length {length_km} km is not allowed", allowed="a positive number")
    return np.exp(-distances / length_km)


def choose_sensors(
    latitudes: np.ndarray, longitudes: np.ndarray, k: int,
    random_state: np.random.Generator | int | None = None,
    *, length_km: float | None = None, epsilon: float = 1e-6,
) -> np.ndarray:
    """Choose k sensors that are far from each other, by an exact k-DPP over their positions.

    Parameters
    ----------
    latitudes, longitudes
        Positions in degrees, shape (n,) each.
    k
        Number of sensors, 1 to n.
    random_state
        Generator or seed; None: a choice that cannot be reproduced.
    length_km
        Distance at which the similarity of two sensors has fallen to 1/e (None: the median
        distance between two sensors).
    epsilon
        Regulariser of the kernel.

    Returns
    -------
    ndarray of int64, shape (k,)
        Ascending indices into the lists.

    Raises
    ------
    InputError
        For positions outside the globe, a length that is not positive, or a k that cannot be drawn.

    Examples
    --------
    Two sensors at one street corner are not both chosen where a third is far away:

    >>> from l3hpc.sampling import choose_sensors
    >>> chosen = choose_sensors([40.73, 40.73, 40.85], [-73.99, -73.99, -73.88], 2)
    >>> int(chosen[-1])
    2
    """
    kernel = sensor_kernel(latitudes, longitudes, length_km)
    return KDPP(kernel=kernel, epsilon=epsilon).sample(k, random_state)


def _radians(latitudes: np.ndarray, longitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checked positions in radians."""
    latitude = np.asarray(latitudes, dtype=np.float64)
    longitude = np.asarray(longitudes, dtype=np.float64)
    if latitude.ndim != 1 or latitude.shape != longitude.shape or not latitude.size:
        raise InputError(f"{latitude.size} latitudes for {longitude.size} longitudes")
    bad = ~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 360))
    if bad.any():
        raise InputError(f"sensors without a valid position: {np.flatnonzero(bad).tolist()}",
                         allowed="latitude -90 to 90 and longitude -360 to 360 degrees")
    return np.radians(latitude), np.radians(longitude)
