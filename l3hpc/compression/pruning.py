"""Make a network smaller: zero its smallest weights, or remove filters and convolutions.

Magnitude pruning works layer by layer on kernels alone; biases and normalisations stay. As in
EdgeL3 (Kumari et al. 2019) the threshold of a layer is the q-th percentile of |W|, and a weight is
kept where |W| is strictly above it; q = 0 changes nothing. What q is for each layer is a plan
(``plans``).

Cuts leave no zeros. Width: of each convolution the filters with the largest sum of |W| stay, with
their biases and the matching input channels of the next convolution. The published code
re-initialised the normalisations, which discards what the kept filters have learnt; here they stay
with their filters, and ``norms='fresh'`` is the published way. Depth: the embedding is taken from
convolution 7, 6 or 5, whose whole map is max-pooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from l3hpc.compression.plans import check_percent, layer_names
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import DEPTHS

Rank = Literal["linear", "nearest"]
Norms = Literal["kept", "fresh"]

# magnitude pruning --------------------------------------------------------------------------------

def kernels(parameters: Parameters) -> list[np.ndarray]:
    """Kernels of the convolutions.

    Parameters
    ----------
    parameters
        The network.

    Returns
    -------
    list of numpy.ndarray
        (3, 3, in, out) each, in order.
    """
    return [parameters.layers[index][0] for index in convolution_indices(parameters)]


def convolution_indices(parameters: Parameters) -> list[int]:
    """Which of the weighted layers are convolutions.

    Parameters
    ----------
    parameters
        The network.

    Returns
    -------
    list of int
        Indices into ``parameters.layers``.
    """
    return [index for index, (kind, _) in enumerate(parameters.spec.layers()) if kind == "conv"]


def threshold(kernel: np.ndarray, percent: float, rank: Rank = "linear") -> float:
    """Magnitude up to which weights of a kernel become zero.

    Parameters
    ----------
    kernel
        (3, 3, in, out).
    percent
        In 0 ≤ q < 100.
    rank
        ``linear`` interpolates between two neighbours, as ``numpy.percentile``; ``nearest`` takes a
        value of the kernel, as the published masks did (counts differ by at most one weight).

    Returns
    -------
    float
        The ``percent``-th percentile of |kernel|; 0 for ``percent`` 0.

    Raises
    ------
    InputError
        ``percent`` is out of range.
    """
    check_percent(percent, "sparsity")
    if percent == 0:
        return 0.0
    # In float64, so that a percentile between two neighbouring float32 values is between them.
    return float(np.percentile(np.abs(kernel.astype(np.float64)), percent, method=rank))


def keep_mask(kernel: np.ndarray, percent: float, rank: Rank = "linear") -> np.ndarray:
    """Which weights of a kernel are kept.

    Parameters
    ----------
    kernel
        (3, 3, in, out).
    percent
        In 0 ≤ q < 100.
    rank
        See ``threshold``.

    Returns
    -------
    numpy.ndarray
        True where a weight is kept: everywhere, even at zeros, with ``percent`` 0.

    Raises
    ------
    InputError
        ``percent`` is out of range.
    """
    if percent == 0:
        check_percent(percent, "sparsity")
        return np.ones(kernel.shape, bool)
    return np.asarray(np.abs(kernel.astype(np.float64)) > threshold(kernel, percent, rank))


def prune(parameters: Parameters, plan: Sequence[float], rank: Rank = "linear") -> Parameters:
    """Prune each kernel of a network by its entry in a plan.

    Parameters
    ----------
    parameters
        The network.
    plan
        Percentage per convolution.
    rank
        See ``threshold``.

    Returns
    -------
    Parameters
        The network with zeros; the same shapes.

    Raises
    ------
    InputError
        The plan has another length than the network has convolutions.
    """
    where = convolution_indices(parameters)
    if len(plan) != len(where):
        raise InputError(f"a plan of {len(plan)} numbers for {len(where)} convolutions",
                         allowed=f"one of each: {', '.join(layer_names(len(where)))}")
    layers = list(parameters.layers)
    for index, percent in zip(where, plan, strict=True):
        kernel, bias = layers[index]
        if percent:
            # float32, since a plain 0 could widen the array.
            kernel = np.where(keep_mask(kernel, percent, rank), kernel, np.float32(0))
        layers[index] = (kernel, bias)
    return Parameters(parameters.spec, tuple(layers))


def nonzero_masks(parameters: Parameters) -> list[np.ndarray]:
    """Which weights must stay zero when a pruned network is trained again.

    Parameters
    ----------
    parameters
        The pruned network.

    Returns
    -------
    list of numpy.ndarray
        For each convolution True where a weight is not zero.
    """
    return [np.asarray(kernel != 0) for kernel in kernels(parameters)]


def zero_percent(parameters: Parameters) -> list[float]:
    """Sparsity of each convolution.

    Parameters
    ----------
    parameters
        The network.

    Returns
    -------
    list of float
        Percent of zeros in each kernel.
    """
    return [100.0 * float(np.mean(kernel == 0)) for kernel in kernels(parameters)]


# cuts in width and depth --------------------------------------------------------------------------

def largest_filters(kernel: np.ndarray, count: int) -> np.ndarray:
    """The filters of a kernel with the largest sum of |W|.

    Parameters
    ----------
    kernel
        (3, 3, in, out).
    count
        How many.

    Returns
    -------
    numpy.ndarray
        Output channels, ascending; of equal filters the first ones.
    """
    sums = np.abs(kernel.astype(np.float64)).sum(axis=(0, 1, 2))
    # Stable, so that of equal filters the same ones stay everywhere; sorted, so that they keep
    # their order.
    return np.sort(np.argsort(-sums, kind="stable")[:count])


def reduce_width(parameters: Parameters, filters: Sequence[int],
                 norms: Norms = "kept") -> Parameters:
    """Remove filters from the convolutions of a network.

    Filters are ranked by their whole kernels, before input channels are removed.

    Parameters
    ----------
    parameters
        The network.
    filters
        Filters to keep in each convolution.
    norms
        ``kept`` (each with its filter) or ``fresh`` (1, 0, 0, 1; published).

    Returns
    -------
    Parameters
        The narrower network.

    Raises
    ------
    InputError
        Another number of counts than convolutions, more filters than there are, or a network whose
        embedding is pooled to 4 x 3.
    """
    spec = parameters.spec
    if len(filters) != len(spec.filters):
        raise InputError(f"{len(filters)} filter counts for {len(spec.filters)} convolutions",
                         allowed="one number per convolution")
    for name, kept, total in zip(layer_names(len(filters)), filters, spec.filters, strict=True):
        if not 1 <= kept <= total:
            raise InputError(f"{kept} filters of {total}", where=name, allowed=f"1 to {total}")
    if spec.dim != spec.filters[-1]:
        raise InputError(f"a network with embeddings of length {spec.dim} cannot be cut in width",
                         allowed=f"the same network with embeddings of length {spec.filters[-1]}")
    smaller = replace(spec, filters=tuple(filters), emb_dim=filters[-1])
    layers: list[tuple[np.ndarray, ...]] = []
    # The spectrogram has one channel, and its normalisation stays whatever `norms` is.
    chosen, before = np.arange(1), np.arange(1)
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
    """Take the embedding from an earlier convolution.

    What follows that convolution is the tail of the whole network: nothing (``'embedding'``), or
    normalisation and ReLU (``'student'``).

    Parameters
    ----------
    parameters
        The network.
    convolutions
        How many to keep: 8, 7, 6 or 5.

    Returns
    -------
    Parameters
        The shallower network; ``parameters`` itself where nothing is removed.

    Raises
    ------
    InputError
        Another number, or more than the network has.
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
