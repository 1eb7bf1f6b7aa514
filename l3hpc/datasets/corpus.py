"""Which recordings a folder holds, where and when each was made: what ``extract`` works through.

The listing needs no audio library, so that a submission can make it in an instant. Sensor and time
come from ``recordings.csv`` beside the audio, else from the first subfolder and the file name.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from l3hpc.audio import formats
from l3hpc.errors import InputError, command_line
from l3hpc.io.files import digest, walk_files
from l3hpc.io.tables import read_rows

AUDIO_SUFFIXES = formats.SOUND_SUFFIXES
TABLE = "recordings.csv"
UNKNOWN_SENSOR = "unknown"

_COLUMNS = ("file", "sensor", "timestamp", "level_dba")
FIRST, LAST = 0, 4_102_444_800  # unix seconds: recordings are of 1970 to 2100
_FINER = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))
_TIMES = "unix seconds (1511272800) or ISO 8601 (2017-11-21T09:00:00-05:00)"
_FURTHEST_ZONE = 14 * 60  # minutes from UTC
_ISO = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d{2})(?P=dash)(?P<day>\d{2})"
    r"(?:[T ](?P<hour>\d{2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})"
    r"(?:[.,](?P<fraction>\d{1,12}))?)?)?"
    r" ?(?:Z|UTC|(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?)?)?")
_NAME = re.compile(
    r"(?:(?P<sensor>.+)_)?(?:(?P<unix>\d{9,10}(?:\.\d+)?)|(?P<iso>\d{8}[T_]\d{6})Z?)"
)


class NoAudioError(InputError):
    """A folder without a single recording."""


@dataclass(frozen=True)
class Recording:
    """One audio file of a corpus.

    file: path relative to the scanned folder, with forward slashes.
    sensor: name of the sensor (``unknown`` where nothing tells).
    timestamp: start of the recording in unix seconds; None where unknown.
    level: sound pressure level in dB(A) where the sensor gave one.
    size, mtime_ns: of the file; ``size`` is -1 for a file that is not there, although the table
    names it or a link leads to it.
    """

    file: str
    sensor: str
    timestamp: float | None
    level: float | None
    size: int
    mtime_ns: int

    def as_json(self) -> list[Any]:
        """The fields in order, ready for a JSON list (see ``from_json``)."""
        return [self.file, self.sensor, self.timestamp, self.level, self.size, self.mtime_ns]

    @classmethod
    def from_json(cls, values: Iterable[Any]) -> Recording:
        """The inverse of ``as_json``."""
        return cls(*values)


def scan(folder: Path | str, *, any_name: bool = False) -> list[Recording]:
    """All recordings in a folder and below, sorted by file name.
     Audio is ``formats.SOUND_SUFFIXES`` (any case) and HDF5 with a dataset ``audio``; hidden files
    and folders are ignored, and so is a video beside the sound file of the same name.
    ``recordings.csv`` (columns file, sensor, timestamp and, optionally, level_dba) in ``folder``
    takes precedence over names; a time there is unix seconds or ISO 8601 (UTC unless it states
    otherwise). Without it the sensor is the first subfolder, or what stands before the time in
    ``<sensor>_<unix seconds or YYYYMMDDTHHMMSS, UTC>.wav``.

    Parameters
    ----------
    folder
        Where to look.
    any_name
        List also file names that are not UTF-8, which no artifact can hold.

    Returns
    -------
    list of Recording
        File, sensor, time and size of each.

    Raises
    ------
    InputError
        The folder does not exist or holds no audio, its table is broken, or a file name is not
        UTF-8.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder of audio", where=str(folder),
                         hint="Name a folder of audio, or make one: l3hpc data synth FOLDER")
    table = read_table(folder / TABLE) if (folder / TABLE).is_file() else {}
    found = dict(_walk(folder))
    odd = [] if any_name else [name for name in sorted(found) if not is_utf8(name)]
    if odd:
        raise InputError(f"{len(odd):,} file names are not UTF-8, first {printable(odd[0])}",
                         where=str(folder), allowed="file names in UTF-8",
                         hint="Rename them. Which they are: "
                              + command_line("data", "check", folder))
    recordings = []
    for name in sorted(found.keys() | table.keys()):
        status = found.get(name)
        sensor, timestamp, level = table.get(name) or (*sensor_and_time(name), None)
        recordings.append(Recording(
            name, sensor, timestamp, level,
            status.st_size if status else -1, status.st_mtime_ns if status else 0))
    if not recordings:
        raise NoAudioError(
            "holds no audio", where=str(folder),
            allowed=f"audio is {', '.join(AUDIO_SUFFIXES)}, or HDF5 with a dataset 'audio'")
    return recordings


def passed_over(folder: Path | str) -> str:
    """``3 other files: 2 .caf, 1 .txt``: what below ``folder`` is no recording; '' for nothing."""
    folder = Path(folder)
    taken = {name for name, _ in _walk(folder)}
    return formats.describe_ignored(
        path for path in walk_files(folder)
        if (name := path.relative_to(folder).as_posix()) not in taken and name != TABLE)


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8 on the disk (Python keeps other bytes as lone surrogates)."""
    return printable(name) == name


def printable(text: str) -> str:
    """A file name, or text that holds one, as any terminal takes it: ``\\xff`` for such a byte."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def npz_name(file: str) -> Path:
    """Where the npz file of a recording goes, below a task's folder ``npz``."""
    return Path(file).with_suffix(".npz")


