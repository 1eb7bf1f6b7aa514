"""What a power failure may leave of a run's files, and what the commands make of it."""

import json
import os
import shutil
import time
from dataclasses import replace

import pytest
from fakeslurm import queue_line

from l3hpc.console.progress import Progress
from l3hpc.errors import InputError, collect_damage
from l3hpc.io import syncing
from l3hpc.ledger.journal.records import Journal
from l3hpc.runs import status, submit
from l3hpc.runs.resume import resume
from l3hpc.runs.resume_plan import plan_now
from l3hpc.schedulers import requeue_policy
from l3hpc.workspace import records, step_config
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_names import not_a_folder

STEP = "runs/demo/steps/extract"
FILES = ("config.json", "script.sbatch", "heal.json")
HOW = ("missing", "empty", "cut off", "zeros")


@pytest.fixture
def site(chains, slurm, tmp_path):
    """A submitted run on a Slurm of make-believe that has forgotten its jobs."""
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    made = chains.plan(tmp_path, names=("extract", "sample"), on=on)
    submit.submit(made)
    return made, on


def damage(path, how):
    if how == "missing":
        path.unlink()
    else:
        os.truncate(path, 0 if how == "empty" else path.stat().st_size // 2)
        if how == "zeros":
            os.truncate(path, 300)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", FILES)
def test_each_file_is_made_again(site, tmp_path, name, how):
    made, on = site
    path = tmp_path / STEP / name
    whole = path.read_text()
    damage(path, how)
    [found] = status.collect(tmp_path, ["demo"])
    assert found.next == "l3hpc resume demo"
    resume(tmp_path, "demo", on)
    assert path.read_text() == whole
    assert (made.steps[0].artifact / "config.json").read_text() == (
        tmp_path / STEP / "config.json").read_text()


@pytest.mark.parametrize("how", HOW)
def test_settings_bring_their_requeue_policy_with_them(chains, slurm, tmp_path, how):
    """A submission that was killed may have made half of the folder of a step."""
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    submit.submit(chains.plan(tmp_path, names=("extract",), on=on, heal={"memory": 7}))
    (tmp_path / STEP / "config.json").unlink()
    damage(tmp_path / STEP / "heal.json", how)
    resume(tmp_path, "demo", on)
    assert json.loads((tmp_path / STEP / "heal.json").read_text())["memory"] == 7


@pytest.mark.parametrize("how", [*HOW, "other"])
def test_without_the_settings_of_the_run_the_message_says_what_to_type(site, tmp_path, slurm, how):
    """Runs of earlier versions have no such file."""
    made, on = site
    settings, path = tmp_path / "runs/demo/settings.json", tmp_path / STEP / "config.json"
    if how == "other":
        settings.write_text('{"extract": {"config": 3}}')
    else:
        damage(settings, how)
    damage(path, "empty")  # the artifact's is the same file
    with pytest.raises(InputError) as error:
        resume(tmp_path, "demo", on)
    assert "the frozen settings of step extract are empty or damaged" in str(error.value)
    assert str(path) in str(error.value) and "Submit the pipeline again" in error.value.hint
    assert len(slurm.calls("sbatch")) == 2  # those of the submission
    shutil.rmtree(tmp_path / "runs/demo")
    submit.submit(made)
    assert (made.steps[0].artifact / "config.json").read_text() == path.read_text()


@pytest.mark.parametrize("left", [b"", b"{", b"}", b'{"step": ', b"\0" * 9, b"\0" * 9 + b"}\n"])
def test_whatever_is_left_of_an_artifact_s_settings_is_replaced(chains, slurm, tmp_path, left):
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    made = chains.plan(tmp_path, names=("extract",), on=on)
    path = made.steps[0].artifact / "config.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(left)
    submit.submit(made)
    assert path.read_text() == (tmp_path / STEP / "config.json").read_text()


def test_settings_come_back_from_the_artifact_of_another_run(site, chains, tmp_path):
    made, on = site
    again = chains.plan(tmp_path, "other", names=("extract",), on=on)
    submit.submit(again)
    (tmp_path / "runs/other/steps/extract/config.json").unlink()
    (tmp_path / "runs/other/settings.json").unlink()
    path = made.steps[0].artifact / "config.json"
    # as a step of a sweep, in the run that computes it
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "extract-7"}))
    assert [step.name for step in plan_now(tmp_path, "other", on).steps] == ["extract"]
    config = json.loads((tmp_path / "runs/other/steps/extract/config.json").read_text())
    assert (config["run"], config["name"]) == ("other", "extract")


def test_settings_of_another_fingerprint_are_not_taken_for_those_of_the_step(site, tmp_path):
    made, on = site
    (tmp_path / STEP / "config.json").unlink()
    (tmp_path / "runs/demo/settings.json").unlink()
    path = made.steps[0].artifact / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "0" * 16}))
    with pytest.raises(InputError, match="the frozen settings of step extract are missing"):
        resume(tmp_path, "demo", on)


