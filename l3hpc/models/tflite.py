"""TFLite files: what one says of itself, and running one on this machine's processor.

A file of this package carries a metadata entry ``l3hpc``: JSON whose ``spec`` is the network's
(``NetworkSpec.to_dict``). Without one, an input as long as a second of audio needs no front end,
and the shape of a spectrogram identifies the published ones. A file with operators that TFLite does
not define itself (they may be any TensorFlow code) is refused. TensorFlow is needed.

``TfliteEmbedder`` is made for checking models that are to run elsewhere, not for speed: one
interpreter per thread, one frame at a time; integer inputs and outputs are converted by the scales
in the file.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.audio.files import to_float
from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.audio.frontends import OPENL3_FRONTENDS, Frontend
from l3hpc.errors import InputError
from l3hpc.io.files import digest_file, read_json, write_json
from l3hpc.models.engines import cache_file, refuse_fork
from l3hpc.models.geometry import KEYS, STATED
from l3hpc.models.spec import is_value
from l3hpc.models.tensorflow_log import import_tensorflow
from l3hpc.models.weight_files import MAX_BYTES, MAX_JSON

MAGIC = b"TFL3"  # at byte 4
METADATA = "l3hpc"
CUSTOM = 32  # the number of operators that TFLite does not define
TYPES = {0: "float32", 3: "uint8", 7: "int16", 9: "int8"}
STUDENT_FRONTEND = Frontend(8000, 1024, 160, 64)
KNOWN = (*OPENL3_FRONTENDS.values(), STUDENT_FRONTEND)
SHAPE, AUDIO = "input shape", "audio input"
FRAMES_PER_THREAD = 16
TRIAL_S = 120.0
TRIED = "tflite-tried.json"  # digests of files that were run once
MOST_TRIED = 1000


@dataclass(frozen=True)
class TfliteInfo:
    """One model: ``frontend`` is None where it takes audio; ``rate`` in Hz, ``dim`` of the output.

    input_type, output_type: of the tensors, one of ``TYPES``. evidence: what the front end is known
    from (``'l3hpc'``: the file's own metadata).
    """

    file: Path
    rate: int
    frontend: Frontend | None
    dim: int
    input_type: str
    output_type: str
    evidence: str

    @property
    def label(self) -> str:
        """One line that says which model this is."""
        kind = self.input_type if self.input_type == self.output_type else (
            f"{self.input_type} to {self.output_type}")
        bands = "audio in" if self.frontend is None else (
            "linear" if self.frontend.n_mels is None else f"{self.frontend.n_mels} mels")
        end = "" if self.frontend is None or self.frontend.convention == "A" else (
            f", front end {self.frontend.name}")
        return f"{self.file.name}: TFLite {kind}, {self.dim}-d, {self.rate} Hz, {bands}{end}"


def is_tflite(path: Path) -> bool:
    """Whether a file begins as TFLite models do."""
    with open(path, "rb") as stream:
        return stream.read(8)[4:] == MAGIC


def describe(path: Path, geometry: Mapping[str, Any] | None = None) -> TfliteInfo:
    """What ``path`` holds. ``geometry``: front-end values (``rate``, ``n_mels``, ``hop``, …) that
    overrule the file.

    Raises ``InputError`` for a damaged file, one with foreign operators, or one whose front end
    cannot be identified.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise InputError("holds more than 512 MB: not a network of this family", where=str(path))
    data = path.read_bytes()
    try:
        inside, given, taken = _tables(data)
    except InputError as error:
        raise InputError(error.message, where=str(path), allowed=error.allowed) from None
    except Exception as error:  # the generated reader runs into anything in a damaged file
        raise InputError(f"not a readable TFLite model: {type(error).__name__}",
                         where=str(path)) from None
    stated = dict(geometry or {})
    for key, value in stated.items():
        if key not in KEYS or not is_value(key, value):
            raise InputError(f"no front end has {key} {value!r:.60}", where=str(path))
    rate, frontend, evidence = _front_end(path, given[0], inside, stated)
    shape, kind = taken
    if len(shape) != 2 or shape[1] < 1:
        raise InputError(f"gives outputs of shape {list(shape)}", where=str(path),
                         allowed="embeddings (1, values)")
    return TfliteInfo(path, rate, frontend, shape[1], given[1], kind, evidence)


Tensor = tuple[tuple[int, ...], str]


def _tables(data: bytes) -> tuple[dict[str, Any], Tensor, Tensor]:
    """(our metadata, shape and type of the input, of the output)."""
    import_tensorflow()
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(data, 0)
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        if code.BuiltinCode() == CUSTOM or code.CustomCode():
            name = (code.CustomCode() or b"?").decode(errors="replace")
            raise InputError(f"holds an operator that TFLite does not define ({name:.40})",
                             allowed="standard operators; a foreign one may be any code")
    if model.SubgraphsLength() != 1:
        raise InputError(f"holds {model.SubgraphsLength()} graphs", allowed="one")
    graph = model.Subgraphs(0)
    if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
        raise InputError(f"has {graph.InputsLength()} inputs and {graph.OutputsLength()} outputs",
                         allowed="one of each")
    inside = {}
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if (entry.Name() or b"") == METADATA.encode():
            text = bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
            if len(text) > MAX_JSON:
                raise InputError("holds a description of more than 16 MB")
            inside = json.loads(text)
    if not isinstance(inside, dict):
        raise InputError("holds a description that is not a JSON object")
    return (inside, _tensor(graph.Tensors(graph.Inputs(0))),
            _tensor(graph.Tensors(graph.Outputs(0))))


def _tensor(tensor: Any) -> Tensor:
    if tensor.Type() not in TYPES:
        raise InputError(f"has an input or output of type {tensor.Type()}",
                         allowed=", ".join(TYPES.values()))
    return tuple(int(size) for size in tensor.ShapeAsNumpy()), TYPES[tensor.Type()]


def _front_end(path: Path, shape: tuple[int, ...], inside: Mapping[str, Any],
               stated: Mapping[str, Any]) -> tuple[int, Frontend | None, str]:
    sizes = [size for size in shape[1:] if size != 1]
    if len(sizes) == 1:
        return sizes[0], None, AUDIO
    if len(sizes) != 2:
        raise InputError(f"takes inputs of shape {list(shape)}", where=str(path),
                         allowed="one second of audio (1, rate), or a spectrogram (1, bands, "
                                 "times, 1)")
    metadata = inside.get("spec")
    if isinstance(metadata, dict):
        base, evidence = _frontend(path, {**metadata, **stated}), METADATA
    elif {"rate", "n_mels", "hop", "n_dft"} <= set(stated):
        base, evidence = _frontend(path, stated), STATED
    else:
        fitting = [one for one in KNOWN if one.shape == tuple(sizes)]
        if not fitting:
            raise InputError(
                f"takes spectrograms of {sizes[0]} bands x {sizes[1]} times and does not state how "
                "they are made", where=str(path),
                hint="state rate, n_mels, hop and n_dft of the front end (geometry=…)")
        known = fitting[0]
        base, evidence = _frontend(path, {
            "rate": known.rate, "n_mels": known.n_mels, "hop": known.hop, "n_dft": known.n_dft,
            **stated}), SHAPE
    if base.shape != tuple(sizes):
        raise InputError(f"takes spectrograms of {sizes[0]} x {sizes[1]}; this front end makes "
                         f"{base.shape[0]} x {base.shape[1]}", where=str(path))
    return base.rate, base, evidence


def _frontend(path: Path, values: Mapping[str, Any]) -> Frontend:
    known = {key: value for key, value in values.items() if key in KEYS and key != "head"}
    if not all(is_value(key, value) for key, value in known.items()) or not {
            "rate", "n_dft", "hop", "n_mels"} <= set(known):
        raise InputError("describes no front end", where=str(path),
                         allowed="rate, n_dft, hop, n_mels; fmax, convention")
    return Frontend(**known)


class TfliteEmbedder:
    """A TFLite model ready to embed: ``rate``, ``dim``, ``label`` and ``embed`` as ``Embedder``.

    ``info`` says what the file is. Raises ``InputError`` for a file that cannot be run.
    """

    def __init__(self, path: Path, *, geometry: Mapping[str, Any] | None = None,
                 threads: int | None = None) -> None:
        self.info: TfliteInfo = describe(Path(path), geometry)
        self.rate, self.dim, self.label = self.info.rate, self.info.dim, self.info.label
        self.trained = True
        self.threads = threads
        count = threads or allocated_cores()
        refuse_fork()
        _refuse_what_crashes(Path(path))
        self._interpreters = [_interpreter(Path(path)) for _ in range(count)]
        self._pool = ThreadPoolExecutor(count)

    def embed(self, frames: np.ndarray | CutFrames | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings (n, dim) float32 of one-second frames (n, rate). See ``Embedder.embed``."""
        if len(frames.shape) != 2 or frames.shape[1] != self.rate:
            raise InputError(f"frames of shape {tuple(frames.shape)} do not fit this network",
                             allowed=f"(n, {self.rate}): one second each at {self.rate} Hz")
        size = FRAMES_PER_THREAD * len(self._interpreters) if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"a batch of {size} frames", allowed="at least 1")
        result = np.empty((len(frames), self.dim), np.float32)
        for start in range(0, len(frames), size):
            part = to_float(np.asarray(frames[start:start + size]))
            inputs = part if self.info.frontend is None else self.info.frontend(
                part, threads=self.threads)
            self._run(inputs, result[start:start + len(part)])
            if on_batch is not None:
                on_batch(len(part))
        return result

    def _run(self, inputs: np.ndarray, out: np.ndarray) -> None:
        refuse_fork()
        waiting = iter(range(len(inputs)))

        def work(interpreter: Any) -> None:
            for index in waiting:
                out[index] = _one(interpreter, inputs[index])

        list(self._pool.map(work, self._interpreters))


def _refuse_what_crashes(path: Path) -> None:
    """Load the file and run it once in another process; an ``InputError`` where that crashes.

    TensorFlow Lite does not check what a file says of its own structure: a damaged one can end the
    process that loads or runs it, and everything else that is going on there. Files that went well
    are remembered by their content.
    """
    digest = digest_file(path)
    known = cache_file().with_name(TRIED)
    with contextlib.suppress(OSError, InputError, TypeError, ValueError):
        if digest in read_json(known):
            return
    try:
        done = subprocess.run([sys.executable, "-m", __name__, str(path)], capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=TRIAL_S)
    except (OSError, subprocess.TimeoutExpired):  # slow is not damaged
        return
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise InputError(f"is damaged: TensorFlow Lite crashes on it ({name})", where=str(path),
                         hint="Export or copy the model once more.")
    with contextlib.suppress(OSError, InputError, TypeError, ValueError):  # a cache may be lost
        tried = read_json(known) if known.exists() else []
        write_json(known, [*tried[-MOST_TRIED:], digest], durable=False)


def main(path: str) -> None:
    """``python -m l3hpc.models.tflite FILE``: load a model and run it once on zeros.

    An error that TensorFlow Lite names comes again where the file is loaded to be used.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(Exception):
        interpreter = _interpreter(Path(path))
        _one(interpreter, np.zeros(interpreter.get_input_details()[0]["shape"], np.float32))


def _interpreter(path: Path) -> Any:
    import_tensorflow()
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to a package of its own
        try:
            made = tf.lite.Interpreter(model_path=str(path), num_threads=1)
            made.allocate_tensors()
        except (ValueError, RuntimeError, MemoryError) as error:
            words = str(error).splitlines() or [type(error).__name__]
            raise InputError(f"TFLite cannot run it: {words[0]}",
                             where=str(path)) from None
    return made


def _one(interpreter: Any, values: np.ndarray) -> np.ndarray:
    """The embedding (dim,) float32 of one input."""
    given, taken = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    values = values.reshape(given["shape"])
    scale, zero = given["quantization"]
    if given["dtype"] != np.float32:
        span = np.iinfo(given["dtype"])
        values = np.clip(np.rint(values / (scale or 1.0)) + zero, span.min, span.max)
    interpreter.set_tensor(given["index"], values.astype(given["dtype"]))
    interpreter.invoke()
    result = interpreter.get_tensor(taken["index"]).reshape(-1)
    if taken["dtype"] == np.float32:
        return np.asarray(result, np.float32)
    scale, zero = taken["quantization"]
    return ((result.astype(np.float32) - zero) * np.float32(scale or 1.0)).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
