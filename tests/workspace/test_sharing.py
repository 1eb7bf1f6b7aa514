"""A workspace of a group: two people submit into it, and neither makes the other's jobs execute
anything. Both are real users of this machine, in processes of their own."""

import os
import pickle
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from people import ADA, BOB, GROUP, as_person, root, types

from l3hpc.console.progress import Progress
from l3hpc.errors import InputError, collect_damage
from l3hpc.io.owners import is_owned_by_user, read_own_file
from l3hpc.runs import status, submission_lock
from l3hpc.runs import submit as submission
from l3hpc.runs.resume import cancel, resume
from l3hpc.schedulers import requeue_policy
from l3hpc.worker import execute, job_entry
from l3hpc.workspace import artifacts, records, sharing
from l3hpc.workspace.local_jobs import LocalJobs
from l3hpc.workspace.states import RunState

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(chains, monkeypatch):
    """A folder of the group that Ada made, and what a process needs that may read little else."""
    import fakestep

    monkeypatch.setattr(execute.l3hpc.steps, "step", fakestep.named)
    monkeypatch.setattr(submission, "run_local", lambda *args, **options: None)
    monkeypatch.setattr(execute.terminal, "install_safe_output", lambda **lossy: None)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    monkeypatch.chdir(folder)
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    work(chains.plan(folder / "warm-up", names=("extract",), on=profile(chains)))  # imports all
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    shared = folder / "ws"
    shared.mkdir()
    os.chown(shared, ADA, GROUP)
    shared.chmod(0o750)
    yield shared
    os.chdir("/")
    shutil.rmtree(folder)


def profile(chains):
    return chains.profile(shared_group=True)


def submit(made):
    return submission.submit(made)


def work(made):
    """Submit, and do each job as its script does."""
    record = submit(made)
    for step in record.steps:
        for attempt in step.attempts:
            for task in attempt.tasks:
                do(made, step.name, attempt, task)
    return record


def do(made, step, attempt, task=0):
    """The Python part of one job."""
    job = {"SLURM_JOB_ID": attempt.job, "L3HPC_LOCAL": "1", "SUBMITIT_EXECUTOR": "slurm"}
    if attempt.array:
        job |= {"SLURM_ARRAY_JOB_ID": attempt.job, "SLURM_ARRAY_TASK_ID": str(task)}
    job |= {"SLURM_LOCALID": "0", "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "1",
            "SLURM_NTASKS": "1", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "here"}
    os.environ.update(job)
    sys.argv = ["job_entry", str(made.step_folder(step).logs)]
    try:
        if code := job_entry.main():
            raise SystemExit(code)
    finally:
        for name in [*job, "SUBMITIT_FOLDER"]:
            os.environ.pop(name, None)


@root
def test_two_people_submit_run_and_reuse(chains, workspace):
    mine = profile(chains)
    first = chains.plan(workspace, run="ada-1", on=mine, tasks={"extract": 2})
    as_person(ADA, lambda: work(first))
    second = chains.plan(workspace, run="bob-1", on=mine, tasks={"extract": 2}, salt="other")
    as_person(BOB, lambda: work(second))
    third = chains.plan(workspace, run="bob-2", on=mine, tasks={"extract": 2})
    assert not any(step.missing for step in third.steps)
    as_person(BOB, lambda: work(third))
    assert {each.run: each.state for each in status.collect(workspace)} == {
        "ada-1": "done", "bob-1": "done", "bob-2": "done"}
    as_person(ADA, lambda: status.collect(workspace) and chains.output(second, "train"))
    for folder in ("runs", "artifacts", "artifacts/train", "local/jobs"):
        found = (workspace / folder).stat()
        assert stat.S_IMODE(found.st_mode) == 0o3770 and found.st_gid == GROUP
    for path in (workspace / "runs").rglob("*"):
        found = path.lstat()
        assert found.st_gid == GROUP
        assert path.is_symlink() or not found.st_mode & (stat.S_IWGRP | stat.S_IRWXO), path


