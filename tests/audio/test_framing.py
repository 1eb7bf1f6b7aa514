import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.audio.framing import frame_audio, frame_blocks, frame_count
from l3hpc.errors import InputError


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


def by_the_rules(signal, rate, hop_s, center):
    """Facts as a list of steps, with plain lists."""
    samples = ([0.0] * int(rate / 2) if center else []) + list(signal)
    hop = int(hop_s * rate)
    target = rate if len(samples) < rate else math.ceil((len(samples) - rate) / hop) * hop + rate
    samples += [0.0] * (target - len(samples))
    count = 1 + int((len(samples) - rate) / hop)
    return [samples[i * hop:i * hop + rate] for i in range(count)]


@settings(max_examples=80, deadline=None)
@given(length=st.integers(1, 200), rate=st.integers(2, 50), hop=st.floats(0.05, 2.0),
       center=st.booleans())
def test_frames_follow_the_rules_and_lose_no_sample(length, rate, hop, center):
    if int(hop * rate) < 1:
        return
    signal = np.arange(1, length + 1, dtype=np.float32)
    frames, _ = frame_audio(signal, rate, hop, center)
    np.testing.assert_array_equal(frames, by_the_rules(signal, rate, hop, center))
    if hop <= 1:
        assert set(signal) <= set(frames.ravel())


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


def test_refuses_a_hop_below_one_sample():
    with pytest.raises(InputError, match="less than one sample"):
        frame_audio(np.zeros(8000), 8000, 0.0001)


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


def test_no_blocks_are_no_audio():
    with pytest.raises(InputError, match="without samples"):
        list(frame_blocks([], 8000, 0.5))
