"""A reading of a spreadsheet, and the marks that keep a row from being written twice.

Marks are developer metadata of the spreadsheet, visible to every account that can edit it. There
are four kinds, by the key of the metadata:

``t``, on a tab
    The name of the results tab, also if a person renames it. Its id is a hash of the name, so a
    duplicate of the tab cannot have it.
``l``, on a tab
    The row of a key was written. Its id is a hash of tab and key, so Google refuses to create it
    again.
``v``, on the spreadsheet
    The version. Each batch creates the next one, so of two batches that were made from the same
    reading only one is applied.
``a``, on rows and once on the spreadsheet
    The anchors of one write (``anchors``).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l3hpc.errors import HeaderDriftError, Lines, command_line
from l3hpc.ledger.cells import cell_text
from l3hpc.ledger.schema import TABS, Tab, column_letter
from l3hpc.ledger.store import key_json

TAB_MARK, ROW_MARK, VERSION_MARK, ANCHOR_MARK = "t", "l", "v", "a"
VERSIONS_KEPT = 400  # marks; older ones are removed
ROW_MARK_CHARACTERS = 5  # of its key and its check value
METADATA_LIMIT = 29_000  # characters per tab; Google's limit is 30,000
_SPACE = re.compile(r"[\s\u200b-\u200d\u2060\ufeff]+")


@dataclass
class Mark:
    """One piece of developer metadata; ``sheet`` is the id of its tab, None for the spreadsheet."""

    id: int
    key: str
    value: str
    sheet: int | None


@dataclass
class TabGrid:
    """One tab as it was read. Grid rows are 0-based positions; the header is row 0.

    Attributes
    ----------
    tab
        The results tab.
    sheet, title
        Id and present title of the tab in the spreadsheet.
    row_count, column_count, frozen_rows
        Size of the grid.
    protected, has_filter_view, marked
        Whether it has a protected range, a filter view and a tab mark.
    locked
        Protected ranges that this account cannot edit, as Google describes them.
    metadata_characters
        Size of its developer metadata.
    header, rows
        Cells, as wide as the declared columns; None for empty cells.
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
        """The first grid row after all cells in the declared columns."""
        return 1 + len(self.rows)

    @property
    def room_for_marks(self) -> int:
        """How many more row marks fit into the metadata of the tab."""
        return max(0, METADATA_LIMIT - self.metadata_characters) // ROW_MARK_CHARACTERS

    def positions(self) -> dict[tuple[str, ...], list[int]]:
        """Return the grid rows by the key that they show."""
        columns = {name: self.tab.index(name) for name in self.tab.key}
        found: dict[tuple[str, ...], list[int]] = {}
        for number, row in enumerate(self.rows, 1):
            key = tuple(cell_text(row[columns[name]]) if columns[name] < len(row)
                        and row[columns[name]] is not None else "" for name in self.tab.key)
            if all(key):
                found.setdefault(key, []).append(number)
        return found

    def located(self, keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], list[int]]:
        """Find the grid rows of keys.

        A key that no row shows exactly is searched for without regard to white space, which people
        change without noticing. A row that shows another one of ``keys`` exactly does not count.

        Parameters
        ----------
        keys
            Key texts.

        Returns
        -------
        dict
            For each of ``keys``, the grid rows that show it; several if people duplicated the row.
        """
        keys = list(keys)
        exact = self.positions()
        requested = set(keys)
        without_space: dict[tuple[str, ...], list[int]] = {}
        for shown, grid_rows in exact.items():
            if shown not in requested:
                without_space.setdefault(_without_space(shown), []).extend(grid_rows)
        # keys that differ in white space only cannot be told apart without it
        missing = Counter(_without_space(key) for key in keys if key not in exact)
        found = {}
        for key in keys:
            if key in exact:
                found[key] = exact[key]
            else:
                stripped = _without_space(key)
                found[key] = without_space.get(stripped, []) if missing[stripped] == 1 else []
        return found

    def lock_on(self, grid_row: int, columns: Iterable[int]) -> Mapping[str, Any] | None:
        """Return the protected range that keeps this account from writing cells; None if free."""
        return next((lock for lock in self.locked for column in columns
                     if _covers(lock.get("range", {}), grid_row, column) and not any(
                         _covers(free, grid_row, column)
                         for free in lock.get("unprotectedRanges", []))), None)

    def lock_on_new_row(self, grid_row: int) -> Mapping[str, Any] | None:
        """Return the protected range in which a row inserted at ``grid_row`` would be."""
        # a range grows only if a row is inserted between its rows, not before or after them
        return next((lock for lock in self.locked
                     if lock.get("range", {}).get("startRowIndex", 0) < grid_row
                     < lock.get("range", {}).get("endRowIndex", 1 << 31)
                     and lock.get("range", {}).get("startColumnIndex", 0) < len(self.tab.columns)
                     and not lock.get("unprotectedRanges")), None)

    def header_row(self) -> int | None:
        """Return the grid row to which the header was moved; None if it was not."""
        return find_header_row(self.tab, [self.header, *self.rows])

    def drift(self) -> list[tuple[str, str, str]]:
        """Return (cell, expected title, title found) of every header cell that differs."""
        return [(f"{column_letter(index)}1", title, cell_text(found) if found is not None else "")
                for index, (title, found) in enumerate(
                    zip(self.tab.titles, padded(self.header, len(self.tab.titles)), strict=True))
                if found != title]


