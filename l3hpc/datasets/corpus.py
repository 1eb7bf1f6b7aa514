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
    size, mtime_ns: of the file; ``size`` is -1 for a file that the table names but nobody finds.
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


def scan(folder: Path | str) -> list[Recording]:
    """All recordings below ``folder``, sorted by file name.

    Audio is ``.wav``, ``.flac``, ``.ogg`` (any case) and HDF5 with a dataset ``audio``; hidden
    files and folders are passed over. ``recordings.csv`` (columns file, sensor, timestamp and, if
    wanted, level_dba) in ``folder`` wins over names; a time there is unix seconds or ISO 8601 (UTC
    unless it says otherwise). Without it the sensor is the first subfolder, or what stands before
    the time in ``<sensor>_<unix seconds or YYYYMMDDTHHMMSS, UTC>.wav``.

    Raises ``InputError`` when the folder does not exist, holds no audio, or its table is broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder of audio", where=str(folder),
                         hint="Name a folder of audio, or make one: l3hpc data synth FOLDER")
    table = read_table(folder / TABLE) if (folder / TABLE).is_file() else {}
    found = dict(_walk(folder))
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
    path that leaves the folder, or a file named twice.
    """
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


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for path in walk(folder):
        suffix = path.suffix.lower()
        if suffix in AUDIO_SUFFIXES or suffix in HDF5_SUFFIXES and _holds_audio(path):
            yield path.relative_to(folder).as_posix(), path.stat()


def _holds_audio(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "audio" in file
    except OSError:  # not HDF5 at all: extract lists it as unreadable
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
