"""Classifiers of one run that differ only in their seed: mean, spread, and interval of the mean.

The spread is the standard deviation over the seeds: how much the start of a training matters. The
interval is that of ``evaluation``, of the mean over the seeds on the same resampled clips: how much
the choice of the clips matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l3hpc.tagging.evaluation import CONFIDENCE, METHOD, by_name, intervals

METRICS = ("micro_auprc", "micro_f1", "macro_auprc")


def mean_level(results: Sequence[Mapping[str, Any]], drawn: Sequence[np.ndarray]
               ) -> dict[str, Any]:
    """The numbers of one level, as means over classifiers.

    Parameters
    ----------
    results
        A level of what ``evaluation.numbers`` returned, for each classifier.
    drawn
        A level of what ``evaluation.resample`` returned, for each classifier: of the same drawn
        clips. Empty: no intervals.

    Returns
    -------
    dict
        Ready for JSON: the metrics as means, ``class_positives``, ``spread`` {metrics: standard
        deviation with n − 1} and, with ``drawn``, ``confidence``.
    """
    names = list(results[0]["class_auprc"])
    values = np.array([[*(one[name] for name in METRICS), *one["class_auprc"].values()]
                       for one in results])
    found = {**by_name(names, values.mean(axis=0).tolist()),
             "class_positives": dict(results[0]["class_positives"]),
             "spread": by_name(names, values.std(axis=0, ddof=1).tolist())}
    if drawn:
        together = np.mean(drawn, axis=0)
        found["confidence"] = {
            "level": CONFIDENCE, "samples": len(together), "method": METHOD,
            **by_name(names, intervals(together, CONFIDENCE).tolist())}
    return found


def mean_of(values: Sequence[Any]) -> Any:
    """The mean of JSON values of the same form, number by number.

    Parameters
    ----------
    values
        At least one; objects with the same keys.

    Returns
    -------
    object
        Objects key by key; the mean of numbers, of those that are not None; the first of values
        that are equal; None of values that are neither.

    Examples
    --------
    >>> from l3hpc.tagging.seeds import mean_of
    >>> mean_of([{"f1": 0.5, "clips": 8}, {"f1": 1.0, "clips": 8}])
    {'f1': 0.75, 'clips': 8}
    """
    first = values[0]
    if isinstance(first, Mapping):
        return {key: mean_of([value[key] for value in values]) for key in first}
    if all(value == first for value in values):
        return first
    numbers = [value for value in values if isinstance(value, (int, float))
               and not isinstance(value, bool)]
    return float(np.mean(numbers)) if numbers else None
