"""What a step waits for is worked out when it is submitted: from results and the queue, afresh."""

import io
import json

import pytest
from fakeslurm import queue_line
from submitted import Case

from l3hpc.cli import main
from l3hpc.errors import ClusterError, InputError, L3hpcError
from l3hpc.runs import dependencies, resume, resume_plan, status, submit, submit_jobs
from l3hpc.schedulers.requests import DependencyGoneError, GivenUpError, QueueFullError
from l3hpc.schedulers.slurm.refusals import classify
from l3hpc.workspace import artifacts, records

pytestmark = pytest.mark.slow

PROBLEM = "echo 'sbatch: error: Batch job submission failed: Job dependency problem' >&2; exit 1"
FULL = "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    for name in ("LIMIT_S", "DEPENDENCY_S"):
        monkeypatch.setattr(submit_jobs, name, (0.01,) * 3)


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={})


def counting(slurm, text):
    """sbatch gives 100, 101 … unless the shell text ends it before."""
    slurm.says("sbatch", f"""
{text}
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
echo $n""")


@pytest.fixture(params=[dependencies.FRESH_S, 0.0], ids=["", "slow machine"])
def fresh_s(request, monkeypatch):
    """For how long a job counts as live without a query. On a busy machine, all this time may pass
    between an sbatch and the next one."""
    monkeypatch.setattr(dependencies, "FRESH_S", request.param)


def in_queue(slurm, *before, until, then=()):
    """squeue lists the jobs ``before`` until a file exists, and then others."""
    lists = ["\n".join(queue_line(job, "RUNNING") for job in jobs) for jobs in (then, before)]
    slurm.says("squeue", f"if [ -e {until} ]; then cat <<'E'\n{lists[0]}\nE\n"
                         f"else cat <<'E'\n{lists[1]}\nE\nfi")


def submitted_after(slurm):
    """What stood behind --dependency, call by call."""
    return [next((word.removeprefix("--dependency=") for word in line.split()
                  if word.startswith("--dependency=")), "") for line in slurm.calls("sbatch")]


@pytest.mark.parametrize(("words", "kind"), [
    ("sbatch: AssocMaxSubmitJobLimit; Batch job submission failed", QueueFullError),
    ("sbatch: QOSGrpSubmitJobsLimit; Batch job …", QueueFullError),
    ("sbatch: Batch job submission failed: Job dependency problem", DependencyGoneError),
    ("sbatch: invalid partition specified: nowhere", ClusterError),
])
def test_kinds_of_refusal(words, kind):
    assert type(classify(ClusterError(words))) is kind


def test_two_ways_of_requesting_gpus_at_once_are_explained():
    """Slurm 26.05 refuses them, where a template of the site adds the second."""
    refusal = classify(ClusterError(
        "sbatch: fatal: --gpus-per-node and --gres=gpu are mutually exclusive."))
    assert refusal.hint == "Set gpu_request: and gpu_type: in the profile (cluster.yaml)."


def test_a_parent_that_ends_and_is_forgotten_between_our_look_and_sbatch(
        chains, slurm, on, tmp_path):
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on)
    result = made.steps[0].artifact / "0000" / "result.json"
    counting(slurm, f"""
case "$*" in *--dependency=afterok:100*)
mkdir -p {result.parent}; echo '{{}}' > {result}; {PROBLEM} ;; esac""")
    record = submit.submit(made)
    assert [step.job for step in record.steps] == ["100", "101"]
    assert submitted_after(slurm) == ["", "afterok:100", ""]


def test_a_parent_that_fails_and_is_forgotten_at_once_is_not_asked_for_again(
        chains, slurm, on, tmp_path, monkeypatch):
    """Slurm has refused the dependency, so that a job of just now no longer counts as live."""
    monkeypatch.setattr(dependencies, "FRESH_S", 600.0)
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on)
    marks = made.step_folder("extract").markers
    counting(slurm, f"""
case "$*" in *--dependency=afterok:100*)
echo '{{"job": "100", "time": 1}}' > {marks}/0.begin
echo '{{"code": 3, "time": 2}}' > {marks}/0.exit; {PROBLEM} ;; esac""")
    with pytest.raises(L3hpcError) as caught:
        submit.submit(made)
    assert caught.value.message == "extract failed, so sample was not submitted"
    assert submitted_after(slurm) == ["", "afterok:100"] and slurm.calls("scancel") == []


