"""Lost and late answers, many syncers, a syncer killed anywhere: each row still once."""

import random
import threading

import pytest
from sheets_world import MSE, epochs, filled, in_between, once, reverse, written_by_hand

from l3hpc.errors import L3hpcError

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for kill -9: nothing below catches it."""


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
