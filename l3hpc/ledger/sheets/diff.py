"""What a sync writes: the difference between the fold and a reading of the sheet (no requests).

Each cell of the sheet is compared with the fold by the rule of its column. An empty cell is filled;
a cell with an older value of ours is updated; a value that is newer than ours is left. A cell that
shows neither what the last sync saw nor anything the journals ever held was typed by a person: a
conflict, which is left and reported unless the policy says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from l3hpc.errors import command_line
from l3hpc.io.values import one_line
from l3hpc.ledger.cells import Cell, cell, cell_shows, cells, key_cells
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab, column_letter
from l3hpc.ledger.sheets.anchors import Target
from l3hpc.ledger.sheets.grid import Snapshot, TabGrid
from l3hpc.ledger.store import Problem, SyncState

Policy = Literal["report", "ours", "theirs"]
PastValues = Callable[[Row, str], Sequence[Any]]  # all values that the journals held for a field
SHORT = 60  # characters of a key or value in a message
SHOWN_CELLS = 5  # that a message names


@dataclass
class CellWrite:
    """One cell of an existing row.

    Attributes
    ----------
    row
        The row of the journals.
    grid_row, column
        Position in the sheet (0-based; the header is row 0).
    old, new
        Value that the sheet shows, and value to write.
    """

    row: Row
    grid_row: int
    column: int
    old: Cell
    new: Cell

    @property
    def cell_name(self) -> str:
        """Name of the cell, such as ``T7``."""
        return f"{column_letter(self.column)}{self.grid_row + 1}"


@dataclass
class TabPlan:
    """What is written to one tab.

    Attributes
    ----------
    grid
        The tab as it was read.
    inserts
        New rows.
    writes
        Cells of existing rows.
    marks
        Rows of the sheet that have no row mark yet.
    """

    grid: TabGrid
    inserts: list[Row] = field(default_factory=list)
    writes: list[CellWrite] = field(default_factory=list)
    marks: list[Row] = field(default_factory=list)


@dataclass
class SyncPlan:
    """What one round of a sync writes.

    Attributes
    ----------
    tabs
        Per tab, what to write.
    problems
        Rows that need a person.
    accepted
        Rows with the values of the sheet that are accepted (policy ``theirs``).
    left_over
        Number of rows that did not fit into this round.
    """

    tabs: list[TabPlan] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    accepted: list[tuple[Row, dict[str, Any]]] = field(default_factory=list)
    left_over: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not any(tab.inserts or tab.writes or tab.marks for tab in self.tabs)


def make_plan(rows: Iterable[Row], snapshot: Snapshot, state: SyncState, past_values: PastValues,
              policy: Policy = "report", restore: Iterable[Row] = ()) -> SyncPlan:
    """Plan what makes the sheet show the rows of the journals.

    Parameters
    ----------
    rows
        All rows of the journals.
    snapshot
        A reading of the sheet.
    state
        State of the last sync.
    past_values
        Returns all values that the journals ever held for a field of a row.
    policy
        What happens to cells that people changed: ``report`` leaves and reports them, ``ours``
        overwrites them, ``theirs`` accepts them.
    restore
        Rows that were deleted in the sheet and are to be written again.

    Returns
    -------
    SyncPlan
        What to write, and rows that need a person.
    """
    plan = SyncPlan()
    rows = list(rows)
    restored = {(row.tab.name, row.key) for row in restore}
    for tab in tabs_of(rows):
        own = [row for row in rows if row.tab is tab]
        tab_plan = TabPlan(snapshot.tabs[tab.name])
        plan.tabs.append(tab_plan)
        grid_rows = tab_plan.grid.located(key_cells(tab, row.key) for row in own)
        for row in own:
            found = grid_rows[key_cells(tab, row.key)]
            is_marked = snapshot.row_mark(tab, row.key)[2]
            if len(found) > 1:
                plan.problems.append(_duplicate(row, found))
            elif found:
                if not is_marked and tab_plan.grid.room_for_marks > len(tab_plan.marks):
                    tab_plan.marks.append(row)
                _update(plan, tab_plan, row, found[0], state, past_values, policy)
            # a row that was written before and is not found was deleted by a person
            elif (is_marked or state.last(row) is not None) and (tab.name, row.key) not in restored:
                _deleted(plan, row, policy)
            else:
                tab_plan.inserts.append(row)
        _leave_out_protected(plan, tab_plan)
    return plan


def write_targets(grid: TabGrid, writes: Iterable[CellWrite]) -> list[Target]:
    """Group cells by row.

    Parameters
    ----------
    grid
        The tab.
    writes
        Cells of its rows.

    Returns
    -------
    list of Target
        In the order of the rows. A row is only written if it still shows its key and the values
        with which these cells were compared.
    """
    rows: dict[int, list[CellWrite]] = {}
    for write in writes:
        rows.setdefault(write.grid_row, []).append(write)
    found = []
    for grid_row, own in sorted(rows.items()):
        shown = grid.rows[grid_row - 1]
        keys = {index: shown[index] for index in map(grid.tab.index, grid.tab.key)}
        found.append(Target(grid, grid_row, {**keys, **{write.column: write.old for write in own}},
                            {write.column: write.new for write in own}))
    return found


def make_problem(kind: str, row: Row, text: str) -> Problem:
    """Return a problem of a row, as the report of a sync lists it.

    Parameters
    ----------
    kind
        What kind of problem it is, for scripts.
    row
        The row.
    text
        What a person reads.
    """
    return {"kind": kind, "tab": row.tab.name, "key": list(row.key), "text": text}


def short_key(row: Row) -> str:
    """Return the key of a row for a message; of a long one, its end."""
    text = one_line(" ".join(row.key))
    return text if len(text) <= SHORT else "…" + text[1 - SHORT:]


def tabs_of(rows: Iterable[Row]) -> list[Tab]:
    """Return the tabs of rows, each once, in the order in which they occur."""
    return list(dict.fromkeys(row.tab for row in rows))


def _duplicate(row: Row, grid_rows: Sequence[int]) -> Problem:
    """Return the problem of a key that several rows of the sheet show."""
    numbers = ", ".join(str(grid_row + 1) for grid_row in grid_rows)
    return make_problem("duplicate", row, (
        f"rows {numbers} have the same key {short_key(row)}; none of them is written until only "
        "one is left"))


def _deleted(plan: SyncPlan, row: Row, policy: Policy) -> None:
    """Report a row that was deleted from the sheet, or accept that, by the policy."""
    if row.accepted.get("/row") == ["deleted"]:
        return
    if policy == "theirs":
        plan.accepted.append((row, {"/row": "deleted"}))
        return
    key = row.key[-1]
    marked = ["--"] if key.startswith("-") else []  # it would be read as an option
    plan.problems.append(make_problem("deleted", row, (
        f"the row {short_key(row)} was deleted from the sheet; to restore it:   "
        f"{command_line('ledger', 'restore', *marked, key)}   or to accept that:   "
        + command_line("ledger", "sync", "--on-conflict", "theirs"))))


def _update(plan: SyncPlan, tab_plan: TabPlan, row: Row, grid_row: int, state: SyncState,
            past_values: PastValues, policy: Policy) -> None:
    """Plan the cells of an existing row."""
    shown = tab_plan.grid.rows[grid_row - 1]
    last = state.last(row)
    is_ahead = _is_ahead(row, shown)
    accepted: dict[str, Any] = {}
    for index, (column, ours) in enumerate(zip(row.tab.columns, cells(row), strict=True)):
        theirs = shown[index]
        # what the journals do not have is never cleared in the sheet: a person may have typed it
        if ours is None or cell_shows(column, theirs, ours):
            continue
        if any(cell_shows(column, theirs, value) for value in row.accepted.get(column.field, [])):
            continue
        write = CellWrite(row, grid_row, index, theirs, ours)
        action = _action(row, column, ours, theirs, last[index] if last else None, is_ahead,
                         past_values)
        if action == "write" or (action == "conflict" and policy == "ours"):
            tab_plan.writes.append(write)
        elif action == "conflict" and policy == "theirs":
            accepted[column.field] = theirs
        elif action == "conflict":
            plan.problems.append(make_problem("conflict", row, (
                f"{write.cell_name} ({column.title}): the sheet has {_quote(theirs)}, the journal "
                f"{_quote(ours)}")))
    if accepted:
        plan.accepted.append((row, accepted))


def _action(row: Row, column: Column, ours: Cell, theirs: Cell, last: Cell, is_ahead: bool,
            past_values: PastValues) -> Literal["write", "leave", "conflict"]:
    """Return what to do with a cell that differs from ours.

    ``last`` is the value of ours that the sheet last showed, None if it never did.
    """
    if theirs is None:
        # empty, but not when it was last read: a person cleared it
        return "conflict" if last is not None else "write"
    if not cell_shows(column, theirs, last) and not any(
            cell_shows(column, theirs, cell(column, value))
            for value in past_values(row, column.field)):
        return "conflict"
    # written from newer journals than those that can be read here
    if (column.rule == "latest" and is_ahead) or _sheet_is_better(column, theirs, ours):
        return "leave"
    return "write"


def _is_ahead(row: Row, shown: Sequence[Any]) -> bool:
    """Return whether the sheet shows a later epoch than the journals."""
    if not row.tab.has("latest_epoch"):
        return False
    theirs = finite_number(shown[row.tab.index("latest_epoch")])
    ours = finite_number(row.values.get("latest_epoch"))
    return theirs is not None and (ours is None or theirs > ours)


def _sheet_is_better(column: Column, theirs: object, ours: Cell) -> bool:
    """Return whether the sheet shows a better value in a column of best values."""
    their_number, our_number = finite_number(theirs), finite_number(ours)
    if their_number is None or our_number is None:
        return False
    return ((column.rule == "min" and their_number < our_number)
            or (column.rule == "max" and their_number > our_number))


def _leave_out_protected(plan: SyncPlan, tab_plan: TabPlan) -> None:
    """Leave out what protected ranges keep this account from writing, and report it."""
    grid = tab_plan.grid
    protected: dict[int, list[CellWrite]] = {}
    for write in tab_plan.writes:
        if grid.lock_on(write.grid_row, [write.column]):
            protected.setdefault(write.grid_row, []).append(write)
    for grid_row, writes in protected.items():
        names = ", ".join(write.cell_name for write in writes[:SHOWN_CELLS])
        if len(writes) > SHOWN_CELLS:
            names += f" and {len(writes) - SHOWN_CELLS} more"
        where = _describe_protection(grid.lock_on(grid_row, [writes[0].column]))
        plan.problems.append(make_problem("protected", writes[0].row, (
            f"row {grid_row + 1} ({short_key(writes[0].row)}) is not updated: {names} "
            f"{'are' if len(writes) > 1 else 'is'} in a protected range {where}")))
    # a row is written as a whole or not at all, so that its cells belong together
    tab_plan.writes = [write for write in tab_plan.writes if write.grid_row not in protected]
    lock = grid.lock_on_new_row(grid.next_row) if tab_plan.inserts else None
    if lock is not None:
        plan.problems += [make_problem("protected", row, (
            f"the new row {short_key(row)} is not added: row {grid.next_row + 1} would be in a "
            f"protected range {_describe_protection(lock)}")) for row in tab_plan.inserts]
        tab_plan.inserts = []


def _describe_protection(lock: Mapping[str, Any] | None) -> str:
    """Return which protected range it is, and where to change it."""
    name = f"({lock['description']!r}) " if lock and lock.get("description") else ""
    return (f"{name}that this account cannot edit; in the sheet: Data → Protected sheets and "
            "ranges")


def _quote(value: object) -> str:
    """Return a value for a message."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= SHORT else text[:SHORT - 3] + "…'"
