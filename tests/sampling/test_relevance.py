"""Relative loudness and time frames against the plain definition, row by row."""

import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.datasets.local_time import calendar, utc_offsets
from l3hpc.errors import InputError
from l3hpc.sampling.selection import relative_loudness, relevance_groups, time_frames

NEW_YORK = "America/New_York"
ZONES = [NEW_YORK, "UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu",
         "America/St_Johns", "Africa/Casablanca"]


def unix(text, zone=NEW_YORK, fold=0):
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return moment.timestamp()


def local(timestamp, zone):
    return datetime.datetime.fromtimestamp(int(np.floor(timestamp)), tz=ZoneInfo(zone))


def plain_relevance(levels, timestamps, zone):
    """The definition: rank among the rows of the same window, ties at the lowest rank."""
    def key(t):
        if np.isnan(t):
            return None
        moment = local(t, zone)
        year, week, weekday = moment.isocalendar()
        return moment.hour // 2, weekday, week, year

    levels = [round(float(level), 2) for level in levels]
    keys = [key(t) for t in timestamps]
    result = []
    for level, mine in zip(levels, keys, strict=True):
        group = [other for other, theirs in zip(levels, keys, strict=True) if theirs == mine]
        result.append((1 + sum(other < level for other in group)) / len(group))
    return np.array(result)


# 2016-11 to 2018-04: five clock changes in New York, three turns of the year; and days that
# belong to the ISO week of another year.
TURNS = [datetime.datetime(year, month, day, hour, tzinfo=datetime.timezone.utc).timestamp()
         for year in (2014, 2015, 2018, 2019, 2020, 2021) for hour in (4, 16)
         for month, day in ((1, 1), (1, 3), (12, 29), (12, 31))]
times = (st.floats(1_478_000_000, 1_523_000_000) | st.sampled_from(TURNS)
         | st.sampled_from([float("nan")]))


@given(st.lists(st.tuples(times, st.sampled_from([40.0, 40.004, 50.126, 61.5, -np.inf])),
                min_size=1, max_size=60), st.sampled_from(ZONES))
@settings(max_examples=60, deadline=None)
def test_relevance_is_the_plain_definition(rows, zone):
    timestamps, levels = np.array(rows).T
    ours = relative_loudness(levels, timestamps, zone)
    np.testing.assert_allclose(ours, plain_relevance(levels, timestamps, zone), rtol=1e-12)
    assert ours.min() > 0
    assert ours.max() <= 1


@given(st.integers(0, 1_000_000), st.sampled_from(ZONES))
@settings(max_examples=25, deadline=None)
def test_dense_times_around_a_clock_change(seed, zone):
    rng = np.random.default_rng(seed)
    change = rng.choice([unix("2017-03-12T03:00"), unix("2017-11-05T01:00"),
                         unix("2017-03-26T03:00", "Europe/Berlin"), 1_491_058_800.0,
                         1_506_785_400.0])
    timestamps = change + rng.uniform(-7200, 7200, 80)
    levels = rng.integers(30, 40, 80).astype(float)
    np.testing.assert_allclose(relative_loudness(levels, timestamps, zone),
                               plain_relevance(levels, timestamps, zone), rtol=1e-12)


def test_ranks_and_ties():
    at = np.full(5, unix("2017-06-01T10:30"))
    np.testing.assert_allclose(relative_loudness(np.array([50, 60, 50, 70, 40.0]), at),
                               [2 / 5, 4 / 5, 2 / 5, 1, 1 / 5])
    np.testing.assert_allclose(relative_loudness(np.full(5, 55.0), at), np.full(5, 1 / 5))
    close = np.array([50.001, 50.002, 50.003, 50.004, 50.006])
    np.testing.assert_allclose(relative_loudness(close, at), [1 / 5, 1 / 5, 1 / 5, 1 / 5, 1])
    np.testing.assert_allclose(relative_loudness(close, at, decimals=None), np.arange(1, 6) / 5)


