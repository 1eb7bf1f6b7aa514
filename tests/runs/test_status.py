"""Status from records, markers and whatever Slurm answers."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from fakeslurm import queue_line
from submitted import Case

from l3hpc.io.files import write_json
from l3hpc.runs import display, status, submit
from l3hpc.workspace import artifacts, markers, records
from l3hpc.workspace.layout import Workspace


@pytest.fixture
def case(chains, slurm, tmp_path):
    return lambda **plan: Case(chains, slurm, tmp_path, **plan)


def test_waiting_queued_and_running_in_words(case):
    chain = case(names=("extract", "sample"), tasks={"extract": 3})
    chain.queue(queue_line("100_0", "RUNNING", used="2:03"),
                queue_line("100_[1-2]", "PENDING", "Priority"),
                queue_line("101", "PENDING", "Dependency"))
    chain.mark("extract", "0.progress.json", {
        "phase": "epoch", "done": 12, "total": 300, "elapsed_s": 120.0, "loss": 0.41234})
    assert chain.look() == {
        "extract": ("running", "epoch 12/300, loss 0.4123, 48:00 left, "
                               "limit in 2:57 (too short at this pace)"),
        "sample": ("waiting", "")}
    chain.mark("extract", "0.progress.json", {
        "phase": "epoch", "done": 12, "total": 13, "elapsed_s": 120.0})
    assert chain.look()["extract"] == ("running", "epoch 12/13, 0:10 left, limit in 2:57")
    assert chain.step("extract").elapsed_s == 123 and chain.run.state == "running"
    chain.queue(queue_line("100_[0-2]", "PENDING", "QOSMaxCpuPerUserLimit"),
                queue_line("101", "PENDING", "Dependency"))
    assert chain.look()["extract"] == (
        "queued", "you use as many cores as your QOS allows (QOSMaxCpuPerUserLimit)")


def test_done_steps_have_their_line_and_time(case):
    chain = case(names=("extract", "sample"), tasks={"extract": 2})
    chain.finish("extract", 0)
    chain.finish("extract", 1, started=130.0, finished=200.0)
    chain.queue(queue_line("101", "RUNNING"))
    assert chain.look()["extract"] == ("done", "")
    assert chain.step("extract").elapsed_s == 100
    artifacts.leave_summary(chain.made.steps[0].artifact, 2, lambda summaries: "500 rows")
    assert chain.look()["extract"] == ("done", "500 rows")
    assert chain.step("extract").elapsed_s == 100
    assert (chain.step("extract").done, chain.step("extract").tasks) == (2, 2)


@pytest.mark.parametrize("used, state", [("0:00", "cancelled"), ("0:02", "done")])
def test_only_what_may_have_been_written_during_the_query_is_read_again(
        case, slurm, monkeypatch, used, state):
    """A job that was cancelled before it started has written nothing."""
    chain = case(names=("extract",))
    result = chain.made.steps[0].artifact / "0000/result.json"
    slurm.says("squeue", f"mkdir -p {result.parent}; echo '{{}}' > {result}\n"
                         f"echo '{queue_line('100', 'CANCELLED', used=used)}'")
    reads, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (reads.append(str(path)), scan(path))[1])
    assert chain.look()["extract"][0] == state
    # the first time the markers, the second time only the artifact, which has the result by then
    assert sum(path.endswith("/markers") for path in reads) == 1


def test_of_an_array_only_what_unfinished_tasks_left_is_opened(case, monkeypatch):
    """A status of 1,000 tasks would open thousands of files, at every refresh, and so would every
    task that asks whether it is the last one, or whether it goes back to the queue."""
    chain = case(names=("extract",), tasks={"extract": 4})
    for task in range(3):
        chain.finish("extract", task)
        chain.mark("extract", f"{task}.begin", {"job": f"100_{task}", "time": 1})
        chain.mark("extract", f"{task}.exit", {"code": 0, "time": 2})
    chain.mark("extract", "3.begin", {"job": "100_3", "time": 1})
    chain.queue(queue_line("100_3", "RUNNING"))
    opened, looked = [], []
    read, is_file = markers.read_bounded, os.path.isfile
    monkeypatch.setattr(markers, "read_bounded",
                        lambda path, size: (opened.append(path.name), read(path, size))[1])
    assert chain.look() == {"extract": ("running", "starting, limit in 5:00")}
    assert set(opened) == {"3.begin"}
    folder = chain.made.step_folder("extract").markers
    opened.clear()
    markers.add_requeue(folder, 2, "memory", 3.0)
    assert set(opened) == {"2.begin", "2.exit"}
    assert markers.read_task(folder, 2).exit_code == 0 and len(markers.read(folder)) == 4
    monkeypatch.setattr(os.path, "isfile", lambda path: (looked.append(path), is_file(path))[1])
    artifacts.leave_summary(chain.made.steps[0].artifact, 4, lambda summaries: "rows")
    assert not looked and artifacts.summary(chain.made.steps[0].artifact) == {}


@pytest.mark.parametrize("accounted", ["", "100_[0-4:2]|PENDING|0:0|0|"])
def test_the_last_of_every_second_task_is_not_lost_because_squeue_leaves_it_out(case, accounted):
    """squeue --array of Slurm 22.05 lists two of the three tasks of 100_[0-4:2]."""
    chain = case(names=("extract",), tasks={"extract": 6})
    for task in (1, 3):
        chain.finish("extract", task)
    chain.queue(queue_line("100_0", "PENDING", "Priority"),
                queue_line("100_2", "PENDING", "Priority"))
    chain.sacct(accounted, "100_5|NODE_FAIL|0:0|61|n1")
    assert chain.look()["extract"][0] == "queued" and chain.step("extract").failed_tasks == [5]
    live = status.live_tasks(chain.made.workspace, records.read(chain.made.workspace, "demo"))
    assert sorted(live["extract"]) == [0, 2, 4]
    chain.sacct("100_4|NODE_FAIL|0:0|61|n1", "100_5|NODE_FAIL|0:0|61|n1")
    chain.look()
    assert chain.step("extract").failed_tasks == [4, 5]


RESUME = ("l3hpc resume demo", None)
LOG_FIRST = ("l3hpc logs demo extract", "l3hpc resume demo")


@pytest.mark.parametrize(("line", "words", "following"), [
    ("100|OUT_OF_MEMORY|0:125|61|n1", "out of memory",
     ("l3hpc resume demo --set extract.mem=200MB", None)),
    ("100|TIMEOUT|0:0|61|n1", "time limit", RESUME),
    ("100|NODE_FAIL|0:0|61|n2", "node failure (n2)", RESUME),
    ("100|FAILED|3:0|61|n1", "exit 3", LOG_FIRST),
    ("100|FAILED|0:11|61|n1", "ended by SIGSEGV (exit 139)", LOG_FIRST),
    ("100|COMPLETED|0:0|61|n1",
     "the job succeeded, but there is no result: it left none, or it was removed", LOG_FIRST),
])
def test_how_it_failed_by_accounting(case, line, words, following):
    chain = case(names=("extract", "sample", "fit"))
    chain.sacct(line)
    assert chain.look() == {"extract": ("failed", words), "sample": ("blocked", "by extract"),
                            "fit": ("blocked", "by extract")}
    assert chain.step("extract").elapsed_s == 61 and chain.run.state == "failed"
    assert (chain.run.next, chain.run.then) == following


def test_what_ran_although_its_parent_had_failed_is_resumed(case):
    """Older versions of Slurm start a job whose parent they have forgotten: it found no input."""
    chain = case(names=("extract", "sample"))
    chain.sacct("100|NODE_FAIL|0:0|61|n1", "101|FAILED|2:0|5|n1")
    chain.mark("sample", "0.begin", {"job": "101", "time": 1000, "restarts": 0})
    assert chain.look()["sample"] == ("failed", "exit 2")
    assert (chain.run.next, chain.run.then) == RESUME
    chain.finish("extract")  # then it would fail again
    chain.look()
    assert chain.run.next == "l3hpc logs demo sample"


def test_how_it_failed_without_accounting(case):
    chain = case(names=("extract", "sample"))
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    chain.mark("extract", "0.begin", {"job": "100", "time": 1000, "restarts": 0})
    chain.mark("extract", "0.exit", {"code": 137, "time": 1030})
    assert chain.look()["extract"] == (
        "failed", "killed by signal 9; no evidence that memory was the cause")
    assert chain.step("extract").elapsed_s == 30
    chain.mark("extract", "0.error.json", {
        "type": "ResourceExhaustedError", "message": "shape[2351,91,128]\nmore",
        "tail": ["a", "b"]})
    assert chain.look()["extract"] == ("failed", "out of memory: shape[2351,91,128]")
    assert chain.step("extract").last_words == ["a", "b"]
    chain.mark("extract", "0.error.json", {
        "type": "L3hpcError", "message": "2 of 3 cannot be used", "where": "a\nb",
        "allowed": "at most 5%", "hint": "Repair them.\nOr allow more."})
    chain.look()
    assert chain.step("extract").last_words == ["a\nb", "at most 5%", "Repair them.",
                                                "Or allow more."]
    chain.mark("extract", "0.error.json", {
        "type": "InputError", "message": "layers differ", "where": "x.h5", "exit_code": 2,
        "allowed": "\n".join(f"layer {number}" for number in range(16)), "hint": "Repair them.\n"
        "Or allow more."})
    chain.look()
    assert chain.step("extract").last_words == [
        "x.h5", "layer 0", "layer 1", "and 14 more in the log", "Repair them.", "Or allow more."]
    shown = display.run_text(chain.run)
    assert "Repair them.\\n" not in shown and "Or allow more." in shown


@pytest.mark.parametrize(("words", "following"), [
    ("out of memory (400 MB) after 2 requeues (100 MB → 200 MB → 400 MB)",
     ("l3hpc resume demo --set extract.mem=800MB", None)),
    ("out of memory (400 MB) after 2 requeues (200 MB → 400 MB, the profile's cap)", LOG_FIRST),
    ("time limit (20 min) after 2 requeues (5 min → 10 min → 20 min)", RESUME),
    ("node failure after 2 requeues", RESUME)])
def test_after_the_last_requeue_the_next_command_is_one_that_helps(case, words, following):
    chain = case(names=("extract",))
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    folder = chain.made.step_folder("extract").markers
    for memory in (200, 400):
        markers.add_requeue(folder, 0, "out of memory", 1.0, mem_mb=memory)
    markers.give_up(folder, 0, words, 2.0)
    chain.mark("extract", "0.exit", {"code": 137, "time": 1030})
    assert chain.look()["extract"] == ("failed", f"{words}, requeued twice (out of memory)")
    assert (chain.run.next, chain.run.then) == following


def test_the_memory_that_was_granted_before_another_requeue_counts(case):
    chain = case(names=("extract",))
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    folder = chain.made.step_folder("extract").markers
    markers.add_requeue(folder, 0, "out of memory", 1.0, mem_mb=400)
    markers.add_requeue(folder, 0, "node failure", 2.0, host="n1")
    markers.give_up(folder, 0, "out of memory (400 MB) after 1 requeue", 3.0)
    chain.mark("extract", "0.exit", {"code": 137, "time": 1030})
    chain.look()
    assert chain.run.next == "l3hpc resume demo --set extract.mem=800MB"


def test_blocked_is_carried_through_generations_whatever_slurm_calls_it(case):
    chain = case()
    chain.queue(queue_line("102", "PENDING", "DependencyNeverSatisfied"),
                queue_line("103", "PENDING", "Dependency"),
                queue_line("104", "PENDING", "Dependency"))
    chain.finish("extract")
    chain.sacct("101|FAILED|1:0|5|n1")
    assert {name: state for name, (state, _) in chain.look().items()} == {
        "extract": "done", "sample": "failed", "fit": "blocked", "reduce": "blocked",
        "train": "blocked"}
    assert {step.blocked_by for step in chain.run.steps[2:]} == {"sample"}
    chain.queue()  # or killed by --kill-on-invalid-dep
    chain.sacct("101|FAILED|1:0|5|n1", "102|CANCELLED|0:0|0|", "103|CANCELLED|0:0|0|",
                "104|CANCELLED|0:0|0|")
    assert {name: state for name, (state, _) in chain.look().items()}["train"] == "blocked"


@pytest.mark.parametrize("behind", [
    [queue_line("101", "PENDING", "Dependency"), queue_line("102", "PENDING", "Dependency")],
    [queue_line("101", "CANCELLED", "Dependency"), queue_line("102", "PENDING", "Dependency")],
    [queue_line("101", "CANCELLED", "Dependency"), queue_line("102", "CANCELLED", "Dependency")]])
def test_what_is_behind_a_cancelled_job_is_blocked_before_and_after_slurm_ends_it(case, behind):
    chain = case(names=("extract", "sample", "fit"))
    chain.queue(queue_line("100", "CANCELLED", "None", used="0:05"), *behind)
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    assert {name: state for name, (state, _) in chain.look().items()} == {
        "extract": "cancelled", "sample": "blocked", "fit": "blocked"}
    assert {step.blocked_by for step in chain.run.steps[1:]} == {"extract"}
    assert chain.run.state == "cancelled" and chain.run.next == "l3hpc resume demo"


@pytest.mark.parametrize("answer", ["", queue_line("100", "COMPLETED", "None", used="0:05")])
def test_what_ends_while_slurm_is_asked_is_done(case, answer):
    chain = case(names=("extract", "sample"))
    folder = chain.made.steps[0].artifact / "0000"
    chain.slurm.says("squeue", f'''sleep 0.5; mkdir -p "{folder}"
        echo '{{"started": 1.0, "finished": 2.0, "summary": {{}}}}' > "{folder}/result.json"
        cat <<'E'\n{answer}\n{queue_line("101", "PENDING", "Dependency")}\nE''')
    assert {name: state for name, (state, _) in chain.look().items()} == {
        "extract": "done", "sample": "waiting"}


def test_requeued_says_how_often_and_why(case):
    chain = case(names=("extract",))
    chain.queue(queue_line("100", "PENDING", "BeginTime", restarts=2))
    markers.add_requeue(chain.made.step_folder("extract").markers, 0, "preempted", 1.0)
    assert chain.look()["extract"] == (
        "requeued", "its start time has not been reached (BeginTime), requeued twice (preempted)")
    chain.queue(queue_line("100", "RUNNING", restarts=1))
    assert chain.look()["extract"] == (
        "running", "limit in 5:00, requeued once (preempted)")


def test_when_nothing_answers_the_markers_do(case):
    chain = case(names=("extract", "sample"))
    chain.fail_both()
    assert chain.look()["extract"] == ("queued", "squeue does not respond")
    chain.mark("extract", "0.begin", {"job": "100", "time": time.time()})
    assert chain.look()["extract"] == ("running", "starting, squeue does not respond")
    chain.mark("extract", "0.progress.json", {"phase": "epoch", "done": 1, "total": 3})
    assert chain.look()["extract"] == ("running", "epoch 1/3, squeue does not respond")
    path = chain.made.step_folder("extract").markers / "0.progress.json"
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    detail = chain.look()["extract"][1]
    assert detail == "epoch 1/3, no progress for 60 min, squeue does not respond"
    assert chain.run.notes == ["squeue: no controller", "sacct: no controller"]
    chain.mark("extract", "0.exit", {"code": 2, "time": time.time()})
    assert chain.look()["extract"] == ("failed", "exit 2")
    assert chain.look()["sample"] == ("blocked", "by extract")


def test_what_everyone_has_forgotten_is_lost(case):
    chain = case(names=("extract", "sample"))
    assert chain.look() == {
        "extract": ("lost", "never started, and its job is no longer in Slurm"),
        "sample": ("blocked", "by extract")}
    chain.mark("extract", "0.begin", {"job": "100", "time": 5})
    assert chain.look()["extract"][1].startswith("started and ended without output")
    assert chain.run.state == "lost"


def test_one_failed_task_of_many(case):
    chain = case(names=("extract", "sample"), tasks={"extract": 4})
    chain.finish("extract", 0)
    chain.queue(queue_line("100_2", "RUNNING", used="1:00"))
    chain.sacct("100_1|FAILED|1:0|9|n1", "100_3|FAILED|1:0|9|n1")
    assert chain.look()["extract"] == (
        "running", "limit in 4:00, 2 of 4 tasks failed (tasks 1, 3)")
    chain.finish("extract", 2)
    chain.queue()
    assert chain.look()["extract"] == ("failed", "exit 1, 2 of 4 tasks failed (tasks 1, 3)")
    assert chain.step("extract").failed_tasks == [1, 3]


def test_slurm_is_asked_once_for_all_runs_and_not_at_all_for_finished_ones(
        chains, slurm, tmp_path):
    profile = chains.profile(name="greene", executor="slurm", slots={})
    for number in range(4):
        made = chains.plan(tmp_path, f"run-{number}", ("extract",), on=profile, salt=str(number))
        submit.submit(made)
    assert len(status.collect(tmp_path)) == 4
    assert len(slurm.calls("squeue")) == 1 and len(slurm.calls("sacct")) == 1
    for record in records.read_all(tmp_path):
        write_json(tmp_path / record.steps[0].artifact / "0000/result.json",
                   {"started": 0, "finished": 1})
    assert {found.state for found in status.collect(tmp_path)} == {"done"}
    assert len(slurm.calls("squeue")) == 1


@pytest.mark.parametrize(("ahead", "words"), [
    (50, "just now"), (-7300, "2 h ago"), (3600, r"at (.{10} )?\d\d:\d\d by another clock"),
    (-1.7e9, r"at .{10} \d\d:\d\d by another clock"), (1e20, "at an unknown time")])
def test_when_a_run_was_submitted_by_a_clock_that_was_wrong(case, ahead, words):
    chain = case(names=("extract",))
    chain.look()
    chain.run.created = time.time() + ahead
    assert re.fullmatch(f".*started {words}", display.heading(chain.run))


def test_the_table_as_a_person_sees_it(case, tmp_path):
    chain = case(names=("extract", "sample", "fit"), tasks={"extract": 15})
    for index in range(15):
        chain.finish("extract", index)
    chain.mark("sample", "0.error.json", {
        "type": "InputError", "message": "no rows", "where": "sample.h5", "hint": "Look there.",
        "exit_code": 2})
    chain.mark("sample", "0.exit", {"code": 2, "time": 5})
    log = chain.made.step_folder("sample").logs / "101_0_log.err"
    log.write_text("x")
    chain.look()
    text = display.run_text(chain.run)
    assert text.splitlines() == [
        "demo   greene   failed, started just now",
        "  step     job  state    tasks  elapsed  detail",
        "  extract  100  done     15/15     1:01",
        "  sample   101  failed     0/1        –  no rows",
        "                                         sample.h5",
        "                                         Look there.",
        f"                                         log {log}",
        "  fit      102  blocked    0/1        –  by sample",
        "  next: l3hpc logs demo sample",
        "  then: l3hpc resume demo   (after removing the cause)"]


def test_json_has_the_documented_fields(case):
    chain = case(names=("extract",))
    chain.look()
    value = json.loads(json.dumps(chain.run.to_json()))
    assert sorted(value) == ["cluster", "combinations", "computed_by", "created", "damaged", "next",
                             "notes", "pipeline", "run", "schema", "state", "steps", "then"]
    assert sorted(value["steps"][0]) == [
        "artifact", "blocked_by", "computed_by", "detail", "done", "elapsed_s", "failed_tasks",
        "held", "held_by_administrator", "job", "kind", "last_words", "log", "name",
        "needs_mem_mb", "progress", "repeats", "restarts", "state", "tasks"]


def test_status_is_light(tmp_path):
    code = ("import sys; from l3hpc.cli import runs; "
            "from l3hpc.runs import status as s, display; "
            f"s.collect({str(tmp_path)!r}); "
            "print([m for m in ('tensorflow', 'pandas', 'numpy', 'submitit', 'pydantic')"
            " if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_failure_before_the_cancellation_stays_a_failure(case):
    chain = case(names=("extract", "sample"))
    chain.mark("extract", "0.exit", {"code": 2, "time": 5})
    chain.mark("extract", "0.error.json", {
        "type": "HeaderDriftError", "message": "columns changed", "exit_code": 3})
    record = records.read(chain.workspace, "demo")
    record.state = "cancelled"
    records.write(chain.workspace, record)
    assert chain.look()["extract"] == ("failed", "columns changed")
    chain.mark("extract", "0.exit", {"code": 143, "time": 5})
    assert chain.look()["extract"][0] == "cancelled"


def test_a_broken_record_hides_no_other_run(case):
    chain = case(names=("extract",))
    broken = Workspace(chain.workspace).run("old").record
    broken.parent.mkdir()
    broken.write_text("{")
    errors = []
    assert [run.run for run in status.collect(chain.workspace, broken=errors)] == ["demo"]
    assert [str(error.where) for error in errors] == [f"{broken}:1"]


STAMP = "2026-11-28T16:20:35"


@pytest.mark.parametrize(("log", "code", "stage", "progress", "words", "lines"), [
    ("\n\n/spool/slurm_script: line 77: module: command not found\n", 127, "setup", False,
     "exit 127: a command was not found, in the setup lines",
     ["/spool/slurm_script: line 77: module: command not found"]),
    ("/spool/slurm_script: line 99: srun: command not found\n", 127, "step", False,
     "exit 127: a command was not found",
     ["/spool/slurm_script: line 99: srun: command not found",
      "if srun does not work here, set srun: false in the profile (cluster.yaml)"]),
    ("a\nb\nsrun: error: Unable to create step for job 7: Invalid Trackable RESource\n", 1, "step",
     False, "exit 1",
     ["b", "srun: error: Unable to create step for job 7: Invalid Trackable RESource",
      "if srun does not work here, set srun: false in the profile (cluster.yaml)"]),
    ("Traceback:\nModuleNotFoundError: No module named 'l3hpc'\n"
     "srun: error: n1: task 0: Exited with exit code 1\n", 1, "step", False, "exit 1",
     ["Traceback:", "ModuleNotFoundError: No module named 'l3hpc'"]),
    ("one\ntwo\nthree\nfour\nsrun: error: a warning of it\n", 3, "step", True, "exit 3",
     ["three", "four", "srun: error: a warning of it"]),
    ("working\nsrun: error: n1: task 0: Killed\n", 137, "step", True,
     "killed by signal 9; no evidence that memory was the cause",
     ["working", "if it needs more memory: l3hpc resume demo --set extract.mem=200MB"]),
    ("working\n/a b/7_submission.sh: line 39: 2198 Killed                  /bin/python -u -m "
     "l3hpc.worker.job_entry /a b/logs\n", 137, "step", True,
     "killed by signal 9; no evidence that memory was the cause",
     ["working", "if it needs more memory: l3hpc resume demo --set extract.mem=200MB"]),
    *((f"working\nsrun: Job step aborted: Waiting up to 4 seconds for job step to finish.\n"
       f"srun: got SIGCONT\n{said} error: *** JOB 5 ON n2 CANCELLED AT {STAMP}{why} ***\n"
       f"srun: forcing job termination\n{said} error: *** STEP 5.0 ON n2 CANCELLED AT {STAMP}{why} "
       f"***\nsrun: error: n2: task 0: Terminated\nsrun: Force Terminated StepId=5.0\n", 3, "step",
       True, "exit 3", ["working"])
      for said, why in (("slurmstepd-n2:", ""),  # Slurm 24.11 and 26.05
                        (f"[{STAMP}.906]", " DUE to SIGNAL Terminated"))),
    ("x" * 299 + "yz", 3, "step", False, "exit 3",
     ["x" * 299 + "y … (cut; the log has all of it)"]),
    ("", 3, "step", False, "exit 3", [])])
def test_a_job_that_left_no_error_shows_the_end_of_its_log(
        case, tmp_path, log, code, stage, progress, words, lines):
    chain = case(names=("extract", "sample"))
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    chain.mark("extract", "0.begin", {"job": "100", "time": 1000, "restarts": 0})
    chain.mark("extract", "0.exit", {"code": code, "time": 1030, "stage": stage})
    if progress:
        chain.mark("extract", "0.progress.json", {"phase": "x", "done": 1})
    (Workspace(tmp_path).run("demo").step("extract").logs / "100_0_log.err").write_text(log)
    assert chain.look()["extract"] == ("failed", words)
    assert chain.step("extract").last_words == lines


def test_what_was_terminated_and_killed_is_not_taken_for_out_of_memory(case):
    chain = case(names=("extract", "sample"))
    chain.slurm.says("sacct", "echo 'sacct: error: disabled' >&2; exit 1")
    chain.mark("extract", "0.begin", {"job": "100", "time": 1000, "restarts": 0})
    chain.mark("extract", "0.exit", {"code": 137, "time": 1030, "signal": "TERM"})
    assert chain.look()["extract"] == (
        "failed", "killed by signal 9, because it did not stop after SIGTERM")
    assert chain.step("extract").last_words == []


def test_jobs_of_every_user_of_a_workspace_are_asked_for(chains, slurm, tmp_path):
    """squeue starts with the first unfinished run, when the users of the others are not known."""
    on = chains.profile(name="greene", executor="slurm", slots={}, partition="gpu")
    for run, user in (("a", "ann"), ("b", "bob"), ("c", "ann")):
        submit.submit(chains.plan(tmp_path, run, names=("extract",), on=on, salt=run))
        record = records.read(tmp_path, run)
        record.user = user
        records.write(tmp_path, record)
    slurm.says("squeue", f"""case "$*" in
*--user\\ ann\\ *) echo '{queue_line('100', 'RUNNING')}'; echo '{queue_line('102', 'PENDING')}' ;;
*--user\\ bob\\ *) echo '{queue_line('101', 'RUNNING')}' ;;
esac""")
    found = {each.run: each.state for each in status.collect(tmp_path)}
    assert found == {"a": "running", "b": "running", "c": "running"}
    assert len(slurm.calls("squeue")) == 2
    assert {each.run for each in status.collect(tmp_path, last=2)} == {"b", "c"}
