"""JSON values with their types checked where the file is read: damage must not come to light in the
middle of a table. (pydantic would refuse paths that are not UTF-8.)"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import typing_extensions

from l3hpc.errors import InputError

Made = TypeVar("Made")


def made(kind: type[Made], value: Any, what: str) -> Made:
    """``kind`` (a dataclass) with the fields in ``value``; an ``InputError`` names the field that
    is missing, unknown or of another type. what: the name of the value in messages."""
    if not isinstance(value, Mapping):
        raise InputError(f"{what} is no mapping but {shown(value)}")
    hints = _hints(typing.cast("Any", kind))
    for name, item in value.items():
        if name not in hints:
            raise InputError(f"{what}: unknown field {name!r}")
        if not fits(item, hints[name]):
            raise InputError(f"{what}.{name} cannot be {shown(item)}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in value and field.default is dataclasses.MISSING \
                and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{what}: the field {field.name!r} is missing")
    return kind(**value)


def mapping(kind: Any, value: Any, what: str) -> dict[str, Any]:
    """``value`` if it is a mapping as the ``TypedDict`` says (with any others beside), else an
    ``InputError``."""
    if not isinstance(value, dict):
        raise InputError(f"{what} is no mapping but {shown(value)}")
    for name, hint in _hints(kind).items():
        optional = typing.get_origin(hint) is typing_extensions.NotRequired
        if not optional and name not in value:
            raise InputError(f"{what}: the field {name!r} is missing")
        if name in value and not fits(value[name], typing.get_args(hint)[0] if optional else hint):
            raise InputError(f"{what}.{name} cannot be {shown(value[name])}")
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the type that a field is annotated with."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin in (list, tuple) and inner:
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, inner[0]) and fits(item, inner[1]) for key, item in value.items())
    if dataclasses.is_dataclass(hint):  # made before it stands in another one
        return isinstance(value, typing.cast("type", hint))
    if typing_extensions.is_typeddict(hint):
        try:
            return bool(mapping(hint, value, "") is value)
        except InputError:
            return False
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) \
            and abs(value) < 1e18 and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62
    if hint in (None, type(None)):
        return value is None
    return not isinstance(hint, type) or isinstance(value, hint)


def shown(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing_extensions.get_type_hints(kind, include_extras=True)
