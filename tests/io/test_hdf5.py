"""Every HDF5 file is opened in one place, which reads nothing but what is whole and in the file."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from l3hpc.audio.files import AudioError, probe, read_audio
from l3hpc.audio.hdf5_rows import read_rows
from l3hpc.datasets.check import check_folder
from l3hpc.datasets.corpus import scan_recordings
from l3hpc.datasets.embeddings import open_source
from l3hpc.datasets.extraction import Extraction
from l3hpc.errors import InputError, L3hpcError
from l3hpc.io import hdf5
from l3hpc.reduction.phi import Phi, load_phi, save_phi

ROOT = Path(__file__).resolve().parents[2]


def plain(file):
    file["x"] = np.arange(12.0).reshape(3, 4)


def soft_link(file):
    file["y"], file["x"] = np.arange(12.0).reshape(3, 4), h5py.SoftLink("/y")


def external_link(file):
    file["x"] = h5py.ExternalLink("other.h5", "/x")


def external_group(file):
    plain(file)
    file["g/h"] = h5py.ExternalLink("other.h5", "/")


def through_a_soft_link(file):
    file["g"], file["x"] = h5py.ExternalLink("other.h5", "/"), h5py.SoftLink("/g/x")


def dangling(file):
    file["x"] = h5py.SoftLink("/nothing")


def circle(file):
    file["x"], file["y"] = h5py.SoftLink("/y"), h5py.SoftLink("/x")


def to_the_root(file):
    plain(file)
    file["g/h"] = h5py.SoftLink("/")


def group_in_itself(file):
    plain(file)
    group = file.create_group("g")
    group["h"] = group


def virtual(file):
    layout = h5py.VirtualLayout((3, 4), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 4))
    file.create_virtual_dataset("x", layout)


def virtual_of_itself(file):
    file["y"] = np.ones((3, 4))
    layout = h5py.VirtualLayout((3, 4), "f8")
    layout[:] = h5py.VirtualSource(".", "y", (3, 4))
    file.create_virtual_dataset("x", layout)


def raw(file):
    file.create_dataset("x", (3, 4), "f8", external=[("secret", 0, 96)])


def declared(file):
    file.create_dataset("x", (1, 2**31), "i2")


def declared_in_chunks(file):
    file.create_dataset("x", (2**31, 4), "f4", chunks=(1024, 4), compression="gzip", fillvalue=3)


def half_written(file):
    data = file.create_dataset("x", (8, 4), "f4", chunks=(2, 4))
    data[:4] = 1


def almost_written(file):
    data = file.create_dataset("x", (1000, 4), "f4", chunks=(1, 4))
    data[:999] = 1


def references(file):
    file.create_dataset("x", (3, 4), h5py.ref_dtype)


def variable_length(file):
    file.create_dataset("x", (3,), h5py.vlen_dtype("f4"))


def text(file):
    file["x"] = ["1.0", "2.0"]


def null(file):
    file["x"] = h5py.Empty("f4")


def group(file):
    file.create_group("x")


def unknown_filter(file, number=32015):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((3, 4))
    settings.set_filter(number, h5py.h5z.FLAG_OPTIONAL)
    data = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT,
                           h5py.h5s.create_simple((3, 4)), settings)
    data.write_direct_chunk((0, 0), b"packed")


def strange_filter(file):
    unknown_filter(file, 4711)


def make(path, change, **options):
    with h5py.File(path, "w", **options) as file:
        change(file)
    return path


def read(path):
    with hdf5.open_hdf5(path) as file:
        return hdf5.numeric_dataset(file, "x")[()]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("change", [plain, soft_link])
def test_what_lies_in_the_file_is_read(tmp_path, change, libver):
    path = make(tmp_path / "a.h5", change, libver=libver)
    np.testing.assert_array_equal(read(path), np.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize("layout", [
    {}, {"chunks": (2, 3)}, {"chunks": (2, 3), "compression": "gzip", "shuffle": True},
    {"compression": "lzf"}, {"maxshape": (None, 4)}, {"chunks": (3, 4), "fletcher32": True}])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_usual_layout_counts_as_whole(tmp_path, layout, libver):
    values = np.zeros((7, 4), np.float32)  # the fill value itself, written
    path = make(tmp_path / "a.h5", lambda file: file.create_dataset("x", data=values, **layout),
                libver=libver)
    np.testing.assert_array_equal(read(path), values)


@pytest.mark.parametrize(("change", "words"), [
    (external_link, "link to another file at '/x'"),
    (external_group, "link to another file at '/g/h'"),
    (through_a_soft_link, "link to another file at '/g'"),
    (dangling, "broken or circular link"), (circle, "broken or circular link"),
    (to_the_root, "broken or circular link"), (group_in_itself, "broken or circular link"),
    (virtual, "values of '/x' are stored in other files"),
    (virtual_of_itself, "are stored in other files"),
    (raw, "values of '/x' are stored in other files"),
    (declared, r"shape \(1, 2147483648\), but none of its values are in the file"),
    (declared_in_chunks, "none of its values are in the file"),
    (almost_written, "but only 99% of its values are in the file"),
    (half_written, "but only 50% of its values are in the file"),
    (references, "contains reference values in 'x'"), (text, "contains text values in 'x'"),
    (variable_length, "contains variable-length values"), (null, "contains no value in 'x'"),
    (group, "contains no data set 'x'"),
    (strange_filter, r"compressed with unknown \(HDF5 filter 4711\), which is not installed"),
])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_hostile_files_are_refused(tmp_path, change, words, libver):
    make(tmp_path / "other.h5", plain)
    (tmp_path / "secret").write_bytes(bytes(96))
    path = make(tmp_path / "a.h5", change, libver=libver)
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_filter_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    hdf5._plugins.cache_clear()
    known = h5py.h5z.filter_avail  # another test of this process may have loaded the plugin
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: code != 32015 and known(code))
    path = make(tmp_path / "a.h5", unknown_filter)
    with pytest.raises(InputError, match=r"compressed with zstd \(HDF5 filter 32015\)") as caught:
        read(path)
    assert "pip install hdf5plugin" in str(caught.value)
    hdf5._plugins.cache_clear()


@pytest.mark.parametrize("name", ["Blosc", "Zstd", "Bitshuffle", "LZ4"])
def test_hdf5plugin_is_used_where_it_is_installed(tmp_path, name):
    pytest.importorskip("hdf5plugin")
    code = f"import h5py, hdf5plugin, numpy; h5py.File({str(tmp_path / 'a.h5')!r}, 'w')" \
           f".create_dataset('x', data=numpy.ones((5, 4)), **hdf5plugin.{name}())"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys; from l3hpc.io.hdf5 import *\n" \
           f"with open_hdf5({str(tmp_path / 'a.h5')!r}) as f: " \
           "print(numeric_dataset(f, 'x')[()].sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "20.0", done.stderr


def test_a_file_that_is_being_written_is_named_as_such(tmp_path):
    path = tmp_path / "a.h5"
    code = ("import sys; from l3hpc.io.hdf5 import open_hdf5\n"
            "try: open_hdf5(sys.argv[1])\nexcept Exception as e: print(type(e).__name__, e)")
    with h5py.File(path, "w", libver="latest") as writer:
        writer["x"] = 1.0
        writer.flush()
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True,
                              text=True)
        copy = path.read_bytes()
    assert re.match("InputError .*is open for writing in another program", done.stdout), done
    path.write_bytes(copy)  # as a killed writer leaves it
    with pytest.raises(InputError, match="or that program was killed") as caught:
        read(path)
    assert f"h5clear -s {path}" in str(caught.value)


@pytest.mark.parametrize("cut", [100, 1000, 3000])
def test_a_file_that_was_not_copied_to_its_end_is_named_as_such(tmp_path, cut):
    path = make(tmp_path / "a.h5", plain)
    path.write_bytes(path.read_bytes()[:-cut] if cut < path.stat().st_size else b"")
    with pytest.raises(InputError, match="shorter than its header states|not a readable HDF5 file"):
        read(path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.h5")
    for path, what in ((tmp_path / "a.h5", "is a named pipe"), (tmp_path, "is a folder"),
                       (Path("/dev/zero"), "is a device"), (tmp_path / "none.h5", "no such file")):
        with pytest.raises(InputError, match=what):
            hdf5.open_hdf5(path)


def test_a_file_that_changed_is_looked_at_again(tmp_path):
    path = make(tmp_path / "a.h5", plain)
    read(path)
    make(path, external_link)
    with pytest.raises(InputError, match="another file"):
        read(path)


@pytest.mark.slow
def test_damaged_bytes_anywhere_end_in_a_refusal_or_in_numbers(tmp_path):
    """Heaps, trees and headers overwritten: whatever HDF5 says comes with the file's name."""
    def change(file):
        for number in range(30):
            file[f"group_{number}/y"] = np.arange(10.0)
        file["recordings/file"] = ["a.wav", "b.wav"]
        file["x"] = np.arange(12.0).reshape(3, 4)
        file.attrs["teacher"] = "{}"

    whole = make(tmp_path / "a.h5", change).read_bytes()
    rng = np.random.default_rng(11)
    path, refused = tmp_path / "b.h5", 0
    for _ in range(150):
        image = bytearray(whole)
        start = int(rng.integers(8, len(whole) - 16))
        image[start:start + 16] = rng.bytes(16)
        path.write_bytes(image)
        try:
            with hdf5.open_hdf5(path) as file:
                hdf5.numeric_dataset(file, "x")[()]
                hdf5.matrix_shapes(file)
                hdf5.read_strings(file, "recordings/file")
                hdf5.read_attributes(file, path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("size", [0, 2**64 - 16, 2**64 - 1])
def test_a_heap_without_end_is_refused_before_hdf5_runs_in_circles(tmp_path, size):
    """Read in a process of its own: without the check it never returns."""
    def change(file):
        plain(file)
        file.attrs["teacher"] = "some text"

    path = make(tmp_path / "a.h5", change)
    image = bytearray(path.read_bytes())
    heap = image.find(b"GCOL")
    assert heap > 0
    first = int.from_bytes(image[heap + 24:heap + 32], "little")
    free = heap + 16 + 16 + -(-first // 8) * 8
    image[free + 8:free + 16] = size.to_bytes(8, "little")
    path.write_bytes(image)
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from l3hpc.io import hdf5\nfrom l3hpc.errors import InputError\n"
            f"try:\n    with hdf5.open_hdf5({str(path)!r}) as file:\n"
            "        hdf5.attributes(file, file.source)\n"
            "except InputError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert "is damaged: a heap" in done.stdout and str(path) in done.stdout, done.stderr
    with pytest.raises(InputError, match="a heap"):
        hdf5.open_hdf5(tmp_path / "named.h5", memory=io.BytesIO(bytes(image)))


# what reads them ------------------------------------------------------------------------------


def audio(path, values=None, **attributes):
    with h5py.File(path, "w") as file:
        file["audio"] = np.ones((2, 8000), np.int16) if values is None else values
        file["audio"].attrs.update(attributes)
    return path


@pytest.mark.parametrize("rate", [
    0, -8000, np.nan, np.inf, 1e300, 2**62, 44100.5, "8000", b"8000", [8000, 16000], np.zeros(0)])
def test_a_rate_that_cannot_be_meant_is_refused(tmp_path, rate):
    for name in ("rate", "sample_rate", "sr"):
        path = audio(tmp_path / "a.h5", **{name: rate})
        for call in (probe, read_rows, read_audio):
            with pytest.raises(AudioError, match=f"attribute '{name}' is ") as caught:
                call(path)
            assert caught.value.reason == "unreadable" and str(path) in str(caught.value)


@pytest.mark.parametrize("rate", [8000, 8000.0, np.int16(8000), np.array([8000])])
def test_a_rate_of_any_number_type_is_taken(tmp_path, rate):
    assert read_rows(audio(tmp_path / "a.h5", rate=rate))[1] == 8000


@pytest.mark.parametrize("change", [external_link, virtual, raw, declared, strange_filter, null])
def test_hostile_audio_is_refused_with_its_name(tmp_path, change):
    make(tmp_path / "other.h5", plain)
    (tmp_path / "secret").write_bytes(bytes(96))
    path = make(tmp_path / "a.h5", change)
    with h5py.File(path, "r+") as file:
        file.move("x", "audio")
    for call in (probe, read_rows, read_audio):
        with pytest.raises(AudioError) as caught:
            call(path)
        assert str(path) in str(caught.value)
    assert [one.file for one in scan_recordings(tmp_path)] == ["a.h5"]


def test_audio_without_rows_or_samples_has_no_length(tmp_path):
    for shape in ((0, 8000), (3, 0), (0, 0)):
        info = probe(audio(tmp_path / "a.h5", np.zeros(shape, np.int16)))
        assert info.frames == 0 and info.seconds == 0


def test_the_teachers_matrix_wins_over_another(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["l3_embedding"], file["mel"] = np.ones((3, 4)), np.ones((9, 9))
    assert open_source(tmp_path).key == "l3_embedding" and open_source(tmp_path).rows == 3
    assert open_source(tmp_path, key="mel").rows == 9


@pytest.mark.parametrize("kind", ["h5", "npz"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named_with_its_file(tmp_path, kind, value):
    matrix = np.ones((20_000, 4), np.float32)
    matrix[10_005, 2] = value
    path = tmp_path / f"a.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["l3_embedding"] = matrix
    else:
        np.savez(path, embedding=matrix)
    part = open_source(tmp_path).parts[0]
    for call in (part.read, lambda: part.read(10_000, 10_010), lambda: list(part.chunks()),
                 lambda: part.take([3, 10_005, 17])):
        with pytest.raises(InputError, match=f"a.{kind}: row 10005 of .* NaN or infinite"):
            call()
    assert part.read(0, 10_005).shape == (10_005, 4)


def test_large_finite_values_are_not_taken_for_infinite(tmp_path):
    np.savez(tmp_path / "a.npz", embedding=np.full((50, 4), 3e38, np.float32))
    assert open_source(tmp_path).parts[0].read().max() == np.float32(3e38)


def test_no_other_module_opens_hdf5_files_for_reading():
    opened = []
    for path in sorted((ROOT / "l3hpc").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"(?<!class Hdf5File\()\bh5py\.File\(", line) and not re.search(
                    r'h5py\.File\([^"]*, "w"\)', line):
                opened.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert opened == []


@pytest.mark.parametrize(("change", "words"), [
    (external_link, "contains a link to another file at '/audio'"),
    (declared, "'audio' is declared with shape (1, 2147483648), but none"),
    (strange_filter, "'audio' is compressed with unknown (HDF5 filter 4711)"),
    (lambda file: audio_with_rate(file, 0), "attribute 'rate' is 0")])
def test_data_check_and_extract_say_why_a_file_cannot_be_read(tmp_path, change, words):
    def renamed(file):
        change(file)
        if "x" in file or file.get("x", getlink=True):
            file.move("x", "audio")

    make(tmp_path / "a.h5", renamed)
    (findings,) = check_folder(tmp_path)
    (problem,) = findings.problems
    assert problem.subject == "unreadable" and f"a.h5: {words}" in problem.advice
    with pytest.raises(L3hpcError, match="1 of 1 recordings cannot be used") as caught:
        Extraction(Nothing(), {}, tmp_path, scan_recordings(tmp_path), 0.1, True,
                   tmp_path / "scratch").run(tmp_path / "e.h5", tmp_path / "skipped.csv")
    assert f"a.h5 ({words}" in str(caught.value)


def audio_with_rate(file, rate):
    file["audio"] = np.ones((2, 8000), np.int16)
    file["audio"].attrs["rate"] = rate


class Nothing:
    """A network that is never asked."""

    rate, window_s, dim = 8000, 1.0, 4


def test_numbers_that_numpy_has_no_type_for_are_refused_with_the_name(tmp_path):
    def change(file):
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_ebias(100_000)  # as a flipped byte leaves it
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((3, 4)))

    path = make(tmp_path / "a.h5", change)
    for call in (read, lambda path: open_source(path).rows):
        with pytest.raises(InputError, match="a.h5: 'x' cannot be read: Insufficient precision"):
            call(path)


def test_a_reduction_whose_name_is_damaged_is_named(tmp_path):
    save_phi(tmp_path / "phi.h5", Phi("none", 4, 4))
    with h5py.File(tmp_path / "phi.h5", "r+") as file:
        file.attrs["header"] = file.attrs["header"].replace('"none"', '"nome"')
    with pytest.raises(InputError, match="phi.h5: unknown reduction 'nome'"):
        load_phi(tmp_path / "phi.h5")
