"""Predictions as a detector: thresholds per tag, calibration, and scores of each sensor.

All three ask about single tags: the categories on the coarse level, the complete tags on the fine
one. Where annotators marked the uncertain tag (X) of a category, nobody knows which of its fine
tags the clip has: it does not count for the tags that were not marked.

The threshold of a tag is the one with the highest F1 on ``validate``. F1 on the same clips is too
high for that reason; what the detector is worth is F1 on ``test``.

A forecast is calibrated if, of all clips with probability 0.7, seven in ten have the tag. The Brier
score [1]_ is the mean squared difference between probability and truth; the expected calibration
error [2]_ is the mean distance between probability and frequency in ten bins of equal width.

References
----------
.. [1] G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
   Review 78 (1950).
.. [2] M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities using
   Bayesian binning", AAAI 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l3hpc.tagging.evaluation import Matched
from l3hpc.tagging.metrics import area, union

RULE = ("highest F1 on the clips of validate, predicted where probability >= threshold; of equal "
        "F1 the highest threshold")
HALF = 0.5  # the threshold of a tag without a positive clip to choose one on
BINS = 10
MIN_POSITIVES = 10  # of a sensor, for a score of its own


@dataclass(frozen=True)
class Tags:
    """The tags of one level, a column each.

    Attributes
    ----------
    columns : list of str
        Their columns in a predictions file.
    truth : ndarray of bool, shape (clips, tags)
        Presence in the agreed annotations.
    probability : ndarray of float64, shape (clips, tags)
        What was predicted, 0 to 1.
    known : ndarray of bool, shape (clips, tags)
        False where annotators were not sure which tag of the category the clip has.
    """

    columns: list[str]
    truth: np.ndarray
    probability: np.ndarray
    known: np.ndarray


def tags_of(matched: Matched, level: str) -> Tags:
    """The tags of a level, a column each.

    Parameters
    ----------
    matched
        The predictions and the truth.
    level
        'fine' or 'coarse'.
    """
    taxonomy, predictions = matched.taxonomy, matched.predictions
    if level == "coarse":
        return Tags([tag.column for tag in taxonomy.coarse], matched.coarse_truth,
                    predictions.coarse, np.ones(matched.coarse_truth.shape, bool))
    places = list(taxonomy.complete_fine)
    truth = matched.fine_truth[:, places]
    known = np.ones(truth.shape, bool)
    for column, place in enumerate(places):
        other = taxonomy.other(taxonomy.fine[place].coarse)
        if other is not None:
            known[:, column] = truth[:, column] | ~matched.fine_truth[:, other]
    return Tags([taxonomy.fine[place].column for place in places], truth,
                predictions.fine[:, places], known)


# thresholds and detections -----------------------------------------------------------------------


def choose_thresholds(tags: Tags) -> dict[str, float | None]:
    """The threshold of each tag with the highest F1 on these clips.

    Parameters
    ----------
    tags
        Of the split on which thresholds are chosen.

    Returns
    -------
    dict of str to float or None
        Column → threshold: one of the predicted probabilities, greater than 0. Of thresholds with
        equal F1, the highest one. None where no clip has the tag, or all of its probabilities are
        0: there is nothing to choose by.
    """
    found: dict[str, float | None] = {}
    for place, column in enumerate(tags.columns):
        known = tags.known[:, place]
        truth, values = tags.truth[known, place], tags.probability[known, place]
        if not truth.any() or not values.any():
            found[column] = None
            continue
        order = np.argsort(-values, kind="stable")
        values = values[order]
        # Equal probabilities are one threshold: what counts is behind the last of them.
        ends = np.flatnonzero(np.append(np.diff(values) != 0, True))
        ends = ends[values[ends] > 0]
        hits = np.cumsum(truth[order])[ends]
        f1 = 2 * hits / (ends + 1 + truth.sum())
        found[column] = float(values[ends[int(np.argmax(f1))]])
    return found


def detections(tags: Tags, thresholds: Mapping[str, float | None]) -> dict[str, Any]:
    """Precision, recall and F1 of each tag at its threshold.

    Parameters
    ----------
    tags
        Of the split that is judged.
    thresholds
        Column → threshold, as ``choose_thresholds`` returned them; 0.5 is used for None.

    Returns
    -------
    dict
        Ready for JSON: ``micro_f1`` over all decisions, ``macro_f1`` over the tags that a clip
        has, both ``…_at_half`` with 0.5 for every tag, and ``tags`` {column: {threshold, chosen,
        positives, precision, recall, f1, f1_at_half}}. A quotient of which nothing is known
        (precision where nothing is predicted, recall without a positive clip) is None.
    """
    used = np.array([HALF if (value := thresholds[column]) is None else value
                     for column in tags.columns])
    own, half = (_outcomes(tags, limit) for limit in (used, np.full(len(used), HALF)))
    found: dict[str, Any] = {}
    for more, (hits, alarms, misses) in (("", own), ("_at_half", half)):
        present = hits + misses > 0
        found[f"micro_f1{more}"] = _share(2 * hits.sum(), (2 * hits + alarms + misses).sum())
        found[f"macro_f1{more}"] = float(np.mean(
            (2 * hits / np.maximum(2 * hits + alarms + misses, 1))[present])) \
            if present.any() else None
    found["tags"] = {
        column: {"threshold": float(used[place]), "chosen": thresholds[column] is not None,
                 "positives": int(hits + misses),
                 "precision": _share(hits, hits + alarms), "recall": _share(hits, hits + misses),
                 "f1": _share(2 * hits, 2 * hits + alarms + misses),
                 "f1_at_half": _share(2 * half[0][place],
                                      2 * half[0][place] + half[1][place] + half[2][place])}
        for place, (column, hits, alarms, misses) in enumerate(
            zip(tags.columns, *own, strict=True))}
    return found


def _outcomes(tags: Tags, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false positives and false negatives of each tag."""
    predicted = (tags.probability >= threshold) & tags.known
    return ((predicted & tags.truth).sum(axis=0), (predicted & ~tags.truth).sum(axis=0),
            (~predicted & tags.truth).sum(axis=0))


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


