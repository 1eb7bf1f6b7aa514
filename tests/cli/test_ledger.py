"""``l3hpc ledger`` from the outside: what is printed, written and refused."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import l3hpc
from l3hpc.cli import main
from l3hpc.ledger.journal.records import Journal

TAB = "embedding_approx_mse"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GSHEET_ID", raising=False)
    for name, loss in (("a", 0.5), ("b", 0.4)):
        journal = Journal(tmp_path / "ledger" / "journal", run=name, labels={
            "model_dir": f"/m/{name}", "run": name,
            "note": "random-weight teacher" if name == "b" else None})
        journal.record(TAB, {"student_emb_len": 128, "state": "running"})
        journal.record(TAB, {"latest_validation_loss": loss}, epoch=0)
        journal.record(TAB, {"state": "finished"})
    return tmp_path


@pytest.fixture
def ledger(workspace, capsys):
    def call(*words):
        with pytest.raises(SystemExit) as end:
            main(["ledger", *words, "--workspace", str(workspace)])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err
    return call


def test_show(ledger):
    code, out, _ = ledger("show")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("embedding_approx_mse: 2 rows, ")
    assert lines[1].startswith("  Run ")
    assert lines[2].startswith("★ b ") and lines[2].endswith("[random-weight teacher]")
    assert lines[3].startswith("  a ")


def test_show_json_has_every_column_note_and_epoch(ledger):
    code, out, _ = ledger("show", "--json", "--tab", TAB)
    (tab,) = json.loads(out)
    assert code == 0 and tab["tab"] == TAB and len(tab["columns"]) == 28
    best = tab["rows"][0]
    assert best["best"] and best["note"] == "random-weight teacher"
    assert best["state"] == "finished" and list(best["values"]) == tab["columns"]
    assert best["values"]["Best Valid Loss"] == 0.4
    assert best["epochs"]["0"]["validation_loss"] == 0.4


def test_where_and_unknown_names(ledger):
    assert "1 of 2 rows" in ledger("show", "--where", "Model Dir=/m/a")[1]
    code, _, err = ledger("show", "--tab", "sonyc")
    assert code == 2 and "did you mean 'sonyc_ust'" in err
    assert ledger("show", "--sort", "Best Valid Los")[0] == 2
    code, out, _ = ledger("show", "--where", "Best Valid Loss<100", "--json")
    assert code == 0  # a tab that has no such column is left out
    assert [tab["tab"] for tab in json.loads(out)] == ["embedding_approx_mse"]


def test_diff(ledger):
    code, out, _ = ledger("diff", "a", "b")
    assert code == 0 and "Best Valid Loss" in out and "(-0.1)" in out
    assert ledger("diff", "a")[0] == 2
    assert json.loads(ledger("diff", "a", "b", "--json")[1])["differing"][0] == "Model Dir"


def test_export_default_and_named(ledger, workspace):
    code, out, _ = ledger("export")
    assert code == 0
    assert [line.rsplit("/", 1)[1] for line in out.splitlines()] == [
        "embedding_approx_mse.csv", "sonyc_ust.csv", "results.xlsx"]
    assert (workspace / "ledger" / "sonyc_ust.csv").read_text().count("\n") == 1
    assert ledger("export", "--csv", "one.csv", "--tab", TAB)[0] == 0
    assert (workspace / "one.csv").read_text().count("\n") == 3


def test_a_csv_file_holds_the_tab_that_has_rows(ledger, workspace):
    """A folder has both tabs; which of them is meant is clear as long as one is empty."""
    assert ledger("export", "--csv", "rows.csv")[:2] == (0, "rows.csv\n")
    assert (workspace / "rows.csv").read_text().count("\n") == 3
    labels = {"output_dir": "/m/c", "exp_id": "c"}
    Journal(workspace / "ledger/journal", run="c", labels=labels).record(
        "sonyc_ust", {"model_type": "mil"})
    code, _, err = ledger("export", "--csv", "both.csv")
    assert code == 2 and "--tab with one of embedding_approx_mse, sonyc_ust, or a folder" in err
    assert not (workspace / "both.csv").exists()


@pytest.mark.parametrize(("option", "name"), [
    ("--csv", "mine.csv"), ("--xlsx", "mine.xlsx"), ("--html", "mine.html")])
@pytest.mark.parametrize("content", [b"my own notes\n", b"", b"PK\x03\x04 no workbook"])
def test_export_replaces_its_own_files_alone(ledger, workspace, option, name, content):
    words = ("export", option, name, "--tab", TAB)
    (workspace / name).write_bytes(content)
    code, _, err = ledger(*words)
    assert code == 2 and f"error: {name}: exists, and is not a" in err
    assert f"Name another file: {option} FILE" in err
    assert (workspace / name).read_bytes() == content
    (workspace / name).unlink()
    assert [ledger(*words)[0] for _ in range(2)] == [0, 0]


def test_nothing_is_exported_if_one_of_the_files_is_not_ours(ledger, workspace):
    (workspace / "mine.xlsx").write_bytes(b"x")
    assert ledger("export", "--csv", "new.csv", "--xlsx", "mine.xlsx", "--tab", TAB)[0] == 2
    assert not (workspace / "new.csv").exists()


def test_export_as_json(ledger, workspace):
    told = json.loads(ledger("export", "--json", "--tab", TAB)[1])
    assert told["rows"] == {TAB: 2} and len(told["files"]) == 2


def test_compact(ledger, workspace):
    for path in (workspace / "ledger" / "journal").iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    before = json.loads(ledger("show", "--json")[1])
    out = ledger("compact", "--dry-run")[1]
    assert re.search(r"2 files of 2 closed runs, \d+ (bytes|kB);", out)
    assert "nothing was written" in out
    told = json.loads(ledger("compact", "--json")[1])
    (report,) = [one for one in told["folders"].values() if one["files"]]
    assert report["files"] == 2 and report["bundle"].startswith("+bundle-")
    assert json.loads(ledger("show", "--json")[1]) == before
    assert ledger("compact")[1] == "nothing to compact\n"


def test_every_subcommand_of_ledger_and_config_has_examples(capsys):
    import click

    from l3hpc.cli import cli
    context = click.Context(cli)
    for group in ("ledger", "config"):
        command = cli.get_command(context, group)
        for name in command.list_commands(context):
            each = command.get_command(context, name)
            assert f"l3hpc {group} {name}" in (each.epilog or ""), name
            options = {option for one in each.params for option in one.opts}
            assert "--config" in options
            assert "--json" in options or name == "cron", name


def test_status(ledger, workspace):
    code, out, _ = ledger("status")
    assert code == 0 and "6 records in 2 files" in out and "sheet     none; set" in out
    (damaged,) = (workspace / "ledger" / "journal").glob("a-*.jsonl")
    with damaged.open("ab") as stream:
        stream.write(b'{"check":"')
    assert "1 damaged line skipped" in ledger("status")[2]
    facts = json.loads(ledger("status", "--json")[1])
    assert list(facts["damaged_lines"].values()) == [1] and facts["rows"] == {TAB: 2}


def test_an_empty_workspace_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["ledger", "show", "--workspace", str(tmp_path)])
    assert end.value.code == 0 and "no results in" in capsys.readouterr().out


def test_nothing_heavy_is_imported(workspace):
    code = ("import sys; from l3hpc.cli import main\n"
            "try: main(['ledger', 'show', '--workspace', '.'])\n"
            "except SystemExit: pass\n"
            "print([name for name in ('tensorflow', 'pandas', 'sklearn', 'gspread', 'openpyxl', "
            "'numpy', 'google.auth', 'requests') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=workspace)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["show", "status", "export", "compact"])
@pytest.mark.parametrize("below", ["file", "file/workspace"])
def test_a_workspace_that_is_or_is_below_a_file_is_named(tmp_path, monkeypatch, capsys, command,
                                                         below):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "cluster.yaml").write_text(f"cluster: local\npaths: {{workspace: {below}}}\n")
    with pytest.raises(SystemExit) as end:
        main(["ledger", command])
    captured = capsys.readouterr()
    assert end.value.code == 2 and captured.out == ""
    assert f"{tmp_path / 'file'} is a file, not a folder" in captured.err


def test_a_row_of_a_run_that_was_killed_is_not_running(ledger, workspace, monkeypatch):
    """The last thing that its job has written says so; another row is of no run that is known."""
    import chains

    from l3hpc.runs import submit

    Path("cluster.yaml").write_text(json.dumps({"clusters": {"local": {
        "slots": {"cpus": 2, "mem": "2GB"}, "env": {"PYTHONPATH": str(chains.FAKES)}}}}))
    submit.submit(chains.plan(workspace, "bad-1", ("extract", "sample"),
                              params={"sample": {"fail": "error"}}))
    for run, step in (("bad-1", "extract"), ("bad-1", "sample"), ("away-1", "train")):
        Journal(workspace / "ledger/journal", run=run, labels={
            "model_dir": f"/m/{run}/{step}", "run": run, "step": step}).record(
                TAB, {"student_emb_len": 128, "state": "running"})
    out = ledger("show")[1]
    states = dict(re.findall(r"^. (\S+) .*?\[(\w+)", out, re.MULTILINE))
    assert states == {"b": "random", "bad-1/sample": "failed", "away-1": "running"}
    assert out.endswith("  ★ the best of the rows that can be compared\n")
    (tab,) = json.loads(ledger("show", "--json")[1])
    rows = {row["name"]: (row["state"], row["beside"]["state"]) for row in tab["rows"]}
    assert rows["bad-1/sample"] == ("failed", "running")  # the second is what was recorded
    assert rows["bad-1/extract"] == ("finished", "running")
    table = l3hpc.results(workspace, TAB).set_index("run")["state"]
    assert dict(table.dropna()) == {
        "a": "finished", "b": "finished", "bad-1/extract": "finished", "bad-1/sample": "failed",
        "away-1": "running"}
    own = l3hpc.run("bad-1", workspace).results()
    assert sorted(own["state"]) == ["failed", "finished"]
    assert ledger("export", "--html", "page.html")[0] == 0
    assert '"failed"' in Path("page.html").read_text()


@pytest.mark.parametrize(("tracker", "module", "said"), [
    ("--wandb", "wandb", "Weights & Biases is not installed"),
    ("--mlflow", "mlflow", "MLflow is not installed")])
def test_a_tracker_that_is_not_installed_is_refused_before_a_file_is_written(
        workspace, ledger, monkeypatch, tracker, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = ledger("export", tracker, "runs", "--html", "new/page.html", "--csv", "new")
    assert (code, out) == (2, "") and said in err
    assert not Path("new").exists() and not Path("runs").exists()
