"""Any folder of labelled clips: a table names their files, labels, folds and groups.

A table is a CSV file with a row per clip; ``clip_columns`` finds its columns. Here rows are read
and checked, and folds are made where the table has none. (UrbanSound8K and ESC-50 are tables whose
columns are known: see ``labelled``, which also has what a table becomes.)
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from l3hpc.datasets.clip_columns import (
    LISTED,
    ClipTable,
    Columns,
    find_columns,
    find_file_column,
    folds_option,
    read_header,
)
from l3hpc.datasets.corpus import AUDIO_SUFFIXES
from l3hpc.datasets.labelled import (
    PART_NAMES,
    TEST,
    TRAIN,
    VALIDATE,
    LabelledClip,
    LabelledDataset,
    listed,
)
from l3hpc.errors import InputError, option, setting
from l3hpc.io.files import refuse_unreadable
from l3hpc.io.values import count_of, normalised

# Usual names of columns in lower case; of several in one table, the first in this list counts.
PARTS = {"train": TRAIN, "training": TRAIN, "validate": VALIDATE, "validation": VALIDATE,
         "valid": VALIDATE, "val": VALIDATE, "test": TEST, "testing": TEST}
SEPARATORS = (";", "|")  # between labels in one cell; a comma may belong to a name
ONE_LABEL = "none"
_NAMED = 3  # examples in a message
MADE_FOLDS = 5

_Row = tuple[str, str, dict[str, str]]  # name in the table, ``file:line``, cells


def read_files(source: ClipTable) -> list[str]:
    """The files of a table, whatever its other columns.

    Parameters
    ----------
    source
        The table.

    Returns
    -------
    list of str
        Paths below the folder of audio, in the order of the table.

    Raises
    ------
    InputError
        As ``read_table``, for the column of files.
    """
    column = find_file_column(source, read_header(source))
    if not source.folder.is_dir():
        raise InputError("no such folder of audio", where=str(source.folder),
                         allowed=f"the folder with the files of {source.table.name}",
                         hint=f"Name it: {option('audio', 'DIR')}")
    names = [name for name, _, _ in _rows(source, column)]
    return list(_located(source, names).values())


def read_table(source: ClipTable) -> LabelledDataset:
    """Read the clips of a table with their labels and folds.

    Parameters
    ----------
    source
        The table and its columns.

    Returns
    -------
    LabelledDataset
        The clips; classes are in the order of their numbers where all are whole numbers, otherwise
        of their names.

    Raises
    ------
    InputError
        A column is not found, files are listed twice, labels, folds or parts are missing, or a
        class cannot be both learned and tested; the message has counts and the first names.

    Notes
    -----
    Folds that are made are stratified by label (of several, the rarest) and keep a group together.
    """
    header = read_header(source)
    columns = find_columns(source, header)
    rows = list(_rows(source, columns.file))
    if not rows:
        raise InputError("lists no clips", where=str(source.table))
    names = _located(source, [name for name, _, _ in rows])
    found, several = _labels(source, columns.labels, rows)
    classes = sorted({one for own in found for one in own}, key=_class_order(found))
    number = {name: index for index, name in enumerate(classes)}
    own = [tuple(sorted(number[one] for one in each)) for each in found]
    # a clip without a group is a group of its own: nothing has to stay together with it
    group = columns.group
    sources = [names[name] if group is None else row[group].strip() or names[name]
               for name, _, row in rows]
    if columns.split:
        folds = _stated_parts(source, columns.split, rows)
    elif columns.fold:
        folds = _stated_folds(source, columns.fold, rows)
    else:
        folds = _made_folds(source, own, sources if group else None, source.folds or MADE_FOLDS)
    clips = tuple(LabelledClip(names[name], folds[index], own[index][0], sources[index],
                               own[index] if several else ())
                  for index, (name, _, _) in enumerate(rows))
    notes = [f"files of {columns.file!r}", f"labels of {_some(columns.labels)}",
             *_label_notes(columns.labels, own, classes),
             *_fold_notes(source, header, columns, rows, clips)]
    untested = _untested(clips, classes) if columns.split else []
    if untested:
        notes.append(f"no test clips of {len(untested)} of {len(classes)} classes: "
                     f"{', '.join(untested[:_NAMED])}" + ", …" * (len(untested) > _NAMED))
    dataset = LabelledDataset(source.title, source.table, source.folder, tuple(classes),
                              tuple(range(len(classes))), clips, several=several,
                              columns=", ".join(notes), has_split=columns.split is not None)
    _refuse_rare(dataset)
    return dataset


def _label_notes(columns: Sequence[str], own: Sequence[tuple[int, ...]], classes: Sequence[str]
                 ) -> list[str]:
    """What may be wrong with the labels: none, all, or two that people take for one."""
    notes = []
    absent = sorted({*map(normalised, columns)} - {*classes}) if len(columns) > 1 else []
    if absent:
        notes.append(f"no clip has the label{'s' * (len(absent) > 1)} {_some(absent)}")
    often = Counter(label for labels in own for label in labels)
    if every := [classes[label] for label, count in often.items() if count == len(own)]:
        notes.append(f"every clip has the label{'s' * (len(every) > 1)} {_some(every)}")
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[" ".join(name.casefold().split())].append(name)
    notes += [f"{_some(names)} differ only in case or spaces" for names in alike.values()
              if len(names) > 1][:_NAMED]
    return notes


def _some(names: Sequence[str]) -> str:
    """``'siren', 'horn', 'dog' and 12 more``."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def _fold_notes(source: ClipTable, header: Sequence[str], columns: Columns, rows: Sequence[_Row],
                clips: Sequence[LabelledClip]) -> list[str]:
    """Where the folds (or the split) of the clips come from, and what may be wrong with them."""
    split, fold, group = columns.split, columns.fold, columns.group
    if fold is None and split is None:
        notes = [f"{source.folds or MADE_FOLDS} folds made"
                 + (f" with groups of {group!r}" if group else "")]
        # a split that the data set came with is easily overlooked, and numbers by it are not
        # comparable with those of our folds
        unused = next((column for column in header
                       if {TRAIN, TEST} <= set(_parts(column, rows)) <= set(PART_NAMES)), None)
        if unused:
            notes.append(f"the split of {unused!r} is not used ({option('split-column', unused)})")
        return notes
    notes = [f"folds of {fold!r}" if split is None else f"split of {split!r}: {_part_sizes(clips)}"]
    # stated folds stay as they are, but what is learned of a group may be tested on it
    of_group = Counter(name for name, _ in {(clip.source, clip.fold) for clip in clips})
    divided = sum(count > 1 for count in of_group.values())
    if divided:
        notes.append(f"{divided} of {len(of_group)} groups of {group!r} in several "
                     f"{'folds' if split is None else 'parts'}")
    return notes


