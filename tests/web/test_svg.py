import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.web.svg import Scale, number, path, ticks, widen


@pytest.mark.parametrize(("low", "high", "count", "expected"), [
    (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    (0, 64, 6, [0, 20, 40, 60]),
    (0.31, 0.47, 5, [0.35, 0.40, 0.45]),
    (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
    (1, 12, 7, [2, 4, 6, 8, 10, 12]),
    (2.07, 2.88, 4, [2.2, 2.4, 2.6, 2.8]),  # at a distance of 0.5 there is 2.5 alone
])
def test_ticks_are_round_numbers(low, high, count, expected):
    assert ticks(low, high, count) == pytest.approx(expected)


def test_ticks_of_an_empty_range():
    assert ticks(2.0, 2.0) == [2.0]
    assert ticks(math.nan, 1.0) == []


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_stay_inside_and_are_few(low, span, count):
    marks = ticks(low, low + span, count)
    tolerance = 1e-6 * max(abs(low), span, 1)
    assert all(low - tolerance <= mark <= low + span + tolerance for mark in marks)
    assert 2 <= len(marks) <= 2.6 * count + 2


def test_scale_maps_ends_to_ends_and_may_run_upwards():
    scale = Scale(0, 2, 100, 20)
    assert (scale(0), scale(1), scale(2)) == (100, 60, 20)
    assert Scale(3, 3, 0, 10)(3) == 5


def test_widen_leaves_air_and_survives_odd_input():
    assert widen([0.0, 1.0], zero=True) == (0.0, 1.06)
    low, high = widen([2.0])
    assert low < 2.0 < high
    assert widen([math.nan]) == widen([0.0, 1.0])


def test_path_and_number():
    assert path([(1, 2), (3.06, 4)]) == "M1.0,2.0L3.1,4.0"
    assert number(1234.5678, 2) == "1,234.57"
    assert number(None) == number(math.nan) == "–"
