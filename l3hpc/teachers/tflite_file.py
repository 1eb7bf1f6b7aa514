"""TFLite files as teachers: their graph, and any of their tensors computed.

The tensor that is wanted is made the output of the graph by changing one number in the file's
content: the interpreter then keeps it. Operators that TFLite does not define are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.errors import InputError
from l3hpc.models.tensorflow_log import import_tensorflow
from l3hpc.models.tflite import TYPES, Interpreters, refuse_custom_operators
from l3hpc.models.unpacking import MAX_BYTES
from l3hpc.teachers.graph import Graph, Operation, Tensor

ENGINE = "tflite"


def inspect(path: Path) -> Graph:
    """The graph of a file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        The file is damaged, or has custom operators or several graphs.
    """
    return _graph(_read(path), path)[0]


class Runner:
    """Computes one tensor of a file.

    Parameters
    ----------
    path
        The file.
    source, target
        Names of the input and of the tensor that is wanted.
    threads
        None: all that the process was given.

    Attributes
    ----------
    batch_size
        A good number of inputs at once.
    """

    def __init__(self, path: Path, source: str, target: str, threads: int | None) -> None:
        content = _read(path)
        graph, numbers, outputs = _graph(content, path)
        self._shape = tuple(size or 1 for size in graph.tensors[target].shape)
        if len(outputs) == 1 and outputs[0] != numbers[target]:
            # A view of the content itself: writing there changes the file in memory.
            outputs[0] = numbers[target]
        elif len(outputs) != 1:
            raise InputError(f"has {len(outputs)} outputs", where=str(path), allowed="one")
        self._interpreters = Interpreters(path, bytes(content), threads)
        self.batch_size = self._interpreters.batch_size

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Compute the tensor of each input.

        Parameters
        ----------
        inputs
            (n, …) float32.

        Returns
        -------
        numpy.ndarray
            (n, …) float32, in the shape of the tensor after its first axis.
        """
        out = np.empty((len(inputs), int(np.prod(self._shape))), np.float32)
        self._interpreters.run(inputs, out)
        rest = self._shape[1:] if self._shape[:1] == (1,) else self._shape
        return out.reshape(len(inputs), *rest)


def _read(path: Path) -> bytearray:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"holds more than {MAX_BYTES >> 20} MB", where=str(path))
    return bytearray(path.read_bytes())


def _graph(content: bytearray, path: Path) -> tuple[Graph, dict[str, int], np.ndarray]:
    """The graph, the numbers of its tensors by name, and its outputs as a view of the content."""
    try:
        return _parse(content)
    except InputError as error:
        raise InputError(error.message, where=str(path), allowed=error.allowed) from None
    except Exception as error:  # the generated reader can raise anything in a damaged file
        raise InputError(f"not a readable TFLite model: {type(error).__name__}",
                         where=str(path)) from None


def _parse(content: bytearray) -> tuple[Graph, dict[str, int], np.ndarray]:
    import_tensorflow()
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(content, 0)
    refuse_custom_operators(model)
    if model.SubgraphsLength() != 1:
        raise InputError(f"holds {model.SubgraphsLength()} graphs", allowed="one")
    graph = model.Subgraphs(0)
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items()
             if isinstance(value, int)}
    names: list[str] = []
    for index in range(graph.TensorsLength()):
        name = (graph.Tensors(index).Name() or b"").decode(errors="replace") or "tensor"
        # Names need not differ in a file, but a sidecar must name one tensor.
        names.append(f"{name}:{index}" if name in names else name)
    is_constant = [bool(model.Buffers(graph.Tensors(index).Buffer()).DataLength())
                   for index in range(graph.TensorsLength())]
    operations = []
    for number in range(graph.OperatorsLength()):
        one = graph.Operators(number)
        code = model.OperatorCodes(one.OpcodeIndex())
        kind = kinds.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "?")
        operations.append(Operation(
            kind, tuple(names[index] for index in one.InputsAsNumpy().tolist()
                        if index >= 0 and not is_constant[index]),
            tuple(names[index] for index in one.OutputsAsNumpy().tolist())))
    tensors = {name: _tensor(graph.Tensors(index), name)
               for index, name in enumerate(names) if not is_constant[index]}
    numbers = {name: index for index, name in enumerate(names) if not is_constant[index]}
    outputs = graph.OutputsAsNumpy()
    read = Graph("TFLite", tuple(tensors[names[index]] for index in graph.InputsAsNumpy().tolist()),
                 tuple(tensors[names[index]] for index in outputs.tolist()), tensors,
                 tuple(operations))
    return read, numbers, outputs


def _tensor(tensor: Any, name: str) -> Tensor:
    sizes = tensor.ShapeAsNumpy()
    shape = tuple(int(size) for size in sizes) if tensor.ShapeLength() else ()
    return Tensor(name, shape, TYPES.get(tensor.Type(), f"type {tensor.Type()}"))
