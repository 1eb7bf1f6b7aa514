"""Rows of the ledger as text for a terminal: a table of what differs, one row in full, or runs side
by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from l3hpc.console import formatting
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import Column, Tab
from l3hpc.ledger.views.folds import deviation_of
from l3hpc.ledger.views.runs import BOUND, RUN, is_bound, is_swept
from l3hpc.ledger.views.select import (
    CLASSES,
    best_rows,
    cell_of,
    differing_columns,
    key_text,
    readable_cell,
    row_state,
)

# of a row that is alone
BESIDE = ("state", "note", "student_run", "artifact", "report", "log", "job")
STAR = "★"
KEY_WIDTH = 34  # characters of a key, and of other texts, in a table
TEXT_WIDTH = 36


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
    marks = [STAR if id(row) in best else " " for row in rows]
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


def row_lines(row: Row, tab: Tab, everything: bool = False) -> tuple[list[str], int]:
    """Lay out one row: a line per filled column, then what is noted beside it.

    Parameters
    ----------
    row, tab
        The row, and its tab.
    everything
        Whether to show also the folders, what the name of the row says, and its origin.

    Returns
    -------
    lines : list of str
        The lines.
    left_out : int
        Number of values that were left out.
    """
    filled = [(column.label, format_value(readable_cell(row, column))) for column in tab.columns
              if cell_of(row, column) is not None]
    beside = row.extra | ({"state": state} if (state := row_state(row)) else {})
    extra = [(name, format_value(value)) for name, value in sorted(beside.items())
             if name != CLASSES]
    extra += [(name, str(row.origin[name])) for name in ("job", "host", "commit")
              if row.origin.get(name)]
    count = len(filled) + len(extra)
    if not everything:
        known = ("", "-", str(row.extra.get("run") or ""))
        filled = [each for each in filled if each[1] not in known and not each[1].startswith("/")]
        extra = [each for each in extra if each[0] in BESIDE]
    lines = formatting.table_lines(filled + extra)
    return ([*lines[:len(filled)], *([""] if extra else []), *lines[len(filled):]],
            count - len(lines))


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
        values = [readable_cell(row, column) for row in rows]
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


def short_keys(rows: Sequence[Row]) -> list[str]:
    """Return the keys of rows; of long ones only what they do not have in common."""
    return _without_common_parts([key_text(row) for row in rows], KEY_WIDTH)


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
    texts = [format_value(readable_cell(row, column)) + (
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
    # the last part that is left stays, even if all have it: a name is never empty
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
