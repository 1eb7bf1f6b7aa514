"""Scratch space on the disk of the node, for what a task writes while it works.

``scratch:`` of the profile names a folder on the node. A task makes a folder of its own in it, for
its output until that is copied to the workspace, and for large files that can be made again. Files
that must survive the attempt (checkpoints, finished blocks) are always in the workspace, so that a
task can continue on another node. If the node's folder cannot be used, everything is in the
workspace.

The folder of a task is removed when the attempt ends. What a killed attempt has left is removed by
the next task of the same user on the node: a running task holds a lock on its folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from l3hpc.errors import InputError
from l3hpc.io.job_path import usable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCK = ".lock"
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
            folder = stack.enter_context(_locked_folder(usable(_setting, os.environ), name))
            note(f"working in {folder}")
        except (InputError, OSError) as error:
            why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
            note(f"scratch: {_setting} of the profile is not used, the workspace is used instead: "
                 f"{why}")
        yield folder


def is_full(error: BaseException | None) -> bool:
    """Return whether an error comes from a disk without space, or a quota that is used up.

    Parameters
    ----------
    error
        The error; those that it was raised from are looked at, too.
    """
    while error is not None:
        # HDF5 gives the number in some places, and only the text in others
        if isinstance(error, OSError) and (error.errno in _FULL or any(
                os.strerror(number) in str(error) for number in _FULL)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _locked_folder(parent: Path, name: str) -> Iterator[Path]:
    own = parent / f"l3hpc-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    # in a folder like /tmp anybody could have made it: what lies there becomes a result
    state = own.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise InputError(f"{own} is not a folder that only you can write")
    # one at a time: a folder that is not locked yet would look like that of a killed task
    with _lock(own / _LOCK):
        _remove_leftovers(own)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=own))
        held = _open_lock(folder / _LOCK)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _remove_leftovers(own: Path) -> None:
    for folder in own.iterdir():
        if not folder.is_dir():
            continue
        with contextlib.suppress(OSError):
            handle = _open_lock(folder / _LOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    handle = _open_lock(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
