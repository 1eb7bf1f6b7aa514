"""Jobs, syncers, people and faults in any order: afterwards sheet and fold agree."""

import contextlib
import itertools
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from l3hpc.errors import HeaderDriftError, L3hpcError
from l3hpc.ledger.journal.upkeep import compact
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.sheets.sync import sync

pytestmark = pytest.mark.slow

MSE = "embedding_approx_mse"
JOBS = st.sampled_from("abcd")
FAULTS = st.sampled_from(["429", "500", "503", "503-applied", "drop", "drop-applied", "html"])


class Killed(BaseException):
    """Stands for kill -9: nothing below catches it."""


class Interleaved(RuleBasedStateMachine):
    """A sheet that people sort and write into while jobs record and syncers come and go."""

    def __init__(self):
        super().__init__()
        from sheets_book import Book
        from sheets_server import Server
        from sheets_world import World
        self.server = Server()
        self.server.books["book-two"] = Book("second")
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01},
                         daemon=True).start()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(self.server, Path(self.folder.name))
        self.world.init()
        self.world.init(book="book-two")
        sheet = self.sheet
        sheet["columns"] += 1
        for row in sheet["grid"]:
            row.append(None)
        sheet["grid"][0][28] = "remarks"
        self.notes = {}
        self.typed = set()
        self.epochs = dict.fromkeys("abcd", 0)
        self.theirs = []
        self.deleted = set()
        self.numbers = itertools.count()

    def teardown(self):
        try:
            self.server.faults = lambda method, path: None
            self.server.before_batch = None
            report = self.world.sync()
            kinds = {item["kind"] for item in report.problems}
            assert kinds <= {"deleted", "conflict"} and ("conflict" not in kinds or self.typed)
            self.check(final=True)
            assert self.world.sync().requests == 2
            self.world.sync(book="book-two")
            second = self.server.books["book-two"].named(MSE)["grid"]
            keys = [row[1] for row in second[1:] if row[1]]
            rows = self.world.store.fold().rows_of(MSE)
            assert sorted(keys) == sorted(row.key[0] for row in rows)
        finally:
            self.server.shutdown()
            self.server.server_close()
            self.folder.cleanup()
        assert self.server.violations == []

    @property
    def sheet(self):
        return next(sheet for sheet in self.server.book.sheets
                    if sheet["title"].startswith(MSE))

    @property
    def grid(self):
        return self.sheet["grid"]

    def line(self, name):
        return next((row for row in self.grid if row[1] == f"/m/{name}"), None)

    @rule(name=JOBS, loss=st.floats(0.0, 1.0))
    def job_records(self, name, loss):
        self.world.record(name, self.epochs[name], latest_validation_loss=loss, num_epochs=9,
                          emb_key="pca")
        self.epochs[name] += 1

    @rule(name=JOBS)
    def job_restarts_from_a_checkpoint(self, name):
        if name in self.world.journals:
            self.world.journals.pop(name).close()
        self.epochs[name] = max(0, self.epochs[name] - 1)

    @rule()
    def syncer_passes(self):
        self.sync()

    @rule()
    def syncer_of_the_second_sheet_passes(self):
        with contextlib.suppress(L3hpcError):
            self.world.sync(book="book-two")

    @rule(stop=st.integers(0, 7))
    def syncer_is_killed(self, stop):
        sheets = self.world.sheets()
        real, left = sheets.send, [stop]

        def send(call, kind):
            for moment in range(2):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                if not moment:
                    answer = real(call, kind)
            return answer

        sheets.send = send
        with contextlib.suppress(Killed, L3hpcError):
            sync(self.world.store, sheets)

    @rule()
    def journals_are_compacted(self):
        compact(self.world.store.journal, quiet_s=-1.0, silent_s=-1.0)

    @rule()
    def someone_renames_the_tab(self):
        self.sheet["title"] = MSE + " of us" * (self.sheet["title"] == MSE)

    @rule()
    def someone_renames_a_column_and_back(self):
        self.grid[0][7] = "key"
        before = [list(row) for row in self.grid]
        with contextlib.suppress(HeaderDriftError):
            self.world.sync()
            assert not self.world.store.fold().rows
        assert self.grid == before
        self.grid[0][7] = "Emb key"

    @rule(name=JOBS)
    def someone_writes_a_note_beside(self, name):
        line = self.line(name)
        if line is not None:
            line[28] = self.notes[f"/m/{name}"] = f"note {next(self.numbers)}"

    @rule(name=JOBS)
    def someone_types_into_a_cell(self, name):
        line = self.line(name)
        if line is not None:
            line[7] = "typed"
            self.typed.add(f"/m/{name}")

    @rule(faults=st.lists(st.one_of(st.none(), FAULTS), max_size=5))
    def syncer_meets_faults(self, faults):
        left = list(faults)
        self.server.faults = lambda method, path: left.pop() if left else None
        self.sync()
        self.server.faults = lambda method, path: None

    @rule()
    def someone_sorts_while_a_syncer_writes(self):
        def sort(book):
            self.server.before_batch = None
            self.reverse()
        self.server.before_batch = sort
        self.sync()
        self.server.before_batch = None

    @rule()
    def someone_sorts(self):
        self.reverse()

    @rule()
    def someone_writes_a_row(self):
        line = [None] * 29
        line[0], line[1], line[25] = "bob", f"/by/hand/{next(self.numbers)}", 0.5
        place = 1 + sum(1 for row in self.grid[1:] if any(value is not None for value in row))
        if place < len(self.grid):
            self.grid[place] = line
            self.theirs.append(list(line))

    @rule(name=JOBS)
    def someone_deletes_a_row(self, name):
        places = [place for place, row in enumerate(self.grid) if row[1] == f"/m/{name}"]
        if places:
            del self.grid[places[0]]
            self.deleted.add(f"/m/{name}")
            self.notes.pop(f"/m/{name}", None)
            self.typed.discard(f"/m/{name}")

    def reverse(self):
        filled = [row for row in self.grid[1:] if any(value is not None for value in row)]
        self.grid[1:1 + len(filled)] = filled[::-1]

    def sync(self):
        try:
            self.world.sync()
        except L3hpcError as error:
            assert "kept changing" in str(error)

    @invariant()
    def nothing_doubled_and_people_untouched(self):
        self.check()

    def check(self, final=False):
        rows = [row for row in self.grid[1:] if any(value is not None for value in row)]
        keys = [row[1] for row in rows]
        assert len(keys) == len(set(keys))
        assert [row for row in self.theirs if row not in rows] == []
        assert {row[1]: row[28] for row in rows if row[28] is not None} == self.notes
        assert all(row[7] == "typed" for row in rows if row[1] in self.typed)
        if final:
            fold = {row.key[0]: row for row in self.world.store.fold().rows_of(MSE)}
            ours = {row[1]: row for row in rows if not row[1].startswith("/by/hand")}
            assert set(fold) - set(ours) <= self.deleted and set(ours) <= set(fold)
            for key, row in ours.items():
                for field in ("latest_epoch", "latest_validation_loss", "best_validation_loss"):
                    shown = row[TABS[MSE].index(field)]
                    assert shown == fold[key].values.get(field), (key, field)


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(
    max_examples=10, stateful_step_count=18, deadline=None,
    suppress_health_check=[HealthCheck.too_slow])
