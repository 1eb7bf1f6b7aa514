"""A real HTTP server that speaks the part of Google Sheets v4 that gspread and the ledger use.

It verifies the service account's signed token request, checks every request and answer against the
published discovery document where that is installed, keeps grid, cell, metadata and quota limits,
applies a batch as a whole or not at all, and fails on demand. ``Person`` edits the sheet by hand.
"""

from __future__ import annotations

import base64
import copy
import functools
import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

SCOPE = "https://www.googleapis.com/auth/spreadsheets"
AUDIENCE = "https://oauth2.googleapis.com/token"
EMAIL = "ledger@test.iam.gserviceaccount.com"
CELL_LIMIT, METADATA_LIMIT, GRID_LIMIT = 50_000, 30_000, 10_000_000


class Refusal(Exception):
    """An error answer: HTTP code, status and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def discovery() -> dict[str, Any] | None:
    """The published schemas of Sheets v4, if google-api-python-client is installed."""
    try:
        import googleapiclient
    except ImportError:
        return None
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    schemas = json.loads((folder / "sheets.v4.json").read_text())["schemas"]
    assert isinstance(schemas, dict)
    return schemas


def violations(schemas: dict[str, Any], kind: dict[str, Any], value: Any, path: str) -> list[str]:
    """Where ``value`` differs from its schema: unknown names and wrong types."""
    if "$ref" in kind:
        kind = schemas[kind["$ref"]]
    wanted = kind.get("type", "any")
    python = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
              "number": (int, float), "any": object}[wanted]
    if not isinstance(value, python) or (isinstance(value, bool) and wanted in ("integer",
                                                                                "number")):
        return [f"{path}: expected {wanted}, found {value!r}"]
    if wanted == "array":
        return [bad for number, item in enumerate(value)
                for bad in violations(schemas, kind["items"], item, f"{path}[{number}]")]
    if "enum" in kind and value not in kind["enum"]:
        return [f"{path}: {value!r} is not one of {kind['enum']}"]
    if wanted == "object" and "properties" in kind:
        found = []
        for name, item in value.items():
            if name not in kind["properties"]:
                found.append(f"{path}: unknown name {name!r}")
            else:
                found += violations(schemas, kind["properties"][name], item, f"{path}.{name}")
        return found
    return []


def masked(value: Any, mask: str) -> Any:
    """``value`` cut down to a field mask such as ``a,b(c,d.e)``."""
    parts, depth, start = [], 0, 0
    for position, sign in enumerate(mask + ","):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            parts.append(mask[start:position])
            start = position + 1
    if isinstance(value, list):
        return [masked(item, mask) for item in value]
    kept: dict[str, Any] = {}
    for part in parts:
        name, rest = re.fullmatch(r"(\w+)(.*)", part).groups()  # type: ignore[union-attr]
        if name in value:
            inner = rest[1:-1] if rest.startswith("(") else rest[1:]
            found = masked(value[name], inner) if inner else value[name]
            if isinstance(kept.get(name), dict) and isinstance(found, dict):
                kept[name].update(found)
            else:
                kept[name] = found
    return kept


class Book:
    """One spreadsheet. A tab: properties, grid (rows of plain values), metadata and the rest."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.sheets: list[dict[str, Any]] = []
        self.metadata: dict[int, dict[str, Any]] = {}
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
                    "gridProperties": {"rowCount": len(sheet["grid"]),
                                       "columnCount": sheet["columns"],
                                       "frozenRowCount": sheet["frozen"]}},
                    "protectedRanges": sheet["protected"], "filterViews": sheet["views"],
                    "developerMetadata": [item for item in self.metadata.values()
                                          if item["location"].get("sheetId") == sheet["id"]]}
                    for place, sheet in enumerate(self.sheets)]}

    def values(self, area: str) -> dict[str, Any]:
        title, _, cells = area.partition("!")
        if title.startswith("'"):
            title = title[1:-1].replace("''", "'")
        grid = self.named(title)["grid"]
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
        lines = [["" if value is None else value for value in row[first:last]]
                 for row in grid[top:bottom]]
        for line in lines:
            while line and line[-1] == "":
                line.pop()
        while lines and not lines[-1]:
            lines.pop()
        answer: dict[str, Any] = {"range": area, "majorDimension": "ROWS"}
        if lines:
            answer["values"] = lines
        return answer

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
            if len(sheet["grid"]) * sheet["columns"] > GRID_LIMIT:
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
        else:
            sheet["columns"] += end - start
            for row in sheet["grid"]:
                row[start:start] = [None] * (end - start)

    def do_moveDimension(self, body: dict[str, Any]) -> None:
        area, target = body["source"], body["destinationIndex"]
        sheet = self.sheet(area["sheetId"])
        if area["dimension"] != "COLUMNS":
            raise Refusal(400, "only columns are moved here")
        start, end = area["startIndex"], area["endIndex"]
        if start <= target <= end:
            raise Refusal(400, "destinationIndex lies within the source")
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
                if isinstance(value, str) and len(value) > CELL_LIMIT:
                    raise Refusal(400, "Your input contains more than the maximum of 50000 "
                                       "characters in a single cell.")
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
        self.metadata[number] = data
        used: dict[Any, int] = {}
        for item in self.metadata.values():
            place = item["location"].get("sheetId", "spreadsheet")
            used[place] = used.get(place, 0) + len(item["metadataKey"]) + len(
                item.get("metadataValue", ""))
        if max(used.values()) > METADATA_LIMIT:
            raise Refusal(400, "the limit of developer metadata is reached")

    def do_deleteDeveloperMetadata(self, body: dict[str, Any]) -> None:
        wanted = body["dataFilter"]["developerMetadataLookup"]["metadataId"]
        if wanted not in self.metadata:
            raise Refusal(400, f"no developer metadata {wanted}")
        del self.metadata[wanted]

    def do_sortRange(self, body: dict[str, Any]) -> None:
        area, (spec,) = body["range"], body["sortSpecs"]
        grid = self.sheet(area["sheetId"])["grid"]
        top = area.get("startRowIndex", 0)
        filled = [row for row in grid[top:] if any(value is not None for value in row)]
        empty = [row for row in grid[top:] if all(value is None for value in row)]
        filled.sort(key=lambda row: (str(type(row[spec["dimensionIndex"]])),
                                     row[spec["dimensionIndex"]] or 0),
                    reverse=spec.get("sortOrder") == "DESCENDING")
        grid[top:] = filled + empty


