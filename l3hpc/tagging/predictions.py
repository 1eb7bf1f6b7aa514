"""The predictions file of SONYC-UST: ``audio_filename``, the fine tags, the categories.

Also fills both levels from a classifier that knows one of them, as the published pipeline does.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l3hpc.errors import InputError
from l3hpc.files import write_text
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

    A missing tag column counts as 0 and a value outside [0, 1] is cut off, each with a warning;
    other columns are passed over. Raises ``InputError`` for a file that cannot be read, a value
    that is no number, or a clip listed twice.
    """
    where = str(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            header, *rows = csv.reader(stream)
    except OSError as error:
        raise InputError(f"cannot read the predictions: {error.strerror}", where=where) from None
    except (ValueError, csv.Error):
        raise InputError("not a CSV table", where=where) from None
    if FILE_COLUMN not in header:
        raise InputError(f"column '{FILE_COLUMN}' is missing", where=f"{where}:1",
                         allowed="audio_filename, then one column per tag")
    rows = [row for row in rows if row]
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InputError(f"{len(row)} cells, the header has {len(header)}",
                             where=f"{where}:{line}")
    columns = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header),
                       strict=True))
    files = list(columns[FILE_COLUMN])
    if len(set(files)) != len(files):
        twice = Counter(files).most_common(1)[0][0]
        raise InputError(f"'{twice}' is listed twice", where=where)
    warnings: list[str] = []
    fine, coarse = (_block(columns, len(files), names, where, warnings)
                    for names in (taxonomy.fine_columns, taxonomy.coarse_columns))
    return Predictions(files, fine, coarse, warnings)


def _block(columns: Mapping[str, Sequence[str]], rows: int, names: list[str], where: str,
           warnings: list[str]) -> np.ndarray:
    out = np.zeros((rows, len(names)))
    for place, name in enumerate(names):
        if name not in columns:
            warnings.append(f"column '{name}' is missing: taken as 0")
            continue
        values = np.array([_number(cell) for cell in columns[name]], np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(f"{name} is '{columns[name][row]}'", where=f"{where}:{row + 2}",
                             allowed="numbers in [0, 1]")
        if rows and (values.min() < 0 or values.max() > 1):
            warnings.append(f"column '{name}' has values outside [0, 1]: cut off")
        out[:, place] = np.clip(values, 0, 1)
    return out


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
