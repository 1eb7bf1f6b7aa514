"""ONNX files as teachers (extra ``onnx``): their graph, and any of their tensors computed.

The tensor that is wanted becomes an output of the graph in memory. Operators outside of the sets
that onnxruntime itself defines are refused, as are weights in other files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.arrays.threads import allocated_cores
from l3hpc.errors import InputError
from l3hpc.installation import install_command
from l3hpc.io.values import one_line
from l3hpc.models.unpacking import MAX_BYTES
from l3hpc.teachers.graph import Graph, Operation, Tensor

ENGINE = "onnxruntime"
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
BATCH = 16


def inspect(path: Path) -> Graph:
    """The graph of a file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        The extra is not installed; or the file is damaged, has custom operators, or weights in
        other files.
    """
    return _graph(_read(path))


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
        import onnxruntime

        model = _read(path)
        graph = _graph(model)
        if target not in {output.name for output in model.graph.output}:
            # Its type and shape are found by onnxruntime.
            model.graph.output.add().name = target
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or allocated_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no common one
            raise _cannot_run(path, error) from None
        self._path = path
        self._source, self._target = source, target
        shape = graph.tensors[source].shape
        # A file that is made for one input at a time is given one at a time.
        self.batch_size = BATCH if shape and shape[0] is None else 1
        self._rank = len(shape)
        self._type = np.float16 if graph.tensors[source].dtype == "float16" else np.float32

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
        found = []
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start:start + self.batch_size].astype(self._type, copy=False)
            given = part[0] if part.ndim > self._rank else part
            try:
                result = self._session.run([self._target], {self._source: given})[0]
            except MemoryError:
                raise
            except Exception as error:  # as above
                raise _cannot_run(self._path, error) from None
            whole = result.ndim > 1 and len(result) == len(part)
            found.append(np.asarray(result if whole else result[np.newaxis], np.float32))
        return np.concatenate(found)


def _cannot_run(path: Path, error: Exception) -> InputError:
    lines = str(error).splitlines() or [type(error).__name__]
    return InputError(f"cannot be run by onnxruntime: {lines[0]:.200}", where=str(path))


def _read(path: Path) -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (both are in the extra)
    except ImportError:
        raise InputError("onnxruntime is not installed", where=str(path),
                         hint=f"install it: {install_command('onnx')}") from None
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"holds more than {MAX_BYTES >> 20} MB", where=str(path))
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own classes have no common one
        raise InputError(f"not a readable ONNX model: {type(error).__name__}",
                         where=str(path)) from None
    parts = list(_messages(model))
    domains = {one.domain for one in parts if isinstance(one, onnx.NodeProto)}
    for domain in sorted(domains - {*DOMAINS, *(one.domain for one in model.functions)}):
        raise InputError(f"holds operators that ONNX does not define ({one_line(domain):.40})",
                         where=str(path), allowed="standard operators; others may be any code")
    # onnxruntime would read whichever file of this machine is named there.
    if any(isinstance(one, onnx.TensorProto) and one.data_location == onnx.TensorProto.EXTERNAL
           for one in parts):
        raise InputError("has its weights in other files", where=str(path),
                         allowed="one file that holds them",
                         hint="save it again: onnx.save(onnx.load('FILE'), 'NEW.onnx')")
    if not model.graph.node:
        raise InputError("not a readable ONNX model: it computes nothing", where=str(path))
    return model


def _messages(model: Any) -> Iterator[Any]:
    """Every part of a model: also attributes, branches, loop bodies, functions, sparse tensors."""
    from google.protobuf.message import Message

    waiting = [model]
    while waiting:
        one = waiting.pop()
        yield one
        for field, value in one.ListFields():
            if field.message_type is not None:
                waiting += [value] if isinstance(value, Message) else value


def _graph(model: Any) -> Graph:
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # shapes are a help: those that are stated remain
        graph = model.graph
    constants = {one.name for one in graph.initializer} | {
        name for node in graph.node if node.op_type == "Constant" for name in node.output}
    known = {one.name: _tensor(one) for one in (*graph.value_info, *graph.input, *graph.output)}
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    names = [one.name for one in graph.input] + [name for node in nodes for name in node.output]
    tensors = {name: known.get(name, Tensor(name, (None, None, None), "?"))
               for name in names if name and name not in constants}
    return Graph(
        "ONNX", tuple(tensors[one.name] for one in graph.input if one.name in tensors),
        tuple(tensors[one.name] for one in graph.output), tensors,
        tuple(Operation(node.op_type, tuple(name for name in node.input
                                            if name and name not in constants),
                        tuple(node.output)) for node in nodes))


def _tensor(value: Any) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
                  for size in kind.shape.dim)
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    return Tensor(value.name, shape, {"float": "float32"}.get(name, name))