@root
def test_what_one_left_unfinished_another_completes(chains, workspace):
    mine = profile(chains)
    made = chains.plan(workspace, run="ada-1", on=mine, names=("extract",), tasks={"extract": 3})

    def one_of_three():
        do(made, "extract", submit(made).steps[0].attempts[0], 0)
        scratch = artifacts.scratch_folder(made.steps[0].artifact, 1)
        scratch.mkdir()
        (scratch / "checkpoint").write_text("")
        (scratch.parent / "0001.owner.1").write_text("{}")  # of an attempt that was killed
        os.utime(scratch.parent / "0001.owner.1", (1, 1))

    as_person(ADA, one_of_three)
    again = chains.plan(workspace, run="bob-1", on=mine, names=("extract",), tasks={"extract": 3})
    assert again.steps[0].missing == (1, 2)
    as_person(BOB, lambda: work(again))
    assert chains.output(made, "extract") == {0: "(0)", 1: "(1)", 2: "(2)"}
    assert artifacts.summary(made.steps[0].artifact)["text"] == "6 rows"


@root
def test_nobody_renames_deletes_or_fills_what_is_anothers(chains, workspace):
    mine = profile(chains)
    made = chains.plan(workspace, run="ada-1", on=mine, names=("extract",))
    as_person(ADA, lambda: submit(made))
    step, runs = made.step_folder("extract").path, workspace / "runs"
    for attack in (
        lambda: os.rename(runs / "ada-1", runs / "gone"),
        lambda: os.rename(runs, workspace / "gone"),
        lambda: os.rename(workspace, workspace.parent / "gone"),
        lambda: shutil.rmtree(runs / "ada-1"),
        lambda: os.rename(made.steps[0].artifact, runs / "artifact"),
        lambda: os.symlink("/tmp", step / "logs" / "x"),
        lambda: (step / "logs" / "1_submitted.pkl").write_bytes(b""),
        lambda: os.replace(workspace / "local" / "jobs" / "1.json", runs / "1.json"),
        lambda: (workspace / "local" / "jobs" / "1.json").write_text("{}"),
        lambda: os.unlink(step / "heal.json"), lambda: (runs / "ada-1" / "run.json").unlink(),
    ):
        as_person(BOB, attack, "PermissionError")
    for change in (lambda: cancel(workspace, "ada-1"),
                   lambda: resume(workspace, "ada-1", mine, progress=Progress())):
        said = as_person(BOB, change, "the run ada-1 belongs to user 54001")
        assert "InputError" in said


@root
def test_the_owner_of_the_workspace_makes_no_job_of_another_execute_hers(chains, workspace):
    mine = profile(chains)
    as_person(ADA, lambda: submit(chains.plan(workspace, run="ada-1", on=mine, salt="a")))
    made = chains.plan(workspace, run="bob-1", on=mine, names=("extract",))
    as_person(BOB, lambda: submit(made))
    job = records.read(workspace, "bob-1").steps[0].attempts[0]
    hers = workspace.parent / "hers"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(hers),)

    def swap():
        runs = workspace / "runs"
        os.rename(runs / "bob-1", runs / ".kept")  # the folder is hers, so she may
        shutil.copytree(runs / ".kept", runs / "bob-1")
        logs = made.step_folder("extract").logs
        (logs / f"{job.job}_submitted.pkl").write_bytes(pickle.dumps(Attack()))
        made.step_folder("extract").requeue_policy.write_text(
            '{"helper": [], "python": "/tmp/hers", "memory": 3}')

    as_person(ADA, swap)
    as_person(BOB, lambda: do(made, "extract", job), "SystemExit: 2")
    as_person(BOB, lambda: mine_only(made))
    for name in ("config.json", "script.sbatch"):
        as_person(BOB, lambda name=name: read_own_file(made.step_folder("extract").path / name),
                  "belongs to user 54001")
    as_person(BOB, lambda: submission_lock.acquire(workspace, "bob-1", "resume"),
              "belongs to")

    def run_here():
        from l3hpc.schedulers.local.runner import Runner

        runner = Runner(workspace, "bob-1")
        runner._local.take_up(runner._record)
        [entry] = runner._local.jobs.values()
        entry.job = job.job
        runner._start("1", entry, 1)

    as_person(BOB, run_here, "PermissionError")  # not even a log in a folder of hers
    assert not hers.exists()
    as_person(ADA, lambda: (shutil.rmtree(workspace / "runs" / "bob-1"), os.rename(
        workspace / "runs" / ".kept", workspace / "runs" / "bob-1")))
    as_person(BOB, lambda: do(made, "extract", job))  # her pickle was never needed
    assert LocalJobs(workspace, "bob-1").jobs == {} and chains.output(made, "extract")


