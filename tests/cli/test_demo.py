"""``l3hpc demo``: words and options, and one very small demonstration from audio to the report."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from invoke import invoke

from l3hpc import demo
from l3hpc.cli import demo as demo_command
from l3hpc.models.spec import student_spec
from l3hpc.report.data import ReportData
from l3hpc.report.ledger_rows import LedgerRow

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from schemas import check_schema  # noqa: E402


def run(*words, cwd):
    return subprocess.run([sys.executable, "-m", "l3hpc", *words], capture_output=True, text=True,
                          cwd=cwd, check=False)


@pytest.mark.slow
def test_quick_demo_from_audio_to_report(tmp_path, timed):
    timed(student_spec(emb_dim=8, filters=demo.QUICK.options["filters"]))
    first = run("demo", "--quick", "-o", "here", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    check_schema("demo", [told])
    assert told["state"] == "done" and not told["teacher_trained"]
    assert [step["state"] for step in told["steps"]] == ["done"] * 8
    assert set(told["ledger"]) == {"embedding_approx_mse", "sonyc_ust", "emb_approx_sonyc_ust"}
    approx, tags = told["ledger"]["embedding_approx_mse"], told["ledger"]["sonyc_ust"]
    assert (len(approx), len(tags)) == (28, 35)
    assert approx["Approximation mode"] == "pca" and approx["Student Emb Len"] == "8"
    coarse = next(one for one in told["scores"]
                  if (one["level"], one["split"]) == ("coarse", "validate"))
    assert 0 < coarse["micro_auprc"] <= 1
    assert float(tags["Micro AUPRC"]) == pytest.approx(coarse["micro_auprc"], abs=1e-4)
    page = Path(told["report"]).read_text()
    assert "random-weight teacher" in page and f"{coarse['micro_auprc']:.3f}" in page
    assert page.count("Precision against recall: ") >= 4
    kept = {path.name for path in Path(told["results"]).iterdir()}
    assert kept >= {"classify", "evaluate", "fit", "ledger", "report.html", "summary.json",
                    "train"}

    second = run("demo", "--quick", "-o", "here", "--yes", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done before") == 8
    assert "Micro AUPRC" in second.stdout and "report " in second.stdout


def test_a_foreign_folder_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    result = run("demo", "-o", str(tmp_path), "--yes", cwd=tmp_path)
    assert result.returncode == 2
    assert "is not empty, and not an earlier demonstration" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_options_change_the_settings():
    settings = demo_command.with_options(demo.QUICK, 5, "teacher.h5")
    assert (settings.sensors, settings.weights) == (5, "teacher.h5")
    assert settings.recordings == demo.QUICK.recordings
    assert demo_command.with_options(demo.QUICK, None, None) == demo.QUICK


def test_failed_runs_end_with_exit_code_1_and_say_why(tmp_path, monkeypatch):
    row = LedgerRow("sonyc_ust", (("Micro AUPRC", "0.5"), ("Threshold Type", "mean")))
    outcome = demo.DemoResult(
        SimpleNamespace(run="demo-1", workspace=tmp_path), "failed",
        ReportData("demo-1", ledger=(row,)), tmp_path / "results/report.html", 9.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "prepare", lambda *arguments: None)
    monkeypatch.setattr(demo, "make_plan", lambda *arguments: outcome.plan)
    monkeypatch.setattr("l3hpc.pipelines.preview.as_text", lambda plan: "the plan")
    monkeypatch.setattr(demo, "run_plan", lambda *arguments: outcome)
    result = invoke("demo", "--yes")
    assert result.return_value == 1
    assert "demo-1 is not complete (failed). Why:   l3hpc -C demo status" in result.output
    assert "sonyc_ust\n  Micro AUPRC  0.5\n" in result.output
    assert "Threshold Type" not in result.output


def test_help_has_examples():
    result = invoke("demo", "--help")
    assert "l3hpc demo --quick" in result.output and "--fresh" in result.output
