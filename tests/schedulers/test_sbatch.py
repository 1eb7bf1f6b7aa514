"""sbatch whose answer is lost, late, or in other words: what it did is looked up in the queue."""

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fakeslurm import queue_line
from waiting import until

from l3hpc import schedulers
from l3hpc.console.progress import Progress
from l3hpc.errors import ClusterError
from l3hpc.io.processes import process_start
from l3hpc.runs import status
from l3hpc.runs import submit as submission
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers.jobs import JobId
from l3hpc.schedulers.requeue_policy import Policy
from l3hpc.schedulers.slurm import queue, requeue, sbatch
from l3hpc.schedulers.slurm.identity import Identity
from l3hpc.workspace import records

pytestmark = pytest.mark.slow

SOON = 1.5
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
NO_CONTACT = ("sbatch: error: Batch job submission failed: Unable to contact slurm controller "
              "(connect failure)")
NO_ANSWER = ("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; "
                       "exit 1")


class Said(Progress):
    def __init__(self):
        super().__init__()
        self.lines = []

    def note(self, words):
        self.lines.append(words)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sbatch, "QUERIES_S", (0.0, 0.02, 0.02))
    monkeypatch.setattr(sbatch, "RETRY_S", (0.02,) * 20_000)
    monkeypatch.setattr(sbatch, "GIVE_UP_S", 240.0)  # the commands themselves take long under load
    monkeypatch.setattr(queue, "CANCEL_WAITS_S", (0.02, 0.02))


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={})


@pytest.fixture
def wanted(slurm, tmp_path):
    """A step's script, and the submission of it."""
    script = tmp_path / "runs/demo/steps/extract/script.sbatch"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/bash\n")
    said = Said()
    return sbatch.Submission(["sbatch", "--parsable", str(script)],
                             Identity("", script=str(script), folder=str(script.parent)),
                             notify=said.note, pause=lambda seconds: time.sleep(min(seconds, 0.02)))


def once_it_runs(slurm, wanted, **changes):
    """Its time begins once sbatch has written its process number: a busy machine starts it late."""
    pid = slurm.folder / "pid"
    return replace(wanted, meanwhile=lambda: until(lambda: pid.exists() and pid.read_text()),
                   **changes)


def shows(slurm, *jobs, after=0):
    """squeue shows these jobs; the first ``after`` times it shows none of them."""
    (slurm.folder / "jobs").write_text("".join(f"{job}\n" for job in jobs))
    slurm.says("squeue", f"n=$(cat {slurm.folder}/looks 2>/dev/null || echo 0)\n"
                         f"echo $((n + 1)) > {slurm.folder}/looks\n"
                         f"[ $n -lt {after} ] || cat {slurm.folder}/jobs")


def of(submission, job, state="PENDING", **more):
    return queue_line(job, state, script=submission.identity.script, **more)


@pytest.mark.parametrize(("out", "err", "job", "cluster"), [
    ("12\n", "", "12", ""), ("12;far\n", "", "12", "far"), (" 12 \n\n", "", "12", ""),
    ("Submitted batch job 12\n", "", "12", ""),
    ("Submitted batch job 12 on cluster far\n", "", "12", "far"),
    ("*** 2026: new quota of 100 TB ***\nSubmitted batch job 12\nsee https://x/7\n", "", "12", ""),
    ("", "Submitted batch job 12\n", "12", ""), ("12\n", "sbatch: estimated cost: 7\n", "12", ""),
    ("\x1b[32mSubmitted batch job 12\x1b[0m\n", "", "12", ""),
    ("\x1b[32m12\x1b[0m\n", "", "12", ""),
    ("Submitted batch job 12\n" * 2, "", "12", "")])
def test_words_that_name_one_job_are_believed(wanted, slurm, out, err, job, cluster):
    slurm.says("sbatch", f"cat <<'E'\n{out}E\ncat >&2 <<'E'\n{err}E")
    found = sbatch.submit(wanted)
    assert found == JobId(job, cluster)
    assert slurm.calls("squeue") == []


@pytest.mark.parametrize("out", [
    "", "ok\n", "7 jobs wait\n7\nplease be patient\n",
    "Your request was accepted.\n", "Welcome to 2026\n12\n", "2026\n12\n", "12\n2026\n",
    "12 submitted\n", "job=12\n", "Submitted batch job 12\nSubmitted batch job 13\n",
    "Submitted batch job 7\n12\n"])
