"""Scratch space on the disk of the node: what lies there, and what happens where it cannot."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import fakestep
import pytest
from notes import Notes

import l3hpc.steps
from l3hpc.config.profile import ClusterProfile
from l3hpc.errors import L3hpcError
from l3hpc.io import job_path
from l3hpc.io.files import read_json, write_json
from l3hpc.runs import status, submit
from l3hpc.steps.task import Task
from l3hpc.worker import execute, node_scratch
from l3hpc.workspace import artifacts
from l3hpc.workspace.layout import Workspace

pytestmark = pytest.mark.slow

RUN_TASK = """
import fakestep, l3hpc.steps, sys
from pathlib import Path
from l3hpc.worker import execute, node_scratch
l3hpc.steps.step = fakestep.named
node_scratch.use(sys.argv[2])
execute.run_task(Path(sys.argv[1]), 0)
"""


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The disk of a node, and that a job finds it under a variable."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setenv("NODE_DISK", str(folder))
    monkeypatch.setattr(node_scratch, "_setting", "${NODE_DISK}")
    return folder


@pytest.fixture
def config(chains, tmp_path, monkeypatch):
    """Write the config of a fake step and return its path."""
    monkeypatch.setattr(l3hpc.steps, "step", fakestep.named)

    def write(name="extract", tasks=1, **params):
        made = chains.plan(tmp_path / "ws", tasks={name: tasks}, params={name: params})
        step = next(step for step in made.steps if step.name == name)
        path = made.step_folder(name).config
        write_json(path, step.config("demo"))
        return path

    return write


def run(path, index=0):
    notes = Notes()
    return execute.run_task(path, index, progress=notes), notes.notes


def own(node):
    """The folders of tasks on a node."""
    return sorted(path for path in (node / f"l3hpc-{os.geteuid()}").iterdir() if path.is_dir())


def test_a_task_works_on_the_node_and_its_output_arrives_whole(config, node, monkeypatch):
    seen = []

    def write(params, task):
        seen.append(task)
        (task.output / "parts").mkdir()
        (task.output / "parts" / "a.bin").write_bytes(b"12345")
        (task.output / "run.sh").write_text("true")
        (task.output / "run.sh").chmod(0o750)
        return {"rows": 1}

    monkeypatch.setattr(fakestep, "run", write)
    path = config()
    result, notes = run(path)
    [task] = seen
    assert task.output.is_relative_to(node) and task.node_scratch.is_relative_to(node)
    artifact = Path(read_json(path)["artifact"])
    assert task.scratch.is_relative_to(artifact)  # a checkpoint must be found by another node
    assert result == read_json(artifact / "0000" / "result.json")
    assert result["files"]["parts/a.bin"]["bytes"] == 5
    assert (artifact / "0000" / "parts" / "a.bin").read_bytes() == b"12345"
    assert (artifact / "0000" / "run.sh").stat().st_mode & 0o777 == 0o750
    assert own(node) == [] and f"working in {task.node_scratch}" in notes
    assert [entry.name for entry in artifact.iterdir() if entry.name.startswith(".")] == [".work"]


@pytest.mark.parametrize(("setting", "words"), [
    ("$NOT_SET_IN_THIS_JOB/x", "the variable $NOT_SET_IN_THIS_JOB is not set in the job"),
    ("$NODE_DISK/missing", "missing does not exist on this node"),
])
def test_a_folder_that_cannot_be_used_is_named(config, node, monkeypatch, setting, words):
    monkeypatch.setattr(node_scratch, "_setting", setting)
    path = config()
    result, notes = run(path)
    [note] = [note for note in notes if note.startswith("scratch: ")]
    assert note.startswith(f"scratch: {setting} of the profile is not used")
    assert words in note
    assert result["summary"] == {"rows": 1} and list(node.iterdir()) == []


def test_a_folder_that_is_not_writable_is_named(config, node, monkeypatch):
    monkeypatch.setattr(job_path.os, "access", lambda path, mode: False)  # root may write anywhere
    _, notes = run(config())
    assert any(note.endswith(f"{node} is not writable") for note in notes)


def test_a_full_disk_is_named(config, node, monkeypatch):
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(job_path.shutil, "disk_usage", lambda path: usage)
    _, notes = run(config())
    assert any("0.0 GB free; at least 1.1 GB are needed" in note for note in notes)


def test_a_disk_that_becomes_full_costs_a_restart_in_the_workspace(config, node):
    path = config(fail="full")
    result, notes = run(path)
    assert result["summary"] == {"rows": 1} and own(node) == []
    assert any("the disk of the node is full" in note for note in notes)


@pytest.fixture
def rooms(node, tmp_path, monkeypatch):
    """Folders that have no room left."""
    full = set()

    def allocate(handle, offset, size):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if any(path.is_relative_to(folder) for folder in full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(node_scratch.os, "posix_fallocate", allocate)
    return full


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
HDF5 = "Can't write data (filename = '{}', errno = 28, error message = 'No space left on device')"


def caused_by(error):
    outer = L3hpcError("cannot write")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(("error", "node_full", "workspace_full", "expected"), [
    # an exit code of a command, or any other error
    (L3hpcError("the command ended with exit code 1"), True, False, True),
    (L3hpcError("the command ended with exit code 1"), False, False, False),
    (OSError("Can't open file"), False, True, False),
    # no file is named
    (NO_SPACE, True, False, True), (NO_SPACE, True, True, True),
    (caused_by(NO_SPACE), False, True, False),
    (NO_SPACE, False, False, True),  # a file that was removed, because it is not whole
    (caused_by(OSError(HDF5.split("(")[0] + "(errno = 28, 'No space left on device')")),
     True, False, True),
])
def test_a_full_disk_is_found_by_what_is_left_of_it(
        node, tmp_path, rooms, error, node_full, workspace_full, expected):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    rooms.update([node] * node_full, [workspace] * workspace_full)
    assert node_scratch.is_full(error, node, workspace) == expected


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_that_of_the_file_that_the_error_names(node, tmp_path, rooms, number):
    rooms.add(node)
    for name, expected in ((node / "output" / "x", True), (tmp_path / "ws" / "x", False)):
        for error in (OSError(number, os.strerror(number), str(name)),
                      caused_by(OSError(HDF5.format(name)))):
            assert node_scratch.is_full(error, node, tmp_path) == expected


def test_a_command_that_fills_the_disk_starts_again_in_the_workspace(config, node, rooms):
    seen = []

    def run_out(params, task):
        seen.append(task)
        if task.node_scratch is not None:
            rooms.add(node)
            raise L3hpcError("the command ended with exit code 1")
        return {"rows": 3}

    path = config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakestep, "run", run_out)
        result, notes = run(path)
    assert result["summary"] == {"rows": 3} and len(seen) == 2
    # its TMPDIR may be the disk that is full
    assert [task.temporary for task in seen] == [seen[0].node_scratch, seen[1].scratch / ".tmp"]
    assert any("the disk of the node is full" in note for note in notes)


def test_what_programs_leave_in_the_output_arrives_with_its_modes(config, node, monkeypatch):
    def write(params, task):
        (task.output / "private").mkdir()
        (task.output / "private" / "a.bin").write_bytes(b"12345")
        (task.output / "private").chmod(0o500)
        (task.output / "plain").mkdir()
        os.mkfifo(task.output / "pipe")
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(task.output)  # the path of a socket must be short
            server.bind("socket")
        return {"rows": 1}

    monkeypatch.setattr(fakestep, "run", write)
    path = config()
    assert set(run(path)[0]["files"]) == {"private/a.bin"}
    folder = Path(read_json(path)["artifact"]) / "0000"
    assert folder.joinpath("pipe").is_fifo() and folder.joinpath("socket").is_socket()
    assert folder.joinpath("private").stat().st_mode & 0o777 == 0o500
    assert folder.joinpath("plain").stat().st_mode == folder.stat().st_mode
    folder.joinpath("private").chmod(0o700)


def test_only_folders_of_this_node_are_left_overs(config, node, tmp_path):
    with node_scratch.task_folder("first", lambda text: None):
        pass
    shared = node / f"l3hpc-{os.geteuid()}"
    other = shared / "extract-0-abcdefgh@another.node"
    other.mkdir()  # its lock is known on that node alone
    target = tmp_path / "target"
    target.mkdir()
    (shared / f"x@{socket.gethostname()}").symlink_to(target)
    mine = shared / f"extract-0-abcdefgh@{socket.gethostname()}"
    mine.mkdir()
    run(config())
    assert other.is_dir() and not mine.exists()
    assert list(target.iterdir()) == []


def test_a_lock_that_stays_taken_is_named_and_the_workspace_is_used(config, node, monkeypatch):
    monkeypatch.setattr(node_scratch, "WAIT_S", 0.2)
    shared = node / f"l3hpc-{os.geteuid()}"
    shared.mkdir(mode=0o700)
    with (shared / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        result, notes = run(config())
    assert result["summary"] == {"rows": 1} and own(node) == []
    assert f"scratch: waiting up to 0.2 s for the lock {shared}/.lock of another task" in notes
    assert any("the workspace is used instead: another task has held the lock" in note
               for note in notes)


@pytest.mark.parametrize("how", ["error", "crash"])
def test_nothing_stays_on_the_node_after_a_failure(config, node, how):
    with pytest.raises((L3hpcError, RuntimeError)):
        run(config(fail=how))
    assert own(node) == []


def test_a_requeue_leaves_the_node_and_keeps_the_checkpoint(config, node, monkeypatch):
    def interrupted(params, task):
        (task.scratch / "checkpoint").write_text("epoch 3")
        raise SystemExit(85)

    path = config()
    monkeypatch.setattr(fakestep, "run", interrupted)
    with pytest.raises(SystemExit):
        run(path)
    artifact = Path(read_json(path)["artifact"])
    assert own(node) == []
    assert (artifacts.scratch_folder(artifact, 0) / "checkpoint").read_text() == "epoch 3"


def test_a_killed_task_continues_on_another_node_and_its_files_are_removed(
        config, node, tmp_path, monkeypatch):
    gate = tmp_path / "gate"
    gate.touch()
    path = config(tasks=2, gate=str(gate))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_TASK, str(path), str(node)],
        env={**os.environ, "PYTHONPATH": os.path.dirname(fakestep.__file__)})
    try:
        end = time.monotonic() + 120
        while not (node / f"l3hpc-{os.geteuid()}").is_dir() or not any(
                (folder / "output").is_dir() for folder in own(node)):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        [left] = own(node)
        with node_scratch.task_folder("other", lambda text: None) as beside:
            assert left.is_dir()  # its task is running
            assert beside != left
        process.send_signal(signal.SIGKILL)
        process.wait(120)
    finally:
        process.kill()
        process.wait()
    gate.unlink()
    other = tmp_path / "other-node"
    other.mkdir()
    monkeypatch.setattr(node_scratch, "_setting", str(other))
    assert run(path, 0)[0]["summary"] == {"rows": 1}
    assert own(node) == [left]
    monkeypatch.setattr(node_scratch, "_setting", str(node))
    assert run(path, 1)[0]["summary"] == {"rows": 2}
    assert own(node) == []


def test_nothing_stays_where_an_open_file_keeps_its_folder(config, node, monkeypatch):
    """As on NFS, which gives an open file that is removed another name in the same folder."""
    remove = shutil.rmtree

    def remove_as_nfs(folder, *args, **options):
        links = [Path(os.readlink(link)) for link in list(Path("/proc/self/fd").iterdir())
                 if link.is_symlink()]
        remove(folder, *args, **options)
        if any(path.parent == Path(folder) for path in links):
            folder.mkdir()
            (folder / ".nfs0000000000000001").touch()

    monkeypatch.setattr(node_scratch.shutil, "rmtree", remove_as_nfs)
    path = config(tasks=2)
    left = node / f"l3hpc-{os.geteuid()}" / f"extract-0-killed@{socket.gethostname()}"
    left.mkdir(parents=True)
    left.parent.chmod(0o700)
    run(path, 0)
    assert own(node) == []


def test_a_folder_that_others_could_fill_is_not_used(config, node):
    shared = node / f"l3hpc-{os.geteuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    _, notes = run(config())
    assert any("is not a folder that only you can write" in note for note in notes)
    shutil.rmtree(shared)
    shared.symlink_to(node)
    _, notes = run(config(text="again"))
    assert any("is not a folder that only you can write" in note for note in notes)


def test_large_files_go_where_there_is_room(node, tmp_path):
    notes = Notes()
    task = Task(output=tmp_path, scratch=tmp_path / "shared", inputs={}, progress=notes,
                node_scratch=node)
    assert task.roomy("cache", 1000) == node / "cache"
    assert task.roomy("cache", 10**18) == tmp_path / "shared" / "cache"
    [note] = notes.notes
    assert "cache needs 1,000,000,000.0 GB" in note and str(node) in note
    (tmp_path / "shared" / "cache").mkdir(parents=True)
    assert task.roomy("cache", 1000) == tmp_path / "shared" / "cache"  # begun there before
    without = Task(output=tmp_path, scratch=tmp_path / "shared", inputs={})
    assert without.roomy("x", 10**18) == tmp_path / "shared" / "x"


# the profile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["$SLURM_TMPDIR", "/local/$USER/${SLURM_JOB_ID}", "/scratch/a=b"])
def test_paths_with_variables_are_taken_as_they_are(text):
    assert ClusterProfile(name="g", scratch=text).scratch == text


@pytest.mark.parametrize("text", [
    "local/scratch", "~/scratch", "/local/$(id)", "/local/`id`", "/local/a b", "/local/$USER'",
    "/a/../b", "$", "${A:-/tmp}", "/x;reboot", "/x\n", 7, "/%j", "/" + "x" * 2000])
def test_other_paths_are_refused(text):
    with pytest.raises(ValueError, match=r"scratch\n.*(contains|not the path|not a string)"):
        ClusterProfile(name="g", scratch=text)


@pytest.mark.parametrize("value", ["relative", "/a/../b", "/a\nb"])
def test_values_of_variables_are_checked(value):
    with pytest.raises(L3hpcError, match="is not an absolute path"):
        job_path.expand("$X", {"X": value})


def test_a_value_is_not_read_by_a_shell(tmp_path):
    assert job_path.expand("$X/y", {"X": "/a/$(touch here)`id`"}) == Path(
        "/a/$(touch here)`id`/y")


def test_on_local_the_job_finds_its_scratch(chains, tmp_path):
    node = tmp_path / "disk of $(touch here) a node"
    node.mkdir()
    profile = chains.profile(
        scratch="$NODE_DISK",
        env={**chains.profile().env, "NODE_DISK": str(node)})
    made = chains.plan(tmp_path / "ws", names=("extract", "sample"), on=profile)
    submit.submit(made)
    [found] = status.collect(tmp_path / "ws", ["demo"])
    assert [step.state for step in found.steps] == ["done", "done"]
    assert chains.output(made, "sample") == {0: "(0 (0))"}
    logs = Workspace(tmp_path / "ws").run("demo").step("extract").logs
    text = "".join(path.read_text() for path in logs.glob("*_log.*"))
    assert f"working in {node}/l3hpc-{os.geteuid()}/extract-0-" in text
    assert own(node) == [] and not (tmp_path / "here").exists()
