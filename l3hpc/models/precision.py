"""A network in 8-bit integers: which numbers each layer keeps, from what it saw on real frames.

Weights are signed, with one step per output channel; inputs of convolutions are unsigned, with one
step per layer (what 8-bit kernels compute). Four things keep the error small and cost no time:

* Channels are brought nearer to each other before one step is laid over them (Nagel et al. 2019,
  "Data-free quantization through weight equalization and bias correction"): a channel's scale
  passes through ReLU and maximum unchanged, and the next layer takes it back.
* The spectrogram, signed after its normalisation, enters as two channels, what is above zero and
  what is below: no offset is needed, so that the zeros around it stay zeros.
* The first layer's nine weights per filter are rounded together, up or down, so that the error on
  typical spectrograms (neighbouring values are similar) is least; rounded one by one, this layer
  alone makes most of the error.
* Ranges are the largest values seen; what exceeds them later is clipped, it never wraps around.

Run a network with OpenVINO on the CPU: in bfloat16 or 8-bit integers (float32 to compare).

OpenVINO is in the extra ``reduced``. Its convolutions are direct ones, at the processor's matrix
rate for each precision: in float32 Winograd is faster, in integers nothing is.

Embedding in reduced precision, by choice: which engine does it, and how far off it is.

float32 is the default and exact (see ``engines``). bfloat16 and int8 are faster and change the
embeddings, so that the choice is part of what an artifact is, and the deviation from float32 on
real frames is measured and reported each time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.audio.files import to_float
from l3hpc.audio.frontends import RANGE_DB
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.models import engines, torch_engine
from l3hpc.models.embedder import Embedder, Engine
from l3hpc.models.parameters import Convolution, FoldedNetwork
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import load_parameters

WEIGHT_LEVELS = 127
INPUT_LEVELS = 255
EQUALISATION = 0.25  # power of a channel's largest value that becomes its scale
QUIET = 1e-3  # a channel below this part of its layer's largest value counts as this loud
FRAMES_PER_REQUEST = {"float32": 1, "bfloat16": 4, "int8": 4}  # float32: memory, it gains nothing
FRAMES_PER_THREAD = 16
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # int8: of what stays float
EXTRA = "reduced"
PRECISIONS = ("float32", "tf32", "bfloat16", "int8")
ENGINES = {"tf32": ("auto", "torch"), "bfloat16": ("auto", "tensorflow", "torch"),
           "int8": ("auto",)}
INSTRUCTIONS = {"bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
                "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")}
LEAST_COSINE = 0.95


@dataclass(frozen=True)
class Calibration:
    """What a network saw on some frames.

    peaks: the largest output after ReLU of each channel, of all convolutions but the last.
    moment: (9, 9) mean products of the pixels under a 3x3 filter (row by row) of the normalised
        spectrogram with its border of zeros.
    """

    peaks: tuple[np.ndarray, ...]
    moment: np.ndarray


@dataclass(frozen=True)
class QuantisedConvolution:
    """One convolution: its weights are ``kernel`` (3, 3, in, out) int8 times ``step`` (out,).

    limit: the largest input; an input x counts as ``round(255 x / limit)`` between 0 and 255.
    bias (out,) and step are float32.
    """

    kernel: np.ndarray
    step: np.ndarray
    bias: np.ndarray
    relu: bool
    limit: float


@dataclass(frozen=True)
class QuantisedNetwork:
    """As ``FoldedNetwork``; the first convolution takes max(y, 0) and max(-y, 0) of the normalised
    spectrogram y."""

    spec: NetworkSpec
    scale: float
    shift: float
    convolutions: tuple[QuantisedConvolution, ...]


def quantise(network: FoldedNetwork, calibration: Calibration) -> QuantisedNetwork:
    """The network with ranges from ``calibration``."""
    network, peaks = equalise(network, calibration.peaks)
    ends = np.array([0.0, -RANGE_DB]) * network.scale + network.shift
    limits = [float(np.abs(ends).max()), *(float(peak.max()) for peak in peaks)]
    convolutions = []
    for index, (layer, limit) in enumerate(zip(network.convolutions, limits, strict=True)):
        largest = np.abs(layer.kernel).max(axis=(0, 1, 2))
        step = np.where(largest > 0, largest, 1.0) / WEIGHT_LEVELS
        if index == 0:
            rounded = round_together(layer.kernel / step, calibration.moment)
            kernel = np.concatenate([rounded, -rounded], axis=2)
        else:
            kernel = np.rint(layer.kernel / step)
        convolutions.append(QuantisedConvolution(
            kernel.astype(np.int8), step.astype(np.float32), layer.bias, layer.relu,
            limit or 1.0))
    return QuantisedNetwork(network.spec, network.scale, network.shift, tuple(convolutions))


def equalise(network: FoldedNetwork, peaks: tuple[np.ndarray, ...]
             ) -> tuple[FoldedNetwork, list[np.ndarray]]:
    """The same function with channels nearer to each other in size, and their new peaks."""
    layers = list(network.convolutions)
    nearer = []
    for index, peak in enumerate(peaks):
        loudest = float(peak.max()) or 1.0
        size = np.maximum(peak, QUIET * loudest) / loudest
        scale = (size ** EQUALISATION).astype(np.float32)
        layer, after = layers[index], layers[index + 1]
        layers[index] = Convolution(layer.kernel / scale, layer.bias / scale, layer.relu)
        layers[index + 1] = replace(after, kernel=after.kernel * scale[:, None])
        nearer.append(peak / scale)
    return replace(network, convolutions=tuple(layers)), nearer


def round_together(weights: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Whole numbers near ``weights`` (3, 3, 1, out) with the least mean squared output error.

    Each weight goes up or down: all 512 ways are tried for every filter.
    """
    filters = weights.reshape(9, -1).T.astype(np.float64)
    down = np.floor(filters)
    ways = np.array(list(itertools.product((0, 1), repeat=9)))
    result = np.empty_like(filters)
    for index, values in enumerate(filters):
        tried = np.clip(down[index] + ways, -WEIGHT_LEVELS, WEIGHT_LEVELS)
        wrong = tried - values
        result[index] = tried[np.argmin(np.einsum("wi,ij,wj->w", wrong, moment, wrong))]
    return result.T.reshape(weights.shape)


