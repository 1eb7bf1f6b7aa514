"""Training on published folders, embeddings of any folder, scores of anyone's predictions."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import submitit  # noqa: F401  before TensorFlow, as in a job: it sets up logging when imported

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.models.weights import describe_weights
from l3hpc.steps.task import Preemption, Task

RATE = 2000
STUDENT = {"asr": RATE, "mels": 16, "dft": 256, "hop": 100, "emb_dim": 3,
           "filters": (4, 4, 4, 4, 4, 4, 3, 3), "epochs": 2, "batch_size": 8,
           "deterministic": False}
KEY = "pca_batch_9_len_3_kernel_linear"


@pytest.fixture
def published(tmp_path):
    """Published layout: audio/{train,validate}/x.h5 and reduced/{train,validate}/x.h5."""
    rng = np.random.default_rng(0)
    for split, rows in (("train", 20), ("validate", 6)):
        for kind in ("audio", "reduced"):
            (tmp_path / kind / split).mkdir(parents=True)
        with h5py.File(tmp_path / "audio" / split / "x.h5", "w") as file:
            file["audio"] = rng.normal(size=(rows, RATE)) * 0.1
        with h5py.File(tmp_path / "reduced" / split / "x.h5", "w") as file:
            file[KEY] = rng.normal(size=(rows, 3))
    return tmp_path


def test_published_folders_are_taken_as_they_are(runner, published, eager):
    done = runner.run("train", {**STUDENT, "audio_dir": published / "audio", "tensorboard": True},
                      {"reduce": published / "reduced"})
    result = done.results[0]
    assert (result["train_rows"], result["validation_rows"]) == (20, 6)
    assert result["target"] == KEY
    assert (result["approx"], result["learning_rate"]) == ("pca", 1e-3)
    spec = describe_weights(done.folder / "0000" / result["model"]).spec
    assert (spec.rate, spec.dim, spec.head) == (RATE, 3, "linear")
    row = runner.records.rows[-1][1]
    assert row["train_data_dir"] == str(published / "audio/train")
    assert row["reduced_emb_valid_dir"] == str(published / "reduced/validate")
    assert row["model_dir"] == "model"
    assert (row["train_epoch_size"], row["validation_epoch_size"]) == (3, 1)
    assert done.text.startswith("2 epochs, best validation loss ")
    events = b"".join(path.read_bytes() for path in (done.folder / "0000/tensorboard").iterdir())
    assert events.count(b"val_mean_absolute_error") == 2


def test_a_student_trained_by_pytorch(runner, published):
    pytest.importorskip("torch", reason="the engine torch needs PyTorch (extra torch)")
    done = runner.run("train", {**STUDENT, "engine": "torch", "precision": "bfloat16",
                                "tensorboard": True, "audio_dir": published / "audio"},
                      {"reduce": published / "reduced"})
    result = done.results[0]
    assert (result["engine"], result["precision"], result["epochs"]) == ("torch", "bfloat16", 2)
    assert describe_weights(done.folder / "0000" / result["model"]).spec.dim == 3
    assert json.loads((done.folder / "0000/student.json").read_text())["engine"] == "torch"
    events = b"".join(path.read_bytes() for path in (done.folder / "0000/tensorboard").iterdir())
    assert events.count(b"val_mean_absolute_error") == 2


def test_plans_name_the_engine_only_if_it_is_not_tensorflow():
    train = steps.step("train")
    plain = train.params_type(**STUDENT)
    stated = train.params_type(**STUDENT, engine="tensorflow", precision="float32")
    other = train.params_type(**STUDENT, engine="torch")
    assert plain.model_dump() == stated.model_dump()
    assert not {"engine", "precision"} & set(plain.model_dump())
    assert other.model_dump()["engine"] == "torch"
    assert "engine" not in train.not_in_fingerprint
    assert list(train.packages(other)) == ["torch"] and not train.packages(plain)


@pytest.mark.parametrize(("values", "where"), [
    ({"precision": "bfloat16"}, "train.precision"),
    ({"engine": "torch", "mixed_precision": True}, "train.mixed_precision")])
def test_a_precision_of_the_other_engine_is_refused(values, where):
    train = steps.step("train")
    params = train.params_type(**STUDENT, **values)
    with pytest.raises(InputError) as caught:
        train.check(params, {"train": params})
    assert where in str(caught.value)


def test_a_target_of_another_length_is_refused(runner, published):
    with pytest.raises(InputError, match="targets have 3 dimensions, the student 4"):
        runner.run("train", {**STUDENT, "emb_dim": 4, "filters": (4,) * 8,
                             "audio_dir": published / "audio"},
                   {"reduce": published / "reduced"})


def test_the_students_embeddings_of_any_folder(runner, published, tmp_path, eager):
    runner.run("train", {**STUDENT, "audio_dir": published / "audio"},
               {"reduce": published / "reduced"})
    folder = tmp_path / "songs"
    (folder / "deep").mkdir(parents=True)
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, 3 * RATE)
    soundfile.write(folder / "deep/a.flac", noise, RATE)
    soundfile.write(folder / "b.wav", noise[:RATE], RATE)
    done = runner.run("embed", {"audio": folder, "npz": True, "hop": 0.5, "files_per_task": 1})
    assert done.text == "2 recordings"
    with np.load(done.folder / "0001/npz/deep/a.npz") as file:
        assert file["embedding"].shape == (5, 3)
        np.testing.assert_array_equal(file["timestamps"], np.arange(5) * 0.5)


def test_an_annotated_clip_without_audio_is_skipped(runner, city, tmp_path, teacher):
    import shutil

    folder = tmp_path / "ust"
    shutil.copytree(city / "sonyc_ust", folder)
    gone = sorted((folder / "audio").glob("*.wav"))[3]
    gone.unlink()
    with pytest.raises(Exception, match=gone.name):
        runner.run("embed", {"sonyc_ust": folder, "student": str(teacher), "max_failed": 0.0,
                             "hop": 1.0})


def truth_as_predictions(city, split, path):
    """A predictions file that says exactly what the agreed annotators say."""
    from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
    from l3hpc.tagging import predictions
    from l3hpc.tagging.annotations import Annotations

    taxonomy = sonyc_ust_taxonomy()
    annotations = Annotations.load(city / "sonyc_ust/annotations.csv", taxonomy)
    files, fine, coarse = annotations.ground_truth(split)
    predictions.write(path, predictions.Predictions(
        files, fine.astype(float), coarse.astype(float)), taxonomy)


@pytest.mark.parametrize("split", ["validate", "test"])
def test_predictions_from_elsewhere(runner, city, tmp_path, split):
    truth_as_predictions(city, split, tmp_path / "p.csv")
    done = runner.run("evaluate", {
        "predictions": tmp_path / "p.csv", "split": split, "bootstrap": 0,
        "annotations": city / "sonyc_ust/annotations.csv",
        "taxonomy": next((city / "sonyc_ust").glob("*.yaml"))}, {})
    content = json.loads((done.folder / "0000/evaluation.json").read_text())
    assert content["split"] == split
    heard = [name for name, count in content[split]["coarse"]["class_positives"].items() if count]
    assert heard
    for name in heard:
        assert content["coarse"]["class_auprc"][name] == pytest.approx(1.0)
    assert content["coarse"]["micro_f1"] == pytest.approx(1.0)
    assert [values["label_mode"] for _, values, _ in runner.records.rows] == ["coarse"]
    assert done.text.endswith(f"({split})")


def test_predictions_of_categories_alone_say_nothing_of_fine_tags(runner, city, tmp_path):
    truth_as_predictions(city, "validate", tmp_path / "p.csv")
    with open(tmp_path / "p.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    fine = [place for place, name in enumerate(header) if "-" in name.split("_")[0]]
    assert len(fine) == 29
    with open(tmp_path / "p.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([header, *(
            ["0" if place in fine else cell for place, cell in enumerate(row)] for row in rows)])
    done = runner.run("evaluate", {
        "predictions": tmp_path / "p.csv", "bootstrap": 0,
        "annotations": city / "sonyc_ust/annotations.csv",
        "taxonomy": next((city / "sonyc_ust").glob("*.yaml"))}, {})
    told = json.loads((done.folder / "0000/evaluation.json").read_text())
    assert "fine" not in told and "fine" not in told["validate"]
    assert told["coarse"]["micro_f1"] == pytest.approx(1.0)


def test_what_is_strange_about_predictions_is_in_the_result(runner, city, tmp_path):
    truth_as_predictions(city, "validate", tmp_path / "p.csv")
    with open(tmp_path / "p.csv") as stream:
        rows = [[*row, "1" if number else "9_x"] for number, row in enumerate(csv.reader(stream))]
    with open(tmp_path / "p.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    done = runner.run("evaluate", {"predictions": tmp_path / "p.csv", "bootstrap": 0,
                                   "sonyc_ust": city / "sonyc_ust"}, {})
    unknown, constant = done.results[0]["warnings"]["validate"]
    assert unknown == "column '9_x' is not a tag of the taxonomy: ignored"
    assert constant.endswith("each has the same value for all 7 clips")


def test_nothing_to_evaluate(runner, city, tmp_path):
    with pytest.raises(InputError, match="no predictions"):
        runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust"}, {})
    module = steps.step("evaluate")
    with pytest.raises(InputError, match="contains no predictions"):
        module.run(module.params_type(sonyc_ust=city / "sonyc_ust"),
                   Task(tmp_path, tmp_path, {"classify": tmp_path}))


def test_embeddings_of_no_clip_are_refused(runner, city, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no embeddings of any of the 36 clips"):
        runner.run("classify", {"sonyc_ust": city / "sonyc_ust"}, {"embed": tmp_path / "empty"})


def test_framewise_classifier_on_published_npz_files(runner, city, tmp_path):
    with open(city / "sonyc_ust/annotations.csv") as stream:
        names = {row["audio_filename"] for row in csv.DictReader(stream)}
    rng = np.random.default_rng(0)
    for name in names:
        np.savez(tmp_path / f"{Path(name).stem}.npz",
                 embedding=rng.normal(size=(4, 5)).astype("f4"))
    done = runner.run("classify", {"sonyc_ust": city / "sonyc_ust", "model": "framewise",
                                   "epochs": 2, "hidden_layers": 1, "hidden_size": 4},
                      {"embed": tmp_path})
    files = {path.name for path in (done.folder / "0000").glob("predictions*.csv")}
    assert files == {f"predictions_coarse_{split}{pooling}.csv" for split in ("validate", "test")
                     for pooling in ("", "_max", "_softmax")}
    scored = runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 0})
    assert set(scored.results[0]["metrics"]) == {"validate", "test"}


def test_a_clip_without_embedding_is_predicted_as_nothing(runner, city, tmp_path):
    with open(city / "sonyc_ust/annotations.csv") as stream:
        rows = list(csv.DictReader(stream))
    agreed = {split: sorted({row["audio_filename"] for row in rows if row["split"] == split
                             and row["annotator_id"] == "0"}) for split in ("validate", "test")}
    gone = {agreed["validate"][0], *agreed["test"]}
    rng = np.random.default_rng(0)
    for name in {row["audio_filename"] for row in rows} - gone:
        np.savez(tmp_path / f"{Path(name).stem}.npz",
                 embedding=rng.normal(size=(4, 5)).astype("f4"))
    done = runner.run("classify", {"sonyc_ust": city / "sonyc_ust", "epochs": 1},
                      {"embed": tmp_path})
    assert done.results[0]["missing"] == len(gone)
    told = json.loads((done.folder / "0000/hyper_params.json").read_text())
    assert told["batch_size"] == 4
    with open(done.folder / "0000/predictions_coarse_validate.csv") as stream:
        predicted = {row.pop("audio_filename"): row for row in csv.DictReader(stream)}
    assert sorted(predicted) == agreed["validate"]
    assert set(predicted[agreed["validate"][0]].values()) == {"0"}
    assert float(predicted[agreed["validate"][1]]["1_engine"]) > 0
    assert not (done.folder / "0000/predictions_coarse_test.csv").exists()
    scored = runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 0})
    assert set(scored.results[0]["metrics"]) == {"validate"}


def test_preemption_calls_the_latest_registered_first():
    calls = []
    word = Preemption()
    with word.on_signal(lambda: calls.append("outer")):
        with word.on_signal(lambda: calls.append("inner")):
            word.save()
        word.save()
    word.save()
    assert calls == ["inner", "outer", "outer"]


def test_a_signal_from_the_scheduler_saves_the_running_task(tmp_path, monkeypatch, capsys):
    from l3hpc.io.files import write_json
    from l3hpc.steps.task import PREEMPTION
    from l3hpc.worker.execute import TaskCall

    config = tmp_path / "steps" / "train" / "config.json"
    write_json(config, {})
    calls = []

    def save():
        calls.append("saved")
        if len(calls) == 2:
            raise OSError("No space left on device")

    with PREEMPTION.on_signal(save):
        TaskCall(str(config), 0).checkpoint()
        TaskCall(str(config), 0).checkpoint()
    assert calls == ["saved", "saved"]
    assert "No space left on device" in capsys.readouterr().err
