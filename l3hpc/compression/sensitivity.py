"""The sensitivity scan: prune one convolution at a time and see what is lost.

EdgeL3 (Kumari et al. 2019) did this at 70, 80, 85, 90 and 95 % with audio-visual correspondence as
the judge. Any judge will do here: a function from a network to numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from l3hpc.compression.plans import check_percent, layer_names
from l3hpc.compression.pruning import one_layer, prune
from l3hpc.compression.sizes import per_layer
from l3hpc.models.parameters import Parameters

SPARSITIES = (70.0, 80.0, 85.0, 90.0, 95.0)
Judge = Callable[[Parameters], dict[str, Any]]


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
