"""The workspace of ``l3hpc.run``, ``runs`` and ``submit`` in a notebook. The commands that their
messages name lead to it, as those of the command line do (``cli/place``).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, cast

from l3hpc.errors import InputError, L3hpcError, completed_commands

Method = TypeVar("Method", bound=Callable[..., Any])

# commands without --workspace; all others have it
ELSEWHERE = ("config", "data", "demo", "doctor", "init", "run", "teacher")


def folder_of(workspace: str | os.PathLike[str] | None) -> Path:
    """Return the absolute path of a workspace.

    Parameters
    ----------
    workspace
        The workspace folder. None: that of ``cluster.yaml``.

    Raises
    ------
    InputError
        It is no path.
    """
    if workspace is None:
        from l3hpc.config import settings

        return settings.load().workspace
    if not isinstance(workspace, str | os.PathLike) or not os.fspath(workspace):
        raise InputError(f"a workspace is given by the path of its folder, not by {workspace!r}")
    return Path(os.path.abspath(workspace))


def naming(workspace: str | os.PathLike[str] | None, config: str | os.PathLike[str] | None = None
           ) -> AbstractContextManager[None]:
    """Add ``--workspace`` and ``--config`` to the commands of messages made in this block.

    Parameters
    ----------
    workspace
        The workspace folder. It is not named where commands find it themselves: None, or that of
        ``cluster.yaml``.
    config
        The configuration file, if another one was given.
    """
    def complete(words: Sequence[str]) -> Sequence[str]:
        if "--help" in words or words[0] in ELSEWHERE:
            return words
        given = ["--config", os.path.abspath(config)] if _is_path(config) else []
        if _is_path(workspace) and (given or Path(os.path.abspath(workspace)) != _default()):
            given += ["--workspace", os.path.abspath(workspace)]
        return [*words, *given]

    return completed_commands(complete)


def names_workspace(method: Method) -> Method:
    """Decorate a method so that messages name commands for the workspace of its object."""
    @functools.wraps(method)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        with naming(self.workspace):
            return method(self, *arguments, **options)

    return cast("Method", wrapped)


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a value that was given is a path; what is wrong with others is told elsewhere."""
    return isinstance(value, str | os.PathLike)


def _default() -> Path | None:
    """The workspace of commands that are told none; None if ``cluster.yaml`` is wrong."""
    from l3hpc.config import settings

    try:
        return settings.load().workspace
    except L3hpcError:
        return None
