import datetime
import json
import os
import shutil
import sys
import wave
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from l3hpc import steps
from l3hpc.config import settings as config
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.pipelines import external_inputs, plan, preview, sweep
from l3hpc.pipelines.packages import refuse_missing
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


@pytest.mark.parametrize(("request_", "words"), [
    ({"options": {"mels": 512}}, ["--mels 512 leaves", "bins are 7.8 Hz apart"]),
    ({"options": {"emb-dim": 600}}, ["--emb-dim 600 is more than the teacher's 512"]),
    ({"options": {"samples": 100}}, ["--samples 100 is fewer than the 128 dimensions"]),
    ({"options": {"fmax": 5000.0}}, ["fmax", "4000"]),
    ({"options": {"dft": 1_000_000}}, ["dft"]),
    ({"options": {"epochs": 0}}, ["--epochs", "greater than or equal to 1"]),
    ({"options": {"level": "fine"}}, [
        "has no option --level", "it offers: --precision, --extract-engine, --approx"]),
    ({"sets": ["trian.epochs=3"]}, ["no step 'trian'", "did you mean 'train'?"]),
    ({"sets": ["train.epoch=3"]}, ["no parameter 'epoch'", "did you mean 'epochs'?"]),
    ({"sets": ["train.epochs=many"]}, ["--set train.epochs", "valid integer", "'many'"]),
    ({"sets": ["train.mem=lots"]}, ["'lots' is not an amount of memory"]),
    ({"sets": ["train.cpus=0"]}, ["--set train.cpus"]),
    ({"sets": ["epochs=3"]}, ["not step.parameter=value"]),
    ({"sets": ["train.epochs"]}, ["not step.parameter=value"]),
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


@pytest.fixture
def ust(monkeypatch):
    """downstream without its data sets: only the plan is looked at."""
    for kind in ("embed", "classify", "evaluate"):
        module = steps.step(kind)
        monkeypatch.setattr(module, "check", lambda params, plan: None)
        monkeypatch.setattr(module, "digests", lambda params: {})
        monkeypatch.setattr(module, "shards", lambda params, upstream: [{}])
    return configuration(sonyc_ust="ust")


def test_the_latest_student_is_found(ust):
    with pytest.raises(InputError, match="no run in .* has trained a student") as error:
        build("downstream", ust)
    assert "l3hpc submit upstream" in str(error.value)
    made = build()
    finish(step(made, "train"))
    record(made)
    down = build("downstream", ust)
    embed = step(down, "embed")
    assert embed.inputs == {"train": str(step(made, "train").artifact)} and embed.waits_for == ()
    assert step(down, "evaluate").labels["student_run"] == made.run
    assert f"embed: student of {made.run}" in preview.as_text(down)
    [shown] = [one for one in preview.as_json(down)["steps"] if one["name"] == "embed"]
    assert shown["given"] == {"train": {"run": made.run, "path": embed.inputs["train"],
                                         "step": "train"}}
    assert step(down, "evaluate").labels["model_dir"] == str(made.folder.artifact("train"))
    newer = build(options={"epochs": 2})
    record(newer, created=2.0, state="refused")  # has made nothing and never will
    assert step(build("downstream", ust), "embed").inputs == embed.inputs
    assert step(build("downstream", ust, student=made.run), "embed").inputs == embed.inputs
    with pytest.raises(InputError, match="has no finished train") as error:
        build("downstream", ust, student=newer.run)
    assert made.run in str(error.value)
    with pytest.raises(InputError, match="neither a run nor a file") as error:
        build("downstream", ust, student="upstraem")
    assert "hear:package.module" in str(error.value)
    with pytest.raises(InputError, match="random weights cannot be a student") as error:
        build("downstream", ust, student="untrained")
    assert "hear:package.module" in str(error.value)
    assert "--teacher --weights untrained" in str(error.value)


def test_one_of_the_students_of_a_sweep_has_to_be_named(ust):
    grid = sweep.parse_grid(["emb-dim=64,128"])
    made = sweep.build("upstream", ust, plan.Request(), grid, date=DATE, user="you").plan
    record(made, options=made.options)
    for name in ("train-64", "train-128"):
        finish(step(made, name))
    every = (f"{made.run}/train-64 (emb-dim=64); {made.run}/train-128 (emb-dim=128)")
    for request in ({"student": made.run}, {"student": "latest"}, {},
                    {"inputs": {"train": made.run}}):
        with pytest.raises(InputError, match="has several train steps") as error:
            build("downstream", ust, **request)
        assert every in str(error.value)
    wanted = step(made, "train-128")
    for request in ({"student": f"{made.run}/train-128"},
                    {"inputs": {"train": f"{made.run}/train-128"}}):
        down = build("downstream", ust, **request)
        assert step(down, "embed").inputs == {"train": str(wanted.artifact)}
        assert f"of {made.run}/train-128" in preview.as_text(down)
    for name in ("train-256", "extract"):
        for request in ({"student": f"{made.run}/{name}"},
                        {"inputs": {"train": f"{made.run}/{name}"}}):
            with pytest.raises(InputError, match=f"has no train step '{name}'") as error:
                build("downstream", ust, **request)
            assert f"{made.run}/train-64" in str(error.value)


def test_what_a_sweep_shares_needs_no_name(ust):
    made = sweep.build("upstream", ust, plan.Request(), sweep.parse_grid(["emb-dim=64,128"]),
                       date=DATE, user="you").plan
    record(made, options=made.options)
    finish(step(made, "extract"))
    shared = external_inputs.run_output(made.workspace, made.run, "extract",
                                        records.read_all(made.workspace), "local")
    assert shared.path == step(made, "extract").artifact


def test_the_student_of_a_run_that_still_works_is_waited_for(ust):
    Path("cluster.yaml").write_text("clusters: {far: {}, near: {}}\n")
    far = configuration("far", sonyc_ust="ust")
    made = build(settings=configuration("far"))
    record(made)
    embed = step(build("downstream", far), "embed")
    assert embed.waits_for == ("104",) and step(build("downstream", far), "classify").waits_for \
        == ()
    with pytest.raises(InputError, match="no run"):  # another cluster cannot wait for that job
        build("downstream", configuration("near", sonyc_ust="ust"))
    record(made, local=True)  # nobody runs it
    with pytest.raises(InputError, match="no run"):
        build("downstream", far)


def test_a_student_from_a_file(ust, tmp_path):
    Path("student.h5").write_bytes(b"x")
    embed = step(build("downstream", ust, student="student.h5"), "embed")
    assert embed.params["student"] == str(tmp_path / "student.h5") and embed.inputs == {}
    assert f"student {tmp_path / 'student.h5'}" in preview.as_text(
        build("downstream", ust, student="student.h5"))
    embed = step(build("downstream", ust, sets=["embed.student=student.h5"]), "embed")
    assert embed.params["student"] == "student.h5" and embed.inputs == {}


def test_an_input_by_run_or_artifact():
    made = build()
    finish(step(made, "fit"))
    record(made)
    folder = str(step(made, "fit").artifact)
    Path("published").mkdir()
    write_embeddings("published/x.h5", 128)
    settings = configuration(embeddings="published")
    for word in (made.run, folder):
        again = build(settings=settings, start="reduce", inputs={"fit": word})
        assert step(again, "reduce").inputs["fit"] == folder
    both = build(start="train", inputs={"reduce": "published"})
    assert both.steps[0].inputs == {"reduce": str(Path("published").resolve())}
    with pytest.raises(InputError, match="neither a folder nor a run"):
        build(start="train", inputs={"reduce": "nowhere"})
    with pytest.raises(InputError, match="unknown step 'redcue'"):
        build(start="train", inputs={"redcue": "published"})


def test_a_reused_student_keeps_the_row_that_it_has(ust):
    made = build()
    finish(step(made, "train"))
    again = build("all", ust, name="later")
    assert not step(again, "train").missing
    key = str(made.folder.artifact("train"))
    assert step(again, "evaluate").labels["model_dir"] == key
    assert str(again.folder) in step(again, "evaluate").labels["output_dir"]


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


def test_each_of_two_students_has_its_own_row():
    Path("jobs").mkdir()
    Path("jobs/two.yaml").write_text(
        "include: upstream\nsteps:\n  small: {kind: train, needs: [extract, reduce], "
        "params: {asr: 16000}}\n")
    made = build("two")
    folder = made.folder.artifacts
    assert step(made, "train").labels["model_dir"] == str(folder / "train")
    assert step(made, "small").labels["model_dir"] == str(folder / "small")
    assert step(made, "small").fingerprint != step(made, "train").fingerprint


def test_a_broken_record_is_named():
    made = build()
    record(made)
    path = made.folder.record
    path.write_text("{")
    with pytest.raises(InputError) as error:
        external_inputs.student_input(made.workspace, "train", "latest", "local")
    assert str(path) in str(error.value)


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


def test_a_kernel_makes_another_artifact_and_its_default_the_same():
    plain, linear, rbf, wide = (prints(build(**request)) for request in (
        {}, {"options": {"kernel": "linear"}}, {"options": {"kernel": "rbf"}},
        {"options": {"kernel": "rbf"}, "sets": ["fit.gamma=0.5"]}))
    assert plain == linear
    assert len({one["fit"] for one in (plain, rbf, wide)}) == 3
    assert plain["sample"] == rbf["sample"]


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
