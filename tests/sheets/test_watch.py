"""``l3hpc ledger sync --watch``: what passes is tried again, what does not pass ends it."""

import errno
import time

import pytest

from l3hpc.cli import main
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.sheets import client as sheets_module
from l3hpc.ledger.store import Store

MSE = "embedding_approx_mse"


@pytest.fixture
def watch(world, monkeypatch, capsys):
    """Runs the command for some turns; between them ``turn`` is called with their number."""
    monkeypatch.setenv("L3HPC_SHEETS_URL", world.server.url)
    monkeypatch.setattr(sheets_module, "TRIES", 1)

    def call(turns, turn=lambda number: None):
        slept = []

        def sleep(seconds):
            if seconds == 10.0:
                slept.append(seconds)
                turn(len(slept))
                if len(slept) == turns:
                    raise KeyboardInterrupt
        monkeypatch.setattr(time, "sleep", sleep)
        with pytest.raises(SystemExit) as end:
            main(["ledger", "sync", "--watch", "10", "--sheet", "book-one", "--key-file",
                  str(world.key), "--workspace", str(world.store.workspace)])
        captured = capsys.readouterr()
        return end.value.code, len(slept), captured.out, captured.err
    world.init()
    world.record("a", 0, latest_train_loss=0.5)
    return call


def test_columns_that_differ_for_a_while_do_not_end_it(watch, world):
    grid = world.server.book.named(MSE)["grid"]
    grid[0][7] = "key"

    def turn(number):
        world.server.book.named(MSE)["grid"][0][7] = "Emb key"
    code, turns, out, err = watch(2, turn)
    assert (code, turns) == (130, 2)
    assert "has changed columns" in err and "trying again in 10 s (Ctrl-C to stop)" in err
    assert err.count("has changed columns") == 1 and "1 row added" in out
    world.assert_equal_to_fold()


def test_a_full_disk_does_not_end_it(watch, world, monkeypatch):
    real = Store.save

    def save(self, state, now=None):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))
    monkeypatch.setattr(Store, "save", save)
    code, turns, out, err = watch(2, lambda number: monkeypatch.setattr(Store, "save", real))
    assert (code, turns) == (130, 2)
    assert f"error: {world.store.folder}: No space left on device" in err and "0 rows" not in err
    assert "nothing to write" in out
    world.assert_equal_to_fold()


def test_an_unreachable_sheet_and_one_that_refuses_do_not_end_it(watch, world):
    faults = ["503", "bad"]

    def fault(method, path):
        if faults == ["bad"] and path.endswith(":batchGet"):
            from sheets_book import Refusal
            raise Refusal(400, "Unable to parse range")
        return faults[0] if faults and faults[0] != "bad" else None
    world.server.faults = fault
    code, turns, out, err = watch(3, lambda number: faults and faults.pop(0))
    assert (code, turns) == (130, 3)
    assert "cannot be reached" in err and "Unable to parse range" in err and "1 row added" in out
    assert world.row("a")[TABS[MSE].columns[TABS[MSE].index("latest_train_loss")].title] == 0.5


@pytest.mark.parametrize("fault, exit_code, words", [
    ("401", 1, "does not accept the credentials"), ("403", 2, "not shared with"),
    ("404", 2, "no spreadsheet with the id"), ("403-disabled", 2, "API is not enabled")])
def test_a_wrong_key_or_sheet_ends_it(watch, world, fault, exit_code, words):
    world.server.faults = lambda method, path: fault
    code, turns, _, err = watch(2)
    assert (code, turns) == (exit_code, 0) and words in err and "trying again" not in err
