"""Lost answers, many syncers, people at work, a syncer killed anywhere: each row still once."""

import random
import threading

import pytest

from l3hpc.errors import HeaderDriftError, L3hpcError
from l3hpc.ledger.schema import TABS

pytestmark = pytest.mark.slow

MSE = "embedding_approx_mse"
KEY = 1


class Killed(BaseException):
    """Stands for kill -9: nothing below catches it."""


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


@pytest.mark.parametrize("fault", ["503-applied", "drop-applied", "503", "drop", "html", "500"])
def test_a_lost_or_failed_answer_makes_no_second_row(world, fault):
    world.init()
    epochs(world, "a", 2)
    once(world, fault)
    world.sync()
    world.assert_equal_to_fold()
    epochs(world, "a", 2, 2)
    epochs(world, "b", 1)
    once(world, fault)
    world.sync()
    world.assert_equal_to_fold()
    assert world.sync().requests == 2


@pytest.mark.parametrize("fault", ["503-applied", "drop-applied"])
def test_a_lost_answer_to_init_makes_no_second_tab(world, fault):
    once(world, fault)
    world.init()
    assert [sheet["title"] for sheet in world.server.book.sheets] == ["Sheet1", MSE, "sonyc_ust"]
    assert world.init() == []


def held_batch(world):
    """A batch that left its syncer but has not arrived yet: returns what delivers it."""
    from l3hpc.ledger.sheets.sync import sync
    held, sheets = [], world.sheets()
    real = sheets.batch

    def hold(requests):
        held.append(requests)
        raise Killed
    sheets.batch = hold
    with pytest.raises(Killed):
        sync(world.store, sheets)
    return lambda: real(held[0])


def test_a_new_row_that_arrives_late_is_refused(world):
    """Time-out, read back, nothing there; the first request arrives after the second."""
    world.init()
    epochs(world, "a", 1)
    deliver = held_batch(world)
    world.sync()
    with pytest.raises(L3hpcError, match="already in use"):
        deliver()
    world.assert_equal_to_fold()


def test_an_update_that_arrives_late_never_lowers_a_row(world):
    world.init()
    epochs(world, "a", 1)
    world.sync()
    epochs(world, "a", 1, 1)
    deliver = held_batch(world)
    epochs(world, "a", 1, 2)
    world.sync()
    with pytest.raises(L3hpcError, match="already in use"):
        deliver()
    assert world.row("a")["Latest Epoch"] == 2
    world.assert_equal_to_fold()


def test_four_syncers_and_eight_jobs_with_random_faults(world):
    world.init()
    chance = random.Random(3)
    faults = [None] * 12 + ["429", "500", "503", "503-applied", "drop", "drop-applied", "html"]
    lock = threading.Lock()

    def fault(method, path):
        with lock:
            return chance.choice(faults)
    world.server.faults = fault
    problems, stop = [], threading.Event()

    def syncer():
        while not stop.is_set():
            try:
                report = world.sync()
                problems.extend(report.problems)
            except L3hpcError as error:
                if "kept changing" not in str(error):
                    problems.append(error)

    def job(name):
        for epoch in range(50):
            epochs(world, name, 1, epoch)

    syncers = [threading.Thread(target=syncer) for _ in range(4)]
    jobs = [threading.Thread(target=job, args=(f"job{number}",)) for number in range(8)]
    for thread in [*syncers, *jobs]:
        thread.start()
    for thread in jobs:
        thread.join()
    stop.set()
    for thread in syncers:
        thread.join()
    world.server.faults = lambda method, path: None
    assert world.sync().problems == []
    world.assert_equal_to_fold()
    assert len(world.rows()) == 8 and all(row["Latest Epoch"] == 49 for row in world.rows())
    assert problems == []


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


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("moment", ["before_batch", "after_batch", "before_write"])
def test_a_sort_in_between_is_undone_cell_by_cell(world, moment, follows):
    world.server.book.follows_sort = follows
    filled(world)
    grid = world.server.book.named(MSE)["grid"]
    grid[7][:3] = ["bob", "/by/hand", "mine"]
    grid[7][19:24] = [1, 2, 3, 4, 5]
    theirs = list(grid[7])
    epochs(world, "a", 3, 2)
    in_between(world, reverse, moment)
    report = world.sync()
    landed_elsewhere = moment == "before_write" and not follows
    assert [item["kind"] for item in report.problems] == ["moved"] * landed_elsewhere
    assert (report.put_back > 0) == landed_elsewhere and world.sync().problems == []
    assert theirs in world.server.grid(MSE)
    rows = [row for row in world.server.grid(MSE) if row != theirs]
    world.server.book.named(MSE)["grid"][1:] = rows
    world.assert_equal_to_fold()


