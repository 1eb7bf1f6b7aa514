"""Bags of frames per clip, from artifacts and from one file per clip."""

import gzip
import io

import h5py
import numpy as np
import pytest

from l3hpc.arrays.row_file import RowFile
from l3hpc.datasets import clips
from l3hpc.datasets.clips import load_clips
from l3hpc.errors import InputError

LENGTHS = {"a.wav": 4, "b.wav": 6, "c.wav": 4, "d.wav": 5}


def bag(name, dim=3):
    return np.arange(LENGTHS[name] * dim, dtype=np.float32).reshape(-1, dim) + ord(name[0])


def artifact(folder, *tasks):
    for number, names in enumerate(tasks):
        task = folder / f"{number:04d}"
        task.mkdir()
        with h5py.File(task / "embeddings.h5", "w") as file:
            file["l3_embedding"] = np.concatenate([bag(name) for name in names])
            file["recording"] = np.repeat(np.arange(len(names)), [LENGTHS[n] for n in names])
            file["recordings/file"] = names
        (task / "result.json").write_text("{}")
    return folder


@pytest.mark.parametrize("block", [1, 9, 65536])
def test_artifact_of_several_tasks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(clips, "_BLOCK_BYTES", 12 * block)  # of 3 columns
    artifact(tmp_path, ["b.wav", "a.wav"], ["d.wav", "c.wav"])
    found = load_clips(tmp_path, ["c.wav", "a.wav", "gone.wav", "b.wav"])
    assert found.files == ["c.wav", "a.wav", "b.wav"] and found.missing == ["gone.wav"]
    assert found.x.shape == (3, 4, 3) and found.x.dtype == np.float32 and found.longest == 6
    for row, name in zip(found.x, found.files, strict=True):
        np.testing.assert_array_equal(row, bag(name)[:4])
    stored = load_clips(tmp_path, ["c.wav", "a.wav", "gone.wav", "b.wav"], tmp_path / "x.bin")
    assert isinstance(stored.x, RowFile) and (tmp_path / "x.bin").stat().st_size == found.x.nbytes
    np.testing.assert_array_equal(stored.x, found.x)
    sizes = []
    load_clips(tmp_path, ["c.wav", "a.wav", "b.wav"],
               lambda size: sizes.append(size) or tmp_path / "y.bin")
    assert sizes == [(tmp_path / "y.bin").stat().st_size]


def test_long_embeddings_are_read_in_blocks_of_as_many_bytes_as_short_ones(tmp_path):
    names, read = [f"{number}.wav" for number in range(50)], []
    with h5py.File(tmp_path / "embeddings.h5", "w") as file:
        file["l3_embedding"] = np.zeros((500, 6144), np.float32)
        file["recording"], file["recordings/file"] = np.repeat(np.arange(50), 10), names
    (tmp_path / "result.json").write_text("{}")
    found = load_clips(tmp_path, names, transform=lambda rows: read.append(rows.nbytes)
                       or rows[:, :2])
    assert found.x.shape == (50, 10, 2) and sum(read) == 500 * 4 * 6144
    assert max(read) <= 8 << 20


def test_one_file_per_clip_in_every_published_form(tmp_path):
    np.savez(tmp_path / "a.npz", embedding=bag("a.wav"), timestamps=np.arange(4))
    np.save(tmp_path / "b.npy", bag("b.wav").astype(np.float64))
    memory = io.BytesIO()
    np.save(memory, bag("c.wav"))
    (tmp_path / "c.npy.gz").write_bytes(gzip.compress(memory.getvalue()))
    found = load_clips(tmp_path, ["a.wav", "b.wav", "c.wav", "d.wav"])
    assert found.missing == ["d.wav"] and found.x.shape == (3, 4, 3)
    for row, name in zip(found.x, found.files, strict=True):
        np.testing.assert_array_equal(row, bag(name)[:4])


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_clips(tmp_path / "none", ["a.wav"])
    with pytest.raises(InputError, match="holds no embeddings of any of the 2 clips"):
        load_clips(tmp_path, ["a.wav", "b.wav"])
    np.save(tmp_path / "a.npy", bag("a.wav"))
    np.save(tmp_path / "b.npy", bag("b.wav", dim=2))
    with pytest.raises(InputError, match="'b.wav' has 2 dimensions, the others 3"):
        load_clips(tmp_path, ["a.wav", "b.wav"])
    np.save(tmp_path / "b.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="not a readable array"):
        load_clips(tmp_path, ["b.wav"])
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"has shape \(3,\)"):
        load_clips(tmp_path, ["b.wav"])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["l3_embedding"] = np.zeros((2, 3))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match="does not record which recording"):
        load_clips(tmp_path, ["a.wav"])
