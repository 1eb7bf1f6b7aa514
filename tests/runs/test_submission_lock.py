"""Two commands at once on one run, one of which hands its jobs over; what a killed one leaves."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest
from latenames import LateNames
from meanwhile import before_access

import l3hpc
from l3hpc.cli import main
from l3hpc.errors import ClusterError, InputError
from l3hpc.runs import status, submission_lock, submit
from l3hpc.runs.resume import cancel, resume
from l3hpc.workspace import records, run_names
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.lease import Lease

LIMIT = "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1"


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={}, partition="gpu")


def full_after_one(slurm):
    """The first job is taken, the second meets a limit."""
    slurm.says("sbatch", f"[ -e {slurm.folder}/one ] && {{ {LIMIT}; }}; "
                         f"touch {slurm.folder}/one; echo 100")


def test_a_cancel_on_another_machine_is_seen_at_once(tmp_path, monkeypatch):
    LateNames(monkeypatch)
    request = Workspace(tmp_path).run("demo").stop_submission
    request.parent.mkdir(parents=True)
    submission_lock.check(tmp_path, "demo")
    subprocess.run(["touch", request], check=True)
    with pytest.raises(submission_lock.Stopped):
        submission_lock.check(tmp_path, "demo")



def test_resume_leaves_a_submission_alone_that_is_under_way(chains, slurm, on, tmp_path,
                                                            monkeypatch):
    """A queue limit is waited for; meanwhile somebody types resume."""
    seen = []

    def pause(workspace, run, seconds):
        [found] = status.collect(tmp_path, ["demo"])
        seen.append((found.state, found.steps[0].state, found.notes))
        with pytest.raises(InputError, match=r"by l3hpc submit \(process \d+ on .*\)"):
            resume(tmp_path, "demo", on)
        slurm.says("sbatch", "echo 7")

    slurm.says("sbatch", LIMIT)
    monkeypatch.setattr(submission_lock, "pause", pause)
    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on))
    assert seen == [("submitting", "submitting", [])]
    assert record.steps[0].job == "7" and len(slurm.calls("sbatch")) == 2
    assert not list((tmp_path / "runs/demo").glob("*.owner.*"))


def test_cancel_stops_a_submission_that_is_under_way(chains, slurm, on, tmp_path, monkeypatch):
    """It takes its own jobs back, and is gone when cancel returns."""
    full_after_one(slurm)
    answers = []
    inner = submission_lock.pause

    def pause(workspace, run, seconds):
        other = threading.Thread(target=lambda: answers.append(cancel(tmp_path, "demo")))
        other.start()
        try:
            inner(workspace, run, seconds)
        finally:
            answers.append(other)

    monkeypatch.setattr(submission_lock, "pause", pause)
    with pytest.raises(submission_lock.Stopped, match="sample: cancelled by another command"):
        submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    answers[0].join(120)
    assert answers[1:] == [[]]
    assert slurm.calls("scancel") == ["scancel 100"]
    record = records.read(tmp_path, "demo")
    assert record.state == "cancelled" and not any(step.attempts for step in record.steps)
    assert not (tmp_path / "runs/demo/stop.asked").exists()


def test_one_that_does_not_stop_is_named(chains, slurm, on, tmp_path):
    submit.submit(chains.plan(tmp_path, names=("extract",), on=on))
    with submission_lock.acquire(tmp_path, "demo", "resume"), \
            pytest.raises(ClusterError, match=r"by l3hpc resume \(process \d+ on "):
        submission_lock.stop(tmp_path, "demo", wait_s=0.1)
    assert not (tmp_path / "runs/demo/stop.asked").exists()
    submission_lock.stop(tmp_path, "demo")  # nobody: nothing to wait for


def test_a_question_that_nobody_took_back_stops_no_later_submission(chains, slurm, on, tmp_path):
    """As left by a cancel that was killed."""
    record = submit.submit(chains.plan(tmp_path, names=("extract", "sample"), on=on))
    record.steps[1].attempts, record.steps[1].state = [], "planned"
    records.write(tmp_path, record)
    (tmp_path / "runs/demo/stop.asked").touch()
    assert resume(tmp_path, "demo", on).steps[1].job == "103"


@pytest.fixture
def say(capsys, tmp_path):
    """Exit code and output of a command in this workspace."""
    def call(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*words, "--workspace", str(tmp_path)])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out + told.err
    return call


def killed_before_the_record(plan):
    """A submission that is killed when everything but its record is written."""
    pid = os.fork()
    if not pid:
        records.write = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        submit.submit(plan)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    folder = plan.folder.path
    assert (folder / "settings.json").exists() and not (folder / "run.json").exists()
    # earlier versions wrote the folders of the steps before the record
    (folder / "steps/extract").mkdir()
    (folder / "steps/extract/config.json").touch()


def test_python_lists_what_status_lists(chains, slurm, on, tmp_path):
    killed_before_the_record(chains.plan(tmp_path, names=("extract",), on=on))
    lost = chains.plan(tmp_path, "lost", names=("extract",), on=on)
    submit.submit(lost)
    lost.folder.record.unlink()
    submit.submit(chains.plan(tmp_path, "other", names=("extract",), on=on))
    with pytest.warns(UserWarning, match="that cannot be read: lost"):
        found = l3hpc.runs(tmp_path)
    assert [run.name for run in found] == ["other"]
    assert list(found.unsubmitted) == ["demo"] and list(found.damaged) == ["lost"]
    assert list(found.frame().index) == ["other", "demo", "lost"]
    assert list(found.frame()["state"])[1:] == ["not submitted", "damaged"]
    shown = repr(found)
    assert re.search(r"^demo +not submitted  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", shown, re.MULTILINE)
    assert "None" not in shown and "NaT" not in shown


def test_a_submission_killed_before_its_record_is_listed(chains, slurm, on, tmp_path, say):
    killed_before_the_record(chains.plan(tmp_path, names=("extract",), on=on))
    code, text = say("status")
    assert code == 0 and text == (
        "demo   not submitted, started just now\n"
        "  note: the submitting process was killed before it had submitted a job\n"
        f"  next: submit it again; l3hpc cancel demo --workspace {tmp_path} removes its folder\n")
    [found] = json.loads(say("status", "--json")[1])["unsubmitted"]
    assert (found["run"], found["next"]) == ("demo", f"l3hpc cancel demo --workspace {tmp_path}")
    assert "its submission was killed" in say("status", "demo")[1]
    submit.submit(chains.plan(tmp_path, "other", names=("extract",), on=on))
    assert [line.split()[0] for line in say("status")[1].splitlines()
            if line and not line.startswith(" ")] == ["other", "demo"]
    assert say("cancel", "demo") == (0, "removed demo: none of its jobs had been submitted\n")
    assert not (tmp_path / "runs/demo").exists() and "demo" not in say("status")[1]


def test_an_empty_folder_is_called_what_it_is(tmp_path, say):
    (tmp_path / "runs" / "by hand").mkdir(parents=True)
    os.utime(tmp_path / "runs" / "by hand", (time.time() - 7200,) * 2)
    command = f"l3hpc cancel 'by hand' --workspace {tmp_path}"
    assert say("status") == (0, "by hand   empty folder, made 2 h ago\n"
                                "  note: made by hand, or its submission was killed at once\n"
                                f"  next: {command} removes it\n")
    [found] = json.loads(say("status", "--json")[1])["unsubmitted"]
    assert (found["next"], found["empty"]) == (command, True)
    assert list(l3hpc.runs(tmp_path).frame()["state"]) == ["empty folder"]
    assert say("cancel", "by hand") == (0, "removed by hand: none of its jobs had been submitted\n")
    assert not (tmp_path / "runs" / "by hand").exists()


def test_the_name_of_a_killed_submission_can_be_used_again(chains, slurm, on, tmp_path):
    plan = chains.plan(tmp_path, names=("extract", "sample"), on=on)
    killed_before_the_record(plan)
    (tmp_path / "runs/demo/steps/older").mkdir()
    record = submit.submit(plan)
    assert [step.job for step in record.steps] == ["100", "101"]
    assert sorted(path.name for path in (tmp_path / "runs/demo/steps").iterdir()) == [
        "extract", "sample"]
    assert not list((tmp_path / "runs/demo").glob("*.owner.*"))
    with pytest.raises(InputError, match="already exists\n.* just now: l3hpc status demo\\."):
        submit.submit(plan)


@pytest.mark.parametrize("own", [
    "notes.txt", "steps/mine/notes.txt", "artifacts/mine/data.npz", "steps/list", "data/a/b"])
def test_a_folder_that_holds_more_than_a_submission_writes_is_left_alone(
        chains, slurm, on, tmp_path, own):
    workspace = tmp_path / "ws [1]"
    plan = chains.plan(workspace, names=("extract", "sample"), on=on)
    killed_before_the_record(plan)
    file = workspace / "runs/demo" / own
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    assert submission_lock.unsubmitted(workspace, []) == []
    with pytest.raises(InputError, match="already exists"):
        submit.submit(plan)
    assert not submission_lock.discard(workspace, "demo") and file.read_text() == "mine"
    file.unlink()
    if own == "notes.txt":
        assert [one.run for one in submission_lock.unsubmitted(workspace, [])] == ["demo"]


def test_a_lost_record_is_no_killed_submission(chains, slurm, on, tmp_path, say):
    """Its jobs may be running: its folder is neither taken over nor removed."""
    plan = chains.plan(tmp_path, names=("extract",), on=on)
    submit.submit(plan)
    (tmp_path / "runs/demo/run.json").unlink()
    (tmp_path / "runs/demo/steps/extract/markers/0.begin").touch()
    code, text = say("status")
    assert code == 1 and "run.json: is missing, and jobs of this run have been submitted" in text
    for attempt in (lambda: submit.submit(plan), lambda: submission_lock.discard(tmp_path, "demo")):
        with pytest.raises(InputError, match="is missing, and jobs"):
            attempt()
    assert (tmp_path / "runs/demo").exists()


def test_a_submission_that_has_only_begun_is_left_alone(chains, on, tmp_path):
    folder = tmp_path / "runs/demo"
    folder.mkdir(parents=True)
    assert submission_lock.unsubmitted(tmp_path, []) == []  # about to take its lock
    os.utime(folder, (1, 1))
    assert [one.run for one in submission_lock.unsubmitted(tmp_path, [])] == ["demo"]
    with submission_lock.acquire(tmp_path, "demo", "submit"):
        assert submission_lock.unsubmitted(tmp_path, []) == []
        with pytest.raises(InputError, match="are being submitted by"):
            submit.submit(chains.plan(tmp_path, names=("extract",)))
    assert folder.exists()


def test_folders_of_any_name_are_shown_in_a_notebook_as_text(tmp_path):
    names = ["\x1b]0;title\x07", "two\nlines", "<img src=x>"]
    for name in names:
        (tmp_path / "runs" / name).mkdir(parents=True)
        os.utime(tmp_path / "runs" / name, (1, 1))
    found = l3hpc.runs(tmp_path)
    assert sorted(found.unsubmitted) == sorted(names) == sorted(found.frame().index)
    assert "\x1b" not in repr(found) and "\\x1b]0;title\\x07" in repr(found)
    assert "two\\nlines" in repr(found) and len(repr(found).splitlines()) == 5
    assert "<img" not in found._repr_html_() and "\x07" not in found._repr_html_()


def test_a_lock_that_is_released_while_another_command_asks_for_it_is_taken(
        chains, slurm, on, tmp_path, monkeypatch):
    submit.submit(chains.plan(tmp_path, "demo", on=on))
    first = submission_lock.acquire(tmp_path, "demo", "resume")
    monkeypatch.setattr(Lease, "acquire", released_after(Lease.acquire, first))
    submission_lock.acquire(tmp_path, "demo", "runs pack").release()


def released_after(acquire, first):
    def call(lease):
        taken = acquire(lease)
        first.release(forget=True)
        return taken
    return call


def test_a_killed_submission_may_be_removed_while_another_command_lists_or_removes_it(
        chains, slurm, on, tmp_path):
    killed_before_the_record(plan := chains.plan(tmp_path / "ws", "demo", on=on))
    kept = shutil.move(plan.folder, tmp_path / "kept")
    number, done = 0, True

    def remove_too():
        # while the other one is about it
        with contextlib.suppress(InputError):
            submission_lock.discard(tmp_path / "ws", "demo")

    while done:
        shutil.copytree(kept, plan.folder)
        number += 1
        with before_access(number, remove_too, "/runs") as done:
            submission_lock.unsubmitted(tmp_path / "ws", broken := [])
            submission_lock.discard(tmp_path / "ws", "demo")
        assert not broken and run_names.names_without_record(tmp_path / "ws") == []
    assert number > 20
