"""Rows and columns of the ledger: filtered, sorted, found, and which of them is the best."""

from __future__ import annotations

import contextlib
import json
import operator
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from l3hpc.errors import InputError, command_line
from l3hpc.ledger.cells import Cell, cell, key_cells
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab
from l3hpc.ledger.views.folds import grouped, mean_of, parts
from l3hpc.ledger.views.runs import RUN, is_bound

SHEET_DATE = "%m/%d/%Y %H:%M:%S"  # as the published programs write it
CLASSES = "classes"  # beside a row: the names of the classes, in the order of its values
BY_CLASS = "_class_acc"  # how the fields with a value for each class end
STATE_NOW = "--state"  # among the values: the state of the step, where it was looked up
STALE_AFTER_S = 3600.0  # without a record, a running row is stale
_SIGNS = ("!=", "<=", ">=", "=", "<", ">")  # the longer ones first
_CONDITION = re.compile(r"(.+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le,
    ">=": operator.ge}

def filter_rows(rows: Iterable[Row], tab: Tab, conditions: Iterable[str]) -> list[Row]:
    """Return the rows that meet all conditions.

    Parameters
    ----------
    rows
        Rows of one tab.
    tab
        The tab.
    conditions
        Such as ``Title=value``, with the title or field name of a column and one of ``=``, ``!=``,
        ``<``, ``<=``, ``>``, ``>=``. If both sides are numbers, they are compared as numbers.

    Returns
    -------
    list of Row
        In the order of ``rows``.

    Raises
    ------
    InputError
        A condition has no comparison sign, or the tab has no such column.
    """
    kept = list(rows)
    for condition in conditions:
        column, sign, value = _parse(tab, condition)
        kept = [row for row in kept if _matches(row, column, sign, value)]
    return kept


def tabs_with_columns(tabs: Iterable[Tab], conditions: Iterable[str], by: str | None = None,
                      ) -> list[Tab]:
    """Return the tabs that have all columns of the conditions and of the sort order.

    Parameters
    ----------
    tabs
        The tabs to choose from.
    conditions, by
        As for ``filter_rows`` and ``sort_rows``.

    Raises
    ------
    InputError
        No tab has them all; the error is that of the first tab.
    """
    kept: list[Tab] = []
    problem: InputError | None = None
    for tab in tabs:
        try:
            for condition in conditions:
                _parse(tab, condition)
            if by:
                tab.column(by.lstrip("-"))
            kept.append(tab)
        except InputError as error:
            problem = problem or error
    if problem is not None and not kept:
        raise problem
    return kept


def sort_rows(rows: Iterable[Row], tab: Tab, by: str | None = None) -> list[Row]:
    """Sort rows, best first.

    Parameters
    ----------
    rows, tab
        Rows of one tab, and the tab.
    by
        Title of a column, with ``-`` before it for the reverse order; by default the ranking field
        of the tab. Columns of best values are sorted best first, all others smallest first.

    Returns
    -------
    list of Row
        Rows without a value in that column come last in either order.
    """
    reverse = by is not None and by.startswith("-")
    column = tab.column(by.lstrip("-") if by else tab.rank)
    descending = _largest_is_best(column, tab) != reverse
    with_value: list[tuple[tuple[int, Any], Row]] = []
    without: list[Row] = []
    for row in rows:
        value = _sort_value(row, column)
        if value is None:
            without.append(row)
        else:
            with_value.append((value, row))
    # sorting is stable, so rows with equal values stay in the order of their keys
    with_value.sort(key=lambda item: item[1].key)
    with_value.sort(key=lambda item: item[0], reverse=descending)
    return [row for _, row in with_value] + sorted(without,
                                                   key=lambda row: (row.first_time, row.key))


