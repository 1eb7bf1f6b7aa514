"""Choosing what a reader sees: which rows, in which order, and which columns tell them apart.

Results as text for a terminal: a table of what differs, one row in full, runs side by side.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from l3hpc.console import formatting as layout
from l3hpc.errors import InputError
from l3hpc.ledger.cells import Cell, cell, key_cells
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab

STALE_AFTER_S = 3600.0
_CONDITION = re.compile(r"(.+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda one, other: one == other, "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other, ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other, ">=": lambda one, other: one >= other,
}
KEY_WIDTH = 34
TEXT_WIDTH = 36


def filter_rows(rows: Iterable[Row], tab: Tab, conditions: Iterable[str]) -> list[Row]:
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
        kept = [row for row in kept if _matches(row, column, sign, wanted)]
    return kept


def tabs_with_columns(tabs: Iterable[Tab], conditions: Iterable[str], by: str | None = None) -> list[Tab]:
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


def sort_rows(rows: Iterable[Row], tab: Tab, by: str | None = None) -> list[Row]:
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


def best_row(rows: Iterable[Row], tab: Tab) -> Row | None:
    """The row with the best finite value of the tab's ranking field, if any has one."""
    scored = [(score, row) for row in rows
              if (score := finite_number(row.values.get(tab.rank))) is not None]
    if not scored:
        return None
    pick = min if tab.best == "min" else max
    return pick(scored, key=lambda item: item[0])[1]


def differing_columns(rows: Sequence[Row], tab: Tab) -> list[Column]:
    """The columns in which ``rows`` do not all show the same."""
    return [column for column in tab.columns
            if len({repr(cell(column, row.values.get(column.field))) for row in rows}) > 1]


def find_row(rows: Iterable[Row], tab: Tab, words: str) -> Row:
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


def row_state(row: Row, now: float | None = None) -> str:
    """``finished``, ``failed``, ``running``, ``stale`` (no record for an hour), or empty."""
    recorded = str(row.beside.get("state") or "")
    if recorded == "running":
        quiet = (time.time() if now is None else now) - row.last_time
        return "stale" if quiet > STALE_AFTER_S else "running"
    return recorded


def key_text(row: Row) -> str:
    """A row's key as one text."""
    return " ".join(key_cells(row.tab, row.key))


def cell_of(row: Row, column: Column) -> Cell:
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


def _matches(row: Row, column: Column, sign: str, wanted: str) -> bool:
    own = cell_of(row, column)
    own_number = finite_number(own)
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
    own = cell_of(row, column)
    if own is None or own in ("NaN", "Infinity", "-Infinity"):
        return None
    if isinstance(own, (bool, int, float)):
        return (0, own)
    return (1, own)


def table_lines(rows: Sequence[Row], tab: Tab, columns: Sequence[Column], width: int | None = None,
          now: float | None = None) -> tuple[list[str], int]:
    """Lay out rows as a table for a terminal.

    Parameters
    ----------
    rows, tab
        Rows of one tab in the order in which they are shown, and the tab.
    columns
        The columns to show.
    width
        How many cells the terminal is wide; None: as wide as it takes.
    now
        The time by which a running row is stale, in seconds since the epoch.

    Returns
    -------
    lines : list of str
        The header, then a line per row. ★ marks the best row; state and note stand at its end.
    left_out : int
        How many columns did not fit.
    """
    top = best_row(rows, tab)
    marks = ["★" if row is top else " " for row in rows]
    trailing = [_state_and_note(row, now) for row in rows]
    built = [_column(rows, tab, column) for column in columns]
    kept = list(range(len(built)))
    if width is not None:
        tail = max((layout.cell_width(text) for text in trailing), default=0)
        kept = _fitting(built, columns, width - 2 - (tail + 2 if tail else 0))
    right = {place for place, number in enumerate(kept)
             if any(_is_number(cell_of(row, columns[number])) for row in rows)}
    lines = layout.table_lines([(*cells, end) for *cells, end in zip(
        *(built[number] for number in kept), ["", *trailing], strict=True)], right=right, indent="")
    return [f"{mark} {line}".rstrip() for mark, line in zip([" ", *marks], lines, strict=True)], \
        len(built) - len(kept)


