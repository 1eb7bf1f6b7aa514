"""Runs in a notebook: the page docs/notebook.md is carried out, and refusals name what exists."""

import html
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import l3hpc
from l3hpc.errors import InputError, L3hpcError, command_line
from l3hpc.ledger.journal.records import Journal
from l3hpc.runs.notebook_place import naming

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebook.md"


@pytest.mark.slow
def test_the_page_on_notebooks_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    run = names["run"]
    status = run.status()
    assert list(status.index) == ["extract", "sample", "fit", "reduce", "train"]
    assert set(status["state"]) == {"done"}
    assert (run.artifact("fit") / "0000" / "phi.h5").is_file()
    assert list(run.history()["step"]) == ["train", "train"]
    assert l3hpc.load_model(run).dim == 8
    assert len(run.results()) == len(run.results("embedding_approx_mse")) == 1
    plan = names["plan"]
    assert list(plan.frame().index) == ["extract", "sample", "fit-8", "reduce-8", "train-8",
                                        "fit-16", "reduce-16", "train-16"]
    assert all(f"`{name}`" in PAGE.read_text() for name in plan.frame().index)
    assert run.name in repr(run)
    assert "<table" in run._repr_html_()
    listed = l3hpc.runs("workspace")
    assert [one.name for one in listed] == [run.name]
    assert list(listed.frame()["state"]) == ["done"]
    assert run.name in repr(listed)
    with pytest.raises(InputError, match="no step 'trane'"):
        run.artifact("trane")
    with pytest.raises(InputError, match="unknown log 'both'"):
        run.logs("train", which="both")


def test_refusals_submit_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unknown option 'mel'"):
        l3hpc.submit("upstream", mel=64)
    with pytest.raises(ValueError, match="^mels: 'many' is not a whole number"):
        l3hpc.submit("upstream", mels="many")
    for filters in ([4.9] * 8, [True, 4, 8, 8, 8, 8, 8, 8]):  # neither cut nor counted as 1
        with pytest.raises(ValueError, match="^filters: .* is not"):
            l3hpc.submit("upstream", filters=filters)
    with pytest.raises(ValueError, match="^mels: True is not a whole number"):
        l3hpc.submit("upstream", mels=True)
    with pytest.raises(ValueError, match="^approx: 'pcs' is not an allowed value"):
        l3hpc.submit("upstream", approx="pcs")
    with pytest.raises(ValueError, match="unknown option 'mel' of pipeline 'us8k'") as refused:
        l3hpc.submit("us8k", mel=64)
    assert "learner" in str(refused.value) and "mels" not in str(refused.value)
    with pytest.raises(ValueError, match=r'sets=\{"extract.files_per_task": …\}'):
        l3hpc.submit("upstream", files_per_task=2)
    paths = {"audio_dir": ".", "weights": "untrained"}
    for given, said in (
            ({"sets": {"trane.epochs": 2}}, "^sets: there is no step 'trane'"),
            ({"sets": {"train.epochs": 0}, **paths}, r'^sets\["train.epochs"\]: '),
            ({"start": "fitt"}, "^start: there is no step 'fitt'"),
            ({"inputs": {"fitt": "x"}, **paths}, "^inputs: unknown step 'fitt'"),
            ({"grid": {"emb_dim": ["many"]}}, r'emb-dim=many: grid\["emb_dim"\]: \'many\' is not'),
            ({"grid": {"emb_dim": [4, 4]}}, r'^grid\["emb_dim"\] lists the same value twice'),
            ({"mels": 64, "grid": {"mels": [64, 128]}}, r'^mels and grid\["mels"\] are both given'),
            ({"approx": "none", "kernel": "rbf"}, "^kernel has no effect: fit.approx=none"),
            ({"learner": "svm"}, "^pipeline 'upstream' has no option learner"),
            ({"teacher": True, "student": "latest"}, "^teacher and student are both given"),
            ({"name": "a b"}, "^name: 'a b' is not a valid run name"), ({}, (
                r"audio_dir='PATH' and weights='PATH' \(or weights='untrained': random"))):
        with pytest.raises(ValueError, match=said) as refused:
            l3hpc.submit("upstream", **given)
        assert "--" not in str(refused.value).replace("l3hpc submit upstream --help", ""), said
    assert not (tmp_path / "workspace").exists()


