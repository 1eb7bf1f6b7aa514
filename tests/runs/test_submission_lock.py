"""Two commands at once on one run, one of which hands its jobs over."""

import threading

import pytest

from l3hpc.errors import ClusterError, InputError
from l3hpc.runs import status, submission_lock, submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.workspace import records

LIMIT = "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1"


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={}, partition="gpu")


def full_after_one(slurm):
    """The first job is taken, the second meets a limit."""
    slurm.says("sbatch", f"[ -e {slurm.folder}/one ] && {{ {LIMIT}; }}; "
                         f"touch {slurm.folder}/one; echo 100")


def test_resume_leaves_a_submission_alone_that_is_under_way(chains, slurm, on, tmp_path,
                                                            monkeypatch):
    """A queue limit is waited for; meanwhile somebody types resume."""
    seen = []

    def pause(workspace, run, seconds):
        [found] = status.collect(tmp_path, ["demo"])
        seen.append((found.state, found.steps[0].state, found.notes))
        with pytest.raises(InputError, match=r"by l3hpc submit \(process \d+ on .*\)"):
            resume(tmp_path, "demo", on)
        slurm.says("sbatch", "echo 7")

    slurm.says("sbatch", LIMIT)
    monkeypatch.setattr(submission_lock, "pause", pause)
    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on))
    assert seen == [("submitting", "submitting", [])]
    assert record.steps[0].job == "7" and len(slurm.calls("sbatch")) == 2
    assert not list((tmp_path / "runs/demo").glob("*.owner.*"))


def test_cancel_stops_a_submission_that_is_under_way(chains, slurm, on, tmp_path, monkeypatch):
    """It takes its own jobs back, and is gone when cancel returns."""
    full_after_one(slurm)
    answers = []
    inner = submission_lock.pause

    def pause(workspace, run, seconds):
        other = threading.Thread(target=lambda: answers.append(cancel(tmp_path, "demo")))
        other.start()
        try:
            inner(workspace, run, seconds)
        finally:
            answers.append(other)

    monkeypatch.setattr(submission_lock, "pause", pause)
    with pytest.raises(submission_lock.Stopped, match="sample: cancelled by another command"):
        submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    answers[0].join(120)
    assert answers[1:] == [[]]
    assert slurm.calls("scancel") == ["scancel 100"]
    record = records.read(tmp_path, "demo")
    assert record.state == "cancelled" and not any(step.attempts for step in record.steps)
    assert not (tmp_path / "runs/demo/stop.asked").exists()


def test_one_that_does_not_stop_is_named(chains, slurm, on, tmp_path):
    submit.submit(chains.plan(tmp_path, names=("extract",), on=on))
    with submission_lock.acquire(tmp_path, "demo", "resume"), \
            pytest.raises(ClusterError, match=r"by l3hpc resume \(process \d+ on "):
        submission_lock.stop(tmp_path, "demo", wait_s=0.1)
    assert not (tmp_path / "runs/demo/stop.asked").exists()
    submission_lock.stop(tmp_path, "demo")  # nobody: nothing to wait for


def test_a_question_that_nobody_took_back_stops_no_later_submission(chains, slurm, on, tmp_path):
    """As left by a cancel that was killed."""
    record = submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    record.steps[1].attempts, record.steps[1].state = [], "planned"
    records.write(tmp_path, record)
    (tmp_path / "runs/demo/stop.asked").touch()
    assert resume(tmp_path, "demo", on).steps[1].job == "103"
