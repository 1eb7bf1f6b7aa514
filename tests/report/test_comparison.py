"""Combinations of a sweep side by side: their metrics, and which is the best."""

from dataclasses import replace

import pytest
from submitted import Case

from l3hpc.io.files import write_json
from l3hpc.ledger.journal.records import Journal
from l3hpc.report import comparison_charts
from l3hpc.report.data import ReportData
from l3hpc.report.page import compared, page
from l3hpc.report.results import Comparison, Epoch, Metric, Variant
from l3hpc.report.run import compare, of_run, write
from l3hpc.workspace import records
from l3hpc.workspace.run_record import RunRecord, StepRecord

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def sweep(tmp_path):
    """Make a run with a step ``first`` and, for each value, ``last-VALUE`` with these results."""
    def make(results, kind="elsewhere"):
        steps = [StepRecord("first", "extract", f"{tmp_path}/artifacts/extract/0", 1, [])]
        for value in results:
            steps.append(StepRecord(f"last-{value}", kind, f"{tmp_path}/artifacts/last/{value}", 1,
                                    ["first"]))
        for step, summary in zip(steps, [{"rows": 9}, *results.values()], strict=True):
            if summary is not None:
                write_json(tmp_path / step.artifact / "0000/result.json", {
                    "started": 1.0, "finished": 2.0, "elapsed_s": 1.0, "summary": summary})
        record = RunRecord("demo", "mine", "local", 1.0, "you", "host", ["l3hpc"], {
            "combinations": [{"values": {"width": value},
                              "steps": {"first": "first", "last": f"last-{value}"}}
                             for value in results]}, "submitted", steps, local=True)
        records.write(tmp_path, record)
        return record
    return make


def test_own_steps_are_compared_by_what_they_return(sweep, tmp_path):
    sweep({"64": {"accuracy": 0.5, "rows": 3}, "128": {"accuracy": {"mean": 0.75}}, "32": None})
    found = of_run(tmp_path, "demo", tmp_path / "x.html").sweep
    assert found.options == ("width",) and found.metrics == (Metric("last: accuracy", "higher"),)
    assert [variant.metrics for variant in found.variants] == [
        {"last: accuracy": 0.5}, {"last: accuracy": 0.75}, {}]
    assert found.best == 1 and [variant.label for variant in found.variants][1] == "width=128"
    assert comparison_charts.best_in_words(found) == "width=128 (last: accuracy 0.75)"


def test_numbers_that_are_neither_good_nor_bad_have_no_best(sweep, tmp_path):
    sweep({"64": {"rows": 3}, "128": {"rows": 4}})
    found = of_run(tmp_path, "demo", tmp_path / "x.html").sweep
    assert found.metrics == (Metric("last: rows"),) and found.best is None
    assert compared(found).best == ""


def test_steps_that_all_combinations_share_are_not_compared(sweep, tmp_path):
    sweep({"64": None, "128": None})
    found = of_run(tmp_path, "demo", tmp_path / "x.html").sweep
    assert found.metrics == () and [one.metrics for one in found.variants] == [{}, {}]
    text = write(tmp_path, "demo")[0].read_text()
    assert "Combinations of the sweep" in text and "first: rows" not in text


def test_rows_of_the_results_tables_come_first_as_means_over_folds(sweep, tmp_path):
    record = sweep({"64": {"model": "svm"}, "128": {"model": "svm"}})
    for step, scores in zip(record.steps[1:], ((0.5, 0.75), (0.25, 0.5)), strict=True):
        for fold, score in enumerate(scores):
            folder = f"{step.artifact}/{fold:04d}"
            Journal(tmp_path / "ledger/journal", run="demo", labels={"model_dir": folder}).record(
                "classifier", {"model_dir": folder, "test_acc": score, "train_loss": 1 - score})
    found = of_run(tmp_path, "demo", tmp_path / "x.html").sweep
    assert found.metrics[0] == Metric("Test Acc", "higher") and found.best == 0
    assert [variant.metrics["Test Acc"] for variant in found.variants] == [0.625, 0.375]
    rows = of_run(tmp_path, "demo", tmp_path / "x.html").ledger  # those of the best combination
    assert sorted(dict(row.cells)["Test Acc"] for row in rows) == ["0.5000", "0.7500"]
    assert [variant.metrics["Train Loss"] for variant in found.variants] == [0.375, 0.625]


