"""From the embeddings of a clip to what a classifier sees: its frames, or statistics over them.

Framewise: every window is a sample that has the clip's label. Statistics: one sample per clip,
seven times as long: minimum, maximum, median, mean, variance, skewness and kurtosis over the
windows, in this order, as published for L3-Net's downstream tasks. Standardisation is fitted on
training samples only; who calls says which these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.datasets.clips import find_clips

MODES = ("framewise", "stats")
STATISTICS = ("min", "max", "median", "mean", "var", "skew", "kurtosis")


@dataclass(frozen=True)
class Features:
    """files: the clips, in the order asked for, without the missing; x: float32 (samples, dim), the
    samples of a clip follow each other; counts: int (clips,), samples of each clip."""

    files: list[str]
    x: np.ndarray
    counts: np.ndarray
    missing: list[str]

    def rows(self, clips: np.ndarray) -> np.ndarray:
        """The samples of these clips (indices), clip after clip."""
        ends = np.cumsum(self.counts)
        return np.concatenate([np.arange(0), *(np.arange(ends[clip] - self.counts[clip], ends[clip])
                                               for clip in clips)])


def load(folder: Path | str, files: Sequence[str], mode: str, every: int = 1) -> Features:
    """The features of ``files`` from an embed artifact, or from a folder with one file per clip.

    every: of a clip's windows, take the first and every n-th after it. With statistics only they
    are kept in memory. Raises ``InputError`` where no clip has embeddings, or dimensions differ.
    """
    bags = find_clips(folder, files, "Embed the clips first: l3hpc submit esc50 (or us8k)")
    names = list(bags.lengths)
    samples = [1 if mode == "stats" else -(-bags.lengths[name] // every) for name in names]
    counts = np.array(samples, np.int64)
    first = dict(zip(names, np.cumsum(counts) - counts, strict=True))
    x: np.ndarray | None = None
    for name, block in bags.blocks():
        rows = block[::every]
        if mode == "stats":
            rows = statistics(rows)[None]
        if x is None:
            x = np.empty((int(counts.sum()), rows.shape[1]), np.float32)
        x[first[name]:first[name] + len(rows)] = rows
    assert x is not None
    return Features(names, x, counts, bags.missing)


def statistics(frames: np.ndarray) -> np.ndarray:
    """Seven statistics over the frames of a clip.

    Variance, skewness and kurtosis are those of the population (biased), kurtosis is 0 for a normal
    distribution; skewness and kurtosis of a dimension that does not vary are 0.

    Parameters
    ----------
    frames
        Embeddings, shape (frames, dim).

    Returns
    -------
    ndarray of float64, shape (7 · dim,)
        The statistics one after another, in the order of ``STATISTICS``.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.classification import statistics
    >>> statistics(np.array([[1.0], [2.0], [3.0]])).round(3).tolist()
    [1.0, 3.0, 2.0, 2.0, 0.667, 0.0, -1.5]
    """
    x = np.asarray(frames, np.float64)
    mean = x.mean(axis=0)
    apart = x - mean
    apart[:, x.min(axis=0) == x.max(axis=0)] = 0.0  # a mean of equal numbers may be off by rounding
    var = (apart**2).mean(axis=0)
    scale = np.where(var > 0, var, 1.0)
    skew = (apart**3).mean(axis=0) / scale**1.5
    kurtosis = np.where(var > 0, (apart**4).mean(axis=0) / scale**2 - 3.0, 0.0)
    return np.concatenate([x.min(axis=0), x.max(axis=0), np.median(x, axis=0), mean, var, skew,
                           kurtosis])


@dataclass(frozen=True)
class Standard:
    """Mean 0 and variance 1 in every dimension of the samples it was fitted on."""

    scaler: Any

    @classmethod
    def fit(cls, x: np.ndarray) -> Standard:
        """x: the training samples (samples, dim); a dimension that does not vary is only shifted.
        """
        from sklearn.preprocessing import StandardScaler

        return cls(StandardScaler().fit(x))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Other samples by the same mean and scale; float32."""
        return np.asarray(self.scaler.transform(x), np.float32)
