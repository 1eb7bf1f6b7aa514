"""Turning a plan into requests of the Sheets API: one batch, applied once or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from l3hpc.ledger.cells import Cell, cells
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import Tab, column_letter
from l3hpc.ledger.sheets import anchors
from l3hpc.ledger.sheets.client import MAX_BYTES, request_bytes
from l3hpc.ledger.sheets.diff import SyncPlan, TabPlan, make_problem, short_key, write_targets
from l3hpc.ledger.sheets.grid import (
    METADATA_LIMIT,
    ROW_MARK,
    TAB_MARK,
    VERSION_MARK,
    VERSIONS_KEPT,
    Mark,
    Snapshot,
    TabGrid,
    tab_identity,
    version_identity,
)
from l3hpc.ledger.store import Problem

Request = dict[str, Any]  # one request of a batch, as JSON values
EMPTY_ROWS = 200  # of a new tab
INSERTS_AT_ONCE = 1000
BYTES_AT_ONCE = 5_000_000  # Google accepts twice as much; smaller requests are answered sooner
MARK_BYTES = 300  # upper limit of one piece of metadata in a request
LARGEST_ROW = MAX_BYTES - 200_000  # leaves room for the other parts of the request


class _ByteBudget:
    """What is left of the size of a request; the first item always fits."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._is_empty = True

    def take(self, size: int) -> bool:
        """Use up ``size`` bytes; False if they do not fit."""
        if size > self._left and not self._is_empty:
            return False
        self._left, self._is_empty = self._left - size, False
        return True


def limit_plan(plan: SyncPlan) -> None:
    """Reduce a plan to what one batch and one write by anchor can hold.

    Parameters
    ----------
    plan
        Rows that do not fit are counted in ``left_over``. A row that is too large for any request
        becomes a problem.
    """
    budget = _ByteBudget(BYTES_AT_ONCE)
    for tab in plan.tabs:
        _limit_inserts(plan, tab, budget)
        _limit_writes(plan, tab, budget)
        marks, tab.marks = tab.marks, []
        for row in marks:
            if budget.take(MARK_BYTES):
                tab.marks.append(row)
            else:
                plan.left_over += 1


def _limit_inserts(plan: SyncPlan, tab: TabPlan, budget: _ByteBudget) -> None:
    """Reduce the new rows of a tab to those that fit."""
    rows, tab.inserts = tab.inserts, []
    for row in rows:
        size = request_bytes(_row_data(cells(row))) + MARK_BYTES
        if size > LARGEST_ROW:
            plan.problems.append(_too_large(row, size))
        elif len(tab.inserts) < INSERTS_AT_ONCE and budget.take(size):
            tab.inserts.append(row)
        else:
            plan.left_over += 1


def _limit_writes(plan: SyncPlan, tab: TabPlan, budget: _ByteBudget) -> None:
    """Reduce the cells of existing rows to those that fit; rows stay whole."""
    writes, tab.writes = tab.writes, []
    for number, target in enumerate(write_targets(tab.grid, writes)):
        own = [write for write in writes if write.grid_row == target.grid_row]
        size = request_bytes(target.data()) + MARK_BYTES
        if size > LARGEST_ROW:
            plan.problems.append(_too_large(own[0].row, size))
        elif number < anchors.MAX_ANCHORS and budget.take(size):
            tab.writes += own
        else:
            plan.left_over += 1


def batch(plan: SyncPlan, snapshot: Snapshot, written: Sequence[anchors.Target]) -> list[Request]:
    """Return the requests of a plan: new rows, marks, and anchors for the write that follows.

    Parameters
    ----------
    plan
        The plan, after ``limit_plan``.
    snapshot
        The reading from which it was made. If the version of the sheet has changed since, Google
        refuses the whole batch.
    written
        Rows that get an anchor.
    """
    requests = next_version(snapshot)
    taken = {version_identity(snapshot.next_version)}
    requests += anchors.create_anchors(snapshot, written, taken)
    for tab in plan.tabs:
        requests += _inserts(tab)
        requests += _row_marks(tab, snapshot, taken)
        requests += _tab_mark(tab.grid, snapshot, taken)
    return requests


def sheet_of(request: Request) -> int:
    """Return the id of the tab whose cells a request changes; -1 if it changes none."""
    (body,) = request.values()
    area = body.get("start") or body.get("range") or {}
    return int(area.get("sheetId", -1))


