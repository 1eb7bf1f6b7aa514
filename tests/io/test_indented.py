"""Indented JSON is byte for byte that of the standard library."""

import enum
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.io import indented

LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False,
                                                                           allow_infinity=False)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.tuples(inner, inner)
                      | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none()
                                        | st.floats(allow_nan=False, allow_infinity=False), inner))


def standard(value):
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


@given(VALUES)
def test_the_same_text_as_the_standard_library(value):
    assert indented.dumps(value) == standard(value)


class Word(str, enum.Enum):  # noqa: UP042, Python 3.10 has no StrEnum
    DONE = "done"


class Number(enum.IntEnum):
    TWO = 2


@pytest.mark.parametrize("value", [
    {Word.DONE: [Word.DONE, Number.TWO, True]}, {Number.TWO: ()}, {"a": {}, "b": []}, "\ud800\n\"é",
    1e300, -0.0, 10 ** 30, [[[]]], {"": {"": [{}, None]}}])
def test_enums_empty_containers_and_unusual_values(value):
    assert indented.dumps(value) == standard(value)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": float("-inf")},
                                   {float("nan"): 1}])
def test_no_nan_and_no_infinity(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        indented.dumps(value)


@pytest.mark.parametrize("value", [object(), [b"x"], {"a": {1}}, {(1, 2): 3}])
def test_what_json_does_not_have(value):
    with pytest.raises(TypeError):
        indented.dumps(value)
