"""Which student a plan continues from: that of a run, of a sweep, of a file."""

from pathlib import Path

import pytest

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.pipelines import external_inputs, plan, preview, run_outputs, sweep
from l3hpc.workspace import records, step_config

from .test_plan import DATE, _corpus, build, configuration, finish, record, step  # noqa: F401


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
    shared = run_outputs.run_output(made.workspace, made.run, ("extract",),
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


def test_settings_are_those_of_the_run_until_the_step_has_its_own(ust):
    """Its folder and that of its artifact are written just before its job is submitted."""
    Path("cluster.yaml").write_text("clusters: {far: {}}\n")
    made = build(settings=configuration("far"))
    record(made)
    train = step(made, "train")

    def found():
        given = run_outputs.run_output(made.workspace, made.run, ("train",),
                                       records.read_all(made.workspace), "far")
        return given.shards, given.params, run_outputs.shards_of(
            made.workspace, given.path, given.run, given.step)

    assert found() == ([], None, [])  # a run of an earlier version
    step_config.write_all(made.folder, {
        each.name: (each.config(made.run), {}) for each in made.steps})
    shards, params, again = found()
    assert shards == again == train.shards and params["epochs"] == train.params["epochs"]


def test_a_student_from_a_file(ust, tmp_path):
    Path("student.h5").write_bytes(b"x")
    embed = step(build("downstream", ust, student="student.h5"), "embed")
    assert embed.params["student"] == str(tmp_path / "student.h5") and embed.inputs == {}
    assert f"student {tmp_path / 'student.h5'}" in preview.as_text(
        build("downstream", ust, student="student.h5"))
    embed = step(build("downstream", ust, sets=["embed.student=student.h5"]), "embed")
    assert embed.params["student"] == "student.h5" and embed.inputs == {}


def test_a_reused_student_keeps_the_row_that_it_has(ust):
    made = build()
    finish(step(made, "train"))
    again = build("all", ust, name="later")
    assert not step(again, "train").missing
    key = str(made.folder.artifact("train"))
    assert step(again, "evaluate").labels["model_dir"] == key
    assert str(again.folder) in step(again, "evaluate").labels["output_dir"]


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


def test_a_row_names_folders_that_the_run_has(ust):
    """There was an output_dir of classify in the rows of the student."""
    made = build()
    for one in made.steps:
        assert "output_dir" not in one.labels
        assert one.labels["model_dir"] == str(made.folder.artifact("train"))
    Path("student.h5").touch()
    evaluated = build("downstream", ust, student="student.h5")
    for one in evaluated.steps:
        assert one.labels["output_dir"] == str(evaluated.folder.artifact("classify"))


def test_a_row_names_the_folder_of_another_run_that_it_comes_from(ust):
    Path("student.h5").touch()
    made = build("downstream", ust, student="student.h5")
    classify = step(made, "classify")
    finish(classify)
    later = build("downstream", ust, start="evaluate", inputs={"classify": str(classify.artifact)})
    assert step(later, "evaluate").labels["output_dir"] == str(classify.artifact)