@dataclass
class Snapshot:
    """A spreadsheet as it was read.

    Attributes
    ----------
    title, version
        Title of the spreadsheet, and its last version mark.
    marks
        Developer metadata by id.
    tabs
        Results tabs by declared name.
    titles
        Titles of all tabs.
    charts
        Titles of tabs without cells.
    doubtful
        Declared name → titles of several tabs of which any could be that results tab.
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
        """Whether rows may have anchors."""
        return any(mark.key == ANCHOR_MARK and mark.sheet is None for mark in self.marks.values())

    @property
    def next_version(self) -> int:
        """The version that the next batch creates."""
        version = self.version + 1
        # the id of a version is a hash, so another mark may have it already
        while version_identity(version) in self.marks:
            version += 1
        return version

    def row_mark(self, tab: Tab, key: Sequence[str]) -> tuple[int, str, bool]:
        """Return (metadata id, check value, whether it exists) of the mark of a row."""
        # several rows may have the same hash: the check value tells whose mark it is
        for probe in range(1000):
            identity, value = row_identity(tab, key, probe)
            mark = self.marks.get(identity)
            if mark is None:
                return identity, value, False
            if mark.key == ROW_MARK and mark.value == value:
                return identity, value, True
        raise AssertionError("a thousand hash collisions in a row")


def row_identity(tab: Tab, key: Sequence[str], probe: int = 0) -> tuple[int, str]:
    """Return the metadata id (31 bits, not 0) and the check value (4 characters) of a row mark.

    Parameters
    ----------
    tab, key
        The row.
    probe
        Number of hash collisions so far: another one gives another id.
    """
    seed = f"{tab.name}\n{key_json(key)}\n{probe}".encode("utf-8", "surrogatepass")
    raw = hashlib.blake2b(seed, digest_size=7, person=b"l3hpc-row").digest()
    return (int.from_bytes(raw[:4], "big") & 0x7FFFFFFF) or 1, base64.b64encode(raw[4:]).decode()


def tab_identity(name: str) -> int:
    """Return the metadata id (31 bits, not 0) of the mark of a results tab."""
    raw = hashlib.blake2b(name.encode(), digest_size=4, person=b"l3hpc-tab").digest()
    return (int.from_bytes(raw, "big") & 0x7FFFFFFF) or 1


def version_identity(version: int) -> int:
    """Return the metadata id (31 bits, not 0) of a version mark."""
    raw = hashlib.blake2b(str(version).encode(), digest_size=4, person=b"l3hpc-version").digest()
    return (int.from_bytes(raw, "big") & 0x7FFFFFFF) or 1


def parse_structure(structure: Mapping[str, Any]) -> Snapshot:
    """Parse the structure of a spreadsheet.

    Parameters
    ----------
    structure
        The answer of ``Sheets.structure``.

    Returns
    -------
    Snapshot
        Its tabs have no cells yet (``fill_grid``).
    """
    marks: dict[int, Mark] = {}
    for item in structure.get("developerMetadata", []):
        _add_mark(marks, item, None)
    candidates: dict[str, list[tuple[int, TabGrid]]] = {}
    titles, charts = [], []
    for sheet in structure.get("sheets", []):
        properties = sheet["properties"]
        # Google leaves out what is 0, as the id of a spreadsheet's first tab
        sheet_id = properties.get("sheetId", 0)
        own = [_add_mark(marks, item, sheet_id) for item in sheet.get("developerMetadata", [])]
        titles.append(properties["title"])
        if properties.get("sheetType", "GRID") != "GRID" or not properties.get("gridProperties"):
            charts.append(properties["title"])
            continue
        named = [mark for mark in own if mark.key == TAB_MARK and mark.value in TABS]
        name = named[0].value if named else properties["title"]
        if name in TABS:
            grid = _tab_grid(TABS[name], sheet, own, bool(named))
            candidates.setdefault(name, []).append((_tab_rank(grid, named), grid))
    tabs: dict[str, TabGrid] = {}
    doubtful: dict[str, list[str]] = {}
    for name, found in candidates.items():
        best = min(rank for rank, _ in found)
        chosen = [grid for rank, grid in found if rank == best]
        if len(chosen) == 1:
            tabs[name] = chosen[0]
        else:
            # equally likely ones: written to neither, until a person renames one
            doubtful[name] = [grid.title for grid in chosen]
    versions = [int(mark.value) for mark in marks.values()
                if mark.key == VERSION_MARK and mark.sheet is None and mark.value.isdigit()]
    return Snapshot(structure.get("properties", {}).get("title", ""), max(versions, default=0),
                    marks, tabs, titles, charts, doubtful)


def _tab_grid(tab: Tab, sheet: Mapping[str, Any], marks: Sequence[Mark], marked: bool) -> TabGrid:
    """Return a tab without its cells."""
    properties = sheet["properties"]
    size = properties["gridProperties"]
    protections = sheet.get("protectedRanges", [])
    return TabGrid(
        tab, properties.get("sheetId", 0), properties["title"], size.get("rowCount", 0),
        size.get("columnCount", 0), size.get("frozenRowCount", 0),
        bool(protections), bool(sheet.get("filterViews")), marked,
        [protection for protection in protections
         if not protection.get("warningOnly") and not protection.get("requestingUserCanEdit")],
        sum(len(mark.key) + len(mark.value) for mark in marks))


def _tab_rank(grid: TabGrid, named: Sequence[Mark]) -> int:
    """Return how surely a tab is the results tab, 0 for the surest.

    A person may duplicate a tab: the copy has the mark too, but not its id.
    """
    if any(mark.id == tab_identity(grid.tab.name) for mark in named):
        return 0
    if named:
        return 1 if grid.title == grid.tab.name else 2
    return 3


def _add_mark(marks: dict[int, Mark], item: Mapping[str, Any], sheet: int | None) -> Mark:
    """Parse a piece of developer metadata and add it to ``marks``."""
    mark = Mark(int(item["metadataId"]), item.get("metadataKey", ""),
                item.get("metadataValue", ""), sheet)
    marks[mark.id] = mark
    return mark


def cell_range(grid: TabGrid) -> str:
    """Return the range of the declared columns of a tab, all rows, in A1 notation."""
    last = column_letter(min(len(grid.tab.columns), max(grid.column_count, 1)) - 1)
    return f"'{grid.title.replace(chr(39), chr(39) * 2)}'!A:{last}"


def fill_grid(grid: TabGrid, values: Sequence[Sequence[Any]]) -> None:
    """Set header and rows of a tab.

    Parameters
    ----------
    grid
        The tab.
    values
        Its cells as they were read, header first.
    """
    width = len(grid.tab.columns)
    lines = [padded(line, width) for line in values]
    while lines and all(value in (None, "") for value in lines[-1]):
        lines.pop()
    grid.header = lines[0] if lines else [None] * width
    grid.rows = lines[1:]


def padded(line: Sequence[Any], width: int) -> list[Any]:
    """Return a row of cells with exactly ``width`` cells, and None for empty ones."""
    kept = [None if value == "" else value for value in line[:width]]
    return kept + [None] * (width - len(kept))


def find_header_row(tab: Tab, lines: Sequence[Sequence[Any]]) -> int | None:
    """Find the row to which the header was moved.

    A person may sort the whole tab, or insert a row above the header.

    Parameters
    ----------
    tab
        The declared tab.
    lines
        Its cells, first row first.

    Returns
    -------
    int or None
        The only row that shows at least half of the titles, if the first row shows none of them.
    """
    titles = set(tab.titles)

    def title_count(line: Sequence[Any]) -> int:
        return len({value for value in line if isinstance(value, str)} & titles)

    if not lines or title_count(lines[0]):
        return None
    found = [row for row, line in enumerate(lines) if 2 * title_count(line) >= len(titles)]
    return found[0] if len(found) == 1 else None


def has_place_for(snapshot: Snapshot, tab: Tab) -> bool:
    """Return whether rows of a tab are to be written: an optional one only if the sheet has it."""
    return not tab.optional or any(tab.name in found for found in (
        snapshot.tabs, snapshot.doubtful, snapshot.charts))


def require_headers(snapshot: Snapshot, tabs: Sequence[Tab]) -> None:
    """Require that all ``tabs`` exist with exactly the declared header.

    Raises
    ------
    HeaderDriftError
        A tab is missing, cannot be identified, or has other columns; the message says which.
    """
    for tab in tabs:
        grid = snapshot.tabs.get(tab.name)
        if tab.name in snapshot.doubtful:
            raise HeaderDriftError(
                f"cannot tell which tab of {snapshot.title!r} is {tab.name!r}; nothing was "
                "written", allowed=f"one of: {', '.join(map(repr, snapshot.doubtful[tab.name]))}",
                hint=f"Rename the right one to {tab.name!r} in the sheet, then: "
                     + command_line("ledger", "check"))
        if grid is None and tab.name in snapshot.charts:
            raise HeaderDriftError(
                f"the tab {tab.name!r} of {snapshot.title!r} is a chart, not a table; nothing was "
                "written", hint=f"Rename it in the sheet, then: {command_line('ledger', 'init')}")
        if grid is None:
            raise HeaderDriftError(
                f"{snapshot.title!r} has no tab {tab.name!r}; nothing was written",
                allowed=f"its tabs: {', '.join(snapshot.titles)}",
                hint=command_line("ledger", "init"))
        drift = grid.drift()
        if drift:
            raise HeaderDriftError(_drift_message(snapshot, grid), **_advice(grid, drift))


def _drift_message(snapshot: Snapshot, grid: TabGrid) -> str:
    """Return the message about changed columns."""
    name = repr(grid.tab.name)
    if grid.title != grid.tab.name:
        name += f" (now called {grid.title!r})"
    return f"tab {name} of {snapshot.title!r} has changed columns; nothing was written."


def _advice(grid: TabGrid, drift: list[tuple[str, str, str]]) -> dict[str, str]:
    """Return what a person can do about changed columns, as arguments of ``HeaderDriftError``."""
    moved = grid.header_row()
    if moved is not None:
        return {"allowed": f"Its header is in row {moved + 1}: it was sorted with the rows, or a "
                           "row was inserted above it.",
                "hint": command_line("ledger", "repair")
                + "   moves it back to row 1; it asks first"}
    lines = [f"{cell}: expected {expected!r}, found {found!r}"
             for cell, expected, found in drift[:4]]
    if len(drift) > 4:
        lines[-1] += f"   (and {len(drift) - 4} more: {command_line('ledger', 'check')})"
    first_cell, first_title, _ = drift[0]
    index = grid.tab.titles.index(first_title)
    is_shifted = index + 1 < len(grid.header) and grid.header[index + 1] == first_title
    last = column_letter(len(grid.tab.columns) - 1)
    if not any(value is not None for value in grid.header):
        hint = f"The header row is empty. To write it:   {command_line('ledger', 'init')}"
    elif is_shifted:
        hint = (f"Someone inserted a column at {first_cell[:-1]}. Undo it in the sheet, or move it "
                f"to the right of {last}, then: {command_line('ledger', 'check')}")
    else:
        hint = (f"Restore the declared titles in A1:{last}1 (your own columns go to the right of "
                f"{last}), then: {command_line('ledger', 'check')}")
    return {"allowed": Lines(*lines), "hint": hint}


def _without_space(key: Iterable[str]) -> tuple[str, ...]:
    """Return a key without white space."""
    return tuple(_SPACE.sub("", part) for part in key)


def _covers(area: Mapping[str, Any], row: int, column: int) -> bool:
    """Return whether a grid range (unbounded where an index is missing) contains a cell."""
    return (area.get("startRowIndex", 0) <= row < area.get("endRowIndex", 1 << 31)
            and area.get("startColumnIndex", 0) <= column < area.get("endColumnIndex", 1 << 31))
