"""classify: what its options make of parameters, inputs, files and rows; what is refused."""

import csv
import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from l3hpc import steps
from l3hpc.errors import InputError

classify, train = steps.step("classify"), steps.step("train")


def params(**values):
    return classify.params_type(**values)


def annotations(city):
    with open(city / "sonyc_ust/annotations.csv") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def split_path(city, tmp_path):
    """Sensors the other way round: those of validate train, and one of train is tested."""
    splits = {row["sensor_id"]: row["split"] for row in annotations(city)}
    scored = {row["sensor_id"] for row in annotations(city) if row["annotator_id"] == "0"}
    first = sorted(scored)[0]
    path = tmp_path / "split.csv"
    path.write_text("sensor_id,split\n" + "".join(
        f"{sensor},{'validate' if sensor == first else 'train'}\n" for sensor in splits))
    return path


@pytest.fixture
def embeddings(city, tmp_path):
    """Embeddings of all clips as published files."""
    folder, rng = tmp_path / "embeddings", np.random.default_rng(0)
    folder.mkdir()
    for name in {row["audio_filename"] for row in annotations(city)}:
        np.savez(folder / f"{Path(name).stem}.npz", embedding=rng.normal(size=(4, 6)).astype("f4"))
    return folder


@pytest.mark.slow
def test_all_inputs_of_a_classifier_reach_its_files_and_its_rows(
        city, runner, embeddings, split_path):
    done = runner.run("classify", {
        "sonyc_ust": city / "sonyc_ust", "epochs": 1, "metadata": True, "pca_components": 3,
        "oversample": "mlsmote", "oversample_iters": 2, "thresh_type": "percentile_20",
        "split_path": split_path, "seeds": 2, "seed": 5, "timestamp": True}, {"embed": embeddings})
    assert [one["seed"] for one in done.results] == [5, 6]
    made = [one["levels"]["coarse"]["synthetic"] for one in done.results]
    assert min(made) > 0
    assert done.text == f"mil, coarse: best epochs 1, 1 (2 seeds), {made[0]} synthetic clips"
    told = [json.loads((done.folder / f"{task:04d}/hyper_params.json").read_text())
            for task in (0, 1)]
    assert [one["seed"] for one in told] == [5, 6]
    assert told[0]["pca"] and told[0]["pca_components"] == 3 and told[0]["recipe"] == "default"
    with h5py.File(done.folder / "0000/classifier_coarse.h5") as file:
        assert file["projection"].shape == (6, 3) and file["mean"].shape == (91,)
        assert file["weights/00"].shape == (88, 8)
    with open(done.folder / "0000/predictions_coarse_validate.csv") as stream:
        predicted = {row["audio_filename"] for row in csv.DictReader(stream)}
    split_of = dict(line.split(",") for line in split_path.read_text().split()[1:])
    assert predicted == {row["audio_filename"] for row in annotations(city)
                         if row["annotator_id"] == "0" and split_of[row["sensor_id"]] == "validate"}
    scored = runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 0})
    assert set(scored.results[0]["metrics"]) == {"validate"}
    rows = [row for tab, row, _ in runner.records.rows if tab == "sonyc_ust"]
    assert [row["exp_id"] for row in rows] == [
        f"exp-{one['started']}-seed{one['seed']}" for one in told]
    assert {name: rows[0][name] for name in (
        "pca", "pca_components", "oversample", "oversample_iters", "thresh_type", "no_timestamp",
        "split_path")} == {
        "pca": True, "pca_components": 3, "oversample": "mlsmote", "oversample_iters": 2,
        "thresh_type": "percentile_20", "no_timestamp": False, "split_path": str(split_path)}


def test_what_is_not_asked_for_leaves_plans_and_tasks_as_they_were():
    frozen = params().model_dump(mode="json")
    assert set(frozen) == {
        "sonyc_ust", "annotations", "taxonomy", "level", "model", "hidden_layers", "hidden_size",
        "learning_rate", "l2", "batch_size", "epochs", "patience", "standardize", "seed"}
    assert classify.shards(params(), {}) == [{}] and classify.describe(params(), {}) == ""
    assert classify.shards(params(seeds=3, seed=2), {}) == [{"seed": 2}, {"seed": 3}, {"seed": 4}]


def test_recipes_set_what_is_not_set_explicitly():
    published = params(recipe="published")
    assert (published.learning_rate, published.epochs, published.patience, published.batch_size,
            published.hidden_layers, published.level, published.model) == (
        1e-5, 1500, 1500, 64, 0, "coarse", "mil")
    dcase = params(recipe="dcase2020", epochs=7)
    assert (dcase.hidden_layers, dcase.hidden_size, dcase.learning_rate, dcase.patience,
            dcase.epochs, dcase.metadata, dcase.targets, dcase.autopool_constraint) == (
        1, 128, 1e-3, 20, 7, True, "volunteers", False)
    for one in (published, dcase, params(recipe="dcase2020", metadata=False, targets="agreed"),
                params(metadata=True), params(pca_components=4)):
        assert params(**one.model_dump(mode="json")) == one
    assert "metadata" not in dcase.model_dump() and params(pca_components=4).pca
    assert dcase.all_values()["metadata"] is True


