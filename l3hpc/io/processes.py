"""The processes of this machine, as Linux lists them, and the garbage collection of this one."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Process(NamedTuple):
    """A process.

    Attributes
    ----------
    pid, parent : int
        Its id, and that of the process that started it.
    group, session : int
        Its process group and session.
    start : int
        When it began, clock ticks since boot: an id alone may have been given to another process.
    resident_mb : float
        Its memory, MiB.
    ended : bool
        Whether it is a zombie: it does nothing, and nobody may ever wait for it.
    """

    pid: int
    parent: int
    group: int
    session: int
    start: int
    resident_mb: float
    ended: bool


def process(pid: int) -> Process | None:
    """Return a process.

    Parameters
    ----------
    pid
        Its id.

    Returns
    -------
    Process or None
        None if there is none with this id.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:  # it has ended
        return None
    # after the last parenthesis, because the command's name before it may contain spaces and
    # parentheses
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]),
                   int(fields[21]) * PAGE_MB, fields[0] in "ZX")


def processes() -> Iterator[Process]:
    """Yield all processes of this machine."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        if (found := process(int(name))) is not None:
            yield found


def process_start(pid: int) -> int | None:
    """Return when a process began.

    Parameters
    ----------
    pid
        Its id.

    Returns
    -------
    int or None
        Clock ticks since boot; None if there is no such process, or it is a zombie.
    """
    found = process(pid)
    return None if found is None or found.ended else found.start


def process_age_s(start: int) -> float:
    """Return how long ago a process began, whatever has been done to the clock since.

    Parameters
    ----------
    start
        When it began, clock ticks since boot (``process_start``).
    """
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK"), 0.0)


def descendants(pid: int) -> list[int]:
    """List the processes that a process has started, and those that they have.

    Parameters
    ----------
    pid
        Its id.
    """
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):  # a system without /proc
        for each in processes():
            children.setdefault(each.parent, []).append(each.pid)
    found = list(children.get(pid, ()))
    for one in found:  # grows while it is read
        found += children.get(one, ())
    return found


def resident_mb(sessions: Iterable[int]) -> dict[int, float]:
    """Measure the memory of sessions.

    Parameters
    ----------
    sessions
        Session ids; a local job is a session.

    Returns
    -------
    dict of int to float
        Session id → MiB resident of all its processes.
    """
    memory = dict.fromkeys(sessions, 0.0)
    for each in processes():
        if each.session in memory:
            memory[each.session] += each.resident_mb
    return memory


def kernel_kills() -> int:
    """Return how many processes the kernel has killed since boot for lack of memory, or 0."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Look for no garbage within the block.

    For a block that makes many objects which all stay: Python would look through them again and
    again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
