"""Run a folded network with ncnn: Winograd convolutions on the CPU, float32-equal to TensorFlow.

ncnn is in the extra ``fast``. Direct convolution is limited by the processor's matrix rate;
Winograd (Lavin & Gray 2016) needs 2.25 to 5 times fewer multiplications for 3x3 filters. Two things
make ncnn reach that here: every thread keeps its own memory from frame to frame (new pages for the
maps of 13 MB take a quarter of the time), and the first convolution, which has one input channel,
is computed directly (its Winograd transforms cost more than they save).
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores, compute_batches
from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.models.parameters import FoldedNetwork

MAGIC = 7767517  # first line of an ncnn graph in text form
NO_WINOGRAD = 1 << 6  # a bit of parameter 31, the features that a layer must not use
FRAMES_PER_THREAD = 16
REDUCED_PRECISION_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
                             "use_bf16_storage", "use_int8_inference")


def available() -> bool:
    """Whether ncnn is installed."""
    from importlib.util import find_spec

    return find_spec("ncnn") is not None


class NcnnEngine:
    """Spectrograms to embeddings, one frame per thread, in float32.

    Parameters
    ----------
    network
        The network.
    threads
        CPU threads; None: all that the process was given.

    Raises
    ------
    InputError
        ncnn is not installed.
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
        self._net = _load(network)
        self._memory = _Memory()

    def batch_size(self, activation_bytes: int) -> int:
        """A few frames per thread, which are computed one by one.

        Parameters
        ----------
        activation_bytes
            Not used.

        Returns
        -------
        int
            Frames.
        """
        return FRAMES_PER_THREAD * self._threads

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Compute a batch; see ``Engine.run``."""
        return next(self.run_batches([spectrograms]))

    def run_batches(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute batches, in order; see ``BatchesEngine.run_batches``."""
        if os.getpid() != self._process:
            self._start()
        for rows in compute_batches(self._one, batches, self._pool):
            yield np.array(rows, np.float32).reshape(-1, self._network.spec.dim)

    def _start(self) -> None:
        """Start the threads; a forked process inherits the network, but no threads."""
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(self._threads)

    def _one(self, spectrogram: np.ndarray) -> np.ndarray:
        import ncnn

        scaled = spectrogram[None] * np.float32(self._network.scale) \
            + np.float32(self._network.shift)
        extractor = self._net.create_extractor()
        extractor.set_blob_allocator(self._memory.maps)
        extractor.set_workspace_allocator(self._memory.workspace)
        extractor.input("data", ncnn.Mat(np.ascontiguousarray(scaled, np.float32)))
        status, embedding = extractor.extract("embedding")
        if status != 0:
            raise RuntimeError(f"ncnn failed with status {status}")
        # ncnn has channels first; published embeddings are flattened as (band, time, channel).
        return np.array(embedding).transpose(1, 2, 0).reshape(-1)


class _Memory(threading.local):
    """Memory of each thread, which is kept from frame to frame."""

    def __init__(self) -> None:
        import ncnn

        self.maps, self.workspace = ncnn.PoolAllocator(), ncnn.PoolAllocator()


def graph_text(network: FoldedNetwork) -> str:
    """The network in ncnn's text format: convolutions with their ReLU, and the pools.

    Parameters
    ----------
    network
        The folded network.

    Returns
    -------
    str
        The content of a ``.param`` file.
    """
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


def _load(network: FoldedNetwork) -> Any:
    """The network as an ``ncnn.Net``, in float32 without any reduced precision."""
    import ncnn

    net = ncnn.Net()
    # Frames run side by side, one per thread; threads within a frame would compete with them.
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    # ncnn's defaults use half precision wherever the processor has it.
    for option in REDUCED_PRECISION_OPTIONS:
        setattr(net.opt, option, False)
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        for layer in network.convolutions:
            file.write(struct.pack("<I", 0))  # 0: plain float32 follows
            file.write(np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1), "<f4").data)
            file.write(np.ascontiguousarray(layer.bias, "<f4").data)
        file.flush()
        if net.load_param_mem(graph_text(network)) != 0 or net.load_model(file.name) != 0:
            raise RuntimeError("ncnn cannot load the network: is the version incompatible?")
    return net
