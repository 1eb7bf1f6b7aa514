"""What is refused before anything is submitted, in words that name the option."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.steps.embed import student_file
from l3hpc.teachers.find import fingerprint

classify, embed, evaluate, extract, fit, sample, train = map(steps.step, (
    "classify", "embed", "evaluate", "extract", "fit", "sample", "train"))


def plan(**changes):
    """The parameters of a whole upstream plan, with changes as step__parameter=value."""
    values = {"extract": {"audio": "/audio"}, "sample": {}, "fit": {}, "reduce": {}, "train": {}}
    for name, value in changes.items():
        step, parameter = name.split("__")
        values[step][parameter] = value
    return {name: steps.step(name).params_type(**one) for name, one in values.items()}


def check(step, params):
    steps.step(step).check(params[step], params)


def describe(step, params):
    return steps.step(step).describe(params[step], params)


def refusal(step, **changes):
    with pytest.raises(InputError) as caught:
        check(step, plan(**changes))
    return str(caught.value)


def test_the_default_plan_is_accepted():
    for name in ("extract", "sample", "fit", "reduce", "train"):
        check(name, plan())


def test_more_dimensions_than_the_teacher():
    text = refusal("fit", fit__emb_dim=513, train__emb_dim=513)
    assert "--emb-dim 513 is more than the teacher's 512 dimensions." in text
    assert "Use at most --emb-dim 512." in text


def test_fewer_samples_than_dimensions():
    text = refusal("fit", sample__samples=100)
    assert "--samples 100 is fewer than the 128 dimensions to keep." in text
    assert "Use at least --samples 128" in text


@pytest.mark.parametrize(("settings", "words"), [
    ({"approx": "umap", "kernel": "rbf"}, "--approx umap has no kernel"),
    ({"gamma": 0.5}, "gamma is set, but the kernel linear does not use it"),
    ({"landmarks": 900}, "landmarks is set"),
    ({"kernel": "rbf", "degree": 2}, "degree is set, but the kernel rbf"),
    ({"kernel": "rbf", "mode": "float32"}, "kernel PCA is computed in float64 only"),
    ({"kernel": "poly", "landmarks": 100}, "100 landmarks cannot give 128 dimensions")])
def test_settings_of_a_kernel_that_is_not_used(settings, words):
    assert words in refusal("fit", **{f"fit__{name}": value for name, value in settings.items()})


def test_a_kernel_pca_may_have_more_dimensions_than_the_teacher():
    check("fit", plan(fit__emb_dim=600, fit__kernel="rbf"))
    check("fit", plan(fit__kernel="poly", fit__degree=2, fit__coef0=0.5, fit__gamma=0.1))


def test_mels_that_leave_bands_empty():
    text = refusal("train", train__mels=512)
    assert "--mels" in text
    assert "of 512 mel bands empty" in text


@pytest.mark.parametrize(("change", "option"), [
    ({"train__hop": 2000}, "--hop"), ({"train__dft": 9000}, "--dft"),
    ({"train__fmax": 5000.0}, "--fmax"), ({"train__emb_dim": 100}, "--emb-dim")])
def test_a_student_that_cannot_be_built(change, option):
    assert option in refusal("train", **change)


def test_student_and_target_of_different_length():
    text = refusal("train", train__emb_dim=64)
    assert "the student has 64 dimensions but φ gives 128." in text
    assert "--emb-dim" in text


def test_without_reduction_the_student_is_as_long_as_the_teacher():
    assert "Use --emb-dim 512" in refusal("train", fit__approx="none")
    check("train", plan(fit__approx="none", train__emb_dim=512))


def test_unknown_time_zone_suggests_the_nearest():
    text = refusal("sample", sample__timezone="America/New_Yrok")
    assert "America/New_York" in text


def test_umap_needs_more_rows_than_neighbours():
    assert "fit.n_neighbors" in refusal("fit", fit__approx="umap", sample__samples=128,
                                        fit__n_neighbors=200)


def test_missing_weight_file(tmp_path):
    with pytest.raises(InputError, match="no weight file"):
        fingerprint(str(tmp_path / "none.h5"))
    assert fingerprint("untrained:3") == "untrained:3"


def test_embed_needs_exactly_one_kind_of_audio():
    for values, complaint in (
            ({}, "embed has no recordings"),
            ({"audio": "/a", "sonyc_ust": "/b"}, "embed.sonyc_ust and embed.audio are both set")):
        with pytest.raises(InputError, match=complaint) as error:
            embed.check(embed.params_type(**values), {})
        assert error.value.allowed.startswith("exactly one of --table FILE (submit clips), ")
    with pytest.raises(InputError, match="no student is given"):
        student_file(None)


def test_labels_must_be_named():
    with pytest.raises(InputError, match="annotations"):
        classify.check(classify.params_type(), {})
    with pytest.raises(InputError, match="no such file"):
        evaluate.check(evaluate.params_type(annotations="/none.csv", taxonomy="/n.yaml"), {})


def test_the_published_recipe_fills_what_is_not_stated():
    published = train.params_type(recipe="published")
    values = published.model_dump(mode="json")
    assert {name: values[name] for name in (
        "head", "epochs", "epoch_size", "validation_epoch_size", "batch_size",
        "validation_batch_size", "bn_momentum", "schedule", "patience", "min_delta",
        "plateau_patience", "plateau_factor", "seed")} == {
        "head": "relu", "epochs": 300, "epoch_size": 4096, "validation_epoch_size": 1024,
        "batch_size": 64, "validation_batch_size": 64, "bn_momentum": 0.99, "schedule": "plateau",
        "patience": 10, "min_delta": 1e-4, "plateau_patience": 5, "plateau_factor": 0.1,
        "seed": 20180216}
    assert [published.rate_for(approx) for approx in ("pca", "umap", "none")] == [1e-4, 1e-4, 1e-5]
    assert train.params_type(recipe="published", learning_rate=3e-3).rate_for("none") == 3e-3
    assert train.params_type(recipe="published", head="linear").head == "linear"
    assert train.params_type.model_validate(values) == published


def test_a_recipe_by_name_is_described_with_what_it_comes_to():
    own = train.params_type(recipe="published", epochs=7)
    text = "published recipe: relu head, 7 epochs of 4,096 batches"
    assert describe("train", {"train": own, "fit": fit.params_type(emb_dim=128),
                              "extract": extract.params_type(audio="a", weights="w")}).endswith(
        f"584,420 parameters; {text}, learning rate 0.0001")
    assert describe("train", {"train": own, "extract": extract.params_type(audio="a", weights="w")}
                          ).endswith(f"{text}, learning rate 1e-05")
    assert describe("train", {"train": own}).endswith(text)
    assert describe("train", {"train": train.params_type()}).endswith("584,420 parameters")


def test_unknown_parameters_and_values_out_of_range_are_refused():
    for module, values in ((sample, {"sampels": 3}), (sample, {"samples": 0}),
                           (fit, {"approx": "tsne"}), (train, {"validation_share": 1.0})):
        with pytest.raises(ValidationError):
            module.params_type(**values)


def test_every_parameter_is_described():
    for name in steps.BUILT_IN:
        module = steps.step(name)
        for field, info in module.params_type.model_fields.items():
            assert info.description, f"{name}.{field}"
        assert set(module.params_type.model_fields) >= module.not_in_fingerprint


def test_steps_load_without_the_heavy_libraries():
    code = ("import sys, l3hpc.steps as s\n"
            "for name in s.BUILT_IN: s.step(name)\n"
            "print([m for m in ('numpy', 'h5py', 'tensorflow', 'pandas', 'sklearn', 'scipy')"
            " if m in sys.modules])")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           check=True)
    assert found.stdout.strip() == "[]"


def test_samples_are_shared_among_sensors():
    parts = [{"sensors": ["a"]}, {"sensors": ["a", "b"]}, {"sensors": ["c"]}]
    assert sample.shards(sample.params_type(samples=10), {"extract": parts}) == [
        {"sensor": "a", "samples": 4, "parts": [0, 1]},
        {"sensor": "b", "samples": 4, "parts": [1]},
        {"sensor": "c", "samples": 4, "parts": [2]}]
    assert sample.shards(sample.params_type(samples=10), {"extract": []}) == [
        {"sensor": None, "samples": 10, "parts": None}]


def test_recordings_of_a_sensor_stay_together(tmp_path):
    for name in ("b/1.wav", "a/2.wav", "a/1.wav", "c/1.wav", "b/2.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    shards = extract.shards(extract.params_type(audio=tmp_path, files_per_task=2), {})
    assert [[one[0] for one in shard["recordings"]] for shard in shards] == [
        ["a/1.wav", "a/2.wav"], ["b/1.wav", "b/2.wav"], ["c/1.wav"]]
    assert [shard["sensors"] for shard in shards] == [["a"], ["b"], ["c"]]


def test_what_a_person_reads_about_a_plan():
    params = plan(sample__samples=500000)
    assert describe("sample", params) == "dpp, 500,000 rows, by day, seed 20180216"
    assert describe("fit", params) == "pca: 512 → 128"
    assert describe("fit", plan(fit__kernel="rbf")) == "kernel PCA (RBF): 512 → 128"
    assert describe("train", params) == (
        "student 128-d, 8000 Hz, 64 mels, hop 160, DFT 1024, 584,420 parameters")
    assert sample.summary([{"rows": 276, "frames": 3, "diverse": 264, "timescale": "day"}]) == (
        "276 rows, 88 of 92 per day in the diverse part")
    assert sample.summary([{"rows": 70, "frames": 7, "short_frames": 3, "timescale": "week"}]) == (
        "70 rows, 10 per week; fewer than requested in 3 of 7 weeks")


def test_a_student_that_is_none_is_refused_before_submission(tmp_path):
    path = tmp_path / "student.h5"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        embed.check(embed.params_type(audio=tmp_path, student=str(path)), {})