def test_a_dry_run_shows_the_plan_and_submits_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio").mkdir()
    soundfile.write("audio/a_1511150000.wav", np.ones(8000, "float32"), 8000)
    plan = l3hpc.submit("upstream", grid={"samples": [200, 400]}, audio_dir="audio",
                        weights="untrained", workspace="workspace", dry_run=True)
    assert repr(plan).startswith("upstream on local") and "2 combinations" in repr(plan)
    assert repr(plan).endswith("nothing was submitted (dry_run=True)")
    assert plan._repr_html_() == f"<pre>{html.escape(repr(plan))}</pre>"
    assert "sample-400" in plan.frame().index and plan.frame()["missing"]["extract"] == 1
    packed = l3hpc.submit("upstream", audio_dir="audio", weights="untrained", dry_run=True,
                          sets={"extract.pack": 8}, workspace="workspace").frame()
    assert list(packed[["pack", "jobs"]].loc["extract"]) == [1, 1]  # one task, one job
    assert plan.to_json()["submitted"] is False
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/fit.sbatch.j2").write_text("{{ nosuch }}")
    with pytest.raises(ValueError, match="template: 'nosuch' is undefined"):
        l3hpc.submit("upstream", audio_dir="audio", weights="untrained", dry_run=True)
    assert not (tmp_path / "workspace").exists()


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="there is no such workspace"):
        l3hpc.results(tmp_path / "nowhere")
    with pytest.raises(InputError):
        l3hpc.run("latest", tmp_path)
    assert len(l3hpc.runs(tmp_path)) == 0
    assert "no runs" in repr(l3hpc.runs(tmp_path))


@pytest.mark.slow
def test_a_run_that_fails_or_takes_long_is_an_error_of_wait(tmp_path, chains):
    from l3hpc.runs import submit

    failing = chains.plan(tmp_path, run="failing", params={"sample": {"fail": "error"}})
    submit.submit(failing)
    with pytest.raises(L3hpcError, match="failing ended as failed"):
        l3hpc.run("failing", tmp_path).wait()


def test_names_are_listed():
    assert {"submit", "runs", "run", "results", "get_embedding", "load_model"} <= set(dir(l3hpc))
    with pytest.raises(AttributeError, match="no attribute 'embed_all'"):
        _ = l3hpc.embed_all


def test_wrong_types_are_refused_with_an_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call, message in (
            (lambda: l3hpc.run(3), "given by its name, not by 3"),
            (lambda: l3hpc.run("latest", 3), "given by the path of its folder, not by 3"),
            (lambda: l3hpc.Run(tmp_path, None), "given by its name, not by None"),
            (lambda: l3hpc.runs(""), "given by the path of its folder, not by ''"),
            (lambda: l3hpc.submit(None), "a pipeline is given by its name, not by None"),
            (lambda: l3hpc.submit("upstream", sets=["train.epochs=5"]), "sets is not a mapping"),
            (lambda: l3hpc.submit("upstream", inputs="fit=x"), 'for example inputs={"fit": "RUN"}'),
            (lambda: l3hpc.submit("upstream", grid=[64, 128]), "grid is not a mapping"),
            (lambda: l3hpc.submit("upstream", grid={"emb_dim": "64,128"}), "are not a list"),
            (lambda: l3hpc.submit("upstream", grid={"emb_dim": 64}), "are not a list but 64"),
            (lambda: l3hpc.Run(tmp_path, "x").wait("5"), "timeout is '5'"),
            (lambda: l3hpc.Run(tmp_path, "x").wait(5, poll=0), "poll is 0"),
            (lambda: l3hpc.Run(tmp_path, "x").wait(-1), "timeout is -1")):
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value)
    assert not (tmp_path / "workspace").exists()


def test_a_file_is_no_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    for workspace in (file, file / "below"):
        with pytest.raises(InputError, match="is a file, not a folder"):
            l3hpc.submit("upstream", workspace=workspace)
        for call in (l3hpc.runs, lambda place: l3hpc.run("latest", place),
                     lambda place: l3hpc.Run(place, "demo").state):
            with pytest.raises(InputError, match="is not a folder, or lies below a file"):
                call(workspace)


def test_lists_of_numbers_are_swept(tmp_path, monkeypatch):
    from l3hpc.pipelines.from_options import plan_from_options
    from l3hpc.runs.notebook_submit import grid_texts

    monkeypatch.chdir(tmp_path)
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings/a.npz").write_bytes(b"x")
    grid = grid_texts({"filters": [[4, 4, 8, 8, 8, 8, 8, 8], [8] * 8], "seed": [1]})
    with pytest.raises(InputError) as caught:  # the files, not the lists, are what is wrong
        plan_from_options("upstream", {"grid": grid, "audio_dir": "nowhere",
                                       "weights": "untrained"})
    assert "filters=4,4,8,8,8,8,8,8, seed=1" in str(caught.value)
    with pytest.raises(InputError, match="lists the same value twice"):
        plan_from_options("upstream", {"grid": grid_texts({"filters": [[4] * 8, (4,) * 8]})})


