"""The weights of a network as plain arrays: checked, drawn at random, or folded for inference.

Every engine and file format of this package uses these classes, so that none depends on another.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError, Lines, command_line
from l3hpc.models.spec import NetworkSpec

BN_EPSILON = 1e-3
BN_MOMENTUM = 0.99
SHOWN = 4  # layers that differ, in a message
ARRAY_NAMES = {"conv": ("kernel", "bias"),
               "batch_norm": ("gamma", "beta", "moving_mean", "moving_variance")}


@dataclass(frozen=True)
class Parameters:
    """The float32 arrays of a network.

    Attributes
    ----------
    spec
        The network.
    layers
        One tuple of arrays per weighted layer, in the order of ``spec.layers()``.

    Raises
    ------
    InputError
        They do not fit the spec; the message lists found and expected shapes layer by layer.
    """

    spec: NetworkSpec
    layers: tuple[tuple[np.ndarray, ...], ...]

    def __post_init__(self) -> None:
        found = [(f"layer {index + 1}", tuple(array.shape for array in arrays))
                 for index, arrays in enumerate(self.layers)]
        check_layers(found, self.spec)

    def folded(self) -> FoldedNetwork:
        """Fold the normalisations into the convolutions.

        Returns
        -------
        FoldedNetwork
            The same function, up to float32 rounding.
        """
        # The input normalisation has one channel; the border of zeros follows it, so it stays
        # apart.
        scale, shift = _affine(self.layers[0])
        convolutions = []
        position = 1
        last = len(self.spec.filters) - 1
        for index in range(last + 1):
            # In float64, so that folding rounds once, at the end.
            kernel, bias = (array.astype(np.float64) for array in self.layers[position])
            position += 1
            normalised = index < last or self.spec.final_norm
            if normalised:
                factor, offset = _affine(self.layers[position])
                kernel, bias = kernel * factor, bias * factor + offset
                position += 1
            convolutions.append(Convolution(kernel.astype(np.float32), bias.astype(np.float32),
                                            has_relu(self.spec, index)))
        return FoldedNetwork(self.spec, float(scale[0]), float(shift[0]), tuple(convolutions))


@dataclass(frozen=True)
class Convolution:
    """One 3x3 "same" convolution.

    Attributes
    ----------
    kernel
        (3, 3, in, out).
    bias
        (out,).
    relu
        Whether a ReLU follows.
    """

    kernel: np.ndarray
    bias: np.ndarray
    relu: bool


class OpenFile:
    """A file that stays open until nobody refers to it.

    Parameters
    ----------
    handle
        Of the open file; it is duplicated.

    Attributes
    ----------
    path
        By which another library opens this very file, even if it was replaced or removed.
    """

    def __init__(self, handle: int) -> None:
        own = os.dup(handle)
        self.path = Path(f"/proc/self/fd/{own}")
        weakref.finalize(self, os.close, own)


@dataclass(frozen=True)
class FoldedNetwork:
    """What an inference engine needs: ``x * scale + shift``, then the convolutions.

    A 2x2 max pooling (stride 2, odd ends dropped) follows the convolutions ``spec.halvings``; max
    pooling of ``spec.pool`` follows the last; the result is flattened as (band, time, channel).

    Attributes
    ----------
    spec
        The network.
    scale
        Of the spectrogram's normalisation.
    shift
        Of the spectrogram's normalisation.
    convolutions
        In order.
    file
        One whose beginning is what ``ncnn_engine.weight_file`` makes of them; None: there is
        none.
    """

    spec: NetworkSpec
    scale: float
    shift: float
    convolutions: tuple[Convolution, ...]
    # not copied by ``replace``, which makes another network
    file: OpenFile | None = field(default=None, init=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # in another process, or once this network is gone, the open file's path is another file's
        return FoldedNetwork, (self.spec, self.scale, self.shift, self.convolutions)


def has_relu(spec: NetworkSpec, index: int) -> bool:
    """Whether a ReLU follows a convolution.

    Parameters
    ----------
    spec
        The network.
    index
        Of the convolution.
    """
    return index < len(spec.filters) - 1 or (spec.final_norm and spec.head == "relu")


def check_layers(layers: Sequence[tuple[str, tuple[tuple[int, ...], ...]]], spec: NetworkSpec,
                 where: str | None = None) -> None:
    """Check that weighted layers are those of a network.

    Parameters
    ----------
    layers
        Name and array shapes of each layer.
    spec
        The network.
    where
        What to name in the message.

    Raises
    ------
    InputError
        They differ; the message has one line for each of the first layers that do: number, name,
        found, expected.
    """
    expected = spec.layers()
    count = max(len(layers), len(expected))
    wrong = []
    for index in range(count):
        name, shapes = layers[index] if index < len(layers) else ("-", ())
        kind, expected_shapes = expected[index] if index < len(expected) else ("nothing", ())
        if tuple(shapes) != expected_shapes:
            wrong.append(f"{index + 1:2d} {name}: found {_shapes(shapes)}, "
                         f"expected {kind} {_shapes(expected_shapes)}".rstrip())
    if where and len(wrong) == count:  # another network: no line would help
        raise InputError(
            f"is not a network of the L3 family: none of its {len(layers)} weighted layers fits",
            where=where, allowed="weights of openl3, edgel3 or l3hpc",
            hint="for another network as teacher, see: " + command_line(
                "teacher", "describe", where))
    if wrong:
        raise InputError(
            f"these weights do not belong to this network: {len(wrong)} of {count} weighted layers "
            f"differ ({len(layers)} found, {len(expected)} expected)", where=where,
            allowed=Lines(*wrong[:SHOWN], f"and {len(wrong) - SHOWN} more"
                          if len(wrong) > SHOWN else None),
            hint="an L3 audio network has 16 weighted layers (openl3, sparse EdgeL3) or 17 "
                 "(students), not counting the front end")


def untrained(spec: NetworkSpec, seed: int) -> Parameters:
    """Random weights of a new network, the same for a seed on every machine and with every version.

    Kernels are He-normal (truncated at two standard deviations), biases 0, normalisations neutral.

    Parameters
    ----------
    spec
        The network.
    seed
        Decides the weights.

    Returns
    -------
    Parameters
        The weights.
    """
    return Parameters(spec, random_layers(spec.layers(), seed))


def random_layers(layers: Sequence[tuple[str, tuple[tuple[int, ...], ...]]], seed: int,
                  first: int = 0) -> tuple[tuple[np.ndarray, ...], ...]:
    """Draw the random weights of some layers, as ``untrained`` does.

    Parameters
    ----------
    layers
        Kind and array shapes of each layer.
    seed
        Decides the weights, together with the number of the layer.
    first
        Number of the first layer.

    Returns
    -------
    tuple
        One tuple of float32 arrays per layer.
    """
    from scipy.special import ndtr, ndtri

    low, high = float(ndtr(-2.0)), float(ndtr(2.0))
    drawn: list[tuple[np.ndarray, ...]] = []
    for index, (kind, shapes) in enumerate(layers, first):
        if kind == "batch_norm":
            drawn.append(tuple(np.full(shape, value, np.float32)
                               for shape, value in zip(shapes, (1, 0, 0, 1), strict=True)))
        else:
            # A generator for each layer: its weights do not depend on the sizes of the layers
            # before it.
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
            uniform = low + (high - low) * generator.random(shapes[0])
            # 0.88 is the standard deviation of a standard normal truncated at two of its own.
            deviation = np.sqrt(2.0 / np.prod(shapes[0][:-1])) / 0.8796256610342398
            # From uniform numbers, because the way in which NumPy draws normal ones may change with
            # its version.
            kernel = (ndtri(uniform) * deviation).astype(np.float32)
            drawn.append((kernel, np.zeros(shapes[1], np.float32)))
    return tuple(drawn)


def _affine(normalisation: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = (array.astype(np.float64) for array in normalisation)
    factor = gamma / np.sqrt(variance + BN_EPSILON)
    return factor, beta - mean * factor


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    if len(set(shapes)) == 1 and len(shapes) > 1:
        return f"{len(shapes)} x {shapes[0]}"
    return " ".join(str(shape) for shape in shapes) or "nothing"
