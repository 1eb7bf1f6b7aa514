"""True and false positives and false negatives at every threshold, in one pass per category.

The rules are those of the DCASE 2019/2020 urban sound tagging evaluation, with its treatment of
the uncertain tag "X". A count as a function of the threshold only changes where some prediction is
crossed, so each rule becomes a list of events (clip, place of the threshold, +1 or -1) and one
cumulative sum, which can be repeated with any weights of the clips.

Score a predictions file: AUPRC and F1, micro, macro and per category, on both levels.

The numbers are those of the SONYC-UST / DCASE urban sound tagging evaluation, with a fixed order
where recalls tie (see ``counts.area``), so that the same files always give the same digits.

Intervals are percentiles over resampled clips: the clips are drawn with replacement, as many as
there are, and every number is computed again from the same events with the clips' new weights
(Efron and Tibshirani 1993, chapter 13). They speak of other clips of the same kind, not of other
sensors or of another training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from l3hpc.datasets.sonyc_ust import Taxonomy
from l3hpc.errors import InputError
from l3hpc.tagging import predictions as predictions_file
from l3hpc.tagging.annotations import Annotations
from l3hpc.tagging.predictions import Predictions

LOWEST_THRESHOLD = 0.01
METHOD = "percentiles over clips drawn with replacement"
BLOCK = 1 << 20  # numbers held at once per count
CURVE_POINTS = 200


@dataclass(frozen=True)
class Counts:
    """Counts at thresholds; place i of the last axis holds for ``threshold[i]``, descending from 1.

    A tag counts as predicted where its value is at least the threshold. With several weightings of
    the clips the counts have one row for each of them.
    """

    threshold: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


@dataclass(frozen=True)
class Changes:
    """How one count changes on the way down the thresholds: events in order of their place.

    clip: whose event it is; sign: +1 or -1; ends: how many of the events count at each threshold.
    """

    clip: np.ndarray
    sign: np.ndarray
    ends: np.ndarray

    @classmethod
    def at(cls, place: np.ndarray, clip: np.ndarray, sign: np.ndarray, places: int) -> Changes:
        """From events in order of ``place``, the first of ``places`` thresholds that counts it."""
        return cls(clip, sign, np.cumsum(np.bincount(place, minlength=places)))

    @property
    def place(self) -> np.ndarray:
        """The first threshold that counts each event."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))

    @cached_property
    def _only_up(self) -> bool:
        return bool((self.sign == 1).all())

    def sums(self, weight: np.ndarray) -> np.ndarray:
        """All changes up to each threshold, (..., thresholds), for weights (..., clips)."""
        change = np.take(weight, self.clip, axis=-1)
        if not self._only_up:
            change *= self.sign
        total = np.zeros((*weight.shape[:-1], len(self.clip) + 1), weight.dtype)
        np.cumsum(change, axis=-1, dtype=weight.dtype, out=total[..., 1:])
        return np.take(total, self.ends, axis=-1)


class Events:
    """Everything that decides the counts of a category, or of several together.

    threshold: descending from 1; tp, fp, fn: the changes; missed: the clip of each positive, all
    of which are false negatives above the first threshold.
    """

    def __init__(self, threshold: np.ndarray, clips: int, tp: Changes, fp: Changes, fn: Changes,
                 missed: np.ndarray) -> None:
        self.threshold, self.clips, self.missed = threshold, clips, missed
        self.tp, self.fp, self.fn = tp, fp, fn

    def count(self, weight: np.ndarray | None = None) -> Counts:
        """The counts at all thresholds.

        weight: signed integers (clips,) or (weightings, clips), how often each clip is there (None:
        once). The counts are of the same type.
        """
        weight = np.ones(self.clips, np.int64) if weight is None else weight
        positives = np.take(weight, self.missed, axis=-1).sum(
            axis=-1, dtype=weight.dtype, keepdims=True)
        return Counts(self.threshold, self.tp.sums(weight), self.fp.sums(weight),
                      positives + self.fn.sums(weight))

    def corners(self) -> Events:
        """The same events at fewer thresholds: area and F1 are equal whatever the weights.

        Where recall stands still only the first and the last precision matter.
        """
        moves = np.union1d(self.tp.place, self.fn.place)
        half = np.flatnonzero(self.threshold >= 0.5)[-1:]
        keep = np.unique(np.concatenate(
            [moves, moves[moves > 0] - 1, half, [0, len(self.threshold) - 1]]))
        tp, fp, fn = (Changes(one.clip, one.sign, one.ends[keep])
                      for one in (self.tp, self.fp, self.fn))
        return Events(self.threshold[keep], self.clips, tp, fp, fn, self.missed)


