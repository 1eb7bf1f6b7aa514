"""The results as a DataFrame."""

import pytest

import l3hpc
from l3hpc.errors import InputError
from l3hpc.ledger.journal.records import Journal
from l3hpc.ledger.schema import TABS


def test_a_tab_as_a_frame(tmp_path):
    journal = Journal(tmp_path / "ledger" / "journal", labels={}, run="demo")
    journal.record("embedding_approx_mse", {
        "model_dir": "/models/a", "student_emb_len": 128, "best_validation_loss": 0.5,
        "approx_mode": "pca", "state": "finished", "note": "random"})
    found = l3hpc.results(tmp_path, "embedding_approx_mse")
    assert list(found.columns) == [*TABS["embedding_approx_mse"].titles, "run", "state", "note"]
    assert list(found.index) == ["/models/a"]
    one = found.iloc[0]
    assert (one["Student Emb Len"], one["Best Valid Loss"]) == (128, 0.5)
    assert (one["Approximation mode"], one["state"], one["note"]) == ("pca", "finished", "random")
    assert found["# Epochs"].isna().all()
    assert found["Best Valid Loss"].mean() == 0.5


def test_an_empty_ledger_has_its_columns(tmp_path):
    found = l3hpc.results(tmp_path)
    assert len(found) == 0 and list(found.columns)[:35] == list(TABS["sonyc_ust"].titles)


def test_without_a_tab_the_first_that_has_rows(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "workspace/ledger/journal", labels={}, run="demo")
    journal.record("classifier", {"model_dir": "/models/a"})
    monkeypatch.chdir(tmp_path)  # whose cluster.yaml would name another workspace
    assert list(l3hpc.results().index) == ["/models/a"]
    journal.record("sonyc_ust", {"output_dir": "/out", "exp_id": "e"})
    assert list(l3hpc.results("workspace")["Exp. ID"]) == ["e"]


def test_an_unknown_tab_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown tab 'sonic'"):
        l3hpc.results(tmp_path, "sonic")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        l3hpc.nothing  # noqa: B018