def test_a_dependency_that_is_never_taken_is_an_error_and_leaves_nothing(
        chains, slurm, on, tmp_path):
    counting(slurm, f'case "$*" in *--dependency*) {PROBLEM} ;; esac')
    slurm.says("squeue", f"cat <<'E'\n{queue_line('100', 'PENDING', 'Priority')}\nE")
    with pytest.raises(ClusterError, match="sample: sbatch: .*Job dependency problem") as caught:
        submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    assert "l3hpc status" in caught.value.hint
    assert submitted_after(slurm) == ["", *["afterok:100"] * 4]
    assert slurm.calls("scancel") == ["scancel 100"]


def test_ids_of_before_a_wait_are_not_used_after_it(chains, slurm, on, tmp_path, fresh_s):
    """extract ends well while the queue is full; of the array of sample one task is left."""
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on, tasks={"sample": 2})
    done = [step.artifact / "0000" / "result.json" for step in made.steps[:2]]
    counting(slurm, f"""
case "$*" in *fit/script.sbatch)
  if [ ! -e {done[1]} ]; then
    mkdir -p {done[0].parent} {done[1].parent}; echo '{{}}' > {done[0]}; echo '{{}}' > {done[1]}
    sleep 1.1; {FULL}
  fi ;; esac""")
    in_queue(slurm, "100", "101_0", "101_1", until=done[1], then=["101_1"])
    record = submit.submit(made)
    assert [step.job for step in record.steps] == ["100", "101", "102"]
    assert submitted_after(slurm) == ["", "afterok:100", "afterok:101", "afterok:101"]


def test_a_parent_that_fails_during_a_wait(chains, slurm, on, tmp_path, fresh_s):
    """What needs it stays; the rest is submitted; it is said, kept, and made good by resume."""
    made = chains.plan(tmp_path, names=("extract", "sample", "fit", "embed"), on=on)
    marks = made.step_folder("extract").markers
    counting(slurm, f"""
case "$*" in *sample/script.sbatch)
  if [ ! -e {marks}/0.exit ]; then
    echo '{{"job": "100", "time": 1}}' > {marks}/0.begin
    echo '{{"code": 3, "time": 2}}' > {marks}/0.exit; sleep 1.1; {FULL}
  fi ;; esac""")
    in_queue(slurm, "100", until=f"{marks}/0.exit")
    with pytest.raises(L3hpcError) as caught:
        submit.submit(made)
    assert caught.value.message == "extract failed, so sample, fit were not submitted"
    assert caught.value.hint == "See: l3hpc status demo; then: l3hpc resume demo"
    assert caught.value.exit_code == 1 and slurm.calls("scancel") == []
    record = records.read(tmp_path, "demo")
    assert record.state == "submitted"
    assert {step.name: step.state for step in record.steps} == {
        "extract": "submitted", "sample": "planned", "fit": "planned", "embed": "submitted"}
    in_queue(slurm, until=f"{slurm.folder}/calls", then=["101", "102", "103"])
    [found] = status.collect(tmp_path, ["demo"])
    assert {step.name: (step.state, step.detail) for step in found.steps} == {
        "extract": ("failed", "exit 3"), "sample": ("blocked", "by extract, not submitted"),
        "fit": ("blocked", "by extract, not submitted"), "embed": ("running", "limit in 5:00")}
    again = resume.resume(tmp_path, "demo", on)
    assert [step.job for step in again.steps if step.name != "embed"] == ["102", "103", "104"]


