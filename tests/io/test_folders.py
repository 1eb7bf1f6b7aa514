"""Folders that are written whole: where links lead, or refused before the work."""

import errno
import os
from pathlib import Path

import pytest

from l3hpc.errors import InputError
from l3hpc.io.folders import atomic_folder, follow_links, real_folder


def write(target, **options):
    with atomic_folder(target, **options) as folder:
        (folder / "content").write_text("whole")


def left_behind(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("exists", [True, False])
def test_the_folder_is_where_a_link_leads(tmp_path, exists):
    place = tmp_path / "disk/place"
    place.parent.mkdir()
    if exists:
        place.mkdir()
    (tmp_path / "link").symlink_to(place)
    write(tmp_path / "link")
    assert (place / "content").read_text() == "whole"
    assert (tmp_path / "link").is_symlink()
    assert not left_behind(place.parent)


@pytest.mark.parametrize(("target", "problem"), [
    ("loop", "is a link that leads to itself"), ("loop/x", "loop is a link that leads to itself"),
    ("two", "is a link that leads to itself"), ("file", "is a file"), ("file/x", "file is a file"),
    ("to-file", "is a file"), ("/dev/null", "is a file"),
])
def test_what_is_in_the_way_is_refused_before_the_work(tmp_path, target, problem):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "two").symlink_to("three")
    (tmp_path / "three").symlink_to("two")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "to-file").symlink_to("file")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=problem), atomic_folder(tmp_path / target):
        raise AssertionError("the work has begun")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_mount_point_can_be_written_into_but_not_replaced(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(InputError, match="is a mount point"):
        real_folder(tmp_path)
    assert follow_links(tmp_path) == tmp_path
    write(tmp_path / "inside")


def test_what_cannot_be_put_in_its_place_is_an_error(monkeypatch, tmp_path):
    def busy(source, target):
        raise OSError(errno.EBUSY, "device or resource busy", target)

    monkeypatch.setattr(os, "rename", busy)
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="busy"):
        write(tmp_path / "target")
    assert not left_behind(tmp_path)


def test_a_folder_made_meanwhile_stays_and_is_an_error_unless_it_is_as_good(tmp_path):
    def meanwhile(target, **options):
        with atomic_folder(target, **options) as folder:
            (folder / "content").write_text("ours")
            target.mkdir()
            (target / "content").write_text("theirs")

    with pytest.raises(InputError, match="made by another process"):
        meanwhile(tmp_path / "first")
    meanwhile(tmp_path / "second", or_existing=True)
    assert (tmp_path / "first/content").read_text() == "theirs"
    assert (tmp_path / "second/content").read_text() == "theirs"
    assert not left_behind(tmp_path)


def test_errors_name_the_folder_and_no_temporary_one(monkeypatch, tmp_path):
    with pytest.raises(OSError) as full, atomic_folder(tmp_path / "target"):  # noqa: PT011
        raise OSError(errno.ENOSPC, "no space left on device")
    assert full.value.filename == str(tmp_path / "target")

    make = Path.mkdir

    def read_only(self, *arguments, **options):
        if self.name.endswith(".tmp"):
            raise OSError(errno.EROFS, "read-only file system", str(self))
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match="read-only") as refused, atomic_folder(tmp_path / "target"):
        pass
    assert refused.value.filename == str(tmp_path / "target")
