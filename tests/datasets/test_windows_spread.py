"""The windows that stand for a corpus depend on its list of recordings alone."""

import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.datasets.corpus import scan_recordings
from l3hpc.datasets.windows import evenly_spaced, read_pieces, sample_windows

RATE = 2000


@given(st.integers(1, 300), st.integers(1, 40))
def test_recordings_are_spread_evenly_from_the_first_to_the_last(size, count):
    found = evenly_spaced(list(range(size)), count)
    assert len(found) == min(size, count) and found[0] == 0
    assert found == sorted(set(found))
    if len(found) > 1:
        steps = np.diff(found)
        assert found[-1] == size - 1 and steps.max() - steps.min() <= 1


def write(folder, name, seconds, seed=0):
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * RATE))
    soundfile.write(folder / name, noise.astype(np.float32), RATE, "FLOAT")


def test_windows_are_spread_evenly_through_each_recording(tmp_path):
    for number, seconds in enumerate((4, 1, 9)):
        write(tmp_path / "a", f"{number}.wav", seconds, number)
    found = sample_windows(tmp_path / "a", scan_recordings(tmp_path / "a"), RATE, 1.0, False, 9)
    whole = [next(read_pieces(tmp_path / "a" / f"{number}.wav", RATE, 1.0, False)).windows
             for number in range(3)]
    expected = [whole[0][0], whole[0][2], whole[0][3], whole[1][0],
                whole[2][0], whole[2][4], whole[2][8]]
    np.testing.assert_array_equal(found, expected)


def test_what_cannot_be_used_is_left_out(tmp_path):
    write(tmp_path / "a", "good.wav", 3)
    write(tmp_path / "a", "short.wav", 0.5)
    (tmp_path / "a/text.wav").write_text("no audio")
    (tmp_path / "a/recordings.csv").write_text("file,sensor,timestamp\nlost.wav,a,\n")
    recordings = scan_recordings(tmp_path / "a")
    assert len(recordings) == 4
    assert sample_windows(tmp_path / "a", recordings, RATE, 1.0, False, 8).shape == (2, RATE)
    assert sample_windows(tmp_path / "a", recordings, RATE, 1.0, False, 8, 0.0).shape == (3, RATE)
    assert sample_windows(tmp_path / "a", recordings[1:2], RATE, 1.0, False, 8).shape == (0, RATE)
    assert sample_windows(tmp_path / "a", [], RATE, 1.0, False, 8).shape == (0, RATE)
