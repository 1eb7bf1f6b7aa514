"""Precomputed embeddings: matched with recordings by name and time, or refused with counts."""

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc.datasets.corpus import scan_recordings
from l3hpc.datasets.embeddings import open_source
from l3hpc.datasets.precomputed import PrecomputedEmbeddings, PrecomputedExtraction
from l3hpc.errors import InputError, L3hpcError

RATE = 8000


def values(name, times):
    """Two numbers per row: which recording, and when."""
    return np.stack([np.full(len(times), ord(name[-1])), times], axis=1).astype(np.float32)


def write(path, times, rows=None, key="embedding"):
    rows = values(path.stem, times) if rows is None else rows
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **{key: rows, "timestamps": np.asarray(times)})
    else:
        with h5py.File(path, "w") as file:
            file[key], file["timestamps"] = rows, times


@pytest.fixture
def audio(tmp_path):
    """Three recordings of four seconds, one of them in a subfolder."""
    folder = tmp_path / "audio"
    (folder / "park").mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    for name in ("a.wav", "b.flac", "park/c.wav"):
        soundfile.write(folder / name, noise, RATE)
    return folder


def extract(tmp_path, folder, audio, hop=1.0, center=False, **options):
    ready = PrecomputedEmbeddings(folder)
    recordings = scan_recordings(audio)
    ready.check(audio, recordings, hop, center)
    result = PrecomputedExtraction(ready, {"kind": "ready"}, audio, recordings, hop, center,
                                   tmp_path / "scratch", **options).run(
                                 tmp_path / "embeddings.h5", tmp_path / "skipped.csv")
    with h5py.File(tmp_path / "embeddings.h5") as file:
        return result, {name: file[name][()] for name in
                        ("l3_embedding", "recording", "frame", "start", "loudness")}


def test_rows_are_those_of_the_windows_at_their_times(tmp_path, audio):
    """Every 0.1 s for a hop of 0.5 s; in any order; HDF5 from the second second on."""
    folder = tmp_path / "ready"
    times = np.arange(31) / 10
    write(folder / "a.npz", times[::-1].copy())
    (folder / "a.npz").rename(folder / "a.NPZ")
    write(folder / "b.h5", np.arange(2, 7) * 0.5)
    write(folder / "park/c.npz", np.float32(times + 0.0004))
    result, got = extract(tmp_path, folder, audio, hop=0.5, block=4)
    assert (result["rows"], result["recordings"], result["dim"]) == (7 + 5 + 7, 3, 2)
    letters = np.array([ord(letter) for letter in "abc"])
    np.testing.assert_array_equal(got["l3_embedding"][:, 0], letters[got["recording"]])
    np.testing.assert_allclose(got["l3_embedding"][:, 1], got["start"], atol=5e-4)
    assert got["frame"].tolist() == [*range(7), *range(2, 7), *range(7)]
    assert np.isfinite(got["loudness"]).all() and (got["loudness"] < 0).all()


def test_embeddings_may_lie_in_the_folder_of_audio(tmp_path, audio):
    for name in ("a.npz", "b.hdf5", "park/c.h5"):
        write(audio / name, [0.0, 1.0, 2.0, 3.0])
    result, got = extract(tmp_path, audio, audio)
    assert result["rows"] == 12
    assert open_source(tmp_path / "embeddings.h5").dim == 2


def test_a_killed_extraction_continues(tmp_path, audio):
    folder = tmp_path / "ready"
    for name in ("a.npz", "b.npz", "park/c.npz"):
        write(folder / name, [1.0, 2.0])
    _, whole = extract(tmp_path, folder, audio, block=1)
    parts = sorted((tmp_path / "scratch").glob("part-*.npz"))
    parts[-1].unlink()
    _, again = extract(tmp_path, folder, audio, block=1)
    for name, expected in whole.items():
        np.testing.assert_array_equal(again[name], expected)


def test_names_that_do_not_match_are_counted(tmp_path, audio):
    folder = tmp_path / "ready"
    write(folder / "a.npz", [0.0])
    for name in ("w", "x", "y", "z"):
        write(folder / f"{name}.npz", [0.0])
    with pytest.raises(InputError) as refused:
        extract(tmp_path, folder, audio)
    assert refused.value.message == (
        "2 of 3 recordings have no embeddings: b.flac, park/c.wav; "
        "4 of 5 files of embeddings have no recording: w.npz, x.npz, y.npz, …")