def _rows(source: ClipTable, column: str) -> Iterator[_Row]:
    def check(name: str, where: str) -> None:
        path = PurePosixPath(name)
        # A table from elsewhere must not lead out of the folder.
        outside = path.is_absolute() and not path.is_relative_to(source.folder.absolute())
        if not name or outside or ".." in path.parts or name in (".", "/"):
            raise InputError(f"'{name}' is not a file below the folder of audio", where=where,
                             allowed=f"paths below {source.folder}",
                             hint=f"Name the folder: {option('audio', 'DIR')}")

    return listed(source.table, "table of clips", [column], column, check)


def _located(source: ClipTable, names: Sequence[str]) -> dict[str, str]:
    """Name in the table → path below the folder of audio.

    A name may lack its folder and its suffix where a single file fits, and may write accents in
    another way; a name without a file is left as it is.
    """
    folder = source.folder
    absolute = folder.absolute()
    result = {name: PurePosixPath(name).relative_to(absolute).as_posix()
              if name.startswith("/") else PurePosixPath(name).as_posix() for name in names}
    if all(os.path.isfile(folder / path) for path in result.values()):
        _refuse_same_files(source, result)
        return result
    by_path: dict[str, set[str]] = defaultdict(set)
    by_name: dict[str, set[str]] = defaultdict(set)
    # Only where a path of the table does not fit: a walk through a large data set takes minutes on
    # a network disk.
    for parent, _, files in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        for file in files:
            if os.path.splitext(file)[1].lower() in AUDIO_SUFFIXES and not file.startswith("."):
                there = PurePosixPath(os.path.relpath(os.path.join(parent, file), folder))
                for one in {there.name, there.stem, there.with_suffix("").as_posix()}:
                    by_name[normalised(one)].add(there.as_posix())
                by_path[normalised(there.as_posix())].add(there.as_posix())
    for name, path in result.items():
        if os.path.isfile(folder / path):
            continue
        fitting = sorted(by_path[normalised(path)] or by_name[normalised(path)])
        if len(fitting) > 1:
            raise InputError(f"'{name}' may be {fitting[0]} or {fitting[1]}",
                             where=str(source.table), allowed="names that one file has",
                             hint=f"Write the paths below {folder} into the table.")
        result[name] = fitting[0] if fitting else path
    _refuse_same_files(source, result)
    return result


