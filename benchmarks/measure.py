"""Time and peak memory of whole processes, in turn with their peers, so that drift hits all alike.

A worker is any command whose last line on stdout is a JSON object. Its key ``seconds``, where it
has one, is the time of the work itself, without starting Python and importing packages; the peak
memory is the operating system's figure for the whole process, and stands beside it (never less than
that of the process which starts it: keep that one small).
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


@dataclass(frozen=True)
class Measured:
    """One run of one worker. seconds: of the work. peak_mb: of the process (MB = 10^6 bytes)."""

    seconds: float
    peak_mb: float
    values: Mapping[str, Any]


def alone(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a worker in a process of its own. Raises ``RuntimeError`` where it fails."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})})
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {child.returncode}")
    lines = output.strip().splitlines()
    values = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return Measured(float(values.get("seconds", wall)), usage.ru_maxrss * 1024 / 1e6, values)


def in_turn(workers: Mapping[str, Sequence[str]], runs: int = 3,
            environment: Mapping[str, str] | None = None) -> dict[str, list[Measured]]:
    """All workers ``runs`` times: A B C A B C …, one at a time."""
    found: dict[str, list[Measured]] = {name: [] for name in workers}
    for number in range(runs):
        for name, command in workers.items():
            print(f"  {name} ({number + 1}/{runs})", file=sys.stderr, flush=True)
            found[name].append(alone(command, environment))
    return found


def middle(results: Sequence[Measured], what: str = "seconds") -> float:
    """The median of ``seconds``, ``peak_mb`` or any number that the worker printed."""
    return statistics.median(
        getattr(result, what) if hasattr(result, what) else float(result.values[what])
        for result in results)


def worker(module: str, *words: object, python: str | None = None) -> list[str]:
    """The command line ``python -m benchmarks.MODULE worker WORDS``."""
    return [python or sys.executable, "-m", f"benchmarks.{module}", "worker",
            *(str(word) for word in words)]
