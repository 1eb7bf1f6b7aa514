"""A run that was resumed: status, resume and other runs tell what is old from what is new."""

import errno
import os
import signal
import threading
import time

import pytest
from fakeslurm import queue_line
from submitted import Case

from l3hpc import errors, schedulers
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError, InputError
from l3hpc.io.files import write_json
from l3hpc.pipelines import run_outputs
from l3hpc.runs import (
    display,
    logs,
    resume,
    resume_plan,
    status,
    submission_lock,
    submit,
)
from l3hpc.runs.resume import cancel
from l3hpc.workspace import attempts, markers, records
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.run_record import StepRecord
from l3hpc.workspace.states import JobState

pytestmark = pytest.mark.slow


@pytest.fixture
def case(chains, slurm, tmp_path):
    return lambda name="demo", **plan: Case(chains, slurm, tmp_path, name, **plan)


def again(chain, **options):
    return resume.resume(chain.workspace, chain.name, chain.profile, **options)


def begun(chain, step, job, code=None, task=0):
    chain.mark(step, f"{task}.begin", {"job": job, "time": 1000, "restarts": 0})
    if code is not None:
        chain.mark(step, f"{task}.exit", {"code": code, "time": 1030, "job": job})


def states(chain):
    return {name: state for name, (state, _) in chain.look().items()}


def queued_of(job):
    return queue_line(job, "PENDING", "Dependency")


@pytest.fixture
def failed_once(case):
    """extract failed and was resumed as 103."""
    chain = case(names=("extract", "sample", "fit"))
    begun(chain, "extract", "100", 2)
    chain.mark("extract", "0.error.json", {"type": "InputError", "message": "no such folder /data",
                                           "exit_code": 2})
    chain.queue(queue_line("100", "FAILED", code="512"), queue_line("101", "CANCELLED"),
                queue_line("102", "CANCELLED"))
    assert chain.look()["extract"] == ("failed", "no such folder /data")
    again(chain)
    assert chain.slurm.calls("sbatch")[-1].startswith("sbatch --parsable --dependency=afterok:104")
    return chain


def test_what_waits_again_is_queued_and_not_what_it_was(failed_once):
    failed_once.queue(queue_line("103", "PENDING", "Priority"), queued_of("104"), queued_of("105"))
    assert failed_once.look() == {
        "extract": ("queued", "other jobs have a higher priority (Priority)"),
        "sample": ("waiting", ""), "fit": ("waiting", "")}
    failed_once.fail_both()
    assert failed_once.look()["extract"] == ("queued", "squeue does not respond")
    assert failed_once.run.state == "running"


def test_of_an_array_the_log_of_the_task_that_failed_now(case):
    chain = case(names=("extract",), tasks={"extract": 3})
    begun(chain, "extract", "100_0", 1, task=0)
    begun(chain, "extract", "100_2", 1, task=2)
    chain.queue(queue_line("100_[0-2]", "FAILED", code="256"))
    again(chain)
    begun(chain, "extract", "101_2", 1, task=2)
    record = records.read(chain.workspace, "demo")
    assert logs.find_log(chain.workspace, record, record.steps[0]).name == "101_2_0_log.err"


def test_markers_of_an_earlier_job_say_nothing_but_what_healing_was_granted():
    marks = markers.TaskMarks(begin={"job": "7"}, exit_code=1, error={"message": "x"},
                              requeues=[{"reason": "out of memory", "mem_mb": 9}])
    assert marks.of("7") is marks
    assert marks.of("8") == markers.TaskMarks(requeues=marks.requeues)
    unknown = markers.TaskMarks(begin={"time": "5"}, exit_code=1)
    assert unknown.of("8") is unknown


def test_the_exit_marker_of_an_earlier_job_is_not_that_of_the_next_one(tmp_path):
    """A cancelled job looks whose markers they are, and the next one begins before it writes."""
    (tmp_path / "0.begin").write_text('{"job": "8", "time": "5"}')
    (tmp_path / "0.exit").write_text(
        '{"code": 143, "time": 6, "job": "7", "stage": "setup", "signal": "TERM"}')
    mark = markers.read_task(tmp_path, 0)
    assert mark.of("8") == markers.TaskMarks(begin={"job": "8", "time": "5"})
    (tmp_path / "0.exit").write_text('{"code": 3, "time": 6, "job": "8", "stage": "step"}')
    mark = markers.read_task(tmp_path, 0)
    assert mark.of("8") is mark and mark.exit_code == 3


