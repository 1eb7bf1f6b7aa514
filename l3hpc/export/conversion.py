"""Convert a network to TensorFlow Lite: float32, float16 or integers, with or without its front
end.

``convert`` takes the folded network: no BatchNorm is left but the spectrogram's own, whose factor
is multiplied into the first convolution's kernel, so that one addition remains of it (the border of
"same" padding is zero after that addition, so it cannot be folded into a bias). The model takes one
spectrogram in dB, (1, bands, times, 1), and gives one embedding, (1, dim).

``round_first_layer`` rounds the first convolution's weights jointly instead of one by one. A filter
of that layer covers nine neighbouring pixels of a spectrogram, which are much alike, so that errors
of the nine weights add up in one direction; this layer alone causes most of the error of an integer
model. All 512 ways to round a filter up or down are tried on the joint statistics of real
spectrograms (``l3hpc.models.precision``); size and time do not change.

``convert_frontend`` and ``join_graphs`` fuse the mel front end into the file: audio in, embedding
out, for phones and small computers. The front end is converted in float32 (its Fourier transform
and logarithm have no integer kernels); before an integer network there is one QUANTIZE. TFLite
Micro has no such Fourier transform: on a microcontroller the front end stays outside, as C code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.audio.frontends import RANGE_DB
from l3hpc.errors import InputError, nearest
from l3hpc.export.graph import Graph
from l3hpc.models.parameters import Convolution, FoldedNetwork
from l3hpc.models.quantisation import patch_moment, round_together
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.tensorflow_log import without_lines

if TYPE_CHECKING:
    import tensorflow as tf

FORMATS = ("int8", "int16x8", "fp16", "fp32")
INTEGER = ("int8", "int16x8")


def check_format(form: str, has_frames: bool) -> None:
    """Check that a format exists and that it has the real frames that it needs.

    Parameters
    ----------
    form
        Any text.
    has_frames
        Whether there are real frames to calibrate on.

    Raises
    ------
    InputError
        Unknown format, or an integer format without frames.
    """
    if form not in FORMATS:
        raise InputError(f"unknown format {form!r}", allowed=nearest(form, FORMATS))
    if form in INTEGER and not has_frames:
        raise InputError(f"{form} needs recordings, to determine the range of every feature map",
                         where="--calibrate", hint="--calibrate FOLDER, of recordings like those "
                                                   "that the model will process")


def convert(network: FoldedNetwork, form: str, spectrograms: np.ndarray | None = None) -> bytes:
    """Convert a network to a TensorFlow Lite flatbuffer.

    Parameters
    ----------
    network
        The folded network.
    form
        One of ``FORMATS``.
    spectrograms
        (n, bands, times) float32 in dB of real frames, which integer formats need to determine the
        range of every feature map.

    Returns
    -------
    bytes
        The flatbuffer as TensorFlow's converter writes it.

    Raises
    ------
    InputError
        Unknown format, or no frames where they are needed (see ``check_format``).
    """
    check_format(form, spectrograms is not None and len(spectrograms) > 0)
    import tensorflow as tf

    module = tf.Module()
    # Its loops run while it is traced, so there is nothing for autograph to convert.
    module.embed = tf.function(_forward(network), autograph=False, input_signature=[
        tf.TensorSpec((1, *network.spec.frontend.shape, 1), tf.float32, name="spectrogram")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.embed.get_concrete_function()], module)
    if form != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if form in INTEGER:
        # Integers at input and output too: a microcontroller need not compute in floats.
        integers = tf.int8 if form == "int8" else tf.int16
        converter.representative_dataset = lambda: _examples(spectrograms)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8 if form == "int8" else
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
        converter.inference_input_type = converter.inference_output_type = integers
    with without_lines(_without_settings):
        return bytes(converter.convert())


def _without_settings(text: str) -> str:
    # the converter repeats its settings on stderr, whatever the log level
    return re.sub(r"^fully_quantize: .*\n", "", text, flags=re.MULTILINE)


def fold_input_scale(network: FoldedNetwork) -> tuple[float, tuple[Convolution, ...]]:
    """Fold the scale of the input normalisation into the first convolution.

    Parameters
    ----------
    network
        The folded network.

    Returns
    -------
    offset
        What is added to the spectrogram.
    convolutions
        The convolutions that take the sum; together the same function as ``network``.

    Raises
    ------
    InputError
        The scale is 0.
    """
    if network.scale == 0 or not np.isfinite(network.shift / network.scale):
        raise InputError("input scale is 0: the output cannot depend on the audio")
    first, *others = network.convolutions
    kernel = (first.kernel.astype(np.float64) * network.scale).astype(np.float32)
    return network.shift / network.scale, (replace(first, kernel=kernel), *others)


def _forward(network: FoldedNetwork) -> Callable[[tf.Tensor], tf.Tensor]:
    """The function from a spectrogram to an embedding that the converter traces."""
    import tensorflow as tf

    offset, convolutions = fold_input_scale(network)
    spec = network.spec

    def embed(spectrogram: tf.Tensor) -> tf.Tensor:
        x = spectrogram + tf.constant(offset, tf.float32) if offset else spectrogram
        for index, layer in enumerate(convolutions):
            x = tf.nn.bias_add(tf.nn.conv2d(x, tf.constant(layer.kernel), 1, "SAME"),
                               tf.constant(layer.bias))
            if layer.relu:
                x = tf.nn.relu(x)
            if index in network.spec.halvings:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        # The pool divides the map exactly (NetworkSpec checks it), so VALID and the published SAME
        # agree.
        x = tf.nn.max_pool2d(x, spec.pool, spec.pool, "VALID")
        return tf.reshape(x, [1, spec.dim])

    return embed


def _examples(spectrograms: np.ndarray | None) -> Iterator[list[np.ndarray]]:
    """The converter's representative data, one spectrogram at a time."""
    assert spectrograms is not None
    for number, spectrogram in enumerate(spectrograms):
        example = np.array(spectrogram[None, ..., None], np.float32)
        # One pixel at the floor, so that the input's range covers all possible spectrograms,
        # even if the recordings are loud throughout.
        if number == 0:
            example[0, -1, -1, 0] = -RANGE_DB
        yield [example]


