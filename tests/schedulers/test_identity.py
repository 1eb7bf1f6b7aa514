"""Whether a job that Slurm shows is ours: its number may be anybody's."""

from dataclasses import replace

import pytest
from fakeslurm import queue_line
from submitted import Case

from l3hpc.errors import ClusterError
from l3hpc.runs import resume, status, usage
from l3hpc.runs.resume import cancel
from l3hpc.schedulers.slurm import identity, queue
from l3hpc.schedulers.slurm.identity import Identity, Origin
from l3hpc.workspace import records

STEP = "/scratch/ws/runs/demo/steps/extract"
OURS = Identity("98", "", f"{STEP}/script.sbatch", STEP, ("l3-demo-extract",), 1_000_000.0)


@pytest.fixture
def case(chains, slurm, tmp_path):
    return lambda name="demo", **plan: Case(chains, slurm, tmp_path, name, **plan)


@pytest.mark.parametrize("origin", [
    Origin(), Origin(script=f"{STEP}/script.sbatch"), Origin(script=f"{STEP}/script-2.sbatch"),
    Origin(script=f"{STEP}/script.sbatch", name="renamed by scontrol", output="/dev/null"),
    Origin("greene", f"{STEP}/script.sbatch"),
    Origin(script="/var/spool/wrapper/x1", output=f"{STEP}/logs/98_0_log.out"),  # a copy of it
    Origin(output=f"{STEP}/logs/%A_%a_0_log.out"),
    Origin(script="/scratch/ws/runs/demo/steps/extract-b/array.sbatch"),
    Origin(line=f"sbatch --parsable --dependency=afterok:7 {STEP}/script.sbatch"),
    Origin(line=f"sbatch --export=NONE --parsable {STEP}/script-12.sbatch"),
    Origin(name="l3-demo-extract", submitted=1_000_010.0),
    Origin(script=f"{STEP}/script.sbatch", submitted=2_000_000.0)])  # requeued
def test_ours(origin):
    assert OURS.owns(origin)


@pytest.mark.parametrize("origin", [
    Origin(script="/home/eve/job.sh"),
    Origin(script="/home/eve/script.sbatch", name="l3-demo-extract"),
    Origin(script="/scratch/other/runs/demo/steps/extract/script.sbatch", name="l3-demo-extract"),
    Origin(script="/scratch/ws/runs/demo-2/steps/extract/script.sbatch"),
    Origin(script="/scratch/ws/runs/demo/steps/fit/script.sbatch"),
    Origin(script="/scratch/ws/runs/demo-2/steps/extract/array.sbatch"),
    Origin(output=f"{STEP}/logs/heal.log", name="l3-demo-extract-heal"),  # changes a held job
    Origin(name="interactive"), Origin(name="l3-demo-extract", output="/home/eve/slurm-98.out"),
    Origin(name="l3-demo-extract", submitted=1_500_000.0),
    Origin(line="sbatch --wrap true", name="l3-demo-extract", submitted=1_000_010.0),
    Origin(line=f"sbatch {STEP}/script.sbatch.old"), Origin(line=f"sbatch /x{STEP}/script.sbatch"),
    Origin(script=f"{STEP}/script.sbatch", submitted=900_000.0)])  # before ours
def test_not_ours(origin):
    assert not OURS.owns(origin)


def test_the_cluster_belongs_to_it():
    ours = Identity("98", "b", OURS.script, STEP)
    assert ours.owns(Origin("b", OURS.script)) and ours.owns(Origin("", OURS.script))
    assert not ours.owns(Origin("a", OURS.script))


def test_links_and_spaces_do_not_matter(tmp_path):
    folder = tmp_path / "my work/runs/demo/steps/extract"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "my work")
    ours = Identity("98", folder=str(folder))
    linked = f"{tmp_path}/link/runs/demo/steps/extract/script.sbatch"
    assert ours.owns(Origin(script=linked)) and ours.owns(Origin(line=f"sbatch -v {linked}"))
    assert ours.owns(Origin(line=f"sbatch --parsable {folder}/script.sbatch"))
    assert ours.owns(Origin(output=f"{tmp_path}/link/runs/demo/steps/extract/logs/9.out"))


def test_a_record_of_an_earlier_version_has_the_folder_only(case):
    chain = case(names=("extract",))
    [step] = records.read(chain.workspace, "demo").steps
    record = records.read(chain.workspace, "demo")
    step.attempts[0].script = None
    [job] = identity.of_step(chain.workspace, record, step).values()
    folder = chain.made.step_folder("extract")
    assert job.owns(Origin(script=f"{folder}/script.sbatch"))
    assert not job.owns(Origin(script="/home/eve/script.sbatch"))


FOREIGN = {"name": "l3-demo-extract", "cluster": "l3", "submitted": "2027-01-01T00:00:00",
           "script": "/scratch/other/runs/demo/steps/extract/script.sbatch"}


