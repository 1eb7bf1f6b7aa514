"""Processes of this machine: real ones, with names that are hard to read."""

import gc
import os
import shutil
import subprocess

import pytest
from waiting import until

from l3hpc.io.processes import (
    descendants,
    process,
    process_start,
    processes,
    without_garbage_collection,
)


def test_a_name_with_spaces_and_parentheses_hides_nothing(tmp_path):
    shutil.copy("/bin/sleep", tmp_path / "a) Z 1 (b")
    with subprocess.Popen([tmp_path / "a) Z 1 (b", "600"], start_new_session=True) as started:
        try:
            until(lambda: os.readlink(f"/proc/{started.pid}/exe").endswith("(b")
                  and process(started.pid).resident_mb)
            found = process(started.pid)
            assert found.start == next(each.start for each in processes()
                                       if each.pid == started.pid)
            assert (found.parent, found.group, found.session, found.ended) == (
                os.getpid(), started.pid, started.pid, False)
            assert 0 < found.resident_mb < 100 and found.start == process_start(started.pid)
            assert found.start >= process_start(os.getpid())
        finally:
            started.kill()


def test_a_zombie_has_ended_and_then_there_is_nothing():
    started = subprocess.Popen(["true"])
    until(lambda: process(started.pid).ended)
    assert process_start(started.pid) is None
    started.wait()
    assert process(started.pid) is None is process_start(started.pid)


def test_descendants_are_those_of_all_generations(tmp_path):
    shell = subprocess.Popen(["sh", "-c", "sh -c 'sleep 600 & sleep 600; true'; true"],
                             start_new_session=True)
    try:
        until(lambda: len(descendants(shell.pid)) == 3)
        assert set(descendants(shell.pid)) <= set(descendants(os.getpid()))
        assert descendants(2**22 + 1) == []
    finally:
        for pid in (*descendants(shell.pid), shell.pid):
            os.kill(pid, 9)
        shell.wait()


@pytest.mark.parametrize("before", [True, False])
def test_python_looks_for_garbage_afterwards_as_before(before):
    """Also after an error."""
    collected = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == before
        with pytest.raises(KeyError), without_garbage_collection():
            raise KeyError
        assert gc.isenabled() == before
    finally:
        (gc.enable if collected else gc.disable)()
