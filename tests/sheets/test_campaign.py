"""A person works in the sheet between any two requests of a sync: nothing of hers changes, nothing
of ours lands in a foreign row, and whatever else happens is said.

Each seed is another interleaving of inserting, deleting, moving, sorting and typing, with lost
answers in between, on a sheet where metadata of rows follows a sort or does not. A few seeds run
each time; all of them: ``L3HPC_CAMPAIGN=300 pytest tests/sheets/test_campaign.py``
(``L3HPC_CAMPAIGN=1000:1200`` for these 200).
"""

import contextlib
import os
import random
import tempfile
from pathlib import Path

import pytest

from l3hpc.errors import L3hpcError
from l3hpc.ledger.schema import TABS

pytestmark = pytest.mark.slow

TAB = TABS["embedding_approx_mse"]
MSE = TAB.name
WIDTH = len(TAB.columns) + 1  # and a column of her own
REMARKS = WIDTH - 1
OURS = [TAB.index(name) for name in ("latest_epoch", "latest_train_loss", "best_train_loss")]
EMPTY = TAB.index("reduced_emb_train_dir")  # a declared column that no job of ours fills
FAULTS = ("503", "503-applied", "drop", "drop-applied", "429", "html")


def seeds():
    first, _, last = os.environ.get("L3HPC_CAMPAIGN", "8").rpartition(":")
    return range(int(first or 0), int(last))


class Person:
    """Edits the sheet by hand, and remembers what has to stay."""

    def __init__(self, chance):
        self.chance = chance
        self.rows = {}  # the text in a row of hers → its cells
        self.notes = {}  # (key, column) → what she typed into a row of ours
        self.deleted = set()
        self.number = 0
        self.busy = 0.0
        self.sorted_and_typed = False

    def __call__(self, book):
        while self.chance.random() < self.busy:
            sheet = book.named(MSE)
            self.chance.choice([self.insert, self.insert, self.type_a_row, self.type_a_row,
                                self.type_below, self.delete, self.move, self.sort,
                                self.note, self.change])(book, sheet)

    def text(self):
        self.number += 1
        return f"hers {self.number}"

    def place(self, sheet):
        """Above, within or right below the filled rows."""
        filled = max(place for place, row in enumerate(sheet["grid"]) if any(
            value is not None for value in row))
        return self.chance.randint(1, filled + 1)

    def insert(self, book, sheet):
        place = self.place(sheet)
        for _ in range(self.chance.randint(1, 3)):
            sheet["grid"].insert(place, [None] * WIDTH)

    def typed(self):
        line = [None] * WIDTH
        for column in self.chance.sample(range(WIDTH), self.chance.randint(1, 6)) + (
                self.chance.sample(OURS, 2)):
            line[column] = self.text()
        line[2] = self.text()
        self.rows[line[2]] = list(line)
        return line

    def type_a_row(self, book, sheet):
        sheet["grid"].insert(self.place(sheet), self.typed())

    def type_below(self, book, sheet):
        place = self.place(sheet)
        while place < len(sheet["grid"]) and any(
                value is not None for value in sheet["grid"][place]):
            place += 1
        if place < len(sheet["grid"]):
            sheet["grid"][place][:] = self.typed()

    def filled(self, sheet):
        return [row for row in sheet["grid"][1:] if any(value is not None for value in row)]

    def delete(self, book, sheet):
        rows = self.filled(sheet)
        if rows and self.chance.random() < 0.4:
            row = self.chance.choice(rows)
            place = next(place for place, one in enumerate(sheet["grid"]) if one is row)
            del sheet["grid"][place]
            if row[2] in self.rows:
                del self.rows[row[2]]
            else:
                self.deleted.add(row[1])
                self.notes = {at: text for at, text in self.notes.items() if at[0] != row[1]}

    def move(self, book, sheet):
        grid = sheet["grid"]
        row = grid.pop(self.place(sheet) - 1 or 1)
        grid.insert(self.place(sheet), row)

    def sort(self, book, sheet):
        rows = sheet["grid"][1:1 + len(self.filled(sheet))]
        self.chance.shuffle(rows)
        book.reorder(sheet, rows)

    def note(self, book, sheet):
        ours = [row for row in self.filled(sheet) if (row[1] or "").startswith("/m/")]
        if ours:
            row, column = self.chance.choice(ours), self.chance.choice([REMARKS, EMPTY])
            row[column] = self.notes[row[1], column] = self.text()

    def change(self, book, sheet):
        hers = [row for row in self.filled(sheet) if row[2] in self.rows]
        if hers:
            row = self.chance.choice(hers)
            column = self.chance.choice([column for column in range(WIDTH) if column not in (1, 2)])
            row[column] = self.rows[row[2]][column] = self.text()

    def wrong(self, grid):
        """What is not as she left it."""
        rows = [row for row in grid[1:] if any(value is not None for value in row)]
        hers = [row for row in rows if row[2] in self.rows]
        found = [f"{row[2]}: {self.rows[row[2]]} became {row}" for row in hers
                 if row != self.rows[row[2]]]
        if len(hers) != len(self.rows):
            found.append(f"{len(self.rows)} rows of hers became {len(hers)}")
        ours = {row[1]: row for row in rows if (row[1] or "").startswith("/m/")}
        found += [f"{at}: {text!r} became {ours[at[0]][at[1]]!r}"
                  for at, text in self.notes.items()
                  if at[0] in ours and ours[at[0]][at[1]] != text]
        stray = [row for row in rows if row not in hers and row[1] not in ours]
        return found + [f"a row of nobody: {row}" for row in stray]


