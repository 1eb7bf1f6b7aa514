"""Plans as Sheets API requests: one batch, applied once or not at all, typed cells only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from l3hpc.ledger.cells import Cell, cells
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import Tab, column_letter
from l3hpc.ledger.sheets import anchors
from l3hpc.ledger.sheets.client import MOST_BYTES, request_bytes
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

Request = dict[str, Any]
EMPTY_ROWS = 200
INSERTS_AT_ONCE = 1000
BYTES_AT_ONCE = 5_000_000  # Google takes twice as much; smaller requests are answered sooner
MARK_BYTES = 300  # at most, of one piece of metadata as a request
LARGEST_ROW = MOST_BYTES - 200_000  # beside it: versions that are swept away, a frame


def limit_plan(plan: SyncPlan) -> None:
    """Leave in ``plan`` what one batch and one write by anchor can hold, by bytes and by number.

    The other rows count as left over. A row that no request can hold becomes a problem.
    """
    room = BYTES_AT_ONCE
    is_empty = True

    def fits(need: int) -> bool:
        nonlocal room, is_empty
        if need > room and not is_empty:
            return False
        room, is_empty = room - need, False
        return True

    for tab in plan.tabs:
        rows, tab.inserts = tab.inserts, []
        for row in rows:
            need = request_bytes(_line(cells(row))) + MARK_BYTES
            if need > LARGEST_ROW:
                plan.problems.append(_too_large(row, need))
            elif len(tab.inserts) < INSERTS_AT_ONCE and fits(need):
                tab.inserts.append(row)
            else:
                plan.left_over += 1
        writes, tab.writes = tab.writes, []
        for number, target in enumerate(write_targets(tab.grid, writes)):
            own = [write for write in writes if write.place == target.place]
            need = request_bytes(target.data()) + MARK_BYTES
            if need > LARGEST_ROW:
                plan.problems.append(_too_large(own[0].row, need))
            elif number < anchors.MAX_ANCHORS and fits(need):
                tab.writes += own
            else:
                plan.left_over += 1
        rows, tab.marks = tab.marks, []
        for row in rows:
            if fits(MARK_BYTES):
                tab.marks.append(row)
            else:
                plan.left_over += 1


def batch(plan: SyncPlan, snapshot: Snapshot, written: Sequence[anchors.Target]) -> list[Request]:
    """The requests of a plan made from ``snapshot``: new rows, marks, and anchors on the rows that
    are written next; refused as a whole if the sheet's version moved on."""
    requests = next_version(snapshot)
    taken = {version_identity(snapshot.next_version)}
    requests += anchors.create_anchors(snapshot, written, taken)
    for tab in plan.tabs:
        requests += _inserts(tab)
        requests += _row_marks(tab, snapshot, taken)
        requests += _tab_mark(tab.grid, snapshot, taken)
    return requests


def sheet_of(request: Request) -> int:
    """The id of the tab that a request changes cells of, -1 where it changes none."""
    (body,) = request.values()
    place = body.get("start") or body.get("range") or {}
    return int(place.get("sheetId", -1))


def next_version(snapshot: Snapshot) -> list[Request]:
    """Take the next version: fails when another batch took it first. Old ones are swept away, and
    the anchors of writes before this one."""
    version = snapshot.next_version
    requests = [_create(Mark(version_identity(version), VERSION_MARK, str(version), None))]
    for mark in snapshot.marks.values():
        if (mark.key == VERSION_MARK and mark.sheet is None and mark.value.isdigit()
                and int(mark.value) <= version - VERSIONS_KEPT):
            requests.append({"deleteDeveloperMetadata": {"dataFilter": {
                "developerMetadataLookup": {"metadataId": mark.id}}}})
    return [*requests, *anchors.remove_anchors(snapshot)]


def put_cells(sheet: int, row: int, column: int, lines: Sequence[Sequence[Cell]]) -> Request:
    """Typed cells from a place on; None empties a cell."""
    return {"updateCells": {
        "start": {"sheetId": sheet, "rowIndex": row, "columnIndex": column},
        "rows": [_line(line) for line in lines],
        "fields": "userEnteredValue"}}


