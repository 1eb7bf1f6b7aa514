"""Cross-validated classification of clips: features, splits, and one test fold.

Features of a clip are its windows, each a sample with the clip's label (framewise), or one sample
with seven statistics over the windows, as published for the downstream tasks of L3-Net.

As published for L3-Net and EdgeL3 [1]_, fold f is for testing, the fold before it (cyclic) for
validation, and the others for training. Parameters are selected by the accuracy on the validation
clips; the labels of the test fold are used only for the final score.

References
----------
.. [1] S. Kumari, D. Roy, M. Cartwright, J. P. Bello and A. Arora, "EdgeL3: compressing L3-Net for
   mote-scale urban noise monitoring", IPDPSW 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.classification.models import FitSettings, Fitted, Samples, fit
from l3hpc.datasets.clips import find_clips
from l3hpc.errors import InputError, L3hpcError, setting
from l3hpc.io.values import count_of

if TYPE_CHECKING:
    from sklearn.preprocessing import StandardScaler

MODES = ("framewise", "stats")
STATISTICS = ("min", "max", "median", "mean", "var", "skew", "kurtosis")


# features --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """Samples of clips.

    Attributes
    ----------
    files : list of str
        The clips, in the order requested, without the missing ones.
    x : ndarray of float32, shape (samples, dim)
        The samples; those of a clip follow each other.
    counts : ndarray of int64, shape (clips,)
        Number of samples of each clip.
    missing : list of str
        Clips without embeddings.
    """

    files: list[str]
    x: np.ndarray
    counts: np.ndarray
    missing: list[str]

    def rows(self, clips: np.ndarray) -> np.ndarray:
        """Indices of the samples of these clips, clip after clip.

        Parameters
        ----------
        clips
            Indices of clips.
        """
        ends = np.cumsum(self.counts)
        return np.concatenate([np.arange(0), *(np.arange(ends[clip] - self.counts[clip], ends[clip])
                                               for clip in clips)])


def load_features(folder: Path | str, files: Sequence[str], mode: str, every: int = 1) -> Features:
    """Read the features of clips.

    Parameters
    ----------
    folder
        An artifact of the step embed, or a folder with one file per clip.
    files
        Names of the clips.
    mode
        'framewise' or 'stats'.
    every
        Use the first of a clip's windows and every n-th after it.

    Returns
    -------
    Features
        The samples of all clips that have embeddings.

    Raises
    ------
    InputError
        Where no clip has embeddings, or dimensions differ.
    """
    bags = find_clips(folder, files)
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
    deviation = x - mean
    # The mean of equal numbers may differ from them by rounding.
    deviation[:, x.min(axis=0) == x.max(axis=0)] = 0.0
    var = (deviation**2).mean(axis=0)
    scale = np.where(var > 0, var, 1.0)
    skew = (deviation**3).mean(axis=0) / scale**1.5
    kurtosis = np.where(var > 0, (deviation**4).mean(axis=0) / scale**2 - 3.0, 0.0)
    return np.concatenate([x.min(axis=0), x.max(axis=0), np.median(x, axis=0), mean, var, skew,
                           kurtosis])


@dataclass(frozen=True)
class Standardizer:
    """Scales samples to mean 0 and variance 1 in every dimension of the training samples.

    Attributes
    ----------
    scaler : StandardScaler
        The fitted scaler of scikit-learn.
    """

    scaler: StandardScaler

    @classmethod
    def fit(cls, x: np.ndarray) -> Standardizer:
        """Fit to training samples (samples, dim); a constant dimension is only shifted."""
        from sklearn.preprocessing import StandardScaler

        return cls(StandardScaler().fit(x))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scale samples (samples, dim), to float32."""
        return np.asarray(self.scaler.transform(x), np.float32)


# splits and votes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Ascending indices of the clips for training, validation and testing."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def split(fold: np.ndarray, label: np.ndarray, source: Sequence[str], test: int, *,
          ratio: float | None = None, seed: int = 0) -> Split:
    """Split clips into training, validation and test clips for one test fold.

    Parameters
    ----------
    fold, label
        Fold and class index of each clip, int, shape (clips,).
    source
        The recording that each clip was cut from.
    test
        The test fold.
    ratio
        None: validate on the fold before the test fold. A number: validate on about this fraction
        of all other clips, stratified by class, with each source on one side only.
    seed
        Seed of the split by ``ratio``.

    Returns
    -------
    Split
        Ascending indices of clips.

    Raises
    ------
    InputError
        For a test fold without clips, for too few folds, and where the recordings cannot be
        divided into clips to train and to validate on.

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
        raise InputError(f"clips of {count_of(len(folds), 'fold')} only", allowed=(
            "three or more: one to test, one to validate, the others to train"
            if ratio is None else "two or more: one to test, the others to train"))
    tested = np.flatnonzero(fold == test)
    if ratio is None:
        before = folds[folds.index(test) - 1]
        valid = np.flatnonzero(fold == before)
        return Split(np.flatnonzero((fold != test) & (fold != before)), valid, tested)
    from sklearn.model_selection import StratifiedGroupKFold

    rest = np.flatnonzero(fold != test)
    # Clips cut from one recording sound alike: apart, the validation would be too good.
    groups = np.unique([source[int(clip)] for clip in rest], return_inverse=True)[1]
    count = len(set(groups.tolist()))
    # Scikit-learn refuses more parts than there are recordings, or clips of the largest class.
    parts = min(max(2, round(1 / ratio)), int(np.bincount(label[rest]).max()), count)
    if parts > 1:
        divided = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
        for train, valid in divided.split(rest, label[rest], groups):
            if len(train) and len(valid):  # with few recordings, parts may be empty
                return Split(rest[train], rest[valid], tested)
    raise InputError(f"{len(rest)} clips of {count_of(count, 'recording')} cannot be "
                     "divided into clips to train and to validate on",
                     allowed="two or more recordings, and a class with two or more clips")


def vote(scores: np.ndarray, counts: np.ndarray, how: str = "mean") -> np.ndarray:
    """Scores of clips from those of their samples.

    Parameters
    ----------
    scores
        Shape (samples, classes); the samples of a clip follow each other.
    counts
        Samples of each clip, at least 1, int, shape (clips,).
    how
        'mean': the mean over a clip's samples, as published. 'majority': the fraction of its
        samples that have the highest score in the class.

    Returns
    -------
    ndarray of float64, shape (clips, classes)
        Scores of the clips.

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


