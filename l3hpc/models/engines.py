"""Which engine computes: chosen by a short measurement on the node, remembered, or forced.

All engines give the same embeddings to 1e-4 relative; which one is used is not part of an
artifact's fingerprint. A GPU always means TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.errors import InputError, L3hpcError
from l3hpc.files import digest, read_json, write_json
from l3hpc.models import ncnn_engine
from l3hpc.models.parameters import FoldedNetwork

if TYPE_CHECKING:
    from l3hpc.models.embedder import Engine

NAMES = ("tensorflow", "ncnn")
TRIAL_FRAMES = 8


def make(name: str, network: FoldedNetwork, threads: int | None = None) -> Engine:
    """The engine ``name``. Raises ``InputError`` for a name that does not exist here."""
    if name == "ncnn":
        return ncnn_engine.NcnnEngine(network, threads)
    if name == "tensorflow":
        from l3hpc.models.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(network, threads)
    raise InputError(f"no engine {name!r}", allowed=f"auto, {', '.join(NAMES)}")


def choose(network: FoldedNetwork, threads: int | None = None, wanted: str = "auto") -> Engine:
    """The wanted engine, or with ``auto`` the faster one on this node for a network of this shape.

    The measurement (a few frames per engine) is remembered in ``~/.cache/l3hpc/engines.json`` by
    processor, threads and shape; where that file cannot be written it is made again.
    """
    if wanted != "auto":
        return make(wanted, network, threads)
    if not ncnn_engine.available() or _gpu():
        return make("tensorflow", network, threads)
    key = digest([_processor(), threads, network.spec.to_dict()])
    known = _remembered().get(key)
    if known in NAMES:
        return make(known, network, threads)
    engines = [make(name, network, threads) for name in NAMES]
    best = min(engines, key=lambda engine: seconds_per_frame(engine, network))
    _remember(key, best.name)
    return best


def seconds_per_frame(engine: Engine, network: FoldedNetwork) -> float:
    """The better of two runs over a few frames of noise, after a first one that is not counted."""
    shape = (TRIAL_FRAMES, *network.spec.frontend.shape)
    frames = np.random.default_rng(0).uniform(-80, 0, shape).astype(np.float32)
    engine.run(frames)
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        engine.run(frames)
        best = min(best, time.perf_counter() - start)
    return best / TRIAL_FRAMES


def cache_file() -> Path:
    """Where measurements are remembered (``XDG_CACHE_HOME`` is honoured)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "l3hpc" / "engines.json"


def _remembered() -> dict[str, str]:
    try:
        value = read_json(cache_file())
    except (OSError, L3hpcError):  # nothing remembered, or a damaged file: measure again
        return {}
    return value if isinstance(value, dict) else {}


def _remember(key: str, name: str) -> None:
    with contextlib.suppress(OSError):  # a home folder that is full or read-only: measure again
        write_json(cache_file(), {**_remembered(), key: name})


def _gpu() -> bool:
    return (Path("/dev/nvidiactl").exists()
            and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
