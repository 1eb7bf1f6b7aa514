"""Selecting rows of a sensor: time frames, the relevance of a sound, and k rows of one frame.

A time frame (``time_frames``) is a local day, ISO week or month. The relevance of a sound
(``relative_loudness``) is how loud it is among the sounds of the same two hours, weekday and week;
unlike in the published pipeline, weeks of different years are kept apart and hours are those of
the site's time zone.

``select`` chooses k rows of one frame by one of four methods:

======== ==========================================================================================
random   every set of k rows is equally likely
spl      rows are drawn one after another with probability ∝ relevance, without replacement
dpp-div  exact k-DPP of the normalised embeddings: diversity alone
dpp      the same with each embedding scaled by its relevance: relevant and diverse
======== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from l3hpc.arrays.features import FeatureRows
from l3hpc.arrays.rows import Rows, RowSource, as_rows
from l3hpc.datasets.local_time import Calendar, calendar_keys
from l3hpc.errors import InputError, check_choice
from l3hpc.sampling.kdpp import KDPP

UNDATED = "unknown"  # label of the frame of rows without a timestamp
_UNDATED_KEY = np.iinfo(np.int32).max  # sorts last
_KEYS: dict[str, Callable[[Calendar], np.ndarray]] = {
    "day": lambda local: local.day,
    # A year has at most 53 weeks, so 54 keeps the numbers of two years apart.
    "week": lambda local: local.iso_year * 54 + local.iso_week,
    "month": lambda local: local.month,
}
TIMESCALES = tuple(_KEYS)
WINDOW_HOURS = 2
METHODS = ("random", "spl", "dpp-div", "dpp")
Embeddings = RowSource | Callable[[], RowSource] | None


# time frames -----------------------------------------------------------------------------------


def time_frames(
    timestamps: np.ndarray, timescale: str = "day", timezone: str = "America/New_York",
) -> list[tuple[str, np.ndarray]]:
    """Group rows by local day, ISO week or month.

    Parameters
    ----------
    timestamps
        Shape (n,): Unix time in seconds, in any order; rows of one frame need not be neighbours.
    timescale
        'day' (labels like 2017-01-01), 'week' (ISO week, 2016-W52) or 'month' (2017-01).
    timezone
        IANA name of the site's time zone.

    Returns
    -------
    list of (str, ndarray)
        Label and ascending row numbers of every frame, in chronological order. Rows without a
        finite timestamp form the last frame, 'unknown'. Every row is in exactly one frame.

    Raises
    ------
    InputError
        For an unknown timescale or time zone, and timestamps that are not one-dimensional.

    Examples
    --------
    The second recording was made at 23:00 in New York, still on the first day:

    >>> import numpy as np
    >>> from l3hpc.sampling import time_frames
    >>> for label, rows in time_frames(np.array([1483290000.0, 1483329600.0, 1483376400.0])):
    ...     print(label, rows)
    2017-01-01 [0 1]
    2017-01-02 [2]
    """
    check_choice("timescale", timescale, TIMESCALES)
    timestamps = np.asarray(timestamps)
    if timestamps.ndim != 1:
        raise InputError(f"expected one timestamp per row, found shape {timestamps.shape}")
    keys = calendar_keys(timestamps, timezone, _KEYS[timescale], _UNDATED_KEY)
    # Stable: the rows of a frame stay in ascending order, so that most frames can be read by
    # slices.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return [(_label(int(keys[rows[0]]), timescale), rows)
            for rows in np.split(order, cuts) if len(rows)]


def _label(key: int, timescale: str) -> str:
    """``2017-01-01``, ``2016-W52`` or ``2017-01``."""
    if key == _UNDATED_KEY:
        return UNDATED
    if timescale == "day":
        return str(np.datetime64(key, "D"))
    if timescale == "month":
        return str(np.datetime64(key, "M"))
    year, week = divmod(key, 54)
    return f"{year:04d}-W{week:02d}"


# relevance -------------------------------------------------------------------------------------


def relevance_groups(timestamps: np.ndarray, timezone: str) -> np.ndarray:
    """Group rows whose levels are compared: same local two hours, weekday, ISO week and ISO year.

    When clocks go back, the hour that occurs twice is in one group.

    Parameters
    ----------
    timestamps
        Shape (n,): Unix time in seconds.
    timezone
        IANA name of the site's time zone.

    Returns
    -------
    ndarray of int32, shape (n,)
        Number of the group; −1 for rows without a timestamp.

    Raises
    ------
    InputError
        For an unknown time zone.
    """
    return calendar_keys(
        timestamps, timezone, lambda local: (
            ((local.iso_year * 54 + local.iso_week) * 7 + local.weekday) * (24 // WINDOW_HOURS)
            + local.hour // WINDOW_HOURS), unknown=-1)


def relative_loudness(
    levels: np.ndarray, timestamps: np.ndarray, timezone: str = "America/New_York",
    *, decimals: int | None = 2,
) -> np.ndarray:
    """Rank of each level within its comparison group, divided by the size of the group.

    Equal levels share the lowest rank: the quietest of n distinct levels gets 1/n, the loudest 1,
    and n equal levels get 1/n each.

    Parameters
    ----------
    levels
        Shape (n,): sound levels in dB(A); −∞ (digital silence) is allowed, NaN is refused.
    timestamps
        Shape (n,): Unix time in seconds; rows with NaN form one group.
    timezone
        IANA name of the site's time zone.
    decimals
        Decimals to which levels are rounded first, as published (None: no rounding).

    Returns
    -------
    ndarray of float64, shape (n,)
        Values in (0, 1].

    Raises
    ------
    InputError
        For NaN among the levels, and shapes that do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.sampling import relative_loudness
    >>> relative_loudness(np.array([50.0, 60.0, 55.0, 55.0]), np.zeros(4)).tolist()
    [0.25, 1.0, 0.5, 0.5]
    """
    levels = np.asarray(levels)
    if levels.ndim != 1 or levels.shape != np.shape(timestamps):
        raise InputError(f"{levels.size} levels for {np.size(timestamps)} timestamps")
    if np.isnan(levels).any():
        raise InputError(f"{int(np.isnan(levels).sum())} of {levels.size} levels are NaN",
                         allowed="a level in dB(A) for every row (silence may be -inf)")
    groups = relevance_groups(timestamps, timezone)
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    result = np.empty(len(order))
    for rows in np.split(order, cuts):
        values = levels[rows].astype(np.float64)
        if decimals is not None:
            values = np.round(values, decimals)
        # Without any rows, np.split still returns one empty group: hence the maximum with 1.
        result[rows] = (np.searchsorted(np.sort(values), values) + 1) / max(len(rows), 1)
    return result


# selection -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The rows selected from one frame, with figures of merit.

    Attributes
    ----------
    method : str
        One of ``METHODS``.
    rows : ndarray of int64
        Ascending row numbers within the frame.
    requested, available : int
        The k that was requested, and the number of rows of the frame.
    diverse : ndarray of int64
        The part of ``rows`` in which rows repel each other (empty for random and spl).
    expected_diverse : float
        Expected size of the diverse part (NaN without a DPP).
    log_det, log_likelihood : float
        log det(L_S) and log P(S) (NaN without a DPP).
    """

    method: str
    rows: np.ndarray
    requested: int
    available: int
    diverse: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    expected_diverse: float = float("nan")
    log_det: float = float("nan")
    log_likelihood: float = float("nan")

    @property
    def missing(self) -> int:
        """Number of rows by which the frame was too small for the request."""
        return self.requested - len(self.rows)


