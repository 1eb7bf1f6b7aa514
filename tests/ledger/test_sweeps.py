"""Rows bear the names of their runs and the values of swept options, also where a sweep reused
what an earlier run had computed."""

import csv
import io
import json
import shutil

import pytest

import l3hpc
from l3hpc.cli import main
from l3hpc.cli.ledger.common import find_rows
from l3hpc.errors import InputError
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.store import Store, SyncState
from l3hpc.ledger.views import as_text, exports, select
from l3hpc.ledger.views.runs import run_names, view_tabs
from l3hpc.workspace import records
from l3hpc.workspace.run_record import RunRecord, StepRecord

MSE, UST = "embedding_approx_mse", "sonyc_ust"


def write_run(workspace, name, steps, combinations=(), created=1.0):
    """Steps: name → fingerprint."""
    (workspace / "runs" / name).mkdir(parents=True)
    options = {"combinations": [{"values": values, "steps": own} for values, own in combinations]}
    records.write(workspace, RunRecord(
        name, "all", "local", created, "ada", "login1", ["l3hpc", "submit"],
        options if combinations else {}, "submitted",
        [StepRecord(step, step.partition("-")[0], f"{workspace}/artifacts/{fingerprint}", 1, [])
         for step, fingerprint in steps.items()]))


def record(workspace, run, step, tab, **values):
    journal = Journal(workspace / "ledger" / "journal", run=run, labels={"run": run, "step": step})
    journal.record(tab, values)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """One run, and a sweep of four combinations, of which two reuse the run's student."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_run(tmp_path, "first", {"train": "t64", "evaluate": "e64"})
    dims, rates = ("64", "128"), ("1e-3", "1e-4")
    steps = {f"train-{dim}": f"t{dim}" for dim in dims}
    steps |= {f"evaluate-{dim}-{rate}": f"e{dim}{rate}" for dim in dims for rate in rates}
    write_run(tmp_path, "sweep", steps, [
        ({"emb-dim": dim, "classify.learning_rate": rate},
         {"train": f"train-{dim}", "evaluate": f"evaluate-{dim}-{rate}"})
        for dim in dims for rate in rates], created=2.0)
    record(tmp_path, "first", "train", MSE, model_dir="/w/first", best_validation_loss=0.5)
    record(tmp_path, "sweep", "train-128", MSE, model_dir="/w/sweep", best_validation_loss=0.4)
    for step, score in (("evaluate-64-1e-3", 0.3), ("evaluate-128-1e-3", 0.6),
                        ("evaluate-128-1e-4", 0.5)):
        record(tmp_path, "sweep", step, UST, output_dir=f"/w/{step}", exp_id="sweep",
               micro_auprc=score)
    return tmp_path


@pytest.fixture
def ledger(workspace, capsys):
    def call(*words):
        with pytest.raises(SystemExit) as end:
            main(["ledger", *words, "--workspace", str(workspace)])
        captured = capsys.readouterr()
        assert not end.value.code, captured.err
        return captured.out
    return call


def test_show_has_the_run_then_the_swept_options(ledger):
    students, scores = ledger("show").split("\n\n")
    assert students.splitlines()[1:] == [
        "  Run    emb-dim  Best Valid Loss",
        "★ sweep      128           0.4000",  # two rates are tried with it: it has neither
        "  first       64           0.5000",  # the sweep reused it
        "  ★ the best of the rows that can be compared"]
    assert [line.split() for line in scores.splitlines()[1:]] == [
        ["Run", "emb-dim", "classify.learning_rate", "Micro", "AUPRC"],
        ["★", "sweep/evaluate-128-1e-3", "128", "0.0010", "0.6000"],
        ["sweep/evaluate-128-1e-4", "128", "0.0001", "0.5000"],
        ["sweep/evaluate-64-1e-3", "64", "0.0010", "0.3000"],
        ["★", "the", "best", "of", "the", "rows", "that", "can", "be", "compared"]]


def test_swept_options_filter_sort_and_find(ledger):
    rows = json.loads(ledger("show", "--where", "emb-dim>64", "--sort",
                             "-classify.learning_rate", "--tab", UST, "--json"))
    assert [(tab["tab"], [row["name"] for row in tab["rows"]]) for tab in rows] == [
        (UST, ["sweep/evaluate-128-1e-3", "sweep/evaluate-128-1e-4"])]
    assert rows[0]["swept"] == ["emb-dim", "classify.learning_rate"]
    assert rows[0]["columns"] == TABS[UST].titles == list(rows[0]["rows"][0]["values"])
    assert rows[0]["rows"][0]["swept"] == {"emb-dim": 128, "classify.learning_rate": 0.001}
    lines = ledger("diff", "evaluate-64-1e-3", "sweep/evaluate-128-1e-4").splitlines()
    assert lines[0].split() == ["sweep/evaluate-64-1e-3", "sweep/evaluate-128-1e-4"]
    assert [line.split()[0] for line in lines[1:]] == [
        "emb-dim", "classify.learning_rate", "Micro"]
    assert lines[1].split() == ["emb-dim", "64", "128", "(+64)"]


def test_they_stand_behind_the_fixed_columns(workspace):
    found = l3hpc.results(workspace, MSE)
    assert list(found.columns) == [*TABS[MSE].titles, "emb-dim", "run", "state", "note"]
    assert dict(found["emb-dim"]) == {"/w/first": 64, "/w/sweep": 128}
    fold = Store(workspace).fold()
    view = view_tabs(fold, workspace)[MSE]
    header, *lines = csv.reader(io.StringIO(exports.csv_text(fold.rows_of(MSE), view)))
    assert header == [*TABS[MSE].titles, "emb-dim"]
    assert [line[-1] for line in lines] == ["64", "128"]
    exports.write_xlsx(workspace / "r.xlsx", {view: fold.rows_of(MSE)})


def test_the_sheet_and_its_state_do_not_see_them(workspace):
    fold = Store(workspace).fold()
    view_tabs(fold, workspace)
    row, state = fold.rows_of(MSE)[0], SyncState("id")
    state.confirm(row, [None] * 28)
    assert len(state.last(row)) == 28 and not state.is_confirmed(row)


def test_a_damaged_record_is_reported_and_costs_its_values_only(workspace):
    (workspace / "runs/sweep/run.json").write_text("{")
    with pytest.warns(UserWarning, match="skipped: .*sweep"):
        found = l3hpc.results(workspace, MSE)
    assert "emb-dim" not in found and list(found["run"]) == ["first", "sweep"]
    shutil.rmtree(workspace / "runs")
    (workspace / "runs").write_text("")
    with pytest.warns(UserWarning, match="skipped: .*is not a folder"):
        assert list(l3hpc.results(workspace, MSE)["run"]) == ["first", "sweep"]


def test_an_option_with_a_word_among_its_values_is_text(workspace):
    write_run(workspace, "other", {"train-64": "t64", "train-none": "t128"}, [
        ({"approx": "pca"}, {"train": "train-64"}), ({"approx": "7"}, {"train": "train-none"})])
    found = l3hpc.results(workspace, MSE)
    assert list(found["approx"]) == ["pca", "7"] and list(found["emb-dim"]) == [64, 128]


def test_rows_of_one_step_differ_by_the_end_of_their_keys(workspace):
    for fold in range(2):
        record(workspace, "first", "folds", "classifier", model_dir=f"/w/folds/000{fold}")
    record(workspace, "first", "evaluate", UST, output_dir="/w/a", exp_id="first-coarse")
    fold = Store(workspace).fold()
    assert run_names(fold.rows_of("classifier")) == ["first/folds/0000", "first/folds/0001"]
    assert "first" in run_names(fold.rows_of(UST))
    adopted = next(row for row in fold.rows_of(UST) if row.key[0] == "/w/evaluate-64-1e-3")
    adopted.extra.clear()
    assert run_names([adopted]) == [""]
    assert as_text.row_names([adopted]) == ["/w/evaluate-64-1e-3 sweep"]


def test_a_command_about_a_row_takes_the_name_that_show_prints(workspace):
    tab, [found] = find_rows(Store(workspace).fold(), ("sweep/evaluate-64-1e-3",), None)
    assert tab is TABS[UST] and found.key == ("/w/evaluate-64-1e-3", "sweep")


def test_a_command_about_a_row_takes_the_beginning_of_a_run(workspace):
    fold = Store(workspace).fold()
    for name in ("sweep/evaluate-64-1e-3", "sweep/evaluate-64-1e-3"[:-2]):
        assert find_rows(fold, (name,), None)[1][0].key == ("/w/evaluate-64-1e-3", "sweep")


def test_the_error_is_that_of_the_tab_that_knows_the_names(workspace):
    fold = Store(workspace).fold()
    with pytest.raises(InputError, match="'1e-3' fits 2 rows of 'sonyc_ust'") as error:
        find_rows(fold, ("1e-3", "1e-4"), None)
    assert "sweep/evaluate-128-1e-3" in error.value.allowed
    with pytest.raises(InputError, match="no tab has a run or key named 'nowhere'"):
        find_rows(fold, ("nowhere", "nothing"), None)


def test_an_ambiguous_name_lists_the_runs(workspace):
    fold = Store(workspace).fold()
    view_tabs(fold, workspace)
    with pytest.raises(InputError, match="3 rows") as error:
        select.find_row(fold.rows_of(UST), TABS[UST], "sweep")
    assert "sweep/evaluate-128-1e-3" in error.value.allowed


def test_the_page_has_names_and_swept_options_first(workspace):
    fold = Store(workspace).fold(history=True)
    views = view_tabs(fold, workspace)
    exports.write_html(workspace / "r.html", {views[UST]: fold.rows_of(UST)})
    text = (workspace / "r.html").read_text()
    [tab] = json.loads(text.partition('id="data">')[2].partition("</script>")[0])["tabs"]
    assert [tab["columns"][index][0] for index in tab["swept"]] == [
        "emb-dim", "classify.learning_rate"]
    values = {row["name"]: [row["cells"][index] for index in tab["swept"]] for row in tab["rows"]}
    assert values == {
        "sweep/evaluate-64-1e-3": [64, 0.001], "sweep/evaluate-128-1e-3": [128, 0.001],
        "sweep/evaluate-128-1e-4": [128, 0.0001]}
