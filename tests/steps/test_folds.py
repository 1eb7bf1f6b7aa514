"""embed, folds and score on tiny UrbanSound8K and ESC-50 folders, and their rows in the ledger."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from l3hpc import steps
from l3hpc.datasets import labelled
from l3hpc.errors import InputError, L3hpcError
from l3hpc.ledger.schema import find_tab
from l3hpc.models.weights import RANDOM_WEIGHTS
from l3hpc.steps.folds import read_folds

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

import layouts  # noqa: E402

pytestmark = pytest.mark.slow
REAL = Path(__file__).parents[2].parent / "shared/real"


@pytest.fixture
def esc50(tmp_path):
    return layouts.esc50(tmp_path / "esc50", folds=4, per_fold=4)


def embed_by_hand(dataset, folder):
    """One file per clip, as from elsewhere: the class is easy to see, but not without error."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for clip in labelled.read_labelled(dataset).clips:
        frames = 1.2 * np.eye(5)[clip.label] + rng.normal(size=(rng.integers(2, 5), 5))
        np.savez(folder / f"{Path(clip.file).stem}.npz", embedding=frames.astype(np.float32))
    return folder


@pytest.fixture
def embedded(tmp_path, esc50):
    return embed_by_hand(esc50, tmp_path / "embeddings")


def fold_files(done):
    return [json.loads((path / "fold.json").read_text()) for path in sorted(done.folder.iterdir())]


def test_a_row_of_the_ledger_for_every_fold(runner, esc50, embedded):
    done = runner.run("folds", {"clips": esc50, "partial": True, "model": "svm"},
                      {"embed": embedded})
    assert runner.shards["folds"] == [{"fold": fold} for fold in (1, 2, 3, 4)]
    told = fold_files(done)
    tests = [one["scores"]["test"]["accuracy"] for one in told]
    part = "4 of 5 folds, 3 of 50 classes, 48 of 2,000 clips"
    assert done.text == f"svm, 4 folds ({part}): accuracy {np.mean(tests):.3f} on average"
    assert {row["note"] for _, row, _ in runner.records.rows} == {f"only {part}"}
    assert len(runner.records.rows) == 4
    for index, ((tab, row, _), one) in enumerate(zip(runner.records.rows, told, strict=True)):
        assert tab == "classifier"
        assert set(row) == {*find_tab(tab).fields, "note", "state", "classes"}
        assert row["classes"] == one["classes"]
        assert row["model_dir"] == f"out/{index:04d}" and row["fold_num"] == index + 1
        assert (row["model_id"], row["features_dir"]) == ("exp", str(embedded))
        assert (row["C"], row["tol"], row["max_iterations"]) == (one["chosen"]["C"], 1e-5, -1)
        assert {row[name] for name in (
            "learning_rate", "weight_decay", "num_epochs", "train_batch_size",
            "parameter_search_valid_ratio")} == {None}
        assert (row["parameter_search"], row["parameter_search_valid_fold"],
                row["parameter_search_train_with_valid"], row["non_overlap"]) == (
                    True, True, True, False)
        for part in ("train", "valid", "test"):
            numbers = one["scores"][part]
            assert row[f"{part}_acc"] == numbers["accuracy"]
            assert row[f"{part}_avg_class_acc"] == numbers["average_class_accuracy"]
            assert [float(value) for value in row[f"{part}_class_acc"].split(", ")] == (
                pytest.approx(list(numbers["class_accuracy"].values()), rel=1e-5))
        assert (row["train_loss"], row["valid_loss"]) == (None, None)  # an SVM has none


