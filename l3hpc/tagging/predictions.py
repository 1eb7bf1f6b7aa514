"""Predictions of SONYC-UST as a table: ``audio_filename``, the fine tags, the categories.

Made from a classifier of one level (the other level is filled as in the published pipeline),
written to and read from the published CSV format.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3hpc.datasets.taxonomy import CoarseTag, FineTag, Taxonomy
from l3hpc.errors import InputError
from l3hpc.io.files import write_text
from l3hpc.io.tables import read_rows, require_columns

FILE_COLUMN = "audio_filename"
LEVELS = ("coarse", "fine")
ROUNDING = 1e-6  # outside [0, 1], of probabilities that were written with few digits
NOT_PERCENT = 2.0  # values up to this are not taken for percentages
MAX_NAMED = 3  # columns that a warning lists by name
_ALLOWED = "probabilities: numbers from 0 to 1"


@dataclass(frozen=True)
class Predictions:
    """Probabilities of tags per clip.

    Attributes
    ----------
    files : list of str
        Names of the clips.
    fine : ndarray of float64, shape (files, fine tags including X)
        0 to 1.
    coarse : ndarray of float64, shape (files, categories)
        0 to 1.
    warnings : list of str
        What is missing or suspicious in the file.
    levels : tuple of str
        The levels that the file contains.
    where : str
        Their file, for messages.
    """

    files: list[str]
    fine: np.ndarray
    coarse: np.ndarray
    warnings: list[str] = field(default_factory=list)
    levels: tuple[str, ...] = LEVELS
    where: str = "predictions"

    @property
    def scored_levels(self) -> tuple[str, ...]:
        """The levels that say anything: a coarse classifier writes zeros for the fine tags."""
        coarse_only = self.coarse.any() and not self.fine.any()
        return tuple(level for level in self.levels if not (level == "fine" and coarse_only))


def from_coarse(files: Sequence[str], coarse: np.ndarray, taxonomy: Taxonomy) -> Predictions:
    """Predictions of a coarse classifier; all fine tags are 0.

    Parameters
    ----------
    files
        Names of the clips.
    coarse
        Probabilities, shape (files, categories).
    taxonomy
        The tags.
    """
    return Predictions(list(files), np.zeros((len(files), len(taxonomy.fine))),
                       np.asarray(coarse, np.float64))


def from_fine(files: Sequence[str], complete: np.ndarray, taxonomy: Taxonomy) -> Predictions:
    """Predictions of a fine classifier. A category has the highest probability of its tags; X is 0.

    Parameters
    ----------
    files
        Names of the clips.
    complete
        Probabilities, shape (files, complete fine tags).
    taxonomy
        The tags.
    """
    fine = np.zeros((len(files), len(taxonomy.fine)))
    fine[:, taxonomy.complete_fine] = complete
    coarse = np.stack([fine[:, taxonomy.complete(tag.id)].max(axis=1, initial=0.0)
                       for tag in taxonomy.coarse], axis=1)
    return Predictions(list(files), fine, coarse)


def complete(predicted: Predictions, files: Sequence[str]) -> Predictions:
    """Extend predictions to more clips, with 0 for every tag of the others.

    Parameters
    ----------
    predicted
        Predictions of some of the clips.
    files
        Names of all clips, which determine the order.
    """
    row_of = {name: row for row, name in enumerate(files)}
    rows = [row_of[name] for name in predicted.files]
    fine, coarse = (np.zeros((len(files), block.shape[1]))
                    for block in (predicted.fine, predicted.coarse))
    fine[rows], coarse[rows] = predicted.fine, predicted.coarse
    return Predictions(list(files), fine, coarse, predicted.warnings, predicted.levels,
                       predicted.where)


def write(path: Path | str, predictions: Predictions, taxonomy: Taxonomy) -> None:
    """Write the CSV, sorted by file name, with digits enough for exact float32 values.

    Parameters
    ----------
    path
        The file.
    predictions
        The predictions.
    taxonomy
        The tags.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([FILE_COLUMN, *taxonomy.fine_columns, *taxonomy.coarse_columns])
    values = np.concatenate([predictions.fine, predictions.coarse], axis=1)
    for place in sorted(range(len(predictions.files)), key=lambda at: predictions.files[at]):
        writer.writerow([predictions.files[place], *(f"{value:.9g}" for value in values[place])])
    write_text(Path(path), text.getvalue())


