"""Two names of one file, also where the file system has no links."""

import os

import pytest

from l3hpc.io.files import share_file, write_text


@pytest.fixture(params=[True, False], ids=["links", "no links"])
def links(request, monkeypatch):
    if not request.param:
        def refuse(source, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return request.param


def test_the_content_is_there_and_a_replaced_one_leaves_the_other(links, tmp_path):
    first, second = tmp_path / "first", tmp_path / "folder" / "second"
    second.parent.mkdir()
    write_text(first, "one")
    share_file(first, second)
    assert second.read_text() == "one"
    assert (first.stat().st_ino == second.stat().st_ino) == links
    write_text(first, "two")
    assert (first.read_text(), second.read_text()) == ("two", "one")


def test_one_that_exists_stays(links, tmp_path):
    write_text(tmp_path / "first", "one")
    write_text(tmp_path / "second", "older")
    share_file(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "second").read_text() == "older"
