"""Selecting rows and columns of the ledger, and laying them out as text for a terminal.

The first part filters, sorts and finds rows; the second makes a table of what differs, one row in
full, or runs side by side.
"""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from l3hpc.console import formatting
from l3hpc.errors import InputError
from l3hpc.ledger.cells import Cell, cell, key_cells
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab
from l3hpc.ledger.views.folds import deviation_of, grouped, mean_of, parts
from l3hpc.ledger.views.runs import BOUND, RUN, is_bound, is_swept

STALE_AFTER_S = 3600.0  # without a record, a running row is stale
KEY_WIDTH = 34  # characters of a key, and of other texts, in a table
TEXT_WIDTH = 36
_SIGNS = ("!=", "<=", ">=", "=", "<", ">")  # the longer ones first
_CONDITION = re.compile(r"(.+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le,
    ">=": operator.ge}


# --- rows and columns -----------------------------------------------------------------------------

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
        The name of its run (``run_names``), its key, a folder in the key, or the end of one of
        these.

    Raises
    ------
    InputError
        No row fits, or several do.
    """
    found = rows_named(rows, name)
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"no row of {tab.name!r} has a run or key that ends with {name!r}",
                         hint="l3hpc ledger show   lists the runs, with --columns all the keys")
    listing = ", ".join(row.values.get(RUN.field) or "/".join(row.key) for row in found[:5])
    raise InputError(f"{len(found)} rows of {tab.name!r} end with {name!r}", allowed=listing)


def rows_named(rows: Iterable[Row], name: str) -> list[Row]:
    """Return the rows that ``name`` may stand for, as ``find_row`` looks for them."""
    rows = list(rows)
    exact = [row for row in rows
             if name in (row.values.get(RUN.field), "/".join(row.key), row.key[-1])]
    return exact or [row for row in rows if "/".join(row.key).endswith(name) or any(
        part.endswith(name) for part in [str(row.values.get(RUN.field) or ""),
                                         str(row.extra.get("run", "")),
                                         *"/".join(row.key).split("/")])]


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
        ``finished``, ``failed``, ``running``, ``stale`` (no record for an hour), or empty.
    """
    recorded = str(row.extra.get("state") or "")
    if recorded == "running":
        silence = (time.time() if now is None else now) - row.last_time
        return "stale" if silence > STALE_AFTER_S else "running"
    return recorded


def key_text(row: Row) -> str:
    """Return the key of a row as one text."""
    return " ".join(key_cells(row.tab, row.key))


def cell_of(row: Row, column: Column) -> Cell:
    """Return the cell of a row in a column."""
    return cell(column, row.values.get(column.field))


def _parse(tab: Tab, condition: str) -> tuple[Column, str, str]:
    """Return column, sign and value of a condition."""
    # known titles first, because a title may contain a sign
    for column in sorted(tab.columns, key=lambda column: -len(column.title)):
        for name in (column.title, column.field):
            rest = condition[len(name):].lstrip()
            if condition.lower().startswith(name.lower()):
                for sign in _SIGNS:
                    if rest.startswith(sign):
                        return column, sign, rest[len(sign):].strip()
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise InputError(f"{condition!r} is not a condition", where="--where",
                         allowed="'Title=value', also != < <= > >=")
    return tab.column(found[1].strip()), found[2], found[3].strip()


def _matches(row: Row, column: Column, sign: str, value: str) -> bool:
    """Return whether a row meets a condition."""
    own = cell_of(row, column)
    own_number = finite_number(own)
    try:
        number: float | None = float(value)
    except ValueError:
        number = None
    if own_number is not None and number is not None:
        return _COMPARE[sign](own_number, number)
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
    own = cell_of(row, column)
    if own is None or own in ("NaN", "Infinity", "-Infinity"):
        return None
    if isinstance(own, (bool, int, float)):
        return (0, own)
    return (1, own)


# --- text for a terminal --------------------------------------------------------------------------

def table_lines(rows: Sequence[Row], tab: Tab, columns: Sequence[Column], width: int | None = None,
          now: float | None = None) -> tuple[list[str], int]:
    """Lay out rows as a table.

    Parameters
    ----------
    rows, tab
        Rows of one tab, in the order in which they are shown, and the tab.
    columns
        The columns to show.
    width
        Width of the terminal in characters; None for unlimited.
    now
        Present time in seconds since the Unix epoch, by which running rows are stale.

    Returns
    -------
    lines : list of str
        The header, then a line per row, with ★ before the best rows and state and note at the end.
        A note that all rows have is the last line instead.
    left_out : int
        Number of columns that did not fit.
    """
    best = {id(row) for row in best_rows(rows, tab)}
    marks = ["★" if id(row) in best else " " for row in rows]
    notes = {row.extra.get("note") for row in rows}
    shared = next(iter(notes)) if len(notes) == 1 and len(rows) > 1 else None
    trailing = [_state_and_note(row, now, not shared) for row in rows]
    texts = [_column(rows, tab, column) for column in columns]
    kept = list(range(len(texts)))
    if width is not None:
        tail = max((formatting.cell_width(text) for text in trailing), default=0)
        kept = _columns_that_fit(texts, columns, width - 2 - (tail + 2 if tail else 0))
    right = {position for position, number in enumerate(kept)
             if any(_is_number(cell_of(row, columns[number])) for row in rows)}
    table = [(*cells, end) for *cells, end in zip(
        *(texts[number] for number in kept), ["", *trailing], strict=True)]
    lines = formatting.table_lines(table, right=right, indent="")
    marked = [f"{mark} {line}".rstrip() for mark, line in zip([" ", *marks], lines, strict=True)]
    return [*marked, *([f"  all: {shared}"] if shared else [])], len(texts) - len(kept)


