"""What a teacher is, and what a kind of teachers must be able to find out about one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.models.spec import NetworkSpec

DEFAULT_WINDOW_S = 1.0  # of teachers that do not state their window
LOWEST_RATE, HIGHEST_RATE = 1000, 384_000  # Hz, of audio that a teacher may take
Frames = np.ndarray | CutFrames | JoinedFrames


class Teacher(Protocol):
    """Turns windows of audio into an embedding per window.

    Attributes
    ----------
    label
        One line that names it; shown beside every number that it produces.
    rate
        Hz.
    window_s
        Length of a window in seconds; it has ``window_samples(window_s, rate)`` samples.
    dim
        Length of an embedding.
    engine_name
        The library that computes it.
    """

    @property
    def label(self) -> str: ...
    @property
    def rate(self) -> int: ...
    @property
    def window_s(self) -> float: ...
    @property
    def dim(self) -> int: ...
    @property
    def engine_name(self) -> str: ...

    def embed(self, frames: Frames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embed windows.

        Parameters
        ----------
        frames
            (n, samples) in [-1, 1], or integers.
        batch_size
            Windows computed at once; None: as the teacher sees fit.
        on_batch
            Called with the number of windows just finished.

        Returns
        -------
        numpy.ndarray
            (n, dim) float32.
        """


@dataclass(frozen=True)
class Options:
    """What a caller states about a teacher, beside its name.

    Attributes
    ----------
    geometry
        Values of the front end that overrule the file, for networks of the L3 family.
    embedding_size
        512 or 6144, for openl3 weights, which serve both.
    engine
        The library that computes networks of the L3 family.
    threads
        CPU threads; None: all that the process was given.
    window_s
        Length of a window in seconds, for teachers that do not state it; None: one second.
    """

    geometry: Mapping[str, Any] = field(default_factory=dict)
    embedding_size: int | None = None
    engine: str = "auto"
    threads: int | None = None
    window_s: float | None = None


@dataclass(frozen=True)
class Description:
    """What is known of a teacher before it is loaded.

    Attributes
    ----------
    kind
        Short name of what it is: ``openl3``, ``edgel3-sea``, ``tflite``, ``onnx``, …
    label
        One line that names it.
    rate
        Hz.
    window_s
        Length of a window in seconds.
    dim
        Length of an embedding.
    notes
        What was assumed because nothing states it.
    random_weights
        Whether its weights are random, so that results show that a chain works, not how well.
    spec
        The network, if it is one of the L3 family: only these can be computed in reduced precision
        and by a choice of engines.
    """

    kind: str
    label: str
    rate: int
    window_s: float
    dim: int
    notes: tuple[str, ...] = ()
    random_weights: bool = False
    spec: NetworkSpec | None = None

    def identity(self, digest: str) -> dict[str, Any]:
        """What artifacts and students record of it, JSON-ready.

        Parameters
        ----------
        digest
            Of everything that decides its embeddings.
        """
        return {"kind": self.kind, "dim": self.dim, "digest": digest, "label": self.label,
                "rate": self.rate, "window": self.window_s, "random_weights": self.random_weights}


class Kind(Protocol):
    """One kind of teachers. All methods but ``load`` are fast: they run before submission."""

    def accepts(self, name: str) -> bool:
        """Whether a name stands for a teacher of this kind.

        Parameters
        ----------
        name
            As the user gives it.
        """

    def describe(self, name: str, options: Options) -> Description:
        """What the teacher is.

        Parameters
        ----------
        name
            One that is accepted.
        options
            What the caller states beside it.

        Raises
        ------
        InputError
            It cannot be used, or not with these options.
        """

    def fingerprint(self, name: str) -> str:
        """What changes whenever its embeddings may change: a digest of files, a version.

        Parameters
        ----------
        name
            One that is accepted.
        """

    def identity(self, name: str, options: Options) -> dict[str, Any]:
        """What artifacts record of it (``Description.identity``).

        Parameters
        ----------
        name, options
            As for ``describe``.
        """

    def load(self, name: str, options: Options) -> Teacher:
        """The teacher, ready to embed.

        Parameters
        ----------
        name, options
            As for ``describe``.
        """
