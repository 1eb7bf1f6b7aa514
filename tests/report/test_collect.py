"""Reading artifact folders as the steps write them."""

import json
import math

import h5py
import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.ledger.journal.records import Journal
from l3hpc.models.spec import openl3_spec
from l3hpc.reduction.phi import Phi, save_phi
from l3hpc.report import comparison
from l3hpc.report.collect import collect, read_epochs, read_scores
from l3hpc.report.data import StepFacts
from l3hpc.report.folder import csv_text, write_results
from l3hpc.report.page import RANDOM_TEACHER, page
from l3hpc.report.results import Bin, Calibration, Detected, Epoch, SensorScore

CHAIN = ("extract", "sample", "fit", "reduce", "train", "embed", "classify", "evaluate")
NUMBERS = {"micro_auprc": 0.5, "micro_f1": 0.25, "macro_auprc": 0.125,
           "class_auprc": {"engine": 0.75, "dog": 0.25}}
CURVES = {"curves": {"engine": {"recall": [0.0, 1.0], "precision": [1.0, 0.5],
                                "threshold": [1.0, 0.1]}},
          "class_positives": {"engine": 4, "dog": 1},
          "confidence": {"level": 0.95, "samples": 300, "method": "dice",
                         "micro_auprc": [0.4, 0.6],
                         "class_auprc": {"engine": [0.7, 0.8]}}}
TRAIN = {"asr": 8000, "mels": 64, "hop": 160, "dft": 1024, "fmax": None, "emb_dim": 128,
         "filters": None, "head": "linear"}


def task(artifact, index=0, summary=None, **result):
    folder = artifact / f"{index:04d}"
    folder.mkdir(parents=True)
    content = {"summary": summary or {}, "elapsed_s": 2.5, "seed": 7, "finished": 10.0,
               "peak_memory_mb": 900, "environment": {
                   "l3hpc": "0.1", "python": "3.11.7", "host": "n1", "packages": {"numpy": "2.0"}}}
    (folder / "result.json").write_text(json.dumps({**content, **result}))
    return folder


@pytest.fixture
def artifacts(tmp_path):
    folders = {kind: tmp_path / "artifacts" / kind / f"{number:016x}"
               for number, kind in enumerate(CHAIN)}
    teacher = {"kind": "untrained", "dim": 512, "digest": "untrained-7", "label": "untrained L3",
               "spec": openl3_spec("mel256").to_dict()}
    for index in range(3):
        task(folders["extract"], index, {"rows": 10, "teacher": teacher})
    phi = Phi("pca", 4, 2, n_samples=50, arrays={
        "mean": np.zeros(4), "scale": np.ones(4), "components": np.eye(4)[:2],
        "explained_variance": np.array([2.0, 1.0]),
        "explained_variance_ratio": np.array([0.5, 0.25]),
        "spectrum": np.array([0.5, 0.25, 0.2, 0.05])})
    save_phi(task(folders["fit"]) / "phi.h5", phi)
    student = task(folders["train"], peak_memory_mb=1500, finished=99.0)
    (folders["train"] / "config.json").write_text(json.dumps({"params": TRAIN}))
    (student / "history.csv").write_text(
        "epoch,loss,mean_absolute_error,val_loss,val_mean_absolute_error\n"
        "0,2.0,1.0,1.5,0.5\n1,1.0,0.5,nan,\n")
    (student / "model_best.h5").write_bytes(b"x" * 321)
    (student / "model_latest.h5").write_bytes(b"y")
    folder = task(folders["evaluate"])
    (folder / "evaluation.json").write_text(json.dumps({"validate": {"coarse": NUMBERS}}))
    (folder / "curves.json").write_text(json.dumps({"validate": {"files": 20, "coarse": CURVES}}))
    return folders


def steps():
    return [StepFacts(kind, (CHAIN[index - 1],) if index else ())
            for index, kind in enumerate(CHAIN)]


