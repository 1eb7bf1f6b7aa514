"""The reader of embeddings: our artifacts, the published layouts, and what it refuses."""

import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.datasets.embeddings import open_source
from l3hpc.errors import InputError

KEY = "pca_batch_1000_len_3_kernel_linear"


def matrix(rows, dim, start=0):
    return np.arange(start, start + rows * dim, dtype=np.float32).reshape(rows, dim)


def write(path, **datasets):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
        file.attrs["teacher"] = json.dumps({"kind": "untrained", "dim": 4})
        file.attrs["hop"] = 0.5
    return path


def artifact(folder, *blocks):
    for number, block in enumerate(blocks):
        path = write(folder / f"{number:04d}" / "embeddings.h5", l3_embedding=block,
                     recording=np.zeros(len(block), "i4"), frame=np.arange(len(block)))
        with h5py.File(path, "a") as file:
            file["recordings/file"] = [f"{number}.wav"]
            file["recordings/sensor"] = ["north"]
            file["recordings/timestamp"] = [1.5]
        (path.parent / "result.json").write_text("{}")
    return folder


def test_artifact_parts_are_the_finished_tasks_in_order(tmp_path):
    folder = artifact(tmp_path, matrix(5, 4), matrix(2, 4, 100))
    write(tmp_path / "0002" / "embeddings.h5", l3_embedding=matrix(9, 4))  # not finished
    source = open_source(folder)
    assert (source.kind, source.key, source.dim, source.rows) == ("artifact", "l3_embedding", 4, 7)
    np.testing.assert_array_equal(np.concatenate(list(source.chunks(2))),
                                  np.concatenate([matrix(5, 4), matrix(2, 4, 100)]))
    told = source.parts[1].provenance()
    assert told["recordings/file"][told["recording"][1]] == "1.wav"
    assert told["recordings/sensor"].tolist() == ["north"]
    assert told["recordings/timestamp"].tolist() == [1.5]
    assert source.parts[0].attributes() == {"teacher": {"kind": "untrained", "dim": 4}, "hop": 0.5}


def test_tasks_in_the_order_of_their_numbers_also_above_9999(tmp_path):
    for number in (10_000, 9_999, 1_000):
        write(tmp_path / f"{number:04d}" / "embeddings.h5", l3_embedding=matrix(1, 4, number))
        (tmp_path / f"{number:04d}" / "result.json").write_text("{}")
    firsts = [chunk[0, 0] for chunk in open_source(tmp_path).chunks()]
    assert firsts == [1_000, 9_999, 10_000]


def test_only_the_asked_tasks_are_looked_at(tmp_path):
    folder = artifact(tmp_path, matrix(5, 4), matrix(2, 4), matrix(3, 4))
    (folder / "0001" / "embeddings.h5").write_bytes(b"damaged")
    assert open_source(folder, tasks=[2, 0]).rows == 8
    with pytest.raises(InputError, match="task 3 is missing"):
        open_source(folder, tasks=[0, 3])


def test_provenance_of_what_is_asked_for_alone(tmp_path):
    part = open_source(artifact(tmp_path, matrix(5, 4))).parts[0]
    assert set(part.provenance(("frame", "recordings/sensor", "loudness"))) == {
        "frame", "recordings/sensor"}


def test_one_task_folder_is_a_source_too(tmp_path):
    folder = artifact(tmp_path, matrix(5, 4))
    assert open_source(folder / "0000").rows == 5
    assert open_source(folder / "0000" / "embeddings.h5").rows == 5


@pytest.mark.parametrize("shape", [(1, 2), (1, 1, 2)])
def test_published_files_with_audio(tmp_path, shape):
    write(tmp_path / "a.h5", l3_embedding=matrix(1, 4), audio=np.zeros(shape, np.int16))
    part = open_source(tmp_path).parts[0]
    assert part.audio_shape == (1, 2)
    assert part.key == "l3_embedding"
    assert part.provenance() is None


