"""The mean over the folds of a cross-validation, as a row of a view.

Every fold has a row of its own in the journals and in the sheet. None of them is the result: views
show a further row for the mean, which is written nowhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from l3hpc.ledger.cells import Cell, cell
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab, direction
from l3hpc.ledger.views.runs import RUN

FOLD = "fold_num"
FOLDS, DEVIATIONS = "folds", "standard_deviations"  # what a mean has beside its values


def is_fold(row: Row) -> bool:
    """Whether a row is one fold of a cross-validation, and so no result by itself."""
    return row.values.get(FOLD) is not None


def is_mean(row: Row) -> bool:
    """Whether a row was made by ``fold_means``."""
    return FOLDS in row.extra


def grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """Group the folds that belong together; any other row is alone.

    Parameters
    ----------
    rows
        Rows of one tab.

    Returns
    -------
    list of list of Row
        In the order of their first rows.
    """
    groups: dict[object, list[Row]] = {}
    for row in rows:
        # the tasks of a step lie in one folder
        place: object = row.key[-1].rpartition("/")[0] if is_fold(row) else row.key
        groups.setdefault((is_fold(row), place), []).append(row)
    return list(groups.values())


def measured(tab: Tab) -> list[Column]:
    """Return the columns of a tab that tell how good a result is, as numbers."""
    return [column for column in tab.columns
            if column.update and column.kind == "number" and direction(column.field)]


def mean_of(folds: Sequence[Row], tab: Tab) -> Row:
    """Return the mean over folds as a row.

    Parameters
    ----------
    folds
        The rows of two or more folds.
    tab
        Their tab, as it is shown.

    Returns
    -------
    Row
        Means in the columns of ``measured``, and other values where all folds agree. ``extra`` has
        the number of folds (``FOLDS``) and the sample standard deviations by field
        (``DEVIATIONS``).
    """
    first = folds[0]
    scored = {column.field for column in measured(tab)}
    values: dict[str, Any] = {}
    deviations: dict[str, float] = {}
    for column in (*tab.columns, RUN):
        own = [row.values.get(column.field) for row in folds]
        numbers = [number for value in own if (number := finite_number(value)) is not None]
        if column.field in scored:
            if len(numbers) == len(folds):
                values[column.field] = statistics.fmean(numbers)
                deviations[column.field] = statistics.stdev(numbers)
        elif column.field != FOLD and all(value == own[0] for value in own):
            values[column.field] = own[0]
    folder = first.key[-1].rpartition("/")[0]
    values[tab.key[-1]] = folder
    extra = {name: value for name, value in first.extra.items()
             if all(row.extra.get(name) == value for row in folds)}
    run, step = extra.get("run"), extra.get("step")
    if run:
        values[RUN.field] = f"{run}/{step}" if step else str(run)
    note = f"mean of {len(folds)} folds"
    return Row(first.tab, (*first.key[:-1], folder), values,
               extra={**extra, FOLDS: len(folds), DEVIATIONS: deviations,
                      "note": f"{note}; {extra['note']}" if extra.get("note") else note},
               first_time=min(row.first_time for row in folds),
               last_time=max(row.last_time for row in folds), origin=dict(first.origin))


def deviation_of(row: Row, column: Column) -> Cell:
    """Return the standard deviation that a mean has in a column; None for any other row."""
    deviations = row.extra.get(DEVIATIONS)
    if not is_mean(row) or not isinstance(deviations, dict):
        return None
    return cell(replace(column, kind="number"), deviations.get(column.field))
