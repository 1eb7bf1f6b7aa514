"""``l3hpc ledger`` against a sheet: what is said and the exit codes 0, 1, 3 and 75."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from l3hpc.cli import main
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.sheets import client as sheets_module

pytestmark = pytest.mark.slow

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

    def call(command, *words, with_key=True, workspace=tmp_path):
        options = ["--key-file", str(key)] if with_key else []
        with pytest.raises(SystemExit) as end:
            main(["ledger", command, *words, "--workspace", str(workspace), *options])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err
    return call


def test_from_an_empty_sheet_to_a_synced_one(ledger):
    code, _, err = ledger("sync")
    assert code == 3 and "has no tab 'embedding_approx_mse'" in err and "l3hpc ledger init" in err
    assert ledger("check")[0] == 3
    code, out, _ = ledger("init")
    assert code == 0 and "embedding_approx_mse: set up, 28 columns" in out
    assert "as declared" in ledger("init")[1] and ledger("check")[0] == 0
    code, out, _ = ledger("sync")
    assert code == 0 and out.startswith("'UST results': 1 row added; 1 row in the journal")
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
    assert "no rows to adopt" in ledger("adopt", "--yes")[1]


def test_repair_shows_the_difference_and_then_writes(ledger, server, monkeypatch):
    ledger("init")
    ledger("sync")
    assert "shows what the journals have" in ledger("repair")[1]
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
    assert "the journals keep all results" in err
    server.faults = lambda method, path: None
    assert ledger("sync")[0] == 0


def test_refusals(ledger, monkeypatch, tmp_path):
    monkeypatch.delenv("GSHEET_ID")
    code, _, err = ledger("sync")
    assert code == 2 and "no Google Sheet is configured" in err
    code, _, err = ledger("sync", "--sheet", "not an id!")
    assert code == 2 and "is not the id of a Google Sheet" in err
    (tmp_path / "key.json").chmod(0o644)
    code, _, err = ledger("sync", "--sheet", "book-one")
    assert code == 2 and "chmod 600" in err


def cron_line(ledger, *words, **where):
    code, out, err = ledger("cron", *words, **where)
    assert code == 0 and out.count("\n") == 1
    return out.rstrip("\n"), Path(err.removeprefix("log: ").rstrip("\n"))


def run_by_cron(line, home, url):
    """What cron does: a short environment, the home folder, and ``\\%`` as a percent sign."""
    command = line.split(" ", 5)[5].replace("\\%", "%")
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "L3HPC_SHEETS_URL": url,
                   "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(["/bin/sh", "-c", command], env=environment, cwd=home, text=True,
                          capture_output=True)


def test_cron_prints_a_line_that_syncs(ledger, server, tmp_path):
    ledger("init")
    line, log = cron_line(ledger, "--every", "7")
    assert line.startswith("*/7 * * * * ") and "-m l3hpc ledger sync --workspace" in line
    assert "--sheet book-one" in line  # cron does not know GSHEET_ID
    home = tmp_path / "home"
    assert log.parent == home / ".l3hpc" / "sync" and str(log) in line
    done = run_by_cron(line, home, server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "1 row added" in log.read_text()
    assert server.grid(TAB)[0][1] == "/m/a"
    assert sorted(path.name for path in (tmp_path / "ledger").iterdir()) == ["journal", "sync"]
    assert [oct(path.stat().st_mode & 0o777) for path in (log.parent, log)] == ["0o700", "0o600"]


def test_the_line_of_cron_can_be_pasted_whatever_the_folder_is_called(
        ledger, server, tmp_path, monkeypatch):
    ledger("init")
    odd = tmp_path / "it's 100% $(touch hacked); `id` \"x\""
    (tmp_path / "ledger").rename(tmp_path / "kept")
    odd.mkdir()
    (tmp_path / "kept").rename(odd / "ledger")
    line, log = cron_line(ledger, workspace=odd)
    assert run_by_cron(line, tmp_path / "home", server.url).returncode == 0
    assert "1 row added" in log.read_text()
    assert not list(tmp_path.rglob("hacked"))
    code, out, err = ledger("cron", workspace=tmp_path / "two\nlines")
    assert (code, out) == (2, "") and "line break" in err


def test_a_module_in_the_folder_of_cron_is_not_imported(ledger, server, tmp_path):
    """The folder in which the line was made may belong to a group."""
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'hacked')!r}, 'w')")
    ledger("init")
    line, _ = cron_line(ledger)
    assert run_by_cron(line, tmp_path / "home", server.url).returncode == 0
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("trap", ["folder", "log", "hard link", "home", "fifo"])
def test_cron_writes_into_nothing_that_others_can_choose(ledger, tmp_path, trap):
    line, log = cron_line(ledger)
    victim = tmp_path / "victim"
    if trap == "folder":
        log.parent.rename(victim)
        log.parent.symlink_to(victim)
    elif trap == "home":
        (tmp_path / "home").chmod(0o775)
    else:
        log.unlink()
        victim.write_text("precious")
        {"log": lambda: log.symlink_to(victim), "hard link": lambda: os.link(victim, log),
         "fifo": lambda: os.mkfifo(log)}[trap]()
    code, out, err = ledger("cron")
    assert (code, out) == (2, ""), out
    assert ("others may write" if trap == "home" else "of your own") in err


def test_a_folder_that_was_open_to_others_is_closed(ledger):
    _, log = cron_line(ledger)
    for path in (log.parent, log.parent.parent):
        path.chmod(0o777)
    log.chmod(0o666)
    cron_line(ledger)
    assert [oct(path.stat().st_mode & 0o777) for path in (log.parent.parent, log.parent, log)] == [
        "0o755", "0o700", "0o600"]


def test_sync_names_what_it_cannot_read_and_goes_on(ledger, tmp_path):
    from l3hpc.ledger.journal.records import seal
    (path,) = (tmp_path / "ledger" / "journal").glob("*.jsonl")
    path.write_bytes(path.read_bytes() + seal({"schema": 1, "values": [1]}))
    ledger("init")
    code, out, err = ledger("sync")
    assert code == 0 and "1 row added" in out
    assert f"note: {path}:2: record skipped: 'tab' is missing" in err
    assert json.loads(ledger("sync", "--json")[1])["notes"] == [
        f"{path}:2: record skipped: 'tab' is missing"]


def test_the_command_in_a_hint_can_be_pasted(ledger, server, tmp_path, monkeypatch):
    """A key that a job recorded may hold anything; what is pasted is one word all the same."""
    key = "/m/$(touch hacked) it's\n-x"
    journal = Journal(tmp_path / "ledger" / "journal", run="odd", labels={"model_dir": key})
    journal.record(TAB, {"emb_key": "x"}, epoch=0)
    ledger("init")
    ledger("sync")
    grid = server.book.named(TAB)["grid"]
    grid[:] = [row for row in grid if "touch" not in (row[1] or "")]
    told = json.loads(ledger("sync", "--json")[1])
    (text,) = [one["text"] for one in told["problems"]]
    words = text.split("l3hpc ledger restore ")[1].split("   or to accept")[0]
    done = subprocess.run(["bash", "-c", f"set -- {words}; printf %s \"$1\""],
                          capture_output=True, text=True)
    assert done.stdout == key and not (tmp_path / "hacked").exists()


def test_repair_puts_columns_back_and_then_cells(ledger, server):
    ledger("init")
    ledger("sync")
    grid = server.book.named(TAB)["grid"]
    grid[0][19], grid[1][7] = "epoch", "mine"
    code, out, _ = ledger("repair", "--dry-run")
    assert code == 0 and out == (f"{TAB}  T1: 'epoch' → 'Latest Epoch'\n"
                                 "cells are compared once the columns are restored\n")
    told = json.loads(ledger("repair", "--json")[1])
    assert told == {"journals": [], "columns": {TAB: ["T1: 'epoch' → 'Latest Epoch'"]},
                    "written": False}
    assert server.book.named(TAB)["grid"][0][19] == "epoch"
    told = json.loads(ledger("repair", "--json", "--yes")[1])
    assert told["written"] and told["cells"] == [
        {"tab": TAB, "cell": "H2", "title": "Emb key", "sheet": "mine", "journal": "pca"}]
    grid = server.book.named(TAB)["grid"]
    assert grid[0][19] == "Latest Epoch" and grid[1][7] == "pca"
    assert "shows what the journals have" in ledger("repair")[1]


def test_repair_mends_journals_without_a_sheet(ledger, tmp_path, monkeypatch):
    monkeypatch.delenv("GSHEET_ID")
    (path,) = (tmp_path / "ledger" / "journal").glob("*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"check":"torn')
    assert "written within the last hour" in ledger("repair", "--journal", "--yes")[1]
    os.utime(path, (time.time() - 7200,) * 2)
    code, out, _ = ledger("repair", "--journal", "--dry-run", with_key=False)
    assert code == 0 and "1 of 2 lines damaged" in out and "line 2: {\"check\":\"torn" in out
    assert path.read_bytes().endswith(b"torn")
    assert "original file: " in ledger("repair", "--journal", "--yes", with_key=False)[1]
    assert ledger("repair", "--journal")[1] == "no journal file is damaged\n"


def test_json_of_the_commands_that_write(ledger, server):
    told = json.loads(ledger("init", "--json")[1])
    assert told["tabs"][TAB] == {"made": True, "columns": 28}
    ledger("sync")
    del server.book.named(TAB)["grid"][1]
    told = json.loads(ledger("restore", "a", "--json")[1])
    assert (told["inserted"], told["key"], told["tab"]) == (1, ["/m/a"], TAB)
    server.book.named(TAB)["grid"][2][1] = "/by/hand"
    rows = [{"tab": TAB, "key": ["/by/hand"]}]
    assert json.loads(ledger("adopt", "--json")[1]) == {"rows": rows, "adopted": False}
    assert json.loads(ledger("adopt", "--json", "--yes")[1]) == {"rows": rows, "adopted": True}
    told = json.loads(ledger("status", "--json", with_key=False)[1])
    assert (told["waiting_rows"], told["waiting_records"]) == (1, 1)


def test_another_configuration_file(ledger, tmp_path, monkeypatch):
    monkeypatch.delenv("GSHEET_ID")
    (tmp_path / "other.yaml").write_text("ledger: {sheet_id: book-one}\n")
    assert ledger("init", "--config", "other.yaml")[0] == 0
    assert ledger("sync", "--config", "other.yaml")[0] == 0
    assert ledger("show", "--config", "missing.yaml", with_key=False)[0] == 2


def test_no_secret_is_said_or_written(ledger, server, tmp_path, monkeypatch):
    """Neither the key nor a token stands in any output or file, whatever goes wrong."""
    secret = json.loads((tmp_path / "key.json").read_text())["private_key"].split("\n")[1]
    said = ""
    for fault in (None, "401", "403", "403-disabled", "404", "500", "html", "drop"):
        server.faults = lambda method, path, fault=fault: fault
        for command in ("init", "sync", "check", "repair"):
            _, out, err = ledger(command)
            said += out + err
    server.faults = lambda method, path: None
    (tmp_path / "key.json").chmod(0o644)
    said += "".join(map(str, ledger("sync")))
    files = [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*")
             if path.is_file() and path.name != "key.json"]
    for text in [said, *files]:
        assert secret not in text and not any(token in text for token in server.tokens)
    assert "API" in said and "Enable APIs" in said