@pytest.fixture
def anew(case, chains):
    """All was done, extract is computed again as 104 and fails."""

    def make(kill):
        profile = chains.profile(name="greene", executor="slurm", slots={},
                                 kill_on_invalid_dep=kill)
        chain = case(profile=profile, names=("extract", "sample", "fit", "reduce"))
        for number, name in enumerate(("extract", "sample", "fit", "reduce")):
            chain.finish(name)
            begun(chain, name, str(100 + number), 0)
        again(chain, again="extract")
        begun(chain, "extract", "104", 3)
        return chain
    return make


BLOCKED = {"extract": "failed", "sample": "blocked", "fit": "blocked", "reduce": "blocked"}


def test_what_is_behind_a_second_failure_is_blocked(anew):
    chain = anew(True)
    chain.queue(queue_line("104", "FAILED", code="768"),
                *[queue_line(job, "CANCELLED", "Dependency") for job in ("105", "106", "107")])
    assert states(chain) == BLOCKED
    chain.queue()
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    assert chain.look()["extract"] == ("failed", "exit 3") and states(chain) == BLOCKED


def test_and_resumed_in_one_go_where_slurm_does_not_cancel_it(anew):
    chain = anew(False)
    chain.queue(queue_line("104", "FAILED", code="768"),
                queue_line("105", "PENDING", "DependencyNeverSatisfied"),
                queued_of("106"), queued_of("107"))
    assert states(chain) == BLOCKED and chain.run.state == "failed"
    todo = resume_plan.plan_now(chain.workspace, "demo", chain.profile)
    assert [step.name for step in todo.steps] == list(BLOCKED)
    assert (todo.live, [job.id for job in todo.stale]) == ({}, ["107", "106", "105"])


def test_resume_waits_for_a_job_that_is_just_ending(case, monkeypatch):
    monkeypatch.setattr(resume_plan, "ENDING_POLL_S", 0.05)
    chain = case(names=("extract", "sample"))
    chain.queue(queue_line("100", "RUNNING"), queued_of("101"))
    assert cancel(chain.workspace, "demo") == ["101", "100"]
    chain.queue(queue_line("100", "COMPLETING"), queue_line("101", "CANCELLED"))
    assert chain.look()["extract"] == ("running", "ending")
    said = []

    class Heard(Progress):
        def note(self, text):
            said.append(text)
            chain.queue(queue_line("100", "CANCELLED"), queue_line("101", "CANCELLED"))

    again(chain, progress=Heard())
    assert said == ["waiting for job 100 to end"]
    assert [line.split()[2:-1] for line in chain.slurm.calls("sbatch")[2:]] == [
        [], ["--dependency=afterok:102", "--kill-on-invalid-dep=yes"]]


def test_a_job_that_does_not_end_is_not_doubled(case, monkeypatch):
    monkeypatch.setattr(resume_plan, "ENDING_S", 0.0)
    monkeypatch.setattr(resume_plan, "ENDING_POLL_S", 0.01)
    chain = case(names=("extract",))
    chain.queue(queue_line("100", "COMPLETING"))
    with pytest.raises(ClusterError, match="job 100 is still ending") as caught:
        again(chain)
    assert "l3hpc resume demo" in caught.value.hint
    assert len(chain.slurm.calls("sbatch")) == 1


