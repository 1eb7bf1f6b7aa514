"""Of many jobs two are submitted at a time; none of them may get lost."""

import itertools
import os
import re
import signal

import pytest
from submitted import submit_in_a_child, until_said

from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError
from l3hpc.io.files import read_json
from l3hpc.io.processes import process_start
from l3hpc.runs import dependencies, submission_lock, submit, submit_jobs
from l3hpc.schedulers import pickled_calls
from l3hpc.schedulers.slurm import sbatch
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace


@pytest.fixture(autouse=True)
def live(monkeypatch):
    """squeue lists none of the jobs, and a busy machine may take its time."""
    monkeypatch.setattr(dependencies, "FRESH_S", 600)


@pytest.fixture
def plan(chains, tmp_path):
    """Chains c0 to c9 of two jobs each: c0-0, …, c9-0, c0-1, …, c9-1 is their order."""
    site = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    return chains.many(tmp_path, 10, 2, site)


@pytest.fixture
def sbatch_that(slurm):
    """Has sbatch run some shell text once it has a number, and before it prints that."""
    def says(text):
        slurm.says("sbatch", f"""
exec 9> {slurm.folder}/lock; flock 9
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
exec 9>&-
for last; do :; done
step=$(basename "$(dirname "$last")")
echo "+ $step" >> {slurm.folder}/begun
{text}
echo "- $step" >> {slurm.folder}/begun
echo "$n $step" >> {slurm.folder}/ids
echo $n""")
    return says


def ids(slurm):
    """Step → the id that sbatch gave it."""
    lines = (slurm.folder / "ids").read_text().split("\n")[:-1]
    return {step: number for number, step in map(str.split, lines)}


def test_two_run_at_a_time_and_none_before_the_job_that_it_needs(plan, slurm, sbatch_that):
    # each but the first, which says where the others go, and the last ends once another has begun
    # or ended since it began itself
    sbatch_that(f"""
case $step in c0-0 | c9-1) ;; *)
    until [ "$(tail -n 1 {slurm.folder}/begun)" != "+ $step" ]; do sleep 0.02; done ;;
esac""")
    record = submit.submit(plan)
    found = ids(slurm)
    assert {step.name: step.job for step in record.steps} == found
    running = list(itertools.accumulate(
        1 if line[0] == "+" else -1
        for line in (slurm.folder / "begun").read_text().splitlines()))
    assert max(running) == 2 and running.count(2) >= 5
    needed = {re.search(r"/steps/([^/]+)/", line)[1]: re.search(r"afterok:(\d+)", line)
              for line in slurm.calls("sbatch")}
    for chain in range(10):
        assert needed[f"c{chain}-0"] is None
        assert needed[f"c{chain}-1"][1] == found[f"c{chain}-0"]
    # each job finds its call and its script
    for step in record.steps:
        folder = plan.step_folder(step.name)
        assert (folder.logs / f"{step.job}_submitted.pkl").exists()
        assert folder.submitted_script(step.job).exists()


def test_few_jobs_are_submitted_one_at_a_time(chains, slurm, sbatch_that, plan, tmp_path):
    sbatch_that("sleep 0.05")
    submit.submit(chains.many(tmp_path / "few", 9, 2, plan.profile))
    lines = (slurm.folder / "begun").read_text().splitlines()
    assert [line[0] for line in lines] == ["+", "-"] * 18


