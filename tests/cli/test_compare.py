"""Comparing two evaluations on the command line: runs, steps of sweeps, files, and refusals."""

import json

import judged
import pytest
from click.shell_completion import ShellComplete

from l3hpc.cli import cli
from l3hpc.io.files import write_json
from l3hpc.models.weights import RANDOM_WEIGHTS
from l3hpc.report.page import RANDOM_TEACHER
from l3hpc.steps import step, summary_text


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the data set ``data`` and two evaluations of it, ``weak-1`` and ``good-2``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("paths: {workspace: ws}\n")
    data = judged.sonyc_ust(tmp_path / "data")
    judged.downstream(tmp_path / "ws", "weak-1", data, [0.1], created=1)
    judged.downstream(tmp_path / "ws", "good-2", data, [0.6, 0.5], created=2)
    return tmp_path


def test_the_better_run_is_significantly_better(here, say):
    code, out, err = say("compare", "weak", "latest", "--samples", "1000")
    assert (code, err) == (0, "")
    head, first, second, _, titles, micro = out.splitlines()[:6]
    assert head == "validate, coarse tags: 60 clips"
    assert (first, second) == ("  A  weak-1", "  B  good-2 (mean of 2 seeds)")
    assert titles.split() == ["A", "B", "B", "−", "A", "95%", "interval", "p"]
    assert micro.split()[0] == "micro-AUPRC" and micro.split()[-1] == "0.0020"
    assert "paired bootstrap, 1,000 resamplings" in out


def test_an_evaluation_beside_itself_is_named_as_such(here, say):
    for words, is_same in ((("good", "latest"), True), (("weak", "good"), False)):
        notes = json.loads(say("compare", *words, "--samples", "1000", "--json")[1])["notes"]
        assert any("both give the same answers" in note for note in notes) is is_same


def test_json_has_what_evaluate_says(here, say, tmp_path):
    found = {split: json.loads(say("compare", "weak-1", "good-2", "--split", split, "--samples",
                                   "1000", "--json")[1]) for split in ("validate", "test")}
    assert found["validate"]["differences"] != found["test"]["differences"]
    told = found["test"]
    assert (told["kind"], told["clips"], told["mcnemar"]) == ("tags", 60, None)
    assert told["second"] == {"name": "good-2", "label": "good-2 (mean of 2 seeds)",
                              "classifiers": 2, "random_weights": False}
    from l3hpc.tagging.evaluation import evaluate

    data = here / "data"
    own = [evaluate(here / f"ws/artifacts/classify/good-2-evaluate/{task:04}/"
                    "predictions_coarse_test.csv", data / "annotations.csv",
                    data / "dcase-ust-taxonomy.yaml", "test")["coarse"] for task in (0, 1)]
    metrics = {one["metric"]: one for one in told["differences"]}
    assert metrics["micro-AUPRC"]["second"] == pytest.approx(
        (own[0]["micro_auprc"] + own[1]["micro_auprc"]) / 2)
    assert metrics["dog"]["second"] == pytest.approx(
        (own[0]["class_auprc"]["dog"] + own[1]["class_auprc"]["dog"]) / 2)
    for one in told["differences"]:
        assert one["difference"] == pytest.approx(one["second"] - one["first"])
        assert one["low"] <= one["high"] and 0 < one["p"] <= 1


def test_files_of_predictions_are_judged_by_a_run_or_by_the_folder_that_is_named(here, say):
    mine = here / "ws/artifacts/classify/good-2-evaluate/0000/predictions_coarse_validate.csv"
    other = judged.predict(here / "theirs.csv", here / "data", "validate", 0.3, 5)
    beside, alone = (json.loads(say(*words, "--samples", "1000", "--json")[1]) for words in (
        ("compare", "weak-1", str(other)),
        ("compare", str(mine), str(other), "--sonyc-ust", str(here / "data"))))
    assert beside["differences"][0]["second"] == alone["differences"][0]["second"]
    code, _, err = say("compare", str(mine), str(other))
    assert code == 2 and "Use --sonyc-ust FOLDER" in err
    code, _, err = say("compare", "weak-1", str(other), "--level", "fine")
    assert code == 2 and "no predictions of the fine tags" in err and "validate, coarse" in err


def test_the_fine_tags_of_a_coarse_classifier_are_not_scored_as_0(here, say):
    files = [str(judged.predict(here / f"{name}.csv", here / "data", "validate", skill, 5))
             for name, skill in (("ours", 0.3), ("theirs", 0.5))]
    words = ("compare", *files, "--sonyc-ust", str(here / "data"), "--samples", "1000")
    code, _, err = say(*words, "--level", "fine")
    assert code == 2 and "fine tags are all 0" in err and "--level coarse" in err
    text = (here / "ours.csv").read_text().splitlines()
    (here / "ours.csv").write_text("\n".join(
        [text[0] + ",7_cat", *(f"{line},0.5" for line in text[1:])]) + "\n")
    code, out, _ = say(*words)
    assert code == 0 and f"note: {files[0]}: column '7_cat' is not a tag of the taxonomy" in out
    notes = json.loads(say(*words, "--json")[1])["notes"]
    assert f"note: {notes[0]}" in out


