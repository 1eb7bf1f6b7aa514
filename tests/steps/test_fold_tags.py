"""folds and score on clips with several labels: the tag classifier, its scores, and its rows."""

import csv
import json
import shutil
from itertools import product

import numpy as np
import pytest

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.ledger.schema import find_tab
from l3hpc.tagging import micro_auprc
from l3hpc.tagging.evaluation import clip_scores

pytestmark = pytest.mark.slow
NAMES = ("owl, barn", "rain", "wren")


@pytest.fixture
def tagged(tmp_path):
    """A table of 48 clips in three folds, and their embeddings: a dimension per tag, with noise."""
    rng, lines = np.random.default_rng(0), ["file,fold,tags"]
    (tmp_path / "embeddings").mkdir()
    kinds = [kind for kind in product((0, 1), repeat=3) if any(kind)]
    for number in range(48):
        kind = kinds[number % 7]
        tags = "|".join(name for name, has in zip(NAMES, kind, strict=True) if has)
        lines.append(f'{number}.wav,{number % 3 + 1},"{tags}"')
        frames = 3 * np.array(kind) + rng.normal(size=(1 + number % 4, 3))
        np.savez(tmp_path / f"embeddings/{number}.npz", embedding=frames.astype(np.float32))
    table = tmp_path / "dawn.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def test_the_classifier_follows_from_the_table(tagged):
    folds = steps.step("folds")
    assert folds.implied({"table": str(tagged)}, {}, None) == {"model": "mil"}
    for stated in ({"table": str(tagged), "model": "svm"}, {}, {"table": 1, "fold_count": "x"},
                   {"table": str(tagged), "label_separator": "none"}):
        assert folds.implied(stated, {}, None) == {}
    params = folds.params_type(table=tagged, model="mil")
    folds.check(params, {})
    assert folds.describe(params, {}).startswith("dawn: 48 clips, 3 classes (files of 'file', ")
    assert (folds.ledger_tab(params), folds.ledger_tab(folds.params_type())) == (
        "clip_tags", "classifier")
    with pytest.raises(InputError, match="svm does not learn clips with several labels"):
        folds.check(folds.params_type(table=tagged, model="svm"), {})
    with pytest.raises(InputError, match="mil does not learn clips with one label each"):
        folds.check(folds.params_type(table=tagged, model="mil", label_separator="none"), {})


def test_scores_and_rows(runner, tagged):
    done = runner.run("folds", {"table": tagged, "model": "mil", "search": False, "epochs": 40,
                                "learning_rate": 0.1, "patience": 40},
                      {"embed": tagged.parent / "embeddings"}, shards=[{"fold": 2}])
    one = json.loads((done.folder / "0000/fold.json").read_text())
    with open(done.folder / "0000/predictions.csv") as stream:
        rows = [row for row in csv.DictReader(stream) if row["part"] == "test"]
    assert {int(row["file"][:-4]) % 3 for row in rows} == {1} and len(rows) == 16
    truth = [[name in row["labels"].split(";") for name in NAMES] for row in rows]
    scores = [[float(row[f"score:{name}"]) for name in NAMES] for row in rows]
    auprc = micro_auprc(np.array(truth, int), scores)
    assert one["scores"]["test"]["micro_auprc"] == pytest.approx(auprc) and auprc > 0.85
    assert one["chosen"] == {"learning_rate": 0.1, "weight_decay": 1e-5}
    assert done.text == f"mil, 1 fold: micro-AUPRC {auprc:.3f} on average"
    (tab, row, _), = runner.records.rows
    assert tab == "clip_tags" and set(row) == {*find_tab(tab).fields, "note", "state"}
    assert (row["data"], row["note"], row["model_type"]) == ("dawn", "data: dawn", "mil")
    assert row["test_micro_auprc"] == one["scores"]["test"]["micro_auprc"]
    assert row["num_epochs"] == one["best_epochs"]
    # The other folds, without training: as if they had the same scores.
    for fold in (1, 3):
        other = done.folder / f"{fold:04d}"
        shutil.copytree(done.folder / "0000", other)
        (other / "fold.json").write_text(json.dumps({**one, "fold": fold}))
    score = runner.run("score")
    found = json.loads((score.folder / "0000/scores.json").read_text())
    assert found["micro_auprc"]["mean"] == pytest.approx(auprc)
    assert found["micro_auprc"]["folds"] == 3 and list(found["folds"]) == ["1", "2", "3"]
    assert list(found["class_average_precision"]) == list(NAMES)
    assert score.text.startswith("dawn, mil: micro-AUPRC ")
    assert not (score.folder / "0000/confusion.csv").exists()


def test_a_tag_that_no_clip_has_has_no_score():
    truth, probability = np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.8], [0.2, 0.1]])
    found = clip_scores(truth, probability, ["owl", "rain"])
    assert found["class_average_precision"] == {"owl": 1.0, "rain": None}
    assert found["mean_average_precision"] == 1.0
    assert found["micro_auprc"] == pytest.approx(micro_auprc(truth, probability))
    with pytest.raises(InputError, match="no clip has a tag"):
        clip_scores(np.zeros((2, 2)), probability, ["owl", "rain"])
