"""True and false positives and false negatives at every threshold, in one pass per category.

The rules are those of the DCASE 2019/2020 urban sound tagging evaluation, with its treatment of
the uncertain tag "X". A count as a function of the threshold only changes where some prediction is
crossed, so each rule becomes a list of events (value, clip, +1 or -1) and one cumulative sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOWEST_THRESHOLD = 0.01


@dataclass(frozen=True)
class Counts:
    """Counts of one category; row i holds for ``threshold[i]``, descending, the first being 1.

    A tag counts as predicted where its value is at least the threshold.
    """

    threshold: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


class CategoryEvents:
    """The events of one category, ready to be counted with any weight per clip.

    truth: bool (clips, tags); predicted: (clips, tags) in [0, 1], complete tags only.
    x_truth: bool (clips,) and x_predicted: (clips,): the tag X; None where there is none.
    A coarse category is a single tag without X.
    """

    def __init__(self, truth: np.ndarray, predicted: np.ndarray,
                 x_truth: np.ndarray | None = None, x_predicted: np.ndarray | None = None) -> None:
        clips = len(truth)
        u = np.zeros(clips, bool) if x_truth is None else x_truth
        v = np.zeros(clips) if x_predicted is None else x_predicted
        values = np.unique(predicted)
        self.threshold = np.union1d(values[values >= LOWEST_THRESHOLD], [1.0])[::-1]
        self._clips = clips
        none_true = ~truth.any(axis=1)
        highest = np.maximum(predicted.max(axis=1, initial=-np.inf), v)
        highest_true = np.where(truth, predicted, -np.inf).max(axis=1, initial=-np.inf)
        lowest = predicted.min(axis=1, initial=np.inf)

        hits, alarms = np.nonzero(truth), np.nonzero(~truth & ~u[:, None])
        rescued = np.flatnonzero(u & (highest > highest_true))
        silent = np.flatnonzero(u & none_true)
        vague = np.flatnonzero(~u & none_true & (v > lowest))
        hit_events = (hits[0], predicted[hits], 1)
        self._tp = self._events(hit_events, (rescued, highest[rescued], 1),
                                (rescued, highest_true[rescued], -1))
        self._fp = self._events((alarms[0], predicted[alarms], 1), (vague, v[vague], 1),
                                (vague, lowest[vague], -1))
        self._fn = self._events((hits[0], predicted[hits], -1), (silent, highest[silent], -1))
        self._fn_at_infinity = np.concatenate([hits[0], silent])

    def _events(self, *groups: tuple[np.ndarray, np.ndarray, int]) -> tuple[np.ndarray, ...]:
        """(row from which it counts, clip, sign) of all events that some threshold reaches."""
        clip = np.concatenate([group[0] for group in groups])
        value = np.concatenate([group[1] for group in groups])
        sign = np.concatenate([np.full(len(group[0]), group[2], np.int64) for group in groups])
        rows = len(self.threshold)
        row = rows - np.searchsorted(self.threshold[::-1], value, side="right")
        reached = row < rows
        return row[reached], clip[reached], sign[reached]

    def count(self, weight: np.ndarray | None = None) -> Counts:
        """The counts; ``weight`` (clips,) says how often each clip is there (None: once)."""
        weight = np.ones(self._clips, np.int64) if weight is None else weight
        tp, fp, fn = (self._running(events, weight) for events in (self._tp, self._fp, self._fn))
        return Counts(self.threshold, tp, fp, fn + int(weight[self._fn_at_infinity].sum()))

    def _running(self, events: tuple[np.ndarray, ...], weight: np.ndarray) -> np.ndarray:
        row, clip, sign = events
        change = np.bincount(row, weights=weight[clip] * sign, minlength=len(self.threshold))
        return np.asarray(np.cumsum(np.rint(change).astype(np.int64)))


class Union:
    """The categories' thresholds taken together, for counts over all categories (micro)."""

    def __init__(self, categories: list[CategoryEvents]) -> None:
        union = categories[0].threshold
        for category in categories[1:]:
            union = np.union1d(union, category.threshold)
        self.threshold = np.sort(union)[::-1]
        self._rows = [
            # the category's last row whose threshold is at least the union's
            len(category.threshold) - 1
            - np.searchsorted(category.threshold[::-1], self.threshold, side="left")
            for category in categories
        ]

    def count(self, counts: list[Counts]) -> Counts:
        """The sums over the categories at every threshold of the union, descending."""
        tp, fp, fn = (
            sum((getattr(one, name)[rows] for one, rows in zip(counts, self._rows, strict=True)),
                np.zeros(len(self.threshold), np.int64))
            for name in ("tp", "fp", "fn"))
        return Counts(self.threshold, tp, fp, fn)


def precision_recall(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at every threshold; an empty denominator counts as 0.5."""
    precision = counts.tp / np.maximum(counts.tp + counts.fp, 0.5)
    recall = counts.tp / np.maximum(counts.tp + counts.fn, 0.5)
    return precision, recall


def area(counts: Counts) -> float:
    """Area under the precision-recall curve, by trapezoids from (0, 1) to (1, 0).

    Points are ordered by recall, ascending; where recalls are equal by threshold, descending. The
    original leaves such ties to an unstable sort and may differ in the third decimal.
    """
    precision, recall = precision_recall(counts)
    order = np.argsort(recall, kind="stable")  # rows are in descending order of threshold already
    x = np.concatenate([[0.0], recall[order], [1.0]])
    y = np.concatenate([[1.0], precision[order], [0.0]])
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def f1_at_half(counts: Counts) -> float:
    """F1 at the lowest threshold that is at least 0.5."""
    row = int(np.flatnonzero(counts.threshold >= 0.5)[-1])
    precision, recall = (float(values[row]) for values in precision_recall(counts))
    return 0.0 if precision == 0 or recall == 0 else 2 / (1 / precision + 1 / recall)
