"""Who heard what: reads SONYC-UST ``annotations.csv`` (versions 1 and 2) into arrays.

A presence is 1, 0, or -1 for "not annotated", which is no vote. ``annotator_id`` is positive for a
volunteer, negative for a member of the SONYC team and 0 for the agreed ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from l3hpc.errors import InputError, nearest
from l3hpc.tagging.taxonomy import Taxonomy

SPLITS = ("train", "validate", "test")
KEY_COLUMNS = ("split", "sensor_id", "audio_filename", "annotator_id")
AGREED = 0


@dataclass(frozen=True)
class Annotations:
    """One row per clip and annotator, in file order.

    split, sensor, file: object arrays of str, shape (rows,); annotator: int64 (rows,);
    fine: int8 (rows, fine tags) and coarse: int8 (rows, categories) with values 1, 0, -1;
    version: 2 where the file has the columns on place and time, else 1.
    """

    taxonomy: Taxonomy
    split: np.ndarray
    sensor: np.ndarray
    file: np.ndarray
    annotator: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    version: int
    where: str = "annotations"

    @classmethod
    def load(cls, path: Path | str, taxonomy: Taxonomy) -> Annotations:
        """Read the file; columns are found by name, so their order does not matter.

        Raises ``InputError`` (file, line or column, what is allowed) for a missing column, an
        unknown split, a presence other than 1, 0, -1, a clip in two splits, or an annotator who
        tagged a clip twice.
        """
        import pandas as pd

        where = str(path)
        try:
            columns = list(pd.read_csv(path, nrows=0).columns)
        except OSError as error:
            raise InputError(f"cannot read the annotations: {error.strerror}",
                             where=where) from None
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
            raise InputError(f"not a CSV table ({error})", where=where) from None
        fine = [f"{column}_presence" for column in taxonomy.fine_columns]
        coarse = [f"{column}_presence" for column in taxonomy.coarse_columns]
        for column in (*KEY_COLUMNS, *fine, *coarse):
            if column not in columns:
                raise InputError(f"column '{column}' is missing", where=f"{where}:1",
                                 allowed=_like(column, columns))
        try:
            table = pd.read_csv(
                path, usecols=[*KEY_COLUMNS, *fine, *coarse],
                dtype={"split": str, "sensor_id": str, "audio_filename": str})
        except pd.errors.ParserError as error:
            raise InputError(f"not a CSV table ({error})", where=where) from None
        split, sensor, file = (np.asarray(table[name].fillna(""), object)
                               for name in KEY_COLUMNS[:3])
        annotations = cls(
            taxonomy, split, sensor, file,
            _whole(table["annotator_id"].to_numpy(), "annotator_id", where),
            _presence(table[fine].to_numpy(), fine, where),
            _presence(table[coarse].to_numpy(), coarse, where),
            2 if "latitude" in columns or "borough" in columns else 1, where)
        annotations._check()
        return annotations

    def _check(self) -> None:
        for row, split in enumerate(self.split):
            if split not in SPLITS:
                raise InputError(f"unknown split '{split}'", where=f"{self.where}:{row + 2}",
                                 allowed=nearest(split, SPLITS))
            if not self.file[row]:
                raise InputError("audio_filename is empty", where=f"{self.where}:{row + 2}")
        for name, split in {*zip(self.file, self.split, strict=True)}:
            if self._split_of[name] != split:
                raise InputError(f"'{name}' is in two splits: {split}, {self._split_of[name]}",
                                 where=self.where)
        seen: dict[tuple[str, int], int] = {}
        for row, key in enumerate(zip(self.file, self.annotator.tolist(), strict=True)):
            if key in seen:
                raise InputError(f"annotator {key[1]} tagged '{key[0]}' twice",
                                 where=f"{self.where}:{row + 2}",
                                 hint=f"The first time is in line {seen[key] + 2}.")
            seen[key] = row

    @cached_property
    def _split_of(self) -> dict[str, str]:
        return dict(zip(self.file, self.split, strict=True))

    def files(self, split: str | None = None) -> list[str]:
        """File names of a split (None: of all), each once, sorted."""
        return sorted(name for name, where in self._split_of.items() if split in (None, where))

    def splits(self) -> list[str]:
        """The splits that occur, in the usual order."""
        return [split for split in SPLITS if split in set(self._split_of.values())]

    def targets(self, files: Sequence[str], level: str) -> np.ndarray:
        """What to learn, float32 in {0, 1}, shape (files, fine tags incl. X or categories).

        level: ``fine`` or ``coarse``. The agreed annotator decides where there is one; else a tag
        is present if any annotator heard it. -1 counts as "not heard".
        """
        heard = (self._level(level) == 1).astype(np.float32)
        places = {name: place for place, name in enumerate(files)}
        unknown = [name for name in files if name not in self._split_of]
        if unknown:
            raise InputError(f"no annotation of {_some(unknown)}", where=self.where)
        place = np.array([places.get(name, -1) for name in self.file], np.int64)
        wanted = place >= 0
        place, heard, agreed = place[wanted], heard[wanted], (self.annotator == AGREED)[wanted]
        has_agreed = np.zeros(len(files), bool)
        has_agreed[place[agreed]] = True
        counts = agreed | ~has_agreed[place]
        out = np.zeros((len(files), heard.shape[1]), np.float32)
        np.maximum.at(out, place[counts], heard[counts])
        return out

    def ground_truth(self, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(files sorted, fine bool (files, tags), coarse bool (files, categories)) as agreed.

        Only clips that annotator 0 has. Raises ``InputError`` where the split has none.
        """
        if split not in SPLITS:
            raise InputError(f"unknown split '{split}'", allowed=nearest(split, SPLITS))
        rows = np.flatnonzero((self.annotator == AGREED) & (self.split == split))
        if not rows.size:
            having = [name for name in SPLITS
                      if np.any((self.annotator == AGREED) & (self.split == name))]
            raise InputError(f"split '{split}' has no agreed annotations (annotator_id 0)",
                             where=self.where,
                             allowed=f"splits with agreed annotations: {', '.join(having) or '-'}")
        rows = rows[np.argsort(self.file[rows], kind="stable")]
        return list(self.file[rows]), self.fine[rows] == 1, self.coarse[rows] == 1

    def _level(self, level: str) -> np.ndarray:
        if level not in ("fine", "coarse"):
            raise InputError(f"unknown level '{level}'", allowed=nearest(level, ("fine", "coarse")))
        return self.fine if level == "fine" else self.coarse


def _whole(values: np.ndarray, column: str, where: str) -> np.ndarray:
    try:
        numbers = values.astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers != np.round(numbers)))
    except ValueError:
        wrong = np.flatnonzero([not str(value).strip().lstrip("-").isdigit() for value in values])
    if wrong.size:
        row = int(wrong[0])
        raise InputError(f"{column} is '{values[row]}'", where=f"{where}:{row + 2}",
                         allowed="whole numbers")
    return np.asarray(values.astype(np.int64))


def _presence(values: np.ndarray, columns: list[str], where: str) -> np.ndarray:
    known = np.isin(values, (-1, 0, 1)) if values.dtype.kind in "iuf" else np.array(
        [[str(value).strip() in ("-1", "0", "1") for value in row] for row in values])
    if not known.all():
        row, column = np.argwhere(~known)[0]
        raise InputError(f"{columns[column]} is '{values[row, column]}'",
                         where=f"{where}:{row + 2}", allowed="1, 0, or -1 for not annotated")
    return np.asarray(values.astype(np.int8))


def _like(column: str, columns: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(column, columns, n=1)
    return f"did you mean the column '{close[0]}'?" if close else \
        "annotations.csv and the taxonomy must belong together"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
