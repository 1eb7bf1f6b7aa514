"""A workspace shared by a group: who may write what, and where others could do harm.

The folders of the workspace are open to the group, with the sticky bit: every member adds runs and
artifacts, and only the owner renames or deletes one. The folder of a run belongs to its owner
alone; ``owners.read_own_file`` refuses a file that somebody else put in its place.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from l3hpc.errors import InputError, shell_path
from l3hpc.io.owners import is_owned_by_user, is_trusted_owner, user_name
from l3hpc.workspace.layout import ArtifactFolder, Workspace

SHOWN = 3  # files in a message
MODE = 0o3770  # the group may add; setgid: new files belong to it; sticky: each keeps their own


@dataclass(frozen=True)
class Risk:
    """A folder in which other users can replace our files, or files that they can change.

    Attributes
    ----------
    folder : Path
        The folder, or that of the first file.
    message : str
        What is wrong.
    anybody : bool
        Whether every user of the machine can, not only a group.
    fix : str
        The command by which its owner can fix it, or what can be done.
    owned : bool
        Whether it is that another user owns the files.
    """

    folder: Path
    message: str
    anybody: bool
    fix: str
    owned: bool = False


def prepare(workspace: Path, kinds: Iterable[str]) -> None:
    """Open the folders of a workspace to its group.

    Parameters
    ----------
    workspace
        The workspace folder; it is created.
    kinds
        Kinds of the steps whose artifacts will be added.

    Raises
    ------
    InputError
        If a folder belongs to another user, who has to open it.
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
    """Check that no folder of another user prevents a submission into a workspace.

    Parameters
    ----------
    workspace
        The workspace folder.
    kinds
        Kinds of the steps whose artifacts will be added.

    Raises
    ------
    InputError
        If one does.
    """
    for folder in _shared_folders(workspace, kinds):
        if os.path.lexists(folder):
            _require_no_link(folder)
            require_writable(folder)


def written_folders(workspace: Path) -> list[Path]:
    """Return the folders into which a submission writes.

    Parameters
    ----------
    workspace
        The workspace folder; it need not exist.

    Returns
    -------
    list of Path
        Those inside it, once they exist: the folder itself may belong to another member of the
        group alone. Until then the folder itself.
    """
    places = Workspace(workspace)
    inside = [places.runs, places.artifacts, places.ledger]
    return inside if all(map(os.path.isdir, inside)) else [workspace]


def prepare_ledger(workspace: Path) -> None:
    """Create the folders of the ledger, writable by the group; new files belong to the group.

    Folders of another user are left alone: that user's submission has prepared them.

    Parameters
    ----------
    workspace
        The workspace folder.
    """
    places = Workspace(workspace)
    for folder in (places.ledger, places.journal, places.sync_states):
        folder.mkdir(parents=True, exist_ok=True)
        # not every file system has the setgid bit of the second one
        for mode in (0o770, 0o2770):
            with contextlib.suppress(PermissionError):
                folder.chmod(mode)


def _shared_folders(workspace: Path, kinds: Iterable[str]) -> list[Path]:
    """The folders into which every member of the group writes, for steps of these kinds."""
    places = Workspace(workspace)
    return [places.runs, places.artifacts, *map(places.artifacts_of, {*kinds})]


def prepare_artifact(folder: Path) -> None:
    """Open the folder of an artifact to its group, so that another member can finish it.

    Parameters
    ----------
    folder
        Folder of the artifact.

    Raises
    ------
    InputError
        If it belongs to another user and is not writable.
    """
    group = folder.parent.stat().st_gid
    open_to_group(folder, group)
    open_to_group(ArtifactFolder(folder).work, group)


