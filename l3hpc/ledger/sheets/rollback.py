"""Finding what landed in the wrong place because a person moved rows or columns while we wrote.

The API has no way to say "only if the sheet is still as I read it". So the rows as they were read a
moment before the write, and the cells about to be written, are kept on disk first; afterwards the
sheet is read again. A row that shows our values and is not the row they were meant for gets its own
values back. Where nobody can tell what it held, nothing is touched, and a person is told.
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
from l3hpc.ledger.cells import Cell, cells, key_cells, cell_text, same_cell
from l3hpc.ledger.schema import TABS, Tab, column_letter
from l3hpc.ledger.sheets.anchors import Target
from l3hpc.ledger.sheets.diff import SyncPlan
from l3hpc.ledger.sheets.grid import Snapshot, TabGrid
from l3hpc.ledger.store import key_json

ABANDONED_AFTER_S = 900.0


class Misplaced(NamedTuple):
    """A grid row that shows our values in a place that is not theirs.

    cells: column → what to put back. is_known: whether that is what stood there; if not, ``cells``
    says only which columns are meant.
    """

    place: int
    cells: dict[int, Cell]
    is_known: bool = True

    def describe(self) -> str:
        """The cells, for a person: ``T7, U7``."""
        return ", ".join(f"{column_letter(column)}{self.place + 1}" for column in sorted(self.cells))


def make_intent(plan: SyncPlan, snapshot: Snapshot, targets: Sequence[Target]) -> dict[str, Any]:
    """What is about to be written, and the rows as they are, as JSON values.

    versions: those of the sheet during which this write may be under way. undone: what was put back
    later, in the form of ``tabs``, because that can land in a wrong place as well.
    """
    tabs = {own.grid.tab.name: {
        "before": {}, "planned": {}, "rows": own.grid.rows, "writes": [],
        "inserted": {key_json(key_cells(row.tab, row.key)): cells(row) for row in own.inserts}}
        for own in plan.tabs}
    _note(tabs, targets)
    return {"version": snapshot.next_version, "versions": [snapshot.next_version], "tabs": tabs,
            "undone": [], "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}


def update_intent(value: Mapping[str, Any], grids: Iterable[TabGrid], targets: Iterable[Target]) -> None:
    """Make an intent of what was read last (in ``grids``), and of what is written in fact."""
    for grid in grids:
        value["tabs"][grid.tab.name].update(rows=grid.rows, writes=[])
    _note(value["tabs"], targets)


def add_undone(value: dict[str, Any], lines: Mapping[str, Sequence[Sequence[Any]]],
               targets: Sequence[Target]) -> None:
    """Take cells into an intent that are put back now. lines: tabs as wide as they are."""
    tabs = {name: {"header": list(rows[0]), "rows": list(rows[1:]), "writes": [], "inserted": {}}
            for name, rows in lines.items() if rows}
    _note(tabs, targets)
    value.setdefault("undone", []).append(tabs)


def _note(tabs: Mapping[str, Any], targets: Iterable[Target]) -> None:
    """Note each write with the number of the row that it is for."""
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
    """Where an intent of this process is kept."""
    return folder / f"intent-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"


def save_intent(path: Path, value: Mapping[str, Any]) -> None:
    """Keep an intent until the write was seen to be right."""
    write_text(path, json.dumps(value))


def abandoned_intents(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Intents whose syncer ended before it looked at what it wrote."""
    for path in sorted(folder.glob("intent-*.json")) if folder.is_dir() else []:
        try:
            value = read_json(path)
        except (OSError, InputError, ValueError):
            continue
        if _is_intent(value) and not _is_alive(value):
            yield path, value


def is_current(value: Mapping[str, Any], version: int) -> bool:
    """Whether the sheet's version is one of those of an intent's write."""
    return version in (value.get("versions") or [value["version"]])


