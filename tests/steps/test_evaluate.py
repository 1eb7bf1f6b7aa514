"""evaluate as a step: intervals beside every number in its files, the ledger as it always was."""

import json

import numpy as np
import pytest

from l3hpc.datasets.taxonomy import sonyc_ust_taxonomy
from l3hpc.ledger.schema import find_tab
from l3hpc.tagging import predictions
from l3hpc.tagging.annotations import Annotations

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