def test_a_policy_that_is_whole_is_not_replaced_with_the_settings(site, tmp_path):
    """A later submission may have written it, with other limits."""
    folder = tmp_path / STEP
    (folder / "heal.json").write_text('{"memory": 9}')
    (folder / "config.json").unlink()
    [extract, _] = records.read(tmp_path, "demo").steps
    assert step_config.read(tmp_path, "demo", extract, ())["name"] == "extract"
    assert json.loads((folder / "heal.json").read_text()) == {"memory": 9}


def test_settings_are_written_after_the_policy(tmp_path, monkeypatch):
    """After a kill, a policy that is missing is restored only with the settings."""
    written = []
    monkeypatch.setattr(step_config, "create_file",
                        lambda path, content: written.append(path.name))
    (tmp_path / "runs/demo/steps").mkdir(parents=True)
    step_config.write_folder(Workspace(tmp_path).run("demo").step("x"), {}, {})
    assert written == ["heal.json", "config.json"]


@pytest.mark.parametrize("left", [b"", b"\0" * 80, b"\xff\xfe\n", b"[]\n3\n{\"step\": 1}\n"])
def test_what_a_torn_note_of_submitted_jobs_says_is_passed_over(site, tmp_path, left):
    (tmp_path / "runs/demo" / "attempts.jsonl").write_bytes(left)
    assert [step.attempts[0].job for step in records.read(tmp_path, "demo").steps] == [
        "100", "101"]


def test_a_note_that_is_being_written_is_no_damage_and_a_pipe_in_its_place_is(site, tmp_path):
    path = tmp_path / "runs/demo/attempts.jsonl"
    path.write_text('{"step": "extract", "fir')
    with collect_damage() as found:
        records.read(tmp_path, "demo")
    assert found == []
    path.write_text('{"step": "gone", "first": true, "attempt": {}}\n')
    with collect_damage() as found:
        records.read(tmp_path, "demo")
    assert [error.message for error in found] == ["damaged: no step 'gone'"]
    path.unlink()
    os.mkfifo(path)
    with collect_damage() as found:
        assert records.read(tmp_path, "demo").run == "demo"
    assert [error.message for error in found] == ["not a regular file"]


def test_a_record_that_is_a_broken_link_or_in_no_workspace_is_called_so(site, tmp_path):
    path = tmp_path / "runs/demo/run.json"
    path.unlink()
    path.symlink_to("elsewhere.json")
    with pytest.raises(InputError, match="is a broken symbolic link"):
        records.read(tmp_path, "demo")
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        records.read(tmp_path / "file", "demo")
    assert caught.value.message == not_a_folder(tmp_path / "file").message


def test_a_run_whose_name_begins_another_is_found(chains, slurm, tmp_path):
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    for run in ("a", "ab"):
        submit.submit(chains.plan(tmp_path, run, names=("extract",), on=on))
    assert records.find(tmp_path, "a") == "a"
    os.truncate(tmp_path / "runs/a/run.json", 9)  # an older one: the latest is still known
    os.utime(tmp_path / "runs/a", (1, 1))
    assert records.find(tmp_path, "latest") == "ab"


def test_the_first_noted_job_replaces_the_tasks_of_the_submission_before(site, tmp_path):
    again = replace(records.read(tmp_path, "demo").steps[0].attempts[0], job="200")
    records.note_attempts(tmp_path, "demo", {"extract": again}, first=True)
    [extract, _] = records.read(tmp_path, "demo").steps
    assert (extract.job, extract.submitted_tasks) == ("200", [0])