def test_a_held_job_is_let_go_once(case):
    chain = case(names=("extract", "sample", "embed"), heal={"memory": 3})
    markers.add_requeue(chain.made.step_folder("extract").markers, 0, "out of memory", 1.0,
                        words="out of memory: 100 MB → 200 MB", mem_mb=200, held=True)
    begun(chain, "extract", "100")

    def now(state, reason):
        lines = "\n".join([queue_line("100", state, reason, restarts=1), queued_of("102"),
                           queue_line("101", "FAILED", code="256")])  # embed
        chain.slurm.says("squeue", f"case \"$*\" in *%T*) echo {state};; "
                                   f"*) cat <<'E'\n{lines}\nE\nesac")

    chain.slurm.says("scontrol", "")
    for reason in ("JobHeldUser", "job requeued in held state"):
        now("PENDING", reason)
        assert chain.look()["extract"][1].startswith(
            "held until 'resume' changes its request")
    again(chain, only=("extract",))
    assert chain.slurm.calls("scontrol") == ["scontrol update JobId=100 MinMemoryNode=200",
                                             "scontrol release 100"]
    now("PENDING", "Resources")
    assert chain.look()["extract"][1].startswith("waiting for free nodes")
    now("RUNNING", "None")
    again(chain)  # embed failed: this has nothing to do with the job that was held
    assert len(chain.slurm.calls("scontrol")) == 2
    assert [line.split("/")[-2] for line in chain.slurm.calls("sbatch")] == [
        "extract", "embed", "sample", "embed"]


def test_a_job_whose_helper_died_is_let_go_by_resume(case):
    chain = case(names=("extract",), heal={"memory": 3})
    markers.add_requeue(chain.made.step_folder("extract").markers, 0, "out of memory", 1.0,
                        words="out of memory: 100 MB → 200 MB", mem_mb=200)
    held = queue_line("100", "PENDING", "JobHeldUser", restarts=1)
    logs = chain.made.step_folder("extract").logs
    for folder, words in ((logs, "a helper job has changed"),
                          (f"/elsewhere/{logs}", "'resume' changes")):
        chain.queue(held, queue_line("109", "PENDING", "Priority", name="l3-demo-extract-heal",
                                     output=f"{folder}/heal.log"))
        assert chain.look()["extract"][1].startswith(f"held until {words} its request")
    chain.queue(held)
    assert chain.look()["extract"][1].startswith("held until 'resume' changes its request")
    [(job, changes)] = resume_plan.plan_now(chain.workspace, "demo", chain.profile).held.items()
    assert (job.id, changes) == ("100", ["MinMemoryNode=200"])
    chain.queue(queue_line("100", "PENDING", "JobHeldAdmin", restarts=1))
    assert resume_plan.plan_now(chain.workspace, "demo", chain.profile).held == {}


def test_who_waits_for_another_run_goes_on_after_that_was_resumed(case):
    first = case("first", names=("extract",))
    first.queue(queue_line("100", "RUNNING"))
    second = case("second", names=("embed",), waits_for=("100",))
    first.queue(queue_line("100", "FAILED", code="256"), queue_line("101", "CANCELLED"))
    assert second.look()["embed"] == ("blocked", "by job 100 of another run")
    assert second.run.next == "l3hpc resume second"
    with pytest.raises(InputError, match="extract of first, which is failed"):
        again(second)
    again(first)
    first.queue(queue_line("102", "RUNNING"), queue_line("101", "CANCELLED"))
    again(second)
    assert "--dependency=afterok:102 " in first.slurm.calls("sbatch")[-1]
    first.finish("extract")
    first.queue(queue_line("103", "FAILED", code="256"))
    again(second)
    assert "--dependency" not in first.slurm.calls("sbatch")[-1]


def test_what_a_person_cancelled_is_not_blocked_by_a_run_that_goes_on(case):
    first = case("first", names=("extract",))
    first.queue(queue_line("100", "RUNNING"))
    second = case("second", names=("embed",), waits_for=("100",))
    first.queue(queue_line("100", "RUNNING"), queue_line("101", "CANCELLED"))
    assert states(second) == {"embed": "cancelled"}


def test_another_run_waits_for_every_job_that_makes_its_input(case, chains):
    profile = chains.profile(name="greene", executor="slurm", slots={}, limits={"array": 2})
    first = case("first", profile=profile, names=("extract",), tasks={"extract": 5})

    def waits():
        return run_outputs.run_output(first.workspace, "first", ("extract",),
                                      records.read_all(first.workspace), "greene").waits_for

    assert waits() == ("100", "101", "102")
    first.finish("extract", 0)
    first.finish("extract", 1)
    assert waits() == ("101", "102")
    first.queue(*[queue_line(job, "RUNNING") for job in ("101_0", "101_1", "102_0")])
    case("second", names=("embed",), waits_for=("100", "101", "102"))
    assert "--dependency=afterok:101:102 " in first.slurm.calls("sbatch")[-1]


