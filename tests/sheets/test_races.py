"""People at work in the sheet while it is written: each row still once, and theirs stays theirs."""

import threading

import pytest
from sheets_world import MSE, epochs, filled, in_between, reverse, written_by_hand

from l3hpc.errors import HeaderDriftError
from l3hpc.ledger.schema import TABS

pytestmark = pytest.mark.slow

KEY = 1


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


def test_the_requests_of_a_pass_that_updates(world):
    """Structure, values, anchors, the anchored rows, their new values, the look at the result."""
    filled(world)
    epochs(world, "a", 3, 2)
    assert world.sync().requests == 6 and world.sync().requests == 2


def test_rows_that_a_person_doubled_are_left_as_they_are(world):
    world.init()
    epochs(world, "a", 1)
    world.sync()
    twins = [written_by_hand(world, 2 + epoch, username="bob", model_dir="/old", latest_epoch=epoch)
             for epoch in (0, 1)]
    epochs(world, "a", 1, 1)  # its latest epoch is that of the second twin
    assert world.sync().put_back == 0
    assert world.server.grid(MSE)[1:] == twins


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
