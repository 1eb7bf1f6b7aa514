"""Run a TFLite file here: embeddings of spectrograms, in the integers of the file or in floats.

The built-in kernels are used without the XNNPACK delegate, whose rounding differs: they give the
same integers as TFLite Micro.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from l3hpc.errors import InputError


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