def test_other_words_are_settled_by_the_queue(wanted, slurm, out):
    slurm.says("sbatch", f"cat <<'E'\n{out}E")
    shows(slurm, queue_line("2026", "RUNNING", script="/home/eve/x.sh"), of(wanted, "12"), after=1)
    assert sbatch.submit(wanted).id == "12"


@pytest.mark.parametrize("out", ["1", "Submitted batch job 1", "12;greene"])
def test_an_answer_that_was_cut_short_is_settled_by_the_queue(wanted, slurm, out):
    slurm.says("sbatch", f"printf '{out}'")
    shows(slurm, of(wanted, "12"), after=1)
    assert sbatch.submit(wanted).id == "12"


def test_a_job_that_is_over_already_is_its_answer_too(wanted, slurm):
    slurm.says("sbatch", "echo accepted")
    shows(slurm, of(wanted, "12", "FAILED", code="256"))
    assert sbatch.submit(wanted).id == "12"


def test_of_a_cancelled_job_and_a_new_one_the_new_one_is_the_answer(wanted, slurm):
    slurm.says("sbatch", "echo 'Your request was accepted.'")
    shows(slurm, of(wanted, "12", "CANCELLED"), of(wanted, "99", "CANCELLED"), of(wanted, "100"))
    assert sbatch.submit(wanted).id == "100"
    assert slurm.calls("scancel") == []


@pytest.mark.parametrize("other", ["ending", "helper"])
def test_a_job_that_is_ending_and_a_helper_are_not_taken_for_it(wanted, slurm, other):
    slurm.says("sbatch", f"echo '{TIMED_OUT}' >&2; exit 1")
    old = of(wanted, "99", "COMPLETING") if other == "ending" else queue_line(
        "99", "PENDING", output=f"{wanted.identity.folder}/logs/heal.log")
    shows(slurm, old, of(wanted, "100"))
    assert sbatch.submit(wanted).id == "100"
    assert slurm.calls("scancel") == []


@pytest.mark.parametrize("first", ["COMPLETING", "FAILED"])
def test_an_array_of_which_one_task_has_ended_is_not_submitted_again(wanted, slurm, first):
    """Its setup lines may fail on one node, while the other tasks wait for theirs."""
    slurm.says("sbatch", f"echo '{TIMED_OUT}' >&2; exit 1")
    shows(slurm, of(wanted, "98_0", "COMPLETING"), of(wanted, "98_1", "CANCELLED"),
          of(wanted, "99_0", first), of(wanted, "99_[1-3]"))
    assert sbatch.submit(replace(wanted, give_up_s=0)).id == "99"
    assert len(slurm.calls("sbatch")) == 1 and slurm.calls("scancel") == []


@pytest.mark.parametrize("other", ["2026-11-27 is a day of maintenance", "7 users are logged in",
                                   queue_line("99", "PENDING"), queue_line("99", "PENDING")[:220]])
def test_nothing_in_the_queue_is_taken_for_it_without_its_script(wanted, slurm, other):
    slurm.says("sbatch", f"echo '{TIMED_OUT}' >&2; exit 1")
    shows(slurm, other)
    with pytest.raises(sbatch.NotReachedError):
        sbatch.submit(replace(wanted, give_up_s=SOON))
    shows(slurm, other, of(wanted, "100"))
    assert sbatch.submit(wanted).id == "100"
    assert slurm.calls("scancel") == []


def test_words_without_a_job_and_a_queue_without_it(wanted, slurm):
    slurm.says("sbatch", "echo 'request filed'")
    with pytest.raises(ClusterError, match="printed 'request filed' instead of a job id") as caught:
        sbatch.submit(wanted)
    assert f"sbatch --parsable {wanted.identity.script}" in caught.value.hint
    slurm.says("sbatch", "echo 'request 12 filed'")
    slurm.says(*NO_ANSWER)
    with pytest.raises(sbatch.OutcomeUnknownError, match="the queue cannot be checked"):
        sbatch.submit(wanted)


