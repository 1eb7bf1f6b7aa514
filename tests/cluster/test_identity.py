"""Numbers that Slurm gives a second time, and clusters that share them."""

from follow import names, profile, settled, states, stranger, until

from l3hpc.runs import status, submit, usage
from l3hpc.runs.resume import cancel, resume
from l3hpc.workspace import records


def test_a_strangers_job_under_our_number_is_left_alone(slurm_cluster, chains, tmp_path):
    """The controller was set up anew, and counts from the start: the number of a failed step now
    belongs to somebody else, whose job even has the same name; so does that of a step which never
    ran, to a run of the same name in another workspace."""
    on = profile(chains, slurm_cluster)
    broken = {"extract": {"fail": "scratch"}}
    made = chains.plan(tmp_path / "ours", names=("extract", "sample"), on=on, params=broken)
    first = submit.submit(made)
    until(tmp_path / "ours", "demo", settled)
    numbers = [int(step.job) for step in first.steps]
    slurm_cluster.forget_everything(numbers[0])
    assert stranger(slurm_cluster, "l3-demo-extract") == str(numbers[0])
    theirs = chains.plan(tmp_path / "theirs", names=("embed",), on=on, salt="theirs",
                         params={"embed": {"seconds": 600}})
    assert submit.submit(theirs).steps[0].job == str(numbers[1])
    until(tmp_path / "theirs", "demo", lambda found: found.steps[0].progress)

    [found] = status.collect(tmp_path / "ours", ["demo"])
    assert states(found) == {"extract": "failed", "sample": "blocked"}
    assert "first attempt fails" in found.steps[0].detail
    usage.collect(tmp_path / "ours", "demo")
    assert cancel(tmp_path / "ours", "demo") == []
    left = [f"{numbers[0]} l3-demo-extract", f"{numbers[1]} l3-demo-embed"]
    assert names(slurm_cluster) == left

    again = resume(tmp_path / "ours", "demo", on)
    assert states(until(tmp_path / "ours", "demo", settled)) == {"extract": "done",
                                                                 "sample": "done"}
    assert [int(step.job) for step in again.steps] == [numbers[1] + 1, numbers[1] + 2]
    assert names(slurm_cluster)[:2] == left
    assert cancel(tmp_path / "theirs", "demo") == [str(numbers[1])]
    assert names(slurm_cluster)[0] == left[0]
    assert records.read(tmp_path / "ours", "demo").state == "submitted"
