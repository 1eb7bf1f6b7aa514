"""Accuracy of clips from a confusion matrix, and its mean and interval over folds.

The interval of the mean over folds is Student's, with folds − 1 degrees of freedom. Folds share
training clips, so it is only a guide [1]_. For a single test part, the interval is Wilson's over
its clips, and so it is for folds with all clips right or all wrong, where Student's has no width.

References
----------
.. [1] Y. Bengio and Y. Grandvalet, "No unbiased estimator of the variance of K-fold
   cross-validation", Journal of Machine Learning Research 5 (2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from l3hpc.errors import InputError

CONFIDENCE = 0.95
METHOD = "Student's t over the folds"
CLIPS_METHOD = "Wilson score interval over the test clips"


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix.

    Parameters
    ----------
    label, predicted
        Indices of classes, shape (clips,).
    classes
        Number of classes.

    Returns
    -------
    ndarray of int64, shape (classes, classes)
        Clips of class (row) that were predicted as class (column).

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.classification.scores import confusion
    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (label, predicted), 1)
    return matrix


def accuracies(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy over all clips and per class.

    Parameters
    ----------
    matrix
        The confusion matrix, shape (classes, classes).
    names
        Names of the classes.

    Returns
    -------
    dict
        ``clips``, ``accuracy``, ``class_accuracy`` {name: fraction of its clips, None without
        clips}, their mean ``average_class_accuracy``, and ``confusion``, as JSON values.

    Raises
    ------
    InputError
        For a matrix without clips.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.classification.scores import accuracies
    >>> accuracies(np.array([[1, 1], [0, 1]]), ["siren", "rain"])["class_accuracy"]
    {'siren': 0.5, 'rain': 1.0}
    """
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
    """Mean, standard deviation (n - 1) and 95% interval of one number per fold.

    Parameters
    ----------
    values
        One number per fold, 0 to 1.

    Returns
    -------
    dict
        ``mean``, ``std``, ``interval`` [low, high], limited to 0…1, and ``folds``. ``std`` and
        ``interval`` are None for a single fold.

    Examples
    --------
    >>> from l3hpc.classification.scores import over_folds
    >>> scores = over_folds([0.7, 0.8])
    >>> round(scores["mean"], 3), [round(one, 3) for one in scores["interval"]]
    (0.75, [0.115, 1.0])
    """
    numbers = np.asarray(values, np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if count < 2:
        return {"mean": mean, "std": None, "interval": None, "folds": count}
    from scipy.stats import t

    std = float(numbers.std(ddof=1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * std / count ** 0.5
    return {"mean": mean, "std": std, "folds": count,
            "interval": [max(mean - half, 0.0), min(mean + half, 1.0)]}


def accuracy_over_folds(values: Sequence[float], clips: int) -> tuple[dict[str, Any], str]:
    """Accuracy over folds, with its 95% interval, and the method of the interval.

    Parameters
    ----------
    values
        The accuracy of each fold, 0 to 1.
    clips
        Number of clips of all folds.

    Returns
    -------
    scores : dict
        As ``over_folds`` returns it; where all folds are 0 or all are 1, the interval is Wilson's
        over the clips.
    method : str
        ``METHOD`` or ``CLIPS_METHOD``.

    Examples
    --------
    >>> from l3hpc.classification.scores import accuracy_over_folds
    >>> found, method = accuracy_over_folds([1.0, 1.0], 12)
    >>> [round(one, 3) for one in found["interval"]], method
    ([0.758, 1.0], 'Wilson score interval over the test clips')
    """
    found = over_folds(values)
    if found["interval"] is None or found["mean"] not in (0.0, 1.0):
        return found, METHOD
    return {**found, "interval": over_clips(found["mean"], clips)["interval"]}, CLIPS_METHOD


def over_clips(accuracy: float, clips: int) -> dict[str, Any]:
    """Accuracy on a single test part, with its 95% interval over the clips.

    Parameters
    ----------
    accuracy
        Fraction of the clips that were classified correctly, 0 to 1.
    clips
        Number of clips.

    Returns
    -------
    dict
        As ``over_folds`` returns it; ``std`` is None.

    Examples
    --------
    >>> from l3hpc.classification.scores import over_clips
    >>> [round(one, 3) for one in over_clips(0.9, 200)["interval"]]
    [0.851, 0.934]
    """
    from scipy.stats import binomtest

    bounds = binomtest(round(accuracy * clips), clips).proportion_ci(CONFIDENCE, method="wilson")
    return {"mean": accuracy, "std": None, "folds": 1,
            "interval": [float(bounds.low), float(bounds.high)]}
