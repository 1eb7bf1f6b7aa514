"""Embed audio with a network of this family: one object, bounded memory, any number of frames.

The arithmetic is left to an engine (see ``engines``); any object with ``name``, ``batch_size`` and
``run`` can take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.audio.files import to_float
from l3hpc.audio.framing import CutFrames, JoinedFrames
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


@runtime_checkable
class AudioEngine(Engine, Protocol):
    """An engine that computes the front end too, where the network is."""

    def embed_audio(self, read: Callable[[int], Sequence[np.ndarray]], batches: Iterable[int]
                    ) -> Iterator[np.ndarray]:
        """Embeddings of batches, in order; ``read`` gives a batch's frames as arrays (n, rate)."""


def check_network(network: Any, where: str | None = None) -> None:
    """Raise ``InputError`` where a network (anything that embeds as ``Embedder``) gives NaN or
    infinity for a plain second of noise: then it is to blame for such embeddings, no recording."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (1, network.rate)).astype(np.float32)
    if not np.isfinite(network.embed(JoinedFrames([noise]))).all():
        raise InputError("the network gives numbers that are not finite for any sound", where=where,
                         hint="Its weights are damaged: take another copy, or train it again.")


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
            from l3hpc.models.engines import TensorFlowEngine

            engine = TensorFlowEngine(parameters.folded(), threads)
        self.spec: NetworkSpec = parameters.spec
        self.rate, self.dim = self.spec.rate, self.spec.dim
        self.label, self.trained = label, trained
        self.engine = engine
        self.threads = threads
        self._frontend = self.spec.frontend

    def embed(self, frames: np.ndarray | CutFrames | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings of one-second frames.
         One batch at a time is copied, and its spectrograms are made while the network computes the
        batch before. A frame's embedding does not depend on the others, whatever ``batch_size``,
        except in convention ``kapre-0.1-batch``, which normalises over the batch.

        Parameters
        ----------
        frames
            (n, rate) samples in [-1, 1], or integers. They may be a view (as from ``frame_audio``),
            several signals joined, or an HDF5 data set.
        batch_size
            Frames computed at once; None: by memory.
        on_batch
            Called with the number of frames just finished.

        Returns
        -------
        numpy.ndarray
            (n, dim) float32.

        Raises
        ------
        InputError
            Frames of another shape, or a batch below 1.
        """
        if len(frames.shape) != 2 or frames.shape[1] != self.rate:
            raise InputError(f"frames of shape {tuple(frames.shape)} do not fit this network",
                             allowed=f"(n, {self.rate}): one second each at {self.rate} Hz",
                             hint="frame_audio cuts a signal into such frames")
        size = batch_size or self.engine.batch_size(activation_bytes(self.spec))
        if size < 1:
            raise InputError(f"a batch of {size} frames", allowed="at least 1")
        result = np.empty((len(frames), self.dim), np.float32)
        done = 0
        for found in self._batches(frames, size):
            count = len(found)
            result[done:done + count] = found
            done += count
            if on_batch is not None:
                on_batch(count)
        return result

    def _batches(self, frames: np.ndarray | CutFrames | JoinedFrames, size: int
                 ) -> Iterator[np.ndarray]:
        """Embeddings of ``size`` frames at a time; while one is computed the next is prepared."""
        starts = range(0, len(frames), size)
        together = self.spec.convention == "A'"  # normalised over the batch: as the CPU does it
        if isinstance(self.engine, AudioEngine) and not together:
            yield from self.engine.embed_audio(
                lambda start: _parts(frames, start, start + size), starts)
            return
        for spectrograms in read_ahead(
                lambda start: self._spectrograms(frames, start, start + size), starts, depth=1):
            yield self._run(spectrograms, size)

    def _spectrograms(self, frames: np.ndarray | CutFrames | JoinedFrames, start: int, stop: int
                      ) -> np.ndarray:
        together = self.spec.convention == "A'"  # normalised over the batch
        if not isinstance(frames, JoinedFrames) or together:
            return self._frontend(_float(np.asarray(frames[start:stop])), threads=self.threads)
        parts = frames.parts(start, stop)
        result = np.empty((sum(map(len, parts)), *self._frontend.shape), np.float32)
        done = 0
        for part in parts:
            self._frontend(_float(part), threads=self.threads,
                           out=result[done:done + len(part)])
            done += len(part)
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


def _parts(frames: np.ndarray | CutFrames | JoinedFrames, start: int, stop: int
           ) -> list[np.ndarray]:
    """Frames ``start`` to ``stop`` as arrays of floats: one for each signal that has some."""
    parts = frames.parts(start, stop) if isinstance(frames, JoinedFrames) \
        else [np.asarray(frames[start:stop])]
    return [_float(part) for part in parts]


def _float(frames: np.ndarray) -> np.ndarray:
    """Float frames as they are (a view stays one), integers as floats."""
    return frames if frames.dtype == np.float32 else to_float(frames)