class CategoryEvents(Events):
    """The events of one category.

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
        rising = np.union1d(values[values >= LOWEST_THRESHOLD], [1.0])
        none_true = ~truth.any(axis=1)
        highest = np.maximum(predicted.max(axis=1, initial=-np.inf), v)
        highest_true = np.where(truth, predicted, -np.inf).max(axis=1, initial=-np.inf)
        lowest = predicted.min(axis=1, initial=np.inf)

        hits, alarms = np.nonzero(truth), np.nonzero(~truth & ~u[:, None])
        rescued = np.flatnonzero(u & (highest > highest_true))
        silent = np.flatnonzero(u & none_true)
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
    """The categories taken together (micro): sums over all of them at all their thresholds.

    At a threshold that a category does not have, it counts as at its next higher one.
    """
    rising = np.unique(np.concatenate([category.threshold for category in categories]))
    own = [len(rising) - 1 - np.searchsorted(rising, category.threshold)
           for category in categories]

    def together(name: str) -> Changes:
        parts = [getattr(category, name) for category in categories]
        place = np.concatenate([places[part.place]
                                for places, part in zip(own, parts, strict=True)])
        clip = np.concatenate([part.clip for part in parts])
        sign = np.concatenate([part.sign for part in parts])
        order = np.argsort(place)
        return Changes.at(place[order], clip[order], sign[order], len(rising))

    return Events(rising[::-1], categories[0].clips, together("tp"), together("fp"),
                  together("fn"), np.concatenate([category.missed for category in categories]))


def precision_recall(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at every threshold; an empty denominator counts as 0.5."""
    precision = counts.tp / np.maximum(counts.tp + counts.fp, 0.5)
    recall = counts.tp / np.maximum(counts.tp + counts.fn, 0.5)
    return precision, recall


def area(counts: Counts) -> np.ndarray:
    """Area under the precision-recall curve, by trapezoids from (0, 1) to (1, 0), shape (...).

    Points are ordered by recall, ascending; where recalls are equal by threshold, descending. That
    is the order they come in: on the way down no true positive is lost (one for an uncertain tag
    only becomes a hit) and no false negative added. The original sorts by recall alone, with an
    unstable sort, and may differ in the third decimal.
    """
    precision, recall = precision_recall(counts)
    sums = (np.diff(recall) * (precision[..., 1:] + precision[..., :-1])).sum(axis=-1)
    first = recall[..., 0] * (1.0 + precision[..., 0])
    last = (1.0 - recall[..., -1]) * precision[..., -1]
    return np.asarray((sums + first + last) / 2)


def f1_at_half(counts: Counts) -> np.ndarray:
    """F1 at the lowest threshold that is at least 0.5, shape (...)."""
    place = int(np.flatnonzero(counts.threshold >= 0.5)[-1])
    precision, recall = (values[..., place] for values in precision_recall(counts))
    both = precision * recall
    return np.asarray(2 * both / np.where(both > 0, precision + recall, 1.0))


