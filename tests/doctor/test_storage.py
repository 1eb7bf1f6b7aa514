"""The checks of folders: the workspace, scratch, audio and weights."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from asked import SLURM, Programs, config_in, said

from l3hpc.config import settings as configuration
from l3hpc.doctor import storage
from l3hpc.doctor.environment import Answer
from l3hpc.io.job_path import LEAST_FREE
from l3hpc.workspace import sharing


def test_workspace_writable_and_left_clean(tmp_path):
    config = config_in(tmp_path / "here")
    lines = list(storage.workspace_lines(config, Programs()))
    assert lines[0].severity in ("green", "yellow") and lines[1].severity == "off"
    assert lines[1].message == "not needed for cluster local"
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["cluster.yaml"]


def test_workspace_that_cannot_be_written():
    config = configuration.load(overrides={"paths.workspace": ("/proc/nothing", "--workspace")},
                                environ={})
    (line,) = storage.workspace_lines(config, Programs())
    assert line.severity == "red" and "/proc is not writable" in line.message


def test_a_node_looks_at_the_workspace(tmp_path):
    config = config_in(tmp_path, SLURM)

    def node(command):
        assert command[:2] == ["srun", "--immediate=10"] and "--partition=cpu" in command
        token = Path(command[-1])
        return said(token.read_text() + "n7\n")

    line = storage.shared_line(config, tmp_path, node)
    assert line.severity == "green" and line.message.startswith("node n7 can read it")


@pytest.mark.parametrize(("answer", "state"), [
    (Answer(1, "", "cat: /x: No such file or directory"), "red"),
    (Answer(1, "", "srun: error: Unable to allocate resources"), "yellow"),
    (Answer(None, "", "srun did not respond within 60 s"), "yellow")])
def test_a_node_that_does_not_see_the_workspace(tmp_path, answer, state):
    config = config_in(tmp_path, SLURM)
    line = storage.shared_line(config, tmp_path, Programs(srun=answer))
    assert line.severity == state and line.advice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml"]


@pytest.mark.parametrize(("setting", "state", "words"), [
    ("$DISK", "green", "GB free"), ("$DISK/none", "yellow", "none does not exist on node"),
    ("$UNSET_HERE", "yellow", "$UNSET_HERE is not set in a job"),
    ("/tmp/$EMPTY", "yellow", "$EMPTY is not set in a job"),
    ("/tmp/$UP", "yellow", "contains '..'")])
def test_a_node_looks_at_its_scratch(tmp_path, monkeypatch, setting, state, words):
    disk = tmp_path / "a $(touch here) disk"
    disk.mkdir()
    monkeypatch.setenv("DISK", str(disk))
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("UP", "../tmp")
    monkeypatch.chdir(tmp_path)
    config = config_in(tmp_path, SLURM.replace("account: pr_42", f"scratch: {setting}"))

    def node(command):
        done = subprocess.run(command[command.index("sh"):], capture_output=True, text=True)
        # a site's prolog and epilog print, too
        return Answer(done.returncode, f"ok n1 99999999 /x\n{done.stdout}Goodbye\n", done.stderr)

    line = storage.scratch_line(config, node)
    assert line.severity == state and words in line.message and bool(line.advice) != (
        state == "green")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(("answer", "words"), [
    ("ok n1  /x", "/x of node n1: df does not say"), ("ok n1", "df does not say"),
    ("", "the check on a node printed nothing")])
def test_an_odd_answer_about_scratch(tmp_path, answer, words):
    config = config_in(tmp_path, SLURM.replace("account: pr_42", "scratch: $SLURM_TMPDIR"))

    def node(command):
        mark = command[command.index("sh", command.index("sh") + 1) + 1]
        return Answer(0, f"{mark} {answer}\n" if answer else "hello\n", "")

    line = storage.scratch_line(config, node)
    assert line.severity == "yellow" and words in line.message


def test_scratch_without_a_node_or_on_this_machine(tmp_path):
    config = config_in(tmp_path, SLURM.replace("account: pr_42", "scratch: $SLURM_TMPDIR"))
    line = storage.scratch_line(config, Programs(srun=Answer(1, "", "no node")))
    assert line.severity == "yellow" and "no node was free" in line.message
    assert storage.scratch_line(config, Programs(), probe=False).severity == "off"
    here = config_in(tmp_path / "here", f"clusters: {{local: {{scratch: {tmp_path}}}}}\n")
    assert storage.scratch_line(here, Programs()).severity == "green"
    here = config_in(tmp_path / "here", "clusters: {local: {scratch: /none/here}}\n")
    assert "does not exist" in storage.scratch_line(here, Programs()).message


def test_filesystem_is_that_of_the_longest_mount_point():
    mounts = ("overlay / overlay rw 0 0\nserver:/x /scratch nfs4 rw 0 0\n"
              "tmpfs /scratch/my\\040tmp tmpfs rw 0 0\n")
    assert storage.filesystem(Path("/scratch/you"), mounts) == "nfs4"
    assert storage.filesystem(Path("/scratch/my tmp/a"), mounts) == "tmpfs"
    assert storage.filesystem(Path("/scratchy"), mounts) == "overlay"
    # mounted over: the last one is what is seen
    assert storage.filesystem(Path("/scratch/you"), mounts + "b /scratch lustre rw 0 0\n") == (
        "lustre")


def test_audio_is_counted(tmp_path):
    for name in ("one/a_1500000000.wav", "two/b_1500000000.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(600_000))
    line = storage.audio_line(tmp_path)
    assert (line.severity, line.message) == ("green", "2 recordings of 2 sensors, 1.2 MB")
    os.truncate(tmp_path / name, 1_500_000_000)  # no disk is filled: it is a hole
    assert storage.audio_line(tmp_path).message == "2 recordings of 2 sensors, 1.5 GB"


def test_missing_places_are_red_and_unset_ones_are_not(tmp_path):
    assert storage.audio_line(None).severity == "off"
    assert storage.audio_line(tmp_path / "nowhere").severity == "red"
    assert storage.audio_line(tmp_path).severity == "red"
    assert storage.embeddings_line(None).severity == "off"
    assert storage.embeddings_line(tmp_path / "nowhere").severity == "red"
    assert storage.sonyc_line(None).severity == "off"


def test_embeddings_are_counted(tmp_path):
    for name, rows in (("a", 3), ("b", 4)):
        np.savez(tmp_path / f"{name}.npz", embedding=np.ones((rows, 5)), timestamps=np.zeros(rows))
    line = storage.embeddings_line(tmp_path)
    assert (line.severity, line.message) == ("green", "7 rows in 2 files, 5 dimensions")


def test_a_sheet_that_is_not_contacted_is_said_to_be_untested(tmp_path):
    line = storage.results_line(config_in(tmp_path, "ledger: {sheet_id: abcdefgh}\n"), probe=False)
    assert (line.severity, line.message) == ("green", "abcdefgh, not tested")


def test_untrained_weights_are_yellow(tmp_path):
    line = storage.weights_line(config_in(tmp_path, "paths: {weights: untrained}\n"))
    assert line.severity == "yellow" and "random weights" in line.message


def test_ready_embeddings_have_no_rate(tmp_path):
    np.savez(tmp_path / "a.npz", embedding=np.ones((1, 7)), timestamps=[0.0])
    line = storage.weights_line(config_in(tmp_path, f"paths: {{weights: {tmp_path}}}\n"))
    assert line.severity == "green"
    assert line.message == f"{tmp_path.name}: ready, windows of 1 s, 7 dimensions"


def test_weights_that_are_not_set_are_no_demonstration(tmp_path):
    """Without weights submit refuses; only 'untrained' draws random ones."""
    line = storage.weights_line(config_in(tmp_path))
    assert line.severity == "off" and "random" not in line.message
    assert "needed for submit upstream" in line.advice


def test_weights_that_are_not_there_are_red(tmp_path):
    line = storage.weights_line(config_in(tmp_path, "paths: {weights: nowhere.h5}\n"))
    assert line.severity == "red" and line.advice


def test_every_data_set_and_who_can_write_are_looked_at(tmp_path):
    lines = list(storage.workspace_lines(config_in(tmp_path), Programs()))
    assert [line.subject for line in lines] == [
        "workspace", "workspace is shared", "workspace is yours"]
    assert [line.subject for line in storage.data_lines(config_in(tmp_path))] == [
        "audio", "embeddings", "SONYC-UST"]


@pytest.mark.parametrize(("free_gb", "state"), [(9, "yellow"), (11, "green")])
def test_a_workspace_with_little_space_is_yellow(tmp_path, monkeypatch, free_gb, state):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free_gb * 1e9))
    config = config_in(tmp_path, "paths: {workspace: new}\n")
    line = next(storage.workspace_lines(config, Programs()))
    assert (line.severity, line.message) == (
        state, f"{tmp_path}/new, {free_gb} GB free, will be created")
    (tmp_path / "new").mkdir()
    assert next(storage.workspace_lines(config, Programs())).message.endswith("GB free")


@pytest.mark.parametrize(("kind", "state"), [("nfs4", "green"), ("lustre", "green"),
                                             ("ext4", "yellow")])
def test_without_a_job_the_file_system_says_whether_it_is_shared(
        tmp_path, monkeypatch, kind, state):
    monkeypatch.setattr(storage, "filesystem", lambda folder: kind)
    programs = Programs()
    line = storage.shared_line(config_in(tmp_path, SLURM), tmp_path, programs, probe=False)
    assert (line.severity, programs.asked) == (state, [])
    assert line.message.startswith(f"it is on {kind}") and bool(line.advice) == (state == "yellow")


@pytest.mark.parametrize(("mode", "state"), [(0o755, "green"), (0o775, "yellow"), (0o777, "red")])
def test_who_else_can_replace_files_decides_the_colour(tmp_path, monkeypatch, mode, state):
    monkeypatch.setattr(sharing, "find_file_risks", lambda files: [])
    config = config_in(tmp_path / "here")
    monkeypatch.setattr(sharing, "find_risks", lambda workspace: [
        sharing.Risk(tmp_path, "others can write", mode == 0o777, "chmod go-w")] * (mode != 0o755))
    line = storage.sharing_line(config)
    assert line.severity == state and bool(line.advice) == (state != "green")
    if state == "green":
        assert line.message == "nobody else can replace your files"
        shared = config_in(tmp_path / "group", "clusters: {local: {shared_group: true}}\n")
        assert storage.sharing_line(shared).message.startswith("your group can add files")


@pytest.mark.parametrize(("free_kb", "state"), [(LEAST_FREE // 1024, "green"),
                                                (LEAST_FREE // 1024 - 1, "yellow")])
def test_scratch_with_less_than_jobs_want_is_yellow(tmp_path, free_kb, state):
    config = config_in(tmp_path, "cluster: greene\n"
                       "clusters: {greene: {partition: cpu, scratch: /disk}}\n")
    line = storage.scratch_line(config, lambda command: said(
        f"{next(word for word in command if word.startswith('l3hpc-'))} ok n7 {free_kb} /disk\n"))
    assert (line.severity, bool(line.advice)) == (state, state == "yellow")
    assert line.message.startswith("/disk of node n7, ")


def test_what_is_wrong_with_the_annotated_clips_is_red(tmp_path):
    (tmp_path / "audio").mkdir()
    line = storage.sonyc_line(tmp_path)
    assert line.severity == "red" and "annotations.csv" in line.message
