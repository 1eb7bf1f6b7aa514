"""The mel front end inside the file: audio in, embedding out, for phones and small computers.

The front end is converted in float32 (its Fourier transform and logarithm have no integer kernels)
and joined to the body; in front of an integer body stands one QUANTIZE. TFLite Micro has no such
Fourier transform: for a microcontroller the front end stays outside, as C.
"""

from __future__ import annotations

from typing import Any

from l3hpc.export.graph import Graph
from l3hpc.models.spec import NetworkSpec


def convert_frontend(spec: NetworkSpec) -> bytes:
    """The front end as a flatbuffer: audio (1, rate) float32 to decibels (1, bands, times, 1).

    Convention A only: ``InputError`` for another.
    """
    import tensorflow as tf

    from l3hpc.audio.frontend_layer import MelFrontend

    layer = MelFrontend(spec.rate, spec.n_dft, spec.hop, spec.n_mels, spec.fmax, spec.convention)
    module = tf.Module()
    module.listen = tf.function(layer.call, autograph=False, input_signature=[
        tf.TensorSpec((1, spec.rate), tf.float32, name="audio")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.listen.get_concrete_function()], module)
    return bytes(converter.convert())


def join(front: Graph, body: Graph) -> Graph:
    """``front``, then ``body`` on its output; ``front`` becomes the result."""
    offset = len(front.tensors)
    buffers = len(front.model.buffers)
    front.model.buffers.extend(body.model.buffers)
    for tensor in body.tensors:
        tensor.buffer += buffers
    front.tensors.extend(body.tensors)
    codes = len(front.model.operatorCodes)
    front.model.operatorCodes.extend(body.model.operatorCodes)
    source, target = front.outputs[0], body.inputs[0]
    quantised = body.quantisation(target)[0] != 0
    if quantised:
        front.operators.append(front.operator("QUANTIZE", [source], [target + offset],
                                              front.schema.QuantizeOptionsT()))

    def moved(tensor: Any) -> int:
        number = int(tensor)
        if number == target and not quantised:
            return source
        return number + offset if number >= 0 else number

    for operator in body.operators:
        operator.opcodeIndex += codes
        operator.inputs = [moved(tensor) for tensor in operator.inputs]
        operator.outputs = [moved(tensor) for tensor in operator.outputs]
        front.operators.append(operator)
    front.model.subgraphs[0].outputs = [moved(tensor) for tensor in body.outputs]
    return front
