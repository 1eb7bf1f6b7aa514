"""Results for other programs: a pandas DataFrame, CSV and XLSX files, and an HTML page.

All of them have the declared columns in the order of the sheet, then those of swept options. XLSX
has typed cells and no formulas. The page needs neither network nor server and has all rows and
every epoch: it holds the data as JSON, from which ``web/assets/ledger.js`` makes tables and curves.
Text of journals is never interpreted as markup.
"""

from __future__ import annotations

import csv
import io
import time
import zipfile
import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from l3hpc.io.files import check_replaced, write_bytes, write_text
from l3hpc.ledger.cells import Cell, shortened
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import TABS, Tab, column_letter
from l3hpc.ledger.store import SyncState, key_json
from l3hpc.ledger.views import select
from l3hpc.ledger.views.as_text import row_names
from l3hpc.ledger.views.folds import DEVIATIONS, deviation_of, grouped, is_mean, mean_of
from l3hpc.ledger.views.runs import RUN, is_bound, swept_columns
from l3hpc.ledger.views.select import cell_of
from l3hpc.web.html import check_page, render

if TYPE_CHECKING:
    import pandas

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
HEAD_BYTES = 65_536  # of a file that may be replaced
XLSX_CREATOR = "l3hpc"  # in the properties of a workbook, which spreadsheet programs keep
XLSX_LIMIT = 32_767  # UTF-16 units in one cell
LINKS = ("log", "artifact", "report")


def frame(rows: Sequence[Row], tab: Tab) -> pandas.DataFrame:
    """Return rows as a data frame, as ``l3hpc.results`` describes it.

    Parameters
    ----------
    rows
        Rows of one tab.
    tab
        The tab, as ``view_tabs`` returned it.
    """
    import pandas

    table = pandas.DataFrame([_cells(row, tab) for row in rows], columns=tab.titles,
                             index=[select.key_text(row) for row in rows]).convert_dtypes()
    table["run"] = [row.values.get(RUN.field) for row in rows]
    table["state"] = [select.row_state(row) or None for row in rows]
    table["note"] = [row.extra.get("note") for row in rows]
    return table


def csv_field(value: Cell) -> str:
    """Return a value as a CSV field that no spreadsheet takes for a formula.

    Numbers are written with all digits, so that they can be read back exactly.

    Examples
    --------
    >>> csv_field(0.1), csv_field("=1+1"), csv_field(None)
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
    """Return rows as CSV (RFC 4180): the titles of the columns, then one line per row."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow([csv_field(title) for title in tab.titles])
    for row in rows:
        writer.writerow([csv_field(value) for value in _cells(row, tab)])
    return stream.getvalue()


def _cells(row: Row, tab: Tab) -> list[Cell]:
    """Return the cells of a row in the columns of ``tab``, which may be more than the declared."""
    return [cell_of(row, column) for column in tab.columns]


def write_csv(path: Path, rows: Sequence[Row], tab: Tab) -> None:
    """Write the rows of one tab as a CSV file.

    Parameters
    ----------
    path
        The file, which is written completely or not at all.
    rows
        The rows, in the order in which they are written.
    tab
        The tab, whose columns are the header.
    """
    write_bytes(path, csv_text(rows, tab).encode())


