"""Swept options in the sheet: columns of their own, to the right of all others.

The declared columns never change, so a column of a swept option is added at the right end of its
tab and is found by its title from then on, wherever people move it beyond the declared ones. Only
empty cells are written, because a row never changes the options it was swept with: what a person
types there stays. As every write, these go to rows by anchor, after the rows and the title were
read once more. If the sheet changes meanwhile, nothing is written, and the next sync goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from l3hpc.ledger.cells import Cell, cell_text, key_cells
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.sheets import anchors
from l3hpc.ledger.sheets import requests as api
from l3hpc.ledger.sheets.anchors import Target
from l3hpc.ledger.sheets.client import Refused, Sheets, Unanswered
from l3hpc.ledger.sheets.grid import Snapshot, TabGrid, fill_grid, version_identity
from l3hpc.ledger.sheets.reading import all_cells, read_snapshot
from l3hpc.ledger.store import Store, SyncState, key_json
from l3hpc.ledger.views.runs import swept_columns, view_tabs
from l3hpc.ledger.views.select import cell_of

ROUNDS = 6  # adding columns and writing cells take one each; the others are for changes meanwhile

Options = dict[str, Cell]  # option → value


@dataclass
class _Wanted:
    """A row, and the options that the sheet is to show for it."""

    row: Row
    options: Options


def write(store: Store, sheets: Sheets) -> tuple[int, str | None]:
    """Write the swept options of rows that the sheet has.

    Parameters
    ----------
    store
        The ledger. Its workspace has the records of the runs.
    sheets
        The spreadsheet, right after a sync.

    Returns
    -------
    cells : int
        Number of cells that were written.
    note : str or None
        Why some were not.
    """
    state = store.state(sheets.sheet_id)
    wanted = _wanted(store, state)
    if not wanted:
        return 0, None
    writer = _Writer(sheets, wanted)
    reason = "the sheet kept changing"
    for _ in range(ROUNDS):
        try:
            found = writer.round()
        except (Refused, Unanswered) as error:
            reason = error.message
            continue
        if found is not None:
            for each in found:
                state.swept.setdefault(each.row.tab.name, {})[key_json(each.row.key)] = each.options
            store.save(state, state.last_sync)
            return writer.cells, None
    return writer.cells, (f"swept options are not all in the sheet yet: {reason}; the next sync "
                          "goes on")


def _wanted(store: Store, state: SyncState) -> dict[str, list[_Wanted]]:
    """Return tab → rows of the sheet whose options were not written before."""
    fold = store.fold()
    found: dict[str, list[_Wanted]] = {}
    for name, tab in view_tabs(fold, store.workspace).items():
        columns = swept_columns(tab)
        for row in fold.rows_of(name) if columns else ():
            options: Options = {column.title: value for column in columns
                                if (value := cell_of(row, column)) is not None}
            known = state.swept.get(name, {}).get(key_json(row.key))
            if options and known != options and state.last(row) is not None:
                found.setdefault(name, []).append(_Wanted(row, options))
    return found


class _Writer:
    """Rounds of reading and writing, until the sheet shows the options of all rows that it has.

    Attributes
    ----------
    cells
        Number of cells that were written.
    """

    def __init__(self, sheets: Sheets, wanted: Mapping[str, list[_Wanted]]) -> None:
        self.sheets, self.wanted = sheets, wanted
        self.cells = 0
        # what was sent last, and the tabs before that: tab → its cells
        self._sent: list[Target] = []
        self._before: dict[str, list[list[Any]]] = {}

    def round(self) -> list[_Wanted] | None:
        """Read, then add missing columns or write cells; if nothing is left, return the rows that
        the sheet has.
        """
        snapshot = read_snapshot(self.sheets)
        grids = [grid for name, grid in snapshot.tabs.items()
                 if self.wanted.get(name) and not grid.drift()]
        lines = {}
        new_columns: list[api.Request] = []
        for grid in grids:
            lines[grid.tab.name] = all_cells(self.sheets, grid)
            # rows are located in this reading, because they may have moved since the one before
            fill_grid(grid, lines[grid.tab.name])
            new_columns += _new_columns(grid, lines[grid.tab.name], self.wanted[grid.tab.name])
        if new_columns:
            self.sheets.batch([*api.next_version(snapshot), *new_columns])
            return None
        targets = [target for grid in grids for target in _misplaced(
            grid, self._before.get(grid.tab.name, []), lines[grid.tab.name], self._sent)]
        found: list[_Wanted] = []
        for grid in grids if not targets else ():
            located = _located(grid, self.wanted[grid.tab.name])
            found += [each for each, _ in located]
            targets += _targets(grid, lines[grid.tab.name], located)
        if not targets:
            return found
        self._write(snapshot, grids, lines, targets[:anchors.MAX_ANCHORS])
        return None

    def _write(self, snapshot: Snapshot, grids: list[TabGrid],
               lines: dict[str, list[list[Any]]], targets: list[Target]) -> None:
        """Write cells by anchor, unless rows or titles have changed."""
        taken = {version_identity(snapshot.next_version)}
        self.sheets.batch([*api.next_version(snapshot),
                           *anchors.create_anchors(snapshot, targets, taken)])
        reading = anchors.read_anchored(self.sheets, targets, grids, whole=True)
        same = {grid.sheet for grid in grids
                if (reading.lines.get(grid.sheet) or [[]])[0] == lines[grid.tab.name][0]}
        ready = [target for target in reading.unchanged if target.grid.sheet in same]
        if ready:
            self._sent, self._before = ready, lines
            self.sheets.write_by_filter([target.data() for target in ready])
            self.cells += sum(len(target.cells) for target in ready)


def _places(grid: TabGrid, header: list[Any]) -> dict[str, int]:
    """Return title → number of the columns beyond the declared ones."""
    declared = len(grid.tab.columns)
    titles = [cell_text(title) if title is not None else "" for title in header]
    return {title: number for number, title in reversed(list(enumerate(titles)))
            if number >= declared and title}


def _new_columns(grid: TabGrid, lines: list[list[Any]], rows: list[_Wanted]) -> list[api.Request]:
    """Return the requests that add a column for each option that has none."""
    places = _places(grid, lines[0] if lines else [])
    titles = list(dict.fromkeys(option for each in rows for option in each.options
                                if option not in places))
    if not titles:
        return []
    return [{"appendDimension": {"sheetId": grid.sheet, "dimension": "COLUMNS",
                                 "length": len(titles)}},
            api.put_cells(grid.sheet, 0, grid.column_count, [titles])]


def _located(grid: TabGrid, rows: list[_Wanted]) -> list[tuple[_Wanted, int]]:
    """Return the rows that the sheet has once, and where (0-based; the header is row 0)."""
    positions = grid.located(key_cells(each.row.tab, each.row.key) for each in rows)
    return [(each, found[0]) for each in rows
            if len(found := positions[key_cells(each.row.tab, each.row.key)]) == 1]


def _targets(grid: TabGrid, lines: list[list[Any]], rows: list[tuple[_Wanted, int]],
             ) -> list[Target]:
    """Return the empty cells of rows that are to be written."""
    places = _places(grid, lines[0])
    found = []
    for each, grid_row in rows:
        shown = dict(enumerate(lines[grid_row]))
        cells = {places[option]: value for option, value in each.options.items()
                 if shown.get(places[option]) in (None, "")}
        if cells and grid.lock_on(grid_row, cells) is None:
            keys = {number: shown.get(number) for number in map(grid.tab.index, grid.tab.key)}
            found.append(Target(grid, grid_row, {**keys, **dict.fromkeys(cells)}, cells))
    return found


def _misplaced(grid: TabGrid, before: list[list[Any]], now: list[list[Any]], sent: list[Target],
               ) -> list[Target]:
    """Return what restores cells that show a value which was sent to another cell.

    That happens if someone sorts rows or moves columns in the instant of a write. Cells are
    compared by the key of the row and the title of the column.
    """
    own = [target for target in sent if target.grid.tab is grid.tab]
    if not own:
        return []
    # people may move rows and columns while we write: cells are found by key and title
    old, new = _by_key(grid, before), _by_key(grid, now)
    intended = {(key, title): target.cells[number] for target in own
                for key, (grid_row, _) in old.items() if grid_row == target.grid_row
                for number, title in enumerate(before[0]) if number in target.cells}
    values = [value for target in own for value in target.cells.values()]
    found = []
    for key, (grid_row, line) in new.items():
        former = dict(zip(before[0], old[key][1], strict=False)) if key in old else {}
        cells: dict[int, Cell] = {}
        for number in range(len(grid.tab.columns), len(line)):
            title = now[0][number] if number < len(now[0]) else None
            value, earlier = line[number], former.get(title) if title else None
            if (value in values and value != (earlier or None)
                    and intended.get((key, title)) != value):
                cells[number] = None if earlier == "" else earlier
        if cells:
            names = map(grid.tab.index, grid.tab.key)
            found.append(Target(grid, grid_row, {
                **{number: line[number] for number in (*names, *cells)}}, cells))
    return found


def _by_key(grid: TabGrid, lines: list[list[Any]]) -> dict[tuple[Any, ...], tuple[int, list[Any]]]:
    """Return key → number and cells of the row (0-based; the header is row 0)."""
    columns = [grid.tab.index(name) for name in grid.tab.key]
    return {tuple(line[column] for column in columns): (number, line)
            for number, line in enumerate(lines) if number and len(line) > max(columns)}
