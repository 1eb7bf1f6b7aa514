"""Compaction: only closed runs, every record kept, and a kill at any step changes no fold."""

import os
import shutil
import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.ledger.journal import reading, upkeep
from l3hpc.ledger.journal.batch import ORDER, Batch, compact_json, pack, unpack
from l3hpc.ledger.journal.fold import fold, fold_folders
from l3hpc.ledger.journal.reading import (
    Damage,
    all_records,
    file_parts,
    file_records,
    journal_files,
)
from l3hpc.ledger.journal.records import CLOSING, Journal, last_restart, seal
from l3hpc.ledger.journal.upkeep import compact

pytestmark = pytest.mark.slow

TAB = "embedding_approx_mse"


def written(folder, name, epochs=5, state="finished", age=7200.0):
    """The journal of a run as the training step writes it: the whole row with every epoch."""
    journal = Journal(folder, run=name, fallback=folder, git_commit="abc", labels={
        "model_dir": f"/m/{name}", "username": "ada", "run": name, "num_epochs": epochs})
    for epoch in range(epochs):
        journal.record(TAB, {"state": "running", "latest_train_loss": 1 / (epoch + 1),
                             "latest_validation_loss": 2.0 - epoch / 7}, epoch=epoch)
    journal.record(TAB, {"state": state})
    journal.close()
    os.utime(journal.path, (time.time() - age,) * 2)
    return journal.path


def rows(folder):
    return {place: (row.values, row.extra, row.epochs, row.restart, row.origin, row.first_time,
                    row.last_time)
            for place, row in fold_folders([folder], history=True).rows.items()}


def lines(folder):
    found = [compact_json(record) for path in journal_files([folder])
             for record in file_records(path, Damage())]
    return sorted(found)


def test_closed_runs_become_one_small_file_with_every_record(tmp_path):
    for number in range(8):
        written(tmp_path, f"run{number}", epochs=40, state=("finished", "failed")[number % 2])
    before, told = rows(tmp_path), lines(tmp_path)
    report = compact(tmp_path)
    assert (report.files, report.runs, report.kept) == (8, 8, {})
    assert [path.name for path in journal_files([tmp_path])] == [report.bundle]
    assert report.bytes_after < report.bytes_before / 3
    assert rows(tmp_path) == before and lines(tmp_path) == told
    assert fold_folders([tmp_path]).records == 8 * 41
    assert compact(tmp_path).files == 0


def test_open_fresh_and_damaged_files_stay(tmp_path):
    fresh = written(tmp_path, "fresh", age=60.0)
    running = written(tmp_path, "running", state="running")
    damaged = written(tmp_path, "damaged")
    damaged.write_bytes(damaged.read_bytes() + b'{"check"')
    os.utime(damaged, (time.time() - 7200,) * 2)
    silent = written(tmp_path, "silent", state="running", age=31 * 86_400.0)
    done = written(tmp_path, "done")
    before = rows(tmp_path)
    assert compact(tmp_path, dry_run=True).files == 2 and silent.exists()
    report = compact(tmp_path)
    assert not silent.exists() and not done.exists() and report.files == 2
    assert report.kept == {fresh.name: "written a short while ago",
                           running.name: "its run has not ended",
                           damaged.name: upkeep.damaged()}
    assert fresh.exists() and running.exists() and damaged.exists()
    assert rows(tmp_path) == before


def test_a_run_with_one_open_file_stays_whole(tmp_path):
    first = written(tmp_path, "up", state="running")
    second = written(tmp_path, "up", age=5.0)
    assert compact(tmp_path).files == 0 and first.exists() and second.exists()


def test_restarts_are_still_counted(tmp_path):
    written(tmp_path, "up", state="failed")
    written(tmp_path, "up", state="failed")
    compact(tmp_path)
    assert last_restart(tmp_path, "up") == 1 and last_restart(tmp_path, "other") == -1
    written(tmp_path, "up")
    assert {record["restart"] for path in journal_files([tmp_path])
            for record in file_records(path, Damage())} == {0, 1, 2}
    compact(tmp_path)
    assert last_restart(tmp_path, "up") == 2 and len(rows(tmp_path)) == 1


