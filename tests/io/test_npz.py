"""NumPy's files are read in one place, which believes no header and unpickles nothing."""

import gzip
import io
import os
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.io import npz

ROOT = Path(__file__).resolve().parents[2]


def npy(array):
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def header(shape, descr="<f4"):
    memory = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        memory, {"descr": descr, "fortran_order": False, "shape": shape})
    return memory.getvalue()


def archive(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(0, 5), max_size=3), packed=st.booleans(),
       kind=st.sampled_from(["f2", "f4", "f8", "i2", "u1"]))
def test_what_numpy_writes_is_read(tmp_path_factory, shape, kind, packed):
    folder = tmp_path_factory.mktemp("npz")
    array = np.asfortranarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind))
    (np.savez_compressed if packed else np.savez)(folder / "a.npz", x=array, y=np.array("text"))
    found = npz.read_npz(folder / "a.npz")
    np.testing.assert_array_equal(found["x"], array)
    assert found["x"].dtype == array.dtype and str(found["y"]) == "text"
    assert npz.headers(folder / "a.npz")["x"].shape == array.shape
    (folder / "a.npy").write_bytes(npy(array))
    (folder / "a.npy.gz").write_bytes(gzip.compress(npy(array)))
    np.testing.assert_array_equal(npz.read_npy(folder / "a.npy"), array)
    np.testing.assert_array_equal(npz.read_npy(folder / "a.npy.gz"), array)


@pytest.mark.parametrize(("members", "words"), [
    ([("x.npy", header((1, 2**33)))], "which is 34,359,738,368 bytes; it has 0"),
    ([("x.npy", header((2, 3)) + bytes(20))], "which is 24 bytes; it has 20"),
    ([("x.npy", header((2, 3)) + bytes(28))], "which is 24 bytes; it has 28"),
    ([("x.npy", header((-1, 3)))], "declares shape"),
    ([("x.npy", npy(np.ones(3))), ("x.npy", npy(np.zeros(3)))], "'x' is in it twice"),
    ([("../x.npy", npy(np.ones(3)))], "points outside"),
    ([("/x.npy", npy(np.ones(3)))], "points outside"),
    ([("x.txt", b"hello")], "'x.txt' in it is not an array"),
    ([("x.npy", b"hello")], "magic"),
])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_lie_are_refused(tmp_path, members, words):
    path = archive(tmp_path / "a.npz", *members)
    tracemalloc.start()
    for call in (npz.headers, npz.read_npz):
        with pytest.raises(InputError, match=words) as caught:
            call(path)
        assert str(path) in str(caught.value)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_archives_that_unpack_to_far_more_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "ALWAYS_ALLOWED", 1 << 16)
    zeros = npy(np.zeros((1000, 500), np.float32))
    path = archive(tmp_path / "a.npz", ("x.npy", zeros))
    with pytest.raises(InputError, match="would unpack to 2,000,000 bytes from"):
        npz.read_npz(path)
    (tmp_path / "a.npy.gz").write_bytes(gzip.compress(zeros))
    with pytest.raises(InputError, match="would unpack to 2,000,000 bytes from"):
        npz.read_npy(tmp_path / "a.npy.gz")


def test_nothing_is_unpickled_and_the_arrays_beside_it_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3), told=np.array([{}], object))
    assert npz.read_npz(tmp_path / "a.npz", ["x"])["x"].tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="'told' contains Python objects"):
        npz.read_npz(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="it contains Python objects"):
        npz.read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("data", [
    header((2**40,)), header((2, 3)) + bytes(23), header((2, 3)) + bytes(25), b"", b"\x93NUMPY",
    b"nothing"])
def test_npy_files_that_lie_are_refused(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    (tmp_path / "a.npy.gz").write_bytes(gzip.compress(data))
    for name in ("a.npy", "a.npy.gz"):
        with pytest.raises(InputError, match="not a readable array|would unpack to") as caught:
            npz.read_npy(tmp_path / name)
        assert name in str(caught.value)


def test_damaged_bytes_anywhere_end_in_a_refusal_or_in_an_array(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(500.0), y=np.arange(30))
    whole, rng = (tmp_path / "a.npz").read_bytes(), np.random.default_rng(11)
    refused = 0
    for _ in range(150):
        image = bytearray(whole)
        start = int(rng.integers(0, len(whole) - 4))
        image[start:start + 4] = rng.bytes(4)
        (tmp_path / "b.npz").write_bytes(image[:len(whole) - int(rng.integers(0, 3))])
        try:
            npz.read_npz(tmp_path / "b.npz")
        except InputError as error:
            assert "b.npz" in str(error)
            refused += 1
    assert refused > 100


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    os.mkfifo(tmp_path / "a.npy")
    for call, name in ((npz.read_npz, "a.npz"), (npz.headers, "a.npz"), (npz.read_npy, "a.npy")):
        with pytest.raises(InputError, match="is a named pipe"):
            call(tmp_path / name)
        with pytest.raises(InputError, match="no such file"):
            call(tmp_path / f"none-{name}")


def test_no_other_module_reads_numpys_files():
    """``export/micro_child.py`` reads what its parent wrote, where l3hpc need not be installed."""
    found = [f"{path.relative_to(ROOT)}: {line.strip()}"
             for path in sorted((ROOT / "l3hpc").rglob("*.py")) if path.name != "micro_child.py"
             for line in path.read_text().splitlines()
             if re.search(r"\bnp\.(load|fromfile|memmap|lib\.format\.(open_memmap|read_array))\(",
                          line)]
    assert all(line.startswith("l3hpc/io/npz.py") for line in found), found
