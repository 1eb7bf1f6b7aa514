"""List the recordings of a folder, with sensor and time of each: what ``extract`` processes.

The listing needs no audio library, so that a submission can make it at once. Sensor and time come
from ``recordings.csv`` beside the audio, else from the first subfolder and the file name.
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
from l3hpc.console.progress import doing
from l3hpc.errors import InputError, command_line
from l3hpc.io.files import digest, walk_files
from l3hpc.io.tables import read_rows
from l3hpc.io.values import count_of, normalised

AUDIO_SUFFIXES = formats.SOUND_SUFFIXES
TABLE = "recordings.csv"
UNKNOWN_SENSOR = "unknown"

FIRST, LAST = 0, 4_102_444_800  # unix seconds: the years 1970 to 2100
_COLUMNS = ("file", "sensor", "timestamp", "level_dba")
_SMALLER_UNITS = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))
_TIMES = "unix seconds (1511272800) or ISO 8601 (2017-11-21T09:00:00-05:00)"
_MAX_ZONE = 14 * 60  # minutes from UTC
_ISO = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d{2})(?P=dash)(?P<day>\d{2})"
    r"(?:[T ](?P<hour>\d{2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})"
    r"(?:[.,](?P<fraction>\d{1,12}))?)?)?"
    r" ?(?:Z|UTC|(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?)?)?")
_NAME = re.compile(
    r"(?:(?P<sensor>.+)_)?(?:(?P<unix>\d{9,10}(?:\.\d+)?)|(?P<iso>\d{8}[T_]\d{6})Z?)"
)


class NoAudioError(InputError):
    """A folder holds no recording."""


@dataclass(frozen=True)
class Recording:
    """One audio file of a corpus.

    Attributes
    ----------
    file
        Path relative to the scanned folder, with forward slashes.
    sensor
        Name of the sensor (``unknown`` where it is not known).
    timestamp
        Start of the recording in unix seconds; None where it is not known.
    level
        Sound pressure level in dB(A), where the sensor measured one.
    size
        Bytes; -1 for a missing file that the table lists or a link points to.
    mtime_ns
        Time of the last change.
    """

    file: str
    sensor: str
    timestamp: float | None
    level: float | None
    size: int
    mtime_ns: int

    def as_json(self) -> list[Any]:
        """The fields in order, which ``from_json`` reads."""
        return [self.file, self.sensor, self.timestamp, self.level, self.size, self.mtime_ns]

    @classmethod
    def from_json(cls, values: Iterable[Any]) -> Recording:
        """The recording that ``as_json`` described.

        Parameters
        ----------
        values
            The fields in order.

        Returns
        -------
        Recording
            The recording.
        """
        return cls(*values)


def scan_recordings(folder: Path | str, *, any_name: bool = False) -> list[Recording]:
    """List all recordings of a folder and its subfolders, sorted by file name.

    Audio is ``formats.SOUND_SUFFIXES`` (any case) and HDF5 with a dataset ``audio``; hidden files
    and folders are ignored, and so is a video beside a sound file of the same name.
    ``recordings.csv`` (columns file, sensor, timestamp and, optionally, level_dba) in ``folder``
    takes precedence over names; a time there is in unix seconds or ISO 8601 (UTC unless it states
    otherwise). Without it the sensor is the first subfolder, or what precedes the time in
    ``<sensor>_<unix seconds or YYYYMMDDTHHMMSS, UTC>.wav``.

    Parameters
    ----------
    folder
        The recordings.
    any_name
        Whether to list file names that are not UTF-8 too, which no artifact can hold.

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
                         hint="Name a folder of audio, or make one: "
                              + command_line("data", "synth", "FOLDER"))
    table = read_table(folder / TABLE) if (folder / TABLE).is_file() else {}
    with doing(f"listing {printable(str(folder))}"):
        files = dict(_walk(folder))
    invalid = [] if any_name else [name for name in sorted(files) if not is_utf8(name)]
    if invalid:
        raise InputError(f"{count_of(len(invalid), 'file name is', 'file names are')} not "
                         f"UTF-8, first {printable(invalid[0])}", where=str(folder),
                         allowed="file names in UTF-8",
                         hint="Rename them. To list them: "
                              + command_line("data", "check", folder))
    if any(name not in files for name in table):
        # The same letters, which another system has written with accents of their own.
        same = {normalised(name): name for name in files}
        rows, table = table, {}
        for name, row in rows.items():
            file = name if name in files else same.get(normalised(name), name)
            if file in table:
                raise InputError(f"has two rows for {file}, with its accents written in two ways",
                                 where=str(folder / TABLE), allowed="one row for each recording")
            table[file] = row
    recordings = []
    # Files of the table that are missing are listed as well: extract names them instead of passing
    # over them.
    for name in sorted(files.keys() | table.keys()):
        status = files.get(name)
        sensor, timestamp, level = table.get(name) or (*sensor_and_time(name), None)
        recordings.append(Recording(
            name, sensor, timestamp, level,
            status.st_size if status else -1, status.st_mtime_ns if status else 0))
    if not recordings:
        raise NoAudioError(
            "holds no audio", where=str(folder),
            allowed=f"audio is {', '.join(AUDIO_SUFFIXES)}, or HDF5 with a dataset 'audio'")
    return recordings


