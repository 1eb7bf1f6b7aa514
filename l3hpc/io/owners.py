"""Users of this machine, and files that must belong to the current one.

In a shared workspace another member could replace a file. What is executed or unpickled is
therefore read through ``read_own_file``, which refuses a file of anybody else but root.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import stat
import tempfile
from pathlib import Path
from typing import IO

from l3hpc.errors import InputError


def read_own_file(path: Path | str) -> bytes:
    """Read a file that will be executed or unpickled, and so must belong to the current user.

    Raises
    ------
    InputError
        The file belongs to another user (other than root), or is not a regular file.
    """
    with open_own_file(path) as stream:
        return stream.read()


def open_own_file(path: Path | str) -> IO[bytes]:
    """Open a file that must belong to the current user; see ``read_own_file``."""
    path = Path(path)
    # The owner is read from the open file, so that nobody can exchange the file after the check.
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    try:
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise InputError("not a regular file", where=str(path))
        if not is_trusted_owner(state.st_uid, path.parent):
            raise InputError(f"belongs to {user_name(state.st_uid)}, not to you: it is not "
                             "executed", where=str(path))
    except BaseException:
        stream.close()
        raise
    return stream


def is_owned_by_user(folder: Path) -> bool:
    """Whether a folder belongs to the current user."""
    return is_trusted_owner(os.stat(folder).st_uid, Path(folder))


def current_user() -> str:
    """The name of the current user, as Slurm uses it, or the user id if there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container whose passwd file does not list the user
        return str(os.getuid())


def user_name(uid: int) -> str:
    """The name of a user of this machine, or ``user 1234`` if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def who_decides(path: Path | str) -> str:
    """Say whose permissions a refused path depends on: ``/a belongs to ann (drwx------)``.

    Parameters
    ----------
    path
        A file or folder. If it does not exist, or lies in a folder that may not be entered, the
        nearest folder above it that can be seen is named.
    """
    place = Path(path).absolute()
    for seen in (place, *place.parents):
        with contextlib.suppress(OSError):
            state = os.stat(seen)
            return f"{seen} belongs to {user_name(state.st_uid)} ({stat.filemode(state.st_mode)})"
    return ""


def is_trusted_owner(uid: int, folder: Path) -> bool:
    """Whether the owner of a file is the current user, or root.

    Parameters
    ----------
    uid
        The owner.
    folder
        Where the file is: some file systems show the same owner for all files.
    """
    if uid in (os.geteuid(), 0):
        return True
    # Some network file systems show one owner for all files: compare with that of a new file.
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            return uid == os.fstat(probe.fileno()).st_uid
    except OSError:
        return False
