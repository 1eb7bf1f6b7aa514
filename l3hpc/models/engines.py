"""Which engine computes: chosen by a short measurement on the node, remembered, or forced.

All engines give the same embeddings to 1e-4 relative; which one is used is not part of an
artifact's fingerprint. A GPU always means TensorFlow. The measurement is remembered in
``~/.cache/l3hpc/engines.json`` by processor, threads, versions and shape of the network; where that
file cannot be written it is made again. Each engine is timed in a process of its own, so that what
the slower one loads (TensorFlow: half a gigabyte and its threads) does not stay:

    python -m l3hpc.models.engines ENGINE THREADS < spec.json      prints seconds per frame
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.io.files import digest, read_json, write_json
from l3hpc.models import ncnn_engine
from l3hpc.models.parameters import FoldedNetwork, untrained
from l3hpc.models.spec import NetworkSpec, activation_bytes

if TYPE_CHECKING:
    from l3hpc.models.embedder import Engine

NAMES = ("tensorflow", "ncnn")
TIMEOUT_S = 300
RUNS = 3


def make(name: str, network: FoldedNetwork, threads: int | None = None) -> Engine:
    """The engine ``name``. Raises ``InputError`` for a name that does not exist here."""
    if name == "ncnn":
        return ncnn_engine.NcnnEngine(network, threads)
    if name == "tensorflow":
        from l3hpc.models.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(network, threads)
    raise InputError(f"no engine {name!r}", allowed=f"auto, {', '.join(NAMES)}")


def seconds_per_frame(name: str, spec: NetworkSpec, threads: int | None) -> float:
    """Of a network of this shape on an engine; infinite where that fails."""
    command = [sys.executable, "-m", "l3hpc.models.engines", name, str(threads or 0)]
    try:
        done = subprocess.run(command, input=json.dumps(spec.to_dict()), encoding="utf-8",
                              capture_output=True, timeout=TIMEOUT_S)
        return float(done.stdout.split()[-1]) if done.returncode == 0 else float("inf")
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return float("inf")


def run(engine: Engine, spec: NetworkSpec) -> float:
    """Seconds per frame: the best of a few runs of one batch, after one that is not counted."""
    frames = np.random.default_rng(0).uniform(
        -80, 0, (engine.batch_size(activation_bytes(spec)), *spec.frontend.shape))
    frames = frames.astype(np.float32)
    engine.run(frames)
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        engine.run(frames)
        best = min(best, time.perf_counter() - start)
    return best / len(frames)


def main() -> None:
    """Time the engine that the command line names."""
    name, threads = sys.argv[1], int(sys.argv[2]) or None
    spec = NetworkSpec.from_dict(json.load(sys.stdin))
    print(run(make(name, untrained(spec, 0).folded(), threads), spec))


def choose(network: FoldedNetwork, threads: int | None = None, wanted: str = "auto") -> Engine:
    """The wanted engine, or with ``auto`` the faster one on this node for a network of this shape.

    ``reason`` explains the choice.
    """
    if wanted != "auto":
        return make(wanted, network, threads)
    if not ncnn_engine.available() or _gpu():
        return make("tensorflow", network, threads)
    speeds = _speeds(network.spec, threads)
    if not speeds:
        speeds = {name: 1 / seconds_per_frame(name, network.spec, threads)
                  for name in NAMES}
        _remember(_key(network.spec, threads), speeds)
    return make(max(NAMES, key=lambda name: speeds[name]), network, threads)


def reason(spec: NetworkSpec, threads: int | None = None, wanted: str = "auto") -> str:
    """Why ``choose`` takes the engine that it takes."""
    if wanted != "auto":
        return "as requested"
    if not ncnn_engine.available():
        return f"ncnn is not installed; to install it: {install_command('fast')}"
    if _gpu():
        return "there is a GPU"
    speeds = _speeds(spec, threads)
    found = ", ".join(f"{name} {speed:.3g}" for name, speed in speeds.items())
    return f"measured on this node: {found} frames/s" if found else "measured on this node"


def cache_file() -> Path:
    """Where measurements are remembered (``XDG_CACHE_HOME`` is honoured)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "l3hpc" / "engines.json"


def _key(spec: NetworkSpec, threads: int | None) -> str:
    versions = []
    for package in ("tensorflow", "ncnn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(package))
    return digest([_processor(), threads, versions, spec.to_dict()])


def _speeds(spec: NetworkSpec, threads: int | None) -> dict[str, float]:
    """Frames per second by engine, as remembered ({} where nothing is)."""
    known = _remembered().get(_key(spec, threads))
    if not isinstance(known, dict) or set(known) != set(NAMES):
        return {}
    return known if all(isinstance(speed, (int, float)) for speed in known.values()) else {}


def _remembered() -> dict[str, Any]:
    try:
        value = read_json(cache_file())
    except (OSError, L3hpcError):  # nothing remembered, or a damaged file: measure again
        return {}
    return value if isinstance(value, dict) else {}


def _remember(key: str, speeds: dict[str, float]) -> None:
    with contextlib.suppress(OSError):  # a home folder that is full or read-only: measure again
        write_json(cache_file(), {**_remembered(), key: speeds})


def _gpu() -> bool:
    return (Path("/dev/nvidiactl").exists()
            and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