@root
def test_a_workspace_that_is_not_open_says_who_can_open_it(chains, workspace):
    closed = chains.plan(workspace, run="ada-1", names=("extract",))
    as_person(ADA, lambda: submit(closed))  # without shared_group, as it was
    (workspace / "runs").chmod(0o2750)
    made = chains.plan(workspace, run="bob-1", on=profile(chains), names=("extract",), salt="b")
    said = as_person(BOB, lambda: submit(made),
                     "belongs to user 54001, and you have no permission to write")
    assert "InputError" in said and "shared_group: true" in said, said
    assert not (workspace / "runs" / "bob-1").exists()
    as_person(ADA, lambda: submit(chains.plan(workspace, run="ada-2", on=profile(chains))))
    as_person(BOB, lambda: submit(made))


@root
def test_a_link_in_the_place_of_a_folder_is_not_followed(chains, workspace):
    as_person(ADA, lambda: sharing.prepare(workspace, ["sample"]))
    home = workspace.parent / "bob"
    home.mkdir(mode=0o700)
    os.chown(home, BOB, GROUP)
    as_person(ADA, lambda: (workspace / "artifacts" / "extract").symlink_to(home))
    made = chains.plan(workspace, run="bob-1", on=profile(chains), names=("extract",))
    as_person(BOB, lambda: submit(made), "is a symbolic link that belongs to user 54001")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@root
def test_a_run_that_one_keeps_private_does_not_hide_the_others(chains, workspace):
    as_person(ADA, lambda: submit(chains.plan(workspace, run="ada-1", on=profile(chains))))
    as_person(ADA, lambda: submit(chains.plan(workspace, run="ada-2", salt="x")))
    as_person(BOB, lambda: submit(chains.plan(workspace, run="bob-1", on=profile(chains))))
    code, out, err = types(BOB, "status", "--all", "--workspace", workspace)
    assert (code, err) == (0, "") and "ada-1" in out and "bob-1" in out and "ada-2" not in out
    for words in (("status", "ada-2"), ("usage", "ada-2"), ("runs", "pack", "ada-2", "--dry-run")):
        code, out, err = types(BOB, *words, "--workspace", workspace)
        assert code == 2 and "the run ada-2 cannot be read: its owner keeps it private" in err
        assert f"belongs to user {ADA} (drwx" in err
    mine = workspace / "runs" / "bob-1"
    mine.chmod(0)  # of one's own, it is damage, not privacy
    code, out, err = types(BOB, "status", "--workspace", workspace)
    assert code == 1 and "ada-1" in out and "bob-1" in err and "Permission denied" in err


@root
@pytest.mark.parametrize("shared", [True, False])
def test_what_a_strict_umask_writes_later_has_the_readers_of_the_run(
        chains, workspace, shared, monkeypatch):
    from l3hpc.report import run as report
    from l3hpc.runs import notifications, pack

    made = chains.plan(workspace, run="ada-1", names=("extract",),
                       on=chains.profile(shared_group=shared))
    as_person(ADA, lambda: work(made))
    report.write(workspace, "ada-1", workspace.parent / "page.html")  # imports what it needs
    "".encode("cp437")  # of zip files
    folder = made.folder

    def later():
        cancel(workspace, "ada-1")
        record = records.read(workspace, "ada-1")
        record.state = RunState.SUBMITTING
        records.write(workspace, record)
        cancel(workspace, "ada-1")
        report.write(workspace, "ada-1")
        pack.pack(workspace, "ada-1")
        folder.notified.write_text('{"schema": 1, "sent": {}}')
        notifications._note(workspace, "ada-1", type("To", (), {"key": "x"}), {})

    as_person(ADA, later, umask=0o077 if shared else 0o022)
    for path in (folder.record, folder.packed, folder.report, folder.notified):
        assert stat.S_IMODE(path.stat().st_mode) == (0o640 if shared else 0o600), path


@root
def test_the_checks_ask_where_submissions_write(chains, workspace):
    """The folder of a group's workspace is writable by the person who made it alone."""
    file = workspace.parent / "cluster.yaml"
    file.write_text(f"cluster: local\npaths: {{workspace: {workspace}}}\nclusters: {{local: "
                    "{shared_group: true}}\n")
    file.chmod(0o644)

    def checked():
        out = types(BOB, "config", "check", "--config", file)[1]
        return out.partition("paths.workspace")[2].partition("pipeline all")[0]

    assert f"cannot write to {workspace};" in checked()
    as_person(ADA, lambda: submit(chains.plan(workspace, run="ada-1", on=profile(chains))))
    assert "cannot" not in checked()
    (workspace / "artifacts").chmod(0o750)
    assert f"cannot write to {workspace / 'artifacts'};" in checked()


