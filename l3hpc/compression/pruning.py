"""Magnitude pruning: the smallest weights of each convolution become zero, and stay it.

Kernels only, layer by layer: biases and normalisations are never touched. As in EdgeL3 (Kumari et
al. 2019): the threshold of a layer is the q-th percentile of |W|, and a weight is kept where |W| is
strictly above it; q = 0 changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from l3hpc.compression.plans import check_percent, layer_names
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters

Rank = Literal["linear", "nearest"]


def kernels(parameters: Parameters) -> list[np.ndarray]:
    """The kernels (3, 3, in, out) of the convolutions, in order."""
    return [parameters.layers[index][0] for index in places(parameters)]


def places(parameters: Parameters) -> list[int]:
    """Numbers of the convolutions among the weighted layers."""
    return [index for index, (kind, _) in enumerate(parameters.spec.layers()) if kind == "conv"]


def threshold(kernel: np.ndarray, percent: float, rank: Rank = "linear") -> float:
    """The ``percent``-th percentile of |kernel|; 0 for ``percent`` 0.

    rank: ``linear`` interpolates between two neighbours, as ``numpy.percentile``; ``nearest`` takes
    a value of the kernel, as the published masks did (the counts differ by at most one weight).
    """
    check_percent(percent, "sparsity")
    if percent == 0:
        return 0.0
    # in float64: between two neighbouring float32 values there must be room
    return float(np.percentile(np.abs(kernel.astype(np.float64)), percent, method=rank))


def mask(kernel: np.ndarray, percent: float, rank: Rank = "linear") -> np.ndarray:
    """True where a weight is kept. With ``percent`` 0 all are, zeros too."""
    if percent == 0:
        check_percent(percent, "sparsity")
        return np.ones(kernel.shape, bool)
    return np.asarray(np.abs(kernel.astype(np.float64)) > threshold(kernel, percent, rank))


def prune(parameters: Parameters, plan: Sequence[float], rank: Rank = "linear") -> Parameters:
    """The network with each kernel pruned by its entry (percent) of ``plan``.

    Raises ``InputError`` where the plan has another length than the network convolutions.
    """
    where = places(parameters)
    if len(plan) != len(where):
        raise InputError(f"a plan of {len(plan)} numbers for {len(where)} convolutions",
                         allowed=f"one of each: {', '.join(layer_names(len(where)))}")
    layers = list(parameters.layers)
    for index, percent in zip(where, plan, strict=True):
        kernel, bias = layers[index]
        if percent:
            kernel = np.where(mask(kernel, percent, rank), kernel, np.float32(0))
        layers[index] = (kernel, bias)
    return Parameters(parameters.spec, tuple(layers))


def one_layer(count: int, layer: int, percent: float) -> tuple[float, ...]:
    """The plan for ``count`` convolutions that prunes the one with number ``layer`` (from 0)."""
    return tuple(percent if index == layer else 0.0 for index in range(count))


def masks_of(parameters: Parameters) -> list[np.ndarray]:
    """True where a kernel's weight is not zero, for each convolution: what has to stay zero when
    the network is trained again."""
    return [np.asarray(kernel != 0) for kernel in kernels(parameters)]


def achieved(parameters: Parameters) -> list[float]:
    """Percent of zeros in each kernel."""
    return [100.0 * float(np.mean(kernel == 0)) for kernel in kernels(parameters)]
