"""AUPRC, F1 and average precision, from the counts of hits and misses at all thresholds.

The rules are those of the DCASE 2019/2020 urban sound tagging evaluation, including its treatment
of the uncertain tag "X". As the threshold falls, a count changes only where it passes a predicted
value. So each rule becomes a list of events (clip, index of the threshold, +1 or −1) and one
cumulative sum, which can be repeated with other weights of the clips (``evaluation`` does so for
confidence intervals).

Events and counts (true positives, false positives, false negatives) come first, then metrics of
counts, then metrics of plain arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from l3hpc.errors import InputError

LOWEST_THRESHOLD = 0.01  # as in the published evaluation, besides 1


# events ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Counts at every threshold.

    A tag counts as predicted where its value is at least the threshold.

    Attributes
    ----------
    threshold : ndarray, shape (thresholds,)
        Descending from 1.
    tp, fp, fn : ndarray, shape (..., thresholds)
        True positives, false positives and false negatives; with several weightings of the clips,
        one row for each.
    """

    threshold: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


@dataclass(frozen=True)
class Changes:
    """The changes of one count as the threshold falls, in that order.

    Attributes
    ----------
    clip : ndarray of int, shape (events,)
        The clip of each event.
    sign : ndarray of int, shape (events,)
        +1 or −1.
    ends : ndarray of int, shape (thresholds,)
        Number of events up to each threshold.
    """

    clip: np.ndarray
    sign: np.ndarray
    ends: np.ndarray

    @classmethod
    def at(cls, place: np.ndarray, clip: np.ndarray, sign: np.ndarray, places: int) -> Changes:
        """Make the changes from events that are sorted by threshold.

        Parameters
        ----------
        place
            Index of the first threshold that counts each event, ascending.
        clip, sign
            As in the attributes.
        places
            Number of thresholds.
        """
        return cls(clip, sign, np.cumsum(np.bincount(place, minlength=places)))

    @property
    def place(self) -> np.ndarray:
        """Index of the first threshold that counts each event."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))

    @cached_property
    def _only_up(self) -> bool:
        return bool((self.sign == 1).all())

    def sums(self, weight: np.ndarray) -> np.ndarray:
        """The sum of all changes up to each threshold.

        Parameters
        ----------
        weight
            Number of times that each clip counts, shape (..., clips).

        Returns
        -------
        ndarray, shape (..., thresholds)
            Of the type of ``weight``.
        """
        change = np.take(weight, self.clip, axis=-1)
        if not self._only_up:
            change *= self.sign
        total = np.zeros((*weight.shape[:-1], len(self.clip) + 1), weight.dtype)
        np.cumsum(change, axis=-1, dtype=weight.dtype, out=total[..., 1:])
        return np.take(total, self.ends, axis=-1)


class Events:
    """The events of a category, or of several together, from which all counts follow.

    Parameters
    ----------
    threshold
        Shape (thresholds,), descending from 1.
    clips
        Number of clips.
    tp, fp, fn
        The changes of the three counts.
    missed
        The clip of each positive: above the first threshold, all are false negatives.
    """

    def __init__(self, threshold: np.ndarray, clips: int, tp: Changes, fp: Changes, fn: Changes,
                 missed: np.ndarray) -> None:
        self.threshold, self.clips, self.missed = threshold, clips, missed
        self.tp, self.fp, self.fn = tp, fp, fn

    @property
    def positives(self) -> int:
        """Number of clips with a positive."""
        return len(np.unique(self.missed))

    def count(self, weight: np.ndarray | None = None) -> Counts:
        """The counts at all thresholds.

        Parameters
        ----------
        weight
            Signed integers (clips,) or (weightings, clips): number of times that each clip counts
            (None: once). The counts have the same type.
        """
        weight = np.ones(self.clips, np.int64) if weight is None else weight
        positives = np.take(weight, self.missed, axis=-1).sum(
            axis=-1, dtype=weight.dtype, keepdims=True)
        return Counts(self.threshold, self.tp.sums(weight), self.fp.sums(weight),
                      positives + self.fn.sums(weight))

    def corners(self) -> Events:
        """The same events at fewer thresholds, with equal area and F1 for any weights."""
        # While recall is constant, only the first and the last precision matter.
        moves = np.union1d(self.tp.place, self.fn.place)
        half = np.flatnonzero(self.threshold >= 0.5)[-1:]
        keep = np.unique(np.concatenate(
            [moves, moves[moves > 0] - 1, half, [0, len(self.threshold) - 1]]))
        tp, fp, fn = (Changes(one.clip, one.sign, one.ends[keep])
                      for one in (self.tp, self.fp, self.fn))
        return Events(self.threshold[keep], self.clips, tp, fp, fn, self.missed)


class CategoryEvents(Events):
    """The events of one category. A coarse category is a single tag without X.

    Parameters
    ----------
    truth
        Bool, shape (clips, tags), complete tags only.
    predicted
        Shape (clips, tags), 0 to 1.
    x_truth, x_predicted
        The uncertain tag X, shape (clips,) each; None where the category has none.
    """

    def __init__(self, truth: np.ndarray, predicted: np.ndarray,
                 x_truth: np.ndarray | None = None, x_predicted: np.ndarray | None = None) -> None:
        clips = len(truth)
        u = np.zeros(clips, bool) if x_truth is None else x_truth
        v = np.zeros(clips) if x_predicted is None else x_predicted
        values = np.unique(predicted)
        rising = np.union1d(values[values >= LOWEST_THRESHOLD], [1.0])
        none_true = ~truth.any(axis=1)
        highest = np.maximum(predicted.max(axis=1, initial=-np.inf), v)
        highest_true = np.where(truth, predicted, -np.inf).max(axis=1, initial=-np.inf)
        lowest = predicted.min(axis=1, initial=np.inf)

        hits, alarms = np.nonzero(truth), np.nonzero(~truth & ~u[:, None])
        # X true: a true positive also where only other tags of the category are predicted.
        rescued = np.flatnonzero(u & (highest > highest_true))
        # X true and no tag true: a positive, missed until anything of the category is predicted.
        silent = np.flatnonzero(u & none_true)
        # Nothing true: a predicted X is a false positive until all tags are predicted themselves.
        vague = np.flatnonzero(~u & none_true & (v > lowest))
        super().__init__(
            rising[::-1], clips,
            _changes(rising, (hits[0], predicted[hits], 1), (rescued, highest[rescued], 1),
                     (rescued, highest_true[rescued], -1)),
            _changes(rising, (alarms[0], predicted[alarms], 1), (vague, v[vague], 1),
                     (vague, lowest[vague], -1)),
            _changes(rising, (hits[0], predicted[hits], -1), (silent, highest[silent], -1)),
            np.concatenate([hits[0], silent]))


def union(categories: Sequence[Events]) -> Events:
    """The events of all categories together, for micro averages.

    At a threshold that a category does not have, its counts are those at its next higher one.

    Parameters
    ----------
    categories
        Events of the same clips.
    """
    rising = np.unique(np.concatenate([category.threshold for category in categories]))
    new_index = [len(rising) - 1 - np.searchsorted(rising, category.threshold)
                 for category in categories]

    def merged(name: str) -> Changes:
        parts = [getattr(category, name) for category in categories]
        place = np.concatenate([index[part.place]
                                for index, part in zip(new_index, parts, strict=True)])
        clip = np.concatenate([part.clip for part in parts])
        sign = np.concatenate([part.sign for part in parts])
        order = np.argsort(place)
        return Changes.at(place[order], clip[order], sign[order], len(rising))

    return Events(rising[::-1], categories[0].clips, merged("tp"), merged("fp"),
                  merged("fn"), np.concatenate([category.missed for category in categories]))


# metrics of counts -----------------------------------------------------------------------------


def precision_recall(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at every threshold.

    Parameters
    ----------
    counts
        The counts.

    Returns
    -------
    precision, recall : ndarray, shape (..., thresholds)
        0 where the denominator is 0.
    """
    # Where nothing is predicted or nothing is there, 0 / 0.5 = 0, as published. Other sums are 1 or
    # more.
    precision = counts.tp / np.maximum(counts.tp + counts.fp, 0.5)
    recall = counts.tp / np.maximum(counts.tp + counts.fn, 0.5)
    return precision, recall


