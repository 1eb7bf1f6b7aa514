"""Runs in a notebook: the page docs/notebook.md is carried out, and refusals name what exists."""

import re
from pathlib import Path

import pytest

import l3hpc
from l3hpc.errors import InputError, L3hpcError

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
    assert len(run.results()) == len(run.results("embedding_approx_mse")) == 1
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
    with pytest.raises(ValueError, match="--mels: 'many' is not a whole number"):
        l3hpc.submit("upstream", mels="many")
    for filters in ([4.9] * 8, [True, 4, 8, 8, 8, 8, 8, 8]):  # neither cut nor counted as 1
        with pytest.raises(ValueError, match="--filters: .* is not"):
            l3hpc.submit("upstream", filters=filters)
    with pytest.raises(ValueError, match="--mels: True is not a whole number"):
        l3hpc.submit("upstream", mels=True)
    with pytest.raises(ValueError, match="--approx: 'pcs' is not an allowed value"):
        l3hpc.submit("upstream", approx="pcs")
    assert not (tmp_path / "workspace").exists()


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match="there is no such workspace"):
        l3hpc.results(tmp_path / "nowhere")
    with pytest.raises(InputError):
        l3hpc.run("latest", tmp_path)
    assert len(l3hpc.runs(tmp_path)) == 0
    assert "no runs" in repr(l3hpc.runs(tmp_path))


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
