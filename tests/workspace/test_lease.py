"""One owner at a time, and none that stays for ever."""

import errno
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from l3hpc.io.processes import process_start
from l3hpc.workspace import lease
from l3hpc.workspace.lease import DEAD_S, Lease


def test_only_one_holds_a_claim(tmp_path):
    first, second = Lease(tmp_path / "thing", "one"), Lease(tmp_path / "thing", "two")
    assert first.acquire()
    assert not second.acquire()
    assert second.holder()["label"] == "one"
    first.release()
    assert second.acquire() and not first.acquire()
    assert second.still_ours() and not first.still_ours()
    second.release()
    assert Lease(tmp_path / "thing").holder() is None


def test_a_full_disk_leaves_no_claim_that_keeps_others_waiting(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            Lease(tmp_path / "thing").acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    owner = Lease(tmp_path / "thing")
    assert owner.acquire()
    owner.release()


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(tmp_path):
    state = {"host": socket.gethostname(), "pid": 2**22 + 1, "start": 1, "token": "x", "beat": 3}
    (tmp_path / "thing.owner.4").write_text(json.dumps(state))
    owner = Lease(tmp_path / "thing")
    assert owner.acquire()
    assert [path.name for path in tmp_path.iterdir()] == ["thing.owner.5"]
    owner.release()


def test_a_reused_process_id_does_not_keep_a_claim(tmp_path):
    state = {"host": socket.gethostname(), "pid": 1, "start": (process_start(1) or 0) + 7,
             "token": "x", "beat": 3}
    (tmp_path / "thing.owner.1").write_text(json.dumps(state))
    assert Lease(tmp_path / "thing").holder() is None


def test_a_silent_owner_on_another_machine_expires_by_our_own_clock(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("l3hpc.workspace.lease.time.monotonic", lambda: now[0])
    claim = tmp_path / "thing.owner.1"
    state = {"host": "elsewhere", "pid": 1, "start": 1, "token": "x", "beat": 1}
    claim.write_text(json.dumps(state))
    owner = Lease(tmp_path / "thing", expires_s=60.0)
    assert not owner.acquire()
    for beat in range(2, 5):  # it still beats, whatever its clock says
        now[0] += 59.0
        claim.write_text(json.dumps({**state, "beat": beat}))
        assert not owner.acquire()
    now[0] += 61.0
    assert owner.acquire()
    owner.release()


def test_a_claim_that_is_minutes_old_is_dead_at_the_first_look(tmp_path):
    claim = tmp_path / "thing.owner.1"
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": 1, "token": "x"}))
    os.utime(claim, (time.time() - DEAD_S / 2,) * 2)
    assert Lease(tmp_path / "thing").holder() is not None
    os.utime(claim, (time.time() - DEAD_S - 60,) * 2)
    assert Lease(tmp_path / "thing").holder() is None
    owner = Lease(tmp_path / "thing")
    assert owner.acquire()
    owner.release()


def test_of_many_who_take_over_one_wins(tmp_path):
    state = {"host": socket.gethostname(), "pid": 2**22 + 1, "start": 1, "token": "x", "beat": 3}
    (tmp_path / "thing.owner.1").write_text(json.dumps(state))
    owners = [Lease(tmp_path / "thing") for _ in range(16)]
    won = []
    start = threading.Barrier(len(owners))

    def take(owner):
        start.wait()
        if owner.acquire():
            won.append(owner)

    threads = [threading.Thread(target=take, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and won[0].still_ours()
    won[0].release()


def test_a_half_written_claim_is_no_claim_for_ever(tmp_path):
    (tmp_path / "thing.owner.1").write_text('{"host": "x", ')
    owner = Lease(tmp_path / "thing", expires_s=0.1)
    assert not owner.acquire()
    threading.Event().wait(0.15)
    assert owner.acquire()
    owner.release()


def _acquire_and_die(path, event):
    """Acquire a lease in a process that is killed at one of its file operations; whether it was."""
    child = os.fork()
    if not child:
        left = [event]

        def count(name, arguments):
            if name == "open" or name.startswith("os."):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            owner = Lease(path)
            sys.addaudithook(count)
            owner.acquire()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("has_links", [True, False])
def test_a_process_killed_while_it_claims_keeps_nobody_waiting(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", _refuse_link)
    event = 1
    while _acquire_and_die(tmp_path / f"thing{event}", event):
        owner, began = Lease(tmp_path / f"thing{event}"), time.monotonic()
        assert owner.acquire(), f"killed at file operation {event}"
        assert time.monotonic() - began < 0.9 or not has_links
        assert [path.name for path in tmp_path.glob(f".thing{event}.*")] == []
        owner.release()
        event += 1
    assert event > 4


def test_without_hard_links_one_of_two_gets_the_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _refuse_link)
    first, second = Lease(tmp_path / "thing"), Lease(tmp_path / "thing")
    assert first.acquire() and not second.acquire()
    assert [path.name for path in tmp_path.iterdir()] == ["thing.owner.1"]
    first.release()


def _refuse_link(source, target):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source)


def test_a_pipe_in_the_place_of_a_claim_hangs_nobody(tmp_path):
    os.mkfifo(tmp_path / "thing.owner.3")
    owner, got = Lease(tmp_path / "thing", expires_s=0.1), []

    def claim():
        while not owner.acquire():
            time.sleep(0.05)
        got.append(owner)

    thread = threading.Thread(target=claim, daemon=True)
    thread.start()
    thread.join(120)
    assert got == [owner]
    owner.release()


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_claim_that_goes_while_it_is_looked_at_is_nobodys(tmp_path, monkeypatch, taken_over):
    first, second = Lease(tmp_path / "thing", "one"), Lease(tmp_path / "thing", "two")
    assert first.acquire()
    listing = Lease._numbers

    def late(lease):
        found = listing(lease)
        monkeypatch.undo()
        first.release(forget=True)
        if taken_over:
            assert second.acquire()
        return found

    monkeypatch.setattr(Lease, "_numbers", late)
    holder = Lease(tmp_path / "thing").holder()
    assert (holder and holder["label"]) == ("two" if taken_over else None)
    second.release()


def test_the_claim_of_a_process_of_this_machine_is_alive_however_old_it_looks(tmp_path):
    """Somebody may have set the clock, or that of the file server is wrong."""
    owner = Lease(tmp_path / "thing")
    assert owner.acquire()
    os.utime(tmp_path / "thing.owner.1", (time.time() - DEAD_S - 60,) * 2)
    assert Lease(tmp_path / "thing").holder()["pid"] == os.getpid()
    assert not Lease(tmp_path / "thing").acquire()
    owner.release()


def test_a_wrong_clock_of_this_machine_takes_nothing_over(tmp_path, monkeypatch):
    claim = tmp_path / "thing.owner.1"
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": 1, "token": "x"}))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2 * DEAD_S)
    assert not Lease(tmp_path / "thing").acquire()
    os.utime(claim, (real() - 2 * DEAD_S,) * 2)
    owner = Lease(tmp_path / "thing")
    assert owner.acquire()
    owner.release(forget=True)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_made_and_a_file_in_its_place_is_an_error(tmp_path):
    owner = Lease(tmp_path / "new" / "deep" / "thing")
    assert owner.acquire()
    owner.release()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        Lease(tmp_path / "file" / "thing").acquire()


def test_other_files_beside_the_claims_and_claims_without_a_process_stop_nobody(tmp_path):
    (tmp_path / "thing.owner.7.bak").write_text("x")
    (tmp_path / "thing.owner.3").write_text(json.dumps({"host": socket.gethostname()}))
    owner = Lease(tmp_path / "thing", expires_s=0.0)
    assert owner.acquire()
    assert {path.name for path in tmp_path.iterdir()} == {"thing.owner.4", "thing.owner.7.bak"}
    owner.release()


def test_a_full_disk_without_hard_links_leaves_no_empty_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _refuse_link)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    real = lease.create_file

    def create(path, content):  # the disk becomes full after the file beside the claim
        if path.name.startswith("thing"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        real(path, content)

    monkeypatch.setattr(lease, "create_file", create)
    try:
        with pytest.raises(OSError, match="File too large"):
            Lease(tmp_path / "thing").acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_who_saw_the_folder_before_a_newer_claim_gives_way(tmp_path, monkeypatch):
    """A network file system may list a folder as it was a moment ago."""
    first, second = Lease(tmp_path / "thing", "one"), Lease(tmp_path / "thing", "two")
    for _ in range(3):
        assert first.acquire()
        first.release()
    assert first.acquire()  # claim 4; the old ones are gone
    listing, stale = Lease._numbers, [[]]
    monkeypatch.setattr(Lease, "_numbers",
                        lambda owner: stale.pop() if stale else listing(owner))
    assert not second.acquire()
    assert first.still_ours() and not second.still_ours()
    assert [path.name for path in tmp_path.iterdir()] == ["thing.owner.4"]
    first.release()


def test_an_owner_that_was_stopped_for_too_long_notices_that_it_is_replaced(tmp_path):
    first, second = Lease(tmp_path / "thing", "one"), Lease(tmp_path / "thing", "two",
                                                            expires_s=0.0)
    assert first.acquire() and first.still_ours()
    assert second.acquire()
    assert not first.still_ours()
    first.release()  # of a claim that is not there any more
    assert second.still_ours() and Lease(tmp_path / "thing").holder()["label"] == "two"
    second.release()


def test_a_last_beat_does_not_revive_a_claim_that_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_EVERY_S", 0.001)
    owner, beating, real = Lease(tmp_path / "thing"), threading.Event(), lease.write_json

    def late(path, state):
        if threading.current_thread() is not threading.main_thread():
            beating.set()
            owner._stop.wait()
            time.sleep(0.2)  # time for a release that would not wait for it
        real(path, state)

    monkeypatch.setattr(lease, "write_json", late)
    assert owner.acquire() and beating.wait(60)
    thread = owner._thread
    owner.release()
    thread.join()
    assert Lease(tmp_path / "thing").holder() is None


@pytest.mark.parametrize("made_again", [False, True])
def test_a_folder_that_another_process_removes_meanwhile_is_tried_again(
        tmp_path, monkeypatch, made_again):
    def removed_meanwhile(folder, *, parents, exist_ok):
        if made_again:
            os.mkdir(folder)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))

    owner = Lease(tmp_path / "folder" / "thing")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", removed_meanwhile)
        assert not owner.acquire()
    assert owner.acquire()
    owner.release()