def describe_ignored_files(folder: Path | str) -> str:
    """Describe the files of a folder that are not recordings: ``3 other files: 2 .caf, 1 .txt``.

    Parameters
    ----------
    folder
        The recordings.

    Returns
    -------
    str
        '' where there are none.
    """
    folder = Path(folder)
    recordings = {name for name, _ in _walk(folder)}
    return formats.describe_ignored(
        path for path in walk_files(folder)
        if (name := path.relative_to(folder).as_posix()) not in recordings and name != TABLE)


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8 on disk.

    Parameters
    ----------
    name
        As Python holds it, with other bytes as lone surrogates.

    Returns
    -------
    bool
        False where it has such bytes.
    """
    return printable(name) == name


def printable(text: str) -> str:
    """A text that any terminal can print, with ``\\xff`` for a byte that is not UTF-8.

    Parameters
    ----------
    text
        A file name, or text that contains one.

    Returns
    -------
    str
        Without surrogates.
    """
    # Python keeps such a byte as a lone surrogate, which no terminal and no JSON file takes.
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def npz_name(file: str) -> Path:
    """Name of a recording's npz file in a task's folder ``npz``.

    Parameters
    ----------
    file
        The recording, relative to the scanned folder.

    Returns
    -------
    Path
        With another suffix.
    """
    return Path(file).with_suffix(".npz")


def refuse_same_npz(recordings: Iterable[Recording], where: str) -> None:
    """Check that no two recordings have the same npz file (x.wav, x.flac).

    Missing recordings have none.

    Parameters
    ----------
    recordings
        All recordings.
    where
        What to name in the message.

    Raises
    ------
    InputError
        Two have the same.
    """
    first: dict[Path, str] = {}
    for recording in recordings:
        if recording.size < 0:
            continue
        npz = npz_name(recording.file)
        other = first.setdefault(npz, recording.file)
        if other != recording.file:
            raise InputError(f"{other} and {recording.file} would both become npz/{npz}",
                             where=where, allowed="one recording of each name in a folder",
                             hint="Rename one of them, or do not write npz files: embeddings.h5 "
                                  "holds both")


def manifest_digest(recordings: Iterable[Recording]) -> str:
    """A digest that changes when a recording, its size, its time of change or its sensor does.

    Parameters
    ----------
    recordings
        All recordings.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    return digest([recording.as_json() for recording in recordings])


def sensor_and_time(name: str) -> tuple[str, float | None]:
    """Sensor and unix time from a relative path (see ``scan_recordings``).

    Parameters
    ----------
    name
        The path.

    Returns
    -------
    sensor
        ``unknown`` where the path does not contain it.
    time
        Unix seconds; None where the path does not contain it.

    Examples
    --------
    >>> sensor_and_time("park/park_1511272800.wav")
    ('park', 1511272800.0)
    """
    path = Path(name)
    match = _NAME.fullmatch(path.stem)
    timestamp = None
    if match and match["unix"]:
        timestamp = float(match["unix"])
    elif match:
        try:
            moment = datetime.strptime(match["iso"].replace("_", "T"), "%Y%m%dT%H%M%S")
            timestamp = moment.replace(tzinfo=timezone.utc).timestamp()
        except ValueError:  # fourteen digits that are not a date
            match = None
    if len(path.parts) > 1:
        return path.parts[0], timestamp
    return (match and match["sensor"]) or UNKNOWN_SENSOR, timestamp


