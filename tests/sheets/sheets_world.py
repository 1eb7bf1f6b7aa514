"""A server, a workspace, and short ways to write results and to sync."""

import time

from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import MAIN_TABS, TABS
from l3hpc.ledger.sheets.client import Pace, Sheets
from l3hpc.ledger.sheets.repair import initialise
from l3hpc.ledger.sheets.sync import sync
from l3hpc.ledger.store import Store

MSE = "embedding_approx_mse"


class World:
    """One test's surroundings."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.store = Store(folder / "ws")
        self.key = server.key_file(folder)
        self.said = []
        self.slept = []
        self.journals = {}

    def sheets(self, book="book-one"):
        pace = Pace(self.said.append, clock=self.clock, sleep=self.slept.append)
        return Sheets(book, self.key, say=self.said.append, pace=pace,
                      environ={"L3HPC_SHEETS_URL": self.server.url})

    def clock(self):
        """The seconds that nobody slept count: else a full minute would be waited for in a loop."""
        return time.monotonic() + sum(self.slept)

    def init(self, tabs=MAIN_TABS, book="book-one"):
        return initialise(self.sheets(book), [TABS[name] for name in tabs])

    def sync(self, book="book-one", **options):
        return sync(self.store, self.sheets(book), say=self.said.append, **options)

    def record(self, name, epoch=None, tab=MSE, **values):
        if name not in self.journals:
            self.journals[name] = Journal(self.store.journal, run=name,
                                          fallback=self.folder / "second",
                                          labels={"model_dir": f"/m/{name}", "output_dir": "/o",
                                                  "exp_id": name, "username": "ada"})
        self.journals[name].record(tab, values, epoch=epoch)

    def rows(self, tab=MSE):
        """Filled rows of a tab as dictionaries by title."""
        titles = TABS[tab].titles
        return [dict(zip(titles, row, strict=False)) for row in self.server.grid(tab)]

    def row(self, name, tab=MSE):
        (found,) = [row for row in self.rows(tab) if row["Model Dir"] == f"/m/{name}"]
        return found

    def cell(self, name, title, value, tab=MSE):
        """A person types into a cell."""
        grid = self.server.book.named(tab)["grid"]
        column = TABS[tab].titles.index(title)
        (line,) = [row for row in grid if row[1] == f"/m/{name}"]
        line[column] = value

    def assert_equal_to_fold(self, tab=MSE):
        from l3hpc.ledger.cells import cells, same_cell
        rows = self.store.fold().rows_of(tab)
        shown = {row[TABS[tab].index(TABS[tab].key[0])]: row for row in self.server.grid(tab)}
        assert len(shown) == len(self.server.grid(tab)) == len(rows)
        for row in rows:
            line = shown[cells(row)[TABS[tab].index(TABS[tab].key[0])]]
            for ours, theirs in zip(cells(row), line, strict=False):
                assert same_cell(ours, theirs), (row.key, ours, theirs)


def epochs(world, name, count, first=0):
    for epoch in range(first, first + count):
        world.record(name, epoch, latest_train_loss=hash((name, epoch)) % 1000 / 7,
                     latest_validation_loss=hash((name, epoch, 1)) % 1000 / 7)


def once(world, fault, only=":batchUpdate"):
    """The next matching request fails in this way, the others do not."""
    left = [fault]

    def faults(method, path):
        return left.pop() if left and path.endswith(only) else None
    world.server.faults = faults


def filled(world, names="abcdef"):
    world.init()
    for number, name in enumerate(names):
        world.record(name, num_epochs=number)
        epochs(world, name, 2)
    world.sync()


def in_between(world, action, moment="before_batch"):
    """A person acts once just before (or after) the next batch is applied."""
    def act(book):
        setattr(world.server, moment, None)
        action(book)
    setattr(world.server, moment, act)


def reverse(book):
    """A person sorts the rows."""
    sheet = book.named(MSE)
    book.reorder(sheet, [row for row in sheet["grid"][1:]
                         if any(value is not None for value in row)][::-1])


def written_by_hand(world, place, **values):
    line = [None] * 28
    for name, value in values.items():
        line[TABS[MSE].index(name)] = value
    world.server.book.named(MSE)["grid"][place] = line
    return list(line)
