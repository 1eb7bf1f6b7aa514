"""The predictions file of SONYC-UST: ``audio_filename``, the fine tags, the categories.

Also fills both levels from a classifier that knows one of them, as the published pipeline does.
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

from l3hpc.datasets.sonyc_ust import CoarseTag, FineTag, Taxonomy
from l3hpc.errors import InputError
from l3hpc.io.files import write_text
from l3hpc.io.tables import read_rows, require_columns

FILE_COLUMN = "audio_filename"
LEVELS = ("coarse", "fine")
ROUNDING = 1e-6  # outside [0, 1], of probabilities that were written with few digits
MOST_ODD = 2.0  # values up to this are no percent, but of something that can exceed 1
NAMED = 3  # columns that a warning names
_ALLOWED = "probabilities: numbers from 0 to 1"


@dataclass(frozen=True)
class Predictions:
    """Probabilities per clip: ``fine`` (files, fine tags incl. X), ``coarse`` (files, categories).

    Both float64; ``warnings`` tells what was missing or strange in the file they come from, and
    ``levels`` which of the two it has.
    """

    files: list[str]
    fine: np.ndarray
    coarse: np.ndarray
    warnings: list[str] = field(default_factory=list)
    levels: tuple[str, ...] = LEVELS


def from_coarse(files: Sequence[str], coarse: np.ndarray, taxonomy: Taxonomy) -> Predictions:
    """Predictions of a coarse classifier, shape (files, categories): fine tags are 0."""
    return Predictions(list(files), np.zeros((len(files), len(taxonomy.fine))),
                       np.asarray(coarse, np.float64))


def from_fine(files: Sequence[str], complete: np.ndarray, taxonomy: Taxonomy) -> Predictions:
    """Predictions of a fine classifier, shape (files, complete fine tags).

    X columns are 0; a category is as likely as its likeliest tag.
    """
    fine = np.zeros((len(files), len(taxonomy.fine)))
    fine[:, taxonomy.complete_fine] = complete
    coarse = np.stack([fine[:, taxonomy.complete(tag.id)].max(axis=1, initial=0.0)
                       for tag in taxonomy.coarse], axis=1)
    return Predictions(list(files), fine, coarse)


def complete(found: Predictions, files: Sequence[str]) -> Predictions:
    """The predictions of ``files``, in that order; a file that was not predicted has 0 everywhere.

    Every name in ``found`` must be among ``files``.
    """
    place = {name: row for row, name in enumerate(files)}
    rows = [place[name] for name in found.files]
    fine, coarse = (np.zeros((len(files), block.shape[1])) for block in (found.fine, found.coarse))
    fine[rows], coarse[rows] = found.fine, found.coarse
    return Predictions(list(files), fine, coarse, found.warnings,
                       found.levels)


def write(path: Path | str, predictions: Predictions, taxonomy: Taxonomy) -> None:
    """Write the CSV, sorted by file name; values round-trip exactly through float32."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([FILE_COLUMN, *taxonomy.fine_columns, *taxonomy.coarse_columns])
    values = np.concatenate([predictions.fine, predictions.coarse], axis=1)
    for place in sorted(range(len(predictions.files)), key=lambda at: predictions.files[at]):
        writer.writerow([predictions.files[place], *(f"{value:.9g}" for value in values[place])])
    write_text(Path(path), text.getvalue())


def read(path: Path | str, taxonomy: Taxonomy) -> Predictions:
    """Read a predictions CSV, in its own row order; columns are found by name.

    A level may be left out as a whole (then it is not in ``levels``). Each with a warning: a
    missing column of an uncertain tag (X) counts as 0, columns of no tag are ignored, and
    columns of the same value for all clips are named. Raises ``InputError`` (line and column) for
    what ``l3hpc.io.tables`` refuses, a file without any tag of the taxonomy or with a part of a
    level, a value that is no probability, and a clip that is listed twice.
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
                             hint=f"The first time is in line {lines[row[first]]}.")
        try:
            found = [float(row[cell]) for cell in cells]
            strange = not math.isfinite(sum(found))
        except ValueError:
            strange = True
        if strange:
            _refuse(row, cells, columns, f"{where}:{line}")
        numbers.extend(found)
    values = np.zeros((len(lines), len(names)))
    values[:, known] = np.frombuffer(numbers).reshape(len(lines), len(known))
    _refuse_improbable(values, names, list(lines.values()), where)
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
    return Predictions(list(lines), values[:, :fine], values[:, fine:], warnings, levels)


def refuse_improbable(predictions: Predictions, taxonomy: Taxonomy, where: str) -> None:
    """Raise ``InputError`` for values that are no probabilities (see ``read``)."""
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
    """Raise for the first value outside [0, 1], with what the values look like."""
    wrong = (values < -ROUNDING) | (values > 1 + ROUNDING)
    if not wrong.any():
        return
    row, column = np.argwhere(wrong)[0]
    strange = values[:, wrong.any(axis=0)]
    low, high = float(strange.min()), float(strange.max())
    if high <= ROUNDING:
        hint = "They look like logarithms: apply exp(x)."
    elif low < -ROUNDING:
        hint = "They look like scores before the sigmoid (logits): apply 1 / (1 + exp(-x))."
    elif MOST_ODD < high <= 100 + ROUNDING:
        hint = "They look like percent: divide them by 100."
    else:
        hint = None
    raise InputError(f"{names[column]} is {values[row, column]:g}; values go from {low:g} to "
                     f"{high:g}", where=where if lines is None else f"{where}:{lines[row]}",
                     allowed=_ALLOWED, hint=hint)


def _constant(values: np.ndarray, tags: Sequence[CoarseTag | FineTag]) -> list[str]:
    """Columns that tell no two clips apart. Zeros are usual where a classifier does not know the
    level at all, and in the uncertain tags (X), which none predicts."""
    if len(values) < 2 or not values.any():
        return []
    same = (values == values[0]).all(axis=0)
    return [tag.column for place, tag in enumerate(tags)
            if same[place] and (values[0, place] or not getattr(tag, "is_x", False))]


def _several(what: str, columns: Sequence[str]) -> list[str]:
    """A warning for each of a few columns, one for many."""
    if len(columns) <= NAMED:
        return [f"column '{name}' {what}" for name in columns]
    return [f"{len(columns)} columns ({', '.join(columns[:NAMED])}, …): each {what}"]


def _refuse(row: Sequence[str], cells: Sequence[int], columns: Sequence[str], where: str) -> None:
    """Raise for the first cell that is no finite number (huge ones may add up to infinity)."""
    for cell in cells:
        try:
            if math.isfinite(float(row[cell])):
                continue
        except ValueError:
            pass
        raise InputError(f"{columns[cell]} is '{row[cell]}'", where=where, allowed=_ALLOWED)
