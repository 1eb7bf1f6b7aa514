"""Finding cells that were written to a wrong place because people moved rows or columns meanwhile.

The API cannot write "only if the sheet is still as it was read". So an *intent* is saved to disk
before each write: the rows as they were last read, and the cells to be written. Afterwards the
sheet is read again. A row that shows our values without being the row for which they were meant
gets its own values back. Where its former values are unknown, nothing is written, and a person is
notified.

The parts of this module: making and saving intents, reading those that another process left, and
comparing an intent with the sheet as it is now.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from l3hpc.errors import InputError
from l3hpc.io.files import read_json, write_text
from l3hpc.ledger.cells import Cell, cell_text, cells, key_cells, same_cell
from l3hpc.ledger.schema import TABS, Tab, column_letter
from l3hpc.ledger.sheets.anchors import Target
from l3hpc.ledger.sheets.diff import SyncPlan
from l3hpc.ledger.sheets.grid import Snapshot, TabGrid, padded
from l3hpc.ledger.store import key_json

ABANDONED_AFTER_S = 900.0  # an intent of another host: that process can no longer be asked

Intent = dict[str, Any]  # JSON values, see ``make_intent``


class Misplaced(NamedTuple):
    """Cells of a row of the sheet that show values of ours which belong elsewhere.

    Attributes
    ----------
    grid_row
        Position of the row (0-based; the header is row 0).
    cells
        Column → former value, which is to be restored.
    is_known
        Whether the former values are known; if not, ``cells`` only has the columns.
    """

    grid_row: int
    cells: dict[int, Cell]
    is_known: bool = True

    def describe(self) -> str:
        """Return the names of the cells, such as ``T7, U7``."""
        return ", ".join(f"{column_letter(column)}{self.grid_row + 1}"
                         for column in sorted(self.cells))


# --- intents of this process ----------------------------------------------------------------------

def make_intent(plan: SyncPlan, snapshot: Snapshot, targets: Sequence[Target]) -> Intent:
    """Describe a write before it is sent.

    Parameters
    ----------
    plan
        What is to be written.
    snapshot
        The reading from which the plan was made.
    targets
        Cells of existing rows.

    Returns
    -------
    dict
        JSON values: ``tabs`` (per tab the ``rows`` as they are, the ``writes``, and the
        ``inserted`` rows by key), ``versions`` of the sheet during which the write may take
        effect, and ``undone``: cells that were restored later, in the form of ``tabs``, since
        these can be written to a wrong place as well.
    """
    tabs = {own.grid.tab.name: {
        # an earlier version of l3hpc reads "before" and "planned"
        "before": {}, "planned": {}, "rows": own.grid.rows, "writes": [],
        "inserted": {key_json(key_cells(row.tab, row.key)): cells(row) for row in own.inserts}}
        for own in plan.tabs}
    _add_writes(tabs, targets)
    return {"version": snapshot.next_version, "versions": [snapshot.next_version], "tabs": tabs,
            "undone": [], "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}


def update_intent(intent: Mapping[str, Any], grids: Iterable[TabGrid], targets: Iterable[Target],
                  ) -> None:
    """Replace the rows of an intent by a later reading, and its writes by those that are sent.

    Parameters
    ----------
    intent
        The intent.
    grids
        Tabs as they were read last.
    targets
        Cells of existing rows that are sent.
    """
    for grid in grids:
        intent["tabs"][grid.tab.name].update(rows=grid.rows, writes=[])
    _add_writes(intent["tabs"], targets)


def add_undone(intent: Intent, lines: Mapping[str, Sequence[Sequence[Any]]],
               targets: Sequence[Target]) -> None:
    """Add cells that are about to be restored to an intent.

    Parameters
    ----------
    intent
        The intent.
    lines
        Tab → all its cells in full width, header first.
    targets
        The cells.
    """
    tabs = {name: {"header": list(rows[0]), "rows": list(rows[1:]), "writes": [], "inserted": {}}
            for name, rows in lines.items() if rows}
    _add_writes(tabs, targets)
    intent.setdefault("undone", []).append(tabs)


def _add_writes(tabs: Mapping[str, Any], targets: Iterable[Target]) -> None:
    """Add each write to its tab, with the number of its row among the rows of the intent."""
    numbers: dict[str, dict[str, list[int]]] = {}
    for name, kept in tabs.items():
        own = numbers[name] = {}
        for number, row in enumerate(kept["rows"]):
            own.setdefault(_key(TABS[name], row), []).append(number)
    for target in targets:
        name = target.grid.tab.name
        rows = tabs[name]["rows"]
        shown = [target.expect.get(column) for column in range(len(target.grid.tab.columns))]
        fitting = [number for number in numbers[name].get(_key(TABS[name], shown), ())
                   if all(same_cell(_at(rows[number], column), old)
                          for column, old in target.expect.items())]
        if fitting:
            tabs[name]["writes"].append([fitting[0], {str(column): cell
                                                      for column, cell in target.cells.items()}])


def new_intent_path(folder: Path) -> Path:
    """Return a path for an intent of this process."""
    return folder / f"intent-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"


def save_intent(path: Path, intent: Mapping[str, Any]) -> None:
    """Save an intent until the write has been checked."""
    write_text(path, json.dumps(intent))


def is_current(intent: Mapping[str, Any], version: int) -> bool:
    """Return whether the sheet has still one of the versions of the write of an intent."""
    return version in (intent.get("versions") or [intent["version"]])


# --- intents of other processes -------------------------------------------------------------------

def abandoned_intents(folder: Path) -> Iterator[tuple[Path, Intent]]:
    """Yield the intents of processes that ended before they checked their write.

    Parameters
    ----------
    folder
        Folder of the intents; it need not exist.
    """
    for path in sorted(folder.glob("intent-*.json")) if folder.is_dir() else []:
        try:
            intent = read_json(path)
        except (OSError, InputError, ValueError):
            continue
        if _is_intent(intent) and not _is_alive(intent):
            yield path, intent


def _is_intent(value: object) -> bool:
    """Return whether a file of a shared folder has the form of an intent."""
    if not isinstance(value, dict):
        return False
    versions = [value.get("version"), *(value.get("versions") or [])]
    stages = [value.get("tabs"), *(value.get("undone") or [])]
    # not isinstance, for which True is a number
    return (all(type(version) is int for version in versions)
            and type(value.get("pid")) is int and type(value.get("time")) in (int, float)
            and all(isinstance(tabs, dict) and all(
                name in TABS and isinstance(kept, dict) and isinstance(kept.get("inserted"), dict)
                and (isinstance(kept.get("rows"), list) and isinstance(kept.get("writes"), list)
                     or isinstance(kept.get("before"), dict)
                     and isinstance(kept.get("planned"), dict))
                for name, kept in tabs.items()) for tabs in stages))


def _is_alive(intent: Mapping[str, Any]) -> bool:
    """Return whether the process of an intent may still be running."""
    if intent.get("host") == socket.gethostname():
        # an intent of this process is of an earlier round, which failed
        if intent.get("pid") == os.getpid():
            return False
        try:
            os.kill(int(intent["pid"]), 0)
        except ProcessLookupError:
            return False
        except OSError:  # a process of another user
            pass
    return time.time() - float(intent.get("time", 0)) < ABANDONED_AFTER_S


# --- comparing an intent with the sheet -----------------------------------------------------------

def has_arrived(tab: Tab, kept: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> bool:
    """Return whether each cell and each new row of an intent is in the row of its key.

    Parameters
    ----------
    tab
        The tab.
    kept
        Its part of the intent.
    rows
        Its rows as they are now.
    """
    shown = {_key(tab, row): row for row in rows}
    return all(
        key in shown and _shows(shown[key], values) for key, values in [
            *((_key(tab, _overlaid(row, values)), values) for row, values in _writes(kept)),
            *((key, dict(enumerate(line))) for key, line in kept["inserted"].items())])


def recognises(tab: Tab, header: Sequence[Any]) -> bool:
    """Return whether the columns can be told apart: each declared title is there exactly once."""
    return all(sum(other == title for other in header) == 1 for title in tab.titles)


def find_misplaced(intent: Mapping[str, Any], tab: Tab, header: Sequence[Any],
                   rows: Sequence[Sequence[Any]]) -> list[Misplaced]:
    """Find cells of an intent that were written to a wrong place.

    Parameters
    ----------
    intent
        The intent.
    tab
        The tab.
    header, rows
        Its cells as they are now, in full width.

    Returns
    -------
    list of Misplaced
        Empty if the header does not have each declared title exactly once, because columns cannot
        be recognised then.
    """
    if not recognises(tab, header):
        return []
    titles = [title if isinstance(title, str) else None for title in header]
    columns = {position: tab.titles.index(title) for position, title in enumerate(titles)
               if title in tab.titles}
    are_moved = any(position != column for position, column in columns.items())
    found: list[Misplaced] = []
    if tab.name in intent["tabs"]:
        kept = intent["tabs"][tab.name]
        found += (_in_moved_columns(tab, kept, columns, rows) if are_moved
                  else _in_other_rows(tab, kept, rows))
    for tabs in intent.get("undone", []):
        kept = tabs.get(tab.name)
        # restored cells were written by the position of columns, so these must be the same
        if kept is not None and padded(kept["header"], len(header)) == list(header):
            found += _in_other_rows(tab, kept, rows)
    return list({item.grid_row: item for item in found}.values())


def _in_other_rows(tab: Tab, kept: Mapping[str, Any], rows: Sequence[Sequence[Any]],
                   ) -> list[Misplaced]:
    """Find rows that show a write which was meant for another row.

    A write goes to one row as a whole. If the row for which it was meant does not show it, then a
    row that shows it, and did not before, has received it.
    """
    before, width = _rows_before(kept), len(tab.columns)
    width = max([width, *map(len, before)])
    before = [padded(row, width) for row in before]
    after = [padded(row, width) for row in rows]
    # rows may occur several times, so their numbers are compared, not their presence
    was, now = Counter(map(_comparable, before)), Counter(map(_comparable, after))
    gone = [row for row in before if now[_comparable(row)] < was[_comparable(row)]]
    gone.append([None] * width)  # a sheet always has more empty rows
    by_key: dict[str, list[Sequence[Any]]] = {}
    for row in after:
        by_key.setdefault(_key(tab, row), []).append(row)
    found: dict[int, Misplaced] = {}
    for meant, values in _writes(kept):
        if now[_comparable(_overlaid(padded(meant, width), values))] or _is_in_row_of_key(
                tab, meant, values, by_key):
            continue
        for grid_row, row in enumerate(after, 1):
            if not _shows(row, values) or now[_comparable(row)] <= was[_comparable(row)]:
                continue
            former = _former_row(tab, row, values, gone)
            if former is not None:
                found[grid_row] = Misplaced(grid_row, {
                    column: former[column] for column in values
                    if not same_cell(former[column], row[column])})
            elif any(value is not None for value in values.values()):
                found[grid_row] = Misplaced(grid_row, dict.fromkeys(values), is_known=False)
    return [item for item in found.values() if item.cells]


def _is_in_row_of_key(tab: Tab, meant: Sequence[Any], values: Mapping[int, Cell],
                      by_key: Mapping[str, Sequence[Sequence[Any]]]) -> bool:
    """Return whether a row with the key of ``meant`` shows ``values``.

    Other cells of that row may have been changed by a person, so only the key counts.
    """
    key = _key(tab, meant)
    changes_key = not {tab.index(name) for name in tab.key}.isdisjoint(values)
    return (_is_whole(key) and not changes_key
            and any(_shows(row, values) for row in by_key.get(key, ())))


def _former_row(tab: Tab, row: Sequence[Any], values: Mapping[int, Cell],
                gone: Sequence[list[Any]]) -> list[Any] | None:
    """Return what a row showed before ``values`` were written to it; None if that is unknown."""
    for old in gone:
        if _comparable(_overlaid(old, values)) == _comparable(row):
            return old
    # a person changed other cells of the row too: its key may still identify it
    if _is_whole(_key(tab, row)):
        same_key = [old for old in gone if _key(tab, old) == _key(tab, row)]
        return same_key[0] if len(same_key) == 1 else None
    return None


def _in_moved_columns(tab: Tab, kept: Mapping[str, Any], columns: Mapping[int, int],
                      rows: Sequence[Sequence[Any]]) -> list[Misplaced]:
    """Find rows whose values were written by position, after columns were moved.

    ``columns`` is position in the sheet → declared column.
    """
    positions = {column: position for position, column in columns.items()}
    before = {_key(tab, row): row for row in _rows_before(kept)}
    written = {_key(tab, row): values for row, values in _writes(kept)}
    found = []
    for grid_row, row in enumerate(rows, 1):
        new = _inserted(kept, row)
        if new is not None:
            correct = {position: new[column] for position, column in columns.items()}
            for position in range(len(new)):
                correct.setdefault(position, None)  # a new column of a person
        else:
            key = key_json(_text(_at(row, positions[tab.index(name)])) for name in tab.key)
            correct = _correct_cells(columns, row, written.get(key, {}), before.get(key))
        changed = {position: value for position, value in sorted(correct.items())
                   if not same_cell(_at(row, position), value)}
        if changed:
            found.append(Misplaced(grid_row, changed))
    return found


def _correct_cells(columns: Mapping[int, int], row: Sequence[Any], planned: Mapping[int, Cell],
                   before: Sequence[Any] | None) -> dict[int, Cell]:
    """Return position → correct value of the cells to which ``planned`` was written by position."""
    correct: dict[int, Cell] = {}
    for position, value in planned.items():
        if not same_cell(_at(row, position), value):
            continue
        column = columns.get(position)
        if column is None:  # a column of a person
            correct[position] = None
        elif column in planned:
            correct[position] = planned[column]
        elif before is not None:
            correct[position] = before[column]
    return correct


def _inserted(kept: Mapping[str, Any], row: Sequence[Any]) -> list[Cell] | None:
    """Return the new row of an intent that ``row`` shows by position; None if it shows none."""
    for line in kept["inserted"].values():
        if all(same_cell(_at(row, position), value) for position, value in enumerate(line)):
            return list(line)
    return None


# --- parts of an intent and of a row --------------------------------------------------------------

def _rows_before(kept: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows as they were read; an intent of an earlier version has those with a key."""
    return kept["rows"] if "rows" in kept else list(kept["before"].values())


