"""Submissions that were killed: what Slurm has and no record names."""

from dataclasses import replace

import pytest
from fakeslurm import queue_line

from l3hpc import schedulers
from l3hpc.errors import ClusterError
from l3hpc.runs import status, submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.workspace import records


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={}, partition="gpu")


@pytest.fixture
def killed(chains, slurm, on, tmp_path):
    """As after a SIGKILL between the third sbatch and its note: 102 (fit) is in no record."""
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on)
    record = submit.submit(made)
    record.state = "submitting"
    record.steps[2].state, record.steps[2].job, record.steps[2].attempts = "planned", None, []
    records.write(tmp_path, record)
    return record


def queue_of(slurm, live):
    (slurm.folder / "live").write_text("".join(f"{line}\n" for line in live))
    slurm.says("squeue", f"cat {slurm.folder}/live")


def untracked(workspace, record):
    return [job.id for job in
            schedulers.of_record(workspace, record).jobs(record).untracked(record)]


def test_jobs_are_told_by_their_script(killed, slurm, tmp_path):
    own = tmp_path / "runs/demo/steps"
    queue_of(slurm, [queue_line(job, "PENDING", script=script) for job, script in (
        ("100", own / "extract/script.sbatch"), ("102_[0-3]", own / "fit/script-1.sbatch"),
        ("990", tmp_path / "elsewhere/runs/demo/steps/fit/script.sbatch"),
        ("991", own.parent.with_name("demo-2") / "steps/fit/script.sbatch"), ("992", "(null)"),
        ("104", own / "sample/script.sbatch"))])
    assert untracked(tmp_path, killed) == ["102", "104"]  # the leaf first
    killed.state = "submitted"  # the answer of sbatch was lost, and it was tried again
    assert untracked(tmp_path, killed) == ["102", "104"]
    assert len(slurm.calls("squeue")) == 2


def test_the_helper_that_changes_a_held_job_is_left_to_its_work(killed, slurm, tmp_path):
    """Its log lies beside the step's, as that of a job of ours whose script was copied."""
    log = tmp_path / "runs/demo/steps/fit/logs/heal.log"
    queue_of(slurm, [queue_line("102", "RUNNING", name="l3-demo-fit", output=log),
                     queue_line("103", "RUNNING", name="l3-demo-fit-heal", output=log)])
    assert untracked(tmp_path, killed) == ["102"]