def read(path: Path | str, taxonomy: Taxonomy) -> Predictions:
    """Read a predictions CSV, in the order of its rows; columns are found by name.

    A whole level may be missing (then it is not in ``levels``). There is a warning for a missing
    column of an uncertain tag (X), which counts as 0, for a column that is no tag, which is
    ignored, and for a column with the same value for all clips.

    Parameters
    ----------
    path
        The file.
    taxonomy
        The tags.

    Returns
    -------
    Predictions
        The table.

    Raises
    ------
    InputError
        With line and column, for what ``l3hpc.io.tables`` refuses, a file without any tag of the
        taxonomy or with a part of a level, a value that is not a probability, and a clip that is
        listed twice.
    """
    where = str(path)
    table = read_rows(path, "predictions", [FILE_COLUMN])
    line, columns = next(table)
    names = [*taxonomy.fine_columns, *taxonomy.coarse_columns]
    levels, absent = _levels(columns, taxonomy, f"{where}:{line}")
    known = [place for place, name in enumerate(names) if name in columns]
    cells = [columns.index(names[place]) for place in known]
    first = columns.index(FILE_COLUMN)
    lines: dict[str, int] = {}
    numbers = array("d")
    for line, row in table:
        if not row[first].strip():
            raise InputError(f"{FILE_COLUMN} is empty", where=f"{where}:{line}")
        if lines.setdefault(row[first], line) != line:
            raise InputError(f"'{row[first]}' is listed twice", where=f"{where}:{line}",
                             hint=f"It is also in line {lines[row[first]]}.")
        try:
            parsed = [float(row[cell]) for cell in cells]
            # One test of the sum is cheaper than one of every cell.
            invalid = not math.isfinite(sum(parsed))
        except ValueError:
            invalid = True
        if invalid:
            _refuse_invalid(row, cells, columns, f"{where}:{line}")
        numbers.extend(parsed)
    values = np.zeros((len(lines), len(names)))
    values[:, known] = np.frombuffer(numbers).reshape(len(lines), len(known))
    _refuse_improbable(values, names, list(lines.values()), where)
    # What few digits have put just outside; all other values were refused.
    np.clip(values, 0, 1, out=values)
    fine = len(taxonomy.fine)
    warnings = [f"column '{name}' is missing: taken as 0" for name in absent]
    warnings += [f"no columns of the {level} tags: only the {levels[0]} ones are scored"
                 for level in LEVELS if level not in levels]
    if len(lines) > 1 and not values.any():
        warnings.append("every value is 0")
    warnings += _several("is not a tag of the taxonomy: ignored",
                         [name for name in columns if name not in names and name != FILE_COLUMN])
    warnings += _several(f"has the same value for all {len(lines):,} clips",
                         _constant(values[:, :fine], taxonomy.fine)
                         + _constant(values[:, fine:], taxonomy.coarse))
    return Predictions(list(lines), values[:, :fine], values[:, fine:], warnings, levels, where)


def refuse_improbable(predictions: Predictions, taxonomy: Taxonomy, where: str) -> None:
    """Refuse predictions that are not probabilities.

    Parameters
    ----------
    predictions
        The predictions.
    taxonomy
        The tags.
    where
        Their origin, for the message.

    Raises
    ------
    InputError
        With the tag, the clip and the range of the values.
    """
    values = np.concatenate([predictions.fine, predictions.coarse], axis=1)
    names = [*taxonomy.fine_columns, *taxonomy.coarse_columns]
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"{names[column]} is {values[row, column]} for '{predictions.files[row]}'",
                         where=where, allowed=_ALLOWED)
    _refuse_improbable(values, names, None, where)


