"""Synthetic clips for rare tags: MLSMOTE by single tags, LSSMOTE by sets of tags.

A synthetic clip is a mixture of two training clips, frame by frame, and so are its targets, which
lie between 0 and 1. ``Mixes`` says which two and how much of each; the mixture itself is computed
when a block of clips is read (``clip_inputs``), so that synthetic clips take no memory.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from l3hpc.errors import InputError, check_choice

NEIGHBOURS = 5
LISTED = 3  # tags or sets that a note names
METHODS = ("mlsmote", "lssmote")
THRESHOLD = re.compile(r"mean|percentile_([1-9][0-9]?)")
THRESHOLDS = "mean, or percentile_1 to percentile_99"

Tags = tuple[int, ...]


@dataclass(frozen=True)
class Mixes:
    """Synthetic clips: ``alpha`` of one training clip and 1 − ``alpha`` of another.

    Attributes
    ----------
    seed, neighbour : ndarray of int64, shape (synthetic,)
        Numbers of the two training clips.
    alpha : ndarray of float32, shape (synthetic,)
        Share of the first, 0 to 1.
    tags : list of tuple of int
        The columns for which each was made: one tag, or a set of tags.
    notes : list of str
        What could not be balanced, for the log.
    """

    seed: np.ndarray
    neighbour: np.ndarray
    alpha: np.ndarray
    tags: list[Tags] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.seed)

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Targets of the synthetic clips.

        Parameters
        ----------
        y
            Targets of the training clips, shape (clips, columns).

        Returns
        -------
        ndarray of float32, shape (synthetic, columns)
            0 to 1.
        """
        y, share = np.asarray(y, np.float32), self.alpha[:, None]
        return share * y[self.seed] + (1 - share) * y[self.neighbour]


def oversample(method: str, features: np.ndarray, y: np.ndarray, *, threshold: str = "mean",
               iterations: int = 1, seed: int = 0, names: Sequence[str] | None = None) -> Mixes:
    """Synthetic clips that make rare tags, or rare sets of tags, more frequent.

    The imbalance ratio of a tag is the count of the most frequent tag divided by its own. Every
    tag whose ratio is above the threshold gets synthetic clips, the rarest tag first, until its
    ratio falls to the threshold or each of its clips was the seed of one. The neighbour is one of
    the five nearest clips with the same tag, by Euclidean distance.

    ``mlsmote`` [1]_ counts tags, ``lssmote`` sets of tags: seed and neighbour have no other tags
    than the wanted set, and together all of them. Clips without tags are not used.

    An iteration repeats this with the counts that the last one left, and makes at most as many
    synthetic clips as there are training clips.

    Parameters
    ----------
    method
        'mlsmote' or 'lssmote'.
    features
        What neighbours are found by, for example the mean embedding of each clip, shape
        (clips, dim).
    y
        Presence of the tags to balance, 0 or 1, shape (clips, tags).
    threshold
        'mean', or 'percentile_1' to 'percentile_99', of the imbalance ratios.
    iterations
        How often the whole is repeated, from 1.
    seed
        Determines neighbours and shares.
    names
        Names of the tags, for the notes.

    Returns
    -------
    Mixes
        The synthetic clips.

    Raises
    ------
    InputError
        For an unknown method or threshold, and shapes that do not match.

    References
    ----------
    .. [1] F. Charte, A. J. Rivera, M. J. del Jesus and F. Herrera, "MLSMOTE: approaching
       imbalanced multilabel learning through synthetic instance generation", Knowledge-Based
       Systems 89 (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.balancing import oversample
    >>> y = np.array([[1, 0]] * 8 + [[0, 1]] * 2)
    >>> mixes = oversample("mlsmote", np.arange(10.0)[:, None], y)
    >>> sorted(zip(mixes.seed.tolist(), mixes.neighbour.tolist()))
    [(8, 9), (9, 8)]
    """
    check_choice("oversample", method, METHODS)
    present = np.asarray(y) > 0
    if present.ndim != 2 or len(features) != len(present) or iterations < 1:
        raise InputError(f"features {np.shape(features)}, targets {np.shape(y)}, {iterations} "
                         "iterations", allowed="(clips, dim), (clips, tags) and 1 or more")
    groups = (_Tags if method == "mlsmote" else _Sets)(present)
    features, rng = np.asarray(features, np.float64), np.random.default_rng(seed)
    names = names or [f"tag {tag}" for tag in range(present.shape[1])]
    made: list[tuple[int, int, float, Tags]] = []
    notes = []
    alone = [_named(groups.tags(group), names)
             for group in np.flatnonzero(groups.counts == 1).tolist()
             if len(groups.seeds(group)) == 1]
    if alone:
        notes.append("not oversampled, with one training clip there is nothing to mix: "
                     f"{_listed(alone)}")
    for _ in range(iterations):
        ratios = imbalance(groups.counts)
        # a very rare tag would need many times more synthetic clips than there are others
        limit, room = limit_of(threshold, ratios), len(present)
        # the rarest first, because there may not be room for all
        for group in np.argsort(-ratios, kind="stable").tolist():
            if limit < ratios[group] < np.inf:
                mixed = list(itertools.islice(_balance(groups, group, limit, features, rng), room))
                made += mixed
                room -= len(mixed)
        if not room:
            notes.append(f"oversampling stopped at {len(present)} synthetic clips, as many as "
                         "training clips")
    seeds, neighbours, shares = (np.array([one[place] for one in made]) for place in range(3))
    return Mixes(seeds.astype(np.int64), neighbours.astype(np.int64), shares.astype(np.float32),
                 [one[3] for one in made], list(dict.fromkeys(notes)))


