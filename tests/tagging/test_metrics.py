"""Counts and areas against the rules written out with loops, on thousands of small cases."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from l3hpc.tagging.metrics import CategoryEvents, area, f1_at_half, precision_recall, union

spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

# few distinct values: ties, values under the lowest threshold, exactly 0.5, exactly 1
VALUES = st.sampled_from([0.0, 0.005, 0.01, 0.2, 0.25, 0.5, 0.500001, 0.75, 0.9, 1.0])


@st.composite
def categories(draw, max_clips=7):
    clips = draw(st.integers(1, max_clips))
    made = []
    for _ in range(draw(st.integers(1, 4))):
        tags = draw(st.integers(1, 4))
        truth = draw(arrays(bool, (clips, tags)))
        predicted = draw(arrays(float, (clips, tags), elements=VALUES))
        if draw(st.booleans()):
            made.append((truth, predicted, draw(arrays(bool, clips)),
                         draw(arrays(float, clips, elements=VALUES))))
        else:
            made.append((truth, predicted))
    return made


def rows_of(counts):
    return list(zip(counts.threshold, counts.tp, counts.fp, counts.fn, strict=True))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(categories())
def test_equal_to_the_rules_written_out(made):
    expected = [reference.counts(*case) for case in made]
    events = [CategoryEvents(*case) for case in made]
    counts = [category.count() for category in events]
    for got, want in zip(counts, expected, strict=True):
        assert rows_of(got) == want
        assert area(got) == pytest.approx(reference.area(want), abs=1e-12)
        assert f1_at_half(got) == pytest.approx(reference.f1(want), abs=1e-12)
        assert (np.diff(precision_recall(got)[1]) >= 0).all()  # no sorting is needed
    total = union(events).count()
    assert rows_of(total) == reference.micro(expected)
    assert area(total) == pytest.approx(reference.area(reference.micro(expected)), abs=1e-12)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(categories(max_clips=5), st.data())
def test_weights_count_a_clip_as_often_as_it_is_there(made, data):
    clips = len(made[0][0])
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=clips, max_size=clips)))
    for case in made:
        repeated = [np.repeat(part, weight, axis=0) for part in case]
        if not weight.sum():
            continue
        counts = CategoryEvents(*case).count(weight)
        want = {row[0]: row for row in reference.counts(*repeated)}
        got = {row[0]: row for row in rows_of(counts)}
        for threshold, row in want.items():
            assert got[threshold] == row


def test_a_perfect_prediction_scores_one_and_a_silent_one_nothing():
    truth = np.array([[True, False], [False, True], [False, False]])
    perfect = CategoryEvents(truth, truth.astype(float)).count()
    assert area(perfect) == 1.0 and f1_at_half(perfect) == 1.0
    silent = CategoryEvents(truth, np.zeros((3, 2))).count()
    assert silent.threshold.tolist() == [1.0]
    assert area(silent) == 0.0 and f1_at_half(silent) == 0.0


def test_each_rule_for_the_uncertain_tag_by_hand():
    one = CategoryEvents(  # truth says X only; something else of the category is predicted: a hit
        np.array([[False, False]]), np.array([[0.6, 0.0]]), np.array([True]), np.array([0.0]))
    assert rows_of(one.count()) == [(1.0, 0, 0, 1), (0.6, 1, 0, 0)]
    two = CategoryEvents(  # X predicted where the category is silent: one false alarm
        np.array([[False, False]]), np.array([[0.3, 0.2]]), np.array([False]), np.array([1.0]))
    assert rows_of(two.count()) == [(1.0, 0, 1, 0), (0.3, 0, 2, 0), (0.2, 0, 2, 0)]
    three = CategoryEvents(  # X and a tag are true; only the other tag is predicted: hit and miss
        np.array([[True, False]]), np.array([[0.0, 0.7]]), np.array([True]), np.array([0.0]))
    assert rows_of(three.count()) == [(1.0, 0, 0, 1), (0.7, 1, 0, 1)]


def test_half_means_the_first_threshold_at_or_above_half():
    truth = np.array([[True], [False]])
    at_half = CategoryEvents(truth, np.array([[0.9], [0.5]])).count()
    assert f1_at_half(at_half) == pytest.approx(2 / 3)  # the alarm at exactly 0.5 counts
    below = CategoryEvents(truth, np.array([[0.9], [0.4999]])).count()
    assert f1_at_half(below) == 1.0


def test_empty_denominators_count_as_one_half():
    counts = CategoryEvents(np.array([[False]]), np.array([[0.3]])).count()
    precision, recall = precision_recall(counts)
    assert precision.tolist() == [0.0, 0.0] and recall.tolist() == [0.0, 0.0]
