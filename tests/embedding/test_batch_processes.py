"""Recordings embedded by several processes, and runs that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from l3hpc.embedding import batch
from l3hpc.embedding.batch import EmbedSettings, embed_all, embed_in_processes
from l3hpc.embedding.folders import EmbedTask, plan_embedding


@pytest.mark.slow
def test_processes_give_the_same_as_one(folder, model, student, monkeypatch):
    monkeypatch.setattr(batch, "MAX_SHARE", 3)
    alone, together = (plan_embedding([folder], folder.parent / name).tasks
                       for name in ("one", "two"))
    wanted = list(embed_all(model, alone, EmbedSettings()))
    options = {"model": student, "engine": "ncnn"}
    found = list(embed_in_processes(options, together, EmbedSettings(), 2))
    assert [(one.state, one.frames, one.message) for one in found] == [
        (one.state, one.frames, one.message) for one in wanted]
    for left, right in zip(alone, together, strict=True):
        if left.output.exists():
            np.testing.assert_allclose(np.load(right.output)["embedding"],
                                       np.load(left.output)["embedding"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "jobs", "processes", "threads", "sizes"), [
    (12, 2, 2, 4, [2] * 6), (3, 8, 3, 2, [1] * 3), (1, 2, 1, 8, [1]), (0, 2, 1, 8, []),
    (1000, 2, 2, 4, [16] * 62 + [8]), (100, 16, 16, 1, [2] * 50)])
def test_every_process_gets_a_part_and_all_cores_are_used(monkeypatch, count, jobs, processes,
                                                          threads, sizes):
    asked = {}

    class Pool:
        def __init__(self, jobs, context, begin, arguments):
            asked.update(jobs=jobs, threads=arguments[0]["threads"])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, share, shares, settings):
            asked["sizes"] = [len(one) for one in shares]
            return [[batch.EmbedResult(work, batch.DONE) for work in one] for one in shares]

        def shutdown(self, cancel_futures):
            pass

    monkeypatch.setattr(batch, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(batch, "allocated_cores", lambda: 8)
    works = [EmbedTask(Path(f"{number}.wav"), Path(f"{number}.npz")) for number in range(count)]
    found = list(embed_in_processes({}, works, EmbedSettings(), jobs))
    assert [one.task for one in found] == works
    assert asked == {"jobs": processes, "threads": threads, "sizes": sizes}


def stalled(folder, sound, count, seconds, at):
    """Recordings, one of which nobody can finish to read: a run stops there until it is killed."""
    folder.mkdir()
    for number in range(count):
        soundfile.write(folder / f"{number:03d}.wav", sound(seconds, 8000, number), 8000)
    (folder / f"{at:03d}.wav").unlink()
    os.mkfifo(folder / f"{at:03d}.wav")


def start_and_wait(words, out, least):
    """The process of a command, once it has written ``least`` outputs."""
    process = subprocess.Popen(words)
    end = time.monotonic() + 240
    while (len(list(out.glob("*.npz"))) < least and time.monotonic() < end
           and process.poll() is None):
        time.sleep(0.005)
    return process


def children(pid):
    """Numbers of the spawned processes of a process."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            words = (place / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(place.name))
    return found


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_end_when_their_parent_is_killed(tmp_path, student, sound):
    stalled(tmp_path / "in", sound, 8, 1, 7)
    process = start_and_wait([sys.executable, "-m", "l3hpc", "embed", str(tmp_path / "in"), "-o",
                              str(tmp_path / "out"), "-m", str(student), "--engine", "ncnn", "-q",
                              "-j", "2"], tmp_path / "out", 6)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) == 2
    end = time.monotonic() + 240
    while any(map(lives, workers)) and time.monotonic() < end:
        time.sleep(0.01)
    left = [pid for pid in workers if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_a_killed_run_leaves_whole_files_and_the_next_one_does_the_rest(tmp_path, student, sound):
    """kill -9 at some moment: what is there is whole; a second run adds only what is missing."""
    folder, out = tmp_path / "in", tmp_path / "out"
    stalled(folder, sound, 60, 4, 50)
    words = [sys.executable, "-m", "l3hpc", "embed", str(folder), "-o", str(out), "-m",
             str(student), "--engine", "ncnn", "-t", "0.05", "-q"]
    process = start_and_wait(words, out, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "050.wav").unlink()
    soundfile.write(folder / "050.wav", sound(4, 8000, 50), 8000)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    assert 5 <= len(before) <= 50
    for path in out.glob("*.npz"):
        assert np.load(path)["embedding"].shape == (71, 5)
    assert subprocess.run(words).returncode == 0
    assert len(list(out.glob("*.npz"))) == 60
    assert all((out / name).stat().st_mtime_ns == moment for name, moment in before.items())