def area(counts: Counts) -> np.ndarray:
    """Area under the precision-recall curve, by trapezoids from (0, 1) to (1, 0).

    Points are in order of recall, and of falling threshold where recalls are equal. The published
    code sorts by recall alone, with an unstable sort, and may differ in the third decimal.

    Parameters
    ----------
    counts
        The counts.

    Returns
    -------
    ndarray, shape (...)
        0 to 1.
    """
    # No sorting: as the threshold falls, no true positive is lost and no false negative is added.
    precision, recall = precision_recall(counts)
    sums = (np.diff(recall) * (precision[..., 1:] + precision[..., :-1])).sum(axis=-1)
    first = recall[..., 0] * (1.0 + precision[..., 0])
    last = (1.0 - recall[..., -1]) * precision[..., -1]
    return np.asarray((sums + first + last) / 2)


def f1_at_half(counts: Counts) -> np.ndarray:
    """F1 at the lowest threshold that is at least 0.5.

    Parameters
    ----------
    counts
        The counts.

    Returns
    -------
    ndarray, shape (...)
        0 to 1; 0 where precision and recall are 0.
    """
    place = int(np.flatnonzero(counts.threshold >= 0.5)[-1])
    precision, recall = (values[..., place] for values in precision_recall(counts))
    both = precision * recall
    return np.asarray(2 * both / np.where(both > 0, precision + recall, 1.0))