@pytest.mark.parametrize("words", [
    TIMED_OUT, "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or "
    "received",
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (receive "
    "failure)", "", "Traceback: the wrapper's mail server refused\n", "sbatch: error: wrapper: E7"])
def test_a_job_that_was_submitted_though_sbatch_failed_is_taken(wanted, slurm, words):
    slurm.says("sbatch", f"echo \"{words}\" >&2; exit 1")
    shows(slurm, of(wanted, "12"), after=0 if "E7" in words else 2)
    assert sbatch.submit(wanted).id == "12"
    assert len(slurm.calls("sbatch")) == 1 and slurm.calls("scancel") == []


def test_one_that_was_not_submitted_is_tried_again(wanted, slurm):
    slurm.says("sbatch", f"[ -e {slurm.folder}/once ] && echo 12 && exit\n"
                         f"touch {slurm.folder}/once; echo '{TIMED_OUT}' >&2; exit 1")
    shows(slurm)
    assert sbatch.submit(wanted).id == "12"
    assert "nothing was submitted; trying again in" in wanted.notify.__self__.lines[-1]


def test_a_twin_that_turns_up_late_is_cancelled(wanted, slurm):
    slurm.says("sbatch", f"[ -e {slurm.folder}/once ] && echo 12 && exit\n"
                         f"touch {slurm.folder}/once; echo '{TIMED_OUT}' >&2; exit 1")
    shows(slurm, of(wanted, "11"), of(wanted, "12"), after=3)
    assert sbatch.submit(wanted).id == "12"
    assert slurm.calls("scancel") == ["scancel 11"]


def test_of_two_jobs_one_is_kept(wanted, slurm):
    """A site's wrapper that tries again by itself."""
    slurm.says("sbatch", f"echo '{TIMED_OUT}' >&2; exit 1")
    shows(slurm, of(wanted, "13_[0-3]"), of(wanted, "12_[0-3]"))
    assert sbatch.submit(wanted).id == "12"
    assert slurm.calls("scancel") == ["scancel 13"]


def test_a_job_that_waited_too_long_for_its_task_is_submitted_again(wanted, slurm):
    slurm.says("sbatch", f"[ -e {slurm.folder}/once ] && echo 13 && exit\n"
                         f"touch {slurm.folder}/once; echo '{TIMED_OUT}' >&2; exit 1")
    shows(slurm, of(wanted, "12", "RUNNING", used="0:50"))
    assert sbatch.submit(wanted).id == "13"
    assert "scancel 12" in slurm.calls("scancel")


@pytest.mark.parametrize(("words", "looks"), [
    (TIMED_OUT, 3), (NO_CONTACT, 1),  # which cannot have submitted anything
    ("sbatch: error: E7", 1), ("Batch job submission failed: Invalid account", 1),  # a plain no
    ("Traceback: the wrapper's mail server refused", 3)])  # perhaps after the submission
def test_how_often_the_queue_is_looked_at(wanted, slurm, words, looks):
    slurm.says("sbatch", f"echo \"{words}\" >&2; exit 1")
    shows(slurm)
    with pytest.raises(ClusterError) as caught:
        sbatch.submit(replace(wanted, give_up_s=0))
    assert len(slurm.calls("squeue")) == looks
    assert isinstance(caught.value, sbatch.NotReachedError) == (words in (TIMED_OUT, NO_CONTACT))


@pytest.mark.parametrize("words", ["1", "Submitted batch job 1", "welcome\\n1"])
def test_an_id_that_may_have_lost_digits_is_not_believed_without_the_queue(wanted, slurm, words):
    """Job 1 is somebody else's, and the job 12 would be on no record."""
    slurm.says("sbatch", f"printf '{words}'")
    slurm.says(*NO_ANSWER)
    with pytest.raises(sbatch.OutcomeUnknownError, match="the queue cannot be checked"):
        sbatch.submit(wanted)
    slurm.says("sbatch", f"printf '{words}\\nuse l3queue to follow it\\n'")
    assert sbatch.submit(wanted).id == "1"


def test_an_id_is_not_believed_where_it_may_be_of_either_cluster(wanted, slurm):
    slurm.says("sbatch", "echo 12")
    slurm.says("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; "
                         "exit 1")
    either = replace(wanted, identity=replace(wanted.identity, cluster="near,far"))
    with pytest.raises(sbatch.OutcomeUnknownError, match="printed '12' instead of a job id"):
        sbatch.submit(either)
    slurm.says("sbatch", "echo '12;far'")
    assert sbatch.submit(either) == JobId("12", "far")


def test_jobs_on_record_are_not_taken_for_it(wanted, slurm):
    from dataclasses import replace

    slurm.says("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; "
                         "exit 1")
    shows(slurm, of(wanted, "9"))
    with pytest.raises(ClusterError, match="Invalid account"):
        sbatch.submit(replace(wanted, recorded=lambda: {"9"}))
    assert len(slurm.calls("squeue")) == 1 and len(slurm.calls("sbatch")) == 1


def test_a_silent_sbatch_is_answered_by_the_queue(wanted, slurm, monkeypatch):
    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 0.2)
    slurm.says("sbatch", f"echo $$ > {slurm.folder}/pid; exec sleep 600")
    shows(slurm, of(wanted, "12"), after=1)
    started = time.monotonic()
    assert sbatch.submit(once_it_runs(slurm, wanted)).id == "12"
    assert time.monotonic() - started < 300
    with pytest.raises(ProcessLookupError):
        os.kill(int((slurm.folder / "pid").read_text()), 0)


