"""A TensorFlow Lite flatbuffer as an object graph: parse, look up, add tensors and operators,
write.

The schema's classes come with TensorFlow, which is imported when a graph is read. Models of one
subgraph are supported, as this package makes them.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from l3hpc.errors import InputError

ITEM_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "INT32": 4, "UINT8": 1, "INT64": 8, "BOOL": 1,
              "INT16": 2, "COMPLEX64": 8, "INT8": 1, "FLOAT64": 8}
FILE_IDENTIFIER = b"TFL3"
METADATA = b"l3hpc"
ALIGNMENT = 16  # of a buffer's bytes in the file, as the schema asks for


class Graph:
    """The single subgraph of a flatbuffer, to read and to change.

    Parameters
    ----------
    flatbuffer
        The model.

    Raises
    ------
    InputError
        The bytes are not a TFLite flatbuffer, or it has several subgraphs.
    """

    def __init__(self, flatbuffer: bytes) -> None:
        from tensorflow.lite.python import schema_py_generated as schema
        from tensorflow.lite.tools import flatbuffer_utils

        if flatbuffer[4:8] != FILE_IDENTIFIER:
            raise InputError("not a TensorFlow Lite flatbuffer", allowed="bytes 4 to 7: TFL3")
        self.schema: Any = schema
        self.model: Any = flatbuffer_utils.convert_bytearray_to_object(bytearray(flatbuffer))
        if len(self.model.subgraphs) != 1:
            raise InputError(f"the flatbuffer has {len(self.model.subgraphs)} subgraphs",
                             allowed="one subgraph")
        # The converter writes empty quantisation tables; without them "none" has one form.
        for tensor in self.tensors:
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
        self._constants: dict[tuple[tuple[int, ...], bytes], int] = {}
        self._types = {value: name for name, value in vars(schema.TensorType).items()
                       if isinstance(value, int)}
        self._names = {value: name for name, value in vars(schema.BuiltinOperator).items()
                       if isinstance(value, int)}

    # reading -------------------------------------------------------------------------------------

    @property
    def operators(self) -> list[Any]:
        """The operators in order of execution, as the schema's ``OperatorT``."""
        operators: list[Any] = self.model.subgraphs[0].operators
        return operators

    @property
    def tensors(self) -> list[Any]:
        """The tensors, as the schema's ``TensorT``."""
        tensors: list[Any] = self.model.subgraphs[0].tensors
        return tensors

    @property
    def inputs(self) -> list[int]:
        """Numbers of the input tensors."""
        return [int(index) for index in self.model.subgraphs[0].inputs]

    @property
    def outputs(self) -> list[int]:
        """Numbers of the output tensors."""
        return [int(index) for index in self.model.subgraphs[0].outputs]

    def name(self, operator: Any) -> str:
        """The kind of an operator: ``CONV_2D``, ``MAX_POOL_2D``, …

        Parameters
        ----------
        operator
            The schema's ``OperatorT``.

        Returns
        -------
        str
            Its name in the schema.
        """
        code = self.model.operatorCodes[operator.opcodeIndex]
        # Old files hold the code in the deprecated field alone.
        return self._names[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor; () for a scalar.

        Parameters
        ----------
        tensor
            Its number.

        Returns
        -------
        tuple of int
            Sizes.
        """
        shape = self.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def type(self, tensor: int) -> str:
        """Type of a tensor: ``INT8``, ``FLOAT32``, …

        Parameters
        ----------
        tensor
            Its number.

        Returns
        -------
        str
            Its name in the schema.
        """
        return self._types[self.tensors[tensor].type]

    def nbytes(self, tensor: int) -> int:
        """Bytes of a tensor's values.

        Parameters
        ----------
        tensor
            Its number.

        Returns
        -------
        int
            Bytes.
        """
        return int(np.prod(self.shape(tensor), dtype=np.int64)) * ITEM_BYTES[self.type(tensor)]

    def is_constant(self, tensor: int) -> bool:
        """Whether the values of a tensor are in the file.

        Parameters
        ----------
        tensor
            Its number.

        Returns
        -------
        bool
            False for feature maps.
        """
        return self._data(tensor) is not None

    def values(self, tensor: int) -> np.ndarray:
        """Values of a constant tensor.

        Parameters
        ----------
        tensor
            Its number.

        Returns
        -------
        numpy.ndarray
            In the tensor's shape and type.

        Raises
        ------
        InputError
            The tensor is not a constant.
        """
        data = self._data(tensor)
        if data is None:
            raise InputError(f"tensor {tensor} is not a constant")
        kind = np.dtype(self.type(tensor).lower())
        return np.frombuffer(bytes(data), kind).reshape(self.shape(tensor))

    def quantisation(self, tensor: int) -> tuple[float, int]:
        """Scale and zero point of a tensor that has one pair of them.

        Parameters
        ----------
        tensor
            Its number.

        Returns
        -------
        scale
            0 where it has none.
        zero
            0 where it has none.
        """
        quantisation = self.tensors[tensor].quantization
        if quantisation is None:
            return 0.0, 0
        return float(quantisation.scale[0]), int(quantisation.zeroPoint[0])

    def _data(self, tensor: int) -> Any:
        data = self.model.buffers[self.tensors[tensor].buffer].data
        return data if data is not None and len(data) else None

    def fork(self) -> Graph:
        """Copy the graph, so that it can be rewritten without changing this one.

        The bytes of buffers are shared.

        Returns
        -------
        Graph
            The copy.
        """
        made = copy.copy(self)
        made.model = copy.copy(self.model)
        subgraph = copy.copy(self.model.subgraphs[0])
        subgraph.tensors = [copy.copy(tensor) for tensor in subgraph.tensors]
        subgraph.operators = [copy.copy(operator) for operator in subgraph.operators]
        made.model.subgraphs = [subgraph]
        made.model.buffers = list(self.model.buffers)
        made._constants = dict(self._constants)
        made.model.operatorCodes = [copy.copy(code) for code in self.model.operatorCodes]
        return made

    # changing ------------------------------------------------------------------------------------

    def add_like(self, tensor: int, shape: Sequence[int]) -> int:
        """Add an empty tensor with the type and quantisation of another one.

        Parameters
        ----------
        tensor
            Number of the other one.
        shape
            Of the new tensor.

        Returns
        -------
        int
            Number of the new tensor.
        """
        # Shares the quantisation, which must be the same.
        added = copy.copy(self.tensors[tensor])
        added.shape, added.shapeSignature = list(shape), None
        added.buffer, added.name = 0, None
        self.tensors.append(added)
        return len(self.tensors) - 1

    def add_constant(self, values: np.ndarray) -> int:
        """Add an int32 tensor with values in the file; one that was added before is used again.

        Parameters
        ----------
        values
            Any shape.

        Returns
        -------
        int
            Number of the tensor.
        """
        values = np.ascontiguousarray(values, np.int32)
        data = values.tobytes()
        key = (values.shape, data)
        if key in self._constants:
            return self._constants[key]
        tensor, buffer = self.schema.TensorT(), self.schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        tensor.shape, tensor.type = list(values.shape), self.schema.TensorType.INT32
        tensor.buffer = len(self.model.buffers) - 1
        self.tensors.append(tensor)
        self._constants[key] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int],
                 options: Any = None, version: int = 1) -> Any:
        """Make an operator, which is not yet among ``operators``.

        Its operator code is added where it is missing.

        Parameters
        ----------
        name
            Its kind, such as ``PAD``.
        inputs
            Numbers of tensors.
        outputs
            Numbers of tensors.
        options
            The schema's options object of this kind.
        version
            Lowest version that supports the types.

        Returns
        -------
        object
            The schema's ``OperatorT``.
        """
        made = self.schema.OperatorT()
        made.opcodeIndex = self._code(name, version)
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            made.builtinOptions = options
        return made

    def _code(self, name: str, version: int) -> int:
        value = getattr(self.schema.BuiltinOperator, name)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == value:
                code.version = max(code.version, version)
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = value, min(value, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    # writing -------------------------------------------------------------------------------------

    def shrink(self, about: Mapping[str, Any] | None = None) -> None:
        """Remove what inference does not read, and add a line of JSON about the model.

        Removed are names, signatures, descriptions, the converter's metadata, tensors and buffers
        that no operator uses (equal buffers become one), and the quantisation of biases (its scale
        is input scale times filter scale by definition, and kernels compute it so).

        Parameters
        ----------
        about
            What the line holds; None: no line.
        """
        self._drop_unused()
        for tensor in self.tensors:
            tensor.name = tensor.shapeSignature = None
        for operator in self.operators:
            if operator.inputs is not None and self.name(operator) == "CONV_2D":
                self.tensors[operator.inputs[2]].quantization = None
        model = self.model
        model.signatureDefs = model.description = model.metadataBuffer = model.metadata = None
        model.subgraphs[0].name = None
        self._merge_buffers()
        if about is not None:
            self._describe(about)

    def to_bytes(self) -> bytes:
        """Write the flatbuffer.

        Every buffer begins at a multiple of 16 bytes, as the schema requires; vectors and tables
        that are equal (quantisation, options) are written once.

        Returns
        -------
        bytes
            The model.
        """
        return _Writer(self).bytes()

    def _drop_unused(self) -> None:
        self._constants = {}
        used = sorted({int(index) for operator in self.operators
                       for index in [*_numbers(operator.inputs), *_numbers(operator.outputs)]
                       if index >= 0} | {*self.inputs, *self.outputs})
        # -1 stands for an optional input that is absent.
        new_index = {old: new for new, old in enumerate(used)} | {-1: -1}
        subgraph = self.model.subgraphs[0]
        subgraph.tensors = [subgraph.tensors[index] for index in used]
        subgraph.inputs = [new_index[index] for index in self.inputs]
        subgraph.outputs = [new_index[index] for index in self.outputs]
        for operator in self.operators:
            operator.inputs = [new_index[index] for index in _numbers(operator.inputs)]
            operator.outputs = [new_index[index] for index in _numbers(operator.outputs)]

    def _merge_buffers(self) -> None:
        """Keep the buffers that tensors use, each content once; number 0 is the empty one."""
        kept = [self.schema.BufferT()]
        position: dict[bytes, int] = {}
        for index, tensor in enumerate(self.tensors):
            data = self._data(index)
            content = b"" if data is None else bytes(data)
            if content and content not in position:
                position[content] = len(kept)
                kept.append(self.model.buffers[tensor.buffer])
            tensor.buffer = position[content] if content else 0
        self.model.buffers = kept

    def _describe(self, about: Mapping[str, Any]) -> None:
        text = json.dumps(about, separators=(",", ":"), sort_keys=True, allow_nan=False)
        buffer, entry = self.schema.BufferT(), self.schema.MetadataT()
        buffer.data = np.frombuffer(text.encode(), np.uint8)
        self.model.buffers.append(buffer)
        entry.name, entry.buffer = METADATA, len(self.model.buffers) - 1
        self.model.metadata = [entry]


def _numbers(indices: Sequence[int] | np.ndarray | None) -> list[int]:
    return [] if indices is None else [int(index) for index in indices]


class _Writer:
    """Packs a model with what Python's generated code lacks: alignment, and sharing of equal parts.
    """

    def __init__(self, graph: Graph) -> None:
        import flatbuffers

        self._schema, self._model = graph.schema, graph.model
        self._builder = flatbuffers.Builder(1 << 20)
        self._shared: dict[Hashable, int] = {}

    def bytes(self) -> bytes:
        """Pack the model, with our own methods in place of the generated ``Pack``."""
        subgraph = self._model.subgraphs[0]
        parts: list[tuple[Any, Callable[[Any, Any], int]]] = [
            (buffer, self._buffer) for buffer in self._model.buffers
            if buffer.data is not None and len(buffer.data)]
        parts += [(tensor.quantization, self._quantisation) for tensor in subgraph.tensors
                  if tensor.quantization is not None]
        parts += [(operator.builtinOptions, self._options) for operator in subgraph.operators
                  if operator.builtinOptions is not None]
        for part, pack in parts:
            part.Pack = functools.partial(pack, part)
        try:
            self._builder.Finish(self._model.Pack(self._builder), file_identifier=FILE_IDENTIFIER)
        finally:
            for part, _ in parts:
                vars(part).pop("Pack", None)
        return bytes(self._builder.Output())

    def _buffer(self, buffer: Any, builder: Any) -> int:
        data = bytes(buffer.data)
        builder.StartVector(1, len(data), ALIGNMENT)
        # CreateByteVector cannot align the bytes to more than one.
        builder.head -= len(data)
        builder.Bytes[builder.head:builder.head + len(data)] = data
        vector = builder.EndVector()
        self._schema.BufferStart(builder)
        self._schema.BufferAddData(builder, vector)
        return int(self._schema.BufferEnd(builder))

    def _quantisation(self, table: Any, builder: Any) -> int:
        scale = self._vector(np.asarray(table.scale, np.float32))
        points = self._vector(np.asarray(table.zeroPoint, np.int64))

        def write() -> int:
            self._schema.QuantizationParametersStart(builder)
            self._schema.QuantizationParametersAddScale(builder, scale)
            self._schema.QuantizationParametersAddZeroPoint(builder, points)
            self._schema.QuantizationParametersAddQuantizedDimension(
                builder, table.quantizedDimension)
            return int(self._schema.QuantizationParametersEnd(builder))

        return self._once(("quantisation", scale, points, table.quantizedDimension), write)

    def _options(self, options: Any, builder: Any) -> int:
        values = {name: value for name, value in vars(options).items() if name != "Pack"}
        if not all(isinstance(value, (int, float, bool)) for value in values.values()):
            return int(type(options).Pack(options, builder))
        key = (type(options).__name__, *sorted(values.items()))
        return self._once(key, lambda: int(type(options).Pack(options, builder)))

    def _vector(self, values: np.ndarray) -> int:
        return self._once((values.dtype.str, values.tobytes()),
                          lambda: int(self._builder.CreateNumpyVector(values)))

    def _once(self, key: Hashable, write: Callable[[], int]) -> int:
        if key not in self._shared:
            self._shared[key] = write()
        return self._shared[key]
