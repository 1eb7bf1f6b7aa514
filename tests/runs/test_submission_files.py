"""The files of a run: written while its jobs are being submitted, and onto disks that are full."""

import os

import pytest
from waiting import until

from l3hpc.io import syncing
from l3hpc.runs import run_folder, submission_lock, submit, submit_jobs
from l3hpc.runs.resume import resume
from l3hpc.schedulers import pickled_calls
from l3hpc.workspace import records, step_config


@pytest.fixture
def on(chains):
    return chains.profile(name="greene", executor="slurm", slots={}, partition="gpu")


def test_files_of_a_run_are_private_unless_the_profile_says_otherwise(
        chains, slurm, on, tmp_path):
    made = chains.plan(tmp_path, names=("extract",), on=on)
    before = os.umask(0o027)
    try:
        submit.submit(made)
    finally:
        assert os.umask(before) == 0o027  # as a notebook had it
    modes = {path: path.stat().st_mode & 0o077 for path in made.folder.path.rglob("*")
             if not path.is_symlink()}
    assert set(modes.values()) == {0}
    shared = chains.plan(tmp_path, "other", names=("extract",), on=chains.profile(
        name="greene", executor="slurm", slots={}, shared_group=True))
    submit.submit(shared)
    assert shared.folder.record.stat().st_mode & 0o077 == 0o040


def test_a_run_that_cannot_be_locked_leaves_no_folder(chains, slurm, on, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(submission_lock, "acquire", full)
    made = chains.plan(tmp_path, names=("extract",), on=on)
    with pytest.raises(OSError, match="No space"):
        submit.submit(made)
    assert not made.folder.path.exists() and slurm.calls("sbatch") == []


def test_a_full_disk_leaves_no_half_of_a_run(chains, slurm, on, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(step_config, "create_file", full)
    with pytest.raises(OSError, match="No space"):
        submit.submit(chains.plan(tmp_path, on=on))
    assert list((tmp_path / "runs").iterdir()) == []
    assert slurm.calls("sbatch") == []


def test_what_a_job_reads_is_written_while_the_one_before_is_submitted(
        chains, slurm, on, tmp_path):
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
for last; do :; done
test -e "$last" && ls "$(dirname "$last")/logs"/.*.pkl > {slurm.folder}/own-$n
i=0
while [ $n != 102 ] && [ ! -e {slurm.folder}/written ] && [ $i -lt 20000 ]; do
  set -- {tmp_path}/runs/demo/steps/*/logs/.*.pkl
  [ $# -gt 1 ] && break
  i=$((i + 1)); sleep 0.01
done
echo $i > {slurm.folder}/waited-$n
echo $((n + 1)) > {slurm.folder}/next
echo $n""")
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on)
    submit.submit(made)
    for number in (100, 101, 102):
        assert (slurm.folder / f"own-{number}").read_text().count(".pkl") == 1
        assert int((slurm.folder / f"waited-{number}").read_text()) < 20000
    assert not list(made.folder.path.glob("steps/*/logs/.*"))


def test_a_job_gets_its_calls_before_those_of_a_large_array_are_written(
        chains, slurm, on, tmp_path, monkeypatch):
    """It waits a minute for them, in which not every disk creates ten thousand files."""
    order, pickled, note = [], pickled_calls.write, records.note_attempts

    def write(step, *args):
        order.append(f"write {step.name}")
        return pickled(step, *args)

    def note_attempts(workspace, run, attempts, *, first):
        order.append(f"note {[*attempts][0]}")
        note(workspace, run, attempts, first=first)

    monkeypatch.setattr(pickled_calls, "write", write)
    monkeypatch.setattr(records, "note_attempts", note_attempts)
    monkeypatch.setattr(submit_jobs, "AHEAD", 2)
    submit.submit(chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on,
                              tasks={"sample": 3, "fit": 2}))
    assert order == ["write extract", "note extract", "write sample", "write fit", "note sample",
                     "note fit"]


def test_what_is_written_is_on_disk_before_a_wait_for_room(
        chains, slurm, on, tmp_path, monkeypatch):
    """It may take hours, and power may fail meanwhile."""
    slurm.says("sbatch", f"""
n=$(cat {slurm.folder}/next 2>/dev/null || echo 100)
if [ $n = 101 ] && ! [ -e {slurm.folder}/room ]; then
  echo "sbatch: error: AssocMaxSubmitJobLimit" >&2; exit 1
fi
echo $((n + 1)) > {slurm.folder}/next
echo $n""")
    synced, real, at_the_wait = [], syncing._sync, []

    def sync(path):
        real(path)
        synced.append(path)

    def pause(workspace, run, seconds):
        until(lambda: {"run.json", "settings.json"} <= {os.path.basename(path) for path in synced})
        at_the_wait.append(True)
        (slurm.folder / "room").touch()

    monkeypatch.setattr(syncing, "_sync", sync)
    monkeypatch.setattr(submission_lock, "pause", pause)
    submit.submit(chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on))
    assert at_the_wait == [True]


