"""What a sync writes: the difference between the fold and a reading of the sheet. Pure.

The sheet's cell and the fold's are compared by the column's rule. An empty cell is filled, a cell
that holds an older value of ours is brought up to date, a value that is ahead of ours is left. A
cell that holds neither what we last saw there nor anything the journal ever held was typed by a
person: a conflict, left as it is unless the policy says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from l3hpc.io.values import one_line
from l3hpc.ledger.cells import Cell, cell, cell_shows, cells, key_cells, quoted_argument
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab, column_letter
from l3hpc.ledger.sheets.anchors import Target
from l3hpc.ledger.sheets.grid import Snapshot, TabGrid
from l3hpc.ledger.store import Problem, SyncState

Policy = Literal["report", "ours", "theirs"]
PastValues = Callable[[Row, str], Sequence[Any]]  # every value the journal ever held for a field


@dataclass
class CellWrite:
    """One cell of an existing row: grid position, old and new value."""

    row: Row
    place: int
    column: int
    old: Any
    new: Cell


@dataclass
class TabPlan:
    """What one tab needs. ``marks``: rows on the sheet that have no mark yet."""

    grid: TabGrid
    inserts: list[Row] = field(default_factory=list)
    writes: list[CellWrite] = field(default_factory=list)
    marks: list[Row] = field(default_factory=list)


@dataclass
class SyncPlan:
    """One pass: per tab what to write, what a person should see, what a person decided.

    left_over: how many rows did not fit into this pass and wait for the next one.
    """

    tabs: list[TabPlan] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    accepted: list[tuple[Row, dict[str, Any]]] = field(default_factory=list)
    left_over: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be written."""
        return not any(tab.inserts or tab.writes or tab.marks for tab in self.tabs)


def make_plan(rows: Iterable[Row], snapshot: Snapshot, state: SyncState, known: PastValues,
         policy: Policy = "report", restore: Iterable[Row] = ()) -> SyncPlan:
    """The plan that brings the sheet to the fold. ``restore``: deleted rows to write again."""
    plan = SyncPlan()
    rows = list(rows)
    again = {(row.tab.name, row.key) for row in restore}
    grids: dict[str, tuple[TabPlan, dict[tuple[str, ...], list[int]]]] = {}
    for tab in tabs_of(rows):
        grid = snapshot.tabs[tab.name]
        own = TabPlan(grid)
        grids[tab.name] = own, grid.located(key_cells(tab, row.key) for row in rows
                                            if row.tab is tab)
        plan.tabs.append(own)
    for row in rows:
        own, positions = grids[row.tab.name]
        places = positions.get(key_cells(row.tab, row.key), [])
        marked = snapshot.row_mark(row.tab, row.key)[2]
        if len(places) > 1:
            plan.problems.append(make_problem(
                "duplicate", row, f"rows {', '.join(str(place + 1) for place in places)} hold the "
                f"key {short_key(row)}; none of them is written until one is left"))
        elif places:
            if not marked and own.grid.room_for_marks > len(own.marks):
                own.marks.append(row)
            _update(plan, own, row, places[0], state, known, policy)
        elif (marked or state.last(row) is not None) and (row.tab.name, row.key) not in again:
            _deleted(plan, row, policy)
        else:
            own.inserts.append(row)
    for own in plan.tabs:
        _leave_out_protected(plan, own)
    return plan


def _leave_out_protected(plan: SyncPlan, own: TabPlan) -> None:
    """Leave out what protected ranges keep this account from writing, and say so."""
    grid = own.grid
    locked: dict[int, list[CellWrite]] = {}
    for write in own.writes:
        if grid.lock_on(write.place, [write.column]):
            locked.setdefault(write.place, []).append(write)
    for place, writes in locked.items():
        cells_of = ", ".join(f"{column_letter(write.column)}{place + 1}" for write in writes[:5]) + (
            f" and {len(writes) - 5} more" if len(writes) > 5 else "")
        plan.problems.append(make_problem(
            "protected", writes[0].row, f"row {place + 1} ({short_key(writes[0].row)}) is not brought "
            f"up to date: {cells_of} {'are' if len(writes) > 1 else 'is'} in a protected range "
            f"{_describe_protection(grid.lock_on(place, [writes[0].column]))}"))
    own.writes = [write for write in own.writes if write.place not in locked]
    lock = grid.lock_on_new_row(grid.next_row) if own.inserts else None
    if lock is not None:
        for row in own.inserts:
            plan.problems.append(make_problem(
                "protected", row, f"the new row {short_key(row)} is not added: row "
                f"{grid.next_row + 1} would be in a protected range {_describe_protection(lock)}"))
        own.inserts = []