def set_up_tab(tab: Tab, grid: TabGrid | None, sheet: int) -> list[Request]:
    """What a tab lacks: itself, its header, columns, frozen row, protection, filter view, marks.

    Nothing here moves or changes a row below the header. ``sheet``: the id for a new tab.
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
        if grid is not None:  # a row of its own: someone may be typing into the first one
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
            "description": "Written by l3hpc ledger sync. Use filter views; own columns go behind "
                           f"{column_letter(width - 1)}."}}})
    if grid is None or not grid.has_filter_view:
        requests.append({"addFilterView": {"filter": {
            "title": "best first", "range": _area(sheet, 0, None, width), "sortSpecs": [{
                "dimensionIndex": tab.index(tab.rank),
                "sortOrder": "ASCENDING" if tab.best == "min" else "DESCENDING"}]}}})
    if grid is None or not grid.marked:
        requests.append(_create(Mark(0, TAB_MARK, tab.name, sheet)))
    return requests


def _tab_mark(grid: TabGrid, snapshot: Snapshot, taken: set[int]) -> list[Request]:
    """Give a tab of ours the mark that a duplicate cannot have."""
    identity = tab_identity(grid.tab.name)
    if not grid.marked or identity in snapshot.marks or identity in taken:
        return []
    taken.add(identity)
    return [_create(Mark(identity, TAB_MARK, grid.tab.name, grid.sheet))]


def _inserts(tab: TabPlan) -> list[Request]:
    """New rows behind all others, in rows made for them: nothing can be overwritten."""
    if not tab.inserts:
        return []
    grid, start = tab.grid, tab.grid.next_row
    requests: list[Request] = []
    if start >= grid.row_count:  # rows can be inserted only before an existing one
        requests.append({"appendDimension": {
            "sheetId": grid.sheet, "dimension": "ROWS", "length": start - grid.row_count + 1}})
    requests.append({"insertDimension": {
        "range": {"sheetId": grid.sheet, "dimension": "ROWS", "startIndex": start,
                  "endIndex": start + len(tab.inserts)}, "inheritFromBefore": start > 1}})
    requests.append(put_cells(grid.sheet, start, 0, [cells(row) for row in tab.inserts]))
    return requests


def _row_marks(tab: TabPlan, snapshot: Snapshot, taken: set[int]) -> list[Request]:
    """Marks of new rows. taken: the ids that this batch creates, to which these are added."""
    requests = []
    used = tab.grid.metadata_characters
    for row in [*tab.inserts, *tab.marks]:
        identity, value, is_set = snapshot.row_mark(tab.grid.tab, row.key)
        used += len(ROW_MARK) + len(value)
        if is_set or identity in taken or used > METADATA_LIMIT:
            continue  # the version alone still keeps a row from being written twice
        taken.add(identity)
        requests.append(_create(Mark(identity, ROW_MARK, value, tab.grid.sheet)))
    return requests


def _create(mark: Mark) -> Request:
    location: Request = {"spreadsheet": True} if mark.sheet is None else {"sheetId": mark.sheet}
    data: Request = {"metadataKey": mark.key, "metadataValue": mark.value,
                     "location": location, "visibility": "DOCUMENT"}
    if mark.id:
        data["metadataId"] = mark.id
    return {"createDeveloperMetadata": {"developerMetadata": data}}


def _too_large(row: Row, need: int) -> Problem:
    column, longest = max(zip(row.tab.columns, cells(row), strict=True),
                          key=lambda pair: len(str(pair[1] or "")))
    return make_problem("too large", row, (
        f"the row {short_key(row)} cannot be written: it takes {need:,} bytes as a request, Google "
        f"takes {MOST_BYTES:,}; its longest cell is {column.title} "
        f"({len(str(longest)):,} characters)"))


def _line(values: Sequence[Cell]) -> Request:
    return {"values": [_typed(value) for value in values]}


def _typed(value: Cell) -> Request:
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"userEnteredValue": {"boolValue": value}}
    if isinstance(value, (int, float)):
        return {"userEnteredValue": {"numberValue": value}}
    return {"userEnteredValue": {"stringValue": value}}


def _area(sheet: int, first: int, last: int | None, width: int) -> Request:
    area: Request = {"sheetId": sheet, "startRowIndex": first, "startColumnIndex": 0,
                     "endColumnIndex": width}
    if last is not None:
        area["endRowIndex"] = last
    return area


def _best_rule(tab: Tab, sheet: int) -> Request:
    place = column_letter(tab.index(tab.rank))
    pick = "MIN" if tab.best == "min" else "MAX"
    formula = f"=AND(ISNUMBER(${place}2),${place}2={pick}(${place}$2:${place}))"
    area = _area(sheet, 1, None, len(tab.columns))
    return {"ranges": [area], "booleanRule": {
        "condition": {"type": "CUSTOM_FORMULA", "values": [{
            "userEnteredValue": formula}]},
        "format": {"backgroundColor": {"red": 1.0, "green": 0.95, "blue": 0.8}}}}
