"""The folds of a cross-validation, or several seeds, and their mean, in the views of the ledger."""

import pytest

from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.views import as_text, exports, folds, select
from l3hpc.ledger.views.runs import RUN, run_names

TAB, TAGS = TABS["classifier"], TABS["clip_tags"]
MSE, UST = TABS["embedding_approx_mse"], TABS["sonyc_ust"]


def fold(run, number, accuracy, tab=TAB, place=None, **values):
    place = number if place is None else place
    folder = f"/ws/runs/{run}/artifacts/folds/{place:04d}"
    return Row(tab, (folder,), {"model_dir": folder, "fold_num": number, "test_acc": accuracy,
                                RUN.field: f"{run}/{folder[-10:]}", **values},
               extra={"run": run, "step": "folds", "state": "finished"})


# the best fold of all is one of the worse run
ROWS = [fold("worse", 1, 0.9, C=1.0, model_type="svm"), fold("worse", 2, 0.1, C=9.0),
        fold("better", 1, 0.6, model_type="svm"), fold("better", 2, 0.8, model_type="svm")]


def names(rows):
    return [row.values[RUN.field] for row in rows]


def test_the_mean_is_before_its_folds_and_the_best_is_a_mean():
    shown = select.sort_with_means(ROWS, TAB)
    assert names(shown) == [
        "better/folds", "better/folds/0002", "better/folds/0001",
        "worse/folds", "worse/folds/0001", "worse/folds/0002"]
    better, worse = shown[0], shown[3]
    assert better.values["test_acc"] == pytest.approx(0.7)
    assert folds.deviation_of(better, TAB.column("Test Acc")) == pytest.approx(0.02 ** 0.5)
    # what was chosen for each fold has no mean; what all agree on stays
    assert "C" not in worse.values and "model_type" not in worse.values
    assert better.values["model_type"] == "svm" and "fold_num" not in better.values
    assert better.extra["note"] == "mean of 2 folds"
    assert select.best_rows(shown, TAB) == [better]
    lines, _ = as_text.table_lines(shown, TAB, [RUN, TAB.column("Test Acc")])
    assert lines[1].startswith("★ better/folds ") and "0.7000 ± 0.1414" in lines[1]
    assert [line[0] for line in lines].count("★") == 1


def test_a_single_fold_is_never_the_best_but_a_split_is():
    assert select.best_rows(ROWS, TAB) == []
    assert select.sort_with_means(ROWS[:1], TAB) == ROWS[:1]
    split = fold("split", None, 0.5, place=0)
    assert select.best_rows([*ROWS, split], TAB) == [split]
    assert select.sort_with_means([split], TAB) == [split]


def test_a_number_that_one_fold_lacks_has_no_mean():
    rows = [fold("a", 1, 0.5, test_avg_class_acc=0.5), fold("a", 2, 0.7, test_avg_class_acc="NaN")]
    mean = select.sort_with_means(rows, TAB)[0]
    assert mean.values["test_acc"] == pytest.approx(0.6)
    assert "test_avg_class_acc" not in mean.values


def test_folds_of_clips_with_several_labels():
    rows = [fold("a", number, None, TAGS, test_micro_auprc=0.5 + number / 10) for number in (1, 2)]
    mean = select.sort_with_means(rows, TAGS)[0]
    assert mean.values["test_micro_auprc"] == pytest.approx(0.65)
    assert select.best_rows([mean, *rows], TAGS) == [mean]


def test_files_for_other_programs_hold_the_folds_alone(tmp_path):
    assert exports.csv_text(ROWS, TAB).count("\r\n") == 1 + len(ROWS)
    exports.write_html(tmp_path / "x.html", {TAB: select.sort_with_means(ROWS, TAB)})
    text = (tmp_path / "x.html").read_text()
    assert "mean of 2 folds" in text and "standard_deviations" not in text


def seed(run, number, score, level="", split="", **values):
    name = f"{run}{level}-seed{number}{split}"
    return Row(UST, (f"/ws/runs/{run}", name), {
        "output_dir": f"/ws/runs/{run}", "exp_id": name, "micro_auprc": score,
        RUN.field: f"{run}/evaluate/{name.removeprefix(run)[1:]}", **values},
        extra={"run": run, "step": "evaluate", "state": "finished"})


def test_the_mean_over_seeds_is_the_best_not_the_luckiest_of_them():
    rows = [seed("worse", 0, 0.1), seed("worse", 1, 0.9), seed("better", 0, 0.6, pca=True),
            seed("better", 1, 0.8, pca=True)]
    shown = select.sort_with_means(rows, UST)
    assert names(shown) == ["better/evaluate", "better/evaluate/seed1", "better/evaluate/seed0",
                            "worse/evaluate", "worse/evaluate/seed1", "worse/evaluate/seed0"]
    assert select.best_rows(shown, UST) == [shown[0]] and select.best_rows(rows, UST) == []
    assert shown[0].extra["note"] == "mean of 2 seeds" and shown[0].extra["seeds"] == 2
    assert shown[0].values["exp_id"] == "better" and shown[0].values["pca"] is True
    lines, _ = as_text.table_lines(shown, UST, [RUN, UST.column("Micro AUPRC")])
    assert lines[1].startswith("★ better/evaluate ") and "0.7000 ± 0.1414" in lines[1]


