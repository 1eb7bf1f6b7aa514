"""The peers of ``benchmarks.evaluation``; needs numpy, pandas and scikit-learn only.

    python -m benchmarks.evaluation_peer worker loop FOLDER CLIPS EVERY
    python -m benchmarks.evaluation_peer worker sklearn FOLDER CLIPS

``loop`` is the way of the DCASE 2019 and 2020 task 5 baselines, from the published rules: for every
category and every value that its predictions take, all clips are counted again, and at every
threshold of the union every category is looked up again. It is written tag by tag on contiguous
arrays, one numpy expression per rule and threshold, and keeps no data frame inside the loops; so it
is faster than the original. Where recalls are equal it takes the higher threshold first, as ours.
With EVERY above 1 only every so many thresholds of the union are looked up, the time of that is
multiplied by EVERY, and there are no micro numbers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

Curve = tuple[np.ndarray, np.ndarray]  # thresholds, descending; (tp, fp, fn) at each


class Table:
    """Truth and predictions of the clips that annotator 0 tagged, by column."""

    def __init__(self, folder: Path, clips: int) -> None:
        annotations = pd.read_csv(folder / f"annotations-{clips}.csv")
        agreed = annotations[(annotations["annotator_id"] == 0)
                             & (annotations["split"] == "validate")]
        agreed = agreed.sort_values("audio_filename")
        predictions = pd.read_csv(folder / f"predictions-{clips}.csv")
        predictions = predictions.sort_values("audio_filename")
        assert list(agreed["audio_filename"]) == list(predictions["audio_filename"])
        self.truth, self.predicted = agreed, predictions
        tags = [column for column in predictions.columns if column != "audio_filename"]
        self.categories = [tag for tag in tags if "-" not in tag.split("_")[0]]
        self.fine = [tag for tag in tags if "-" in tag.split("_")[0]]

    def of(self, tags: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(truth bool, predicted), (tags, clips), contiguous."""
        truth = self.truth[[f"{tag}_presence" for tag in tags]].to_numpy().T == 1
        return np.ascontiguousarray(truth), np.ascontiguousarray(
            self.predicted[tags].to_numpy(np.float64).T)


def coarse_counts(truth: np.ndarray, predicted: np.ndarray) -> Curve:
    """Counts of one category without fine tags at each of its thresholds."""
    y, values = truth[0], predicted[0]
    not_y, positives = ~y, np.count_nonzero(y)
    thresholds = thresholds_of(values)
    counts = np.empty((len(thresholds), 3), np.int64)
    for row, threshold in enumerate(thresholds):
        p = values >= threshold
        tp = np.count_nonzero(p & y)
        counts[row] = tp, np.count_nonzero(p & not_y), positives - tp
    return thresholds, counts


def fine_counts(truth: np.ndarray, predicted: np.ndarray, x_truth: np.ndarray | None,
                x_predicted: np.ndarray | None) -> Curve:
    """Counts of one category by its fine tags, with the rules for the uncertain tag."""
    clips = truth.shape[1]
    u = np.zeros(clips, bool) if x_truth is None else x_truth
    x = np.zeros(clips) if x_predicted is None else x_predicted
    sure = ~u
    none_true = ~truth.any(axis=0)
    alarm_possible = ~truth & sure
    sure_and_none, unsure_and_none = sure & none_true, u & none_true
    positives = np.count_nonzero(truth)
    thresholds = thresholds_of(predicted)
    counts = np.empty((len(thresholds), 3), np.int64)
    for row, threshold in enumerate(thresholds):
        p, v = predicted >= threshold, x >= threshold
        hit = truth & p
        hits = np.count_nonzero(hit)
        something = p.any(axis=0) | v
        tp = hits + np.count_nonzero(u & something & ~hit.any(axis=0))
        fn = positives - hits + np.count_nonzero(unsure_and_none & ~something)
        fp = np.count_nonzero(alarm_possible & p) + np.count_nonzero(
            sure_and_none & v & ~p.all(axis=0))
        counts[row] = tp, fp, fn
    return thresholds, counts


