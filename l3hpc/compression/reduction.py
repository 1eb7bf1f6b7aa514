"""Smaller networks without zeros: fewer filters (width), fewer convolutions (depth).

Both follow EdgeL3 (Kumari et al. 2019). Width: of each convolution the filters with the largest sum
of |W| stay, with their biases and the matching input channels of the next convolution. The
published code started the normalisations afresh, which throws away what the kept filters learnt;
here they go with their filters, and ``norms='fresh'`` is the published way. Depth: the embedding is
taken from convolution 7, 6 or 5, whose whole map is max-pooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from l3hpc.compression.plans import layer_names
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import DEPTHS

Norms = Literal["kept", "fresh"]


def largest_filters(kernel: np.ndarray, count: int) -> np.ndarray:
    """Numbers, ascending, of the ``count`` filters of (3, 3, in, out) with the largest sum of |W|.

    Of equal ones the first stay.
    """
    sums = np.abs(kernel.astype(np.float64)).sum(axis=(0, 1, 2))
    return np.sort(np.argsort(-sums, kind="stable")[:count])


def width(parameters: Parameters, filters: Sequence[int], norms: Norms = "kept") -> Parameters:
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


def depth(parameters: Parameters, convolutions: int) -> Parameters:
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
