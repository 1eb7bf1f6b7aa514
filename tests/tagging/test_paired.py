"""Paired comparisons: what is computed, and how often a p-value is small where nothing differs."""

import importlib.util
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pytest

from l3hpc.tagging.metrics import CategoryEvents
from l3hpc.tagging.paired import (
    METRICS,
    compare_accuracy,
    compare_tags,
    mcnemar,
    p_value,
    small_basis,
)

spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def plain_scores(cases, drawn):
    """Of the drawn clips, with the thresholds of all clips, rule by rule."""
    rows = []
    for truth, values in cases:
        thresholds = [row[0] for row in reference.counts(truth, values)]
        rows.append(reference.counts(truth[drawn], values[drawn], thresholds=thresholds))
    micro, areas = reference.micro(rows), [reference.area(one) for one in rows]
    return np.array([reference.area(micro), reference.f1(micro), np.mean(areas), *areas])


def made(rng, truth, distance=1.5):
    return [(one, 1 / (1 + np.exp(-(rng.normal(size=one.shape) + distance * (one - 0.5)))))
            for one in truth]


def events(cases):
    return [CategoryEvents(*one) for one in cases]


def test_the_same_clips_are_drawn_for_both_and_seeds_are_averaged(rng):
    truth = [rng.random((12, 1)) < 0.4 for _ in range(2)]
    first, second = [made(rng, truth)], [made(rng, truth), made(rng, truth)]
    found = compare_tags([events(one) for one in first], [events(one) for one in second],
                         ["siren", "dog"], samples=30, seed=3)
    draws, differences = np.random.default_rng(3), []
    for _ in range(30):
        drawn = draws.integers(12, size=12)
        differences.append(np.mean([plain_scores(one, drawn) for one in second], axis=0)
                           - plain_scores(first[0], drawn))
    differences = np.array(differences)
    assert [one.metric for one in found] == [*METRICS, "siren", "dog"]
    everything = np.arange(12)
    for column, one in enumerate(found):
        assert one.first == pytest.approx(plain_scores(first[0], everything)[column])
        assert one.second == pytest.approx(
            np.mean([plain_scores(each, everything)[column] for each in second]))
        values = differences[:, column]
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(values, (0.025, 0.975))))
        values = np.where(np.abs(values) < 1e-12, 0, values)  # rounding of our plain sums
        count = min((values <= 0).sum(), (values >= 0).sum())
        assert one.p == pytest.approx(min(1, 2 * (count + 1) / 31))


def test_equal_models_have_p_1_and_clear_differences_the_smallest():
    truth = np.arange(80).reshape(-1, 1) % 3 == 0
    good, bad = [(truth, 0.2 + 0.6 * truth)], [(truth, 0.8 - 0.6 * truth)]
    same = compare_tags([events(good)], [events(good)], ["dog"], samples=100)
    assert {one.p for one in same} == {1.0} and {one.difference for one in same} == {0.0}
    clear = compare_tags([events(bad)], [events(good)], ["dog"], samples=100)
    assert {one.p for one in clear} == {2 / 101}
    assert all(one.low > 0 for one in clear)
    back = compare_tags([events(good)], [events(bad)], ["dog"], samples=100)
    assert [one.high for one in back] == pytest.approx([-one.low for one in clear])


@pytest.mark.slow
def test_p_is_small_as_often_as_it_says_where_nothing_differs():
    """300 pairs of equally good models on 80 clips.

    Measured on 1,000 pairs of 100 clips: p <= 0.05 in 5 to 7%, p <= 0.2 in 18 to 23%, p <= 0.5 in
    49 to 52%. The bounds are those shares with 3.3 standard errors of 300 pairs.
    """
    rng, found = np.random.default_rng(1), []
    for number in range(300):
        truth = [rng.random((80, 1)) < 0.4]
        found.append([one.p for one in compare_tags(
            [events(made(rng, truth))], [events(made(rng, truth))], ["dog"], samples=100,
            seed=number)])
    micro = np.array(found)[:, 0]
    for level, low, high in ((0.05, 0.01, 0.11), (0.2, 0.11, 0.30), (0.5, 0.40, 0.62)):
        assert low <= (micro <= level).mean() <= high


def test_accuracy_is_resampled_as_clips_are(rng):
    """The number of clips of each kind is drawn at once: the same as drawing clip by clip."""
    first, second = (rng.random(40) < share for share in (0.6, 0.7))
    found = compare_accuracy(first, second, samples=20_000, seed=1)
    assert (found.first, found.second) == (first.mean(), second.mean())
    drawn = rng.integers(40, size=(20_000, 40))
    differences = second[drawn].mean(axis=1) - first[drawn].mean(axis=1)
    # A clip is 0.025; quantiles of 20,000 drawings may be one clip apart.
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(differences, (0.025, 0.975))), abs=0.026)
    assert found.p == pytest.approx(float(p_value(differences[:, None])[0]), abs=0.03)


def test_mcnemar_is_the_binomial_test_of_the_clips_that_differ():
    for gained, lost in ((0, 0), (1, 0), (3, 9), (8, 8), (0, 12)):
        first = np.array([0] * gained + [1] * lost + [1, 0], bool)
        second = np.array([1] * gained + [0] * lost + [1, 0], bool)
        total = gained + lost
        tails = [comb(total, k) / 2 ** total for k in range(total + 1)]
        assert mcnemar(first, second) == pytest.approx(
            sum(one for one in tails if one <= tails[gained] * (1 + 1e-9)))


def test_p_is_never_zero_and_falls_with_the_evidence():
    values = [float(p_value(np.r_[np.full(99 - low, 1.0), np.full(low, -1.0)][:, None])[0])
              for low in (0, 2, 10, 49)]
    assert values == [0.02, 0.06, 0.22, 1.0]
    assert all(one < other for one, other in pairwise(values))


def test_p_is_about_0_05_or_less_where_the_interval_is_on_one_side_of_0():
    """Not exactly: of 1,000 drawings, the 25th smallest enters the interval by interpolation."""
    drawn = np.r_[np.full(25, -0.001), np.full(975, 1.0)][:, None]
    assert np.quantile(drawn, 0.025) > 0 and 0.05 < p_value(drawn)[0] < 0.053


def test_a_note_says_where_few_clips_stand_behind_p():
    assert small_basis(30, 10, {"dog": 10}) == small_basis(30, 0) == []
    [clips], [one], [tag] = small_basis(29), small_basis(30, 1), small_basis(30, None, {"dog": 9})
    assert clips.startswith("only 29 clips, fewer than 30")
    assert one.startswith("only 1 clip differs, fewer than 10")
    assert tag.startswith("fewer than 10 clips have dog (9)")
