"""Steps of a pipeline's own on a real Slurm: free sbatch options, and a step after a failure."""

import json
from pathlib import Path

import pytest
from follow import settled, states, until

from l3hpc.config import settings
from l3hpc.pipelines import plan
from l3hpc.runs import submit
from l3hpc.runs.resume import resume

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SMALL = {"cpus": 1, "mem": "300MB", "time": "5m"}
PIPELINE = {"steps": {
    "some": {"kind": "shell", "like": "train", "each": 2,
             "resources": {**SMALL, "mem": 0, "gpus": 1},
             "command": 'scontrol show job "$SLURM_JOB_ID" > job; test "$L3_TASK" = 0 || test -e '
                        '"$L3_PARAM_GATE"'},
    "strict": {"kind": "shell", "needs": "some", "command": "true", "resources": SMALL},
    "after": {"kind": "python", "function": "count.py:jobs", "needs": {"some": "any"},
              "resources": SMALL}}}


def test_options_reach_slurm_and_a_step_runs_after_one_that_failed(slurm_cluster, tmp_path,
                                                                   monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("jobs").mkdir()
    Path("count.py").write_text(
        "def jobs(task, some):\n    return {'jobs': len(list(some.glob('*/job')))}\n")
    PIPELINE["steps"]["some"]["params"] = {"gate": str(tmp_path / "gate")}
    Path("jobs/own.yaml").write_text(json.dumps(PIPELINE))
    Path("cluster.yaml").write_text(json.dumps({"cluster": "test", "clusters": {"test": {
        **slurm_cluster.profile, "gpu_request": "none", "extra": ["--nice=100", "--comment=all"],
        "steps": {"train": {"gpu_request": "gres", "exclusive": True,
                            "extra": ["--comment=of some"]}}}}}))
    config = settings.load()
    made = plan.build("own", config)
    submit.submit(made)
    found = until(tmp_path / "workspace", made.run, settled)
    assert states(found) == {"some": "failed", "strict": "blocked", "after": "done"}, found
    job = (made.steps[0].artifact / "0000/job").read_text()
    for words in ("Nice=100", "Comment=of some", "MinMemoryNode=0", "mem=62.50G", "NumCPUs=4",
                  "gpu:1"):
        assert words in job, job
    assert _summary(made.steps[2]) == {"jobs": 1}

    Path("gate").touch()
    resume(tmp_path / "workspace", made.run, config.profile)
    assert states(until(tmp_path / "workspace", made.run, settled)) == {
        "some": "done", "strict": "done", "after": "done"}
    again = plan.build("own", config)
    assert [step.missing for step in again.steps] == [(), (), (0,)]


def _summary(step):
    return json.loads((step.artifact / "0000/result.json").read_text())["summary"]
