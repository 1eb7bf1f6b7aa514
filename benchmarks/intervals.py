"""Whether confidence intervals and p-values keep what they promise, on simulated clips.

    python -m benchmarks.intervals [--quick] [--json FILE]

A clip has a tag with a fixed probability; its score is the logistic of a normal value, with another
mean if it has the tag. The true AUPRC is that of a million clips. Coverage: how often the 95%
interval of ``evaluate`` contains the true value. p-values: two models that are equally good (their
errors have a correlation of one half) are compared as ``l3hpc compare`` does; p should be at most
0.05 in 5% of the cases. No other package does this, so there is no peer, and no time is measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.tables import Table, run
from l3hpc.tagging.evaluation import intervals, resampled
from l3hpc.tagging.metrics import CategoryEvents, area, union
from l3hpc.tagging.paired import compare_accuracy, compare_tags

DISTANCE = 1.5  # between the two means, in standard deviations
CLIPS, PAIRED_CLIPS = 400, 100
POSITIVES = (60, 10, 3)  # expected, of CLIPS
PAIRED_RATE = 0.3
ACCURACY = 0.75
LEVELS = (0.05, 0.2, 0.5)
TRUTH = 1_000_000


def simulated(rng: np.random.Generator, clips: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """(truth, scores of two equally good models) of so many clips, at least one of them tagged."""
    truth = rng.random(clips) < rate
    while not truth.any():
        truth = rng.random(clips) < rate
    common, own = rng.standard_normal((1, clips)), rng.standard_normal((2, clips))
    values = (common + own) / np.sqrt(2) + DISTANCE * (truth - 0.5)
    return truth, 1 / (1 + np.exp(-values))


def events(truth: np.ndarray, scores: np.ndarray) -> CategoryEvents:
    """The events of one category of one tag."""
    return CategoryEvents(truth[:, None], scores[:, None])


def coverage(cases: int, samples: int) -> Table:
    """How often intervals contain the true value."""
    lines, figures = [], {}
    for positives in POSITIVES:
        rate = positives / CLIPS
        rng = np.random.default_rng(positives)
        truth, scores = simulated(rng, TRUTH if samples > 100 else 10_000, rate)
        right = float(area(events(truth, scores[0]).count()))
        inside, lows = 0, []
        for case in range(cases):
            truth, scores = simulated(rng, CLIPS, rate)
            one = events(truth, scores[0])
            [drawn] = resampled([([one], union([one]))], samples, case)
            low, high = intervals(drawn[:, [3]], 0.95)[0]
            inside += low <= right <= high
            lows.append(low)
        figures |= {f"{positives} positives": inside / cases,
                    f"{positives} positives low": float(np.median(lows))}
        lines.append([str(positives), f"{right:.3f}", f"{inside / cases:.1%}",
                      f"{np.median(lows):.3f}"])
    return Table("Coverage of the 95% intervals of AUPRC",
                 ["clips with the tag", "true AUPRC", "intervals that contain it",
                  "median lower end"], lines,
                 [f"{cases:,} simulated sets of {CLIPS} clips each, {samples:,} resamplings of "
                  "each; the number of clips with the tag is the expected one."], figures=figures)


def p_values(cases: int, samples: int) -> Table:
    """How often p is small although both models are equally good."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"AUPRC": [], "F1 at 0.5": [], "accuracy": []}
    for case in range(cases):
        truth, scores = simulated(rng, PAIRED_CLIPS, PAIRED_RATE)
        differences = compare_tags([[events(truth, scores[0])]], [[events(truth, scores[1])]],
                                   ["tag"], samples, case)
        found["AUPRC"].append(differences[3].p)
        found["F1 at 0.5"].append(differences[1].p)
        right = rng.random((3, PAIRED_CLIPS)) < ACCURACY
        shared = rng.random((2, PAIRED_CLIPS)) < 0.5
        first, second = (np.where(shared[model], right[2], right[model]) for model in (0, 1))
        found["accuracy"].append(compare_accuracy(first, second, samples, case).p)
    lines, figures = [], {}
    for metric, values in found.items():
        shares = [float(np.mean(np.array(values) <= level)) for level in LEVELS]
        figures |= {f"{metric} {level:g}": share
                    for level, share in zip(LEVELS, shares, strict=True)}
        lines.append([metric, *(f"{share:.1%}" for share in shares)])
    return Table("p-values of two equally good models",
                 ["metric", *(f"p ≤ {level:g}" for level in LEVELS)], lines,
                 [f"{cases:,} simulated pairs with {PAIRED_CLIPS} clips each, {samples:,} "
                  "resamplings of each pair."], figures=figures)


def tables(quick: bool, work: Path) -> list[Table]:
    """Both tables."""
    cases, samples = (20, 50) if quick else (2000, 1000)
    return [coverage(cases, samples), p_values(cases, samples)]


if __name__ == "__main__":
    run("intervals", __doc__, tables)
