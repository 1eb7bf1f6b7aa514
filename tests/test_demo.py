"""The demonstration's parts that need no computing."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from l3hpc import demo
from l3hpc.cli.demo import environment_to_activate
from l3hpc.config import settings as configuration
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "demo"
    return folder, demo.prepare(folder, demo.QUICK, Progress())


def test_the_folder_is_an_ordinary_working_folder(prepared, monkeypatch):
    folder, config = prepared
    monkeypatch.chdir(folder)
    assert configuration.load(environ={}).values() == config.values()
    assert config.workspace == folder / "workspace"
    assert len(list(config.paths.audio.rglob("*.wav"))) == 8
    assert (config.paths.sonyc_ust / "annotations.csv").is_file()


def test_the_environment_does_not_leak_into_the_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("GSHEET_ID", "somebodys-real-sheet")
    monkeypatch.setenv("L3_MODEL_PATH", "/nowhere.h5")
    config = demo.prepare(tmp_path / "demo", demo.QUICK, Progress())
    assert config.ledger.sheet_id is None and config.paths.weights == "untrained"


def test_the_plan_is_small_complete_and_on_this_machine(prepared):
    folder, config = prepared
    here = Path.cwd()
    planned = demo.make_plan(config, demo.QUICK)
    assert [step.name for step in planned.steps] == [
        "extract", "sample", "fit", "reduce", "train", "embed", "classify", "evaluate"]
    params = {step.name: step.params for step in planned.steps}
    assert params["extract"]["weights"] == "untrained"
    assert params["fit"]["emb_dim"] == params["train"]["emb_dim"] == 8
    assert planned.profile.executor == "local" and planned.run.startswith("demo-")
    assert planned.folder.path.parent == folder / "workspace" / "runs" and Path.cwd() == here


def test_default_sizes_end_in_time():
    settings = demo.DemoSettings()
    assert settings.frames == 540 and settings.minutes < 3
    assert replace(settings, sensors=6).frames == 1080


def test_own_pipelines_of_the_caller_do_not_count(prepared, tmp_path, monkeypatch):
    _, config = prepared
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "all.yaml").write_text("steps: {fit: {}}\n")
    monkeypatch.chdir(tmp_path)
    assert len(demo.make_plan(config, demo.QUICK).steps) == 8


def test_a_second_preparation_reuses_the_city(prepared):
    folder, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.wav")}
    demo.prepare(folder, demo.QUICK, Progress())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.wav")} == before


def test_other_sizes_get_another_city(prepared):
    folder, _ = prepared
    demo.prepare(folder, replace(demo.QUICK, sensors=1), Progress())
    assert len(list(folder.glob("city-*"))) == 2


def test_foreign_folders_are_refused_and_untouched(tmp_path):
    (tmp_path / "cluster.yaml").write_text("cluster: local\n")
    with pytest.raises(InputError, match="not an earlier demonstration"):
        demo.prepare(tmp_path, demo.QUICK, Progress())
    with pytest.raises(InputError):
        demo.remove_earlier(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]
    with pytest.raises(InputError, match="is a file"):
        demo.check_folder(tmp_path / "cluster.yaml")


def test_starting_afresh_removes_what_the_demo_made_and_nothing_else(prepared):
    folder, _ = prepared
    (folder / "workspace").mkdir()
    (folder / "notes.txt").write_text("mine")
    demo.remove_earlier(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["cluster.yaml", "notes.txt"]


def test_trained_weights_become_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = demo.cluster_file(replace(demo.QUICK, weights='my "best" weights.h5'))
    (tmp_path / "cluster.yaml").write_text(text)
    loaded = configuration.load(tmp_path / "cluster.yaml", environ={})
    assert loaded.paths.weights == str(tmp_path / 'my "best" weights.h5')


def test_work_elsewhere_comes_back_also_after_an_error(tmp_path):
    here = Path.cwd()
    with pytest.raises(RuntimeError), demo.working_in(tmp_path):
        assert Path.cwd() == tmp_path
        raise RuntimeError
    assert Path.cwd() == here


def test_the_last_words_say_how_to_activate_an_environment_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "my venv"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert environment_to_activate() is None  # not a virtual environment
    script = tmp_path / "my venv/bin/activate"
    script.parent.mkdir(parents=True)
    script.touch()
    assert environment_to_activate() == script
    program = tmp_path / "bin/l3hpc"
    program.parent.mkdir()
    program.touch(mode=0o755)
    assert environment_to_activate() is None
