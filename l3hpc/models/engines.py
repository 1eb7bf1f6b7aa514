"""What an engine is, the one of TensorFlow, and the choice of the fastest on this node.

All engines (others are ``ncnn_engine`` and ``torch_engine``) give the same embeddings to 1e-4
relative; which one is used is not part of an artifact's fingerprint. On a GPU it is PyTorch where
that is installed and finds it, else TensorFlow. On the CPU a short measurement decides. It is
cached in ``~/.cache/l3hpc/engines.json`` by processor, threads, versions and shape of the network;
where that file cannot be written, it is repeated. Each engine is timed in a process of its own,
so that what the slower one loads (TensorFlow: half a gigabyte and its threads) does not stay:

    python -m l3hpc.models.engines ENGINE THREADS < spec.json      prints seconds per frame
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from l3hpc.console.progress import doing
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.io.files import digest, read_json, write_json
from l3hpc.models import ncnn_engine, torch_engine
from l3hpc.models.parameters import FoldedNetwork, untrained
from l3hpc.models.spec import NetworkSpec, activation_bytes
from l3hpc.models.tensorflow_log import import_tensorflow, quiet_first_import

if TYPE_CHECKING:
    import tensorflow as tf

CPU_ENGINES = ("tensorflow", "ncnn")  # of which a measurement chooses
ENGINES = ("tensorflow", "ncnn", "torch")
CPU_ACTIVATION_BYTES = 96 << 20
GPU_ACTIVATION_BYTES = 1 << 30
MAX_BATCH = 512
TIMING_TIMEOUT_S = 300
TIMED_RUNS = 3
_tensorflow_process: int | None = None  # the process in which TensorFlow's threads were started


class Engine(Protocol):
    """Computes embeddings from spectrograms.

    Attributes
    ----------
    name
        Short name, as users state it.
    few_shapes
        Whether a batch of a new size costs time (a trace, a search for kernels), so that incomplete
        batches are padded.
    """

    name: str
    few_shapes: bool

    def batch_size(self, activation_bytes: int) -> int:
        """A good batch size.

        Parameters
        ----------
        activation_bytes
            Bytes of the network's largest feature map per frame.

        Returns
        -------
        int
            Frames.
        """

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Compute a batch.

        Parameters
        ----------
        spectrograms
            (n, bands, times) float32.

        Returns
        -------
        numpy.ndarray
            (n, dim) float32.
        """


