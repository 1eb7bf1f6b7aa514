"""Synchronising a Google Sheet with the journals: every row once, in its columns, up to date.

A round reads the sheet (two requests), folds the journals, and writes the difference. New rows are
one batch, which is applied as a whole or not at all. The batch creates the next version of the
sheet, so it is applied at most once, however often it is sent and whoever else syncs at the same
time: a second application is refused, the sheet is read again, and the rest is found to be done.
Cells of existing rows are written by anchor (``anchors``), so that they cannot end up in a row that
a person inserted meanwhile. Then the sheet is read once more: every cell that was planned has to be
in the row of its key, and cells that went to a wrong place are restored (``rollback``).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from l3hpc.errors import HeaderDriftError, L3hpcError, command_line
from l3hpc.ledger.cells import key_cells
from l3hpc.ledger.journal.fold import Fold, Row
from l3hpc.ledger.journal.reading import Damage, all_records, damage_notes
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.sheets import anchors, rollback, swept
from l3hpc.ledger.sheets import requests as api
from l3hpc.ledger.sheets.anchors import Target
from l3hpc.ledger.sheets.client import TRIES, Refused, Sheets, Unanswered, back_off, request_bytes
from l3hpc.ledger.sheets.diff import (
    Policy,
    SyncPlan,
    make_plan,
    make_problem,
    short_key,
    tabs_of,
    write_targets,
)
from l3hpc.ledger.sheets.grid import Snapshot, has_place_for, parse_structure, require_headers
from l3hpc.ledger.sheets.reading import all_cells, read_snapshot, read_values
from l3hpc.ledger.store import Problem, Store, SyncState

ROUNDS = 12  # without progress
BETWEEN_ROUNDS_S = 1.0
RESTORE_TRIES = 5
SHOWN = 5  # places that a message names


@dataclass
class SyncReport:
    """The result of a sync.

    Attributes
    ----------
    title
        Title of the spreadsheet.
    inserted, updated, rows
        Number of rows that were added, of rows of which cells were written, and of all rows of the
        journals.
    put_back
        Number of cells whose former value was restored.
    swept
        Number of cells of swept options that were written, in columns of their own.
    requests
        Number of requests to Google.
    problems
        Rows that need a person.
    notes
        What could not be read of the journals.
    """

    title: str = ""
    inserted: int = 0
    updated: int = 0
    put_back: int = 0
    swept: int = 0
    rows: int = 0
    requests: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sync(store: Store, sheets: Sheets, *, policy: Policy = "report",
         restore: Iterable[Row] = (), say: Callable[[str], None] = lambda text: None) -> SyncReport:
    """Write to the sheet what the journals have and it does not show yet.

    Parameters
    ----------
    store
        The ledger, whose journals are the source of truth.
    sheets
        The spreadsheet.
    policy
        What happens to cells that people changed: ``report`` leaves and reports them, ``ours``
        overwrites them, ``theirs`` accepts them permanently.
    restore
        Rows that were deleted from the sheet and are to be written again.
    say
        Called with messages about the progress.

    Returns
    -------
    SyncReport
        What was written, and rows that need a person.

    Raises
    ------
    HeaderDriftError
        The columns of a tab are not the declared ones; nothing was written.
    OfflineError
        Google cannot be reached; the journals keep everything.
    L3hpcError
        Google refuses a batch repeatedly, or the sheet keeps changing.
    """
    report = _Sync(store, sheets, policy, list(restore), say).run()
    before = sheets.requests
    report.swept, note = swept.write(store, sheets)
    report.requests += sheets.requests - before
    if note:
        report.notes.append(note)
    return report


class _Sync:
    """One sync: rounds of reading and writing until the sheet shows what the journals have.

    Attributes
    ----------
    write_problems
        Problems of the writing itself, which a new plan does not find again.
    refused
        Rows that Google refuses → its message.
    """

    def __init__(self, store: Store, sheets: Sheets, policy: Policy, restore: list[Row],
                 say: Callable[[str], None]) -> None:
        self.store, self.sheets, self.policy, self.say = store, sheets, policy, say
        self.restore = restore
        self.report = SyncReport()
        self.state = store.state(sheets.sheet_id)
        self.write_problems: list[Problem] = []
        self.refused: dict[tuple[str, tuple[str, ...]], str] = {}
        self._unrecognised: set[str] = set()  # tabs whose columns cannot be told apart
        self._updated: set[tuple[str, tuple[str, ...]]] = set()
        # the request that is being sent: the rows of each part, and for a batch the version of the
        # sheet from which it was made
        self._sent: list[list[Row]] = []
        self._stage: int | Literal["write"] | None = None
        self._refusals: list[tuple[object, str]] = []

    def run(self) -> SyncReport:
        """Run rounds until one leaves nothing to do."""
        start = self.sheets.requests
        idle = unanswered = 0
        least_left: int | None = None
        while idle < ROUNDS:
            if idle:
                self.sheets.pace.sleep(BETWEEN_ROUNDS_S * random.random() * idle)
            idle += 1
            self._sent, self._stage = [], None
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
            except Refused as error:
                # usually a race: someone wrote, or renamed a tab, between two requests
                if self._is_repeated(error):
                    self._set_aside(error)
            else:
                self._refusals.clear()
                unanswered = 0
                if left is None:
                    self.report.requests = self.sheets.requests - start
                    return self.report
                if left and (least_left is None or left < least_left):
                    least_left, idle = left, 0
        raise L3hpcError(f"the sheet kept changing while it was written ({ROUNDS} rounds)",
                         hint="If many people or syncers are working in it, run   "
                              f"{command_line('ledger', 'sync')}   again later.")

    def _round(self) -> int | None:
        """Read, plan, write and check.

        Returns None if everything is done, else how many rows wait for the next round.
        """
        snapshot = self._finish_abandoned(read_snapshot(self.sheets))
        self._stage = snapshot.version
        fold = self.store.fold()
        left_out = [row for row in fold.rows.values() if not has_place_for(snapshot, row.tab)]
        fold.rows = {place: row for place, row in fold.rows.items()
                     if has_place_for(snapshot, row.tab)}
        rows = list(fold.rows.values())
        self.report.title, self.report.rows = snapshot.title, len(rows)
        self.state.absent = [tab.name for tab in tabs_of(left_out)]
        self.report.notes = [*damage_notes(fold), *(
            f"{snapshot.title!r} has no tab {tab.name!r}, whose rows stay in the journals; to add "
            f"it:   {command_line('ledger', 'init')}" for tab in tabs_of(left_out))]
        require_headers(snapshot, tabs_of(rows))
        plan = make_plan(rows, snapshot, self.state, JournalValues(self.store), self.policy,
                         self.restore)
        _record_accepted(self.store, plan)
        self._leave_out_refused(plan)
        api.limit_plan(plan)
        self.report.problems = [*plan.problems, *self.write_problems]
        if plan.is_empty:
            self._save_state(snapshot, fold)
            return None
        targets = [target for tab in plan.tabs for target in write_targets(tab.grid, tab.writes)]
        # on disk before anything is sent: if this process is killed, another one can check it
        intent = rollback.make_intent(plan, snapshot, targets)
        path = rollback.new_intent_path(_intent_folder(self.store, self.sheets))
        rollback.save_intent(path, intent)
        self._send_batch(plan, snapshot, targets, path)
        self.report.inserted += sum(len(tab.inserts) for tab in plan.tabs)
        # the batch has added them: in the next round they are rows like any other
        self.restore = []
        is_complete = self._write(plan, targets, intent, path) if targets else True
        # not "and": what was written has to be checked, also if some rows were left out
        is_complete &= self._check(snapshot, intent, path)
        path.unlink(missing_ok=True)
        if is_complete and not plan.left_over:
            self.report.problems = [*plan.problems, *self.write_problems]
            self._save_state(snapshot, fold)
            return None
        return plan.left_over

    def _save_state(self, snapshot: Snapshot, fold: Fold) -> None:
        """Save what the sheet shows now."""
        _confirm(self.state, snapshot, fold)
        self.state.problems = self.report.problems
        self.store.save(self.state)

    # --- writing ---

    def _send_batch(self, plan: SyncPlan, snapshot: Snapshot, targets: Sequence[Target],
                    intent_path: Path) -> None:
        """Send the batch of a plan.

        If the first attempt is refused, nothing was written, and the intent is removed. If a later
        one is refused, an earlier one whose answer was lost may have been applied: the intent
        stays, and the next round checks it.
        """
        requests = api.batch(plan, snapshot, targets)
        inserts = {tab.grid.sheet: tab.inserts for tab in plan.tabs}
        self._sent = [inserts.get(api.sheet_of(request), []) for request in requests]
        before = self.sheets.requests
        try:
            self.sheets.batch(requests)
        except Refused:
            if self.sheets.requests == before + 1:
                intent_path.unlink(missing_ok=True)
            raise

    def _write(self, plan: SyncPlan, targets: list[Target], intent: rollback.Intent, path: Path,
               ) -> bool:
        """Write cells by the anchors of the batch; return whether all rows could be written."""
        rows = {(id(tab.grid), write.grid_row): write.row
                for tab in plan.tabs for write in tab.writes}
        grids = list({id(target.grid): target.grid for target in targets}.values())
        reading = anchors.read_anchored(self.sheets, targets, grids)
        if any(grid.drift() for grid in grids):
            return False
        rollback.update_intent(intent, grids, reading.unchanged)
        rollback.save_intent(path, intent)
        self._stage = "write"
        self._sent = [[rows[id(target.grid), target.grid_row]] for target in reading.unchanged]
        self._updated |= {(row.tab.name, row.key) for (row,) in self._sent}
        self.report.updated = len(self._updated)
        if reading.unchanged:
            self.sheets.write_by_filter([target.data() for target in reading.unchanged])
        return not reading.changed

    def _check(self, snapshot: Snapshot, intent: rollback.Intent, path: Path) -> bool:
        """Return whether every cell has arrived; restore those that went to a wrong place."""
        grids = [snapshot.tabs[name] for name in intent["tabs"]]
        read_values(self.sheets, grids)
        drifted = [grid for grid in grids if grid.drift()]
        if drifted:
            self._restore_misplaced(intent, path)
            name = drifted[0].tab.name
            known = "cells that were written to a wrong column were restored"
            if name in self._unrecognised:
                known = ("a title is missing or occurs twice, so what was written at that moment "
                         "may stand in wrong columns (in the sheet: File → Version history)")
            raise HeaderDriftError(
                f"the columns of tab {name!r} were changed while it was written; {known}",
                hint=command_line("ledger", "check"))
        if any(rollback.find_misplaced(intent, grid.tab, grid.header, grid.rows)
               for grid in grids):
            self._restore_misplaced(intent, path)
            return False
        return all(rollback.has_arrived(grid.tab, intent["tabs"][grid.tab.name], grid.rows)
                   for grid in grids)

    # --- cells in a wrong place ---

    def _restore_misplaced(self, intent: rollback.Intent, path: Path) -> None:
        """Read the sheet in full width and restore misplaced cells, unless others wrote since."""
        for _ in range(RESTORE_TRIES):
            snapshot = parse_structure(self.sheets.structure())
            # another syncer has read these cells as they are, and made its own plan from them
            if not rollback.is_current(intent, snapshot.version):
                return
            tabs = {name: [[None if value == "" else value for value in line]
                           for line in all_cells(self.sheets, grid)]
                    for name in intent["tabs"] if (grid := snapshot.tabs.get(name)) is not None}
            misplaced = self._misplaced(intent, snapshot, tabs)
            if not misplaced:
                return
            _take_version(intent, snapshot, path)
            try:
                written = self._write_back(intent, path, snapshot, tabs, list(misplaced.values()))
            except Refused:
                continue
            except Unanswered as error:
                self.say(f"{error.message}; reading again")
                self.sheets.pace.sleep(back_off(1))
                continue
            count = sum(len(target.cells) for target in written)
            self.report.put_back += count
            if count:
                names = "; ".join(list(misplaced)[:SHOWN])
                more = " …" if len(misplaced) > SHOWN else ""
                self._add_problem("moved", written[0].grid.tab.name, (
                    f"rows or columns were moved during the sync: {count} cells were restored "
                    f"({names}{more}). What was typed there at that moment is in the sheet under "
                    "File → Version history"))

    def _misplaced(self, intent: rollback.Intent, snapshot: Snapshot,
                   tabs: Mapping[str, list[list[Any]]]) -> dict[str, Target]:
        """Return name → what restores misplaced cells, as many as one write can hold.

        Cells whose former values are unknown are reported and left.
        """
        found: dict[str, Target] = {}
        bytes_left = api.BYTES_AT_ONCE
        for name, lines in tabs.items():
            grid = snapshot.tabs[name]
            header, *body = lines or [[]]
            if not rollback.recognises(grid.tab, header):
                self._unrecognised.add(name)
            for item in rollback.find_misplaced(intent, grid.tab, header, body):
                if not item.is_known:
                    self._add_problem("misplaced", name, (
                        f"{item.describe()} show values of another row, and the former values are "
                        "unknown; see the sheet under File → Version history"))
                    continue
                shown = dict(enumerate(lines[item.grid_row]))
                expect = {**dict.fromkeys(item.cells), **shown}
                target = Target(grid, item.grid_row, expect, item.cells)
                bytes_left -= request_bytes(target.data()) + api.MARK_BYTES
                if len(found) < anchors.MAX_ANCHORS and (bytes_left > 0 or not found):
                    found[f"{name} {item.describe()}"] = target
        return found

    def _write_back(self, intent: rollback.Intent, path: Path, snapshot: Snapshot,
                    tabs: Mapping[str, list[list[Any]]], targets: Sequence[Target]) -> list[Target]:
        """Write former values to those rows that have not changed; return which these are."""
        self.sheets.batch([*api.next_version(snapshot),
                           *anchors.create_anchors(snapshot, targets, set())])
        unchanged = anchors.read_anchored(self.sheets, targets, []).unchanged
        if unchanged:
            rollback.add_undone(intent, tabs, unchanged)
            rollback.save_intent(path, intent)
            self.sheets.write_by_filter([target.data() for target in unchanged])
        return unchanged

    def _add_problem(self, kind: str, tab: str, text: str) -> None:
        """Report a problem of the writing itself."""
        found = Problem(kind=kind, tab=tab, key=[], text=text)
        if found not in self.write_problems:
            self.write_problems.append(found)
            self.report.problems = [*self.report.problems, found]

    def _finish_abandoned(self, snapshot: Snapshot) -> Snapshot:
        """Check the writes of syncers that were killed, and of our rounds without an answer.

        Returns the sheet as it is afterwards.
        """
        for path, intent in rollback.abandoned_intents(_intent_folder(self.store, self.sheets)):
            # without its anchors, a request that is still on its way cannot be applied any more
            if rollback.is_current(intent, snapshot.version) and snapshot.has_anchors:
                _take_version(intent, snapshot, path)
                self.sheets.batch(api.next_version(snapshot))
                snapshot = read_snapshot(self.sheets)
            if rollback.is_current(intent, snapshot.version) and any(
                    rollback.find_misplaced(intent, grid.tab, grid.header, grid.rows)
                    or grid.drift()
                    for name, grid in snapshot.tabs.items() if name in intent["tabs"]):
                self._restore_misplaced(intent, path)
                snapshot = read_snapshot(self.sheets)
            path.unlink(missing_ok=True)
        return snapshot

    # --- refusals ---

    def _is_repeated(self, error: Refused) -> bool:
        """Return whether a request was refused again though the sheet has not changed."""
        by_anchor = self._stage == "write"
        # a write does not depend on the version of the sheet; positions in its message may differ
        message = re.sub(r"\d+", "#", error.message) if by_anchor else error.message
        self._refusals.append((self._stage, message))
        needed = 3 if by_anchor else 2
        last = self._refusals[-needed:]
        return len(last) == needed and len(set(last)) == 1

    def _set_aside(self, error: Refused) -> None:
        """Leave out the rows that Google refuses, so that the others are written."""
        part = re.search(r"(?:requests|data)\[(\d+)\]", error.message)
        rows = self._sent[int(part[1])] if part and int(part[1]) < len(self._sent) else []
        if not rows:
            raise error
        for row in rows:
            self.refused[row.tab.name, row.key] = error.message

    def _leave_out_refused(self, plan: SyncPlan) -> None:
        """Remove the rows that Google refuses from a plan, and report them."""
        for tab in plan.tabs:
            rows = [*tab.inserts, *(write.row for write in tab.writes)]
            for row in {id(row): row for row in rows}.values():
                if (row.tab.name, row.key) in self.refused:
                    plan.problems.append(make_problem("refused", row, (
                        f"the row {short_key(row)} was not written: "
                        f"{self.refused[row.tab.name, row.key]}")))
            tab.inserts = [row for row in tab.inserts
                           if (row.tab.name, row.key) not in self.refused]
            tab.writes = [write for write in tab.writes
                          if (write.row.tab.name, write.row.key) not in self.refused]


class JournalValues:
    """All values that the journals ever held for a field of a row.

    They are read when they are first needed, because most rounds have no conflict to decide.

    Parameters
    ----------
    store
        The ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._values: dict[tuple[str, tuple[str, ...]], dict[str, list[Any]]] | None = None

    def __call__(self, row: Row, field_name: str) -> Sequence[Any]:
        """Return the values of one field of a row."""
        if self._values is None:
            self._values = {}
            for record in all_records(self._store.folders, Damage()):
                if record.get("key"):
                    key = (record["tab"], tuple(record["key"]))
                    own = self._values.setdefault(key, {})
                    for name, value in record["values"].items():
                        own.setdefault(name, []).append(value)
        own = self._values.get((row.tab.name, row.key), {})
        follows = row.tab.column(field_name).follows
        return [*own.get(field_name, []), *(own.get(follows, []) if follows else [])]