def next_version(snapshot: Snapshot) -> list[Request]:
    """Return the requests that create the next version.

    They are refused if another batch created it first. They also remove old versions, and all
    anchors of earlier writes.
    """
    version = snapshot.next_version
    requests = [_create(Mark(version_identity(version), VERSION_MARK, str(version), None))]
    for mark in snapshot.marks.values():
        if (mark.key == VERSION_MARK and mark.sheet is None and mark.value.isdigit()
                and int(mark.value) <= version - VERSIONS_KEPT):
            requests.append({"deleteDeveloperMetadata": {"dataFilter": {
                "developerMetadataLookup": {"metadataId": mark.id}}}})
    return [*requests, *anchors.remove_anchors(snapshot)]


def put_cells(sheet: int, row: int, column: int, lines: Sequence[Sequence[Cell]]) -> Request:
    """Return the request that writes cells.

    Parameters
    ----------
    sheet
        Id of the tab.
    row, column
        Position of the first cell (0-based).
    lines
        Rows of cells; None empties a cell.
    """
    return {"updateCells": {
        "start": {"sheetId": sheet, "rowIndex": row, "columnIndex": column},
        "rows": [_row_data(line) for line in lines],
        "fields": "userEnteredValue"}}


def set_up_tab(tab: Tab, grid: TabGrid | None, sheet: int) -> list[Request]:
    """Return the requests that create or complete a tab.

    They add what is missing of header, columns, frozen row, protection, filter view and tab mark;
    no row below the header is moved or changed.

    Parameters
    ----------
    tab
        The declared tab.
    grid
        The tab in the sheet; None if it does not exist.
    sheet
        Id for a new tab.
    """
    width = len(tab.columns)
    requests: list[Request] = []
    if grid is None:
        requests.append({"addSheet": {"properties": {
            "sheetId": sheet, "title": tab.name, "gridProperties": {
                "rowCount": EMPTY_ROWS, "columnCount": width, "frozenRowCount": 1}}}})
    else:
        sheet = grid.sheet
        if grid.column_count < width:
            requests.append({"appendDimension": {
                "sheetId": sheet, "dimension": "COLUMNS", "length": width - grid.column_count}})
    if grid is None or not any(value is not None for value in grid.header):
        # the header gets a new row, because a person may be typing into the first one
        if grid is not None:
            requests.append({"insertDimension": {"inheritFromBefore": False, "range": {
                "sheetId": sheet, "dimension": "ROWS", "startIndex": 0, "endIndex": 1}}})
        requests.append(put_cells(sheet, 0, 0, [tab.titles]))
        requests.append({"repeatCell": {
            "range": _area(sheet, 0, 1, width),
            "cell": {"userEnteredFormat": {"textFormat": {"bold": True}}},
            "fields": "userEnteredFormat.textFormat.bold"}})
        requests.append({"addConditionalFormatRule": {"index": 0, "rule": _best_rule(tab, sheet)}})
    if grid is not None and not grid.frozen_rows:
        requests.append({"updateSheetProperties": {
            "properties": {"sheetId": sheet, "gridProperties": {"frozenRowCount": 1}},
            "fields": "gridProperties.frozenRowCount"}})
    if grid is None or not grid.protected:
        requests.append({"addProtectedRange": {"protectedRange": {
            "range": _area(sheet, 0, None, width), "warningOnly": True,
            "description": "Written by l3hpc ledger sync. Use filter views; own columns go to the "
                           f"right of {column_letter(width - 1)}."}}})
    if grid is None or not grid.has_filter_view:
        requests.append({"addFilterView": {"filter": {
            "title": "best first", "range": _area(sheet, 0, None, width), "sortSpecs": [{
                "dimensionIndex": tab.index(tab.rank),
                "sortOrder": "ASCENDING" if tab.best == "min" else "DESCENDING"}]}}})
    if grid is None or not grid.marked:
        requests.append(_create(Mark(0, TAB_MARK, tab.name, sheet)))
    return requests


def _tab_mark(grid: TabGrid, snapshot: Snapshot, taken: set[int]) -> list[Request]:
    """Return the request that gives a tab the mark with the id that a duplicate cannot have."""
    identity = tab_identity(grid.tab.name)
    if not grid.marked or identity in snapshot.marks or identity in taken:
        return []
    taken.add(identity)
    return [_create(Mark(identity, TAB_MARK, grid.tab.name, grid.sheet))]


