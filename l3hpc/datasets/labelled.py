"""Clips with folds and classes, and the two data sets whose tables are known by name.

A folder is recognised by its table. UrbanSound8K (Salamon, Jacoby and Bello, ACM Multimedia 2014):
``metadata/UrbanSound8K.csv`` and ``audio/fold1/`` to ``audio/fold10/``. ESC-50 (Piczak, ACM
Multimedia 2015): ``meta/esc50.csv`` and ``audio/``; its ten classes flagged ``esc10`` are ESC-10.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from l3hpc.datasets.corpus import Recording
from l3hpc.errors import InputError
from l3hpc.io.files import digest
from l3hpc.io.tables import read_records

SUBSETS = ("all", "esc10")
TRAIN, VALIDATE, TEST = 1, 2, 3  # folds that stand for the parts of a split
PART_NAMES = {TRAIN: "train", VALIDATE: "validate", TEST: "test"}
_PLAIN = re.compile(r"[^/\\]+")


@dataclass(frozen=True)
class LabelledClip:
    """One clip.

    Attributes
    ----------
    file
        Path below the audio folder.
    fold
        Number of its fold; of a data set with a split, ``TRAIN``, ``VALIDATE`` or ``TEST``.
    label
        Index into the classes; the first of several labels.
    source
        The longer recording that it was cut from, or another group (two clips of one source belong
        into one fold).
    labels
        Indices of all labels where clips may have several, otherwise empty.
    """

    file: str
    fold: int
    label: int
    source: str
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelledDataset:
    """A data set.

    Attributes
    ----------
    kind
        Its name.
    table
        Its table.
    audio
        Its audio folder.
    classes
        Names in the order of their numbers.
    ids
        The published numbers of the classes.
    clips
        The clips, in the order of the table.
    published
        Folds, classes and clips of the data set as published; None for an own table.
    several
        Whether clips may have several labels.
    columns
        How the columns of a user's own table were understood, as text.
    has_split
        Whether the clips are split into parts to train, validate and test, in place of folds.
    """

    kind: str
    table: Path
    audio: Path
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    clips: tuple[LabelledClip, ...]
    published: tuple[int, int, int] | None = None
    several: bool = False
    columns: str = ""
    has_split: bool = False

    @property
    def folds(self) -> list[int]:
        """The folds that have clips, ascending."""
        return sorted({clip.fold for clip in self.clips})

    @property
    def tested_folds(self) -> list[int]:
        """The folds that are tested, each by a classifier of its own; of a split, its test part."""
        return [TEST] if self.has_split else self.folds

    def fold_name(self, fold: int) -> str:
        """``fold 3``; of a split ``the part test``.

        Parameters
        ----------
        fold
            One of the folds.
        """
        return f"the part {PART_NAMES[fold]}" if self.has_split else f"fold {fold}"

    @property
    def part(self) -> str:
        """How much this is of the published data set; '' where it is all of it.

        For example ``9 of 10 folds, 7,859 of 8,732 clips``.
        """
        if self.published is None:
            return ""
        counts = (len(self.folds), len(self.classes), len(self.clips))
        return ", ".join(
            f"{count:,} of {total:,} {what}" for what, count, total in zip(
                ("folds", "classes", "clips"), counts, self.published, strict=True)
            if count < total)

    def small_folds(self) -> list[int]:
        """Folds with no clip, or with far fewer than the others (published ones differ by a fifth).

        A mean over the folds would not be that of the data set.

        Returns
        -------
        list of int
            Ascending; none of a split, whose parts differ.
        """
        if self.has_split:
            return []
        count = Counter(clip.fold for clip in self.clips)
        least = len(self.clips) / len(count) / 4
        known = self.folds if self.published is None else range(1, self.published[0] + 1)
        return [fold for fold in known if count[fold] < least]

    def digest(self) -> str:
        """A digest that changes with a clip's name, fold, classes or source.

        Returns
        -------
        str
            32 hexadecimal digits.
        """
        return digest([self.kind, self.ids, self.classes,
                       [[clip.file, clip.fold, clip.label, clip.source, *clip.labels]
                        for clip in self.clips], *(["split"] if self.has_split else [])])

    def recordings(self) -> list[Recording]:
        """The clips for ``embed``, in the order of their names.

        Returns
        -------
        list of Recording
            A missing file has size -1.
        """
        return recordings_of(self.audio, (clip.file for clip in self.clips))


def recordings_of(audio: Path, names: Iterable[str]) -> list[Recording]:
    """Recordings of a folder by name.

    Parameters
    ----------
    audio
        The folder.
    names
        Paths below it.

    Returns
    -------
    list of Recording
        In the order of the names; a missing file has size -1.
    """
    recordings = []
    for name in sorted(names):
        path = audio / name
        status = path.stat() if os.path.isfile(path) else None
        recordings.append(Recording(name, "unknown", None, None, status.st_size if status else -1,
                                    status.st_mtime_ns if status else 0))
    return recordings


def listed(table: Path, what: str, needed: Sequence[str], column: str,
           check: Callable[[str, str], None],
           keep: Callable[[Mapping[str, str]], bool] = lambda row: True,
           ) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Read the rows of a table, each of another file.

    Parameters
    ----------
    table
        The CSV file.
    what
        What to call it in messages.
    needed
        The columns that it must have.
    column
        The one with the names of the files.
    check
        Refuses a name; called with the name and its ``file:line``.
    keep
        Whether a row counts.

    Yields
    ------
    tuple
        Name, ``file:line``, and the row.

    Raises
    ------
    InputError
        A column is missing, or a name is invalid or listed twice.
    """
    seen: dict[str, int] = {}
    for line, row in read_records(table, what, needed):
        if not keep(row):
            continue
        where, name = f"{table}:{line}", row[column].strip()
        check(name, where)
        if name in seen:
            raise InputError(f"'{name}' is listed twice (as in line {seen[name]})", where=where)
        seen[name] = line
        yield name, where, row