def _is_intent(value: Any) -> bool:
    """Whether a file of a shared folder holds what this module writes there."""
    if not isinstance(value, dict):
        return False
    versions = [value.get("version"), *(value.get("versions") or [])]
    stages = [value.get("tabs"), *(value.get("undone") or [])]
    return (all(type(version) is int for version in versions)
            and type(value.get("pid")) is int and type(value.get("time")) in (int, float)
            and all(isinstance(tabs, dict) and all(
                name in TABS and isinstance(kept, dict) and isinstance(kept.get("inserted"), dict)
                and (isinstance(kept.get("rows"), list) and isinstance(kept.get("writes"), list)
                     or isinstance(kept.get("before"), dict)
                     and isinstance(kept.get("planned"), dict))
                for name, kept in tabs.items()) for tabs in stages))


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


def find_misplaced(value: Mapping[str, Any], tab: Tab, header: Sequence[Any],
              rows: Sequence[Sequence[Any]]) -> list[Misplaced]:
    """The rows of a tab that show cells of an intent in a foreign place.

    header, rows: the tab as it is now, as wide as it is. Nothing is returned for a header that no
    longer holds each declared title exactly once.
    """
    titles = [title if isinstance(title, str) else None for title in header]
    if any(titles.count(title) != 1 for title in tab.titles):
        return []
    at = {position: tab.titles.index(title) for position, title in enumerate(titles)
          if title in tab.titles}
    found: dict[int, Misplaced] = {}
    for number, tabs in enumerate([value["tabs"], *value.get("undone", [])]):
        kept = tabs.get(tab.name)
        if kept is None:
            continue
        if not number and any(position != column for position, column in at.items()):
            some = _in_moved_columns(tab, kept, at, rows)
        elif not number or _plain(kept["header"], len(header)) == list(header):
            some = _in_other_rows(tab, kept, rows)
        else:
            continue
        found.update((one.place, one) for one in some)
    return list(found.values())


