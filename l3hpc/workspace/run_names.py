"""The names of the runs of a workspace, by their folders: no record is read."""

from __future__ import annotations

import os
import re
from pathlib import Path

from l3hpc.errors import InputError, command_line, nearest
from l3hpc.io.owners import is_owned_by_user, who_decides
from l3hpc.workspace.layout import RunFolder, Workspace

NAME = re.compile(r"(?!\.{1,2}$)[^/\0]+")  # of a run or a step, which are names of folders


def names(workspace: Path) -> list[str]:
    """List the names of all recorded runs in alphabetical order.

    Runs that other users keep to themselves are left out.

    Parameters
    ----------
    workspace
        The workspace folder; it need not exist.

    Raises
    ------
    InputError
        If it is not a folder.
    """
    return sorted(entry.name for entry in _entries(workspace) if _has_record(entry.path))


def names_without_record(workspace: Path) -> list[str]:
    """List the folders of runs that have no record, in alphabetical order: each is being submitted,
    or its submission was killed.

    Parameters
    ----------
    workspace
        The workspace folder; it need not exist.

    Raises
    ------
    InputError
        If it is not a folder.
    """
    return sorted(entry.name for entry in _entries(workspace)
                  if entry.is_dir(follow_symlinks=False) and not _has_record(entry.path)
                  and not _is_hidden(entry.path))


def unknown_run(workspace: Path, text: str) -> InputError:
    """Return the error for a run that does not exist, with the nearest names.

    Parameters
    ----------
    workspace
        The workspace folder.
    text
        What was given as the name.
    """
    known = names(workspace)
    if NAME.fullmatch(text) and _is_hidden(folder := str(Workspace(workspace).run(text))):
        return InputError(f"the run {text} cannot be read: its owner keeps it private",
                          where=folder, hint=who_decides(folder))
    if text in names_without_record(workspace):
        return InputError(f"the run {text} has no record: it is being submitted, or its submission "
                          "was killed", where=str(Workspace(workspace).run(text)),
                          hint=f"{command_line('status')} says which, and what to do next.")
    where = f"no run {text!r} in {Workspace(workspace).runs}"
    if not known:
        return InputError(where, hint="Nothing has been submitted in this workspace: "
                                      + command_line("submit"))
    if len(known) > 20:
        import difflib

        known = difflib.get_close_matches(text, known, n=5, cutoff=0.3) or known[-5:]
    return InputError(where, allowed=nearest(text, known))


def not_a_folder(workspace: Path) -> InputError:
    """Return the error for a workspace that is not a folder.

    Parameters
    ----------
    workspace
        The path.
    """
    return InputError("is not a folder, or lies below a file", where=str(workspace),
                      hint="A workspace is a folder: set another one with --workspace or "
                           "paths.workspace.")


def _entries(workspace: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(Workspace(workspace).runs)
                if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise not_a_folder(workspace) from None


def _has_record(folder: str) -> bool:
    # also a broken link, so that a damaged run is named instead of missing
    return os.path.lexists(RunFolder(folder).record) \
        or _is_hidden(folder) and is_owned_by_user(Path(folder))


def _is_hidden(folder: str) -> bool:
    """Whether the folder of a run may not be entered, so that its record cannot be found."""
    try:
        os.lstat(RunFolder(folder).record)
    except PermissionError:
        return True
    except OSError:
        pass
    return False
