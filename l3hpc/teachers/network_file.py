"""TFLite, ONNX and Keras files with a sidecar as teachers.

The sidecar says how windows of audio become the input of the network, and which of its tensors is
the embedding (``sidecar``); ``study`` finds out what a sidecar should say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from l3hpc.audio.files import to_float
from l3hpc.audio.framing import window_samples
from l3hpc.errors import InputError, command_line, option
from l3hpc.io.files import digest, digest_file
from l3hpc.models.embedder import check_frames
from l3hpc.teachers import keras_file, onnx_file, tflite_file
from l3hpc.teachers.base import Description, Frames, Options, Teacher
from l3hpc.teachers.graph import Graph, Tensor
from l3hpc.teachers.sidecar import Sidecar, read_sidecar, sidecar_path

ENDINGS = {".tflite": tflite_file, ".onnx": onnx_file, ".keras": keras_file, ".h5": keras_file}


class Runner(Protocol):
    """Computes one tensor of a network file."""

    batch_size: int

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs (n, …) float32 → tensors (n, …) float32."""


class NetworkFiles:
    """Files of ``ENDINGS`` beside which there is a sidecar, and all ONNX files."""

    def accepts(self, name: str) -> bool:
        """By the ending and the sidecar."""
        path = Path(name)
        return path.suffix == ".onnx" or (
            path.suffix in ENDINGS and sidecar_path(path).is_file())

    def describe(self, name: str, options: Options) -> Description:
        """From the sidecar and the graph, which must fit each other."""
        path = Path(name)
        sidecar = _sidecar(path)
        _refuse_options(path, options, sidecar)
        graph = read_graph(path)
        found = fit(path, graph, sidecar)
        window_s = options.window_s or sidecar.window
        return Description(graph.format.lower(), _label(path, graph, sidecar, found.dim, window_s),
                           sidecar.rate, window_s, found.dim)

    def fingerprint(self, name: str) -> str:
        """Of the file and of every value of its sidecar."""
        path = Path(name)
        return digest([digest_file(path), _sidecar(path).model_dump(mode="json")])

    def identity(self, name: str, options: Options) -> dict[str, Any]:
        """As described, with the sidecar's values."""
        known = self.describe(name, options).identity(self.fingerprint(name))
        return {**known, "sidecar": _sidecar(Path(name)).model_dump(mode="json", exclude_none=True)}

    def load(self, name: str, options: Options) -> Teacher:
        """With the library of its format."""
        path = Path(name)
        known = self.describe(name, options)
        sidecar = _sidecar(path)
        module = ENDINGS[path.suffix]
        return NetworkTeacher(
            path, known, sidecar, fit(path, read_graph(path), sidecar).input_shape,
            module.Runner(path, sidecar.input, sidecar.output, options.threads), module.ENGINE)