def write_xlsx(path: Path, tables: Mapping[Tab, Sequence[Row]]) -> None:
    """Write tabs as sheets of one workbook: typed cells, frozen header, best row highlighted.

    Where rows are folds, or several seeds of one experiment, a further sheet has their means.

    Parameters
    ----------
    path
        The file, which is written completely or not at all.
    tables
        The rows of each tab, in the order in which they are written.
    """
    from openpyxl import Workbook
    from openpyxl.styles import Font, PatternFill

    book = Workbook()
    book.properties.creator = XLSX_CREATOR
    book.remove(book.active)
    bold, shade = Font(bold=True), PatternFill("solid", fgColor="FFF2CC")

    def write(name: str, lines: Iterable[Sequence[Any]], shaded: Container[int] = ()) -> Any:
        """Write a sheet whose first line is the header."""
        sheet = book.create_sheet(name)
        sheet.freeze_panes = "A2"
        for line, cells in enumerate(lines, 1):
            for column, value in enumerate(cells, 1):
                if value is None and line not in shaded:
                    continue
                placed = _put(sheet, line, column, value)
                if line == 1:
                    placed.font = bold
                elif line in shaded:
                    placed.fill = shade
        return sheet

    for tab, rows in tables.items():
        best = {id(row) for row in select.best_rows(rows, tab)}
        sheet = write(tab.name[:31], chain([tab.titles], (_cells(row, tab) for row in rows)),
                      {line for line, row in enumerate(rows, 2) if id(row) in best})
        for column, title in enumerate(tab.titles):
            sheet.column_dimensions[column_letter(column)].width = min(40, len(title) + 4)
        sheet.auto_filter.ref = f"A1:{column_letter(len(tab.columns) - 1)}{len(rows) + 1}"
        # not among the rows: a pivot table would count every seed twice
        if means := [mean_of(group, tab) for group in grouped(rows) if len(group) > 1]:
            write(f"{tab.name} means", _table_of_means(means, tab))
    stream = io.BytesIO()
    book.save(stream)
    write_bytes(path, stream.getvalue())


def _table_of_means(means: Sequence[Row], tab: Tab) -> list[list[Cell]]:
    """Return the means of folds or seeds: a header, then run, note, values and deviations."""
    columns: list[list[Cell]] = [
        ["Run", *(row.values.get(RUN.field) for row in means)],
        ["Note", *(str(row.extra["note"]) for row in means)]]
    for column in tab.columns:
        cells = [select.cell_of(row, column) for row in means]
        if any(value not in (None, "") for value in cells):
            columns.append([column.title, *cells])
        deviations = [deviation_of(row, column) for row in means]
        if any(value is not None for value in deviations):
            columns.append([f"{column.title}, standard deviation", *deviations])
    return [list(cells) for cells in zip(*columns, strict=True)]


def _put(sheet: Any, line: int, column: int, value: Cell) -> Any:
    """Write a value to a cell of a workbook; return the cell."""
    xlsx_cell = sheet.cell(line, column)
    if isinstance(value, str):
        short = shortened(value, XLSX_LIMIT)
        # XML cannot hold these two characters
        xlsx_cell.value = short.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
        # openpyxl would make a formula of a text that begins with "="
        xlsx_cell.data_type = "s"
        xlsx_cell.quotePrefix = value.startswith(FORMULA_STARTS)
    else:
        xlsx_cell.value = value
    return xlsx_cell


def check_html(path: Path) -> None:
    """Refuse to replace a file that is not a page of results.

    Raises
    ------
    InputError
        ``path`` is a folder, or a file that ``write_html`` did not write.
    """
    check_page(path, "l3hpc", "a page of results", "--html")


def check_csv(path: Path) -> None:
    """Refuse to replace a file that is not a tab of the ledger as CSV.

    Raises
    ------
    InputError
        ``path`` is a folder, or a file whose header is not that of a tab.
    """
    headers = [csv_text([], tab).strip().encode() for tab in TABS.values()]

    def is_ours(stream: IO[bytes]) -> bool:
        # options of sweeps may follow the columns of the tab
        line = stream.readline(HEAD_BYTES).strip() + b","
        return any(line.startswith(header + b",") for header in headers)

    check_replaced(path, is_ours, "a table of results", "--csv")


