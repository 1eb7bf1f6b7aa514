"""Bringing a Google Sheet to what the journals say: each row once, in its columns, up to date.

A pass reads the sheet (two requests), folds the journals, and writes the difference as one batch
that is applied as a whole or not at all. The batch takes the next version of the sheet, so it is
applied at most once, however often it is sent and whoever else syncs at the same time: a second
application is refused, the sheet is read again, and the rest is found to be done. Then the sheet is
read once more, and what a person's sorting put into a wrong place is put back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.errors import HeaderDriftError, L3hpcError
from l3hpc.ledger import requests as ask
from l3hpc.ledger import undo
from l3hpc.ledger.cells import key_cells
from l3hpc.ledger.columns import TABS, Tab
from l3hpc.ledger.fold import Fold, Row
from l3hpc.ledger.grid import Snapshot, TabGrid, cell_range, fill, parse, require_headers
from l3hpc.ledger.journal import Journal
from l3hpc.ledger.plan import Plan, Policy, make, tabs_of
from l3hpc.ledger.reading import Damage, every_record
from l3hpc.ledger.sheets import Refused, Sheets
from l3hpc.ledger.store import Store, SyncState

ROUNDS = 12
BETWEEN_ROUNDS_S = 1.0


@dataclass
class Report:
    """What a sync did. ``put_back``: cells returned to the row they belong to."""

    title: str = ""
    inserted: int = 0
    updated: int = 0
    put_back: int = 0
    rows: int = 0
    requests: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)


def sync(store: Store, sheets: Sheets, *, policy: Policy = "report",
         restore: Iterable[Row] = (), say: Callable[[str], None] = lambda text: None) -> Report:
    """Bring the sheet to the fold of the journals.

    Raises ``HeaderDriftError`` (nothing written), ``OfflineError`` (everything kept), or
    ``L3hpcError`` when Google refuses a batch for a reason that reading again does not cure.
    """
    report = Report()
    state = store.state(sheets.sheet_id)
    restore = list(restore)
    refused: tuple[int | None, str] | None = None
    start = sheets.requests
    for number in range(ROUNDS):
        if number:
            sheets.pace.sleep(BETWEEN_ROUNDS_S * random.random() * number)
        version: int | None = None
        try:
            snapshot = snapshot_of(sheets)
            version = snapshot.version
            fold = store.fold()
            rows = list(fold.rows.values())
            report.title, report.rows = snapshot.title, len(rows)
            _finish_abandoned(store, sheets, snapshot, report, say)
            require_headers(snapshot, tabs_of(rows))
            plan = make(rows, snapshot, state, Known(store), policy, restore)
            _agree(store, plan)
            report.problems = plan.problems
            if plan.is_empty:
                _confirm(state, snapshot, fold)
                state.problems = plan.problems
                store.save(state)
                report.requests = sheets.requests - start
                return report
            intent = undo.intent(plan, snapshot)
            path = undo.save(_folder(store, sheets), intent)
            _send(sheets, ask.batch(plan, snapshot), path)
            report.inserted += sum(len(tab.inserts) for tab in plan.tabs)
            report.updated += len({(id(write.row)) for tab in plan.tabs for write in tab.writes})
            restore = []
            after = _verified(sheets, snapshot, intent, report, say)
            path.unlink(missing_ok=True)
            if after is not None and not plan.left_over:
                _confirm(state, after, fold)
                state.problems = plan.problems
                store.save(state)
                report.requests = sheets.requests - start
                return report
        except Refused as error:  # someone wrote, or renamed a tab, between two of our requests
            if refused == (version, error.message):
                raise  # nothing changed meanwhile, so it is no race
            refused = (version, error.message)
    raise L3hpcError(f"the sheet kept changing while it was written ({ROUNDS} rounds)",
                     hint="Are many people or syncers at work? l3hpc ledger sync   again.")


def snapshot_of(sheets: Sheets) -> Snapshot:
    """Read a spreadsheet: structure, then the values of every results tab (two requests)."""
    snapshot = parse(sheets.structure())
    _read_values(sheets, list(snapshot.tabs.values()))
    return snapshot


def initialise(sheets: Sheets, tabs: Sequence[Tab]) -> list[str]:
    """Make or complete ``tabs``; the names of those that were made or changed.

    A tab that exists with another header is refused, and nothing is written.
    """
    refused: tuple[int, str] | None = None
    for number in range(ROUNDS):
        if number:
            sheets.pace.sleep(BETWEEN_ROUNDS_S * random.random() * number)
        snapshot = snapshot_of(sheets)
        used = {mark.sheet for mark in snapshot.marks.values()} | {
            grid.sheet for grid in snapshot.tabs.values()}
        require_headers(snapshot, [grid.tab for name, grid in snapshot.tabs.items()
                                   if grid.tab in tabs and any(grid.header)])
        changes: list[ask.Request] = []
        names = []
        for tab in tabs:
            sheet = random.randrange(1, 2**31 - 1)
            while sheet in used:
                sheet = random.randrange(1, 2**31 - 1)
            needed = ask.set_up(tab, snapshot.tabs.get(tab.name), sheet)
            if needed:
                names.append(tab.name)
                changes += needed
        if not changes:
            return []
        try:
            sheets.batch([*ask.next_version(snapshot), *changes])
            return names
        except Refused as error:
            if refused == (snapshot.version, error.message):
                raise
            refused = (snapshot.version, error.message)
    raise L3hpcError(f"the sheet kept changing while it was set up ({ROUNDS} rounds)")


class Known:
    """Every value that the journals ever held for a field of a row; read when first asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._values: dict[tuple[str, tuple[str, ...]], dict[str, list[Any]]] | None = None

    def __call__(self, row: Row, field_name: str) -> Sequence[Any]:
        if self._values is None:
            self._values = {}
            for record in every_record(self._store.folders, Damage()):
                if record.get("key"):
                    place = (record["tab"], tuple(record["key"]))
                    own = self._values.setdefault(place, {})
                    for name, value in record["values"].items():
                        own.setdefault(name, []).append(value)
        own = self._values.get((row.tab.name, row.key), {})
        follows = row.tab.column(field_name).follows
        return [*own.get(field_name, []), *(own.get(follows, []) if follows else [])]