def read_graph(path: Path) -> Graph:
    """The graph of a network file; a plan asks for it several times, and it is read once.

    Parameters
    ----------
    path
        A file of ``ENDINGS``.

    Raises
    ------
    InputError
        It cannot be used.
    """
    status = path.stat()
    return _read_graph(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _read_graph(path: Path, modified: int, size: int) -> Graph:
    return ENDINGS[path.suffix].inspect(path)


@dataclass(frozen=True)
class Fitted:
    """What follows from a graph and its sidecar together.

    Attributes
    ----------
    input_shape
        What the network is given for each window.
    dim
        Length of an embedding.
    """

    input_shape: tuple[int, ...]
    dim: int


def fit(path: Path, graph: Graph, sidecar: Sidecar, where: str | None = None) -> Fitted:
    """Check that graph and sidecar fit each other.

    Parameters
    ----------
    path
        The network file, for messages.
    graph
        What it computes.
    sidecar
        What it does not say.
    where
        What messages name; by default the file of the sidecar.

    Returns
    -------
    Fitted
        Shape of the input, and length of an embedding.

    Raises
    ------
    InputError
        A tensor does not exist or has another shape.
    """
    where = where or str(sidecar_path(path))
    source = graph.tensor(sidecar.input, where)
    if source.name not in {one.name for one in graph.inputs} or len(graph.inputs) != 1:
        raise InputError(f"{sidecar.input!r} is not the only input of {path.name}", where=where,
                         allowed=", ".join(str(one) for one in graph.inputs))
    samples = window_samples(sidecar.window, sidecar.rate)
    given: tuple[int, ...] = (samples,)
    if sidecar.frontend is not None:
        given = sidecar.frontend.shape(samples)
    # exporters place axes of length 1 (batch, channel) differently: only the others are compared
    stated = [size for size in per_window(source) if size != 1]
    wanted = [size for size in given if size != 1]
    if len(stated) != len(wanted) or any(
            size not in (None, want) for size, want in zip(stated, wanted, strict=True)):
        what = f"{samples:,} samples" if sidecar.frontend is None else (
            f"a spectrogram of {' x '.join(map(str, given))}")
        raise InputError(f"{sidecar.window:g} s at {sidecar.rate} Hz are {what}, but {path.name} "
                         f"takes {source}", where=where,
                         hint="Correct rate, window or frontend.")
    left = iter(wanted)
    # an axis without a stated length gets that of the sidecar
    shape = tuple(1 if size == 1 else next(left) for size in per_window(source))
    target = graph.tensor(sidecar.output, where)
    sizes = [size for size in target.shape[1:] if size != 1]
    if sidecar.pool == "none":
        if not target.is_vector:
            raise InputError(f"{target} is not one vector per window", where=where,
                             hint="Name another output, or set pool: mean (or max).")
        return Fitted(shape, target.length)
    rank = len(target.shape)
    # axis 0 is that of the windows and never pooled, so it also stands for a wrong one
    axis = sidecar.axis % rank if -rank <= sidecar.axis < rank else 0
    size = target.shape[axis] if axis else None
    if size is None or not sizes:
        raise InputError(f"the axis {sidecar.axis} of {target} has no stated size", where=where,
                         allowed=f"1 to {rank - 1}, or negative from the end")
    return Fitted(shape, size)


def per_window(source: Tensor) -> tuple[int | None, ...]:
    """The shape of an input without its batch axis, if it has one.

    Parameters
    ----------
    source
        The input.
    """
    if len(source.shape) > 1 and source.shape[0] in (1, None):
        return source.shape[1:]
    return source.shape


class NetworkTeacher:
    """A network file that is ready to embed.

    Parameters
    ----------
    path
        The file, for messages.
    known
        Its description; label, rate, window and length are copied from it. A window that is
        shorter than the sidecar's is padded with zeros on both sides.
    sidecar
        How audio becomes its input.
    input_shape
        What it is given for each window.
    run
        Computes its tensor.
    engine_name
        The library that does so.
    """

    def __init__(self, path: Path, known: Description, sidecar: Sidecar,
                 input_shape: tuple[int, ...], run: Runner, engine_name: str) -> None:
        self.label, self.rate, self.window_s, self.dim = (
            known.label, known.rate, known.window_s, known.dim)
        self.engine_name = engine_name
        self._path = path
        self._sidecar, self._shape, self._run = sidecar, input_shape, run

    def embed(self, frames: Frames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embed windows; see ``l3hpc.teachers.base.Teacher``.

        Raises
        ------
        InputError
            Windows of another length, or a batch size below 1.
        """
        check_frames(frames, self.rate, self.window_s, batch_size)
        size = self._run.batch_size if batch_size is None else batch_size
        result = np.empty((len(frames), self.dim), np.float32)
        for start in range(0, len(frames), size):
            part = to_float(np.asarray(frames[start:start + size]))
            found = self._embed(part)
            # A file may state another shape than it computes.
            if found.shape != (len(part), self.dim):
                raise InputError(f"computes {found.size // len(part)} values per window, but "
                                 f"states {self.dim}", where=str(self._path),
                                 allowed="a file with the right shapes of its tensors")
            result[start:start + len(part)] = found
            if on_batch is not None:
                on_batch(len(part))
        return result

    def _embed(self, part: np.ndarray) -> np.ndarray:
        missing = window_samples(self._sidecar.window, self.rate) - part.shape[1]
        if missing:
            part = np.pad(part, ((0, 0), (missing // 2, missing - missing // 2)))
        if self._sidecar.scale != 1:
            part = part * np.float32(self._sidecar.scale)
        if self._sidecar.frontend is not None:
            part = self._sidecar.frontend(part, self.rate)
        found = self._run(part.reshape(len(part), *self._shape))
        if len(found) != len(part):
            raise InputError(f"computes {len(found)} rows for {len(part)} windows",
                             where=str(self._path), allowed="one row per window")
        if self._sidecar.pool == "none":
            return found.reshape(len(part), -1)
        axis = self._sidecar.axis % found.ndim
        others = tuple(one for one in range(1, found.ndim) if one != axis)
        return np.asarray(found.mean(others) if self._sidecar.pool == "mean" else found.max(others))


def _sidecar(path: Path) -> Sidecar:
    if not path.is_file():
        raise InputError(f"no weight file {path}", where=option("weights"))
    if not sidecar_path(path).is_file():
        raise InputError("does not say how audio becomes its input", where=str(path),
                         hint="describe it once: " + command_line(
                             "teacher", "describe", path, "--rate", "HZ", "--write"))
    return read_sidecar(path)


def _refuse_options(path: Path, options: Options, sidecar: Sidecar) -> None:
    if options.window_s is not None and options.window_s > sidecar.window:
        raise InputError(f"takes windows of {sidecar.window:g} s, not of {options.window_s:g} s",
                         where=str(path), allowed=f"at most {sidecar.window:g} s; shorter ones are "
                                                  "padded with zeros")
    if options.geometry:
        raise InputError(f"{', '.join(options.geometry)} cannot be set for a file with a sidecar",
                         where=str(path), hint=f"change {sidecar_path(path).name} instead")


def _label(path: Path, graph: Graph, sidecar: Sidecar, dim: int, window_s: float) -> str:
    front = "audio in" if sidecar.frontend is None else f"{sidecar.frontend.n_mels} mels"
    window = f"{sidecar.window:g} s"
    if window_s < sidecar.window:
        window = f"{window_s:g} s padded to {window}"
    return f"{path.name}: {graph.format}, {dim}-d, {sidecar.rate} Hz, {window}, {front}"
