"""Options that name what an earlier run has made: every form, for every such option."""

import os
from pathlib import Path

import pytest

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.models import NETWORK_FILES
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import save
from l3hpc.pipelines import plan, preview, run_outputs, sweep
from l3hpc.pipelines.from_options import plan_from_options
from l3hpc.steps.networks import NETWORK_OF_RUN, PAIRS_OF_RUN

from .test_plan import DATE, _corpus, build, configuration, finish, record, step  # noqa: F401

SMALL = NetworkSpec(rate=4000, n_mels=16, hop=200, n_dft=512, filters=(4, 4, 4, 4, 8, 8, 8, 8),
                    tail="embedding")


@pytest.fixture
def avc(monkeypatch):
    """A finished run of avc, with a real teacher and stand-ins for the rest."""
    monkeypatch.setattr("l3hpc.steps.prune.check_scenes", lambda *given: None)
    monkeypatch.setattr("l3hpc.steps.prune.check_branch", lambda *given: None)
    made = build("avc")
    return finished(made, {"avc_train": ("teacher.h5", "avc_best_valid_loss.h5", "audio.h5",
                                         "vision.h5"), "avc_pairs": ("train_0000_000.h5",)})


def finished(made, files, created=1.0):
    """Record a run whose tasks have these files."""
    for name, written in files.items():
        item = step(made, name)
        finish(item)
        for task in range(item.tasks):
            for file in written:
                path = item.artifact / f"{task:04d}" / file
                if file in NETWORK_FILES:
                    save(untrained(SMALL, task), path)
                else:
                    path.write_bytes(file.encode())
        link = made.folder.artifact(name)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(link):
            link.symlink_to(item.artifact)
    record(made, created=created)
    return made


def compress(**values):
    made, _ = plan_from_options("compress", {"audio_dir": "audio", "sets": [
        "sensitivity.points_per_task=40"], **values})
    return made


def test_a_run_of_avc_gives_compress_its_teacher_network_and_pairs(avc):
    folder = step(avc, "avc_train").artifact / "0000"
    pairs = step(avc, "avc_pairs").artifact
    by_path = compress(weights=str(folder / "teacher.h5"), scenes=str(pairs),
                       avc=str(folder / "avc_best_valid_loss.h5"))
    prints = {item.name: item.fingerprint for item in by_path.steps}
    run = avc.folder.path
    for name in (avc.run, avc.run[:-2], f"{avc.run}/{{}}", "latest", "latest/{}",
                 str(run), os.path.relpath(run), str(run / "artifacts/{}")):
        made = compress(weights=name.format("avc_train"), avc=name.format("avc_train"),
                        scenes=name.format("avc_pairs"))
        assert {item.name: item.fingerprint for item in made.steps} == prints, name
        finetune = step(made, "finetune").params
        assert [Path(path).resolve() for path in (
            step(made, "prune").params["weights"], step(made, "extract").params["weights"],
            finetune["avc"], finetune["scenes"])] == [
                folder / "teacher.h5", folder / "teacher.h5", folder / "avc_best_valid_loss.h5",
                pairs]
        assert made.options["avc"] == name.format("avc_train")


def test_a_step_class_of_an_earlier_version_names_a_kind_and_a_file(avc, monkeypatch):
    expected = step(compress(weights=avc.run, avc=avc.run, scenes=avc.run), "finetune").params
    monkeypatch.setattr(type(steps.step("finetune")), "run_files", {
        "avc": ("avc_train", "avc_best_valid_loss.h5"), "scenes": PAIRS_OF_RUN})
    made = step(compress(weights=avc.run, avc=avc.run, scenes=avc.run), "finetune")
    assert made.params["avc"] == expected["avc"]


def test_parameters_take_runs_too(avc):
    folder = step(avc, "avc_train").artifact / "0000"
    (folder / "vision.h5").write_bytes(b"")
    item = plan.resolve.with_files_of_runs(plan.resolve.resolve_steps(
        plan.definition.load_pipeline("avc"), {}, [
            f"avc_train.{name}={avc.run}" for name in ("teacher", "audio_weights",
                                                       "vision_weights")])["avc_train"],
        avc.workspace)
    assert {name: item.params[name] for name in ("teacher", "audio_weights", "vision_weights")} \
        == {"teacher": str(folder / "avc_best_valid_loss.h5"),
            "audio_weights": str(folder / "audio.h5"), "vision_weights": str(folder / "vision.h5")}
    made = build(sets=[f"extract.weights={avc.run}"], options={"approx": "none"})
    assert step(made, "extract").params["weights"] == str(folder / "teacher.h5")
    grid = sweep.build("upstream", configuration(), plan.Request(options={"approx": "none"}),
                       {"extract.weights": ["untrained", avc.run]}, date=DATE, user="you").plan
    assert {item.params["weights"] for item in grid.steps if item.kind == "extract"} \
        == {"untrained", str(folder / "teacher.h5")}


@pytest.mark.parametrize("option", ["weights", "avc", "scenes"])
def test_what_cannot_be_meant_is_refused_in_the_same_words(avc, option):
    given = {"weights": avc.run, "avc": avc.run, "scenes": avc.run}
    kind = {"weights": "avc_train", "avc": "avc_train", "scenes": "avc_pairs"}[option]
    wrong = avc.run.replace("avc-", "avs-")
    with pytest.raises(InputError, match="is neither a run nor a") as caught:
        compress(**{**given, option: wrong})
    assert caught.value.where == f"--{option}" and f"did you mean '{avc.run}'" in str(caught.value)
    with pytest.raises(InputError, match=f"has no {kind} step 'nothing'") as caught:
        compress(**{**given, option: f"{avc.run}/nothing"})
    assert f"{avc.run}/{kind}" in str(caught.value)
    unfinished = build("avc", name="open", sets=["avc_train.epochs=2", "avc_pairs.size=200"])
    record(unfinished, created=2.0)
    with pytest.raises(InputError, match=f"the run '{unfinished.run}' has no finished {kind}"):
        compress(**{**given, option: unfinished.run})
    assert compress(**{**given, option: "latest"})  # the newest that has one


