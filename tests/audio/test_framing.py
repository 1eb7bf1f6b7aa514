import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.framing import (
    JoinedFrames,
    frame_audio,
    frame_blocks,
    frame_count,
    frame_start,
    frame_starts,
)
from l3hpc.errors import InputError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("seconds", "center", "hop", "count"), [
    (10, True, 0.5, 20), (10, True, 0.1, 96), (10, False, 0.1, 91), (10, True, 1.0, 11),
    (1, True, 0.1, 6), (1, False, 0.1, 1)])
@pytest.mark.parametrize("rate", [8000, 48000])
def test_published_frame_counts(seconds, center, hop, count, rate):
    assert frame_count(seconds * rate, rate, hop, center) == count
    frames, times = frame_audio(np.ones(seconds * rate), rate, hop, center)
    assert frames.shape == (count, rate)
    assert times.dtype == np.float64
    np.testing.assert_array_equal(times, np.arange(count) * hop)


def published(signal, rate, hop_s, center):
    """The rules of the published packages, with plain lists: (frames, their first samples)."""
    samples = ([0.0] * int(rate / 2) if center else []) + list(signal)
    hop = int(hop_s * rate)
    target = rate if len(samples) < rate else math.ceil((len(samples) - rate) / hop) * hop + rate
    samples += [0.0] * (target - len(samples))
    count = 1 + int((len(samples) - rate) / hop)
    return [samples[i * hop:i * hop + rate] for i in range(count)]


@settings(max_examples=80, deadline=None)
@given(length=st.integers(1, 200), rate=st.sampled_from([2, 4, 8, 16, 32, 64]),
       hop=st.integers(1, 100), center=st.booleans())
def test_hops_of_whole_samples_give_the_published_frames(length, rate, hop, center):
    signal = np.arange(1, length + 1, dtype=np.float32)
    frames, times = frame_audio(signal, rate, hop / rate, center)
    np.testing.assert_array_equal(frames, published(signal, rate, hop / rate, center))
    np.testing.assert_array_equal(times, np.arange(len(frames)) * (hop / rate))
    assert frame_count(length, rate, hop / rate, center) == len(frames)


@settings(max_examples=150, deadline=None)
@given(length=st.integers(1, 300), rate=st.integers(2, 50), hop=st.floats(0.02, 2.0),
       center=st.booleans())
def test_every_frame_is_where_its_time_says_and_none_is_missing_or_too_many(
        length, rate, hop, center):
    if hop * rate < 1:
        return
    before = rate // 2 if center else 0
    signal = np.arange(before, before + length, dtype=np.float32) + 1  # its place in the padded one
    frames, times = frame_audio(signal, rate, hop, center)
    np.testing.assert_array_equal(times, np.arange(len(frames)) * hop)
    padded = np.concatenate([np.zeros(before), signal, np.zeros(10 * rate + 4 * len(frames))])
    starts = [math.floor(time * rate + 0.5 + 1e-9) for time in times]
    for frame, start in zip(frames, starts, strict=True):
        np.testing.assert_array_equal(frame, padded[start:start + rate])
    assert starts[-1] + rate >= before + length  # the end is inside
    assert len(starts) == 1 or starts[-2] + rate < before + length  # not already in the one before
    if hop <= 1:
        assert set(signal) <= set(frames.ravel())


@pytest.mark.parametrize("hop", [0.29, 0.0333, 1 / 3, 0.1, 0.009])
def test_a_frame_is_the_same_moment_at_every_rate(hop):
    """Frame i of the teacher and frame i of the student: what the published rule lets drift."""
    counts = set()
    for rate in (48000, 8000, 22050, 44100):
        frames, times = frame_audio(np.arange(15 * rate) / rate, rate, hop, center=False)
        assert np.abs(frames[:, 0] - times).max() <= 0.51 / rate + 1e-5
        counts.add(len(frames))
    assert len(counts) == 1


def test_a_product_that_falls_below_a_whole_number_is_that_number():
    assert int(0.29 * 48000) == 13919  # the published hop
    assert frame_starts(0, 3, 48000, 0.29).tolist() == [0, 13920, 27840]
    assert frame_starts(0, 4, 8000, 1 / 3).tolist() == [0, 2667, 5333, 8000]
    assert frame_start(10**6, 48000, 0.29) == 13920 * 10**6


def test_short_audio_gives_one_padded_frame():
    frames, times = frame_audio(np.ones(48), 48000, 0.1, center=False)
    assert frames.shape == (1, 48000) and frames.sum() == 48 and times.tolist() == [0.0]


def test_overlapping_frames_share_memory_and_are_read_only():
    frames, _ = frame_audio(np.ones(80000), 8000, 0.1)
    assert frames.base is not None and not frames.flags.writeable


@pytest.mark.parametrize("signal", [np.zeros(0), np.zeros((2, 8000))])
def test_refuses_nothing_and_many_channels(signal):
    with pytest.raises(InputError, match="shape"):
        frame_audio(signal, 8000, 0.5)