def test_a_row_inserted_or_deleted_in_between_does_no_harm(world):
    filled(world)
    epochs(world, "c", 3, 2)
    in_between(world, lambda book: book.named(MSE)["grid"].insert(2, [None] * 28))
    assert world.sync().problems == []
    world.assert_equal_to_fold()
    epochs(world, "d", 3, 2)
    in_between(world, lambda book: book.named(MSE)["grid"].pop(1))
    world.sync()
    assert [item["kind"] for item in world.sync().problems] == ["deleted"]
    assert len(world.rows()) == 5
    for row in world.store.fold().rows_of(MSE):
        if row.key != ("/m/a",):
            shown = world.row(row.key[0][3:])
            assert shown["Latest Train Loss"] == row.values["latest_train_loss"]
            assert shown["Best Train Loss"] == row.values["best_train_loss"]


HERS = {"username": "eve", "latest_epoch": 77, "latest_train_loss": "to be checked"}


@pytest.mark.parametrize("moment", ["before_batch", "after_batch", "before_write"])
@pytest.mark.parametrize(("place", "values"), [
    (1, {}), (1, HERS), (3, HERS), (7, {**HERS, "model_dir": "/by/hand"})])
def test_a_row_that_a_person_inserts_meanwhile_is_hers(world, place, values, moment):
    """Above, within and below the rows that are being written; empty, without a key and with one.
    """
    filled(world)
    for name in "acf":
        epochs(world, name, 3, 2)
    line = [None] * 28
    for name, value in values.items():
        line[TABS[MSE].index(name)] = value
    before = list(line)
    in_between(world, lambda book: book.named(MSE)["grid"].insert(place, line), moment)
    report = world.sync()
    assert (report.problems, report.put_back) == ([], 0)
    grid = world.server.book.named(MSE)["grid"]
    assert grid[place] == before
    del grid[place]
    world.assert_equal_to_fold()


@pytest.mark.parametrize("follows", [True, False])
def test_rows_that_a_person_doubles_or_deletes_meanwhile_are_not_written(world, follows):
    world.server.book.follows_sort = follows
    filled(world)
    epochs(world, "b", 3, 2)
    in_between(world, lambda book: book.named(MSE)["grid"].insert(
        1, list(book.named(MSE)["grid"][2])), "before_batch")
    assert [item["kind"] for item in world.sync().problems] == ["duplicate"]
    del world.server.book.named(MSE)["grid"][1]
    in_between(world, lambda book: book.named(MSE)["grid"].pop(2), "before_write")
    others = [row for row in world.rows() if row["Model Dir"] != "/m/b"]
    assert [item["kind"] for item in world.sync().problems] == ["deleted"]
    assert world.rows() == others


def test_what_a_person_types_before_the_last_reading_is_a_conflict_and_stays(world):
    filled(world)
    epochs(world, "a", 3, 2)
    in_between(world, lambda book: world.cell("a", "Latest Epoch", "mine"), "after_batch")
    assert [item["kind"] for item in world.sync().problems] == ["conflict"]
    assert world.row("a")["Latest Epoch"] == "mine"
    assert world.row("a")["Latest Train Loss"] == world.store.fold().rows_of(MSE)[0].values[
        "latest_train_loss"]