def test_a_workspace_behind_a_link_is_the_same(killed, slurm, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    script = tmp_path / "link/runs/demo/steps/fit/script.sbatch"
    queue_of(slurm, [queue_line("102", "PENDING", script=script)])
    assert untracked(tmp_path, killed) == ["102"]


def test_cancel_takes_them_too(killed, slurm, tmp_path):
    script = tmp_path / "runs/demo/steps/fit/script.sbatch"
    queue_of(slurm, [queue_line("100", "RUNNING"),
                     queue_line("102", "PENDING", "Dependency", script=script)])
    assert cancel(tmp_path, "demo") == ["102", "100"]
    assert slurm.calls("scancel") == ["scancel 102 100"]
    assert records.read(tmp_path, "demo").state == "cancelled"


def test_resume_cancels_them_and_submits_their_step_once(killed, slurm, on, tmp_path):
    queue_of(slurm, [queue_line("100", "RUNNING"), queue_line("101", "PENDING", "Dependency"),
                     queue_line("102", "PENDING", "Dependency",
                                script=tmp_path / "runs/demo/steps/fit/script.sbatch")])
    record = resume(tmp_path, "demo", on)
    assert slurm.calls("scancel") == ["scancel 102"]
    assert [step.job for step in record.steps] == ["100", "101", "103"]
    assert "--dependency=afterok:101" in slurm.calls("sbatch")[-1]
    assert record.state == "submitted" and len(slurm.calls("sbatch")) == 4


def test_without_an_answer_nothing_is_submitted(killed, slurm, on, tmp_path):
    slurm.says("squeue", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ClusterError, match="Unable to contact"):
        resume(tmp_path, "demo", on)
    assert len(slurm.calls("sbatch")) == 3


def test_status_says_what_happened_and_what_helps(killed, slurm, tmp_path):
    queue_of(slurm, [queue_line("100", "FAILED"), queue_line("101", "CANCELLED")])
    [found] = status.collect(tmp_path, ["demo"])
    assert found.steps[2].state == "cancelled" and found.steps[2].detail == "not submitted"
    assert found.notes[0] == "the submitting process was killed before it had submitted all jobs"
    assert (found.next, found.then, found.state) == (
        "l3hpc logs demo extract", "l3hpc resume demo", "failed")
    queue_of(slurm, [queue_line("100", "RUNNING"), queue_line("101", "PENDING", "Dependency")])
    [found] = status.collect(tmp_path, ["demo"])
    assert found.state == "running" and found.next == "l3hpc resume demo"


def test_a_finished_run_is_put_right(killed, slurm, on, tmp_path):
    for step in killed.steps:
        folder = tmp_path / step.artifact / "0000"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
    assert status.collect(tmp_path, ["demo"])[0].notes == []
    assert resume(tmp_path, "demo", on).state == "submitted"
    assert records.read(tmp_path, "demo").state == "submitted"


@pytest.mark.parametrize("was_submitted", [True, False])
def test_the_job_of_the_report_is_found_or_submitted(chains, slurm, tmp_path, was_submitted):
    """As after a SIGKILL between the last sbatch of a submission and its record, or before it."""
    on = chains.profile(name="greene", executor="slurm", slots={}, partition="gpu", report=True)
    record = submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    assert record.sync_job == "102"
    record.sync_job = None
    if not was_submitted:
        record.state = "submitting"
    records.write(tmp_path, record)
    live = [queue_line("100", "RUNNING"), queue_line("101", "PENDING", "Dependency")]
    script = tmp_path / "runs/demo/ledger-sync.sbatch"
    elsewhere = [queue_line("99", "PENDING", script=tmp_path / "runs/demo-2" / script.name)]
    queue_of(slurm, live + elsewhere + was_submitted * [
        queue_line("102", "PENDING", "Dependency", script=script)])
    record = resume(tmp_path, "demo", on)
    assert record.sync_job == ("102" if was_submitted else "103")
    assert records.read(tmp_path, "demo") == record and record.state == "submitted"
    assert len(slurm.calls("sbatch")) == (3 if was_submitted else 4)
    if not was_submitted:
        assert f"--dependency=afterany:100:101 {script}" in slurm.calls("sbatch")[-1]


@pytest.mark.parametrize("was_submitted", [True, False])
def test_the_job_of_the_report_waits_for_what_was_resumed(chains, slurm, tmp_path, was_submitted):
    """As after a SIGKILL of a resumption before, or after, it had submitted a new one."""
    on = chains.profile(name="greene", executor="slurm", slots={}, partition="gpu", report=True)
    record = submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    assert record.sync_job == "102"
    record.state, record.steps[1].job = "submitting", "103"
    record.steps[1].attempts = [replace(record.steps[1].attempts[0], job="103")]
    records.write(tmp_path, record)
    (tmp_path / "runs/demo/attempts.jsonl").unlink(missing_ok=True)
    (slurm.folder / "next").write_text("104")
    script = tmp_path / "runs/demo/ledger-sync.sbatch"
    queue_of(slurm, [
        queue_line("100", "RUNNING"), queue_line("103", "PENDING", "Dependency"),
        queue_line("102", "PENDING", "Dependency", script=script)] + was_submitted * [
        queue_line("104", "PENDING", "Dependency", script=script)])
    record = resume(tmp_path, "demo", on)
    assert record.sync_job == "104" and record.state == "submitted"
    assert len(slurm.calls("sbatch")) == (3 if was_submitted else 4)
    if not was_submitted:
        assert f"--dependency=afterany:100:103 {script}" in slurm.calls("sbatch")[-1]
