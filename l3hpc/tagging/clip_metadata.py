"""What tables contain about clips besides their tags: place and time, and a split by sensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from l3hpc.errors import InputError, check_choice
from l3hpc.io.tables import read_records, read_rows, require_columns
from l3hpc.tagging.annotations import AGREED, SPLITS, refuse_unlisted

METADATA_COLUMNS = ("latitude", "longitude", "week", "day", "hour")
WEEKS, DAYS, HOURS = 52, 7, 24
PLACE = 2  # of the values, latitude and longitude are numbers to standardise
METADATA = PLACE + WEEKS + DAYS + HOURS


def read_metadata(path: Path | str, files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Place and time of clips, as the DCASE 2020 baseline gives them to its classifier [1]_.

    Parameters
    ----------
    path
        ``annotations.csv`` of SONYC-UST version 2.
    files
        Names of the clips.

    Returns
    -------
    values : ndarray of float32, shape (files, 85)
        Latitude and longitude in degrees, then one-hot: the week of the year (52), the day of the
        week (7, from Monday) and the hour (24).
    notes : list of str
        Clips of week 53, which count as week 52.

    Raises
    ------
    InputError
        For version 1, which has no such columns, a value outside its range, a clip with two places
        or times, and a clip that is not in the table.

    References
    ----------
    .. [1] M. Cartwright et al., "SONYC-UST-V2: an urban sound tagging dataset with spatiotemporal
       context", DCASE Workshop (2020).
    """
    table = read_rows(path, "annotations")
    header_line, columns = next(table)
    require_metadata(columns, f"{path}:{header_line}")
    places = [columns.index(name) for name in ("audio_filename", *METADATA_COLUMNS)]
    found: dict[str, tuple[float, ...]] = {}
    for line, row in table:
        file, *cells = (row[place] for place in places)
        values = tuple(_number(cell, name, f"{path}:{line}")
                       for cell, name in zip(cells, METADATA_COLUMNS, strict=True))
        if found.setdefault(file, values) != values:
            raise InputError(f"'{file}' has two places or times", where=f"{path}:{line}",
                             allowed=f"the same {', '.join(METADATA_COLUMNS)} in all its rows")
    missing = [name for name in files if name not in found]
    if missing:
        raise InputError(f"no row for '{missing[0]}'", where=str(path))
    out = np.zeros((len(files), METADATA), np.float32)
    # the baseline has no input for the 53rd week that some years have
    late = [name for name in files if found[name][2] == WEEKS + 1]
    for place, name in enumerate(files):
        latitude, longitude, week, day, hour = found[name]
        out[place, :PLACE] = latitude, longitude
        out[place, PLACE + min(int(week), WEEKS) - 1] = 1
        out[place, PLACE + WEEKS + int(day)] = 1
        out[place, PLACE + WEEKS + DAYS + int(hour)] = 1
    return out, [f"clips of week 53 count as week 52: {len(late)}, for example {late[0]}"
                 ] if late else []


def require_metadata(columns: Sequence[str], where: str) -> None:
    """Refuse a table without place and time.

    Parameters
    ----------
    columns
        Its header.
    where
        The location of the header, for the message.

    Raises
    ------
    InputError
        With the missing columns.
    """
    missing = [name for name in METADATA_COLUMNS if name not in columns]
    if missing:
        raise InputError(f"metadata needs the column{'s' * (len(missing) > 1)} "
                         f"{', '.join(missing)}", where=where,
                         allowed="annotations of SONYC-UST version 2",
                         hint="Leave metadata out, or use the annotations of version 2.")
    require_columns(columns, ("audio_filename",), where)


_RANGES = {"latitude": (-90, 90), "longitude": (-180, 180), "week": (1, WEEKS + 1),
           "day": (0, DAYS - 1), "hour": (0, HOURS - 1)}


def read_split(path: Path | str) -> dict[str, str]:
    """The split of every sensor, from a CSV with the columns ``sensor_id`` and ``split``.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Sensor → 'train', 'validate' or 'test'.

    Raises
    ------
    InputError
        With the line, for a missing column, an unknown split, and a sensor in two splits.
    """
    found: dict[str, str] = {}
    for line, cells in read_records(path, "split by sensor", ("sensor_id", "split")):
        split = check_choice("split", cells["split"], SPLITS, where=f"{path}:{line}")
        if found.setdefault(cells["sensor_id"], split) != split:
            raise InputError(f"sensor {cells['sensor_id']} is in two splits: "
                             f"{found[cells['sensor_id']]}, {split}", where=f"{path}:{line}")
    return found


def check_split(path: Path | str, annotations: Path | str) -> None:
    """Refuse a split by sensor that does not fit the annotations.

    Parameters
    ----------
    path
        The split, as for ``read_split``.
    annotations
        ``annotations.csv`` of SONYC-UST.

    Raises
    ------
    InputError
        As ``read_split``; for a sensor of the annotations that has no split, for no clips to train
        or to validate on, and for a validate split that cannot be scored, because none of its
        clips has an agreed annotation.
    """
    split_of = read_split(path)
    table = read_rows(annotations, "annotations")
    header_line, columns = next(table)
    needed = ("audio_filename", "sensor_id", "annotator_id")
    require_columns(columns, needed, f"{annotations}:{header_line}")
    places = [columns.index(name) for name in needed]
    sensor_of: dict[str, str] = {}
    scored: set[str] = set()
    for _, row in table:
        file, sensor, annotator = (row[place] for place in places)
        sensor_of[file] = sensor
        # only agreed annotations are scored
        if annotator.strip() == str(AGREED) and split_of.get(sensor) == "validate":
            scored.add(sensor)
    refuse_unlisted(split_of, Counter(sensor_of.values()), str(path))
    used = {split_of[sensor] for sensor in sensor_of.values()}
    for split in ("train", "validate"):
        if split not in used:
            raise InputError(f"no sensor of the annotations is in split '{split}'", where=str(path))
    if not scored:
        sensors = sorted({sensor for sensor, split in split_of.items() if split == "validate"})
        raise InputError(
            f"no clip of the sensors to validate on ({', '.join(sensors)}) has an agreed "
            "annotation (annotator_id 0): nothing could be scored", where=str(path),
            allowed="validate with at least one sensor whose clips have agreed annotations")


def _number(cell: str, column: str, where: str) -> float:
    low, high = _RANGES[column]
    is_whole = column not in METADATA_COLUMNS[:PLACE]
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not low <= value <= high or is_whole and value != int(value):
        raise InputError(f"{column} is '{cell}'", where=where,
                         allowed=f"{'whole numbers' if is_whole else 'degrees'} from {low} to "
                                 f"{high}")
    return value