@pytest.mark.parametrize("strict", [True, False])
def test_a_write_that_arrives_after_it_was_given_up_finds_no_anchor(world, strict):
    from l3hpc.ledger.sheets.client import Unanswered
    from l3hpc.ledger.sheets.sync import sync
    world.server.book.strict_filters = strict
    filled(world)
    epochs(world, "a", 3, 2)
    held, sheets = [], world.sheets()
    real = sheets.write_by_filter

    def hold(data):
        if held:
            return real(data)
        held.append(data)
        world.cell("a", "Latest Epoch", "mine")  # typed while nobody knows what became of it
        raise Unanswered("no answer")
    sheets.write_by_filter = hold
    report = sync(world.store, sheets)
    assert [item["kind"] for item in report.problems] == ["conflict"]
    before = world.server.grid(MSE)
    if strict:
        with pytest.raises(L3hpcError, match="No developer metadata"):
            real(held[0])
    else:
        real(held[0])
    assert world.server.grid(MSE) == before and world.row("a")["Latest Epoch"] == "mine"


def test_syncers_that_get_no_answer_to_a_write_end_with_75(world):
    from l3hpc.errors import OfflineError
    filled(world)
    epochs(world, "a", 3, 2)
    world.server.faults = lambda method, path: (
        "503" if path.endswith("UpdateByDataFilter") else None)
    with pytest.raises(OfflineError) as error:
        world.sync()
    assert error.value.exit_code == 75 and "Nothing is lost" in error.value.hint
    world.server.faults = lambda method, path: None
    assert world.sync().problems == []
    world.assert_equal_to_fold()


def test_the_requests_of_a_pass_that_updates(world):
    """Structure, values, anchors, the anchored rows, their new values, the look at the result."""
    filled(world)
    epochs(world, "a", 3, 2)
    assert world.sync().requests == 6 and world.sync().requests == 2


def written_by_hand(world, place, **values):
    line = [None] * 28
    for name, value in values.items():
        line[TABS[MSE].index(name)] = value
    world.server.book.named(MSE)["grid"][place] = line
    return list(line)


def test_rows_that_a_person_doubled_are_left_as_they_are(world):
    world.init()
    epochs(world, "a", 1)
    world.sync()
    twins = [written_by_hand(world, 2 + epoch, username="bob", model_dir="/old", latest_epoch=epoch)
             for epoch in (0, 1)]
    epochs(world, "a", 1, 1)  # its latest epoch is that of the second twin
    assert world.sync().put_back == 0
    assert world.server.grid(MSE)[1:] == twins


@pytest.mark.parametrize("fault", ["503-applied", "drop-applied"])
def test_a_sort_and_a_lost_answer_at_once_are_undone(world, fault):
    filled(world)
    theirs = written_by_hand(world, 7, username="bob", model_dir="/by/hand", latest_epoch=77,
                             latest_train_loss=7.7)
    epochs(world, "a", 3, 2)
    world.server.book.follows_sort = False
    once(world, fault, only="UpdateByDataFilter")
    in_between(world, reverse, "before_write")
    report = world.sync()
    assert [item["kind"] for item in report.problems] == ["moved"] and report.put_back > 0
    assert theirs in world.server.grid(MSE)
    world.server.book.named(MSE)["grid"][1:] = [
        row for row in world.server.grid(MSE) if row != theirs]
    world.assert_equal_to_fold()
    assert not list(world.store.folder.glob("sync/**/intent-*"))


