"""Anchors: writing cells of existing rows although people may move these rows meanwhile.

Between a reading and a write, a person may insert, delete, move or sort rows, so positions in the
grid cannot be relied on. A write therefore has three steps:

1. A batch puts an *anchor* (developer metadata with an id of its own) on each row to be written.
   Google moves it with its row.
2. One request reads the anchored rows and the whole tab at the same moment. Only rows that still
   show the values from which the plan was made are written; the others wait for the next round.
3. The values are sent by anchor, never by position. A row that is deleted takes its anchor with it.

Anchors are used once: the next batch of any syncer removes them (a mark on the spreadsheet shows
that there are some), so a request that was given up but arrives late finds none. Google does not
document whether anchors follow their rows through a sort. If they do not, and someone sorts between
steps 2 and 3, cells are written to another row; ``rollback`` finds these by the rows of step 2.
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
MAX_ANCHORS = 900  # of one tab: each is a character of metadata (see grid.METADATA_LIMIT)


@dataclass
class Target:
    """Cells of one row that are to be written.

    Attributes
    ----------
    grid
        The tab.
    grid_row
        Position of the row when it was read (0-based; the header is row 0).
    expect
        Column → value that the row must still show to be written.
    cells
        Column → new value; None empties the cell.
    anchor
        Metadata id of its anchor; 0 before ``create_anchors``.
    """

    grid: TabGrid
    grid_row: int
    expect: Mapping[int, Any]
    cells: Mapping[int, Cell]
    anchor: int = 0

    def data(self) -> Request:
        """Return the values of the row as the API takes them."""
        # null leaves a cell as it is, an empty text empties it
        line = [("" if (value := self.cells[column]) is None else value)
                if column in self.cells else None for column in range(max(self.cells) + 1)]
        return {"dataFilter": _by_id(self.anchor), "majorDimension": "ROWS", "values": [line]}


@dataclass
class AnchorReading:
    """Anchored rows and tabs, read at the same moment.

    Attributes
    ----------
    unchanged, changed
        Targets whose row still shows the expected values, and the others.
    lines
        Id of a tab → its cells, header first.
    """

    unchanged: list[Target] = field(default_factory=list)
    changed: list[Target] = field(default_factory=list)
    lines: dict[int, list[list[Any]]] = field(default_factory=dict)


def create_anchors(snapshot: Snapshot, targets: Sequence[Target], taken: set[int]) -> list[Request]:
    """Return the requests that put an anchor on the row of each target.

    Parameters
    ----------
    snapshot
        The reading from which the targets were made.
    targets
        Rows to be written; their ``anchor`` is set.
    taken
        Metadata ids that the same batch creates; the new ones are added.
    """
    if not targets:
        return []
    requests = [_mark(_new_id(snapshot, taken), {"spreadsheet": True})]
    for target in targets:
        target.anchor = _new_id(snapshot, taken)
        requests.append(_mark(target.anchor, {"dimensionRange": {
            "sheetId": target.grid.sheet, "dimension": "ROWS", "startIndex": target.grid_row,
            "endIndex": target.grid_row + 1}}))
    return requests


def remove_anchors(snapshot: Snapshot) -> list[Request]:
    """Return the request that removes all anchors; none if ``snapshot`` has no anchors."""
    return [{"deleteDeveloperMetadata": {"dataFilter": {"developerMetadataLookup": {
        "metadataKey": ANCHOR_MARK}}}}] if snapshot.has_anchors else []


def read_anchored(sheets: Sheets, targets: Iterable[Target], grids: Iterable[TabGrid], *,
                  whole: bool = False) -> AnchorReading:
    """Read anchored rows and tabs at the same moment (one request).

    Parameters
    ----------
    sheets
        The spreadsheet.
    targets
        Rows with anchors.
    grids
        Tabs to read; their rows are replaced by what is read.
    whole
        Whether to read the tabs in full width, not only their declared columns.

    Returns
    -------
    AnchorReading
        Which targets still show the expected values.
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
        for data_filter in item.get("dataFilters", []):
            if "developerMetadataLookup" in data_filter:
                anchor = data_filter["developerMetadataLookup"]["metadataId"]
                shown[anchor] = values[0] if values else []
            elif "gridRange" in data_filter:
                found.lines[data_filter["gridRange"].get("sheetId", 0)] = values
    for sheet, grid in by_sheet.items():
        fill_grid(grid, found.lines.get(sheet, []))
    for anchor, target in by_anchor.items():
        line = shown.get(anchor)  # None: the row was deleted
        is_same = line is not None and all(
            same_cell(line[column] if column < len(line) else None, value)
            for column, value in target.expect.items())
        (found.unchanged if is_same else found.changed).append(target)
    return found


def _new_id(snapshot: Snapshot, taken: set[int]) -> int:
    """Return a random metadata id that is not in use, and add it to ``taken``."""
    while True:
        identity = 1 + secrets.randbelow(2**31 - 1)
        if identity not in snapshot.marks and identity not in taken:
            taken.add(identity)
            return identity


def _mark(identity: int, location: Request) -> Request:
    """Return the request that creates an anchor."""
    return {"createDeveloperMetadata": {"developerMetadata": {
        "metadataId": identity, "metadataKey": ANCHOR_MARK, "location": location,
        "visibility": "DOCUMENT"}}}


def _by_id(identity: int) -> Request:
    """Return the data filter that selects the row with an anchor."""
    return {"developerMetadataLookup": {"metadataId": identity}}