def test_one_of_several_networks_has_to_be_named():
    made = finished(build("compress", options={"plan": "edgel3 53.49"}, sets=[
        "sensitivity.points_per_task=40"]), {"prune": ("network.h5",), "distill": (
            "model_best_valid_loss.h5",)})
    with pytest.raises(InputError, match="has several networks: name one of them") as caught:
        build(settings=configuration(), sets=[f"extract.weights={made.run}"])
    assert f"{made.run}/prune; {made.run}/distill" in str(caught.value)
    with pytest.raises(InputError, match=f"{made.run}/prune has made 2: name one") as caught:
        run_outputs.run_file(made.workspace, NETWORK_OF_RUN, f"{made.run}/prune", "--weights")
    assert f"{made.run}/prune/0000 (plan edgel3); {made.run}/prune/0001 (plan 53.49)" \
        in str(caught.value)
    with pytest.raises(InputError, match="has no task 7") as caught:
        run_outputs.run_file(made.workspace, NETWORK_OF_RUN, f"{made.run}/prune/7", "--weights")
    with pytest.raises(InputError, match="holds several") as caught:
        run_outputs.run_file(made.workspace, NETWORK_OF_RUN, str(made.folder.path), "--weights")
    for name in (f"{made.run}/distill/1", f"{made.run[:-2]}/distill/0001", "latest/distill/1",
                 str(made.folder.artifact("distill") / "0001")):
        found = run_outputs.run_file(made.workspace, NETWORK_OF_RUN, name, "--weights")
        assert Path(found).resolve() \
            == step(made, "distill").artifact / "0001/model_best_valid_loss.h5"


def test_other_names_of_teachers_are_none_of_runs():
    made = finished(build("avc", name="untrained"), {"avc_train": ("teacher.h5",)})
    assert made.run.startswith("untrained-")
    for name in ("untrained", "untrained:7", "hear:untrained", "missing.h5", "sub/missing.h5"):
        assert run_outputs.run_file(made.workspace, NETWORK_OF_RUN, name, "--weights") == name
    Path("untr").mkdir()  # an existing path comes before the beginning of a name
    assert run_outputs.run_file(made.workspace, NETWORK_OF_RUN, "untr", "--weights") == "untr"
    assert plan_from_options("upstream", {"audio_dir": "audio", "weights": "untrained"})[0]


def test_a_compressed_teacher_takes_the_place_of_a_student(monkeypatch):
    for kind in ("embed", "classify", "evaluate"):
        module = steps.step(kind)
        monkeypatch.setattr(module, "check", lambda params, plan: None)
        monkeypatch.setattr(module, "digests", lambda params: {})
        monkeypatch.setattr(module, "shards", lambda params, upstream: [{}])
    ust = configuration(sonyc_ust="ust")
    made = finished(build("compress", sets=["sensitivity.points_per_task=40"]),
                    {"prune": ("network.h5",), "distill": ("model_best_valid_loss.h5",)})
    file = step(made, "distill").artifact / "0000/model_best_valid_loss.h5"
    for name in (f"{made.run}/distill", "latest/distill"):
        down = build("downstream", ust, student=name)
        assert step(down, "embed").params["student"] == str(file)
        assert f"embed: student {file}" in preview.as_text(down)
    with pytest.raises(InputError, match="has several networks: name one of them"):
        build("downstream", ust, student=made.run)


def test_every_step_that_makes_a_network_writes_a_file_that_is_found():
    from l3hpc.models.weights import BEST_STUDENT
    from l3hpc.steps import avc_train, prune, retrain

    assert {BEST_STUDENT, avc_train.TEACHER, prune.NETWORK, retrain.BEST_ACC} == {*NETWORK_FILES}
    for kind in NETWORK_OF_RUN.kinds:
        assert steps.is_known(kind)
    for kind in steps.names():
        for name in steps.step(kind).run_files:
            assert name in steps.step(kind).params_type.model_fields


def test_the_preview_says_what_compressed_networks_learn(avc):
    run = avc.run
    shown = preview.descriptions(compress(weights=run, avc=run, scenes=run))
    assert shown["distill"] == ("8-d, learns the teacher's embeddings; 30 epochs of all data, "
                                "learning rate 0.0001")
    assert shown["finetune"] == ("8-d, learns correspondence with the vision branch of "
                                 "avc_best_valid_loss.h5; 30 epochs of all pairs, "
                                 "learning rate 0.0001")
    shown = preview.descriptions(compress(
        weights=run, avc=run, scenes=run, recipe="published", approx="pca", emb_dim=4,
        filters="4,4,4,4,8,8,8,4"))
    assert shown["distill"] == ("4-d, learns PCA of the teacher's embeddings; published recipe: "
                                "300 epochs of 4,096 batches, learning rate 1e-05")
    shown = preview.descriptions(compress(weights=run, epochs=1, epoch_size=1))
    assert "finetune" not in shown
    assert shown["distill"].endswith("1 epoch of 1 batch, learning rate 0.0001")
