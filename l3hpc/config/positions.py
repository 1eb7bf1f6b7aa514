"""YAML files with the line of every value, so that an error can name it."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from l3hpc.errors import InputError, nearest, path_from_shell
from l3hpc.io import yaml
from l3hpc.io.values import without_addresses
from l3hpc.io.yaml import KeyPath

Model = TypeVar("Model", bound=BaseModel)
SECRET = "notify"  # key whose value holds addresses with passwords and tokens


@dataclass(frozen=True)
class Document:
    """The values of a file and their lines.

    A value is identified by its keys and list indices from the top: ``("clusters", "greene",
    "qos")``.

    Attributes
    ----------
    path : Path
        The file.
    data : object
        Dicts, lists and plain values.
    lines : mapping
        Keys → line.
    """

    path: Path
    data: Any
    lines: Mapping[KeyPath, int]

    def where(self, keys: KeyPath = ()) -> str:
        """Return ``file:line`` of a value, or of the nearest enclosing value that the file has.

        Parameters
        ----------
        keys
            The keys of the value.
        """
        # a missing key has no line: its parent has
        for length in range(len(keys), -1, -1):
            if keys[:length] in self.lines:
                return f"{_short(self.path)}:{self.lines[keys[:length]]}"
        return _short(self.path)

    def has(self, keys: KeyPath) -> bool:
        """Whether the file itself has a value.

        Parameters
        ----------
        keys
            The keys of the value.
        """
        return keys in self.lines

    def refuse(self, keys: KeyPath, message: str, **parts: Any) -> InputError:
        """Return an ``InputError`` that names a value; the caller raises it.

        Parameters
        ----------
        keys
            The keys of the value.
        message
            What is wrong.
        **parts
            ``allowed`` and ``hint`` of the error.
        """
        return InputError(message, where=self.where(keys), **parts)


class Refusal(ValueError):
    """Carries an ``InputError`` through pydantic, which catches ``ValueError`` only.

    Parameters
    ----------
    refusal
        The error.
    """

    def __init__(self, refusal: InputError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def checked(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a pydantic validator of a function that raises ``InputError``; it keeps the message.

    Parameters
    ----------
    check
        Takes a value and returns it, perhaps converted.
    """

    def validator(value: Any) -> Any:
        try:
            return check(value)
        except InputError as error:
            raise Refusal(error) from None

    return validator


def load(path: Path) -> Document:
    """Read a YAML file; an empty one is an empty mapping.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        If it cannot be read; names the line.
    """
    return Document(Path(path), *yaml.read_yaml(Path(path), _short(path)))


def loads(text: str, path: Path) -> Document:
    """Parse YAML text.

    Parameters
    ----------
    text
        The text.
    path
        The name used in messages.

    Raises
    ------
    InputError
        If it cannot be parsed; names the line.
    """
    return Document(path, *yaml.parse_yaml(text, _short(path)))


def validated(model: type[Model], document: Document, keys: KeyPath = (), data: Any = None
              ) -> Model:
    """Validate a part of a document.

    Parameters
    ----------
    model
        The form that it must have.
    document
        The document.
    keys
        The keys of the part.
    data
        Its values; None: those that the file has there.

    Raises
    ------
    InputError
        For the first value that is not allowed; names its line.
    """
    if data is None:
        data = document.data
        for key in keys:
            data = data[key]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain(error, model, document, keys) from None


def explain(
    error: ValidationError, model: type[BaseModel], document: Document | None, keys: KeyPath = (),
    prefix: str = "",
) -> InputError:
    """Turn a pydantic error into an ``InputError``: where, what is wrong, what is allowed.

    No message shows an address, or a value at, above or below the key ``notify``.

    Parameters
    ----------
    error
        Its first entry is explained; an unknown key before a missing one, which it may be meant
        to be.
    model
        What was validated; the source of the valid names.
    document
        Where lines come from; None: no line is given.
    keys
        Where in the document the model begins.
    prefix
        Put before the name of the parameter (``train.``).
    """
    entries = error.errors(include_url=False)
    first = entries[0]
    if first["type"] == "missing":
        # a missing key next to an unknown one is usually one misspelt key: that is the message that
        # helps
        first = next((one for one in entries if one["type"] == "extra_forbidden"
                      and one["loc"][:-1] == first["loc"][:-1]), first)
    # pydantic puts the names of validators into the path
    location = tuple(part for part in first["loc"] if not str(part).startswith("function-"))
    dotted = without_addresses(prefix + ".".join(str(part) for part in location))
    is_secret = SECRET in (*keys, *location) or _holds_secret(first["input"])
    where = document.where((*keys, *location)) if document else None
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Refusal):
        refusal = cause.refusal
        # the validators of notify name no value, those of other keys may quote it
        message = without_addresses(refusal.message) if location[:1] == (SECRET,) or not is_secret \
            else f"{_kind(first['input'])} is not allowed here"
        return InputError(f"{dotted}: {message}", where=where, allowed=refusal.allowed,
                          hint=refusal.hint)
    if first["type"] == "extra_forbidden":
        name = str(location[-1])
        valid = _fields(model, location[:-1])
        above = prefix + ".".join(str(part) for part in location[:-1])
        inside = f" in {above.rstrip('.')}" if above else ""
        return InputError(without_addresses(f"unknown key {name!r}") + without_addresses(inside),
                          where=where, allowed=nearest(name, valid))
    if not location:
        return InputError("not a mapping of names to values", where=where)
    message = without_addresses(first["msg"].removeprefix("Value error, "))
    if is_secret:
        shown = _kind(first["input"])
    else:
        shown = without_addresses(repr(first["input"]))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return InputError(f"{dotted}: {message[:1].lower()}{message[1:]} (got {shown})", where=where)


def _holds_secret(value: object) -> bool:
    """Whether a value, or text such as ``notify: ADDRESS``, may contain what ``notify`` holds."""
    if isinstance(value, Mapping):
        return any(_holds_secret(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return any(_holds_secret(item) for item in value)
    return isinstance(value, str) and SECRET in value


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return {str: "a string", bool: "true or false"}.get(type(value), "a value")


def _fields(model: type[BaseModel], location: KeyPath) -> list[str]:
    """The valid names inside ``model`` at ``location`` (walks through dicts, lists and unions)."""
    current: object = model
    for part in location:
        current = _inner(current, part)
    current = _first_model(current)
    return list(current.model_fields) if current is not None else []


def _inner(kind: object, part: str | int) -> object:
    found = _first_model(kind)
    if found is not None and part in found.model_fields:
        return found.model_fields[part].annotation
    arguments = [item for item in typing.get_args(kind) if item is not type(None)]
    return arguments[-1] if arguments else None


def _first_model(kind: object) -> type[BaseModel] | None:
    origin = typing.get_origin(kind)
    if origin is None and isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind  # before Python 3.11 list[int] passes for a class: hence the origin
    if origin in (typing.Union, types.UnionType):
        for item in typing.get_args(kind):
            if (found := _first_model(item)) is not None:
                return found
    return None


def _short(path: Path) -> str:
    # a link to a folder above is another name of the same file
    text = path_from_shell(Path(path).resolve())
    return path_from_shell(path) if os.path.isabs(text) else text
