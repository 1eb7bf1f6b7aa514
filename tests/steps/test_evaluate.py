"""evaluate as a step: intervals beside every number in its files, the ledger as it always was."""

import json

import numpy as np
import pytest

from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
from l3hpc.errors import InputError
from l3hpc.ledger.schema import find_tab
from l3hpc.steps import step
from l3hpc.tagging import predictions
from l3hpc.tagging.annotations import Annotations

pytestmark = pytest.mark.slow
NUMBERS = {"micro_auprc", "micro_f1", "macro_auprc", "class_auprc"}


@pytest.fixture
def guesses(city, tmp_path):
    """A folder as classify leaves it: fine predictions of both splits."""
    taxonomy, rng = sonyc_ust_taxonomy(), np.random.default_rng(0)
    annotations = Annotations.load(city / "sonyc_ust/annotations.csv", taxonomy)
    folder = tmp_path / "classified"
    folder.mkdir()
    for split in ("validate", "test"):
        files, fine, _ = annotations.ground_truth(split)
        guess = 0.3 * fine[:, taxonomy.complete_fine] + 0.7 * rng.random((len(files), 23))
        predictions.write(folder / f"predictions_fine_{split}.csv",
                          predictions.from_fine(files, guess, taxonomy), taxonomy)
    return folder


def content(done):
    return json.loads((done.folder / "0000/evaluation.json").read_text())


def test_every_number_has_its_interval_and_the_ledger_keeps_its_columns(
        new_runner, city, guesses):
    with_intervals, without = new_runner("with"), new_runner("without")
    told = content(with_intervals.run("evaluate", {"sonyc_ust": city / "sonyc_ust"},
                                      {"classify": guesses}))
    bare = content(without.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 0},
                               {"classify": guesses}))
    assert set(told) == {"coarse", "fine", "split", "validate", "test"}
    for level in ("coarse", "fine"):
        assert told[level] == bare[level] and set(told[level]) == NUMBERS
        for split in ("validate", "test"):
            found = told[split][level]
            sure = found.pop("confidence")
            assert found == bare[split][level]
            assert set(sure) == NUMBERS | {"level", "samples", "method"}
            assert (sure["level"], sure["samples"]) == (0.95, 1000)
            for name in NUMBERS - {"class_auprc"}:
                assert 0 <= sure[name][0] <= sure[name][1] <= 1
            assert set(sure["class_auprc"]) == set(found["class_auprc"])
    assert with_intervals.records.rows == without.records.rows
    for tab, row, _ in with_intervals.records.rows:
        assert set(row) == {*find_tab(tab).fields, "note", "state"}
        assert row["micro_auprc"] == told[row["label_mode"]]["micro_auprc"]
        assert json.loads(row["class_auprc"]) == pytest.approx(
            told[row["label_mode"]]["class_auprc"], abs=1e-6)


def with_seeds(folder, guesses, city, seeds):
    """A folder as classify leaves it with several seeds: a task for each."""
    taxonomy = sonyc_ust_taxonomy()
    for task, seed in enumerate(seeds):
        own = folder / f"{task:04}"
        own.mkdir(parents=True)
        (own / "result.json").write_text("{}")
        (own / "hyper_params.json").write_text(json.dumps({"seed": seed, "levels": {"fine": {}}}))
        for path in guesses.glob("*.csv"):
            read, rng = predictions.read(path, taxonomy), np.random.default_rng(seed)
            mixed = 0.7 * read.fine[:, taxonomy.complete_fine] + 0.3 * rng.random(
                (len(read.files), 23))
            predictions.write(own / path.name, predictions.from_fine(read.files, mixed, taxonomy),
                              taxonomy)
    return folder


