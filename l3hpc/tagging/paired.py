"""Whether two models differ on the same clips: differences with intervals and p-values.

Both are scored on the same resampled clips, so that what makes a clip hard for both cancels out: a
paired bootstrap [1]_. The interval is made of percentiles of the differences, and the p-value of
the same resamplings: twice the share of them in which the difference has the other sign, or is 0,

    p = min(1, 2 (c + 1) / (samples + 1)),  c = min(#{d* <= 0}, #{d* >= 0}),

which is never 0 [2]_. If the 95% interval is on one side of 0, p is about 0.05 or less (not
exactly, because the percentiles are interpolated and p counts one resampling more). Like the
intervals, it applies to other clips of the same kind, not to other sensors or another training. It
is too small if the clips are not independent or too few, for which ``small_basis`` has a warning.

Right and wrong answers are also compared by McNemar's exact test [3]_: of the clips on which only
one of the two is right, each is the first one's with probability 1/2 if both are equally good.

References
----------
.. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall (1993),
   chapters 13 and 16.
.. [2] B. Phipson and G. K. Smyth, "Permutation p-values should never be zero", Statistical
   Applications in Genetics and Molecular Biology 9 (2010).
.. [3] Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
   percentages", Psychometrika 12 (1947).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from l3hpc.io.values import count_of
from l3hpc.tagging.evaluation import CONFIDENCE, SEED, intervals, resampled, scores
from l3hpc.tagging.metrics import Events, union

SAMPLES = 10_000
METRICS = ("micro-AUPRC", "micro-F1@0.5", "macro-AUPRC")
# Below these numbers, resampling the clips says little about other clips.
FEW_CLIPS, FEW_DIFFERENT, FEW_POSITIVES = 30, 10, 10


@dataclass(frozen=True)
class Difference:
    """A metric of two models.

    Attributes
    ----------
    metric : str
        Its name, or that of the category.
    first, second : float
        The two values.
    low, high : float
        The interval of second − first.
    p : float
        Two-sided p-value, greater than 0.
    """

    metric: str
    first: float
    second: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        """Second − first."""
        return self.second - self.first


def p_value(drawn: np.ndarray) -> np.ndarray:
    """Two-sided p-value of resampled differences, by the formula of this module.

    Parameters
    ----------
    drawn
        Shape (samples, columns): second − first.

    Returns
    -------
    ndarray of float64, shape (columns,)
        Greater than 0, at most 1.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.paired import p_value
    >>> p_value(np.array([[0.1], [0.2], [0.3], [0.1], [-0.1], [0.2], [0.4]])).tolist()
    [0.5]
    """
    least = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    return np.minimum(1.0, 2 * (least + 1) / (len(drawn) + 1))


def small_basis(clips: int, different: int | None = None,
                positives: Mapping[str, int] | None = None) -> list[str]:
    """Say where a p-value stands on too few clips.

    Parameters
    ----------
    clips
        Number of clips.
    different
        With one class per clip: the clips on which only one of the two is right.
    positives
        With tags: name → number of clips that have it.

    Returns
    -------
    list of str
        Empty from 30 clips, 10 of which differ, and 10 clips of every tag.

    Examples
    --------
    >>> from l3hpc.tagging.paired import small_basis
    >>> small_basis(100, 3)
    ["only 3 clips differ, fewer than 10: p of the accuracy is not reliable, use McNemar's exact p"]
    """
    said = []
    if clips < FEW_CLIPS:
        said.append(f"only {count_of(clips, 'clip')}, fewer than {FEW_CLIPS}: intervals and "
                    "p-values by resampling are not reliable")
    if different and different < FEW_DIFFERENT:  # of equal answers, p is 1
        said.append(f"only {different} clip{'s' * (different != 1)} differ{'s' * (different == 1)}"
                    f", fewer than {FEW_DIFFERENT}: p of the accuracy is not reliable, use "
                    "McNemar's exact p")
    few = [f"{name} ({count})" for name, count in (positives or {}).items()
           if count < FEW_POSITIVES]
    if few:
        said.append(f"fewer than {FEW_POSITIVES} clips have {', '.join(few)}: intervals and "
                    "p-values of these tags are not reliable")
    return said


def compare_tags(first: Sequence[Sequence[Events]], second: Sequence[Sequence[Events]],
                 names: Sequence[str], samples: int = SAMPLES, seed: int = SEED
                 ) -> list[Difference]:
    """Compare precision and recall of tags.

    Parameters
    ----------
    first, second
        For each classifier of a model (several if they differ in their seed), the events of every
        category. All have the same clips. The scores of a model are means over its classifiers.
    names
        Names of the categories.
    samples
        Number of resamplings.
    seed
        Their seed.

    Returns
    -------
    list of Difference
        ``METRICS``, then each category.
    """
    levels = [(categories, union(categories)) for categories in (*first, *second)]
    values = np.array([scores([one.count() for one in categories], together.count())
                       for categories, together in levels])
    drawn = resampled(levels, samples, seed)
    split = len(first)
    difference = np.mean(drawn[split:], axis=0) - np.mean(drawn[:split], axis=0)
    return _differences([*METRICS, *names], values[:split].mean(axis=0),
                        values[split:].mean(axis=0), difference)


def compare_accuracy(first: np.ndarray, second: np.ndarray, samples: int = SAMPLES,
                     seed: int = SEED) -> Difference:
    """Compare the share of clips that are classified correctly.

    Parameters
    ----------
    first, second
        Whether each clip is right, bool, shape (clips,): the same clips in the same order.
    samples
        Number of resamplings.
    seed
        Their seed.
    """
    clips, gained, lost = len(first), *_only_one(first, second)
    # Of a resampling only the number of clips of each kind matters.
    drawn = np.random.default_rng(seed).multinomial(
        clips, np.array([gained, lost, clips - gained - lost]) / clips, size=samples)
    [found] = _differences(["accuracy"], np.array([first.mean()]), np.array([second.mean()]),
                           (drawn[:, :1] - drawn[:, 1:2]) / clips)
    return found


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """McNemar's exact two-sided p-value.

    Parameters
    ----------
    first, second
        Whether each clip is right, bool, shape (clips,): the same clips in the same order.

    Returns
    -------
    float
        Greater than 0, at most 1.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.tagging.paired import mcnemar
    >>> mcnemar(np.array([1, 1, 0, 0, 0], bool), np.array([1, 1, 1, 1, 1], bool))
    0.25
    """
    from scipy.stats import binomtest

    gained, lost = _only_one(first, second)
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _only_one(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Number of clips on which only the second, and only the first, is right."""
    return int((second & ~first).sum()), int((first & ~second).sum())


def _differences(names: Sequence[str], first: np.ndarray, second: np.ndarray, drawn: np.ndarray
                 ) -> list[Difference]:
    columns = zip(names, first, second, intervals(drawn, CONFIDENCE), p_value(drawn), strict=True)
    return [Difference(name, float(one), float(other), float(low), float(high), float(p))
            for name, one, other, (low, high), p in columns]
