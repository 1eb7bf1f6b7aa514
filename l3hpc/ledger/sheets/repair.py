"""Repairing a sheet, and taking rows of other people in: what differs first, then what is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from l3hpc.ledger.cells import cells, key_cells
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import Tab
from l3hpc.ledger.sheets import requests as ask
from l3hpc.ledger.sheets.client import Sheets
from l3hpc.ledger.sheets.diff import Plan, make, tabs_of
from l3hpc.ledger.sheets.grid import Snapshot, parse, require_headers
from l3hpc.ledger.sheets.header_repair import Change, as_requests, changes
from l3hpc.ledger.sheets.sync import Known, snapshot_of, whole
from l3hpc.ledger.store import Store


def difference(store: Store, sheets: Sheets) -> tuple[Snapshot, Plan, list[Row]]:
    """What it takes to make the sheet equal to the journals: the reading, the plan that overrules
    every changed cell, and the rows that were deleted. Writes nothing."""
    snapshot = snapshot_of(sheets)
    rows = list(store.fold().rows.values())
    require_headers(snapshot, tabs_of(rows))
    state = store.state(sheets.sheet_id)
    gone = {(item["tab"], tuple(item["key"]))
            for item in make(rows, snapshot, state, Known(store)).problems
            if item["kind"] == "deleted"}
    deleted = [row for row in rows if (row.tab.name, row.key) in gone]
    return snapshot, make(rows, snapshot, state, Known(store), "ours", deleted), deleted


def header_difference(store: Store, sheets: Sheets) -> dict[str, list[Change]]:
    """Tab name → what puts its columns back, of the tabs whose header differs. Writes nothing."""
    snapshot = snapshot_of(sheets)
    fold = store.fold()
    return {name: changes(grid.tab, whole(sheets, grid), {
                key_cells(grid.tab, row.key): cells(row) for row in fold.of(grid.tab)},
                f"tab {name!r} of {snapshot.title!r}")
            for name, grid in snapshot.tabs.items() if grid.drift() and (
                any(grid.header) or grid.header_place() is not None)}


def put_headers_back(store: Store, sheets: Sheets, agreed: dict[str, list[Change]]) -> None:
    """Make changes of columns as ``header_difference`` found them, if it would still find these.

    Raises ``HeaderDriftError`` when the columns were changed again meanwhile.
    """
    snapshot = parse(sheets.structure())
    if header_difference(store, sheets) == agreed:
        sheets.batch([*ask.next_version(snapshot), *(
            request for name, made in agreed.items() for request in as_requests(
                made, snapshot.tabs[name].sheet, snapshot.tabs[name].column_count))])
    after = snapshot_of(sheets)
    require_headers(after, [after.tabs[name].tab for name in agreed])


def foreign_rows(store: Store, sheets: Sheets, tabs: Sequence[Tab]) -> list[Row]:
    """Rows with a whole key that people typed or pasted and that no journal knows."""
    snapshot = snapshot_of(sheets)
    present = [tab for tab in tabs if tab.name in snapshot.tabs]
    require_headers(snapshot, present)
    fold = store.fold()
    found: list[Row] = []
    for tab in present:
        grid = snapshot.tabs[tab.name]
        ours = {place for places in grid.located(
            key_cells(tab, row.key) for row in fold.of(tab)).values() for place in places}
        for key, places in grid.positions().items():
            if len(places) == 1 and places[0] not in ours:
                values = {column.field: value for column, value in zip(
                    tab.columns, grid.rows[places[0] - 1], strict=True) if value is not None}
                values.update(zip(tab.key, key, strict=True))
                found.append(Row(tab, key, values))
    return found


def adopt(store: Store, rows: Sequence[Row], username: str) -> None:
    """Journal rows of other people: they become rows like any other."""
    journal = Journal(store.journal, run="adopted", git_commit="")
    for row in rows:
        journal.record(row.tab.name, {**row.values,
                                      "note": f"adopted from the sheet by {username}"})
    journal.close()