@pytest.mark.parametrize("refused", ["c4-0", "c5-0"])
def test_a_refusal_withdraws_the_job_that_is_being_submitted(plan, slurm, sbatch_that, refused):
    """Whether the one that is refused began first or second."""
    sbatch_that(f"""
if [ $step = {refused} ]; then
    echo "sbatch: error: Batch job submission failed: Invalid qos" >&2; exit 1
fi
sleep 0.2""")
    with pytest.raises(ClusterError, match=f"{refused}: .*Invalid qos") as caught:
        submit.submit(plan)
    assert caught.value.allowed.startswith("submitted, then cancelled: c0-0 10")
    [cancelled] = slurm.calls("scancel")
    assert sorted(cancelled.split()[1:]) == sorted(ids(slurm).values())
    begun = [line for line in (slurm.folder / "begun").read_text().splitlines() if line[0] == "+"]
    assert len(ids(slurm)) == len(begun) - 1, "withdrawn before the other sbatch had answered"
    assert not list(plan.folder.path.glob("steps/*/logs/.*.pkl"))
    record = records.read(plan.workspace, plan.run)
    assert record.state == "refused" and not any(step.job for step in record.steps)


def test_both_are_refused_and_both_reasons_are_said(plan, slurm, sbatch_that):
    sbatch_that(f"""
case $step in
    c4-0) until grep -q c5-0 {slurm.folder}/begun; do sleep 0.02; done; sleep 0.2
        echo "sbatch: error: Batch job submission failed: Invalid qos" >&2; exit 1;;
    c5-0) echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1;;
esac""")
    notes, progress = [], Progress()
    progress.note = notes.append
    with pytest.raises(ClusterError, match="c4-0: .*Invalid qos"):
        submit.submit(plan, progress=progress)
    assert len(notes) == 1 and notes[0].startswith("c5-0: ") and "Invalid account" in notes[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_while_two_are_being_submitted(plan, slurm, sbatch_that, number):
    sbatch_that(f"sleep 0.1; [ $step = c4-0 ] && kill -{number} $PPID; sleep 0.1")
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            submit.submit(plan)
        finally:
            os._exit(9)
    os.waitpid(child, 0)
    record = records.read(plan.workspace, plan.run)
    if number == signal.SIGINT:
        assert record.state == "cancelled"
        [cancelled] = slurm.calls("scancel")
        assert sorted(cancelled.split()[1:]) == sorted(ids(slurm).values())
    else:
        noted = {step.name for step in record.steps if step.job}
        assert {"c0-0", "c1-0", "c2-0"} <= noted
        assert len(slurm.calls("sbatch")) - len(noted) <= 2


def test_a_job_is_noted_before_another_one_waits_for_room(plan, slurm, sbatch_that, monkeypatch):
    sbatch_that(f"""
if [ $step = c4-0 ] && ! [ -e {slurm.folder}/room ]; then
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
    exit 1
fi
sleep 0.1""")
    waiting = []

    def pause(workspace, run, seconds):
        waiting.append([step.job for step in records.read(workspace, run).steps
                        if step.name == "c5-0"])
        (slurm.folder / "room").touch()

    monkeypatch.setattr(submission_lock, "pause", pause)
    record = submit.submit(plan)
    assert waiting == [[ids(slurm)["c5-0"]]]
    assert {step.name: step.job for step in record.steps} == ids(slurm)
    assert len(slurm.calls("sbatch")) == 21


@pytest.mark.parametrize("refusal", ["Job dependency problem", "AssocMaxSubmitJobLimit"])
def test_a_passing_refusal_before_the_turn_of_a_job_is_asked_again(
        plan, slurm, sbatch_that, monkeypatch, refusal):
    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 0.2)
    sbatch_that(f"""
if [ $step = c5-1 ] && ! [ -e {slurm.folder}/refused ]; then
    touch {slurm.folder}/refused
    echo "sbatch: error: Batch job submission failed: {refusal}" >&2; exit 1
fi
[ $step = c4-1 ] && until [ -e {slurm.folder}/settled ]; do sleep 0.05; done""")
    real = submit_jobs.Submission.settle

    def settle(now, script):
        begun = script is not None and script.step.name == "c5-1" and script.ahead is not None
        real(now, script)
        if begun:
            (slurm.folder / "settled").touch()

    monkeypatch.setattr(submit_jobs.Submission, "settle", settle)
    record = submit.submit(plan)
    assert (slurm.folder / "settled").exists()
    assert {step.name: step.job for step in record.steps} == ids(slurm)
    assert len(slurm.calls("sbatch")) == 21 and slurm.calls("scancel") == []


