from pathlib import Path

import pytest

from l3hpc.config import positions
from l3hpc.errors import InputError

FILE = Path("some.yaml")


def loads(text):
    return positions.loads(text, FILE)


def test_values_know_their_lines():
    document = loads("a: 1\nb:\n  c: x\n  d: [1,\n      2]\n")
    assert document.data == {"a": 1, "b": {"c": "x", "d": [1, 2]}}
    assert document.where(("b", "d")) == "some.yaml:4"
    assert document.where(("b", "d", 1)) == "some.yaml:5"
    assert document.where(("b", "missing", "more")) == "some.yaml:2"


@pytest.mark.parametrize(("text", "value"), [
    ("4:00:00", "4:00:00"), ("1-00:00:00", "1-00:00:00"), ("2026-11-20", "2026-11-20"),
    ("1e-4", 1e-4), ("1.5", 1.5), ("12", 12), ("-3", -3), ("0x10", 16), ("012", "012"),
    ("true", True), ("null", None), ("none", "none"), (".5", 0.5), ("7d", "7d"),
])
def test_scalars_mean_what_they_look_like(text, value):
    found = loads(f"a: {text}").data["a"]
    assert found == value and type(found) is type(value)


def test_a_key_written_twice_is_refused():
    with pytest.raises(InputError) as error:
        loads("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n")
    assert error.value.where == "some.yaml:5:3"
    assert "'c' is written twice (first in line 3)" in error.value.message


def test_merged_keys_are_no_duplicates():
    data = loads("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n").data
    assert data["use"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object/apply:os.system [ls]", "\tx: 1",
                                  "a: b: c", "? [1, 2]\n: x", "a: *nowhere", "a: \x00"])
def test_bad_yaml_names_the_file(text):
    with pytest.raises(InputError) as error:
        loads(text)
    assert error.value.where.startswith("some.yaml")


def test_aliases_of_aliases_do_not_explode():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(InputError, match="more than"):
        loads("\n".join(lines))


def test_an_empty_file_is_an_empty_mapping():
    assert loads("").data == {} and loads("# nothing\n").data == {}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        positions.load(tmp_path / "no.yaml")