def test_rows_keep_their_order():
    """Published defect 6: rows came back regrouped and were then written by position."""
    rng = np.random.default_rng(0)
    timestamps = unix("2017-01-01T00:00") + rng.permutation(20_000) * 1577.0
    levels = rng.normal(60, 10, 20_000)
    ours = relative_loudness(levels, timestamps)
    order = rng.permutation(20_000)
    np.testing.assert_array_equal(relative_loudness(levels[order], timestamps[order]), ours[order])
    groups = relevance_groups(timestamps, NEW_YORK)
    for group in rng.choice(np.unique(groups), 50):
        here = np.flatnonzero(groups == group)
        assert (np.argsort(levels[here]) == np.argsort(ours[here])).all()


def test_first_and_last_day_of_2017_are_apart():
    """Published defect 5: both are Sundays of ISO week 52, of 2016 and of 2017."""
    first, last = unix("2017-01-01T10:00"), unix("2017-12-31T10:00")
    groups = relevance_groups(np.array([first, last]), NEW_YORK)
    assert groups[0] != groups[1]
    np.testing.assert_array_equal(
        relative_loudness(np.array([40.0, 80.0]), np.array([first, last])), [1.0, 1.0])
    days = calendar(np.array([first, last]), NEW_YORK)
    assert days.iso_year.tolist() == [2016, 2017]
    assert days.iso_week.tolist() == [52, 52]
    assert days.weekday.tolist() == [6, 6]


def test_windows_of_different_years_never_merge():
    """31 December 2018 is a Monday of 2019-W01, 1 January 2018 a Monday of 2018-W01."""
    mondays = ["2018-01-01", "2018-12-31", "2019-12-30", "2021-01-04"]
    at = np.array([unix(f"{day}T10:30") for day in mondays])
    days = calendar(at, NEW_YORK)
    assert (days.weekday == 0).all() and (days.iso_week == 1).all()
    assert days.iso_year.tolist() == [2018, 2019, 2020, 2021]
    assert len(set(relevance_groups(at, NEW_YORK))) == 4
    np.testing.assert_array_equal(relative_loudness(np.arange(4.0), at), np.ones(4))
    assert [label for label, _ in time_frames(at, "week")] == [
        "2018-W01", "2019-W01", "2020-W01", "2021-W01"]


@pytest.mark.slow
def test_every_week_of_twenty_years_has_its_84_windows():
    """Years of 52 and of 53 weeks; two rows per window, none shared with another week or year."""
    start, stop = unix("2005-01-03T00:30", "UTC"), unix("2025-01-06T00:00", "UTC")
    at = np.arange(start, stop, 3600.0)
    groups, counts = np.unique(relevance_groups(at, "UTC"), return_counts=True)
    weeks = {(year, week) for year, week, _ in (
        datetime.datetime.fromtimestamp(t, datetime.timezone.utc).isocalendar()
        for t in at[::24])}
    assert len(weeks) == 1044 and sum(week == 53 for _, week in weeks) == 3
    assert len(groups) == 1044 * 84 and set(counts) == {2}


def test_a_turn_of_the_year_inside_a_week_does_not_cut_it():
    """Monday 2018-12-31 and Wednesday 2019-01-02 are one week; a window never crosses midnight."""
    stamps = np.array([unix("2019-01-02T12:00"), unix("2018-12-31T12:00"),
                       unix("2018-12-30T12:00"), unix("2019-01-06T12:00")])
    assert {label: rows.tolist() for label, rows in time_frames(stamps, "week")} == {
        "2018-W52": [2], "2019-W01": [0, 1, 3]}
    late, early = unix("2018-12-31T23:59:59"), unix("2019-01-01T00:00:00")
    assert early - late == 1
    first, second = relevance_groups(np.array([late, early]), NEW_YORK)
    assert first != second