def test_everything_is_found(artifacts):
    found = collect("demo-1", artifacts, steps(), extra=[("command", "l3hpc demo")])
    assert (found.teacher, found.teacher_trained) == ("untrained L3", False)
    assert found.epochs[0] == Epoch(1, 2.0, 1.5, 1.0, 0.5)
    assert math.isnan(found.epochs[1].valid_loss) and found.epochs[1].valid_mae is None
    assert (found.variance.kept, found.variance.samples) == (0.75, 50)
    assert found.variance.ratios == (0.5, 0.25, 0.2, 0.05)
    one = found.score("coarse", "validate")
    assert (one.micro_auprc, one.micro_f1, one.macro_auprc) == (0.5, 0.25, 0.125)
    assert one.recordings == 20
    assert one.intervals == {"micro_auprc": (0.4, 0.6)} and one.confidence == 0.95
    assert (one.method, one.resamples) == ("dice", 300)
    engine, dog = one.curves
    assert (engine.recall, engine.precision) == ((0.0, 1.0), (1.0, 0.5))
    assert (engine.auprc, engine.prevalence, engine.interval) == (0.75, 0.2, (0.7, 0.8))
    assert (dog.recall, dog.prevalence, dog.interval) == ((), 0.05, None)
    assert (found.model_file, found.model_bytes) == ("model_best.h5", 321)


def test_sizes_are_those_of_the_poster(artifacts):
    teacher, student = collect("r", artifacts, steps()).networks
    assert (teacher.parameters, teacher.activation_bytes) == (4_689_860, 256 * 199 * 64 * 4)
    assert (student.parameters, student.activation_bytes) == (584_420, 409_600)
    assert round(student.float32_mb, 3) == 2.338 and student.int8_bytes == 584_420
    assert student.input == "8,000 Hz, 64 mels"


def test_steps_get_time_and_fingerprint(artifacts):
    by_name = {step.name: step for step in collect("r", artifacts, steps()).steps}
    assert by_name["extract"].seconds == 7.5
    assert by_name["extract"].fingerprint == "0" * 16
    assert by_name["sample"].seconds is None


def test_a_step_may_have_another_name_than_its_kind(artifacts):
    artifacts["student"] = artifacts.pop("train")
    chain = [StepFacts("student", kind="train")]
    found = collect("r", artifacts, chain)
    assert found.networks[1].emb_dim == 128 and found.steps[0].seconds == 2.5


def test_provenance_tells_what_decided_the_numbers(artifacts):
    told = dict(collect("r", artifacts, steps(), extra=[("command", "l3hpc demo")]).provenance)
    assert told["command"] == "l3hpc demo" and told["teacher's digest"] == "untrained-7"
    assert told["numpy"] == "2.0" and told["peak memory of a task"] == "1,500 MB"
    assert "train 7" in told["seeds"]


def test_a_run_without_a_training_shows_the_curves_of_its_classifier(artifacts):
    for level, loss in (("fine", 0.75), ("coarse", 0.25)):
        (artifacts["classify"] / "0000").mkdir(parents=True, exist_ok=True)
        (artifacts["classify"] / f"0000/history_{level}.csv").write_text(
            f"epoch,loss,val_loss\n1,1.0,0.5\n2,0.5,{loss}\n")
    (artifacts["classify"] / "0000/result.json").write_text("{}")
    assert collect("r", artifacts, steps()).epochs[0].loss == 2.0  # those of the student
    del artifacts["train"]
    (artifacts["evaluate"] / "0000/history.csv").write_text("somebody's own\n")
    found = collect("r", artifacts, steps())
    assert [epoch.valid_loss for epoch in found.epochs] == [0.5, 0.25]
    text = page(found)
    assert "Loss of classify, history_coarse.csv." in text and "Mean squared error" not in text


def test_unfinished_and_missing_parts_stay_empty(tmp_path):
    (tmp_path / "train" / "0000").mkdir(parents=True)
    found = collect("r", {"train": tmp_path / "train", "fit": tmp_path / "nowhere"}, steps()[:1])
    assert found.epochs == () and found.variance is None and found.networks == ()
    assert "Not in this run: a training" in page(found)


