"""A model ready to embed, from a file or a name, whatever the file's format."""

from __future__ import annotations

import numbers
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.audio.frontends import Frontend
from l3hpc.embedding.model_files import PATTERNS, Recognised, find_model, geometry_of, recognise
from l3hpc.errors import InputError, check_choice
from l3hpc.models import weights

KERAS_BATCH = 32  # what the published packages hand to the network at once
ENGINES = ("auto", "ncnn", "tensorflow", "torch")
BATCH_WIDE = "A'"  # the convention whose spectrograms depend on the whole batch


class FrameEmbedder(Protocol):
    """What computes: an ``Embedder`` or a ``TfliteEmbedder``."""

    def embed(self, frames: np.ndarray | CutFrames | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings (n, dim) of frames (n, rate)."""


@dataclass(frozen=True)
class Model:
    """A model that is ready to embed, as ``load_model`` returns it.
     A model is pickled as what ``load_model`` was given and loaded again where it is unpickled, so
    that the file has to be there.

    Attributes
    ----------
    recognised
        What the model is.
    runner
        What computes.
    engine
        Name of what computes the network on this machine.
    source
        The arguments of ``load_model``.
    """

    recognised: Recognised
    runner: FrameEmbedder
    engine: str
    source: Mapping[str, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is None:
            raise pickle.PicklingError("only a Model that load_model returned can be pickled")
        return _load_again, (dict(self.source),)

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

    def embed(self, frames: np.ndarray | CutFrames | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings of one-second frames.

        Parameters
        ----------
        frames
            (n, rate) samples in [-1, 1], or integers.
        batch_size
            Frames computed at once; None: by memory. It changes no number, except in convention
            ``kapre-0.1-batch``, which normalises over a batch: there it is 32 unless stated.
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
        if batch_size is None and self.batch_wide:
            batch_size = KERAS_BATCH
        if batch_size is not None and batch_size < 1:
            raise InputError(f"a batch of {batch_size} frames", allowed="at least 1")
        return self.runner.embed(frames, batch_size, on_batch)

    @property
    def batch_wide(self) -> bool:
        """Whether an embedding depends on the other frames of its batch (``kapre-0.1-batch``)."""
        return self.frontend is not None and self.frontend.convention == BATCH_WIDE


def load_model(model: str | Path, *, input_repr: str | None = None,
               embedding_size: int | None = None, frontend: str | None = None,
               geometry: Mapping[str, Any] | None = None, threads: int | None = None,
               engine: str = "auto") -> Model:
    """A model from a file, or by its name, ready to embed.

    The model can be pickled (it is loaded again), and a process that is forked may use it where the
    engine is ncnn.

    Parameters
    ----------
    model
        openl3 or edgel3 weights, full Keras models (HDF5 or ``.keras``), TFLite, or a file of
        l3hpc, gzipped or not; or a name: ``sea-64``, ``openl3-mel256-music``, ``untrained`` (see
        ``l3hpc.embedding.model_files``).
    input_repr, embedding_size, frontend, geometry
        What the file does not state, or what overrules it (see ``recognise``).
    threads
        Threads that compute; None: the cores this process may use.
    engine
        ``auto`` (what a short measurement, made once, finds fastest among those that give
        float32-equal embeddings), ``ncnn``, ``tensorflow`` or ``torch``; ignored for TFLite.

    Returns
    -------
    Model
        Pass it to ``get_embedding``, or call ``embed`` on frames.

    Raises
    ------
    InputError
        No such file or name, no model of this family, or an option of a wrong type.
    """
    _check(model, {"input_repr": input_repr, "frontend": frontend, "engine": engine},
           {"embedding_size": embedding_size, "threads": threads})
    file, named = find_model(model)
    options = {"input_repr": input_repr, "embedding_size": embedding_size}
    for key, value in named.options.items():
        if options[key] is None:
            options[key] = value
    known = recognise(file, frontend=frontend, geometry=geometry, **options)  # type: ignore[arg-type]
    if named.network not in (None, known.network):
        raise InputError(f"is not what its name says: {known}", where=str(file),
                         allowed=f"a file with the weights of {model}")
    source = {"model": file if weights.untrained_seed(file) is not None else Path(file).absolute(),
              **options, "frontend": frontend, "geometry": geometry, "threads": threads}
    if known.network == "tflite":
        from l3hpc.models.tflite import TfliteEmbedder

        stated = geometry_of(None, frontend, geometry)
        return Model(known, TfliteEmbedder(Path(file), geometry=stated, threads=threads), "tflite",
                     {**source, "engine": engine})
    embedder = weights.load(
        file, embedding_size=known.dim, threads=threads, engine=engine,
        geometry=geometry_of(options["input_repr"], frontend, geometry))  # type: ignore[arg-type]
    return Model(known, embedder, embedder.engine.name,
                 {**source, "engine": embedder.engine.name})


def _load_again(source: dict[str, Any]) -> Model:
    """A pickled model, with the engine that it had: no engine is measured again."""
    return load_model(**source)


def _check(model: object, words: Mapping[str, object], counts: Mapping[str, object]) -> None:
    """Refuse options of a type that they cannot have, with what they may be."""
    if not isinstance(model, (str, Path)) or not str(model).strip():
        raise InputError(f"{model!r:.60} is not a model", where="model",
                         allowed=f"a file, or a name: {PATTERNS}")
    for name, value in words.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{name} is {value!r:.40}", where=name, allowed="text, or None")
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or value < 1
                                  if isinstance(value, numbers.Integral) else True):
            raise InputError(f"{name} is {value!r:.40}", where=name,
                             allowed="a whole number, at least 1; or None")
    check_choice("engine", words["engine"], ENGINES, where="engine")
