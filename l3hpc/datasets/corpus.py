"""Which recordings a folder holds, where and when each was made: what ``extract`` works through.

The listing needs no audio library, so that a submission can make it in an instant. Sensor and time
come from ``recordings.csv`` beside the audio, else from the first subfolder and the file name.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, nearest
from l3hpc.files import digest, walk

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
HDF5_SUFFIXES = (".h5", ".hdf5")
TABLE = "recordings.csv"
UNKNOWN_SENSOR = "unknown"

_COLUMNS = ("file", "sensor", "timestamp", "level_dba")
_NAME = re.compile(
    r"(?:(?P<sensor>.+)_)?(?:(?P<unix>\d{9,10}(?:\.\d+)?)|(?P<iso>\d{8}[T_]\d{6})Z?)"
)


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
    """All recordings below ``folder``, sorted by file name.

    Audio is ``.wav``, ``.flac``, ``.ogg`` (any case) and HDF5 with a dataset ``audio``; hidden
    files and folders are passed over. ``recordings.csv`` (columns file, sensor, timestamp and, if
    wanted, level_dba) in ``folder`` wins over names; a time there is unix seconds or ISO 8601 (UTC
    unless it says otherwise). Without it the sensor is the first subfolder, or what stands before
    the time in ``<sensor>_<unix seconds or YYYYMMDDTHHMMSS, UTC>.wav``.

    any_name: list also file names that are not UTF-8, which no artifact can hold.

    Raises ``InputError`` when the folder does not exist, holds no audio, its table is broken, or a
    file name is not UTF-8.
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
                         hint=f"Rename them. Which they are: l3hpc data check {folder}")
    recordings = []
    for name in sorted(found.keys() | table.keys()):
        status = found.get(name)
        sensor, timestamp, level = table.get(name) or (*sensor_and_time(name), None)
        recordings.append(Recording(
            name, sensor, timestamp, level,
            status.st_size if status else -1, status.st_mtime_ns if status else 0))
    if not recordings:
        raise InputError(
            "holds no audio", where=str(folder),
            allowed=f"audio is {', '.join(AUDIO_SUFFIXES)}, or HDF5 with a dataset 'audio'")
    return recordings


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

    Raises ``InputError`` naming the line for a missing or unknown column, a bad number or time, a
    path that leaves the folder, or a file named twice; and for a file that is no UTF-8 text.
    """
    try:
        return _read_table(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV table in UTF-8 ({error})", where=str(path),
                         hint=f"From Latin-1, for example: iconv -f latin1 -t utf-8 {path}"
                         ) from None


def _read_table(path: Path) -> dict[str, tuple[str, float | None, float | None]]:
    rows: dict[str, tuple[str, float | None, float | None]] = {}
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        for needed in _COLUMNS[:3]:
            if needed not in columns:
                raise InputError(f"column '{needed}' is missing", where=f"{path}:1",
                                 allowed=f"columns: {', '.join(_COLUMNS)} (the last is optional)")
        for column in columns:
            if column not in _COLUMNS:
                raise InputError(f"unknown column '{column}'", where=f"{path}:1",
                                 allowed=nearest(column, _COLUMNS))
        for row in reader:
            where = f"{path}:{reader.line_num}"
            name = (row["file"] or "").strip().replace("\\", "/")
            if not name or name.startswith("/") or ".." in name.split("/"):
                raise InputError(f"'{name}' is not a path below the folder", where=where)
            name = os.path.normpath(name)
            if name in rows:
                raise InputError(f"'{name}' is listed twice", where=where)
            sensor = (row["sensor"] or "").strip() or sensor_and_time(name)[0]
            rows[name] = (sensor, _moment(row["timestamp"], where),
                          _number(row.get("level_dba"), "level_dba", where))
    return rows


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Names and, of what is there, sizes: None for a link that leads to nothing."""
    for path in walk(folder):
        suffix = path.suffix.lower()
        if suffix in AUDIO_SUFFIXES or suffix in HDF5_SUFFIXES and _holds_audio(path):
            yield path.relative_to(folder).as_posix(), _status(path)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # listed as a recording that is not there
        return None


def _holds_audio(path: Path) -> bool:
    from l3hpc.hdf5 import open_hdf5

    try:
        with open_hdf5(path) as file:
            return "audio" in file
    except InputError:  # not HDF5, or refused: extract lists it as unreadable, with the reason
        return True


def _moment(text: str | None, where: str) -> float | None:
    text = (text or "").strip()
    try:
        return _finite(text)
    except ValueError:  # not a number: a date, or nothing we know
        pass
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InputError(
            f"'{text}' is not a time", where=where,
            allowed="unix seconds (1511272800) or ISO 8601 (2017-11-21T09:00:00-05:00)",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


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
