"""Pruning plans: how many percent of each convolution's weights go.

The eleven published plans are the rows of the EdgeL3 sparsity table (Kumari et al. 2019, "EdgeL3:
Compressing L3-Net for Mote-Scale Urban Noise Monitoring"), named by the reduction in percent that
the table states. ``edgel3`` is 95.45, the published network.

Magnitude pruning: the smallest weights of each convolution become zero, and stay it.

Kernels only, layer by layer: biases and normalisations are never touched. As in EdgeL3 (Kumari et
al. 2019): the threshold of a layer is the q-th percentile of |W|, and a weight is kept where |W| is
strictly above it; q = 0 changes nothing.

Smaller networks without zeros: fewer filters (width), fewer convolutions (depth).

Both follow EdgeL3 (Kumari et al. 2019). Width: of each convolution the filters with the largest sum
of |W| stay, with their biases and the matching input channels of the next convolution. The
published code started the normalisations afresh, which throws away what the kept filters learnt;
here they go with their filters, and ``norms='fresh'`` is the published way. Depth: the embedding is
taken from convolution 7, 6 or 5, whose whole map is max-pooled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from l3hpc.errors import InputError, nearest
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import DEPTHS

PUBLISHED: dict[str, tuple[float, ...]] = {
    "53.49": (0, 30, 40, 50, 30, 50, 50, 60),
    "63.48": (0, 40, 50, 60, 40, 60, 60, 70),
    "72.29": (0, 40, 50, 60, 40, 70, 70, 80),
    "73.55": (0, 60, 60, 70, 50, 70, 70, 80),
    "80.87": (0, 70, 70, 75, 60, 80, 80, 85),
    "87.08": (0, 80, 80, 85, 40, 85, 85, 95),
    "90.51": (30, 85, 85, 90, 60, 90, 90, 95),
    "95.45": (0, 85, 85, 85, 75, 95, 98, 98),
    "97.00": (0, 93, 94, 96, 97, 95.97, 98, 97),
    "98.00": (0, 95, 96, 97, 97, 98, 98.65, 98),
    "99.00": (0, 94, 96, 99, 99, 99, 99, 99.2),
}
NO_PRUNING = "none"
ALIASES = {  # as the package edgel3 spells them, and shorter
    "edgel3": "95.45", "53.5": "53.49", "63.5": "63.48", "72.3": "72.29", "73.5": "73.55",
    "81.0": "80.87", "87.0": "87.08", "90.5": "90.51", "97": "97.00", "97.0": "97.00",
    "98": "98.00", "98.0": "98.00", "99": "99.00", "99.0": "99.00",
}
Rank = Literal["linear", "nearest"]
Norms = Literal["kept", "fresh"]


def layer_names(count: int) -> list[str]:
    """Names of the convolutions of a network with ``count`` of them, as published:
    ``conv_1`` … and ``audio_embedding_layer`` for the last."""
    return [*(f"conv_{number}" for number in range(1, count)), "audio_embedding_layer"]


def parse_plan(text: str, layers: int = 8) -> tuple[float, ...]:
    """Percent per convolution from a plan's name, ``none``, or numbers with commas.

    layers: convolutions of the network (8, or 5 to 7 after a cut in depth). Raises ``InputError``
    for an unknown name, another count of numbers, and numbers outside 0 ≤ q < 100.
    """
    word = text.strip()
    if word == NO_PRUNING:
        return (0.0,) * layers
    name = published_name(word)
    if name is not None:
        if layers != len(PUBLISHED[name]):
            raise InputError(f"the plan {word!r} is for 8 convolutions, the network has {layers}",
                             allowed=f"{NO_PRUNING}, or {layers} numbers with commas")
        return tuple(map(float, PUBLISHED[name]))
    if "," not in word:
        raise InputError(f"no pruning plan {word!r}", allowed=nearest(
            word, [NO_PRUNING, "edgel3", *PUBLISHED]),
            hint=f"or percent for each convolution: {','.join(['50'] * layers)}")
    return _numbers(word, layers)


def published_name(text: str) -> str | None:
    """The name in ``PUBLISHED`` that a text stands for; None for anything else."""
    name = ALIASES.get(text.strip().lower(), text.strip())
    return name if name in PUBLISHED else None


def plan_title(text: str, layers: int = 8) -> str:
    """How a plan is called in tables: its published name, ``none``, or its numbers."""
    values = parse_plan(text, layers)
    if not any(values):
        return NO_PRUNING
    for name, published in PUBLISHED.items():
        if values == tuple(map(float, published)):
            return name
    return plan_text(values)


def plan_text(values: tuple[float, ...]) -> str:
    """``0,85,85,85,75,95,98,98``."""
    return ",".join(f"{value:g}" for value in values)


def split_plans(text: str) -> tuple[str, ...]:
    """The plans in a text: names or rows of numbers, with blanks or semicolons between them."""
    return tuple(text.replace(";", " ").split())


def _numbers(text: str, layers: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text!r} is not a row of numbers",
                         allowed=f"for example {plan_text((50.0,) * layers)}") from None
    if len(values) != layers:
        raise InputError(f"{len(values)} numbers for {layers} convolutions: {text}",
                         allowed=f"{layers} numbers, one per convolution",
                         hint="several plans are divided by blanks: '53.49 95.45'"
                         if any(published_name(part) for part in text.split(",")) else None)
    for name, value in zip(layer_names(layers), values, strict=True):
        check_percent(value, name)
    return values


def check_percent(value: float, where: str) -> None:
    """Refuse (``InputError``) a sparsity outside 0 ≤ q < 100."""
    if not (math.isfinite(value) and 0 <= value < 100):
        raise InputError(f"a sparsity of {value:g} %", where=where,
                         allowed="0 (nothing goes) to below 100")


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


def plan_for_layer(count: int, layer: int, percent: float) -> tuple[float, ...]:
    """The plan for ``count`` convolutions that prunes the one with number ``layer`` (from 0)."""
    return tuple(percent if index == layer else 0.0 for index in range(count))


def masks_of(parameters: Parameters) -> list[np.ndarray]:
    """True where a kernel's weight is not zero, for each convolution: what has to stay zero when
    the network is trained again."""
    return [np.asarray(kernel != 0) for kernel in kernels(parameters)]


def achieved(parameters: Parameters) -> list[float]:
    """Percent of zeros in each kernel."""
    return [100.0 * float(np.mean(kernel == 0)) for kernel in kernels(parameters)]


def largest_filters(kernel: np.ndarray, count: int) -> np.ndarray:
    """Numbers, ascending, of the ``count`` filters of (3, 3, in, out) with the largest sum of |W|.

    Of equal ones the first stay.
    """
    sums = np.abs(kernel.astype(np.float64)).sum(axis=(0, 1, 2))
    return np.sort(np.argsort(-sums, kind="stable")[:count])


def reduce_width(parameters: Parameters, filters: Sequence[int],
                 norms: Norms = "kept") -> Parameters:
    """The network with ``filters[i]`` filters in convolution i.

    Filters are judged by their whole kernels, before input channels go. norms: ``kept`` (with their
    filters) or ``fresh`` (1, 0, 0, 1; published). Raises ``InputError`` for other counts than the
    network has, more filters than there are, or an embedding that is pooled to 4 x 3.
    """
    spec = parameters.spec
    if len(filters) != len(spec.filters):
        raise InputError(f"{len(filters)} filter counts for {len(spec.filters)} convolutions",
                         allowed="one number per convolution")
    for name, wanted, there in zip(layer_names(len(filters)), filters, spec.filters, strict=True):
        if not 1 <= wanted <= there:
            raise InputError(f"{wanted} filters of {there}", where=name, allowed=f"1 to {there}")
    if spec.dim != spec.filters[-1]:
        raise InputError(f"a network of {spec.dim} values cannot be cut in width",
                         allowed=f"the same network with {spec.filters[-1]} values")
    smaller = replace(spec, filters=tuple(filters), emb_dim=filters[-1])
    layers: list[tuple[np.ndarray, ...]] = []
    chosen, before = np.arange(1), np.arange(1)  # the spectrogram's one channel
    convolution = 0
    for number, (kind, _) in enumerate(spec.layers()):
        arrays = parameters.layers[number]
        if kind == "conv":
            kernel, bias = arrays
            before, chosen = chosen, largest_filters(kernel, filters[convolution])
            convolution += 1
            layers.append((np.ascontiguousarray(kernel[:, :, before][..., chosen]), bias[chosen]))
        elif number == 0 or norms == "kept":
            layers.append(tuple(array[chosen] for array in arrays))
        else:
            layers.append(tuple(np.full(len(chosen), value, np.float32) for value in (1, 0, 0, 1)))
    return Parameters(smaller, tuple(layers))


def reduce_depth(parameters: Parameters, convolutions: int) -> Parameters:
    """The network whose embedding comes from convolution ``convolutions`` (8, 7, 6 or 5).

    What follows that convolution is the tail that the whole network had: nothing
    (``'embedding'``), or normalisation and ReLU (``'student'``).
    """
    spec = parameters.spec
    if convolutions not in DEPTHS or convolutions > len(spec.filters):
        allowed = [str(one) for one in DEPTHS if one <= len(spec.filters)]
        raise InputError(f"an embedding from convolution {convolutions}", where="depth",
                         allowed=", ".join(allowed))
    if convolutions == len(spec.filters):
        return parameters
    filters = spec.filters[:convolutions]
    smaller = replace(spec, filters=filters, emb_dim=filters[-1])
    return Parameters(smaller, parameters.layers[:len(smaller.layers())])
