"""A site with two clusters, which share numbers and one accounting database."""

import pytest
from follow import names, profile, settled, states, stranger, until
from realslurm import Sibling

from l3hpc.doctor import slurm
from l3hpc.doctor.environment import ask
from l3hpc.errors import InputError
from l3hpc.runs import status, submit, usage
from l3hpc.runs.resume import cancel, resume
from l3hpc.workspace import records

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _other(_with_accounting):
    number = int(stranger(_with_accounting))  # both clusters give the next number
    cluster = Sibling(_with_accounting, "l3two", FirstJobId=number + 1).start()
    yield cluster
    cluster.stop()


@pytest.fixture
def other(slurm_cluster, _other):
    yield _other
    _other.drain()


def test_a_run_on_another_cluster_is_followed_there(
        slurm_cluster, other, chains, tmp_path, monkeypatch):
    there = profile(chains, slurm_cluster, clusters="l3two")
    doctor = {line.subject: line.severity for line in slurm.slurm_lines(there, ask)}
    assert {doctor[name] for name in ("Slurm", "accounting", "partition cpu")} == {"green"}
    [line] = slurm.slurm_lines(profile(chains, slurm_cluster, clusters="l3three"), ask)
    assert line.severity == "red" and "l3three" in line.message
    theirs = stranger(slurm_cluster, "l3-demo-extract")
    made = chains.plan(tmp_path, names=("extract", "sample"), on=there,
                       params={"extract": {"seconds": 600}})
    record = submit.submit(made)
    assert [step.attempts[0].cluster for step in record.steps] == ["l3two", "l3two"]
    assert record.steps[0].job == theirs and record.clusters == "l3two"
    until(tmp_path, "demo", lambda found: found.steps[0].progress)
    assert cancel(tmp_path, "demo") == [step.job for step in record.steps[::-1]]
    until(tmp_path, "demo", settled)
    assert names(slurm_cluster) == [f"{theirs} l3-demo-extract"]

    monkeypatch.setenv("SLURM_CLUSTERS", "l3two")  # as a person types it who works there
    here = profile(chains, slurm_cluster)
    broken = {"extract": {"fail": "scratch"}}
    submit.submit(chains.plan(tmp_path, "second", names=("extract", "sample"), on=here,
                              params=broken, salt="second"))
    monkeypatch.delenv("SLURM_CLUSTERS")  # another shell
    assert states(until(tmp_path, "second", settled)) == {"extract": "failed", "sample": "blocked"}
    again = resume(tmp_path, "second", here)
    assert again.steps[0].attempts[-1].cluster == "l3two"
    assert states(until(tmp_path, "second", settled)) == {"extract": "done", "sample": "done"}
    assert usage.collect(tmp_path, "second")[0].lost_s is not None
    assert names(slurm_cluster) == [f"{theirs} l3-demo-extract"]


def test_where_slurm_may_choose_the_first_job_decides(slurm_cluster, other, chains, tmp_path):
    either = profile(chains, slurm_cluster, clusters=["l3test", "l3two"])
    record = submit.submit(chains.plan(tmp_path, names=("extract", "sample", "fit"), on=either))
    assert len({step.attempts[0].cluster for step in record.steps}) == 1
    assert states(until(tmp_path, "demo", settled)) == dict.fromkeys(
        ("extract", "sample", "fit"), "done")


def test_no_job_waits_for_one_of_another_cluster(slurm_cluster, other, chains, tmp_path):
    there = profile(chains, slurm_cluster, clusters="l3two")
    maker = chains.plan(tmp_path, "maker", names=("extract",), on=there,
                        params={"extract": {"seconds": 600}})
    job = submit.submit(maker).steps[0].job
    user = chains.plan(tmp_path, "user", names=("embed",), on=profile(chains, slurm_cluster),
                       waits_for=(job,))
    with pytest.raises(InputError, match=f"depends on job {job} on cluster l3two") as caught:
        submit.submit(user)
    assert "clusters: l3two" in caught.value.hint
    assert records.read(tmp_path, "user").state == "refused" and not slurm_cluster.jobs()
    user = chains.plan(tmp_path, "user-2", names=("embed",), on=there, waits_for=(job,))
    assert submit.submit(user).steps[0].attempts[0].cluster == "l3two"
    assert status.collect(tmp_path, ["user-2"])[0].steps[0].state == "waiting"
    cancel(tmp_path, "maker")