def test_levels_and_splits_of_several_seeds_have_a_mean_each():
    rows = [seed("a", number, 0.5, level, split) for number in (3, 4)
            for level in ("-coarse", "-fine") for split in ("", "-test")]
    means = [row for row in select.sort_with_means(rows, UST) if folds.is_mean(row)]
    assert sorted(names(means)) == [f"a/evaluate/{end}" for end in (
        "coarse", "coarse-test", "fine", "fine-test")]


def test_runs_that_a_person_named_like_seeds_are_results_of_their_own():
    rows = [seed("mine", 0, 0.5), seed("other", 1, 0.7)]
    assert select.sort_with_means(rows, UST) == [rows[1], rows[0]]
    assert select.best_rows(rows, UST) == [rows[1]]


def student(name, loss, **values):
    return Row(MSE, (name,), {"model_dir": name, "best_validation_loss": loss, "emb_key": "pca_8",
                              "approx_mode": "pca", "student_emb_len": 8, **values})


def test_losses_of_different_targets_are_not_compared():
    linear = [student("a", 54.0), student("b", 62.0)]
    rbf = student("c", 4.4, emb_key="pca_rbf_8")
    longer = student("d", 90.0, student_emb_len=16)
    assert select.best_rows([*linear, rbf, longer], MSE) == linear[:1]
    assert select.best_rows([*linear, rbf, student("e", 5.0, emb_key="pca_rbf_8")], MSE) == [
        linear[0], rbf]
    # the same settings of φ, for the embeddings of another teacher
    other = student("f", 1.0, reduced_emb_train_dir="/ws/artifacts/reduce/2")
    assert select.best_rows([*linear, other], MSE) == linear[:1]
    assert select.best_rows([rbf], MSE) == [rbf] and select.best_rows([linear[0], rbf], MSE) == []


def test_a_row_of_several_seeds_is_named_by_its_seed_in_every_tab():
    tab = TABS["emb_approx_sonyc_ust"]
    rows = [Row(tab, ("/ws/a", f"a-seed{number}", "combined"),
                {"output_dir": "/ws/a", "exp_id": f"a-seed{number}",
                 "aggregation_type": "combined", "micro_auprc": 0.5},
                extra={"run": "a", "step": "evaluate"}) for number in range(3)]
    assert run_names(rows) == [f"a/evaluate/seed{number}" for number in range(3)]
    mean = select.sort_with_means(rows, tab)[0]
    assert mean.key == ("/ws/a", "a", "combined")
    assert mean.values[RUN.field] == "a/evaluate"


def test_values_by_class_are_shown_with_the_names_of_the_classes(tmp_path):
    """Files and the sheet keep what the published code writes."""
    rows = [fold("a", 1, 0.5, test_class_acc="0, 1"), fold("a", 2, 0.7, test_class_acc="0.5, nan"),
            fold("old", 1, 0.5, test_class_acc="0.25, 1")]
    for one in rows[:2]:
        one.extra["classes"] = ["dog", "rain"]
    column = TAB.column("Test Class Acc")
    assert [select.readable_cell(one, column) for one in rows] == [
        "dog 0, rain 1", "dog 0.5, rain nan", "0.25, 1"]
    assert select.cell_of(rows[0], column) == "0, 1"
    shown = "\n".join(as_text.row_lines(rows[0], TAB)[0])
    assert "dog 0, rain 1" in shown and "classes" not in shown
    lines, _ = as_text.table_lines(rows, TAB, [RUN, column])
    assert "dog 0.5, rain nan" in lines[2]
    beside = as_text.side_by_side(rows[:2], TAB)
    assert any("dog 0, rain 1" in line and "dog 0.5, rain nan" in line for line in beside)
    exports.write_html(tmp_path / "r.html", {TAB: rows}, None)
    page = (tmp_path / "r.html").read_text()
    assert "dog 0, rain 1" in page and '"classes"' not in page
    assert "0, 1" in exports.csv_text(rows, TAB) and "dog" not in exports.csv_text(rows, TAB)
    rows[0].extra["classes"] = ["dog"]  # damaged: not one name for each value
    assert select.readable_cell(rows[0], column) == "0, 1"


def test_a_workbook_has_the_means_in_a_sheet_of_their_own(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    exports.write_xlsx(tmp_path / "r.xlsx", {TAB: ROWS, MSE: []})
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == ["classifier", "classifier means", "embedding_approx_mse"]
    assert book["classifier"].max_row == 5  # no mean among the folds
    head, worse, better = book["classifier means"].iter_rows(values_only=True)
    assert head == ("Run", "Note", "Model Dir", "Model Type", "Test Acc",
                    "Test Acc, standard deviation")
    assert worse[:2] == ("worse/folds", "mean of 2 folds") and worse[3] is None
    assert better[0] == "better/folds" and better[3] == "svm"
    assert better[4:] == (pytest.approx(0.7), pytest.approx(0.02 ** 0.5))
    assert book["classifier means"].freeze_panes == "A2"
    assert book["classifier means"].cell(1, 1).font.bold
