"""What cannot run is refused while it is planned, with the reason."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.pipelines import plan, preview, sweep
from l3hpc.pipelines.definition import load_pipeline
from l3hpc.pipelines.packages import refuse_missing

from .test_plan import DATE, _corpus, build, configuration, write_embeddings  # noqa: F401


@pytest.mark.parametrize(("request_", "words"), [
    ({"options": {"mels": 512}}, ["--mels 512 leaves", "bins are 7.8 Hz apart"]),
    ({"options": {"emb-dim": 600}}, ["--emb-dim 600 is more than the teacher's 512"]),
    ({"options": {"samples": 100}}, ["--samples 100 is fewer than the 128 dimensions"]),
    ({"options": {"fmax": 5000.0}}, ["fmax", "4000"]),
    ({"options": {"dft": 1_000_000}}, ["dft"]),
    ({"options": {"epochs": 0}}, ["--epochs", "greater than or equal to 1"]),
    ({"options": {"epochs": 10**30}}, ["--epochs", "less than or equal to 1000000000"]),
    ({"sets": ["train.batch_size=9223372036854775807"]}, [
        "--set train.batch_size", "less than or equal to 1000000"]),
    ({"sets": ["train.seed=4294967296"]}, ["--set train.seed", "4294967295"]),  # Keras' limit
    ({"sets": ["train.learning_rate=1e-320"]}, [
        "--set train.learning_rate", "greater than or equal to 0.000000000001"]),
    ({"sets": ["extract.min_seconds=1e308"]}, ["--set extract.min_seconds", "86400"]),
    ({"options": {"level": "fine"}}, [
        "has no option --level", "it offers: --precision, --extract-engine, --approx"]),
    ({"sets": ["trian.epochs=3"]}, ["no step 'trian'", "did you mean 'train'?"]),
    ({"sets": ["train.epoch=3"]}, ["no parameter 'epoch'", "did you mean 'epochs'?"]),
    ({"sets": ["train.epochs=many"]}, ["--set train.epochs", "valid integer", "'many'"]),
    ({"sets": ["train.mem=lots"]}, ["'lots' is not an amount of memory"]),
    ({"sets": ["train.cpus=0"]}, ["--set train.cpus"]),
    ({"sets": ["epochs=3"]}, ["not STEP.NAME=VALUE"]),
    ({"sets": ["train.epochs"]}, ["not STEP.NAME=VALUE"]),
    ({"start": "trian"}, ["no step 'trian' to start from", "did you mean 'train'?"]),
    ({"start": "train"}, ["train needs the output of", "--embedding-dir"]),
    ({"start": "reduce"}, ["reduce needs the output of"]),
    ({"sets": ["sample.timezone=America/New_Yrok"]}, ["unknown time zone"]),
])
def test_impossible_wishes_are_refused(request_, words):
    with pytest.raises(InputError) as error:
        build(**request_)
    for word in words:
        assert word in str(error.value)
    assert not Path("workspace").exists()


def test_missing_audio_and_teacher_say_how_to_name_them():
    with pytest.raises(InputError, match="paths.audio is not set") as error:
        build(settings=configuration(audio=None))
    assert "--audio-dir" in str(error.value) and "AUDIO_DIR" in str(error.value)
    with pytest.raises(InputError, match="paths.weights is not set") as error:
        build(settings=configuration(weights=None))
    assert "untrained" in str(error.value)


def test_all_paths_that_are_not_set_are_reported_at_once():
    with pytest.raises(InputError) as error:
        build(settings=configuration(audio=None, weights=None))
    assert error.value.message == (
        "extract needs audio and weights: paths.audio and paths.weights are not set")
    assert error.value.hint == (
        "use --audio-dir PATH and --weights PATH (or --weights untrained: random weights, for "
        "demonstration only), or set paths.audio and paths.weights in cluster.yaml (or AUDIO_DIR "
        "and L3_MODEL_PATH)")
    with pytest.raises(InputError) as error:
        plan.build(load_pipeline("all"), configuration(audio=None, weights=None),
                   plan.Request())
    assert "paths.audio, paths.weights and paths.sonyc_ust are not set" in error.value.message
    with pytest.raises(InputError) as error:
        plan.build(load_pipeline("downstream"), configuration(weights=None),
                   plan.Request(teacher=True))
    assert error.value.message == (
        "embed needs sonyc_ust and teacher: paths.sonyc_ust and paths.weights are not set")


def test_a_target_of_another_length_is_refused_before_submission():
    Path("published").mkdir()
    settings = configuration(weights=None, embeddings="published")
    Path("published/x.h5").write_bytes(b"x")
    with pytest.raises(InputError, match="x.h5"):
        build(settings=settings, start="train")
    write_embeddings("published/x.h5", 512)
    with pytest.raises(InputError, match="have 512 dimensions, the student 128") as error:
        build(settings=settings, start="train")
    assert error.value.where == "--emb-dim" and "--emb-dim 512" in str(error.value)
    assert build(settings=settings, start="train", options={"emb-dim": 512}).steps
    assert build(settings=settings, start="sample").steps  # φ makes 128 of them


@pytest.mark.parametrize("executor", ["local", "slurm"])
@pytest.mark.parametrize(("change", "known"), [
    ({}, True), ({"python": sys.executable + "3"}, True), ({"python": "/elsewhere/python"}, False),
    ({"setup": ("module load umap",)}, False), ({"env": {"PYTHONPATH": "/elsewhere"}}, False),
    ({"container": ("apptainer", "exec", "image.sif")}, False)])
def test_a_missing_package_is_refused_wherever_the_jobs_python_can_be_asked(
        executor, change, known, monkeypatch, tmp_path):
    """A job that fits a UMAP would otherwise fail after hours of extract."""
    other = tmp_path / "python"  # the same installation, started by another name
    other.symlink_to(sys.executable)
    if change.get("python") == sys.executable + "3":
        change = {"python": str(other)}
    profile = configuration().profile.model_copy(update={"executor": executor, **change})
    packages = {"l3hpc_no_such_package": "pip install it", "json": ""}
    if not known:
        refuse_missing("fit", packages, profile)
        return
    with pytest.raises(InputError, match="fit needs the package 'l3hpc_no_such_package'") as found:
        refuse_missing("fit", packages, profile)
    assert str(profile.python) in str(found.value) and "pip install it" in str(found.value)


@pytest.mark.parametrize("way", [
    lambda: build(options={"approx": "tsne"}), lambda: build(sets=["fit.approx=tsne"]),
    lambda: sweep.build("upstream", configuration(), plan.Request(),
                        sweep.parse_grid(["approx=pca,tsne"]), date=DATE, user="you")])
def test_t_sne_is_refused_with_the_reason_on_every_way_in(way):
    with pytest.raises(InputError, match="no transform for others"):
        way()


def test_a_missing_package_is_refused_where_this_python_runs_the_job(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="fit needs the package 'umap'") as refused:
        build(options={"approx": "umap"})
    assert install_command("umap") in str(refused.value)
    build(options={"approx": "pca"})


def on_slurm(**change):
    """The configuration of a Slurm cluster, with the packages that any precision needs."""
    loaded = configuration()
    profile = loaded.profile.model_copy(update={
        "executor": "slurm", "gpu_request": "gres", "container": ("image.sif",),
        **change})
    return replace(loaded, profile=profile)


@pytest.mark.parametrize(("sets", "words"), [
    (["extract.precision=int8"], "int8 runs on the CPU, and each task of extract requests 1 GPU"),
    (["extract.precision=tf32", "extract.gpus=0"], "tf32 needs a GPU"),
    (["train.engine=torch", "train.precision=tf32", "train.gpus=0"], "tasks of train request none"),
])
def test_gpus_with_which_the_tasks_would_fail_are_refused(sets, words):
    with pytest.raises(InputError, match=words) as refused:
        build(settings=on_slurm(), sets=sets)
    advised = refused.value.hint.partition("--set ")[2]
    build(settings=on_slurm(), sets=[*(text for text in sets if ".gpus=" not in text), advised])
    # where l3hpc requests no GPUs, it does not know what a task has
    build(settings=on_slurm(gpu_request="none"), sets=sets)


def test_idle_gpus_are_noted_in_the_preview():
    for count, noted in ((1, False), (4, True)):
        made = build(settings=on_slurm(), sets=["train.engine=torch", f"train.gpus={count}"])
        assert ("3 of 4 would be idle" in preview.descriptions(made)["train"]) == noted
    made = build(settings=on_slurm(), sets=["train.gpus=4"])
    assert "idle" not in preview.descriptions(made)["train"]
