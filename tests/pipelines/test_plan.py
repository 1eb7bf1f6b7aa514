import datetime
import json
import os
import shutil
import wave
from pathlib import Path

import h5py
import numpy as np
import pytest

from l3hpc import steps
from l3hpc.config import settings as config
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.pipelines import plan, preview
from l3hpc.schedulers import scripts
from l3hpc.workspace import records
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord

DATE = datetime.date(2026, 11, 20)


@pytest.fixture(autouse=True)
def _corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for sensor in ("a", "b"):
        for number in range(3):
            path = Path("audio", sensor, f"{number}.wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes(bytes(16000))


def configuration(cluster=None, **paths):
    given = {"audio": "audio", "weights": "untrained", **paths}
    overrides = {f"paths.{key}": (value, f"--{key}") for key, value in given.items() if value}
    return config.load(cluster=cluster, environ={}, overrides=overrides)


def build(pipeline="upstream", settings=None, **request):
    return plan.build(pipeline, settings or configuration(), plan.Request(**request), date=DATE,
                      user="you")


def step(made, name):
    return next(item for item in made.steps if item.name == name)


def prints(made):
    return {item.name: item.fingerprint for item in made.steps}


def finish(item, count=None):
    """Pretend that the first ``count`` tasks of a planned step are done."""
    for index in range(item.tasks if count is None else count):
        folder = item.artifact / f"{index:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text("{}")
    (item.artifact / "config.json").write_text(json.dumps(item.config("r")))


def record(made, state="submitted", **changes):
    """Pretend that a plan was submitted."""
    entries = [StepRecord(name=item.name, kind=item.kind, artifact=str(item.artifact),
                          tasks=item.tasks, needs=list(item.needs), state="submitted",
                          job=str(100 + number), attempts=[Attempt(
                              str(100 + number), array=item.tasks > 1,
                              tasks=list(range(item.tasks)), time=1.0)])
               for number, item in enumerate(made.steps)]
    values = {"run": made.run, "pipeline": made.pipeline, "cluster": made.profile.name,
              "created": 1.0, "user": "you", "host": "h", "command": [], "options": {},
              "state": state, "steps": entries, **changes}
    records.write(made.workspace, RunRecord(**values))


def test_a_plan_is_the_same_every_time_and_touches_nothing():
    before = sorted(Path().rglob("*"))
    assert build() == build()
    assert sorted(Path().rglob("*")) == before


def test_steps_inputs_and_folders():
    made = build()
    assert [item.name for item in made.steps] == ["extract", "sample", "fit", "reduce", "train"]
    train = step(made, "train")
    assert train.needs == ("extract", "reduce")
    assert train.inputs == {"extract": str(step(made, "extract").artifact),
                            "reduce": str(step(made, "reduce").artifact)}
    assert train.artifact == made.workspace / "artifacts" / "train" / train.fingerprint
    assert len(train.fingerprint) == 16 and int(train.fingerprint, 16) >= 0
    assert [shard["sensor"] for shard in step(made, "sample").shards] == ["a", "b"]
    assert train.labels["model_dir"] == str(made.folder.artifact("train"))
    assert train.labels["username"] == "you" and train.labels["exp_id"] == made.run
    assert json.loads(json.dumps(train.config(made.run)))["version"] == steps.step("train").version


def test_the_name_carries_pipeline_date_and_content():
    made = build()
    assert made.run.startswith("upstream-20261120-") and len(made.run) == len(
        "upstream-20261120-1a2b")
    other = build(options={"asr": 16000})
    assert other.run != made.run
    assert build(name="mine").run == made.run.replace("upstream", "mine")
    made.folder.path.mkdir(parents=True)
    assert build().run == made.run + "-2"
    (made.workspace / "runs" / (made.run + "-2")).mkdir()
    assert build().run == made.run + "-3"


@pytest.mark.parametrize("name", ["-x", "a b", "a/b", "..", "", "$(id)", "a\nb", "x" * 65, "é"])
def test_a_name_that_could_do_harm_is_refused(name):
    with pytest.raises(InputError, match="is not a valid run name"):
        plan.check_name(name)


def test_resources_cluster_and_logs_do_not_change_fingerprints():
    Path("cluster.yaml").write_text("clusters: {far: {partition: x, python: python3}}\n")
    base = prints(build())
    assert prints(build(sets=["train.mem=1GB", "train.time=5h", "extract.cpus=1"])) == base
    assert prints(build(settings=configuration("far"))) == base
    assert prints(build(settings=configuration(workspace="elsewhere"))) == base
    assert prints(build(name="other")) == base


def test_places_do_not_change_fingerprints_but_content_does():
    base = prints(build())
    shutil.copytree("audio", "moved")
    assert prints(build(settings=configuration(audio="moved"))) == base
    Path("audio/a/0.wav").write_bytes(Path("audio/a/0.wav").read_bytes() + b"xx")
    changed = prints(build())
    assert all(changed[name] != base[name] for name in base)


def test_a_change_reaches_exactly_the_steps_behind_it():
    base = prints(build())
    changed = prints(build(options={"samples": 400}))
    assert {name for name in base if base[name] != changed[name]} == {
        "sample", "fit", "reduce", "train"}
    changed = prints(build(options={"epochs": 3}))
    assert {name for name in base if base[name] != changed[name]} == {"train"}


def test_the_version_of_a_step_counts(monkeypatch):
    base = prints(build())
    monkeypatch.setattr(steps.step("reduce"), "version", 99)
    changed = prints(build())
    assert {name for name in base if base[name] != changed[name]} == {"reduce", "train"}


def test_what_was_done_before_is_seen():
    made = build(sets=["extract.files_per_task=2"])
    assert step(made, "extract").tasks == 3 and step(made, "extract").state == "to run"
    finish(step(made, "extract"), 2)
    again = step(build(sets=["extract.files_per_task=2"]), "extract")
    assert again.done == (0, 1) and again.missing == (2,) and again.state == "partly done"
    finish(step(made, "extract"))
    assert step(build(sets=["extract.files_per_task=2"]), "extract").state == "done before"


def test_approx_none_learns_the_teacher():
    made = build(options={"approx": "none"})
    assert [item.name for item in made.steps] == ["extract", "train"]
    train = step(made, "train")
    assert train.needs == ("extract",) and train.params["emb_dim"] == 512
    with pytest.raises(InputError, match=r"--samples has no effect: fit.approx=none skips sample"):
        build(options={"approx": "none", "samples": 9000})
    build(options={"approx": "none", "seed": 3})  # train uses it too
    with pytest.raises(InputError, match="needs the teacher's 512 dimensions"):
        build(options={"approx": "none", "emb-dim": 64})


def test_options_and_sets_reach_their_parameters():
    made = build(options={"emb-dim": 64, "asr": 16000, "filters": None},
                 sets=["train.fmax=6000", "train.tensorboard=true", "sample.timescale=week",
                       "train.checkpoint_batches=null"])
    assert step(made, "fit").params["emb_dim"] == step(made, "train").params["emb_dim"] == 64
    train = step(made, "train").params
    assert (train["asr"], train["fmax"], train["tensorboard"]) == (16000, 6000.0, True)
    assert train["checkpoint_batches"] is None
    assert step(made, "sample").params["timescale"] == "week"
    assert made.options == {"emb-dim": 64, "asr": 16000, "set": [
        "train.fmax=6000", "train.tensorboard=true", "sample.timescale=week",
        "train.checkpoint_batches=null"]}


def test_resources_pipeline_then_profile_then_person():
    Path("cluster.yaml").write_text(
        "clusters: {far: {steps: {train: {mem: 64GB, gpus: 2}}, limits: {mem: 100GB}}}\n")
    far = configuration("far")
    assert step(build(settings=far), "train").resources == Resources(4, 65536, 2, 1440)
    made = build(settings=far, sets=["train.mem=16GB", "train.time=2h"])
    assert step(made, "train").resources == Resources(4, 16384, 2, 120)
    with pytest.raises(InputError, match="train requests 200 GB of memory; far allows 100 GB"):
        build(settings=far, sets=["train.mem=200GB"])


def test_an_empty_folder_is_nothing_to_do():
    Path("empty").mkdir()
    with pytest.raises(InputError):
        build(settings=configuration(audio="empty"))


def test_arrays_above_the_sites_limit_are_split():
    Path("cluster.yaml").write_text("clusters: {far: {limits: {array: 4}}}\n")
    made = build(settings=configuration("far"), sets=["extract.files_per_task=1"])
    assert [(part.offset, part.tasks, [*part.elements]) for part in
            scripts.parts(made, step(made, "extract"))] == [
        (0, (0, 1, 2, 3), [0, 1, 2, 3]), (4, (4, 5), [0, 1])]


def test_several_tasks_in_one_job_change_nothing_of_the_content():
    alone = step(build(sets=["extract.files_per_task=1"]), "extract")
    Path("cluster.yaml").write_text("clusters: {far: {steps: {extract: {pack: 4}}}}\n")
    for more, pack in (((), 4), (("extract.pack=2",), 2), (("extract.pack=100",), 6)):
        made = build(settings=configuration("far"), sets=["extract.files_per_task=1", *more])
        packed = step(made, "extract")
        assert packed.resources.pack == pack
        assert packed.fingerprint == alone.fingerprint
        assert preview.as_json(made)["steps"][0]["resources"]["pack"] == pack
    assert "pack" not in preview.as_json(build())["steps"][0]["resources"]
    assert step(made, "sample").resources.pack == 1
    with pytest.raises(InputError, match="'0' is not a number of tasks") as no:
        build(sets=["extract.pack=0"])
    assert no.value.where == "--set extract.pack"


def write_embeddings(path, dim):
    """Three rows, and their audio in the folder of audio."""
    with h5py.File(path, "w") as file:
        file["l3_embedding"] = np.zeros((3, dim), np.float32)
    audio = Path("audio", *Path(path).parts[1:])
    audio.parent.mkdir(exist_ok=True)
    with h5py.File(audio, "w") as file:
        file["audio"] = np.zeros((3, 8000), np.int16)


def test_start_from_published_embeddings():
    Path("published/train").mkdir(parents=True)
    write_embeddings("published/train/x.h5", 128)
    settings = configuration(weights=None, embeddings="published")
    made = build(settings=settings, start="train")
    assert [item.name for item in made.steps] == ["train"]
    train = made.steps[0]
    assert train.inputs == {"reduce": str(Path("published").resolve())}
    assert train.params["audio_dir"] == str(Path("audio").resolve())
    before = train.fingerprint
    os.utime("published/train/x.h5", (1, 1))
    assert build(settings=settings, start="train").steps[0].fingerprint != before
    made = build(settings=settings, start="sample")
    assert [item.name for item in made.steps] == ["sample", "fit", "reduce", "train"]
    assert step(made, "sample").inputs == {"extract": str(Path("published").resolve())}
    assert step(made, "reduce").inputs["extract"] == str(Path("published").resolve())


def test_an_input_by_run_or_artifact():
    made = build()
    finish(step(made, "fit"))
    record(made)
    folder = str(step(made, "fit").artifact)
    Path("published").mkdir()
    write_embeddings("published/x.h5", 128)
    settings = configuration(embeddings="published")
    for word in (made.run, folder, "latest", "latest/fit"):
        again = build(settings=settings, start="reduce", inputs={"fit": word})
        assert step(again, "reduce").inputs["fit"] == folder
    both = build(start="train", inputs={"reduce": "published"})
    assert both.steps[0].inputs == {"reduce": str(Path("published").resolve())}
    with pytest.raises(InputError, match="neither a folder nor a run"):
        build(start="train", inputs={"reduce": "nowhere"})
    with pytest.raises(InputError, match="unknown step 'redcue'"):
        build(start="train", inputs={"redcue": "published"})


def test_a_list_may_be_set_with_commas_alone():
    made = build(sets=["train.filters=32,32,64,64,128,128,32,32", "train.emb_dim=32",
                       "fit.emb_dim=32"])
    assert step(made, "train").params["filters"] == [32, 32, 64, 64, 128, 128, 32, 32]


def test_a_width_is_the_filters_that_follow_from_it():
    """The plan holds the filters alone: one network has one fingerprint, however it is stated."""
    narrow = build(options={"emb-dim": 32, "width": 0.25})
    assert step(narrow, "train").params["filters"] == [16, 16, 32, 32, 64, 64, 32, 32]
    assert "width" not in step(narrow, "train").params
    assert prints(narrow) == prints(build(
        options={"emb-dim": 32, "filters": [16, 16, 32, 32, 64, 64, 32, 32]}))
    assert prints(build(options={"width": 0.5})) == prints(build())
    assert prints(build(options={"width": 1.0}))["train"] != prints(build())["train"]
    assert step(build(options={"emb-dim": 32}), "train").params["filters"] is None
    with pytest.raises(InputError, match="either width or filters"):
        build(options={"width": 0.25, "filters": [8] * 8, "emb-dim": 8})
    with pytest.raises(InputError, match="less than or equal to 1"):
        build(options={"width": 1.5})


@pytest.mark.parametrize(("core", "gpu", "text"), [
    (0.0, 0.0, "0 core-hours"), (0.0099, 0.0, "less than 0.01 core-hours"),
    (0.01, 0.0, "0.01 core-hours"), (0.996, 1.0, "1 core-hour and 1 GPU-hour"),
    (4320.4, 336.0, "4,320 core-hours and 336 GPU-hours")])
def test_a_cost_in_words(core, gpu, text):
    assert preview.Cost(core, gpu).as_text() == text


def test_the_cost_names_the_last_run_in_which_the_same_steps_are_done():
    def done(made, hours):
        for item in made.steps:
            finish(item)
            for path in item.artifact.glob("*/result.json"):
                path.write_text(json.dumps(
                    {"started": 0.0, "finished": 1.0, "elapsed_s": hours * 3600}))

    def with_resources(made):
        for path in made.workspace.glob("runs/*/run.json"):
            text = json.loads(path.read_text())
            for entry in text["steps"]:
                entry["resources"] = {"cpus": 2, "gpus": 1}
            path.write_text(json.dumps(text))

    first = build()
    assert preview.cost_text(first).startswith("limit: ")
    assert preview.last_cost(first) is None
    record(first)
    done(first, 0.5)
    with_resources(first)
    assert preview.cost_text(build()) == "nothing is left to compute"
    again = build(options={"asr": 16000})  # train alone is to run: one task of the last run's six
    assert preview.last_cost(again) == (first.run, preview.Cost(1.0, 0.5))
    assert preview.cost_text(again).endswith(
        f"; the last similar run used 1 core-hour and 0.5 GPU-hours ({first.run})")
    assert preview.as_json(again)["cost"]["last"] == {
        "core_hours": 1.0, "gpu_hours": 0.5, "run": first.run}
    more = build(sets=["extract.files_per_task=2"])  # three tasks of extract; another sample
    assert preview.last_cost(more)[1].gpu_hours == pytest.approx(0.5 * sum(
        len(item.missing) for item in more.steps))
    record(again, created=2.0)  # it has not finished train, and so says nothing
    assert preview.last_cost(build(options={"hop": 80}))[0] == first.run


def test_a_kernel_makes_another_artifact_and_its_default_the_same():
    plain, linear, rbf, wide = (prints(build(**request)) for request in (
        {}, {"options": {"kernel": "linear"}}, {"options": {"kernel": "rbf"}},
        {"options": {"kernel": "rbf"}, "sets": ["fit.gamma=0.5"]}))
    assert plain == linear
    assert len({one["fit"] for one in (plain, rbf, wide)}) == 3
    assert plain["sample"] == rbf["sample"]
