"""Run an exported model here: in TensorFlow Lite (``Runner``) and in TFLite Micro (``run_micro``).

``Runner`` uses the built-in kernels without the XNNPACK delegate, whose rounding differs: they give
the same integers as TFLite Micro. ``run_micro`` gives TFLite Micro's outputs and its recorded
arena. That interpreter's Python package has wheels for CPython 3.11 on x86-64 Linux only; it runs
in a process of its own, by this very Python where the package is installed (extra ``micro``), or by
the one that ``L3HPC_TFLM_PYTHON`` names.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError, L3hpcError
from l3hpc.export.graph import Graph
from l3hpc.installation import install_command
from l3hpc.io.npz import read_npy

VARIABLE = "L3HPC_TFLM_PYTHON"
ARENA_OFFERED = 64 << 20  # bytes of arena offered: more than any network of this family takes
TIMEOUT_S = 300
_TOTAL = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_PART = re.compile(r"'(.+)' used (\d+) bytes")


class Runner:
    """A flatbuffer ready to run, one example at a time.

    Attributes
    ----------
    shape: of the input, with the leading 1. dtype: of the input.
    input_scale, input_zero, output_scale, output_zero: real = scale * (integer - zero); scale 0
        where there is no quantisation.
    """

    def __init__(self, flatbuffer: bytes, *, reference: bool = False) -> None:
        import tensorflow as tf

        kinds = tf.lite.experimental.OpResolverType
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about another package of the same interpreter
            self._interpreter: Any = tf.lite.Interpreter(
                model_content=flatbuffer, experimental_op_resolver_type=(
                    kinds.BUILTIN_REF if reference else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES))
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self.shape = tuple(int(size) for size in self._input["shape"])
        self.dtype = np.dtype(self._input["dtype"])
        self.input_scale, self.input_zero = self._input["quantization"]
        self.output_scale, self.output_zero = self._output["quantization"]

    def raw(self, examples: np.ndarray) -> np.ndarray:
        """Outputs (n, dim), in the file's own numbers, of inputs (n, …) in the file's own."""
        if examples.dtype != self.dtype or examples[0].size != np.prod(self.shape):
            raise InputError(f"inputs {examples.shape} of {examples.dtype}",
                             allowed=f"(n, …) of shape {self.shape} and {self.dtype}")
        found = []
        for example in examples:
            self._interpreter.set_tensor(self._input["index"], example.reshape(self.shape))
            self._interpreter.invoke()
            found.append(self._interpreter.get_tensor(self._output["index"])[0])
        return np.array(found)

    def embed(self, examples: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) float32 of real-valued inputs (n, …): spectrograms in dB, or audio.
        """
        values = self.quantised(examples) if self.input_scale else examples.astype(self.dtype)
        found = self.raw(values)
        if not self.output_scale:
            return found.astype(np.float32)
        return ((found.astype(np.float32) - self.output_zero) * self.output_scale).astype(
            np.float32)

    def quantised(self, examples: np.ndarray) -> np.ndarray:
        """Real values as the input's integers, clipped to their range."""
        limits = np.iinfo(self.dtype)
        scaled = np.rint(examples / self.input_scale) + self.input_zero
        return np.asarray(np.clip(scaled, limits.min, limits.max).astype(self.dtype))


class MicroUnavailable(L3hpcError):
    """There is no TFLite Micro interpreter here."""


class MicroRefused(L3hpcError):
    """TFLite Micro does not have an operator of the model, or not for its type."""


@dataclass(frozen=True)
class Recorded:
    """What the interpreter recorded, in bytes: ``head`` holds maps, ``tail`` everything else.

    parts: what the tail is made of, by the interpreter's own names. outputs: (n, dim) in the
    model's own numbers.
    """

    total: int
    head: int
    tail: int
    parts: dict[str, int]
    outputs: np.ndarray


def run_micro(flatbuffer: bytes, examples: np.ndarray | None = None) -> Recorded:
    """Run a model on ``examples`` (n, …) in its own numbers (one input of zeros where None).

    Raises ``MicroUnavailable`` where the interpreter cannot be had, ``MicroRefused`` where it
    has not an operator of the model, or not for its type.
    """
    interpreter = micro_python()
    graph = Graph(flatbuffer)
    shape, kind = graph.shape(graph.inputs[0]), np.dtype(graph.type(graph.inputs[0]).lower())
    rows = np.zeros((1, *shape), kind) if examples is None else examples.reshape(-1, *shape)
    with tempfile.TemporaryDirectory() as place:
        model, inputs, outputs = (Path(place) / name for name in
                                  ("model.tflite", "inputs.npy", "outputs.npy"))
        model.write_bytes(flatbuffer)
        np.save(inputs, rows, allow_pickle=False)
        child = Path(__file__).with_name("micro_child.py")
        done = subprocess.run(
            [interpreter, str(child), str(model), str(inputs), str(outputs), str(ARENA_OFFERED)],
            capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S)
        if done.returncode:
            raise MicroRefused("TensorFlow Lite Micro refused the model: "
                             + " / ".join(done.stderr.splitlines()[:2]))
        found = read_npy(outputs)
    totals = {name: int(size) for name, size in _TOTAL.findall(done.stderr)}
    parts = {name: int(size) for name, size in _PART.findall(done.stderr)}
    return Recorded(totals["total"], totals["head"], totals["tail"], parts, found)


def micro_python() -> str:
    """The interpreter to use; ``MicroUnavailable`` where there is none, with how to get one."""
    chosen = os.environ.get(VARIABLE) or sys.executable
    if not _has_package(chosen):
        raise MicroUnavailable(
            f"no tflite_micro for {chosen}", where=VARIABLE if os.environ.get(VARIABLE) else None,
            hint=f"on CPython 3.11 (x86-64 Linux): {install_command('micro')}, or name such an "
                 f"interpreter in {VARIABLE}")
    return chosen


@functools.lru_cache(maxsize=8)
def _has_package(interpreter: str) -> bool:
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('tflite_micro') is None)"
    try:
        return subprocess.run([interpreter, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False
