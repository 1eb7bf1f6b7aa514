"""``l3hpc ledger`` against a sheet: what is said and the exit codes 0, 1, 3 and 75."""

import json
import sys
import threading
from pathlib import Path

import pytest

from l3hpc.cli import main
from l3hpc.ledger import sheets as sheets_module
from l3hpc.ledger.journal import Journal

sys.path.insert(0, str(Path(__file__).parents[1] / "sheets"))

TAB = "embedding_approx_mse"


@pytest.fixture
def server(tmp_path, monkeypatch):
    from sheets_server import Server
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02},
                     daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GSHEET_ID", "book-one")
    monkeypatch.setenv("L3HPC_SHEETS_URL", server.url)
    monkeypatch.setattr(sheets_module, "TRIES", 2)
    monkeypatch.setattr(sheets_module, "FIRST_WAIT_S", 0.01)
    journal = Journal(tmp_path / "ledger" / "journal", run="r", labels={"model_dir": "/m/a"})
    journal.record(TAB, {"emb_key": "pca", "latest_train_loss": 0.5}, epoch=0)
    yield server
    server.shutdown()
    server.server_close()
    assert server.violations == []


@pytest.fixture
def ledger(server, tmp_path, capsys):
    key = server.key_file(tmp_path)

    def call(command, *words, with_key=True):
        options = ["--key-file", str(key)] if with_key else []
        with pytest.raises(SystemExit) as end:
            main(["ledger", command, *words, "--workspace", str(tmp_path), *options])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err
    return call


def test_from_an_empty_sheet_to_a_synced_one(ledger):
    code, _, err = ledger("sync")
    assert code == 3 and "has no tab 'embedding_approx_mse'" in err and "l3hpc ledger init" in err
    assert ledger("check")[0] == 3
    code, out, _ = ledger("init")
    assert code == 0 and "embedding_approx_mse: made, 28 columns" in out
    assert "as declared" in ledger("init")[1] and ledger("check")[0] == 0
    code, out, _ = ledger("sync")
    assert code == 0 and out.startswith("'UST results': 1 rows added; 1 rows in the journal")
    assert "nothing to write" in ledger("sync")[1]
    out = ledger("show", with_key=False)[1]
    assert "synced just now, 0 waiting" in out
    assert "0 rows waiting" in ledger("status", with_key=False)[1]
    assert json.loads(ledger("sync", "--json")[1])["requests"] == 2


def test_header_drift_is_exit_3_with_every_cell(ledger, server):
    ledger("init")
    server.book.named(TAB)["grid"][0][19] = "epoch"
    code, _, err = ledger("sync")
    assert code == 3
    assert err.splitlines()[:2] == [
        "error: tab 'embedding_approx_mse' of 'UST results' has changed columns; nothing was "
        "written.", "       T1: expected 'Latest Epoch', found 'epoch'"]
    code, out, _ = ledger("check")
    assert code == 3 and f"{TAB}  T1: expected 'Latest Epoch', found 'epoch'" in out


def test_a_conflict_is_exit_1_and_says_how_to_go_on(ledger, server):
    ledger("init")
    ledger("sync")
    server.book.named(TAB)["grid"][1][7] = "mine"
    code, _, err = ledger("sync")
    assert code == 1
    assert "conflict: embedding_approx_mse: H2 (Emb key): the sheet has 'mine', the journal 'pca'" \
        in err and "--on-conflict ours" in err
    assert "conflict" in ledger("status", with_key=False)[1]
    assert ledger("sync", "--on-conflict", "ours")[0] == 0
    assert server.book.named(TAB)["grid"][1][7] == "pca"


def test_deleted_restored_adopted(ledger, server):
    ledger("init")
    ledger("sync")
    del server.book.named(TAB)["grid"][1]
    code, _, err = ledger("sync")
    assert code == 1 and "l3hpc ledger restore" in err
    assert ledger("restore", "a")[0] == 0 and ledger("sync")[0] == 0
    server.book.named(TAB)["grid"][2][1] = "/by/hand"
    assert "/by/hand" in ledger("adopt", "--yes")[1]
    assert "no rows of others" in ledger("adopt", "--yes")[1]


def test_repair_shows_the_difference_and_then_writes(ledger, server, monkeypatch):
    ledger("init")
    ledger("sync")
    assert "equals the journals" in ledger("repair")[1]
    server.book.named(TAB)["grid"][1][7] = "mine"
    monkeypatch.setattr("click.confirm", lambda question: False)
    out = ledger("repair")[1]
    assert out == "embedding_approx_mse  H2 (Emb key): 'mine' → 'pca'\n"
    assert server.book.named(TAB)["grid"][1][7] == "mine"
    ledger("repair", "--yes")
    assert server.book.named(TAB)["grid"][1][7] == "pca"
    del server.book.named(TAB)["grid"][1]
    assert "deleted row: /m/a" in ledger("repair", "--yes")[1]
    assert server.book.named(TAB)["grid"][1][1] == "/m/a" and ledger("sync")[0] == 0


def test_offline_is_exit_75_and_nothing_is_lost(ledger, server):
    ledger("init")
    server.faults = lambda method, path: "503"
    code, _, err = ledger("sync")
    assert code == 75 and "Google answered 503; trying again" in err
    assert "Everything is kept in the journal" in err
    server.faults = lambda method, path: None
    assert ledger("sync")[0] == 0


def test_refusals(ledger, monkeypatch, tmp_path):
    monkeypatch.delenv("GSHEET_ID")
    code, _, err = ledger("sync")
    assert code == 2 and "no Google Sheet is set" in err
    code, _, err = ledger("sync", "--sheet", "not an id!")
    assert code == 2 and "is not the id of a Google Sheet" in err
    (tmp_path / "key.json").chmod(0o644)
    code, _, err = ledger("sync", "--sheet", "book-one")
    assert code == 2 and "chmod 600" in err


def test_cron_prints_a_line(ledger):
    out = ledger("cron", "--every", "7", with_key=False)[1]
    assert out.startswith("*/7 * * * * cd ") and "-m l3hpc ledger sync --workspace" in out
    assert "--sheet book-one" in out  # cron does not know GSHEET_ID
