"""The job that brings rows to the sheet: behind all others, and in nobody's way."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fakeslurm import queue_line
from notes import Notes

from l3hpc.config.settings import Ledger
from l3hpc.runs import last_job, resume, submit
from l3hpc.workspace import records


@pytest.fixture
def made(chains, tmp_path):
    def make(by="job", sheet="book-one", **changes):
        on = chains.profile(name="greene", executor="slurm", slots={}, partition="gpu",
                            account="pr_42", ledger_sync={"by": by, "partition": "internet"},
                            **changes)
        plan = chains.plan(tmp_path, names=("extract", "sample"), on=on)
        return replace(plan, ledger=Ledger(sheet, Path("/keys/a b.json")))
    return make


def test_it_follows_all_jobs_of_a_run_whatever_their_end(made, slurm, tmp_path):
    record = submit.submit(made(extra=["--comment=grant 7", "--licenses=matlab:1"]))
    assert [step.job for step in record.steps] == ["100", "101"] and record.sync_job == "102"
    assert records.read(tmp_path, "demo").sync_job == "102"
    script = tmp_path / "runs/demo/ledger-sync.sbatch"
    assert slurm.calls("sbatch")[-1] == (
        f"sbatch --parsable --dependency=afterany:100:101 {script}")
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    for line in ("#SBATCH --partition=internet", "#SBATCH --account=pr_42",
                 "#SBATCH --job-name=l3-demo-ledger-sync", "#SBATCH --mem=2048M",
                 "#SBATCH --time=0-00:30:00", '#SBATCH --comment="grant 7"', "umask 077"):
        assert line in text.splitlines(), line
    assert "--licenses" not in text
    assert f"-m l3hpc ledger sync --workspace {tmp_path} --sheet book-one " \
        "--key-file '/keys/a b.json'" in text
    assert "by job 102" in last_job.describe(made(), record)


@pytest.mark.parametrize("refused", [False, True])
def test_the_record_is_written_while_it_is_submitted(made, slurm, tmp_path, refused):
    """And complete before that, for whoever is killed."""
    folder = tmp_path / "runs/demo"
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
if [ $n = 102 ]; then
  i=0
  while grep -q '"state": "submitting"' {folder}/run.json && [ $i -lt 20000 ]; do
    i=$((i + 1)); sleep 0.01
  done
  cp {folder}/run.json {slurm.folder}/seen
  {'echo "sbatch: error: invalid account" >&2; exit 1' * refused}
fi
echo $n""")
    record = submit.submit(made())
    seen = json.loads((slurm.folder / "seen").read_text())
    assert seen["state"] == "submitted" and seen.get("sync_job") is None
    assert [step["job"] for step in seen["steps"]] == ["100", "101"]
    assert record.sync_job == (None if refused else "102")
    assert records.read(tmp_path, "demo") == record and record.state == "submitted"


@pytest.mark.parametrize(("by", "sheet", "said"), [
    ("hand", "book-one", "where there is internet"), ("watch", "book-one", "--watch 60"),
    ("cron", "book-one", "by cron"), ("job", None, None)])
def test_by_other_ways_or_without_a_sheet_there_is_no_job(made, slurm, by, sheet, said):
    plan = made(by, sheet)
    record = submit.submit(plan)
    assert len(slurm.calls("sbatch")) == 2 and record.sync_job is None
    words = last_job.describe(plan, record)
    assert words is None if said is None else said in words


@pytest.mark.parametrize("sheet", [None, "book-one"])
def test_it_sends_messages_as_well(made, slurm, tmp_path, sheet):
    record = submit.submit(replace(made("job", sheet, notify="json://localhost/tok-5ecret"),
                                   config_file=Path("/home/me/a b.yaml")))
    assert record.sync_job == "102"
    script = tmp_path / "runs/demo/ledger-sync.sbatch"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text()
    assert (f"-m l3hpc notify --workspace {tmp_path} --config '/home/me/a b.yaml' || true"
            in text)
    assert ("ledger sync" in text) == (sheet is not None) and "tok-5ecret" not in text
    assert text.index("l3hpc notify") < (text + "ledger sync").index("ledger sync")