def test_published_train_and_validate_folders_with_a_reduced_key(tmp_path):
    write(tmp_path / "train" / "b.h5", **{KEY: matrix(3, 3)})
    write(tmp_path / "train" / "a.h5", **{KEY: matrix(2, 3)})
    write(tmp_path / "validate" / "a.h5", **{KEY: matrix(1, 3)})
    source = open_source(tmp_path)
    assert source.kind == "published" and source.key == KEY and source.rows == 6
    assert source.splits == ["train", "validate"]
    assert [part.path.name for part in source.of_split("train")] == ["a.h5", "b.h5"]


def test_npz_files(tmp_path):
    for name, rows in (("b.npz", 3), ("a.npz", 2)):
        np.savez_compressed(tmp_path / name, embedding=matrix(rows, 4).astype(np.float64),
                            timestamps=np.arange(rows))
    source = open_source(tmp_path)
    assert [part.rows for part in source.parts] == [2, 3]
    assert source.parts[1].read(1).dtype == np.float32
    np.testing.assert_array_equal(source.parts[1].read(1), matrix(3, 4)[1:])
    np.testing.assert_array_equal(np.concatenate(list(source.parts[1].chunks(2))), matrix(3, 4))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 39), max_size=60))
def test_take_gives_any_rows_in_any_order(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("take") / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("l3_embedding", data=matrix(40, 3), chunks=(8, 3))
    part = open_source(path).parts[0]
    np.testing.assert_array_equal(part.take(rows), matrix(40, 3)[np.array(rows, int)])


def test_take_refuses_rows_outside(tmp_path):
    part = open_source(write(tmp_path / "a.h5", l3_embedding=matrix(2, 3))).parts[0]
    with pytest.raises(IndexError, match="row outside 0…1"):
        part.take([2])


def refused(path, words, **options):
    with pytest.raises(InputError) as caught:
        open_source(path, **options).rows  # noqa: B018
    for word in words:
        assert word in str(caught.value)


def test_refusals_name_what_was_found(tmp_path):
    refused(tmp_path / "none", ["no such folder"])
    refused(tmp_path, ["holds no embeddings", "pca_batch_"])
    write(tmp_path / "a.h5", **{KEY: matrix(2, 3)})
    refused(tmp_path, ["no embeddings under 'pca_batch_1000_len_4_kernel_linear'",
                       f"did you mean '{KEY}'"], key="pca_batch_1000_len_4_kernel_linear")
    refused(tmp_path, ["has 3 dimensions, 4 expected"], dim=4)
    write(tmp_path / "b.h5", l3_embedding=matrix(2, 3))
    refused(tmp_path, ["b.h5", f"no embeddings under '{KEY}'", "valid: l3_embedding"])
    write(tmp_path / "b.h5", **{KEY: matrix(2, 5)})
    refused(tmp_path, ["b.h5", "has 5 dimensions, 3 expected"])


def test_ambiguous_and_broken_files_are_refused(tmp_path):
    refused(write(tmp_path / "two.h5", a=matrix(2, 3), b=matrix(2, 3)), ["several matrices: a, b"])
    (tmp_path / "text.h5").write_text("no")
    refused(tmp_path / "text.h5", ["not a readable HDF5 file"])
    (tmp_path / "text.npz").write_text("no")
    refused(tmp_path / "text.npz", ["not a readable NPZ file"])
    np.savez(tmp_path / "pickled.npz", embedding=np.array([{}], dtype=object))
    refused(tmp_path / "pickled.npz", ["holds no embeddings"])


def test_rows_that_were_never_written_do_not_count(tmp_path):
    """Tasks would be planned, and memory requested, for a thousand billion rows of a small file."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("l3_embedding", (2**40, 2), "i2", chunks=(64, 2))
    part = open_source(tmp_path / "a.h5").parts[0]
    with pytest.raises(InputError, match="but none of its values are in the file"):
        assert not part.rows
