"""Bringing a Google Sheet to what the journals say: each row once, in its columns, up to date.

A pass reads the sheet (two requests), folds the journals, and writes the difference. New rows go as
one batch that is applied as a whole or not at all. The batch takes the next version of the sheet,
so it is applied at most once, however often it is sent and whoever else syncs at the same time: a
second application is refused, the sheet is read again, and the rest is found to be done. Cells of
existing rows are written by anchor (``anchors``), so that they cannot land in a row that a person
inserted meanwhile. Then the sheet is read once more: every planned cell has to be in the row of its
key, and what a person's sorting put into a wrong place is put back.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.errors import HeaderDriftError, L3hpcError
from l3hpc.ledger.cells import key_cells
from l3hpc.ledger.journal.fold import Fold, Row
from l3hpc.ledger.journal.reading import Damage, all_records, damage_notes
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import Tab
from l3hpc.ledger.sheets import anchors, rollback
from l3hpc.ledger.sheets import requests as ask
from l3hpc.ledger.sheets.anchors import Target
from l3hpc.ledger.sheets.client import TRIES, Refused, Sheets, Unanswered, back_off, request_bytes
from l3hpc.ledger.sheets.diff import (
    SyncPlan,
    Policy,
    make_plan,
    make_problem,
    short_key,
    tabs_of,
    write_targets,
)
from l3hpc.ledger.sheets.grid import (
    Snapshot,
    TabGrid,
    cell_range,
    fill_grid,
    parse_structure,
    require_headers,
)
from l3hpc.ledger.store import Problem, Store, SyncState

ROUNDS = 12  # without progress
BETWEEN_ROUNDS_S = 1.0


@dataclass
class SyncReport:
    """What a sync did.

    Attributes
    ----------
    title
        Of the spreadsheet.
    inserted, updated, rows
        Rows that were added, rows of which cells were written, and all rows of the journals.
    put_back
        Cells that were returned to the row to which they belong.
    requests
        How many requests Google was sent.
    problems
        What a person has to look at.
    notes
        What could not be read of the journals.
    """

    title: str = ""
    inserted: int = 0
    updated: int = 0
    put_back: int = 0
    rows: int = 0
    requests: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sync(store: Store, sheets: Sheets, *, policy: Policy = "report",
         restore: Iterable[Row] = (), say: Callable[[str], None] = lambda text: None) -> SyncReport:
    """Write to the sheet what the journals say and it does not show yet.

    Parameters
    ----------
    store
        The ledger whose journals are the truth.
    sheets
        The spreadsheet.
    policy
        What happens to cells that people changed: ``report`` leaves and reports them, ``ours``
        overwrites them, ``theirs`` accepts them for good.
    restore
        Rows that were deleted in the sheet and come back.
    say
        Is given one line at a time of what goes on.

    Returns
    -------
    Report
        What was done, and what a person has to look at.

    Raises
    ------
    HeaderDriftError
        The columns of a tab are not the declared ones; nothing was written.
    OfflineError
        Google cannot be reached; the journals keep everything.
    L3hpcError
        Google refuses a batch for a reason that reading again does not cure.
    """
    return _Sync(store, sheets, policy, list(restore), say).run()


class _Sync:
    """One sync: rounds of reading and writing until the sheet shows what the journals say.

    write_problems: those of the writing itself. refused: rows that Google does not take, and why.
    """

    def __init__(self, store: Store, sheets: Sheets, policy: Policy, restore: list[Row],
                 say: Callable[[str], None]) -> None:
        self.store, self.sheets, self.policy, self.say = store, sheets, policy, say
        self.restore = restore
        self.report = SyncReport()
        self.state = store.state(sheets.sheet_id)
        self.write_problems: list[Problem] = []
        self.refused: dict[tuple[str, tuple[str, ...]], str] = {}
        self._updated: set[tuple[str, tuple[str, ...]]] = set()
        self._sent: list[list[Row]] = []  # the rows of each part of the request just sent
        self._place: object = None  # the sheet's version when it was sent; "write": by anchor

    def run(self) -> SyncReport:
        """Rounds until one leaves nothing to do."""
        start = self.sheets.requests
        idle = unanswered = 0
        least_left: int | None = None
        refusals: list[tuple[object, str]] = []
        while idle < ROUNDS:
            if idle:
                self.sheets.pace.sleep(BETWEEN_ROUNDS_S * random.random() * idle)
            idle += 1
            self._sent, self._place = [], None
            try:
                left = self._round()
            except Unanswered as error:
                unanswered += 1
                if unanswered == TRIES:
                    raise
                idle -= 1
                wait = back_off(unanswered)
                self.say(f"{error.message}; reading again in {wait:.0f} s ({unanswered + 1} of "
                         f"{TRIES})")
                self.sheets.pace.sleep(wait)
            except Refused as error:  # someone wrote, or renamed a tab, between two requests
                words = error.message
                if self._place == "write":  # the sheet's version says nothing about these
                    words = re.sub(r"\d+", "#", words)
                refusals.append((self._place, words))
                last = refusals[-3 if self._place == "write" else -2:]
                if len(last) > 1 + (self._place == "write") and len(set(last)) == 1:
                    self._set_aside(error)  # nothing changed meanwhile, so it is no race
            else:
                refusals.clear()
                unanswered = 0
                if left is None:
                    self.report.requests = self.sheets.requests - start
                    return self.report
                if left and (least_left is None or left < least_left):
                    least_left, idle = left, 0
        raise L3hpcError(f"the sheet kept changing while it was written ({ROUNDS} rounds)",
                         hint="Are many people or syncers at work? l3hpc ledger sync   again.")

    def _round(self) -> int | None:
        """Read, plan, write, look. None: all is done; else how many rows wait for the next round.
        """
        snapshot = self._finish_abandoned(read_snapshot(self.sheets))
        self._place = snapshot.version
        fold = self.store.fold()
        rows = list(fold.rows.values())
        self.report.title, self.report.rows = snapshot.title, len(rows)
        self.report.notes = damage_notes(fold)
        require_headers(snapshot, tabs_of(rows))
        plan = make_plan(rows, snapshot, self.state, JournalValues(self.store), self.policy, self.restore)
        _agree(self.store, plan)
        self._leave_out_refused(plan)
        ask.limit_plan(plan)
        self.report.problems = [*plan.problems, *self.write_problems]
        if plan.is_empty:
            self._done(snapshot, fold)
            return None
        written = [target for tab in plan.tabs for target in write_targets(tab.grid, tab.writes)]
        intent = rollback.make_intent(plan, snapshot, written)
        path = rollback.new_intent_path(_folder(self.store, self.sheets))
        rollback.save_intent(path, intent)
        self._send(plan, snapshot, written, path)
        self.report.inserted += sum(len(tab.inserts) for tab in plan.tabs)
        self.restore = []
        all_cells = self._write(plan, snapshot, written, intent, path) if written else True
        all_cells &= self._verified(snapshot, intent, path)
        path.unlink(missing_ok=True)
        if all_cells and not plan.left_over:
            self.report.problems = [*plan.problems, *self.write_problems]
            self._done(snapshot, fold)
            return None
        return plan.left_over

    def _done(self, snapshot: Snapshot, fold: Fold) -> None:
        _confirm(self.state, snapshot, fold)
        self.state.problems = self.report.problems
        self.store.save(self.state)

    def _send(self, plan: SyncPlan, snapshot: Snapshot, written: Sequence[Target], intent: Path,
              ) -> None:
        """Send the batch. When the first try is refused nothing was written, and the intent goes.

        When a later try is refused, an earlier one whose answer was lost may have been applied: the
        intent stays, and the next round looks after what landed in the wrong place.
        """
        requests = ask.batch(plan, snapshot, written)
        by_sheet = {tab.grid.sheet: tab.inserts for tab in plan.tabs}
        self._sent = [by_sheet.get(ask.sheet_of(request), []) for request in requests]
        before = self.sheets.requests
        try:
            self.sheets.batch(requests)
        except Refused:
            if self.sheets.requests == before + 1:
                intent.unlink(missing_ok=True)
            raise

    def _write(self, plan: SyncPlan, snapshot: Snapshot, written: list[Target],
               intent: dict[str, Any], path: Path) -> bool:
        """Write cells by the anchors of the batch; whether none of them has to wait."""
        rows = {(id(tab.grid), write.place): write.row for tab in plan.tabs for write in tab.writes}
        grids = list({id(target.grid): target.grid for target in written}.values())
        reading = anchors.read_anchored(self.sheets, written, grids)
        if any(grid.drift() for grid in grids):
            return False
        rollback.update_intent(intent, grids, reading.held)
        rollback.save_intent(path, intent)
        self._place = "write"
        self._sent = [[rows[id(target.grid), target.place]] for target in reading.held]
        self._updated |= {(row.tab.name, row.key) for (row,) in self._sent}
        self.report.updated = len(self._updated)
        if reading.held:
            self.sheets.write_by_filter([target.data() for target in reading.held])
        return not reading.moved

    def _verified(self, snapshot: Snapshot, intent: dict[str, Any], path: Path) -> bool:
        """Whether every cell arrived; what did not land in its place is put back."""
        grids = [snapshot.tabs[name] for name in intent["tabs"]]
        _read_values(self.sheets, grids)
        drifted = [grid for grid in grids if grid.drift()]
        if drifted:
            self._put_back(intent, path)
            raise HeaderDriftError(
                f"the columns of tab {drifted[0].tab.name!r} were changed while it was written; "
                "what landed in a foreign column was put back", hint="l3hpc ledger check")
        if any(rollback.find_misplaced(intent, grid.tab, grid.header, grid.rows) for grid in grids):
            self._put_back(intent, path)
            return False
        return all(rollback.has_arrived(grid.tab, intent["tabs"][grid.tab.name], grid.rows)
                   for grid in grids)

    def _put_back(self, intent: dict[str, Any], path: Path) -> None:
        """Read the sheet as wide as it is and return what is misplaced, unless others wrote since.
        """
        for _ in range(5):
            snapshot = parse_structure(self.sheets.structure())
            if not rollback.is_current(intent, snapshot.version):
                return  # another syncer was here since: its own reading saw these cells as they are
            tabs = {name: [[None if value == "" else value for value in line]
                           for line in whole(self.sheets, grid)]
                    for name in intent["tabs"] if (grid := snapshot.tabs.get(name)) is not None}
            misplaced = self._misplaced(intent, snapshot, tabs)
            if not misplaced:
                return
            _take_version(intent, snapshot, path)
            try:
                held = self._written_back(intent, path, snapshot, tabs, list(misplaced.values()))
            except Refused:
                continue
            except Unanswered as error:
                self.say(f"{error.message}; reading again")
                self.sheets.pace.sleep(back_off(1))
                continue
            count = sum(len(target.cells) for target in held)
            self.report.put_back += count
            if count:
                places = "; ".join(list(misplaced)[:5]) + (" …" if len(misplaced) > 5 else "")
                self._tell("moved", held[0].grid.tab.name, (
                    f"someone moved rows or columns meanwhile: {count} cells were put back "
                    f"({places}). What was typed there in that second is in the sheet's "
                    "File → Version history"))

    def _misplaced(self, intent: dict[str, Any], snapshot: Snapshot,
                   tabs: Mapping[str, list[list[Any]]]) -> dict[str, Target]:
        """Place for a person → what it takes to return its cells, as much as one write can hold.

        Cells of which nobody knows what was there before are reported and left.
        """
        found: dict[str, Target] = {}
        room = ask.BYTES_AT_ONCE
        for name, lines in tabs.items():
            grid = snapshot.tabs[name]
            header, *body = lines or [[]]
            for one in rollback.find_misplaced(intent, grid.tab, header, body):
                if not one.is_known:
                    self._tell("misplaced", name, (
                        f"{one.describe()} show values of another row, and what was there before "
                        "is unknown; in the sheet: File → Version history"))
                    continue
                shown = dict(enumerate(lines[one.place]))
                target = Target(grid, one.place, {**dict.fromkeys(one.cells), **shown}, one.cells)
                room -= request_bytes(target.data()) + ask.MARK_BYTES
                if len(found) < anchors.MAX_ANCHORS and (room > 0 or not found):
                    found[f"{name} {one.describe()}"] = target
        return found

    def _written_back(self, intent: dict[str, Any], path: Path, snapshot: Snapshot,
                      tabs: Mapping[str, list[list[Any]]], targets: Sequence[Target],
                      ) -> list[Target]:
        """Write cells back, of those rows that still are where they were; which these are."""
        self.sheets.batch([*ask.next_version(snapshot),
                           *anchors.create_anchors(snapshot, targets, set())])
        held = anchors.read_anchored(self.sheets, targets, []).held
        if held:
            rollback.add_undone(intent, tabs, held)
            rollback.save_intent(path, intent)
            self.sheets.write_by_filter([target.data() for target in held])
        return held

    def _tell(self, kind: str, tab: str, words: str) -> None:
        """A problem of the writing itself."""
        found = Problem(kind=kind, tab=tab, key=[], text=words)
        if found not in self.write_problems:
            self.write_problems.append(found)
            self.report.problems = [*self.report.problems, found]

    def _finish_abandoned(self, snapshot: Snapshot) -> Snapshot:
        """Look after the writes of syncers that were killed before they looked themselves, and of
        rounds of this one that got no answer; the sheet as it is then."""
        for path, intent in rollback.abandoned_intents(_folder(self.store, self.sheets)):
            if rollback.is_current(intent, snapshot.version) and snapshot.has_anchors:
                snapshot = self._without_anchors(snapshot, intent, path)
            if rollback.is_current(intent, snapshot.version) and any(
                    rollback.find_misplaced(intent, grid.tab, grid.header, grid.rows) or grid.drift()
                    for name, grid in snapshot.tabs.items() if name in intent["tabs"]):
                self._put_back(intent, path)
                snapshot = read_snapshot(self.sheets)
            path.unlink(missing_ok=True)
        return snapshot

    def _without_anchors(self, snapshot: Snapshot, intent: dict[str, Any], path: Path) -> Snapshot:
        """Take the anchors of a write away, so that it cannot be applied any more; read again."""
        _take_version(intent, snapshot, path)
        self.sheets.batch(ask.next_version(snapshot))
        return read_snapshot(self.sheets)

    def _set_aside(self, error: Refused) -> None:
        """Leave the rows out that Google refuses, so that they do not stop the others."""
        part = re.search(r"(?:requests|data)\[(\d+)\]", error.message)
        rows = self._sent[int(part[1])] if part and int(part[1]) < len(self._sent) else []
        if not rows:
            raise error
        for row in rows:
            self.refused[row.tab.name, row.key] = error.message

    def _leave_out_refused(self, plan: SyncPlan) -> None:
        for tab in plan.tabs:
            rows = [*tab.inserts, *(write.row for write in tab.writes)]
            for row in {id(row): row for row in rows}.values():
                if (row.tab.name, row.key) in self.refused:
                    plan.problems.append(make_problem(
                        "refused", row, f"the row {short_key(row)} was not written: "
                        f"{self.refused[row.tab.name, row.key]}"))
            tab.inserts = [row for row in tab.inserts
                           if (row.tab.name, row.key) not in self.refused]
            tab.writes = [write for write in tab.writes
                          if (write.row.tab.name, write.row.key) not in self.refused]


def read_snapshot(sheets: Sheets) -> Snapshot:
    """Read a spreadsheet: structure, then the values of every results tab (two requests)."""
    snapshot = parse_structure(sheets.structure())
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
        snapshot = read_snapshot(sheets)
        used = {mark.sheet for mark in snapshot.marks.values()} | {
            grid.sheet for grid in snapshot.tabs.values()}
        require_headers(snapshot, [grid.tab for name, grid in snapshot.tabs.items()
                                   if grid.tab in tabs and (
                                       any(grid.header) or grid.header_row() is not None)])
        require_headers(snapshot, [tab for tab in tabs if tab.name not in snapshot.tabs and (
            tab.name in snapshot.charts or tab.name in snapshot.doubtful)])
        changes: list[ask.Request] = []
        names = []
        for tab in tabs:
            sheet = random.randrange(1, 2**31 - 1)
            while sheet in used:
                sheet = random.randrange(1, 2**31 - 1)
            needed = ask.set_up_tab(tab, snapshot.tabs.get(tab.name), sheet)
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


class JournalValues:
    """Every value that the journals ever held for a field of a row; read when first asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._values: dict[tuple[str, tuple[str, ...]], dict[str, list[Any]]] | None = None

    def __call__(self, row: Row, field_name: str) -> Sequence[Any]:
        if self._values is None:
            self._values = {}
            for record in all_records(self._store.folders, Damage()):
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
        fill_grid(grid, values)


def _agree(store: Store, plan: SyncPlan) -> None:
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
    for name, grid in snapshot.tabs.items():
        rows = fold.of(name)
        positions = grid.located(key_cells(row.tab, row.key) for row in rows)
        for row in rows:
            places = positions[key_cells(row.tab, row.key)]
            if len(places) == 1:
                state.confirm(row, grid.rows[places[0] - 1])


def _take_version(intent: dict[str, Any], snapshot: Snapshot, path: Path) -> None:
    """Note in an intent that the next version of the sheet is of the same write."""
    intent["versions"] = [*(intent.get("versions") or [intent["version"]]), snapshot.next_version]
    rollback.save_intent(path, intent)


def _folder(store: Store, sheets: Sheets) -> Path:
    return store.state_path(sheets.sheet_id).with_suffix("")



