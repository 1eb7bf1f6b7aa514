"""Files that are brought to the disk together."""

import os
import signal
import threading

import pytest

from l3hpc.io import syncing
from l3hpc.io.files import create_file


def test_each_path_once_and_those_that_are_gone_are_ignored(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(
        os.path.realpath(f"/proc/self/fd/{handle}")))
    for name in "abcdefgh":
        create_file(tmp_path / name, b"x")
    paths = [tmp_path / name for name in "abcdefgh"]
    syncing.make_durable([*paths, str(paths[0]), tmp_path, tmp_path / "gone"])
    assert sorted(synced) == sorted(map(str, [*paths, tmp_path]))
    syncing.make_durable([])


def test_it_goes_on_in_the_background_until_it_is_waited_for(tmp_path, monkeypatch):
    go, synced = threading.Event(), []
    monkeypatch.setattr(syncing, "_sync", lambda path: (go.wait(60), synced.append(path)))
    with syncing.Syncing() as background:
        background.add([tmp_path])
        background.start()
        assert synced == []
        background.add(["later", "later"])
        go.set()
        background.wait()
    assert sorted(synced) == [str(tmp_path), "later"]


def test_a_folder_that_gets_another_file_is_brought_to_disk_again(monkeypatch):
    came, synced = threading.Event(), []
    monkeypatch.setattr(syncing, "_sync", lambda path: (synced.append(path), came.set()))
    with syncing.Syncing() as background:
        background.add(["folder"])
        background.start()
        assert came.wait(60)
        background.add(["folder"])
        background.wait()
        background.wait()  # nothing is left
        assert synced == ["folder", "folder"]
        background.add(["folder"])
        background.wait()  # without threads, which have ended
    assert synced == ["folder"] * 3


def test_ctrl_c_reaches_none_of_its_threads_which_start_once(monkeypatch):
    """Python runs handlers in the main thread, but a system call of that ends only if the signal
    reaches it. A thread that the disk keeps waiting does not keep the program."""
    came, masks = threading.Event(), []
    monkeypatch.setattr(syncing, "_sync", lambda path: (
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())), came.set()))
    with syncing.Syncing() as background:
        background.add(["folder"])
        background.start()
        background.start()
        assert len(background._threads) == syncing.THREADS
        assert all(thread.daemon for thread in background._threads)
        assert came.wait(60)
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= masks[0]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    syncing.make_durable([tmp_path])
    create_file(tmp_path / "a", b"x")
    with pytest.raises(OSError, match="Invalid"):
        syncing.make_durable([tmp_path / "a"])


def test_its_threads_end_if_nobody_waits(monkeypatch):
    monkeypatch.setattr(syncing, "_sync", lambda path: None)
    with pytest.raises(KeyError), syncing.Syncing() as background:
        background.add("abc")
        background.start()
        threads = [*background._threads]
        raise KeyError
    for thread in threads:
        thread.join(10)
    assert len(threads) == syncing.THREADS and not any(thread.is_alive() for thread in threads)


def test_no_path_is_left_behind_however_the_threads_are_scheduled(monkeypatch):
    """A thread must not take the sign to end that is meant for the one who waits."""
    synced = []
    monkeypatch.setattr(syncing, "_sync", synced.append)
    for _ in range(300):
        syncing.make_durable("abcdef")
    assert len(synced) == 300 * 6


@pytest.mark.parametrize("threads", [0, 1])
def test_where_no_more_threads_can_be_started_the_caller_writes(tmp_path, monkeypatch, threads):
    """Login nodes limit the processes of a user, and threads count."""
    started, start, synced = [], threading.Thread.start, []

    def limited(thread):
        if len(started) >= threads:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(syncing, "_sync", synced.append)
    syncing.make_durable(["a", "b", "c"])
    assert sorted(synced) == ["a", "b", "c"] and len(started) == threads


def test_an_error_of_the_disk_is_raised_once_the_others_are_there(tmp_path, monkeypatch):
    synced = []

    def sync(path):
        if path == "b":
            raise OSError(5, "Input/output error")
        synced.append(path)

    monkeypatch.setattr(syncing, "_sync", sync)
    with pytest.raises(OSError, match="Input/output"):
        syncing.make_durable(["a", "b", "c"])
    assert sorted(synced) == ["a", "c"]


def test_a_new_file_has_its_permissions_and_replaces_none(tmp_path):
    before = os.umask(0o002)
    try:
        create_file(tmp_path / "x", b"one", mode=0o666)
        create_file(tmp_path / "y", b"two")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "xy"] == [0o664, 0o644]
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"one"


def test_a_full_disk_is_named(tmp_path):
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("this machine has no /dev/full")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught, pytest.MonkeyPatch.context() as patch:
        real = os.open
        patch.setattr(os, "open", lambda path, flags, mode: real(path, os.O_WRONLY))
        create_file(tmp_path / "full", b"x")
    assert caught.value.filename == str(tmp_path / "full")