def _writes(kept: Mapping[str, Any]) -> list[tuple[Sequence[Any], dict[int, Cell]]]:
    """Return (row as it was, column → value) of each write.

    An intent of an earlier version has them by key.
    """
    if "writes" in kept:
        return [(kept["rows"][number], {int(column): cell for column, cell in values.items()})
                for number, values in kept["writes"]]
    return [(kept["before"][key], {int(column): cell for column, cell in values.items()})
            for key, values in kept["planned"].items() if key in kept["before"]]


def _key(tab: Tab, row: Sequence[Any]) -> str:
    """Return the key that a row shows, as JSON."""
    return key_json(_text(_at(row, tab.index(name))) for name in tab.key)


def _text(value: object) -> str:
    """Return a cell as text, an empty one as an empty text."""
    return "" if value is None else cell_text(value)


def _is_whole(key: str) -> bool:
    """Return whether no part of a key is empty."""
    return all(json.loads(key))


def _shows(row: Sequence[Any], values: Mapping[int, Cell]) -> bool:
    """Return whether a row shows ``values`` (column → value)."""
    return all(same_cell(_at(row, column), value) for column, value in values.items())


def _overlaid(row: Sequence[Any], values: Mapping[int, Cell]) -> list[Any]:
    """Return a row with ``values`` written to it."""
    return [values.get(column, value) for column, value in enumerate(row)]


def _comparable(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return a value that is equal for rows with the same cells, by the rules of ``same_cell``."""
    return tuple((isinstance(value, bool), float(f"{value:.12g}"))
                 if isinstance(value, (int, float)) else value for value in row)


def _at(row: Sequence[Any], position: int) -> Any:
    """Return a cell, None beyond the end of the row."""
    return row[position] if position < len(row) else None