@pytest.mark.parametrize("values, text", [
    ({"recipe": "dcase2020"},
     "dcase2020 recipe: 1 hidden layer of 128, learning rate 0.001, 100 epochs; "
     "trained on volunteers' labels; metadata: place and time"),
    ({"recipe": "published", "oversample": "lssmote"},
     "published recipe: 0 hidden layers, learning rate 1e-05, 1,500 epochs; lssmote"),
    ({"pca_components": 32, "seeds": 5, "split_path": "/a/s.csv"},
     "split by sensor (s.csv); PCA of 32 components; 5 seeds")])
def test_the_preview_says_what_differs_from_the_default(values, text):
    assert classify.describe(params(**values), {}) == text


def test_the_preview_names_patience_and_oversampling_that_were_set():
    text = classify.describe(params(recipe="published", patience=30, oversample="mlsmote",
                                    oversample_iters=3, thresh_type="percentile_75"), {})
    assert "1,500 epochs, patience 30" in text
    assert "mlsmote, 3 iterations, rare above percentile_75" in text


def test_options_without_effect_and_impossible_ones_are_refused(city, tmp_path):
    ust = city / "sonyc_ust"
    for values, message in (
            ({"pca_components": 3, "pca": False}, "pca_components: has no effect"),
            ({"oversample_iters": 2}, "oversample_iters: has no effect without oversample"),
            ({"thresh_type": "percentile_5"}, "thresh_type: has no effect without oversample")):
        with pytest.raises(InputError, match=message):
            classify.check(params(sonyc_ust=ust, **values), {})
    for value in ("median", "percentile_0", "percentile_100"):
        with pytest.raises(ValidationError, match="write mean, or percentile_1 to percentile_99"):
            params(thresh_type=value)
    many = params(sonyc_ust=ust, pca_components=129)
    with pytest.raises(InputError, match="(?s)--pca-components 129: .* have 128 dim.*at most 128"):
        classify.check(many, {"train": train.params_type()})
    teacher = steps.step("embed").params_type(sonyc_ust=ust, student="untrained")
    with pytest.raises(InputError, match="--pca-components 1000: .* 512 dimensions"):
        classify.check(params(sonyc_ust=ust, pca_components=1000), {"embed": teacher})
    classify.check(many, {})  # of a student that is a published file the length is not known
    with pytest.raises(InputError, match="--pca-components 129: .* 64 dimensions"):
        classify.check_embeddings(many, "embed", {"embed"}, tmp_path, lambda dataset: 64)