def open_to_group(folder: Path, group: int) -> None:
    """Create a folder that a group may add files to, or open an existing one.

    Parameters
    ----------
    folder
        The folder.
    group
        Id of the group.

    Raises
    ------
    InputError
        If it is another user's link, or another user's folder that is not writable.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _require_no_link(folder)
    # by descriptor, so that the folder that is checked is the one whose mode is changed
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        state = os.fstat(handle)
        if state.st_uid == os.geteuid():
            if state.st_mode & MODE != MODE:
                with contextlib.suppress(PermissionError):  # we are not a member of that group
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
        name = user_name(owner)
        raise InputError(f"is a symbolic link that belongs to {name}; a folder is needed",
                         where=str(folder), hint=f"Ask {name} to replace it with a folder.")


def require_writable(folder: Path) -> None:
    """Check that we can write to a folder.

    Parameters
    ----------
    folder
        An existing folder.

    Raises
    ------
    InputError
        If we cannot: names its owner, and what to ask of them.
    """
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise InputError("is on a read-only file system", where=str(folder),
                         hint="Set another paths.workspace.")
    if not os.access(folder, os.W_OK | os.X_OK):
        owner = user_name(folder.stat().st_uid)
        raise InputError(
            f"belongs to {owner}, and you have no permission to write to it", where=str(folder),
            hint=f"Ask {owner} to submit once with shared_group: true (docs/cluster.md), or set "
                 "another paths.workspace")


def check_own(workspace: Path, run: str) -> None:
    """Check that a run is ours: its files decide what we run.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run; it need not exist.

    Raises
    ------
    InputError
        If the run belongs to another user.
    """
    folder = Workspace(workspace).run(run).path
    with contextlib.suppress(FileNotFoundError):
        if not is_owned_by_user(folder):
            owner = user_name(folder.stat().st_uid)
            raise InputError(f"the run {run} belongs to {owner}: only {owner} can change it",
                             where=str(folder),
                             hint="Submit the pipeline yourself; finished steps are reused.")


@contextlib.contextmanager
def same_readers(folder: Path) -> Iterator[None]:
    """Within the block, open new files to those who may read a folder, whatever the umask.

    A command that changes a run writes with the umask of a shell, which may be stricter than that
    of the submission: the group would lose a file that it could read.

    Parameters
    ----------
    folder
        The folder of a run.
    """
    try:
        mode = os.stat(folder).st_mode
    except OSError:  # the command itself reports it
        yield
        return
    readers = stat.S_IRWXU | mode & (stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    before = os.umask(0o777 & ~readers)
    try:
        yield
    finally:
        os.umask(before)


def find_risks(workspace: Path) -> Iterator[Risk]:
    """Find folders of a workspace, and above it, in which others can rename or replace our files.

    Parameters
    ----------
    workspace
        The workspace folder.

    Yields
    ------
    Risk
        One per folder.
    """
    folders = [*_shared_folders(workspace, ()), workspace, *workspace.parents]
    for folder in folders:
        try:
            state = folder.stat()
        except OSError:
            continue
        sticky = bool(state.st_mode & stat.S_ISVTX)
        inside = folder == workspace or workspace in folder.parents
        if state.st_mode & stat.S_IWOTH and (inside or not sticky):
            can = "add files to" if sticky else "replace files in"
            yield Risk(folder, f"anybody can {can} {folder}", True,
                       f"chmod o-w {shell_path(folder)}")
        elif state.st_mode & stat.S_IWGRP and not sticky and not _private(state.st_gid):
            message = f"the group {_group(state.st_gid)} can replace files in {folder}"
            yield Risk(folder, message, False, f"chmod +t {shell_path(folder)}")


def find_file_risks(files: Iterable[Path]) -> Iterator[Risk]:
    """Find files that decide what our jobs do, and that others can change.

    Parameters
    ----------
    files
        The files: cluster.yaml, pipelines, templates.

    Yields
    ------
    Risk
        One for each kind of problem; ``folder`` is that of its first file.
    """
    open_to: dict[str, list[Path]] = {}
    owned: dict[str, list[Path]] = {}
    for file in files:
        try:
            state = file.stat()
            trusted = is_trusted_owner(state.st_uid, file.parent)
        except OSError:
            continue
        if state.st_mode & stat.S_IWOTH:
            open_to.setdefault("anybody", []).append(file)
        elif state.st_mode & stat.S_IWGRP and not _private(state.st_gid):
            open_to.setdefault(f"the group {_group(state.st_gid)}", []).append(file)
        if not trusted:
            owned.setdefault(user_name(state.st_uid), []).append(file)
    for who, own in open_to.items():
        words = " ".join(shell_path(file) for file in own[:SHOWN]) + " …" * (len(own) > SHOWN)
        yield Risk(own[0].parent, f"{who} can change {_some(own)}, and so what your jobs do",
                   who == "anybody", f"chmod {'o-w' if who == 'anybody' else 'g-w'} {words}")
    for who, own in owned.items():
        yield Risk(own[0].parent, f"{who} owns {_some(own)}, and can change what your jobs do",
                   False, "work in a folder of your own, with copies of what you need", owned=True)


def warnings(risks: Iterable[Risk]) -> list[str]:
    """Describe the risks that a submission warns of: those from anybody, and another user's files.

    Parameters
    ----------
    risks
        From ``find_risks`` and ``find_file_risks``.
    """
    return [f"warning: {risk.message}; to fix it: {risk.fix}" for risk in risks
            if risk.anybody or risk.owned]


def _some(files: Sequence[Path]) -> str:
    names = ", ".join(str(file) for file in files[:SHOWN])
    return names + (f" and {len(files) - SHOWN} more" if len(files) > SHOWN else "")


def _private(group: int) -> bool:
    """Whether a group has a single member, as many systems create one per user."""
    return group == 0 or group == os.getegid() and _group(group) == user_name(os.geteuid())


def _group(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
