"""Writing cells of existing rows so that they cannot land in another row.

Between a reading and a write, a person may insert, delete, move or sort rows, so a grid position
means nothing. A write therefore goes in three steps:

1. A batch puts an *anchor* (developer metadata with an id of its own) on each row to be written.
   Google moves it with its row.
2. One reading, of one moment, shows the anchored rows and the whole tab. Only rows that still show
   what the plan was made from are written; the others wait for the next round.
3. The values are sent by anchor, never by position. A deleted row takes its anchor with it.

Anchors are used once: the next batch of anyone removes them (a mark on the spreadsheet says that
there are some), so a request that was given up but arrives late finds none. Whether anchors follow
their rows through a sort is not documented. If they do not, and someone sorts between 2 and 3,
cells land in another row: ``undo`` finds that by the rows of step 2, and puts them back.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l3hpc.ledger.cells import Cell, same_cell
from l3hpc.ledger.sheets.client import Sheets
from l3hpc.ledger.sheets.grid import ANCHOR_MARK, Snapshot, TabGrid, fill_grid

Request = dict[str, Any]
MAX_ANCHORS = 900  # anchors of one tab: each is a character of metadata (see grid.METADATA_LIMIT)


@dataclass
class Target:
    """Cells of one row. place: its grid row when it was read. expect: column → what the row must
    still show to be written. cells: column → new value (None empties the cell)."""

    grid: TabGrid
    place: int
    expect: Mapping[int, Any]
    cells: Mapping[int, Cell]
    anchor: int = 0

    def data(self) -> Request:
        """The values of the row as they are sent; null leaves a cell as it is."""
        line = [("" if (value := self.cells[column]) is None else value)
                if column in self.cells else None for column in range(max(self.cells) + 1)]
        return {"dataFilter": _by_id(self.anchor), "majorDimension": "ROWS", "values": [line]}


@dataclass
class AnchorReading:
    """One moment: which targets still are what they were, and the tabs' cells (header first)."""

    held: list[Target] = field(default_factory=list)
    moved: list[Target] = field(default_factory=list)
    lines: dict[int, list[list[Any]]] = field(default_factory=dict)


def create_anchors(snapshot: Snapshot, targets: Sequence[Target], taken: set[int]) -> list[Request]:
    """Put an anchor on each target's row. taken: metadata ids that the same batch creates."""
    if not targets:
        return []
    requests = [_mark(_new_id(snapshot, taken), {"spreadsheet": True})]
    for target in targets:
        target.anchor = _new_id(snapshot, taken)
        requests.append(_mark(target.anchor, {"dimensionRange": {
            "sheetId": target.grid.sheet, "dimension": "ROWS", "startIndex": target.place,
            "endIndex": target.place + 1}}))
    return requests


def remove_anchors(snapshot: Snapshot) -> list[Request]:
    """Take away all anchors that stand; none where ``snapshot`` shows that there are none."""
    return [{"deleteDeveloperMetadata": {"dataFilter": {"developerMetadataLookup": {
        "metadataKey": ANCHOR_MARK}}}}] if snapshot.has_anchors else []


def read_anchored(sheets: Sheets, targets: Iterable[Target], grids: Iterable[TabGrid], *,
         whole: bool = False) -> AnchorReading:
    """Read anchored rows and tabs at one moment, into the grids too (one request).

    whole: the tabs as wide as they are, not only their declared columns.
    """
    by_anchor = {target.anchor: target for target in targets}
    by_sheet = {grid.sheet: grid for grid in grids}
    areas = [{"gridRange": {"sheetId": grid.sheet, **({} if whole else {
        "startColumnIndex": 0, "endColumnIndex": min(len(grid.tab.columns), grid.column_count)})}}
        for grid in by_sheet.values()]
    found = AnchorReading()
    shown: dict[int, list[Any]] = {}
    for item in sheets.read_by_filter([*map(_by_id, by_anchor), *areas]):
        values = item.get("valueRange", {}).get("values", [])
        for one in item.get("dataFilters", []):
            if "developerMetadataLookup" in one:
                shown[one["developerMetadataLookup"]["metadataId"]] = values[0] if values else []
            elif "gridRange" in one:
                found.lines[one["gridRange"].get("sheetId", 0)] = values
    for sheet, grid in by_sheet.items():
        fill_grid(grid, found.lines.get(sheet, []))
    for anchor, target in by_anchor.items():
        line = shown.get(anchor)
        holds = line is not None and all(
            same_cell(line[column] if column < len(line) else None, value)
            for column, value in target.expect.items())
        (found.held if holds else found.moved).append(target)
    return found


def _new_id(snapshot: Snapshot, taken: set[int]) -> int:
    while True:
        identity = 1 + secrets.randbelow(2**31 - 1)
        if identity not in snapshot.marks and identity not in taken:
            taken.add(identity)
            return identity


def _mark(identity: int, location: Request) -> Request:
    return {"createDeveloperMetadata": {"developerMetadata": {
        "metadataId": identity, "metadataKey": ANCHOR_MARK, "location": location,
        "visibility": "DOCUMENT"}}}


def _by_id(identity: int) -> Request:
    return {"developerMetadataLookup": {"metadataId": identity}}
