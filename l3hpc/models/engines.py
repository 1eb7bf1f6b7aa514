"""Run a folded network with TensorFlow, on the CPU or a GPU. Imports TensorFlow when created.

Run a folded network with ncnn: Winograd convolutions on the CPU, float32-equal to TensorFlow.

ncnn is in the extra ``fast``. Direct convolution stops at the processor's matrix rate; Winograd
(Lavin & Gray 2016) needs 2.25 to 5 times fewer multiplications for 3x3 filters. What makes ncnn
reach that here: every thread keeps its own memory from frame to frame (fresh pages for the maps of
13 MB cost a quarter of the time), and the first convolution, which has one input channel, is
computed directly (its Winograd transforms cost more than they save).

Which engine computes: chosen by a short measurement on the node, remembered, or forced.

All engines give the same embeddings to 1e-4 relative; which one is used is not part of an
artifact's fingerprint. On a GPU it is PyTorch where that is installed and sees it, else
TensorFlow. The measurement is remembered in
``~/.cache/l3hpc/engines.json`` by processor, threads, versions and shape of the network; where that
file cannot be written it is made again. Each engine is timed in a process of its own, so that what
the slower one loads (TensorFlow: half a gigabyte and its threads) does not stay:

    python -m l3hpc.models.engines ENGINE THREADS < spec.json      prints seconds per frame
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.io.files import digest, read_json, write_json
from l3hpc.models import torch_engine
from l3hpc.models.parameters import FoldedNetwork, untrained
from l3hpc.models.spec import NetworkSpec, activation_bytes
from l3hpc.models.tensorflow_log import import_tensorflow

if TYPE_CHECKING:
    from l3hpc.models.embedder import Engine

CPU_ACTIVATION_BYTES = 96 << 20
GPU_ACTIVATION_BYTES = 1 << 30
MAX_BATCH = 512
_process: int | None = None  # in which TensorFlow's threads were started
MAGIC = 7767517  # first line of an ncnn graph in text form
NO_WINOGRAD = 1 << 6  # a bit of parameter 31, the features that a layer shall not use
FRAMES_PER_THREAD = 16
REDUCED = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage",
           "use_int8_inference")
NAMES = ("tensorflow", "ncnn")  # between which a processor's speed decides
ALL = ("tensorflow", "ncnn", "torch")
TIMEOUT_S = 300
RUNS = 3


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


def available() -> bool:
    """Whether ncnn can be imported here."""
    from importlib.util import find_spec

    return find_spec("ncnn") is not None


class NcnnEngine:
    """Spectrograms to embeddings, one frame per thread, in float32.

    Raises ``InputError`` where ncnn is not installed.
    """

    name = "ncnn"
    few_shapes = False

    def __init__(self, network: FoldedNetwork, threads: int | None = None) -> None:
        if not available():
            raise InputError("the engine ncnn is not installed", where="engine",
                             allowed="auto, tensorflow", hint=install_command("fast"))
        self._network = network
        self._threads = threads or allocated_cores()
        self._start()
        self._net = _net(network)
        self._memory = [_Memory() for _ in range(self._threads)]

    def batch_size(self, activation_bytes: int) -> int:
        """Frames are computed one by one; a batch keeps the threads busy."""
        return FRAMES_PER_THREAD * self._threads

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) float32 of spectrograms (n, bands, times) float32."""
        if os.getpid() != self._process:
            self._start()
        result = np.empty((len(spectrograms), self._network.spec.dim), np.float32)
        waiting = iter(range(len(spectrograms)))

        def work(memory: _Memory) -> None:
            for index in waiting:
                result[index] = self._one(spectrograms[index], memory)

        list(self._pool.map(work, self._memory))
        return result

    def _start(self) -> None:
        """Start the threads; a forked process inherits the network, but no threads."""
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(self._threads)

    def _one(self, spectrogram: np.ndarray, memory: _Memory) -> np.ndarray:
        import ncnn

        scaled = spectrogram[None] * np.float32(self._network.scale) \
            + np.float32(self._network.shift)
        extractor = self._net.create_extractor()
        extractor.set_blob_allocator(memory.maps)
        extractor.set_workspace_allocator(memory.workspace)
        extractor.input("data", ncnn.Mat(np.ascontiguousarray(scaled, np.float32)))
        status, found = extractor.extract("embedding")
        if status != 0:
            raise RuntimeError(f"ncnn ended with status {status}")
        return np.array(found).transpose(1, 2, 0).reshape(-1)


class _Memory:
    """What one thread allocates for a frame is kept for the next."""

    def __init__(self) -> None:
        import ncnn

        self.maps, self.workspace = ncnn.PoolAllocator(), ncnn.PoolAllocator()


def graph(network: FoldedNetwork) -> str:
    """The network in ncnn's text form: convolutions with their ReLU, and the pools."""
    lines = ["Input in 0 1 data"]
    last = "data"
    for index, layer in enumerate(network.convolutions):
        relu = " 9=1" if layer.relu else ""
        direct = f" 31={NO_WINOGRAD}" if index == 0 else ""
        lines.append(f"Convolution conv{index} 1 1 {last} conv{index} 0={layer.kernel.shape[3]} "
                     f"1=3 4=1 5=1 6={layer.kernel.size}{relu}{direct}")
        last = f"conv{index}"
        if index in network.spec.halvings:
            lines.append(f"Pooling pool{index} 1 1 {last} pool{index} 0=0 1=2 2=2 5=1")
            last = f"pool{index}"
    height, width = network.spec.pool
    lines.append(f"Pooling tail 1 1 {last} embedding 0=0 1={width} 11={height} 2={width} "
                 f"12={height} 5=2")
    return f"{MAGIC}\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n"


