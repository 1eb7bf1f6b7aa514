"""Windows of one second from recordings of any length, in bounded memory."""

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc.audio.files import AudioError, read_audio
from l3hpc.audio.framing import frame_audio
from l3hpc.audio.levels import frame_levels
from l3hpc.datasets.windows import read_pieces, window_count

RATE = 4000


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 60 * RATE + 123), RATE)
    return path


@pytest.mark.parametrize("rate", [RATE, 3000])
@pytest.mark.parametrize("skip", [0, 50])
def test_a_long_recording_in_blocks_is_the_whole_one(recording, monkeypatch, rate, skip):
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 5 * RATE)
    found = list(read_pieces(recording, rate, 0.5, True, levels=True, skip=skip))
    frames, times = frame_audio(read_audio(recording, rate)[0], rate, 0.5, True)
    assert found[0].first == skip
    assert max(len(piece.windows) for piece in found) < 12  # what a block of five seconds gives
    np.testing.assert_array_equal(np.concatenate([one.windows for one in found]), frames[skip:])
    np.testing.assert_array_equal(np.concatenate([one.starts for one in found]), times[skip:])
    np.testing.assert_allclose(np.concatenate([one.levels for one in found]),
                               frame_levels(read_audio(recording)[0], RATE)[skip:], atol=1e-3)
    assert window_count(recording, 0.5, True) == len(frames)


def test_a_hop_that_fits_once_more_repeats_the_last_level(tmp_path):
    path = tmp_path / "x.wav"  # 1500.25 samples at 1000 Hz are 1501: the last in a frame of its own
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 6001), RATE)
    counts = [len(frame_audio(read_audio(path, rate)[0], rate, 2001 / RATE, False)[0])
              for rate in (RATE, 1000)]
    assert counts == [2, 3]
    levels = np.concatenate([
        one.levels for one in read_pieces(path, 1000, 2001 / RATE, False, levels=True, size=5)])
    assert len(levels) == counts[1]
    assert levels[-1] == levels[-2]


@pytest.mark.parametrize("shape", [(3, RATE), (3, 2 * RATE)])
def test_rows_that_are_no_numbers_make_a_file_unreadable(tmp_path, shape):
    rows = np.full(shape, 0.1)
    rows[1, 7] = np.nan
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio"] = rows
        file["audio"].attrs["rate"] = RATE
    with pytest.raises(AudioError, match="not finite"):
        list(read_pieces(tmp_path / "x.h5", RATE, 0.5, True))


@pytest.mark.parametrize("shape", [(0, RATE), (3, 0)])
def test_rows_without_samples_are_empty(tmp_path, shape):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio"] = np.zeros(shape)
    with pytest.raises(AudioError) as caught:
        list(read_pieces(tmp_path / "x.h5", RATE, 0.5, True))
    assert caught.value.reason == "empty"
    assert window_count(tmp_path / "x.h5", 0.5, True) in (0, 3)


@pytest.mark.parametrize("rate", [RATE, 3000])
@pytest.mark.parametrize("skip", [0, 33])
def test_rows_of_one_second_are_the_same_however_many_are_read_at_once(tmp_path, rate, skip):
    from l3hpc.audio.resample import resample

    rows = np.random.default_rng(0).integers(-9000, 9000, (75, 1, RATE)).astype(np.int16)
    rows[40:] //= 50
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio"] = rows
    found = list(read_pieces(tmp_path / "x.h5", rate, 0.5, True, levels=True, skip=skip, size=40))
    assert [piece.first for piece in found] == list(range(skip, 75, 40))
    windows = np.concatenate([piece.windows for piece in found])
    expected = [resample((row[0] / 32768).astype(np.float32), RATE, rate) for row in rows[skip:]]
    np.testing.assert_array_equal(windows, expected)
    np.testing.assert_array_equal(np.concatenate([piece.starts for piece in found]),
                                  np.arange(skip, 75))
    levels = np.concatenate([piece.levels for piece in found])
    expected = [frame_levels((row[0] / 32768).astype(np.float32), RATE, hop_s=1.0, center=False)[0]
                for row in rows[skip:]]
    np.testing.assert_allclose(levels, expected, atol=1e-3)