def test_retry_of_a_step_whose_parent_failed_submits_nothing(
        chains, slurm, on, tmp_path, monkeypatch):
    chain = Case(chains, slurm, tmp_path, names=("extract", "sample"))
    monkeypatch.setattr(dependencies, "FRESH_S", 0)
    for step in ("extract", "sample"):
        chain.mark(step, "0.begin", {"job": "100" if step == "extract" else "101", "time": 1})
        chain.mark(step, "0.exit", {"code": 2, "time": 2})
    with pytest.raises(InputError, match="sample: extract failed") as caught:
        resume.resume(tmp_path, "demo", chain.profile, only=["sample"])
    assert "l3hpc resume demo" in caught.value.hint and len(slurm.calls("sbatch")) == 2
    with pytest.raises(InputError, match="sample: extract failed"):  # --dry-run says so too
        resume_plan.plan_resume(tmp_path, "demo", chain.profile, only=["sample"])
    assert records.read(tmp_path, "demo").state == "submitted"


def test_squeue_is_not_asked_for_every_job(chains, slurm, on, tmp_path):
    submit.submit(chains.many(tmp_path, 2, 10, on))
    assert len(slurm.calls("sbatch")) == 20 and len(slurm.calls("squeue")) <= 3


@pytest.mark.parametrize(("tasks", "sacctmgr", "message"), [
    (3, "echo 'lab|2'", "extract: an array of 3 tasks can never be submitted: at most 2 jobs may "
                        "be pending or running at once (AssocMaxSubmitJobLimit)"),
    (3, "exit 1", "extract: an array of 3 tasks can never be submitted: you have no pending or "
                  "running job, and Slurm still refuses it (AssocMaxSubmitJobLimit)"),
    (1, "echo 'lab|0'", "extract: no job can be submitted: at most 0 jobs may be pending or "
                        "running at once (AssocMaxSubmitJobLimit)"),
])
def test_what_never_fits_is_refused(chains, slurm, on, tmp_path, tasks, sacctmgr, message):
    slurm.says("sbatch", FULL)
    slurm.says("sacctmgr", sacctmgr)
    with pytest.raises(ClusterError) as caught:
        submit.submit(chains.plan(tmp_path, names=("extract",), on=on,
                                  tasks={"extract": tasks}))
    assert caught.value.message == message
    assert len(slurm.calls("sbatch")) == (2 if sacctmgr == "exit 1" else 1)


def test_what_fits_later_is_waited_for_as_long_as_it_takes(chains, slurm, on, tmp_path):
    counting(slurm, f"[ $(grep -c ^sbatch {slurm.folder}/calls) -gt 40 ] || {{ {FULL}; }}")
    slurm.says("sacctmgr", "printf 'lab|\\nroot|2\\n'")
    slurm.says("squeue", f"cat <<'E'\n{queue_line('7', 'RUNNING', script='/x/y.sh')}\nE")
    submit.submit(chains.plan(tmp_path, names=("extract",), on=on, tasks={"extract": 3}))
    assert len(slurm.calls("sbatch")) == 41


@pytest.fixture
def twice(chains, slurm, on, tmp_path):
    """The run ``one`` is at work on extract (task 0 done, 1 and 2 run, 3 failed); ``two`` wants the
    same."""
    counting(slurm, "")
    first = chains.plan(tmp_path, "one", names=("extract",), on=on, tasks={"extract": 4})
    submit.submit(first)
    result = first.steps[0].artifact / "0000" / "result.json"
    result.parent.mkdir()
    result.write_text("{}")
    script = str(first.step_folder("extract").script())
    slurm.says("squeue", "cat <<'E'\n" + "\n".join(
        queue_line(f"100_{n}", "RUNNING", script=script) for n in (1, 2)) + "\nE")
    return chains.plan(tmp_path, "two", names=("extract", "sample"), on=on, tasks={"extract": 4})


def test_tasks_that_another_run_computes_wait_for_its_jobs(slurm, twice):
    assert dependencies.computed_elsewhere(twice) == {"extract": {1, 2}}
    record = submit.submit(twice)
    assert [attempt.tasks for attempt in record.steps[0].attempts] == [[3], [1, 2]]
    assert submitted_after(slurm)[1:] == ["", "afterany:100_1:100_2", "afterok:101:102"]
    assert "#SBATCH --array=1-2\n" in (
        twice.step_folder("extract").path / "script-1.sbatch").read_text()