def row_lines(row: Row, tab: Tab) -> list[str]:
    """Return one row in full: a line per filled column, then its other values and its origin."""
    filled = [(column.label, format_value(cell_of(row, column))) for column in tab.columns
              if cell_of(row, column) is not None]
    extra = [(name, format_value(value)) for name, value in sorted(row.extra.items())]
    extra += [(name, str(row.origin[name])) for name in ("job", "host", "commit")
              if row.origin.get(name)]
    lines = formatting.table_lines(filled + extra)
    return [*lines[:len(filled)], *([""] if extra else []), *lines[len(filled):]]


def side_by_side(rows: Sequence[Row], tab: Tab, everything: bool = False) -> list[str]:
    """Lay out rows side by side, with one line per column.

    Parameters
    ----------
    rows, tab
        Rows of one tab, and the tab.
    everything
        Whether to show all columns, not only those that differ.

    Returns
    -------
    list of str
        Numbers are followed by their difference from the first row. The notes of the rows are the
        last lines, each once.
    """
    columns = list(tab.columns) if everything else [
        column for column in differing_columns(rows, tab) if column.field not in tab.key]
    columns.sort(key=lambda column: not is_swept(column))
    names = row_names(rows)
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
    return [*formatting.table_lines([["", *names], *grid], indent=""), *_note_lines(rows, names)]


def _note_lines(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """A line per note, with the names of its rows unless all have it."""
    having: dict[str, list[str]] = {}
    for row, name in zip(rows, names, strict=True):
        if note := row.extra.get("note"):
            having.setdefault(str(note), []).append(name)
    return [note if len(those) == len(rows) else f"{', '.join(those)}: {note}"
            for note, those in having.items()]


def row_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of rows: that of the run, or else the key (``short_keys``)."""
    nameless = [row for row in rows if RUN.field not in row.values]
    keys = iter(short_keys(nameless))
    return [row.values.get(RUN.field) or next(keys) for row in rows]


def short_keys(rows: Sequence[Row], longest: int = KEY_WIDTH) -> list[str]:
    """Return the keys of rows; of long ones only what they do not have in common."""
    return _without_common_parts([key_text(row) for row in rows], longest)


def format_value(value: Any) -> str:
    """Return a cell as text: floats with 4 decimals or digits, booleans as yes and no.

    Examples
    --------
    >>> format_value(0.12345), format_value(1e-5), format_value(True), format_value(None)
    ('0.1235', '1e-05', 'yes', '–')
    """
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
    """Return the heading of a column and its cells as texts."""
    if column is RUN:
        return [column.label, *row_names(rows)]
    is_key = column.field in tab.key
    texts = [format_value(cell_of(row, column)) + (
        "" if (deviation := deviation_of(row, column)) is None
        else f" ± {format_value(deviation)}") for row in rows]
    shortened = _without_common_parts(texts, KEY_WIDTH) if is_key else [
        _shorten_start(text, TEXT_WIDTH) for text in texts]
    is_cut = shortened != texts and any(len(text) > KEY_WIDTH for text in texts)
    note = "" if not is_cut else " (part)" if is_key else " (end)"
    return [column.label + note, *shortened]


def _columns_that_fit(texts: Sequence[Sequence[str]], columns: Sequence[Column], width: int,
                      ) -> list[int]:
    """Return the numbers of the columns that fit into ``width``, the most important ones first."""
    def priority(position: int) -> tuple[int, int]:
        column = columns[position]
        if (position == 0 and column.rule == "set") or is_swept(column) or column is BOUND:
            return (0, position)
        return ({"min": 1, "max": 1, "set": 2, "latest": 3}[column.rule], position)

    kept: list[int] = []
    room = width
    for position in sorted(range(len(texts)), key=priority):
        need = max(map(formatting.cell_width, texts[position])) + 2
        if not kept or need <= room:
            kept.append(position)
            room -= need
    return sorted(kept)


def _state_and_note(row: Row, now: float | None, with_note: bool) -> str:
    """Return state, whether it is a bound, and note in brackets; an empty text if there is none."""
    state = row_state(row, now)
    parts = [] if state in ("", "finished") else [state]
    parts += ["bound"] if is_bound(row) else []
    parts += [str(row.extra["note"])] if with_note and row.extra.get("note") else []
    return f"[{'; '.join(parts)}]" if parts else ""


def _without_common_parts(texts: Sequence[str], longest: int) -> list[str]:
    """Return paths without the folders that all have in common, if any of them is too long."""
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
    before, after = "…/" if first else "", "/…" if last else ""
    return [_shorten_start(before + "/".join(part[first:]) + after, longest) for part in kept]


def _shorten_start(text: str, longest: int) -> str:
    """Return the end of a long text, from the beginning of a folder if it is a path."""
    if len(text) <= longest:
        return text
    tail = text[-(longest - 2):]
    slash = tail.find("/")
    return "…" + tail[slash:] if 0 <= slash < longest // 2 else "…" + tail


def _is_number(value: Any) -> bool:
    """Return whether a cell is a number; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
