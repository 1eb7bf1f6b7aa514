"""Results as text for a terminal: a table of what differs, one row in full, runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from l3hpc.console import table as layout
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import Column, Tab
from l3hpc.ledger.views import select

KEY_WIDTH = 34
TEXT_WIDTH = 36


def table(rows: Sequence[Row], tab: Tab, columns: Sequence[Column], width: int | None = None,
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
    top = select.best(rows, tab)
    marks = ["★" if row is top else " " for row in rows]
    trailing = [_trailing(row, now) for row in rows]
    built = [_column(rows, tab, column) for column in columns]
    kept = list(range(len(built)))
    if width is not None:
        tail = max((layout.width(text) for text in trailing), default=0)
        kept = _fitting(built, columns, width - 2 - (tail + 2 if tail else 0))
    right = {place for place, number in enumerate(kept)
             if any(_is_number(select.value(row, columns[number])) for row in rows)}
    lines = layout.lines([(*cells, end) for *cells, end in zip(
        *(built[number] for number in kept), ["", *trailing], strict=True)], right=right, indent="")
    return [f"{mark} {line}".rstrip() for mark, line in zip([" ", *marks], lines, strict=True)], \
        len(built) - len(kept)


def single(row: Row) -> list[str]:
    """One row in full: a line per filled column, then what is known beside the columns."""
    filled = [(column.label, shown(select.value(row, column))) for column in row.tab.columns
              if select.value(row, column) is not None]
    beside = [(name, shown(value)) for name, value in sorted(row.beside.items())]
    beside += [(name, str(row.origin[name])) for name in ("job", "host", "commit")
               if row.origin.get(name)]
    lines = layout.lines(filled + beside)
    return [*lines[:len(filled)], *([""] if beside else []), *lines[len(filled):]]


def side_by_side(rows: Sequence[Row], tab: Tab, everything: bool = False) -> list[str]:
    """Runs as columns, one line per column that differs; numbers with the difference to the first.
    """
    columns = list(tab.columns) if everything else [
        column for column in select.differing(rows, tab) if column.field not in tab.key]
    names = short_keys(rows)
    grid: list[list[str]] = []
    for column in columns:
        values = [select.value(row, column) for row in rows]
        base = values[0]
        line = [column.label]
        for position, value in enumerate(values):
            text = _end(shown(value), TEXT_WIDTH)
            if position and _is_number(base) and _is_number(value) and base != value:
                text += f" ({float(value) - float(base):+.4g})"  # type: ignore[arg-type]
            line.append(text)
        grid.append(line)
    return layout.lines([["", *names], *grid], indent="")


def short_keys(rows: Sequence[Row], longest: int = KEY_WIDTH) -> list[str]:
    """The keys of rows, cut down to what tells them apart where they are long."""
    return _distinct([select.key_text(row) for row in rows], longest)


def shown(value: Any) -> str:
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
    values = [select.value(row, column) for row in rows]
    key = column.field in tab.key
    texts = [shown(value) for value in values]
    shortened = _distinct(texts, KEY_WIDTH) if key else [_end(text, TEXT_WIDTH) for text in texts]
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
        need = max(map(layout.width, built[position])) + 2
        if not kept or need <= room:
            kept.append(position)
            room -= need
    return sorted(kept)


def _trailing(row: Row, now: float | None) -> str:
    condition = select.state(row, now)
    parts = [] if condition in ("", "finished") else [condition]
    if row.beside.get("note"):
        parts.append(str(row.beside["note"]))
    return f"[{'; '.join(parts)}]" if parts else ""


def _distinct(texts: Sequence[str], longest: int) -> list[str]:
    """Paths without the folders that all of them begin or end with, if any is too long."""
    if all(len(text) <= longest for text in texts):
        return list(texts)
    if len(set(texts)) == 1:
        return [_end(text, longest) for text in texts]
    parts = [text.split("/") for text in texts]
    last = 0
    while len({tuple(part[-last - 1:]) for part in parts}) == 1 and all(
            len(part) > last + 1 for part in parts):
        last += 1
    first = 0
    kept = [part[:len(part) - last] for part in parts]
    while all(len(part) > first + 1 for part in kept) and len({part[first] for part in kept}) == 1:
        first += 1
    return [_end(("…/" if first else "") + "/".join(part[first:]) + ("/…" if last else ""), longest)
            for part in kept]


def _end(text: str, longest: int) -> str:
    """The end of a long path or text, from a folder boundary where there is one."""
    if len(text) <= longest:
        return text
    tail = text[-(longest - 2):]
    slash = tail.find("/")
    return "…" + tail[slash:] if 0 <= slash < longest // 2 else "…" + tail


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