def test_a_job_of_another_run_that_somebody_holds_is_not_waited_for(slurm, twice):
    for reason in ("JobHeldUser", "JobHeldAdmin", "DependencyNeverSatisfied"):
        slurm.says("squeue", f"cat <<'E'\n{queue_line('100_1', 'PENDING', reason)}\nE")
        assert dependencies.computed_elsewhere(twice) == {}


def test_resume_waits_for_the_other_run_too(slurm, twice, on, tmp_path):
    squeue = (slurm.folder / "squeue").read_text()
    slurm.says("squeue", "")
    submit.submit(twice)
    (slurm.folder / "squeue").write_text(squeue)
    resume.resume(tmp_path, "two", on)
    assert submitted_after(slurm)[-3:] == ["", "afterany:100_1:100_2", "afterok:103:104"]


def test_what_is_announced_is_what_is_done(chains, slurm, tmp_path, capsys, monkeypatch):
    """The first looks still see jobs that are ending; what is missing shows only after them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume_plan, "ENDING_POLL_S", 0.01)
    # squeue does not list the new jobs: a busy machine needs long for an sbatch
    monkeypatch.setattr(dependencies, "FRESH_S", 600.0)
    (tmp_path / "cluster.yaml").write_text(json.dumps({
        "cluster": "greene", "clusters": {"greene": {}}, "paths": {"workspace": "."}}))
    Case(chains, slurm, tmp_path, names=("extract", "sample", "fit", "embed"))
    for command, extra in ((["resume", "demo"], ["--dry-run"]), (["resume", "demo"], [])):
        ending = "\n".join(queue_line(job, "COMPLETING") for job in ("100", "102"))
        slurm.says("squeue", f"""
