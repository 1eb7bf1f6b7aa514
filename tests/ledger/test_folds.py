"""The folds of a cross-validation and their mean, in the views of the ledger."""

import pytest

from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.views import exports, folds, select
from l3hpc.ledger.views.runs import RUN

TAB, TAGS = TABS["classifier"], TABS["clip_tags"]


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
    assert select.best_row(shown, TAB) is better
    lines, _ = select.table_lines(shown, TAB, [RUN, TAB.column("Test Acc")])
    assert lines[1].startswith("★ better/folds ") and "0.7000 ± 0.1414" in lines[1]
    assert [line[0] for line in lines].count("★") == 1


def test_a_single_fold_is_never_the_best_but_a_split_is():
    assert select.best_row(ROWS, TAB) is None
    assert select.sort_with_means(ROWS[:1], TAB) == ROWS[:1]
    split = fold("split", None, 0.5, place=0)
    assert select.best_row([*ROWS, split], TAB) is split
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
    assert select.best_row([mean, *rows], TAGS) is mean


def test_files_for_other_programs_hold_the_folds_alone(tmp_path):
    assert exports.csv_text(ROWS, TAB).count("\r\n") == 1 + len(ROWS)
    exports.write_html(tmp_path / "x.html", {TAB: select.sort_with_means(ROWS, TAB)})
    text = (tmp_path / "x.html").read_text()
    assert "mean of 2 folds" in text and "standard_deviations" not in text