def patch_moment(spectrograms: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """``Calibration.moment`` of spectrograms (n, bands, times) that ``scale``, ``shift`` normalise.
    """
    _, bands, times = spectrograms.shape
    total = np.zeros((9, 9))
    for spectrogram in spectrograms:
        padded = np.pad(spectrogram.astype(np.float64) * scale + shift, 1)
        pixels = np.stack([padded[row:row + bands, column:column + times].ravel()
                           for row in range(3) for column in range(3)])
        total += pixels @ pixels.T
    return total / spectrograms.size


def available() -> bool:
    """Whether OpenVINO can be imported here."""
    from importlib.util import find_spec

    return find_spec("openvino") is not None


def computes_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor. Where it does not, it takes the
    wish for a hint and computes in float32 without saying so."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """Spectrograms to embeddings, a few frames per request, one request per thread.

    A ``QuantisedNetwork`` is computed in int8; a ``FoldedNetwork`` in ``precision`` (float32 or
    bfloat16). Raises ``InputError`` where OpenVINO is not installed.
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
        import openvino

        self._queue = openvino.AsyncInferQueue(self._compiled)
        self._queue.set_callback(_take)

    def batch_size(self, activation_bytes: int) -> int:
        """A few requests for each thread."""
        return FRAMES_PER_THREAD * self._threads

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) float32 of spectrograms (n, bands, times) float32."""
        result = np.empty((len(spectrograms), self._dim), np.float32)
        for start in range(0, len(spectrograms), self._size):
            rows = result[start:start + self._size]
            batch = np.zeros(self._compiled.input(0).shape, np.float32)
            batch[:len(rows), 0] = spectrograms[start:start + len(rows)]
            self._queue.start_async({0: batch}, rows)
        self._queue.wait_all()
        return result

    @property
    def kernels(self) -> list[str]:
        """What computes each convolution, as OpenVINO names it (``..._I8``: integers)."""
        found = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if info["layerType"].astype(str) == "Convolution":
                found.append(str(info["primitiveType"].astype(str)))
        return found


def observe(network: FoldedNetwork, spectrograms: np.ndarray, threads: int | None = None
            ) -> Calibration:
    """What the network sees on spectrograms (n, bands, times), computed in float32."""
    compiled = _compile(_graph(network, 1, peaks=True), threads or allocated_cores(), "float32",
                        streams=1)
    peaks = [np.zeros(count, np.float32) for count in network.spec.filters[:-1]]
    for spectrogram in spectrograms:
        found = compiled({0: np.ascontiguousarray(spectrogram[None, None], np.float32)})
        peaks = [np.maximum(peak, found[index][0]) for index, peak in enumerate(peaks)]
    return Calibration(tuple(peaks), patch_moment(spectrograms, network.scale, network.shift))


def _take(request: Any, rows: np.ndarray) -> None:
    rows[:] = request.get_output_tensor().data[:len(rows)]


@functools.cache
def _core() -> Any:
    """One for the life of the process. OpenVINO gives the thread that loads it a stack for signals.
    When the last core goes on another thread, that stack is freed while it is in use, and the next
    signal (Slurm's warning before the time limit, say) ends the process."""
    import openvino

    return openvino.Core()


def _compile(model: Any, threads: int, precision: str, streams: int | None = None) -> Any:
    return _core().compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": str(streams or threads),
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,  # the threads we were given, whatever they share
        "ENABLE_CPU_PINNING": False,  # two tasks on a node would be put on the same cores
        "INFERENCE_PRECISION_HINT": HINTS[precision],
    })


