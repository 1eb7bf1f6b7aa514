"""Messages about runs on a real Slurm: a task that is out of memory, and how the runs end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from follow import profile, settled, until
from postbox import TOKEN, postbox

from l3hpc.config.resources import Resources
from l3hpc.runs import notifications, submit

pytestmark = pytest.mark.slurm
pytest.importorskip("apprise")


def test_requeued_done_and_failed(slurm_cluster, chains, tmp_path, monkeypatch, gate):
    monkeypatch.chdir(tmp_path)
    with postbox() as box:
        on = profile(chains, slurm_cluster, notify=box.url)
        Path("cluster.yaml").write_text(json.dumps({"clusters": {"test": {
            **slurm_cluster.profile, "notify": box.url}}}))
        memory = {"extract": {"memory_mb": 600, "gate": str(gate)}}
        submit.submit(chains.plan(
            tmp_path, "hungry", ("extract", "sample"), on=on, params=memory,
            resources={"extract": Resources(cpus=1, mem_mb=300, time_min=5)}))
        submit.submit(chains.plan(tmp_path, "bad", ("extract", "sample"), on=on,
                                  params={"extract": {"fail": "error"}}))
        until(tmp_path, "hungry", lambda found: (
            list(notifications.announce(tmp_path)), any("back in" in each for each in box.titles())
            )[1])
        gate.unlink()
        for run in ("bad", "hungry"):
            until(tmp_path, run, lambda found: (
                list(notifications.announce(tmp_path)), settled(found))[1])
        list(notifications.announce(tmp_path))
        assert list(notifications.announce(tmp_path)) == []
        assert sorted(set(box.titles())) == [
            "bad failed on test", "hungry done on test", "hungry: back in the queue on test"]
        assert box.titles().count("hungry done on test") == 1
        assert box.titles().count("bad failed on test") == 1
        told = [one["message"] for one in box.messages if "back in" in one["title"]]
        assert "extract: " in told[0] and "memory" in told[0]


def test_the_job_after_a_run_sends_them(slurm_cluster, chains, tmp_path, monkeypatch):
    """Without a results sheet, from a file of addresses."""
    monkeypatch.chdir(tmp_path)
    with postbox() as box:
        file = tmp_path / "addresses"
        file.write_text(f"{box.url}\n")
        file.chmod(0o600)
        entry = {**slurm_cluster.profile, "notify": str(file), "ledger_sync": {"by": "job"}}
        Path("cluster.yaml").write_text(json.dumps({"clusters": {"test": entry}}))
        on = profile(chains, slurm_cluster, notify=str(file), ledger_sync={"by": "job"})
        made = chains.plan(tmp_path, "good", ("extract",), on=on)
        record = submit.submit(replace(made, config_file=Path("cluster.yaml")))
        assert record.sync_job
        slurm_cluster.until(lambda: box.messages, "no message came")
        slurm_cluster.until(lambda: not slurm_cluster.jobs(), "the job does not end")
        assert box.titles() == ["good done on test"]
        log = made.folder.sync_log.read_text()
        assert "sent to json" in log and TOKEN not in log
        assert list(notifications.announce(tmp_path)) == []