def has_arrived(tab: Tab, kept: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> bool:
    """Whether each cell and each new row of a tab's part of an intent is in the row of its key."""
    shown = {_key(tab, row): row for row in rows}
    return all(
        key in shown and _shows(shown[key], values) for key, values in [
            *((_key(tab, _overlaid(row, values)), values) for row, values in _writes(tab, kept)),
            *((key, dict(enumerate(line))) for key, line in kept["inserted"].items())])


def _in_other_rows(tab: Tab, kept: Mapping[str, Any], rows: Sequence[Sequence[Any]],
                   ) -> list[Misplaced]:
    """Each write of ours went to one row as a whole. Where the row that it was meant for does not
    show it, a row that shows it, and did not do so before, is where it went."""
    before, width = _rows_before(kept), len(tab.columns)
    width = max([width, *map(len, before)])
    before = [_plain(row, width) for row in before]
    after = [_plain(row, width) for row in rows]
    was, now = Counter(map(_comparable, before)), Counter(map(_comparable, after))
    gone = [row for row in before if now[_comparable(row)] < was[_comparable(row)]]
    gone.append([None] * width)  # there are always more empty rows
    keys = {tab.index(name) for name in tab.key}
    by_key: dict[str, list[Sequence[Any]]] = {}
    for row in after:
        by_key.setdefault(_key(tab, row), []).append(row)
    found: dict[int, Misplaced] = {}
    for meant, values in _writes(tab, kept):
        key = _key(tab, meant)
        if now[_comparable(_overlaid(_plain(meant, width), values))] or (
                _is_whole(key) and keys.isdisjoint(values) and any(
                    _shows(row, values) for row in by_key.get(key, ()))):
            continue  # it arrived
        for place, row in enumerate(after, 1):
            if not _shows(row, values) or now[_comparable(row)] <= was[_comparable(row)]:
                continue
            origin = next((old for old in gone
                           if _comparable(_overlaid(old, values)) == _comparable(row)), None)
            if origin is None and _is_whole(_key(tab, row)):
                same_key = [old for old in gone if _key(tab, old) == _key(tab, row)]
                origin = same_key[0] if len(same_key) == 1 else None
            if origin is not None:
                found[place] = Misplaced(place, {
                    column: origin[column] for column in values
                    if not same_cell(origin[column], row[column])})
            elif any(value is not None for value in values.values()):
                found[place] = Misplaced(place, dict.fromkeys(values), is_known=False)
    return [one for one in found.values() if one.cells]


def _in_moved_columns(tab: Tab, kept: Mapping[str, Any], at: Mapping[int, int],
                      rows: Sequence[Sequence[Any]]) -> list[Misplaced]:
    """A row of ours got its values by position, and another column stands there now."""
    where = {column: position for position, column in at.items()}
    before = {_key(tab, row): row for row in _rows_before(kept)}
    written = {_key(tab, row): values for row, values in _writes(tab, kept)}
    found = []
    for place, row in enumerate(rows, 1):
        wanted: dict[int, Cell] = {}
        new = _inserted(kept, row)
        if new is not None:
            wanted = {position: new[column] for position, column in at.items()}
            for position in range(len(new)):
                wanted.setdefault(position, None)  # a person's new column: not ours
        else:
            key = key_json(cell_text(value) if (value := _at(row, where[tab.index(name)])) is not None
                           else "" for name in tab.key)
            planned = written.get(key, {})
            for position, value in planned.items():
                column = at.get(position)
                if not same_cell(_at(row, position), value):
                    continue
                if column is None:
                    wanted[position] = None
                elif column in planned:
                    wanted[position] = planned[column]
                elif key in before:
                    wanted[position] = before[key][column]
        changed = {position: value for position, value in sorted(wanted.items())
                   if not same_cell(_at(row, position), value)}
        if changed:
            found.append(Misplaced(place, changed))
    return found


def _inserted(kept: Mapping[str, Any], row: Sequence[Any]) -> list[Cell] | None:
    """The new row of ours that stands in ``row``, by the positions it was written to."""
    for line in kept["inserted"].values():
        if all(same_cell(_at(row, position), value) for position, value in enumerate(line)):
            return list(line)
    return None


def _rows_before(kept: Mapping[str, Any]) -> list[list[Any]]:
    """The rows as they were read; an intent of an earlier version holds those with a key."""
    return kept["rows"] if "rows" in kept else list(kept["before"].values())


def _writes(tab: Tab, kept: Mapping[str, Any]) -> list[tuple[Sequence[Any], dict[int, Cell]]]:
    """(the row as it was, column → value) of each write; an intent of an earlier version has them
    by key."""
    if "writes" in kept:
        return [(kept["rows"][number], {int(column): cell for column, cell in values.items()})
                for number, values in kept["writes"]]
    return [(kept["before"][key], {int(column): cell for column, cell in values.items()})
            for key, values in kept["planned"].items() if key in kept["before"]]


def _is_whole(key: str) -> bool:
    return all(json.loads(key))


def _key(tab: Tab, row: Sequence[Any]) -> str:
    return key_json("" if (value := _at(row, tab.index(name))) is None else cell_text(value)
                    for name in tab.key)


def _shows(row: Sequence[Any], values: Mapping[int, Cell]) -> bool:
    return all(same_cell(_at(row, column), value) for column, value in values.items())


def _overlaid(row: Sequence[Any], values: Mapping[int, Cell]) -> list[Any]:
    return [values.get(column, value) for column, value in enumerate(row)]


def _plain(row: Sequence[Any], width: int) -> list[Any]:
    return [None if (value := _at(row, column)) == "" else value for column in range(width)]


def _comparable(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row as a value that is equal to that of a row with the same cells (``True`` is not 1;
    numbers to 12 digits)."""
    return tuple((isinstance(value, bool), float(f"{value:.12g}"))
                 if isinstance(value, (int, float)) else value for value in row)


def _at(row: Sequence[Any], position: int) -> Any:
    return row[position] if position < len(row) else None