def _levels(columns: Sequence[str], taxonomy: Taxonomy, where: str
            ) -> tuple[tuple[str, ...], list[str]]:
    """The levels whose tags have columns, and the uncertain tags (X) that have none."""
    needed = {"fine": [tag.column for tag in taxonomy.fine if not tag.is_x],
              "coarse": taxonomy.coarse_columns}
    levels = tuple(level for level in LEVELS
                   if any(name in columns for name in needed[level]))
    if not levels:
        names = [*taxonomy.coarse_columns, *taxonomy.fine_columns]
        # annotations have the same tags and are easily taken for predictions
        presence = [name for name in columns if name.removesuffix("_presence") in names]
        hint = f"It has {presence[0]!r}: these are annotations." if presence else next(
            (f"{column!r} in it resembles {one[0]!r}: names must match exactly."
             for column in columns if (one := [
                 name for name in names if name.casefold() == column.strip().casefold()]
                 or difflib.get_close_matches(column, names, n=1, cutoff=0.7))), None)
        raise InputError("no column is a tag of the taxonomy", where=where, hint=hint,
                         allowed=f"{FILE_COLUMN}, then {', '.join(names[:3])}, …")
    for level in levels:
        require_columns(columns, needed[level], where)
    absent = [tag.column for tag in taxonomy.fine
              if "fine" in levels and tag.is_x and tag.column not in columns]
    return levels, absent


def _refuse_improbable(values: np.ndarray, names: Sequence[str], lines: Sequence[int] | None,
                       where: str) -> None:
    """Refuse values outside [0, 1], with a guess at what they are instead."""
    wrong = (values < -ROUNDING) | (values > 1 + ROUNDING)
    if not wrong.any():
        return
    row, column = np.argwhere(wrong)[0]
    columns = values[:, wrong.any(axis=0)]
    low, high = float(columns.min()), float(columns.max())
    if high <= ROUNDING:
        hint = "They look like logarithms: apply exp(x)."
    elif low < -ROUNDING:
        hint = "They look like scores before the sigmoid (logits): apply 1 / (1 + exp(-x))."
    elif NOT_PERCENT < high <= 100 + ROUNDING:
        hint = "They look like percent: divide them by 100."
    else:
        hint = None
    raise InputError(f"{names[column]} is {values[row, column]:g}; values range from {low:g} to "
                     f"{high:g}", where=where if lines is None else f"{where}:{lines[row]}",
                     allowed=_ALLOWED, hint=hint)


def _constant(values: np.ndarray, tags: Sequence[CoarseTag | FineTag]) -> list[str]:
    """Columns with the same value for all clips, except zeros that are to be expected."""
    if len(values) < 2 or not values.any():
        return []
    # All zeros: a classifier of the other level; zeros in X: no classifier predicts it.
    same = (values == values[0]).all(axis=0)
    return [tag.column for place, tag in enumerate(tags)
            if same[place] and (values[0, place] or not getattr(tag, "is_x", False))]


def _several(what: str, columns: Sequence[str]) -> list[str]:
    """One warning per column for a few columns, one for all of many."""
    if len(columns) <= MAX_NAMED:
        return [f"column '{name}' {what}" for name in columns]
    return [f"{len(columns)} columns ({', '.join(columns[:MAX_NAMED])}, …): each {what}"]


def _refuse_invalid(row: Sequence[str], cells: Sequence[int], columns: Sequence[str],
                    where: str) -> None:
    """Refuse the first cell that is not a finite number.

    There may be none: a sum of very large numbers is infinite, too.
    """
    for cell in cells:
        try:
            if math.isfinite(float(row[cell])):
                continue
        except ValueError:
            pass
        raise InputError(f"{columns[cell]} is '{row[cell]}'", where=where, allowed=_ALLOWED)
