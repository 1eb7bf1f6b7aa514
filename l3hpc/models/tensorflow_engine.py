"""Run a folded network with TensorFlow, on the CPU or a GPU. Imports TensorFlow when created."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np

from l3hpc.errors import L3hpcError
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.tensorflow_log import import_tensorflow

CPU_ACTIVATION_BYTES = 96 << 20
GPU_ACTIVATION_BYTES = 1 << 30
MAX_BATCH = 512
_process: int | None = None  # in which TensorFlow's threads were started


def refuse_fork() -> None:
    """Raise ``L3hpcError`` in a process that was forked from one in which TensorFlow computed.

    Its threads stayed behind in the parent: whatever is computed here would be waited for without
    an end.
    """
    global _process
    if _process is None:
        _process = os.getpid()
    elif _process != os.getpid():
        raise L3hpcError(
            "TensorFlow cannot compute in a forked process: its threads stayed in the parent",
            hint="Start processes with multiprocessing.get_context('spawn'), load the model in "
                 "each process before the parent loads one, or use ncnn (engine='ncnn')")


class TensorFlowEngine:
    """Spectrograms to embeddings through one traced graph whose weights are constants.

    ``threads`` fixes TensorFlow's intra-operation threads; TensorFlow can only be told before it
    first computes in a process, later the value is left as it is. ``precision``: ``float32``, or
    ``bfloat16`` for the convolutions.
    """

    name = "tensorflow"
    few_shapes = True

    def __init__(self, network: FoldedNetwork, threads: int | None = None,
                 precision: str = "float32") -> None:
        import_tensorflow()
        import tensorflow as tf

        refuse_fork()
        if threads is not None:
            with contextlib.suppress(RuntimeError):  # TensorFlow has already started its threads
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(1)
        self.device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
        self._network = network
        self.precision = precision
        self._type = tf.as_dtype(precision)
        shape = (None, *network.spec.frontend.shape, 1)
        self._function = tf.function(
            self._forward, input_signature=[tf.TensorSpec(shape, tf.float32)])

    def batch_size(self, activation_bytes: int) -> int:
        """A batch whose largest feature map fits this device's share of memory."""
        budget = GPU_ACTIVATION_BYTES if self.device == "gpu" else CPU_ACTIVATION_BYTES
        return int(min(max(budget // activation_bytes, 1), MAX_BATCH))

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) float32 of spectrograms (n, bands, times) float32."""
        import tensorflow as tf

        refuse_fork()
        return np.asarray(self._function(tf.constant(spectrograms[..., None])).numpy())

    @property
    def traces(self) -> int:
        """How often the graph was traced: 1 once it has run, whatever the batch sizes."""
        return int(self._function.experimental_get_tracing_count())

    def _forward(self, x: Any) -> Any:
        import tensorflow as tf

        x = tf.cast(x * self._network.scale + self._network.shift, self._type)
        for index, layer in enumerate(self._network.convolutions):
            x = tf.nn.conv2d(x, tf.constant(layer.kernel, self._type), 1, "SAME")
            x = tf.nn.bias_add(x, tf.constant(layer.bias, self._type))
            if layer.relu:
                x = tf.nn.relu(x)
            if index in self._network.spec.halvings:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        pool = self._network.spec.pool
        x = tf.nn.max_pool2d(x, pool, pool, "SAME")
        return tf.reshape(tf.cast(x, tf.float32), [-1, self._network.spec.dim])