@pytest.mark.slow
def test_what_is_written_and_summed_up(runner, esc50, embedded):
    done = runner.run("folds", {"clips": esc50, "partial": True, "model": "rf", "features": "stats",
                                "search": False, "trees": 30}, {"embed": embedded})
    runner.run("score")
    right, matrix = [], np.zeros((3, 3), int)
    names = ["dog", "hen", "sneezing"]
    for index, told in enumerate(fold_files(done)):
        with open(runner.artifact("folds") / f"{index:04d}/predictions.csv") as stream:
            rows = list(csv.DictReader(stream))
        test = [row for row in rows if row["part"] == "test"]
        assert {row["file"][0] for row in test} == {str(index + 1)}
        assert {row["file"][0] for row in rows if row["part"] == "valid"} == {
            str((index - 1) % 4 + 1)}
        for row in rows:
            scores = [float(row[f"score:{name}"]) for name in names]
            assert names[np.argmax(scores)] == row["predicted"]
        right.append(np.mean([row["class"] == row["predicted"] for row in test]))
        for row in test:
            matrix[names.index(row["class"]), names.index(row["predicted"])] += 1
        assert told["chosen"] == {"trees": 30} and len(told["trials"]) == 1
        assert len(told["files"]["train"]) == 24  # no search: the validation fold stays out
    found = json.loads((runner.artifact("score") / "0000/scores.json").read_text())
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(right))
    assert found["accuracy"]["std"] == pytest.approx(np.std(right, ddof=1))
    assert [one["accuracy"] for one in found["folds"].values()] == pytest.approx(right)
    assert found["pooled"]["class_accuracy"] == pytest.approx(
        dict(zip(names, np.diag(matrix) / matrix.sum(axis=1), strict=True)))
    with open(runner.artifact("score") / "0000/confusion.csv") as stream:
        assert list(csv.reader(stream)) == [
            ["class", *names], *([name, *map(str, row)]
                                 for name, row in zip(names, matrix, strict=True))]
    low, high = found["accuracy"]["interval"]
    assert runner.results["score"][0]["accuracy"] == found["accuracy"]
    assert steps.step("score").summary(runner.results["score"]) == (
        "ESC-50 (4 of 5 folds, 3 of 50 classes, 48 of 2,000 clips), rf: "
        f"accuracy {np.mean(right):.3f} (95% interval {low:.3f} to {high:.3f})")
    assert found["note"] == "only 4 of 5 folds, 3 of 50 classes, 48 of 2,000 clips"


def test_labels_of_the_test_fold_change_no_prediction(new_runner, tmp_path):
    """The same table with dog and sneezing exchanged in fold 1."""
    folder = layouts.esc50(tmp_path / "plain", folds=4, per_fold=4, audio=False, told=False)
    embedded = embed_by_hand(folder, tmp_path / "embeddings")
    table, found = folder / "meta/esc50.csv", []
    for name in ("as it is", "exchanged"):
        run = new_runner(name)
        run.run("folds", {"clips": folder, "model": "svm", "partial": True}, {"embed": embedded},
                shards=[{"fold": 1}])
        told = json.loads((run.artifact("folds") / "0000/fold.json").read_text())
        with open(run.artifact("folds") / "0000/predictions.csv") as stream:
            rows = list(csv.DictReader(stream))
        true = [row.pop("class") for row in rows if row["part"] == "test"]
        found.append((told["chosen"], told["trials"], told["scores"]["valid"], rows, true))
        table.write_text("\n".join(
            line.replace(",1,0,dog", ",1,x").replace(",1,21,sneezing", ",1,0,dog")
            .replace(",1,x", ",1,21,sneezing") for line in table.read_text().splitlines()))
    assert found[0][:4] == found[1][:4]
    assert len(found[0][4]) == 12 and found[0][4] != found[1][4]


def test_clips_without_embeddings_are_counted_or_too_many(runner, new_runner, esc50, embedded):
    (embedded / "2-2000-A-0.npz").unlink()
    done = runner.run("folds", {"clips": esc50, "partial": True, "model": "svm", "search": False},
                      {"embed": embedded})
    assert [result["missing"] for result in done.results] == [1] * 4
    assert done.text.endswith("on average, 1 clip missing")
    told = fold_files(done)
    assert told[1]["missing"] == ["2-2000-A-0.wav"] and told[1]["scores"]["test"]["clips"] == 11
    with pytest.raises(L3hpcError, match="1 of 48 clips have no embedding: 2-2000-A-0.wav"
                       ) as caught:
        new_runner("strict").run("folds", {"clips": esc50, "max_missing": 0.02, "partial": True},
                                 {"embed": embedded})
    assert "l3hpc data check" in caught.value.hint
    assert "--set folds.max_missing=0.5" in caught.value.hint