def thresholds_of(values: np.ndarray) -> np.ndarray:
    """Every value of at least 0.01, and 1, descending."""
    found = np.unique(values)
    return np.union1d(found[found >= 0.01], [1.0])[::-1]


def micro_counts(curves: list[Curve], every: int) -> Curve:
    """At each threshold of all categories the sum of each one's last row that is not below it."""
    thresholds = np.unique(np.concatenate([own for own, _ in curves]))[::-every]
    places = np.empty((len(curves), len(thresholds)), np.int64)
    for column, threshold in enumerate(thresholds):
        for row, (own, _) in enumerate(curves):
            places[row, column] = np.count_nonzero(own >= threshold) - 1
    counts = sum((found[place] for (_, found), place in zip(curves, places, strict=True)),
                 np.zeros((len(thresholds), 3), np.int64))
    return thresholds, counts


def area(curve: Curve) -> float:
    """Trapezoids under precision over recall, from (0, 1) to (1, 0)."""
    thresholds, counts = curve
    tp, fp, fn = counts.T
    precision, recall = tp / np.maximum(tp + fp, 0.5), tp / np.maximum(tp + fn, 0.5)
    order = np.lexsort((-thresholds, recall))
    x = np.concatenate([[0.0], recall[order], [1.0]])
    y = np.concatenate([[1.0], precision[order], [0.0]])
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def f1(curve: Curve) -> float:
    """F1 at the lowest threshold of at least 0.5."""
    thresholds, counts = curve
    tp, fp, fn = counts[np.count_nonzero(thresholds >= 0.5) - 1]
    precision, recall = tp / max(tp + fp, 0.5), tp / max(tp + fn, 0.5)
    return float(2 / (1 / precision + 1 / recall)) if precision and recall else 0.0


def loop(folder: Path, clips: int, every: int) -> dict[str, object]:
    """Numbers by loops over thresholds, and the seconds of reading, categories and micro."""
    start = time.perf_counter()
    table = Table(folder, clips)
    seconds = {"reading": time.perf_counter() - start, "categories": 0.0, "micro": 0.0}
    numbers = {}
    for level in ("coarse", "fine"):
        begun = time.perf_counter()
        curves = []
        for category in table.categories:
            number = category.split("_")[0]
            if level == "coarse":
                curves.append(coarse_counts(*table.of([category])))
                continue
            tags = [tag for tag in table.fine if tag.split("-")[0] == number]
            complete = [tag for tag in tags if not tag.startswith(f"{number}-X_")]
            other = [tag for tag in tags if tag not in complete]
            unsure = [part[0] for part in table.of(other)] if other else [None, None]
            curves.append(fine_counts(*table.of(complete), *unsure))
        areas = [area(curve) for curve in curves]
        seconds["categories"] += time.perf_counter() - begun
        begun = time.perf_counter()
        micro = micro_counts(curves, every)
        known = [area(micro), f1(micro)] if every == 1 else [None, None]
        numbers[level] = [*known, float(np.mean(areas)), *areas]
        seconds["micro"] += every * (time.perf_counter() - begun)
    return {"seconds": sum(seconds.values()), **seconds, "numbers": numbers}


def sklearn(folder: Path, clips: int) -> dict[str, object]:
    """``average_precision_score`` of the categories alone; another definition of the area."""
    from sklearn.metrics import average_precision_score

    start = time.perf_counter()
    table = Table(folder, clips)
    reading = time.perf_counter() - start
    truth, predicted = table.of(table.categories)
    areas = [float(average_precision_score(y, p)) for y, p in zip(truth, predicted, strict=True)]
    micro = float(average_precision_score(truth.T, predicted.T, average="micro"))
    return {"seconds": time.perf_counter() - start, "reading": reading,
            "numbers": {"coarse": [micro, None, float(np.mean(areas)), *areas]}}


if __name__ == "__main__":
    way, place, *sizes = sys.argv[2:]  # after the word worker
    print(json.dumps({"loop": loop, "sklearn": sklearn}[way](Path(place), *map(int, sizes))))
