"""Models that are ready to embed, loaded from a file of any format or by name."""

from __future__ import annotations

import numbers
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from l3hpc.arrays.threads import InOrder
from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.audio.frontends import Frontend
from l3hpc.audio.samples import is_number
from l3hpc.embedding.model_files import (
    PATTERNS,
    Recognised,
    find_model,
    geometry_of,
    is_hear_module,
    recognise,
)
from l3hpc.errors import InputError, check_choice
from l3hpc.models import weights
from l3hpc.models.engines import BatchesEngine
from l3hpc.teachers import find as teachers
from l3hpc.teachers.base import Options, Teacher

Frames: TypeAlias = np.ndarray | CutFrames | JoinedFrames  # (n, samples)
Item = TypeVar("Item")
KERAS_BATCH = 32  # frames per batch in the published packages
ENGINES = ("auto", "ncnn", "tensorflow", "torch")
LONGEST_WINDOW_S = 60
BATCH_WIDE = "A'"  # the convention in which spectrograms depend on the whole batch


@dataclass(frozen=True)
class Model:
    """A model that is ready to embed, as ``load_model`` returns it.

    A pickled model consists of the arguments of ``load_model``. It is loaded again when it is
    unpickled, so its file must exist there.

    Attributes
    ----------
    recognised : Recognised
        Network, front end and dimension.
    runner : Teacher
        Computes the embeddings.
    engine : str
        The library that computes the network.
    source : mapping or None
        The arguments of ``load_model``.
    """

    recognised: Recognised
    runner: Teacher
    engine: str
    source: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Model: {self.description}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is None:
            raise pickle.PicklingError("only a Model that load_model returned can be pickled")
        return _load_again, (dict(self.source),)

    @property
    def rate(self) -> int:
        """Sampling rate of the input in Hz."""
        return self.recognised.rate

    @property
    def window_s(self) -> float:
        """Length of a frame in seconds."""
        return self.recognised.window_s

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.recognised.dim

    @property
    def frontend(self) -> Frontend | None:
        """The spectrogram that the network takes; None if it takes audio."""
        return self.recognised.frontend

    @property
    def description(self) -> str:
        """One line: file, network, format, rate, front end, dimension, engine."""
        return f"{self.recognised}; engine {self.engine}"

    def embed(self, frames: Frames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Compute the embeddings of frames.

        Parameters
        ----------
        frames, on_batch
            As for ``l3hpc.models.embedder.Embedder.embed``.
        batch_size
            Frames per batch; None for as many as memory allows, or 32 in convention
            ``kapre-0.1-batch``, the only one whose embeddings depend on it.

        Returns
        -------
        numpy.ndarray
            (n, dim) float32.

        Raises
        ------
        InputError
            The frames have another shape, or ``batch_size`` is below 1.
        """
        if batch_size is None and self.batch_wide:
            batch_size = KERAS_BATCH
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size is {batch_size}", allowed="at least 1")
        return self.runner.embed(frames, batch_size, on_batch)

    @property
    def shares_threads(self) -> bool:
        """Whether calls of ``embed`` share the engine's threads: with two at a time none waits."""
        return isinstance(getattr(self.runner, "engine", None), BatchesEngine)

    def embed_each(self, parts: Iterable[tuple[Frames | None, Item]], batch_size: int | None = None,
                   on_batch: Callable[[int], None] | None = None
                   ) -> Iterator[tuple[np.ndarray, Item]]:
        """Compute the embeddings of frames that come in parts.

        Parameters
        ----------
        parts
            Frames, and anything that belongs to them. None: no frames, only to keep the order.
        batch_size, on_batch
            As for ``embed``.

        Yields
        ------
        embeddings
            (n, dim) float32; (0, dim) for None.
        item
            What belongs to them. In the order of the parts; where threads are shared, two more
            parts have been begun.

        Raises
        ------
        InputError
            As ``embed``.
        """
        calls = threading.Lock()

        def after_batch(count: int) -> None:
            results.check()  # an interrupt should not have to wait for whole parts
            with calls:
                if on_batch is not None:
                    on_batch(count)

        def embed(part: tuple[Frames | None, Item], on_batch: Callable[[int], None] | None
                  ) -> np.ndarray:
            if part[0] is None:
                return np.empty((0, self.dim), np.float32)
            return self.embed(part[0], batch_size, on_batch)

        if not self.shares_threads:
            for part in parts:
                yield embed(part, on_batch), part[1]
            return
        results = InOrder[tuple[Frames | None, Item], np.ndarray](
            lambda part: embed(part, after_batch), 2)
        with results:
            for part in parts:
                if (finished := results.add(part)) is not None:
                    yield finished[1], finished[0][1]
            for (_, item), embeddings in results.rest():
                yield embeddings, item

    @property
    def batch_wide(self) -> bool:
        """Whether an embedding depends on the other frames of its batch (``kapre-0.1-batch``)."""
        return self.frontend is not None and self.frontend.convention == BATCH_WIDE


def load_model(model: str | os.PathLike[str], *, input_repr: str | None = None,
               embedding_size: int | None = None, frontend: str | None = None,
               geometry: Mapping[str, Any] | None = None, window: float | None = None,
               threads: int | None = None, engine: str = "auto") -> Model:
    """Load a model from a file or by its name.

    The model can be pickled (it is loaded again when unpickled). With ncnn as its engine, it can
    be used in a forked process.

    Parameters
    ----------
    model
        A file with openl3 or edgel3 weights, a full Keras model (HDF5 or ``.keras``), a TFLite
        model or weights of l3hpc, gzipped or not; a TFLite, ONNX or Keras file of another network
        with a sidecar (``l3hpc teacher describe``); the folder of a run that trained a student, or
        of its training, or the ``l3hpc.Run``; a name: ``sea-64``, ``openl3-mel256-music``,
        ``untrained`` (see ``l3hpc.embedding.model_files``); or ``hear:package.module``, your own
        code with the HEAR 2021 interface.
    input_repr, embedding_size, frontend, geometry
        Facts that the file does not contain, or that override it (see ``recognise``).
    window
        Length of a frame in seconds, above 0, at most 60, where it is free: of a HEAR module
        (default: one second), and of a network with a sidecar, which pads shorter frames than its
        own with zeros.
    threads
        Number of threads; None for the cores that this process may use.
    engine
        ``auto`` (what a short measurement, made once, finds fastest among those that give
        float32-equal embeddings), ``ncnn``, ``tensorflow`` or ``torch``; ignored for TFLite.

    Returns
    -------
    Model
        To be passed to ``get_embedding``; or call its ``embed`` on frames.

    Raises
    ------
    InputError
        There is no such file or name, the model is not of this family, or an option has the wrong
        type.

    Examples
    --------
    >>> model = load_model("untrained", embedding_size=512, engine="ncnn")
    >>> model.rate, model.dim
    (48000, 512)
    """
    _check(model, {"input_repr": input_repr, "frontend": frontend, "engine": engine},
           {"embedding_size": embedding_size, "threads": threads}, window)
    model = model if isinstance(model, str) else Path(model)  # perhaps an l3hpc.Run
    file, named = find_model(model)
    options = {"input_repr": input_repr, "embedding_size": embedding_size}
    for key, value in named.options.items():
        if options[key] is None:
            options[key] = value
    info = recognise(file, frontend=frontend, geometry=geometry, window=window,
                     **options)  # type: ignore[arg-type]
    if named.network not in (None, info.network):
        raise InputError(f"does not contain what its name states: {info}", where=str(file),
                         allowed=f"a file with the weights of {model}")
    is_name = is_hear_module(file) or weights.untrained_seed(file) is not None
    source = {"model": file if is_name else Path(file).absolute(), **options,
              "frontend": frontend, "geometry": geometry, "window": window, "threads": threads}
    stated = geometry_of(options["input_repr"], frontend, geometry)  # type: ignore[arg-type]
    teacher = teachers.load(str(file), Options(stated, info.dim, engine, threads, window))
    # Only a chosen engine is named again: others are not choices of ``engine``.
    chosen = teacher.engine_name if teacher.engine_name in ENGINES else engine
    return Model(info, teacher, teacher.engine_name, {**source, "engine": chosen})


def _load_again(source: dict[str, Any]) -> Model:
    # Pickles name this function, so it cannot be renamed. ``source`` has the engine that the model
    # had, so that none is measured again.
    return load_model(**source)


def _check(model: object, strings: Mapping[str, object], counts: Mapping[str, object],
           window: float | None) -> None:
    """Refuse options of a wrong type."""
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model).strip():
        raise InputError(f"{model!r:.60} is not a model", where="model",
                         allowed=f"a file, or a name: {PATTERNS}")
    for name, value in strings.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{name} is {value!r:.40}", where=name, allowed="a string, or None")
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or value < 1
                                  if isinstance(value, numbers.Integral) else True):
            raise InputError(f"{name} is {value!r:.40}", where=name,
                             allowed="a whole number, at least 1; or None")
    if window is not None and (not is_number(window) or not 0 < window <= LONGEST_WINDOW_S):
        raise InputError(f"window is {window!r:.40}", where="window",
                         allowed=f"seconds above 0, at most {LONGEST_WINDOW_S:g}; or None")
    check_choice("engine", strings["engine"], ENGINES, where="engine")
