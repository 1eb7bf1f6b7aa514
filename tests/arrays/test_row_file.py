"""Rows in a file against the same rows in memory."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l3hpc.arrays import row_file
from l3hpc.arrays.row_file import RowFile

SHAPE = (12, 3, 2)
slices = st.builds(slice, st.integers(-3, 14), st.integers(-3, 14))
numbers = st.lists(st.integers(0, SHAPE[0] - 1), max_size=20).map(lambda one: np.array(one, int))
row_choices = slices | numbers | st.integers(0, SHAPE[0] - 1)


@pytest.mark.slow
@given(st.lists(st.tuples(row_choices, st.booleans(), st.integers(0, 1000)),
                min_size=1, max_size=15),
       st.sampled_from(["f4", "f2", "i8"]), st.sampled_from([5, 1 << 30]))
@settings(max_examples=80, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_is_the_array(tmp_path, monkeypatch, steps, kind, at_once):
    monkeypatch.setattr(row_file, "MAX_TRANSFER", at_once)
    file, array = RowFile(tmp_path / "x.bin", kind, SHAPE, "w+"), np.zeros(SHAPE, kind)
    for where, write, seed in steps:
        expected = array[where]
        if write and len(np.unique(where)) == np.size(where):
            values = np.random.default_rng(seed).integers(-100, 100, expected.shape)
            file[where] = array[where] = values
        found = file[where]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array[where])
    np.testing.assert_array_equal(file, array)
    again = RowFile(tmp_path / "x.bin", kind, SHAPE)
    np.testing.assert_array_equal(again.part(3, 9)[np.array([5, 0, 1])], array[3:9][[5, 0, 1]])
    np.testing.assert_array_equal(again.reshape(-1, 2)[4:31], array.reshape(-1, 2)[4:31])
    np.testing.assert_array_equal(again.part(2, 99).reshape(10, -1), array[2:].reshape(10, -1))


def test_one_value_for_many_rows(tmp_path):
    file = RowFile(tmp_path / "x.bin", "f4", (4, 2), "w+")
    file[np.array([3, 1])] = np.array([[1.5, 2.5]])
    np.testing.assert_array_equal(file, [[0, 0], [1.5, 2.5], [0, 0], [1.5, 2.5]])


def test_what_is_refused(tmp_path):
    RowFile(tmp_path / "x.bin", "f4", (4, 2), "w+")
    with pytest.raises(OSError, match="too short"):
        RowFile(tmp_path / "x.bin", "f4", (5, 2), "r+")
    with pytest.raises(OSError):
        RowFile(tmp_path / "none.bin", "f4", (5, 2))
    file = RowFile(tmp_path / "x.bin", "f4", (4, 2))
    for wrong in (np.array([4]), np.array([-1]), -1, slice(0, 4, 2)):
        with pytest.raises(IndexError):
            file[wrong]
    with pytest.raises(ValueError, match="reshape"):
        file.reshape(-1, 3)
    with pytest.raises(OSError):
        file[0] = 1
    os.truncate(tmp_path / "x.bin", 20)
    with pytest.raises(OSError, match="ends"):
        file[2:4]


def test_views_keep_the_file_open_and_the_last_one_closes_it(tmp_path):
    view = RowFile(tmp_path / "x.bin", "f4", (4, 2), "w+").part(1, 3)
    number = view._handle.number
    assert view[0].tolist() == [0, 0]
    del view
    with pytest.raises(OSError):
        os.fstat(number)


def test_reading_a_file_takes_no_memory_that_stays(tmp_path):
    def resident():
        with open("/proc/self/smaps_rollup") as stream:
            return next(int(line.split()[1]) for line in stream if line.startswith("Rss:")) / 1024

    file = RowFile(tmp_path / "x.bin", "f4", (8192, 4096), "w+")  # 128 MB
    before = resident()
    for first in range(0, 8192, 64):
        file[first:first + 64] = 1.0
        assert file[first + 63][0] == 1.0
    assert resident() - before < 40
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_threads_write_different_rows(tmp_path):
    file = RowFile(tmp_path / "x.bin", "i8", (400, 50), "w+")

    def work(start):
        for row in range(start, 400, 4):
            file[row] = row

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(file, np.repeat(np.arange(400)[:, None], 50, 1))
