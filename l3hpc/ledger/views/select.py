"""Choosing what a reader sees: which rows, in which order, and which columns tell them apart."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from l3hpc.errors import InputError
from l3hpc.ledger.cells import Cell, cell, key_cells
from l3hpc.ledger.journal.fold import Row, number
from l3hpc.ledger.schema import Column, Tab

STALE_AFTER_S = 3600.0
_CONDITION = re.compile(r"(.+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda one, other: one == other, "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other, ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other, ">=": lambda one, other: one >= other,
}


def where(rows: Iterable[Row], tab: Tab, conditions: Iterable[str]) -> list[Row]:
    """Choose rows by the values of their columns.

    Parameters
    ----------
    rows
        Rows of one tab.
    tab
        The tab, which says what columns there are.
    conditions
        Such as ``Title=value``, also with ``!=``, ``<``, ``<=``, ``>`` and ``>=``; the title or
        the field's name. Where both sides are numbers they compare as numbers.

    Returns
    -------
    list of Row
        The rows that meet every condition, in their order.

    Raises
    ------
    InputError
        A condition has no sign, or names a column that the tab lacks.
    """
    kept = list(rows)
    for condition in conditions:
        column, sign, wanted = _parse(tab, condition)
        kept = [row for row in kept if _meets(row, column, sign, wanted)]
    return kept


def fitting(tabs: Iterable[Tab], conditions: Iterable[str], by: str | None = None) -> list[Tab]:
    """The tabs that have every column that the conditions and the order name; if there is none,
    the error of the first."""
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


def order(rows: Iterable[Row], tab: Tab, by: str | None = None) -> list[Row]:
    """Sort rows, best first.

    Parameters
    ----------
    rows, tab
        Rows of one tab, and the tab.
    by
        The title of a column, with ``-`` before it for the reverse; the tab's ranking field if it
        is not given. Columns of best values are sorted best first, all others smallest first.

    Returns
    -------
    list of Row
        Rows without a value in that column come last, either way.
    """
    reverse = by is not None and by.startswith("-")
    column = tab.column(by.lstrip("-") if by else tab.rank)
    descending = _largest_is_best(column, tab) != reverse
    known: list[Row] = []
    unknown: list[Row] = []
    for row in rows:
        (known if _sortable(row, column) is not None else unknown).append(row)
    known.sort(key=lambda row: row.key)
    known.sort(key=lambda row: _sortable(row, column), reverse=descending)  # type: ignore[arg-type, return-value]
    return known + sorted(unknown, key=lambda row: (row.first_time, row.key))


def best(rows: Iterable[Row], tab: Tab) -> Row | None:
    """The row with the best finite value of the tab's ranking field, if any has one."""
    scored = [(score, row) for row in rows
              if (score := number(row.values.get(tab.rank))) is not None]
    if not scored:
        return None
    pick = min if tab.best == "min" else max
    return pick(scored, key=lambda item: item[0])[1]


def differing(rows: Sequence[Row], tab: Tab) -> list[Column]:
    """The columns in which ``rows`` do not all show the same."""
    return [column for column in tab.columns
            if len({repr(cell(column, row.values.get(column.field))) for row in rows}) > 1]


def find(rows: Iterable[Row], tab: Tab, words: str) -> Row:
    """The one row whose key, run or a folder in the key is, or else ends with, ``words``."""
    rows = list(rows)
    exact = [row for row in rows if words in ("/".join(row.key), row.key[-1])]
    found = exact or [row for row in rows if "/".join(row.key).endswith(words) or any(
        part.endswith(words) for part in [str(row.beside.get("run", "")),
                                          *"/".join(row.key).split("/")])]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"no row of {tab.name!r} has a key or run that ends with {words!r}",
                         hint="l3hpc ledger show --columns all   lists the keys")
    listing = ", ".join("/".join(row.key) for row in found[:5])
    raise InputError(f"{len(found)} rows of {tab.name!r} end with {words!r}", allowed=listing)


def state(row: Row, now: float | None = None) -> str:
    """``finished``, ``failed``, ``running``, ``stale`` (no record for an hour), or empty."""
    recorded = str(row.beside.get("state") or "")
    if recorded == "running":
        quiet = (time.time() if now is None else now) - row.last_time
        return "stale" if quiet > STALE_AFTER_S else "running"
    return recorded


def key_text(row: Row) -> str:
    """A row's key as one text."""
    return " ".join(key_cells(row.tab, row.key))


def value(row: Row, column: Column) -> Cell:
    """The cell of a row in a column."""
    return cell(column, row.values.get(column.field))


def _parse(tab: Tab, condition: str) -> tuple[Column, str, str]:
    for column in sorted(tab.columns, key=lambda column: -len(column.title)):
        for name in (column.title, column.field):  # titles may hold signs themselves
            rest = condition[len(name):].lstrip()
            if condition.lower().startswith(name.lower()):
                for sign in ("!=", "<=", ">=", "=", "<", ">"):
                    if rest.startswith(sign):
                        return column, sign, rest[len(sign):].strip()
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise InputError(f"{condition!r} is not a condition", where="--where",
                         allowed="'Title=value', also != < <= > >=")
    return tab.column(found[1].strip()), found[2], found[3].strip()


def _meets(row: Row, column: Column, sign: str, wanted: str) -> bool:
    own = value(row, column)
    own_number = number(own)
    try:
        wanted_number: float | None = float(wanted)
    except ValueError:
        wanted_number = None
    if own_number is not None and wanted_number is not None:
        return _COMPARE[sign](own_number, wanted_number)
    if sign in ("=", "!="):
        if isinstance(own, bool):
            return _COMPARE[sign](str(own).lower(), wanted.lower())
        return _COMPARE[sign]("" if own is None else str(own), wanted)
    return False


def _largest_is_best(column: Column, tab: Tab) -> bool:
    if column.rule in ("min", "max"):
        return column.rule == "max"
    return column.field == tab.rank and tab.best == "max"


def _sortable(row: Row, column: Column) -> tuple[int, Any] | None:
    own = value(row, column)
    if own is None or own in ("NaN", "Infinity", "-Infinity"):
        return None
    if isinstance(own, (bool, int, float)):
        return (0, own)
    return (1, own)
