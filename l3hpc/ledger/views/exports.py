"""Results for other programs: a pandas DataFrame, CSV with exactly the declared columns, XLSX with
typed cells and no formulas.

Results as one self-contained page: no network, no server, all rows, every epoch.

The page holds the data as JSON, and ``web/assets/ledger.js`` draws them. Text from journals is only
ever put in as text, never as markup.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l3hpc.errors import InputError
from l3hpc.io.files import write_bytes, write_text
from l3hpc.ledger.cells import Cell, cells, shortened
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.journal.reading import damage_notes
from l3hpc.ledger.schema import Tab, column_letter, find_tab
from l3hpc.ledger.store import Store, SyncState, key_json
from l3hpc.ledger.views import select
from l3hpc.ledger.views.select import short_keys
from l3hpc.web.html import render

if TYPE_CHECKING:
    import pandas

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
XLSX_LIMIT = 32_767  # UTF-16 units in one cell
LINKS = ("log", "artifact", "report")


def results(workspace: Path | str = "workspace", tab: str = "sonyc_ust") -> pandas.DataFrame:
    """Read the rows of a tab from the journals of a workspace.

    Parameters
    ----------
    workspace
        The workspace's folder.
    tab
        The tab's name.

    Returns
    -------
    pandas.DataFrame
        Columns are those of the sheet, in its order and under its titles, then ``state`` and
        ``note``; the index is a row's key as one text. Numbers are numbers, empty cells missing.

    Raises
    ------
    InputError
        There is no such tab, or no such workspace.

    Warns
    -----
    UserWarning
        Records could not be read.
    """
    import warnings

    import pandas

    found = find_tab(tab)
    if not Path(workspace).is_dir():
        raise InputError("there is no such workspace", where=str(workspace),
                         hint="The workspace is the folder that holds runs/ and ledger/.")
    fold = Store(Path(workspace)).fold()
    for note in damage_notes(fold):
        warnings.warn(note, stacklevel=2)
    rows = [row for row in fold.rows.values() if row.tab is found]
    table = pandas.DataFrame([cells(row) for row in rows], columns=found.titles,
                             index=[select.key_text(row) for row in rows]).convert_dtypes()
    table["state"] = [row.beside.get("state") for row in rows]
    table["note"] = [row.beside.get("note") for row in rows]
    return table


def csv_field(value: Cell) -> str:
    """Return a value as a CSV field, which no spreadsheet takes for a formula.

    Numbers are written so that reading them back gives the same number.

    Examples
    --------
    >>> guarded(0.1), guarded("=1+1"), guarded(None)
    ('0.1', "'=1+1", '')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        return repr(value)
    return f"'{value}" if value.startswith(FORMULA_STARTS) else value


def csv_text(rows: Sequence[Row], tab: Tab) -> str:
    """The rows as CSV: the declared header, then one line per row (RFC 4180 quoting)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(tab.titles)
    for row in rows:
        writer.writerow([csv_field(value) for value in cells(row)])
    return stream.getvalue()


def write_csv(path: Path, rows: Sequence[Row], tab: Tab) -> None:
    """Write one tab as CSV, whole or not at all."""
    write_bytes(path, csv_text(rows, tab).encode())


def write_xlsx(path: Path, tables: Mapping[Tab, Sequence[Row]]) -> None:
    """Write tabs as sheets of one workbook: typed cells, frozen header, best row marked.

    Parameters
    ----------
    path
        The file to write, whole or not at all.
    tables
        The rows of each tab, in the order in which they are written.
    """
    from openpyxl import Workbook
    from openpyxl.styles import Font, PatternFill

    book = Workbook()
    book.remove(book.active)
    bold, shade = Font(bold=True), PatternFill("solid", fgColor="FFF2CC")
    for tab, rows in tables.items():
        sheet = book.create_sheet(tab.name[:31])
        top = select.best_row(rows, tab)
        for column, title in enumerate(tab.titles, 1):
            _put(sheet, 1, column, title).font = bold
            sheet.column_dimensions[column_letter(column - 1)].width = min(40, len(title) + 4)
        for line, row in enumerate(rows, 2):
            for column, value in enumerate(cells(row), 1):
                if value is None and row is not top:
                    continue
                placed = _put(sheet, line, column, value)
                if row is top:
                    placed.fill = shade
        sheet.freeze_panes = "A2"
        sheet.auto_filter.ref = f"A1:{column_letter(len(tab.columns) - 1)}{len(rows) + 1}"
    stream = io.BytesIO()
    book.save(stream)
    write_bytes(path, stream.getvalue())


def _put(sheet: Any, line: int, column: int, value: Cell) -> Any:
    placed = sheet.cell(line, column)
    if isinstance(value, str):
        short = shortened(value, XLSX_LIMIT)
        placed.value = short.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
        placed.data_type = "s"  # text, whatever it begins with
        placed.quotePrefix = value.startswith(FORMULA_STARTS)
    else:
        placed.value = value
    return placed


def write_html(path: Path, tables: Mapping[Tab, Sequence[Row]], state: SyncState | None = None,
               now: float | None = None) -> None:
    """Write the results tables as one page.

    Parameters
    ----------
    path
        The file to write, whole or not at all.
    tables
        The rows of each tab. Rows folded with ``history=True`` bring learning curves.
    state
        What the last sync knows of the sheet; with it, rows show whether the sheet has them.
    now
        The time of the page in seconds since the epoch; the present if it is not given.
    """
    moment = time.time() if now is None else now
    data = {"made": moment, "tabs": [_tab(tab, rows, state, moment)
                                     for tab, rows in tables.items()]}
    write_text(path, render("ledger.html.j2", data=data))


def _tab(tab: Tab, rows: Sequence[Row], state: SyncState | None, now: float) -> dict[str, object]:
    top = select.best_row(rows, tab)
    return {
        "name": tab.name, "rank": tab.index(tab.rank), "best": tab.best,
        "key": [tab.index(name) for name in tab.key],
        "columns": [[column.label, column.kind, column.rule] for column in tab.columns],
        "rows": [{**_row(row, row is top, state, now), "short": short}
                 for row, short in zip(rows, short_keys(rows), strict=True)]}


def _row(row: Row, best: bool, state: SyncState | None, now: float) -> dict[str, object]:
    kinds = {item["kind"] for item in state.problems if item["tab"] == row.tab.name
             and key_json(item["key"]) == key_json(row.key)} if state else set()
    marks = [select.row_state(row, now)] + sorted(kinds)
    if state and not kinds and not state.is_confirmed(row):
        marks.append("not synced")
    beside = {name: value for name, value in row.beside.items()
              if name not in ("state", "note", *LINKS)}
    return {
        "cells": cells(row), "best": best, "marks": [mark for mark in marks if mark],
        "note": str(row.beside.get("note") or ""), "time": row.last_time,
        "links": {name: str(row.beside[name]) for name in LINKS if row.beside.get(name)},
        "beside": {**beside, "restarts": row.restart,
                   **{name: value for name, value in row.origin.items() if value}},
        "curves": _curves(row)}


def _curves(row: Row) -> dict[str, object]:
    """metric → values per epoch (six digits; null where there is none), and the epochs."""
    if not row.epochs:
        return {}
    epochs = sorted(row.epochs)
    names = sorted({name for values in row.epochs.values() for name in values} - {"time"})
    return {"epoch": epochs, **{name: [_short(row.epochs[epoch].get(name)) for epoch in epochs]
                                for name in names}}


def _short(value: object) -> float | None:
    finite = finite_number(value)
    return None if finite is None else float(f"{finite:.6g}")
