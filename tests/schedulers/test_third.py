"""A third scheduler, registered by a test, takes a chain through submit, status, resume, cancel."""

import json

import pytest
import thirdscheduler
from pydantic import ValidationError

from l3hpc import schedulers
from l3hpc.config.profile import ClusterProfile
from l3hpc.runs import resume, status, submit
from l3hpc.runs.resume import cancel
from l3hpc.workspace import records
from l3hpc.workspace.states import JobState


@pytest.fixture
def third(monkeypatch):
    return thirdscheduler.register(monkeypatch)


@pytest.fixture
def chain(chains, third, tmp_path):
    on = chains.profile(name="elsewhere", executor=thirdscheduler.NAME, slots={})
    return chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on)


def states(workspace):
    [found] = status.collect(workspace, ["demo"])
    return [str(step.state) for step in found.steps]


def test_a_chain_is_submitted_and_waits(chain, third, tmp_path):
    record = submit.submit(chain)
    assert [step.job for step in record.steps] == ["1", "2", "3"]
    needed = [[job.id for job in request.after_ok] for request in third.requests]
    assert needed == [[], ["1"], ["2"]]
    assert (tmp_path / "runs/demo/steps/fit/logs/3_submitted.pkl").is_file()
    assert states(tmp_path) == ["queued", "waiting", "waiting"]
    third.jobs_of_all["1"] = JobState.RUNNING
    assert states(tmp_path) == ["running", "waiting", "waiting"]


def test_its_name_is_in_the_record_and_needs_no_profile_later(chain, third, tmp_path):
    submit.submit(chain)
    on_disk = json.loads((tmp_path / "runs/demo/run.json").read_text())
    assert (on_disk["local"], on_disk["scheduler"]) == (False, thirdscheduler.NAME)
    record = records.read(tmp_path, "demo")
    assert schedulers.of_record(tmp_path, record) is third


def test_cancel_stops_what_lives_the_last_step_first(chain, third, tmp_path):
    submit.submit(chain)
    third.jobs_of_all["1"] = JobState.COMPLETED
    assert cancel(tmp_path, "demo") == third.cancelled == ["3", "2"]
    assert states(tmp_path)[1:] == ["cancelled", "cancelled"]


def test_resume_submits_again_what_failed(chain, third, tmp_path):
    submit.submit(chain)
    third.jobs_of_all |= {"1": JobState.FAILED, "2": JobState.CANCELLED,
                          "3": JobState.CANCELLED}
    assert states(tmp_path) == ["failed", "blocked", "blocked"]
    record = resume.resume(tmp_path, "demo", chain.profile)
    assert [step.job for step in record.steps] == ["4", "5", "6"]


def test_a_scheduler_that_nobody_registered_is_an_error_that_lists_the_others():
    with pytest.raises(ValidationError, match=r"there is no executor 'sge'\s+valid: local, slurm"):
        ClusterProfile.model_validate({"name": "far", "executor": "sge"})
