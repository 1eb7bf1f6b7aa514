"""The crontab line of a command: absolute paths, no two passes at once, a private log."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from l3hpc.errors import InputError
from l3hpc.io.files import private_file, private_folder


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
    folder = private_folder(folder.expanduser().absolute())
    log = private_file(folder / f"{name}.log")
    settings = dict(variables)
    try:
        metadata.distribution("l3hpc")
    except metadata.PackageNotFoundError:  # run from a clone that is not installed
        settings["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    line = ["env", *(f"{variable}={value}" for variable, value in settings.items())] \
        if settings else []
    line += [sys.executable, "-m", "l3hpc", *words]
    if flock := shutil.which("flock"):
        line = [flock, "-n", str(private_file(folder / f"{name}.lock")), *line]
    odd = next((word for word in [*line, str(log)] if not word.isprintable()), None)
    if odd is not None:
        raise InputError("a crontab cannot hold a path with a line break or a control character",
                         where=repr(odd))
    text = f"{shlex.join(line)} >>{shlex.quote(str(log))} 2>&1"
    # cron turns an unescaped % into a line break
    return f"*/{every} * * * * " + text.replace("%", r"\%"), log
