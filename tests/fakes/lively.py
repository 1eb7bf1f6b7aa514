"""Untrained networks in which every layer shows in the result."""

import numpy as np

from l3hpc.models.parameters import Parameters, untrained


def lively(spec, seed=3):
    """An untrained network whose biases and normalisations are not neutral."""
    rng = np.random.default_rng(seed)
    layers = []
    for (kind, _), arrays in zip(spec.layers(), untrained(spec, seed).layers, strict=True):
        if kind == "conv":
            layers.append((arrays[0], rng.normal(0, 0.1, arrays[1].shape).astype(np.float32)))
        else:
            layers.append(tuple(rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
                                for array in arrays))
    return Parameters(spec, tuple(layers))