def select(
    method: str, embeddings: Embeddings, relevance: np.ndarray | None, k: int,
    random_state: np.random.Generator | int | None = None, epsilon: float = 0.001,
    norm: str = "l2", *, count: int | None = None,
) -> Selection:
    """Select k rows of a frame, or all rows of a smaller frame (``Selection.missing``).

    Parameters
    ----------
    method
        'random', 'spl', 'dpp-div' or 'dpp'.
    embeddings
        Shape (n, d): an array, HDF5 dataset or ``Rows``, or a function without arguments that
        returns one; only the DPP methods call or read it. None is allowed for 'random' and 'spl'.
    relevance
        Shape (n,): weights, finite and not negative; required by 'spl' and 'dpp'.
    k
        Number of rows, at least 1.
    random_state
        Generator or seed: the same seed, rows and k give the same selection. None: a selection
        that cannot be reproduced.
    epsilon
        Regulariser of the DPP kernel. With the published pipeline's 0.1 and norm 'l1', even an
        exact sample is nearly uniform.
    norm
        Norm by which features are divided: 'l2', 'l1' or 'none'.
    count
        n, where neither embeddings nor relevance tell.

    Returns
    -------
    Selection
        The rows, ascending, with figures of merit.

    Raises
    ------
    InputError
        For an unknown method, a k that is not a whole number from 1, and weights that are
        negative, not finite or missing.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.sampling import select
    >>> select("spl", None, np.array([0.0, 1.0, 0.0, 1.0]), 2).rows
    array([1, 3])
    """
    check_choice("sampling method", method, METHODS)
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"cannot select {k} rows", allowed="a whole number from 1")
    generator = np.random.default_rng(random_state)
    weights = _weights(method, relevance)
    if method in ("random", "spl"):
        n = _count(embeddings, relevance, count)
        if n <= k:
            rows = np.arange(n)
        elif method == "random":
            rows = np.sort(generator.choice(n, k, replace=False))
        else:
            assert weights is not None
            rows = weighted_without_replacement(weights, k, generator)
        return Selection(method, rows.astype(np.int64), k, n)
    source = _read_rows(embeddings)
    n = source.shape[0]
    # KDPP refuses a matrix without rows; a frame without rows is a selection without rows.
    if n == 0:
        return Selection(method, np.empty(0, dtype=np.int64), k, 0)
    dpp = KDPP(FeatureRows(source, weights if method == "dpp" else None, norm), epsilon)
    size = min(k, n)
    rows = dpp.sample(size, generator)
    return Selection(
        method, rows, k, n, diverse=dpp.diverse_, expected_diverse=dpp.expected_diverse(size),
        log_det=dpp.log_det_, log_likelihood=dpp.log_likelihood_)


