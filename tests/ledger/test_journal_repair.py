"""Damaged lines go; sound ones and the file as it was are kept, whenever it is killed."""

import os
import signal
import time

import pytest

from l3hpc.ledger.journal import upkeep
from l3hpc.ledger.journal.fold import fold_folders
from l3hpc.ledger.journal.records import Journal

TAB = "embedding_approx_mse"


@pytest.fixture
def damaged(tmp_path):
    journal = Journal(tmp_path, run="up", fallback=tmp_path, labels={"model_dir": "/m"})
    for epoch in range(4):
        journal.record(TAB, {"latest_train_loss": 1.0 / (epoch + 1)}, epoch=epoch)
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"0", b"1", 1)
    journal.path.write_bytes(b"\n".join(lines) + b'{"check":"torn')
    os.utime(journal.path, (time.time() - 7200,) * 2)
    return journal.path


def test_what_is_damaged_is_found_and_fresh_files_are_left(damaged, tmp_path):
    (one,) = upkeep.find_damaged_files([tmp_path])
    assert ([number for number, _ in one.lines], one.valid, one.busy) == ([2, 5], 3, False)
    assert one.lines[1][1] == '{"check":"torn'
    os.utime(damaged)
    assert upkeep.find_damaged_files([tmp_path])[0].busy


def test_sound_lines_stay_and_the_file_is_kept(damaged, tmp_path):
    before, whole = fold_folders([tmp_path], history=True), damaged.read_bytes()
    kept = upkeep.repair_file(upkeep.find_damaged_files([tmp_path])[0])
    after = fold_folders([tmp_path], history=True)
    assert after.rows == before.rows and after.torn == {} and before.torn == {str(damaged): 2}
    assert kept.read_bytes() == whole and upkeep.find_damaged_files([tmp_path]) == []


@pytest.mark.parametrize("stop", range(12))
def test_kill_9_at_every_step(damaged, tmp_path, stop):
    before = fold_folders([tmp_path], history=True).rows
    child = os.fork()
    if not child:
        left = [stop]

        def counted(function):
            def call(*words, **options):
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return function(*words, **options)
            return call

        try:
            found = upkeep.find_damaged_files([tmp_path])[0]
            for name in ("rename", "replace", "open", "fsync", "utime", "mkdir"):
                setattr(os, name, counted(getattr(os, name)))
            upkeep.repair_file(found)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    rows = fold_folders([tmp_path], history=True).rows
    assert {place: row.values for place, row in rows.items()} == {
        place: row.values for place, row in before.items()}
    for one in upkeep.find_damaged_files([tmp_path], quiet_s=-1.0):
        upkeep.repair_file(one)
    assert fold_folders([tmp_path], history=True).rows == before
    assert upkeep.find_damaged_files([tmp_path]) == []
