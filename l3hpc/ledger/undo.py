"""Undoing what landed in the wrong place because a person moved rows or columns while we wrote.

The API has no way to say "only if the sheet is still as I read it". So the sheet as it was read and
the cells about to be written are kept on disk first; afterwards the sheet is read again, and any
cell that shows our value where another row or column now is gets its own value back.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError
from l3hpc.files import read_json, write_text
from l3hpc.ledger.cells import Cell, cells, key_cells, same, text
from l3hpc.ledger.columns import Tab
from l3hpc.ledger.grid import Snapshot
from l3hpc.ledger.plan import Plan
from l3hpc.ledger.store import key_json

ABANDONED_AFTER_S = 900.0


def intent(plan: Plan, snapshot: Snapshot) -> dict[str, Any]:
    """What is about to be written, and the rows as they are, as JSON values.

    Rows that show one key twice are left out: nobody can tell afterwards which of them is which.
    """
    tabs: dict[str, Any] = {}
    for own in plan.tabs:
        tab = own.grid.tab
        planned: dict[str, dict[str, Cell]] = {}
        for write in own.writes:
            key = key_json(key_cells(tab, write.row.key))
            planned.setdefault(key, {})[str(write.column)] = write.new
        before = {key_json(key): own.grid.rows[places[0] - 1]
                  for key, places in own.grid.positions().items() if len(places) == 1}
        tabs[tab.name] = {
            "before": before, "planned": planned,
            "inserted": {key_json(key_cells(tab, row.key)): cells(row) for row in own.inserts}}
    return {"version": snapshot.next_version, "tabs": tabs, "host": socket.gethostname(),
            "pid": os.getpid(), "time": time.time()}


def save(folder: Path, value: Mapping[str, Any]) -> Path:
    """Keep an intent in ``folder`` until the write was seen to be right."""
    path = folder / f"intent-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
    write_text(path, json.dumps(value))
    return path


def abandoned(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Intents whose syncer ended before it looked at what it wrote."""
    for path in sorted(folder.glob("intent-*.json")) if folder.is_dir() else []:
        try:
            value = read_json(path)
        except (OSError, InputError):
            continue
        if not _is_alive(value):
            yield path, value


def _is_alive(value: Mapping[str, Any]) -> bool:
    if value.get("host") == socket.gethostname():
        if value.get("pid") == os.getpid():
            return False  # of an earlier pass of this process, which failed
        try:
            os.kill(int(value["pid"]), 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
    return time.time() - float(value.get("time", 0)) < ABANDONED_AFTER_S


def misplaced(tab: Tab, kept: Mapping[str, Any], header: Sequence[Any],
              rows: Sequence[Sequence[Any]]) -> list[tuple[int, int, Cell]]:
    """(grid row, column, value to put back) for each cell of ours in a foreign place.

    kept: a tab's part of an intent. header, rows: the tab as it is now, as wide as it is.
    Nothing is returned for a header that no longer holds each declared title exactly once.
    """
    titles = [value if isinstance(value, str) else None for value in header]
    if any(titles.count(title) != 1 for title in tab.titles):
        return []
    at = {position: tab.titles.index(title) for position, title in enumerate(titles)
          if title in tab.titles}
    where = {column: position for position, column in at.items()}
    values: dict[int, list[Cell]] = {}
    for planned in kept["planned"].values():
        for column, value in planned.items():
            values.setdefault(int(column), []).append(value)
    moved = any(position != column for position, column in at.items())
    found: list[tuple[int, int, Cell]] = []
    for place, row in enumerate(rows, 1):
        inserted = _inserted(kept, row) if moved else None
        if inserted is not None:
            found += _realigned(place, row, inserted, at)
            continue
        key = key_json(tuple(text(value) if (value := _at(row, where[tab.index(name)])) is not None
                             else "" for name in tab.key))
        planned = kept["planned"].get(key, {})
        before = kept["before"].get(key)
        for position, candidates in values.items():
            shown = _at(row, position)
            if not any(same(shown, value) for value in candidates):
                continue
            column = at.get(position)
            if column is None:
                found.append((place, position, None))
            elif str(column) in planned:
                if not same(shown, planned[str(column)]):
                    found.append((place, position, planned[str(column)]))
            elif before is not None and not same(shown, before[column]):
                found.append((place, position, before[column]))
    return found


def _inserted(kept: Mapping[str, Any], row: Sequence[Any]) -> list[Cell] | None:
    """The new row of ours that stands in ``row``, by the positions it was written to."""
    for line in kept["inserted"].values():
        if all(same(_at(row, position), value) for position, value in enumerate(line)):
            return list(line)
    return None


def _realigned(place: int, row: Sequence[Any], line: list[Cell], at: Mapping[int, int],
               ) -> list[tuple[int, int, Cell]]:
    wanted = {position: line[column] for position, column in at.items()}
    for position in range(len(line)):
        wanted.setdefault(position, None)  # a person's new column: not ours
    return [(place, position, value) for position, value in sorted(wanted.items())
            if not same(_at(row, position), value)]


def _at(row: Sequence[Any], position: int) -> Any:
    return row[position] if position < len(row) else None
