"""Run a TFLite model on this machine's processor, as a microcontroller's model is tried out here.

One interpreter per thread, one frame at a time; integer inputs and outputs are converted by the
scales in the file. It is made for checking models that are to run elsewhere, not for speed.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from l3hpc.audio.files import to_float
from l3hpc.audio.framing import CutFrames, JoinedFrames
from l3hpc.cores import allocated_cores
from l3hpc.errors import InputError
from l3hpc.models.tensorflow_engine import refuse_fork
from l3hpc.models.tflite_file import TfliteInfo, describe
from l3hpc.quiet import import_tensorflow

FRAMES_PER_THREAD = 16
TRIAL_S = 10.0


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
    """Load the file and run it once in a child process; an ``InputError`` where that kills it.

    TensorFlow Lite does not check what a file says of its own structure: a damaged one can end the
    process that loads or runs it, and everything else that is going on there.
    """
    import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses none of our threads
        child = os.fork()
    if child == 0:
        _try_and_exit(path)
    end = time.monotonic() + TRIAL_S
    while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return  # slow is not damaged
        time.sleep(0.002)
    if os.WIFSIGNALED(status[1]):
        name = signal.Signals(os.WTERMSIG(status[1])).name
        raise InputError(f"is damaged: TensorFlow Lite crashes on it ({name})", where=str(path),
                         hint="Export or copy the model once more.")


def _try_and_exit(path: Path) -> NoReturn:
    """What the child does. An error that TensorFlow Lite names comes again in the parent."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        interpreter = _interpreter(path)
        _one(interpreter, np.zeros(interpreter.get_input_details()[0]["shape"], np.float32))
    finally:
        os._exit(0)


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
