"""A workspace shared by a group: who may write what, and where others could do harm.

The folders of the workspace are open to the group, with the sticky bit: everybody adds runs and
artifacts, and nobody but its owner renames or deletes one. A run's own folder is its owner's alone;
``files.read_own`` refuses what somebody else put in its place.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from l3hpc.errors import InputError, shell_word
from l3hpc.io.files import is_owned_by_user, user_name
from l3hpc.workspace.layout import ArtifactFolder, Workspace

MODE = 0o3770  # the group may add; setgid: new files belong to it; sticky: each keeps their own
OPEN = stat.S_IWGRP | stat.S_IXGRP | stat.S_ISGID | stat.S_ISVTX


@dataclass(frozen=True)
class Danger:
    """A folder in which others can replace files of ours.

    Attributes
    ----------
    folder : Path
    words : str
        What is wrong, for a person.
    anybody : bool
        Whether every user of the machine can, not only a group.
    fix : str
        The command that its owner can type.
    """

    folder: Path
    words: str
    anybody: bool
    fix: str


def prepare(workspace: Path, kinds: Iterable[str]) -> None:
    """Open the folders of a workspace to its group.

    Parameters
    ----------
    kinds : iterable of str
        Kinds of steps whose artifacts are going to be added.

    Raises
    ------
    InputError
        Where a folder belongs to somebody else, who has to do it.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    state = workspace.stat()
    if state.st_mode & stat.S_IWGRP and not state.st_mode & stat.S_ISVTX:
        # somebody else's workspace: l3hpc doctor reports it
        with contextlib.suppress(PermissionError):
            workspace.chmod(stat.S_IMODE(state.st_mode) | stat.S_ISVTX)
    spool = Workspace(workspace).local_jobs
    for folder in (*_shared_folders(workspace, kinds), spool.parent, spool):
        open_to_group(folder, state.st_gid)
    prepare_ledger(workspace)


def check(workspace: Path, kinds: Iterable[str]) -> None:
    """Raise ``InputError`` where somebody else's folder prevents a submission into a workspace."""
    for folder in _shared_folders(workspace, kinds):
        if os.path.lexists(folder):
            _require_no_link(folder)
            require_writable(folder)


def prepare_ledger(workspace: Path) -> None:
    """Make the ledger's folders such that the group may write them, and new files belong to it.

    What another person made is left as it is: that person's submission has seen to it.
    """
    places = Workspace(workspace)
    for folder in (places.ledger, places.journal, places.sync_states):
        folder.mkdir(parents=True, exist_ok=True)
        for mode in (0o770, 0o2770):  # not every file system knows the second one
            with contextlib.suppress(PermissionError):
                folder.chmod(mode)


def _shared_folders(workspace: Path, kinds: Iterable[str]) -> list[Path]:
    """The folders into which everybody of a group writes, for the steps of these kinds."""
    places = Workspace(workspace)
    return [places.runs, places.artifacts, *map(places.artifacts_of, {*kinds})]


def prepare_artifact(folder: Path) -> None:
    """Open the folder of an artifact to its group, so that another person can finish it."""
    group = folder.parent.stat().st_gid
    open_to_group(folder, group)
    open_to_group(ArtifactFolder(folder).work, group)


def open_to_group(folder: Path, group: int) -> None:
    """Make a folder to which the group may add files, or make an existing one so."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _require_no_link(folder)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        state = os.fstat(handle)
        if state.st_uid == os.geteuid():
            if state.st_mode & MODE != MODE:
                with contextlib.suppress(PermissionError):  # we are no member of that group
                    os.fchown(handle, -1, group)
                with contextlib.suppress(PermissionError):
                    os.fchmod(handle, MODE)
            return
    finally:
        os.close(handle)
    require_writable(folder)


def _require_no_link(folder: Path) -> None:
    owner = folder.lstat().st_uid
    if folder.is_symlink() and owner not in (os.geteuid(), 0):
        raise InputError(f"is a link that {user_name(owner)} made", where=str(folder),
                         hint="Its owner can replace it by a folder.")


def require_writable(folder: Path) -> None:
    """Raise ``InputError`` for a folder that we cannot write to: whose it is and what to ask."""
    if not os.access(folder, os.W_OK | os.X_OK):
        owner = user_name(folder.stat().st_uid)
        raise InputError(
            f"belongs to {owner}, and you may not write into it", where=str(folder),
            hint=f"Ask {owner} to submit once with shared_group: true (docs/cluster.md), or set "
                 "another paths.workspace")


def check_own(workspace: Path, run: str) -> None:
    """Raise ``InputError`` for a run of somebody else: its files would decide what we run."""
    folder = Workspace(workspace).run(run).path
    with contextlib.suppress(FileNotFoundError):
        if not is_owned_by_user(folder):
            owner = user_name(folder.stat().st_uid)
            raise InputError(f"the run {run} belongs to {owner}: only {owner} can cancel or "
                             "resume it", where=str(folder),
                             hint="Submit the pipeline yourself; finished steps are reused.")


def dangers(workspace: Path) -> Iterator[Danger]:
    """Folders of a workspace, and above it, in which others can rename or replace our files."""
    folders = [*_shared_folders(workspace, ()), workspace, *workspace.parents]
    for folder in folders:
        try:
            state = folder.stat()
        except OSError:
            continue
        sticky = bool(state.st_mode & stat.S_ISVTX)
        inside = folder == workspace or workspace in folder.parents
        if state.st_mode & stat.S_IWOTH and (inside or not sticky):
            yield Danger(folder, f"anybody may {'add to' if sticky else 'replace'} what is in "
                                 f"{folder}", True, f"chmod o-w {shell_word(folder)}")
        elif state.st_mode & stat.S_IWGRP and not sticky and not _private(state.st_gid):
            words = f"the group {_group(state.st_gid)} may replace what is in {folder}"
            yield Danger(folder, words, False, f"chmod +t {shell_word(folder)}")


def _private(group: int) -> bool:
    """Whether a group is that of one person, as many systems make one for each."""
    return group == 0 or group == os.getegid() and _group(group) == user_name(os.geteuid())


def _group(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