@pytest.mark.parametrize("fault", [None, "503"])
def test_a_version_that_another_syncer_took_is_not_taken_for_ours(world, fault, tmp_path):
    """Refused at once, nothing of ours is there; after a lost answer it might be, but it is not."""
    from sheets_world import World
    filled(world)
    (tmp_path / "elsewhere").mkdir()
    other = World(world.server, tmp_path / "elsewhere")
    other.record("other", 4, latest_train_loss=0.5)
    epochs(world, "a", 3, 2)
    kept, batches = [], []

    def faults(method, path):
        if path.endswith(":batchUpdate"):
            batches.append(path)
            if len(batches) == 1:
                other.sync()  # between our reading and our batch
                return fault
        elif batches and path.endswith("book-one"):
            kept.append(len(list(world.store.folder.glob("sync/**/intent-*"))))
        return None
    world.server.faults = faults
    report = world.sync()
    assert report.problems == [] and report.put_back == 0
    assert kept[-1] == (0 if fault is None else 1)
    assert world.row("other")["Latest Epoch"] == world.row("a")["Latest Epoch"] == 4
    assert len(world.rows()) == 7
    assert not list(world.store.folder.glob("sync/**/intent-*"))


@pytest.mark.parametrize("reading", [0, 1])
def test_a_tab_renamed_between_two_requests_is_read_again(world, reading):
    """0: between structure and values; 1: between the batch and the look at what it wrote."""
    filled(world)
    epochs(world, "a", 1, 2)
    left = [reading]

    def faults(method, path):
        if path.endswith(":batchGet"):
            left[0] -= 1
            if left[0] == -1:
                world.server.book.named(MSE)["title"] = "our results"
    world.server.faults = faults
    report = world.sync()
    assert left[0] < -1 and (report.problems, report.put_back) == ([], 0)
    world.server.book.named("our results")["title"] = MSE
    world.assert_equal_to_fold()
    assert not list(world.store.folder.glob("sync/**/intent-*"))


def test_a_reading_that_is_refused_again_and_again_is_an_error(world):
    from l3hpc.ledger.sheets.client import Refused
    from l3hpc.ledger.sheets.sync import sync
    sheets = world.sheets()
    asked = []

    def values(ranges):
        asked.append(ranges)
        raise Refused("Google refused the request (400): no")
    sheets.values = values
    with pytest.raises(Refused, match=r"\(400\): no"):
        sync(world.store, sheets)
    assert len(asked) == 2


def occupied(world, version):
    """A row's mark that happens to have the id of a version."""
    from l3hpc.ledger.sheets.grid import version_identity
    identity = version_identity(version)
    world.server.book.metadata[identity] = {
        "metadataId": identity, "metadataKey": "l", "metadataValue": "abcd",
        "location": {"sheetId": world.server.book.named(MSE)["id"]}, "visibility": "DOCUMENT"}


def test_a_version_whose_id_is_in_use_is_stepped_over(world, monkeypatch):
    from l3hpc.ledger.sheets import rollback
    from l3hpc.ledger.sheets.reading import read_snapshot
    filled(world)
    real, intents = rollback.make_intent, []
    monkeypatch.setattr(rollback, "make_intent",
                        lambda *words: intents.append(real(*words)) or intents[-1])
    version = read_snapshot(world.sheets()).version
    occupied(world, version + 1)
    occupied(world, version + 3)
    epochs(world, "a", 3, 2)
    world.server.book.follows_sort = False
    in_between(world, reverse, "before_write")
    assert world.sync().put_back > 0
    world.assert_equal_to_fold()
    assert [[number - version for number in intent["versions"]] for intent in intents] == [
        [2, 4], [5]]  # 4: cells were put back


def test_a_new_row_whose_mark_would_have_the_id_of_the_version(world, monkeypatch):
    from l3hpc.ledger.sheets import grid
    world.init()
    real, taken = grid.row_identity, [grid.version_identity(2)]
    monkeypatch.setattr(grid, "row_identity", lambda tab, key, probe=0: (
        taken[0], "abcd") if not probe else real(tab, key, probe))
    epochs(world, "a", 1)
    assert world.sync().inserted == 1
    world.assert_equal_to_fold()
    world.sync()  # the mark follows, under another id
    assert world.sync().requests == 2


