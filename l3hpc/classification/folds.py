"""From the embeddings of a clip to what a classifier sees: its frames, or statistics over them.

Framewise: every window is a sample that has the clip's label. Statistics: one sample per clip,
seven times as long: minimum, maximum, median, mean, variance, skewness and kurtosis over the
windows, in this order, as published for L3-Net's downstream tasks. Standardisation is fitted on
training samples only; who calls says which these are.

One test fold, and the accuracy over all of them.

As published for L3-Net and EdgeL3: fold f is tested, the fold before it (cyclic) validates, the
rest trains. Parameters are chosen by the accuracy on the validation clips; the labels of the test
fold are used for nothing but the final score.

The interval of the mean over folds is Student's, with folds - 1 degrees of freedom. Folds share
training clips, so it is a guide and no guarantee (Bengio and Grandvalet, JMLR 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.classification.models import Fitted, Samples, Setting, fit
from l3hpc.datasets.clips import find_clips
from l3hpc.errors import InputError, L3hpcError

MODES = ("framewise", "stats")
STATISTICS = ("min", "max", "median", "mean", "var", "skew", "kurtosis")
VOTES = ("mean", "majority")
CONFIDENCE = 0.95
METHOD = "Student's t over the folds"


@dataclass(frozen=True)
class Features:
    """files: the clips, in the order asked for, without the missing; x: float32 (samples, dim), the
    samples of a clip follow each other; counts: int (clips,), samples of each clip."""

    files: list[str]
    x: np.ndarray
    counts: np.ndarray
    missing: list[str]

    def rows(self, clips: np.ndarray) -> np.ndarray:
        """The samples of these clips (indices), clip after clip."""
        ends = np.cumsum(self.counts)
        return np.concatenate([np.arange(0), *(np.arange(ends[clip] - self.counts[clip], ends[clip])
                                               for clip in clips)])


def load_features(folder: Path | str, files: Sequence[str], mode: str, every: int = 1) -> Features:
    """The features of ``files`` from an embed artifact, or from a folder with one file per clip.

    every: of a clip's windows, take the first and every n-th after it. With statistics only they
    are kept in memory. Raises ``InputError`` where no clip has embeddings, or dimensions differ.
    """
    bags = find_clips(folder, files, "Embed the clips first: l3hpc submit esc50 (or us8k)")
    names = list(bags.lengths)
    samples = [1 if mode == "stats" else -(-bags.lengths[name] // every) for name in names]
    counts = np.array(samples, np.int64)
    first = dict(zip(names, np.cumsum(counts) - counts, strict=True))
    x: np.ndarray | None = None
    for name, block in bags.blocks():
        rows = block[::every]
        if mode == "stats":
            rows = statistics(rows)[None]
        if x is None:
            x = np.empty((int(counts.sum()), rows.shape[1]), np.float32)
        x[first[name]:first[name] + len(rows)] = rows
    assert x is not None
    return Features(names, x, counts, bags.missing)


def statistics(frames: np.ndarray) -> np.ndarray:
    """Seven statistics over the frames of a clip.

    Variance, skewness and kurtosis are those of the population (biased), kurtosis is 0 for a normal
    distribution; skewness and kurtosis of a dimension that does not vary are 0.

    Parameters
    ----------
    frames
        Embeddings, shape (frames, dim).

    Returns
    -------
    ndarray of float64, shape (7 · dim,)
        The statistics one after another, in the order of ``STATISTICS``.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.classification import statistics
    >>> statistics(np.array([[1.0], [2.0], [3.0]])).round(3).tolist()
    [1.0, 3.0, 2.0, 2.0, 0.667, 0.0, -1.5]
    """
    x = np.asarray(frames, np.float64)
    mean = x.mean(axis=0)
    apart = x - mean
    apart[:, x.min(axis=0) == x.max(axis=0)] = 0.0  # a mean of equal numbers may be off by rounding
    var = (apart**2).mean(axis=0)
    scale = np.where(var > 0, var, 1.0)
    skew = (apart**3).mean(axis=0) / scale**1.5
    kurtosis = np.where(var > 0, (apart**4).mean(axis=0) / scale**2 - 3.0, 0.0)
    return np.concatenate([x.min(axis=0), x.max(axis=0), np.median(x, axis=0), mean, var, skew,
                           kurtosis])


@dataclass(frozen=True)
class Standard:
    """Mean 0 and variance 1 in every dimension of the samples it was fitted on."""

    scaler: Any

    @classmethod
    def fit(cls, x: np.ndarray) -> Standard:
        """x: the training samples (samples, dim); a dimension that does not vary is only shifted.
        """
        from sklearn.preprocessing import StandardScaler

        return cls(StandardScaler().fit(x))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Other samples by the same mean and scale; float32."""
        return np.asarray(self.scaler.transform(x), np.float32)


