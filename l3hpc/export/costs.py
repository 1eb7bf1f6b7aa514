"""What inference costs on a microcontroller, from the file alone: memory, arithmetic and time.

Memory: TFLite Micro keeps everything in one arena: at its head the maps, laid out once so that
those alive at the same time do not overlap, and at its tail its records of tensors, operators and
convolutions. ``plan`` computes the head by liveness analysis and the same greedy layout, and the
tail from what the interpreter was seen to allocate (x86-64, October 2026; pointers of a Cortex-M
are half as long, so its tail is smaller). ``interpreter.run_micro`` asks the interpreter itself.

Time is an estimate from the one layer-by-layer table that Arm published for its kernels on such a
processor: Lai, Suda and Chandra 2018, "CMSIS-NN: Efficient Neural Network Kernels for Arm Cortex-M
CPUs" (arXiv 1801.06601), table 1: a CIFAR-10 network in 8 bits on a Cortex-M7 at 216 MHz
(NUCLEO-F746ZG). It is not a measurement of this model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from l3hpc.export.graph import Graph
from l3hpc.models.spec import NetworkSpec, activation_bytes, parameter_count

ALIGNMENT = 16
PER_TENSOR = 24
PER_OPERATOR = 64
PER_END = 64  # input and output are kept as whole tensors,
PER_QUANTISED_END = 32  # with their quantisation
PER_CHANNEL = 4  # a convolution's multiplier, and its shift
# fitted to what the interpreter recorded for plain and strip-wise networks of this family: each
# operator's own data with its alignment, and what the allocator takes for itself
OPERATOR_DATA = {"CONV_2D": 117, "MAX_POOL_2D": 48, "PAD": 67, "CONCATENATION": 76, "ADD": 70}
FIXED = 588
SOURCE = ("Lai, Suda, Chandra 2018, CMSIS-NN (arXiv 1801.06601), table 1: 8-bit CIFAR-10 network, "
          "Cortex-M7 at 216 MHz")
# multiply-accumulates and milliseconds of the published layers
FEW_CHANNELS = (32 * 32 * 32 * 5 * 5 * 3, 31.4)
MANY_CHANNELS = (16 * 16 * 32 * 5 * 5 * 32 + 8 * 8 * 64 * 5 * 5 * 32, 42.8 + 22.6)


@dataclass(frozen=True)
class Lifetime:
    """A map: its bytes, and the operators from the one that writes it to the last that reads it."""

    tensor: int
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Bytes: the most alive at once, head, tail and both; ``with_cmsis_nn``: the head when Arm's
    kernels take their scratch of two unrolled columns of int16 per convolution."""

    live: int
    head: int
    tail: int
    total: int
    with_cmsis_nn: int

    def as_json(self) -> dict[str, int]:
        """The fields by name."""
        return asdict(self)


def plan(graph: Graph) -> Arena:
    """The arena that ``graph`` takes."""
    lives = lifetimes(graph)
    head, tail = extent(lives), tail_bytes(graph)
    return Arena(live_bytes(lives), head, tail, head + tail, extent([*lives, *_scratch(graph)]))


def lifetimes(graph: Graph) -> list[Lifetime]:
    """Of every tensor that is not in the file. Inputs live from the start, outputs to the end."""
    first: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    for step, operator in enumerate(graph.operators):
        for tensor in map(int, operator.outputs):
            first.setdefault(tensor, step)
            last[tensor] = step
        for tensor in map(int, operator.inputs):
            if tensor in first:
                last[tensor] = step
    last.update(dict.fromkeys(graph.outputs, len(graph.operators) - 1))
    return [Lifetime(tensor, graph.nbytes(tensor), begin, last[tensor])
            for tensor, begin in first.items()]


def live_bytes(lives: Sequence[Lifetime]) -> int:
    """The most bytes alive during one operator: no layout can do with less."""
    steps = max((life.last for life in lives), default=-1) + 1
    return max((sum(life.nbytes for life in lives if life.first <= step <= life.last)
                for step in range(steps)), default=0)


