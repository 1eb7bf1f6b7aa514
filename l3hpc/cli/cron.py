"""How often a command is repeated: the interval of a watch, and the crontab line of a command, with
absolute paths, no two passes at once and a private log.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from l3hpc.errors import InputError
from l3hpc.io.owners import is_trusted_owner


class Interval(click.FloatRange):
    """Seconds between two passes, at most a day; ``nan``, which no comparison refuses, is none.

    Parameters
    ----------
    least : float
        The shortest interval, seconds.
    """

    def __init__(self, least: float) -> None:
        super().__init__(least, 86_400)

    def convert(self, value: Any, param: click.Parameter | None,
                ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"{value!r} is not a valid number of seconds.", param, ctx)
        return seconds


def crontab_line(words: Sequence[str], name: str, every: int, folder: Path,
                 variables: Mapping[str, str]) -> tuple[str, Path]:
    """The line that runs ``l3hpc WORDS`` every so many minutes, and its log.

    Parameters
    ----------
    words : sequence of str
        The command and its options. Paths have to be absolute: cron starts in the home folder.
    name : str
        Names the log and the lock.
    every : int
        Minutes.
    folder : Path
        For the log and the lock; below the home folder, where nobody else can put a link.
    variables : mapping of str to str
        Environment of the command: cron knows no variable of this shell.
    """
    from importlib import metadata

    folder = _private_folder(folder.expanduser().absolute())
    log = _private_file(folder / f"{name}.log")
    settings = dict(variables)
    try:
        metadata.distribution("l3hpc")
    except metadata.PackageNotFoundError:  # run from a clone that is not installed
        settings["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    line = ["env", *(f"{variable}={value}" for variable, value in settings.items())] \
        if settings else []
    line += [sys.executable, "-m", "l3hpc", *words]
    if flock := shutil.which("flock"):
        line = [flock, "-n", str(_private_file(folder / f"{name}.lock")), *line]
    odd = next((word for word in [*line, str(log)] if not word.isprintable()), None)
    if odd is not None:
        raise InputError("a crontab cannot hold a path with a line break or a control character",
                         where=repr(odd))
    text = f"{shlex.join(line)} >>{shlex.quote(str(log))} 2>&1"
    # cron turns an unescaped % into a line break
    return f"*/{every} * * * * " + text.replace("%", r"\%"), log


def _private_folder(folder: Path) -> Path:
    """Make ``folder`` and its parent (in the home folder), accessible to the current user alone.

    Raises
    ------
    InputError
        Another user could replace its files: it is a link, it belongs to another user, or others
        may write to the home folder.
    """
    home = folder.parent.parent
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(home.stat().st_mode) & 0o022 and not home.stat().st_mode & stat.S_ISVTX:
        raise InputError("others may write into your home folder", where=str(home),
                         hint=f"chmod go-w {shlex.quote(str(home))}")
    for path, links, mask in ((folder.parent, 0, 0o755), (folder, os.O_NOFOLLOW, 0o700)):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | links)
        except OSError as error:
            raise InputError(f"must be a folder of your own: {error.strerror}",
                             where=str(path)) from None
        try:
            status = os.fstat(handle)
            if not is_trusted_owner(status.st_uid, path):
                raise InputError("must be a folder of your own, but belongs to another user",
                                 where=str(path))
            os.fchmod(handle, stat.S_IMODE(status.st_mode) & mask)
        finally:
            os.close(handle)
    return folder


def _private_file(path: Path) -> Path:
    """Make ``path`` a file of the current user alone, empty if it is new.

    Raises
    ------
    InputError
        It is a link or not a regular file, has further hard links, or belongs to another user.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                         | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise InputError(f"must be a file of your own: {error.strerror}",
                         where=str(path)) from None
    try:
        status = os.fstat(handle)
        if status.st_nlink > 1 or not (
                stat.S_ISREG(status.st_mode) and is_trusted_owner(status.st_uid, path.parent)):
            raise InputError("must be a file of your own, without further hard links",
                             where=str(path))
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    return path