def row_lines(row: Row) -> list[str]:
    """One row in full: a line per filled column, then what is known beside the columns."""
    filled = [(column.label, format_value(cell_of(row, column))) for column in row.tab.columns
              if cell_of(row, column) is not None]
    beside = [(name, format_value(value)) for name, value in sorted(row.beside.items())]
    beside += [(name, str(row.origin[name])) for name in ("job", "host", "commit")
               if row.origin.get(name)]
    lines = layout.table_lines(filled + beside)
    return [*lines[:len(filled)], *([""] if beside else []), *lines[len(filled):]]


def side_by_side(rows: Sequence[Row], tab: Tab, everything: bool = False) -> list[str]:
    """Runs as columns, one line per column that differs; numbers with the difference to the first.
    """
    columns = list(tab.columns) if everything else [
        column for column in differing_columns(rows, tab) if column.field not in tab.key]
    names = short_keys(rows)
    grid: list[list[str]] = []
    for column in columns:
        values = [cell_of(row, column) for row in rows]
        base = values[0]
        line = [column.label]
        for position, value in enumerate(values):
            text = _shorten_start(format_value(value), TEXT_WIDTH)
            if position and _is_number(base) and _is_number(value) and base != value:
                text += f" ({float(value) - float(base):+.4g})"  # type: ignore[arg-type]
            line.append(text)
        grid.append(line)
    return layout.table_lines([["", *names], *grid], indent="")


def short_keys(rows: Sequence[Row], longest: int = KEY_WIDTH) -> list[str]:
    """The keys of rows, cut down to what tells them apart where they are long."""
    return _without_common_parts([key_text(row) for row in rows], longest)


def format_value(value: Any) -> str:
    """A cell for a reader: floats to 4 decimals or 4 digits, truth values as yes and no."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        return f"{value:.4f}" if 0.001 <= abs(value) < 10_000 else f"{value:.4g}"
    return str(value).replace("\n", "⏎")


def _column(rows: Sequence[Row], tab: Tab, column: Column) -> list[str]:
    values = [cell_of(row, column) for row in rows]
    key = column.field in tab.key
    texts = [format_value(value) for value in values]
    shortened = _without_common_parts(texts, KEY_WIDTH) if key else [_shorten_start(text, TEXT_WIDTH) for text in texts]
    cut = shortened != texts and any(len(text) > KEY_WIDTH for text in texts)
    return [column.label + (" (part)" if key and cut else " (end)" if cut else ""), *shortened]


def _fitting(built: Sequence[Sequence[str]], columns: Sequence[Column], width: int) -> list[int]:
    """The numbers of the columns that fit; key, settings, best values, latest ones come first."""
    def weight(position: int) -> tuple[int, int]:
        column = columns[position]
        if column.rule in ("min", "max"):
            return (1, position)
        return ((3 if column.rule == "latest" else 0 if position == 0 else 2), position)

    kept: list[int] = []
    room = width
    for position in sorted(range(len(built)), key=weight):
        need = max(map(layout.cell_width, built[position])) + 2
        if not kept or need <= room:
            kept.append(position)
            room -= need
    return sorted(kept)


def _state_and_note(row: Row, now: float | None) -> str:
    condition = row_state(row, now)
    parts = [] if condition in ("", "finished") else [condition]
    if row.beside.get("note"):
        parts.append(str(row.beside["note"]))
    return f"[{'; '.join(parts)}]" if parts else ""


def _without_common_parts(texts: Sequence[str], longest: int) -> list[str]:
    """Paths without the folders that all of them begin or end with, if any is too long."""
    if all(len(text) <= longest for text in texts):
        return list(texts)
    if len(set(texts)) == 1:
        return [_shorten_start(text, longest) for text in texts]
    parts = [text.split("/") for text in texts]
    last = 0
    while len({tuple(part[-last - 1:]) for part in parts}) == 1 and all(
            len(part) > last + 1 for part in parts):
        last += 1
    first = 0
    kept = [part[:len(part) - last] for part in parts]
    while all(len(part) > first + 1 for part in kept) and len({part[first] for part in kept}) == 1:
        first += 1
    return [_shorten_start(("…/" if first else "") + "/".join(part[first:]) + ("/…" if last else ""), longest)
            for part in kept]


def _shorten_start(text: str, longest: int) -> str:
    """The end of a long path or text, from a folder boundary where there is one."""
    if len(text) <= longest:
        return text
    tail = text[-(longest - 2):]
    slash = tail.find("/")
    return "…" + tail[slash:] if 0 <= slash < longest // 2 else "…" + tail


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
