"""Accuracy of single-label predictions: over clips, per class, as a confusion matrix, over folds.

The interval of the mean over folds is Student's, with folds - 1 degrees of freedom. Folds share
training clips, so that it is a guide and no guarantee (Bengio and Grandvalet, JMLR 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from l3hpc.errors import InputError

CONFIDENCE = 0.95
METHOD = "Student's t over the folds"


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count how often each class was taken for which.

    Parameters
    ----------
    label, predicted
        Indices of classes, shape (clips,).
    classes
        How many classes there are.

    Returns
    -------
    ndarray of int64, shape (classes, classes)
        Clips of class (row) that were taken for class (column).

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.classification.scores import confusion
    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    found = np.zeros((classes, classes), np.int64)
    np.add.at(found, (label, predicted), 1)
    return found


def of_confusion(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """``accuracy`` over all clips, ``class_accuracy`` (name → share of its clips that were
    recognised; None for a class without clips) and their mean ``average_class_accuracy``."""
    clips, right = matrix.sum(axis=1), np.diag(matrix)
    if not clips.sum():
        raise InputError("no clips to score")
    each = {name: float(right[index] / clips[index]) if clips[index] else None
            for index, name in enumerate(names)}
    return {"clips": int(clips.sum()), "accuracy": float(right.sum() / clips.sum()),
            "average_class_accuracy": float(np.mean([one for one in each.values()
                                                     if one is not None])),
            "class_accuracy": each, "confusion": matrix.tolist()}


def over_folds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and 95 % interval of one number per fold.

    Parameters
    ----------
    values
        One number per fold, 0 to 1.

    Returns
    -------
    dict
        ``mean``, ``std``, ``interval`` [low, high], cut to 0…1, and ``folds``. ``std`` and
        ``interval`` are None for a single fold.

    Examples
    --------
    >>> from l3hpc.classification.scores import over_folds
    >>> found = over_folds([0.7, 0.8])
    >>> round(found["mean"], 3), [round(one, 3) for one in found["interval"]]
    (0.75, [0.115, 1.0])
    """
    found = np.asarray(values, np.float64)
    mean = float(found.mean())
    if len(found) < 2:
        return {"mean": mean, "std": None, "interval": None, "folds": len(found)}
    from scipy.stats import t

    spread = float(found.std(ddof=1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(found) - 1)) * spread / len(found) ** 0.5
    return {"mean": mean, "std": spread, "folds": len(found),
            "interval": [max(mean - half, 0.0), min(mean + half, 1.0)]}
