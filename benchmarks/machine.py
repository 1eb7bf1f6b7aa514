"""What every table of a benchmark says of the machine: processor, memory, versions, its own rates.

The rates are the limits that the tables quote: what this machine does at best, measured in the same
run as everything else.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("numpy", "scipy", "scikit-learn", "tensorflow", "keras", "torch", "h5py")
GEMM_SIZE = 3072
# the kernel's flag → its name, from the widest
INSTRUCTIONS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
DISK_MB = 512


def machine() -> dict[str, Any]:
    """Processor, cores, memory, Python and package versions."""
    processor = platform.processor()
    with open("/proc/cpuinfo") as stream:
        names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
    if names:
        processor = names[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": processor, "instructions": instructions(_flags()),
            "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1),
            "python": platform.python_version(), "gpu": _gpu(), "blas": blas(),
            "packages": {name: version(name) for name in PACKAGES}}


def instructions(flags: str) -> str:
    """The widest instructions for matrices that a processor has: ratios differ with them.

    Parameters
    ----------
    flags
        The kernel's list of its abilities.
    """
    have = flags.split()
    return next((name for flag, name in INSTRUCTIONS.items() if flag in have), "")


def processor_folder(processor: str, flags: str = "") -> str:
    """Return the name of the folder that has the results of a processor.

    Parameters
    ----------
    processor
        Its name as the kernel reports it; several generations may share it.
    flags
        The kernel's list of its abilities.

    Examples
    --------
    >>> processor_folder("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "avx2 amx_tile")
    'intel-xeon-platinum-8481c-amx'
    """
    name = re.sub(r"\((?:R|TM)\)|@.*|\b(?:CPU|Processor)\b|\d+-Core", " ", processor, flags=re.I)
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "-".join([*words, *filter(None, [instructions(flags).lower().replace("-", "")])])


def processor_name(machine: dict[str, Any]) -> str:
    """Return the processor and its widest instructions, for people: ``AMD EPYC with AVX-512``.

    Parameters
    ----------
    machine
        From a results file; older ones do not name the instructions.
    """
    known = machine.get("instructions")
    return f"{machine['processor']} with {known}" if known else str(machine["processor"])


def this_processor() -> str:
    """Return the name of the folder that has the results of this machine's processor."""
    return processor_folder(machine()["processor"], _flags())


def _flags() -> str:
    with open("/proc/cpuinfo") as stream:
        return next((line.partition(":")[2] for line in stream if line.startswith("flags")), "")


def version(name: str) -> str | None:
    """The installed version of a package, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def blas() -> str | None:
    """The library that computes numpy's products, and the processor that it computes for.

    That can be another one than this: ``OPENBLAS_CORETYPE`` in the environment chooses it, and with
    AVX-512 products take half of the time. None where threadpoolctl, which finds out, is missing:
    a machine with a GPU needs nothing of ours installed.
    """
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return None
    for library in threadpool_info():
        if library["user_api"] == "blas":
            words = (library["internal_api"], library["version"], library.get("architecture"))
            return " ".join(word for word in words if word)
    return None


def about(machine: dict[str, Any]) -> str:
    """One line about a machine."""
    if "packages" not in machine:  # figures of a machine that others measured
        return f"{processor_name(machine)}, {machine['cores']} cores"
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items()
                         if version)
    if machine.get("blas"):
        versions += f", {machine['blas']}"
    gpu = machine.get("gpu") or "no GPU"
    return (f"{processor_name(machine)}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"{gpu}; Python {machine['python']}, {versions}")


def gemm_rate(kind: str = "float32") -> float:
    """Multiply-adds counted as two, in GFLOP/s: the best of five square products with numpy."""
    a = np.random.default_rng(0).standard_normal((GEMM_SIZE, GEMM_SIZE)).astype(kind)
    out = a @ a
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.matmul(a, a, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * GEMM_SIZE**3 / best / 1e9


def disk_rates(folder: Path | None = None) -> tuple[float, float]:
    """(writing with fsync, reading again from the page cache), GB/s, of one 512 MB file."""
    block = np.random.default_rng(0).bytes(1 << 20)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "file"
        start = time.perf_counter()
        with open(path, "wb") as stream:
            for _ in range(DISK_MB):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        writing = time.perf_counter() - start
        start = time.perf_counter()
        with open(path, "rb", buffering=0) as stream:
            while stream.read(1 << 20):
                pass
        reading = time.perf_counter() - start
    size = DISK_MB * 2**20 / 1e9
    return size / writing, size / reading


def _gpu() -> str | None:
    folder = Path("/proc/driver/nvidia/gpus")
    if not folder.is_dir() or not list(folder.glob("*/information")):
        return _gpu_by_its_tool()
    names = [line.split(":", 1)[1].strip() for file in sorted(folder.glob("*/information"))
             for line in file.read_text().splitlines() if line.startswith("Model")]
    return ", ".join(names) or None


def _gpu_by_its_tool() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return "; ".join(line.replace(", ", ", driver ") for line in done.stdout.splitlines()) or None