def test_a_writer_that_is_alive_after_all_loses_nothing(tmp_path):
    journal = Journal(tmp_path, run="up", fallback=tmp_path, labels={"model_dir": "/m"})
    journal.record(TAB, {"state": "running"}, epoch=0)
    compact(tmp_path, quiet_s=-1.0, silent_s=-1.0)
    for epoch in range(1, 4):
        journal.record(TAB, {"state": "running"}, epoch=epoch)
    told = [record["epoch"] for path in journal_files([tmp_path])
            for record in file_records(path, Damage())]
    assert sorted(told) == [0, 1, 2, 3] and len(journal_files([tmp_path])) == 2


def test_kill_9_at_every_step(tmp_path):
    example = tmp_path / "example"
    for name in ("a", "b"):
        written(example, name)
    before, told = rows(example), lines(example)
    for stop in range(1000):  # each step: before and after a call to the system
        folder = tmp_path / str(stop)
        shutil.copytree(example, folder)
        child = os.fork()
        if not child:
            _die_at(folder, stop)
        _, status = os.waitpid(child, 0)
        assert rows(folder) == before and set(lines(folder)) == set(told)
        if not os.WIFSIGNALED(status):
            break
        compact(folder)
        assert rows(folder) == before and lines(folder) == told
        (left,) = journal_files([folder])
        assert left.name.startswith(upkeep.BUNDLE)
        shutil.rmtree(folder)
    assert os.WEXITSTATUS(status) == 3 and stop > 20


def _die_at(folder, stop):
    """Compact, and send SIGKILL to oneself before or after the call to the system number stop."""
    left = [0]

    def step(function):
        def call(*words, **options):
            for moment in range(2):
                if left[0] == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] += 1
                if moment == 0:
                    answer = function(*words, **options)
            return answer
        return call

    for name in ("rename", "replace", "unlink", "fsync", "open"):
        setattr(os, name, step(getattr(os, name)))
    try:
        compact(folder)
    finally:
        os._exit(3)


def test_readers_see_everything_while_it_goes_on(tmp_path):
    for number in range(12):
        written(tmp_path, f"run{number}", epochs=3)
    before, wrong, stop = rows(tmp_path), [], threading.Event()

    def look():
        while not stop.is_set():
            if rows(tmp_path) != before:
                wrong.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    compact(tmp_path)
    stop.set()
    reader.join()
    assert not wrong and rows(tmp_path) == before


@pytest.mark.parametrize("moment", ["jsonl", "closing"])
def test_a_compaction_between_two_listings_hides_nothing(tmp_path, monkeypatch, moment):
    path = written(tmp_path, "a")
    before = rows(tmp_path)
    if moment == "closing":
        path.rename(f"{path}{CLOSING}")
    real, left = os.listdir, [1]

    def listed(folder):
        found = real(folder)
        if folder == tmp_path and left:
            left.clear()
            compact(tmp_path)
        return found

    monkeypatch.setattr(os, "listdir", listed)
    assert rows(tmp_path) == before and not left
    assert rows(tmp_path) == before


def test_a_file_that_comes_back_under_its_name_is_read(tmp_path, monkeypatch):
    """A compaction sets it aside and gives it its name back, each time when we want to read it.
    Other files are not read twice for that."""
    path = written(tmp_path, "b")
    written(tmp_path, "a")
    before, told = rows(tmp_path), lines(tmp_path)
    aside = path.with_name(path.name + CLOSING)
    real, both = reading.file_parts, [(path, aside), (aside, path)]
    moves = list(both)

    def parts_of(wanted, damage):
        if moves and wanted == moves[0][0]:
            os.rename(*moves.pop(0))
        return real(wanted, damage)

    monkeypatch.setattr(reading, "file_parts", parts_of)
    assert rows(tmp_path) == before and not moves
    moves += both
    assert sorted(compact_json(record) for record in all_records([tmp_path], Damage())) == told
    assert not moves


