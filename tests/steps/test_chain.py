"""All eight steps in a row, for real, on a small city: what one writes the next one understands."""

import csv
import json

import h5py
import numpy as np
import pytest

from l3hpc.datasets.clips import load_clips
from l3hpc.ledger.schema import find_tab
from l3hpc.models.weights import RANDOM_WEIGHTS
from l3hpc.reduction.phi import load_phi


@pytest.mark.slow
def test_from_audio_to_a_row_of_the_ledger(city, teacher, runner):
    extract = runner.run("extract", {"audio": city / "audio", "weights": str(teacher),
                                     "files_per_task": 5})
    assert len(extract.results) == 3
    rows = sum(result["rows"] for result in extract.results)
    assert extract.text == f"{rows} rows of 12 recordings"

    sample = runner.run("sample", {"samples": 40})
    assert len(sample.results) == 2
    assert "in the diverse part" in sample.text

    fit = runner.run("fit", {"emb_dim": 8})
    assert fit.text.endswith("% of variance in 8 dimensions")
    assert 0 < fit.results[0]["explained_variance"] <= 1

    reduce = runner.run("reduce")
    assert len(reduce.results) == len(extract.results)
    assert sum(result["rows"] for result in reduce.results) == rows
    key = reduce.results[0]["key"]
    assert key.startswith("pca_batch_") and key.endswith("_len_8_kernel_linear")
    with h5py.File(reduce.folder / "0000/reduced.h5") as file:
        assert file[key].shape == (extract.results[0]["rows"], 8)

    train = runner.run("train", {
        "emb_dim": 8, "filters": (4, 4, 4, 4, 8, 8, 8, 8), "mels": 32, "hop": 320, "dft": 512,
        "epochs": 3, "learning_rate": 1e-2, "batch_size": 16, "deterministic": False})
    assert train.results[0]["rows"] == rows
    assert train.results[0]["epochs"] == 3
    with open(train.folder / "0000/history.csv") as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    assert losses[-1] < losses[0]

    embed = runner.run("embed", {"sonyc_ust": city / "sonyc_ust", "npz": True})
    clip = sorted((embed.folder / "0000/npz").glob("*.npz"))[0]
    with np.load(clip) as file:
        assert file["embedding"].shape[1] == 8
        np.testing.assert_allclose(np.diff(file["timestamps"]), 0.1)

    classify = runner.run("classify", {"sonyc_ust": city / "sonyc_ust", "epochs": 3,
                                       "level": "both", "learning_rate": 1e-2})
    evaluate = runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 20})
    content = json.loads((evaluate.folder / "0000/evaluation.json").read_text())
    assert set(content) == {"coarse", "fine", "split", "validate", "test"}
    assert set(content["coarse"]) == {"micro_auprc", "micro_f1", "macro_auprc", "class_auprc"}
    assert content["coarse"]["micro_auprc"] == content["validate"]["coarse"]["micro_auprc"]
    low, high = content["test"]["coarse"]["confidence"]["micro_auprc"]
    assert 0 <= low <= high <= 1
    assert classify.text.startswith("mil, coarse: best epoch")

    _check_ledger(runner.records.rows, key)
    _check_bound(city, teacher, runner)


def _check_bound(city, teacher, runner):
    """The teacher's embeddings through φ, judged like the student's."""
    student = next(row for tab, row, _ in runner.records.rows if tab == "sonyc_ust")
    raw = runner.run("embed", {"sonyc_ust": city / "sonyc_ust", "student": str(teacher)}, {},
                     artifact="teacher").folder
    file = runner.artifact("fit") / "0000/phi.h5"
    classify = runner.run("classify", {"sonyc_ust": city / "sonyc_ust", "epochs": 1, "phi": file},
                          {"embed": raw}, artifact="bound")
    assert classify.results[0]["dim"] == 8
    phi = load_phi(file)
    names = [path.name for path in sorted((city / "sonyc_ust/audio").iterdir())]
    reduced = load_clips(raw, names, transform=phi.transform).x
    for clip, rows in zip(reduced, load_clips(raw, names).x, strict=True):
        np.testing.assert_allclose(clip, phi.transform(rows), rtol=1e-5, atol=1e-5)
    kept = json.loads((classify.folder / "0000/hyper_params.json").read_text())
    assert kept["reduction"]["digest"] == phi.digest
    assert kept["reduction"]["sampled"] == {"method": "dpp", "timescale": "day",
                                            "audio": str(city / "audio"), "sensor": None}
    runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 0},
               {"classify": classify.folder}, artifact="bound-scores")
    (tab, row, _), (other, approximated, _) = runner.records.rows[-2:]
    assert (tab, other) == ("sonyc_ust", "emb_approx_sonyc_ust")
    assert (approximated["model_type"], approximated["bound_of"]) == ("PCA", phi.digest)
    assert row["model_type"].startswith("teacher.h5: ")
    assert row["model_type"].endswith(" (teacher, PCA 8-d)")
    assert row["bound_of"] == student["target"] == phi.digest


def _check_ledger(records, key):
    approximated = [values for name, values, _ in records if name == "emb_approx_sonyc_ust"]
    assert [row["exp_id"] for row in approximated] == ["exp-coarse", "exp-fine"]
    for row in approximated:
        assert {*find_tab("emb_approx_sonyc_ust").fields, "note", "state", "target"} == set(row)
        assert {name: row[name] for name in (
            "model_type", "emb_dim", "kernel", "n_neighbors", "min_dist", "metric",
            "sampling_type", "timescale", "n_training_points", "aggregation_type")} == {
            "model_type": "PCA", "emb_dim": 8, "kernel": "linear", "n_neighbors": "-",
            "min_dist": "-", "metric": "-", "sampling_type": "dpp", "timescale": "day",
            "n_training_points": int(key.split("_")[2]), "aggregation_type": "combined"}
        assert row["upstream_data"].endswith("/audio")
    for tab, more in (("embedding_approx_mse", set()), ("sonyc_ust", {"target"})):
        fields = {*find_tab(tab).fields, "note", "state", *more}
        rows = [values for name, values, _ in records if name == tab]
        assert fields == set().union(*rows), tab
        assert {row["note"] for row in rows} == {RANDOM_WEIGHTS}, tab
        assert rows[-1]["state"] == "finished"
    training = [(values, epoch) for name, values, epoch in records
                if name == "embedding_approx_mse"]
    assert [epoch for _, epoch in training] == [None, 0, 1, 2, 2]
    last = training[-1][0]
    assert last["emb_key"] == key
    assert last["student_emb_len"] == 8
    assert last["latest_epoch"] == 2
    assert last["best_validation_loss"] == min(
        values["latest_validation_loss"] for values, epoch in training if epoch is not None)
    scores = {values["exp_id"]: values for name, values, _ in records if name == "sonyc_ust"}
    assert set(scores) == {"exp-coarse", "exp-fine"}
    assert scores["exp-coarse"]["label_mode"] == "coarse"
    assert 0 <= scores["exp-fine"]["micro_auprc"] <= 1
