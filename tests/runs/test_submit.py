"""All of a plan's jobs or none, and no job without a record."""

import json
import os
import pickle
import re
import signal
import time

import pytest
from fakeslurm import queue_line
from submitted import submit_in_a_child, until_said

from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError
from l3hpc.runs import job_scripts, status, submit, submit_jobs
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers import scripts
from l3hpc.schedulers.slurm import sbatch
from l3hpc.schedulers.slurm.commands import clean_environment
from l3hpc.schedulers.slurm.sbatch import sbatch_command
from l3hpc.workspace import records
from l3hpc.workspace.run_record import Attempt


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={}, partition="gpu")


def test_each_step_waits_for_those_it_needs(chains, slurm, on, tmp_path):
    made = chains.plan(tmp_path, on=on, tasks={"extract": 3})
    record = submit.submit(made)
    assert [step.job for step in record.steps] == ["100", "101", "102", "103", "104"]
    calls = [re.sub(r"\S+\.sbatch$", "SCRIPT", line) for line in slurm.calls("sbatch")]
    kill = "--kill-on-invalid-dep=yes"
    assert calls == [
        "sbatch --parsable SCRIPT",
        f"sbatch --parsable --dependency=afterok:100 {kill} SCRIPT",
        f"sbatch --parsable --dependency=afterok:101 {kill} SCRIPT",
        f"sbatch --parsable --dependency=afterok:100:102 {kill} SCRIPT",
        f"sbatch --parsable --dependency=afterok:103 {kill} SCRIPT",
    ]
    assert records.read(tmp_path, "demo") == record and record.state == "submitted"


def test_what_is_submitted_is_what_is_rendered(chains, slurm, on, tmp_path):
    slurm.says("sbatch", f'for last; do :; done; cp "$last" {slurm.folder}/given; echo 7')
    made = chains.plan(tmp_path, names=("extract",), on=on)
    submit.submit(made)
    text = scripts.render(made, made.steps[0])
    assert (slurm.folder / "given").read_text() == text
    assert made.step_folder("extract").script().read_text() == text
    config = json.loads(made.step_folder("extract").config.read_text())
    assert config == made.steps[0].config("demo")
    assert json.loads((made.steps[0].artifact / "config.json").read_text()) == config


def test_sparse_arrays_name_their_pickles_by_task(chains, slurm, on, tmp_path):
    made = chains.plan(tmp_path, names=("extract",), on=on, tasks={"extract": 5})
    for index in (0, 1, 3):
        folder = made.steps[0].artifact / f"{index:04d}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
    made = chains.plan(tmp_path, names=("extract",), on=on, tasks={"extract": 5})
    record = submit.submit(made)
    logs = made.step_folder("extract").logs
    assert sorted(path.name for path in logs.iterdir()) == [
        "100_2_submitted.pkl", "100_4_submitted.pkl", "100_submission.sh"]
    assert "#SBATCH --array=2,4\n" in (logs / "100_submission.sh").read_text()
    delayed = pickle.loads((logs / "100_4_submitted.pkl").read_bytes())
    assert delayed.function.index == 4
    assert delayed._timeout_min == 5 and delayed._timeout_countdown == 3
    assert (logs / "100_4_submitted.pkl").stat().st_size < 1000
    assert record.steps[0].attempts[0].tasks == [2, 4]


def test_a_refusal_cancels_the_earlier_jobs_leaf_first(chains, slurm, on, tmp_path):
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
if [ $n = 103 ]; then
  echo "sbatch: error: invalid account or account/partition combination specified" >&2
  exit 1