# UrbanSound8K and ESC-50 --------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """How a data set names its files and columns, and its published size.

    file: path of a clip below ``audio/`` from (name, fold). named: parts of a file name, by column.
    """

    kind: str
    table: str
    folders: tuple[str, ...]
    name: str
    number: str
    label: str
    source: str
    folds: int
    size: int
    classes: int
    subset: str
    file: Callable[[str, int], str]
    named: re.Pattern[str]


_LAYOUTS = (
    _Layout("UrbanSound8K", "UrbanSound8K.csv", ("metadata", "."), "slice_file_name", "classID",
            "class", "fsID", 10, 8732, 10, "", lambda name, fold: f"fold{fold}/{name}",
            re.compile(r"(?P<fsID>\d+)-(?P<classID>\d+)-\d+-\d+\.\w+")),
    _Layout("ESC-50", "esc50.csv", ("meta", "."), "filename", "target", "category", "src_file", 5,
            2000, 50, "ESC-10", lambda name, fold: name,
            re.compile(r"(?P<fold>\d+)-(?P<src_file>\d+)-\w-(?P<target>\d+)\.\w+")),
)
_ESC10 = "esc10"
ESC10_SIZE = (10, 400)  # classes, clips


def is_labelled_dataset(folder: Path | str) -> bool:
    """Whether a folder has the table of one of the two data sets.

    Parameters
    ----------
    folder
        Any folder.

    Returns
    -------
    bool
        By the name of the table alone.
    """
    return _find_table(Path(folder)) is not None


def read_labelled(folder: Path | str, subset: str = "all") -> LabelledDataset:
    """Read a data set.

    Parameters
    ----------
    folder
        UrbanSound8K or ESC-50.
    subset
        ``all``, or ``esc10`` for the classes of ESC-10 alone.

    Returns
    -------
    LabelledDataset
        Its clips.

    Raises
    ------
    InputError
        A table or column is missing, a fold or class is invalid, a name contradicts its row or
        occurs twice, or a class has two names; the message names the line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder),
                         hint="Name a folder of UrbanSound8K or ESC-50.")
    located = _find_table(folder)
    if located is None:
        raise InputError("holds neither UrbanSound8K nor ESC-50", where=str(folder),
                         allowed="metadata/UrbanSound8K.csv with audio/fold1/ … audio/fold10/, "
                                 "or meta/esc50.csv with audio/")
    layout, table = located
    if subset not in SUBSETS:
        raise InputError(f"unknown subset '{subset}'", allowed=", ".join(SUBSETS))
    if subset == "esc10" and layout.kind != "ESC-50":
        raise InputError(f"{layout.kind} has no subset esc10", where=str(folder), allowed="all")
    clips, names = _clips(layout, table, subset)
    ids = tuple(sorted(names))
    label = {number: index for index, number in enumerate(ids)}
    published = (layout.classes, layout.size) if subset == "all" else ESC10_SIZE
    return LabelledDataset(
        layout.subset if subset == "esc10" else layout.kind, table, folder / "audio",
        tuple(names[number] for number in ids), ids,
        tuple(LabelledClip(file, fold, label[number], source)
              for file, fold, number, source in clips), (layout.folds, *published))


