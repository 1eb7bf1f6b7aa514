"""Evaluation of predictions: AUPRC and F1, micro, macro and per category, on both levels.

The numbers are those of the SONYC-UST / DCASE urban sound tagging evaluation [1]_, with a fixed
order where recalls are equal (see ``counts.area``), so that the same files always give the same
digits.

Confidence intervals are percentiles of a bootstrap over clips [2]_: clips are drawn with
replacement, as many as there are, and every number is computed again from the same events with
other weights. They account for other clips of the same kind, not for other sensors or another
training.

References
----------
.. [1] M. Cartwright et al., "SONYC Urban Sound Tagging (SONYC-UST): a multilabel dataset from an
   urban acoustic sensor network", DCASE 2019.
.. [2] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall (1993),
   chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, command_line
from l3hpc.tagging import predictions as predictions_file
from l3hpc.tagging.annotations import Annotations
from l3hpc.tagging.metrics import (
    CategoryEvents,
    Counts,
    Events,
    area,
    average_precision,
    f1_at_half,
    precision_recall,
    union,
)
from l3hpc.tagging.predictions import Predictions

METHOD = "percentiles over clips drawn with replacement"
BLOCK = 1 << 20  # numbers in memory at once per count
CURVE_POINTS = 200
CONFIDENCE = 0.95
SEED = 20180216  # of the resamplings


# evaluation of a split -------------------------------------------------------------------------


def evaluate(
    predictions: Path | str | Predictions, annotations: Path | str | Annotations,
    taxonomy: Path | str | Taxonomy, split: str = "validate", *, bootstrap: int = 0,
    confidence: float = CONFIDENCE, seed: int = SEED,
) -> dict[str, Any]:
    """Evaluate predictions for the clips of a split that have agreed annotations (annotator 0).

    The order of rows and columns does not matter.

    Parameters
    ----------
    predictions, annotations, taxonomy
        Files of SONYC-UST, or the objects read from them.
    split
        'train', 'validate' or 'test'.
    bootstrap
        Number of resamplings for confidence intervals (0: none).
    confidence
        Fraction of the resamplings within an interval, 0 to 1.
    seed
        Seed of the resamplings.

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
        Where predictions are missing, belong to no clip of the split (with names) or are not
        probabilities, and where no clip of the split has a tag.
    """
    matched = match(predictions, annotations, taxonomy, split)
    result = numbers(matched)
    if bootstrap:
        add_confidence(result, matched, resample(matched, bootstrap, seed), confidence)
    return result


@dataclass(frozen=True)
class Matched:
    """Predictions beside the agreed annotations of the same clips, in the order of the clips.

    Attributes
    ----------
    taxonomy : Taxonomy
        The tags.
    split : str
        The split.
    files : list of str
        The clips, sorted.
    sensor : ndarray of str objects, shape (files,)
        The sensor of each clip.
    fine_truth, coarse_truth : ndarray of bool, shape (files, fine tags), (files, categories)
        Presence of the tags, including X.
    predictions : Predictions
        Of exactly these clips.
    where : str
        The annotations, for messages.
    """

    taxonomy: Taxonomy
    split: str
    files: list[str]
    sensor: np.ndarray
    fine_truth: np.ndarray
    coarse_truth: np.ndarray
    predictions: Predictions
    where: str = "annotations"

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that were predicted, fine before coarse."""
        return tuple(level for level in ("fine", "coarse") if level in self.predictions.levels)

    @property
    def names(self) -> list[str]:
        """Names of the categories."""
        return [tag.name for tag in self.taxonomy.coarse]

    def positives(self, level: str) -> np.ndarray:
        """Whether a clip has any tag of a category on this level, shape (files, categories)."""
        if level == "coarse":
            return self.coarse_truth
        return np.stack([
            self.fine_truth[:, [place for place, tag in enumerate(self.taxonomy.fine)
                                if tag.coarse == category.id]].any(axis=1)
            for category in self.taxonomy.coarse], axis=1)

    def events(self, level: str, rows: np.ndarray | slice = slice(None)) -> list[CategoryEvents]:
        """Events of every category.

        Parameters
        ----------
        level
            'fine' or 'coarse'.
        rows
            The clips that count (default: all).
        """
        if level == "coarse":
            truth, predicted = self.coarse_truth[rows], self.predictions.coarse[rows]
            return [CategoryEvents(truth[:, [place]], predicted[:, [place]])
                    for place in range(len(self.taxonomy.coarse))]
        truth, predicted = self.fine_truth[rows], self.predictions.fine[rows]
        events = []
        for category in self.taxonomy.coarse:
            tags, other = self.taxonomy.complete(category.id), self.taxonomy.other(category.id)
            uncertain = (None, None) if other is None else (truth[:, other], predicted[:, other])
            events.append(CategoryEvents(truth[:, tags], predicted[:, tags], *uncertain))
        return events