# metrics of plain arrays -----------------------------------------------------------------------


def average_precision(truth: npt.ArrayLike, score: npt.ArrayLike) -> float | np.ndarray:
    """Average precision of scores: Σ (R_i − R_{i−1}) P_i over thresholds, from the highest down.

    P_i and R_i are precision and recall if clips with a score of at least threshold i count as
    tagged; equal scores are one threshold. There is no interpolation, as in
    ``sklearn.metrics.average_precision_score``.

    Parameters
    ----------
    truth
        Shape (clips,) or (clips, tags): 1 or True where the clip has the tag, else 0.
    score
        The same shape: finite numbers of any scale, larger where the tag is more likely.

    Returns
    -------
    float or ndarray of float64, shape (tags,)
        Values in (0, 1]; NaN for a tag that no clip has.

    Raises
    ------
    InputError
        For shapes that do not match, a truth other than 0 and 1, and scores that are not finite.

    Examples
    --------
    >>> from l3hpc.tagging import average_precision
    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    right, values = _arrays(truth, score, (1, 2))
    if right.ndim == 2:
        return np.array([average_precision(*columns)
                         for columns in zip(right.T, values.T, strict=True)], np.float64)
    if not right.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    hits = np.cumsum(right[order])[ends]
    return float((np.diff(hits, prepend=0) / hits[-1]) @ (hits / (ends + 1)))


def micro_auprc(truth: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Area under the precision-recall curve of all tags together, as in the DCASE evaluation.

    ``evaluate`` computes this number for the coarse level of a predictions file. It differs from
    ``average_precision`` of all numbers together: thresholds are 1 and every score of at least
    0.01; points are connected by straight lines, from (recall 0, precision 1) to (1, 0); and where
    nothing is predicted, precision is 0.

    Parameters
    ----------
    truth
        Shape (clips, tags): 1 or True where the clip has the tag, else 0.
    score
        Shape (clips, tags): probabilities, 0 to 1.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    InputError
        For shapes that do not match, a truth other than 0 and 1, a truth without any tag, and
        scores outside 0 to 1.

    Examples
    --------
    >>> from l3hpc.tagging import micro_auprc
    >>> micro_auprc([[1, 0], [0, 1]], [[1.0, 0.0], [0.0, 1.0]])
    1.0
    """
    right, values = _arrays(truth, score, (2,))
    if not right.any():
        raise InputError("no clip has a tag, so recall is not defined")
    if values.min() < 0 or values.max() > 1:
        raise InputError(f"scores range from {values.min():g} to {values.max():g}",
                         allowed="probabilities: 0 to 1")
    return float(area(union([CategoryEvents(right[:, [tag]], values[:, [tag]])
                             for tag in range(right.shape[1])]).count()))


def _arrays(truth: npt.ArrayLike, score: npt.ArrayLike,
            dims: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Truth as bool and scores as float64, checked."""
    right, values = np.asarray(truth), np.asarray(score, np.float64)
    if right.shape != values.shape or right.ndim not in dims:
        raise InputError(f"truth has shape {right.shape}, scores have shape {values.shape}",
                         allowed="two arrays of shape (clips, tags)"
                         + (" or (clips,)" if 1 in dims else ""))
    if not np.isin(right, (0, 1)).all():
        raise InputError("truth contains other values than 0 and 1")
    if not np.isfinite(values).all():
        raise InputError("scores contain NaN or infinite values")
    return right.astype(bool), values


def _changes(rising: np.ndarray, *groups: tuple[np.ndarray, np.ndarray, int]) -> Changes:
    """The changes from groups of (clips, values, sign), without those below all thresholds."""
    clip = np.concatenate([group[0] for group in groups])
    value = np.concatenate([group[1] for group in groups])
    sign = np.concatenate([np.full(len(group[0]), group[2], np.int8) for group in groups])
    order = np.argsort(-value)
    place = len(rising) - np.searchsorted(rising, value[order], side="right")
    order = order[:np.searchsorted(place, len(rising))]
    return Changes.at(place[:len(order)], clip[order], sign[order], len(rising))