# calibration -------------------------------------------------------------------------------------


def calibration(several: Sequence[Tags]) -> dict[str, Any]:
    """How well probabilities agree with frequencies.

    Parameters
    ----------
    several
        The tags as predicted by each of several classifiers, which are taken together.

    Returns
    -------
    dict
        Ready for JSON, all 0 to 1: ``brier``, ``reference`` (the Brier score of always predicting
        the frequency of each tag) and ``error`` (expected calibration error) over all pairs of clip
        and tag, ``pairs`` (their number); ``reliability``: for each bin ``low``, ``high``,
        ``pairs``, and the mean ``predicted`` probability and ``observed`` frequency, None where
        it is empty; a bin begins at ``low``, and the last one includes 1. ``tags`` {column:
        {brier, reference, error}}.
    """
    first = several[0]
    truth, probability, known = (np.concatenate([getattr(one, name) for one in several])
                                 for name in ("truth", "probability", "known"))
    each: dict[str, dict[str, float | None]] = {}
    references = np.zeros(truth.shape)
    for place, column in enumerate(first.columns):
        rows = known[:, place]
        own = truth[rows, place]
        references[:, place] = (truth[:, place] - (own.mean() if len(own) else 0.0)) ** 2
        each[column] = {"brier": _brier(own, probability[rows, place]),
                        "reference": float(references[rows, place].mean()) if len(own) else None,
                        "error": _error(_bins(own, probability[rows, place]))}
    bins = _bins(truth[known], probability[known])
    return {"brier": _brier(truth[known], probability[known]),
            "reference": float(references[known].mean()) if known.any() else None,
            "error": _error(bins),
            "pairs": int(known.sum()), "reliability": bins, "tags": each}


def _brier(truth: np.ndarray, probability: np.ndarray) -> float | None:
    return float(np.mean((probability - truth) ** 2)) if len(truth) else None


def _bins(truth: np.ndarray, probability: np.ndarray) -> list[dict[str, Any]]:
    edges = np.arange(BINS + 1) / BINS
    place = np.minimum(np.searchsorted(edges, probability, side="right") - 1, BINS - 1)
    found = []
    for number in range(BINS):
        own = place == number
        pairs = int(own.sum())
        found.append({"low": float(edges[number]), "high": float(edges[number + 1]), "pairs": pairs,
                      "predicted": float(probability[own].mean()) if pairs else None,
                      "observed": float(truth[own].mean()) if pairs else None})
    return found


def _error(bins: Sequence[Mapping[str, Any]]) -> float | None:
    pairs = sum(one["pairs"] for one in bins)
    if not pairs:
        return None
    return float(sum(one["pairs"] * abs(one["predicted"] - one["observed"])
                     for one in bins if one["pairs"]) / pairs)


# sensors -----------------------------------------------------------------------------------------


def by_sensor(matched: Matched, level: str) -> dict[str, dict[str, Any]]:
    """Micro-AUPRC of the clips of each sensor.

    Parameters
    ----------
    matched
        The predictions and the truth.
    level
        'fine' or 'coarse'.

    Returns
    -------
    dict
        Ready for JSON: sensor → ``clips``, ``positives`` (pairs of clip and tag that recall refers
        to) and ``micro_auprc``, None with fewer than ``MIN_POSITIVES`` positives. Sensors are in
        the order of their numbers.
    """
    found = {}
    for sensor in sorted(set(matched.sensor), key=_numerically):
        rows = np.flatnonzero(matched.sensor == sensor)
        events = union(matched.events(level, rows))
        positives = len(events.missed)
        found[str(sensor)] = {
            "clips": len(rows), "positives": positives,
            "micro_auprc": float(area(events.count())) if positives >= MIN_POSITIVES else None}
    return found


def _numerically(name: str) -> tuple[bool, int, str]:
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name