def _find_table(folder: Path) -> tuple[_Layout, Path] | None:
    for layout in _LAYOUTS:
        for name in layout.folders:
            if (folder / name / layout.table).is_file():
                return layout, folder / name / layout.table
    return None


def _clips(layout: _Layout, table: Path, subset: str
           ) -> tuple[list[tuple[str, int, int, str]], dict[int, str]]:
    """(file, fold, class number, source) of every clip, and class number → name."""
    needed = [layout.name, "fold", layout.number, layout.label]
    is_part = subset == "esc10"
    rows = listed(table, f"table of {layout.kind}", [*needed, _ESC10] if is_part else needed,
                  layout.name, _check_plain,
                  lambda row: not is_part or row[_ESC10].strip().lower() == "true")
    clips: list[tuple[str, int, int, str]] = []
    names: dict[int, str] = {}
    for name, where, row in rows:
        fold = _whole_number(row["fold"], "fold", where)
        if not 1 <= fold <= layout.folds:
            raise InputError(f"fold {fold}", where=where, allowed=f"1 to {layout.folds}")
        number = _whole_number(row[layout.number], layout.number, where)
        label = row[layout.label].strip()
        if names.setdefault(number, label) != label:
            raise InputError(f"class {number} has two names: '{label}' here, '{names[number]}' in "
                             "an earlier line", where=where)
        _check_name(layout, name, row, where)
        # Where the column of source recordings is missing, each clip counts as a recording of its
        # own.
        source = row.get(layout.source, "").strip() or name
        clips.append((layout.file(name, fold), fold, number, source))
    if not clips:
        raise InputError("lists no clips", where=str(table))
    return clips, names


def _check_plain(name: str, where: str) -> None:
    # A table from elsewhere must not lead out of the folder.
    if not _PLAIN.fullmatch(name) or name in (".", ".."):
        raise InputError(f"'{name}' is not a plain file name", where=where)


def _check_name(layout: _Layout, name: str, row: Mapping[str, str], where: str) -> None:
    """Refuse a published file name that contradicts the cells of its row."""
    parts = layout.named.fullmatch(name)
    for column, value in parts.groupdict().items() if parts else ():
        if column in row and row[column].strip() != value:
            raise InputError(f"{column} is {row[column].strip()}, but {value} by the file name "
                             f"'{name}'", where=where)


def _whole_number(text: str, column: str, where: str) -> int:
    if not re.fullmatch(r"\s*\d+\s*", text):
        raise InputError(f"{column} '{text}' is not a whole number", where=where)
    return int(text)