def _inserts(tab: TabPlan) -> list[Request]:
    """Return the requests that add new rows after all others.

    They insert empty rows first, so that no cell of a person can be overwritten.
    """
    if not tab.inserts:
        return []
    grid, start = tab.grid, tab.grid.next_row
    requests: list[Request] = []
    # rows can only be inserted before an existing one
    if start >= grid.row_count:
        requests.append({"appendDimension": {
            "sheetId": grid.sheet, "dimension": "ROWS", "length": start - grid.row_count + 1}})
    requests.append({"insertDimension": {
        "range": {"sheetId": grid.sheet, "dimension": "ROWS", "startIndex": start,
                  "endIndex": start + len(tab.inserts)}, "inheritFromBefore": start > 1}})
    requests.append(put_cells(grid.sheet, start, 0, [cells(row) for row in tab.inserts]))
    return requests


def _row_marks(tab: TabPlan, snapshot: Snapshot, taken: set[int]) -> list[Request]:
    """Return the requests that create the marks of rows; their ids are added to ``taken``."""
    requests = []
    used = tab.grid.metadata_characters
    for row in [*tab.inserts, *tab.marks]:
        identity, value, is_set = snapshot.row_mark(tab.grid.tab, row.key)
        used += len(ROW_MARK) + len(value)
        # without a mark, the version still keeps a row from being written twice
        if is_set or identity in taken or used > METADATA_LIMIT:
            continue
        taken.add(identity)
        requests.append(_create(Mark(identity, ROW_MARK, value, tab.grid.sheet)))
    return requests


def _create(mark: Mark) -> Request:
    """Return the request that creates a mark; an id of 0 lets Google choose one."""
    location: Request = {"spreadsheet": True} if mark.sheet is None else {"sheetId": mark.sheet}
    data: Request = {"metadataKey": mark.key, "metadataValue": mark.value,
                     "location": location, "visibility": "DOCUMENT"}
    if mark.id:
        data["metadataId"] = mark.id
    return {"createDeveloperMetadata": {"developerMetadata": data}}


def _too_large(row: Row, size: int) -> Problem:
    """Return the problem of a row that no request can hold."""
    column, longest = max(zip(row.tab.columns, cells(row), strict=True),
                          key=lambda pair: len(str(pair[1] or "")))
    return make_problem("too large", row, (
        f"cannot write the row {short_key(row)}: it would be a request of {size:,} bytes, and "
        f"Google accepts {MAX_BYTES:,}; its longest cell is {column.title} "
        f"({len(str(longest)):,} characters)"))


def _row_data(values: Sequence[Cell]) -> Request:
    """Return a row of cells as the API takes it."""
    return {"values": [_cell_data(value) for value in values]}


def _cell_data(value: Cell) -> Request:
    """Return a cell with its type, so that Google does not interpret text as a formula or date."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"userEnteredValue": {"boolValue": value}}
    if isinstance(value, (int, float)):
        return {"userEnteredValue": {"numberValue": value}}
    return {"userEnteredValue": {"stringValue": value}}


def _area(sheet: int, first: int, last: int | None, width: int) -> Request:
    """Return the grid range of the rows from ``first`` to before ``last`` (None: all)."""
    area: Request = {"sheetId": sheet, "startRowIndex": first, "startColumnIndex": 0,
                     "endColumnIndex": width}
    if last is not None:
        area["endRowIndex"] = last
    return area


def _best_rule(tab: Tab, sheet: int) -> Request:
    """Return the conditional format that highlights the best row."""
    rank = column_letter(tab.index(tab.rank))
    function = "MIN" if tab.best == "min" else "MAX"
    formula = f"=AND(ISNUMBER(${rank}2),${rank}2={function}(${rank}$2:${rank}))"
    area = _area(sheet, 1, None, len(tab.columns))
    return {"ranges": [area], "booleanRule": {
        "condition": {"type": "CUSTOM_FORMULA", "values": [{
            "userEnteredValue": formula}]},
        "format": {"backgroundColor": {"red": 1.0, "green": 0.95, "blue": 0.8}}}}