def test_one_level_of_tags_on_validate_chooses_the_best(sweep, tmp_path):
    """Rows of test and of the fine tags are no part of a mean with those of validate, coarse."""
    record = sweep({"wide": {}, "narrow": {}})
    for step, scores in zip(record.steps[1:], ((0.5, 0.25, 0.2), (0.25, 0.75, 0.9)), strict=True):
        for (level, split), score in zip((("coarse", "validate"), ("coarse", "test"),
                                          ("fine", "validate")), scores, strict=True):
            Journal(tmp_path / "ledger/journal", run="demo", labels={}).record("sonyc_ust", {
                "output_dir": step.artifact, "exp_id": f"demo-{level}-{split}", "split": split,
                "label_mode": level, "micro_auprc": score})
    found = of_run(tmp_path, "demo", tmp_path / "x.html").sweep
    assert [variant.metrics["Micro AUPRC"] for variant in found.variants] == [0.5, 0.25]
    assert found.best == 0


@pytest.mark.parametrize(("keys", "best"), [(("pca_8", "pca_8"), 1), (("pca_8", "pca_4"), None)])
def test_losses_of_different_reductions_have_no_best(sweep, tmp_path, keys, best):
    """As in the tables of results: a loss over four dimensions says nothing beside one over eight.
    """
    record = sweep({"a": {"parameters": 10}, "b": {"parameters": 10}})
    for step, key, loss in zip(record.steps[1:], keys, (2.0, 1.0), strict=True):
        Journal(tmp_path / "ledger/journal", run="demo", labels={}).record(
            "embedding_approx_mse", {"model_dir": step.artifact, "best_validation_loss": loss,
                                     "emb_key": key})
    data = of_run(tmp_path, "demo", tmp_path / "x.html")
    assert [variant.metrics["Best Valid Loss"] for variant in data.sweep.variants] == [2.0, 1.0]
    text = page(data)
    assert data.sweep.best == best and ("None is called the best" in text) == (best is None)
    assert ("★" in text) == (best is not None)


def test_the_report_shows_the_results_of_the_best_combination(sweep, tmp_path):
    sweep({"64": {"accuracy": 0.5}, "128": {"accuracy": 0.75}})
    data = of_run(tmp_path, "demo", tmp_path / "x.html")
    first, last = data.steps
    assert (first.name, last.name, last.tasks, last.detail) == ("first", "last", 2, "2 variants")
    assert last.needs == ("first",)
    assert data.headline[:2] == ("last: accuracy", 0.75)
    text = page(data)
    assert "Best: width=128 (last: accuracy 0.75)" in text and "★ 128" in text


def variants(number, **changes):
    return Comparison(("width", "rate"), (Metric("loss", "lower"), Metric("rows")), tuple(
        Variant(f"{HOSTILE}{index}", {"width": str(2 ** index), "rate": HOSTILE}, "done",
                {"loss": 1.0 - index / 10, "rows": index},
                (Epoch(1, 2.0, 1.0), Epoch(2, 1.0, float("nan"))), **changes)
        for index in range(number)))


@pytest.mark.parametrize("number", [1, 2, 8, 30])
def test_the_figures_hold_any_number_of_variants_and_hostile_names(number):
    found = variants(number)
    text = page(ReportData("demo", sweep=found))
    assert "<script" not in text
    for width in (1030, 340):
        drawn = str(comparison_charts.parallel(found, width))
        assert drawn.count('class="pc') == number and drawn.count("pc best") == 1
    assert str(comparison_charts.scatter(found, "width", found.metrics[0])).count("dot ") == number


def test_large_numbers_are_written_in_full():
    found = replace(variants(2), metrics=(Metric("parameters", "lower"),), variants=tuple(
        replace(variant, metrics={"parameters": value})
        for variant, value in zip(variants(2).variants, (309124.0, 298100.0), strict=True)))
    text = page(ReportData("demo", sweep=found))
    assert "309,124" in text and "298,100" in text and "e+05" not in text