@pytest.mark.parametrize("position", [0, 1, 5, 22, 27])
def test_a_column_inserted_in_between_is_noticed_and_undone(world, position):
    filled(world)
    epochs(world, "b", 3, 2)
    epochs(world, "new", 1)

    def insert(book):
        sheet = book.named(MSE)
        sheet["columns"] += 1
        for row in sheet["grid"]:
            row.insert(position, None)
        sheet["grid"][0][position] = "Notes"

    in_between(world, insert)
    with pytest.raises(HeaderDriftError):
        world.sync()
    with pytest.raises(HeaderDriftError, match="has changed columns"):
        world.sync()
    sheet = world.server.book.named(MSE)
    assert [row[position] for row in sheet["grid"][1:]] == [None] * (len(sheet["grid"]) - 1)
    sheet["columns"] -= 1
    for row in sheet["grid"]:
        del row[position]
    assert world.sync().problems == []
    world.assert_equal_to_fold()


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("stop", range(8))
def test_a_syncer_killed_at_any_request_leaves_nothing_wrong(world, stop, moved):
    from l3hpc.ledger.sheets.sync import sync
    filled(world)
    epochs(world, "a", 3, 2)
    epochs(world, "new", 1)
    sheets = world.sheets()
    real, sent = sheets.send, [0]

    def send(call, kind):
        number = sent[0]
        sent[0] += 1
        if number == stop // 2 and stop % 2 == 0:
            raise Killed
        answer = real(call, kind)
        if number == stop // 2:
            raise Killed
        return answer

    sheets.send = send
    if moved:
        in_between(world, reverse)
    with pytest.raises(Killed):
        sync(world.store, sheets)
    assert world.sync().problems == []
    world.assert_equal_to_fold()
    assert world.sync().requests == 2
    assert not list(world.store.folder.glob("sync/**/intent-*"))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"version": 1, "tabs": 5}',
                                  b'{"version": 3, "pid": 0, "time": 0, "tabs": {"x": []}}'])
def test_a_damaged_intent_stops_nobody(world, text):
    filled(world)
    path = world.store.state_path("book-one").with_suffix("") / "intent-x.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    epochs(world, "a", 1, 2)
    assert world.sync().problems == []
    world.assert_equal_to_fold()


def test_two_at_once_make_the_tabs_once(world):
    threads = [threading.Thread(target=world.init) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    titles = [sheet["title"] for sheet in world.server.book.sheets]
    assert sorted(titles) == sorted(["Sheet1", MSE, "sonyc_ust"])
    assert world.server.book.named(MSE)["grid"][0] == TABS[MSE].titles


def test_the_quota_is_respected_by_a_visible_wait(world):
    from l3hpc.ledger.sheets.client import Pace, Sheets
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds
    world.init()
    world.server.quota, world.server.clock = 60, lambda: now[0]
    pace = Pace(world.said.append, clock=lambda: now[0], sleep=sleep)
    sheets = Sheets("book-one", world.key, pace=pace, say=world.said.append,
                    environ={"L3HPC_SHEETS_URL": world.server.url})
    for _ in range(130):
        sheets.structure()
    assert 110 < now[0] < 130
    assert any("55 reads this minute" in line for line in world.said)
    assert not any("quota" in line for line in world.said)


def test_a_thousand_rows_need_four_requests(world):
    from l3hpc.ledger.journal.fold import Row
    world.init()
    rows = {}
    for number in range(1000):
        key = (f"/m/{number}",)
        rows[(MSE, key)] = Row(TABS[MSE], key, {"model_dir": key[0], "num_epochs": number})
    from l3hpc.ledger.journal.fold import Fold
    world.store.fold = lambda history=False: Fold(rows=dict(rows))
    report = world.sync()
    assert report.inserted == 1000 and report.requests == 4
    assert world.sync().requests == 2
    assert len({row["Model Dir"] for row in world.rows()}) == 1000
