"""What a model costs: parameters, activations, multiply-accumulates, and time on a Cortex-M7.

The time is an estimate from the one layer-by-layer table that Arm published for its kernels on such
a processor: Lai, Suda and Chandra 2018, "CMSIS-NN: Efficient Neural Network Kernels for Arm
Cortex-M CPUs" (arXiv 1801.06601), table 1: a CIFAR-10 network in 8 bits on a Cortex-M7 at 216 MHz
(NUCLEO-F746ZG). It is not a measurement of this model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from l3hpc.export.graph import Graph
from l3hpc.models.spec import NetworkSpec, activation_bytes, parameter_count

SOURCE = ("Lai, Suda, Chandra 2018, CMSIS-NN (arXiv 1801.06601), table 1: 8-bit CIFAR-10 network, "
          "Cortex-M7 at 216 MHz")
# multiply-accumulates and milliseconds of the published layers
FEW_CHANNELS = (32 * 32 * 32 * 5 * 5 * 3, 31.4)
MANY_CHANNELS = (16 * 16 * 32 * 5 * 5 * 32 + 8 * 8 * 64 * 5 * 5 * 32, 42.8 + 22.6)


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