def _refuse_same_files(source: ClipTable, paths: dict[str, str]) -> None:
    """Refuse two names of one file (links included), which may be learned and tested."""
    first: dict[str, str] = {}
    for name, path in paths.items():
        file = os.path.realpath(source.folder / path)
        other = first.setdefault(file, name)
        if other != name:
            raise InputError(f"'{other}' and '{name}' are the same file: {path}",
                             where=str(source.table), allowed="one row per clip")


def _labels(source: ClipTable, columns: Sequence[str], rows: Sequence[_Row],
            ) -> tuple[list[list[str]], bool]:
    """The labels of every clip, and whether clips may have several."""
    if len(columns) > 1:
        names = [(column, normalised(column)) for column in columns]
        found = [[name for column, name in names if _is_marked(row[column], column, where)]
                 for _, where, row in rows]
        several = True
    else:
        separator = _separator(source, [row[columns[0]] for _, _, row in rows], columns[0])
        several = separator is not None
        found = [[part.strip() for part in row[columns[0]].split(separator) if part.strip()]
                 if separator else [row[columns[0]].strip()] * bool(row[columns[0]].strip())
                 for _, _, row in rows]
        # a label that a cell has twice is one label, also where its accents are written in two ways
        found = [list(dict.fromkeys(map(normalised, own))) for own in found]
    _refuse_rows("{n} of {total} clips have no label", source, rows,
                 [index for index, own in enumerate(found) if not own],
                 allowed="a label for every clip", hint="Complete the table, or remove these rows.")
    return found, several


def _is_marked(cell: str, column: str, where: str) -> bool:
    text = cell.strip().lower()
    if text in ("1", "1.0", "true"):
        return True
    if text in ("", "0", "0.0", "false"):
        return False
    raise InputError(f"{column} is '{cell}'", where=where,
                     allowed="1 or 0 in each of several label columns")


def _separator(source: ClipTable, cells: Sequence[str], column: str) -> str | None:
    stated = source.label_separator
    if stated is not None:
        if not stated:
            raise InputError("the separator of labels is empty", where=option("label-separator"),
                             allowed=f"one or more characters, or {ONE_LABEL}")
        return None if stated == ONE_LABEL else stated
    for separator in SEPARATORS:
        if any(separator in cell for cell in cells):
            return separator
    comma = next((cell for cell in cells if "," in cell), None)
    if comma is not None:
        raise InputError(f"'{comma}' in the column '{column}' may be one label or several",
                         where=str(source.table), allowed="a separator, or none",
                         hint=f"Several: {option('label-separator', ',')}   one: "
                              + option("label-separator", ONE_LABEL))
    return None


def _class_order(found: Sequence[Sequence[str]]) -> Callable[[str], tuple[int, str]]:
    """Numbers in their order, as published data sets number their classes; other names by name."""
    numbers = all(re.fullmatch(r"\d{1,9}", one) for own in found for one in own)
    return lambda name: (int(name) if numbers else 0, name)


def _stated_folds(source: ClipTable, column: str, rows: Sequence[_Row]
                  ) -> list[int]:
    cells = [row[column].strip() for _, _, row in rows]
    valid = [re.fullmatch(r"(\d{1,9})(\.0)?", cell) for cell in cells]
    _refuse_rows(f"{{n}} of {{total}} clips have an unknown fold in the column '{column}'", source,
                 rows, [index for index, one in enumerate(valid) if one is None],
                 allowed="a whole number for every clip",
                 hint=f"Correct the table, or have folds made: {folds_option(5)}", cells=cells)
    return [int(one[1]) for one in valid if one is not None]


def _stated_parts(source: ClipTable, column: str, rows: Sequence[_Row]) -> list[int]:
    """The parts of a split, as folds."""
    cells = [row[column].strip() for _, _, row in rows]
    parts = _parts(column, rows)
    _refuse_rows(f"{{n}} of {{total}} clips are in no part of the split in the column '{column}'",
                 source, rows, [index for index, part in enumerate(parts) if part is None],
                 allowed="train, validate (or validation, valid, val), test",
                 hint="Correct the table, or remove these rows.", cells=cells)
    for name, part in (("train", TRAIN), ("test", TEST)):
        if part not in parts:
            raise InputError(f"no clip is in the part {name}", where=str(source.table),
                             allowed=f"clips to train and to test in the column '{column}'")
    return [part for part in parts if part is not None]


def _parts(column: str, rows: Sequence[_Row]) -> list[int | None]:
    """The part that each cell names; None for other text."""
    return [PARTS.get(row[column].strip().casefold()) for _, _, row in rows]


