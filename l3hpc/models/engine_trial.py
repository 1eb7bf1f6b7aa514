"""How fast an engine is on this node, in a process of its own.

So that what a slower engine loads (TensorFlow: half a gigabyte and its threads) does not stay:

    python -m l3hpc.models.engine_trial ENGINE THREADS < spec.json      prints seconds per frame
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.models.engine import make
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec, activation_bytes

if TYPE_CHECKING:
    from l3hpc.models.embedder import Engine

TIMEOUT_S = 300
RUNS = 3


def seconds_per_frame(name: str, spec: NetworkSpec, threads: int | None) -> float:
    """Of a network of this shape on an engine; infinite where that fails."""
    command = [sys.executable, "-m", "l3hpc.models.engine_trial", name, str(threads or 0)]
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


if __name__ == "__main__":
    main()
