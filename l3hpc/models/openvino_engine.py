"""Run a folded or quantised network with OpenVINO on the CPU: float32, bfloat16 or 8-bit integers.

OpenVINO is in the extra ``reduced``. Its convolutions are direct ones, at the processor's matrix
rate for each precision: in float32 the Winograd convolutions of ncnn are faster, in integers
nothing is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.arrays.threads import allocated_cores, compute_batches
from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.models.parameters import Convolution, FoldedNetwork
from l3hpc.models.quantisation import (
    INPUT_LEVELS,
    Calibration,
    QuantisedConvolution,
    QuantisedNetwork,
    patch_moment,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    import openvino

FRAMES_PER_REQUEST = {"float32": 1, "bfloat16": 4, "int8": 4}  # more is no faster in float32
FRAMES_PER_THREAD = 16
TYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # of what is not quantised
EXTRA = "reduced"


def available() -> bool:
    """Whether OpenVINO is installed."""
    from importlib.util import find_spec

    return find_spec("openvino") is not None


def computes_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor.

    Where it does not, it treats the request as a hint and computes in float32 without a message.
    """
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """Spectrograms to embeddings, a few frames per request, one request per thread.

    Parameters
    ----------
    network
        A ``QuantisedNetwork`` is computed in int8, a ``FoldedNetwork`` in ``precision``.
    threads
        CPU threads; None: all that the process was given.
    precision
        ``float32`` or ``bfloat16``.

    Raises
    ------
    InputError
        OpenVINO is not installed.
    """

    name = "openvino"
    few_shapes = False

    def __init__(self, network: FoldedNetwork | QuantisedNetwork, threads: int | None = None,
                 precision: str = "float32") -> None:
        quantised = isinstance(network, QuantisedNetwork)
        self.precision = "int8" if quantised else precision
        self._dim = network.spec.dim
        self._threads = threads or allocated_cores()
        self._size = FRAMES_PER_REQUEST[self.precision]
        self._compiled = _compile(_graph(network, self._size), self._threads, self.precision)
        self._pool = ThreadPoolExecutor(self._threads)
        self._request = _Request(self._compiled)

    def batch_size(self, activation_bytes: int) -> int:
        """A few requests for each thread; see ``Engine.batch_size``."""
        return FRAMES_PER_THREAD * self._threads

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Compute a batch; see ``Engine.run``."""
        return next(self.run_batches([spectrograms]))

    def run_batches(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute batches, in order; see ``BatchesEngine.run_batches``."""
        parts = ([batch[start:start + self._size] for start in range(0, len(batch), self._size)]
                 for batch in batches)
        for rows in compute_batches(self._few, parts, self._pool):
            yield np.concatenate([np.empty((0, self._dim), np.float32), *rows])

    def _few(self, spectrograms: np.ndarray) -> np.ndarray:
        """Compute as many frames as a request takes, or fewer, on the request of this thread."""
        inputs = self._request.inputs
        # What the frames do not fill keeps earlier ones, whose results are not copied.
        inputs[:len(spectrograms), 0] = spectrograms
        self._request.request.infer({0: inputs}, share_inputs=True)
        return np.array(self._request.outputs[:len(spectrograms)])

    @property
    def kernels(self) -> list[str]:
        """The kernel that computes each convolution, by OpenVINO's name (``..._I8``: integers)."""
        names = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if info["layerType"].astype(str) == "Convolution":
                names.append(str(info["primitiveType"].astype(str)))
        return names


def calibrate(network: FoldedNetwork, spectrograms: np.ndarray, threads: int | None = None
            ) -> Calibration:
    """Measure the ranges of a network's inputs, in float32.

    Parameters
    ----------
    network
        The folded network.
    spectrograms
        (n, bands, times) in dB of real frames.
    threads
        CPU threads; None: all that the process was given.

    Returns
    -------
    Calibration
        The ranges.
    """
    compiled = _compile(_graph(network, 1, peaks=True), threads or allocated_cores(), "float32",
                        streams=1)
    peaks = [np.zeros(count, np.float32) for count in network.spec.filters[:-1]]
    for spectrogram in spectrograms:
        outputs = compiled({0: np.ascontiguousarray(spectrogram[None, None], np.float32)})
        peaks = [np.maximum(peak, outputs[index][0]) for index, peak in enumerate(peaks)]
    return Calibration(tuple(peaks), patch_moment(spectrograms, network.scale, network.shift))


