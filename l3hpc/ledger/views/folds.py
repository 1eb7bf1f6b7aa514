"""The mean over the folds of a cross-validation, or over seeds, as a row of a view.

Every fold and every seed has a row of its own in the journals and in the sheet. None of them is the
result: views show a further row for the mean, which is not stored.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from l3hpc.ledger.cells import Cell, cell
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab, direction
from l3hpc.ledger.views.runs import RUN

FOLD, EXPERIMENT = "fold_num", "exp_id"
FOLDS, SEEDS, DEVIATIONS = "folds", "seeds", "standard_deviations"  # what a mean has beside values
_SEED = re.compile(r"-seed(\d+)(?=-test$|$)")  # as ``evaluate`` names the rows of several seeds


def is_fold(row: Row) -> bool:
    """Whether a row is one fold of a cross-validation, and so no result by itself."""
    return row.values.get(FOLD) is not None


def seed_of(row: Row) -> str | None:
    """Return the seed that the Exp. ID of a row names; None if it names none."""
    found = _SEED.search(str(row.values.get(EXPERIMENT) or ""))
    return found[1] if found else None


def is_mean(row: Row) -> bool:
    """Whether a row was made by ``mean_of``."""
    return DEVIATIONS in row.extra


def grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """Group the folds, and the seeds, that belong together; any other row is alone.

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
        is_part = is_fold(row) or seed_of(row) is not None
        # the run and step too, because an experiment may have been named like a seed by a person
        place = (row.extra.get("run"), row.extra.get("step"), _key_of_mean(row)) if is_part else (
            row.key)
        groups.setdefault((row.tab.name, is_part, place), []).append(row)
    return list(groups.values())


def parts(rows: Sequence[Row]) -> set[int]:
    """Return the ``id`` of each row that is no result by itself: a fold, or one of several seeds.
    """
    return {id(row) for group in grouped(rows) for row in group
            if is_fold(row) or len(group) > 1}


def _key_of_mean(row: Row) -> tuple[str, ...]:
    """Return the key of the mean that a row belongs to."""
    if is_fold(row):  # the tasks of a step lie in one folder
        return (*row.key[:-1], row.key[-1].rpartition("/")[0])
    return tuple(_SEED.sub("", part) if field == EXPERIMENT else part
                 for field, part in zip(row.tab.key, row.key, strict=True))


def measured(tab: Tab) -> list[Column]:
    """Return the columns of a tab that tell how good a result is, as numbers."""
    return [column for column in tab.columns
            if column.update and column.kind == "number" and direction(column.field)]


def mean_of(folds: Sequence[Row], tab: Tab) -> Row:
    """Return the mean over folds or seeds as a row.

    Parameters
    ----------
    folds
        The rows of two or more folds, or of two or more seeds.
    tab
        Their tab, as it is shown.

    Returns
    -------
    Row
        Means in the columns of ``measured``, and other values where all rows agree. ``extra`` has
        the number of rows (``FOLDS`` or ``SEEDS``) and the sample standard deviations by field
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
            # the mean of some folds is not that of the cross-validation
            if len(numbers) == len(folds):
                values[column.field] = statistics.fmean(numbers)
                deviations[column.field] = statistics.stdev(numbers)
        elif column.field != FOLD and all(value == own[0] for value in own):
            values[column.field] = own[0]
    key = _key_of_mean(first)
    values |= zip(tab.key, key, strict=True)
    extra = {name: value for name, value in first.extra.items()
             if all(row.extra.get(name) == value for row in folds)}
    what = FOLDS if is_fold(first) else SEEDS
    if name := _name_of_mean(first):
        values[RUN.field] = name
    note = f"mean of {len(folds)} {what}"
    return Row(first.tab, key, values,
               extra={**extra, what: len(folds), DEVIATIONS: deviations,
                      "note": f"{note}; {extra['note']}" if extra.get("note") else note},
               first_time=min(row.first_time for row in folds),
               last_time=max(row.last_time for row in folds), origin=dict(first.origin))


def _name_of_mean(row: Row) -> str:
    """Return the name of the mean that a row belongs to; empty if the row names no run."""
    run, step = row.extra.get("run"), row.extra.get("step")
    if not run:
        return ""
    name = f"{run}/{step}" if step else str(run)
    if is_fold(row):
        return name
    # two levels, or two splits, of one step have a mean each
    end = _SEED.sub("", str(row.values.get(EXPERIMENT))).removeprefix(str(run)).lstrip("-")
    return f"{name}/{end}" if end else name


def deviation_of(row: Row, column: Column) -> Cell:
    """Return the standard deviation that a mean has in a column; None for any other row."""
    deviations = row.extra.get(DEVIATIONS)
    if not is_mean(row) or not isinstance(deviations, dict):
        return None
    return cell(replace(column, kind="number"), deviations.get(column.field))