def interleaved(server, seed):
    """One seed. How many syncs said that something was wrong, and how many were silent."""
    from sheets_book import Book
    from sheets_world import World
    chance = random.Random(seed)
    book = server.books["book-one"] = Book("UST results")
    book.follows_sort, book.strict_filters = bool(seed % 2), bool(seed // 2 % 2)
    person = Person(chance)
    with tempfile.TemporaryDirectory() as folder:
        world = World(server, Path(folder))
        world.init([MSE])
        sheet = server.book.named(MSE)
        sheet["columns"] = WIDTH
        for row in sheet["grid"]:
            row.append(None)
        epochs = dict.fromkeys("abcdefg"[:chance.randint(2, 7)], 0)

        def record(name):
            world.record(name, epochs[name], latest_train_loss=chance.random(), num_epochs=9)
            epochs[name] += 1

        for name in list(epochs)[:-1]:
            record(name)
        world.sync()
        server.between = person
        said = silent = 0
        for _ in range(4):
            for name in epochs:
                if chance.random() < 0.7 or not epochs[name]:
                    record(name)
            person.busy = chance.choice([0.2, 0.4, 0.6])
            share = chance.choice([0.0, 0.0, 0.1, 0.2])
            server.faults = lambda method, path, share=share: (
                chance.choice(FAULTS) if chance.random() < share else None)
            loud = True
            with contextlib.suppress(L3hpcError):
                loud = bool(world.sync().problems)
            said, silent = said + loud, silent + (not loud)
            wrong = person.wrong(server.book.named(MSE)["grid"])
            assert not wrong or loud, (seed, wrong)
            for text in [text for text in person.rows if wrong]:  # said, so it may be so
                person.rows[text] = next(
                    (list(row) for row in server.book.named(MSE)["grid"] if row[2] == text), [])
        person.busy, server.faults = 0.0, lambda method, path: None
        report = world.sync()
        kinds = {item["kind"] for item in report.problems}
        assert kinds <= {"deleted"}, (seed, report.problems)
        assert person.wrong(server.book.named(MSE)["grid"]) == [], seed
        rows = server.grid(MSE)
        keys = [row[1] for row in rows if (row[1] or "").startswith("/m/")]
        fold = {row.key[0]: row for row in world.store.fold().rows_of(MSE)}
        assert len(keys) == len(set(keys)), seed
        assert set(fold) - person.deleted <= set(keys) <= set(fold), seed
        for row in rows:
            if row[1] in fold:
                for field in ("latest_epoch", "latest_train_loss", "best_train_loss"):
                    assert row[TAB.index(field)] == fold[row[1]].values[field], (seed, row[1])
        assert world.sync().requests == 2
        assert not list(world.store.folder.glob("sync/**/intent-*"))
        for journal in world.journals.values():
            journal.close()
    return said, silent


@pytest.mark.parametrize("seed", seeds())
def test_a_person_at_work_between_any_two_requests(server, seed, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    said, silent = interleaved(server, seed)
    assert said + silent == 4
