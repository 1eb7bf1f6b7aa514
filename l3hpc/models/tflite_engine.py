"""Run a TFLite model on this machine's processor, as a microcontroller's model is tried out here.

One interpreter per thread, one frame at a time; integer inputs and outputs are converted by the
scales in the file. It is made for checking models that are to run elsewhere, not for speed.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.cores import allocated_cores
from l3hpc.audio.files import to_float
from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.errors import InputError
from l3hpc.io.files import digest_file, read_json, write_json
from l3hpc.models.engines import cache_file
from l3hpc.models.tensorflow_engine import refuse_fork
from l3hpc.models.tensorflow_log import import_tensorflow
from l3hpc.models.tflite_file import TfliteInfo, describe

FRAMES_PER_THREAD = 16
TRIAL_S = 120.0
TRIED = "tflite-tried.json"  # digests of files that were run once
MOST_TRIED = 1000


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
    """``python -m l3hpc.models.tflite_engine FILE``: load a model and run it once on zeros.

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