def test_a_refusal_of_it_does_not_touch_the_run(made, slurm, tmp_path):
    slurm.says("sbatch", 'case "$*" in *ledger-sync*) echo "sbatch: error: no partition" >&2; '
                         f"exit 1;; esac; n=$(ls {tmp_path}/n* 2>/dev/null | wc -l); "
                         f"touch {tmp_path}/n$n; echo $((100 + n))")
    notes = Notes()
    record = submit.submit(made(), progress=notes)
    assert record.state == "submitted" and record.sync_job is None
    assert slurm.calls("scancel") == []
    assert notes.notes == ["no job for the results sheet was submitted: sbatch: no partition; run "
                           "l3hpc ledger sync later"]


def test_a_resumption_has_its_own(made, slurm, tmp_path):
    plan = made()
    submit.submit(plan)
    slurm.says("squeue", "true")
    record = resume.resume(tmp_path, "demo", plan.profile)
    assert record.sync_job == "105"
    assert "--dependency=afterany:103:104" in slurm.calls("sbatch")[-1]


def test_a_resumption_cancels_those_that_still_wait(made, slurm, tmp_path):
    """One that has begun goes on; those of other runs, and other jobs, are left alone."""
    plan = made()
    assert submit.submit(plan).sync_job == "102"
    script = tmp_path / "runs/demo/ledger-sync.sbatch"
    lines = [queue_line("98", "RUNNING", script=script),
             queue_line("99", "PENDING", "Dependency", script=script),
             queue_line("102", "PENDING", "Dependency", script=script),
             queue_line("105", "PENDING", "Dependency", script=script),
             queue_line("106", "PENDING", script=tmp_path / "runs/demo-2/ledger-sync.sbatch")]
    slurm.says("squeue", "cat <<'E'\n" + "\n".join(lines) + "\nE")
    assert resume.resume(tmp_path, "demo", plan.profile).sync_job == "105"
    assert slurm.calls("scancel") == ["scancel 99 102"]


def test_it_writes_the_report_of_every_run(chains, slurm, tmp_path):
    on = chains.profile(name="greene", executor="slurm", slots={}, partition="cpu", report=True)
    record = submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    assert record.sync_job == "102"
    script = tmp_path / "runs/demo/ledger-sync.sbatch"
    assert slurm.calls("sbatch")[-1].endswith(f"--dependency=afterany:100:101 {script}")
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert "#SBATCH --job-name=l3-demo-report" in text and "#SBATCH --partition=cpu" in text
    assert f"-m l3hpc report demo --workspace {tmp_path} || true" in text
    assert "ledger sync" not in text and "l3hpc notify" not in text


def test_the_report_and_the_sheet_share_one_job(made, slurm, tmp_path):
    submit.submit(made(report=True))
    text = (tmp_path / "runs/demo/ledger-sync.sbatch").read_text()
    assert len(slurm.calls("sbatch")) == 3 and "#SBATCH --partition=internet" in text
    assert text.index(" l3hpc report demo ") < text.index(" l3hpc ledger sync ")


def test_a_refusal_names_the_command_that_writes_the_report(chains, slurm, tmp_path):
    on = chains.profile(name="greene", executor="slurm", slots={}, report=True)
    slurm.says("sbatch", 'case "$*" in *ledger-sync*) echo "sbatch: error: no more" >&2; exit 1;; '
                         "esac; echo 100")
    notes = Notes()
    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on), progress=notes)
    assert record.state == "submitted" and record.sync_job is None
    assert notes.notes == ["no job for the report was submitted: sbatch: no more; run l3hpc report "
                           "demo later"]


@pytest.mark.slow
@pytest.mark.parametrize("detach", [False, True])
def test_a_local_run_ends_with_its_report_also_if_it_failed(chains, tmp_path, detach):
    root = Path(__file__).resolve().parents[2]
    on = chains.profile(report=True, env={"PYTHONPATH": f"{chains.FAKES}:{root}"})
    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on, params={
        "extract": {"fail": "error"}}), detach=detach)
    report = tmp_path / "runs/demo/report.html"
    end = time.monotonic() + 240
    while detach and not report.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert record.sync_job is None
    assert "the fake was told to fail" in report.read_text()