def refuse_same_npz(recordings: Iterable[Recording], where: str) -> None:
    """Raise ``InputError`` where two recordings would have the same npz file (x.wav, x.flac).

    One that is not there has none.
    """
    taken: dict[Path, str] = {}
    for one in recordings:
        if one.size < 0:
            continue
        other = taken.setdefault(npz_name(one.file), one.file)
        if other != one.file:
            raise InputError(f"{other} and {one.file} would both become npz/{npz_name(one.file)}",
                             where=where, allowed="one recording of each name in a folder",
                             hint="Rename one of them, or leave npz out: embeddings.h5 holds both")


def manifest_digest(recordings: Iterable[Recording]) -> str:
    """32 hex digits that change when a file, its size, its time of writing or its sensor does."""
    return digest([recording.as_json() for recording in recordings])


def sensor_and_time(name: str) -> tuple[str, float | None]:
    """Sensor and unix time as told by a relative path (see ``scan``)."""
    path = Path(name)
    match = _NAME.fullmatch(path.stem)
    timestamp = None
    if match and match["unix"]:
        timestamp = float(match["unix"])
    elif match:
        try:
            moment = datetime.strptime(match["iso"].replace("_", "T"), "%Y%m%dT%H%M%S")
            timestamp = moment.replace(tzinfo=timezone.utc).timestamp()
        except ValueError:  # fourteen digits that are no date: the name tells no time
            match = None
    if len(path.parts) > 1:
        return path.parts[0], timestamp
    return (match and match["sensor"]) or UNKNOWN_SENSOR, timestamp


def read_table(path: Path) -> dict[str, tuple[str, float | None, float | None]]:
    """``recordings.csv`` as file → (sensor, unix time, level in dB(A)).

    Columns of other names are ignored. Raises ``InputError`` naming the line for a missing
    column, a bad number or time, a path that leaves the folder, or a file named twice; and for what
    ``l3hpc.io.tables`` refuses.
    """
    found: dict[str, tuple[str, float | None, float | None]] = {}
    table = read_rows(path, "table of recordings", _COLUMNS[:3], short_rows=True)
    line, columns = next(table)
    for column in columns:  # one that is misspelled would be lost unnoticed
        if _COLUMNS[3] not in columns and (column.strip().casefold() == _COLUMNS[3]
                                           or get_close_matches(column, _COLUMNS[3:], cutoff=0.8)):
            raise InputError(f"column '{column}' is not known", where=f"{path}:{line}",
                             allowed=f"did you mean '{_COLUMNS[3]}'?")
    for line, row in table:
        where, cells = f"{path}:{line}", dict(zip(columns, row, strict=True))
        name = cells["file"].strip().replace("\\", "/")
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise InputError(f"'{name}' is not a path below the folder", where=where)
        name = os.path.normpath(name)
        if name in found:
            raise InputError(f"'{name}' is listed twice", where=where)
        sensor = cells["sensor"].strip() or sensor_and_time(name)[0]
        found[name] = (sensor, _moment(cells["timestamp"], where),
                       _number(cells.get("level_dba"), "level_dba", where))
    return found


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Names and, of what is there, sizes: None for a broken link."""
    found = [path for path in walk_files(folder) if formats.is_sound(path)
             or formats.is_hdf5(path) and _holds_audio(path)]
    for path in formats.without_videos(found)[0]:
        yield path.relative_to(folder).as_posix(), _status(path)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # listed as a recording that is not there
        return None


def _holds_audio(path: Path) -> bool:
    from l3hpc.io.hdf5 import open_hdf5

    try:
        with open_hdf5(path) as file:
            return "audio" in file
    except InputError:  # not HDF5, or refused: extract lists it as unreadable, with the reason
        return True


def _moment(text: str, where: str) -> float | None:
    """Unix seconds of a cell; None for an empty one, or NaN."""
    text = text.strip()
    number = True
    try:
        moment = _finite(text)
    except ValueError:  # not a number: a date, or nothing we know
        number, moment = False, _iso(text)
    if moment is None and text and text.casefold() != "nan":
        raise InputError(f"'{text}' is not a time", where=where, allowed=_TIMES)
    if moment is None or FIRST <= moment <= LAST:
        return moment
    for unit, size in _FINER:
        if number and FIRST < moment / size <= LAST:
            raise InputError(f"'{text}' is a time in {unit}", where=where, allowed=_TIMES,
                             hint=f"In seconds it is {moment / size:.3f}.")
    raise InputError(f"'{text}' is a time outside 1970 to 2100", where=where, allowed=_TIMES)


def _iso(text: str) -> float | None:
    """Unix seconds of a date and time in ISO 8601, None for other text.

    Python's own reader takes other forms with every version; these are the same everywhere.
    """
    found = _ISO.fullmatch(text.upper())
    if not found:
        return None
    parts = {name: int(found[name] or 0) for name in ("year", "month", "day", "hour", "minute",
                                                      "second")}
    try:
        moment = datetime(**parts, tzinfo=timezone.utc)
    except ValueError:  # a 13th month, an hour 25
        return None
    ahead = 60 * int(found["hours"] or 0) + int(found["minutes"] or 0)
    if ahead > _FURTHEST_ZONE:
        return None
    fraction = float(f"0.{found['fraction']}") if found["fraction"] else 0.0
    return moment.timestamp() + fraction - 60 * (-ahead if found["sign"] == "-" else ahead)


def _number(text: str | None, column: str, where: str) -> float | None:
    text = (text or "").strip()
    try:
        return _finite(text)
    except ValueError:
        raise InputError(f"{column} '{text}' is not a number", where=where) from None


def _finite(text: str) -> float | None:
    """The number in a cell; None for an empty cell, NaN or infinity. ``ValueError`` otherwise."""
    value = float(text) if text else float("nan")
    return value if math.isfinite(value) else None
