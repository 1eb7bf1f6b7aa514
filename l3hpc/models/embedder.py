"""Embed audio with a network of this family: one object, bounded memory, any number of frames.

The arithmetic is left to an engine (see ``engines``); any object with ``name``, ``batch_size`` and
``run`` can take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from l3hpc.audio.files import to_float
from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec, activation_bytes


class Engine(Protocol):
    """What computes: spectrograms in, embeddings out.

    few_shapes: a batch of a new size costs time (a trace, a search for kernels), so odd ones are
    padded.
    """

    name: str
    few_shapes: bool

    def batch_size(self, activation_bytes: int) -> int:
        """A good batch for a network whose largest feature map has so many bytes per frame."""

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) float32 of spectrograms (n, bands, times) float32."""


class Embedder:
    """A network ready to embed.

    Attributes
    ----------
    spec: the network's numbers. ``rate`` (Hz, samples per frame) and ``dim`` are from it.
    label: one line that says which weights these are: show it beside every number they make.
    trained: False for random weights.
    """

    def __init__(self, parameters: Parameters, label: str, *, trained: bool = True,
                 threads: int | None = None, engine: Engine | None = None) -> None:
        if engine is None:
            from l3hpc.models.tensorflow_engine import TensorFlowEngine

            engine = TensorFlowEngine(parameters.folded(), threads)
        self.spec: NetworkSpec = parameters.spec
        self.rate, self.dim = self.spec.rate, self.spec.dim
        self.label, self.trained = label, trained
        self.engine = engine
        self.threads = threads
        self._frontend = self.spec.frontend

    def embed(self, frames: np.ndarray, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings (n, dim) float32 of one-second frames (n, rate), in [-1, 1] or integers.

        Frames may be a view (as from ``frame_audio``) or an HDF5 data set: one batch at a time is
        copied. A frame's embedding does not depend on the others, whatever ``batch_size``, except
        in convention A', which normalises over the batch. ``on_batch`` is called with the number of
        frames just finished.
        """
        if len(frames.shape) != 2 or frames.shape[1] != self.rate:
            raise InputError(f"frames of shape {tuple(frames.shape)} do not fit this network",
                             allowed=f"(n, {self.rate}): one second each at {self.rate} Hz",
                             hint="frame_audio cuts a signal into such frames")
        size = batch_size or self.engine.batch_size(activation_bytes(self.spec))
        if size < 1:
            raise InputError(f"a batch of {size} frames", allowed="at least 1")
        result = np.empty((len(frames), self.dim), np.float32)
        for start in range(0, len(frames), size):
            batch = to_float(np.asarray(frames[start:start + size]))
            spectrograms = self._frontend(batch, threads=self.threads)
            result[start:start + len(batch)] = self._run(spectrograms, size)
            if on_batch is not None:
                on_batch(len(batch))
        return result

    def _run(self, spectrograms: np.ndarray, size: int) -> np.ndarray:
        """Run a batch, padded to a power of two (or ``size``) for engines that tune for shapes."""
        count = len(spectrograms)
        if not self.engine.few_shapes:
            return self.engine.run(spectrograms)
        padded = min(1 << (count - 1).bit_length(), size)
        if padded > count:
            spectrograms = np.pad(spectrograms, ((0, padded - count), (0, 0), (0, 0)))
        return self.engine.run(spectrograms)[:count]
