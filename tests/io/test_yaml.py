"""Files of settings are plain data: whatever stands in one, it is a value or a refusal with its
line and column, at once."""

import math
import os
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.config import settings
from l3hpc.errors import InputError
from l3hpc.io import yaml

BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n  k{n}: 1\n" for n in range(1, 25))
REFUSED = [
    ("a: !!int foo", "1:4", "'foo' is not a valid int"),
    ("a: !!float x", "1:4", "not a valid float"),
    ("a: !!bool x", "1:4", "not a valid bool"), ("a: !!binary gQ==", "1:4", "!!binary"),
    ("a: !!timestamp 2026-01-01", "1:4", "!!timestamp"), ("a:\n  !!set {b}", "2:3", "!!set"),
    ("a: !!omap [b: 1]", "1:4", "!!omap"), ("a: !!pairs [b: 1]", "1:4", "!!pairs"),
    ("a: !!python/object:os.x {}", "1:4", "python"), ("a: !mine x", "1:4", "'!mine'"),
    ("a: !!str {b: 1}", "1:4", "!!str"), ("a: !!map x", "1:4", "!!map"), ("!!int x: 1", "1:1", ""),
    ("!!binary eA==: 1", "1:1", "plain word"), ("? {a: 1}\n: b", "1:3", "plain word"),
    ("a: .inf", "1:4", "'.inf' is not a number"), ("a: -.INF", "1:4", "not a number"),
    ("a: .nan", "1:4", "not a number"), ("a: 1e999", "1:4", "not a number"),
    ("a: " + "9" * 30, "1:4", "not a number"), ("a: " + "9" * 9000, "1:4", "not a valid int"),
    ("a:\n\t- b", "2:1", "a tab"), ("a: 'x", "1:6", "not valid YAML"), ("a: *b", "1:4", "alias"),
    ("a: &b [*b]", "1:4", "that contains it"), ("a: &b {<<: *b}", "1:4", "contains it"),
    ("a: {<<: 3}", "1:9", "<< takes a mapping"), ("a: 1\nb: 2\na: 3", "3:1", "first in line 1"),
    ("[" * 200_000, "1:51", "50 deep"), ("a: " + "{a: " * 60, "", "50 deep"),
    ("- x\n" * 25_000, "10000:3", "more than 10,000"), (BOMB, None, None),
    ("a: \x1b", "1:4", r"'\x1b'"), ("a: 1\n--- \nb: 2", "2:1", "single document"),
    ("a: [" + "x, " * 100 + "\n", "2:1", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "place", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_plain_data_is_refused_with_its_place(text, place, words):
    begun = time.process_time()
    if place is None:  # a bomb of merges: harmless, because merged keys are not counted twice
        assert len(yaml.parse_yaml(text, "f")[0]["a24"]) == 25
    else:
        with pytest.raises(InputError) as refusal:
            yaml.parse_yaml(text, "f")
        assert refusal.value.where.startswith(f"f:{place}") and words in refusal.value.message
        assert len(str(refusal.value)) < 200
    assert time.process_time() - begun < 6  # of this process: others may be at work


@pytest.mark.parametrize(("content", "place", "words"), [
    (b"a: 1\nb: caf\xe9\n", "2:7", "0xe9"), ("a: 1".encode("utf-16"), "", "UTF-16"),
    ("a: 1".encode("utf-16-le"), "", "UTF-16"), (b"a: x\n" + b"# " * 6_000_000, "", "256 KB"),
    (b"a: \x00\n", "", "UTF-16"),
])
def test_other_encodings_and_sizes_are_named(tmp_path, content, place, words):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError) as refusal:
        yaml.read_yaml(tmp_path / "f", "f")
    assert refusal.value.where == f"f:{place}".rstrip(":") and words in refusal.value.message


def test_a_byte_order_mark_is_no_key(tmp_path):
    (tmp_path / "f").write_bytes("a: é\r\nb: 2\r\n".encode("utf-8-sig"))
    assert yaml.read_yaml(tmp_path / "f") == ({"a": "é", "b": 2}, {(): 1, ("a",): 1, ("b",): 2})


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "/dev/zero"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "cluster.yaml"
    {"folder": lambda: path.mkdir(), "pipe": lambda: os.mkfifo(path),
     "link to nothing": lambda: path.symlink_to("nowhere"),
     "/dev/zero": lambda: path.symlink_to("/dev/zero")}[kind]()
    with pytest.raises(InputError, match="cannot be read"):
        yaml.read_yaml(path)


def plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, bool) or \
        type(value) is float and math.isfinite(value)


PIECES = st.sampled_from([
    "a: ", "b", "\n", "\n  ", "- ", "&x ", "*x", "<<: ", "!!int ", "!!set ", "!", "!!binary ", "'",
    '"', "{", "}", "[", "]", ", ", "? ", ": ", "\t", "|\n ", ">\n ", "%", "---\n", "...\n", "1e9",
    ".inf", "0x", "~", "#", "\\", "\x00", "\u2028", "é", "clusters: ", "paths: ", "g: ", "env: "])


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=40))
def test_any_text_is_plain_data_or_a_refusal(text):
    try:
        data, lines = yaml.parse_yaml(text, "f")
        assert plain(data) and () in lines or data == {}
    except InputError as error:
        assert re.match(r"f:\d+:\d+$", error.where), (error.where, error.message)


@given(st.binary(max_size=60) | st.lists(PIECES, max_size=40).map(lambda parts:
                                                                  "".join(parts).encode()))
def test_any_cluster_file_is_a_configuration_or_a_refusal(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "cluster.yaml"
    path.write_bytes(content)
    try:
        settings.load(path, environ={})
    except InputError as error:
        assert "cluster.yaml" in str(error)
