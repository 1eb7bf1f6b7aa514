"""From a network to the graph that is exported, and to what it is compared with on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l3hpc.export import fused_frontend, tiling
from l3hpc.export.conversion import INTEGER, convert
from l3hpc.export.graph import Graph
from l3hpc.export.rounding import round_first_layer
from l3hpc.export.settings import Settings
from l3hpc.models.parameters import FoldedNetwork


@dataclass(frozen=True)
class Built:
    """as_converted: bytes of the converter's own file. plain: the body without strips, shrunk.
    body: what is exported, without a front end. model: with it, where it goes inside.
    counts: strips of each block; () where none is cut."""

    as_converted: bytes
    plain: Graph
    body: Graph
    model: Graph
    counts: tuple[int, ...]


def build(network: FoldedNetwork, settings: Settings, spectrograms: np.ndarray | None) -> Built:
    """Convert, round, cut into strips; spectrograms: (n, bands, times) in dB, for ranges."""
    as_converted = convert(network, settings.form, spectrograms)
    plain = Graph(as_converted)
    if settings.form in INTEGER and spectrograms is not None:
        round_first_layer(plain, network, spectrograms)
    about = {"spec": network.spec.to_dict(), "input": "spectrogram", "format": settings.form}
    counts: tuple[int, ...] = ()
    body = plain.fork()
    if settings.in_strips:
        chosen = tiling.choose(plain, settings.arena)
        counts = chosen if max(chosen, default=1) > 1 else ()
        tiling.in_strips(body, counts)
    plain.shrink(about)
    body.shrink(about)
    model = body
    if settings.frontend == "inside":
        front = Graph(fused_frontend.convert_frontend(network.spec))
        model = fused_frontend.join(front, body.fork())
        model.shrink({**about, "input": "audio"})
    return Built(as_converted, plain, body, model, counts)