def test_both_splits_are_rows_and_thresholds_of_validate_are_used_on_test(
        new_runner, city, guesses):
    runner = new_runner("both")
    done = runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "split": "both",
                                   "bootstrap": 0}, {"classify": guesses})
    told, taxonomy = content(done), sonyc_ust_taxonomy()
    assert told["split"] == "validate"
    assert told["coarse"]["micro_auprc"] == told["validate"]["coarse"]["micro_auprc"]
    rows = [row for _, row, _ in runner.records.rows]
    assert [(row["split"], row["micro_auprc"]) for row in rows] == [
        (split, told[split]["coarse"]["micro_auprc"]) for split in ("validate", "test")]
    assert rows[1]["exp_id"] == rows[0]["exp_id"] + "-test"
    thresholds = json.loads((done.folder / "0000/thresholds.json").read_text())
    [chosen] = thresholds["classifiers"]
    assert set(chosen) == {"coarse", "fine", "not_chosen"} and thresholds["split"] == "validate"
    annotations = Annotations.load(city / "sonyc_ust/annotations.csv", taxonomy)
    for split in ("validate", "test"):
        files, _, truth = annotations.ground_truth(split)
        read = predictions.read(guesses / f"predictions_fine_{split}.csv", taxonomy)
        place = {name: row for row, name in enumerate(read.files)}
        probability = read.coarse[[place[name] for name in files]]
        tags = told[split]["coarse"]["detection"]["tags"]
        for number, column in enumerate(taxonomy.coarse_columns):
            found = probability[:, number] >= chosen["coarse"][column]
            hits, wrong = (found & truth[:, number]).sum(), (found != truth[:, number]).sum()
            assert tags[column]["f1"] == (2 * hits / (2 * hits + wrong) if hits + wrong else None)
            assert (column in chosen["not_chosen"]) == (not tags[column]["chosen"])
            if column in chosen["not_chosen"]:
                assert chosen["coarse"][column] == 0.5


def test_every_seed_is_a_row_and_the_mean_has_a_spread(new_runner, city, guesses, tmp_path):
    runner = new_runner("seeds")
    folder = with_seeds(tmp_path / "seeds", guesses, city, (3, 4, 5))
    done = runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 50},
                      {"classify": folder})
    told = content(done)
    assert list(told["seeds"]) == ["3", "4", "5"]
    for level in ("coarse", "fine"):
        each = [one["validate"][level] for one in told["seeds"].values()]
        mean = told["validate"][level]
        values = [one["micro_auprc"] for one in each]
        assert mean["micro_auprc"] == pytest.approx(np.mean(values))
        assert mean["spread"]["micro_auprc"] == pytest.approx(np.std(values, ddof=1))
        assert mean["spread"]["micro_auprc"] > 0
        assert told[level]["micro_auprc"] == mean["micro_auprc"]
        widths = [np.diff(one["confidence"]["micro_auprc"])[0] for one in (mean, *each)]
        assert 0 < widths[0] < max(widths[1:]) * 1.01
        assert mean["calibration"]["pairs"] == sum(one["calibration"]["pairs"] for one in each)
        assert mean["calibration"]["brier"] == pytest.approx(
            np.mean([one["calibration"]["brier"] for one in each]))
        for tag, one in mean["detection"]["tags"].items():
            own = [seed["detection"]["tags"][tag]["f1"] for seed in each]
            if None not in own:
                assert one["f1"] == pytest.approx(np.mean(own))
    rows = [row for _, row, _ in runner.records.rows]
    assert [row["exp_id"].rpartition("-seed")[2] for row in rows] == ["3", "4", "5"]
    assert [row["micro_auprc"] for row in rows] == [
        one["validate"]["fine"]["micro_auprc"] for one in told["seeds"].values()]
    [result] = [done.result] if hasattr(done, "result") else [json.loads(
        (done.folder / "0000/result.json").read_text())["summary"]]
    assert result["seeds"] == [3, 4, 5]
    assert "± " in step("evaluate").summary([result])
    assert step("evaluate").summary([result]).endswith("(validate, 3 seeds)")


def test_one_file_of_predictions_is_of_one_split(new_runner, city, guesses):
    with pytest.raises(InputError, match="of one split"):
        step("evaluate").check(step("evaluate").parse({
            "sonyc_ust": city / "sonyc_ust", "split": "both",
            "predictions": guesses / "predictions_fine_test.csv"}), {})


def test_evaluation_loads_no_large_package(loaded_by, guesses, city, tmp_path):
    assert loaded_by(("evaluate", {"sonyc_ust": city / "sonyc_ust"}, {"classify": guesses},
                      tmp_path / "evaluate")) == ["evaluate"]