def test_an_sbatch_that_answers_while_the_queue_is_asked_leaves_no_pipes(
        wanted, slurm, monkeypatch):
    """They would stay open until Python finds that nobody has them, and warns."""
    processes, start, find = [], sbatch.start, sbatch._find_jobs

    def started(submission):
        processes.append(start(submission))
        return processes[0]

    def found(submission):
        (slurm.folder / "asked").touch()
        processes[0].wait(60)
        return find(submission)

    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 0.2)
    monkeypatch.setattr(sbatch, "start", started)
    monkeypatch.setattr(sbatch, "_find_jobs", found)
    slurm.says("sbatch", f"until [ -e {slurm.folder}/asked ]; do sleep 0.05; done; echo 12")
    shows(slurm, of(wanted, "12"))
    assert sbatch.submit(wanted).id == "12"
    assert processes[0].stdout.closed and processes[0].stderr.closed


def test_a_silent_sbatch_that_did_nothing_is_given_up(wanted, slurm, monkeypatch):
    monkeypatch.setattr(sbatch, "QUERY_EVERY_S", 0.1)
    monkeypatch.setattr(sbatch, "TIMEOUT_S", 0.3)
    slurm.says("sbatch", "exec sleep 600")
    shows(slurm)
    with pytest.raises(sbatch.NotReachedError, match="did not respond within 0 s; giving up after"):
        sbatch.submit(replace(wanted, give_up_s=SOON))


def test_a_silent_sbatch_behind_a_wrapper_is_killed_too(wanted, slurm, monkeypatch):
    monkeypatch.setattr(sbatch, "TIMEOUT_S", 1)
    slurm.says("sbatch", f"""timeout 600 sh -c 'echo $$ > {slurm.folder}/pid; sleep 600; :'""")
    started = time.monotonic()
    shows(slurm)
    with pytest.raises(sbatch.NotReachedError):
        sbatch.submit(once_it_runs(slurm, wanted, give_up_s=0))
    assert time.monotonic() - started < 300
    assert process_start(int((slurm.folder / "pid").read_text())) is None


def test_what_escapes_from_a_silent_sbatch_keeps_nobody_waiting(wanted, slurm, monkeypatch):
    monkeypatch.setattr(sbatch, "TIMEOUT_S", 1)
    monkeypatch.setattr(sbatch, "KILLED_S", 0.2)
    slurm.says("sbatch",
               f"setsid -f sh -c 'echo $$ > {slurm.folder}/pid; exec sleep 600'; sleep 600")
    shows(slurm)
    started = time.monotonic()
    with pytest.raises(ClusterError):
        sbatch.submit(once_it_runs(slurm, wanted, give_up_s=0))
    os.kill(int((slurm.folder / "pid").read_text()), signal.SIGKILL)
    assert time.monotonic() - started < 300


def test_what_is_done_meanwhile_is_not_taken_for_silence(wanted, slurm, monkeypatch):
    passed, real = [0.0], time.monotonic
    monkeypatch.setattr(sbatch, "time", SimpleNamespace(monotonic=lambda: real() + passed[0]))
    slurm.says("sbatch", "echo 12")
    shows(slurm)
    an_hour = replace(wanted, meanwhile=lambda: passed.append(passed.pop() + 3600))
    assert sbatch.submit(an_hour) == JobId("12") and passed == [3600]


def test_no_answer_from_anywhere_is_no_answer(wanted, slurm):
    slurm.says("sbatch", f"echo '{TIMED_OUT}' >&2; exit 1")
    slurm.says(*NO_ANSWER)
    with pytest.raises(sbatch.OutcomeUnknownError, match="the queue cannot be checked either"):
        sbatch.submit(replace(wanted, give_up_s=SOON))
    assert len(slurm.calls("sbatch")) == 1 and slurm.calls("scancel") == []