def test_published_evaluation_files_without_splits(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"fine": NUMBERS, "coarse": NUMBERS}))
    assert [(one.level, one.split) for one in read_scores(tmp_path)] == [
        ("coarse", "validate"), ("fine", "validate")]


LEVEL = {
    **NUMBERS, "spread": {"micro_auprc": 0.01, "class_auprc": {}},
    "calibration": {"brier": 0.1, "reference": 0.2, "error": 0.05, "pairs": 9, "tags": {
        "8_dog": {"brier": 0.3, "reference": None, "error": None}},
                    "reliability": [{"low": 0.0, "high": 1.0, "pairs": 9, "predicted": 0.25,
                                     "observed": 0.5}]},
    "sensors": {"3": {"clips": 2, "positives": 1, "micro_auprc": None}},
    "detection": {"micro_f1": 0.7, "macro_f1": 0.6, "micro_f1_at_half": 0.5,
                  "macro_f1_at_half": None, "tags": {"8_dog": {
                      "threshold": 0.25, "chosen": True, "positives": 2, "precision": None,
                      "recall": 0.5, "f1": 0.5, "f1_at_half": None}}}}


def test_thresholds_calibration_and_sensors_are_found(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"test": {"coarse": LEVEL}, "seeds": {"0": {}, "1": {}}}))
    [one] = read_scores(tmp_path)
    assert (one.seeds, one.spread) == (2, {"micro_auprc": 0.01})
    found = one.detection
    assert found.calibration == Calibration(
        0.1, 0.2, 0.05, (Bin(0.0, 1.0, 9, 0.25, 0.5),), {"8_dog": Calibration(0.3, None, None)})
    assert found.tags == (Detected("8_dog", 0.25, True, 2, None, 0.5, 0.5, None),)
    assert (found.micro_f1, found.macro_f1_at_half) == (0.7, None)
    assert found.sensors == (SensorScore("3", 2, 1, None),)
    path.write_text(json.dumps({"test": {"coarse": {**LEVEL, "sensors": [3]}}}))
    with pytest.raises(InputError, match=r"evaluation.json: evaluation.sensors cannot be"):
        read_scores(tmp_path)


