"""A run on a real Slurm, whose last job writes its report and brings its rows to the sheet."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from follow import settled, until
from realslurm import LIMIT_S

from l3hpc.config.profile import ClusterProfile
from l3hpc.config.settings import Ledger
from l3hpc.ledger.journal.records import Journal
from l3hpc.runs import submit
from l3hpc.runs.resume import resume

pytestmark = pytest.mark.slurm
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sheets"))


@pytest.fixture
def world(tmp_path, monkeypatch):
    from sheets_server import Server
    from sheets_world import World
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02},
                     daemon=True).start()
    yield World(server, tmp_path)
    server.shutdown()
    server.server_close()
    assert server.violations == []


def test_sheet_and_report_show_the_run_when_its_jobs_have_ended(slurm_plain, chains, world,
                                                                tmp_path):
    world.init()
    root = Path(__file__).resolve().parents[2]
    on = ClusterProfile.model_validate({
        **slurm_plain.profile, "name": "test",
        "env": {"PYTHONPATH": f"{chains.FAKES}:{root}", "L3HPC_SHEETS_URL": world.server.url},
        "ledger_sync": {"by": "job", "partition": "low", "mem": "500MB"},
        "report": True})
    workspace = tmp_path / "ws"
    plan = replace(chains.plan(workspace, names=("extract",), on=on),
                   ledger=Ledger("book-one", world.key))
    Journal(workspace / "ledger" / "journal", run="demo", labels={"model_dir": "/m"}).record(
        "embedding_approx_mse", {"num_epochs": 3, "state": "finished"})
    record = submit.submit(plan)
    assert record.sync_job
    end = time.monotonic() + LIMIT_S
    log = plan.folder.path / "ledger-sync.log"
    while not world.rows() and time.monotonic() < end:
        time.sleep(0.5)
    assert [row["Model Dir"] for row in world.rows()] == ["/m"], log.read_text()
    slurm_plain.until(lambda: not slurm_plain.jobs(), "the jobs do not end")
    assert "1 row added" in log.read_text()
    assert submit.succeeded(workspace, record)
    page = (plan.folder.path / "report.html").read_text()
    assert "fake: done" in page and 'class="t-running"' in page
    assert "did not respond" not in page and record.steps[0].job in page


def test_a_resumption_replaces_the_job_of_the_report_that_still_waits(slurm_plain, chains, tmp_path,
                                                                      gate):
    root = Path(__file__).resolve().parents[2]
    on = ClusterProfile.model_validate({
        **slurm_plain.profile, "name": "test", "report": True,
        "env": {"PYTHONPATH": f"{chains.FAKES}:{root}"}})
    plan = chains.plan(tmp_path, names=("extract",), on=on, tasks={"extract": 2}, params={
        "extract": {"fail": "scratch", "fail_task": 1, "gate": str(gate), "gate_task": 0}})
    first = submit.submit(plan).sync_job
    until(tmp_path, "demo", lambda found: found.steps[0].failed_tasks == [1])
    second = resume(tmp_path, "demo", on).sync_job
    assert second not in (None, first)
    ids = "squeue", "--noheader", "--format=%i"
    slurm_plain.until(lambda: first not in slurm_plain.command(*ids).split(),
                      "the earlier job still waits")
    assert second in slurm_plain.command(*ids).split()
    gate.unlink()
    until(tmp_path, "demo", settled)
    slurm_plain.until(lambda: not slurm_plain.jobs(), "the jobs do not end")
    assert "fake: done" in (plan.folder.path / "report.html").read_text()