@pytest.mark.slow
def test_damaged_runs_are_named(tmp_path, chains):
    from l3hpc.runs import notebook, submit

    submit.submit(chains.plan(tmp_path, "good", names=("extract",)))
    submit.submit(chains.plan(tmp_path, "bad", names=("extract",)))
    (tmp_path / "runs/bad/run.json").write_text("{")
    for listing in (notebook.runs, sys.modules["l3hpc.runs"]):  # the package can be called, too
        with pytest.warns(UserWarning, match="cannot be read: bad"):
            found = listing(tmp_path)
        assert [run.name for run in found] == ["good"] and list(found.damaged) == ["bad"]
        assert list(found.frame()["state"]) == ["done", "damaged"]
        assert found.frame().loc["bad", "damage"] == found.damaged["bad"]
        assert "bad/run.json:1: " in found.damaged["bad"]
        assert "bad" in repr(found) and "bad" in found._repr_html_()


def test_a_run_is_the_one_that_it_names(tmp_path):
    one, same = l3hpc.Run(tmp_path, "x"), l3hpc.Run(str(tmp_path), "x")
    assert one == same and len({one, same}) == 1
    assert one != l3hpc.Run(tmp_path, "y") and one != l3hpc.Run(tmp_path / "z", "x")
    assert one != "x"


def recorded(workspace, *keys):
    """Leave a row for each key, numbered from 1."""
    for number, key in enumerate(keys, 1):
        Journal(workspace / "ledger/journal", labels={}, run="x").record(
            "embedding_approx_mse", {"model_dir": key, "num_epochs": number})


@pytest.mark.slow
def test_results_follow_reused_artifacts(tmp_path, chains):
    from l3hpc.runs import submit

    submit.submit(chains.plan(tmp_path, "first", names=("extract",)))
    submit.submit(chains.plan(tmp_path, "second", names=("extract",)))
    recorded(tmp_path, "runs/first/x", "third")
    run = l3hpc.Run(tmp_path, "second")
    assert list(run.results()["# Epochs"]) == [1]
    assert len(run.results("sonyc_ust")) == 0
    with pytest.raises(InputError, match="unknown tab 'fit'"):
        run.results("fit")


def test_rows_of_what_a_run_did_not_reuse_are_no_results_of_it(tmp_path, chains):
    """Both reduce the same embeddings, but to another student each."""
    from l3hpc.runs import submit

    submit.submit(chains.plan(tmp_path, "first", names=("extract", "sample")))
    submit.submit(chains.plan(tmp_path, "second", names=("extract",)))
    of_first = f"{tmp_path}/runs/first/artifacts"
    recorded(tmp_path, f"{of_first}/extract", f"{of_first}/extract/0001 1", f"{of_first}/sample",
             f"{tmp_path}/runs/second/artifacts/sample")
    assert list(l3hpc.Run(tmp_path, "second").results()["# Epochs"]) == [1, 2, 4]
    assert list(l3hpc.Run(tmp_path, "first").results()["# Epochs"]) == [1, 2, 3]


def test_commands_in_messages_lead_to_the_workspace_of_the_notebook(tmp_path, chains, monkeypatch):
    from l3hpc.runs import submit

    monkeypatch.chdir(tmp_path)
    submit.submit(chains.plan(tmp_path / "ws", "bad-1", ("extract", "sample"),
                              params={"sample": {"fail": "error"}}))
    there = f" --workspace {tmp_path / 'ws'}"
    run = l3hpc.run("bad-1", "ws")
    with pytest.raises(L3hpcError, match="ended as failed") as failed:
        run.wait()
    assert failed.value.hint == f"See l3hpc status bad-1{there}, or .logs(step)"
    with pytest.raises(InputError) as refused:
        l3hpc.run("latest", "new")
    assert refused.value.hint.endswith(f" --workspace {tmp_path / 'new'}")
    with pytest.raises(InputError) as refused:
        l3hpc.submit(3, workspace="ws", config_file="my.yaml")
    assert refused.value.hint == "l3hpc submit --help lists the pipelines."
    with naming("ws", "my.yaml"):
        assert command_line("resume", "r").endswith(f" --config {tmp_path / 'my.yaml'}{there}")
    # where commands find the workspace themselves, it is not repeated
    Path("cluster.yaml").write_text("paths: {workspace: ws}\n")
    with pytest.raises(L3hpcError) as failed:
        run.wait()
    assert failed.value.hint == "See l3hpc status bad-1, or .logs(step)"
