"""From the name that a user gives to the teacher: ``describe``, ``fingerprint`` and ``load``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from l3hpc.models.weights import untrained_seed
from l3hpc.teachers.base import Description, Kind, Options, Teacher
from l3hpc.teachers.hear import PREFIX, HearModules
from l3hpc.teachers.l3 import L3Family
from l3hpc.teachers.network_file import NetworkFiles
from l3hpc.teachers.precomputed import PrecomputedFolders

# Asked in this order: the first that accepts a name has it.
KINDS: tuple[Kind, ...] = (HearModules(), PrecomputedFolders(), NetworkFiles(), L3Family())


def kind_of(name: str) -> Kind:
    """The kind of teacher that a name stands for.

    Parameters
    ----------
    name
        As the user gives it: a file, ``untrained[:SEED]``, ….
    """
    return next(kind for kind in KINDS if kind.accepts(name))


def has_sidecar(name: str | Path) -> bool:
    """Whether a name stands for a network file of another kind, which a sidecar describes.

    Parameters
    ----------
    name
        As for ``kind_of``.
    """
    return isinstance(kind_of(str(name)), NetworkFiles)


def has_random_weights(name: str) -> bool:
    """Whether a name is ``untrained[:SEED]``, which stands for random weights.

    Parameters
    ----------
    name
        As for ``kind_of``.
    """
    return untrained_seed(name) is not None


def short_name(name: str) -> str:
    """The name of a teacher without the folders of its file, for a line of text.

    Parameters
    ----------
    name
        As for ``kind_of``.

    Examples
    --------
    >>> short_name("/data/weights/openl3.h5"), short_name("hear:own.birds@/data/birds.pt")
    ('openl3.h5', 'hear:own.birds@birds.pt')
    """
    module, at, path = name.rpartition("@") if name.startswith(PREFIX) else ("", "", name)
    return f"{module}{at}{Path(path).name}"


def absolute(name: str) -> str | None:
    """The name of a teacher, independent of the working folder.

    Parameters
    ----------
    name
        As for ``kind_of``.

    Returns
    -------
    str or None
        With an absolute path; None if it is neither a module, a file nor a folder.
    """
    if name.startswith(PREFIX):
        module, at, path = name.partition("@")
        return f"{module}@{Path(path).resolve()}" if at else module
    return str(Path(name).resolve()) if Path(name).exists() else None


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
