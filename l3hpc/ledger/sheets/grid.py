"""What a spreadsheet looked like at one moment, and the marks by which writes happen once.

Four kinds of developer metadata, all visible to every account that may edit the sheet:
``t`` on a tab names the results tab it is, whatever a person calls it (its id is a hash of the
name, so a duplicate of the tab cannot have it); ``l`` on a tab says that the row of a key was
written (its id is a hash of tab and key, so a second creation is refused); ``v`` on the spreadsheet
is the version: each batch creates the next one, so of two batches made from the same reading only
one is applied; ``a`` on rows, and once on the spreadsheet, are the anchors of one write
(``anchors``).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l3hpc.errors import HeaderDriftError
from l3hpc.ledger.cells import cell_text
from l3hpc.ledger.schema import TABS, Tab, column_letter
from l3hpc.ledger.store import key_json

TAB_MARK, ROW_MARK, VERSION_MARK, ANCHOR_MARK = "t", "l", "v", "a"
VERSIONS_KEPT = 400
ROW_MARK_CHARACTERS = 5  # its key and its check value
METADATA_LIMIT = 29_000  # characters per tab; Google's limit is 30,000
_SPACE = re.compile(r"[\s\u200b-\u200d\u2060\ufeff]+")


@dataclass
class Mark:
    """One piece of developer metadata."""

    id: int
    key: str
    value: str
    sheet: int | None


@dataclass
class TabGrid:
    """One tab as read: grid size, header and rows (both as wide as the declared columns).

    row numbers are 0-based positions in the grid; the header is row 0. locked: protected ranges
    that this account may not edit, as Google describes them.
    """

    tab: Tab
    sheet: int
    title: str
    row_count: int
    column_count: int
    frozen_rows: int = 0
    protected: bool = False
    has_filter_view: bool = False
    marked: bool = False
    locked: list[Mapping[str, Any]] = field(default_factory=list)
    metadata_characters: int = 0
    header: list[Any] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)

    @property
    def next_row(self) -> int:
        """The first grid row behind everything in the declared columns."""
        return 1 + len(self.rows)

    @property
    def room_for_marks(self) -> int:
        """How many row marks the tab's metadata can still take."""
        return max(0, METADATA_LIMIT - self.metadata_characters) // ROW_MARK_CHARACTERS

    def positions(self) -> dict[tuple[str, ...], list[int]]:
        """Key texts → grid rows that show exactly them."""
        columns = {name: self.tab.index(name) for name in self.tab.key}
        found: dict[tuple[str, ...], list[int]] = {}
        for number, row in enumerate(self.rows, 1):
            key = tuple(cell_text(row[columns[name]]) if columns[name] < len(row)
                        and row[columns[name]] is not None else "" for name in self.tab.key)
            if all(key):
                found.setdefault(key, []).append(number)
        return found

    def located(self, keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], list[int]]:
        """Key texts → the grid rows that show them, for each of ``keys``.

        A key that no row shows exactly is looked for without regard to white space, which people
        change without seeing it; a row that shows another one of ``keys`` exactly is not taken.
        """
        keys = list(keys)
        exact = self.positions()
        known = set(keys)
        loose: dict[tuple[str, ...], list[int]] = {}
        for shown, places in exact.items():
            if shown not in known:
                loose.setdefault(_without_space(shown), []).extend(places)
        rivals = Counter(_without_space(key) for key in keys if key not in exact)
        return {key: exact[key] if key in exact else
                loose.get(_without_space(key), []) if rivals[_without_space(key)] == 1 else []
                for key in keys}

    def lock_on(self, place: int, columns: Iterable[int]) -> Mapping[str, Any] | None:
        """The protected range that keeps this account from writing ``columns`` of a grid row."""
        return next((lock for lock in self.locked for column in columns
                     if _covers(lock.get("range", {}), place, column) and not any(
                         _covers(free, place, column)
                         for free in lock.get("unprotectedRanges", []))), None)

    def lock_on_new_row(self, place: int) -> Mapping[str, Any] | None:
        """The protected range within which a row inserted at ``place`` would lie."""
        return next((lock for lock in self.locked
                     if lock.get("range", {}).get("startRowIndex", 0) < place
                     < lock.get("range", {}).get("endRowIndex", 1 << 31)
                     and lock.get("range", {}).get("startColumnIndex", 0) < len(self.tab.columns)
                     and not lock.get("unprotectedRanges")), None)

    def header_row(self) -> int | None:
        """The grid row that the header was moved to, if it was."""
        return header_row(self.tab, [self.header, *self.rows])

    def drift(self) -> list[tuple[str, str, str]]:
        """(cell, expected, found) of every header cell that differs."""
        return [(f"{column_letter(index)}1", title, cell_text(found) if found is not None else "")
                for index, (title, found) in enumerate(
                    zip(self.tab.titles, padded(self.header, len(self.tab.titles)), strict=True))
                if found != title]


