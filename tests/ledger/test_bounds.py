"""A student's score beside that of its bound: the same φ, judged the same way."""

import json

import pytest

import l3hpc
from l3hpc.cli import main
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.store import Store
from l3hpc.ledger.views import exports, select, trackers
from l3hpc.ledger.views.runs import BOUND, swept_columns, view_tabs

UST = "sonyc_ust"
JUDGE = {"hidden_layer_size": 128, "learning_rate": 1e-3, "label_mode": "coarse"}


def record(workspace, run, score, end="", **values):
    journal = Journal(workspace / "ledger/journal", run=run, labels={"run": run, "step": "x"})
    journal.record(UST, {"output_dir": f"/w/{run}", "exp_id": f"{run}{end}", "micro_auprc": score,
                         "state": "finished", **JUDGE, **values})


def bounds(workspace):
    """Exp. ID → its bound."""
    found = Store(workspace).fold()
    view_tabs(found, workspace)
    return {row.values["exp_id"]: row.values.get(BOUND.field) for row in found.rows_of(UST)}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    record(tmp_path, "student", 0.6, target="phi", model_type="a student")
    record(tmp_path, "other", 0.5, target="another", model_type="another student")
    record(tmp_path, "old", 0.4, model_type="a published student")
    record(tmp_path, "teacher", 0.7, bound_of="phi", model_type="PCA of L3 (teacher)")
    return tmp_path


def test_the_bound_stands_beside_the_students_of_its_target_alone(workspace):
    assert bounds(workspace) == {"student": 0.7, "other": None, "old": None, "teacher": None}


@pytest.mark.parametrize("change", [
    {"label_mode": "fine"}, {"learning_rate": 1e-5}, {"split": "test"}, {"bound_of": "phi2"}])
def test_a_score_of_another_judge_is_no_bound(tmp_path, change):
    record(tmp_path, "student", 0.6, target="phi")
    record(tmp_path, "teacher", 0.7, **{"bound_of": "phi", **change})
    assert bounds(tmp_path)["student"] is None
    # the column is there all the same: its dash says that there is no bound
    assert BOUND in view_tabs(Store(tmp_path).fold(), tmp_path)[UST].columns


def test_of_several_runs_the_newest_counts_with_the_mean_of_its_seeds(workspace):
    for seed, score in enumerate((0.8, 0.9)):
        record(workspace, "newer", score, end=f"-seed{seed}", bound_of="phi")
    assert bounds(workspace)["student"] == pytest.approx(0.85)


def test_every_view_marks_it_and_gives_the_star_to_a_student(workspace, capsys):
    with pytest.raises(SystemExit):
        main(["ledger", "show", "--workspace", str(workspace)])
    lines = capsys.readouterr().out.splitlines()
    header = lines[1].split()
    assert header[-3:] == ["Micro", "AUPRC", "Bound"]
    [star] = [line for line in lines if line.startswith("★")]
    assert "student" in star and star.split()[-2:] == ["0.6000", "0.7000"]
    [mark] = [line for line in lines if line.endswith("[bound]")]
    assert "PCA of L3 (teacher)" in mark
    with pytest.raises(SystemExit):
        main(["ledger", "show", "--json", "--workspace", str(workspace)])
    [told] = json.loads(capsys.readouterr().out)
    assert {row["name"]: (row["bound"], row["best"]) for row in told["rows"]} == {
        "student": (0.7, True), "other": (None, False), "old": (None, False),
        "teacher": (None, False)}
    table = l3hpc.results(workspace, UST).set_index("run")
    assert table.loc["student", "Bound"] == 0.7
    found = Store(workspace).fold()
    tab = view_tabs(found, workspace)[UST]
    assert exports.csv_text([], tab).strip().endswith("Coarse Tag AUPRC,Bound")
    stream = workspace / "page.html"
    exports.write_html(stream, {tab: found.rows_of(UST)})
    assert '"marks": ["finished", "bound"]' in stream.read_text() or \
        '"marks":["finished","bound"]' in stream.read_text()
    assert all(BOUND.field not in run.parameters and "--bound" not in run.metrics
               for run in trackers.tracked_runs(found.rows_of(UST), tab))
    assert BOUND not in swept_columns(tab)  # the Google Sheet gets only those


def test_where_all_rows_are_bounds_one_of_them_is_the_best(tmp_path):
    record(tmp_path, "teacher", 0.7, bound_of="phi")
    rows = Store(tmp_path).fold().rows_of(UST)
    assert select.best_rows(rows, TABS[UST]) == rows
