"""Quantise a network to 8-bit integers, from ranges measured on real frames.

Weights are signed, with one step per output channel; inputs of convolutions are unsigned, with one
step per layer (what 8-bit kernels compute). Four things keep the error small and cost no time:

* The ranges of channels are brought closer together before one step is laid over them (Nagel et al.
  2019, "Data-free quantization through weight equalization and bias correction"): a channel's scale
  passes through ReLU and max pooling unchanged, and the next layer divides by it.
* The spectrogram, signed after its normalisation, enters as two channels, its positive and its
  negative part: no offset is needed, so that the zeros around it stay zeros.
* The first layer's nine weights per filter are rounded jointly, up or down, so that the error on
  typical spectrograms (neighbouring values are similar) is smallest; rounded one by one, this layer
  alone causes most of the error.
* Ranges are the largest values measured; larger ones are clipped later, they never wrap around.
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
# Channels whose largest value is below this part of their layer's count as if it were this part.
QUIET = 1e-3


@dataclass(frozen=True)
class Calibration:
    """What was measured on some frames.

    Attributes
    ----------
    peaks
        The largest output after ReLU of each channel, for all convolutions but the last.
    moment
        (9, 9): mean products of the pixels under a 3x3 filter (row by row) of the normalised
        spectrogram with its border of zeros.
    """

    peaks: tuple[np.ndarray, ...]
    moment: np.ndarray


@dataclass(frozen=True)
class QuantisedConvolution:
    """One convolution, whose weights are ``kernel`` times ``step``.

    Attributes
    ----------
    kernel
        (3, 3, in, out) int8.
    step
        (out,) float32.
    bias
        (out,) float32.
    relu
        Whether a ReLU follows.
    limit
        The largest input; an input x counts as ``round(255 x / limit)``, between 0 and 255.
    """

    kernel: np.ndarray
    step: np.ndarray
    bias: np.ndarray
    relu: bool
    limit: float


@dataclass(frozen=True)
class QuantisedNetwork:
    """A quantised ``FoldedNetwork``.

    The first convolution takes max(y, 0) and max(-y, 0) of the normalised spectrogram y.

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
    """

    spec: NetworkSpec
    scale: float
    shift: float
    convolutions: tuple[QuantisedConvolution, ...]


def quantise(network: FoldedNetwork, calibration: Calibration) -> QuantisedNetwork:
    """Quantise a network.

    Parameters
    ----------
    network
        The folded network.
    calibration
        The ranges of its inputs.

    Returns
    -------
    QuantisedNetwork
        The same function, approximately.
    """
    network, peaks = equalise(network, calibration.peaks)
    # Spectrograms range from -80 to 0 dB, whatever the frames were.
    ends = np.array([0.0, -RANGE_DB]) * network.scale + network.shift
    limits = [float(np.abs(ends).max()), *(float(peak.max()) for peak in peaks)]
    convolutions = []
    for index, (layer, limit) in enumerate(zip(network.convolutions, limits, strict=True)):
        largest = np.abs(layer.kernel).max(axis=(0, 1, 2))
        step = np.where(largest > 0, largest, 1.0) / WEIGHT_LEVELS
        if index == 0:
            rounded = round_together(layer.kernel / step, calibration.moment)
            # The two input channels are the positive and the negative part of one.
            kernel = np.concatenate([rounded, -rounded], axis=2)
        else:
            kernel = np.rint(layer.kernel / step)
        convolutions.append(QuantisedConvolution(
            kernel.astype(np.int8), step.astype(np.float32), layer.bias, layer.relu,
            limit or 1.0))
    return QuantisedNetwork(network.spec, network.scale, network.shift, tuple(convolutions))


def equalise(network: FoldedNetwork, peaks: tuple[np.ndarray, ...]
             ) -> tuple[FoldedNetwork, list[np.ndarray]]:
    """Bring the ranges of channels closer together, without changing the function.

    Parameters
    ----------
    network
        The folded network.
    peaks
        As in ``Calibration``.

    Returns
    -------
    network
        With scaled channels.
    peaks
        Of the scaled channels.
    """
    layers = list(network.convolutions)
    scaled_peaks = []
    for index, peak in enumerate(peaks):
        loudest = float(peak.max()) or 1.0
        # Channels that are almost silent would otherwise be scaled up without limit.
        size = np.maximum(peak, QUIET * loudest) / loudest
        scale = (size ** EQUALISATION).astype(np.float32)
        layer, after = layers[index], layers[index + 1]
        layers[index] = Convolution(layer.kernel / scale, layer.bias / scale, layer.relu)
        layers[index + 1] = replace(after, kernel=after.kernel * scale[:, None])
        scaled_peaks.append(peak / scale)
    return replace(network, convolutions=tuple(layers)), scaled_peaks


def round_together(weights: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Round the weights of the first convolution with the smallest mean squared output error.

    Each weight is rounded up or down: all 512 combinations are tried for every filter.

    Parameters
    ----------
    weights
        (3, 3, 1, out), in steps.
    moment
        (9, 9), as in ``Calibration``.

    Returns
    -------
    numpy.ndarray
        Whole numbers, (3, 3, 1, out).
    """
    filters = weights.reshape(9, -1).T.astype(np.float64)
    down = np.floor(filters)
    choices = np.array(list(itertools.product((0, 1), repeat=9)))
    result = np.empty_like(filters)
    for index, values in enumerate(filters):
        candidates = np.clip(down[index] + choices, -WEIGHT_LEVELS, WEIGHT_LEVELS)
        error = candidates - values
        result[index] = candidates[np.argmin(np.einsum("ci,ij,cj->c", error, moment, error))]
    return result.T.reshape(weights.shape)


def patch_moment(spectrograms: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """Compute ``Calibration.moment``.

    Parameters
    ----------
    spectrograms
        (n, bands, times) in dB.
    scale
        Of their normalisation.
    shift
        Of their normalisation.

    Returns
    -------
    numpy.ndarray
        (9, 9).
    """
    _, bands, times = spectrograms.shape
    total = np.zeros((9, 9))
    for spectrogram in spectrograms:
        padded = np.pad(spectrogram.astype(np.float64) * scale + shift, 1)
        pixels = np.stack([padded[row:row + bands, column:column + times].ravel()
                           for row in range(3) for column in range(3)])
        total += pixels @ pixels.T
    return total / spectrograms.size
