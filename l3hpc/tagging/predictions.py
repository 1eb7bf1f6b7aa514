"""The predictions file of SONYC-UST: ``audio_filename``, the fine tags, the categories.

Also fills both levels from a classifier that knows one of them, as the published pipeline does.
"""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3hpc.errors import InputError
from l3hpc.files import write_text
from l3hpc.tables import rows
from l3hpc.tagging.taxonomy import Taxonomy

FILE_COLUMN = "audio_filename"


@dataclass(frozen=True)
class Predictions:
    """Probabilities per clip: ``fine`` (files, fine tags incl. X), ``coarse`` (files, categories).

    Both float64; ``warnings`` tells what was missing or strange in the file they come from.
    """

    files: list[str]
    fine: np.ndarray
    coarse: np.ndarray
    warnings: list[str] = field(default_factory=list)


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
    return Predictions(list(files), fine, coarse, found.warnings)


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

    Each with a warning: a missing tag column counts as 0, a value outside [0, 1] is cut off, and
    columns of no tag are passed over. Raises ``InputError`` for a file that cannot be read, a value
    that is no finite number, or a clip listed twice.
    """
    where = str(path)
    table = rows(path, "predictions")
    line, columns = next(table)
    if FILE_COLUMN not in columns:
        raise InputError(f"column '{FILE_COLUMN}' is missing", where=f"{where}:{line}",
                         allowed="audio_filename, then one column per tag")
    names = [*taxonomy.fine_columns, *taxonomy.coarse_columns]
    known = [place for place, name in enumerate(names) if name in columns]
    cells = [columns.index(names[place]) for place in known]
    first = columns.index(FILE_COLUMN)
    lines: dict[str, int] = {}
    numbers = array("d")
    for line, row in table:
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
    warnings = [f"column '{name}' is missing: taken as 0" for name in names if name not in columns]
    outside = ((values < 0) | (values > 1)).any(axis=0)
    warnings += [f"column '{names[place]}' has values outside [0, 1]: cut off"
                 for place in np.flatnonzero(outside)]
    warnings += [f"column '{name}' is no tag of the taxonomy: passed over"
                 for name in columns if name not in names and name != FILE_COLUMN]
    np.clip(values, 0, 1, out=values)
    fine = len(taxonomy.fine)
    return Predictions(list(lines), values[:, :fine], values[:, fine:], warnings)


def _refuse(row: Sequence[str], cells: Sequence[int], columns: Sequence[str], where: str) -> None:
    """Raise for the first cell that is no finite number (huge ones may add up to infinity)."""
    for cell in cells:
        try:
            if math.isfinite(float(row[cell])):
                continue
        except ValueError:
            pass
        raise InputError(f"{columns[cell]} is '{row[cell]}'", where=where,
                         allowed="numbers in [0, 1]")