def _record_accepted(store: Store, plan: SyncPlan) -> None:
    """Write to the journals what a person accepted: changed cells and deleted rows."""
    if not plan.accepted:
        return
    journal = Journal(store.journal, run="agreed", git_commit="")
    for row, accepted in plan.accepted:
        journal.record(row.tab.name, {**dict(zip(row.tab.key, row.key, strict=True)),
                                      "accepted": accepted})
        for name, value in accepted.items():
            row.accepted.setdefault(name, []).append(value)
    journal.close()


def _confirm(state: SyncState, snapshot: Snapshot, fold: Fold) -> None:
    """Record which of our cells the sheet shows."""
    for name, grid in snapshot.tabs.items():
        rows = fold.rows_of(name)
        positions = grid.located(key_cells(row.tab, row.key) for row in rows)
        for row in rows:
            grid_rows = positions[key_cells(row.tab, row.key)]
            if len(grid_rows) == 1:
                state.confirm(row, grid.rows[grid_rows[0] - 1])


def _take_version(intent: rollback.Intent, snapshot: Snapshot, path: Path) -> None:
    """Add the next version of the sheet to those of an intent."""
    intent["versions"] = [*(intent.get("versions") or [intent["version"]]), snapshot.next_version]
    rollback.save_intent(path, intent)


def _intent_folder(store: Store, sheets: Sheets) -> Path:
    """Return the folder in which the intents of a sheet are saved."""
    return store.state_path(sheets.sheet_id).with_suffix("")