def imbalance(counts: np.ndarray) -> np.ndarray:
    """Imbalance ratios: the largest count divided by each; infinite for a count of 0.

    Parameters
    ----------
    counts
        Number of clips of each tag.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.balancing import imbalance
    >>> imbalance(np.array([8, 2, 4])).tolist()
    [1.0, 4.0, 2.0]
    """
    counts = np.asarray(counts, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(counts > 0, counts.max(initial=0) / counts, np.inf)


def limit_of(threshold: str, ratios: np.ndarray) -> float:
    """The ratio above which a tag is rare.

    Parameters
    ----------
    threshold
        'mean', or 'percentile_1' to 'percentile_99'.
    ratios
        Imbalance ratios; tags without clips, whose ratio is infinite, are left out.

    Raises
    ------
    InputError
        For another threshold.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.balancing import limit_of
    >>> limit_of("mean", np.array([1.0, 2.0, 6.0, np.inf]))
    3.0
    """
    match = THRESHOLD.fullmatch(threshold)
    if match is None:
        raise InputError(f"'{threshold}' is not a threshold", where="thresh_type",
                         allowed=THRESHOLDS)
    finite = ratios[np.isfinite(ratios)]
    if not finite.size:
        return float("inf")
    return float(np.percentile(finite, int(match[1])) if match[1] else finite.mean())


class _Tags:
    """Single tags; of a synthetic clip the target counts, a fraction for tags of one clip only."""

    def __init__(self, present: np.ndarray) -> None:
        self.present = present
        self.counts = present.sum(axis=0).astype(np.float64)

    def tags(self, group: int) -> Tags:
        return (group,)

    def seeds(self, group: int) -> np.ndarray:
        return np.flatnonzero(self.present[:, group])

    def partners(self, group: int, seed: int) -> np.ndarray:
        return self.seeds(group)

    def add(self, group: int, seed: int, neighbour: int, alpha: float) -> None:
        self.counts += alpha * self.present[seed] + (1 - alpha) * self.present[neighbour]


class _Sets:
    """Sets of tags that clips have; a synthetic clip counts as one of the wanted set."""

    def __init__(self, present: np.ndarray) -> None:
        self.present = present
        self.sets, set_of, counts = np.unique(present, axis=0, return_inverse=True,
                                              return_counts=True)
        self.set_of, self.has_tags = set_of.reshape(-1), self.sets.any(axis=1)
        self.counts = counts * self.has_tags.astype(np.float64)

    def tags(self, group: int) -> Tags:
        return tuple(np.flatnonzero(self.sets[group]).tolist())

    def seeds(self, group: int) -> np.ndarray:
        return np.flatnonzero(self._is_part(group)[self.set_of])

    def partners(self, group: int, seed: int) -> np.ndarray:
        is_whole = ((self.sets | self.present[seed]) == self.sets[group]).all(axis=1)
        return np.flatnonzero((self._is_part(group) & is_whole)[self.set_of])

    def add(self, group: int, seed: int, neighbour: int, alpha: float) -> None:
        self.counts[group] += 1

    def _is_part(self, group: int) -> np.ndarray:
        return ~(self.sets & ~self.sets[group]).any(axis=1) & self.has_tags


def _balance(groups: _Tags | _Sets, group: int, limit: float, features: np.ndarray,
             rng: np.random.Generator) -> Iterator[tuple[int, int, float, Tags]]:
    """Make synthetic clips of a tag or set, until its ratio is at the limit or seeds run out."""
    # In random order: clips are sorted by name, so that the first are all of one sensor.
    for seed in rng.permutation(groups.seeds(group)).tolist():
        if groups.counts.max() / groups.counts[group] <= limit:
            return
        others = groups.partners(group, seed)
        others = others[others != seed]
        if not len(others):
            continue
        distance = np.square(features[others] - features[seed]).sum(axis=1)
        nearest = others[np.argsort(distance, kind="stable")[:NEIGHBOURS]]
        neighbour, alpha = int(rng.choice(nearest)), float(rng.random(dtype=np.float32))
        groups.add(group, seed, neighbour, alpha)
        yield seed, neighbour, alpha, groups.tags(group)


def describe(mixes: Mixes, names: Sequence[str]) -> str:
    """The synthetic clips in one line: how many, for which tags.

    Parameters
    ----------
    mixes
        The synthetic clips.
    names
        Names of the tags.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.balancing import Mixes, describe
    >>> describe(Mixes(np.zeros(3, int), np.ones(3, int), np.ones(3), [(0,), (1, 0), (0,)]),
    ...          ["dog", "music"])
    '3 synthetic clips (dog 2, music + dog 1)'
    """
    counts: dict[Tags, int] = {}
    for tags in mixes.tags:
        counts[tags] = counts.get(tags, 0) + 1
    shown = [f"{_named(tags, names)} {count}"
             for tags, count in sorted(counts.items(), key=lambda one: -one[1])]
    return f"{len(mixes)} synthetic clips" + (f" ({_listed(shown)})" if shown else "")


def _named(tags: Tags, names: Sequence[str]) -> str:
    return " + ".join(names[tag] for tag in tags)


def _listed(items: Sequence[str]) -> str:
    more = f", {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more
