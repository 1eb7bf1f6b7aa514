"""Run a folded network with ncnn: Winograd convolutions on the CPU, float32-equal to TensorFlow.

ncnn is in the extra ``fast``. Direct convolution is limited by the processor's matrix rate;
Winograd (Lavin & Gray 2016) needs 2.25 to 5 times fewer multiplications for 3x3 filters. Three
things make ncnn reach that here: every thread keeps its own memory from frame to frame (new pages
for the maps of 13 MB take a quarter of the time); the first convolution, which has one input
channel, is computed directly (its Winograd transforms cost more than they save); and the first
block is computed in strips of a few rows, whose maps stay in the core's own cache (whole maps take
half as much time again).
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores, compute_batches
from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.spec import NetworkSpec

MAGIC = 7767517  # first line of an ncnn graph in text form
NO_WINOGRAD = 1 << 6  # a bit of parameter 31, the features that a layer must not use
FRAMES_PER_THREAD = 16
STRIP_BYTES = 1 << 19  # of a map; with the transforms of Winograd about the second-level cache
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
        self._strips = strips(network.spec)
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
        scaled = np.ascontiguousarray(spectrogram[None] * np.float32(self._network.scale)
                                      + np.float32(self._network.shift), np.float32)
        if self._strips:
            pooled = self._memory.pooled(self._network)
            for strip in self._strips:
                rows = np.ascontiguousarray(scaled[:, strip.first:strip.stop])
                pooled[:, strip.target] = self._extract(rows, strip.name, f"{strip.name}_pool")
            embedding = self._extract(pooled, "pooled", "embedding")
        else:
            embedding = self._extract(scaled, "data", "embedding")
        # ncnn has channels first; published embeddings are flattened as (band, time, channel).
        return embedding.transpose(1, 2, 0).reshape(-1)

    def _extract(self, values: np.ndarray, source: str, target: str) -> np.ndarray:
        """One blob of the graph from another."""
        import ncnn

        extractor = self._net.create_extractor()
        maps, workspace = self._memory.allocators(source)
        extractor.set_blob_allocator(maps)
        extractor.set_workspace_allocator(workspace)
        extractor.input(source, ncnn.Mat(values))
        status, blob = extractor.extract(target)
        if status != 0:
            raise RuntimeError(f"ncnn failed with status {status}")
        return np.array(blob)


class _Memory(threading.local):
    """Memory of each thread, which is kept from frame to frame."""

    def __init__(self) -> None:
        self._allocators: dict[str, tuple[Any, Any]] = {}
        self._pooled: np.ndarray | None = None

    def allocators(self, source: str) -> tuple[Any, Any]:
        """The memory of a part of the graph, for maps and for what its layers need meanwhile."""
        import ncnn

        # Strips have their own: they would take the large pieces of memory that the rest needs.
        if source not in self._allocators:
            self._allocators[source] = ncnn.PoolAllocator(), ncnn.PoolAllocator()
        return self._allocators[source]

    def pooled(self, network: FoldedNetwork) -> np.ndarray:
        """The output of the first block, (channels, bands, times), which strips fill."""
        if self._pooled is None:
            channels = network.spec.filters[network.spec.halvings[0]]
            self._pooled = np.empty((channels, *network.spec.maps[1]), np.float32)
        return self._pooled


@dataclass(frozen=True)
class Strip:
    """Rows of the spectrogram from which some rows of the first block's output are computed.

    Attributes
    ----------
    name
        Its chain in the graph: ``top``, ``middle`` or ``bottom``, which differ in the zeros that
        the convolutions add.
    first, stop
        The rows of the spectrogram, with those that neighbouring strips need too.
    target
        The rows of the output.
    """

    name: str
    first: int
    stop: int
    target: slice


def strips(spec: NetworkSpec) -> list[Strip]:
    """How the first block, up to its pooling, is divided.

    Parameters
    ----------
    spec
        The network.

    Returns
    -------
    list of Strip
        From top to bottom; none where the maps of the block are small enough to be computed whole,
        or no pooling ends it.
    """
    if not spec.halvings:
        return []
    bands, times = spec.frontend.shape
    halo = spec.halvings[0] + 1  # a row for each convolution
    row_bytes = 4 * max(spec.filters[:halo]) * times
    # A whole number of Winograd's tiles, 4 rows, so that none is computed twice.
    rows = max(STRIP_BYTES // row_bytes // 4, 1) * 4
    pooled = bands // 2
    # An odd last row is in the last strip: it has no output, but the one before needs it.
    starts = range(0, 2 * pooled, rows)
    if len(starts) < 2:
        return []
    found = []
    for start in starts:
        last = start == starts[-1]
        name = "bottom" if last else "middle" if start else "top"
        found.append(Strip(name, max(start - halo, 0),
                           bands if last else min(start + rows + halo, bands),
                           slice(start // 2, pooled if last else (start + rows) // 2)))
    return found


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
    lines = []
    for chain in _chains(network.spec):
        lines += _layers(network, chain)
    return f"{MAGIC}\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Chain:
    """Layers of the graph, from one blob to another."""

    source: str
    target: str
    convolutions: range
    top: bool = True  # whether the first convolutions add zeros above their input, and below it
    bottom: bool = True


def _chains(spec: NetworkSpec) -> list[_Chain]:
    """The parts of the graph, of which every call computes one."""
    count, block = len(spec.filters), strips(spec)
    if not block:
        return [_Chain("data", "embedding", range(count))]
    first = spec.halvings[0] + 1
    names = dict.fromkeys(strip.name for strip in block)
    return [*(_Chain(name, f"{name}_pool", range(first), name == "top", name == "bottom")
              for name in names), _Chain("pooled", "embedding", range(first, count))]


def _layers(network: FoldedNetwork, chain: _Chain) -> list[str]:
    """The lines of a chain."""
    lines = [f"Input {chain.source} 0 1 {chain.source}"]
    last = chain.source

    def add(kind: str, name: str, settings: str) -> None:
        nonlocal last
        lines.append(f"{kind} {name} 1 1 {last} {name} {settings}")
        last = name

    for index in chain.convolutions:
        layer = network.convolutions[index]
        relu = " 9=1" if layer.relu else ""
        direct = f" 31={NO_WINOGRAD}" if index == 0 else ""
        add("Convolution", f"{chain.source}_conv{index}",
            f"0={layer.kernel.shape[3]} 1=3 4=1 14={chain.top:d} 15=1 16={chain.bottom:d} 5=1 "
            f"6={layer.kernel.size}{relu}{direct}")
        if index in network.spec.halvings:
            halved = chain.target if index == chain.convolutions[-1] else f"pool{index}"
            add("Pooling", halved, "0=0 1=2 2=2 5=1")
    if chain.target == "embedding":
        height, width = network.spec.pool
        add("Pooling", chain.target, f"0=0 1={width} 11={height} 2={width} 12={height} 5=2")
    return lines


def convolution_order(spec: NetworkSpec) -> list[int]:
    """In which order the graph has the convolutions; those of the first block several times.

    Parameters
    ----------
    spec
        The network.

    Returns
    -------
    list of int
        Their indices.
    """
    return [index for chain in _chains(spec) for index in chain.convolutions]


def weight_file(network: FoldedNetwork, order: Iterable[int]) -> Iterator[bytes | memoryview]:
    """Make a ``.bin`` file, which holds the weights in the order of the graph.

    Parameters
    ----------
    network
        The folded network.
    order
        From ``convolution_order``.

    Yields
    ------
    bytes or memoryview
        The next part of the file.
    """
    for index in order:
        layer = network.convolutions[index]
        yield struct.pack("<I", 0)  # 0: plain float32 follows
        yield np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1), "<f4").data
        yield np.ascontiguousarray(layer.bias, "<f4").data


def _load(network: FoldedNetwork) -> Any:
    """The network as an ``ncnn.Net``, in float32 without any reduced precision."""
    if network.file is not None:
        net = _net(network, str(network.file.path))
        if net is not None:  # None where /proc is not mounted
            return net
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        for part in weight_file(network, convolution_order(network.spec)):
            file.write(part)
        file.flush()
        net = _net(network, file.name)
    if net is None:
        raise RuntimeError("ncnn cannot load the network: is the version incompatible?")
    return net


def _net(network: FoldedNetwork, weights: str) -> Any:
    """The same from a file of weights; None where ncnn cannot load it."""
    import ncnn

    net = ncnn.Net()
    # Frames run side by side, one per thread; threads within a frame would compete with them.
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    # ncnn's defaults use half precision wherever the processor has it.
    for option in REDUCED_PRECISION_OPTIONS:
        setattr(net.opt, option, False)
    loaded = net.load_param_mem(graph_text(network)) == 0 and net.load_model(weights) == 0
    return net if loaded else None
