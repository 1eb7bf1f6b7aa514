"""Annotations of SONYC-UST: ``annotations.csv`` (versions 1 and 2) as arrays.

The presence of a tag is 1, 0, or −1 for "not annotated". ``annotator_id`` is positive for a
volunteer, negative for a member of the SONYC team, and 0 for the agreed ground truth.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np

from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, check_choice
from l3hpc.io.tables import read_rows, require_columns
from l3hpc.io.values import count_of

SPLITS = ("train", "validate", "test")
KEY_COLUMNS = ("split", "sensor_id", "audio_filename", "annotator_id")
AGREED = 0  # annotator_id of the ground truth
PROXIMITY = {"near": 1, "far": -1, "notsure": 0, "-1": 0, "": 0}
ANNOTATORS = ("agreed", "volunteers")


@dataclass(frozen=True)
class Annotations:
    """One row per clip and annotator, in the order of the file.

    Attributes
    ----------
    taxonomy : Taxonomy
        The tags.
    split, sensor, file : ndarray of str objects, shape (rows,)
        Split, sensor and file name of the clip.
    annotator : ndarray of int64, shape (rows,)
        ``annotator_id``.
    fine : ndarray of int8, shape (rows, fine tags)
        1, 0 or −1.
    coarse : ndarray of int8, shape (rows, categories)
        1, 0 or −1.
    version : int
        2 for a file with columns for location and time, otherwise 1.
    where : str
        The file, for messages.
    proximity : ndarray of int8, shape (rows, fine tags), or None
        1 near, −1 far, 0 no answer; None where it was not read.
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
    proximity: np.ndarray | None = None

    @classmethod
    def load(cls, path: Path | str, taxonomy: Taxonomy, *, proximity: bool = False) -> Annotations:
        """Read a file; columns are found by name.

        Parameters
        ----------
        path
            ``annotations.csv``.
        taxonomy
            The tags.
        proximity
            Also read whether the source of a tag is near or far.

        Raises
        ------
        InputError
            With the line, for a missing column, an unknown split, a presence other than 1, 0, −1,
            a proximity other than near, far, notsure, −1, a clip in two splits, and an annotator
            who tagged a clip twice.
        """
        where = str(path)
        table = read_rows(path, "annotations")
        header_line, columns = next(table)
        tag_columns = [f"{column}_presence"
                       for column in (*taxonomy.fine_columns, *taxonomy.coarse_columns)]
        distances = [f"{column}_proximity" for column in taxonomy.fine_columns if proximity]
        require_columns(columns, (*KEY_COLUMNS, *tag_columns, *distances), f"{where}:{header_line}")
        keys = itemgetter(*(columns.index(column) for column in KEY_COLUMNS))
        tags = itemgetter(*(columns.index(column) for column in tag_columns))
        presence, heard = _Presence(), bytearray()
        distance_cells, distance = [columns.index(column) for column in distances], bytearray()
        kept: list[tuple[str, str, str, int]] = []
        # One string per file, however many annotators it has.
        names: dict[str, str] = {}
        lines: dict[tuple[str, int], int] = {}
        splits: dict[str, str] = {}
        for line, row in table:
            split, sensor, file, number = keys(row)
            annotator = _whole(number, "annotator_id", f"{where}:{line}")
            file = names.setdefault(file, file)
            check_choice("split", split, SPLITS, where=f"{where}:{line}")
            if not file:
                raise InputError("audio_filename is empty", where=f"{where}:{line}")
            if splits.setdefault(file, split) != split:
                raise InputError(f"'{file}' is in two splits: {split}, {splits[file]}",
                                 where=f"{where}:{line}")
            if lines.setdefault((file, annotator), line) != line:
                raise InputError(f"annotator {annotator} tagged '{file}' twice",
                                 where=f"{where}:{line}",
                                 hint=f"It is also tagged in line {lines[file, annotator]}.")
            try:
                heard += bytes(map(presence.__getitem__, tags(row)))
            except KeyError as unknown:
                column = tag_columns[tags(row).index(unknown.args[0])]
                raise InputError(f"{column} is '{unknown.args[0]}'", where=f"{where}:{line}",
                                 allowed="1, 0, or -1 for not annotated") from None
            for place in distance_cells:
                if row[place] not in PROXIMITY:
                    raise InputError(f"{columns[place]} is '{row[place]}'", where=f"{where}:{line}",
                                     allowed="near, far, notsure, or -1 for not annotated")
                distance.append(PROXIMITY[row[place]] % 256)
            # The same few names in every row: interned, each is in memory once.
            kept.append((sys.intern(split), sys.intern(sensor), file, annotator))
        values = np.frombuffer(heard, np.int8).reshape(len(kept), len(tag_columns))
        split, sensor, file = (np.array([one[place] for one in kept], object) for place in range(3))
        return cls(taxonomy, split, sensor, file, np.array([one[3] for one in kept], np.int64),
                   values[:, :len(taxonomy.fine)], values[:, len(taxonomy.fine):],
                   2 if "latitude" in columns or "borough" in columns else 1, where,
                   np.frombuffer(distance, np.int8).reshape(len(kept), len(distances))
                   if proximity else None)

    @cached_property
    def _split_of(self) -> dict[str, str]:
        return dict(zip(self.file, self.split, strict=True))

    def files(self, split: str | None = None) -> list[str]:
        """File names of a split, sorted.

        Parameters
        ----------
        split
            'train', 'validate', 'test', or None for all.
        """
        return sorted(name for name, where in self._split_of.items() if split in (None, where))

    def sensors(self, files: Sequence[str]) -> np.ndarray:
        """The sensor of each clip.

        Parameters
        ----------
        files
            Names of annotated clips.

        Returns
        -------
        ndarray of str objects, shape (files,)
            Their ``sensor_id``.
        """
        sensor_of = dict(zip(self.file, self.sensor, strict=True))
        return np.array([sensor_of[name] for name in files], object)

    def annotated_by(self, files: Sequence[str], who: str) -> list[str]:
        """Those of the clips that have an annotation of this kind.

        Parameters
        ----------
        files
            Names of clips.
        who
            'agreed' (annotator 0) or 'volunteers' (annotators above 0).
        """
        having = set(self.file[self._by(who)])
        return [name for name in files if name in having]

    def with_split(self, split_of: Mapping[str, str], where: str = "split by sensor"
                   ) -> Annotations:
        """The same annotations, split by sensor.

        Parameters
        ----------
        split_of
            Sensor → 'train', 'validate' or 'test'.
        where
            Where the split is from, for messages.

        Returns
        -------
        Annotations
            Its other arrays are those of this one.

        Raises
        ------
        InputError
            With the sensors, for some that have no split; and for a clip in two splits.
        """
        sensor_of = dict(zip(self.file, self.sensor, strict=True))
        refuse_unlisted(split_of, Counter(sensor_of.values()), where)
        split = np.array([split_of[sensor] for sensor in self.sensor], object)
        for name, sensor, one in zip(self.file, self.sensor, split, strict=True):
            if split_of[sensor_of[name]] != one:
                raise InputError(f"'{name}' has two sensors, of two splits: {sensor}, "
                                 f"{sensor_of[name]}", where=self.where)
        return replace(self, split=split)

    def splits(self) -> list[str]:
        """The splits that occur, in the order train, validate, test."""
        return [split for split in SPLITS if split in set(self._split_of.values())]

    def targets(self, files: Sequence[str], level: str, *, volunteers: bool = False
                ) -> np.ndarray:
        """Targets for training.

        Where there are agreed annotations they are used; otherwise a tag is present if any
        annotator marked it. −1 counts as absent.

        Parameters
        ----------
        files
            Names of clips.
        level
            'fine' or 'coarse'.
        volunteers
            Only annotators above 0 count, also where there are agreed annotations.

        Returns
        -------
        ndarray of float32, shape (files, fine tags including X) or (files, categories)
            0 or 1.

        Raises
        ------
        InputError
            For a clip without (such) annotations, and an unknown level.
        """
        counting = self._by("volunteers") if volunteers else np.ones(len(self.file), bool)
        having = set(self.file[counting])
        heard = (self._level(level) == 1).astype(np.float32)
        places = {name: place for place, name in enumerate(files)}
        unknown = [name for name in files if name not in having]
        if unknown:
            raise InputError(f"no annotation of {_some(unknown)}"
                             + " by volunteers" * volunteers, where=self.where)
        place = np.array([places.get(name, -1) for name in self.file], np.int64)
        is_requested = (place >= 0) & counting
        place, heard = place[is_requested], heard[is_requested]
        agreed = (self.annotator == AGREED)[is_requested]
        has_agreed = np.zeros(len(files), bool)
        has_agreed[place[agreed]] = True
        counts = agreed | ~has_agreed[place]
        out = np.zeros((len(files), heard.shape[1]), np.float32)
        np.maximum.at(out, place[counts], heard[counts])
        return out

    @cached_property
    def all_sensors(self) -> list[str]:
        """All sensors of the table, in ascending order: of numbers, if they all are numbers."""
        names = set(self.sensor)
        return sorted(names, key=int if all(map(str.isdecimal, names)) else str)

    def sensor_numbers(self, files: Sequence[str]) -> np.ndarray:
        """The sensor of each clip, as a place in ``all_sensors``.

        Parameters
        ----------
        files
            Names of clips.

        Returns
        -------
        ndarray of int64, shape (files,)
            From 0.
        """
        number = {name: place for place, name in enumerate(self.all_sensors)}
        return np.array([number[name] for name in self.sensors(files)], np.int64)

    def proximities(self, files: Sequence[str], level: str) -> np.ndarray:
        """Whether the sources of the tags are near or far, by majority of all annotators.

        A category has no column of its own: the answers for all of its fine tags count.

        Parameters
        ----------
        files
            Names of clips.
        level
            'fine' (the complete tags) or 'coarse' (the categories).

        Returns
        -------
        ndarray of int8, shape (files, tags)
            1 near, −1 far, 0 without an answer or with equally many for both.

        Raises
        ------
        InputError
            If the annotations were loaded without proximities.
        """
        if self.proximity is None:
            raise InputError("the proximities were not read", where=self.where,
                             hint="Use Annotations.load(…, proximity=True)")
        places = {name: place for place, name in enumerate(files)}
        place = np.array([places.get(name, -1) for name in self.file], np.int64)
        votes = np.zeros((len(files), self.proximity.shape[1]), np.int32)
        np.add.at(votes, place[place >= 0], self.proximity[place >= 0])
        if level == "coarse":
            category = np.array([[tag.coarse == one.id for one in self.taxonomy.coarse]
                                 for tag in self.taxonomy.fine])
            votes = votes @ category
        else:
            votes = votes[:, self.taxonomy.complete_fine]
        return np.sign(votes).astype(np.int8)

    def ground_truth(self, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The agreed annotations of a split.

        Parameters
        ----------
        split
            'train', 'validate' or 'test'.

        Returns
        -------
        files : list of str
            Clips with agreed annotations, sorted.
        fine : ndarray of bool, shape (files, fine tags)
            Presence of the tags.
        coarse : ndarray of bool, shape (files, categories)
            Presence of the categories.

        Raises
        ------
        InputError
            For an unknown split, and for one without agreed annotations.
        """
        check_choice("split", split, SPLITS)
        rows = np.flatnonzero((self.annotator == AGREED) & (self.split == split))
        if not rows.size:
            having = [name for name in SPLITS
                      if np.any((self.annotator == AGREED) & (self.split == name))]
            raise InputError(f"split '{split}' has no agreed annotations (annotator_id 0)",
                             where=self.where,
                             allowed=f"splits with agreed annotations: {', '.join(having) or '-'}")
        rows = rows[np.argsort(self.file[rows], kind="stable")]
        return list(self.file[rows]), self.fine[rows] == 1, self.coarse[rows] == 1

    def _by(self, who: str) -> np.ndarray:
        check_choice("kind of annotator", who, ANNOTATORS)
        return self.annotator == AGREED if who == "agreed" else self.annotator > AGREED

    def _level(self, level: str) -> np.ndarray:
        check_choice("level", level, ("fine", "coarse"))
        return self.fine if level == "fine" else self.coarse


def refuse_unlisted(split_of: Mapping[str, str], clips_of: Mapping[str, int], where: str) -> None:
    """Refuse a split by sensor that leaves sensors out.

    Parameters
    ----------
    split_of
        Sensor → split.
    clips_of
        Sensor → number of its clips.
    where
        Where the split is from, for the message.

    Raises
    ------
    InputError
        With the sensors that have no split, and the number of their clips.
    """
    unlisted = [sensor for sensor in sorted(clips_of) if sensor not in split_of]
    if unlisted:
        clips = sum(clips_of[sensor] for sensor in unlisted)
        raise InputError(
            f"does not list sensor{'s' * (len(unlisted) > 1)} {_some(unlisted)} of the annotations "
            f"({count_of(clips, 'clip')})", where=where,
            allowed="a row for every sensor: train, validate or test",
            hint=f"Add a row '{unlisted[0]},test' for a sensor that is only to be predicted.")


class _Presence(dict[str, int]):
    """Cell → presence as a byte of two's complement; ``KeyError`` for any other cell."""

    def __missing__(self, cell: str) -> int:
        try:
            value = float(cell)
        except ValueError:
            raise KeyError(cell) from None
        if value not in (-1, 0, 1):
            raise KeyError(cell)
        # Kept, so that each spelling ("1", "1.0") is parsed once for millions of cells.
        self[cell] = int(value) % 256
        return self[cell]


def _whole(cell: str, column: str, where: str) -> int:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        if float(cell).is_integer():
            return int(float(cell))
    except ValueError:
        pass
    raise InputError(f"{column} is '{cell}'", where=where, allowed="whole numbers")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
