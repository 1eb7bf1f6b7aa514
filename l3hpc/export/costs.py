"""Cost of inference on a microcontroller, from the file alone: memory, arithmetic and time.

TFLite Micro keeps everything in one arena. At its head are the feature maps, laid out once so that
those in use at the same time do not overlap; at its tail are its records of tensors, operators and
convolutions. ``plan_arena`` computes the head by liveness analysis and the same greedy layout, and
the tail by a formula fitted to what the interpreter allocates (x86-64, October 2026; pointers of a
Cortex-M are half as long, so its tail is smaller). ``interpreter.run_micro`` records the real
arena.

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

# Bytes of the arena's tail. Input and output are kept as whole tensors with their quantisation; a
# convolution keeps a multiplier and a shift per output channel.
ALIGNMENT = 16
PER_TENSOR = 24
PER_OPERATOR = 64
PER_IO_TENSOR = 64
PER_QUANTISED_IO = 32
PER_CHANNEL = 4
# Fitted to what the interpreter recorded for plain and strip-wise networks of this family: each
# operator's own data with its alignment, and what the allocator needs for itself.
OPERATOR_DATA = {"CONV_2D": 117, "MAX_POOL_2D": 48, "PAD": 67, "CONCATENATION": 76, "ADD": 70}
FIXED_BYTES = 588
TIME_SOURCE = ("Lai, Suda, Chandra 2018, CMSIS-NN (arXiv 1801.06601), table 1: 8-bit CIFAR-10 "
               "network, Cortex-M7 at 216 MHz")
# Multiply-accumulates and milliseconds of the published layers.
FEW_CHANNELS = (32 * 32 * 32 * 5 * 5 * 3, 31.4)
MANY_CHANNELS = (16 * 16 * 32 * 5 * 5 * 32 + 8 * 8 * 64 * 5 * 5 * 32, 42.8 + 22.6)


@dataclass(frozen=True)
class Lifetime:
    """When a feature map is in use.

    Attributes
    ----------
    tensor
        Its number.
    nbytes
        Its size.
    first
        The operator that writes it.
    last
        The last operator that reads it.
    """

    tensor: int
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Bytes of an arena.

    Attributes
    ----------
    live
        The most that is in use at once.
    head
        The feature maps.
    tail
        The interpreter's records.
    total
        Head and tail.
    with_cmsis_nn
        The head if Arm's kernels take their scratch memory from it: two unrolled columns of int16
        per convolution.
    """

    live: int
    head: int
    tail: int
    total: int
    with_cmsis_nn: int

    def as_json(self) -> dict[str, int]:
        """The fields by name."""
        return asdict(self)


def plan_arena(graph: Graph) -> Arena:
    """Compute the arena that a model needs.

    Parameters
    ----------
    graph
        The model.

    Returns
    -------
    Arena
        Bytes.
    """
    lives = lifetimes(graph)
    head, tail = layout_bytes(lives), tail_bytes(graph)
    with_scratch = layout_bytes([*lives, *_scratch(graph)])
    return Arena(live_bytes(lives), head, tail, head + tail, with_scratch)


def lifetimes(graph: Graph) -> list[Lifetime]:
    """When each tensor that is not in the file is in use.

    Inputs are in use from the start, outputs until the end.

    Parameters
    ----------
    graph
        The model.

    Returns
    -------
    list of Lifetime
        One per tensor.
    """
    first: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[int, int] = dict.fromkeys(graph.inputs, 0)
    for index, operator in enumerate(graph.operators):
        for tensor in map(int, operator.outputs):
            first.setdefault(tensor, index)
            last[tensor] = index
        for tensor in map(int, operator.inputs):
            if tensor in first:
                last[tensor] = index
    last.update(dict.fromkeys(graph.outputs, len(graph.operators) - 1))
    return [Lifetime(tensor, graph.nbytes(tensor), begin, last[tensor])
            for tensor, begin in first.items()]


def live_bytes(lives: Sequence[Lifetime]) -> int:
    """The most bytes in use during one operator: no layout needs less.

    Parameters
    ----------
    lives
        From ``lifetimes``.

    Returns
    -------
    int
        Bytes.
    """
    count = max((life.last for life in lives), default=-1) + 1
    return max((sum(life.nbytes for life in lives if life.first <= index <= life.last)
                for index in range(count)), default=0)


def layout_bytes(lives: Sequence[Lifetime]) -> int:
    """The bytes that ``layout`` takes.

    Parameters
    ----------
    lives
        From ``lifetimes``.

    Returns
    -------
    int
        Bytes.
    """
    offsets = layout(lives)
    return max((offsets[life.tensor] + _aligned(life.nbytes) for life in lives), default=0)