def test_broken_files_are_refused_with_their_place(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n0,1.0\n1,abc\n")
    with pytest.raises(InputError, match=r"history.csv:3: 'abc' is not a number"):
        read_epochs(tmp_path / "history.csv")
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(InputError, match="not the files of an evaluation"):
        read_scores(tmp_path)


@pytest.mark.parametrize(("file", "text", "said", "empty"), [
    ("train/0000/history.csv", "epoch,loss\n0,1.0\n1,abc\n",
     "The training history is not shown. {}:3: 'abc' is not a number", "epochs"),
    ("fit/0000/phi.h5", "no HDF5", "The explained variance is not shown. {}: ", "variance"),
    ("evaluate/0000/evaluation.json", "[]", "The evaluation is not shown. {}: ", "scores"),
    ("evaluate/0000/evaluation.json", '{"validate": {"coarse": {"class_auprc": 3}}}',
     "The evaluation is not shown: is not of the expected form (AttributeError", "scores"),
    ("extract/0001/result.json", "{", "A result of step 'extract' is not shown. {}:1: ", ""),
    ("extract/0001/result.json", '{"summary": 3}', "", ""),
    ("train/config.json", "[]", "The networks of a step are not shown. ", "")])
def test_a_damaged_file_costs_its_own_part_of_the_page_alone(artifacts, file, text, said, empty):
    kind, _, rest = file.partition("/")
    path = artifacts[kind] / rest
    path.write_text(text)
    found = collect("r", artifacts, steps())
    shown = page(found)
    where = path.parent if text == "[]" and kind == "evaluate" else path
    assert any(note.startswith(said.format(where)) for note in found.notes) == bool(said)
    assert said.replace("{", "'").split("'")[0] in shown
    assert [name for name in ("epochs", "variance", "scores") if not getattr(found, name)] == (
        [empty] if empty else [])
    assert {step.name for step in found.steps} == set(CHAIN)


def test_ledger_rows_of_this_run_and_of_reused_results(artifacts, tmp_path):
    workspace = tmp_path / "workspace"
    link = workspace / "runs" / "old" / "artifacts" / "train"
    link.parent.mkdir(parents=True)
    link.symlink_to(artifacts["train"])
    journal = Journal(workspace / "ledger" / "journal", labels={"username": "ada", "run": "old"})
    journal.record("embedding_approx_mse", {"model_dir": str(link), "best_validation_loss": 0.5})
    journal.record("embedding_approx_mse", {"model_dir": "/elsewhere", "learning_rate": 1.0})
    circle = tmp_path / "circle"
    circle.symlink_to(circle)  # of somebody else in the group
    journal.record("embedding_approx_mse", {"model_dir": str(circle / "train")})
    assert comparison.rows_by_artifact(workspace)
    (row,) = collect("new", artifacts, steps(), workspace=workspace).ledger
    cells = dict(row.cells)
    assert row.tab == "embedding_approx_mse" and len(row.cells) == 28
    assert cells["Username"] == "ada" and cells["Best Valid Loss"] == "0.5000"
    own = Journal(workspace / "ledger" / "journal", labels={"username": "bob", "run": "new"})
    own.record("embedding_approx_mse", {"model_dir": "/w/runs/new/artifacts/train"})
    (row,) = collect("new", artifacts, steps(), workspace=workspace).ledger
    assert dict(row.cells)["Username"] == "bob"


def test_every_row_of_a_run_is_told_and_kept(artifacts, tmp_path):
    workspace = tmp_path / "workspace"
    old = Journal(workspace / "ledger" / "journal", labels={"run": "old", "output_dir": "/o"})
    new = Journal(workspace / "ledger" / "journal", labels={"run": "new", "output_dir": "/o"})
    for journal, name in ((new, "new-fine"), (new, "new-coarse"), (old, "old-fine")):
        journal.record("sonyc_ust", {"exp_id": name, "label_mode": name[4:]})
    for fold in (2, 1):
        new.record("classifier", {"model_dir": f"/m/fold{fold}", "fold_num": fold})
    found = collect("new", artifacts, steps(), workspace=workspace)
    assert [(row.tab, dict(row.cells).get("Exp. ID", dict(row.cells).get("Fold Num")))
            for row in found.ledger] == [
        ("classifier", "1"), ("classifier", "2"),
        ("sonyc_ust", "new-coarse"), ("sonyc_ust", "new-fine")]
    shown = page(found)
    assert "new-coarse" in shown and "new-fine" in shown and "old-fine" not in shown
    write_results(tmp_path / "results", found, artifacts)
    lines = (tmp_path / "results" / "ledger" / "sonyc_ust.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("Username,")
    assert "new-coarse" in lines[1] and "new-fine" in lines[2]
    assert len((tmp_path / "results" / "ledger" / "classifier.csv").read_text().splitlines()) == 3


def test_results_folder(artifacts, tmp_path, report_data):
    target = tmp_path / "results"
    place = write_results(target, report_data, artifacts)
    assert place == target / "report.html" and place.read_text() == page(report_data)
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == [
        "evaluate/curves.json", "evaluate/evaluation.json", "fit/phi.h5",
        "ledger/embedding_approx_mse.csv", "report.html", "summary.json", "train/history.csv",
        "train/model_best.h5", "train/model_latest.h5"]
    assert json.loads((target / "summary.json").read_text())["scores"][0]["micro_auprc"] == 0.5432
    (target / "old.txt").write_text("of an earlier run")
    write_results(target, report_data, {})
    assert sorted(path.name for path in target.iterdir()) == ["ledger", "report.html",
                                                              "summary.json"]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_results_never_replace_a_foreign_folder(tmp_path, report_data):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear")
    with pytest.raises(InputError, match="is not a results folder"):
        write_results(tmp_path / "thesis", report_data, {})
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "dear"


def test_folds_are_one_table_with_their_mean(tmp_path):
    journal = Journal(tmp_path / "ledger" / "journal", labels={"run": "r"})
    for fold, accuracy in ((1, 0.5), (2, 1.0)):
        journal.record("classifier", {
            "model_dir": f"{tmp_path}/runs/r/artifacts/folds/{fold - 1:04d}", "fold_num": fold,
            "model_type": "svm", "C": fold, "test_acc": accuracy, "train_acc": 1.0})
    journal.close()
    found = collect("r", {}, (), workspace=tmp_path)
    [table] = found.folds
    assert dict(table.common)["Model Type"] == "svm"
    assert table.titles == ("C", "Train Acc", "Test Acc")
    assert table.rows == (("1", "1", "1", "0.5000"), ("2", "2", "1", "1"),
                          ("mean", "–", "1 ± 0", "0.7500 ± 0.3536"))
    assert len(found.ledger) == 2 and all(row.in_folds for row in found.ledger)
    text = page(found)
    assert text.count("<h3>classifier</h3>") == 1 and "0.7500 ± 0.3536" in text


def test_values_that_are_no_numbers_become_null(artifacts, tmp_path):
    found = collect("r", artifacts, steps())
    write_results(tmp_path / "results", found, artifacts)
    kept = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert kept["epochs"][1]["valid_loss"] is None


def test_ledger_csv_holds_no_formulas(report_data):
    from l3hpc.report.ledger_rows import LedgerRow

    text = csv_text([LedgerRow("tab", (
        ("Run", "=HYPERLINK(1)"), ("Loss", "-0.5"), ("Note", "-1+cmd|x"), ("Path", "-")))])
    assert text == "Run,Loss,Note,Path\r\n'=HYPERLINK(1),-0.5,'-1+cmd|x,-\r\n"


@pytest.mark.parametrize("epoch", ["1e999", "nan", "-1", "0.5", "", "1e12", "first"])
def test_an_epoch_that_is_no_count_is_named(tmp_path, epoch):
    (tmp_path / "history.csv").write_text(f"epoch,loss\n0,1.0\n{epoch},0.5\n")
    with pytest.raises(InputError, match="history.csv:3: "):
        read_epochs(tmp_path / "history.csv")


RANDOM = {"kind": "untrained", "label": "untrained L3", "digest": "untrained-7",
          "random_weights": True}


def embedded(artifact, network):
    """An artifact of the step embed."""
    with h5py.File(task(artifact, summary={"recordings": 1}) / "embeddings.h5", "w") as file:
        file["l3_embedding"] = np.zeros((2, 4), np.float32)
        file.attrs["teacher"] = json.dumps(network)


@pytest.mark.parametrize(("own", "network", "line"), [
    (True, RANDOM, "teacher: untrained L3"), (False, RANDOM, "teacher: untrained L3"),
    (True, {**RANDOM, "kind": "l3hpc", "label": "student.h5", "target": {"key": "pca"}},
     "student: student.h5"),
    (True, {**RANDOM, "kind": "l3hpc", "label": "student of a.h5: 4-d", "target": {"key": "pca"}},
     "<p class=\"lead\">run r · student of a.h5: 4-d<")])
def test_a_run_without_a_teacher_of_its_own_says_that_the_weights_are_random(
        own, network, line, tmp_path):
    folders = {"embed": tmp_path / "embed/0", "classify": tmp_path / "classify/0"}
    embedded(folders["embed"], network)
    task(folders["classify"])
    (folders["classify"] / "config.json").write_text(json.dumps(
        {"params": {}, "inputs": {"embed": str(folders["embed"])}}))
    if not own:  # embeddings of an earlier run
        del folders["embed"]
    found = collect("r", folders, [StepFacts(kind) for kind in folders])
    text = page(found)
    assert not found.teacher_trained and RANDOM_TEACHER in text and line in text
    trained = tmp_path / "trained/0"
    embedded(trained, {**RANDOM, "kind": "openl3", "random_weights": False})
    assert collect("r", {"embed": trained}, [StepFacts("embed")]).teacher_trained
