"""Run an exported model on this machine: in TensorFlow Lite, and in TensorFlow Lite Micro.

``TfliteRunner`` uses the built-in kernels without the XNNPACK delegate, whose rounding differs:
they give the same integers as TFLite Micro. ``run_micro`` gives TFLite Micro's outputs and the
arena that it recorded. That interpreter's Python package has wheels for CPython 3.11 on x86-64
Linux only; it runs in a process of its own, with this Python where the package is installed (extra
``micro``), or with the one that ``L3HPC_TFLM_PYTHON`` names.
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
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.errors import InputError, L3hpcError
from l3hpc.export.graph import Graph
from l3hpc.installation import install_command
from l3hpc.io.npz import read_npy

if TYPE_CHECKING:
    import tensorflow as tf

PYTHON_VARIABLE = "L3HPC_TFLM_PYTHON"
ARENA_OFFERED = 64 << 20  # bytes: more than any network of this family needs
TIMEOUT_S = 300
_TOTAL = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_PART = re.compile(r"'(.+)' used (\d+) bytes")


class TfliteRunner:
    """A flatbuffer that is ready to run, one example at a time.

    Parameters
    ----------
    flatbuffer
        The model.
    reference
        Whether to use the reference kernels.

    Attributes
    ----------
    shape
        Of the input, with the leading 1.
    dtype
        Of the input.
    input_scale, input_zero, output_scale, output_zero
        real = scale * (integer - zero); scale 0 where there is no quantisation.
    """

    def __init__(self, flatbuffer: bytes, *, reference: bool = False) -> None:
        import tensorflow as tf

        kinds = tf.lite.experimental.OpResolverType
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about another package of the same interpreter
            self._interpreter: tf.lite.Interpreter = tf.lite.Interpreter(
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
        """Run the model on inputs in the file's own numbers.

        Parameters
        ----------
        examples
            (n, …) in the type of the input.

        Returns
        -------
        numpy.ndarray
            (n, dim) in the type of the output.

        Raises
        ------
        InputError
            The examples have another shape or type.
        """
        if examples.dtype != self.dtype or examples[0].size != np.prod(self.shape):
            raise InputError(f"inputs {examples.shape} of {examples.dtype}",
                             allowed=f"(n, …) of shape {self.shape} and {self.dtype}")
        outputs = []
        for example in examples:
            self._interpreter.set_tensor(self._input["index"], example.reshape(self.shape))
            self._interpreter.invoke()
            outputs.append(self._interpreter.get_tensor(self._output["index"])[0])
        return np.array(outputs)

    def embed(self, examples: np.ndarray) -> np.ndarray:
        """Embed real-valued inputs.

        Parameters
        ----------
        examples
            (n, …): spectrograms in dB, or audio in [-1, 1].

        Returns
        -------
        numpy.ndarray
            (n, dim) float32.
        """
        values = self.quantised(examples) if self.input_scale else examples.astype(self.dtype)
        outputs = self.raw(values).astype(np.float32)
        if not self.output_scale:
            return outputs
        return ((outputs - self.output_zero) * self.output_scale).astype(np.float32)

    def quantised(self, examples: np.ndarray) -> np.ndarray:
        """Convert real values to the input's integers, clipped to their range.

        Parameters
        ----------
        examples
            Any shape.

        Returns
        -------
        numpy.ndarray
            The same shape.
        """
        limits = np.iinfo(self.dtype)
        scaled = np.rint(examples / self.input_scale) + self.input_zero
        return np.asarray(np.clip(scaled, limits.min, limits.max).astype(self.dtype))


class MicroUnavailable(L3hpcError):
    """The TFLite Micro interpreter is not installed."""


class MicroRefused(L3hpcError):
    """TFLite Micro lacks an operator of the model, or lacks it for this type."""


@dataclass(frozen=True)
class Recorded:
    """What the interpreter recorded, in bytes.

    Attributes
    ----------
    total
        The whole arena.
    head
        The feature maps.
    tail
        Everything else.
    parts
        What the tail consists of, by the interpreter's own names.
    outputs
        (n, dim) in the model's own numbers.
    """

    total: int
    head: int
    tail: int
    parts: dict[str, int]
    outputs: np.ndarray


def run_micro(flatbuffer: bytes, examples: np.ndarray | None = None) -> Recorded:
    """Run a model in TFLite Micro, in a process of its own.

    Parameters
    ----------
    flatbuffer
        The model.
    examples
        (n, …) in the model's own numbers; None: one input of zeros.

    Returns
    -------
    Recorded
        The arena and the outputs.

    Raises
    ------
    MicroUnavailable
        The interpreter is not installed.
    MicroRefused
        It lacks an operator of the model.
    """
    interpreter = micro_python()
    graph = Graph(flatbuffer)
    shape, kind = graph.shape(graph.inputs[0]), np.dtype(graph.type(graph.inputs[0]).lower())
    rows = np.zeros((1, *shape), kind) if examples is None else examples.reshape(-1, *shape)
    with tempfile.TemporaryDirectory() as folder:
        model, inputs, outputs = (Path(folder) / name for name in
                                  ("model.tflite", "inputs.npy", "outputs.npy"))
        model.write_bytes(flatbuffer)
        # By files, because the other Python may have another version of NumPy, and none of this
        # package.
        np.save(inputs, rows, allow_pickle=False)
        child = Path(__file__).with_name("micro_child.py")
        done = subprocess.run(
            [interpreter, str(child), str(model), str(inputs), str(outputs), str(ARENA_OFFERED)],
            capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S)
        if done.returncode:
            raise MicroRefused("TensorFlow Lite Micro refused the model: "
                               + " / ".join(done.stderr.splitlines()[:2]))
        results = read_npy(outputs)
    totals = {name: int(size) for name, size in _TOTAL.findall(done.stderr)}
    parts = {name: int(size) for name, size in _PART.findall(done.stderr)}
    return Recorded(totals["total"], totals["head"], totals["tail"], parts, results)


def micro_python() -> str:
    """The Python interpreter that has the package ``tflite_micro``.

    Returns
    -------
    str
        Path of the program.

    Raises
    ------
    MicroUnavailable
        There is none; the message says how to get one.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    chosen = named or sys.executable
    if not _has_package(chosen):
        raise MicroUnavailable(
            f"no tflite_micro for {chosen}", where=PYTHON_VARIABLE if named else None,
            hint=f"on CPython 3.11 (x86-64 Linux): {install_command('micro')}, or name such an "
                 f"interpreter in {PYTHON_VARIABLE}")
    return chosen


@functools.lru_cache(maxsize=8)
def _has_package(interpreter: str) -> bool:
    # without the working folder, whose modules would take the place of those of Python
    code = ("import sys; sys.path[:] = filter(None, sys.path); import importlib.util as u; "
            "sys.exit(u.find_spec('tflite_micro') is None)")
    try:
        return subprocess.run([interpreter, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False
