"""Files are replaced whole, and stay so after a power failure; folders are listed completely."""

import errno
import os

import pytest

from l3hpc.errors import InputError
from l3hpc.io import files
from l3hpc.io.folders import atomic_folder


@pytest.fixture
def order(monkeypatch):
    """What reaches the disk, in order: names of what is synced, and of what is renamed to."""
    seen, fsync, rename = [], os.fsync, {name: getattr(os, name) for name in ("replace", "rename")}
    monkeypatch.setattr(os, "fsync", lambda handle: (
        seen.append(os.path.basename(os.path.realpath(f"/proc/self/fd/{handle}"))),
        fsync(handle))[1])
    for name, real in rename.items():
        monkeypatch.setattr(os, name, lambda source, target, real=real: (
            seen.append(f"-> {os.path.basename(target)}"), real(source, target))[1])
    return seen


def test_the_contents_are_on_disk_before_the_name_and_then_the_name(tmp_path, order):
    """Otherwise a power failure could leave an empty file where an older one was."""
    files.write_text(tmp_path / "a.json", "new")
    written, renamed, folder = order
    assert written.startswith(".a.json.") and (renamed, folder) == ("-> a.json", tmp_path.name)
    order.clear()
    files.write_text(tmp_path / "a.json", "newer", durable=False)
    assert order == ["-> a.json"]


def test_a_folder_that_takes_its_name_stays_after_a_power_failure(tmp_path, order):
    with atomic_folder(tmp_path / "new/x"):
        pass
    assert order == ["-> x", "new"]
    order.clear()
    files.make_folder(tmp_path / "one/two")
    assert order == [tmp_path.name, "one"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(OSError, match="No space") as caught, files.atomic_file(path) as stream:
        stream.write(b"2")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["a.json"] and files.read_json(path) == 1
    files.write_json(tmp_path / "new/a.json", 2)  # the folder is made


def test_the_time_of_the_file_server_leaves_no_file(tmp_path):
    files.file_server_time(tmp_path)
    assert os.listdir(tmp_path) == []


def test_links_in_a_circle_and_to_a_folder_that_is_listed_anyway(tmp_path, monkeypatch):
    seen, real = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: (seen.append(path), real(path))[1])
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.wav").touch()
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    found = list(files.walk_files(tmp_path))
    assert found == [tmp_path / "a/b/x.wav"]
    assert len(seen) == 5  # and none of them again behind each link


def test_a_folder_that_has_just_been_removed_is_empty(tmp_path):
    for number in (errno.ENOENT, errno.ENOTDIR):
        files.refuse_unreadable(OSError(number, os.strerror(number), "x"))
    with pytest.raises(InputError, match="x: cannot be read: Stale file handle"):
        files.refuse_unreadable(OSError(errno.ESTALE, os.strerror(errno.ESTALE), "x"))


@pytest.mark.parametrize("text", [b"[" * 100_000, b"1" * 5000, b"NaN"])
def test_json_that_python_cannot_read_is_no_traceback(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(InputError, match="not valid JSON: l3hpc did not write it"):
        files.read_json(tmp_path / "a.json")