def round_first_layer(graph: Graph, network: FoldedNetwork, spectrograms: np.ndarray) -> None:
    """Round the int8 weights of the first convolution jointly.

    Parameters
    ----------
    graph
        The plain export of ``network`` in an integer format; its weights are replaced.
    network
        The folded network.
    spectrograms
        (n, bands, times) in dB, as for the conversion.
    """
    offset, convolutions = fold_input_scale(network)
    first = next(operator for operator in graph.operators if graph.name(operator) == "CONV_2D")
    filters = graph.tensors[first.inputs[1]]
    step = np.asarray(filters.quantization.scale, np.float64)  # per output channel
    rounded = round_together(convolutions[0].kernel / step, patch_moment(spectrograms, 1.0, offset))
    order = rounded.transpose(3, 0, 1, 2)  # TFLite: (out, row, column, in)
    graph.model.buffers[filters.buffer].data = np.frombuffer(
        order.astype(np.int8).tobytes(), np.uint8)


def convert_frontend(spec: NetworkSpec) -> bytes:
    """Convert the front end: audio (1, rate) float32 to decibels (1, bands, times, 1).

    Parameters
    ----------
    spec
        A network with the front end ``kapre-0.1``.

    Returns
    -------
    bytes
        The flatbuffer.

    Raises
    ------
    InputError
        The front end has another convention.
    """
    import tensorflow as tf

    from l3hpc.audio.frontend_layer import MelFrontend

    layer = MelFrontend(spec.rate, spec.n_dft, spec.hop, spec.n_mels, spec.fmax, spec.convention,
                        spec.window_s)
    module = tf.Module()
    module.listen = tf.function(layer.call, autograph=False, input_signature=[
        tf.TensorSpec((1, spec.frontend.samples), tf.float32, name="audio")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.listen.get_concrete_function()], module)
    return bytes(converter.convert())


def join_graphs(front: Graph, body: Graph) -> Graph:
    """Append ``body`` to ``front``, on its output.

    Parameters
    ----------
    front
        The first graph; it becomes the result.
    body
        The second graph.

    Returns
    -------
    Graph
        ``front``.
    """
    offset = len(front.tensors)
    buffers = len(front.model.buffers)
    front.model.buffers.extend(body.model.buffers)
    # buffers, tensors and operator codes are numbered from 0 in each of the two graphs
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

    def moved(tensor: int) -> int:
        """The number of one of ``body``'s tensors in the result; -1 (no tensor) stays."""
        number = int(tensor)
        # In floats the front end's output is the network's input: one tensor, with no operator
        # between.
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
