"""TFLite files: identify the model in a file, and run it on this machine's processor.

A file of this package has a metadata entry ``l3hpc``: JSON whose ``spec`` describes the network
(``NetworkSpec.to_dict``). Without one, an input as long as a second of audio needs no front end,
and the shape of a spectrogram identifies the published ones. A file with operators that TFLite does
not define is refused, since they may be any TensorFlow code. TensorFlow is needed.

``TfliteEmbedder`` is made for checking models that are to run elsewhere, not for speed: one
interpreter per thread, one frame at a time; integer inputs and outputs are converted by the scales
in the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.audio.files import to_float
from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.audio.frontends import OPENL3_FRONTENDS, Frontend
from l3hpc.errors import InputError, command_line
from l3hpc.io.files import digest_file, read_json, write_json
from l3hpc.models.embedder import check_frames
from l3hpc.models.engines import cache_file, refuse_fork
from l3hpc.models.geometry import KEYS, STATED
from l3hpc.models.spec import is_valid_value
from l3hpc.models.tensorflow_log import import_tensorflow, quiet_first_import
from l3hpc.models.unpacking import MAX_BYTES, MAX_JSON

if TYPE_CHECKING:
    import tensorflow as tf

MAGIC = b"TFL3"  # at byte 4
METADATA = "l3hpc"
CUSTOM = 32  # builtin code of operators that TFLite does not define
TYPES = {0: "float32", 3: "uint8", 7: "int16", 9: "int8"}
STUDENT_FRONTEND = Frontend(8000, 1024, 160, 64)
KNOWN_FRONTENDS = (*OPENL3_FRONTENDS.values(), STUDENT_FRONTEND)
AUDIO_RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
SHAPE, AUDIO = "input shape", "audio input"
FRAMES_PER_THREAD = 16
CHECK_TIMEOUT_S = 120.0
CHECKED_FILES = "tflite-tried.json"  # digests of files that have run once without a crash
MAX_CHECKED = 1000

Tensor = tuple[tuple[int, ...], str]  # shape and type


@dataclass(frozen=True)
class TfliteInfo:
    """What a TFLite file holds.

    Attributes
    ----------
    file
        The file.
    rate
        Hz.
    frontend
        The spectrogram that the model takes; None where it takes audio.
    dim
        Length of the output.
    input_type
        One of ``TYPES``.
    output_type
        One of ``TYPES``.
    evidence
        How the front end was identified (``'l3hpc'``: by the file's own metadata).
    window_s
        Length of a window in seconds.
    """

    file: Path
    rate: int
    frontend: Frontend | None
    dim: int
    input_type: str
    output_type: str
    evidence: str
    window_s: float = 1.0

    @property
    def label(self) -> str:
        """One line that names the model."""
        kind = self.input_type if self.input_type == self.output_type else (
            f"{self.input_type} to {self.output_type}")
        bands = "audio in" if self.frontend is None else (
            "linear" if self.frontend.n_mels is None else f"{self.frontend.n_mels} mels")
        end = "" if self.frontend is None or self.frontend.convention == "A" else (
            f", front end {self.frontend.name}")
        return f"{self.file.name}: TFLite {kind}, {self.dim}-d, {self.rate} Hz, {bands}{end}"


def is_tflite(path: Path) -> bool:
    """Whether a file begins like a TFLite model.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    bool
        By its first bytes alone.
    """
    with open(path, "rb") as stream:
        return stream.read(8)[4:] == MAGIC


def describe_tflite(path: Path, geometry: Mapping[str, Any] | None = None) -> TfliteInfo:
    """Describe the model in a file.

    Parameters
    ----------
    path
        The file.
    geometry
        Front-end values (``rate``, ``n_mels``, ``hop``, …) that overrule the file.

    Returns
    -------
    TfliteInfo
        What the file holds.

    Raises
    ------
    InputError
        The file is damaged or has custom operators, or its front end cannot be identified.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise InputError("holds more than 512 MB: not a network of this family", where=str(path))
    data = path.read_bytes()
    try:
        metadata, model_input, (shape, output_type) = _tables(data)
    except InputError as error:
        raise InputError(error.message, where=str(path), allowed=error.allowed) from None
    except Exception as error:  # the generated reader can raise anything in a damaged file
        raise InputError(f"not a readable TFLite model: {type(error).__name__}",
                         where=str(path)) from None
    stated = dict(geometry or {})
    for key, value in stated.items():
        if key not in KEYS or not is_valid_value(key, value):
            raise InputError(f"invalid {key} of a front end: {value!r:.60}", where=str(path))
    rate, frontend, evidence = _front_end(path, model_input[0], metadata, stated)
    if len(shape) != 2 or shape[1] < 1:
        raise InputError(f"gives outputs of shape {list(shape)}", where=str(path),
                         allowed="embeddings (1, values)")
    samples = math.prod(model_input[0][1:])
    window_s = samples / rate if frontend is None else frontend.window_s
    return TfliteInfo(path, rate, frontend, shape[1], model_input[1], output_type, evidence,
                      window_s)


def _tables(data: bytes) -> tuple[dict[str, Any], Tensor, Tensor]:
    """(our metadata, input, output) of a flatbuffer."""
    import_tensorflow()
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(data, 0)
    refuse_custom_operators(model)
    if model.SubgraphsLength() != 1:
        raise InputError(f"holds {model.SubgraphsLength()} graphs", allowed="one")
    graph = model.Subgraphs(0)
    if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
        raise InputError(f"has {graph.InputsLength()} inputs and {graph.OutputsLength()} outputs",
                         allowed="one of each")
    metadata = {}
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if (entry.Name() or b"") == METADATA.encode():
            text = bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
            if len(text) > MAX_JSON:
                raise InputError("holds a description of more than 16 MB")
            metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise InputError("holds a description that is not a JSON object")
    return (metadata, _tensor(graph.Tensors(graph.Inputs(0))),
            _tensor(graph.Tensors(graph.Outputs(0))))


def refuse_custom_operators(model: Any) -> None:
    """Refuse a model (of the flatbuffer's schema) with operators that TFLite does not define."""
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        # Such an operator could run any TensorFlow code when the model is loaded.
        if code.BuiltinCode() == CUSTOM or code.CustomCode():
            name = (code.CustomCode() or b"?").decode(errors="replace")
            raise InputError(f"holds an operator that TFLite does not define ({name:.40})",
                             allowed="standard operators; a custom one may be any code")


def _tensor(tensor: Any) -> Tensor:
    if tensor.Type() not in TYPES:
        raise InputError(f"has an input or output of type {tensor.Type()}",
                         allowed=", ".join(TYPES.values()))
    return tuple(int(size) for size in tensor.ShapeAsNumpy()), TYPES[tensor.Type()]


def _front_end(path: Path, shape: tuple[int, ...], metadata: Mapping[str, Any],
               stated: Mapping[str, Any]) -> tuple[int, Frontend | None, str]:
    """(rate, front end, evidence) for an input of some shape."""
    # An axis of length 1 is that of channels, wherever the converter has put it.
    sizes = [size for size in shape[1:] if size != 1]
    if len(sizes) == 1:
        spec = metadata.get("spec")
        if isinstance(spec, dict):
            return _frontend(path, spec).rate, None, AUDIO
        # Nobody can say whether another length is one second: 144,000 may be 3 s at 48 kHz.
        if sizes[0] not in AUDIO_RATES:
            raise InputError(f"takes {sizes[0]:,} samples, at a rate that it does not state",
                             where=str(path), hint="describe it as a teacher: "
                             + command_line("teacher", "describe", path, "--rate", "HZ"))
        return sizes[0], None, AUDIO
    if len(sizes) != 2:
        raise InputError(f"takes inputs of shape {list(shape)}", where=str(path),
                         allowed="one second of audio (1, rate), or a spectrogram (1, bands, "
                                 "times, 1)")
    spec = metadata.get("spec")
    if isinstance(spec, dict):
        # What the caller states replaces what the file says.
        base, evidence = _frontend(path, {**spec, **stated}), METADATA
    elif {"rate", "n_mels", "hop", "n_dft"} <= set(stated):
        base, evidence = _frontend(path, stated), STATED
    else:
        matching = [one for one in KNOWN_FRONTENDS if one.shape == tuple(sizes)]
        if not matching:
            raise InputError(
                f"takes spectrograms of {sizes[0]} bands x {sizes[1]} times and does not state how "
                "they are computed", where=str(path),
                hint="state rate, n_mels, hop and n_dft of the front end (geometry=…)")
        known = matching[0]
        base, evidence = _frontend(path, {
            "rate": known.rate, "n_mels": known.n_mels, "hop": known.hop, "n_dft": known.n_dft,
            **stated}), SHAPE
    if base.shape != tuple(sizes):
        raise InputError(f"takes spectrograms of {sizes[0]} x {sizes[1]}; this front end computes "
                         f"{base.shape[0]} x {base.shape[1]}", where=str(path))
    return base.rate, base, evidence


def _frontend(path: Path, values: Mapping[str, Any]) -> Frontend:
    fields = {key: value for key, value in values.items() if key in KEYS and key != "head"}
    if not all(is_valid_value(key, value) for key, value in fields.items()) or not {
            "rate", "n_dft", "hop", "n_mels"} <= set(fields):
        raise InputError("does not describe a valid front end", where=str(path),
                         allowed="rate, n_dft, hop, n_mels; fmax, convention")
    return Frontend(**fields)


class TfliteEmbedder:
    """A TFLite model that is ready to embed, with the interface of ``Embedder``.

    Parameters
    ----------
    path
        The file.
    geometry
        As in ``describe_tflite``.
    threads
        CPU threads; None: all that the process was given.

    Attributes
    ----------
    info
        What the file holds; ``rate``, ``window_s``, ``dim`` and ``label`` are copied from it.

    Raises
    ------
    InputError
        The file cannot be run.
    """

    def __init__(self, path: Path, *, geometry: Mapping[str, Any] | None = None,
                 threads: int | None = None) -> None:
        self.info: TfliteInfo = describe_tflite(Path(path), geometry)
        self.rate, self.dim, self.label = self.info.rate, self.info.dim, self.info.label
        self.window_s, self.engine_name = self.info.window_s, "tflite"
        self.trained = True
        self.threads = threads
        self._interpreters = Interpreters(Path(path), threads=threads)

    def embed(self, frames: np.ndarray | CutFrames | JoinedFrames, batch_size: int | None = None,
              on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Embeddings of frames.

        Parameters
        ----------
        frames
            (n, samples), see ``Embedder.embed``.
        batch_size
            Frames computed at once; None: a few per thread.
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
        size = self._interpreters.batch_size if batch_size is None else batch_size
        result = np.empty((len(frames), self.dim), np.float32)
        for start in range(0, len(frames), size):
            part = to_float(np.asarray(frames[start:start + size]))
            inputs = part if self.info.frontend is None else self.info.frontend(
                part, threads=self.threads)
            self._interpreters.run(inputs, result[start:start + len(part)])
            if on_batch is not None:
                on_batch(len(part))
        return result


class Interpreters:
    """One interpreter per thread, each computing one input at a time.

    Parameters
    ----------
    path
        The file.
    content
        The model to compute, if it is not the file unchanged.
    threads
        None: all that the process was given.

    Attributes
    ----------
    batch_size
        A good number of inputs at once.

    Raises
    ------
    InputError
        The file cannot be run.
    """

    def __init__(self, path: Path, content: bytes | None = None, threads: int | None = None
                 ) -> None:
        count = threads or allocated_cores()
        refuse_fork()
        _refuse_crashing_file(path)
        # One for each thread, because an interpreter holds the values of the frame that it
        # computes.
        self._interpreters = [_interpreter(path, content) for _ in range(count)]
        self._pool = ThreadPoolExecutor(count)
        self.batch_size = FRAMES_PER_THREAD * count

    def run(self, inputs: np.ndarray, out: np.ndarray) -> None:
        """Compute outputs.

        Parameters
        ----------
        inputs
            (n, …), each with as many values as the model's input.
        out
            (n, values) float32, filled with the flattened outputs.
        """
        refuse_fork()
        # The threads share one iterator: each takes the next frame when it has finished one.
        remaining = iter(range(len(inputs)))

        def work(interpreter: tf.lite.Interpreter) -> None:
            for index in remaining:
                out[index] = _embed_one(interpreter, inputs[index])

        list(self._pool.map(work, self._interpreters))


def _refuse_crashing_file(path: Path) -> None:
    """Load the file and run it once in another process; an ``InputError`` where that crashes.

    TensorFlow Lite does not verify the structure of a file: a damaged one can crash the process
    that loads or runs it. Files that run are remembered by their content.
    """
    digest = digest_file(path)
    with contextlib.suppress(OSError, InputError, TypeError, ValueError):
        if digest in read_json(cache_file().with_name(CHECKED_FILES)):
            return
    try:
        done = subprocess.run([sys.executable, "-m", __name__, str(path)], capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=CHECK_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):  # slow is not damaged
        return
    # Ended by a signal. Errors with a message are raised again, and shown, where the file is used.
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise InputError(f"is damaged: TensorFlow Lite crashes on it ({name})", where=str(path),
                         hint="Export or copy the model once more.")
    with contextlib.suppress(OSError, InputError, TypeError, ValueError):  # a cache may be lost
        cached = cache_file().with_name(CHECKED_FILES)
        checked = read_json(cached) if cached.exists() else []
        write_json(cached, [*checked[-MAX_CHECKED:], digest], durable=False)


def main(path: str) -> None:
    """``python -m l3hpc.models.tflite FILE``: load a model and run it once on zeros.

    Errors that TensorFlow Lite raises are ignored here; they are raised again where the file is
    used.

    Parameters
    ----------
    path
        The file.
    """
    # A crash is an expected result here, and should not leave a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(Exception):
        interpreter = _interpreter(Path(path))
        _embed_one(interpreter, np.zeros(interpreter.get_input_details()[0]["shape"], np.float32))


def _interpreter(path: Path, content: bytes | None = None) -> tf.lite.Interpreter:
    import_tensorflow()
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to a package of its own
        try:
            model = {"model_path": str(path)} if content is None else {"model_content": content}
            interpreter = tf.lite.Interpreter(**model, num_threads=1)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError, MemoryError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise InputError(f"cannot be run by TFLite: {lines[0]}", where=str(path)) from None
    return interpreter


def _embed_one(interpreter: tf.lite.Interpreter, values: np.ndarray) -> np.ndarray:
    """The embedding (dim,) float32 of one input."""
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    values = values.reshape(source["shape"])
    scale, zero = source["quantization"]
    if source["dtype"] != np.float32:
        limits = np.iinfo(source["dtype"])
        values = np.clip(np.rint(values / (scale or 1.0)) + zero, limits.min, limits.max)
    interpreter.set_tensor(source["index"], values.astype(source["dtype"]))
    interpreter.invoke()
    result = interpreter.get_tensor(target["index"]).reshape(-1)
    if target["dtype"] == np.float32:
        return np.asarray(result, np.float32)
    scale, zero = target["quantization"]
    return ((result.astype(np.float32) - zero) * np.float32(scale or 1.0)).astype(np.float32)


if __name__ == "__main__":
    quiet_first_import()
    main(sys.argv[1])