fi
echo $n""")
    made = chains.plan(tmp_path, on=on)
    with pytest.raises(ClusterError) as caught:
        submit.submit(made)
    assert caught.value.message == ("reduce: sbatch: invalid account or account/partition "
                                    "combination specified")
    assert "account: in the profile" in caught.value.hint
    assert caught.value.allowed == "submitted, then cancelled: extract 100, sample 101, fit 102"
    assert slurm.calls("scancel") == ["scancel 102 101 100"]
    record = records.read(tmp_path, "demo")
    assert record.state == "refused" and {step.job for step in record.steps} == {None}
    assert not list(made.folder.path.glob("steps/reduce/logs/.*"))  # no pickle or script is left


def test_a_refusal_leaves_what_was_done_before_as_it_is(chains, slurm, on, tmp_path):
    slurm.says("sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    done = chains.plan(tmp_path, names=("extract", "sample"), on=on).steps[0].artifact / "0000"
    done.mkdir(parents=True)
    (done / "result.json").write_text("{}")
    with pytest.raises(ClusterError):
        submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    assert [step.state for step in records.read(tmp_path, "demo").steps] == ["reused", "planned"]


def test_a_full_queue_is_waited_for_visibly(chains, slurm, on, tmp_path, monkeypatch):
    slurm.says("sbatch", f"""
echo >> {slurm.folder}/tried
if [ $(wc -l < {slurm.folder}/tried) -le 2 ]; then
  echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
  exit 1
fi
echo 5""")
    slurm.says("squeue", f"echo '{queue_line('990', 'RUNNING')}'")  # which may end and make room
    monkeypatch.setattr(submit_jobs, "LIMIT_S", (0.01,))
    said = []

    class Told(Progress):
        def note(self, text):
            said.append(text)

    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on), progress=Told())
    assert record.steps[0].job == "5"
    assert len(said) == 1 and said[0].endswith("trying again until there is room")


def test_the_progress_counts_the_jobs(chains, slurm, on, tmp_path):
    seen = []

    class Told(Progress):
        def finish(self):
            seen.append((self.phase, self.done, self.total, self.unit))
            super().finish()

    submit.submit(chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on), progress=Told())
    assert ("submitting", 3, 3, "jobs") in seen


def test_the_job_id_is_recorded_before_the_next_job_goes(chains, slurm, on, tmp_path):
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
cp -r {tmp_path}/runs {slurm.folder}/seen-$n
echo $((n + 1)) > {slurm.folder}/next
echo $n""")
    submit.submit(chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on))
    seen = []
    for number in (100, 101, 102):  # what another process reads at that moment
        (slurm.folder / f"at-{number}").mkdir()
        (slurm.folder / f"seen-{number}").rename(slurm.folder / f"at-{number}" / "runs")
        seen.append(records.read(slurm.folder / f"at-{number}", "demo"))
    assert [[step.job for step in record.steps] for record in seen] == [
        [None, None, None], ["100", None, None], ["100", "101", None]]
    assert [record.state for record in seen] == ["submitting"] * 3
    assert [[step.state for step in record.steps] for record in seen][2] == [
        "submitted", "submitted", "planned"]
    assert not (tmp_path / "runs/demo/attempts.jsonl").exists()


def test_half_a_line_of_the_notes_is_no_job(chains, slurm, on, tmp_path):
    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on))
    notes = tmp_path / "runs/demo/attempts.jsonl"
    attempt = Attempt("77", False, [0], 1.0)
    records.note_attempts(tmp_path, "demo", {"extract": attempt}, first=True)
    records.note_attempts(tmp_path, "demo", {"extract": record.steps[0].attempts[0]}, first=True)
    notes.write_text(notes.read_text() + '{"step": "extract", "first": true, "attem')
    found = records.read(tmp_path, "demo").steps[0]
    assert [each.job for each in found.attempts] == [record.steps[0].job, "77"]
    assert (found.job, found.submitted_tasks) == ("77", [0])


def test_the_environment_of_sbatch_is_scrubbed(chains, slurm, on, tmp_path, monkeypatch):
    for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_TRES_PER_TASK",
                 "SRUN_DEBUG", "SUBMITIT_EXECUTOR"):
        monkeypatch.setenv(name, "outer")
    monkeypatch.setenv("SLURM_CONF", "/etc/other/slurm.conf")
    submit.submit(chains.plan(tmp_path, names=("extract",), on=on))
    seen = slurm.environment()
    assert {name for name in seen if name.startswith(("SBATCH", "SLURM", "SRUN", "SUBMITIT"))} == {
        "SLURM_CONF", "SLURM_BITSTR_LEN"}
    assert clean_environment({"PATH": "/bin", "SLURM_X": "1"}) == {"PATH": "/bin"}