def _part_sizes(clips: Sequence[LabelledClip]) -> str:
    """``700 to train, 100 to validate, 200 to test``."""
    sizes = Counter(clip.fold for clip in clips)
    return ", ".join(f"{sizes[part]:,} to {name}" for part, name in PART_NAMES.items())


def _untested(clips: Sequence[LabelledClip], classes: Sequence[str]) -> list[str]:
    tested = {label for clip in clips if clip.fold == TEST
              for label in clip.labels or (clip.label,)}
    return [name for label, name in enumerate(classes) if label not in tested]


def _refuse_rows(problem: str, source: ClipTable, rows: Sequence[_Row],
                 wrong: Sequence[int], *, allowed: str, hint: str,
                 cells: Sequence[str] | None = None) -> None:
    """Refuse rows of a table, with their count, and the first names and lines."""
    if not wrong:
        return
    first = [f"{rows[index][0]} (line {rows[index][1].rpartition(':')[2]}"
             + (f": '{cells[index]}')" if cells else ")") for index in wrong[:_NAMED]]
    more = ", …" * (len(wrong) > _NAMED)
    raise InputError(f"{problem.format(n=len(wrong), total=len(rows))}: {', '.join(first)}{more}",
                     where=str(source.table), allowed=allowed, hint=hint)


def _made_folds(source: ClipTable, labels: Sequence[tuple[int, ...]],
                groups: Sequence[str] | None, count: int) -> list[int]:
    """Folds from 1, stratified by label (of several, the rarest)."""
    often = Counter(label for own in labels for label in own)
    strata = tuple(min(own, key=lambda label: (often[label], label)) for own in labels)
    if groups is not None and (most := len(set(groups))) < count:
        # with two folds, none is left to validate on
        fewer = folds_option("N") if most > 2 else \
            f"{folds_option(2)} {setting('folds.valid_fold', 'false')}"
        raise InputError(
            f"{count_of(most, 'group is', 'groups are')} too few for {count} folds",
            where=str(source.table),
            allowed=f"2 to {most} folds" if most > 2 else "at least two groups" if most < 2
            else "2 folds",
            hint=f"Use fewer ({fewer}), or another {option('group-column')}." if most > 1
            else f"Name another {option('group-column')}, or leave it out.")
    if max(Counter(strata).values()) < count:
        raise InputError(f"no class has as many as {count} clips", where=str(source.table),
                         allowed="at least one class with a clip for every fold",
                         hint=f"Use fewer folds: {folds_option('N')}")
    return list(_stratified(strata, None if groups is None else tuple(groups), count, source.seed))


# A plan reads a table several times, and thousands of groups take a second.
@functools.lru_cache(maxsize=4)
def _stratified(strata: tuple[int, ...], groups: tuple[str, ...] | None, count: int, seed: int
                ) -> tuple[int, ...]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(count, shuffle=True, random_state=seed)
    folds = np.zeros(len(strata), int)
    with warnings.catch_warnings():
        # A class with fewer clips than folds is allowed: it is in some folds only.
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, tested) in enumerate(
                splitter.split(np.zeros(len(strata)), strata, groups), 1):
            folds[tested] = number
    return tuple(folds.tolist())


def _refuse_rare(dataset: LabelledDataset) -> None:
    """Refuse classes that cannot be both learned and tested, and a single class."""
    clips: dict[int, list[LabelledClip]] = defaultdict(list)
    for clip in dataset.clips:
        for label in clip.labels or (clip.label,):
            clips[label].append(clip)
    where = str(dataset.table)
    if len(clips) < 2:
        raise InputError(f"has a single class: '{dataset.classes[0]}'", where=where,
                         allowed="two classes or more",
                         hint=f"Is it the right {option('label-column')}?")
    hint = "Remove or merge these classes in the table."
    refused = [
        ("one clip", [own for own in clips.items() if len(own[1]) == 1],
         "two clips or more of every class"),
        ("clips in one fold only", [own for own in clips.items() if len(dataset.folds) > 1
                                    and len({clip.fold for clip in own[1]}) == 1],
         "clips of every class in two folds or more: one to learn, one to test")]
    if dataset.has_split:
        refused = [("no clip to train on", [own for own in clips.items()
                                            if all(clip.fold != TRAIN for clip in own[1])],
                    "clips of every class in the part train")]
    for problem, rare, allowed in refused:
        if rare:
            first = [f"'{dataset.classes[label]}' ({own[0].file})"
                     for label, own in sorted(rare)[:_NAMED]]
            raise InputError(
                f"{len(rare)} of {len(clips)} classes have {problem}: {', '.join(first)}"
                + ", …" * (len(rare) > _NAMED), where=where, allowed=allowed, hint=hint)