def test_published_features_of_us8k_can_be_used(runner, tmp_path):
    """``fold<f>/<name>.npz`` with X and y, as the published pipeline writes them."""
    folder = layouts.us8k(tmp_path / "us8k", per_fold=3, audio=False)
    features, rng = tmp_path / "features", np.random.default_rng(1)
    data = labelled.read_labelled(folder)
    for clip in data.clips:
        path = (features / clip.file).with_suffix(".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        x = 3 * np.eye(4)[clip.label] + rng.normal(size=(rng.integers(1, 4), 4))
        np.savez_compressed(path, X=x, y=data.ids[clip.label])
    done = runner.run("folds", {"clips": folder, "partial": True, "model": "mlp", "search": False,
                                "epochs": 40, "learning_rate": 1e-3, "every": 10},
                      {"embed": features})
    assert np.mean([result["test"] for result in done.results]) > 0.8
    row = runner.records.rows[0][1]
    assert (row["learning_rate"], row["weight_decay"], row["num_epochs"],
            row["train_batch_size"], row["C"], row["parameter_search_train_with_valid"],
            row["non_overlap"]) == (1e-3, 1e-5, 40, 64, None, False, True)


@pytest.mark.parametrize(("layout", "clips", "windows"), [("esc50", 18, 18), ("us8k", 12, 12)])
def test_embed_takes_both_layouts(runner, tmp_path, teacher, layout, clips, windows):
    folder = getattr(layouts, layout)(tmp_path / layout)
    embed = runner.run("embed", {"clips": folder, "student": str(teacher), "hop": 0.5,
                                 "files_per_task": 10})
    assert len(embed.results) == 2 and sum(one["rows"] for one in embed.results) == windows
    done = runner.run("folds", {"clips": folder, "model": "svm", "features": "stats",
                                "partial": True})
    assert [result["clips"] for result in done.results] == [clips] * 3
    (note,) = {row["note"] for _, row, _ in runner.records.rows}
    assert note.startswith(f"{RANDOM_WEIGHTS}; only 3 of ")
    score = runner.run("score")
    told = json.loads((score.folder / "0000/scores.json").read_text())
    assert told["note"] == note and "24-d" in told["network"]


def test_a_subset_embeds_its_clips_alone(runner, tmp_path, teacher):
    folder = layouts.esc50(tmp_path / "esc50")
    runner.run("embed", {"clips": folder, "subset": "esc10", "student": str(teacher)})
    assert runner.results["embed"][0]["recordings"] == 12


@pytest.fixture
def own(tmp_path):
    """A folder of clips with a table of its own: no folds, two labels, three clips to a site."""
    folder = tmp_path / "birds"
    rng, lines = np.random.default_rng(0), ["clip,species,site"]
    for number in range(18):
        label = ("owl", "wren")[number % 2]
        layouts.tone(folder / f"audio/{label}{number}.wav", (400, 1600)[number % 2], 1.0, rng)
        lines.append(f"{label}{number},{label},site{number // 3}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_any_table_of_clips(runner, new_runner, own, teacher):
    table = {"table": own / "labels.csv", "audio": own / "audio"}
    runner.run("embed", {**table, "student": str(teacher), "hop": 0.5})
    params = {**table, "model": "svm", "features": "stats", "fold_count": 3, "group_column": "site"}
    runner.run("folds", params)
    assert [shard["fold"] for shard in runner.shards["folds"]] == [1, 2, 3]
    score = runner.run("score")
    told = json.loads((score.folder / "0000/scores.json").read_text())
    assert told["data"] == "birds" and told["pooled"]["clips"] == 18
    assert score.text.startswith("birds, svm: accuracy ")
    assert {(row["data"], row["note"]) for _, row, _ in runner.records.rows} == {
        ("birds", f"data: birds; {RANDOM_WEIGHTS}")}
    again = new_runner("again").run("folds", params, {"embed": runner.artifact("embed")},
                                    shards=runner.shards["folds"][:1])
    assert again.results == runner.results["folds"][:1]
    # A table that is edited while the jobs wait would give other folds than those planned.
    (own / "labels.csv").write_text((own / "labels.csv").read_text().replace("3,wren", "3,owl"))
    with pytest.raises(L3hpcError, match="have changed since this run was submitted"):
        new_runner("later").run("folds", params, {"embed": runner.artifact("embed")},
                                shards=runner.shards["folds"])


def test_a_split_is_learned_once(new_runner, own, teacher):
    """Its test part alone is tested, and its part validate decides, not the fold before."""
    lines = (own / "labels.csv").read_text().splitlines()
    parts = ["set", *(("train",) * 10 + ("validate",) * 4 + ("test",) * 4)]
    (own / "labels.csv").write_text("\n".join(map(",".join, zip(lines, parts, strict=True))))
    table = {"table": own / "labels.csv", "audio": own / "audio"}
    runner = new_runner("split")
    runner.run("embed", {**table, "student": str(teacher), "hop": 0.5})
    params = {**table, "model": "svm", "features": "stats", "split_column": "set"}
    done = runner.run("folds", params)
    assert [shard["fold"] for shard in runner.shards["folds"]] == [3]
    [one] = fold_files(done)
    names = [line.split(",")[0] for line in lines[1:]]
    assert {part: sorted(Path(file).stem for file in files)
            for part, files in one["files"].items()} == {
        "train": sorted(names[:14]), "valid": sorted(names[10:14]), "test": sorted(names[14:])}
    assert done.text == f"svm: accuracy {one['scores']['test']['accuracy']:.3f} on the test clips"
    assert {row["fold_num"] for _, row, _ in runner.records.rows} == {None}
    score = runner.run("score")
    told = json.loads((score.folder / "0000/scores.json").read_text())
    assert list(told["folds"]) == ["test"] and told["pooled"]["clips"] == 4
    low, high = told["accuracy"]["interval"]
    assert 0 <= low < high <= 1 and "test clips" in told["method"] and "95% interval" in score.text
    step = steps.step("folds")
    said = step.describe(step.params_type(**params), {})
    assert "split of 'set': 10 to train, 4 to validate, 4 to test" in said
    assert "validated on the part validate" in said
    (own / "labels.csv").write_text((own / "labels.csv").read_text().replace("validate", "train"))
    with pytest.raises(InputError, match="has no clips to validate on"):
        step.check(step.params_type(**params), {})
    step.check(step.params_type(**params, valid_fold=False), {})


def test_esc50_as_a_table_of_its_own_has_the_same_predictions(new_runner, esc50, embedded):
    table = {"table": esc50 / "meta/esc50.csv", "audio": esc50 / "audio", "label_column": "target"}
    scores = []
    for name, data in (("known", {"clips": esc50, "partial": True}), ("own", table)):
        run = new_runner(name)
        run.run("folds", {**data, "model": "rf", "search": False, "trees": 10, "valid_fold": False,
                          **({"group_column": "src_file"} if name == "own" else {})},
                {"embed": embedded}, shards=[{"fold": 2}])
        with open(run.artifact("folds") / "0000/predictions.csv") as stream:
            scores.append([(row["file"], row["part"], *list(row.values())[4:])
                           for row in csv.DictReader(stream)])
    assert scores[0] == scores[1] and len(scores[0]) > 12


def test_a_missing_file_is_refused_before_submission(own):
    (own / "audio/owl0.wav").unlink()
    embed = steps.step("embed")
    with pytest.raises(InputError, match="1 of 18 clips have no audio: owl0\n") as refused:
        embed.shards(embed.params_type(table=own / "labels.csv", audio=own / "audio"), {})
    assert "--audio DIR" in refused.value.hint
    with pytest.raises(InputError, match="file_column needs a table"):
        embed.check(embed.params_type(audio=own, file_column="clip"), {})


def test_a_table_of_its_own_needs_folds_of_similar_size(own):
    folds = steps.step("folds")
    with pytest.raises(InputError, match="has clips of 2 folds"):
        folds.check(folds.params_type(table=own / "labels.csv", fold_count=2), {})
    with pytest.raises(InputError, match="either a folder of UrbanSound8K or ESC-50, or a table"):
        folds.check(folds.params_type(), {})
    lines = (own / "labels.csv").read_text().splitlines()
    (own / "labels.csv").write_text("\n".join(
        [lines[0] + ",fold", *(f"{line},{9 if line.startswith('owl0') else 1 + index % 4 // 2}"
                               for index, line in enumerate(lines[1:]))]))
    with pytest.raises(InputError, match="lists 1 clip of fold 9: a fold has 6 on average"):
        folds.check(folds.params_type(table=own / "labels.csv"), {})
    folds.check(folds.params_type(table=own / "labels.csv", partial=True), {})


def leave_out(folder, lines):
    table = next(folder.rglob("*.csv"))
    table.write_text("".join(line for line in table.read_text().splitlines(True)
                             if not lines(line)))


@pytest.mark.parametrize(("layout", "total"), [("esc50", 5), ("us8k", 10)])
def test_a_set_without_a_whole_fold_is_refused_or_labelled(tmp_path, layout, total):
    """UrbanSound8K without a fold ran with nine, and its mean stood there as if it were of ten."""
    folds = steps.step("folds")
    folder = getattr(layouts, layout)(tmp_path / "set", folds=total, per_fold=4, audio=False)
    folds.check(folds.params_type(clips=folder), {})  # small, but every fold is there
    before = labelled.read_labelled(folder)
    assert before.small_folds() == [] and f"{total} folds" not in before.part
    column = 1 if layout == "esc50" else 5
    leave_out(folder, lambda line: line.split(",")[column] == "3")
    with pytest.raises(InputError, match="lists no clips of fold 3: "
                       f"{total - 1} of {total} folds, .*clips of ") as caught:
        folds.check(folds.params_type(clips=folder), {})
    assert "--set folds.partial=true" in str(caught.value)
    own = folds.params_type(clips=folder, partial=True)
    folds.check(own, {})
    assert f"({total - 1} of {total} folds" in folds.describe(own, {})


def test_a_fold_of_one_clip_is_refused(tmp_path):
    folds = steps.step("folds")
    folder = layouts.us8k(tmp_path / "set", folds=10, per_fold=6, audio=False)
    clips = []
    leave_out(folder, lambda line: line.split(",")[5] == "3" and (
        clips.append(line) or len(clips) > 1))
    with pytest.raises(InputError, match="lists 1 clip of fold 3: "):
        folds.check(folds.params_type(clips=folder), {})


def test_a_fold_that_lost_its_embeddings_is_refused(runner, tmp_path):
    """Whatever max_missing says: its accuracy would be that of nothing, or of a few."""
    folder = layouts.esc50(tmp_path / "esc50", folds=5, per_fold=4, audio=False)
    embedded = embed_by_hand(folder, tmp_path / "embeddings")
    for path in sorted(embedded.glob("3-*.npz"))[:7]:
        path.unlink()
    with pytest.raises(L3hpcError, match="5 of 12 clips of fold 3 have an embedding"):
        runner.run("folds", {"clips": folder, "model": "svm", "search": False,
                             "max_missing": 0.5}, {"embed": embedded}, shards=[{"fold": 1}])


def test_scores_of_some_folds_are_not_taken_for_all(runner, tmp_path):
    folder = layouts.esc50(tmp_path / "esc50", folds=5, per_fold=2, audio=False)
    embedded = embed_by_hand(folder, tmp_path / "embeddings")
    done = runner.run("folds", {"clips": folder, "model": "svm", "search": False},
                      {"embed": embedded}, shards=[{"fold": fold} for fold in (1, 2, 4, 5)])
    with pytest.raises(InputError, match="contains 0 results of fold 3, .* of 4 of 5 folds"):
        read_folds(done.folder)


def test_refusals(tmp_path):
    folds, embed = steps.step("folds"), steps.step("embed")
    two = layouts.esc50(tmp_path / "two", folds=2, audio=False)
    with pytest.raises(InputError, match="has clips of 2 folds"):
        folds.check(folds.params_type(clips=two, partial=True), {})
    folds.check(folds.params_type(clips=two, partial=True, valid_fold=False), {})
    with pytest.raises(InputError, match="only the clips of a subset are embedded"):
        folds.check(folds.params_type(clips=two, partial=True, valid_fold=False), {
                     "embed": embed.params_type(clips=two, subset="esc10")})
    with pytest.raises(InputError, match="subset needs clips"):
        embed.check(embed.params_type(audio=two, subset="esc10"), {})
    with pytest.raises(InputError, match="12 of 12 clips have no audio: 1-1000-A-0.wav …"):
        embed.shards(embed.params_type(clips=two), {})
    with pytest.raises(InputError, match="contains no scores of folds"):
        read_folds(two)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real recordings beside the project")
def test_esc10_with_the_published_student_3(runner):
    """Real recordings, real weights: far above the 10% of guessing."""
    runner.run("embed", {"clips": REAL / "esc10", "subset": "esc10", "hop": 2.0,
                         "student": str(REAL / "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz")})
    runner.run("folds", {"clips": REAL / "esc10", "subset": "esc10", "model": "svm",
                         "features": "stats"})
    score = runner.run("score")
    told = json.loads((score.folder / "0000/scores.json").read_text())
    assert told["data"] == "ESC-10" and told["pooled"]["clips"] == 400
    assert told["accuracy"]["mean"] > 0.7 and told["note"] is None


def test_a_class_called_class_does_not_hide_the_first_column_of_the_confusion(tmp_path):
    import numpy as np

    from l3hpc.steps.folds import _write_confusion

    for names, corner in ((["dog", "hen"], "class"), (["class", "hen"], "true class"),
                          (["class", "true class"], "class of the clip")):
        _write_confusion(tmp_path / "c.csv", names, np.eye(2, dtype=int))
        with open(tmp_path / "c.csv") as stream:
            rows = list(csv.DictReader(stream))
        assert [row[corner] for row in rows] == names
        assert [row[name] for row, name in zip(rows, names, strict=True)] == ["1", "1"]