@dataclass(frozen=True)
class Split:
    """Indices of the clips that train, validate and are tested, each ascending."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def split(fold: np.ndarray, label: np.ndarray, source: Sequence[str], test: int, *,
          ratio: float | None = None, seed: int = 0) -> Split:
    """Which clips train, validate and are tested in one test fold.

    Parameters
    ----------
    fold, label
        Fold and class index of each clip, int, shape (clips,).
    source
        The recording that each clip was cut from.
    test
        The test fold.
    ratio
        None takes the fold before the test fold for validation; a number takes about that share of
        all other clips instead, stratified by class, no source on both sides.
    seed
        Of the choice by ``ratio``.

    Returns
    -------
    Split
        Ascending indices of clips.

    Raises
    ------
    InputError
        Where the test fold, or what remains to train on, is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.classification import split
    >>> parts = split(np.array([1, 2, 3]), np.array([0, 0, 1]), ["a", "b", "c"], test=1)
    >>> parts.train.tolist(), parts.valid.tolist(), parts.test.tolist()
    ([1], [2], [0])
    """
    folds = sorted({int(one) for one in fold})
    if test not in folds:
        raise InputError(f"no clip of fold {test}", allowed=f"folds: {', '.join(map(str, folds))}")
    if len(folds) < (3 if ratio is None else 2):
        raise InputError(f"clips of {len(folds)} folds only", allowed=(
            "three or more: one to test, one to validate, the others to train"
            if ratio is None else "two or more: one to test, the others to train"))
    tested = np.flatnonzero(fold == test)
    if ratio is None:
        before = folds[folds.index(test) - 1]
        valid = np.flatnonzero(fold == before)
        return Split(np.flatnonzero((fold != test) & (fold != before)), valid, tested)
    from sklearn.model_selection import StratifiedGroupKFold

    rest = np.flatnonzero(fold != test)
    groups = np.unique([source[int(clip)] for clip in rest], return_inverse=True)[1]
    parts = StratifiedGroupKFold(max(2, round(1 / ratio)), shuffle=True, random_state=seed)
    train, valid = next(parts.split(rest, label[rest], groups))
    return Split(rest[train], rest[valid], tested)


def vote(scores: np.ndarray, counts: np.ndarray, how: str = "mean") -> np.ndarray:
    """Scores of clips from those of their samples.

    Parameters
    ----------
    scores
        Shape (samples, classes); the samples of a clip follow each other.
    counts
        Samples of each clip, at least 1, int, shape (clips,).
    how
        'mean': the mean of a clip's samples, as published. 'majority': the share of its samples
        whose best class it is.

    Returns
    -------
    ndarray of float64, shape (clips, classes)

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.classification import vote
    >>> vote(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([2]), "majority").tolist()
    [[0.5, 0.5]]
    """
    if how == "majority":
        scores = np.eye(scores.shape[1])[scores.argmax(axis=1)]
    starts = np.cumsum(counts) - counts
    return np.add.reduceat(scores, starts, axis=0) / counts[:, None]


@dataclass(frozen=True)
class Outcome:
    """chosen: the parameters that won; trials: each candidate with its ``valid_accuracy``,
    ``valid_loss`` and ``epochs``; scores and losses: by ``train``, ``valid`` and ``test``, of the
    clips of ``clips`` (test has no loss). After a fit on train and valid together ``train`` is
    both, while ``valid`` tells of the winning candidate, which had not seen it."""

    chosen: dict[str, float]
    trials: list[dict[str, Any]]
    clips: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    losses: dict[str, float]
    epochs: int


def run_fold(features: Features, label: np.ndarray, parts: Split, setting: Setting,
        grid: Sequence[Mapping[str, float]], *, refit: bool = True, how: str = "mean",
        on_fit: Callable[[int, Mapping[str, float]], None] = lambda number, params: None
        ) -> Outcome:
    """Fit every candidate of ``grid`` on the training clips, choose, and predict the test clips.

    The best has the highest accuracy on the validation clips, then the smallest validation loss,
    then comes first. refit: fit it once more on training and validation clips together (the MLP
    for as many epochs as were best). Raises ``InputError`` where train or valid has no clip.
    """
    for name, clips in (("train", parts.train), ("valid", parts.valid)):
        if not len(clips):
            raise InputError(f"no clip is left to {name}")
    if len(np.unique(label[parts.train])) < 2:
        raise InputError("all training clips are of one class", allowed="two classes or more")
    train, valid = (_samples(features, label, clips) for clips in (parts.train, parts.valid))
    standard = Standard.fit(train[0])
    train, valid = (standard(train[0]), train[1]), (standard(valid[0]), valid[1])
    counts = features.counts[parts.valid]
    trials: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], int, Fitted, np.ndarray] | None = None
    for number, params in enumerate(grid):
        on_fit(number, params)
        fitted = fit(setting, params, train, valid)
        scores = fitted.scores(valid[0])
        if not np.isfinite(scores).all():  # the best of NaN would always be the first class
            trials.append({**params, "valid_accuracy": None, "valid_loss": None,
                           "epochs": fitted.epochs})
            continue
        clips = vote(scores, counts, how)
        accuracy = float((clips.argmax(axis=1) == label[parts.valid]).mean())
        loss = fitted.loss(scores, valid[1])
        trials.append({**params, "valid_accuracy": accuracy, "valid_loss": loss,
                       "epochs": fitted.epochs})
        if best is None or (-accuracy, loss) < best[0]:
            best = (-accuracy, loss), number, fitted, clips
    if best is None:
        raise _diverged(grid[0])
    (_, valid_loss), number, final, valid_scores = best
    learned, seen = parts.train, train
    if refit:
        on_fit(len(grid), grid[number])
        learned = np.sort(np.concatenate([parts.train, parts.valid]))
        both = _samples(features, label, learned)
        standard = Standard.fit(both[0])
        seen = standard(both[0]), both[1]
        again = replace(setting, epochs=final.epochs) if setting.kind == "mlp" else setting
        final = fit(again, grid[number], seen)
    scores = final.scores(seen[0])
    if not np.isfinite(scores).all():
        raise _diverged(grid[number])
    test = standard(features.x[features.rows(parts.test)])
    return Outcome(
        dict(grid[number]), trials, {"train": learned, "valid": parts.valid, "test": parts.test},
        {"train": vote(scores, features.counts[learned], how), "valid": valid_scores,
         "test": vote(final.scores(test), features.counts[parts.test], how)},
        {"train": final.loss(scores, seen[1]), "valid": valid_loss}, final.epochs)


def _diverged(params: Mapping[str, float]) -> L3hpcError:
    return L3hpcError("the classifier's scores are not numbers: its training diverged",
                      where=", ".join(f"{name}={value:g}" for name, value in params.items()),
                      hint="Use smaller values: --set folds.learning_rate=1e-4 (or C)")


def _samples(features: Features, label: np.ndarray, clips: np.ndarray) -> Samples:
    """Samples of these clips, each with its clip's label."""
    return features.x[features.rows(clips)], np.repeat(label[clips], features.counts[clips])


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
    >>> from l3hpc.classification.folds import confusion
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
    >>> from l3hpc.classification.folds import over_folds
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
