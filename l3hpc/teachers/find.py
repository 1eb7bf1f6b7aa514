"""From the name that a user gives to the teacher: ``describe``, ``fingerprint`` and ``load``."""

from __future__ import annotations

from typing import Any

from l3hpc.teachers.base import Description, Kind, Options, Teacher
from l3hpc.teachers.l3 import L3Family

# Asked in this order: the first that accepts a name has it.
KINDS: tuple[Kind, ...] = (L3Family(),)


def kind_of(name: str) -> Kind:
    """The kind of teacher that a name stands for.

    Parameters
    ----------
    name
        As the user gives it: a file, ``untrained[:SEED]``, ….
    """
    return next(kind for kind in KINDS if kind.accepts(name))


def describe(name: str, options: Options | None = None) -> Description:
    """Describe a teacher without loading it.

    Parameters
    ----------
    name
        As for ``kind_of``.
    options
        What the caller states beside its name.

    Returns
    -------
    Description
        Rate, window, length of an embedding, and remarks.

    Raises
    ------
    InputError
        There is no such teacher, or it cannot be used.
    """
    return kind_of(name).describe(name, options or Options())


def fingerprint(name: str) -> str:
    """What identifies a teacher in the fingerprint of a step.

    Parameters
    ----------
    name
        As for ``kind_of``.

    Returns
    -------
    str
        ``untrained…`` unchanged, or a digest.

    Raises
    ------
    InputError
        There is no such teacher.
    """
    return kind_of(name).fingerprint(name)


def identity(name: str, options: Options | None = None) -> dict[str, Any]:
    """What artifacts and students record of a teacher, JSON-ready.

    Parameters
    ----------
    name, options
        As for ``describe``.

    Returns
    -------
    dict
        ``kind``, ``dim``, ``digest``, ``label``, ``random_weights``; and ``spec`` for the L3
        family, otherwise ``rate`` and ``window``.
    """
    return kind_of(name).identity(name, options or Options())


def load(name: str, options: Options | None = None) -> Teacher:
    """Load a teacher, ready to embed.

    Parameters
    ----------
    name, options
        As for ``describe``.

    Returns
    -------
    Teacher
        With the methods of ``l3hpc.models.embedder.Embedder``.

    Raises
    ------
    InputError
        As for ``describe``; or a package that it needs is not installed.
    """
    return kind_of(name).load(name, options or Options())