class _Request(threading.local):
    """A request of each thread, and the arrays of its inputs and outputs.

    The first one must be made before other threads start: two that ask OpenVINO for their first
    array at the same moment wait for each other for ever.
    """

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.request = compiled.create_infer_request()
        self.inputs = np.zeros(compiled.input(0).shape, np.float32)
        self.outputs = self.request.get_output_tensor().data


@functools.cache
def _core() -> openvino.Core:
    """The OpenVINO core, one for the life of the process.

    OpenVINO gives the thread that loads it a stack for signals. When the last core is deleted on
    another thread, that stack is freed while it is in use, and the next signal (such as Slurm's
    warning before the time limit) ends the process.
    """
    import openvino

    return openvino.Core()


def _compile(model: openvino.Model, threads: int, precision: str, streams: int | None = None
             ) -> openvino.CompiledModel:
    return _core().compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": str(streams or threads),
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,  # use all threads of the task, even if they share cores
        "ENABLE_CPU_PINNING": False,  # would put two tasks of a node on the same cores
        "INFERENCE_PRECISION_HINT": TYPES[precision],
    })


def _graph(network: FoldedNetwork | QuantisedNetwork, frames: int, peaks: bool = False
           ) -> openvino.Model:
    """OpenVINO's model for a number of frames; ``peaks``: its outputs are for ``calibrate``."""
    if not available():
        raise InputError("the engine openvino is not installed", where="precision",
                         allowed="float32 without it", hint=install_command(EXTRA))
    import openvino
    from openvino import opset13 as ops

    layers: Sequence[Convolution | QuantisedConvolution] = network.convolutions
    spectrogram = ops.parameter([frames, 1, *network.spec.frontend.shape], np.float32)
    x = ops.add(ops.multiply(spectrogram, _constant(network.scale)), _constant(network.shift))
    if isinstance(network, QuantisedNetwork):
        x = ops.concat([ops.relu(x), ops.relu(ops.negative(x))], 1)
    maxima = []
    for index, layer in enumerate(layers):
        weights, bias = _weight_constants(layer)
        if isinstance(layer, QuantisedConvolution) and index == 0:
            x = _quantise_input(x, layer.limit)
        x = ops.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        x = ops.add(x, bias)
        if layer.relu:
            x = ops.relu(x)
        if index < len(layers) - 1:
            maxima.append(ops.reduce_max(x, _constant([2, 3], np.int64)).output(0))
            after = layers[index + 1]
            if isinstance(after, QuantisedConvolution):
                # Before the pooling, which then processes bytes.
                x = _quantise_input(x, after.limit)
        if index in network.spec.halvings:
            x = _pool(x, (2, 2))
    x = ops.transpose(_pool(x, network.spec.pool), _constant([0, 2, 3, 1], np.int64))
    x = ops.reshape(x, _constant([0, -1], np.int64), True)
    return openvino.Model(maxima if peaks else [x.output(0)], [spectrogram], "l3")


def _weight_constants(layer: Convolution | QuantisedConvolution
                      ) -> tuple[openvino.Node, openvino.Node]:
    """Weights and bias of a layer as constants of OpenVINO."""
    from openvino import opset13 as ops

    kernel = np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1))
    bias = _constant(layer.bias.reshape(1, -1, 1, 1))
    if not isinstance(layer, QuantisedConvolution):
        return _constant(kernel), bias
    whole = ops.convert(_constant(kernel, np.int8), "f32")
    return ops.multiply(whole, _constant(layer.step.reshape(-1, 1, 1, 1))), bias


def _quantise_input(x: openvino.Node, limit: float) -> openvino.Node:
    from openvino import opset13 as ops

    low, high = _constant(0.0), _constant(limit)
    return ops.fake_quantize(x, low, high, low, high, INPUT_LEVELS + 1)


def _pool(x: openvino.Node, size: tuple[int, int]) -> openvino.Output:
    from openvino import opset13 as ops

    return ops.max_pool(x, list(size), [1, 1], [0, 0], [0, 0], list(size), "floor").output(0)


def _constant(values: npt.ArrayLike, kind: npt.DTypeLike = np.float32) -> openvino.Node:
    from openvino import opset13 as ops

    return ops.constant(np.asarray(values, kind))