def test_of_an_array_with_a_failed_task_each_task_is_waited_for(case):
    first = case("first", names=("extract",), tasks={"extract": 4})
    live = [queue_line(f"100_{index}", "RUNNING") for index in (0, 1)]
    first.queue(*live, queue_line("100_3", "FAILED", code="256"))
    first.finish("extract", 2)
    with pytest.raises(InputError, match="extract of first, whose task 3 failed"):
        case("second", names=("embed",), waits_for=("100",))
    again(first)
    first.queue(*live, queue_line("101_3", "PENDING", "Priority"))
    case("third", names=("embed",), waits_for=("100", "101"))
    assert "--dependency=afterok:100_0:100_1:101 " in first.slurm.calls("sbatch")[-1]
    [entry] = records.read(first.workspace, "first").steps
    assert attempts.open_jobs(entry, {2, 3}) == ["100"]
    assert attempts.open_jobs(entry, {0, 1, 2}) == ["101"]


def test_the_end_of_a_submission_is_no_kill(case):
    chain = case(names=("extract", "sample"))
    full, half = (records.read(chain.workspace, "demo") for _ in range(2))
    half.state = "submitting"
    late = half.steps[1]
    late.state, late.job, late.attempts, late.submitted_tasks = "planned", None, [], []
    records.write(chain.workspace, half)
    claim = submission_lock.acquire(chain.workspace, "demo", "submit")
    lines = "\n".join([queue_line("100", "PENDING", "Priority"), queued_of("101")])
    asked, ended = chain.workspace / "asked", chain.workspace / "ended"
    chain.slurm.says("squeue", f"touch '{asked}'; until [ -e '{ended}' ]; do sleep 0.02; done\n"
                               f"cat <<'E'\n{lines}\nE")

    def end():
        while not asked.exists():
            time.sleep(0.01)
        records.write(chain.workspace, full)
        claim.release(forget=True)
        ended.touch()

    thread = threading.Thread(target=end)
    thread.start()
    found = chain.look()
    thread.join()
    assert found["sample"][0] == "submitting" and chain.run.notes == []
    assert states(chain) == {"extract": "queued", "sample": "waiting"}


def test_a_result_is_seen_that_came_while_a_silent_squeue_was_asked(case):
    chain = case(names=("extract", "sample"))
    folder = chain.made.steps[0].artifact / "0000"
    chain.slurm.says("squeue", "sleep 0.5; echo 'squeue: error: x' >&2; exit 1")
    chain.slurm.says("sacct", f"""mkdir -p "{folder}"
        echo '{{"started": 1.0, "finished": 2.0, "summary": {{}}}}' > "{folder}/result.json"
        echo "100|COMPLETED|0:0|61|n1"; echo "101|PENDING|0:0|0|" """)
    assert states(chain)["extract"] == "done"


def test_a_killed_resume_is_seen_and_gone_on_with(case, monkeypatch):
    chain = case(names=("extract", "sample"))
    chain.queue(queue_line("100", "FAILED", code="256"), queue_line("101", "CANCELLED"))

    def killed(*arguments, **options):
        raise SystemExit(137)  # nothing is written from here on

    with monkeypatch.context() as patched:
        patched.setattr(resume.submit_jobs, "submit_steps", killed)
        with pytest.raises(SystemExit):
            again(chain)
    assert records.read(chain.workspace, "demo").state == "submitting"
    chain.look()
    assert chain.run.notes == ["the submitting process was killed before it had submitted all jobs"]
    script = chain.made.step_folder("extract").script()
    chain.queue(queue_line("102", "PENDING", script=script))
    record = records.read(chain.workspace, "demo")
    [job] = schedulers.of_record(chain.workspace, record).jobs(record).untracked(record)
    assert job.id == "102"