def mine_only(made):
    with collect_damage() as found:
        read = requeue_policy.read(made.step_folder("extract"))
        assert read.python == requeue_policy.Policy().python
    assert "belongs to user 54001, not to you: it is not executed" in found[0].message


class Noted(Progress):
    def __init__(self):
        super().__init__()
        self.said = []

    def note(self, text):
        self.said.append(text)


def test_a_workspace_open_to_the_world_is_named(chains, tmp_path, monkeypatch):
    from l3hpc.config import settings
    from l3hpc.doctor.storage import sharing_line

    monkeypatch.setattr(submission, "run_local", lambda *args, **options: None)
    monkeypatch.setattr("l3hpc.workspace.sharing._private", lambda group: False)
    space, told = tmp_path / "ws", Noted()
    submission.submit(chains.plan(space, run="one"), progress=told)
    assert told.said == []
    here = settings.load(overrides={"paths.workspace": (str(space), "--workspace")}, environ={})
    assert sharing_line(here).severity == "green"
    for mode, state, words in (
            (0o770, "yellow", "the group"), (0o777, "red", "anybody can replace files in"),
            (0o1777, "red", "anybody can add files to"), (0o1770, "green", "")):
        space.chmod(mode)
        line = sharing_line(here)
        assert line.severity == state and words in line.message
        assert bool(line.advice) == bool(words)
    space.chmod(0o777)
    submission.submit(chains.plan(space, run="two", salt="2"), progress=told)
    assert told.said == [f"warning: anybody can replace files in {space}; to fix it: "
                         f"chmod o-w {space}"]


def test_files_that_decide_what_jobs_do_are_named_if_others_can_change_them(
        chains, tmp_path, monkeypatch):
    from l3hpc.config import settings
    from l3hpc.doctor.storage import sharing_line

    monkeypatch.setattr(submission, "run_local", lambda *args, **options: None)
    monkeypatch.setattr("l3hpc.workspace.sharing._private", lambda group: False)
    for name in ("jobs/up.yaml", "templates/base.sbatch.j2", "templates/fit.sbatch.j2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "cluster.yaml").write_text("cluster: local\n")
    monkeypatch.chdir(tmp_path)
    here = settings.load(overrides={"paths.workspace": (str(tmp_path / "ws"), "--workspace")},
                         environ={})

    def told(run):
        noted = Noted()
        submission.submit(chains.plan(tmp_path / "ws", run=run, salt=run), progress=noted)
        return noted.said

    assert told("one") == [] and sharing_line(here).severity == "green"
    Path("templates/fit.sbatch.j2").chmod(0o660)
    assert told("two") == [] and sharing_line(here).severity == "yellow"
    assert "can change templates/fit.sbatch.j2, and so what your jobs do" in \
        sharing_line(here).message
    for file in ("cluster.yaml", "jobs/up.yaml"):
        Path(file).chmod(0o666)
    assert told("three") == [
        "warning: anybody can change cluster.yaml, jobs/up.yaml, and so what your jobs do; "
        "to fix it: chmod o-w cluster.yaml jobs/up.yaml"]
    assert sharing_line(here).severity == "red"


@root
def test_files_of_somebody_else_are_named(tmp_path, monkeypatch):
    from l3hpc.workspace.sharing import find_file_risks

    (tmp_path / "cluster.yaml").write_text("")
    os.chown(tmp_path / "cluster.yaml", ADA, GROUP)
    [risk] = find_file_risks([tmp_path / "cluster.yaml", tmp_path / "no such file"])
    assert risk.owned and not risk.anybody
    assert risk.message == (f"user {ADA} owns {tmp_path}/cluster.yaml, and can change what your "
                            "jobs do")


def test_what_i_wrote_is_mine(tmp_path):
    (tmp_path / "x").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert read_own_file(tmp_path / "x") == b"a" and is_owned_by_user(tmp_path)
    with pytest.raises(OSError):
        read_own_file(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_own_file(tmp_path / "pipe")
