"""From a network and settings to the graph that is exported, and what it is compared with.

``Settings`` refuses what cannot be exported before any work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.conventions import name_of
from l3hpc.errors import InputError, nearest
from l3hpc.export import conversion, tiling
from l3hpc.export.conversion import FORMATS, INTEGER, convert, round_first_layer
from l3hpc.export.graph import Graph
from l3hpc.export.tiling import BUDGET
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.spec import NetworkSpec

FRONTENDS = ("outside", "inside")
MODEL_FILES = ("model.tflite", "l3_model.h", "l3_model.c")
FRONTEND_FILES = ("l3_frontend.h", "l3_frontend.c")
TEXTS = ("card.md", "report.json")


@dataclass(frozen=True)
class Settings:
    """How to export one model.

    Parameters
    ----------
    form: one of ``FORMATS``.
    strips: whether the first blocks are computed strip by strip; None: in integer formats.
    frontend: ``outside`` (the model takes spectrograms; the front end is C) or ``inside`` (audio).
    arena: bytes that strips should reach.
    calibrate: a folder of audio, for ranges and for the accuracy; integer formats need it.
    licence: of the weights, in words. geometry: front-end values that overrule the file.

    Raises ``InputError`` for what cannot be.
    """

    form: str = "int8"
    strips: bool | None = None
    frontend: str = "outside"
    arena: int = BUDGET
    calibrate: Path | None = None
    licence: str | None = None
    geometry: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise InputError(f"unknown format {self.form!r}", allowed=nearest(self.form, FORMATS))
        if self.frontend not in FRONTENDS:
            raise InputError(f"no front end {self.frontend!r}", where="--frontend",
                             allowed=nearest(self.frontend, FRONTENDS))
        if self.arena < 1:
            raise InputError(f"an arena of {self.arena} bytes", where="--arena",
                             allowed="at least 1")
        if self.form in INTEGER and self.calibrate is None:
            raise InputError(f"{self.form} takes the range of every map from real frames",
                             where="--calibrate", allowed="a folder of audio",
                             hint="name recordings like those the model will hear: "
                                  "--calibrate FOLDER")

    @property
    def in_strips(self) -> bool:
        """Whether the first blocks are computed strip by strip."""
        return self.form in INTEGER if self.strips is None else self.strips

    def check(self, spec: NetworkSpec) -> None:
        """Refuse (``InputError``) what this network cannot be exported as."""
        if self.frontend == "inside" and spec.convention != "A":
            raise InputError(f"front-end convention {name_of(spec.convention)} cannot go inside",
                             where="--frontend", allowed=f"inside for {name_of('A')}; else outside")

    def files(self, spec: NetworkSpec) -> list[str]:
        """The files that the export of a network gives.

        A linear spectrogram has no mel table: its front end is not written as C.
        """
        mel = self.frontend == "outside" and spec.n_mels is not None
        return [*MODEL_FILES, *(FRONTEND_FILES if mel else ()), *TEXTS]


def check_output(output: Path) -> None:
    """Refuse (``InputError``) a folder that is already there."""
    if Path(output).exists():
        raise InputError("is already there", where=str(output),
                         hint="choose another folder, or remove this one")


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
        front = Graph(conversion.convert_frontend(network.spec))
        model = conversion.join(front, body.fork())
        model.shrink({**about, "input": "audio"})
    return Built(as_converted, plain, body, model, counts)
