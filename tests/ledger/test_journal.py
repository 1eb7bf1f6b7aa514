"""The journal never raises, never loses an acknowledged record, and recognises torn lines."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.ledger.journal import records as journal_module
from l3hpc.ledger.journal.records import (
    Journal,
    json_value,
    last_restart,
    seal,
    source_commit,
    unseal,
)

TAB = "embedding_approx_mse"


def records(folder):
    return [unseal(line) for path in sorted(Path(folder).glob("*.jsonl"))
            for line in path.read_bytes().splitlines() if line]


def test_a_record_is_self_contained(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "8815")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    journal = Journal(tmp_path, labels={"username": "ada", "model_dir": "/m/1", "note": "demo"},
                      run="up-1", git_commit="abc")
    journal.record(TAB, {"latest_train_loss": np.float32(0.5), "log": Path("/x")}, epoch=3)
    (record,) = records(tmp_path)
    assert {name: record[name] for name in (
        "schema", "tab", "key", "restart", "seq", "epoch")} == {
        "schema": 1, "tab": TAB, "key": ["/m/1"], "restart": 2, "seq": 0, "epoch": 3}
    origin = record["origin"]
    assert (origin["job"], origin["commit"], origin["run"]) == ("8815", "abc", "up-1")
    assert record["values"] == {"username": "ada", "model_dir": "/m/1", "latest_epoch": 3,
                                "latest_train_loss": 0.5}
    assert record["beside"] == {"note": "demo", "log": "/x"}
    assert origin["versions"]["python"].startswith("3.")
    assert origin["host"] and origin["pid"] == os.getpid()


def test_satisfies_the_recorder_protocol(tmp_path):
    from l3hpc.steps.task import Recorder
    recorder: Recorder = Journal(tmp_path)
    recorder.record(TAB, {"model_dir": "/m"}, epoch=None)
    assert len(records(tmp_path)) == 1


def test_no_file_before_the_first_record_and_only_rank_zero(tmp_path, monkeypatch):
    Journal(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    monkeypatch.setenv("SLURM_PROCID", "1")
    Journal(tmp_path / "a").record(TAB, {"model_dir": "/m"})
    assert not (tmp_path / "a").exists()


def test_restart_grows_with_every_process_of_a_run(tmp_path):
    for expected in range(3):
        journal = Journal(tmp_path, run="up-1", labels={"model_dir": "/m"}, restart=0)
        journal.record(TAB, {})
        journal.record(TAB, {})
        assert last_restart(tmp_path, "up-1") == expected
    assert sorted((item["restart"], item["seq"]) for item in records(tmp_path)) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    Journal(tmp_path, run="up", labels={"model_dir": "/m"}).record(TAB, {})
    assert last_restart(tmp_path, "up") == 0


def test_unwritable_folder_warns_once_and_uses_the_second(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    journal = Journal(blocked / "journal", fallback=tmp_path / "second", labels={"model_dir": "/m"})
    for epoch in range(3):
        journal.record(TAB, {"latest_train_loss": 1.0}, epoch=epoch)
    assert [item["epoch"] for item in records(tmp_path / "second")] == [0, 1, 2]
    assert capsys.readouterr().err.count("cannot write results") == 1
    assert journal.waiting == 0


def test_a_full_disk_tears_at_most_one_line_and_nothing_is_lost(tmp_path, monkeypatch, capsys):
    real = os.write
    state = {"full": False}

    def write(handle, data):
        if state["full"]:
            real(handle, bytes(data)[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    journal = Journal(tmp_path / "one", fallback=tmp_path / "two", labels={"model_dir": "/m"})
    journal.record(TAB, {}, epoch=0)
    monkeypatch.setattr(journal_module.os, "write", write)
    state["full"] = True
    journal.record(TAB, {}, epoch=1)
    journal.record(TAB, {}, epoch=2)
    assert journal.waiting == 2
    state["full"] = False
    journal.record(TAB, {}, epoch=3)
    assert journal.waiting == 0
    found = [item for folder in ("one", "two") for item in records(tmp_path / folder)]
    assert sorted(item["epoch"] for item in found if item) == [0, 1, 2, 3]
    assert sum(item is None for item in found) >= 1  # the torn lines are recognised
    assert "kept in memory" in capsys.readouterr().err


def test_a_file_that_went_and_a_folder_that_takes_no_other(tmp_path, monkeypatch):
    """The number of the closed file soon belongs to a foreign file, which is left alone."""
    journal = Journal(tmp_path / "one", fallback=tmp_path / "two", labels={"model_dir": "/m"})
    journal.record(TAB, {}, epoch=0)
    journal.path.rename(f"{journal.path}{journal_module.CLOSING}")
    real, shut = os.open, os.close
    ours, foreign = {journal._handle}, []

    def opened(path, flags, *words, **options):
        if str(path).startswith(str(tmp_path / "one")) and flags & os.O_CREAT:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))
        ours.add(number := real(path, flags, *words, **options))
        return number

    def close(number):
        foreign.extend({number} - ours)
        ours.discard(number)
        shut(number)

    number = journal._handle
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "open", opened)
        patch.setattr(journal_module.os, "close", close)
        journal.record(TAB, {}, epoch=1)
    assert foreign == [] and ours <= {number, journal._handle} and journal.waiting == 0
    assert [item["epoch"] for item in records(tmp_path / "two")] == [1]
    journal.record(TAB, {}, epoch=2)
    assert [item["epoch"] for item in records(tmp_path / "two")] == [1, 2]


def test_a_number_that_cannot_be_closed_is_forgotten(tmp_path):
    journal = Journal(tmp_path, fallback=tmp_path, labels={"model_dir": "/m"})
    journal.record(TAB, {}, epoch=0)
    os.close(journal._handle)
    journal.close()
    foreign = os.open(tmp_path / "checkpoint", os.O_WRONLY | os.O_CREAT)
    journal.record(TAB, {}, epoch=1)
    os.close(foreign)
    journal.close()
    assert (tmp_path / "checkpoint").read_bytes() == b""
    assert sorted(item["epoch"] for item in records(tmp_path)) == [0, 1]


def test_never_raises_whatever_is_recorded(tmp_path, capsys):
    journal = Journal(tmp_path, labels={"model_dir": "/m"})

    class Bad:
        def __str__(self):
            raise RuntimeError("no")

    journal.record(TAB, {"username": Bad()})
    journal.record("no_such_tab", {"x": 1})
    journal.record(TAB, {1: 2})  # type: ignore[dict-item]
    Journal(tmp_path).record(TAB, {"latest_train_loss": 1.0})
    errors = capsys.readouterr().err
    assert "cannot write a results record: no" in errors
    assert "is not declared" in errors and "is missing its key (model_dir)" in errors


def test_a_forked_child_writes_its_own_file(tmp_path):
    journal = Journal(tmp_path, labels={"model_dir": "/m"}, run="r")
    journal.record(TAB, {}, epoch=0)
    child = os.fork()
    if child == 0:
        journal.record(TAB, {}, epoch=1)
        os._exit(0)
    os.waitpid(child, 0)
    journal.record(TAB, {}, epoch=2)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert sorted(item["epoch"] for item in records(tmp_path)) == [0, 1, 2]


def test_plain_values():
    value = {"a": np.int64(3), 2: [float("nan"), float("inf"), -np.inf], "c": np.arange(2)}
    assert json_value(value) == {
        "a": 3, "2": ["NaN", "Infinity", "-Infinity"], "c": [0, 1]}
    assert json_value(np.bool_(True)) is True and json_value(Path("/x")) == "/x"


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none(),
                                            st.floats(allow_nan=False, allow_infinity=False))),
       st.data())
def test_round_trip_and_every_cut_is_noticed(values, data):
    line = seal({"values": values})
    assert unseal(line[:-1]) == {"values": values}
    assert line.count(b"\n") == 1
    cut = data.draw(st.integers(0, len(line) - 2))
    assert unseal(line[:cut]) is None
    place = data.draw(st.integers(0, len(line) - 2))
    changed = bytearray(line[:-1])
    changed[place] ^= 1 << data.draw(st.integers(0, 6))
    assert unseal(bytes(changed)) is None


def _writer(folder, acknowledged, number):
    labels = {"model_dir": f"/m/{number}"}
    journal = Journal(folder, fallback=folder, labels=labels, run=f"w{number}")
    handle = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    epoch = 0
    while True:
        journal.record(TAB, {"latest_train_loss": 1.0 / (epoch + 1)}, epoch=epoch)
        os.write(handle, f"{epoch}\n".encode())
        epoch += 1


@pytest.mark.slow
def test_24_writers_killed_at_random_lose_nothing_acknowledged(tmp_path):
    context = multiprocessing.get_context("fork")
    journal_folder = tmp_path / "journal"
    writers = [context.Process(target=_writer, daemon=True,
                               args=(journal_folder, tmp_path / f"ack{n}", n))
               for n in range(24)]
    for writer in writers:
        writer.start()
    chance = random.Random(7)
    end = time.monotonic() + 240
    while sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("ack*")) < 200:
        assert time.monotonic() < end
        time.sleep(0.02)
    for writer in chance.sample(writers, len(writers)):
        time.sleep(chance.random() * 0.03)
        os.kill(writer.pid, signal.SIGKILL)
    for writer in writers:
        writer.join()
    written: dict[str, set[int]] = {}
    for item in records(journal_folder):
        if item:
            written.setdefault(item["key"][0], set()).add(item["epoch"])
    total = 0
    for number in range(24):
        path = tmp_path / f"ack{number}"
        text = path.read_text() if path.exists() else ""
        promised = {int(line) for line in text.splitlines()}
        total += len(promised)
        assert promised <= written.get(f"/m/{number}", set())
    assert total >= 200


def test_the_journal_imports_nothing_heavy():
    code = ("import sys, l3hpc.ledger.journal.records; print([name for name in ('numpy', 'pandas', "
            "'tensorflow', 'gspread', 'openpyxl', 'requests', 'pydantic') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("text", ["=1+1", "007", "a\nb", "\u2028", "🎧", "\ud800", "x" * 60_000])
def test_awkward_text_survives(tmp_path, text):
    Journal(tmp_path, labels={"model_dir": text}).record(TAB, {})
    (path,) = tmp_path.glob("*.jsonl")
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 2
    assert unseal(lines[0])["key"] == [text]
    assert json.loads(lines[0])


commit_of = source_commit.__wrapped__  # not the one of the first call


def test_the_commit_of_a_checkout_is_found_without_git(tmp_path):
    """On a branch, with packed branches, detached, in a worktree and in a submodule."""
    checkout, other, whole = tmp_path / "a", tmp_path / "b", tmp_path / "c"

    def git(*words, at=checkout):
        done = subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-c", "protocol.file.allow=always",
             *words], cwd=at, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for folder in (checkout, whole):
        folder.mkdir()
        git("init", "--quiet", at=folder)
        git("commit", "--quiet", "--allow-empty", "-m", folder.name, at=folder)
    first = git("rev-parse", "HEAD")
    assert commit_of(checkout) == first
    git("pack-refs", "--all")
    assert commit_of(checkout) == first
    git("worktree", "add", "--quiet", "-b", "branch", str(other))
    assert commit_of(other) == first
    git("commit", "--quiet", "--allow-empty", "-m", "second", at=other)
    assert commit_of(other) == git("rev-parse", "branch") != first
    assert commit_of(checkout) == first
    git("checkout", "--quiet", "--detach")
    assert commit_of(checkout) == first
    git("submodule", "--quiet", "add", str(checkout), "inner", at=whole)
    assert commit_of(whole / "inner") == git("rev-parse", "HEAD", at=whole / "inner")


def test_what_is_no_checkout_has_no_commit(tmp_path):
    assert commit_of(tmp_path) is None
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert commit_of(tmp_path) is None
    (tmp_path / ".git").unlink()
    (tmp_path / ".git").mkdir()
    for head in (b"ref: refs/heads/unborn\n", b"=1+1\n", b"\xff", b""):
        (tmp_path / ".git/HEAD").write_bytes(head)
        assert commit_of(tmp_path) is None


def test_the_commit_is_that_of_the_checkout_from_which_the_package_runs():
    """The module once moved into a folder further down, and rows had no commit any more."""
    checkout = Path(journal_module.__file__).resolve().parents[3]
    assert (checkout / "l3hpc/ledger/journal/records.py").is_file()
    assert source_commit() == commit_of(checkout)
    if (checkout / ".git").exists():  # not in an unpacked archive
        assert source_commit() is not None
