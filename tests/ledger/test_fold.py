"""The fold gives the same rows whatever the order, repetition or damage of what it reads."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.ledger.journal.batch import Batch
from l3hpc.ledger.journal.fold import Fold, finite_number, fold, fold_folders
from l3hpc.ledger.journal.records import Journal, seal

TAB = "embedding_approx_mse"


def record(epoch=None, restart=0, seq=0, key="/m/1", tab=TAB, beside=None, when=0.0, host="h",
           **values):
    return {"schema": 1, "tab": tab, "key": [key], "restart": restart, "seq": seq, "epoch": epoch,
            "time": when, "values": values, "beside": beside or {},
            "origin": {"host": host, "pid": 1}}


def only(result):
    (row,) = result.rows.values()
    return row


def test_latest_is_that_of_the_highest_epoch_and_best_is_the_minimum():
    losses = [0.9, 0.4, 0.6]
    row = only(fold(record(epoch, seq=epoch, latest_epoch=epoch, latest_validation_loss=loss,
                           latest_validation_mae=loss / 2) for epoch, loss in enumerate(losses)))
    assert row.values["latest_epoch"] == 2
    assert row.values["latest_validation_loss"] == 0.6
    assert row.values["best_validation_loss"] == 0.4
    assert row.values["best_validation_mae"] == 0.2


def test_best_accuracy_is_the_maximum():
    row = only(fold(record(epoch, seq=epoch, tab="distillation", latest_validation_acc=value)
                    for epoch, value in enumerate([0.5, 0.8, 0.7])))
    assert row.values["best_validation_acc"] == 0.8


def test_a_resumed_run_keeps_its_row_and_orders_by_restart_not_by_clock():
    first = [record(epoch, 0, epoch, when=1000.0 + epoch, latest_epoch=epoch,
                    latest_train_loss=1.0 - epoch / 10) for epoch in range(6)]
    again = [record(epoch, 1, epoch - 3, when=epoch, latest_epoch=epoch,
                    latest_train_loss=2.0 - epoch / 10) for epoch in range(4, 8)]
    row = only(fold([*again, *first], history=True))
    assert row.values["latest_epoch"] == 7 and row.values["latest_train_loss"] == 1.3
    assert row.values["best_train_loss"] == 0.5
    assert row.epochs[5]["train_loss"] == 1.5  # the repeated epoch counts
    assert row.restart == 1


def test_a_restart_that_catches_up_never_lowers_the_latest_epoch():
    row = only(fold([record(12, 0, 5, latest_epoch=12), record(10, 1, 0, latest_epoch=10)]))
    assert row.values["latest_epoch"] == 12


def test_set_fields_take_the_last_write_by_restart_then_sequence():
    row = only(fold([record(seq=9, username="b"), record(seq=3, username="a"),
                     record(restart=1, seq=0, username="c")]))
    assert row.values["username"] == "c"


def test_numbers_that_are_none_never_become_best():
    row = only(fold([record(0, seq=0, latest_train_loss="NaN"), record(1, seq=1,
                     latest_train_loss=0.5), record(2, seq=2, latest_train_loss="-Infinity")]))
    assert row.values["best_train_loss"] == 0.5
    assert row.values["latest_train_loss"] == "-Infinity"


def test_notes_stay_beside_the_columns():
    row = only(fold([record(seq=0, beside={"note": "untrained", "state": "running"}),
                     record(seq=1, beside={"state": "finished"})]))
    assert row.extra == {"note": "untrained", "state": "finished"}


def test_what_has_no_place_is_counted():
    bad = record()
    bad["key"] = None
    newer = {**record(), "schema": 99}
    result = fold([bad, newer, record(tab="unheard_of"), record()])
    assert (result.unplaced, result.newer, len(result.rows), result.records) == (2, 1, 1, 4)


def test_a_pipe_among_the_journals_is_named_and_hangs_nobody(tmp_path):
    from l3hpc.ledger.journal import upkeep
    from l3hpc.ledger.journal.upkeep import compact

    os.mkfifo(tmp_path / "pipe.jsonl")
    result = fold_folders([tmp_path])
    assert result.unreadable == {str(tmp_path / "pipe.jsonl"): "not a regular file"}
    assert upkeep.find_damaged_files([tmp_path]) == []
    compact(tmp_path)
    assert (tmp_path / "pipe.jsonl").exists()


def test_torn_and_unreadable_files_are_counted_and_skipped(tmp_path):
    good = seal(record(seq=1, username="a"))
    (tmp_path / "a.jsonl").write_bytes(good + good[:30] + b"\n\n" + good + good[:-5])
    if os.getuid():
        (tmp_path / "b.jsonl").write_bytes(good)
        (tmp_path / "b.jsonl").chmod(0)
    (tmp_path / "c.jsonl").mkdir()
    result = fold_folders([tmp_path, tmp_path / "absent"])
    assert result.torn == {str(tmp_path / "a.jsonl"): 2}
    assert str(tmp_path / "c.jsonl") in result.unreadable
    assert result.records == 2 and len(result.rows) == 1


def test_what_the_journal_writes_the_fold_reads(tmp_path):
    journal = Journal(tmp_path, run="r", labels={"model_dir": "/m", "username": "ada"})
    journal.record(TAB, {"num_epochs": 3, "state": "running"})
    for epoch in range(3):
        journal.record(TAB, {"latest_train_loss": 1 / (epoch + 1)}, epoch=epoch)
    row = only(fold_folders([tmp_path], history=True))
    assert row.values == {"model_dir": "/m", "username": "ada", "num_epochs": 3, "latest_epoch": 2,
                          "latest_train_loss": 1 / 3, "best_train_loss": 1 / 3}
    assert [row.epochs[epoch]["train_loss"] for epoch in range(3)] == [1.0, 0.5, 1 / 3]
    assert row.origin["run"] == "r"


NUMBERS = st.one_of(st.floats(0, 10), st.just("NaN"))
RECORDS = st.lists(st.builds(
    record, epoch=st.one_of(st.none(), st.integers(0, 5)), restart=st.integers(0, 2),
    key=st.sampled_from(["/a", "/b"]), when=st.floats(0, 100),
    host=st.sampled_from(["x", "y"]),
    beside=st.dictionaries(st.sampled_from(["note", "state"]), st.text(max_size=2)),
    latest_train_loss=NUMBERS, best_validation_loss=NUMBERS, username=st.text(max_size=2),
    not_a_column=st.integers(0, 2), num_epochs=st.sampled_from([3, None])),
    max_size=12)


@given(RECORDS, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(records, chance: random.Random):
    for seq, item in enumerate(records):
        item["seq"] = seq
    shuffled = records + chance.sample(records, len(records) // 2)
    chance.shuffle(shuffled)
    straight, mixed = fold(records, history=True), fold(shuffled, history=True)
    assert straight.rows.keys() == mixed.rows.keys()
    for place, row in straight.rows.items():
        other = mixed.rows[place]
        assert (row.values, row.extra, row.epochs, row.origin) == (
            other.values, other.extra, other.epochs, other.origin)
        finite = [item["values"][name] for item in records if item["key"] == [row.key[0]]
                  for name in ("latest_train_loss",) if item["values"][name] != "NaN"]
        assert row.values.get("best_train_loss") == min(finite, default=None)


ODD = st.one_of(st.floats(-2, 2), st.integers(-2, 2), st.booleans(),
                st.sampled_from(["NaN", "Infinity", "text", None]))


@given(st.data())
def test_a_batch_is_the_same_as_its_records_one_by_one(data):
    draw = data.draw
    fields = draw(st.lists(st.sampled_from([
        "latest_train_loss", "latest_validation_loss", "best_train_loss", "username", "num_epochs",
        "latest_epoch", "not_a_column"]), min_size=1, unique=True))
    cut = draw(st.integers(0, len(fields) - 1))
    first = {**record(host=draw(st.sampled_from(["x", "y", None])), restart=1,
                      key=draw(st.sampled_from(["/a", ""])) or None), "key": ["/a"]}
    common = {name: first[name] for name in ("schema", "tab", "key", "restart")} | {
        "values": {name: draw(ODD) for name in fields[:cut] if name != "latest_epoch"},
        "beside": draw(st.sampled_from([{}, {"note": "n"}, None])), "origin": draw(
            st.sampled_from([first["origin"], {"host": "y"}, None]))}
    count = draw(st.integers(1, 6))
    epochs = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    numbers = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    if draw(st.booleans()):
        epochs.sort()
        numbers = sorted({*numbers}) + [10 + n for n in range(count - len({*numbers}))]
    changing = [name for name in fields[cut:] if name != "latest_epoch"]
    batch = Batch(common, [[
        {"seq": numbers[n], "epoch": epochs[n], "time": draw(st.floats(0, 9))},
        {name: draw(ODD) for name in changing}] for n in range(count)])
    before = [record(draw(st.integers(0, 4)), seq=draw(st.integers(0, 9)), key="/a",
                     restart=draw(st.integers(0, 2)), when=5.0, latest_train_loss=draw(ODD),
                     username=draw(st.text(max_size=1)))]
    whole, single = Fold(history=True), Fold(history=True)
    for result in (whole, single):
        result.add(before[0])
    whole.add_batch(batch)
    for item in batch.records():
        single.add(item)
    assert whole == single


@pytest.mark.parametrize(("change", "counts"), [
    ({"key": []}, (4, 0)), ({"tab": "unheard_of"}, (4, 0)), ({"schema": 99}, (0, 4)),
    ({"schema": 99, "key": []}, (0, 4))])
def test_a_batch_without_a_place_is_counted(change, counts):
    common = {"schema": 1, "tab": TAB, "key": ["/a"], "restart": 0, "values": {}, "beside": {},
              "origin": {}, **change}
    result = Fold()
    result.add_batch(Batch(common, [[{"seq": n, "epoch": n, "time": 1.0}, {"username": "a"}]
                                    for n in range(4)]))
    assert (result.unplaced, result.newer) == counts
    assert (result.records, result.rows) == (4, {})


@pytest.mark.parametrize(("value", "number"), [
    (2, 2), (-0.5, -0.5), (0, 0), (True, None), ("NaN", None), (None, None), ([1], None),
    (float("nan"), None), (float("inf"), None), (-float("inf"), None), (10**400, None),
    (-10**400, None), (1.7976931348623157e308, 1.7976931348623157e308)])
def test_what_counts_as_a_number(value, number):
    assert finite_number(value) == number and (number is None) == (finite_number(value) is None)


@pytest.mark.parametrize("late", [False, True])
def test_whole_numbers_are_compared_and_other_values_are_no_numbers(late):
    records = [record(0, seq=0, latest_train_loss=2), record(1, seq=1, latest_train_loss=1),
               record(2, seq=2, latest_train_loss=True), record(3, seq=3, latest_train_loss="x")]
    assert only(fold(records[::-1 if late else 1])).values["best_train_loss"] == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_column_of_a_later_version_is_kept_in_whatever_order_it_is_read(late):
    records = [record(seq=3, username="a", not_yet_a_column=1, num_epochs=None),
               record(seq=5, username="b")]
    assert only(fold(records[::-1 if late else 1])).values == {
        "username": "b", "not_yet_a_column": 1}


def test_rows_are_listed_from_the_oldest():
    result = fold([record(key="/b", when=2.0), record(key="/c", when=1.0),
                   record(key="/a", when=2.0), record(key="/c", when=3.0)])
    assert [row.key for row in result.rows_of(TAB)] == [("/c",), ("/a",), ("/b",)]


def test_only_the_values_of_an_epoch_are_its_history():
    row = only(fold([record(1, seq=1, when=7.0, latest_epoch=1, latest_train_loss=0.5,
                            username="a")], history=True))
    assert row.epochs == {1: {"train_loss": 0.5, "time": 7.0}}


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_any_prefix_of_a_journal_folds_to_an_older_state(tmp_path, cut):
    lines = b"".join(seal(record(epoch, seq=epoch, latest_epoch=epoch)) for epoch in range(20))
    (tmp_path / "a.jsonl").write_bytes(lines[:len(lines) * cut // 60])
    rows = fold_folders([tmp_path]).rows
    assert all(0 <= row.values["latest_epoch"] < 20 for row in rows.values())