@dataclass
class Snapshot:
    """A spreadsheet as read: its title, version and tabs by declared name.

    titles: of all tabs. charts: titles of tabs that hold no cells. doubtful: declared name → titles
    of the tabs that claim to be it, where it cannot be told which one is.
    """

    title: str
    version: int
    marks: dict[int, Mark]
    tabs: dict[str, TabGrid]
    titles: list[str]
    charts: list[str] = field(default_factory=list)
    doubtful: dict[str, list[str]] = field(default_factory=dict)

    @property
    def has_anchors(self) -> bool:
        """Whether anchors of a write may stand on rows."""
        return any(mark.key == ANCHOR_MARK and mark.sheet is None for mark in self.marks.values())

    @property
    def next_version(self) -> int:
        """The version that the next batch takes; steps over hash collisions."""
        version = self.version + 1
        while version_identity(version) in self.marks:
            version += 1
        return version

    def row_mark(self, tab: Tab, key: Sequence[str]) -> tuple[int, str, bool]:
        """(id, check value, whether it is set) of a row's mark; steps over hash collisions."""
        for probe in range(1000):
            identity, value = row_identity(tab, key, probe)
            mark = self.marks.get(identity)
            if mark is None:
                return identity, value, False
            if mark.key == ROW_MARK and mark.value == value:
                return identity, value, True
        raise AssertionError("a thousand hash collisions in a row")


def row_identity(tab: Tab, key: Sequence[str], probe: int = 0) -> tuple[int, str]:
    """The metadata id (31 bits, not 0) of a row and its check value (24 bits as 4 characters)."""
    seed = f"{tab.name}\n{key_json(key)}\n{probe}".encode("utf-8", "surrogatepass")
    raw = hashlib.blake2b(seed, digest_size=7, person=b"l3hpc-row").digest()
    return (int.from_bytes(raw[:4], "big") & 0x7FFFFFFF) or 1, base64.b64encode(raw[4:]).decode()


def tab_identity(name: str) -> int:
    """The metadata id (31 bits, not 0) of the mark on a results tab."""
    raw = hashlib.blake2b(name.encode(), digest_size=4, person=b"l3hpc-tab").digest()
    return (int.from_bytes(raw, "big") & 0x7FFFFFFF) or 1


def version_identity(version: int) -> int:
    """The metadata id of a version (31 bits, not 0)."""
    raw = hashlib.blake2b(str(version).encode(), digest_size=4, person=b"l3hpc-version").digest()
    return (int.from_bytes(raw, "big") & 0x7FFFFFFF) or 1


def parse_structure(structure: Mapping[str, Any]) -> Snapshot:
    """The snapshot of a spreadsheet's structure, without values."""
    marks: dict[int, Mark] = {}
    for item in structure.get("developerMetadata", []):
        _mark(marks, item, None)
    claims: dict[str, list[tuple[int, TabGrid]]] = {}
    titles, charts = [], []
    for sheet in structure.get("sheets", []):
        properties = sheet["properties"]
        size = properties.get("gridProperties", {})
        number = properties.get("sheetId", 0)
        own = [_mark(marks, item, number) for item in sheet.get("developerMetadata", [])]
        titles.append(properties["title"])
        if properties.get("sheetType", "GRID") != "GRID" or not size:
            charts.append(properties["title"])
            continue
        named = [mark for mark in own if mark.key == TAB_MARK and mark.value in TABS]
        name = named[0].value if named else properties["title"]
        if name not in TABS:
            continue
        protections = sheet.get("protectedRanges", [])
        grid = TabGrid(
            TABS[name], number, properties["title"], size.get("rowCount", 0),
            size.get("columnCount", 0), size.get("frozenRowCount", 0),
            bool(protections), bool(sheet.get("filterViews")), bool(named),
            [one for one in protections
             if not one.get("warningOnly") and not one.get("requestingUserCanEdit")],
            sum(len(mark.key) + len(mark.value) for mark in own))
        rank = 0 if any(mark.id == tab_identity(name) for mark in named) else (
            1 if named and grid.title == name else 2 if named else 3)
        claims.setdefault(name, []).append((rank, grid))
    grids: dict[str, TabGrid] = {}
    doubtful: dict[str, list[str]] = {}
    for name, found in claims.items():
        best = min(rank for rank, _ in found)
        chosen = [grid for rank, grid in found if rank == best]
        if len(chosen) == 1:
            grids[name] = chosen[0]
        else:
            doubtful[name] = [grid.title for grid in chosen]
    versions = [int(mark.value) for mark in marks.values()
                if mark.key == VERSION_MARK and mark.sheet is None and mark.value.isdigit()]
    return Snapshot(structure.get("properties", {}).get("title", ""), max(versions, default=0),
                    marks, grids, titles, charts, doubtful)


def cell_range(grid: TabGrid) -> str:
    """The declared columns of a tab, all rows, in A1 notation."""
    last = column_letter(min(len(grid.tab.columns), max(grid.column_count, 1)) - 1)
    return f"'{grid.title.replace(chr(39), chr(39) * 2)}'!A:{last}"


