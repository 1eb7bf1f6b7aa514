"""A real HTTP server that speaks the part of Google Sheets v4 that gspread and the ledger use.

It verifies the service account's signed token request, checks every request and answer against the
published discovery document where that is installed, keeps size and quota limits, applies a batch
to a spreadsheet (``sheets_book``) as a whole or not at all, and fails on demand.
"""

from __future__ import annotations

import base64
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
from sheets_book import Book, Refusal, is_empty

SCOPE = "https://www.googleapis.com/auth/spreadsheets"
AUDIENCE = "https://oauth2.googleapis.com/token"
EMAIL = "ledger@test.iam.gserviceaccount.com"
BYTES_LIMIT = 10_485_760


@functools.cache
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

class Server(ThreadingHTTPServer):
    """``faults``: called with (method, path), returns the name of a fault or None.

    Faults: ``429 500 503 401 403 404 403-disabled`` answered without applying, ``503-applied``,
    ``drop`` (the connection ends unanswered), ``drop-applied``, ``html`` (a 502 page),
    ``html-200``, ``slow``.
    ``before_batch``: called with the book just before a batch is applied (a person's moment);
    ``after_batch``: just after; ``before_write``: just before values are written by data filter.
    ``between``: called with the book before every request.
    ``watch``: called with (moment, number of the request, counted with sign-ins from ``seen``),
    where moment is ``arrived``, ``applied`` or ``answered``.
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
        self.late = 0  # slow answers that were given after all
        self.faults: Callable[[str, str], str | None] = lambda method, path: None
        self.watch: Callable[[str, int], None] = lambda moment, number: None
        self.seen = 0
        self.before_batch: Callable[[Book], None] | None = None
        self.after_batch: Callable[[Book], None] | None = None
        self.before_write: Callable[[Book], None] | None = None
        self.between: Callable[[Book], None] | None = None
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
            return [list(row) for row in grid[1:] if not is_empty(row)]

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

    def is_read(self, method: str) -> bool:
        return method == "GET" or self.path.partition("?")[0].endswith("GetByDataFilter")

    def handle_request(self, method: str, body: bytes) -> None:
        number = self.server.seen
        self.server.seen += 1
        self.server.watch("arrived", number)
        self.answer_request(method, body, number)
        self.server.watch("answered", number)

    def answer_request(self, method: str, body: bytes, number: int) -> None:
        address, fault = urlparse(self.path), None
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
            if fault == "slow":  # until whoever sent it has given it up and sends the next one
                end = time.monotonic() + 240
                while self.server.seen == number + 1 and time.monotonic() < end:
                    time.sleep(0.02)
            self.charge("read" if self.is_read(method) else "write")
            if len(body) > BYTES_LIMIT:
                raise Refusal(400, f"Request payload size exceeds the limit: {BYTES_LIMIT} bytes.")
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
        finally:
            self.server.late += fault == "slow"

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
            if self.server.between:
                self.server.between(book)
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
            if method == "POST" and rest == "/values:batchGetByDataFilter":
                asked = json.loads(body)
                self.check("BatchGetValuesByDataFilterRequest", asked)
                answer = {"spreadsheetId": found[1], "valueRanges": book.read_filtered(asked)}
                self.check("BatchGetValuesByDataFilterResponse", answer)
                return answer
            if method == "POST" and rest == "/values:batchUpdateByDataFilter":
                return self.write_filtered(found[1], json.loads(body))
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
                          if not is_empty(row)), default=0)
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
        draft = self.server.books[number].draft()
        replies = draft.apply(asked["requests"])
        self.server.books[number] = draft
        if self.server.after_batch:
            self.server.after_batch(draft)
        answer = {"spreadsheetId": number, "replies": replies}
        self.check("BatchUpdateSpreadsheetResponse", answer)
        return answer

    def write_filtered(self, number: str, asked: dict[str, Any]) -> dict[str, Any]:
        self.check("BatchUpdateValuesByDataFilterRequest", asked)
        if self.server.before_write:
            self.server.before_write(self.server.books[number])
        draft = self.server.books[number].draft()
        draft.write_filtered(asked)
        self.server.books[number] = draft
        answer = {"spreadsheetId": number, "responses": []}
        self.check("BatchUpdateValuesByDataFilterResponse", answer)
        return answer

    def check(self, name: str, answer: Any) -> None:
        if self.server.schemas:
            self.server.violations += violations(self.server.schemas, {"$ref": name}, answer, name)

@functools.cache
def _private_key() -> rsa.RSAPrivateKey:
    # Google's have 2048 bits, and whoever reads one checks it for 28 ms: at every sign-in.
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)

def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