def test_a_disk_that_fills_up_meanwhile_withdraws_what_was_submitted(
        chains, slurm, on, tmp_path, monkeypatch):
    """The files of fit are written while sample is being submitted, which gets on record first."""
    def full(path, data, *args, **options):
        if path.name == "script.sbatch" and path.parent.name == "fit":
            raise OSError(28, "No space left on device", str(path))
        create_file(path, data, *args, **options)

    create_file = run_folder.create_file
    monkeypatch.setattr(run_folder, "create_file", full)
    made = chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on)
    with pytest.raises(OSError, match="No space") as caught:
        submit.submit(made)
    assert caught.value.filename.endswith("steps/fit/script.sbatch")
    assert slurm.calls("scancel") == ["scancel 101 100"]
    record = records.read(tmp_path, "demo")
    assert record.state == "refused" and {step.job for step in record.steps} == {None}
    assert not list(made.folder.path.glob("steps/*/logs/.*"))
    monkeypatch.setattr(run_folder, "create_file", create_file)
    assert [step.job for step in resume(tmp_path, "demo", on).steps] == ["102", "103", "104"]


def test_a_disk_that_is_full_after_some_calls_keeps_none_of_them(
        chains, slurm, on, tmp_path, monkeypatch):
    written, create_file = [], pickled_calls.create_file

    def full(path, data, **options):
        written.append(path)
        create_file(path, data, **options)
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pickled_calls, "create_file", full)
    made = chains.plan(tmp_path, names=("extract",), on=on, tasks={"extract": 5})
    with pytest.raises(OSError, match="No space"):
        submit.submit(made)
    assert list(made.step_folder("extract").logs.iterdir()) == [] and slurm.calls("sbatch") == []


def test_a_disk_that_is_full_once_a_job_is_submitted_leaves_no_job(
        chains, slurm, on, tmp_path, monkeypatch):
    def full(source, target):
        if target.name.startswith("101"):
            raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(pickled_calls, "share_file", full)
    with pytest.raises(OSError, match="No space"):
        submit.submit(chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on))
    # fit was begun as soon as the id of sample was known
    assert slurm.calls("scancel") == ["scancel 102 101 100"]
    assert records.read(tmp_path, "demo").state == "refused"


def test_sbatch_begins_with_the_next_job_before_the_last_one_is_noted(
        chains, slurm, on, tmp_path, monkeypatch):
    real, called = records.note_attempts, []

    def note(*arguments, **options):
        until(lambda: len(slurm.calls("sbatch")) == min(len(called) + 2, 3))
        called.append(len(slurm.calls("sbatch")))
        real(*arguments, **options)

    monkeypatch.setattr(records, "note_attempts", note)
    record = submit.submit(chains.plan(tmp_path, names=("extract", "sample", "fit"), on=on))
    assert called == [2, 3, 3] and [step.job for step in record.steps] == ["100", "101", "102"]
    assert "afterok:101" in slurm.calls("sbatch")[2]