@pytest.mark.parametrize(("times", "message"), [
    ([0.0, 3.0, 6.0], "1 of 3 files do not match their recordings: b.npz; the first has times up "
                      "to 6 s, but the last of the recording's 4 windows is at 3 s"),
    ([0.2, 1.2], "1 of 3 files do not match their recordings: b.npz; the first has times 0.2, "
                 "1.2, … s, not those of windows every 1 s"),
    ([0.0, 2.0], "not those of windows every 1 s"),
    ([1.0, 1.0], "not those of windows every 1 s"),
    ([-1e30, 0.0], "the first has times from -1e+30 s, before the recording begins"),
    ([-1.0, 0.0], "the first has times from -1 s, before the recording begins"),
    ([0.0, np.nan], "'timestamps' that are not finite numbers"),
    ([], "'timestamps' that are not finite numbers")])
def test_times_that_do_not_match_are_refused(tmp_path, audio, times, message):
    folder = tmp_path / "ready"
    for name in ("a.npz", "park/c.npz"):
        write(folder / name, [0.0, 1.0])
    write(folder / "b.npz", np.array(times))
    with pytest.raises(InputError) as refused:
        extract(tmp_path, folder, audio)
    assert message in refused.value.message
    assert "extract.hop" in refused.value.hint


def test_files_that_differ_from_the_first_are_refused(tmp_path, audio):
    folder = tmp_path / "ready"
    write(folder / "a.npz", [0.0, 1.0])
    write(folder / "b.npz", [0.0, 1.0], rows=np.ones((2, 3)))
    write(folder / "park/c.npz", [0.0, 1.0], rows=np.ones((3, 2)))
    with pytest.raises(InputError, match="2 of 3 files do not match .*: b.npz, c.npz; the first "
                                         "'embedding' has 3 dimensions, 2 expected"):
        extract(tmp_path, folder, audio)
    (folder / "b.npz").unlink()
    np.savez(folder / "b.npz", embedding=np.ones((2, 2)))
    with pytest.raises(InputError, match="the first has no 'timestamps'"):
        extract(tmp_path, folder, audio)


def test_embeddings_that_are_not_finite_are_refused_with_names(tmp_path, audio):
    folder = tmp_path / "ready"
    for name in ("a.npz", "b.npz", "park/c.npz"):
        write(folder / name, [0.0, 1.0], rows=np.full((2, 2), np.nan))
    with pytest.raises(L3hpcError) as refused:
        extract(tmp_path, folder, audio)
    assert "a.npz" in refused.value.where


def test_what_cannot_be_one_file_per_recording_is_refused(tmp_path, audio):
    folder = tmp_path / "ready"
    folder.mkdir()
    with pytest.raises(InputError, match="holds no embeddings"):
        extract(tmp_path, folder, audio)
    for name in ("a.npz", "a.h5", "b.npz", "park/c.npz"):
        write(folder / name, [0.0])
    with pytest.raises(InputError, match="a.h5 and a.npz are embeddings of one recording"):
        extract(tmp_path, folder, audio)
    (folder / "a.h5").unlink()
    soundfile.write(audio / "b.wav", np.ones(RATE), RATE)
    with pytest.raises(InputError, match="several recordings are called b"):
        extract(tmp_path, folder, audio)
    (audio / "b.wav").unlink()
    with h5py.File(audio / "rows.h5", "w") as file:
        file["audio"] = np.ones((2, RATE))
    with pytest.raises(InputError, match="1 of 4 recordings are HDF5 files") as refused:
        extract(tmp_path, folder, audio)
    assert "--embedding-dir" in refused.value.hint


def test_the_fingerprint_is_that_of_the_files(tmp_path):
    write(tmp_path / "a.npz", [0.0])
    first = PrecomputedEmbeddings(tmp_path).fingerprint
    assert PrecomputedEmbeddings(tmp_path).fingerprint == first
    write(tmp_path / "a.npz", [0.0, 1.0])
    assert PrecomputedEmbeddings(tmp_path).fingerprint != first
