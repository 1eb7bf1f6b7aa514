"""Repairing a sheet, and adopting rows that people typed: first what differs, then what is written.

A tab's columns are put back when titles were changed, or columns moved, inserted or deleted. A
header that was moved into the rows goes back to the first row. A column is recognised by its
title, else by its cells (rows of ours that show what the journals say), else by its place, if that
leaves no doubt. Columns that people added go behind the declared ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from l3hpc.errors import HeaderDriftError
from l3hpc.ledger.cells import Cell, cells, key_cells, same_cell
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import Tab, column_letter
from l3hpc.ledger.sheets import requests as ask
from l3hpc.ledger.sheets.client import Sheets
from l3hpc.ledger.sheets.diff import SyncPlan, make_plan, tabs_of
from l3hpc.ledger.sheets.grid import Snapshot, header_row, parse_structure, require_headers
from l3hpc.ledger.sheets.requests import Request, put_cells
from l3hpc.ledger.sheets.sync import JournalValues, read_snapshot, whole
from l3hpc.ledger.store import Store

JournalCells = Mapping[tuple[str, ...], Sequence[Cell]]  # key of a row → its cells in the journals


@dataclass(frozen=True)
class ColumnChange:
    """One change of a tab's columns: ``title`` at ``place``, or ``move`` from ``place`` to ``to``,
    or ``insert`` at ``place``; or ``row``: the row at ``place`` becomes the first one. Places are
    0-based, as they are when the changes before are made."""

    kind: Literal["title", "move", "insert", "row"]
    place: int
    to: int = 0
    old: Any = None
    new: str | None = None

    def describe(self) -> str:
        """For a person: ``T1: 'epoch' → 'Latest Epoch'``."""
        if self.kind == "title":
            return f"{column_letter(self.place)}1: {self.old!r} → {self.new!r}"
        if self.kind == "row":
            return f"row {self.place + 1} (the header) moves to row 1"
        if self.kind == "move":
            return f"column {column_letter(self.place)} ({self.old!r}) moves to {column_letter(self.to)}"
        return f"column {column_letter(self.place)} is put in for {self.new!r}"


def change_requests(made: Sequence[ColumnChange], sheet: int, width: int) -> list[Request]:
    """Changes of a tab of ``width`` columns as requests of the Sheets API."""
    found: list[Request] = []
    for change in made:
        if change.kind == "row":
            found.append({"moveDimension": {"source": {
                "sheetId": sheet, "dimension": "ROWS", "startIndex": change.place,
                "endIndex": change.place + 1}, "destinationIndex": 0}})
            continue
        area = {"sheetId": sheet, "dimension": "COLUMNS", "startIndex": change.place,
                "endIndex": change.place + 1}
        if change.kind == "title":
            found.append(put_cells(sheet, 0, change.place, [[change.new]]))
        elif change.kind == "move":  # the destination counts as the columns are before the move
            target = change.to if change.to < change.place else change.to + 1
            found.append({"moveDimension": {"source": area, "destinationIndex": target}})
        elif change.place < width:
            found.append({"insertDimension": {"range": area,
                                              "inheritFromBefore": change.place > 0}})
            width += 1
        else:  # columns can be inserted only before an existing one
            found.append({"appendDimension": {"sheetId": sheet, "dimension": "COLUMNS",
                                              "length": change.place + 1 - width}})
            width = change.place + 1
    return found


def column_changes(tab: Tab, lines: Sequence[Sequence[Any]], known: JournalCells, where: str) -> list[ColumnChange]:
    """What brings the columns of a tab to the declared ones.

    Parameters
    ----------
    tab
        The declared columns.
    lines
        The whole tab, header first, as wide as it is.
    known
        Key of a row → its cells as the journals have them, by which columns are recognised.
    where
        The tab, for messages.

    Returns
    -------
    list of Change
        In the order in which they have to be made.

    Raises
    ------
    HeaderDriftError
        A title occurs twice, or nothing tells which column is which.
    """
    place = header_row(tab, lines)
    if place:
        lines = [lines[place], *lines[:place], *lines[place + 1:]]
        return [ColumnChange("row", place), *column_changes(tab, lines, known, where)]
    header: list[Any] = [value if value != "" else None for value in (lines[0] if lines else [])]
    twice = [title for title in tab.titles if header.count(title) > 1]
    if twice:
        places = [f"{column_letter(place)}1" for place, title in enumerate(header) if title == twice[0]]
        raise HeaderDriftError(f"{where}: {twice[0]!r} stands in {' and '.join(places)}",
                               hint="Delete or rename one of them in the sheet.")
    # place in the sheet → declared column, None where it is not recognised (yet)
    found: list[int | None] = [tab.titles.index(title) if title in tab.titles else None
                               for title in header]
    _by_cells(tab, lines, found, known)
    deleted = _by_place(tab, header, found, where)
    return _ordered(tab, header, found, deleted)


def plan_repair(store: Store, sheets: Sheets) -> tuple[Snapshot, SyncPlan, list[Row]]:
    """What it takes to make the sheet equal to the journals: the reading, the plan that overrules
    every changed cell, and the rows that were deleted. Writes nothing."""
    snapshot = read_snapshot(sheets)
    rows = list(store.fold().rows.values())
    require_headers(snapshot, tabs_of(rows))
    state = store.state(sheets.sheet_id)
    gone = {(item["tab"], tuple(item["key"]))
            for item in make_plan(rows, snapshot, state, JournalValues(store)).problems
            if item["kind"] == "deleted"}
    deleted = [row for row in rows if (row.tab.name, row.key) in gone]
    return snapshot, make_plan(rows, snapshot, state, JournalValues(store), "ours", deleted), deleted


def plan_header_repair(store: Store, sheets: Sheets) -> dict[str, list[ColumnChange]]:
    """Tab name → what puts its columns back, of the tabs whose header differs. Writes nothing."""
    snapshot = read_snapshot(sheets)
    fold = store.fold()
    return {name: column_changes(grid.tab, whole(sheets, grid), {
                key_cells(grid.tab, row.key): cells(row) for row in fold.of(grid.tab)},
                f"tab {name!r} of {snapshot.title!r}")
            for name, grid in snapshot.tabs.items() if grid.drift() and (
                any(grid.header) or grid.header_row() is not None)}


def restore_headers(store: Store, sheets: Sheets, agreed: dict[str, list[ColumnChange]]) -> None:
    """Make changes of columns as ``header_difference`` found them, if it would still find these.

    Raises ``HeaderDriftError`` when the columns were changed again meanwhile.
    """
    snapshot = parse_structure(sheets.structure())
    if plan_header_repair(store, sheets) == agreed:
        sheets.batch([*ask.next_version(snapshot), *(
            request for name, made in agreed.items() for request in change_requests(
                made, snapshot.tabs[name].sheet, snapshot.tabs[name].column_count))])
    after = read_snapshot(sheets)
    require_headers(after, [after.tabs[name].tab for name in agreed])


def unknown_rows(store: Store, sheets: Sheets, tabs: Sequence[Tab]) -> list[Row]:
    """Rows with a whole key that people typed or pasted and that no journal knows."""
    snapshot = read_snapshot(sheets)
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


def _by_cells(tab: Tab, lines: Sequence[Sequence[Any]], found: list[int | None],
              known: JournalCells) -> None:
    """Recognise columns with an unknown title by their values: as the one missing column that
    they show, if no other missing column holds the same values."""
    rows = _rows_of_ours(tab, lines, found, known)
    missing = [column for column in range(len(tab.columns)) if column not in found]
    for column in missing:
        places = [place for place, own in enumerate(found)
                  if own is None and _shows(rows, place, column)]
        has_twin = any(all(same_cell(ours[other], ours[column]) for _, ours in rows)
                       for other in missing if other != column)
        if len(places) == 1 and not has_twin:
            found[places[0]] = column


def _rows_of_ours(tab: Tab, lines: Sequence[Sequence[Any]], found: Sequence[int | None],
                  known: JournalCells) -> list[tuple[Sequence[Any], Sequence[Cell]]]:
    """Lines of the sheet with the cells that the journals have for the same key.

    Empty where a column of the key is not recognised."""
    numbers = [tab.index(name) for name in tab.key]
    if not set(numbers) <= set(found):
        return []
    places = [found.index(number) for number in numbers]
    keys = [tuple(str(_at(line, place)) for place in places) for line in lines[1:]]
    return [(line, known[key]) for line, key in zip(lines[1:], keys, strict=True) if key in known]


def _shows(rows: Sequence[tuple[Sequence[Any], Sequence[Cell]]], place: int, column: int) -> bool:
    """Whether the cells at ``place`` are those of ``column`` in most rows that have both."""
    pairs = [(_at(line, place), ours[column]) for line, ours in rows]
    filled = [(theirs, ours) for theirs, ours in pairs if theirs is not None and ours is not None]
    right = sum(same_cell(theirs, ours) for theirs, ours in filled)
    return right > len(filled) / 2


def _by_place(tab: Tab, header: Sequence[Any], found: list[int | None], where: str) -> list[int]:
    """Give what is left by the neighbours; the declared columns that are gone."""
    deleted: list[int] = []
    missing = [column for column in range(len(tab.columns)) if column not in found]
    while missing:
        group = [missing.pop(0)]
        while missing and missing[0] == group[-1] + 1:
            group.append(missing.pop(0))
        before = found.index(group[0] - 1) if group[0] and group[0] - 1 in found else -1
        last = group[-1] + 1
        after = found.index(last) if last < len(tab.columns) else len(found)
        between = [place for place in range(before + 1, after) if found[place] is None]
        if len(between) == len(group) and last < len(tab.columns):
            for place, column in zip(between, group, strict=True):
                found[place] = column
        elif not between:
            deleted += group
        else:
            names = ", ".join(repr(tab.titles[column]) for column in group)
            cells = ", ".join(f"{column_letter(place)}1 {header[place]!r}" for place in between)
            raise HeaderDriftError(f"{where}: cannot tell which column was {names}",
                                   allowed=f"one of {cells}, or it was deleted",
                                   hint="Write the title back by hand, or delete the column's "
                                        "title and cells, then: l3hpc ledger repair")
    return deleted


def _ordered(tab: Tab, header: Sequence[Any], found: list[int | None],
             deleted: Sequence[int]) -> list[ColumnChange]:
    made = [ColumnChange("title", place, old=header[place], new=tab.titles[column])
            for place, column in enumerate(found)
            if column is not None and header[place] != tab.titles[column]]
    now: list[tuple[int | None, Any]] = [
        (column, header[place] if column is None else tab.titles[column])
        for place, column in enumerate(found)]
    end = max((place for place, (column, _) in enumerate(now) if column is not None), default=-1)
    for place in reversed([place for place in range(end) if now[place][0] is None]):
        made.append(ColumnChange("move", place, end, old=now[place][1]))
        now.insert(end, now.pop(place))
        end -= 1
    for column, title in enumerate(tab.titles):
        places = [place for place, (own, _) in enumerate(now) if own == column]
        if not places:
            made += [ColumnChange("insert", column, new=title), ColumnChange("title", column, new=title)]
            now.insert(column, (column, title))
        elif places[0] != column:
            made.append(ColumnChange("move", places[0], column, old=title))
            now.insert(column, now.pop(places[0]))
    assert [title for _, title in now[:len(tab.titles)]] == tab.titles and len(
        now) == len(found) + len(deleted)
    return made


def _at(line: Sequence[Any], place: int) -> Any:
    value = line[place] if place < len(line) else None
    return None if value == "" else value