def average_precision(truth: npt.ArrayLike, score: npt.ArrayLike) -> float | np.ndarray:
    """Average precision of scores: Σ (R_i − R_{i−1}) P_i over thresholds, from the highest down.

    P_i and R_i are precision and recall where a clip counts as tagged if its score is at least
    threshold i; clips of equal score come in together. Nothing is interpolated: the definition of
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
    """Area under the precision-recall curve of all tags together, as the DCASE evaluation has it.

    ``evaluate`` gives this number for the coarse level of a predictions file. It differs from
    ``average_precision`` of all numbers together: thresholds are 1 and every score from 0.01 up;
    the points are joined by straight lines, from (recall 0, precision 1) to (1, 0); and where
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
        raise InputError("no clip has any tag: there is nothing to find")
    if values.min() < 0 or values.max() > 1:
        raise InputError(f"scores go from {values.min():g} to {values.max():g}",
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
        raise InputError("truth holds other values than 0 and 1")
    if not np.isfinite(values).all():
        raise InputError("scores hold NaN or infinite values")
    return right.astype(bool), values


def _changes(rising: np.ndarray, *groups: tuple[np.ndarray, np.ndarray, int]) -> Changes:
    """The changes from groups of (clips, values, sign), without those below every threshold."""
    clip = np.concatenate([group[0] for group in groups])
    value = np.concatenate([group[1] for group in groups])
    sign = np.concatenate([np.full(len(group[0]), group[2], np.int8) for group in groups])
    order = np.argsort(-value)
    place = len(rising) - np.searchsorted(rising, value[order], side="right")
    order = order[:np.searchsorted(place, len(rising))]
    return Changes.at(place[:len(order)], clip[order], sign[order], len(rising))


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


def evaluate(
    predictions: Path | str | Predictions, annotations: Path | str | Annotations,
    taxonomy: Path | str | Taxonomy, split: str = "validate", *, bootstrap: int = 0,
    confidence: float = 0.95, seed: int = 20180216,
) -> dict[str, Any]:
    """Score predictions of the clips that annotator 0 tagged in ``split``.

    The order of rows and columns does not matter.

    Parameters
    ----------
    predictions, annotations, taxonomy
        Files of SONYC-UST, or what was read from them.
    split
        'train', 'validate' or 'test'.
    bootstrap
        Resamplings of the clips for intervals of confidence (0: none).
    confidence
        Share of the resamplings within an interval, 0 to 1.
    seed
        Of the resamplings.

    Returns
    -------
    dict
        Ready for JSON: ``fine`` and ``coarse``, each with ``micro_auprc``, ``micro_f1`` (at 0.5),
        ``macro_auprc``, ``class_auprc`` {category: value}, ``class_positives`` {category: clips}
        and ``curves`` {category or 'micro': {threshold, precision, recall}} (at most 200 points);
        ``files``, ``split``, ``warnings``. With ``bootstrap`` each level also has ``confidence``:
        {level, samples, method, micro_auprc: [low, high], …, class_auprc: {…}}. A level that the
        predictions do not have is left out.

    Raises
    ------
    InputError
        Where predictions are missing, belong to no clip of the split (with names) or are no
        probabilities, and where no clip of the split has a tag.
    """
    if not isinstance(taxonomy, Taxonomy):
        taxonomy = Taxonomy.load(taxonomy)
    if not isinstance(annotations, Annotations):
        annotations = Annotations.load(annotations, taxonomy)
    where = "predictions" if isinstance(predictions, Predictions) else str(predictions)
    if not isinstance(predictions, Predictions):
        predictions = predictions_file.read(predictions, taxonomy)
    else:
        predictions_file.refuse_improbable(predictions, taxonomy, where)
    files, fine_truth, coarse_truth = annotations.ground_truth(split)
    order = _align(predictions.files, files, where, split)
    categories: dict[str, list[CategoryEvents]] = {}
    if "fine" in predictions.levels:
        categories["fine"] = _fine_events(taxonomy, fine_truth, predictions.fine[order])
    if "coarse" in predictions.levels:
        categories["coarse"] = [
            CategoryEvents(coarse_truth[:, [place]], predictions.coarse[order][:, [place]])
            for place in range(len(taxonomy.coarse))]
    names = [tag.name for tag in taxonomy.coarse]
    positives = {"fine": _any_fine(taxonomy, fine_truth), "coarse": coarse_truth}
    if not any(positives[level].any() for level in categories):
        raise InputError(f"no clip of split '{split}' has any tag: there is nothing to find",
                         where=annotations.where,
                         hint="Look at the annotations of annotator 0: l3hpc data check FOLDER")
    result: dict[str, Any] = {"split": split, "files": len(files),
                              "warnings": list(predictions.warnings)}
    levels = {level: (events, union(events)) for level, events in categories.items()}
    for level, (events, together) in levels.items():
        counts, micro = [category.count() for category in events], together.count()
        result[level] = _numbers(names, scores(counts, micro).tolist())
        result[level]["class_positives"] = dict(
            zip(names, positives[level].sum(axis=0).tolist(), strict=True))
        result[level]["curves"] = {name: _curve(one)
                                   for name, one in zip(names, counts, strict=True)}
        result[level]["curves"]["micro"] = _curve(micro)
    if bootstrap:
        for level, drawn in zip(levels, resampled(levels.values(), bootstrap, seed), strict=True):
            result[level]["confidence"] = {
                "level": confidence, "samples": bootstrap, "method": METHOD,
                **_numbers(names, intervals(drawn, confidence).tolist())}
    return result


def published(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``evaluate``'s result that the published ``evaluation.json`` has, by level."""
    keys = ("micro_auprc", "micro_f1", "macro_auprc", "class_auprc")
    return {level: {key: result[level][key] for key in keys}
            for level in ("coarse", "fine") if level in result}


def _align(found: Sequence[str], wanted: Sequence[str], where: str, split: str) -> np.ndarray:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    problems = [f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                for names, what in ((missing, "missing"), (extra, "not among them")) if names]
    if problems:
        raise InputError(
            f"{len(found)} clips do not match the {len(wanted)} agreed ones of split '{split}': "
            + ", ".join(problems), where=where,
            hint="Predict exactly the clips of one split, or choose the split.")
    place = {name: row for row, name in enumerate(found)}
    return np.array([place[name] for name in wanted], np.int64)


def _fine_events(taxonomy: Taxonomy, truth: np.ndarray,
                 predicted: np.ndarray) -> list[CategoryEvents]:
    events = []
    for category in taxonomy.coarse:
        tags, other = taxonomy.complete(category.id), taxonomy.other(category.id)
        uncertain = (None, None) if other is None else (truth[:, other], predicted[:, other])
        events.append(CategoryEvents(truth[:, tags], predicted[:, tags], *uncertain))
    return events


def _any_fine(taxonomy: Taxonomy, truth: np.ndarray) -> np.ndarray:
    return np.stack([
        truth[:, [place for place, tag in enumerate(taxonomy.fine) if tag.coarse == category.id]]
        .any(axis=1) for category in taxonomy.coarse], axis=1)


def _numbers(names: list[str], values: Sequence[Any]) -> dict[str, Any]:
    """The columns of ``scores``, or of their intervals, by name."""
    return {"micro_auprc": values[0], "micro_f1": values[1], "macro_auprc": values[2],
            "class_auprc": dict(zip(names, values[3:], strict=True))}


def _curve(counts: Counts) -> dict[str, list[float]]:
    precision, recall = precision_recall(counts)
    rows = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).round().astype(int))
    return {"threshold": counts.threshold[rows].tolist(), "precision": precision[rows].tolist(),
            "recall": recall[rows].tolist()}