def weighted_without_replacement(
    weights: np.ndarray, k: int, rng: np.random.Generator,
) -> np.ndarray:
    """Draw k rows one by one, with probability proportional to weight among those left.

    The distribution of numpy's ``choice`` with ``p`` and without replacement, drawn by exponential
    races [1]_ (the same as Gumbel top-k): row i finishes after an exponential time of rate w_i, and
    the first k are taken. Rows of weight 0 are drawn only after all others.

    Parameters
    ----------
    weights
        Shape (n,): finite and not negative.
    k
        Number of rows, 1 to n.
    rng
        The generator.

    Returns
    -------
    ndarray of int64, shape (k,)
        Ascending row numbers.

    References
    ----------
    .. [1] P. S. Efraimidis and P. G. Spirakis, "Weighted random sampling with a reservoir",
       Information Processing Letters 97 (2006).
    """
    weights = np.asarray(weights, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        # A weight of 0 gives an infinite time: the row never finishes. So does one too small to be
        # divided by, and the two are drawn alike, after all others.
        times = rng.standard_exponential(len(weights)) / weights
    positive = int(np.isfinite(times).sum())
    if k >= positive:
        others = np.flatnonzero(~np.isfinite(times))
        extra = rng.choice(others, k - positive, replace=False) if k > positive else others[:0]
        return np.sort(np.concatenate([np.flatnonzero(np.isfinite(times)), extra]))
    return np.sort(np.argpartition(times, k - 1)[:k])


def _weights(method: str, relevance: np.ndarray | None) -> np.ndarray | None:
    """The relevance as weights, for the methods that use it."""
    if method not in ("spl", "dpp"):
        return None
    if relevance is None:
        raise InputError(f"sampling method {method!r} needs a relevance for every row")
    weights = np.asarray(relevance, dtype=np.float64)
    if weights.ndim != 1 or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise InputError("the relevance is not one finite number, 0 or more, for every row")
    return weights


def _count(embeddings: Embeddings, relevance: np.ndarray | None, count: int | None) -> int:
    if count is not None:
        return int(count)
    if relevance is not None:
        return len(relevance)
    return _read_rows(embeddings).shape[0]


def _read_rows(embeddings: Embeddings) -> Rows:
    """The embeddings as ``Rows``, read now if they are a function."""
    if embeddings is None:
        raise InputError("no embeddings given")
    if callable(embeddings) and not hasattr(embeddings, "shape"):
        return as_rows(cast("RowSource", embeddings()))
    return as_rows(cast("RowSource", embeddings))
