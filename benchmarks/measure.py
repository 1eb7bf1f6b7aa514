"""Time and peak memory of whole processes, in turn with their peers, so that drift hits all alike.

A worker is any command whose last line on stdout is a JSON object. Its key ``seconds``, where it
has one, is the time of the work itself, without starting Python and importing packages; peak
memory, CPU time and bytes read and written are the operating system's figures for the whole
process, and stand beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A process counts the peak of the one that forked it as its own: a small one stands between.
# Linux adds what a process has read and written to its parent's figures when the parent waits.
LAUNCHER = """
import json, os, resource, subprocess, sys
def bytes_moved():
    lines = dict(line.split(":") for line in open("/proc/self/io"))
    return int(lines["rchar"]), int(lines["wchar"])
read, written = bytes_moved()
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
now = bytes_moved()
os.write(int(sys.argv[1]), json.dumps({
    "peak_mb": used.ru_maxrss * 1024 / 1e6, "cpu_s": used.ru_utime + used.ru_stime,
    "read_mb": (now[0] - read) / 1e6, "written_mb": (now[1] - written) / 1e6}).encode())
sys.exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True)
class Measured:
    """One run of one worker. seconds: of the work; the rest: of the process (MB = 10^6 bytes).

    read_mb, written_mb: by system calls, from the page cache or a disk; mapped files are left out.
    """

    seconds: float
    peak_mb: float
    values: Mapping[str, Any]
    cpu_s: float = 0.0
    read_mb: float = 0.0
    written_mb: float = 0.0


def alone(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a worker in a process of its own; raise ``RuntimeError`` if it fails."""
    started = time.perf_counter()
    reader, writer = os.pipe()
    with open(reader) as told:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(writer), *command], text=True,
            stdout=subprocess.PIPE, pass_fds=[writer],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})})
        wall = time.perf_counter() - started
        os.close(writer)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}")
        used = json.loads(told.read())
    lines = done.stdout.strip().splitlines()
    values = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return Measured(float(values.get("seconds", wall)), values=values, **used)


def in_turn(workers: Mapping[str, Sequence[str]], runs: int = 3,
            environment: Mapping[str, str] | None = None) -> dict[str, list[Measured]]:
    """Run all workers ``runs`` times, one at a time: A B C A B C …"""
    found: dict[str, list[Measured]] = {name: [] for name in workers}
    for number in range(runs):
        for name, command in workers.items():
            print(f"  {name} ({number + 1}/{runs})", file=sys.stderr, flush=True)
            found[name].append(alone(command, environment))
    return found


def middle(results: Sequence[Measured], what: str = "seconds") -> float:
    """Return the median of ``seconds``, ``peak_mb`` or any other number that the worker printed."""
    return statistics.median(
        getattr(result, what) if hasattr(result, what) else float(result.values[what])
        for result in results)


def worker(module: str, *words: object, python: str | None = None) -> list[str]:
    """Return the command line ``python -m benchmarks.MODULE worker WORDS``."""
    return [python or sys.executable, "-m", f"benchmarks.{module}", "worker",
            *(str(word) for word in words)]
