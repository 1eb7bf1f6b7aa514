"""How far the numbers may be trusted: percentile intervals over resampled clips.

The clips are drawn with replacement, as many as there are, and every number is computed again from
the same events with the clips' new weights. The interval spans the middle of what comes out (Efron
and Tibshirani 1993, chapter 13). It speaks of other clips of the same kind, not of other sensors or
of another training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from l3hpc.tagging.counts import Counts, Events, area, f1_at_half

METHOD = "percentiles over clips drawn with replacement"
BLOCK = 1 << 20  # numbers held at once per count


def scores(categories: Sequence[Counts], micro: Counts) -> np.ndarray:
    """(..., 3 + categories): micro-AUPRC, micro-F1 at 0.5, macro-AUPRC, AUPRC of each category."""
    areas = [area(one) for one in categories]
    return np.stack([area(micro), f1_at_half(micro), np.mean(areas, axis=0), *areas], axis=-1)


def resampled(levels: Iterable[tuple[Sequence[Events], Events]], samples: int,
              seed: int) -> list[np.ndarray]:
    """``scores`` of ``samples`` resamplings for each level, (samples, 3 + categories) float64.

    levels: the categories' events, and those of all of them together. All levels speak of the same
    clips and are resampled alike.
    """
    rare = [([category.corners() for category in categories], together.corners())
            for categories, together in levels]
    clips = rare[0][1].clips
    largest = max(max(len(one.clip) for one in (together.tp, together.fp, together.fn))
                  for _, together in rare)
    rows = max(1, min(samples, BLOCK // max(largest, clips)))
    kind = weight_type(clips, largest)
    rng = np.random.default_rng(seed)
    found: list[list[np.ndarray]] = [[] for _ in rare]
    for start in range(0, samples, rows):
        drawn = rng.integers(clips, size=(min(rows, samples - start), clips))
        weight = np.stack([np.bincount(one, minlength=clips) for one in drawn]).astype(kind)
        for place, (categories, together) in enumerate(rare):
            found[place].append(scores([category.count(weight) for category in categories],
                                       together.count(weight)))
    return [np.concatenate(parts) for parts in found]


def weight_type(clips: int, events: int) -> type[np.signedinteger[Any]]:
    """The smaller type of integers that holds every sum of ``clips`` drawings over ``events``."""
    return np.int32 if clips * events < 2**31 else np.int64


def intervals(values: np.ndarray, confidence: float) -> np.ndarray:
    """(low, high) of each column of ``values`` (samples, columns), shape (columns, 2)."""
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).T