@pytest.mark.parametrize(("day", "zone", "minutes"), [
    ("2017-03-12", NEW_YORK, [120, 60] + [120] * 10),  # 2:00 to 3:00 is left out
    ("2017-11-05", NEW_YORK, [180, 120] + [120] * 10),  # 1:00 to 2:00 comes twice
    ("2017-03-26", "Europe/Berlin", [120, 60] + [120] * 10),
    ("2017-10-29", "Europe/Berlin", [120, 180] + [120] * 10),
    ("2017-10-01", "Australia/Lord_Howe", [120, 90] + [120] * 10),
    ("2017-04-02", "Australia/Lord_Howe", [150, 120] + [120] * 10),
    ("2018-11-04", "America/Sao_Paulo", [60] + [120] * 11),  # 0:00 to 1:00 is left out
    ("2018-02-17", "America/Sao_Paulo", [120] * 11 + [180]),  # 23:00 to 24:00 comes twice
    ("2017-03-12", "UTC", [120] * 12),
])
def test_minutes_of_each_window_on_days_when_clocks_change(day, zone, minutes):
    """A row per minute; each window's rows are ranked together, whatever its length."""
    noon = unix(f"{day}T12:00", zone)
    stamps = noon + 60.0 * np.arange(-13 * 60, 13 * 60)
    stamps = stamps[[str(local(t, zone).date()) == day for t in stamps]]
    groups = relevance_groups(stamps, zone)
    changes = np.flatnonzero(np.diff(groups)) + 1
    assert np.diff(np.concatenate([[0], changes, [len(groups)]])).tolist() == minutes
    assert len(np.unique(groups)) == 12
    rising = np.arange(len(stamps), dtype=float)
    expected = np.concatenate([np.arange(1, size + 1) / size for size in minutes])
    np.testing.assert_array_equal(relative_loudness(rising, stamps, zone), expected)


def test_the_window_follows_local_time_through_the_year():
    """8 and 9 o'clock local are one window in winter and in summer, 10 o'clock is the next."""
    for day in ("2017-01-18", "2017-07-19"):
        eight, nine, ten = (relevance_groups(np.array([unix(f"{day}T{hour}:59")]), NEW_YORK)[0]
                            for hour in ("08", "09", "10"))
        assert eight == nine != ten


def test_spring_gap_and_autumn_overlap():
    before, after = unix("2017-03-12T01:59:59"), unix("2017-03-12T03:00:00")
    assert after - before == 1
    assert relevance_groups(np.array([before, after]), NEW_YORK).tolist()[0] != \
        relevance_groups(np.array([before, after]), NEW_YORK).tolist()[1]
    once, twice = unix("2017-11-05T01:30"), unix("2017-11-05T01:30", fold=1)
    assert twice - once == 3600
    one, other = relevance_groups(np.array([once, twice]), NEW_YORK)
    assert one == other


@pytest.mark.parametrize("change", [1_491_058_800, 1_506_785_400])
def test_offsets_inside_an_hour_that_changes(change):
    """Lord Howe moves by half an hour, at 15:00 or 15:30 UTC; each second gets its own offset."""
    zone = "Australia/Lord_Howe"
    stamps = np.concatenate([np.arange(change - 5400, change + 5400, 61.0), [change - 1, change]])
    expected = [local(t, zone).utcoffset().total_seconds() for t in stamps]
    assert set(expected) == {37_800, 39_600} and expected[-1] != expected[-2]
    np.testing.assert_array_equal(utc_offsets(stamps, zone), expected)
    assert utc_offsets(np.array([[change, change - 1.0]]), zone).shape == (1, 2)


def test_silence_ranks_lowest_and_nan_is_refused():
    at = np.full(3, unix("2017-06-01T10:30"))
    assert relative_loudness(np.array([-np.inf, 30, 40]), at).tolist() == [1 / 3, 2 / 3, 1]
    with pytest.raises(InputError, match="1 of 3 levels are NaN"):
        relative_loudness(np.array([np.nan, 30, 40]), at)


def test_unknown_times_are_one_group():
    stamps = np.array([np.nan, unix("2017-06-01T10:30"), np.nan, np.inf])
    np.testing.assert_allclose(relative_loudness(np.array([1.0, 2, 3, 5]), stamps),
                               [1 / 3, 1, 2 / 3, 1])


