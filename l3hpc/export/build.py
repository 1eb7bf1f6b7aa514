"""A network as a TFLite file: float32, float16 or integers, with its front end or without.

``convert`` takes the folded network: no BatchNorm is left but the spectrogram's own, whose factor
is taken into the first convolution's kernel, so that one addition remains of it (the border of
"same" padding is zero after that addition, so it cannot vanish into a bias). The model takes one
spectrogram in dB, (1, bands, times, 1), and gives one embedding, (1, dim).

``round_first_layer`` rounds the first convolution's integers together instead of one by one. A
filter of that layer sees nine neighbouring pixels of a spectrogram, which are much alike, so that
errors of the nine weights add up in one direction; this layer alone makes most of the error of an
integer model. All 512 ways to round a filter up or down are tried on the joint statistics of real
spectrograms (``l3hpc.models.precision``); size and time do not change.

``convert_frontend`` and ``join`` fuse the mel front end into the file: audio in, embedding out, for
phones and small computers. The front end is converted in float32 (its Fourier transform and
logarithm have no integer kernels); before an integer body there is one QUANTIZE. TFLite Micro has
no such Fourier transform: for a microcontroller the front end stays outside, as C.

What an export starts from: the model, and real frames to calibrate and check it on.

From a network and settings to the graph that is exported, and what it is compared with.

``Settings`` refuses what cannot be exported before any work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from l3hpc.audio.conventions import name_of
from l3hpc.audio.frontends import RANGE_DB
from l3hpc.datasets.corpus import Recording, scan
from l3hpc.datasets.windows import spread, windows_of
from l3hpc.embedding.model_files import find_model, geometry_of
from l3hpc.errors import InputError, command_line, nearest
from l3hpc.export import tiling
from l3hpc.export.graph import Graph
from l3hpc.export.tiling import BUDGET
from l3hpc.models.parameters import Convolution, FoldedNetwork, Parameters
from l3hpc.models.precision import patch_moment, round_together
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weights import WeightsInfo, describe, load_parameters

FORMATS = ("int8", "int16x8", "fp16", "fp32")
INTEGER = ("int8", "int16x8")
HOP_S = 0.5
RANGE_FRAMES = 200
CHECK_FRAMES = 100
RECORDINGS = 100  # for either
FRONTENDS = ("outside", "inside")
MODEL_FILES = ("model.tflite", "l3_model.h", "l3_model.c")
FRONTEND_FILES = ("l3_frontend.h", "l3_frontend.c")
TEXTS = ("card.md", "report.json")


def convert(network: FoldedNetwork, form: str, spectrograms: np.ndarray | None = None) -> bytes:
    """The flatbuffer of ``network`` in ``form``, one of ``FORMATS``.

    spectrograms: (n, bands, times) float32 in dB of real frames, from which integer formats take
    the range of every map. Raises ``InputError`` where they are needed and there are none.
    """
    if form not in FORMATS:
        raise InputError(f"unknown format {form!r}", allowed=", ".join(FORMATS))
    if form in INTEGER and (spectrograms is None or not len(spectrograms)):
        raise InputError(f"{form} takes the range of every map from real frames, and there are "
                         "none", where="--calibrate", allowed="a folder of audio",
                         hint="name a folder of recordings like those the model will hear: "
                              "--calibrate FOLDER")
    import tensorflow as tf

    module = tf.Module()
    module.embed = tf.function(_forward(network), autograph=False, input_signature=[
        tf.TensorSpec((1, *network.spec.frontend.shape, 1), tf.float32, name="spectrogram")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.embed.get_concrete_function()], module)
    if form != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if form in INTEGER:
        integers = tf.int8 if form == "int8" else tf.int16
        converter.representative_dataset = lambda: _examples(spectrograms)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8 if form == "int8" else
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
        converter.inference_input_type = converter.inference_output_type = integers
    return bytes(converter.convert())


def centred(network: FoldedNetwork) -> tuple[float, tuple[Convolution, ...]]:
    """(what is added to the spectrogram, the convolutions that take the sum).

    The same function as ``network``; its scale must not be 0 (``InputError``).
    """
    if network.scale == 0 or not np.isfinite(network.shift / network.scale):
        raise InputError("input scale is 0: the output cannot depend on the audio")
    first, *others = network.convolutions
    kernel = (first.kernel.astype(np.float64) * network.scale).astype(np.float32)
    return network.shift / network.scale, (replace(first, kernel=kernel), *others)


def _forward(network: FoldedNetwork) -> Any:
    import tensorflow as tf

    offset, convolutions = centred(network)
    spec = network.spec

    def embed(spectrogram: Any) -> Any:
        x = spectrogram + tf.constant(offset, tf.float32) if offset else spectrogram
        for index, layer in enumerate(convolutions):
            x = tf.nn.bias_add(tf.nn.conv2d(x, tf.constant(layer.kernel), 1, "SAME"),
                               tf.constant(layer.bias))
            if layer.relu:
                x = tf.nn.relu(x)
            if index in network.spec.halvings:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.nn.max_pool2d(x, spec.pool, spec.pool, "VALID")
        return tf.reshape(x, [1, spec.dim])

    return embed


def _examples(spectrograms: np.ndarray | None) -> Iterator[list[np.ndarray]]:
    """One after the other; a corner of the first is put to the floor, so that the input's range is
    all that a spectrogram can be, however loud the recordings are throughout."""
    assert spectrograms is not None
    for number, spectrogram in enumerate(spectrograms):
        example = np.array(spectrogram[None, ..., None], np.float32)
        if number == 0:
            example[0, -1, -1, 0] = -RANGE_DB
        yield [example]


def round_first_layer(graph: Graph, network: FoldedNetwork, spectrograms: np.ndarray) -> None:
    """Replace the int8 weights of the first convolution of a plain integer export of ``network``.

    spectrograms: (n, bands, times) in dB, as for the conversion.
    """
    offset, convolutions = centred(network)
    first = next(one for one in graph.operators if graph.name(one) == "CONV_2D")
    filters = graph.tensors[first.inputs[1]]
    step = np.asarray(filters.quantization.scale, np.float64)  # per output channel
    rounded = round_together(convolutions[0].kernel / step, patch_moment(spectrograms, 1.0, offset))
    order = rounded.transpose(3, 0, 1, 2)  # TFLite: (out, row, column, in)
    graph.model.buffers[filters.buffer].data = np.frombuffer(
        order.astype(np.int8).tobytes(), np.uint8)


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


def read_model(name: str | Path, geometry: Mapping[str, Any] | None = None
               ) -> tuple[Parameters, WeightsInfo]:
    """The parameters of a model, and who they are.

    name: a weights file, a name as ``l3hpc.embedding.load_model`` takes it, or ``untrained[:SEED]``
    (a ``Path`` is always a file). geometry: front-end values that overrule the file.

    Raises ``InputError`` as ``find_model`` and ``l3hpc.models.weights.load_parameters`` do.
    """
    file, options = _found(name, geometry)
    return load_parameters(file, **options)


def describe_model(name: str | Path, geometry: Mapping[str, Any] | None = None) -> WeightsInfo:
    """Who the model is, from headers alone."""
    file, options = _found(name, geometry)
    return describe(file, **options)


def _found(name: str | Path, geometry: Mapping[str, Any] | None
           ) -> tuple[str | Path, dict[str, Any]]:
    file, named = find_model(name)
    representation = named.options.get("input_repr")
    return file, {"embedding_size": named.options.get("embedding_size"),
                  "geometry": geometry_of(representation, None, geometry)}


@dataclass(frozen=True)
class Frames:
    """One-second frames (n, rate) float32: for ranges and, of other recordings, for the check.

    recordings: how many the folder holds.
    """

    ranges: np.ndarray
    check: np.ndarray
    recordings: int


def read_frames(folder: Path, rate: int) -> Frames:
    """Frames of recordings spread evenly through ``folder`` (and the folders in it), centred.

    Every second recording is for ranges, the others for the check (a single one is for both).
    Raises ``InputError`` where there is no audio that can be used.
    """
    recordings = scan(folder)
    mine, other = recordings[0::2], recordings[1::2] or recordings
    found = Frames(_windows(folder, mine, rate, RANGE_FRAMES),
                   _windows(folder, other, rate, CHECK_FRAMES), len(recordings))
    if not len(found.ranges) or not len(found.check):
        raise InputError(f"none of the {len(recordings)} recordings can be used",
                         where=str(folder), allowed="audible recordings of at least one second",
                         hint=command_line('data', 'check', folder, '--listen'))
    return found


def frame_windows(folder: Path, rate: int, count: int) -> np.ndarray:
    """At most ``count`` frames (n, rate) float32, spread evenly through the recordings."""
    return _windows(folder, scan(folder), rate, count)


def _windows(folder: Path, recordings: Sequence[Recording], rate: int, count: int) -> np.ndarray:
    most = min(count, RECORDINGS)
    return windows_of(folder, spread(recordings, most), rate, HOP_S, True, count)[:count]


@dataclass(frozen=True)
class Settings:
    """How to export one model.

    Parameters
    ----------
    form: one of ``FORMATS``.
    strips: whether the first blocks are computed strip by strip; None: in integer formats.
    frontend: ``outside`` (the model takes spectrograms; the front end is C) or ``inside`` (audio).
    arena: bytes that strips should reach.
    calibrate: a folder of audio, for ranges and for the accuracy; integer formats need it.
    licence: of the weights, in words. geometry: front-end values that overrule the file.

    Raises ``InputError`` for what cannot be.
    """

    form: str = "int8"
    strips: bool | None = None
    frontend: str = "outside"
    arena: int = BUDGET
    calibrate: Path | None = None
    licence: str | None = None
    geometry: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise InputError(f"unknown format {self.form!r}", allowed=nearest(self.form, FORMATS))
        if self.frontend not in FRONTENDS:
            raise InputError(f"no front end {self.frontend!r}", where="--frontend",
                             allowed=nearest(self.frontend, FRONTENDS))
        if self.arena < 1:
            raise InputError(f"an arena of {self.arena} bytes", where="--arena",
                             allowed="at least 1")
        if self.form in INTEGER and self.calibrate is None:
            raise InputError(f"{self.form} takes the range of every map from real frames",
                             where="--calibrate", allowed="a folder of audio",
                             hint="name recordings like those the model will hear: "
                                  "--calibrate FOLDER")

    @property
    def in_strips(self) -> bool:
        """Whether the first blocks are computed strip by strip."""
        return self.form in INTEGER if self.strips is None else self.strips

    def check(self, spec: NetworkSpec) -> None:
        """Refuse (``InputError``) what this network cannot be exported as."""
        if self.frontend == "inside" and spec.convention != "A":
            raise InputError(f"front-end convention {name_of(spec.convention)} cannot go inside",
                             where="--frontend", allowed=f"inside for {name_of('A')}; else outside")

    def files(self, spec: NetworkSpec) -> list[str]:
        """The files that the export of a network gives.

        A linear spectrogram has no mel table: its front end is not written as C.
        """
        mel = self.frontend == "outside" and spec.n_mels is not None
        return [*MODEL_FILES, *(FRONTEND_FILES if mel else ()), *TEXTS]


def check_output(output: Path) -> None:
    """Refuse (``InputError``) a folder that is already there."""
    if Path(output).exists():
        raise InputError("is already there", where=str(output),
                         hint="choose another folder, or remove this one")


@dataclass(frozen=True)
class Built:
    """as_converted: bytes of the converter's own file. plain: the body without strips, shrunk.
    body: what is exported, without a front end. model: with it, where it goes inside.
    counts: strips of each block; () where none is cut."""

    as_converted: bytes
    plain: Graph
    body: Graph
    model: Graph
    counts: tuple[int, ...]


def build_model(network: FoldedNetwork, settings: Settings,
                spectrograms: np.ndarray | None) -> Built:
    """Convert, round, cut into strips; spectrograms: (n, bands, times) in dB, for ranges."""
    as_converted = convert(network, settings.form, spectrograms)
    plain = Graph(as_converted)
    if settings.form in INTEGER and spectrograms is not None:
        round_first_layer(plain, network, spectrograms)
    about = {"spec": network.spec.to_dict(), "input": "spectrogram", "format": settings.form}
    counts: tuple[int, ...] = ()
    body = plain.fork()
    if settings.in_strips:
        chosen = tiling.choose(plain, settings.arena)
        counts = chosen if max(chosen, default=1) > 1 else ()
        tiling.in_strips(body, counts)
    plain.shrink(about)
    body.shrink(about)
    model = body
    if settings.frontend == "inside":
        front = Graph(convert_frontend(network.spec))
        model = join(front, body.fork())
        model.shrink({**about, "input": "audio"})
    return Built(as_converted, plain, body, model, counts)
