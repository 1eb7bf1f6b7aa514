"""Embed audio with a network of this family: in bounded memory, for any number of frames.

The arithmetic is left to an engine: any object with the methods of ``engines.Engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Protocol

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.audio.files import to_float
from l3hpc.audio.framing import CutFrames, JoinedFrames, format_seconds, window_samples
from l3hpc.errors import InputError
from l3hpc.models.engines import AudioEngine, BatchesEngine, Engine, TensorFlowEngine
from l3hpc.models.parameters import FoldedNetwork, Parameters
from l3hpc.models.spec import NetworkSpec, activation_bytes

BATCH_CONVENTIONS = ("A'",)  # kapre-0.1-batch normalises over the batch, on the CPU


class EmbedsFrames(Protocol):
    """A network that embeds frames of audio: ``Embedder``, ``TfliteEmbedder`` or another one.

    Attributes
    ----------
    rate
        Hz.
    window_s
        Length of a frame in seconds.
    """

    @property
    def rate(self) -> int:
        """Samples per second of its input."""

    @property
    def window_s(self) -> float:
        """Seconds per frame."""

    def embed(self, frames: JoinedFrames) -> np.ndarray:
        """Frames (n, samples) → embeddings (n, dim)."""


def check_frames(frames: np.ndarray | CutFrames | JoinedFrames, rate: int, window_s: float,
                 batch_size: int | None = None) -> None:
    """Check the shape of frames for a network, and how many are to be embedded at once.

    Parameters
    ----------
    frames
        To be embedded.
    rate, window_s
        Of the network.
    batch_size
        Frames at once; None: not stated.

    Raises
    ------
    InputError
        They have another shape than (n, samples), or the batch size is below 1.
    """
    samples = window_samples(window_s, rate)
    if len(frames.shape) != 2 or frames.shape[1] != samples:
        raise InputError(f"frames of shape {tuple(frames.shape)} do not fit this network",
                         allowed=f"(n, {samples}): {format_seconds(window_s)} at {rate} Hz",
                         hint="frame_audio cuts a signal into such frames")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"a batch size of {batch_size} frames", allowed="at least 1")


def check_network(network: EmbedsFrames, where: str | None = None) -> None:
    """Check that a network gives finite embeddings for plain noise.

    Where it does not, the network causes non-finite embeddings, not a recording.

    Parameters
    ----------
    network
        An ``Embedder``, or anything with its ``rate``, ``window_s`` and ``embed``.
    where
        What to name in the message.

    Raises
    ------
    InputError
        It gives NaN or infinity.
    """
    samples = window_samples(network.window_s, network.rate)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (1, samples)).astype(np.float32)
    if not np.isfinite(network.embed(JoinedFrames([noise]))).all():
        raise InputError("the network gives non-finite embeddings for any sound", where=where,
                         hint="Its weights are damaged: use another copy, or train it again.")


class Embedder:
    """A network that is ready to embed.

    Parameters
    ----------
    parameters
        Its weights, as read or folded.
    label
        One line that names the weights; show it beside every number they produce.
    trained
        False for random weights.
    threads
        CPU threads; None: all that the process was given.
    engine
        What computes; None: TensorFlow.

    Attributes
    ----------
    spec
        The network; ``rate`` (Hz), ``window_s`` (seconds per frame) and ``dim`` are copied from it.
    """

    def __init__(self, parameters: Parameters | FoldedNetwork, label: str, *, trained: bool = True,
                 threads: int | None = None, engine: Engine | None = None) -> None:
        if engine is None:
            folded = parameters.folded() if isinstance(parameters, Parameters) else parameters
            engine = TensorFlowEngine(folded, threads)
        self.spec: NetworkSpec = parameters.spec
        self.rate, self.dim = self.spec.rate, self.spec.dim
        self.window_s = self.spec.window_s
        self.label, self.trained = label, trained
        self.engine = engine
        self.threads = threads
        self._frontend = self.spec.frontend

    @property
    def engine_name(self) -> str:
        """The library that computes the network."""
        return self.engine.name

    def embed(self, frames: np.ndarray | CutFrames | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings of frames.

        One batch at a time is copied, and its spectrograms are computed while the network processes
        the batch before. A frame's embedding does not depend on the others, whatever
        ``batch_size``, except with the front end ``kapre-0.1-batch``, which normalises over the
        batch.

        Parameters
        ----------
        frames
            (n, samples) in [-1, 1], or integers. They may be a view (as from ``frame_audio``),
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
            Frames of another shape, or a batch size below 1.
        """
        check_frames(frames, self.rate, self.window_s, batch_size)
        size = batch_size or self.engine.batch_size(activation_bytes(self.spec))
        result = np.empty((len(frames), self.dim), np.float32)
        done = 0
        for embeddings in self._batches(frames, size):
            count = len(embeddings)
            result[done:done + count] = embeddings
            done += count
            if on_batch is not None:
                on_batch(count)
        return result

    def _batches(self, frames: np.ndarray | CutFrames | JoinedFrames, size: int
                 ) -> Iterator[np.ndarray]:
        """Embeddings of ``size`` frames at a time; while one is computed the next is prepared."""
        starts = range(0, len(frames), size)
        if isinstance(self.engine, AudioEngine) and self.spec.convention not in BATCH_CONVENTIONS:
            yield from self.engine.embed_audio(
                lambda start: _parts(frames, start, start + size), starts)
            return
        with closing(read_ahead(
                lambda start: self._spectrograms(frames, start, start + size), starts, depth=1,
        )) as batches:
            if isinstance(self.engine, BatchesEngine):
                yield from self.engine.run_batches(batches)
            else:
                for spectrograms in batches:
                    yield self._run(spectrograms, size)

    def _spectrograms(self, frames: np.ndarray | CutFrames | JoinedFrames, start: int, stop: int
                      ) -> np.ndarray:
        # What normalises over the batch needs the batch in one array.
        if not isinstance(frames, JoinedFrames) or self.spec.convention in BATCH_CONVENTIONS:
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
        # Powers of two: a handful of shapes, whatever the lengths of recordings.
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
    """Float frames unchanged (a view stays a view), integers as floats."""
    return frames if frames.dtype == np.float32 else to_float(frames)
