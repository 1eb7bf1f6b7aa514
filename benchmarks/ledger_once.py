"""Rows lost, doubled and misplaced: appending with retries against the ledger's sync.

The naive way is that of the published code: one values.append per run from its job, then one
values.update per epoch to the row found by its key, fifty immediate retries on any error. Both ways
meet the same server, faults and people. Needs nothing outside this machine:

    python benchmarks/ledger_once.py [SEEDS]
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sheets"))

from sheets_book import Book  # noqa: E402
from sheets_server import Server  # noqa: E402
from sheets_world import MSE, World  # noqa: E402

from l3hpc.ledger.cells import cells, same_cell  # noqa: E402
from l3hpc.ledger.schema import TABS  # noqa: E402

RUNS, EPOCHS = 20, 5
FAULTS = ["503", "503-applied", "drop-applied", "429", "500"]
TAB = TABS[MSE]


def faulty(chance: random.Random, share: float) -> Any:
    """Every request fails with probability ``share``."""
    lock = threading.Lock()

    def fault(method: str, path: str) -> str | None:
        with lock:
            return chance.choice(FAULTS) if chance.random() < share else None
    return fault


def sort_now(book: Book) -> None:
    """A person sorts by the key, downwards."""
    grid = book.named(MSE)["grid"]
    filled = [row for row in grid[1:] if any(value is not None for value in row)]
    grid[1:1 + len(filled)] = sorted(filled, key=lambda row: str(row[1]), reverse=True)


def retried(call: Any) -> Any:
    """Fifty attempts at once, as published; then the error ends the job."""
    for attempt in range(50):
        try:
            return call()
        except Exception:  # any error at all: that is what the published method does
            if attempt == 49:
                raise
    return None


class Published:
    """The requests of the published code, on a server of ours."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.session = world.sheets()._http.session

    def call(self, method: str, rest: str, **options: Any) -> Any:
        """One request; any failure is an error."""
        url = f"{self.world.server.url}/v4/spreadsheets/book-one{rest}"
        answer = self.session.request(method, url, timeout=10, **options)
        answer.raise_for_status()
        return answer.json()

    def append(self, *values: dict[str, Any]) -> None:
        """A row at the end, by values.append."""
        given = {name: value for part in values for name, value in part.items()}
        line = ["" if given.get(name) is None else given[name] for name in TAB.fields]
        retried(lambda: self.call("post", f"/values/{MSE}!A1:A28:append", json={"values": [line]}))

    def update(self, *values: dict[str, Any], before_write: Any = lambda: None) -> None:
        """The last nine cells of the row with this key, if it is found."""
        given = {name: value for part in values for name, value in part.items()}
        found = retried(lambda: self.call("get", "/values:batchGet", params={
            "ranges": f"'{MSE}'!A:AB", "valueRenderOption": "UNFORMATTED_VALUE"}))
        keys = [line[1] if len(line) > 1 else ""
                for line in found["valueRanges"][0].get("values", [])]
        if given["model_dir"] not in keys:
            return
        place = keys.index(given["model_dir"])
        before_write()
        cells_of = [{"userEnteredValue": {"numberValue": value}} if isinstance(
            value := given.get(name), (int, float)) else {} for name in TAB.fields[19:]]
        retried(lambda: self.call("post", ":batchUpdate", json={"requests": [{"updateCells": {
            "start": {"sheetId": self.world.server.book.named(MSE)["id"], "rowIndex": place,
                      "columnIndex": 19},
            "rows": [{"values": cells_of}], "fields": "userEnteredValue"}}]}))


def naive(world: World, chance: random.Random) -> None:
    """Each job appends its row and then updates cells of the row it found."""
    way = Published(world)

    def sort_sometimes() -> None:
        if chance.random() < 0.1:
            with world.server.lock:
                sort_now(world.server.book)

    for row in world.store.fold().rows_of(MSE):
        way.append(row.values)
        for _ in range(EPOCHS):
            way.update(row.values, before_write=sort_sometimes)


def ours(world: World, chance: random.Random) -> None:
    """The journals are synced while a person sorts now and then."""
    def sort(book: Book) -> None:
        if chance.random() < 0.5:
            sort_now(book)
    world.server.before_batch = sort
    for _ in range(3):
        world.sync()
    world.server.before_batch = None


def counted(world: World) -> tuple[int, int, int]:
    """Rows lost, rows too many, rows with cells of another row."""
    shown: dict[Any, list[list[Any]]] = {}
    for line in world.server.grid(MSE):
        shown.setdefault(line[1], []).append(line)
    lost = doubled = misplaced = 0
    for row in world.store.fold().rows_of(MSE):
        lines = shown.get(row.key[0], [])
        lost += not lines
        doubled += max(0, len(lines) - 1)
        misplaced += any(not same_cell(one, other) for line in lines
                         for one, other in zip(cells(row), line, strict=False))
    return lost, doubled, misplaced


def measure(way: Any, share: float, seed: int) -> tuple[int, int, int]:
    """One run of a way under faults of this share."""
    chance = random.Random(seed)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01},
                     daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        world = World(server, Path(folder))
        world.init()
        for number in range(RUNS):
            for epoch in range(EPOCHS):
                world.record(f"{number:02d}", epoch, latest_train_loss=chance.random(),
                             latest_validation_loss=chance.random())
        server.faults = faulty(chance, share)
        way(world, chance)
        server.faults = lambda method, path: None
        result = counted(world)
    server.shutdown()
    server.server_close()
    return result


def results(seeds: int, shares: Sequence[float]) -> Iterator[tuple[float, str, list[int]]]:
    """(share of failing requests, way, [rows lost, doubled, misplaced]) over some seeds."""
    for share in shares:
        for name, way in (("append with retries", naive), ("ledger sync", ours)):
            each = [measure(way, share, seed) for seed in range(seeds)]
            yield share, name, [sum(column) for column in zip(*each, strict=True)]


def main() -> None:
    """Print the table."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{RUNS} runs of {EPOCHS} epochs, a person sorts now and then, {seeds} seeds\n")
    print("| failing requests | way | lost | doubled | misplaced |\n|---|---|---|---|---|")
    for share, name, total in results(seeds, (0.0, 0.05, 0.2)):
        print(f"| {share:.0%} | {name} | {total[0]} | {total[1]} | {total[2]} |", flush=True)


if __name__ == "__main__":
    main()