def test_names_of_runs_complete(here):
    shell = ShellComplete(cli, {}, "l3hpc", "_L3HPC_COMPLETE")
    for words in (["compare"], ["compare", "weak-1"]):
        found = shell.get_completions(words, "")
        assert [one.value for one in found][:3] == ["latest", "good-2", "weak-1"]
        assert found[-1].type == "file"


def test_a_sweep_is_asked_for_the_step(here, say):
    steps = {name: judged.downstream(here / "ws", "sweep", here / "data", [skill], name=name)
             for name, skill in (("evaluate-1", 0.2), ("evaluate-2", 0.4))}
    judged.record(here / "ws", "sweep-3", steps, created=3)
    code, _, err = say("compare", "sweep-3", "weak-1")
    assert code == 2 and "sweep-3/evaluate-1, sweep-3/evaluate-2" in err
    code, out, _ = say("compare", "sweep-3/evaluate-2", "weak-1", "--samples", "1000")
    assert code == 0 and "  A  sweep-3/evaluate-2" in out
    code, _, err = say("compare", "sweep-3/evaluate-9", "weak-1")
    assert code == 2 and "no evaluation 'evaluate-9'" in err


def test_what_cannot_be_compared_is_refused(here, say):
    other = judged.sonyc_ust(here / "other", seed=9)
    judged.downstream(here / "ws", "else-3", other, [0.4], created=3)
    code, _, err = say("compare", "weak-1", "else-3")
    assert code == 2 and "different annotations" in err and "--sonyc-ust FOLDER" in err
    code, _, err = say("compare", "weak-1", "weak-1", "--samples", "999")
    assert code == 2 and "--samples" in err
    code, _, err = say("compare", "weak-1", "nowhere.csv")
    assert code == 2 and "no such file" in err
    code, _, err = say("compare", "weak-1", "nowhere")
    assert code == 2 and "nowhere" in err
    (here / "ws/artifacts/evaluate/weak-1-evaluate/0000/result.json").unlink()
    code, _, err = say("compare", "weak-1", "good-2")
    assert code == 2 and "evaluate of weak-1 has not finished" in err
    judged.record(here / "ws", "fit-4", {"fit": ("fit", here / "ws/artifacts/fit/x", {}, {}, 1)})
    code, _, err = say("compare", "fit-4", "good-2")
    assert code == 2 and "has no step that scores clips" in err


def test_accuracy_of_folds_is_compared_clip_by_clip(here, say):
    truth = {f"{number:02}.wav": ("dog", "hen")[number % 3 == 0] for number in range(40)}
    wrong = {"dog": "hen", "hen": "dog"}
    answers = [{name: one if number % many else wrong[one]
                for number, (name, one) in enumerate(truth.items())} for many in (2, 5)]
    for run, own in zip(("esc-3", "esc-4"), answers, strict=True):
        judged.folds(here / "ws", run, truth, own)
    told = json.loads(say("compare", "esc-3", "esc-4", "--json")[1])
    [one] = told["differences"]
    assert (one["metric"], one["first"], one["second"]) == ("accuracy", 0.5, 0.8)
    # Of the clips 0, 2, 4, … and 0, 5, 10, …, those that only one of the two misses.
    assert (told["mcnemar"]["only_first"], told["mcnemar"]["only_second"]) == (4, 16)
    assert told["mcnemar"]["p"] == pytest.approx(0.0118, abs=1e-4)
    assert told["clips"] == 40 and one["low"] > 0 and told["notes"] == []
    out = say("compare", "esc-3", "esc-4")[1]
    assert "only A is right: 4, only B: 16; McNemar's exact p 0.0118" in out
    code, _, err = say("compare", "esc-3", "esc-4", "--split", "test")
    assert code == 2 and "only evaluations on SONYC-UST" in err
    code, _, err = say("compare", "esc-3", "weak-1")
    assert code == 2 and "esc-3 has classes, weak-1 has tags" in err
    judged.folds(here / "ws", "esc-5", {**truth, "new.wav": "dog"},
                 {**answers[0], "new.wav": "dog"})
    code, _, err = say("compare", "esc-3", "esc-5")
    assert code == 2 and "40 clips in common" in err and "(new.wav)" in err
    for run, answer in (("few-7", "dog"), ("few-8", "hen")):
        judged.folds(here / "ws", run, {"00.wav": "dog"}, {"00.wav": answer})
    notes = json.loads(say("compare", "few-7", "few-8", "--json")[1])["notes"]
    assert [note[:12] for note in notes] == ["only 1 clip,", "only 1 clip "]
    judged.folds(here / "ws", "esc-6", {**truth, "00.wav": "dog"}, answers[0])
    code, _, err = say("compare", "esc-3", "esc-6")
    assert code == 2 and "the labels of 1 clip differ: 00.wav" in err