def fill_grid(grid: TabGrid, values: Sequence[Sequence[Any]]) -> None:
    """Put read values into a tab's grid."""
    width = len(grid.tab.columns)
    lines = [padded(line, width) for line in values]
    while lines and all(value in (None, "") for value in lines[-1]):
        lines.pop()
    grid.header = lines[0] if lines else [None] * width
    grid.rows = lines[1:]


def padded(line: Sequence[Any], width: int) -> list[Any]:
    """``line`` with empty cells as None, exactly ``width`` long."""
    cut = [None if value == "" else value for value in line[:width]]
    return cut + [None] * (width - len(cut))


def header_row(tab: Tab, lines: Sequence[Sequence[Any]]) -> int | None:
    """The row that the header of a tab was moved to (by a sort over the whole tab, or by a row that
    was inserted above it): the only one that shows at least half of the titles, if the first row
    shows none."""
    titles = set(tab.titles)

    def shown(line: Sequence[Any]) -> int:
        return len({value for value in line if isinstance(value, str)} & titles)

    if not lines or shown(lines[0]):
        return None
    found = [place for place, line in enumerate(lines) if 2 * shown(line) >= len(titles)]
    return found[0] if len(found) == 1 else None


def require_headers(snapshot: Snapshot, tabs: Sequence[Tab]) -> None:
    """Refuse with every difference unless all ``tabs`` exist with exactly the declared header."""
    for tab in tabs:
        grid = snapshot.tabs.get(tab.name)
        if tab.name in snapshot.doubtful:
            raise HeaderDriftError(
                f"cannot tell which tab of {snapshot.title!r} is {tab.name!r}; nothing was "
                "written", allowed=f"one of: {', '.join(map(repr, snapshot.doubtful[tab.name]))}",
                hint=f"Rename the right one to {tab.name!r} in the sheet, then: l3hpc ledger check")
        if grid is None and tab.name in snapshot.charts:
            raise HeaderDriftError(
                f"the tab {tab.name!r} of {snapshot.title!r} is a chart, not a table; nothing was "
                "written", hint="Rename it in the sheet, then: l3hpc ledger init")
        if grid is None:
            raise HeaderDriftError(
                f"{snapshot.title!r} has no tab {tab.name!r}; nothing was written",
                allowed=f"its tabs: {', '.join(snapshot.titles)}", hint="l3hpc ledger init")
        drift = grid.drift()
        if drift:
            raise HeaderDriftError(drift_message(snapshot, grid, drift), **_advice(grid, drift))


def drift_message(snapshot: Snapshot, grid: TabGrid, drift: list[tuple[str, str, str]]) -> str:
    """What is said about changed columns."""
    name = repr(grid.tab.name)
    if grid.title != grid.tab.name:
        name += f" (now called {grid.title!r})"
    return f"tab {name} of {snapshot.title!r} has changed columns; nothing was written."


def _advice(grid: TabGrid, drift: list[tuple[str, str, str]]) -> dict[str, str]:
    lines = [f"{place}: expected {expected!r}, found {found!r}"
             for place, expected, found in drift[:4]]
    if len(drift) > 4:
        lines[-1] += f"   (and {len(drift) - 4} more: l3hpc ledger check)"
    first = drift[0][0][:-1]
    last = column_letter(len(grid.tab.columns) - 1)
    index = grid.tab.titles.index(drift[0][1])
    shifted = index + 1 < len(grid.header) and grid.header[index + 1] == drift[0][1]
    moved = grid.header_row()
    if moved is not None:
        return {"allowed": f"Its header is row {moved + 1} now: was it sorted with the rows, or a "
                           "row inserted above it?",
                "hint": "l3hpc ledger repair   moves it back to row 1; it asks first"}
    if not any(value is not None for value in grid.header):
        hint = "The header row is empty. Then:   l3hpc ledger init"
    elif shifted:
        hint = (f"Someone inserted a column at {first}. Undo it in the sheet, or move it behind "
                f"{last}, then: l3hpc ledger check")
    else:
        hint = (f"Put the titles in A1:{last}1 back as declared (own columns go behind {last}), "
                "then: l3hpc ledger check")
    return {"allowed": "\n".join(lines), "hint": hint}


def _without_space(key: Iterable[str]) -> tuple[str, ...]:
    return tuple(_SPACE.sub("", part) for part in key)


def _covers(area: Mapping[str, Any], row: int, column: int) -> bool:
    """Whether a grid range (unbounded where an index is missing) holds a cell."""
    return (area.get("startRowIndex", 0) <= row < area.get("endRowIndex", 1 << 31)
            and area.get("startColumnIndex", 0) <= column < area.get("endColumnIndex", 1 << 31))


def _mark(marks: dict[int, Mark], item: Mapping[str, Any], sheet: int | None) -> Mark:
    mark = Mark(int(item["metadataId"]), item.get("metadataKey", ""),
                item.get("metadataValue", ""), sheet)
    marks[mark.id] = mark
    return mark