def test_a_job_gets_its_call_while_the_other_sbatch_hangs(plan, slurm, sbatch_that, monkeypatch):
    """It may start, and then waits for its call for a minute only."""
    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 0.2)
    pickle = plan.step_folder("c5-0").logs
    sbatch_that(f"""
if [ $step = c4-0 ]; then
    for _ in $(seq 2400); do ls {pickle}/*_submitted.pkl 2> /dev/null && break; sleep 0.1; done \\
        > {slurm.folder}/seen
fi""")
    record = submit.submit(plan)
    assert "_submitted.pkl" in (slurm.folder / "seen").read_text()
    assert {step.name: step.job for step in record.steps} == ids(slurm)


def test_what_cannot_be_written_ahead_is_said_in_its_turn(plan, slurm, sbatch_that, monkeypatch):
    sbatch_that("sleep 0.05")
    real = pickled_calls.write

    def write(step, *given):
        if step.name == "c6-0":
            raise OSError(28, "No space left on device")
        return real(step, *given)

    monkeypatch.setattr(pickled_calls, "write", write)
    with pytest.raises(OSError, match="No space left"):
        submit.submit(plan)
    assert len(slurm.calls("sbatch")) == 6
    [cancelled] = slurm.calls("scancel")
    assert sorted(cancelled.split()[1:]) == sorted(ids(slurm).values())
    assert read_json(Workspace(plan.workspace).run(plan.run).record)["state"] == "refused"


def test_a_full_disk_while_a_job_is_noted_before_its_turn(plan, slurm, sbatch_that, monkeypatch):
    """The jobs that need it would not wait for it."""
    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 0.2)
    sbatch_that("[ $step = c4-0 ] && sleep 2")
    real, failed = records.note_attempts, []

    def note(workspace, run, attempts, **more):
        if "c5-0" in attempts and not failed:
            failed.append(True)
            raise OSError(28, "No space left on device")
        real(workspace, run, attempts, **more)

    monkeypatch.setattr(records, "note_attempts", note)
    with pytest.raises(OSError, match="No space left"):
        submit.submit(plan)
    [cancelled] = slurm.calls("scancel")
    assert sorted(cancelled.split()[1:]) == sorted(ids(slurm).values())


def test_a_second_ctrl_c_gives_up_both_that_hang(plan, slurm, sbatch_that):
    sbatch_that(f"""
echo $$ >> {slurm.folder}/pids
if [ $step = c4-0 ]; then
    until grep -q c5-0 {slurm.folder}/begun; do sleep 0.05; done
    kill -INT $PPID
    {until_said("c4-0: interrupted; waiting", slurm.folder / "said")}
    kill -INT $PPID; exec sleep 600
fi
[ $step = c5-0 ] && exec sleep 600""")
    code, said = submit_in_a_child(plan, slurm.folder / "said")
    began, ended = (float(line.split()[0]) for line in said.splitlines() if "c4-0: " in line)
    assert code == 130 and ended - began < 300
    assert "whether c4-0 and c5-0 were submitted is not known" in said
    assert records.read(plan.workspace, plan.run).state == "submitting"
    assert slurm.calls("scancel") == []
    for pid in (slurm.folder / "pids").read_text().split():
        assert process_start(int(pid)) is None


def test_a_script_that_cannot_be_kept_loses_no_job(plan, slurm, sbatch_that, monkeypatch):
    sbatch_that("sleep 0.05")
    real = pickled_calls.share_file

    def share_file(source, target):
        if source.parent.name == "c5-0":
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(pickled_calls, "share_file", share_file)
    with pytest.raises(OSError, match="Input/output"):
        submit.submit(plan)
    [cancelled] = slurm.calls("scancel")
    assert "c5-0" in ids(slurm)
    assert sorted(cancelled.split()[1:]) == sorted(ids(slurm).values())