def test_metadata_need_the_second_version_of_the_annotations(city, tmp_path):
    with open(city / "sonyc_ust/annotations.csv") as source:
        rows = list(csv.reader(source))
    with open(tmp_path / "annotations.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(row[:4] + row[12:] for row in rows)
    v1 = params(sonyc_ust=city / "sonyc_ust", annotations=tmp_path / "annotations.csv",
                recipe="dcase2020")
    with pytest.raises(InputError, match="(?s)annotations.csv:1: metadata needs the columns "
                                         "latitude, longitude, week, day, hour.*version 2"):
        classify.check(v1, {})


def test_a_split_that_does_not_fit_is_refused_before_anything_runs(city, tmp_path):
    sensors = sorted({row["sensor_id"] for row in annotations(city)})
    clips = Counter({row["audio_filename"]: row["sensor_id"]
                     for row in annotations(city)}.values())
    agreed = {row["sensor_id"] for row in annotations(city) if row["annotator_id"] == "0"}
    path = tmp_path / "split.csv"

    def refusal(splits):
        path.write_text("sensor_id,split\n" + "".join(
            f"{sensor},{split}\n" for sensor, split in splits.items()))
        with pytest.raises(InputError) as caught:
            classify.check(params(sonyc_ust=city / "sonyc_ust", split_path=path), {})
        return str(caught.value)

    gone = sensors[1]
    text = refusal({sensor: "train" for sensor in sensors if sensor != gone})
    assert f"does not list sensor '{gone}' of the annotations ({clips[gone]} clips)" in text
    assert f"Add a row '{gone},test'" in text
    assert "no sensor of the annotations is in split 'validate'" in refusal(
        dict.fromkeys(sensors, "train"))
    never = [sensor for sensor in sensors if sensor not in agreed]
    if never:
        text = refusal({sensor: "validate" if sensor in never else "train" for sensor in sensors})
        assert "nothing could be scored" in text


def test_a_split_counts_in_the_fingerprint_by_its_bytes(city, split_path, tmp_path):
    ust = city / "sonyc_ust"
    other = tmp_path / "copy.csv"
    other.write_bytes(split_path.read_bytes())
    one, two = (classify.digests(params(sonyc_ust=ust, split_path=path))
                for path in (split_path, other))
    assert one == two and set(classify.digests(params(sonyc_ust=ust))) == {
        "annotations", "taxonomy"}
    other.write_text(other.read_text() + "999,test\n")
    assert classify.digests(params(sonyc_ust=ust, split_path=other)) != one


@pytest.mark.slow
def test_options_of_the_network_reach_its_files_and_its_row(city, runner, embeddings, eager):
    options = {"sensor_factor": True, "proximity_factor": True, "cooccurrence_loss": True,
               "cooccurrence_loss_factor": 1e-3, "optimizer": "lbfgs",
               "autopool_constraint": False}
    done = runner.run("classify", {"sonyc_ust": city / "sonyc_ust", "epochs": 1, **options},
                      {"embed": embeddings})
    told = json.loads((done.folder / "0000/hyper_params.json").read_text())
    assert {name: told[name] for name in options} == options
    with h5py.File(done.folder / "0000/classifier_coarse.h5") as file:
        settings = json.loads(file.attrs["settings"])
        shapes = sorted(array.shape for array in file["weights"].values())
    sensors = sorted({row["sensor_id"] for row in annotations(city)}, key=int)
    assert settings["sensors"] == sensors and settings["config"]["optimizer"] == "lbfgs"
    # embeddings of 6 values, 8 categories: two heads, and the tags see what they say
    assert (6, len(sensors)) in shapes and (6, 16) in shapes
    assert (6 + len(sensors) + 16, 8) in shapes
    runner.run("evaluate", {"sonyc_ust": city / "sonyc_ust", "bootstrap": 0})
    row = next(row for tab, row, _ in runner.records.rows if tab == "sonyc_ust")
    assert row["learning_rate"] is None
    assert {name: row[name] for name in options if name != "autopool_constraint"} == {
        name: value for name, value in options.items() if name != "autopool_constraint"}


def test_options_of_the_network_that_mean_nothing_are_refused(city, tmp_path):
    ust = city / "sonyc_ust"
    for values, message in (
            ({"model": "framewise", "autopool_constraint": False}, "has no AutoPool"),
            ({"model": "framewise", "optimizer": "lbfgs", "standardize": False},
             "standardize: L-BFGS has no batches"),
            ({"model": "framewise", "recipe": "dcase2020"}, "has no AutoPool"),
            ({"hidden_size": 64}, "hidden_size: has no effect without hidden layers"),
            ({"cooccurrence_loss_factor": 0.1}, "has no effect without cooccurrence_loss"),
            ({"optimizer": "lbfgs", "learning_rate": 0.1}, "L-BFGS has no learning rate"),
            ({"oversample": "mlsmote", "sensor_factor": True}, "synthetic clips have no sensor"),
            ({"oversample": "lssmote", "proximity_factor": True},
             "synthetic clips have no proximity")):
        with pytest.raises(InputError, match=message):
            classify.check(params(sonyc_ust=ust, **values), {})
    factors = {"sensor_factor": True, "proximity_factor": True}
    classify.check(params(sonyc_ust=ust, **factors), {})
    classify.check(params(sonyc_ust=ust, optimizer="lbfgs", recipe="published"), {})
    rows = annotations(city)
    path = tmp_path / "annotations.csv"

    def write(columns, rows):
        with open(path, "w", newline="") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return params(sonyc_ust=ust, annotations=path, **factors)

    one = write(list(rows[0]), [{**row, "sensor_id": "3"} for row in rows])
    with pytest.raises(InputError, match="sensor_factor: all clips to train on are of one sensor"):
        classify.check(one, {})
    split = tmp_path / "split.csv"
    split.write_text("sensor_id,split\n" + "".join(
        f"{sensor},{'validate' if number else 'train'}\n" for number, sensor in enumerate(
            sorted({row["sensor_id"] for row in rows}))))
    with pytest.raises(InputError, match="sensor_factor: all clips to train on are of one sensor"):
        classify.check(params(sonyc_ust=ust, split_path=split, sensor_factor=True), {})
    late = write(list(rows[0]), [*rows[:-1], {**rows[-1], "hour": "24"}])
    with pytest.raises(InputError, match="hour is '24'"):
        classify.check(params(sonyc_ust=ust, annotations=late.annotations, metadata=True), {})
    for wrong in ({"seed": 2**32}, {"hidden_size": 100_000}):
        with pytest.raises(ValueError, match="less than or equal"):
            params(sonyc_ust=ust, **wrong)
    without = write([name for name in rows[0] if not name.endswith("_proximity")], rows)
    with pytest.raises(InputError, match="column '1-1_small-sounding-engine_proximity' is missing"):
        classify.check(without, {})
