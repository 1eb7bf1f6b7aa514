"""What the process of a task is, and what it uses: for the task's ``result.json``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import socket
from typing import Any

from l3hpc._version import __version__

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
    """Return the memory of this process and of the largest that it has started (a command)."""
    return sum(resource.getrusage(who).ru_maxrss // 1024
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it has started."""
    own, children = (resource.getrusage(who)
                     for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
