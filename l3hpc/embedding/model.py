"""A model ready to embed, from a file or a name, whatever the file's format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from l3hpc.audio.framing import JoinedFrames
from l3hpc.audio.frontends import Frontend
from l3hpc.embedding.names import find
from l3hpc.embedding.recognise import Recognised, geometry_of, recognise
from l3hpc.errors import InputError

KERAS_BATCH = 32  # what the published packages hand to the network at once
BATCH_WIDE = "A'"  # the convention whose spectrograms depend on the whole batch


class Runner(Protocol):
    """What computes: an ``Embedder`` or a ``TfliteEmbedder``."""

    def embed(self, frames: np.ndarray | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings (n, dim) of frames (n, rate)."""


@dataclass(frozen=True)
class Model:
    """What ``load_model`` gives: ``recognised`` says what it is, ``embed`` computes.

    engine: what computes the network on this machine.
    """

    recognised: Recognised
    runner: Runner
    engine: str

    @property
    def rate(self) -> int:
        """Samples per second of its input, which is one second long."""
        return self.recognised.rate

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.recognised.dim

    @property
    def frontend(self) -> Frontend | None:
        """The spectrogram it takes (None: it takes audio)."""
        return self.recognised.frontend

    @property
    def description(self) -> str:
        """One line: file, network, format, rate, front end, dimension, engine."""
        return f"{self.recognised}; engine {self.engine}"

    def embed(self, frames: np.ndarray | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings (n, dim) float32 of one-second frames (n, rate), in [-1, 1] or integers.

        batch_size: frames computed at once (None: by memory). It changes no number, except in
        convention A', which normalises over a batch: there it is 32 unless stated.
        """
        if batch_size is None and self.batch_wide:
            batch_size = KERAS_BATCH
        if batch_size is not None and batch_size < 1:
            raise InputError(f"a batch of {batch_size} frames", allowed="at least 1")
        return self.runner.embed(frames, batch_size, on_batch)

    @property
    def batch_wide(self) -> bool:
        """Whether an embedding depends on the other frames of its batch (convention A')."""
        return self.frontend is not None and self.frontend.convention == BATCH_WIDE


def load_model(model: str | Path, *, input_repr: str | None = None,
               embedding_size: int | None = None, frontend: str | None = None,
               geometry: Mapping[str, Any] | None = None, threads: int | None = None,
               engine: str = "auto") -> Model:
    """The model in a file, or of a name (see ``l3hpc.embedding.names``), ready to embed.

    Parameters
    ----------
    model: openl3 or edgel3 weights, full Keras models (HDF5 or ``.keras``), TFLite, or a file of
        l3hpc, gzipped or not; or a name: ``sea-64``, ``openl3-mel256-music``, ``untrained``.
    input_repr, embedding_size, frontend, geometry: what is stated beyond the file (see
        ``recognise``).
    threads: that compute (None: the cores this process may use).
    engine: ``auto`` (what a short measurement, made once, finds fastest among those that give
        float32-equal embeddings), ``ncnn`` or ``tensorflow``; of no meaning for TFLite.

    Raises ``InputError``: see ``recognise``, or no such name.
    """
    file, named = find(model)
    options = {"input_repr": input_repr, "embedding_size": embedding_size}
    for key, value in named.options.items():
        if options[key] is None:
            options[key] = value
    known = recognise(file, frontend=frontend, geometry=geometry, **options)  # type: ignore[arg-type]
    if named.network not in (None, known.network):
        raise InputError(f"is not what its name says: {known}", where=str(file),
                         allowed=f"a file with the weights of {model}")
    if known.network == "tflite":
        from l3hpc.models.tflite_engine import TfliteEmbedder

        stated = geometry_of(None, frontend, geometry)
        return Model(known, TfliteEmbedder(Path(file), geometry=stated, threads=threads), "tflite")
    from l3hpc.models import weights

    embedder = weights.load(
        file, embedding_size=known.dim, threads=threads, engine=engine,
        geometry=geometry_of(options["input_repr"], frontend, geometry))  # type: ignore[arg-type]
    return Model(known, embedder, embedder.engine.name)
