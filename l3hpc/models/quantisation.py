"""A network in 8-bit integers: which numbers each layer keeps, from what it saw on real frames.

Weights are signed, with one step per output channel; inputs of convolutions are unsigned, with one
step per layer (what 8-bit kernels compute). Four things keep the error small and cost no time:

* Channels are brought nearer to each other before one step is laid over them (Nagel et al. 2019,
  "Data-free quantization through weight equalization and bias correction"): a channel's scale
  passes through ReLU and maximum unchanged, and the next layer takes it back.
* The spectrogram, signed after its normalisation, enters as two channels, what is above zero and
  what is below: no offset is needed, so that the zeros around it stay zeros.
* The first layer's nine weights per filter are rounded together, up or down, so that the error on
  typical spectrograms (neighbouring values are similar) is least; rounded one by one, this layer
  alone makes most of the error.
* Ranges are the largest values seen; what exceeds them later is clipped, it never wraps around.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from l3hpc.audio.frontends import RANGE_DB
from l3hpc.models.parameters import Convolution, FoldedNetwork
from l3hpc.models.spec import NetworkSpec

WEIGHT_LEVELS = 127
INPUT_LEVELS = 255
EQUALISATION = 0.25  # power of a channel's largest value that becomes its scale
QUIET = 1e-3  # a channel below this part of its layer's largest value counts as this loud


@dataclass(frozen=True)
class Calibration:
    """What a network saw on some frames.

    peaks: the largest output after ReLU of each channel, of all convolutions but the last.
    moment: (9, 9) mean products of the pixels under a 3x3 filter (row by row) of the normalised
        spectrogram with its border of zeros.
    """

    peaks: tuple[np.ndarray, ...]
    moment: np.ndarray


@dataclass(frozen=True)
class QuantisedConvolution:
    """One convolution: its weights are ``kernel`` (3, 3, in, out) int8 times ``step`` (out,).

    limit: the largest input; an input x counts as ``round(255 x / limit)`` between 0 and 255.
    bias (out,) and step are float32.
    """

    kernel: np.ndarray
    step: np.ndarray
    bias: np.ndarray
    relu: bool
    limit: float


@dataclass(frozen=True)
class QuantisedNetwork:
    """As ``FoldedNetwork``; the first convolution takes max(y, 0) and max(-y, 0) of the normalised
    spectrogram y."""

    spec: NetworkSpec
    scale: float
    shift: float
    convolutions: tuple[QuantisedConvolution, ...]


def quantise(network: FoldedNetwork, calibration: Calibration) -> QuantisedNetwork:
    """The network with ranges from ``calibration``."""
    network, peaks = equalise(network, calibration.peaks)
    ends = np.array([0.0, -RANGE_DB]) * network.scale + network.shift
    limits = [float(np.abs(ends).max()), *(float(peak.max()) for peak in peaks)]
    convolutions = []
    for index, (layer, limit) in enumerate(zip(network.convolutions, limits, strict=True)):
        largest = np.abs(layer.kernel).max(axis=(0, 1, 2))
        step = np.where(largest > 0, largest, 1.0) / WEIGHT_LEVELS
        if index == 0:
            rounded = round_together(layer.kernel / step, calibration.moment)
            kernel = np.concatenate([rounded, -rounded], axis=2)
        else:
            kernel = np.rint(layer.kernel / step)
        convolutions.append(QuantisedConvolution(
            kernel.astype(np.int8), step.astype(np.float32), layer.bias, layer.relu,
            limit or 1.0))
    return QuantisedNetwork(network.spec, network.scale, network.shift, tuple(convolutions))


def equalise(network: FoldedNetwork, peaks: tuple[np.ndarray, ...]
             ) -> tuple[FoldedNetwork, list[np.ndarray]]:
    """The same function with channels nearer to each other in size, and their new peaks."""
    layers = list(network.convolutions)
    nearer = []
    for index, peak in enumerate(peaks):
        loudest = float(peak.max()) or 1.0
        size = np.maximum(peak, QUIET * loudest) / loudest
        scale = (size ** EQUALISATION).astype(np.float32)
        layer, after = layers[index], layers[index + 1]
        layers[index] = Convolution(layer.kernel / scale, layer.bias / scale, layer.relu)
        layers[index + 1] = replace(after, kernel=after.kernel * scale[:, None])
        nearer.append(peak / scale)
    return replace(network, convolutions=tuple(layers)), nearer


def round_together(weights: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Whole numbers near ``weights`` (3, 3, 1, out) with the least mean squared output error.

    Each weight goes up or down: all 512 ways are tried for every filter.
    """
    filters = weights.reshape(9, -1).T.astype(np.float64)
    down = np.floor(filters)
    ways = np.array(list(itertools.product((0, 1), repeat=9)))
    result = np.empty_like(filters)
    for index, values in enumerate(filters):
        tried = np.clip(down[index] + ways, -WEIGHT_LEVELS, WEIGHT_LEVELS)
        wrong = tried - values
        result[index] = tried[np.argmin(np.einsum("wi,ij,wj->w", wrong, moment, wrong))]
    return result.T.reshape(weights.shape)


def patch_moment(spectrograms: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """``Calibration.moment`` of spectrograms (n, bands, times) that ``scale``, ``shift`` normalise.
    """
    _, bands, times = spectrograms.shape
    total = np.zeros((9, 9))
    for spectrogram in spectrograms:
        padded = np.pad(spectrogram.astype(np.float64) * scale + shift, 1)
        pixels = np.stack([padded[row:row + bands, column:column + times].ravel()
                           for row in range(3) for column in range(3)])
        total += pixels @ pixels.T
    return total / spectrograms.size