class Server(ThreadingHTTPServer):
    """``faults``: called with (method, path), returns the name of a fault or None.

    Faults: ``429 500 503 401 403 404 403-disabled`` answered without applying, ``503-applied``,
    ``drop`` (the connection ends unanswered), ``drop-applied``, ``html`` (a 502 page),
    ``html-200``, ``slow``.
    ``before_batch``: called with the book just before a batch is applied (a person's moment);
    ``after_batch``: just after. ``watch``: called with (moment, number of the request, counted with
    sign-ins from ``seen``), where moment is ``arrived``, ``applied`` or ``answered``.
    ``log``: (method, path) of every request that was authorised.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.books: dict[str, Book] = {"book-one": Book("UST results")}
        self.lock = threading.RLock()
        self.tokens: set[str] = set()
        self.log: list[tuple[str, str]] = []
        self.violations: list[str] = []
        self.faults: Callable[[str, str], str | None] = lambda method, path: None
        self.watch: Callable[[str, int], None] = lambda moment, number: None
        self.seen = 0
        self.before_batch: Callable[[Book], None] | None = None
        self.after_batch: Callable[[Book], None] | None = None
        self.quota: int | None = None
        self.used: dict[str, list[float]] = {"read": [], "write": []}
        self.clock: Callable[[], float] = time.monotonic
        self.schemas = discovery()
        self.key = _private_key()

    def key_file(self, folder: Path) -> Path:
        """A service account's key file for this server, readable by its owner only."""
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()).decode()
        path = folder / "key.json"
        path.write_text(json.dumps({
            "type": "service_account", "client_email": EMAIL, "private_key": private,
            "token_uri": f"{self.url}/token"}))
        path.chmod(0o600)
        return path

    @property
    def book(self) -> Book:
        return self.books["book-one"]

    def grid(self, title: str) -> list[list[Any]]:
        """The filled rows of a tab, without the header, as wide as they are."""
        with self.lock:
            grid = self.book.named(title)["grid"]
            return [list(row) for row in grid[1:] if any(value is not None for value in row)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Dropped connections are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request("GET", b"")

    def do_POST(self) -> None:
        self.handle_request("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def handle_request(self, method: str, body: bytes) -> None:
        number = self.server.seen
        self.server.seen += 1
        self.server.watch("arrived", number)
        self.answer_request(method, body, number)
        self.server.watch("answered", number)

    def answer_request(self, method: str, body: bytes, number: int) -> None:
        address = urlparse(self.path)
        try:
            if address.path == "/token":
                answer = self.token(parse_qs(body.decode()))
                self.server.watch("applied", number)
                self.reply(200, answer)
                return
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if bearer not in self.server.tokens:
                raise Refusal(401, "Request had invalid authentication credentials.")
            path = unquote(address.path)
            self.server.log.append((method, path))
            fault = self.server.faults(method, path)
            if fault == "403-disabled":
                raise Refusal(403, "Google Sheets API has not been used in project 1 before or it "
                                   "is disabled.")
            if fault in ("429", "500", "503", "401", "403", "404"):
                raise Refusal(int(fault), f"fault {fault}")
            if fault == "drop":
                self.drop()
                return
            if fault in ("html", "html-200"):
                self.reply(502 if fault == "html" else 200, "<html>Bad Gateway</html>")
                return
            if fault == "slow":
                time.sleep(1.0)
            self.charge("read" if method == "GET" else "write")
            answer = self.answer(method, path, parse_qs(address.query), body)
            self.server.watch("applied", number)
            if fault == "drop-applied":
                self.drop()
                return
            if fault == "503-applied":
                raise Refusal(503, "The service is currently unavailable.")
            self.reply(200, answer)
        except Refusal as refusal:
            self.reply(refusal.code, {"error": {
                "code": refusal.code, "message": str(refusal), "status": "ERROR"}})

    def drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def reply(self, code: int, answer: Any) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def token(self, form: dict[str, list[str]]) -> dict[str, Any]:
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            raise Refusal(400, "unsupported grant type")
        head, claims, signature = form["assertion"][0].split(".")
        try:
            self.server.key.public_key().verify(
                _decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(),
                hashes.SHA256())
        except InvalidSignature:
            raise Refusal(401, "invalid_grant: Invalid JWT Signature.") from None
        said = json.loads(_decoded(claims))
        if json.loads(_decoded(head))["alg"] != "RS256" or said["iss"] != EMAIL or (
                said["aud"] != AUDIENCE or said["scope"] != SCOPE or said["exp"] < time.time()):
            raise Refusal(401, "invalid_grant")
        token = f"token-{len(self.server.tokens)}"
        self.server.tokens.add(token)
        return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def charge(self, kind: str) -> None:
        if self.server.quota is None:
            return
        with self.server.lock:
            now = self.server.clock()
            used = [moment for moment in self.server.used[kind] if now - moment < 60.0]
            if len(used) >= self.server.quota:
                self.server.used[kind] = used
                raise Refusal(429, f"Quota exceeded for quota metric '{kind} requests'")
            self.server.used[kind] = [*used, now]

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        found = re.fullmatch(r"/v4/spreadsheets/([^/:]+)(.*)", path)
        if found is None or found[1] not in self.server.books:
            raise Refusal(404, "Requested entity was not found.")
        rest = found[2]
        with self.server.lock:
            book = self.server.books[found[1]]
            if method == "GET" and rest == "":
                answer = book.get()
                self.check("Spreadsheet", answer)
                return masked(answer, query["fields"][0]) if "fields" in query else answer
            if method == "GET" and rest == "/values:batchGet":
                if query.get("valueRenderOption") != ["UNFORMATTED_VALUE"]:
                    raise Refusal(400, "only UNFORMATTED_VALUE here")
                answer = {"spreadsheetId": found[1],
                          "valueRanges": [book.values(area) for area in query["ranges"]]}
                self.check("BatchGetValuesResponse", answer)
                return answer
            if method == "POST" and rest == ":batchUpdate":
                return self.batch(found[1], json.loads(body))
            if method == "POST" and rest.endswith(":append"):
                return self.append(book, rest, json.loads(body))
        raise Refusal(404, f"not spoken here: {method} {path}")

    def append(self, book: Book, rest: str, asked: dict[str, Any]) -> dict[str, Any]:
        """values.append, as the published code uses it: not idempotent."""
        title = rest.removeprefix("/values/").removesuffix(":append").partition("!")[0]
        sheet = book.named(title.strip("'"))
        for line in asked["values"]:
            filled = max((number for number, row in enumerate(sheet["grid"], 1)
                          if any(value is not None for value in row)), default=0)
            sheet["grid"].insert(filled, [*line] + [None] * (sheet["columns"] - len(line)))
        return {"updates": {"updatedRows": len(asked["values"])}}

    def batch(self, number: str, asked: dict[str, Any]) -> dict[str, Any]:
        if self.server.schemas:
            bad = violations(self.server.schemas, {"$ref": "BatchUpdateSpreadsheetRequest"}, asked,
                             "request")
            if bad:
                self.server.violations += bad
                raise Refusal(400, "Invalid JSON payload received. " + bad[0])
        if self.server.before_batch:
            self.server.before_batch(self.server.books[number])
        draft = copy.deepcopy(self.server.books[number])
        replies = draft.apply(asked["requests"])
        self.server.books[number] = draft
        if self.server.after_batch:
            self.server.after_batch(draft)
        answer = {"spreadsheetId": number, "replies": replies}
        self.check("BatchUpdateSpreadsheetResponse", answer)
        return answer

    def check(self, name: str, answer: Any) -> None:
        if self.server.schemas:
            self.server.violations += violations(self.server.schemas, {"$ref": name}, answer, name)


@functools.cache
def _private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _column(letters: str) -> int:
    number = 0
    for sign in letters:
        number = number * 26 + ord(sign) - 64
    return number - 1


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
