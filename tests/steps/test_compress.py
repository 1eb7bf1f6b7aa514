"""The compression steps on a small city: what one writes the next one understands."""

import csv
import json

import numpy as np
import pytest

from l3hpc import steps
from l3hpc.compression import pruning
from l3hpc.errors import InputError
from l3hpc.ledger.schema import find_tab
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import RANDOM_WEIGHTS, load_parameters, save

SPEC = NetworkSpec(rate=4000, n_mels=16, hop=200, n_dft=512, filters=(4, 4, 4, 4, 8, 8, 8, 8))
SHORT = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "deterministic": False}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A teacher with random weights (labelled so), as the audio branch of a tiny AVC network."""
    from l3hpc.avc.batches import write_batch
    from l3hpc.avc.network import build_avc
    from l3hpc.avc.vision import VisionSpec

    folder = tmp_path_factory.mktemp("small")
    network = untrained(SPEC, 1)
    save(network, folder / "teacher.h5", {"teacher": {"random_weights": True}})
    build_avc(network, VisionSpec(16, (4,) * 8), seed=2).save(folder / "avc.h5")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validate", 12)):
        write_batch(folder / "scenes" / f"{split}_0.h5", (
            (rng.integers(-9999, 9999, 4000).astype(np.int16),
             rng.integers(0, 255, (16, 16, 3)).astype(np.uint8), number % 2)
            for number in range(count)), count)
    return folder


@pytest.mark.slow
def test_from_a_teacher_to_the_report(city, small, runner, eager):
    teacher, audio = str(small / "teacher.h5"), city / "audio"
    judged = {"weights": teacher, "audio": audio, "windows": 12, "engine": "tensorflow"}
    scan = runner.run("sensitivity", {**judged, "sparsities": (70, 95), "points_per_task": 9})
    assert [len(result["points"]) for result in scan.results] == [9, 7]
    assert scan.text.startswith("16 points; most sensitive: ")
    told = json.loads((scan.folder / "0001/sensitivity.json").read_text())
    assert told["judge"] == "embedding" and "unpruned teacher" in told["words"]
    assert told["unpruned"]["mse"] == 0 and told["note"] == RANDOM_WEIGHTS

    prune = runner.run("prune", {"weights": teacher, "plans": "edgel3 none"})
    assert [result["plan"] for result in prune.results] == ["95.45", "none"]
    network, info = load_parameters(prune.folder / "0000/network.h5")
    assert info.random_weights
    expected = pruning.prune(untrained(SPEC, 1), (0, 85, 85, 85, 75, 95, 98, 98))
    for mine, its in zip(expected.layers, network.layers, strict=True):
        for array, same in zip(mine, its, strict=True):
            np.testing.assert_array_equal(array, same)

    runner.run("extract", {"audio": audio, "weights": teacher, "hop": 1.0})
    distill = runner.run("distill", SHORT)
    assert [result["plan"] for result in distill.results] == ["95.45", "none"]
    kept = load_parameters(distill.folder / "0000/model_best_valid_loss.h5")[0]
    for mask, kernel in zip(pruning.nonzero_masks(network), pruning.kernels(kept), strict=True):
        np.testing.assert_array_equal(kernel[~mask], 0)
    assert distill.results[0]["non_zero"] == distill.results[0]["non_zero_before"]

    finetune = runner.run("finetune", {**SHORT, "avc": small / "avc.h5", "scenes":
                                       small / "scenes"}, shards=[{"part": 0, "plan": "edgel3"}])
    assert finetune.results[0]["non_zero"] == distill.results[0]["non_zero"]
    with open(finetune.folder / "0000/history.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy",
                             "learning_rate"]
    assert max(float(row["val_accuracy"]) for row in rows) == pytest.approx(
        finetune.results[0]["best_validation_accuracy"])

    compare = runner.run("compare", {**judged, "avc": small / "avc.h5",
                                     "scenes": small / "scenes", "pairs": 12})
    report = json.loads((compare.folder / "0000/report.json").read_text())
    assert [(row["made_by"], row["plan"]) for row in report["networks"]] == [
        ("teacher", "none"), ("prune", "95.45"), ("prune", "none"), ("distill", "95.45"),
        ("distill", "none"), ("finetune", "95.45")]
    assert report["networks"][0]["mse"] == 0 == report["networks"][2]["mse"]
    assert report["networks"][1]["mse"] > 0
    assert all(0 <= row["accuracy"] <= 1 for row in report["networks"])
    assert len(report["sensitivity"]["points"]) == 16
    assert len(report["published"]) == 11
    text = (compare.folder / "0000/report.md").read_text()
    assert "| 95.45 | 0 85 85 85 75 95 98 98 | 213,491 | 0.814 | 95.45 |" in text
    assert RANDOM_WEIGHTS in text and "| audio_embedding_layer |" in text
    assert compare.text.startswith("5 networks; smallest (prune 95.45): ")
    for name, made in (("sensitivity", scan), ("distill", distill), ("finetune", finetune)):
        said = steps.summary_text(steps.step(name), made.results)
        assert said == f"{made.text}, random-weight teacher"
    _check_ledger(runner.records.rows)


def _check_ledger(records):
    tab = find_tab("prunedembedding")
    assert {name for name, _, _ in records} == {"prunedembedding"}
    rows = {}
    for _, values, epoch in records:
        assert set(values) <= {*tab.fields, "note", "state"}
        assert values["note"] == RANDOM_WEIGHTS
        rows.setdefault((values["model_id"], values["model_dir"]), []).append((values, epoch))
    assert set(rows) == {("distill-95.45", "model/0000"), ("distill-none", "model/0001"),
                         ("finetune-95.45", "model/0000")}
    for (step, _), told in rows.items():
        assert [epoch for _, epoch in told] == [None, 0, 1, 1]
        last = told[-1][0]
        assert last["state"] == "finished" and last["latest_epoch"] == 1
        assert last["finetune"] == step.startswith("finetune") != last["knowledge_distilled"]
        assert last["pruning"] == step.endswith("95.45")
        assert ("best_validation_acc" in last) == step.startswith("finetune")
        assert last["num_filters"] == "4, 4, 4, 4, 8, 8, 8, 8" and last["include_layers"] == "8"
    assert set(tab.fields) == set().union(*(told[-1][0] for told in rows.values())) - {
        "note", "state"}


def test_a_scan_judged_by_correspondence_says_so(city, small, runner):
    scan = runner.run("sensitivity", {
        "weights": str(small / "teacher.h5"), "audio": city / "audio", "sparsities": (95,),
        "points_per_task": 8, "avc": small / "avc.h5", "scenes": small / "scenes",
        "engine": "tensorflow"})
    told = json.loads((scan.folder / "0000/sensitivity.json").read_text())
    assert told["judge"] == "correspondence" and "correspondence" in told["words"]
    assert told["unpruned"]["pairs"] == 12
    assert all(row["accuracy"] * 12 == pytest.approx(round(row["accuracy"] * 12))
               for row in told["points"])


def test_a_cut_network_learns_the_reduced_teacher(city, small, runner, eager):
    teacher = str(small / "teacher.h5")
    runner.run("prune", {"weights": teacher, "plans": ("none",), "depth": 7,
                         "filters": (4, 4, 4, 4, 8, 8, 6)})
    runner.run("extract", {"audio": city / "audio", "weights": teacher, "hop": 1.5})
    with pytest.raises(InputError, match="targets have 8 dimensions, the network 6"):
        runner.run("distill", SHORT)
    runner.run("fit", {"emb_dim": 6}, {"sample": runner.artifact("extract")})
    runner.run("reduce")
    (runner.folder / "artifacts/distill/0000").rmdir()
    done = runner.run("distill", SHORT)
    assert done.results[0]["approx"] == "pca" and done.results[0]["plan"] == "none"
    compare = runner.run("compare", {"weights": teacher, "audio": city / "audio", "windows": 4,
                                     "engine": "tensorflow"})
    report = json.loads((compare.folder / "0000/report.json").read_text())
    assert [row.get("mse") for row in report["networks"]] == [0, None, None]
    assert report["left_out"][0] == ("prune, none: 6 values cannot be compared with the teacher's "
                                     "8.")


def refusal(name, params, **others):
    module = steps.step(name)
    typed = {kind: steps.step(kind).params_type(**values) for kind, values in others.items()}
    with pytest.raises(InputError) as refused:
        module.check(module.params_type(**params), typed)
    return str(refused.value)


def test_what_is_refused_before_anything_runs(city, small, tmp_path):
    teacher, audio = str(small / "teacher.h5"), city / "audio"
    cut = {"weights": teacher, "depth": 6, "plans": ("none",)}
    said = refusal("prune", {**cut, "plans": ("edgel3",)})
    assert "prune.plans: the plan 'edgel3' is for 8 convolutions, the network has 6" in said
    assert "7 filter counts for 6" in refusal("prune", {**cut, "filters": (4,) * 7})
    assert "9 filters of 8 in conv_5" in refusal("prune", {**cut, "filters": (4,) * 4 + (9, 8)})
    wide = {"weights": teacher, "filters": (4, 4, 4, 4, 8, 8, 8, 4)}
    refused = refusal("distill", {}, prune=wide, extract={"audio": audio, "weights": teacher})
    assert "gives 4 values, its target 8\nuse φ(teacher) as the target: --approx pca" in refused
    judged = {"weights": teacher, "audio": audio}
    assert "both a network and pairs" in refusal("sensitivity", {**judged, "avc": small / "avc.h5"})
    assert "no such file" in refusal(
        "compare", {**judged, "avc": tmp_path / "x.h5", "scenes": small / "scenes"})
    assert "one teacher for both" in refusal("compare", judged, prune={"weights": "untrained"})
    assert "needs a correspondence network" in refusal("finetune", {})
    other = NetworkSpec(**{**SPEC.to_dict(), "n_mels": 32})
    save(untrained(other, 1), tmp_path / "other.h5")
    scenes = {"avc": small / "avc.h5", "scenes": small / "scenes"}
    assert "(4000 Hz, 32 mels, 'student' with relu) cannot replace the audio branch" in \
        refusal("finetune", scenes, prune={"weights": str(tmp_path / "other.h5")})


def test_pairs_that_cannot_be_used_are_refused_before_anything_runs(city, small, tmp_path):
    from l3hpc.avc.batches import write_batch

    judged = {"weights": str(small / "teacher.h5"), "audio": city / "audio",
              "avc": small / "avc.h5"}
    # a folder of videos, or of recordings, in place of the pairs cut from them
    for scenes in (city / "audio", tmp_path / "missing"):
        for name, params in (("sensitivity", judged), ("compare", judged),
                             ("finetune", {"avc": judged["avc"]})):
            said = refusal(name, {**params, "scenes": scenes})
            assert str(scenes) in said and "artifacts/avc_pairs" in said
    said = refusal("compare", {**judged, "scenes": small / "scenes", "split": "test"})
    assert "holds no pairs for 'test'" in said
    write_batch(tmp_path / "large/validate_0.h5", [
        (np.zeros(4000, np.int16), np.zeros((32, 32, 3), np.uint8), 0)], 1)
    said = refusal("compare", {**judged, "scenes": tmp_path / "large"})
    assert "compare.scenes: the images have 32 × 32 pixels" in said
    assert "16 × 16, as avc.h5 takes them" in said
    said = refusal("compare", {**judged, "scenes": small / "scenes",
                               "avc": small / "teacher.h5"})
    assert "is not a whole audio-visual network\navc_best_valid_loss.h5 of avc_train" in said


def test_an_embedding_without_the_last_normalisation_is_fine_tuned_inside(
        small, runner, eager):
    """Published ends: teacher and result stop at the last convolution, training goes on behind."""
    bare = NetworkSpec(**{**SPEC.to_dict(), "tail": "embedding"})
    save(untrained(bare, 1), runner.folder / "bare.h5")
    runner.run("prune", {"weights": str(runner.folder / "bare.h5")})
    done = runner.run("finetune", {**SHORT, "epochs": 1, "avc": small / "avc.h5",
                                   "scenes": small / "scenes"})
    network, info = load_parameters(done.folder / "0000/model_best_valid_acc.h5")
    assert info.spec == bare and not done.results[0]["fresh_head"]
    assert done.results[0]["non_zero"] == sum(
        int((kernel != 0).sum()) for kernel in pruning.kernels(network))


def test_the_published_recipe_and_its_exceptions():
    for name in ("distill", "finetune"):
        params = steps.step(name).params_type(recipe="published", epochs=7)
        assert (params.epochs, params.learning_rate, params.epoch_size) == (7, 1e-5, 4096)
        assert params.validation_epoch_size == 1024 and params.seed == 20180216