def test_a_refused_resume_leaves_the_state_that_was(case):
    chain = case(names=("extract",))
    chain.queue(queue_line("100", "RUNNING"))
    cancel(chain.workspace, "demo")
    chain.queue(queue_line("100", "CANCELLED"))
    chain.slurm.says("sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    with pytest.raises(ClusterError):
        again(chain)
    assert records.read(chain.workspace, "demo").state == "cancelled"


def test_a_faulty_template_is_refused_before_a_resume_changes_anything(case, tmp_path,
                                                                       monkeypatch):
    chain = case(names=("extract",))
    cancel(chain.workspace, "demo")
    chain.queue(queue_line("100", "CANCELLED"))
    before = chain.made.folder.record.read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/extract.sbatch.j2").write_text("{{ nosuch }}")
    with pytest.raises(InputError, match="'nosuch' is undefined"):
        again(chain)
    assert chain.made.folder.record.read_bytes() == before
    assert len(chain.slurm.calls("sbatch")) == 1


def test_stale_handles_of_a_network_folder_are_no_error(tmp_path, monkeypatch):
    write_json(tmp_path / "0.begin", {"job": "1"})
    write_json(tmp_path / "1.begin", {"job": "2"})
    whole, code = markers.read_bounded, errno.ESTALE

    def stale(path, *arguments):
        if path.name == "0.begin":
            raise OSError(code, os.strerror(code))
        return whole(path, *arguments)

    monkeypatch.setattr(markers, "read_bounded", stale)
    with errors.collect_damage() as found:
        assert markers.read(tmp_path)[1].begin["job"] == "2" and not found
        code = errno.EIO
        assert markers.read(tmp_path)[1].begin["job"] == "2"
    assert [(error.where, error.message) for error in found] == [
        (str(tmp_path / "0.begin"), "cannot be read: Input/output error")]


def test_a_signal_that_the_parent_ignores_stays_ignored(chains, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        made = chains.plan(tmp_path, names=("extract",), params={"extract": {"seconds": 3.0}})
        timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGHUP))
        timer.start()
        submit.submit(made)
        timer.join()
    finally:
        signal.signal(signal.SIGHUP, before)
    [found] = status.collect(tmp_path, ["demo"])
    assert found.state == "done"


def test_a_split_array_runs_on_one_machine_too(chains, tmp_path):
    profile = chains.profile(limits={"array": 2})
    made = chains.plan(tmp_path, names=("extract", "sample"), on=profile, tasks={"extract": 5})
    submit.submit(made)
    [found] = status.collect(tmp_path, ["demo"])
    assert found.state == "done"
    assert chains.output(made, "sample") == {0: "(0 (0) (1) (2) (3) (4))"}


def test_what_was_resumed_counts_once_on_the_screen(tmp_path):
    extract = StepRecord("extract", "extract", str(tmp_path), 4, [])
    jobs = {"1": LocalJob("FAILED", "extract", 0, "1", False, []),
            "2": LocalJob("COMPLETED", "extract", 0, "2", False, []),
            "3": LocalJob("PENDING", "sample", 0, "3", False, [])}
    assert display._stage(display._counts(jobs, extract)) == "done"
    # of a packed job, one task failed and was resumed; the others were done
    jobs = {"1_0": LocalJob(JobState.FAILED, "extract", 0, "1", True, [], tasks=[0, 1, 2])}
    write_json(tmp_path / "0000/result.json", {})
    write_json(tmp_path / "0002/result.json", {})
    assert display._counts(jobs, extract) == {JobState.COMPLETED: 2, JobState.FAILED: 1}
    write_json(tmp_path / "0001/result.json", {})
    jobs["2_1"] = LocalJob(JobState.COMPLETED, "extract", 1, "2", True, [])
    assert display._stage(display._counts(jobs, extract)) == "done"


def test_a_step_that_ran_out_of_memory_is_not_shown_as_done(tmp_path):
    extract = StepRecord("extract", "extract", str(tmp_path), 1, [])
    jobs = {"1": LocalJob(JobState.OUT_OF_MEMORY, "extract", 0, "1", False, [])}
    assert display._stage(display._counts(jobs, extract)) == "failed"
