"""Text that cannot steer a terminal or break an encoding: what a value passes before it is shown.

Control characters are written out (``\x1b``, ``\u202e``), and what a stream's encoding lacks is
put in ASCII or escaped as JSON does.

JSON values with their types checked where the file is read: damage must not come to light in the
middle of a table. (pydantic would refuse paths that are not UTF-8.)
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typing_extensions

from l3hpc.errors import InputError

ESCAPED = "l3hpc.escape"  # error handler of encodings: what they lack, as JSON escapes it
# C0 but for tab and line feed, DEL, C1, line and paragraph separators, bidirectional overrides
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROL = re.compile(rf"(?!\r\n)[{_HIDDEN}]")
_ANY = re.compile(rf"[{_HIDDEN}\t\n]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ASCII = str.maketrans({"→": "->", "←": "<-", "–": "-", "—": "-", "…": "...", "×": "x", "φ": "phi",
                        "✓": "+", "✗": "x", "·": "-", "‘": "'", "’": "'", "“": '"', "”": '"',
                        "≥": ">=", "≤": "<=", "\u202f": " ", "\xa0": " "})
Check = Callable[[Any], bool]
Made = TypeVar("Made")


def escape_controls(text: str) -> str:
    """``text`` with its control characters written out; tabs and line ends stay."""
    return _CONTROL.sub(_escaped, text)


def one_line(value: object) -> str:
    """A value from a file, a table or another program, as part of one line of ours."""
    return _ANY.sub(_escaped, str(value))


def log_text(text: str) -> str:
    """What a log holds, for reading: without colours; a bar drawn over itself becomes lines."""
    plain = _COLOUR.sub("", text)
    return escape_controls(plain.replace("\r\n", "\n").replace("\r", "\n"))


def encodable(text: str, encoding: str) -> str:
    """``text`` as well as ``encoding`` can hold it; never an error."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        if not _is_unicode(encoding):
            text = text.translate(_ASCII)
        text = text.encode(encoding, ESCAPED).decode(encoding)
    return text


def _escaped(match: re.Match[str]) -> str:
    sign = match[0]
    return _NAMED.get(sign) or (f"\\x{ord(sign):02x}" if sign < " " else f"\\u{ord(sign):04x}")


def _is_unicode(encoding: str) -> bool:
    return encoding.lower().replace("_", "-").startswith(("utf", "u8"))


def _escape(error: UnicodeError) -> tuple[str, int]:
    """As JSON escapes, so that JSON stays JSON."""
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start:error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{signs[at]:02x}{signs[at + 1]:02x}" for at in range(0, len(signs), 2)), \
        error.end


codecs.register_error(ESCAPED, _escape)


def dataclass_from(kind: type[Made], value: Any, what: str) -> Made:
    """``kind`` (a dataclass) with the fields in ``value``; an ``InputError`` names the field that
    is missing, unknown or of another type. what: the name of the value in messages."""
    if not isinstance(value, Mapping):
        raise InputError(f"{what} is not a mapping but {short_repr(value)}")
    checks, required = _fields(typing.cast("Any", kind))
    for name, item in value.items():
        if name not in checks:
            raise InputError(f"{what}: unknown field {name!r}")
        if not checks[name](item):
            raise InputError(f"{what}.{name} cannot be {short_repr(item)}")
    for name in required:
        if name not in value:
            raise InputError(f"{what}: the field {name!r} is missing")
    return kind(**value)


def check_mapping(kind: Any, value: Any, what: str) -> dict[str, Any]:
    """``value`` if it is a mapping as the ``TypedDict`` says (with any others beside), else an
    ``InputError``."""
    if not isinstance(value, dict):
        raise InputError(f"{what} is not a mapping but {short_repr(value)}")
    for name, required, check in _items(kind):
        if name not in value:
            if required:
                raise InputError(f"{what}: the field {name!r} is missing")
        elif not check(value[name]):
            raise InputError(f"{what}.{name} cannot be {short_repr(value[name])}")
    return value


def has_type(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the type that a field is annotated with."""
    return _check(hint)(value)


@functools.cache
def _check(hint: Any) -> Check:
    """The test for a type. Looking at the annotation takes longer than the test itself, and
    ``status`` of a thousand jobs tests 20,000 values."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: True
    if origin in (typing.Union, types.UnionType):
        several = [_check(each) for each in inner]
        return lambda value: any(check(value) for check in several)
    if origin in (list, tuple) and inner:
        item = _check(inner[0])
        return lambda value: isinstance(value, list | tuple) and all(map(item, value))
    if origin is dict:
        key, item = _check(inner[0]), _check(inner[1])
        return lambda value: isinstance(value, dict) and all(map(key, value)) \
            and all(map(item, value.values()))
    if typing_extensions.is_typeddict(hint):
        return lambda value: isinstance(value, dict) and all(
            check(value[name]) if name in value else not required
            for name, required, check in _items(hint))
    if hint is float:
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool) \
            and abs(value) < 1e18 and math.isfinite(value)
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool) \
            and abs(value) < 2**62
    if hint in (None, type(None)):
        return lambda value: value is None
    # a dataclass among them is made before it stands in another one
    return lambda value: not isinstance(hint, type) or isinstance(value, hint)


def short_repr(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Check], list[str]]:
    """Of a dataclass: the test of each field, and the fields without a default."""
    checks = {name: _check(hint) for name, hint in _hints(kind).items()}
    return checks, [field.name for field in dataclasses.fields(kind)
                    if field.default is dataclasses.MISSING
                    and field.default_factory is dataclasses.MISSING]


@functools.cache
def _items(kind: Any) -> list[tuple[str, bool, Check]]:
    """Of a ``TypedDict``: each name, whether it has to be there, and the test of its value."""
    return [(name, not optional, _check(typing.get_args(hint)[0] if optional else hint))
            for name, hint in _hints(kind).items()
            for optional in (typing.get_origin(hint) is typing_extensions.NotRequired,)]


def _hints(kind: Any) -> dict[str, Any]:
    return typing_extensions.get_type_hints(kind, include_extras=True)
