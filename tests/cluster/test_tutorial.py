"""docs/tutorials/cluster.md, carried out as it is printed, on a real Slurm."""

import json

import pytest
from invoke import invoke
from printed import Page

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_the_first_run_on_a_cluster(slurm_cluster, tmp_path, monkeypatch):
    for name in ("SCRATCH", "WORK", "WORKDIR", "LOADEDMODULES", "OUTPUT_DIR"):
        monkeypatch.delenv(name, raising=False)
    page = Page("docs/tutorials/cluster.md").carry_out(tmp_path, monkeypatch)
    assert "✗" not in page.said["l3hpc doctor --quick"]
    runs = json.loads(invoke("status", "--json").stdout)["runs"]
    assert [run["state"] for run in runs] == ["done", "done"]
    assert [step["state"] for step in runs[0]["steps"]] == ["reused"] * 5
    slurm_cluster.until(lambda: list(tmp_path.glob("workspace/runs/*/report.html")),
                        "the last job wrote no report")
