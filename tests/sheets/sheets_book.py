"""A spreadsheet of the test server: tabs, cells, metadata and what Google does to them.

It keeps grid, cell and metadata limits. Metadata of a row moves with it when rows are inserted,
deleted or moved, as Google documents; what a sort does to it is not documented, so there is a
switch (``Book.follows_sort``).
"""

from __future__ import annotations

import copy
import re
from typing import Any

CELL_LIMIT, METADATA_LIMIT, GRID_LIMIT = 50_000, 30_000, 10_000_000
PROTECTED = ("You are trying to edit a protected cell or object. Please contact the spreadsheet "
             "owner to remove protection if you need to edit.")


class Refusal(Exception):
    """An error answer: HTTP code, status and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

class Book:
    """One spreadsheet. A tab: properties, grid (rows of plain values), metadata and the rest.

    anchored: metadata id → the row that it is on (the very list in the grid, so it moves with it).
    follows_sort: whether metadata of rows goes with them when they are sorted.
    strict_filters: whether a data filter that selects nothing is an error.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.sheets: list[dict[str, Any]] = []
        self.metadata: dict[int, dict[str, Any]] = {}
        self.anchored: dict[int, list[Any]] = {}
        self.follows_sort = True
        self.strict_filters = False
        self.next_id = 1
        self.add({"title": "Sheet1"})

    def add(self, properties: dict[str, Any]) -> dict[str, Any]:
        size = properties.get("gridProperties", {})
        rows, columns = size.get("rowCount", 1000), size.get("columnCount", 26)
        if any(sheet["title"] == properties["title"] for sheet in self.sheets):
            raise Refusal(400, f"A sheet with the name \"{properties['title']}\" already exists.")
        number = properties.get("sheetId", len(self.sheets))
        if any(sheet["id"] == number for sheet in self.sheets):
            raise Refusal(400, f"sheetId {number} already exists")
        sheet = {"id": number, "title": properties["title"], "columns": columns,
                 "frozen": size.get("frozenRowCount", 0), "protected": [], "views": [],
                 "rules": [], "grid": [[None] * columns for _ in range(rows)]}
        self.sheets.append(sheet)
        return sheet

    def add_chart(self, title: str) -> None:
        """A tab that holds a chart and no cells."""
        self.sheets.append({"id": 7000 + len(self.sheets), "title": title, "grid": None,
                            "columns": 0, "frozen": 0, "protected": [], "views": [], "rules": []})

    def draft(self) -> Book:
        """A copy of all of it (``copy.deepcopy`` would look at every empty cell)."""
        known: dict[int, Any] = {}  # so that a row is one list in the grid and in ``anchored``
        for sheet in self.sheets:
            for row in sheet["grid"] or []:
                known[id(row)] = row.copy()
        return copy.deepcopy(self, known)

    def rows_of(self, number: int) -> list[tuple[dict[str, Any], int]]:
        """Where metadata of a row is now: (tab, 0-based row); empty when the row was deleted."""
        row = self.anchored.get(number)
        return [(sheet, place) for sheet in self.sheets
                for place, one in enumerate(sheet["grid"] or []) if one is row]

    def reorder(self, sheet: dict[str, Any], rows: list[list[Any]], top: int = 1) -> None:
        """Put rows of the grid, from ``top`` on, into the order of ``rows``: a person's sort."""
        old = sheet["grid"][top:top + len(rows)]
        sheet["grid"][top:top + len(rows)] = rows
        if not self.follows_sort:
            for number, row in self.anchored.items():
                for place, one in enumerate(old):
                    if one is row:
                        self.anchored[number] = rows[place]
                        break

    def require_unlocked(self, sheet: dict[str, Any], row: int, column: int) -> None:
        """Refuse a change of a cell in a protected range that the account may not edit."""
        for lock in sheet["protected"]:
            if not lock.get("warningOnly") and not lock.get("requestingUserCanEdit") and _holds(
                    lock["range"], row, column) and not any(
                        _holds(free, row, column) for free in lock.get("unprotectedRanges", [])):
                raise Refusal(400, PROTECTED)

    def chosen(self, lookup: dict[str, Any]) -> list[int]:
        """The ids of the metadata that a lookup selects."""
        there = {id(row) for sheet in self.sheets for row in sheet["grid"] or []}
        self.anchored = {number: row for number, row in self.anchored.items() if id(row) in there}
        self.metadata = {number: item for number, item in self.metadata.items()
                         if "dimensionRange" not in item["location"] or number in self.anchored}
        assert set(lookup) <= {"metadataId", "metadataKey", "metadataValue"}, lookup
        return [number for number, item in self.metadata.items()
                if all(item.get(name) == value for name, value in lookup.items())]

    def areas(self, data_filter: dict[str, Any]) -> list[tuple[dict[str, Any], int, int, int, int]]:
        """What a data filter selects: tab, first row, row after the last, and so for columns."""
        if "gridRange" in data_filter:
            area = data_filter["gridRange"]
            sheet = self.sheet(area["sheetId"])
            if area.get("endColumnIndex", 0) > sheet["columns"]:
                raise Refusal(400, "Range exceeds grid limits.")
            return [(sheet, area.get("startRowIndex", 0),
                     area.get("endRowIndex", len(sheet["grid"])), area.get("startColumnIndex", 0),
                     area.get("endColumnIndex", sheet["columns"]))]
        found = [(sheet, place, place + 1, 0, sheet["columns"])
                 for number in self.chosen(data_filter["developerMetadataLookup"])
                 for sheet, place in self.rows_of(number)]
        if not found and self.strict_filters:
            raise Refusal(400, "No developer metadata matches the data filter")
        return found

    def read_filtered(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """values:batchGetByDataFilter."""
        if asked.get("valueRenderOption") != "UNFORMATTED_VALUE":
            raise Refusal(400, "only UNFORMATTED_VALUE here")
        return [{"dataFilters": [one], "valueRange": _value_range(
                    f"'{sheet['title']}'!{top + 1}:{bottom}",
                    [row[first:last] for row in sheet["grid"][top:bottom]])}
                for one in asked["dataFilters"]
                for sheet, top, bottom, first, last in self.areas(one)]

    def write_filtered(self, asked: dict[str, Any]) -> None:
        """values:batchUpdateByDataFilter: null leaves a cell as it is, "" empties it."""
        if asked.get("valueInputOption") != "RAW":
            raise Refusal(400, "only RAW here")
        for number, item in enumerate(asked["data"]):
            for sheet, top, bottom, first, last in self.areas(item["dataFilter"]):
                for down, line in enumerate(item["values"], top):
                    for right, value in enumerate(line, first):
                        if value is None:
                            continue
                        if down >= bottom or right >= last:
                            raise Refusal(400, f"Invalid data[{number}]: exceeds the range")
                        try:
                            self.require_unlocked(sheet, down, right)
                        except Refusal as refusal:
                            raise Refusal(400, f"Invalid data[{number}]: {refusal}") from None
                        _require_short(value)
                        sheet["grid"][down][right] = None if value == "" else value

    def sheet(self, number: int) -> dict[str, Any]:
        for sheet in self.sheets:
            if sheet["id"] == number:
                return sheet
        raise Refusal(400, f"No grid with id: {number}")

    def named(self, title: str) -> dict[str, Any]:
        for sheet in self.sheets:
            if sheet["title"] == title:
                return sheet
        raise Refusal(400, f"Unable to parse range: {title}")

    def identity(self) -> int:
        self.next_id += 1
        return self.next_id

    def get(self) -> dict[str, Any]:
        return {"spreadsheetId": "?", "properties": {"title": self.title},
                "developerMetadata": [item for item in self.metadata.values()
                                      if item["location"].get("spreadsheet")],
                "sheets": [{"properties": {
                    "sheetId": sheet["id"], "title": sheet["title"], "index": place,
                    "sheetType": "OBJECT" if sheet["grid"] is None else "GRID",
                    **({} if sheet["grid"] is None else {"gridProperties": {
                        "rowCount": len(sheet["grid"]), "columnCount": sheet["columns"],
                        "frozenRowCount": sheet["frozen"]}})},
                    "protectedRanges": sheet["protected"], "filterViews": sheet["views"],
                    "developerMetadata": [item for item in self.metadata.values()
                                          if item["location"].get("sheetId") == sheet["id"]]}
                    for place, sheet in enumerate(self.sheets)]}

    def values(self, area: str) -> dict[str, Any]:
        title, _, cells = area.partition("!")
        if title.startswith("'"):
            title = title[1:-1].replace("''", "'")
        grid = self.named(title)["grid"]
        if grid is None:
            raise Refusal(400, f"Unable to parse range: {area}")
        first, last = 0, 10**9
        top, bottom = 0, len(grid)
        if cells:
            found = re.fullmatch(r"([A-Z]+)(\d*):([A-Z]+)(\d*)", cells)
            if found is None:
                raise Refusal(400, f"Unable to parse range: {area}")
            first, last = _column(found[1]), _column(found[3]) + 1
            top = int(found[2] or 1) - 1
            bottom = int(found[4] or len(grid))
            if last > self.named(title)["columns"]:
                raise Refusal(400, f"Range ({area}) exceeds grid limits.")
        return _value_range(area, [row[first:last] for row in grid[top:bottom]])

    def apply(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        replies = []
        for number, request in enumerate(requests):
            (name, body), = request.items()
            try:
                replies.append(getattr(self, f"do_{name}")(body) or {})
            except Refusal as refusal:
                raise Refusal(refusal.code,
                              f"Invalid requests[{number}].{name}: {refusal}") from None
        for sheet in self.sheets:
            if len(sheet["grid"] or []) * sheet["columns"] > GRID_LIMIT:
                raise Refusal(400, "This action would increase the number of cells above the limit")
        return replies

    def do_addSheet(self, body: dict[str, Any]) -> dict[str, Any]:
        sheet = self.add(body["properties"])
        return {"addSheet": {"properties": {"sheetId": sheet["id"], "title": sheet["title"]}}}

    def do_updateSheetProperties(self, body: dict[str, Any]) -> None:
        sheet = self.sheet(body["properties"]["sheetId"])
        for field in body["fields"].split(","):
            if field == "title":
                sheet["title"] = body["properties"]["title"]
            elif field == "gridProperties.frozenRowCount":
                sheet["frozen"] = body["properties"]["gridProperties"]["frozenRowCount"]
            else:
                raise Refusal(400, f"unsupported field {field}")

    def do_appendDimension(self, body: dict[str, Any]) -> None:
        sheet = self.sheet(body["sheetId"])
        if body["dimension"] == "ROWS":
            sheet["grid"] += [[None] * sheet["columns"] for _ in range(body["length"])]
        else:
            sheet["columns"] += body["length"]
            for row in sheet["grid"]:
                row += [None] * body["length"]

    def do_insertDimension(self, body: dict[str, Any]) -> None:
        area = body["range"]
        sheet = self.sheet(area["sheetId"])
        start, end = area["startIndex"], area["endIndex"]
        size = len(sheet["grid"]) if area["dimension"] == "ROWS" else sheet["columns"]
        if start >= size:
            raise Refusal(400, f"range.startIndex[{start}] must be less than the grid size[{size}]")
        if body.get("inheritFromBefore") and start == 0:
            raise Refusal(400, "inheritFromBefore needs a start index greater than 0")
        if area["dimension"] == "ROWS":
            sheet["grid"][start:start] = [[None] * sheet["columns"] for _ in range(end - start)]
            for lock in sheet["protected"]:
                for name in ("startRowIndex", "endRowIndex"):
                    if lock["range"].get(name, -1) >= start + (name == "endRowIndex"):
                        lock["range"] = {**lock["range"], name: lock["range"][name] + end - start}
        else:
            sheet["columns"] += end - start
            for row in sheet["grid"]:
                row[start:start] = [None] * (end - start)

    def do_moveDimension(self, body: dict[str, Any]) -> None:
        area, target = body["source"], body["destinationIndex"]
        sheet = self.sheet(area["sheetId"])
        start, end = area["startIndex"], area["endIndex"]
        if start <= target <= end:
            raise Refusal(400, "destinationIndex lies within the source")
        if area["dimension"] == "ROWS":
            part = sheet["grid"][start:end]
            sheet["grid"][target:target] = part
            place = start if target > start else start + len(part)
            del sheet["grid"][place:place + len(part)]
            return
        for row in sheet["grid"]:
            part = row[start:end]
            row[target:target] = part
            place = start if target > start else start + len(part)
            del row[place:place + len(part)]

    def do_deleteDimension(self, body: dict[str, Any]) -> None:
        area = body["range"]
        sheet = self.sheet(area["sheetId"])
        if area["dimension"] == "ROWS":
            del sheet["grid"][area["startIndex"]:area["endIndex"]]
        else:
            sheet["columns"] -= area["endIndex"] - area["startIndex"]
            for row in sheet["grid"]:
                del row[area["startIndex"]:area["endIndex"]]

    def do_updateCells(self, body: dict[str, Any]) -> None:
        if body["fields"] != "userEnteredValue":
            raise Refusal(400, "unsupported fields")
        start = body["start"]
        grid = self.sheet(start["sheetId"])["grid"]
        for down, line in enumerate(body["rows"], start.get("rowIndex", 0)):
            for right, cell in enumerate(line.get("values", []), start.get("columnIndex", 0)):
                if down >= len(grid) or right >= len(grid[down]):
                    raise Refusal(400, "Attempting to write outside the grid")
                entered = cell.get("userEnteredValue", {})
                if len(entered) > 1 or "formulaValue" in entered:
                    raise Refusal(400, "one typed value per cell")
                value = next(iter(entered.values()), None)
                self.require_unlocked(self.sheet(start["sheetId"]), down, right)
                _require_short(value)
                grid[down][right] = None if value == "" else value

    def do_repeatCell(self, body: dict[str, Any]) -> None:
        if not body["fields"].startswith("userEnteredFormat"):
            raise Refusal(400, "only formats are supported")

    def do_addConditionalFormatRule(self, body: dict[str, Any]) -> None:
        self.sheet(body["rule"]["ranges"][0]["sheetId"])["rules"].append(body["rule"])

    def do_addProtectedRange(self, body: dict[str, Any]) -> None:
        sheet = self.sheet(body["protectedRange"]["range"]["sheetId"])
        sheet["protected"].append({**body["protectedRange"], "protectedRangeId": self.identity()})

    def do_addFilterView(self, body: dict[str, Any]) -> None:
        sheet = self.sheet(body["filter"]["range"]["sheetId"])
        sheet["views"].append({**body["filter"], "filterViewId": self.identity()})

    def do_createDeveloperMetadata(self, body: dict[str, Any]) -> None:
        data = dict(body["developerMetadata"])
        number = data.setdefault("metadataId", 1_900_000_000 + self.identity())
        if not 0 < number < 2**31:
            raise Refusal(400, "metadataId must be positive")
        if number in self.metadata:
            raise Refusal(400, f"metadataId {number} is already in use")
        if not data.get("metadataKey") or data.get("visibility") not in ("DOCUMENT", "PROJECT"):
            raise Refusal(400, "metadataKey and visibility must be specified")
        if "sheetId" in data["location"]:
            self.sheet(data["location"]["sheetId"])
        if "dimensionRange" in data["location"]:
            area = data["location"]["dimensionRange"]
            grid = self.sheet(area["sheetId"])["grid"]
            if area["dimension"] != "ROWS" or area["endIndex"] != area["startIndex"] + 1:
                raise Refusal(400, "the dimension range must be a single row or column")
            if area["startIndex"] >= len(grid):
                raise Refusal(400, "the dimension range is outside the grid")
            self.anchored[number] = grid[area["startIndex"]]
        self.metadata[number] = data
        used: dict[Any, int] = {}
        for item in self.metadata.values():
            where = item["location"]
            place = where.get("dimensionRange", where).get("sheetId", "spreadsheet")
            used[place] = used.get(place, 0) + len(item["metadataKey"]) + len(
                item.get("metadataValue", ""))
        if max(used.values()) > METADATA_LIMIT:
            raise Refusal(400, "the limit of developer metadata is reached")

    def do_deleteDeveloperMetadata(self, body: dict[str, Any]) -> None:
        wanted = self.chosen(body["dataFilter"]["developerMetadataLookup"])
        if not wanted:
            raise Refusal(400, "no developer metadata matches the data filter")
        for number in wanted:
            del self.metadata[number]
            self.anchored.pop(number, None)

    def do_duplicateSheet(self, body: dict[str, Any]) -> None:
        """The copy gets the metadata too, under other ids."""
        source = self.sheet(body["sourceSheetId"])
        title = body.get("newSheetName") or f"Copy of {source['title']}"
        number = body.get("newSheetId", 5000 + self.identity())
        made = {**source, "id": number, "title": title, "protected": [], "views": [],
                "grid": [list(row) for row in source["grid"]]}
        self.sheets.insert(body.get("insertSheetIndex", len(self.sheets)), made)
        for item in [item for item in self.metadata.values()
                     if item["location"].get("sheetId") == source["id"]]:
            own = 1_900_000_000 + self.identity()
            self.metadata[own] = {**item, "metadataId": own, "location": {"sheetId": number}}

    def do_sortRange(self, body: dict[str, Any]) -> None:
        area, (spec,) = body["range"], body["sortSpecs"]
        sheet = self.sheet(area["sheetId"])
        grid = sheet["grid"]
        top = area.get("startRowIndex", 0)
        filled = [row for row in grid[top:] if not is_empty(row)]
        empty = [row for row in grid[top:] if is_empty(row)]
        filled.sort(key=lambda row: (str(type(row[spec["dimensionIndex"]])),
                                     row[spec["dimensionIndex"]] or 0),
                    reverse=spec.get("sortOrder") == "DESCENDING")
        self.reorder(sheet, filled + empty, top)


def _value_range(area: str, rows: list[list[Any]]) -> dict[str, Any]:
    """Values as Google answers them: without what is empty at the end."""
    while rows and is_empty(rows[-1]):
        rows.pop()
    lines = [["" if value is None else value for value in row] for row in rows]
    for line in lines:
        while line and line[-1] == "":
            line.pop()
    while lines and not lines[-1]:
        lines.pop()
    answer: dict[str, Any] = {"range": area, "majorDimension": "ROWS"}
    if lines:
        answer["values"] = lines
    return answer


def is_empty(row: list[Any]) -> bool:
    return row.count(None) == len(row)


def _require_short(value: Any) -> None:
    if isinstance(value, str) and len(value.encode("utf-16-le")) // 2 > CELL_LIMIT:
        raise Refusal(400, "Your input contains more than the maximum of 50000 characters in a "
                           "single cell.")


def _holds(area: dict[str, Any], row: int, column: int) -> bool:
    return (area.get("startRowIndex", 0) <= row < area.get("endRowIndex", 10**9)
            and area.get("startColumnIndex", 0) <= column < area.get("endColumnIndex", 10**9))


def _column(letters: str) -> int:
    number = 0
    for sign in letters:
        number = number * 26 + ord(sign) - 64
    return number - 1
