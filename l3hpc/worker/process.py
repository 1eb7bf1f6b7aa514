"""What the process of a task is and uses (``result.json``), and why it failed (``error.json``)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from l3hpc._version import __version__
from l3hpc.errors import L3hpcError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ARGUMENTS = re.compile(r"\n\s*Arguments received by ")
_TYPE = re.compile(r"^\w+(Error|Exception): ")
# lines of "Graph execution error:" that do not say what was wrong
_AROUND = (" ", "\t", "Graph execution error:", "Detected at ", "<stack traces", "Hint: ")
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


def _reason(message: str) -> str:
    """What was wrong, of a message in which TensorFlow or Keras puts before it where that was, and
    behind it what was passed. Any other message is returned as it is.
    """
    text = _ARGUMENTS.split(message)[0]
    lines = [line for line in text.splitlines() if line.strip()]
    if message.startswith("Graph execution error:"):
        told = [line for line in lines if not line.startswith(_AROUND)]
        return told[0] if told else message
    if message.startswith("in user code:") or "Exception encountered when calling " in message:
        return _TYPE.sub("", lines[-1].strip())
    return message


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
        text = _COLOUR.sub("", "".join(traceback.format_exception(error)))
        details["message"] = reason = _reason(_COLOUR.sub("", str(error)))
        # what follows the reason are the arguments of a call, and advice to programmers
        start, found, _ = text.rpartition(reason) if reason != str(error) else (text, "", "")
        lines = [line for line in (start + found).splitlines() if line.strip()]
        details.update(tail=lines[-TAIL_LINES:], where=place_of(error))
    if isinstance(error, SystemExit | KeyboardInterrupt):
        details["message"] = f"stopped ({error!r})"
    return details