def extent(lives: Sequence[Lifetime]) -> int:
    """The bytes that ``layout`` takes."""
    offsets = layout(lives)
    return max((offsets[life.tensor] + _aligned(life.nbytes) for life in lives), default=0)


def layout(lives: Sequence[Lifetime]) -> dict[int, int]:
    """Offset of each map: the largest first, each at the lowest place free during its life.

    Greedy by size (Pisarchyk and Lee 2020, "Efficient memory management for deep neural net
    inference"); of equal maps the one with the higher number first. Sizes are multiples of 16.
    """
    placed: list[tuple[int, int, Lifetime]] = []  # begin, end, whose
    for life in sorted(lives, key=lambda life: (-_aligned(life.nbytes), -life.tensor)):
        size, offset = _aligned(life.nbytes), 0
        beside = sorted((begin, end) for begin, end, other in placed
                        if other.first <= life.last and life.first <= other.last)
        for begin, end in beside:
            if offset + size <= begin:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, life))
    return {life.tensor: begin for begin, _, life in placed}


def tail_bytes(graph: Graph) -> int:
    """What the interpreter keeps besides maps, within 32 bytes for integer networks of this family.
    """
    total = FIXED + PER_TENSOR * len(graph.tensors) + PER_OPERATOR * len(graph.operators)
    for end in (*graph.inputs, *graph.outputs):
        total += PER_END + (PER_QUANTISED_END if graph.quantisation(end)[0] else 0)
    for operator in graph.operators:
        name = graph.name(operator)
        total += OPERATOR_DATA.get(name, 0)
        if name == "CONV_2D":
            total += 2 * _aligned(PER_CHANNEL * graph.shape(operator.outputs[0])[-1])
    return _aligned(total)


def _scratch(graph: Graph) -> list[Lifetime]:
    """The columns that CMSIS-NN's int8 convolution unrolls, as maps alive during one operator."""
    found = []
    for step, operator in enumerate(graph.operators):
        if graph.name(operator) == "CONV_2D":
            _, height, width, channels = graph.shape(operator.inputs[1])
            found.append(Lifetime(len(graph.tensors) + step, 2 * 2 * height * width * channels,
                                  step, step))
    return found


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Counts:
    """What one frame of one second costs.

    flash_as_published, ram_as_published: the poster's way of counting: a byte per parameter
        (moving statistics included), and the largest single map in the model's integers.
    macs: multiply-accumulates of all convolutions; extra_macs: those that strips compute twice.
    seconds_m7: estimated time at 216 MHz (see ``SOURCE``).
    """

    flash_as_published: int
    ram_as_published: int
    macs: int
    extra_macs: int
    seconds_m7: float

    def as_json(self) -> dict[str, int | float]:
        """The fields by name."""
        return asdict(self)


def count(graph: Graph, spec: NetworkSpec, plain_macs: int) -> Counts:
    """Of ``graph``; ``plain_macs`` are those of the same network without strips."""
    each = macs(graph)
    item = {"FLOAT32": 4, "INT16": 2}.get(graph.type(graph.outputs[0]), 1)
    return Counts(parameter_count(spec), activation_bytes(spec) // 4 * item, sum(each),
                  sum(each) - plain_macs, round(seconds_m7(graph), 4))


def macs(graph: Graph) -> list[int]:
    """Multiply-accumulates of each convolution, in order."""
    found = []
    for operator in graph.operators:
        if graph.name(operator) == "CONV_2D":
            _, rows, columns, channels = graph.shape(operator.outputs[0])
            _, height, width, before = graph.shape(operator.inputs[1])
            found.append(rows * columns * channels * height * width * before)
    return found


def seconds_m7(graph: Graph) -> float:
    """Estimated seconds for one frame: a layer of up to 3 input channels at the published rate of
    such a layer, the others at that of the layers with 32."""
    total = 0.0
    convolutions = [one for one in graph.operators if graph.name(one) == "CONV_2D"]
    for operator, amount in zip(convolutions, macs(graph), strict=True):
        few = graph.shape(operator.inputs[1])[3] <= 3
        published, milliseconds = FEW_CHANNELS if few else MANY_CHANNELS
        total += amount / published * milliseconds / 1000
    return total
