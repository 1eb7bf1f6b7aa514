"""What the process of a task is and uses (``result.json``), and why it failed (``error.json``)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from l3hpc._version import __version__
from l3hpc.errors import L3hpcError

TAIL_LINES = 12  # of the traceback of an unforeseen error
PACKAGES = ("numpy", "scipy", "h5py", "tensorflow", "tensorflow-cpu", "keras", "scikit-learn",
            "soundfile", "soxr", "umap-learn", "ncnn", "openvino")


def environment() -> dict[str, Any]:
    """Return where and with what a task runs: host, job, and versions of Python and packages."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID"),
            "array_job": os.environ.get("SLURM_ARRAY_JOB_ID"),
            "restarts": os.environ.get("SLURM_RESTART_COUNT", "0"), "l3hpc": __version__,
            "python": platform.python_version(), "packages": versions}


def peak_memory_mb() -> int:
    """Return the memory of this process and of a larger one that it has started (a command)."""
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    own = _own_peak_mb()
    # Linux counts for a process what its parent had when it was started: of a smaller one, nothing
    # else is known.
    return own + child if child > own else own


def _own_peak_mb() -> int:
    with contextlib.suppress(OSError):  # a system without /proc
        for line in Path("/proc/self/status").read_text("utf-8", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it has started."""
    own, children = (resource.getrusage(who)
                     for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def error_details(error: BaseException) -> dict[str, Any]:
    """Return what ``error.json`` says about the error that ended a task.

    Parameters
    ----------
    error
        The error.
    """
    details: dict[str, Any] = {
        "type": type(error).__name__, "message": str(error), "where": None, "hint": None,
        "time": time.time(),
    }
    from l3hpc.steps.function import place_of

    if isinstance(error, L3hpcError):
        details.update(message=error.message, where=error.where, hint=error.hint,
                       allowed=error.allowed, exit_code=error.exit_code, tail=[])
    else:
        lines = "".join(traceback.format_exception(error)).splitlines()
        details.update(tail=lines[-TAIL_LINES:], where=place_of(error))
    if isinstance(error, SystemExit | KeyboardInterrupt):
        details["message"] = f"stopped ({error!r})"
    return details
