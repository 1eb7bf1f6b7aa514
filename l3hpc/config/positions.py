"""YAML files with the line of every value, so that an error can name the place."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from l3hpc.errors import InputError, nearest
from l3hpc.io import yaml
from l3hpc.io.yaml import KeyPath

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """The values of a file (``data``: dicts, lists, plain values) and the line of each.

    A place is a tuple of keys and list positions from the top: ``("clusters", "greene", "qos")``.
    """

    path: Path
    data: Any
    lines: Mapping[KeyPath, int]

    def where(self, place: KeyPath = ()) -> str:
        """``file:line`` of a place, or of the nearest enclosing place that the file has."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                return f"{_short(self.path)}:{self.lines[place[:length]]}"
        return _short(self.path)

    def has(self, place: KeyPath) -> bool:
        """Whether the file itself has a value at this place."""
        return place in self.lines

    def refuse(self, place: KeyPath, message: str, **parts: Any) -> InputError:
        """An ``InputError`` that names this place (to be raised by the caller)."""
        return InputError(message, where=self.where(place), **parts)


class Refusal(ValueError):
    """Carries an ``InputError`` through pydantic (which catches ``ValueError`` only)."""

    def __init__(self, refusal: InputError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def checked(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``check`` (which raises ``InputError``) as a pydantic validator that keeps its message."""

    def validator(value: Any) -> Any:
        try:
            return check(value)
        except InputError as error:
            raise Refusal(error) from None

    return validator


def load(path: Path) -> Document:
    """Read a YAML file; an empty one is an empty mapping. Errors are ``InputError`` with line."""
    return Document(Path(path), *yaml.read_yaml(Path(path), _short(path)))


def loads(text: str, path: Path) -> Document:
    """The same for text; ``path`` is only the name used in messages."""
    return Document(path, *yaml.parse_yaml(text, _short(path)))


def validated(model: type[Model], document: Document, place: KeyPath = (), data: Any = None
              ) -> Model:
    """``data`` (default: what the file has at ``place``) as ``model``, errors with their lines."""
    if data is None:
        data = document.data
        for key in place:
            data = data[key]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain(error, model, document, place) from None


def explain(
    error: ValidationError, model: type[BaseModel], document: Document | None, place: KeyPath = (),
    prefix: str = "",
) -> InputError:
    """A pydantic error as an ``InputError`` for a person: place, what is wrong, what is allowed.

    Parameters
    ----------
    error : ValidationError
        Its first entry is explained.
    model : type of BaseModel
        What was validated; the source of the valid names.
    document : Document or None
        Where lines come from (None: the place is only named).
    place : tuple
        Where in the document the model begins.
    prefix : str
        Put before the name of the parameter (``train.``).
    """
    first = error.errors(include_url=False)[0]
    location = tuple(part for part in first["loc"] if not str(part).startswith("function-"))
    dotted = prefix + ".".join(str(part) for part in location)
    where = document.where((*place, *location)) if document else None
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Refusal):
        known = cause.refusal
        return InputError(f"{dotted}: {known.message}", where=where, allowed=known.allowed,
                          hint=known.hint)
    if first["type"] == "extra_forbidden":
        name = str(location[-1])
        valid = _fields(model, location[:-1])
        above = prefix + ".".join(str(part) for part in location[:-1])
        inside = f" in {above.rstrip('.')}" if above else ""
        return InputError(f"unknown key {name!r}{inside}", where=where,
                          allowed=nearest(name, valid))
    if not location:
        return InputError("not a mapping of names to values", where=where)
    message = first["msg"].removeprefix("Value error, ")
    shown = repr(first["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return InputError(f"{dotted}: {message[:1].lower()}{message[1:]} (got {shown})", where=where)


def _fields(model: Any, location: KeyPath) -> list[str]:
    """The valid names inside ``model`` at ``location`` (walks through dicts, lists and unions)."""
    current: Any = model
    for part in location:
        current = _inner(current, part)
    current = _first_model(current)
    return list(current.model_fields) if current is not None else []


def _inner(kind: Any, part: Any) -> Any:
    found = _first_model(kind)
    if found is not None and part in found.model_fields:
        return found.model_fields[part].annotation
    arguments = [item for item in typing.get_args(kind) if item is not type(None)]
    return arguments[-1] if arguments else None


def _first_model(kind: Any) -> type[BaseModel] | None:
    origin = typing.get_origin(kind)
    if origin is None and isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind  # before Python 3.11 list[int] passes for a class: hence the origin
    if origin in (typing.Union, types.UnionType):
        for item in typing.get_args(kind):
            if (found := _first_model(item)) is not None:
                return found
    return None


def _short(path: Path) -> str:
    try:
        return str(Path(path).resolve().relative_to(Path.cwd().resolve()))
    except (ValueError, OSError):
        return str(path)