# one test fold ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldResult:
    """What ``run_fold`` selected and predicted.

    Attributes
    ----------
    chosen : dict
        The selected parameters.
    trials : list of dict
        Each candidate with its ``valid_accuracy``, ``valid_loss`` and ``epochs``.
    clips, scores : dict
        ``train``, ``valid`` and ``test`` → indices of clips, and their scores (clips, classes).
        After a refit, ``train`` is training and validation clips together, while ``valid`` has the
        scores of the selected candidate, which was not trained on them.
    losses : dict
        ``train`` and ``valid`` → mean loss.
    epochs : int
        Epochs of the MLP.
    """

    chosen: dict[str, float]
    trials: list[dict[str, Any]]
    clips: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    losses: dict[str, float]
    epochs: int


def run_fold(features: Features, label: np.ndarray, parts: Split, setting: FitSettings,
             grid: Sequence[Mapping[str, float]], *, refit: bool = True, how: str = "mean",
             on_fit: Callable[[int, Mapping[str, float]], None] = lambda number, params: None
             ) -> FoldResult:
    """Fit every candidate on the training clips, select one, and predict the test clips.

    The selected candidate has the highest accuracy on the validation clips; between equal ones the
    smaller validation loss decides, then the order of the grid.

    Parameters
    ----------
    features
        Samples of all clips.
    label
        Class index of each clip, int, shape (clips,).
    parts
        Training, validation and test clips.
    setting
        Kind of classifier, and what is the same for all candidates.
    grid
        Parameters of each candidate.
    refit
        Fit the selected candidate again on training and validation clips together (the MLP for its
        best number of epochs).
    how
        As for ``vote``.
    on_fit
        Called before each fit with its number and parameters.

    Returns
    -------
    FoldResult
        The selected parameters, scores and losses.

    Raises
    ------
    InputError
        Without training or validation clips, or with training clips of one class.
    L3hpcError
        Where the training of every candidate diverges.
    """
    for name, clips in (("train", parts.train), ("valid", parts.valid)):
        if not len(clips):
            raise InputError(f"there are no {name} clips")
    if len(np.unique(label[parts.train])) < 2:
        raise InputError("all training clips are of one class", allowed="two classes or more")
    train, valid = (_samples(features, label, clips) for clips in (parts.train, parts.valid))
    standardize = Standardizer.fit(train[0])
    train, valid = (standardize(train[0]), train[1]), (standardize(valid[0]), valid[1])
    counts = features.counts[parts.valid]
    trials: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], int, Fitted, np.ndarray] | None = None
    for number, params in enumerate(grid):
        on_fit(number, params)
        fitted = fit(setting, params, train, valid)
        scores = fitted.scores(valid[0])
        # argmax of NaN would always be the first class.
        if not np.isfinite(scores).all():
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
        standardize = Standardizer.fit(both[0])
        seen = standardize(both[0]), both[1]
        # Without a validation fold nothing tells when to stop: as many epochs as the selected fit
        # took.
        again = replace(setting, epochs=final.epochs) if setting.kind == "mlp" else setting
        final = fit(again, grid[number], seen)
    scores = final.scores(seen[0])
    if not np.isfinite(scores).all():
        raise _diverged(grid[number])
    test = standardize(features.x[features.rows(parts.test)])
    return FoldResult(
        dict(grid[number]), trials, {"train": learned, "valid": parts.valid, "test": parts.test},
        {"train": vote(scores, features.counts[learned], how), "valid": valid_scores,
         "test": vote(final.scores(test), features.counts[parts.test], how)},
        {"train": final.loss(scores, seen[1]), "valid": valid_loss}, final.epochs)


def _diverged(params: Mapping[str, float]) -> L3hpcError:
    return L3hpcError("the training of the classifier diverged: its scores are not finite",
                      where=", ".join(f"{name}={value:g}" for name, value in params.items()),
                      hint=f"Use smaller values: {setting('folds.learning_rate', '1e-4')} (or C)")


def _samples(features: Features, label: np.ndarray, clips: np.ndarray) -> Samples:
    """Samples of these clips, each with its clip's label."""
    return features.x[features.rows(clips)], np.repeat(label[clips], features.counts[clips])