def read_table(path: Path) -> dict[str, tuple[str, float | None, float | None]]:
    """Read ``recordings.csv``.

    Columns with other names are ignored.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        File → sensor, unix time and level in dB(A).

    Raises
    ------
    InputError
        A column is missing, a number or time is invalid, a path leaves the folder or a file is
        listed twice (the message names the line); or as ``l3hpc.io.tables``.
    """
    recordings: dict[str, tuple[str, float | None, float | None]] = {}
    table = read_rows(path, "table of recordings", _COLUMNS[:3], short_rows=True)
    line, columns = next(table)
    # A misspelled optional column would be ignored without notice.
    for column in columns:
        if _COLUMNS[3] not in columns and (column.strip().casefold() == _COLUMNS[3]
                                           or get_close_matches(column, _COLUMNS[3:], cutoff=0.8)):
            raise InputError(f"unknown column '{column}'", where=f"{path}:{line}",
                             allowed=f"did you mean '{_COLUMNS[3]}'?")
    for line, row in table:
        where, cells = f"{path}:{line}", dict(zip(columns, row, strict=True))
        # Tables are also written on Windows.
        name = cells["file"].strip().replace("\\", "/")
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise InputError(f"'{name}' is not a path below the folder", where=where)
        # So that ./a.wav and a.wav count as the same file.
        name = os.path.normpath(name)
        if name in recordings:
            raise InputError(f"'{name}' is listed twice", where=where)
        sensor = cells["sensor"].strip() or sensor_and_time(name)[0]
        recordings[name] = (sensor, _parse_time(cells["timestamp"], where),
                            _parse_level(cells.get("level_dba"), "level_dba", where))
    return recordings


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Names and status of the recordings; None for a broken link."""
    paths = [path for path in walk_files(folder) if formats.is_sound(path)
             or formats.is_hdf5(path) and _holds_audio(path)]
    for path in formats.without_videos(paths)[0]:
        yield path.relative_to(folder).as_posix(), _status(path)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # listed as a missing recording
        return None


def _holds_audio(path: Path) -> bool:
    from l3hpc.io.hdf5 import open_hdf5

    try:
        with open_hdf5(path) as file:
            return "audio" in file
    except InputError:  # not HDF5, or refused: extract lists it as unreadable, with the reason
        return True


def _parse_time(text: str, where: str) -> float | None:
    """Unix seconds of a cell; None for an empty one, or NaN."""
    text = text.strip()
    is_number = True
    try:
        moment = _finite(text)
    except ValueError:  # not a number: a date, or invalid
        is_number, moment = False, _parse_iso(text)
    if moment is None and text and text.casefold() != "nan":
        raise InputError(f"'{text}' is not a time", where=where, allowed=_TIMES)
    if moment is None or FIRST <= moment <= LAST:
        return moment
    for unit, size in _SMALLER_UNITS:
        if is_number and FIRST < moment / size <= LAST:
            raise InputError(f"'{text}' is a time in {unit}", where=where, allowed=_TIMES,
                             hint=f"In seconds it is {moment / size:.3f}.")
    raise InputError(f"'{text}' is a time outside 1970 to 2100", where=where, allowed=_TIMES)


def _parse_iso(text: str) -> float | None:
    """Unix seconds of a date and time in ISO 8601, None for other text.

    Python's own parser accepts other forms in each version; these are the same everywhere.
    """
    match = _ISO.fullmatch(text.upper())
    if not match:
        return None
    parts = {name: int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute",
                                                      "second")}
    try:
        moment = datetime(**parts, tzinfo=timezone.utc)
    except ValueError:  # a 13th month, an hour 25
        return None
    offset = 60 * int(match["hours"] or 0) + int(match["minutes"] or 0)
    if offset > _MAX_ZONE:
        return None
    fraction = float(f"0.{match['fraction']}") if match["fraction"] else 0.0
    return moment.timestamp() + fraction - 60 * (-offset if match["sign"] == "-" else offset)


def _parse_level(text: str | None, column: str, where: str) -> float | None:
    text = (text or "").strip()
    try:
        return _finite(text)
    except ValueError:
        raise InputError(f"{column} '{text}' is not a number", where=where) from None


def _finite(text: str) -> float | None:
    """The number in a cell; None for an empty cell, NaN or infinity. ``ValueError`` otherwise."""
    value = float(text) if text else float("nan")
    return value if math.isfinite(value) else None