@runtime_checkable
class BatchesEngine(Engine, Protocol):
    """An engine that starts a batch before the one before has ended, so that no core waits."""

    def run_batches(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute batches, in order.

        Parameters
        ----------
        batches
            (n, bands, times) float32 each.

        Yields
        ------
        numpy.ndarray
            (n, dim) float32.
        """


@runtime_checkable
class AudioEngine(Engine, Protocol):
    """An engine that also computes the front end, on the device of the network."""

    def embed_audio(self, read: Callable[[int], Sequence[np.ndarray]], batches: Iterable[int]
                    ) -> Iterator[np.ndarray]:
        """Compute batches of audio, in order.

        Parameters
        ----------
        read
            Gives the frames of a batch as arrays (n, rate).
        batches
            What ``read`` takes: one value per batch.

        Yields
        ------
        numpy.ndarray
            (n, dim) float32.
        """


def refuse_fork() -> None:
    """Refuse to compute in a process that was forked after TensorFlow had started its threads.

    The threads exist in the parent only: whatever is computed here would never finish.

    Raises
    ------
    L3hpcError
        This is such a process.
    """
    global _tensorflow_process
    if _tensorflow_process is None:
        _tensorflow_process = os.getpid()
    elif _tensorflow_process != os.getpid():
        raise L3hpcError(
            "TensorFlow cannot compute in a forked process: its threads stayed in the parent",
            hint="Start processes with multiprocessing.get_context('spawn'), load the model in "
                 "each process before the parent loads one, or use ncnn (engine='ncnn')")


class TensorFlowEngine:
    """Spectrograms to embeddings through one traced graph whose weights are constants.

    Parameters
    ----------
    network
        The network.
    threads
        TensorFlow's intra-operation threads; they can only be set before TensorFlow first computes
        in a process, and are not changed later. None: TensorFlow's choice.
    precision
        Of the convolutions: ``float32`` or ``bfloat16``.

    Raises
    ------
    L3hpcError
        The process was forked (see ``refuse_fork``).
    """

    name = "tensorflow"
    few_shapes = True

    def __init__(self, network: FoldedNetwork, threads: int | None = None,
                 precision: str = "float32") -> None:
        import_tensorflow()
        import tensorflow as tf

        refuse_fork()
        # TensorFlow fixes its numbers of threads when it first computes.
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
        """A batch whose largest feature map fits the device's share of memory.

        Parameters
        ----------
        activation_bytes
            See ``Engine.batch_size``.

        Returns
        -------
        int
            Frames.
        """
        budget = GPU_ACTIVATION_BYTES if self.device == "gpu" else CPU_ACTIVATION_BYTES
        return int(min(max(budget // activation_bytes, 1), MAX_BATCH))

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Compute a batch; see ``Engine.run``."""
        import tensorflow as tf

        refuse_fork()
        return np.asarray(self._function(tf.constant(spectrograms[..., None])).numpy())

    @property
    def traces(self) -> int:
        """How often the graph was traced: once, whatever the batch sizes."""
        return int(self._function.experimental_get_tracing_count())

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
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


def make_engine(name: str, network: FoldedNetwork, threads: int | None = None) -> Engine:
    """Make an engine.

    Parameters
    ----------
    name
        One of ``ENGINES``.
    network
        The folded network.
    threads
        CPU threads; None: all that the process was given.

    Returns
    -------
    Engine
        Ready to compute.

    Raises
    ------
    InputError
        There is no such engine, or it is not installed.
    """
    if name == "ncnn":
        return ncnn_engine.NcnnEngine(network, threads)
    if name == "tensorflow":
        return TensorFlowEngine(network, threads)
    if name == "torch":
        return torch_engine.TorchEngine(network, threads)
    raise InputError(f"unknown engine {name!r}", allowed=f"auto, {', '.join(ENGINES)}")


def seconds_per_frame(name: str, spec: NetworkSpec, threads: int | None) -> float:
    """Measure how fast an engine is, in a process of its own.

    Parameters
    ----------
    name
        One of ``CPU_ENGINES``.
    spec
        Shape of the network.
    threads
        CPU threads; None: all that the process was given.

    Returns
    -------
    float
        Seconds per frame; infinity where the engine fails.
    """
    command = [sys.executable, "-m", "l3hpc.models.engines", name, str(threads or 0)]
    try:
        done = subprocess.run(command, input=json.dumps(spec.to_dict()), encoding="utf-8",
                              capture_output=True, timeout=TIMING_TIMEOUT_S)
        # An engine that fails or hangs is infinitely slow, and so never chosen.
        return float(done.stdout.split()[-1]) if done.returncode == 0 else float("inf")
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return float("inf")


def time_engine(engine: Engine, spec: NetworkSpec) -> float:
    """Measure how fast an engine is: the best of a few runs of one batch, after a first one.

    Parameters
    ----------
    engine
        The engine.
    spec
        Shape of the network.

    Returns
    -------
    float
        Seconds per frame.
    """
    frames = np.random.default_rng(0).uniform(
        -80, 0, (engine.batch_size(activation_bytes(spec)), *spec.frontend.shape))
    frames = frames.astype(np.float32)
    # Not timed: the first run traces the graph and allocates memory.
    engine.run(frames)
    best = float("inf")
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        engine.run(frames)
        # The best, not the mean: whatever else runs on the node can only make a run slower.
        best = min(best, time.perf_counter() - start)
    return best / len(frames)


def choose(network: FoldedNetwork, threads: int | None = None, requested: str = "auto") -> Engine:
    """Choose an engine for a network on this node.

    ``reason`` explains the choice.

    Parameters
    ----------
    network
        The folded network.
    threads
        CPU threads; None: all that the process was given.
    requested
        Name of an engine, or ``auto`` for the fastest.

    Returns
    -------
    Engine
        Ready to compute.

    Raises
    ------
    InputError
        There is no such engine, or it is not installed.
    """
    if requested != "auto":
        return make_engine(requested, network, threads)
    on_gpu = gpu_engine()
    if on_gpu or not ncnn_engine.available():
        return make_engine(on_gpu or "tensorflow", network, threads)
    speeds = _cached_speeds(network.spec, threads)
    if not speeds:
        with doing("measuring engines, once on this node", at_once=True):
            speeds = {name: 1 / seconds_per_frame(name, network.spec, threads)
                      for name in CPU_ENGINES}
        # Where neither engine could be timed (a busy node, a full disk), the next job tries again.
        if any(speeds.values()):
            _add_to_cache(_key(network.spec, threads), speeds)
    return make_engine(max(CPU_ENGINES, key=lambda name: speeds[name]), network, threads)


def gpu_engine() -> str | None:
    """The engine for the GPU of this machine.

    Returns
    -------
    str or None
        ``torch`` where PyTorch finds the GPU, else ``tensorflow``; None without a GPU.
    """
    if not has_gpu():
        return None
    return "torch" if torch_engine.sees_gpu() else "tensorflow"


def reason(spec: NetworkSpec, threads: int | None = None, requested: str = "auto") -> str:
    """Why ``choose`` chooses an engine.

    Parameters
    ----------
    spec
        Shape of the network.
    threads
        As in ``choose``.
    requested
        As in ``choose``.

    Returns
    -------
    str
        A clause for a log line.
    """
    if requested != "auto":
        return "as requested"
    if has_gpu():
        return "there is a GPU"
    if not ncnn_engine.available():
        return f"ncnn is not installed; to install it: {install_command('fast')}"
    speeds = _cached_speeds(spec, threads)
    rates = ", ".join(f"{name} {speed:.3g}" for name, speed in speeds.items())
    return f"measured on this node: {rates} frames/s" if rates else "measured on this node"


def cache_file() -> Path:
    """Where measurements are cached, below ``XDG_CACHE_HOME`` or ``~/.cache``.

    Raises
    ------
    FileNotFoundError
        If neither is known: a user without a home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError as error:
            raise FileNotFoundError(str(error)) from None
    return Path(base) / "l3hpc" / "engines.json"


def _key(spec: NetworkSpec, threads: int | None) -> str:
    versions = []
    for package in ("tensorflow", "tensorflow-cpu", "ncnn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version(package))
    processor = read_cpuinfo("model name") or platform.processor()
    return digest([processor, threads, versions, spec.to_dict()])


def _cached_speeds(spec: NetworkSpec, threads: int | None) -> dict[str, float]:
    """Frames per second by engine, from the cache ({} without a measurement)."""
    speeds = _read_cache().get(_key(spec, threads))
    # An earlier version may have measured other engines.
    if not isinstance(speeds, dict) or set(speeds) != set(CPU_ENGINES):
        return {}
    is_measured = all(isinstance(speed, (int, float)) for speed in speeds.values())
    return speeds if is_measured and any(speeds.values()) else {}


def _read_cache() -> dict[str, Any]:
    try:
        value = read_json(cache_file())
    except (OSError, L3hpcError):  # nothing cached, or a damaged file: measure again
        return {}
    return value if isinstance(value, dict) else {}


def _add_to_cache(key: str, speeds: dict[str, float]) -> None:
    with contextlib.suppress(OSError):  # a home folder that is full or read-only: measure again
        # Two jobs that measure at the same time may lose one entry of the two; it is measured
        # again.
        write_json(cache_file(), {**_read_cache(), key: speeds})


def has_gpu() -> bool:
    """Whether this process may use an NVIDIA GPU."""
    # By the device file: asking TensorFlow or PyTorch would load them only to learn that there is
    # none.
    return (Path("/dev/nvidiactl").exists()
            and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"))


def read_cpuinfo(*keys: str) -> str:
    """The first value in Linux's ``/proc/cpuinfo`` whose key begins with one of ``keys``.

    Parameters
    ----------
    keys
        Beginnings of lines; they differ between processor families.

    Returns
    -------
    str
        '' where there is none, or no such file.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(keys):
                return line.split(":", 1)[1].strip()
    return ""


def main() -> None:
    """Time the engine that the command line names; the network's shape is read from standard input.
    """
    name, threads = sys.argv[1], int(sys.argv[2]) or None
    spec = NetworkSpec.from_dict(json.load(sys.stdin))
    print(time_engine(make_engine(name, untrained(spec, 0).folded(), threads), spec))


if __name__ == "__main__":
    quiet_first_import()
    main()