def match(predictions: Path | str | Predictions, annotations: Path | str | Annotations,
          taxonomy: Path | str | Taxonomy, split: str) -> Matched:
    """Match predictions with the agreed annotations of a split, by the names of the clips.

    Parameters
    ----------
    predictions, annotations, taxonomy
        Files of SONYC-UST, or the objects read from them.
    split
        'train', 'validate' or 'test'.

    Raises
    ------
    InputError
        As for ``evaluate``.
    """
    if not isinstance(taxonomy, Taxonomy):
        taxonomy = Taxonomy.load(taxonomy)
    if not isinstance(annotations, Annotations):
        annotations = Annotations.load(annotations, taxonomy)
    if not isinstance(predictions, Predictions):
        predictions = predictions_file.read(predictions, taxonomy)
    else:
        predictions_file.refuse_improbable(predictions, taxonomy, predictions.where)
    files, fine_truth, coarse_truth = annotations.ground_truth(split)
    order = _align(predictions.files, files, predictions.where, split)
    matched = Matched(
        taxonomy, split, files, annotations.sensors(files), fine_truth, coarse_truth,
        replace(predictions, files=files, fine=predictions.fine[order],
                coarse=predictions.coarse[order]), annotations.where)
    if not any(matched.positives(level).any() for level in matched.levels):
        raise InputError(f"no clip of split '{split}' has a tag, so recall is not defined",
                         where=annotations.where,
                         hint="Check the annotations of annotator 0: "
                              + command_line("data", "check", "FOLDER"))
    return matched


def numbers(matched: Matched) -> dict[str, Any]:
    """What ``evaluate`` returns, without confidence intervals.

    Parameters
    ----------
    matched
        The predictions and the truth.
    """
    names = matched.names
    result: dict[str, Any] = {"split": matched.split, "files": len(matched.files),
                              "warnings": list(matched.predictions.warnings)}
    for level in matched.levels:
        events = matched.events(level)
        counts, micro = [category.count() for category in events], union(events).count()
        result[level] = by_name(names, scores(counts, micro).tolist())
        result[level]["class_positives"] = dict(
            zip(names, matched.positives(level).sum(axis=0).tolist(), strict=True))
        result[level]["curves"] = {name: _curve(one)
                                   for name, one in zip(names, counts, strict=True)}
        result[level]["curves"]["micro"] = _curve(micro)
    return result


def resample(matched: Matched, samples: int, seed: int = SEED) -> dict[str, np.ndarray]:
    """``scores`` of resampled clips, per level.

    The clips that are drawn depend only on their number and ``seed``: of two predictions of the
    same clips, row i has the scores of the same drawn clips.

    Parameters
    ----------
    matched
        The predictions and the truth.
    samples
        Number of resamplings.
    seed
        Their seed.

    Returns
    -------
    dict of str to ndarray of float64, shape (samples, 3 + categories)
        Level → scores.
    """
    events = {level: matched.events(level) for level in matched.levels}
    return dict(zip(events, resampled([(one, union(one)) for one in events.values()], samples,
                                      seed), strict=True))


def add_confidence(result: Mapping[str, Any], matched: Matched,
                   drawn: Mapping[str, np.ndarray], confidence: float = CONFIDENCE) -> None:
    """Add confidence intervals to the levels of a result.

    Parameters
    ----------
    result
        What ``numbers`` returned.
    matched
        The predictions and the truth.
    drawn
        What ``resample`` returned.
    confidence
        Fraction of the resamplings within an interval, 0 to 1.
    """
    for level, values in drawn.items():
        result[level]["confidence"] = {
            "level": confidence, "samples": len(values), "method": METHOD,
            **by_name(matched.names, intervals(values, confidence).tolist())}


def clip_scores(truth: np.ndarray, probability: np.ndarray, names: Sequence[str]
                ) -> dict[str, Any]:
    """Scores of tags without a taxonomy: each tag is a category of its own.

    Parameters
    ----------
    truth
        Shape (clips, tags): 1 or True where the clip has the tag.
    probability
        Shape (clips, tags), 0 to 1.
    names
        Names of the tags.

    Returns
    -------
    dict
        ``clips``; ``micro_auprc`` and ``micro_f1`` (at 0.5) over all tags, as for SONYC-UST;
        ``class_average_precision`` {name: value, None for a tag that no clip has} and its mean,
        ``mean_average_precision``. A tag has its average precision, because by the rules for
        SONYC-UST a tag of a single clip cannot have more than 0.5.

    Raises
    ------
    InputError
        Where no clip has a tag.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.evaluation import clip_scores
    >>> clip_scores(np.eye(2), np.eye(2), ["owl", "rain"])["class_average_precision"]
    {'owl': 1.0, 'rain': 1.0}
    """
    right, values = np.asarray(truth, bool), np.asarray(probability, np.float64)
    if not right.any():
        raise InputError("no clip has a tag, so recall is not defined")
    events = [CategoryEvents(right[:, [tag]], values[:, [tag]]) for tag in range(len(names))]
    micro = union(events).count()
    each = np.atleast_1d(average_precision(right, values)).tolist()
    return {"clips": len(right), "micro_auprc": float(area(micro)),
            "micro_f1": float(f1_at_half(micro)), "mean_average_precision": float(np.nanmean(each)),
            "class_average_precision": {name: None if math.isnan(one) else one
                                        for name, one in zip(names, each, strict=True)}}