class Disk:
    """What the disk has confirmed: of a file what it holds, of a folder the names in it."""

    def __init__(self, monkeypatch):
        self._contents, self._names, real = {}, {}, os.fsync

        def fsync(handle):
            real(handle)
            path, number = f"/proc/self/fd/{handle}", os.fstat(handle).st_ino
            if os.path.isdir(path):
                self._names[number] = [(each.name, each.inode(), each.is_dir(),
                                        os.readlink(each) if each.is_symlink() else "")
                                       for each in os.scandir(path)]
            else:
                with open(path, "rb") as stream:
                    self._contents[number] = stream.read()

        monkeypatch.setattr(os, "fsync", fsync)

    def fail(self, folder):
        """Leave of a folder only what has been confirmed."""
        before = folder.with_name(f"{folder.name} before")
        folder.rename(before)
        self._restore(folder, before.stat().st_ino)

    def _restore(self, folder, number):
        folder.mkdir()
        for name, inode, is_folder, link in self._names.get(number, ()):
            if link:
                (folder / name).symlink_to(link)
            elif is_folder:
                self._restore(folder / name, inode)
            else:
                (folder / name).write_bytes(self._contents.get(inode, b""))


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("names", [("extract",), ("extract", "sample", "fit")], ids=len)
def test_after_a_power_failure_no_job_is_unknown_and_none_is_submitted_twice(
        chains, slurm, tmp_path, monkeypatch, names, report):
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu", report=report)
    disk = Disk(monkeypatch)
    made = chains.plan(tmp_path, names=names, on=on)
    record = submit.submit(made)
    disk.fail(tmp_path / "runs")
    [found] = status.collect(tmp_path, ["demo"])
    assert not found.damaged
    left = records.read(tmp_path, "demo")
    assert [(step.state, step.job, step.attempts) for step in left.steps] == [
        (step.state, step.job, step.attempts) for step in record.steps]
    lines = [queue_line(step.job, "PENDING") for step in record.steps]
    if report:
        lines.append(queue_line(record.sync_job, "PENDING", script=str(made.folder.sync_script)))
    slurm.says("squeue", "cat <<'E'\n" + "\n".join(lines) + "\nE")
    calls = len(slurm.calls("sbatch"))
    resume(tmp_path, "demo", on)
    assert records.read(tmp_path, "demo") == record
    assert len(slurm.calls("sbatch")) == calls and slurm.calls("scancel") == []


def test_noted_jobs_are_on_disk_before_a_record_takes_their_place(
        chains, slurm, tmp_path, monkeypatch):
    """The notes are cleared then: in between, a power failure would lose ids of live jobs."""
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on))
    order, replace = [], os.replace
    monkeypatch.setattr(syncing, "_sync", lambda path: (  # on a slow disk
        time.sleep(0.2), order.append(os.path.basename(path))))
    monkeypatch.setattr(os, "replace", lambda source, target: (
        order.append("renamed"), replace(source, target))[1])
    records.note_attempts(tmp_path, "demo", {"extract": record.steps[0].attempts[0]}, first=True)
    with syncing.Syncing() as together:
        records.write(tmp_path, record, syncing=together)
    assert sorted(order[:-1]) == ["attempts.jsonl", "demo"] and order[-1] == "renamed"
    assert not (tmp_path / "runs/demo/attempts.jsonl").exists()


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("names", [("extract",), ("extract", "sample", "fit")], ids=len)
def test_after_a_power_failure_that_ends_all_jobs_the_run_can_be_resumed(
        chains, slurm, tmp_path, monkeypatch, names, report):
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu", report=report)
    disk = Disk(monkeypatch)
    made = chains.plan(tmp_path, names=names, on=on, heal={"memory": 7})
    submit.submit(made)
    paths = [path for step in made.steps for folder in [made.step_folder(step.name)]
             for path in (folder.config, folder.requeue_policy, folder.script())]
    before = [path.read_text() for path in paths]
    last = made.folder.sync_script.read_text() if report else ""
    disk.fail(tmp_path / "runs")
    disk.fail(tmp_path / "artifacts")
    resume(tmp_path, "demo", on)
    assert [path.read_text() for path in paths] == before
    assert len(slurm.calls("sbatch")) == 2 * (len(names) + report)
    if report:
        assert made.folder.sync_script.read_text() == last
    for step in made.steps:
        assert (step.artifact / "config.json").samefile(made.step_folder(step.name).config)
        assert made.folder.artifact(step.name).resolve() == step.artifact


def test_a_disk_that_does_not_confirm_is_said(chains, slurm, tmp_path, monkeypatch):
    def failing(path):
        raise OSError(5, "Input/output error")

    notes = []
    monkeypatch.setattr(syncing, "_sync", failing)
    on = chains.profile(name="site", executor="slurm", slots={}, partition="cpu")
    progress = Progress()
    progress.note = notes.append
    record = submit.submit(chains.plan(tmp_path, names=("extract",), on=on), progress=progress)
    assert record.state == "submitted" and "Input/output error" in notes[-1]


def test_a_new_journal_is_found_after_a_power_failure(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (
        synced.append(os.path.realpath(f"/proc/self/fd/{handle}")), real(handle))[1])
    journal = Journal(tmp_path / "ledger/journal", run="demo")
    journal.record("Upstream", {"model_dir": "x"}, epoch=0)
    assert {str(tmp_path), str(tmp_path / "ledger"), str(tmp_path / "ledger/journal"),
            str(journal.path)} <= {*synced}
    count = len(synced)
    journal.record("Upstream", {"model_dir": "x"}, epoch=1)
    assert len(synced) == count + 1  # the file alone


def test_a_missing_policy_heals_as_usual(site, tmp_path):
    (tmp_path / STEP / "heal.json").unlink()
    assert requeue_policy.read(tmp_path / STEP) == requeue_policy.Policy(mem_mb=100, time_min=5)
