"""Thresholds, calibration and sensors against the definitions, clip by clip."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.tagging import predictions
from l3hpc.tagging.annotations import Annotations
from l3hpc.tagging.detection import (
    HALF,
    MIN_POSITIVES,
    Tags,
    by_sensor,
    calibration,
    choose_thresholds,
    detections,
    tags_of,
)
from l3hpc.tagging.evaluation import Matched, evaluate, match
from l3hpc.tagging.seeds import mean_of

VALUES = st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.95, 1.0])
TAXONOMY = Taxonomy({1: "engine", 2: "voice"},
                    {1: {1: "small", 2: "large", "X": "unsure"}, 2: {1: "talk"}})


@st.composite
def tables(draw):
    clips, tags = draw(st.integers(1, 8)), draw(st.integers(1, 3))

    def block(values):
        return np.array(draw(st.lists(st.lists(values, min_size=tags, max_size=tags),
                                      min_size=clips, max_size=clips)))

    return Tags([f"tag {number}" for number in range(tags)], block(st.booleans()), block(VALUES),
                block(st.booleans()))


def counts(table, place, threshold):
    hits = alarms = misses = 0
    for truth, value, known in zip(table.truth[:, place], table.probability[:, place],
                                   table.known[:, place], strict=True):
        if known:
            hits += truth and value >= threshold
            alarms += not truth and value >= threshold
            misses += truth and value < threshold
    return int(hits), int(alarms), int(misses)


def f1(hits, alarms, misses):
    return 2 * hits / (2 * hits + alarms + misses) if hits + alarms + misses else None


@settings(max_examples=100, deadline=None)
@given(tables())
def test_the_threshold_is_the_highest_of_those_with_the_best_f1(table):
    """Tags that are truly open count in no way: known is False only where the truth is."""
    table.truth[~table.known] = False
    for place, (column, found) in enumerate(choose_thresholds(table).items()):
        assert column == table.columns[place]
        tried = {value: f1(*counts(table, place, value))
                 for value in table.probability[table.known[:, place], place] if value > 0}
        if not table.truth[:, place].any() or not tried:
            assert found is None
            continue
        best = max(tried.values())
        assert found == max(value for value, one in tried.items() if one == pytest.approx(best))


@settings(max_examples=100, deadline=None)
@given(tables(), st.data())
def test_detections_are_counted_at_their_thresholds(table, data):
    table.truth[~table.known] = False
    chosen = {column: data.draw(st.one_of(st.none(), VALUES)) for column in table.columns}
    found = detections(table, chosen)
    for more, limits in (("", [HALF if value is None else value for value in chosen.values()]),
                         ("_at_half", [HALF] * len(chosen))):
        each = [counts(table, place, limit) for place, limit in enumerate(limits)]
        assert found[f"micro_f1{more}"] == pytest.approx(f1(*np.sum(each, axis=0)))
        present = [f1(*one) for one in each if one[0] + one[2]]
        assert found[f"macro_f1{more}"] == (pytest.approx(np.mean(present)) if present else None)
        for column, limit, (hits, alarms, misses) in zip(chosen, limits, each, strict=True):
            one = found["tags"][column]
            assert one[f"f1{more}"] == f1(hits, alarms, misses)
            if not more:
                assert (one["threshold"], one["positives"]) == (limit, hits + misses)
                assert one["chosen"] is (chosen[column] is not None)
                assert one["precision"] == (hits / (hits + alarms) if hits + alarms else None)
                assert one["recall"] == (hits / (hits + misses) if hits + misses else None)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(tables())
def test_calibration_is_counted_pair_by_pair(table):
    table.truth[~table.known] = False
    if not table.known.any():
        table.known[0, 0] = True
    found = calibration([table])
    pairs = [(value, truth) for value, truth, known in zip(
        table.probability.flat, table.truth.flat, table.known.flat, strict=True) if known]
    assert found["pairs"] == len(pairs)
    assert found["brier"] == pytest.approx(np.mean([(p - y) ** 2 for p, y in pairs]))
    error = 0.0
    for one in found["reliability"]:
        own = [(p, y) for p, y in pairs
               if one["low"] <= p < one["high"] or p == one["high"] == 1]
        assert one["pairs"] == len(own)
        if own:
            predicted, observed = np.mean(own, axis=0)
            assert (one["predicted"], one["observed"]) == pytest.approx((predicted, observed))
            error += len(own) / len(pairs) * abs(predicted - observed)
    assert found["error"] == pytest.approx(error)
    for place, column in enumerate(table.columns):
        known = table.known[:, place]
        own = table.truth[known, place]
        if not known.any():
            assert found["tags"][column] == {"brier": None, "reference": None, "error": None}
            continue
        assert found["tags"][column]["brier"] == pytest.approx(
            np.mean((table.probability[known, place] - own) ** 2))
        assert found["tags"][column]["reference"] == pytest.approx(own.mean() * (1 - own.mean()))


def test_a_forecast_of_the_frequencies_is_calibrated(rng):
    frequency = rng.choice([0.05, 0.35, 0.85], (4000, 1))
    truth = rng.random((4000, 1)) < frequency
    table = Tags(["tag"], truth, frequency, np.ones_like(truth))
    good = calibration([table])
    assert good["error"] < 0.03  # 4,000 draws: about 0.01
    assert good["brier"] < good["reference"]
    assert calibration([Tags(["tag"], truth, frequency / 2, table.known)])["error"] > 0.15
    twice = calibration([table, table])
    assert [twice[name] for name in ("brier", "reference", "error")] == pytest.approx(
        [good[name] for name in ("brier", "reference", "error")])
    assert [one["pairs"] for one in twice["reliability"]] == [
        2 * one["pairs"] for one in good["reliability"]]


def matched(fine, coarse, fine_truth, coarse_truth, sensor):
    files = [f"{number}.wav" for number in range(len(sensor))]
    return Matched(TAXONOMY, "validate", files, np.array(sensor, object),
                   np.array(fine_truth, bool), np.array(coarse_truth, bool),
                   predictions.Predictions(files, np.array(fine, float), np.array(coarse, float)))


def test_an_uncertain_clip_does_not_count_for_the_fine_tags_that_are_not_marked():
    one = matched(np.full((3, 4), 0.6), np.full((3, 2), 0.6),
                  [[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], [[1, 0], [1, 1], [0, 0]], "111")
    table = tags_of(one, "fine")
    assert table.columns == ["1-1_small", "1-2_large", "2-1_talk"]
    assert table.known.tolist() == [[True, False, True], [False, False, True], [True] * 3]
    assert tags_of(one, "coarse").known.all()
    assert tags_of(one, "coarse").columns == ["1_engine", "2_voice"]


def test_a_sensor_is_scored_on_its_clips_and_only_with_enough_positives(rng):
    clips = 90
    sensor = np.array(["10"] * 50 + ["9"] * 30 + ["2"] * 10, object)
    fine, coarse = (rng.random((clips, width)) < 0.3 for width in (4, 2))
    fine[80:], coarse[80:] = False, False
    fine[80, 2] = coarse[80, 0] = True
    files = np.array([f"{number:02}.wav" for number in range(clips)], object)
    whole = Annotations(TAXONOMY, np.full(clips, "validate", object), sensor, files,
                        np.zeros(clips, int), fine.astype(np.int8), coarse.astype(np.int8), 1)
    guess = predictions.Predictions(list(files), rng.random((clips, 4)), rng.random((clips, 2)))
    for level in ("coarse", "fine"):
        found = by_sensor(match(guess, whole, TAXONOMY, "validate"), level)
        assert {name: one["clips"] for name, one in found.items()} == {"2": 10, "9": 30, "10": 50}
        assert list(found) == ["2", "9", "10"]
        assert found["2"] == {"clips": 10, "positives": 1, "micro_auprc": None}
        for name in ("9", "10"):
            assert found[name]["positives"] >= MIN_POSITIVES
            own = sensor == name
            alone = replace(whole, **{field: getattr(whole, field)[own] for field in (
                "split", "sensor", "file", "annotator", "fine", "coarse")})
            part = predictions.Predictions(list(files[own]), guess.fine[own], guess.coarse[own])
            assert found[name]["micro_auprc"] == evaluate(part, alone, TAXONOMY)[level][
                "micro_auprc"]


def test_means_leave_out_what_is_not_known():
    assert mean_of([{"f1": None, "n": 3}, {"f1": 0.5, "n": 3}, {"f1": 1.0, "n": 3}]) == {
        "f1": 0.75, "n": 3}
    assert mean_of([None, None]) is None
    assert mean_of([True, False]) is None


def test_calibration_without_a_known_pair_is_none():
    none = np.zeros((3, 1), bool)
    found = calibration([Tags(["tag"], none, np.full((3, 1), 0.5), none)])
    assert [found[name] for name in ("brier", "reference", "pairs")] == [None, None, 0]