def published(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result that the published ``evaluation.json`` contains.

    Parameters
    ----------
    result
        What ``evaluate`` returned.

    Returns
    -------
    dict
        Level → metrics.
    """
    keys = ("micro_auprc", "micro_f1", "macro_auprc", "class_auprc")
    return {level: {key: result[level][key] for key in keys}
            for level in ("coarse", "fine") if level in result}


def _align(predicted: Sequence[str], agreed: Sequence[str], where: str, split: str) -> np.ndarray:
    """Rows of the predictions in the order of the agreed clips; both must be the same clips."""
    missing, extra = sorted(set(agreed) - set(predicted)), sorted(set(predicted) - set(agreed))
    problems = [f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                for names, what in ((missing, "missing"), (extra, "not among them")) if names]
    if problems:
        raise InputError(
            f"{len(predicted)} clips do not match the {len(agreed)} agreed ones of split "
            f"'{split}': "
            + ", ".join(problems), where=where,
            hint="Predict exactly the clips of one split, or choose the split.")
    row_of = {name: row for row, name in enumerate(predicted)}
    return np.array([row_of[name] for name in agreed], np.int64)


def by_name(names: list[str], values: Sequence[Any]) -> dict[str, Any]:
    """The columns of ``scores``, or of numbers computed from them, by name.

    Parameters
    ----------
    names
        Names of the categories.
    values
        One per column.
    """
    return {"micro_auprc": values[0], "micro_f1": values[1], "macro_auprc": values[2],
            "class_auprc": dict(zip(names, values[3:], strict=True))}


def _curve(counts: Counts) -> dict[str, list[float]]:
    """At most ``CURVE_POINTS`` points of a precision-recall curve."""
    precision, recall = precision_recall(counts)
    rows = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).round().astype(int))
    return {"threshold": counts.threshold[rows].tolist(), "precision": precision[rows].tolist(),
            "recall": recall[rows].tolist()}


# scores and their confidence intervals -----------------------------------------------------------


def scores(categories: Sequence[Counts], micro: Counts) -> np.ndarray:
    """All metrics of one level.

    Parameters
    ----------
    categories
        Counts of each category.
    micro
        Counts of all categories together.

    Returns
    -------
    ndarray, shape (..., 3 + categories)
        Micro-AUPRC, micro-F1 at 0.5, macro-AUPRC, AUPRC of each category.
    """
    areas = [area(one) for one in categories]
    return np.stack([area(micro), f1_at_half(micro), np.mean(areas, axis=0), *areas], axis=-1)


def resampled(levels: Iterable[tuple[Sequence[Events], Events]], samples: int,
              seed: int) -> list[np.ndarray]:
    """``scores`` of resampled clips.

    Parameters
    ----------
    levels
        For each level, the events of the categories and of all of them together. All levels have
        the same clips, which are resampled alike.
    samples
        Number of resamplings.
    seed
        Their seed.

    Returns
    -------
    list of ndarray of float64, shape (samples, 3 + categories)
        One for each level.
    """
    # Fewer thresholds for the thousand repetitions: the numbers are the same at these.
    corners = [([category.corners() for category in categories], together.corners())
               for categories, together in levels]
    clips = corners[0][1].clips
    largest = max(max(len(one.clip) for one in (together.tp, together.fp, together.fn))
                  for _, together in corners)
    rows = max(1, min(samples, BLOCK // max(largest, clips)))
    kind = weight_type(clips, largest)
    # One generator for all levels: they are compared on the same resampled clips.
    rng = np.random.default_rng(seed)
    blocks: list[list[np.ndarray]] = [[] for _ in corners]
    for start in range(0, samples, rows):
        drawn = rng.integers(clips, size=(min(rows, samples - start), clips))
        # How often each clip was drawn is all that the counts need: the events stay as they are.
        weight = np.stack([np.bincount(one, minlength=clips) for one in drawn]).astype(kind)
        for number, (categories, together) in enumerate(corners):
            blocks[number].append(scores([category.count(weight) for category in categories],
                                         together.count(weight)))
    return [np.concatenate(parts) for parts in blocks]


def weight_type(clips: int, events: int) -> type[np.signedinteger[Any]]:
    """The smallest integer type that cannot overflow in sums over resampled events.

    Parameters
    ----------
    clips
        Number of clips, the largest possible weight.
    events
        Number of events.
    """
    return np.int32 if clips * events < 2**31 else np.int64


def intervals(values: np.ndarray, confidence: float) -> np.ndarray:
    """Percentile interval of each column.

    Parameters
    ----------
    values
        Shape (samples, columns).
    confidence
        Fraction of the samples within the interval, 0 to 1.

    Returns
    -------
    ndarray, shape (columns, 2)
        Low and high.
    """
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).T