def layout(lives: Sequence[Lifetime]) -> dict[int, int]:
    """Lay out feature maps, each at the lowest address that is free while it is in use.

    The largest map is placed first; of equal ones the one with the higher number. Addresses are
    multiples of 16.

    Parameters
    ----------
    lives
        From ``lifetimes``.

    Returns
    -------
    dict
        Tensor number → offset in bytes.

    References
    ----------
    Greedy by size: Y. Pisarchyk and J. Lee, "Efficient memory management for deep neural net
    inference", 2020.
    """
    placed: list[tuple[int, int, Lifetime]] = []  # (begin, end, map)
    # TFLite Micro's own order, also among equals: another one gives another arena.
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
    """What the interpreter keeps besides feature maps.

    Within 32 bytes of the recorded value for the integer networks of this family.

    Parameters
    ----------
    graph
        The model.

    Returns
    -------
    int
        Bytes.
    """
    total = FIXED_BYTES + PER_TENSOR * len(graph.tensors) + PER_OPERATOR * len(graph.operators)
    for end in (*graph.inputs, *graph.outputs):
        total += PER_IO_TENSOR + (PER_QUANTISED_IO if graph.quantisation(end)[0] else 0)
    for operator in graph.operators:
        name = graph.name(operator)
        total += OPERATOR_DATA.get(name, 0)
        if name == "CONV_2D":
            total += 2 * _aligned(PER_CHANNEL * graph.shape(operator.outputs[0])[-1])
    return _aligned(total)


def _scratch(graph: Graph) -> list[Lifetime]:
    """Scratch memory of CMSIS-NN's int8 convolutions, as maps in use during one operator."""
    found = []
    for index, operator in enumerate(graph.operators):
        if graph.name(operator) == "CONV_2D":
            _, height, width, channels = graph.shape(operator.inputs[1])
            found.append(Lifetime(len(graph.tensors) + index, 2 * 2 * height * width * channels,
                                  index, index))
    return found


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class InferenceCosts:
    """What one frame of one second costs.

    Attributes
    ----------
    flash_as_published
        The poster's way of counting: a byte per parameter, moving statistics included.
    ram_as_published
        The poster's way of counting: the largest single map in the model's integers.
    macs
        Multiply-accumulates of all convolutions.
    extra_macs
        Those of them that strips compute twice.
    seconds_m7
        Estimated seconds at 216 MHz (see ``TIME_SOURCE``).
    """

    flash_as_published: int
    ram_as_published: int
    macs: int
    extra_macs: int
    seconds_m7: float

    def as_json(self) -> dict[str, int | float]:
        """The fields by name."""
        return asdict(self)


def inference_costs(graph: Graph, spec: NetworkSpec, plain_macs: int) -> InferenceCosts:
    """Compute what one frame costs.

    Parameters
    ----------
    graph
        The model.
    spec
        The network that it is made from.
    plain_macs
        Multiply-accumulates of the same network without strips.

    Returns
    -------
    InferenceCosts
        Memory, arithmetic and time.
    """
    each = convolution_macs(graph)
    item = {"FLOAT32": 4, "INT16": 2}.get(graph.type(graph.outputs[0]), 1)
    return InferenceCosts(parameter_count(spec), activation_bytes(spec) // 4 * item, sum(each),
                          sum(each) - plain_macs, round(seconds_m7(graph), 4))


def convolution_macs(graph: Graph) -> list[int]:
    """Multiply-accumulates of each convolution.

    Parameters
    ----------
    graph
        The model.

    Returns
    -------
    list of int
        In order of execution.
    """
    found = []
    for operator in graph.operators:
        if graph.name(operator) == "CONV_2D":
            _, rows, columns, channels = graph.shape(operator.outputs[0])
            _, height, width, before = graph.shape(operator.inputs[1])
            found.append(rows * columns * channels * height * width * before)
    return found


def seconds_m7(graph: Graph) -> float:
    """Estimate the time for one frame on a Cortex-M7 at 216 MHz.

    A convolution with up to 3 input channels is taken to run at the published rate of such a layer,
    any other at that of the layers with 32.

    Parameters
    ----------
    graph
        The model.

    Returns
    -------
    float
        Seconds.
    """
    total = 0.0
    convolutions = [operator for operator in graph.operators if graph.name(operator) == "CONV_2D"]
    for operator, amount in zip(convolutions, convolution_macs(graph), strict=True):
        few = graph.shape(operator.inputs[1])[3] <= 3
        published, milliseconds = FEW_CHANNELS if few else MANY_CHANNELS
        total += amount / published * milliseconds / 1000
    return total