def test_a_controller_that_is_away_for_a_moment_costs_no_chain(chains, slurm, on, tmp_path,
                                                               monkeypatch):
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
echo $((n + 1)) > {slurm.folder}/next
[ $n -ge 103 ] || [ $n -lt 101 ] || {{ echo '{NO_CONTACT}' >&2; exit 1; }}
echo $n""")
    said = Said()
    record = submission.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on),
                               progress=said)
    assert [step.job for step in record.steps] == ["100", "103"] and record.state == "submitted"
    assert "sample: sbatch: " in said.lines[-1] and "for up to" in said.lines[-1]
    assert slurm.calls("scancel") == []


@pytest.fixture
def cut_off(chains, slurm, on, tmp_path):
    """extract is submitted as 100, then nothing answers any more."""
    slurm.says("sbatch", f"[ -e {slurm.folder}/once ] || {{ touch {slurm.folder}/once; echo 100; "
                         f"exit; }}\necho '{TIMED_OUT}' >&2; exit 1")
    slurm.says(*NO_ANSWER)
    slurm.says("scancel", f"echo 'scancel: error: {TIMED_OUT}' >&2; exit 1")
    with pytest.raises(sbatch.OutcomeUnknownError) as caught, \
            pytest.MonkeyPatch.context() as patch:
        patch.setattr(sbatch, "GIVE_UP_S", SOON)
        submission.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    return str(caught.value).splitlines()


def test_what_is_known_is_said_when_slurm_is_gone(cut_off, slurm, tmp_path):
    assert cut_off[0].startswith("sample: sbatch: Batch job submission failed: Socket timed out")
    assert cut_off[1:] == [
        "submitted: extract 100; whether sample was submitted is not known",
        "When Slurm responds again: l3hpc resume demo looks for it and continues, "
        "l3hpc cancel demo cancels the run"]
    assert slurm.calls("scancel") == []
    record = records.read(tmp_path, "demo")
    assert record.state == "submitting" and record.steps[0].job == "100"
    [found] = status.collect(tmp_path, ["demo"])
    assert found.notes[0].startswith("sample: sbatch: Batch job") and \
        found.next == "l3hpc resume demo"


def test_resume_finds_what_nobody_knew(cut_off, slurm, on, tmp_path):
    steps = tmp_path / "runs/demo/steps"
    shows(slurm, queue_line("100", "RUNNING", script=steps / "extract/script.sbatch"),
          queue_line("101", "PENDING", "Dependency", script=steps / "sample/script.sbatch"))
    slurm.says("sbatch", "echo 102")
    slurm.says("scancel", "")
    record = resume(tmp_path, "demo", on)
    assert slurm.calls("scancel")[-1] == "scancel 101"
    assert [step.job for step in record.steps] == ["100", "102"] and record.note == ""


def test_cancel_finds_it_too(cut_off, slurm, tmp_path):
    shows(slurm, queue_line("101", "PENDING",
                            script=tmp_path / "runs/demo/steps/sample/script.sbatch"))
    slurm.says("scancel", "")
    assert cancel(tmp_path, "demo") == ["101"]
    record = records.read(tmp_path, "demo")
    found = schedulers.of_record(tmp_path, record).jobs(record)
    assert found.untracked(record)[0].id == "101"


def test_a_refusal_that_cannot_be_taken_back_says_what_is_left(chains, slurm, on, tmp_path):
    slurm.says("sbatch", f"[ -e {slurm.folder}/once ] || {{ touch {slurm.folder}/once; echo 100; "
                         "exit; }\necho 'sbatch: error: Batch job submission failed: Invalid "
                         "account' >&2; exit 1")
    slurm.says("scancel", f"echo '{TIMED_OUT}' >&2; exit 1")
    shows(slurm, queue_line("100", "PENDING"))
    with pytest.raises(ClusterError) as caught:
        submission.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    assert "Invalid account" in caught.value.message
    assert "still in the queue: job 100" in caught.value.allowed
    assert "l3hpc cancel demo" in caught.value.allowed
    record = records.read(tmp_path, "demo")
    assert record.state == "submitting" and record.steps[0].job == "100"


def test_forgotten_ids_are_no_error_for_cancel(slurm):
    slurm.says("scancel", "echo 'scancel: error: Kill job error on job id 1: Invalid job id "
                          "specified' >&2; exit 1")
    queue.cancel([JobId("1")])
    slurm.says("scancel", "echo 'scancel: error: Kill job error on job id 1: Access/permission "
                          "denied' >&2; exit 1")
    with pytest.raises(ClusterError, match="denied"):
        queue.cancel([JobId("1")])


def test_a_lost_answer_of_scancel_is_looked_up(slurm):
    slurm.says("scancel", "echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1")
    shows(slurm, queue_line("1", "COMPLETING"), queue_line("2_[0-3]", "PENDING"), after=0)
    with pytest.raises(ClusterError, match="still in the queue: job 2") as caught:
        queue.cancel([JobId("1"), JobId("2")], "demo")
    assert caught.value.hint == "When Slurm responds again: l3hpc cancel demo"
    assert slurm.calls("scancel") == ["scancel 1 2", "scancel 2", "scancel 2"]
    shows(slurm)
    queue.cancel([JobId("1"), JobId("2")])
    slurm.says(*NO_ANSWER)
    with pytest.raises(ClusterError, match="may still be in the queue: job 1"):
        queue.cancel([JobId("1")])


def test_ctrl_c_while_looking_leaves_no_job(chains, slurm, on, tmp_path):
    slurm.says("sbatch", f"echo '{TIMED_OUT}' >&2; exit 1")
    slurm.says("squeue", f"[ -e {slurm.folder}/pressed ] || exit 1; cat {slurm.folder}/jobs")
    (slurm.folder / "jobs").write_text(queue_line(
        "100", "PENDING", script=tmp_path / "runs/demo/steps/extract/script.sbatch") + "\n")

    def press():
        (slurm.folder / "pressed").touch()
        os.kill(os.getpid(), signal.SIGINT)

    said = Said()
    said.note = lambda words: "trying again" in words and press()
    # jobs of a shell may start deaf to it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            submission.submit(chains.plan(tmp_path, names=("extract",), on=on), progress=said)
    finally:
        signal.signal(signal.SIGINT, before)
    assert slurm.calls("scancel") == ["scancel 100"]
    assert records.read(tmp_path, "demo").state == "cancelled"


def test_sbatch_is_out_of_reach_of_ctrl_c_and_in_our_session(chains, slurm, on, tmp_path):
    """Linux shares a busy processor among sessions: in one of its own, sbatch would wait."""
    slurm.says("sbatch", f"ps -o sid=,pgid= -p $$ > {slurm.folder}/ids; echo 100")
    submission.submit(chains.plan(tmp_path, names=("extract",), on=on))
    session, group = map(int, (slurm.folder / "ids").read_text().split())
    assert group != os.getpgid(0)
    assert session == (os.getsid(0) if sys.version_info >= (3, 11) else group)


def test_scontrol_is_called_again_if_its_reply_is_lost(slurm, monkeypatch):
    monkeypatch.setattr(requeue, "_RETRY_S", (0.01, 0.01))
    slurm.says("squeue", "echo 'WARNING: PENDING maintenance'; echo PENDING")  # as a site may
    slurm.says("scontrol", f"[ -e {slurm.folder}/once ] && exit; touch {slurm.folder}/once\n"
                           "echo 'Socket timed out on send/recv operation' >&2; exit 1")
    requeue.release("7", ["MinMemoryNode=400"], cluster="far")
    assert slurm.calls("scontrol") == [
        "scontrol --clusters=far update JobId=7 MinMemoryNode=400"] * 2 + [
        "scontrol --clusters=far release 7"]
    slurm.says("scontrol", "echo 'Access/permission denied' >&2; exit 1")
    with pytest.raises(ClusterError, match="denied"):
        requeue.release("7", [])
    assert len(slurm.calls("scontrol")) == 4


def test_the_helper_job_starts_a_module_that_exists(slurm, tmp_path):
    requeue.send_helper("7", ["MinMemoryNode=400"], Policy(python=sys.executable),
                        tmp_path / "log", "l3-heal")
    [call] = slurm.calls("sbatch")
    command = shlex.split(call.partition(" --wrap ")[2])
    module = command[command.index("-m") + 1]
    assert importlib.util.find_spec(module) is not None
    slurm.says("squeue", "echo PENDING")
    slurm.says("scontrol", "exit 0")
    subprocess.run(command, check=True)
    assert slurm.calls("scontrol") == ["scontrol update JobId=7 MinMemoryNode=400",
                                       "scontrol release 7"]


def test_the_kernel_reports_the_end_of_sbatch(monkeypatch):
    """No pauses between looks, which would make every submission longer."""
    pauses = []
    monkeypatch.setattr(subprocess.time, "sleep", pauses.append)
    # its output is complete long before it ends
    process = sbatch._Sbatch(["sh", "-c", "echo 7; exec >&- 2>&-; exec sleep 0.3"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.communicate(timeout=120) == ("7\n", "")
    assert (process.returncode, pauses) == (0, [])
    assert process.wait(timeout=1) == 0
