"""Folders that are written whole: under a temporary name beside their place, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from l3hpc.errors import InputError
from l3hpc.io.files import fsync_folder, name_full_disk

_OTHER = "Name another folder."


@contextlib.contextmanager
def atomic_folder(target: Path, *, or_existing: bool = False) -> Iterator[Path]:
    """Make a temporary folder that becomes ``target`` by one rename when the block ends.

    If the block raises, the temporary folder is removed.

    Parameters
    ----------
    target
        The folder to make. One that exists must be empty; of a link, where it leads.
    or_existing
        Whether a folder that another process has made in the meantime may stay: the temporary one
        is removed then.

    Yields
    ------
    Path
        The temporary folder, beside ``target``.

    Raises
    ------
    InputError
        Before the block as ``real_folder`` does; after it, if another process has made ``target``.
    """
    target = real_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
    except OSError as error:
        error.filename = str(target)  # the one that the user has named
        raise
    try:
        yield temporary
        try:
            os.rename(temporary, target)
        except OSError as error:
            # Any other error means that what was written has no place.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if not or_existing:
                raise InputError("was made by another process in the meantime",
                                 where=str(target), hint=_OTHER) from None
        fsync_folder(target.parent)
    except OSError as error:
        name_full_disk(error, target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def real_folder(folder: Path) -> Path:
    """Return the place of a folder that a rename will make; see ``follow_links``.

    Raises
    ------
    InputError
        As ``follow_links`` does, or it is a mount point.
    """
    real = follow_links(folder)
    if os.path.ismount(real):
        raise InputError("is a mount point, which no new folder can replace", where=str(folder),
                         hint="Name a folder inside it.")
    return real


def follow_links(folder: Path) -> Path:
    """Return the place of a folder that is to be written, which a link may lead to.

    Parameters
    ----------
    folder
        The folder; it need not exist.

    Returns
    -------
    Path
        Absolute, without links.

    Raises
    ------
    InputError
        A link leads to itself, or a file is in the way.
    """
    real = Path(os.path.realpath(folder))
    for place in (real, *real.parents):
        if place.is_dir():
            break
        if os.path.lexists(place):
            what = "is a link that leads to itself" if place.is_symlink() else "is a file"
            raise InputError(what if place == real else f"{place} {what}", where=str(folder),
                             hint=_OTHER)
    return real
