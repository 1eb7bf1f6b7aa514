"""Run a folded network and its front end with PyTorch, on one or several GPUs, or on the CPU.

PyTorch is in the extra ``torch``. Sound goes to the device, embeddings come back: while one batch
is computed the next is copied, and the one after that is gathered in page-locked memory. What the
device computes is in ``torch_network``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.models.parameters import FoldedNetwork
from l3hpc.models.torch_network import TorchFrontend, TorchNetwork

if TYPE_CHECKING:
    import torch

EXTRA = "torch"
PRECISIONS = ("float32", "tf32", "bfloat16")
CPU_ACTIVATION_BYTES = 96 << 20
GPU_SHARE = 32  # the largest feature map of a batch takes one part in so many of a GPU's memory
MAX_BATCH = 512
IN_FLIGHT = 2  # batches that a device has been given: one computes, the next is copied
AHEAD = 2  # batches that are being gathered meanwhile
_flags = threading.Lock()  # the precision of float32 products is one setting for the whole process


def available() -> bool:
    """Whether PyTorch can be imported here."""
    from importlib.util import find_spec

    return find_spec("torch") is not None


def sees_gpu() -> bool:
    """Whether PyTorch is installed and can compute on a GPU here. Imports PyTorch."""
    if not available():
        return False
    import torch

    return bool(torch.cuda.is_available())


def check_tf32(places: Sequence[torch.device]) -> None:
    """Check that all devices compute in tf32.

    Parameters
    ----------
    places
        The devices.

    Raises
    ------
    InputError
        One does not.
    """
    import torch

    if not all(place.type == "cuda" and torch.cuda.get_device_capability(place) >= (8, 0)
               for place in places):
        raise InputError("there is no GPU here that computes in tf32", where="precision",
                         allowed="float32, bfloat16",
                         hint="tf32 needs an NVIDIA GPU of compute capability 8.0 or more "
                              "(A100, H100, RTX 30 and later)")


class TorchEngine:
    """Spectrograms, or one-second frames of sound, to embeddings.

    Parameters
    ----------
    network
        The network.
    threads
        Threads on the CPU; None: PyTorch's default.
    precision
        Of the convolutions: ``float32``; ``tf32`` (a GPU's products of numbers cut to 10 bits of
        mantissa) or ``bfloat16``. The front end is always computed in full precision.
    devices
        Names such as ``cuda:0``, used in turn; None: all GPUs that this task sees, else the CPU.

    Attributes
    ----------
    busy_s
        Seconds for which a GPU computed in ``embed_audio``, all devices together (0 on the CPU).

    Raises
    ------
    InputError
        PyTorch is not installed, or ``tf32`` where no GPU has it.
    """

    name = "torch"
    few_shapes = False

    def __init__(self, network: FoldedNetwork, threads: int | None = None,
                 precision: str = "float32", devices: Sequence[str] | None = None) -> None:
        if not available():
            raise InputError("the engine torch is not installed", where="engine",
                             allowed="auto, tensorflow, ncnn", hint=install_command(EXTRA))
        import torch

        if precision not in PRECISIONS:
            raise InputError(f"the engine torch does not compute in {precision}",
                             where="precision", allowed=", ".join(PRECISIONS))
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = devices or [f"cuda:{index}" for index in range(count)] or ["cpu"]
        places = [torch.device(name) for name in names]
        if precision == "tf32":
            check_tf32(places)
        if threads is not None and places[0].type == "cpu":
            torch.set_num_threads(threads)
        self.device = "gpu" if places[0].type == "cuda" else "cpu"
        self.precision = precision
        self.busy_s = 0.0
        self._spec = network.spec
        self._process = os.getpid()
        self._devices = [_Device(network, place, precision) for place in places]
        self._spare: list[_Ring] = []

    def batch_size(self, activation_bytes: int) -> int:
        """A batch whose largest feature map fits the device's share of memory."""
        budget = min(device.budget for device in self._devices)
        return int(min(max(budget // activation_bytes, 1), MAX_BATCH))

    def run(self, spectrograms: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) float32 of spectrograms (n, bands, times) float32."""
        import torch

        self._refuse_fork()
        device = self._devices[0]
        with device.active():
            x = torch.from_numpy(np.ascontiguousarray(spectrograms, np.float32)).to(device.place)
            return np.asarray(device.network(x).cpu().numpy())

    def embed_audio(self, read: Callable[[int], Sequence[np.ndarray]], batches: Iterable[int]
                    ) -> Iterator[np.ndarray]:
        """Embeddings of batches of sound, in order.

        Parameters
        ----------
        read
            What a batch holds: arrays (n, rate) float32 in [-1, 1]. Overlapping frames that are a
            view of one signal travel to the device as that signal. Called in another thread.
        batches
            The numbers that ``read`` is given, one after the other.

        Yields
        ------
        numpy.ndarray
            (frames of the batch, dim) float32.
        """
        self._refuse_fork()
        ring = self._spare.pop() if self._spare else _Ring(
            len(self._devices) * IN_FLIGHT + 1 + AHEAD, self.device == "gpu")
        devices = itertools.cycle(self._devices)
        under_way: deque[_Slot] = deque()
        try:
            for slot in read_ahead(lambda number: ring.gather(read(number)), batches, depth=AHEAD):
                next(devices).launch(slot)
                under_way.append(slot)
                if len(under_way) >= len(self._devices) * IN_FLIGHT:
                    yield self._finished(under_way.popleft())
            while under_way:
                yield self._finished(under_way.popleft())
        finally:
            # A device may still be writing to what is left here.
            while under_way:
                under_way.popleft().wait()
            self._spare.append(ring)

    def _finished(self, slot: _Slot) -> np.ndarray:
        self.busy_s += slot.wait()
        assert slot.result is not None
        return np.array(slot.result.numpy()[:slot.count])  # a copy: the slot is used again

    def _refuse_fork(self) -> None:
        if os.getpid() != self._process:
            raise L3hpcError(
                "PyTorch cannot compute in a forked process: its threads and its GPU stayed in "
                "the parent",
                hint="Start processes with multiprocessing.get_context('spawn') and load the model "
                     "in each, or use ncnn (engine='ncnn')")


@dataclass
class _Signal:
    """Frames in a flat buffer: ``count`` of them from ``offset``, each ``step`` after the last."""

    offset: int
    count: int
    step: int


@dataclass
class _Slot:
    """One batch on its way: samples on the host and on the device, the embeddings back again."""

    locked: bool
    host: torch.Tensor | None = None  # flat, float32
    on_device: dict[torch.device, torch.Tensor] = field(default_factory=dict)
    result: torch.Tensor | None = None
    rate: int = 0
    length: int = 0
    signals: list[_Signal] = field(default_factory=list)
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @property
    def count(self) -> int:
        """Frames of the batch."""
        return sum(signal.count for signal in self.signals)

    def fill(self, parts: Sequence[np.ndarray]) -> None:
        """Copy a batch into the host's buffer: an overlapping view as the signal beneath it."""
        import torch

        self.rate = int(parts[0].shape[1])
        self.signals, flats, self.length = [], [], 0
        for part in parts:
            step = _step(part)
            flat = part.reshape(-1) if step == self.rate else np.lib.stride_tricks.as_strided(
                part, ((len(part) - 1) * step + self.rate,), (part.itemsize,), writeable=False)
            self.signals.append(_Signal(self.length, len(part), step))
            flats.append(flat)
            self.length += len(flat)
        if self.host is None or len(self.host) < self.length:
            self.host = torch.empty(self.length, dtype=torch.float32, pin_memory=self.locked)
        np.concatenate(flats, out=self.host.numpy()[:self.length])

    def wait(self) -> float:
        """Wait until the embeddings are there; returns for how many seconds a GPU computed."""
        if self.events is None:
            return 0.0
        start, end = self.events
        self.events = None
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


class _Ring:
    """Slots that are used in turn: as many as can be under way, being gathered and just taken."""

    def __init__(self, count: int, locked: bool) -> None:
        self._slots = itertools.cycle([_Slot(locked) for _ in range(count)])

    def gather(self, parts: Sequence[np.ndarray]) -> _Slot:
        """The next slot, filled. One thread at a time."""
        slot = next(self._slots)
        slot.fill(parts)
        return slot


def _step(part: np.ndarray) -> int:
    """How many samples after a frame the next begins, where frames are a view of one signal; else
    ``rate``: they are copied one by one."""
    rate = int(part.shape[1])
    across, along = part.strides
    if len(part) < 2 or along != part.itemsize or across % along or not 0 < across // along < rate:
        return rate
    return across // along


class _Device:
    """The network and its front end on one device."""

    def __init__(self, network: FoldedNetwork, place: torch.device, precision: str) -> None:
        import torch

        self.place = place
        self._gpu = place.type == "cuda"
        self._tf32 = precision == "tf32"
        self.budget = torch.cuda.get_device_properties(place).total_memory // GPU_SHARE \
            if self._gpu else CPU_ACTIVATION_BYTES
        self._dim = network.spec.dim
        self.network = TorchNetwork(network, place, precision)
        self.frontend = TorchFrontend(network.spec.frontend, place)
        self._copies: torch.cuda.Stream | None = torch.cuda.Stream(place) if self._gpu else None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Compute here, with float32 products as this engine's precision wants them."""
        import torch

        with _flags, torch.inference_mode(), contextlib.ExitStack() as stack:
            if self._gpu:
                stack.enter_context(torch.cuda.device(self.place))
                stack.enter_context(_precision(torch.backends.cudnn.conv, self._tf32))
                # The one matrix product in float32 is that with the mel filters: only convolutions
                # are cut.
                stack.enter_context(_precision(torch.backends.cuda.matmul, False))
            yield

    def launch(self, slot: _Slot) -> None:
        """Send a batch off; on a GPU this does not wait for it."""
        import torch

        with self.active():
            if slot.result is None or len(slot.result) < slot.count:
                slot.result = torch.empty((slot.count, self._dim), pin_memory=self._gpu)
            assert slot.host is not None
            samples = slot.host[:slot.length]
            if not self._gpu:
                slot.result[:slot.count] = self._embed(samples, slot)
                return
            assert self._copies is not None
            computing = torch.cuda.current_stream(self.place)
            there = slot.on_device.get(self.place)
            if there is None or len(there) < slot.length:
                there = slot.on_device[self.place] = torch.empty(
                    slot.length, dtype=torch.float32, device=self.place)
                # the memory may be what a batch under way has just given back
                self._copies.wait_stream(computing)
            with torch.cuda.stream(self._copies):
                there[:slot.length].copy_(samples, non_blocking=True)
            computing.wait_stream(self._copies)
            slot.events = (torch.cuda.Event(enable_timing=True),
                           torch.cuda.Event(enable_timing=True))
            # After the wait for the copy, so that the time between the events is that of computing.
            slot.events[0].record()
            found = self._embed(there[:slot.length], slot)
            slot.result[:slot.count].copy_(found, non_blocking=True)
            slot.events[1].record()

    def _embed(self, samples: torch.Tensor, slot: _Slot) -> torch.Tensor:
        import torch

        frames = [samples.as_strided((one.count, slot.rate), (one.step, 1),
                                     samples.storage_offset() + one.offset)
                  for one in slot.signals]
        return self.network(self.frontend(frames[0] if len(frames) == 1 else torch.cat(frames)))


@contextlib.contextmanager
def _precision(place: Any, tf32: bool) -> Iterator[None]:
    """Let float32 products of one kind be cut to TF32, or not, while the block runs."""
    before = place.fp32_precision
    place.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        place.fp32_precision = before