def _graph(network: FoldedNetwork | QuantisedNetwork, frames: int, peaks: bool = False) -> Any:
    """OpenVINO's model for so many frames; ``peaks``: its outputs are what ``observe`` needs."""
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
    seen = []
    for index, layer in enumerate(layers):
        weights, bias = _weights(layer)
        if isinstance(layer, QuantisedConvolution) and index == 0:
            x = _rounded(x, layer.limit)
        x = ops.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        x = ops.add(x, bias)
        if layer.relu:
            x = ops.relu(x)
        if index < len(layers) - 1:
            seen.append(ops.reduce_max(x, _constant([2, 3], np.int64)).output(0))
            after = layers[index + 1]
            if isinstance(after, QuantisedConvolution):
                x = _rounded(x, after.limit)  # before the pooling, which then handles bytes
        if index in network.spec.halvings:
            x = _pool(x, (2, 2))
    x = ops.transpose(_pool(x, network.spec.pool), _constant([0, 2, 3, 1], np.int64))
    x = ops.reshape(x, _constant([0, -1], np.int64), True)
    return openvino.Model(seen if peaks else [x.output(0)], [spectrogram], "l3")


def _weights(layer: Convolution | QuantisedConvolution) -> tuple[Any, Any]:
    from openvino import opset13 as ops

    kernel = np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1))
    bias = _constant(layer.bias.reshape(1, -1, 1, 1))
    if not isinstance(layer, QuantisedConvolution):
        return _constant(kernel), bias
    whole = ops.convert(_constant(kernel, np.int8), "f32")
    return ops.multiply(whole, _constant(layer.step.reshape(-1, 1, 1, 1))), bias


def _rounded(x: Any, limit: float) -> Any:
    from openvino import opset13 as ops

    low, high = _constant(0.0), _constant(limit)
    return ops.fake_quantize(x, low, high, low, high, INPUT_LEVELS + 1)


def _pool(x: Any, size: tuple[int, int]) -> Any:
    from openvino import opset13 as ops

    return ops.max_pool(x, list(size), [1, 1], [0, 0], [0, 0], list(size), "floor").output(0)


def _constant(values: Any, kind: Any = np.float32) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.asarray(values, kind))


@dataclass(frozen=True)
class Deviation:
    """How far embeddings are from those in float32, frame by frame; silent embeddings left out.

    relative_error: length of the difference over length of the exact one, mean over frames.
    """

    frames: int
    relative_error: float
    largest_relative_error: float
    cosine: float
    least_cosine: float

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (f"relative error {self.relative_error:.2g} (at most "
                f"{self.largest_relative_error:.2g}), cosine {self.cosine:.5f} (at least "
                f"{self.least_cosine:.5f}) against float32 on {self.frames} frames")

    def refuse(self, precision: str) -> None:
        """Raise ``L3hpcError`` when these are no longer the network's embeddings."""
        if self.cosine < LEAST_COSINE:
            raise L3hpcError(f"embeddings in {precision} are too far off: {self}",
                             where="precision", allowed=f"a mean cosine of {LEAST_COSINE} or more",
                             hint="use float32, or a node whose processor has instructions for it")


def check(precision: str, engine: str, where: str) -> None:
    """Refuse (``InputError``) an engine that does not compute in ``precision``."""
    allowed = ENGINES.get(precision)
    if allowed is not None and engine not in allowed:
        raise InputError(f"the engine {engine} does not compute in {precision}",
                         where=f"{where}.engine", allowed=", ".join(allowed),
                         hint=f"leave {where}.engine at auto, or {where}.precision at float32")


def packages(precision: str, engine: str = "auto") -> dict[str, str]:
    """Importable name of what a precision or an engine cannot do without → how to install it."""
    if precision == "int8":
        return {"openvino": install_command(EXTRA)}
    if precision == "tf32" or engine == "torch":
        return {"torch": install_command(torch_engine.EXTRA)}
    return {}