def test_kill_on_invalid_dep_can_be_switched_off(tmp_path):
    command = sbatch_command(tmp_path / "s.sh", ["7", "9_3"], False)
    assert command[1:4] == ["--parsable", "--dependency=afterok:7:9_3", "--kill-on-invalid-dep=no"]


def test_test_only_asks_about_every_script_and_keeps_nothing(chains, slurm, on, tmp_path):
    submit.submit(chains.plan(tmp_path, on=on), test_only=True)
    assert [line.split()[1] for line in slurm.calls("sbatch")] == ["--test-only"] * 5
    assert not (tmp_path / "runs").exists() and not (tmp_path / "artifacts").exists()


def test_an_input_that_another_run_still_makes_is_waited_for(chains, slurm, on, tmp_path):
    first = chains.plan(tmp_path, "first", names=("extract",), on=on)
    submit.submit(first)
    line = queue_line("100", "RUNNING")
    slurm.says("squeue", f"cat <<'E'\n{line}\nE")
    second = chains.plan(tmp_path, "second", names=("embed",), on=on, waits_for=("100",))
    submit.submit(second)
    assert "--dependency=afterok:100" in slurm.calls("sbatch")[-1]


def test_an_input_whose_job_is_over_without_a_result_is_refused(chains, slurm, on, tmp_path):
    submit.submit(chains.plan(tmp_path, "first", names=("extract",), on=on))
    plan = chains.plan(tmp_path, "second", names=("embed",), on=on, waits_for=("100",))
    with pytest.raises(InputError, match="computed by extract of first, which is lost") as caught:
        submit.submit(plan)
    assert caught.value.hint == "Finish it first: l3hpc resume first"
    plan = chains.plan(tmp_path, "third", names=("embed",), on=on, waits_for=("4711",))
    with pytest.raises(InputError, match="job 4711, which does not belong to any run"):
        submit.submit(plan)


def test_a_finished_input_is_not_waited_for(chains, slurm, on, tmp_path):
    first = chains.plan(tmp_path, "first", names=("extract",), on=on)
    submit.submit(first)
    (first.steps[0].artifact / "0000").mkdir()
    (first.steps[0].artifact / "0000" / "result.json").write_text("{}")
    submit.submit(chains.plan(tmp_path, "second", names=("embed",), on=on,
                              waits_for=("100",)))
    assert "--dependency" not in slurm.calls("sbatch")[-1]


def test_a_dry_run_does_not_need_the_queue(chains, slurm, on, tmp_path):
    submit.submit(chains.plan(tmp_path, "first", names=("extract",), on=on))
    second = chains.plan(tmp_path, "second", names=("extract",), on=on)
    slurm.says("squeue", "echo 'squeue: error: no controller' >&2; exit 1")
    with pytest.raises(ClusterError, match="no controller"):
        job_scripts.render(second)
    rendered = job_scripts.render(second, dry_run=True)
    assert rendered.elsewhere == {} and [*rendered.texts] == ["extract"]


def test_a_circular_dependency_is_refused(chains, tmp_path):
    from dataclasses import replace

    made = chains.plan(tmp_path, names=("extract", "sample"))
    cycle = (replace(made.steps[0], needs=("sample",)), made.steps[1])
    with pytest.raises(InputError, match="circular dependency between steps: extract, sample"):
        job_scripts.in_order(cycle)


def test_cancel_takes_only_the_live_jobs_of_the_run_leaf_first(chains, slurm, on, tmp_path):
    submit.submit(chains.plan(tmp_path, on=on))
    lines = [queue_line("101", "PENDING", "Dependency"),
             queue_line("104", "PENDING", "Dependency"),
             queue_line("100", "COMPLETED"),
             queue_line("990", "RUNNING")]
    slurm.says("squeue", "cat <<'E'\n" + "\n".join(lines) + "\nE")
    assert cancel(tmp_path, "demo") == ["104", "101"]
    assert slurm.calls("scancel") == ["scancel 104 101"]
    assert records.read(tmp_path, "demo").state == "cancelled"