def _describe_protection(lock: Mapping[str, Any] | None) -> str:
    name = f"({lock['description']!r}) " if lock and lock.get("description") else ""
    return (f"{name}that this account may not edit; in the sheet: Data → Protected sheets and "
            "ranges")


def write_targets(grid: TabGrid, writes: Iterable[CellWrite]) -> list[Target]:
    """Cells of existing rows, row by row. A row is only written while it shows its key and the
    values that these were compared to."""
    rows: dict[int, list[CellWrite]] = {}
    for write in writes:
        rows.setdefault(write.place, []).append(write)
    found = []
    for place, own in sorted(rows.items()):
        shown = grid.rows[place - 1]
        keys = {index: shown[index] for index in map(grid.tab.index, grid.tab.key)}
        found.append(Target(grid, place, {**keys, **{write.column: write.old for write in own}},
                            {write.column: write.new for write in own}))
    return found


def make_problem(kind: str, row: Row, words: str) -> Problem:
    """Something a person has to look at."""
    return {"kind": kind, "tab": row.tab.name, "key": list(row.key), "text": words}


def _deleted(plan: SyncPlan, row: Row, policy: Policy) -> None:
    if row.accepted.get("/row") == ["deleted"]:
        return
    if policy == "theirs":
        plan.accepted.append((row, {"/row": "deleted"}))
        return
    plan.problems.append(make_problem(
        "deleted", row, f"the row {short_key(row)} was deleted from the sheet; bring it back with   "
        f"l3hpc ledger restore {quoted_argument(row.key[-1])}   or agree with   l3hpc ledger sync "
        "--on-conflict theirs"))


def _update(plan: SyncPlan, own: TabPlan, row: Row, place: int, state: SyncState, known: PastValues,
            policy: Policy) -> None:
    shown = own.grid.rows[place - 1]
    last = state.last(row)
    ahead = _is_ahead(row, shown)
    agreed: dict[str, Any] = {}
    for index, (column, ours) in enumerate(zip(row.tab.columns, cells(row), strict=True)):
        theirs = shown[index]
        if ours is None or cell_shows(column, theirs, ours):
            continue
        if any(cell_shows(column, theirs, value) for value in row.accepted.get(column.field, [])):
            continue
        verdict = _verdict(row, column, ours, theirs, last[index] if last else None, ahead, known)
        if verdict == "leave":
            continue
        if verdict == "conflict":
            if policy == "theirs":
                agreed[column.field] = theirs
                continue
            if policy == "report":
                plan.problems.append(make_problem(
                    "conflict", row, f"{column_letter(index)}{place + 1} ({column.title}): the sheet has "
                    f"{_quote(theirs)}, the journal {_quote(ours)}"))
                continue
        own.writes.append(CellWrite(row, place, index, theirs, ours))
    if agreed:
        plan.accepted.append((row, agreed))


def _verdict(row: Row, column: Column, ours: Cell, theirs: Any, last: Any, ahead: bool,
             known: PastValues) -> Literal["write", "leave", "conflict"]:
    if theirs is None:
        return "conflict" if last is not None else "write"  # a person cleared it, or it is new
    if not cell_shows(column, theirs, last) and not any(
            cell_shows(column, theirs, cell(column, value)) for value in known(row, column.field)):
        return "conflict"
    if (column.rule == "latest" and ahead) or _sheet_is_better(column, theirs, ours):
        return "leave"  # written from newer journals than those we can read now
    return "write"


def _is_ahead(row: Row, shown: Sequence[Any]) -> bool:
    if not row.tab.has("latest_epoch"):
        return False
    theirs = finite_number(shown[row.tab.index("latest_epoch")])
    ours = finite_number(row.values.get("latest_epoch"))
    return theirs is not None and (ours is None or theirs > ours)


def _sheet_is_better(column: Column, theirs: Any, ours: Cell) -> bool:
    one, other = finite_number(theirs), finite_number(ours)
    if one is None or other is None:
        return False
    return (column.rule == "min" and one < other) or (column.rule == "max" and one > other)


def short_key(row: Row) -> str:
    """A row's key for a message, its end if it is long."""
    text = one_line(" ".join(row.key))
    return text if len(text) <= 60 else "…" + text[-59:]


def _quote(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…'"


def tabs_of(rows: Iterable[Row]) -> list[Tab]:
    """The tabs that rows belong to, in order of declaration."""
    return list(dict.fromkeys(row.tab for row in rows))