@pytest.mark.parametrize("hop", [0.0001, 0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_hop_below_one_sample(hop):
    with pytest.raises(InputError, match="one sample"):
        frame_audio(np.zeros(8000), 8000, hop)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 400), rate=st.integers(2, 50), hop=st.floats(0.5, 4.0),
       center=st.booleans(), cuts=st.lists(st.integers(0, 400), max_size=6),
       size=st.integers(1, 9), skip=st.integers(0, 12))
def test_blocks_give_the_same_frames(length, rate, hop, center, cuts, size, skip):
    signal = np.arange(1, length + 1, dtype=np.float32)
    frames, times = frame_audio(signal, rate, hop, center)
    blocks = np.split(signal, sorted(min(cut, length) for cut in cuts))
    found = list(frame_blocks(blocks, rate, hop, center, size=size, skip=skip))
    assert [first for first, _, _ in found] == list(
        np.cumsum([skip, *(len(part) for _, part, _ in found)])[:-1])
    assert all(len(part) <= size for _, part, _ in found)
    if skip < len(frames):
        np.testing.assert_array_equal(np.concatenate([part for _, part, _ in found]), frames[skip:])
        np.testing.assert_array_equal(np.concatenate([at for _, _, at in found]), times[skip:])
    else:
        assert not found


@pytest.mark.parametrize("hop", [0.5, 0.29, 3.7])
def test_frames_come_as_soon_as_their_samples_and_old_samples_are_let_go(hop):
    rate, given = 100, [0]

    def blocks():
        for _ in range(40):
            given[0] += 70
            yield np.ones(70, np.float32)

    expected = frame_audio(np.ones(2800), rate, hop)[0]
    due = [int(np.ceil(start / 70)) for start in
           frame_starts(0, len(expected), rate, hop) + rate - rate // 2]
    for first, frames, _ in frame_blocks(blocks(), rate, hop):
        assert given[0] == 70 * min(due[first + len(frames) - 1], 40)
        held = frames
        while held.base is not None:
            held = held.base
        assert held.size <= rate + 2 * 70 + hop * rate


def test_no_blocks_are_no_audio():
    with pytest.raises(InputError, match="without samples"):
        list(frame_blocks([], 8000, 0.5))


def test_joined_frames_are_what_their_concatenation_is():
    arrays = [np.arange(12.0).reshape(4, 3), np.empty((0, 3)), np.arange(6.0).reshape(2, 3) - 9]
    whole, joined = np.concatenate(arrays), JoinedFrames(arrays)
    assert joined.shape == (6, 3) and len(joined) == 6
    for start in range(8):
        for stop in range(8):
            np.testing.assert_array_equal(joined[start:stop], whole[start:stop])
    np.testing.assert_array_equal(joined[::2], whole[::2])
    np.testing.assert_array_equal(joined[-2:], whole[-2:])
    parts = joined.parts(3, 5)
    assert [len(part) for part in parts] == [1, 1]
    assert np.shares_memory(parts[0], arrays[0]) and np.shares_memory(parts[1], arrays[2])


@pytest.mark.parametrize(("rate", "hop", "center", "window_s", "teacher_s"), [
    (8000, 0.5, True, 1.0, 3.0), (8000, 0.5, False, 1.0, 3.0), (8000, 0.7, False, 3.0, 1.0),
    (8000, 0.3, True, 3.0, 1.0), (11025, 0.25, False, 0.96, 3.0), (8000, 2.5, True, 0.5, 3.0),
])
def test_a_window_sees_exactly_the_samples_around_the_teachers_centre(rate, hop, center, window_s,
                                                                      teacher_s):
    """Frame i of both has its centre at one moment; the numbers of the samples are the signal."""
    for samples in (1, rate // 2, 4 * rate + 123, 10 * rate):
        signal = np.arange(1, samples + 1, dtype=np.float32)
        frames, times = frame_audio(signal, rate, hop, center, window_s, teacher_s)
        of_teacher, its_times = frame_audio(signal, rate, hop, center, teacher_s)
        assert len(frames) == len(of_teacher) == frame_count(samples, rate, hop, center, teacher_s)
        np.testing.assert_array_equal(times, its_times)
        own, theirs = round(window_s * rate), round(teacher_s * rate)
        for number, (frame, wide) in enumerate(zip(frames, of_teacher, strict=True)):
            centre = frame_start(number, rate, hop) + (0 if center else theirs // 2)
            for seen, length in ((frame, own), (wide, theirs)):
                expected = np.arange(length) + centre - length // 2 + 1
                expected[(expected < 1) | (expected > samples)] = 0
                np.testing.assert_array_equal(seen, expected)
        for size, cut in ((1, 700), (3, rate), (256, 5)):
            blocks = np.split(signal, range(cut, samples, max(cut, samples // 7)))
            found = list(frame_blocks(blocks, rate, hop, center, window_s, teacher_s, size=size))
            np.testing.assert_array_equal(np.concatenate([one for _, one, _ in found]), frames)
        covered = of_teacher[of_teacher > 0]
        assert hop > teacher_s or covered.max() == samples  # no sample is lost
