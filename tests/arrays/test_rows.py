"""Reading rows: same rows whatever the source and the cuts, few reads, little memory."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.arrays.features import FeatureRows
from l3hpc.arrays.rows import (
    ArrayRows,
    ChunkRows,
    ConcatRows,
    Rows,
    SubsetRows,
    as_rows,
    block_rows,
    rechunk,
)
from l3hpc.datasets.embedding_file import EmbeddingFile
from l3hpc.datasets.embeddings import EmbeddingSource
from l3hpc.errors import InputError

MATRIX = np.arange(60, dtype=np.float32).reshape(20, 3)


def sources(file):
    reverse = np.arange(19, -1, -1)
    return {
        "array": ArrayRows(MATRIX), "hdf5": ArrayRows(file["x"]),
        "chunks": ChunkRows(lambda: iter([MATRIX[:1], MATRIX[1:1], MATRIX[1:12], MATRIX[12:]])),
        "concat": ConcatRows([MATRIX[:5], MATRIX[5:5], file["x"][5:11], MATRIX[11:]]),
        "subset": SubsetRows(MATRIX[::-1].copy(), reverse),
        "nested": SubsetRows(ConcatRows([MATRIX[10:], MATRIX[:10]]), np.r_[10:20, 0:10]),
    }


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as target:
        target.create_dataset("x", data=MATRIX, chunks=(4, 3))
    with h5py.File(tmp_path / "x.h5", "r") as opened:
        yield opened


@pytest.mark.parametrize("size", [1, 3, 7, 20, 64])
def test_chunks_are_all_rows_in_order(file, size):
    for name, rows in sources(file).items():
        assert isinstance(rows, Rows)
        assert rows.shape == (20, 3), name
        chunks = [chunk.copy() for chunk in rows.chunks(size)]
        assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1), name
        np.testing.assert_array_equal(np.concatenate(chunks), MATRIX, err_msg=name)


@pytest.mark.parametrize("indices", [[], [0], [19, 0, 19, 7, 7], list(range(20)), [3, 4, 5, 18]])
def test_take_gives_rows_by_number(file, indices):
    for name, rows in sources(file).items():
        taken = rows.take(np.array(indices, dtype=int))
        assert taken.shape == (len(indices), 3), name
        np.testing.assert_array_equal(taken, MATRIX[indices], err_msg=name)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_blocks_cut_anew(lengths, size):
    """Published defects 9 and 11: the last, partial batch was dropped."""
    starts = np.cumsum([0, *lengths])
    matrix = np.arange(2.0 * starts[-1]).reshape(-1, 2)
    parts = [matrix[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    cut = [block.copy() for block in rechunk(iter(parts), size)]
    assert all(len(block) == size for block in cut[:-1])
    assert sum(map(len, cut)) == len(matrix)
    if cut:
        np.testing.assert_array_equal(np.concatenate(cut), matrix)


def test_blocks_of_long_rows_are_as_large_as_those_of_short_ones(tmp_path):
    shape = (1500, 6144)
    path = tmp_path / "long.h5"
    with h5py.File(path, "w") as target:
        stored = target.create_dataset("l3_embedding", shape, "f4", chunks=(100, 1024))
        stored[:] = 1
    part = EmbeddingFile(path)
    with h5py.File(path, "r") as file:
        matrix = file["l3_embedding"]
        whole_chunks = {"HDF5": as_rows(matrix), "embeddings": part,
                        "corpus": EmbeddingSource(path, "published", [part]),
                        "features": FeatureRows(matrix)}
        rows = {"in order": ChunkRows(lambda: [matrix[:]]), "shards": ConcatRows([matrix, matrix]),
                "subset": SubsetRows(matrix, np.arange(1000))}
        for name, one in (whole_chunks | rows).items():
            largest = {max(map(len, one.chunks()))}
            assert largest == {300 if name in whole_chunks else 341}, name
    assert block_rows(16) == 4096 and block_rows(10**9) == 1 == block_rows(10**9, whole=1)
    # a chunk of a file is never cut for that alone, nor are blocks more rows than others
    assert block_rows(6144, whole=1000) == 1000 and block_rows(6144, whole=10**6) == 4096


def test_neighbours_are_read_together():
    reads = []

    class Counted:
        shape, dtype = (10_000, 2), np.dtype(float)

        def __getitem__(self, key):
            reads.append(key)
            return np.stack([np.arange(key.start, key.stop)] * 2, axis=1).astype(float)

    wanted = np.r_[100:200, 5000:6000:3, 9999]
    taken = ArrayRows(Counted()).take(wanted)
    np.testing.assert_array_equal(taken[:, 0], wanted)
    assert [(key.start, key.stop) for key in reads] == [(100, 200), (5000, 6000), (9999, 10_000)]


def test_mixed_types_and_widths():
    mixed = [block.copy() for block in rechunk([MATRIX[:3], MATRIX[3:5].astype(float)], 4)]
    assert [block.tolist() for block in mixed] == [MATRIX[:4].tolist(), MATRIX[4:5].tolist()]
    with pytest.raises(InputError, match="differ in row length: 3 and 2"):
        list(rechunk([MATRIX[:3], MATRIX[:3, :2]], 4))
    with pytest.raises(InputError, match="differ in row length: 2, 3"):
        ConcatRows([MATRIX, MATRIX[:, :2]])
    with pytest.raises(InputError, match="empty list"):
        ConcatRows([])
    with pytest.raises(InputError, match="shape"):
        as_rows(np.ones(3))
    with pytest.raises(InputError, match="shape"):
        list(rechunk([np.ones(3)]))
    with pytest.raises(InputError, match="cannot read rows from a str"):
        as_rows("embeddings.h5")
    assert as_rows([[1, 2], [3, 4]]).shape == (2, 2)
    with pytest.raises(InputError, match="row 25 was requested"):
        ChunkRows(lambda: iter([MATRIX])).take(np.array([25]))