touch {slurm.folder}/looks; echo >> {slurm.folder}/looks
[ $(wc -l < {slurm.folder}/looks) -gt 3 ] || cat <<'E'
{ending}
E""")
        (slurm.folder / "looks").unlink(missing_ok=True)
        before = len(slurm.calls("sbatch"))
        with pytest.raises(SystemExit) as end:
            main([*command, *extra])
        out = capsys.readouterr().out
        assert not end.value.code
        assert ("submit extract (1 of 1 task), embed (1 of 1 task), sample (1 of 1 task), fit "
                "(1 of 1 task)") in out
        assert len(slurm.calls("sbatch")) - before == (0 if extra else 4)
    assert "resumed demo: extract 104, embed 105 → sample 106 → fit 107" in out


def test_a_question_about_results_is_asked_before_anything_is_done(
        chains, slurm, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(json.dumps({
        "cluster": "greene", "clusters": {"greene": {}}, "paths": {"workspace": "."}}))
    chain = Case(chains, slurm, tmp_path, names=("extract", "sample"))
    chain.finish("extract")
    for answer, told in (("n\n", ""), ("", "\ninterrupted; ")):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as end:
            main(["resume", "demo", "--from", "extract"])
        said = capsys.readouterr().err
        assert end.value.code == 130 and "discard the results of extract" in said
        assert said.endswith(f"{told}nothing was discarded or submitted\n")
    assert len(slurm.calls("sbatch")) == 2 and chain.step("extract").done == 1


def test_ctrl_c_says_what_was_discarded(chains, slurm, tmp_path, monkeypatch):
    chain = Case(chains, slurm, tmp_path, names=("extract", "sample", "fit"))
    for step in ("extract", "sample", "fit"):
        chain.finish(step)
    real, count = artifacts.discard, iter(range(9))

    def interrupted(path):
        if next(count) == 1:
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(artifacts, "discard", interrupted)
    with pytest.raises(GivenUpError, match="interrupted before all results were disc") as caught:
        resume.resume(tmp_path, "demo", chain.profile, again="extract")
    assert caught.value.allowed == (
        "discarded: extract, sample (not all of its tasks); nothing was submitted")
    assert caught.value.hint == "To continue: l3hpc resume demo --from extract"
    assert len(slurm.calls("sbatch")) == 3 and chain.step("fit").done == 1


HOLDS = [("JobHeldUser", "held by its user"),
         ("job requeued in held state", "held after a requeue"),
         ("launch failed requeued held", "held because it could not start on its node"),
         ("JobHoldMaxRequeue", "held after too many requeues")]


@pytest.mark.parametrize(("reason", "words"), HOLDS)
def test_a_held_job_is_named_and_released(chains, slurm, tmp_path, reason, words):
    chain = Case(chains, slurm, tmp_path, names=("extract", "sample"), tasks={"extract": 3})
    chain.queue(*(queue_line(f"100_{n}", "PENDING", reason) for n in range(3)),
                queue_line("101", "PENDING", "Dependency"))
    assert chain.look()["extract"] == (
        "queued", f"{words} ({reason}): 'resume' releases it")
    assert chain.run.steps[0].held == ["100_0", "100_1", "100_2"]
    assert chain.run.next == "l3hpc resume demo" and chain.run.state == "running"
    slurm.says("scontrol", "")
    slurm.says("squeue", (slurm.folder / "squeue").read_text().replace(
        "#!/bin/sh", "#!/bin/sh\ncase \"$*\" in *%T*) echo PENDING; exit;; esac"))
    todo = resume_plan.plan_resume(tmp_path, "demo", chain.profile)
    assert todo.describe() == "release job 100"
    resume.resume(tmp_path, "demo", chain.profile)
    assert slurm.calls("scontrol") == ["scontrol release 100"]
    assert len(slurm.calls("sbatch")) == 2


def test_a_job_that_is_held_with_its_result_there_is_released_for_what_waits(
        chains, slurm, tmp_path):
    chain = Case(chains, slurm, tmp_path, names=("extract", "sample"))
    chain.finish("extract")
    chain.queue(queue_line("100", "PENDING", "job requeued in held state"),
                queue_line("101", "PENDING", "Dependency"))
    assert {name: state for name, (state, _) in chain.look().items()} == {
        "extract": "done", "sample": "waiting"}
    assert chain.run.steps[0].held == ["100"] and chain.run.next == "l3hpc resume demo"
    assert resume_plan.plan_resume(tmp_path, "demo", chain.profile).describe() == "release job 100"


def test_of_an_array_that_runs_only_the_held_tasks_are_released(chains, slurm, tmp_path):
    chain = Case(chains, slurm, tmp_path, names=("extract",), tasks={"extract": 3})
    chain.queue(queue_line("100_0", "RUNNING"), *(
        queue_line(f"100_{n}", "PENDING", "JobHeldUser") for n in (1, 2)))
    todo = resume_plan.plan_resume(tmp_path, "demo", chain.profile)
    assert todo.describe() == "release jobs 100_[1-2]"


def test_what_an_administrator_holds_is_said_and_left_alone(
        chains, slurm, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(json.dumps({
        "cluster": "greene", "clusters": {"greene": {}}, "paths": {"workspace": "."}}))
    chain = Case(chains, slurm, tmp_path, names=("extract", "sample"))
    chain.queue(queue_line("100", "PENDING", "JobHeldAdmin"),
                queue_line("101", "PENDING", "Dependency"))
    slurm.says("scontrol", "")
    assert chain.look()["extract"] == ("queued", "held by an administrator (JobHeldAdmin): only an "
                                                 "administrator can release it")
    words = ("job 100 of extract is held by an administrator: ask your site to release it "
             "(scontrol show job 100)")
    assert chain.run.notes == [words] and chain.run.next is None
    for extra in ([], ["--dry-run"]):
        with pytest.raises(SystemExit) as end:
            main(["resume", "demo", *extra])
        said = capsys.readouterr()
        assert not end.value.code and said.err == f"note: {words}\n"
        assert "nothing to resume" in said.out
    assert slurm.calls("scontrol") == [] and len(slurm.calls("sbatch")) == 2


