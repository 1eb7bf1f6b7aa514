"""Paths with variables of a job (``/local/$USER/$SLURM_JOB_ID``), expanded without a shell."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from l3hpc.errors import InputError

LEAST_FREE = 2**30  # bytes, for the output of a task, whose size is not known before
_PIECE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})|([^$]+)")


def pieces(text: str) -> list[tuple[str, bool]]:
    """Divide a path into literal text and names of variables.

    Parameters
    ----------
    text
        The path.

    Returns
    -------
    list of (str, bool)
        Each piece, and whether it is the name of a variable.

    Examples
    --------
    >>> pieces("/local/$USER/${SLURM_JOB_ID}")
    [('/local/', False), ('USER', True), ('/', False), ('SLURM_JOB_ID', True)]
    """
    found, end = [], 0
    while end < len(text):
        match = _PIECE.match(text, end)
        # a $ that begins no name stays in the literal text, where the validator refuses it
        short, braced, literal = match.groups() if match else (None, None, text[end])
        name = short or braced
        found.append((name or literal, name is not None))
        end = match.end() if match else end + 1
    return found


def expand(text: str, variables: Mapping[str, str]) -> Path:
    """Replace the variables of a path by their values.

    Values are taken as they are: a ``$`` or a quote in one has no meaning.

    Parameters
    ----------
    text
        The path.
    variables
        Name → value: the environment of the job.

    Raises
    ------
    InputError
        If a variable is not set or empty, or the result is not an absolute path.

    Examples
    --------
    >>> expand("/local/$USER", {"USER": "ada"}).as_posix()
    '/local/ada'
    """
    parts = []
    for part, is_variable in pieces(text):
        value = variables.get(part, "") if is_variable else part
        if not value:
            raise InputError(f"the variable ${part} is not set in the job")
        parts.append(value)
    path = "".join(parts)
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise InputError(f"{path[:200]!r} is not an absolute path without '..'")
    return Path(path)


def usable(text: str, variables: Mapping[str, str]) -> Path:
    """Return a folder for scratch files on this machine.

    Parameters
    ----------
    text, variables
        As for ``expand``.

    Raises
    ------
    InputError
        If a variable is not set, or the folder does not exist, is not writable, or is full.
    """
    folder = expand(text, variables)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist on this node")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} is not writable")
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise InputError(f"{folder} has {free / 1e9:,.1f} GB free; at least "
                         f"{LEAST_FREE / 1e9:,.1f} GB are needed")
    return folder
