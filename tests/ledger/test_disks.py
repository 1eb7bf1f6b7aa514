"""Real full and read-only disks: one warning, the second folder, nothing lost, nothing raised."""

import errno
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from l3hpc.ledger.journal.reading import Damage, all_records
from l3hpc.ledger.journal.records import Journal

TAB = "embedding_approx_mse"


@pytest.fixture
def disk(tmp_path):
    """A file system of its own (64 KiB of memory), where this machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def told(*folders):
    return [record["epoch"] for record in all_records(folders, Damage())]


def record(journal, epochs):
    for epoch in epochs:
        journal.record(TAB, {"latest_train_loss": 1 / (epoch + 1), "log": "x" * 300}, epoch=epoch)


def test_a_disk_that_fills_up_and_is_emptied(disk, tmp_path, capsys):
    ballast = disk / "ballast"
    journal = Journal(disk / "journal", fallback=tmp_path / "second", labels={"model_dir": "/m"})
    record(journal, range(3))
    with open(ballast, "wb", buffering=0) as stream, pytest.raises(OSError) as full:
        while True:  # someone else fills it
            stream.write(b"x" * 1024)
    assert full.value.errno == errno.ENOSPC
    record(journal, range(3, 40))
    assert journal.waiting == 0
    assert sorted(told(disk / "journal", tmp_path / "second")) == list(range(40))
    assert told(tmp_path / "second")
    warnings = capsys.readouterr().err
    assert warnings.count("No space left on device") == 1
    assert warnings.count("trying another folder") == 1
    ballast.unlink()
    record(journal, range(40, 45))
    assert sorted(told(disk / "journal", tmp_path / "second")) == list(range(45))


def test_both_folders_on_a_full_disk(disk, capsys):
    journal = Journal(disk / "journal", fallback=disk / "second", labels={"model_dir": "/m"})
    record(journal, range(2))
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (64 * 1024 - 2 * 4096 - 4096))
    record(journal, range(2, 60))
    assert journal.waiting > 0 and "kept in memory" in capsys.readouterr().err
    ballast.unlink()
    record(journal, [60])
    assert journal.waiting == 0
    assert sorted(told(disk / "journal", disk / "second")) == list(range(61))


def test_a_read_only_disk(disk, tmp_path, capsys):
    journal = Journal(disk / "journal", fallback=tmp_path / "second", labels={"model_dir": "/m"})
    record(journal, range(2))
    journal.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    late = Journal(disk / "journal", fallback=tmp_path / "second", labels={"model_dir": "/m"},
                   run="late")
    record(late, range(2, 6))
    assert sorted(told(disk / "journal", tmp_path / "second")) == list(range(6))
    warnings = capsys.readouterr().err
    assert warnings.count("Read-only file system") == 1 and late.waiting == 0


def test_a_limit_on_the_size_of_files(tmp_path):
    """What every user can do: the system refuses to let a file grow (EFBIG)."""
    child = os.fork()
    if not child:
        import signal
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            journal = Journal(tmp_path / "one", fallback=tmp_path / "two",
                              labels={"model_dir": "/m"})
            record(journal, range(20))
            os._exit(100 + min(journal.waiting, 100))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 100
    assert sorted(told(tmp_path / "one", tmp_path / "two")) == list(range(20))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_always_full(tmp_path, capsys):
    journal = Journal(tmp_path / "one", fallback=tmp_path / "two", labels={"model_dir": "/m"})
    record(journal, [0])
    os.dup2(os.open("/dev/full", os.O_WRONLY), journal._handle)
    record(journal, [1, 2])
    assert sorted(told(tmp_path / "one", tmp_path / "two")) == [0, 1, 2]
    assert capsys.readouterr().err.count("trying another folder") == 1
