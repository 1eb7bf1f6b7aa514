"""The columns of a table of clips: named by the user, or found by their usual names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from l3hpc.errors import InputError, option
from l3hpc.io.tables import read_rows
from l3hpc.io.values import normalised

LISTED = 30  # most columns that a message lists
FILE_COLUMNS = ("file", "filename", "file_name", "fname", "filepath", "file_path", "path",
                "audio_filename", "audio_file", "slice_file_name", "audio", "clip", "recording")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "tags", "tag", "species",
                 "primary_label", "event", "target", "y")
FOLD_COLUMNS = ("fold", "folds", "fold_id", "fold_num", "cv_fold")
# Names of tables that say nothing about the data: the name of their folder is used then.
_NO_NAME = re.compile(r"labels?|meta(data)?|annotations?|clips?|tables?|index|data", re.I)


@dataclass(frozen=True)
class ClipTable:
    """A table of clips, and how its columns are to be read.

    Attributes
    ----------
    table
        The CSV file.
    audio
        The folder of audio (None: that of the table).
    file_column, fold_column, group_column, split_column
        Names of columns (None: found, or for groups and the split none). The last says in place of
        folds which clips train, validate and test.
    label_column
        Name of the column of labels, or of several columns of 0 and 1, separated by commas.
    label_separator
        What separates several labels in a cell; ``none``: a cell is one label (None: found).
    folds
        Number of folds to make (None: those of the table, or 5).
    seed
        Seed of the folds that are made.
    name
        Name of the data set (None: by the file).
    """

    table: Path
    audio: Path | None = None
    file_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    fold_column: str | None = None
    group_column: str | None = None
    folds: int | None = None
    seed: int = 0
    name: str | None = None
    split_column: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of audio."""
        return self.audio or self.table.absolute().parent

    @property
    def title(self) -> str:
        """The name of the data set: given, or of the table, or of its folder."""
        stem = self.table.stem
        return self.name or (self.table.absolute().parent.name
                             if _NO_NAME.fullmatch(stem) else stem) or stem


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read.

    Attributes
    ----------
    file : str
        That of the files.
    labels : list of str
        That of the labels, or several of 0 and 1.
    split, fold, group : str or None
        Those of the split, the folds and the groups; None without one.
    """

    file: str
    labels: Sequence[str]
    split: str | None
    fold: str | None
    group: str | None


def read_header(source: ClipTable) -> list[str]:
    """Read the names of all columns.

    Parameters
    ----------
    source
        The table.

    Raises
    ------
    InputError
        There is no such file, or it has no header.
    """
    if not source.table.is_file():
        raise InputError("no such table of clips", where=str(source.table),
                         allowed="a CSV file with a row per clip",
                         hint=f"Name it: {option('table', 'FILE')}")
    return next(read_rows(source.table, "table of clips"))[1]


def find_file_column(source: ClipTable, header: Sequence[str]) -> str:
    """Find the column of the files.

    Parameters
    ----------
    source
        The table.
    header
        What ``read_header`` returned.

    Raises
    ------
    InputError
        It is not found.
    """
    return _column(source, "file", source.file_column, FILE_COLUMNS, header)


def find_columns(source: ClipTable, header: Sequence[str]) -> Columns:
    """Find all columns that are read.

    Parameters
    ----------
    source
        The table.
    header
        What ``read_header`` returned.

    Raises
    ------
    InputError
        A column is not found, or two of them cannot be combined.
    """
    file = find_file_column(source, header)
    labels = _label_columns(source, header)
    split = _split_column(source, header)
    fold = None if split else _fold_column(source, header)
    group = source.group_column
    if group is not None:
        _column(source, "group", group, (), header)
    return Columns(file, labels, split, fold, group)


def folds_option(count: object = None) -> str:
    """Name the option for a number of folds in a message.

    Parameters
    ----------
    count
        The number; None: the message is only about it.
    """
    return option("folds", count, sets="fold_count")


def _column(source: ClipTable, what: str, named: str | None, usual: Sequence[str],
            header: Sequence[str]) -> str:
    """The column that is named, or the first with a usual name."""
    if named is not None:
        if named in header:
            return named
        # A keyboard and a table may write the same accent in two ways.
        for column in header:
            if normalised(column) == normalised(named):
                return column
        raise InputError(f"has no column '{named}'", where=str(source.table),
                         allowed=f"its columns: {_some(header)}",
                         hint=f"Name one of them: {option(f'{what}-column', 'NAME')}")
    # Reversed, so that of two columns that differ in case or spaces the first counts.
    by_name = {column.strip().casefold(): column for column in reversed(header)}
    for name in usual:
        if name in by_name:
            return by_name[name]
    raise InputError(f"no column of {what}s was found", where=str(source.table),
                     allowed=f"its columns: {_some(header)}; found by itself: "
                             f"{', '.join(usual)}",
                     hint=f"Name the column: {option(f'{what}-column', 'NAME')}")


def _some(names: Sequence[str]) -> str:
    """The first names, which a message can hold."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more"
                                        if len(names) > LISTED else "")


def _label_columns(source: ClipTable, header: Sequence[str]) -> list[str]:
    named = source.label_column
    if named is None or named in header:
        return [_column(source, "label", named, LABEL_COLUMNS, header)]
    known = frozenset(header)  # thousands of columns, each of which is looked up
    columns = [one if one in known else _column(source, "label", one, (), header)
               for one in map(str.strip, named.split(","))]
    names = Counter(map(normalised, columns))
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"names the column '{twice[0]}' twice", where=option("label-column"),
                         allowed="each column of labels once")
    return columns


def _fold_column(source: ClipTable, header: Sequence[str]) -> str | None:
    """The column of folds; None where they are made."""
    if source.fold_column is not None:
        if source.folds is not None:
            raise InputError("a column of folds and a number of folds to make cannot be combined",
                             where=f"{option('fold-column')}, {folds_option()}",
                             hint="Give one of them.")
        return _column(source, "fold", source.fold_column, (), header)
    if source.folds is not None:
        return None
    usual = {column.strip().casefold(): column for column in reversed(header)}
    return next((usual[name] for name in FOLD_COLUMNS if name in usual), None)


def _split_column(source: ClipTable, header: Sequence[str]) -> str | None:
    if source.split_column is None:
        return None
    if source.fold_column is not None or source.folds is not None:
        other = folds_option() if source.fold_column is None else option("fold-column")
        raise InputError("a split and folds cannot be combined",
                         where=f"{option('split-column')}, {other}", hint="Give one of them.")
    return _column(source, "split", source.split_column, (), header)