def test_students_of_one_epoch_have_a_mark_in_the_chart_of_losses():
    first, second = Epoch(1, 2.0, 1.0), Epoch(2, 1.0, 0.5)
    for epochs, circles in (((first,), 3), ((first, second), 0)):
        found = replace(variants(3), variants=tuple(
            replace(variant, epochs=epochs) for variant in variants(3).variants))
        assert str(comparison_charts.losses(found, 340)).count("<circle") == circles


def test_names_of_axes_are_whole_where_there_is_room():
    names = ("fit: explained variance", "train: best validation loss", "score: accuracy")
    found = Comparison(("train.learning_rate",), tuple(Metric(name, "higher") for name in names), (
        Variant("a", {"train.learning_rate": "1"}, "done", dict.fromkeys(names, 0.5)),))
    drawn = str(comparison_charts.parallel(found, 1030))
    assert all(f">{name}</text>" in drawn for name in (*names, "train.learning_rate"))


def test_lower_is_better_puts_the_smallest_at_the_top_and_equals_are_counted():
    found = variants(4)
    assert found.best == 3
    axis = comparison_charts._axis("loss", found, found.metrics[0])
    assert axis.share(found.variants[3]) == 1 and axis.share(found.variants[0]) == 0
    equal = replace(found, variants=(found.variants[3], *found.variants))
    assert equal.best == 0 and comparison_charts.best_in_words(equal).endswith("1 more is as good)")


def test_variants_without_results_are_listed_last():
    found = variants(2)
    waiting = Variant("later", {"width": "0", "rate": "x"}, "waiting")
    rows = compared(replace(found, variants=(waiting, *found.variants))).table.rows
    assert [row[0] for row in rows] == ["★ 2", "1", "0"]


def test_equal_results_have_no_best():
    found = variants(3)
    same = tuple(replace(one, metrics={"loss": 1.0}) for one in found.variants)
    assert replace(found, variants=same).best is None
    assert replace(found, variants=same[:1]).best == 0


def test_runs_are_compared_by_the_parameters_in_which_they_differ(chains, slurm, tmp_path):
    workspace = tmp_path / "ws"
    for name, dim in (("one", 64), ("two", 32)):
        case = Case(chains, slurm, workspace, name, names=("sample", "fit"), params={
            "fit": {"emb_dim": dim, "approx": "pca"}, "sample": {"text": HOSTILE}})
        case.finish("fit", summary={"explained_variance": dim / 100}, elapsed_s=1.0)
        write(workspace, name)
    found = compare(workspace, ["one", "two"], tmp_path / "both.html")
    assert found.options == ("fit.emb_dim",)
    assert [variant.values for variant in found.variants] == [
        {"fit.emb_dim": "64"}, {"fit.emb_dim": "32"}]
    assert found.metrics == (Metric("fit: explained variance", "higher"),) and found.best == 0
    text = (tmp_path / "both.html").read_text()
    assert '<a href="ws/runs/one/report.html">one</a>' in text and "<script" not in text
    assert compare(workspace, ["one", "two"], tmp_path / "both.html") == found  # over the first


def test_of_runs_without_a_shared_metric_none_is_the_best():
    metrics = Metric("Test Acc", "higher"), Metric("Micro AUPRC", "higher")
    clips, all_ = (Variant(name, {}, "done", {metric.name: 0.5})
                   for name, metric in zip(("clips-1", "all-1"), metrics, strict=True))
    assert Comparison((), metrics, (clips, all_), of_runs=True).best is None
    better = replace(clips, label="clips-2", metrics={"Test Acc": 0.75})
    assert Comparison((), metrics, (clips, all_, better), of_runs=True).best == 2


def test_losses_of_different_steps_share_no_chart():
    found = variants(3)
    student, first, second = (replace(variant, epochs_of=kind) for variant, kind in zip(
        found.variants, ("train", "classify", "classify"), strict=True))
    mixed = replace(found, variants=(student, first, second))
    assert list(comparison_charts.curves_of(mixed)) == [1, 2]
    assert "Validation loss of classify per epoch" in page(ReportData("demo", sweep=mixed))
    two = replace(found, variants=(student, first))
    assert comparison_charts.losses(two, 340) is None
    assert "Validation loss" not in page(ReportData("demo", sweep=two))
    assert "Validation loss per epoch" in page(ReportData("demo", sweep=found))
