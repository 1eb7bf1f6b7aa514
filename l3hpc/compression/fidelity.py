"""How close a compressed network's embeddings are to the teacher's, also layer by layer.

``scan`` is the sensitivity analysis: prune one convolution at a time and see what is lost. EdgeL3
(Kumari et al. 2019) did this at 70, 80, 85, 90 and 95 % with audio-visual correspondence as the
measure. Any function from a network to numbers will do here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l3hpc.compression.plans import check_percent, layer_names
from l3hpc.compression.pruning import one_layer, prune
from l3hpc.compression.sizes import per_layer
from l3hpc.errors import InputError
from l3hpc.models import engines
from l3hpc.models.embedder import Embedder
from l3hpc.models.parameters import Parameters

SPARSITIES = (70.0, 80.0, 85.0, 90.0, 95.0)
Judge = Callable[[Parameters], dict[str, Any]]


class Fidelity:
    """Compares networks with one teacher on one set of windows (n, rate), in [-1, 1].

    engine: see ``l3hpc.models.engines``. Raises ``InputError`` without windows.
    """

    def __init__(self, teacher: Parameters, frames: np.ndarray, *, threads: int | None = None,
                 engine: str = "auto") -> None:
        if not len(frames):
            raise InputError("no windows of audio to compare embeddings on")
        self.frames, self.threads, self.engine = frames, threads, engine
        self.teacher = self.embed(teacher)

    def embed(self, parameters: Parameters) -> np.ndarray:
        """Embeddings (n, dim) of the windows."""
        engine = engines.choose(parameters.folded(), self.threads, self.engine)
        return Embedder(parameters, "", threads=self.threads, engine=engine).embed(self.frames)

    def of(self, parameters: Parameters) -> dict[str, Any]:
        """``distance`` of a network; ``InputError`` where it gives another number of values."""
        if parameters.spec.dim != self.teacher.shape[1]:
            raise InputError(f"{parameters.spec.dim} values cannot be compared with the teacher's "
                             f"{self.teacher.shape[1]}")
        return distance(self.embed(parameters), self.teacher)


def distance(found: np.ndarray, wanted: np.ndarray) -> dict[str, Any]:
    """Mean squared and absolute error over all values of (n, dim), and the mean cosine.

    Computed in float64. A window whose embedding is all zeros, on either side, has cosine 0, both
    of them 1.
    """
    mine, theirs = found.astype(np.float64), wanted.astype(np.float64)
    difference = mine - theirs
    product = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    both = ~mine.any(axis=1) & ~theirs.any(axis=1)
    cosine = np.where(product > 0, (mine * theirs).sum(axis=1) / np.where(product > 0, product, 1),
                      both.astype(float))
    return {"mse": float((difference ** 2).mean()), "mae": float(np.abs(difference).mean()),
            "cosine": float(cosine.mean()), "windows": len(mine)}


@dataclass(frozen=True)
class Point:
    """One network of the scan: convolution ``layer`` (from 0) pruned by ``sparsity`` percent."""

    layer: int
    sparsity: float


def points(layers: int, sparsities: Sequence[float] = SPARSITIES) -> list[Point]:
    """All points, layer by layer. ``InputError`` for a sparsity outside 0 ≤ q < 100."""
    for value in sparsities:
        check_percent(value, "sparsities")
    return [Point(layer, value) for layer in range(layers) for value in sparsities]


def scan(parameters: Parameters, where: Iterable[Point], judge: Judge) -> Iterable[dict[str, Any]]:
    """For each point its layer, sparsity, counts of the layer, and what the judge says."""
    names = layer_names(len(parameters.spec.filters))
    for point in where:
        pruned = prune(parameters, one_layer(len(names), point.layer, point.sparsity))
        yield {"layer": point.layer + 1, "name": names[point.layer], "sparsity": point.sparsity,
               **per_layer(pruned)[point.layer], **judge(pruned)}
