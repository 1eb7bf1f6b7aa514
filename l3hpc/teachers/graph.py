"""The graph of a network file in plain terms, and which of its tensors is the embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from l3hpc.errors import InputError, nearest
from l3hpc.io.values import one_line

# Names of TFLite, ONNX and Keras. Steps that may stand between a classifier and the output:
FOLLOWING = frozenset({
    "SOFTMAX", "LOGISTIC", "TANH", "RELU", "RESHAPE", "SQUEEZE", "QUANTIZE", "DEQUANTIZE", "CAST",
    "ADD", "Softmax", "Sigmoid", "Tanh", "Relu", "Reshape", "Squeeze", "Flatten", "Identity",
    "Cast", "Add", "Activation", "ReLU", "Dropout"})
# The last layer of a classifier, whose input is the embedding:
CLASSIFIERS = frozenset({
    "FULLY_CONNECTED", "CONV_2D", "Gemm", "MatMul", "Conv", "Dense", "Conv2D"})
# What makes one vector of a map; where nothing follows, its output is the embedding:
POOLINGS = frozenset({
    "MEAN", "AVERAGE_POOL_2D", "MAX_POOL_2D", "REDUCE_MAX", "L2_NORMALIZATION", "ReduceMean",
    "GlobalAveragePool", "GlobalMaxPool", "LpNormalization", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "UnitNormalization"})


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph.

    Attributes
    ----------
    name
        As in the file.
    shape
        Sizes; None for one that the file leaves open.
    dtype
        Type of its values, such as ``float32``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def is_vector(self) -> bool:
        """Whether at most one size, which is stated, differs from one."""
        sizes = [size for size in self.shape[1:] if size != 1]
        return len(sizes) == 1 and sizes[0] is not None and self.shape[0] in (1, None)

    @property
    def length(self) -> int:
        """Number of values for each window, of a vector."""
        return math.prod(size for size in self.shape[1:] if size is not None)

    def __str__(self) -> str:
        sizes = ", ".join("?" if one is None else str(one) for one in self.shape)
        return f"{one_line(self.name)} ({sizes})"


@dataclass(frozen=True)
class Operation:
    """An operation: its kind, the tensors that it reads (constants left out) and writes."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """What a network file computes.

    Attributes
    ----------
    format
        Of the file, for people.
    inputs, outputs
        Tensors that are given and returned.
    tensors
        Every tensor that is computed or given, by name.
    operations
        In the order of computation.
    """

    format: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tensors: Mapping[str, Tensor]
    operations: tuple[Operation, ...]

    def tensor(self, name: str, where: str) -> Tensor:
        """The tensor of a name.

        Parameters
        ----------
        name
            Its name.
        where
            What the message names.

        Raises
        ------
        InputError
            There is none.
        """
        if name not in self.tensors:
            raise InputError(f"has no tensor {name!r}", where=where,
                             allowed=nearest(name, self.tensors))
        return self.tensors[name]

    def vectors(self) -> list[Tensor]:
        """Tensors that could be an embedding: vectors, in the order of computation."""
        names = [name for one in self.operations for name in one.outputs]
        return [tensor for tensor in (self.tensors[name] for name in names if name in self.tensors)
                if tensor.is_vector]


def find_embedding(graph: Graph) -> tuple[Tensor, str] | None:
    """The pooled vector before the classifier, where the graph is plain.

    Parameters
    ----------
    graph
        Of the file.

    Returns
    -------
    tuple or None
        The tensor, and why it was taken in a few words; None where it must be named.
    """
    if len(graph.outputs) != 1:
        return None
    made_by = {name: one for one in graph.operations for name in one.outputs}
    tensor = graph.outputs[0]
    # bounded, because a damaged file may lead in a circle
    for _ in range(len(graph.operations)):
        maker = made_by.get(tensor.name)
        if maker is None:
            return None
        if maker.kind in POOLINGS and tensor.is_vector:
            return tensor, f"output of the pooling ({maker.kind})"
        if maker.kind not in FOLLOWING | CLASSIFIERS or len(maker.inputs) != 1:
            return None
        before = graph.tensors.get(maker.inputs[0])
        if before is None:
            return None
        if maker.kind in CLASSIFIERS:
            return (before, f"input of the last layer ({maker.kind} to "
                            f"{tensor.length:,} values)") if before.is_vector else None
        tensor = before
    return None