def test_a_job_of_somebody_else_under_our_number_is_not_believed(case, chains):
    chain = case(names=("extract", "sample"))
    chain.mark("extract", "0.begin", {"job": "100", "time": 1})
    chain.mark("extract", "0.exit", {"job": "100", "code": 1, "time": 2})
    chain.queue(queue_line("100", "RUNNING", **FOREIGN), queue_line("101", "COMPLETING", **FOREIGN))
    assert chain.look()["extract"] == ("failed", "exit 1")
    assert cancel(chain.workspace, "demo") == [] and chain.slurm.calls("scancel") == []
    assert status.live_tasks(chain.workspace, records.read(chain.workspace, "demo")) == {
        "extract": {}, "sample": {}}
    resume.resume(chain.workspace, "demo", chain.profile)
    assert [line.partition(" /")[0] for line in chain.slurm.calls("sbatch")[-2:]] == [
        "sbatch --parsable",
        "sbatch --parsable --dependency=afterok:102 --kill-on-invalid-dep=yes"]
    other = chains.plan(chain.workspace, "other", names=("embed",), on=chain.profile,
                        waits_for=("102",))
    chain.queue(queue_line("102", "RUNNING", **FOREIGN))
    with pytest.raises(status.InputError, match="computed by extract of demo, which is"):
        resume.submit.submit(other)


def test_accounting_is_not_believed_either(case):
    chain = case(names=("extract",))
    script = f"{chain.made.step_folder('extract')}/script.sbatch"
    foreign = "100|COMPLETED|0:0|9|n1|l3|2027-01-01T00:00:00|l3-demo-extract|sbatch /home/eve/a.sh"
    old = f"100|FAILED|3:0|61|n2|l3|2027-01-01T00:00:00|l3-demo|x-extract|sbatch {script}"
    chain.sacct(foreign)
    assert chain.look()["extract"][0] == "lost"
    chain.sacct(foreign, old)
    assert chain.look()["extract"] == ("failed", "exit 3")
    chain.sacct(old, foreign)
    assert chain.look()["extract"] == ("failed", "exit 3")
    [step] = records.read(chain.workspace, "demo").steps
    ids = {"100": Identity("100", folder=script.rpartition("/")[0])}
    assert [ended.exit_code for _, ended in queue.query_history(ids)] == [3]
    assert usage.collect(chain.workspace, "demo") == []


def test_what_accounting_closed_when_the_controller_was_set_up_anew_had_failed(case):
    chain = case(names=("extract",))
    chain.sacct("100|CANCELLED|0:0|61|n2")
    assert chain.look()["extract"][0] == "cancelled"
    chain.mark("extract", "0.begin", {"job": "100", "time": 1})
    chain.mark("extract", "0.exit", {"job": "100", "code": 3, "time": 2})
    assert chain.look()["extract"] == ("failed", "exit 3")
    chain.mark("extract", "0.exit", {"job": "100", "code": 143, "time": 2})
    assert chain.look()["extract"][0] == "cancelled"
    chain.mark("extract", "0.exit", {"job": "100", "code": 1, "time": 61})  # srun had not begun
    assert chain.look()["extract"][0] == "cancelled"
    chain.mark("extract", "0.error.json", {"type": "ValueError", "message": "no"})
    assert chain.look()["extract"] == ("failed", "ValueError: no")


def test_a_slurm_that_knows_no_submit_line_is_asked_without(case):
    chain = case(names=("extract",))
    chain.slurm.says("sacct", "case \"$*\" in *SubmitLine*) echo 'sacct: error: Invalid field "
                     "requested: \"SubmitLine\"' >&2; exit 1;; esac\n"
                     "echo \"100|FAILED|3:0|61|n2|l3|$(date +%FT%T)|l3-demo-extract\"")
    assert chain.look()["extract"] == ("failed", "exit 3")


def test_an_earlier_job_of_the_same_number_is_not_the_one_of_now(case):
    """After the numbers began again, a resumed step may get the number that it had."""
    chain = case(names=("extract",))
    chain.mark("extract", "0.begin", {"job": "100", "time": 1})
    chain.mark("extract", "0.exit", {"job": "100", "code": 1, "time": 2})
    chain.queue()
    (chain.slurm.folder / "next").write_text("100")
    record = resume.resume(chain.workspace, "demo", chain.profile)
    assert [attempt.job for attempt in record.steps[0].attempts] == ["100", "100"]
    assert len(records.read(chain.workspace, "demo").steps[0].attempts) == 2
    chain.queue(queue_line("100", "PENDING", "Priority"))
    assert chain.look()["extract"][0] == "queued"
    chain.queue()
    assert chain.look()["extract"][0] == "lost"  # the exit marker is of the first one


def test_a_submission_that_was_noted_counts_once_even_under_an_old_id(case):
    chain = case(names=("extract",))
    [step] = records.read(chain.workspace, "demo").steps
    again = replace(step.attempts[0], time=step.attempts[0].time + 60)
    for attempt in (step.attempts[0], again, again):
        records.note_attempts(chain.workspace, "demo", {"extract": attempt}, first=True)
    assert records.read(chain.workspace, "demo").steps[0].attempts == [step.attempts[0], again]


def test_nothing_is_cancelled_by_its_id_alone(case):
    chain = case(names=("extract", "sample"))
    chain.fail_both()
    with pytest.raises(ClusterError, match="no controller") as caught:
        cancel(chain.workspace, "demo")
    assert "nothing was cancelled" in caught.value.allowed
    assert caught.value.hint == "When Slurm responds again: l3hpc cancel demo"
    assert chain.slurm.calls("scancel") == []
    assert records.read(chain.workspace, "demo").state == "submitted"