def check_xlsx(path: Path) -> None:
    """Refuse to replace a file that is not a workbook of results.

    Raises
    ------
    InputError
        ``path`` is a folder, or a file that ``write_xlsx`` did not write.
    """
    def is_ours(stream: IO[bytes]) -> bool:
        try:
            with zipfile.ZipFile(stream) as book, book.open("docProps/core.xml") as facts:
                return f"<dc:creator>{XLSX_CREATOR}</dc:creator>".encode() in facts.read(HEAD_BYTES)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, KeyError, NotImplementedError, EOFError,
                zlib.error, RuntimeError):  # damaged, encrypted, or no workbook at all
            return False

    check_replaced(path, is_ours, "a workbook of results", "--xlsx")


def write_html(path: Path, tables: Mapping[Tab, Sequence[Row]], state: SyncState | None = None,
               now: float | None = None) -> None:
    """Write the results tables as one HTML page.

    Parameters
    ----------
    path
        The file, which is written completely or not at all.
    tables
        The rows of each tab. Rows that were folded with ``history=True`` have learning curves.
    state
        State of the last sync; with it, rows show whether the sheet has them.
    now
        Time of the page in seconds since the Unix epoch; by default the present.
    """
    moment = time.time() if now is None else now
    students = {row.key: (place, line) for place, (tab, rows) in enumerate(tables.items())
                if tab.key == ("model_dir",) for line, row in enumerate(rows) if row.epochs}
    data = {"made": moment, "tabs": [_tab(tab, rows, state, moment, students)
                                     for tab, rows in tables.items()]}
    write_text(path, render("ledger.html.j2", data=data))


def _tab(tab: Tab, rows: Sequence[Row], state: SyncState | None, now: float,
         students: Mapping[tuple[str, ...], tuple[int, int]]) -> dict[str, object]:
    """Return a tab as the page's script reads it; students: key → number of tab and row."""
    best = {id(row) for row in select.best_rows(rows, tab)}
    return {
        "name": tab.name, "rank": tab.index(tab.rank), "best": tab.best,
        "key": [tab.index(name) for name in tab.key],
        "columns": [[column.label, column.kind, column.rule] for column in tab.columns],
        "swept": [tab.columns.index(column) for column in swept_columns(tab)],
        "rows": [{**_row(row, tab, id(row) in best, state, now), "name": name,
                  "student": students.get((str(row.extra.get("model_dir")),))}
                 for row, name in zip(rows, row_names(rows), strict=True)]}


def _row(row: Row, tab: Tab, best: bool, state: SyncState | None, now: float) -> dict[str, object]:
    """Return a row as the page's script reads it."""
    kinds = {item["kind"] for item in state.problems if item["tab"] == row.tab.name
             and key_json(item["key"]) == key_json(row.key)} if state else set()
    marks = [select.row_state(row, now), "bound" if is_bound(row) else "", *sorted(kinds)]
    if state and not kinds and not state.is_confirmed(row) and not is_mean(row) \
            and row.tab.name not in state.absent:
        marks.append("not synced")
    # the page has places of their own for these
    extra = {name: value for name, value in row.extra.items()
             if name not in ("state", "note", select.CLASSES, DEVIATIONS, *LINKS)}
    return {
        "cells": [select.readable_cell(row, column) for column in tab.columns], "best": best,
        "marks": [mark for mark in marks if mark],
        "note": str(row.extra.get("note") or ""), "time": row.last_time,
        "links": {name: str(row.extra[name]) for name in LINKS if row.extra.get(name)},
        "beside": {**extra, **{name: value for name, value in row.origin.items() if value}},
        "curves": _curves(row)}


def _curves(row: Row) -> dict[str, object]:
    """Return the epochs, and the values of each metric per epoch (six digits, None if unknown)."""
    if not row.epochs:
        return {}
    epochs = sorted(row.epochs)
    names = sorted({name for values in row.epochs.values() for name in values} - {"time"})
    return {"epoch": epochs, **{name: [_short(row.epochs[epoch].get(name)) for epoch in epochs]
                                for name in names}}


def _short(value: object) -> float | None:
    """Return a number with six digits, which keeps the page small; None if it is not finite."""
    finite = finite_number(value)
    return None if finite is None else float(f"{finite:.6g}")