def load(name: str | Path, precision: str, frames: np.ndarray | None = None, *,
         threads: int | None = None, engine: str = "auto", embedding_size: int | None = None,
         geometry: Mapping[str, Any] | None = None) -> tuple[Embedder, Embedder]:
    """The network of a file in reduced ``precision``, and the same in float32 to compare with.

    Parameters
    ----------
    frames: (n, rate) one-second frames as real as can be, from which int8 takes its ranges.
    engine: ``auto`` (on a GPU PyTorch, and TensorFlow where that is not installed; else OpenVINO,
        and TensorFlow where that is not installed or does not compute in bfloat16) or, for
        bfloat16, ``tensorflow`` or ``torch``. tf32 is PyTorch's.

    Raises ``InputError`` where nothing computes this here.
    """
    parameters, info = load_parameters(name, embedding_size=embedding_size, geometry=geometry)
    reduced, exact = _engines(parameters.folded(), precision, frames, threads, engine)

    def embedder(engine: Engine, label: str) -> Embedder:
        return Embedder(parameters, label, trained=not info.random_weights, threads=threads,
                        engine=engine)

    return embedder(reduced, f"{info.label}, {precision}"), embedder(exact, info.label)


def deviation(reduced: Embedder, exact: Embedder, frames: np.ndarray) -> Deviation | None:
    """How far the one is from the other on frames (n, rate); None where all embeddings are 0."""
    return deviation_of(reduced.embed(frames), exact.embed(frames))


def deviation_of(wrong: np.ndarray, right: np.ndarray) -> Deviation | None:
    """How far embeddings (n, dim) are from the right ones; None where all of those are 0."""
    heard = right.any(axis=1)
    wrong, right = wrong[heard].astype(np.float64), right[heard].astype(np.float64)
    if not len(right):
        return None
    length = np.linalg.norm(right, axis=1)
    errors = np.linalg.norm(wrong - right, axis=1) / length
    cosines = (wrong * right).sum(axis=1) / (
        length * np.maximum(np.linalg.norm(wrong, axis=1), np.finfo(np.float64).tiny))
    return Deviation(len(right), float(errors.mean()), float(errors.max()),
                     float(cosines.mean()), float(cosines.min()))


def slow_here(precision: str) -> str | None:
    """The warning where this processor lacks instructions for ``precision`` (None: it has them)."""
    known = INSTRUCTIONS.get(precision, ())
    if not known or _flags() & set(known):
        return None
    more = ("OpenVINO cuts long sums off at 16 bits here, so that embeddings deviate more than "
            "elsewhere" if precision == "int8" else "it is emulated")
    return (f"this processor has no instructions for {precision} ({', '.join(known)}): {more}, and "
            "float32 may be faster")


def _engines(network: FoldedNetwork, precision: str, frames: np.ndarray | None,
             threads: int | None, wanted: str) -> tuple[Engine, Engine]:
    """In ``precision``, and in float32 by the same library."""
    check(precision, wanted, "precision")
    if precision == "int8":
        if _granted_gpu():
            raise InputError(
                "int8 runs on the CPU, and this task has a GPU",
                where="precision", allowed="float32 or bfloat16 on a GPU",
                hint="for int8 request no GPU: --set STEP.gpus=0")
        if frames is None or not len(frames):
            raise InputError("int8 needs frames to measure its ranges, and there are none",
                             where="frames", allowed="one-second frames (n, rate)")
        spectrograms = network.spec.frontend(to_float(frames), threads=threads)
        quantised = quantise(network, observe(network, spectrograms, threads))
        return OpenVinoEngine(quantised, threads), OpenVinoEngine(network, threads)
    if wanted == "auto" and (precision == "tf32" or engines.gpu_engine() == "torch"):
        wanted = "torch"
    if wanted == "torch":
        return (torch_engine.TorchEngine(network, threads, precision),
                torch_engine.TorchEngine(network, threads))
    if wanted == "auto" and not engines._gpu() and available() \
            and computes_bfloat16():
        return OpenVinoEngine(network, threads, precision), OpenVinoEngine(network, threads)
    from l3hpc.models.engines import TensorFlowEngine

    return TensorFlowEngine(network, threads, precision), TensorFlowEngine(network, threads)


def _granted_gpu() -> bool:
    """Whether a GPU was given to this very task; one that merely stands in the machine is not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible not in ("", "-1", "NoDevFiles") or bool(os.environ.get("SLURM_JOB_GPUS"))


def _flags() -> set[str]:
    """The processor's instruction sets, as Linux names them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return set(line.split(":", 1)[1].split())
    return set()