def _net(network: FoldedNetwork) -> Any:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    for option in REDUCED:
        setattr(net.opt, option, False)
    weights = b"".join(
        struct.pack("<I", 0)  # 0: plain float32 follows
        + np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1), "<f4").tobytes()
        + np.ascontiguousarray(layer.bias, "<f4").tobytes()
        for layer in network.convolutions)
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(weights)
        file.flush()
        if net.load_param_mem(graph(network)) != 0 or net.load_model(file.name) != 0:
            raise RuntimeError("ncnn does not read its own format: an incompatible version?")
    return net


def make(name: str, network: FoldedNetwork, threads: int | None = None) -> Engine:
    """The engine ``name``. Raises ``InputError`` for a name that does not exist here."""
    if name == "ncnn":
        return NcnnEngine(network, threads)
    if name == "tensorflow":

        return TensorFlowEngine(network, threads)
    if name == "torch":
        return torch_engine.TorchEngine(network, threads)
    raise InputError(f"no engine {name!r}", allowed=f"auto, {', '.join(ALL)}")


def seconds_per_frame(name: str, spec: NetworkSpec, threads: int | None) -> float:
    """Of a network of this shape on an engine; infinite where that fails."""
    command = [sys.executable, "-m", "l3hpc.models.engines", name, str(threads or 0)]
    try:
        done = subprocess.run(command, input=json.dumps(spec.to_dict()), encoding="utf-8",
                              capture_output=True, timeout=TIMEOUT_S)
        return float(done.stdout.split()[-1]) if done.returncode == 0 else float("inf")
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return float("inf")


def run(engine: Engine, spec: NetworkSpec) -> float:
    """Seconds per frame: the best of a few runs of one batch, after one that is not counted."""
    frames = np.random.default_rng(0).uniform(
        -80, 0, (engine.batch_size(activation_bytes(spec)), *spec.frontend.shape))
    frames = frames.astype(np.float32)
    engine.run(frames)
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        engine.run(frames)
        best = min(best, time.perf_counter() - start)
    return best / len(frames)


def main() -> None:
    """Time the engine that the command line names."""
    name, threads = sys.argv[1], int(sys.argv[2]) or None
    spec = NetworkSpec.from_dict(json.load(sys.stdin))
    print(run(make(name, untrained(spec, 0).folded(), threads), spec))


def choose(network: FoldedNetwork, threads: int | None = None, wanted: str = "auto") -> Engine:
    """The wanted engine, or with ``auto`` the faster one on this node for a network of this shape.

    ``reason`` explains the choice.
    """
    if wanted != "auto":
        return make(wanted, network, threads)
    on_gpu = gpu_engine()
    if on_gpu or not available():
        return make(on_gpu or "tensorflow", network, threads)
    speeds = _speeds(network.spec, threads)
    if not speeds:
        speeds = {name: 1 / seconds_per_frame(name, network.spec, threads)
                  for name in NAMES}
        _remember(_key(network.spec, threads), speeds)
    return make(max(NAMES, key=lambda name: speeds[name]), network, threads)


def gpu_engine() -> str | None:
    """What computes on the GPU, where there is one: ``torch`` if PyTorch sees it, else
    ``tensorflow``."""
    if not _gpu():
        return None
    return "torch" if torch_engine.sees_gpu() else "tensorflow"


def reason(spec: NetworkSpec, threads: int | None = None, wanted: str = "auto") -> str:
    """Why ``choose`` takes the engine that it takes."""
    if wanted != "auto":
        return "as requested"
    if _gpu():
        return "there is a GPU"
    if not available():
        return f"ncnn is not installed; to install it: {install_command('fast')}"
    speeds = _speeds(spec, threads)
    found = ", ".join(f"{name} {speed:.3g}" for name, speed in speeds.items())
    return f"measured on this node: {found} frames/s" if found else "measured on this node"


def cache_file() -> Path:
    """Where measurements are remembered (``XDG_CACHE_HOME`` is honoured)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "l3hpc" / "engines.json"


def _key(spec: NetworkSpec, threads: int | None) -> str:
    versions = []
    for package in ("tensorflow", "ncnn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(package))
    return digest([_processor(), threads, versions, spec.to_dict()])


def _speeds(spec: NetworkSpec, threads: int | None) -> dict[str, float]:
    """Frames per second by engine, as remembered ({} where nothing is)."""
    known = _remembered().get(_key(spec, threads))
    if not isinstance(known, dict) or set(known) != set(NAMES):
        return {}
    return known if all(isinstance(speed, (int, float)) for speed in known.values()) else {}


def _remembered() -> dict[str, Any]:
    try:
        value = read_json(cache_file())
    except (OSError, L3hpcError):  # nothing remembered, or a damaged file: measure again
        return {}
    return value if isinstance(value, dict) else {}


def _remember(key: str, speeds: dict[str, float]) -> None:
    with contextlib.suppress(OSError):  # a home folder that is full or read-only: measure again
        write_json(cache_file(), {**_remembered(), key: speeds})


def _gpu() -> bool:
    return (Path("/dev/nvidiactl").exists()
            and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
