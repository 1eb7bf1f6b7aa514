"""Scratch space on the disk of the node, for what a task writes while it works.

``scratch:`` of the profile names a folder on the node. A task makes a folder of its own in it, for
its output until that is copied to the workspace, and for large files that can be made again. Files
that must survive the attempt (checkpoints, finished blocks) are always in the workspace, so that a
task can continue on another node. If the node's folder cannot be used, everything is in the
workspace.

The folder of a task is removed when the attempt ends. What a killed attempt has left is removed by
the next task of the same user on the node: a running task holds a lock on its folder. The name of a
folder ends in that of the node: on a shared file system, another node may not see the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from l3hpc.console.progress import Progress, doing
from l3hpc.errors import InputError
from l3hpc.io.job_path import usable
from l3hpc.io.syncing import make_durable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCK = ".lock"
WAIT_S = 60.0  # for other tasks that start at the same time
LEAST_ROOM = 2**24  # bytes; a disk without them is full
# the driver of HDF5 names the file in the text alone
_HDF5_NAME = re.compile(r"filename = '([^']+)'")
_setting = ""


def use(text: str) -> None:
    """Set the node's folder for the task of this process.

    Parameters
    ----------
    text
        ``scratch:`` of the profile, with variables of the job; empty for none.
    """
    global _setting
    _setting = text


def is_set() -> bool:
    """Return whether the profile names a folder on the node."""
    return bool(_setting)


@contextlib.contextmanager
def task_folder(name: str, note: Callable[[str], None]) -> Iterator[Path | None]:
    """Make a folder for one task on the disk of the node; it is removed when the block ends.

    Parameters
    ----------
    name
        Begins the name of the folder: the step, for the person who looks at the disk.
    note
        Receives why there is none.

    Yields
    ------
    Path or None
        The folder; None if the profile names none, or it cannot be used.
    """
    if not _setting:
        yield None
        return
    with contextlib.ExitStack() as stack:
        folder = None
        try:
            folder = stack.enter_context(
                _locked_folder(usable(_setting, os.environ), name, note))
            note(f"working in {folder}")
        except (InputError, OSError) as error:
            why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
            note(f"scratch: {_setting} of the profile is not used, the workspace is used instead: "
                 f"{why}")
        yield folder


def compute_on_node(compute: Callable[[Path, Path], dict[str, Any]], folder: Path, output: Path,
                    scratch: Path, progress: Progress) -> dict[str, Any] | None:
    """Compute on the disk of the node and copy the output to the workspace.

    Parameters
    ----------
    compute
        Computes into its first argument; the second is the folder of the task on the node.
    folder
        That folder.
    output, scratch
        The folders of the task in the workspace.
    progress
        Says that the disk became full.

    Returns
    -------
    dict or None
        What ``compute`` returned; None if the disk of the node became full.
    """
    made = folder / "output"
    made.mkdir()
    plain = made.stat().st_mode
    try:
        result = compute(made, folder)
    except Exception as error:
        if not is_full(error, folder, scratch):
            raise
        progress.note(f"the disk of the node is full ({folder}): the task starts again, and works "
                      "in the workspace from its last checkpoint")
        return None
    with doing("copying the output to the workspace"):
        _copy_content(made, output, plain)
        # opening a named pipe would wait for its writer
        make_durable([path for path in output.rglob("*")
                      if not path.is_symlink() and (path.is_file() or path.is_dir())])
    return result


def _copy_content(source: Path, target: Path, plain: int) -> None:
    """Copy files with their modes; not with their group, which is that of the workspace.

    Parameters
    ----------
    source, target
        The folders.
    plain
        Mode of a new folder. In the workspace it may be another one (group, access lists): only a
        mode that the step has set is copied.
    """
    for path in source.iterdir():
        copy, mode = target / path.name, path.lstat().st_mode
        if stat.S_ISDIR(mode):
            copy.mkdir()
            _copy_content(path, copy, plain)
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            # left by a program: it would stay in the output without scratch, too
            os.mknod(copy, mode)
        else:
            shutil.copy(path, copy, follow_symlinks=False)
    if source.stat().st_mode != plain:
        group = target.stat().st_mode & stat.S_ISGID
        target.chmod(stat.S_IMODE(source.stat().st_mode) | group)


def is_full(error: BaseException, folder: Path, workspace: Path) -> bool:
    """Return whether a task failed because the disk of the node is full, or the quota on it.

    An error that names its file tells the disk. An error that does not, such as the exit code of a
    command, counts if there is no room left on the node; of an error that says "no space" and not
    where, the workspace must have room, too, because a step may have removed what it could not
    complete.

    Parameters
    ----------
    error
        The error; those that it was raised from are looked at, too.
    folder
        The folder of the task on the node.
    workspace
        A folder in the workspace.
    """
    says_full = False
    cause: BaseException | None = error
    while cause is not None:
        # HDF5 gives the number in some places, and only the text in others
        if isinstance(cause, OSError) and (cause.errno in _FULL or any(
                os.strerror(number) in str(cause) for number in _FULL)):
            says_full = True
            if names := _file_names(cause):
                return any(name.is_relative_to(folder.resolve()) for name in names)
        cause = cause.__cause__ or cause.__context__
    return not _has_room(folder) or says_full and _has_room(workspace)


def _file_names(error: OSError) -> list[Path]:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2)
             if isinstance(name, (str, bytes))]
    return [Path(name).resolve() for name in names or _HDF5_NAME.findall(str(error))]


def _has_room(folder: Path) -> bool:
    """Return whether a file can be made; unlike the free space, this also finds a quota."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            os.posix_fallocate(stream.fileno(), 0, LEAST_ROOM)
    except OSError as error:
        return error.errno not in _FULL
    return True


@contextlib.contextmanager
def _locked_folder(parent: Path, name: str, note: Callable[[str], None]) -> Iterator[Path]:
    own = parent / f"l3hpc-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    # in a folder like /tmp anybody could have made it: what lies there becomes a result
    state = own.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise InputError(f"{own} is not a folder that only you can write")
    # no host name contains it
    node = f"@{socket.gethostname()}"
    # one at a time: a folder that is not locked yet would look like that of a killed task
    with _lock(own / _LOCK, note):
        leftovers = _lock_leftovers(own, node)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=node, dir=own))
        held = _open_lock(folder / _LOCK)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        # after releasing the common lock: a large folder takes long, and other tasks may start
        for leftover, handle in leftovers.items():
            _remove(leftover, handle)
        yield folder
    finally:
        _remove(folder, held)


def _remove(folder: Path, lock: int) -> None:
    """Remove a folder and give up its lock.

    NFS keeps a file that is open under another name, in a folder that then cannot be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    shutil.rmtree(folder, ignore_errors=True)


def _lock_leftovers(own: Path, node: str) -> dict[Path, int]:
    """Lock the folders of killed tasks of this node; the locks of those that run are held."""
    found = {}
    for folder in own.iterdir():
        if not folder.name.endswith(node) or folder.is_symlink() or not folder.is_dir():
            continue
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            handle = _open_lock(folder / _LOCK)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.pop_all()
            found[folder] = handle
    return found


@contextlib.contextmanager
def _lock(path: Path, note: Callable[[str], None]) -> Iterator[None]:
    handle = _open_lock(path)
    try:
        end, is_noted = time.monotonic() + WAIT_S, False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise InputError(f"another task has held the lock {path} for "
                                     f"{WAIT_S:g} s") from None
            if not is_noted:
                note(f"scratch: waiting up to {WAIT_S:g} s for the lock {path} of another task")
                is_noted = True
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