def test_tags_of_a_table_of_clips_are_compared_too(here, say):
    truth = {f"{number:02}.wav": [name for name, every in (("dog", 2), ("hen", 3))
                                  if number % every == 0] for number in range(40)}
    for run, off in (("clips-3", 0.5), ("clips-4", 0.1)):
        judged.folds(here / "ws", run, truth, {
            name: [abs(off * (number % 2) - (one in own)) for one in ("dog", "hen")]
            for number, (name, own) in enumerate(truth.items())}, several=True)
    told = json.loads(say("compare", "clips-3", "clips-4", "--samples", "1000", "--json")[1])
    assert [one["metric"] for one in told["differences"][-2:]] == ["dog", "hen"]
    assert told["differences"][0]["difference"] > 0


@pytest.mark.parametrize("several", (False, True))
@pytest.mark.parametrize("written", ("now", "before the prefix"))
def test_classes_may_have_the_names_of_other_columns(here, say, several, written):
    names = ["class", "file", "labels", "part", "predicted"]
    truth = {f"{number:02}.wav": [names[number % 5]] if several else names[number % 5]
             for number in range(10)}
    right = {name: [float(one in own) for one in names] if several else own
             for name, own in truth.items()}
    for run in ("clips-8", "clips-9"):
        judged.folds(here / "ws", run, truth, right, several=several)
        for path in (here / f"ws/artifacts/folds/{run}").glob("*/predictions.csv"):
            header = path.read_text().splitlines()[0].split(",")
            assert len(set(header)) == len(header)
            if written != "now":
                path.write_text(path.read_text().replace("score:", ""))
    code, out, err = say("compare", "clips-8", "clips-9", "--samples", "1000", "--json")
    assert code == 0, err
    assert {one["first"] for one in json.loads(out)["differences"]} == {1.0}
    path.write_text(path.read_text().replace("part,", "part,more,", 1))
    code, _, err = say("compare", "clips-8", "clips-9", "--samples", "1000")
    assert code == 2 and "has other columns than folds writes" in err


def test_the_command_and_the_step_of_the_same_name_are_told_apart(say):
    """``compare`` is also a step of compress, which judges networks of one run."""
    assert "compression report" in step("compare").title
    code, out, _ = say("compare", "--help")
    assert code == 0 and "Compare two evaluations" in out


def test_splits_by_sensor_are_those_of_the_training(here, say):
    """A classifier that was trained with split_path is judged by the same splits."""
    from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
    from l3hpc.tagging.annotations import Annotations

    splits = {"0": "validate", "1": "test", "2": "test"}
    taxonomy = sonyc_ust_taxonomy()
    annotations = Annotations.load(here / "data/annotations.csv", taxonomy).with_split(splits)
    for run, skill in (("by-3", 0.2), ("by-4", 0.6)):
        judged.downstream(here / "ws", run, here / "data", [skill])
        folder = here / f"ws/artifacts/classify/{run}-evaluate/0000"
        (folder / "hyper_params.json").write_text(json.dumps({"sensor_splits": splits}))
        for split in ("validate", "test"):
            judged.predict(folder / f"predictions_coarse_{split}.csv", annotations, split, skill, 0)
    told = json.loads(say("compare", "by-3", "by-4", "--samples", "1000", "--json")[1])
    assert told["clips"] == 40 and told["differences"][0]["difference"] > 0
    code, _, err = say("compare", "by-3", "weak-1", "--samples", "1000")
    assert code == 2 and "clips in common" in err


def test_results_of_random_weights_are_labelled(here, say):
    """In compare, in the page about both runs, and in what the report prints."""
    scored = here / "ws/artifacts/evaluate/weak-1-evaluate/0000/result.json"
    write_json(scored, {"summary": {"note": RANDOM_WEIGHTS, "metrics": {}}})
    code, out, err = say("compare", "weak-1", "good-2", "--samples", "1000")
    assert code == 0, err
    assert "A  weak-1 (random-weight teacher)" in out and out.count("random-weight") == 1
    code, out, _ = say("report", "weak-1", "good-2", "-o", "both.html")
    assert code == 0 and out.startswith(f"weak-1: {RANDOM_TEACHER}")
    text = (here / "both.html").read_text()
    assert RANDOM_TEACHER in text and "These runs: weak-1." in text
    told = json.loads(say("report", "weak-1", "good-2", "-o", "both.html", "--json")[1])
    assert [(one["label"], one["random_weights"]) for one in told["comparison"]["variants"]] == [
        ("weak-1", True), ("good-2", False)]
    told = json.loads(say("compare", "weak-1", "good-2", "--samples", "1000", "--json")[1])
    assert [told[name]["label"] for name in ("first", "second")] == [
        "weak-1 (random-weight teacher)", "good-2 (mean of 2 seeds)"]
    assert told["first"]["random_weights"] is True
    assert RANDOM_TEACHER in say("report", "weak-1")[1]
    assert RANDOM_TEACHER not in say("report", "good-2")[1]
    texts = [summary_text(step(name), [{"note": RANDOM_WEIGHTS, "metrics": {"validate": {
        "coarse": {"micro_auprc": 0.5}}}}]) for name in ("evaluate", "train")]
    assert texts[0] == "coarse micro-AUPRC 0.500 (validate), random-weight teacher"
    assert texts[1].endswith(", random-weight teacher")
