"""Taking damaged lines out of journals. The file as it was is kept in ``damaged/``. Records that
are not understood (``reading.fault``) are found too, and left: a newer version may know them.

A line is damaged when its writer was killed in the middle of it (nothing acknowledged is lost) or
when a disk failed. Files that were written within the last hour are left to their writer.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from l3hpc.io.files import fsync_folder, open_regular, write_bytes
from l3hpc.ledger.journal.reading import Damage, journal_files, parts
from l3hpc.ledger.journal.records import CLOSING, sealed

QUIET_S = 3600.0
SHOWN = 60


@dataclass(frozen=True)
class Damaged:
    """One file with damaged lines. lines: (number, its beginning). sound: how many lines are.
    odd: (number, why) of the sound lines that are not understood."""

    path: Path
    lines: list[tuple[int, str]]
    sound: int
    busy: bool
    odd: list[tuple[int, str]] = field(default_factory=list)


def find(folders: Iterable[Path], quiet_s: float = QUIET_S) -> list[Damaged]:
    """The journal files that hold lines that are damaged or not understood; files that cannot be
    read are left out."""
    found = []
    for path in journal_files(folders):
        try:
            with open_regular(path) as stream:
                data, age = stream.read(), time.time() - path.stat().st_mtime
        except OSError:
            continue
        lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1)
                 if line.strip()]
        bad = [(number, line[:SHOWN].decode("utf-8", "backslashreplace"))
               for number, line in lines if sealed(line) is None]
        damage = Damage()
        try:
            deque(parts(path, damage), maxlen=0)
        except FileNotFoundError:
            continue
        odd = damage.odd.get(os.fspath(path), [])
        if bad or odd:
            found.append(Damaged(path, bad, len(lines) - len(bad), age < quiet_s, odd))
    return found


def repair(damaged: Damaged) -> Path:
    """Leave only the sound lines in a file; where it is kept as it was.

    At each moment a reader finds every sound line: the file is renamed, its sound lines are written
    under its name, and then the old one is moved away.
    """
    path = damaged.path
    name = path.name.removesuffix(CLOSING)
    aside = path if path.name.endswith(CLOSING) else path.rename(path.with_name(name + CLOSING))
    lines = [line for line in aside.read_bytes().split(b"\n") if sealed(line) is not None]
    stat = aside.stat()
    whole = path.with_name(name)
    write_bytes(whole, b"".join(line + b"\n" for line in lines), mode=0o666)
    os.utime(whole, (stat.st_atime, stat.st_mtime))
    kept = path.parent / "damaged" / f"{name}.{time.time_ns():x}"
    kept.parent.mkdir(exist_ok=True)
    aside.rename(kept)
    fsync_folder(path.parent)
    return kept