@pytest.mark.parametrize("noted", [0, 1, 2])
def test_a_submission_that_was_killed_is_resumed(chains, slurm, on, tmp_path, noted):
    """At any moment: what the later jobs read may not have been written yet."""
    made = chains.plan(tmp_path, names=("extract", "sample", "fit", "reduce"), on=on,
                       heal={"memory": 7})
    other = chains.plan(tmp_path / "whole", names=("extract", "sample", "fit", "reduce"), on=on,
                        heal={"memory": 7})
    note, count = records.note_attempts, []

    def killed(*args, **options):
        count.append(1)
        if len(count) > noted:
            os._exit(9)
        note(*args, **options)

    child = os.fork()
    if not child:
        records.note_attempts = killed
        submit.submit(made)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    [found] = status.collect(tmp_path, ["demo"])
    assert found.next == "l3hpc resume demo"
    resume(tmp_path, "demo", on)
    submit.submit(other)
    for step in made.steps:
        folder = made.step_folder(step.name)
        policy = json.loads(folder.requeue_policy.read_text())
        assert policy == json.loads(other.step_folder(step.name).requeue_policy.read_text())
        assert os.readlink(made.folder.artifact(step.name)) == str(step.artifact)
        assert (step.artifact / "config.json").samefile(folder.config)
        assert folder.markers.is_dir() and folder.script().is_file()
        assert list(folder.logs.glob("*_submitted.pkl"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_sbatch_waits_until_its_job_is_on_record(
        chains, slurm, on, tmp_path, number):
    """The thread of the submission lock does not block it."""
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
[ $n = 101 ] && kill -{int(number)} $PPID && sleep 0.3
echo $n""")
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on)
    child = os.fork()
    if not child:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            submit.submit(made)
        finally:
            os._exit(9)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    record = records.read(tmp_path, "demo")
    if number == signal.SIGINT:
        assert (code, record.state) == (9, "cancelled")
        assert slurm.calls("scancel") == ["scancel 101 100"]
    else:
        assert (code, record.state) == (-number, "submitting")
        assert [step.job for step in record.steps] == ["100", "101", None]
    assert len(slurm.calls("sbatch")) == 2


def test_ctrl_c_while_sbatch_hangs_says_what_is_waited_for(chains, slurm, on, tmp_path,
                                                           monkeypatch):
    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 0.5)
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
if [ $n = 101 ]; then
    kill -INT $PPID
    {until_said("interrupted; waiting for Slurm", tmp_path / "said")} || exit 1
fi
echo $n""")
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on)
    code, said = submit_in_a_child(made, tmp_path / "said")
    assert "sample: interrupted; waiting for Slurm, because the job may have been submitted " \
        "already. Ctrl-C again gives up" in said
    assert "interrupted: cancelling 100, 101. Ctrl-C again does not wait for it" in said
    assert said.count("Ctrl-C again gives up") == 1
    assert code == 9 and records.read(tmp_path, "demo").state == "cancelled"
    assert slurm.calls("scancel") == ["scancel 101 100"]


def test_a_second_ctrl_c_gives_up_with_the_command_that_finds_the_job(chains, slurm, on, tmp_path):
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
if [ $n = 101 ]; then
    kill -INT $PPID
    {until_said("interrupted; waiting for Slurm", tmp_path / "said")}
    kill -INT $PPID; exec sleep 600
fi
echo $n""")
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on)
    began = time.monotonic()
    code, said = submit_in_a_child(made, tmp_path / "said")
    assert code == 130 and time.monotonic() - began < 300
    assert "submitted: extract 100; whether sample was submitted is not known" in said
    assert "See whether the job exists: squeue --me --name=l3-demo-sample\n" \
        "When Slurm responds again: l3hpc resume demo looks for it" in said
    assert slurm.calls("scancel") == [] == slurm.calls("squeue")
    record = records.read(tmp_path, "demo")
    assert record.state == "submitting"
    assert [step.job for step in record.steps] == ["100", None, None]
    record.steps[0].attempts, record.steps[0].job, record.steps[0].state = [], None, "planned"
    record.steps[0].submitted_tasks = []
    (tmp_path / "runs/demo/attempts.jsonl").unlink(missing_ok=True)
    records.write(tmp_path, record)
    [found] = status.collect(tmp_path, ["demo"])  # as if it had been the first sbatch
    assert (found.state, found.notes) == (
        "cancelled", ["sample: interrupted before Slurm had answered"])