def test_refusals():
    with pytest.raises(InputError, match="2 levels for 3 timestamps"):
        relative_loudness(np.ones(2), np.ones(3))
    with pytest.raises(InputError, match="unknown time zone 'Mars/Olympus'"):
        relative_loudness(np.ones(1), np.ones(1), "Mars/Olympus")
    with pytest.raises(InputError, match="unknown time zone"):
        relative_loudness(np.ones(1), np.ones(1), "../etc/passwd")
    for beyond in (1.5e15, -1.5e15):
        with pytest.raises(InputError, match="milliseconds"):
            time_frames(np.array([1.5e9, beyond]), "day", "UTC")
    with pytest.raises(InputError, match="did you mean 'week'"):
        time_frames(np.array([1.5e9]), "weeks")
    with pytest.raises(InputError, match="one timestamp per row"):
        time_frames(np.ones((2, 2)))


def plain_label(timestamp, timescale, zone):
    if not np.isfinite(timestamp):
        return "unknown"
    moment = local(timestamp, zone)
    if timescale == "week":
        year, week, _ = moment.isocalendar()
        return f"{year}-W{week:02d}"
    return moment.strftime("%Y-%m-%d" if timescale == "day" else "%Y-%m")


@given(st.lists(times, max_size=80), st.sampled_from(["day", "week", "month"]),
       st.sampled_from(ZONES))
@settings(max_examples=60, deadline=None)
def test_frames_partition_the_rows(stamps, timescale, zone):
    stamps = np.array(stamps, dtype=float)
    frames = time_frames(stamps, timescale, zone)
    labels = [label for label, _ in frames]
    assert labels == sorted(set(labels))  # 'unknown' sorts last
    rows = np.concatenate([rows for _, rows in frames]) if frames else np.empty(0, int)
    assert sorted(rows.tolist()) == list(range(len(stamps)))
    for label, group in frames:
        assert (np.diff(group) > 0).all()
        assert {plain_label(t, timescale, zone) for t in stamps[group]} == {label}


def test_a_frame_whose_rows_are_not_neighbours():
    """Published defect 4: 1 January 2017 and late December 2016 are one ISO week."""
    stamps = np.array([unix("2017-01-01T12:00"), unix("2017-01-05T12:00"),
                       unix("2016-12-30T12:00"), unix("2017-12-31T12:00")])
    frames = dict(time_frames(stamps, "week"))
    assert {label: rows.tolist() for label, rows in frames.items()} == {
        "2016-W52": [0, 2], "2017-W01": [1], "2017-W52": [3]}


@pytest.mark.parametrize(("timescale", "moments", "labels"), [
    ("day", ["2017-06-01T00:00", "2017-06-02T23:59:59", "2017-06-03T12:00"],
     ["2017-06-01", "2017-06-02", "2017-06-03"]),
    ("week", ["2017-06-05T00:00", "2017-06-18T23:59:59", "2017-06-21T12:00"],
     ["2017-W23", "2017-W24", "2017-W25"]),
    ("month", ["2017-06-01T00:00", "2017-07-31T23:59:59", "2018-06-15T12:00"],
     ["2017-06", "2017-07", "2018-06"]),
])
def test_frames_of_rows_in_turn(timescale, moments, labels):
    """Rows of three frames come one after the other, in whatever order of time."""
    stamps = np.array([unix(moment) for moment in moments])
    turn = np.array([2, 0, 1, 1, 2, 0, 0])
    frames = time_frames(stamps[turn], timescale)
    assert [label for label, _ in frames] == labels
    assert [rows.tolist() for _, rows in frames] == [[1, 5, 6], [2, 3], [0, 4]]


def test_frames_follow_the_site_and_not_the_machine(monkeypatch):
    """Published defect 5: frames were cut in the time zone of the machine."""
    import time

    late = unix("2017-06-01T23:30")
    for machine in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", machine)
        time.tzset()
        assert time_frames(np.array([late]), "day")[0][0] == "2017-06-01"
        assert time_frames(np.array([late]), "day", "UTC")[0][0] == "2017-06-02"
    monkeypatch.undo()
    time.tzset()


def test_years_before_1970():
    stamps = np.array([unix("1969-12-28T10:00", "UTC"), unix("1968-02-29T00:00", "UTC")])
    assert [label for label, _ in time_frames(stamps, "day", "UTC")] == ["1968-02-29", "1969-12-28"]
    assert [label for label, _ in time_frames(stamps, "week", "UTC")] == ["1968-W09", "1969-W52"]
