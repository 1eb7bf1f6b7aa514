"""The arguments of ``l3hpc.submit`` in a notebook as the texts that the command line takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from l3hpc.errors import InputError

EXAMPLES = {"sets": '{"train.epochs": 5}', "grid": '{"emb_dim": [64, 128]}',
            "inputs": '{"fit": "RUN"}'}


def set_texts(sets: Mapping[str, object] | None) -> list[str]:
    """Convert parameters of steps to the texts of ``--set``.

    Parameters
    ----------
    sets
        ``{"train.epochs": 5}``.

    Examples
    --------
    >>> set_texts({"train.epochs": 5, "train.filters": [4, 8]})
    ['train.epochs=5', 'train.filters=4,8']
    """
    return [f"{name}={_text(value)}" for name, value in _mapping("sets", sets).items()]


def input_texts(inputs: Mapping[str, object] | None) -> list[str]:
    """Convert inputs to the texts of ``--input``.

    Parameters
    ----------
    inputs
        ``{"fit": "upstream-20261120-1a2b"}``.
    """
    return [f"{step}={source}" for step, source in _mapping("inputs", inputs).items()]


def grid_texts(grid: Mapping[str, Iterable[object]] | None) -> dict[str, list[str]]:
    """Convert the options of a sweep to those of ``--grid``.

    Parameters
    ----------
    grid
        Option, or ``step.parameter`` → its values; a value may be a list itself.

    Raises
    ------
    InputError
        If the values of an option are not a list.

    Examples
    --------
    >>> grid_texts({"emb_dim": [64, 128], "filters": [[4, 8], [8, 16]]})
    {'emb-dim': ['64', '128'], 'filters': ['4,8', '8,16']}
    """
    texts = {}
    for name, values in _mapping("grid", grid).items():
        # a string is iterable too: it would be taken apart into its letters
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise InputError(f"grid: the values of {name!r} are not a list but {values!r}",
                             allowed=f'for example grid={{"{name}": [{values!r}]}}')
        option = name if "." in name else name.replace("_", "-")
        texts[option] = [_text(value) for value in values]
    return texts


def seconds(name: str, value: object) -> float:
    """Check a time in seconds.

    Parameters
    ----------
    name
        Name of the argument, for the message.
    value
        Its value.

    Raises
    ------
    InputError
        If it is not a finite number from 0.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) \
            and value >= 0 and math.isfinite(value):
        return float(value)
    raise InputError(f"{name} is {value!r}", allowed="a number of seconds, from 0")


def _mapping(name: str, value: Mapping[str, object] | None) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name} is not a mapping of names to values but {value!r}",
                         allowed=f"for example {name}={EXAMPLES[name]}")
    return value


def _text(value: object) -> str:
    """A value as ``--set`` and ``--grid`` take it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    return "none" if value is None else str(value)
