"""jobs/compress.yaml from end to end, by the scripts that a cluster would get, on this machine."""

import json

import pytest

from l3hpc.config import settings as configuration
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import RANDOM_WEIGHTS, save
from l3hpc.pipelines import plan
from l3hpc.runs import submit


@pytest.mark.slow
def test_the_pipeline_runs_on_this_machine(city, tmp_path, monkeypatch):
    """With a tiny teacher of random weights, which every result says."""
    from l3hpc.ledger.store import Store

    monkeypatch.chdir(tmp_path)
    save(untrained(NetworkSpec(rate=4000, n_mels=16, hop=200, n_dft=512,
                               filters=(4, 4, 4, 4, 8, 8, 8, 8), tail="embedding"), 1),
         tmp_path / "teacher.h5", {"teacher": {"random_weights": True}})
    (tmp_path / "cluster.yaml").write_text(
        f"paths: {{audio: {city / 'audio'}, weights: {tmp_path / 'teacher.h5'}}}\n")
    config = configuration.load(environ={})
    made = plan.build("compress", config, plan.Request(
        options={"plan": "edgel3", "epochs": 1, "batch-size": 16},
        sets=("sensitivity.points_per_task=40", "sensitivity.windows=4", "compare.windows=4",
              "extract.hop=1.0", "extract.engine=ncnn", "sensitivity.engine=ncnn",
              "compare.engine=ncnn")))
    assert [step.name for step in made.steps] == [
        "sensitivity", "prune", "extract", "distill", "compare"]
    record = submit.submit(made)
    logs = "\n".join(path.read_text() for path in sorted(made.folder.path.rglob("*.err")))
    assert submit.succeeded(config.workspace, record), logs
    compare = next(step for step in made.steps if step.name == "compare")
    report = json.loads((compare.artifact / "0000/report.json").read_text())
    assert report["note"] == RANDOM_WEIGHTS
    assert [row["made_by"] for row in report["networks"]] == ["teacher", "prune", "distill"]
    assert len(report["sensitivity"]["points"]) == 40
    assert report["sensitivity"]["judge"] == "embedding"
    [row] = Store(config.workspace).fold().rows_of("prunedembedding")
    assert row.key == (str(made.folder.path / "artifacts/distill/0000"),)
    assert row.values["knowledge_distilled"] is True and row.values["pruning"] is True
