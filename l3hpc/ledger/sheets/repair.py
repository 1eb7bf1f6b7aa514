"""Setting up a sheet, repairing it, and adopting rows that people typed.

Every repair has two functions: one returns the differences and writes nothing, the other makes the
changes that a person agreed to.

The columns of a tab are restored after titles were changed, or columns moved, inserted or deleted;
a header that was moved into the rows goes back to the first row. A column is recognised by its
title, else by its cells (in rows of ours that show the values of the journals), else by its
position, if only one fits. Columns that people added go to the right of the declared ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from l3hpc.errors import HeaderDriftError, L3hpcError, command_line
from l3hpc.ledger.cells import Cell, cells, key_cells, same_cell
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import Tab, column_letter
from l3hpc.ledger.sheets import requests as api
from l3hpc.ledger.sheets.client import Refused, Sheets
from l3hpc.ledger.sheets.diff import SyncPlan, make_plan, tabs_of
from l3hpc.ledger.sheets.grid import (
    Snapshot,
    TabGrid,
    find_header_row,
    has_place_for,
    parse_structure,
    require_headers,
)
from l3hpc.ledger.sheets.reading import all_cells, read_snapshot
from l3hpc.ledger.sheets.requests import Request, put_cells
from l3hpc.ledger.sheets.sync import BETWEEN_ROUNDS_S, ROUNDS, JournalValues
from l3hpc.ledger.store import Store

JournalCells = Mapping[tuple[str, ...], Sequence[Cell]]  # key of a row → its cells in the journals


# --- setting up -----------------------------------------------------------------------------------

def initialise(sheets: Sheets, tabs: Sequence[Tab]) -> list[str]:
    """Create or complete tabs; see ``requests.set_up_tab``.

    Parameters
    ----------
    sheets
        The spreadsheet.
    tabs
        The declared tabs.

    Returns
    -------
    list of str
        Names of the tabs that were created or changed.

    Raises
    ------
    HeaderDriftError
        A tab exists with another header; nothing was written.
    L3hpcError
        Google refuses the requests, or the sheet keeps changing.
    """
    refused: tuple[int, str] | None = None
    for number in range(ROUNDS):
        if number:
            sheets.pace.sleep(BETWEEN_ROUNDS_S * random.random() * number)
        snapshot = read_snapshot(sheets)
        require_headers(snapshot, [grid.tab for grid in snapshot.tabs.values()
                                   if grid.tab in tabs and _has_header(grid)])
        require_headers(snapshot, [tab for tab in tabs if tab.name not in snapshot.tabs and (
            tab.name in snapshot.charts or tab.name in snapshot.doubtful)])
        changes: list[Request] = []
        names = []
        for tab in tabs:
            needed = api.set_up_tab(tab, snapshot.tabs.get(tab.name), _new_sheet_id(snapshot))
            if needed:
                names.append(tab.name)
                changes += needed
        if not changes:
            return []
        try:
            sheets.batch([*api.next_version(snapshot), *changes])
            return names
        except Refused as error:
            # refused again though the sheet has not changed: not a race with another syncer
            if refused == (snapshot.version, error.message):
                raise
            refused = (snapshot.version, error.message)
    raise L3hpcError(f"the sheet kept changing while it was set up ({ROUNDS} rounds)")


def _has_header(grid: TabGrid) -> bool:
    """Return whether a tab has any header, in its first row or moved elsewhere."""
    return any(grid.header) or grid.header_row() is not None


def _new_sheet_id(snapshot: Snapshot) -> int:
    """Return a random id for a tab that is not in use."""
    used = {mark.sheet for mark in snapshot.marks.values()} | {
        grid.sheet for grid in snapshot.tabs.values()}
    while True:
        sheet = random.randrange(1, 2**31 - 1)
        if sheet not in used:
            return sheet


# --- rows -----------------------------------------------------------------------------------------

def plan_repair(store: Store, sheets: Sheets) -> tuple[Snapshot, SyncPlan, list[Row]]:
    """Plan what makes the sheet equal to the journals. Nothing is written.

    Parameters
    ----------
    store
        The ledger.
    sheets
        The spreadsheet.

    Returns
    -------
    snapshot : Snapshot
        The reading from which the plan was made.
    plan : SyncPlan
        It overwrites every cell that people changed.
    deleted : list of Row
        Rows that were deleted from the sheet, which the plan writes again.

    Raises
    ------
    HeaderDriftError
        The columns of a tab have to be restored first.
    """
    snapshot = read_snapshot(sheets)
    rows = [row for row in store.fold().rows.values() if has_place_for(snapshot, row.tab)]
    require_headers(snapshot, tabs_of(rows))
    state = store.state(sheets.sheet_id)
    missing = {(item["tab"], tuple(item["key"]))
               for item in make_plan(rows, snapshot, state, JournalValues(store)).problems
               if item["kind"] == "deleted"}
    deleted = [row for row in rows if (row.tab.name, row.key) in missing]
    plan = make_plan(rows, snapshot, state, JournalValues(store), "ours", deleted)
    return snapshot, plan, deleted


def unknown_rows(store: Store, sheets: Sheets, tabs: Sequence[Tab]) -> list[Row]:
    """Find rows that people typed or pasted: with a complete key that is not in the journals.

    Parameters
    ----------
    store
        The ledger.
    sheets
        The spreadsheet.
    tabs
        Tabs to search; those that the sheet does not have are left out.
    """
    snapshot = read_snapshot(sheets)
    present = [tab for tab in tabs if tab.name in snapshot.tabs]
    require_headers(snapshot, present)
    fold = store.fold()
    found: list[Row] = []
    for tab in present:
        grid = snapshot.tabs[tab.name]
        own_keys = [key_cells(tab, row.key) for row in fold.rows_of(tab)]
        ours = {grid_row for grid_rows in grid.located(own_keys).values()
                for grid_row in grid_rows}
        for key, grid_rows in grid.positions().items():
            # of two rows with the same key, it is not known which is meant
            if len(grid_rows) == 1 and grid_rows[0] not in ours:
                values = {column.field: value for column, value in zip(
                    tab.columns, grid.rows[grid_rows[0] - 1], strict=True) if value is not None}
                values.update(zip(tab.key, key, strict=True))
                found.append(Row(tab, key, values))
    return found


def adopt(store: Store, rows: Sequence[Row], username: str) -> None:
    """Write rows that people typed to the journals; from then on they are rows like any other.

    Parameters
    ----------
    store
        The ledger.
    rows
        Result of ``unknown_rows``.
    username
        Who adopts them, for the note of each row.
    """
    journal = Journal(store.journal, run="adopted", git_commit="")
    for row in rows:
        journal.record(row.tab.name, {**row.values,
                                      "note": f"adopted from the sheet by {username}"})
    journal.close()


# --- columns --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class ColumnChange:
    """One change of the columns of a tab.

    Attributes
    ----------
    kind
        ``title``: the title at ``position`` becomes ``new``. ``move``: the column at ``position``
        goes to ``to``. ``insert``: a column is inserted at ``position``. ``row``: the row at
        ``position`` becomes the first one.
    position, to
        0-based, as they are after the changes before this one.
    old, new
        Present and new title.
    """

    kind: Literal["title", "move", "insert", "row"]
    position: int
    to: int = 0
    old: Cell = None
    new: str | None = None

    def describe(self) -> str:
        """Return the change as text, such as ``T1: 'epoch' → 'Latest Epoch'``."""
        letter = column_letter(self.position)
        if self.kind == "title":
            return f"{letter}1: {self.old!r} → {self.new!r}"
        if self.kind == "row":
            return f"row {self.position + 1} (the header) moves to row 1"
        if self.kind == "move":
            return f"column {letter} ({self.old!r}) moves to {column_letter(self.to)}"
        return f"column {letter} is inserted for {self.new!r}"


def plan_header_repair(store: Store, sheets: Sheets) -> dict[str, list[ColumnChange]]:
    """Plan what restores the columns. Nothing is written.

    Parameters
    ----------
    store
        The ledger.
    sheets
        The spreadsheet.

    Returns
    -------
    dict
        Name of a tab with another header → the changes that restore it.

    Raises
    ------
    HeaderDriftError
        A column cannot be recognised.
    """
    snapshot = read_snapshot(sheets)
    fold = store.fold()
    found = {}
    for name, grid in snapshot.tabs.items():
        # a tab without a header is not damaged but new: ``initialise`` writes it
        if grid.drift() and _has_header(grid):
            journal = {key_cells(grid.tab, row.key): cells(row) for row in fold.rows_of(grid.tab)}
            found[name] = column_changes(grid.tab, all_cells(sheets, grid), journal,
                                         f"tab {name!r} of {snapshot.title!r}")
    return found


def restore_headers(store: Store, sheets: Sheets, agreed: dict[str, list[ColumnChange]]) -> None:
    """Make the changes that ``plan_header_repair`` returned.

    Parameters
    ----------
    store
        The ledger.
    sheets
        The spreadsheet.
    agreed
        The changes that a person agreed to.

    Raises
    ------
    HeaderDriftError
        The columns were changed again meanwhile.
    """
    # the version first: if anybody writes after this reading, the batch is refused
    snapshot = parse_structure(sheets.structure())
    # nothing else than what the person agreed to: what changed meanwhile is reported below
    if plan_header_repair(store, sheets) == agreed:
        sheets.batch([*api.next_version(snapshot), *(
            request for name, changes in agreed.items() for request in change_requests(
                changes, snapshot.tabs[name].sheet, snapshot.tabs[name].column_count))])
    after = read_snapshot(sheets)
    require_headers(after, [after.tabs[name].tab for name in agreed])


def change_requests(changes: Sequence[ColumnChange], sheet: int, width: int) -> list[Request]:
    """Return the requests of the Sheets API for changes of columns.

    Parameters
    ----------
    changes
        In the order in which they are made.
    sheet
        Id of the tab.
    width
        Number of columns of the tab.
    """
    found: list[Request] = []
    for change in changes:
        area = {"sheetId": sheet, "dimension": "ROWS" if change.kind == "row" else "COLUMNS",
                "startIndex": change.position, "endIndex": change.position + 1}
        if change.kind == "row":
            found.append({"moveDimension": {"source": area, "destinationIndex": 0}})
        elif change.kind == "title":
            found.append(put_cells(sheet, 0, change.position, [[change.new]]))
        elif change.kind == "move":
            # the API counts the destination as the columns are before the move
            target = change.to if change.to < change.position else change.to + 1
            found.append({"moveDimension": {"source": area, "destinationIndex": target}})
        elif change.position < width:
            found.append({"insertDimension": {"range": area,
                                              "inheritFromBefore": change.position > 0}})
            width += 1
        else:
            # columns can only be inserted before an existing one
            found.append({"appendDimension": {"sheetId": sheet, "dimension": "COLUMNS",
                                              "length": change.position + 1 - width}})
            width = change.position + 1
    return found


def column_changes(tab: Tab, lines: Sequence[Sequence[Any]], journal: JournalCells, where: str,
                   ) -> list[ColumnChange]:
    """Find the changes that restore the declared columns of a tab.

    Parameters
    ----------
    tab
        The declared tab.
    lines
        All its cells, in full width, header first.
    journal
        Key of a row → its cells in the journals, by which columns are recognised.
    where
        Name of the tab, for messages.

    Returns
    -------
    list of ColumnChange
        In the order in which they have to be made.

    Raises
    ------
    HeaderDriftError
        A title occurs twice, or a column cannot be recognised.
    """
    header_row = find_header_row(tab, lines)
    if header_row:
        lines = [lines[header_row], *lines[:header_row], *lines[header_row + 1:]]
        return [ColumnChange("row", header_row), *column_changes(tab, lines, journal, where)]
    header: list[Any] = [value if value != "" else None for value in (lines[0] if lines else [])]
    twice = [title for title in tab.titles if header.count(title) > 1]
    if twice:
        names = [f"{column_letter(position)}1" for position, title in enumerate(header)
                 if title == twice[0]]
        raise HeaderDriftError(f"{where}: the title {twice[0]!r} is in {' and '.join(names)}",
                               hint="Delete or rename one of them in the sheet.")
    # position in the sheet → declared column, None where it is not recognised (yet)
    found: list[int | None] = [tab.titles.index(title) if title in tab.titles else None
                               for title in header]
    _recognise_by_cells(tab, lines, found, journal)
    deleted = _recognise_by_position(tab, header, found, where)
    return _in_order(tab, header, found, deleted)


def _recognise_by_cells(tab: Tab, lines: Sequence[Sequence[Any]], found: list[int | None],
                        journal: JournalCells) -> None:
    """Recognise columns with an unknown title by their cells.

    A column is the missing one whose values it shows, unless another missing column has the same
    values.
    """
    rows = _rows_of_journal(tab, lines, found, journal)
    missing = [column for column in range(len(tab.columns)) if column not in found]
    for column in missing:
        positions = [position for position, own in enumerate(found)
                     if own is None and _shows(rows, position, column)]
        has_twin = any(all(same_cell(ours[other], ours[column]) for _, ours in rows)
                       for other in missing if other != column)
        if len(positions) == 1 and not has_twin:
            found[positions[0]] = column


def _rows_of_journal(tab: Tab, lines: Sequence[Sequence[Any]], found: Sequence[int | None],
                     journal: JournalCells) -> list[tuple[Sequence[Any], Sequence[Cell]]]:
    """Return the rows of the sheet with the cells that the journals have for the same key.

    Empty if a column of the key is not recognised.
    """
    numbers = [tab.index(name) for name in tab.key]
    if not set(numbers) <= set(found):
        return []
    positions = [found.index(number) for number in numbers]
    keys = [tuple(str(_at(line, position)) for position in positions) for line in lines[1:]]
    return [(line, journal[key]) for line, key in zip(lines[1:], keys, strict=True)
            if key in journal]


def _shows(rows: Sequence[tuple[Sequence[Any], Sequence[Cell]]], position: int, column: int,
           ) -> bool:
    """Return whether the cells at ``position`` are those of ``column`` in most rows with both."""
    pairs = [(_at(line, position), ours[column]) for line, ours in rows]
    filled = [(theirs, ours) for theirs, ours in pairs if theirs is not None and ours is not None]
    equal = sum(same_cell(theirs, ours) for theirs, ours in filled)
    return equal > len(filled) / 2


def _recognise_by_position(tab: Tab, header: Sequence[Any], found: list[int | None], where: str,
                           ) -> list[int]:
    """Recognise the other columns by their neighbours; return those that were deleted.

    Missing columns that follow each other are looked for between the nearest ones that are
    recognised: as many unknown columns are these, none means that they were deleted.
    """
    deleted: list[int] = []
    missing = [column for column in range(len(tab.columns)) if column not in found]
    while missing:
        group = [missing.pop(0)]
        while missing and missing[0] == group[-1] + 1:
            group.append(missing.pop(0))
        before = found.index(group[0] - 1) if group[0] and group[0] - 1 in found else -1
        last = group[-1] + 1
        after = found.index(last) if last < len(tab.columns) else len(found)
        between = [position for position in range(before + 1, after) if found[position] is None]
        # after the last declared column, unknown columns may as well be those of a person
        if len(between) == len(group) and last < len(tab.columns):
            for position, column in zip(between, group, strict=True):
                found[position] = column
        elif not between:
            deleted += group
        else:
            names = ", ".join(repr(tab.titles[column]) for column in group)
            candidates = ", ".join(f"{column_letter(position)}1 {header[position]!r}"
                                   for position in between)
            raise HeaderDriftError(f"{where}: cannot tell which column was {names}",
                                   allowed=f"one of {candidates}, or it was deleted",
                                   hint="Write the title back by hand, or delete the column's "
                                        "title and cells, then: "
                                        + command_line("ledger", "repair"))
    return deleted


def _in_order(tab: Tab, header: Sequence[Any], found: list[int | None], deleted: Sequence[int],
              ) -> list[ColumnChange]:
    """Return the changes: titles, then unknown columns to the right, then the declared order."""
    changes = [ColumnChange("title", position, old=header[position], new=tab.titles[column])
               for position, column in enumerate(found)
               if column is not None and header[position] != tab.titles[column]]
    # (declared column, title) by position, as the changes so far leave them
    now: list[tuple[int | None, Any]] = [
        (column, header[position] if column is None else tab.titles[column])
        for position, column in enumerate(found)]
    end = max((position for position, (column, _) in enumerate(now) if column is not None),
              default=-1)
    # from the right, so that the positions of the others stay as they are
    for position in reversed([position for position in range(end) if now[position][0] is None]):
        changes.append(ColumnChange("move", position, end, old=now[position][1]))
        now.insert(end, now.pop(position))
        end -= 1
    for column, title in enumerate(tab.titles):
        positions = [position for position, (own, _) in enumerate(now) if own == column]
        if not positions:
            changes += [ColumnChange("insert", column, new=title),
                        ColumnChange("title", column, new=title)]
            now.insert(column, (column, title))
        elif positions[0] != column:
            changes.append(ColumnChange("move", positions[0], column, old=title))
            now.insert(column, now.pop(positions[0]))
    assert [title for _, title in now[:len(tab.titles)]] == tab.titles and len(
        now) == len(found) + len(deleted)
    return changes


def _at(line: Sequence[Any], position: int) -> Any:
    """Return a cell; None if it is empty or beyond the end of the row."""
    value = line[position] if position < len(line) else None
    return None if value == "" else value
