"""Jobs, syncers, people and faults in any order: afterwards sheet and fold agree."""

import itertools
import tempfile
import threading
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from l3hpc.errors import L3hpcError
from l3hpc.ledger.columns import TABS

MSE = "embedding_approx_mse"
JOBS = st.sampled_from("abcd")
FAULTS = st.sampled_from(["429", "500", "503", "503-applied", "drop", "drop-applied", "html"])


class Interleaved(RuleBasedStateMachine):
    """A sheet that people sort and write into while jobs record and syncers come and go."""

    def __init__(self):
        super().__init__()
        from sheets_server import Server
        from sheets_world import World
        self.server = Server()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01},
                         daemon=True).start()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(self.server, Path(self.folder.name))
        self.world.init()
        self.epochs = dict.fromkeys("abcd", 0)
        self.theirs = []
        self.deleted = set()
        self.numbers = itertools.count()

    def teardown(self):
        try:
            self.server.faults = lambda method, path: None
            self.server.before_batch = None
            report = self.world.sync()
            assert {item["kind"] for item in report.problems} <= {"deleted"}
            self.check(final=True)
            assert self.world.sync().requests == 2
        finally:
            self.server.shutdown()
            self.server.server_close()
            self.folder.cleanup()
        assert self.server.violations == []

    @property
    def grid(self):
        return self.server.book.named(MSE)["grid"]

    @rule(name=JOBS, loss=st.floats(0.0, 1.0))
    def job_records(self, name, loss):
        self.world.record(name, self.epochs[name], latest_validation_loss=loss, num_epochs=9)
        self.epochs[name] += 1

    @rule(name=JOBS)
    def job_restarts_from_a_checkpoint(self, name):
        if name in self.world.journals:
            self.world.journals.pop(name).close()
        self.epochs[name] = max(0, self.epochs[name] - 1)

    @rule()
    def syncer_passes(self):
        self.sync()

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
        line = [None] * 28
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
        rows = self.server.grid(MSE)
        keys = [row[1] for row in rows]
        assert len(keys) == len(set(keys))
        assert [row for row in self.theirs if row not in rows] == []
        if final:
            fold = {row.key[0]: row for row in self.world.store.fold().of(MSE)}
            ours = {row[1]: row for row in rows if not row[1].startswith("/by/hand")}
            assert set(fold) - set(ours) <= self.deleted and set(ours) <= set(fold)
            for key, row in ours.items():
                for field in ("latest_epoch", "latest_validation_loss", "best_validation_loss"):
                    shown = row[TABS[MSE].index(field)]
                    assert shown == fold[key].values.get(field), (key, field)


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(
    max_examples=8, stateful_step_count=15, deadline=None,
    suppress_health_check=[HealthCheck.too_slow])