def sort_with_means(rows: Iterable[Row], tab: Tab, by: str | None = None) -> list[Row]:
    """Sort rows as ``sort_rows`` does, with the mean over folds or seeds before their rows.

    Parameters
    ----------
    rows, tab, by
        As for ``sort_rows``.

    Returns
    -------
    list of Row
        All rows, and a further one for each cross-validation of several folds and for several
        seeds.
    """
    groups = [sort_rows(group, tab, by) for group in grouped(rows)]
    heads = [mean_of(group, tab) if len(group) > 1 else group[0] for group in groups]
    folds = {id(head): group for head, group in zip(heads, groups, strict=True) if len(group) > 1}
    return [row for head in sort_rows(heads, tab, by) for row in (head, *folds.get(id(head), ()))]


def best_rows(rows: Sequence[Row], tab: Tab) -> list[Row]:
    """Return the rows with the best finite value of the tab's ranking field.

    Parameters
    ----------
    rows, tab
        Rows of one tab, and the tab.

    Returns
    -------
    list of Row
        One for each group of rows that can be compared: of all rows, or of those that agree in
        ``tab.comparable``. There, a row without another to compare it with is not the best. It is
        never a single fold or one of several seeds, which may have been lucky, but their mean; and
        a teacher's row, the bound of students, only where there are no others.
    """
    lucky = parts(rows)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if id(row) not in lucky and finite_number(row.values.get(tab.rank)) is not None:
            same = tuple(repr(row.values.get(field)) for field in tab.comparable)
            groups.setdefault(same, []).append(row)
    pick = min if tab.best == "min" else max
    best = []
    for group in groups.values():
        own = [row for row in group if not is_bound(row)] or group
        # a single row is not better than rows that cannot be compared with it
        if len(group) > 1 or len(groups) == 1:
            best.append(pick(own, key=lambda row: finite_number(row.values[tab.rank]) or 0.0))
    return best


def differing_columns(rows: Sequence[Row], tab: Tab) -> list[Column]:
    """Return the columns in which ``rows`` differ."""
    return [column for column in tab.columns
            if len({repr(cell(column, row.values.get(column.field))) for row in rows}) > 1]


def find_row(rows: Iterable[Row], tab: Tab, name: str) -> Row:
    """Find the row that ``name`` stands for.

    Parameters
    ----------
    rows, tab
        Rows of one tab, and the tab.
    name
        The name of its run (``run_names``), its key, a folder in the key, the end of one of these,
        or, where none fits, the beginning of a run's name.

    Raises
    ------
    InputError
        No row fits, or several do.
    """
    found = rows_named(rows, name)
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"no row of {tab.name!r} has a run or key named {name!r}",
                         hint=command_line("ledger", "show")
                         + "   lists the runs, with --columns all the keys")
    listing = ", ".join(row.values.get(RUN.field) or "/".join(row.key) for row in found[:5])
    raise InputError(f"{name!r} fits {len(found)} rows of {tab.name!r}", allowed=listing)


def rows_named(rows: Iterable[Row], name: str) -> list[Row]:
    """Return the rows that ``name`` may stand for, as ``find_row`` looks for them."""
    rows = list(rows)
    exact = [row for row in rows
             if name in (row.values.get(RUN.field), "/".join(row.key), row.key[-1])]
    runs = [(row, (str(row.values.get(RUN.field) or ""), str(row.extra.get("run", ""))))
            for row in rows]
    ends = [row for row, names in runs if "/".join(row.key).endswith(name) or any(
        part.endswith(name) for part in (*names, *"/".join(row.key).split("/")))]
    # as every other command takes it
    return exact or ends or [row for row, names in runs
                             if any(one.startswith(name) for one in names)]


def is_recorded_as_running(row: Row) -> bool:
    """Whether the job that writes a row has not recorded its end."""
    return row.extra.get("state") == "running"


def row_state(row: Row, now: float | None = None) -> str:
    """Return the state of a row.

    Parameters
    ----------
    row
        The row.
    now
        Present time in seconds since the Unix epoch; by default that of the clock.

    Returns
    -------
    str
        ``finished``, ``failed``, ``running``, ``stale`` (no record for an hour), or empty. If its
        step was looked up: ``finished``, or the state of the step.
    """
    if now_is := row.values.get(STATE_NOW):
        return str(now_is)
    if is_recorded_as_running(row):
        silence = (time.time() if now is None else now) - row.last_time
        return "stale" if silence > STALE_AFTER_S else "running"
    return str(row.extra.get("state") or "")