def test_a_link_to_nothing_is_named_and_does_not_hold_readers_up(tmp_path):
    written(tmp_path, "a")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "nowhere")
    damage = Damage()
    assert len(list(all_records([tmp_path], damage))) == 6
    assert damage.unreadable == {str(tmp_path / "b.jsonl"): "No such file or directory"}


def test_two_at_once_are_refused(tmp_path):
    written(tmp_path, "a")
    with (upkeep._compaction_lock(tmp_path, False),
          pytest.raises(InputError, match="another compaction")):
        compact(tmp_path)
    assert compact(tmp_path).files == 1


def test_of_the_train_steps_lines_only_what_changes_is_parsed(tmp_path):
    path = written(tmp_path, "a", epochs=30)
    found = list(file_parts(path, Damage()))
    assert [len(part.items) for part in found if isinstance(part, Batch)] == [28]


# records of any kind, read together and packed, are what they were ----------------------------

VALUES = st.dictionaries(
    st.sampled_from(["latest_train_loss", "best_validation_loss", "username", "num_epochs",
                     "values", "beside", "seq", "latest_epoch"]),
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-3, 3), st.booleans(),
              st.none(), st.just("NaN"), st.text(max_size=4),
              st.sampled_from([',"values":{', '},"beside":{},"origin":{}}', '"seq":1', "\ud800"]),
              st.dictionaries(st.sampled_from(["values", "a"]), st.integers(0, 1), max_size=2)),
    max_size=5)
RECORDS = st.lists(st.builds(
    lambda restart, seq, epoch, when, values, beside, key, host: dict(zip(ORDER, (
        1, TAB, key, restart, seq, epoch, when, values, beside,
        {"run": "r", "host": host, "pid": 1}), strict=True)),
    st.integers(0, 1), st.integers(0, 30), st.one_of(st.none(), st.integers(0, 9)),
    st.floats(0, 9), VALUES, st.dictionaries(st.sampled_from(["note", "state"]), st.text(
        max_size=2), max_size=1), st.sampled_from([["/a"], ["/b"], None]),
    st.sampled_from("xy")), max_size=6)


def repeated(records):
    """Each record with followers as a running job writes them."""
    out = []
    for record in records:
        for step in range(5):
            values = dict(record["values"])
            for name, value in values.items():
                if name.startswith(("latest_train", "best_")) and isinstance(value, float):
                    values[name] = value / (step + 1)
            epoch = record["epoch"]
            out.append({**record, "seq": record["seq"] + step, "values": values,
                        "epoch": None if epoch is None else epoch + step})
    return out


@given(RECORDS)
@settings(deadline=None, max_examples=60)
def test_read_together_or_packed_records_and_rows_are_the_same(tmp_path_factory, records):
    records = repeated(records)
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_bytes(b"".join(map(seal, records)))
    assert list(map(compact_json, file_records(path, Damage()))) == list(map(compact_json, records))
    packed = list(pack(records))
    again = [item for one in packed
             for item in (unpack(one).records() if "packed" in one else [one])]
    assert [compact_json(item) for item in again] == [compact_json(item) for item in records]
    one_by_one = fold(records, history=True)
    together = fold_folders([path.parent], history=True)
    path.write_bytes(b"".join(map(seal, packed)))
    from_bundle = fold_folders([path.parent], history=True)
    for other in (together, from_bundle):
        assert other == one_by_one


def test_the_packed_form_is_stable(tmp_path):
    path = written(tmp_path, "a", epochs=2)
    packed = list(pack(list(file_records(path, Damage()))))
    assert [sorted(one) for one in packed] == [["items", "packed", "schema"], sorted(ORDER)]
