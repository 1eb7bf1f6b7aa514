"""The first convolution's integers, rounded together instead of one by one.

A filter of the first layer sees nine neighbouring pixels of a spectrogram, which are much alike, so
that errors of the nine weights add up in one direction; this layer alone makes most of the error of
an integer model. All 512 ways to round a filter up or down are tried on what the pixels of real
spectrograms look like together (``l3hpc.models.quantisation``); size and time do not change.
"""

from __future__ import annotations

import numpy as np

from l3hpc.export.conversion import centred
from l3hpc.export.graph import Graph
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.quantisation import patch_moment, round_together


def round_first_layer(graph: Graph, network: FoldedNetwork, spectrograms: np.ndarray) -> None:
    """Replace the int8 weights of the first convolution of a plain integer export of ``network``.

    spectrograms: (n, bands, times) in dB, as for the conversion.
    """
    offset, convolutions = centred(network)
    first = next(one for one in graph.operators if graph.name(one) == "CONV_2D")
    filters = graph.tensors[first.inputs[1]]
    step = np.asarray(filters.quantization.scale, np.float64)  # per output channel
    rounded = round_together(convolutions[0].kernel / step, patch_moment(spectrograms, 1.0, offset))
    order = rounded.transpose(3, 0, 1, 2)  # TFLite: (out, row, column, in)
    graph.model.buffers[filters.buffer].data = np.frombuffer(
        order.astype(np.int8).tobytes(), np.uint8)