def key_text(row: Row) -> str:
    """Return the key of a row as one text."""
    return " ".join(key_cells(row.tab, row.key))


def cell_of(row: Row, column: Column) -> Cell:
    """Return the cell of a row in a column."""
    return cell(column, row.values.get(column.field))


def readable_cell(row: Row, column: Column) -> Cell:
    """Return the cell of a row as a person reads it.

    The published sheet has values by class alone (``0.8, 1``), of which rows name the classes
    beside them, values by tag as JSON, and dates with the month first.

    Parameters
    ----------
    row, column
        The cell.
    """
    value, names = _dated(row, column), row.extra.get(CLASSES)
    if isinstance(value, str) and value.startswith('{"'):
        with contextlib.suppress(ValueError, TypeError):
            return ", ".join(f"{name} {round(float(own), 4):g}"
                             for name, own in json.loads(value).items())
    if column.field.endswith(BY_CLASS) and isinstance(value, str) and isinstance(names, list):
        values = value.split(", ")
        if len(values) == len(names):
            return ", ".join(f"{name} {own}" for name, own in zip(names, values, strict=True))
    return value


def _dated(row: Row, column: Column) -> Cell:
    """The cell; a date with the year first, so that dates are in order."""
    value = cell_of(row, column)
    return _year_first(value) if column.field == "date" and isinstance(value, str) else value


def _year_first(text: str) -> str:
    with contextlib.suppress(ValueError):  # typed by a person, perhaps
        return time.strftime("%Y-%m-%d %H:%M:%S", time.strptime(text, SHEET_DATE))
    return text


def _parse(tab: Tab, condition: str) -> tuple[Column, str, str]:
    """Return column, sign and value of a condition."""
    # known titles first, because a title may contain a sign
    names = [(name, column) for column in sorted(tab.columns, key=lambda each: -len(each.title))
             for name in (column.title, column.field)]
    for name, column in names:
        if not condition.lower().startswith(name.lower()):
            continue
        rest = condition[len(name):].lstrip()
        if sign := next((sign for sign in _SIGNS if rest.startswith(sign)), ""):
            return column, sign, rest[len(sign):].strip()
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise InputError(f"{condition!r} is not a condition", where="--where",
                         allowed="'Title=value', also != < <= > >=")
    return tab.column(found[1].strip()), found[2], found[3].strip()


def _matches(row: Row, column: Column, sign: str, value: str) -> bool:
    """Return whether a row meets a condition."""
    own = _dated(row, column)
    own_number = finite_number(own)
    try:
        number: float | None = float(value)
    except ValueError:
        number = None
    if own_number is not None and number is not None:
        return _COMPARE[sign](own_number, number)
    if column.field == "date" and isinstance(own, str):
        value = _year_first(value)  # or a part of it: Date=2026-11-29, Date>=2026-11
        return _COMPARE[sign](own[:len(value)], value)
    if sign in ("=", "!="):
        if isinstance(own, bool):
            return _COMPARE[sign](str(own).lower(), value.lower())
        return _COMPARE[sign]("" if own is None else str(own), value)
    return False


def _largest_is_best(column: Column, tab: Tab) -> bool:
    """Return whether the best value of a column is the largest."""
    if column.rule in ("min", "max"):
        return column.rule == "max"
    return column.field == tab.rank and tab.best == "max"


def _sort_value(row: Row, column: Column) -> tuple[int, Any] | None:
    """Return what a row is sorted by: numbers before texts; None if it has no value."""
    own = _dated(row, column)
    if own is None or own in ("NaN", "Infinity", "-Infinity"):
        return None
    if isinstance(own, (bool, int, float)):
        return (0, own)
    return (1, own)
