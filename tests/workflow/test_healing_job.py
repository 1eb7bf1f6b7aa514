"""What a job does about its own failure, on a Slurm that says what the test wants."""

import json

import pytest

from l3hpc.files import write_json
from l3hpc.workflow import markers
from l3hpc.workflow.healing import job, policy


@pytest.fixture
def task(slurm, tmp_path, monkeypatch):
    """(folder of the step, run): ``run(code)`` is the script's end with that exit code."""
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    for name in ("scontrol", "sbatch"):
        slurm.says(name, "echo 101")
    folder = tmp_path / "step"
    (folder / "markers").mkdir(parents=True)
    (folder / "logs").mkdir()

    def run(code, **changes):
        rules = {"memory": 1, "time": 1, "nodes": 1, "mem_mb": 200, "time_min": 10, **changes}
        write_json(folder / policy.FILE, rules)
        return job.main([str(folder), "0", "failed", str(code)])

    return folder, run


def requeues(folder):
    marks = markers.read(folder / "markers").get(0, markers.TaskMarks())
    return [entry["reason"] for entry in marks.requeues]


def test_a_warning_that_met_a_python_that_did_not_listen_is_the_time_limit(task, slurm):
    folder, run = task
    assert run(140) == 0 and requeues(folder) == ["time limit"]
    [entry] = markers.read(folder / "markers")[0].requeues
    assert entry["time_min"] == 20
    assert slurm.calls("scontrol") == ["scontrol requeuehold 100"]
    assert "TimeLimit=20" in slurm.calls("sbatch")[0]
    assert run(140) == 1 and requeues(folder) == ["time limit"]  # not for ever
    assert "after 1 requeue" in markers.read(folder / "markers")[0].gave_up


def test_a_step_that_continues_goes_back_as_it_is(task, slurm):
    folder, run = task
    assert run(140, continues=True) == 0
    assert slurm.calls("scontrol") == ["scontrol requeue 100"] and not slurm.calls("sbatch")


@pytest.mark.parametrize(("code", "error", "wanted"), [
    (137, None, ["out of memory"]), (137, {"type": "ValueError"}, []),
    (1, {"type": "MemoryError"}, ["out of memory"]), (1, None, []),
    (140, {"type": "ValueError"}, [])])
def test_what_heals_and_what_does_not(task, code, error, wanted):
    folder, run = task
    if error:
        (folder / "markers/0.error.json").write_text(json.dumps(error))
    assert run(code) == (0 if wanted else 1)
    assert requeues(folder) == wanted


def test_where_slurm_refuses_it_is_given_up_and_says_so(task, slurm):
    folder, run = task
    slurm.says("scontrol", "echo 'scontrol: error: Requested operation is disabled' >&2; exit 1")
    assert run(137) == 1 and requeues(folder) == []
    assert "Slurm does not put it back" in markers.read(folder / "markers")[0].gave_up