def whole(sheets: Sheets, grid: TabGrid) -> list[list[Any]]:
    """All cells of a tab, also those of people's own columns (one request)."""
    title = grid.title.replace("'", "''")
    (values,) = sheets.values([f"'{title}'"])
    return values


def _read_values(sheets: Sheets, grids: Sequence[TabGrid]) -> None:
    for grid, values in zip(grids, sheets.values([cell_range(grid) for grid in grids]),
                            strict=True):
        fill(grid, values)


def _send(sheets: Sheets, requests: list[ask.Request], intent: Path) -> None:
    """Send a batch. When the first try is refused nothing was written, and the intent is removed.

    When a later try is refused, an earlier one whose answer was lost may have been applied: the
    intent stays, and the next round looks after what landed in the wrong place.
    """
    before = sheets.requests
    try:
        sheets.batch(requests)
    except Refused:
        if sheets.requests == before + 1:
            intent.unlink(missing_ok=True)
        raise


def _verified(sheets: Sheets, snapshot: Snapshot, intent: dict[str, Any], report: Report,
              say: Callable[[str], None]) -> Snapshot | None:
    """The snapshot with values read again; None when something had to be put back."""
    grids = [snapshot.tabs[name] for name in intent["tabs"]]
    _read_values(sheets, grids)
    drifted = [grid for grid in grids if grid.drift()]
    if drifted:
        _put_back(sheets, intent, report, say)
        raise HeaderDriftError(
            f"the columns of tab {drifted[0].tab.name!r} were changed while it was written; what "
            "landed in a foreign column was put back", hint="l3hpc ledger check")
    for grid in grids:
        if undo.misplaced(grid.tab, intent["tabs"][grid.tab.name], grid.header, grid.rows):
            _put_back(sheets, intent, report, say)
            return None
    return snapshot


def _put_back(sheets: Sheets, intent: dict[str, Any], report: Report,
              say: Callable[[str], None]) -> None:
    """Read the sheet as wide as it is and return what is misplaced, unless others wrote since."""
    for _ in range(3):
        snapshot = parse(sheets.structure())
        if snapshot.version != intent["version"]:
            return  # another syncer was here since: its own reading saw these cells as they are
        changes: list[ask.Request] = []
        count = 0
        for name, kept in intent["tabs"].items():
            grid = snapshot.tabs.get(name)
            if grid is None:
                continue
            rows = [[None if value == "" else value for value in line]
                    for line in whole(sheets, grid)]
            found = undo.misplaced(grid.tab, kept, rows[0] if rows else [], rows[1:])
            changes += [ask.put(grid.sheet, place, column, [[value]])
                        for place, column, value in found]
            count += len(found)
        if not changes:
            return
        try:
            sheets.batch([*ask.next_version(snapshot), *changes])
        except Refused:
            continue
        report.put_back += count
        say(f"someone moved rows or columns meanwhile: {count} cells were put back")
        intent["version"] = snapshot.next_version


def _finish_abandoned(store: Store, sheets: Sheets, snapshot: Snapshot, report: Report,
                      say: Callable[[str], None]) -> None:
    """Look after the writes of syncers that were killed before they looked themselves."""
    for path, intent in undo.abandoned(_folder(store, sheets)):
        if snapshot.version == intent["version"]:
            misplaced = any(
                undo.misplaced(snapshot.tabs[name].tab, kept, snapshot.tabs[name].header,
                               snapshot.tabs[name].rows) or snapshot.tabs[name].drift()
                for name, kept in intent["tabs"].items() if name in snapshot.tabs)
            if misplaced:
                _put_back(sheets, intent, report, say)
                fresh = snapshot_of(sheets)
                snapshot.version, snapshot.marks = fresh.version, fresh.marks
                snapshot.tabs = fresh.tabs
        path.unlink(missing_ok=True)


def _agree(store: Store, plan: Plan) -> None:
    """Journal what a person decided about conflicts and deleted rows."""
    if not plan.accepted:
        return
    journal = Journal(store.journal, run="agreed", git_commit="")
    for row, agreed in plan.accepted:
        journal.record(row.tab.name, {**dict(zip(row.tab.key, row.key, strict=True)),
                                      "accepted": agreed})
        for name, value in agreed.items():
            row.accepted.setdefault(name, []).append(value)
    journal.close()


def _confirm(state: SyncState, snapshot: Snapshot, fold: Fold) -> None:
    positions = {name: grid.positions() for name, grid in snapshot.tabs.items() if name in TABS}
    for row in fold.rows.values():
        places = positions.get(row.tab.name, {}).get(key_cells(row.tab, row.key), [])
        if len(places) == 1:
            state.confirm(row, snapshot.tabs[row.tab.name].rows[places[0] - 1])


def _folder(store: Store, sheets: Sheets) -> Any:
    return store.state_path(sheets.sheet_id).with_suffix("")



