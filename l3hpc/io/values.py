"""Checks of values from outside: text that is safe to print, and JSON with the expected types.

The first part escapes control characters (``\\x1b``, ``\\u202e``) and characters that the encoding
of a stream does not have. The second part checks the types of JSON values when a file is read, so
that damage is reported there and not later, in the middle of a table. (pydantic would refuse paths
that are not UTF-8.)
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import math
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typing_extensions

from l3hpc.errors import ESCAPES, InputError

ESCAPED = "l3hpc.escape"  # error handler for str.encode: JSON escapes for missing characters
# all but tabs and line ends
_CONTROL = re.compile(rf"(?!\r\n)[{''.join(map(chr, ESCAPES.keys() - {9, 10}))}]")
_ONE_OR_MANY = re.compile(r"\[([^][|]*)\|([^][|]*)\]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")
_ADDRESS = re.compile(r"://(?:.*(?=['\"])|.*)", re.DOTALL)
_ASCII = str.maketrans({"→": "->", "←": "<-", "–": "-", "—": "-", "…": "...", "×": "x", "φ": "phi",
                        "✓": "+", "✗": "x", "·": "-", "‘": "'", "’": "'", "“": '"', "”": '"',
                        "≥": ">=", "≤": "<=", "\u202f": " ", "\xa0": " "})
Check = Callable[[Any], bool]
Made = TypeVar("Made")

# text -----------------------------------------------------------------------------------------


def escape_controls(text: str) -> str:
    r"""Escape the control characters of a text, except tabs and line ends.

    Examples
    --------
    >>> escape_controls("\x1b[31mred\n")
    '\\x1b[31mred\n'
    """
    return _CONTROL.sub(lambda match: ESCAPES[ord(match[0])], text)


def one_line(value: object) -> str:
    r"""Escape all control characters of a value, so that it fits into one line.

    Examples
    --------
    >>> one_line("a\nb")
    'a\\nb'
    """
    return str(value).translate(ESCAPES)


def count_of(number: int, one: str, many: str = "") -> str:
    """Return a number with the noun that it counts, in the singular or the plural.

    Parameters
    ----------
    number
        How many there are.
    one
        The noun for 1; a verb may follow.
    many
        The same for any other number; by default ``one`` with an s.

    Examples
    --------
    >>> count_of(1, "row"), count_of(1200, "row"), count_of(0, "class is", "classes are")
    ('1 row', '1,200 rows', '0 classes are')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def in_number(text: str, number: int) -> str:
    """Choose in a text between ``[singular|plural]``.

    Examples
    --------
    >>> in_number("{n} [file is|files are] empty", 1)
    '{n} file is empty'
    """
    return _ONE_OR_MANY.sub(r"\1" if number == 1 else r"\2", text)


def normalised(text: str) -> str:
    """A text in Unicode NFC: one character for a letter with its accent, as most systems write it.

    macOS and some keyboards write two, which look the same.

    Examples
    --------
    >>> len("e\u0301"), len(normalised("e\u0301"))
    (2, 1)
    """
    return unicodedata.normalize("NFC", text)


def without_addresses(text: str) -> str:
    """Return a message without the addresses in it: they may hold passwords and tokens.

    From the first ``://`` to the last quote, or to the end: a password may hold spaces or quotes.

    Examples
    --------
    >>> without_addresses("'slack://TOKEN' is not a name")
    "'slack://…' is not a name"
    """
    return _ADDRESS.sub("://…", text)


def log_text(text: str) -> str:
    """Return the text of a log for display: without colours, each redraw of a bar on a line."""
    plain = _COLOUR.sub("", text)
    return escape_controls(plain.replace("\r\n", "\n").replace("\r", "\n"))


def encodable(text: str, encoding: str) -> str:
    """Replace the characters of a text that an encoding does not have; never an error.

    Parameters
    ----------
    text
        Any text, even with surrogates.
    encoding
        Of the stream that the text is written to.

    Returns
    -------
    str
        In Unicode encodings, surrogates as JSON escapes; in others, ``→`` as ``->`` and the like
        and everything else as JSON escapes.
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        # Arrows and dashes of our own messages read better as ASCII than as escapes.
        if not _is_unicode(encoding):
            text = text.translate(_ASCII)
        text = text.encode(encoding, ESCAPED).decode(encoding)
    return text


def _is_unicode(encoding: str) -> bool:
    return encoding.lower().replace("_", "-").startswith(("utf", "u8"))


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Error handler that writes JSON escapes, so that JSON stays valid."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start:error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)), \
        error.end


codecs.register_error(ESCAPED, _escape)


# JSON -----------------------------------------------------------------------------------------


def dataclass_from(kind: type[Made], value: object, what: str) -> Made:
    """Make a dataclass from a mapping, with its types checked.

    Parameters
    ----------
    kind
        The dataclass.
    value
        The JSON value.
    what
        The name of the value in messages.

    Raises
    ------
    InputError
        ``value`` is not a mapping, or a field is missing, unknown or of another type.
    """
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


def check_mapping(kind: type, value: object, what: str) -> dict[str, Any]:
    """Return ``value`` if it is a mapping with the fields of a ``TypedDict``.

    Parameters
    ----------
    kind
        The ``TypedDict``; further fields are allowed.
    value
        The JSON value.
    what
        The name of the value in messages.

    Raises
    ------
    InputError
        ``value`` is not a mapping, or a field is missing or of another type.
    """
    if not isinstance(value, dict):
        raise InputError(f"{what} is not a mapping but {short_repr(value)}")
    for name, required, check in _items(kind):
        if name not in value:
            if required:
                raise InputError(f"{what}: the field {name!r} is missing")
        elif not check(value[name]):
            raise InputError(f"{what}.{name} cannot be {short_repr(value[name])}")
    return value


def has_type(value: object, hint: object) -> bool:
    """Whether a JSON value has the type of an annotation.

    Examples
    --------
    >>> has_type([1, 2], list[int]), has_type(True, int), has_type(None, float | None)
    (True, False, True)
    """
    return _check(hint)(value)


@functools.cache
def _check(hint: object) -> Check:
    """The test for a type."""
    # Cached: analysing an annotation takes longer than the test, and ``status`` of a thousand jobs
    # tests 20,000 values.
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
        # bool is a subclass of int, and larger numbers overflow where NumPy or a clock takes them.
        return lambda value: isinstance(value, int) and not isinstance(value, bool) \
            and abs(value) < 2**62
    if hint in (None, type(None)):
        return lambda value: value is None
    if not isinstance(hint, type):
        return lambda value: True
    # A dataclass in a field has been made before, so isinstance is the test for it as well.
    return lambda value: isinstance(value, hint)


def short_repr(value: object) -> str:
    """Return the ``repr`` of a value for a message, cut to 38 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Check], list[str]]:
    """The test for each field of a dataclass, and the fields without a default."""
    checks = {name: _check(hint) for name, hint in _hints(kind).items()}
    return checks, [field.name for field in dataclasses.fields(kind)
                    if field.default is dataclasses.MISSING
                    and field.default_factory is dataclasses.MISSING]


@functools.cache
def _items(kind: object) -> list[tuple[str, bool, Check]]:
    """Name, whether it is required, and test of each field of a ``TypedDict``."""
    return [(name, not optional, _check(typing.get_args(hint)[0] if optional else hint))
            for name, hint in _hints(kind).items()
            for optional in (typing.get_origin(hint) is typing_extensions.NotRequired,)]


def _hints(kind: object) -> dict[str, Any]:
    return typing_extensions.get_type_hints(kind, include_extras=True)
