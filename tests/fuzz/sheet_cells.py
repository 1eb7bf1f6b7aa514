"""What people leave in the results sheet: odd cells, headers, keys and rows, before a sync."""

from __future__ import annotations

import importlib.util
import random
import sys
import threading
from pathlib import Path
from typing import Any

from . import damage
from .oracle import call
from .runner import Case, Fault, Surface, Verdict

FOLDER = Path(__file__).parents[1] / "sheets"
TABS = ("embedding_approx_mse", "sonyc_ust")


class SheetCells(Surface):
    """A sheet of four rows that a person has edited; rows of hers stay as they are."""

    name = "sheet"
    share = 200

    def prepare(self, folder: Path) -> None:
        if importlib.util.find_spec("cryptography") is None:
            raise Fault("the server of the sheet needs cryptography")
        sys.path.insert(0, str(FOLDER))
        from sheets_server import Server

        self.server = Server()
        threading.Thread(target=self.server.serve_forever, daemon=True,
                         kwargs={"poll_interval": 0.02}).start()

    def judge(self, case: Case) -> Verdict:
        from sheets_book import Book
        from sheets_world import World

        from l3hpc.errors import L3hpcError

        self.server.books["book-one"] = Book("UST results")
        self.server.violations.clear()
        world = World(self.server, case.folder)
        world.init()
        for number in range(4):
            for epoch in range(2):
                world.record(f"r{number}", epoch=epoch, latest_train_loss=0.5 / (epoch + 1))
            world.record(f"r{number}", tab="sonyc_ust", micro_auprc=number / 10)
        world.sync()
        own = cells(self._person(case.rng))
        changed = [self._edit(change) for change in case.damages()]
        (case.folder / "edits.txt").write_text("\n".join(changed), errors="surrogatepass")
        for number in range(2, 6):
            world.record(f"r{number}", epoch=2, latest_train_loss=0.1)
        found = call(world.sync)
        if self.server.violations:
            raise Fault(f"Google would refuse: {self.server.violations[:3]}")
        if own not in map(cells, self.server.grid(TABS[0])) and "a row" not in "".join(changed):
            raise Fault(f"a person's row is gone or changed after {changed}")
        if isinstance(found, L3hpcError):
            return Verdict(False, found.exit_code)
        again = call(world.sync)
        if isinstance(again, L3hpcError):
            raise Fault(f"the sync after a good one is refused: {again}; {changed}")
        if again.inserted or again.updated:
            raise Fault(f"the second sync writes {again.inserted} + {again.updated} rows again, "
                        f"after {changed}")
        if not case.changes:
            grid = self.server.book.named(TABS[0])["grid"]
            del grid[next(place for place, row in enumerate(grid) if cells(row) == own)]
            world.assert_equal_to_fold()
        return Verdict(True)

    def _person(self, rng: random.Random) -> list[Any]:
        """A row of a person's own, below the others."""
        sheet = self.server.book.named(TABS[0])
        row: list[Any] = [None] * sheet["columns"]
        row[rng.randrange(2)], row[5] = "mine", 0.25
        free = next(place for place, line in enumerate(sheet["grid"]) if place and not any(
            cell is not None for cell in line))
        sheet["grid"][free] = row
        return list(row)

    def _edit(self, rng: random.Random) -> str:
        """One thing that a person does to rows of ours; what, in words."""
        sheet = self.server.book.named(rng.choice(TABS))
        grid = sheet["grid"]
        line, column = rng.randrange(1, 5), rng.randrange(12)
        kind = rng.randrange(11)
        odd = rng.choice([*damage.NUMBERS[:20], *damage.WORDS, True, False])
        odd = odd.encode("utf-8", "replace").decode() if isinstance(odd, str) else odd
        odd = float(odd) if isinstance(odd, int) and not isinstance(odd, bool) else odd
        if kind <= 2:
            grid[line][column] = odd
            return f"cell {line},{column} = {odd!r}"
        if kind == 3:
            grid[0][column] = odd
            return f"header {column} = {odd!r}"
        if kind == 4:
            grid[line][1] = f" {grid[line][1]} " if grid[line][1] else odd
            return f"key {line} with blanks"
        if kind == 5:
            grid.insert(line, [None] * sheet["columns"])
            return f"a blank line at {line}"
        if kind == 6:
            grid.insert(line, list(grid[rng.randrange(1, 5)]))
            return f"a row twice, at {line}"
        if kind == 7:
            del grid[line]
            return f"a row deleted: {line}"
        if kind == 8:
            one, other = rng.sample(range(12), 2)
            for row in grid:
                row[one], row[other] = row[other], row[one]
            return f"columns {one} and {other} swapped"
        if kind == 9:
            head = grid[0]
            body = sorted(grid[1:7], key=lambda row: str(row[column]))
            grid[:7] = [head, *body]
            return f"sorted by {column}"
        grid[0:2] = grid[1::-1]
        return "header below the first row"


def cells(row: list[Any]) -> list[str]:
    """What a row holds, wherever its columns stand."""
    return sorted(str(cell) for cell in row if cell is not None)
