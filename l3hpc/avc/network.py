"""What an L3 vision network is, in numbers, and its weight files. No TensorFlow here.

The picture half of Look, Listen and Learn as openl3 has it: normalisation of the input, eight 3x3
convolutions in four blocks, the largest value of each map.

The audio-visual network as a Keras model. Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from l3hpc.errors import InputError
from l3hpc.io.files import write_bytes
from l3hpc.models import network
from l3hpc.models.network import FusedNormalisation
from l3hpc.models.parameters import ARRAY_NAMES, BN_EPSILON, BN_MOMENTUM, Parameters, random_layers
from l3hpc.models.spec import L3_FILTERS, NetworkSpec
from l3hpc.models.weight_files import StoredNetwork, open_network, own_bytes
from l3hpc.models.weights import save

PUBLISHED_SIZE = 224
SCALED = 256 / 224  # the short side of a frame, in sides of the picture that is cut out of it
DENSE_NAMES = {**ARRAY_NAMES, "dense": ("kernel", "bias")}

Layers = tuple[tuple[np.ndarray, ...], ...]
Shapes = list[tuple[str, tuple[tuple[int, ...], ...]]]
HIDDEN = 128
NON_MATCHING, MATCHING = 0, 1  # columns of label and output, as in the published batches
VISION_SEED = 1000  # vision layers are drawn after the audio's, so that no two share numbers


@dataclass(frozen=True)
class VisionSpec:
    """A vision network: pictures of ``size`` x ``size`` pixels to ``filters[-1]`` values >= 0.

    The published one takes 224 pixels and has L3's filters. Raises ``InputError`` for a size that
    three 2x2 poolings leave nothing of, or other than eight filters.
    """

    size: int = PUBLISHED_SIZE
    filters: tuple[int, ...] = L3_FILTERS

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(int(count) for count in self.filters))
        if len(self.filters) != 8 or min(self.filters) < 1:
            raise InputError(f"filters {list(self.filters)} do not make a vision network",
                             allowed="eight positive numbers, one per convolution")
        if not 8 <= self.size <= 1024:
            raise InputError(f"pictures of {self.size} x {self.size} pixels do not fit a vision "
                             "network", allowed="8 to 1024; 224 is the published size")

    @property
    def dim(self) -> int:
        """Length of what it gives."""
        return self.filters[-1]

    @property
    def pool(self) -> int:
        """Side of the last map, which is pooled whole (odd sizes are rounded up, as published)."""
        side = self.size
        for _ in range(3):
            side = -(-side // 2)
        return side

    def layers(self) -> Shapes:
        """Weighted layers in order: (kind, shapes of its arrays), as in ``NetworkSpec.layers``."""
        found: Shapes = [("batch_norm", ((3,),) * 4)]
        before = 3
        for count in self.filters:
            found += [("conv", ((3, 3, before, count), (count,))), ("batch_norm", ((count,),) * 4)]
            before = count
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``from_dict`` is the inverse."""
        return {**asdict(self), "filters": list(self.filters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionSpec:
        """The spec that ``to_dict`` described; anything else is an ``InputError``."""
        size, filters = values.get("size"), values.get("filters")
        whole = isinstance(size, int) and isinstance(filters, (list, tuple)) and all(
            isinstance(count, int) for count in filters)
        if set(values) != {"size", "filters"} or not whole:
            raise InputError(f"not a vision network: {dict(values)!r:.80}",
                             allowed="size and filters, whole numbers")
        return cls(size, tuple(filters))  # type: ignore[arg-type]


def head_layers(joint: int, hidden: int = 128) -> Shapes:
    """The fusion head on ``joint`` values: Dense ``hidden``, Dense 2."""
    return [("dense", ((joint, hidden), (hidden,))), ("dense", ((hidden, 2), (2,)))]


def save_arrays(path: Path, spec: Mapping[str, Any], shapes: Shapes, layers: Layers,
                provenance: Mapping[str, Any] | None = None) -> None:
    """Write arrays in our own format (HDF5 and JSON, nothing executes on load), by one rename."""
    named = [(kind, dict(zip(DENSE_NAMES[kind], arrays, strict=True)))
             for (kind, _), arrays in zip(shapes, layers, strict=True)]
    write_bytes(Path(path), own_bytes(dict(spec), named, dict(provenance or {})))


def save_vision(path: Path, spec: VisionSpec, layers: Layers,
                provenance: Mapping[str, Any] | None = None) -> None:
    """Write a vision network; ``load_vision`` reads it."""
    save_arrays(path, {"vision": spec.to_dict()}, spec.layers(), layers, provenance)


def load_vision(path: str | Path) -> tuple[VisionSpec, Layers]:
    """A vision network from a file: of ``save_vision``, a whole AVC network, or openl3's images.

    openl3's files (``openl3_image_…``) end before the last normalisation: a neutral one stands in.
    Raises ``InputError`` for any other file, with what its layers are.
    """
    with open_network(Path(path)) as stored:
        spec = _vision_spec(stored)
        shapes = spec.layers()
        arrays = [layer.read() for layer in stored.layers]
    if len(arrays) > len(shapes):  # a whole AVC network: the vision part follows the audio's
        start = _audio_layers(stored)
        arrays = arrays[start:start + len(shapes)]
    if stored.spec is None and len(arrays) == len(shapes) - 1:
        neutral = tuple(np.full(spec.dim, value, np.float32) for value in (1, 0, 0, 1))
        arrays.append(neutral)
    found = [tuple(array.shape for array in one) for one in arrays]
    if found != [wanted for _, wanted in shapes]:
        raise InputError(f"its {len(found)} weighted layers are not those of a vision network",
                         where=str(path), allowed="an input normalisation of 3 channels, then "
                         "eight 3x3 convolutions, each with its normalisation")
    if not all(np.isfinite(array).all() for one in arrays for array in one):
        raise InputError("holds values that are not finite numbers", where=str(path))
    return spec, tuple(arrays)


def _vision_spec(stored: StoredNetwork) -> VisionSpec:
    if stored.spec is not None:
        told = stored.spec.get("vision")
        if not isinstance(told, dict):
            raise InputError("holds no vision network", where=str(stored.path),
                             allowed="vision.h5 or avc.h5 of avc_train, or openl3's image weights")
        return VisionSpec.from_dict(told)
    outputs = [shapes[0][3] for shapes in (layer.shapes for layer in stored.layers)
               if len(shapes) == 2 and len(shapes[0]) == 4]
    if len(outputs) != 8:
        raise InputError(f"holds {len(outputs)} convolutions", where=str(stored.path),
                         allowed="a vision network of eight (openl3's image weights)")
    return VisionSpec(filters=tuple(outputs))


def _audio_layers(stored: StoredNetwork) -> int:
    """How many weighted layers the audio branch of a stored AVC network has."""
    from l3hpc.models.spec import NetworkSpec

    told = (stored.spec or {}).get("audio")
    if not isinstance(told, dict):
        raise InputError("holds more layers than a vision network", where=str(stored.path))
    return len(NetworkSpec.from_dict(told).layers())


@dataclass(frozen=True)
class AvcNetwork:
    """The whole network and its parts.

    model: (spectrograms (batch, bands, times, 1), pictures (batch, size, size, 3) in [-1, 1]) →
    probabilities (batch, 2): column 0 not matching, column 1 matching. audio, vision: the branches
    (Keras models that share their weights with ``model``). audio_spec is None for an audio branch
    that came as a Keras model.
    """

    model: keras.Model
    audio: keras.Model
    vision: keras.Model
    vision_spec: VisionSpec
    audio_spec: NetworkSpec | None = None

    @property
    def head(self) -> Layers:
        """The arrays of the fusion head."""
        return tuple(tuple(np.asarray(array) for array in self.model.get_layer(name).get_weights())
                     for name in ("fusion", "correspondence"))

    def parameters(self) -> Parameters:
        """The audio branch's present weights. ``InputError`` where it is no l3hpc network."""
        if self.audio_spec is None:
            raise InputError("the audio branch came as a Keras model, without a network spec")
        return network.parameters_of(self.audio, self.audio_spec)

    def save_audio(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the audio branch: a network like any other of this package."""
        save(self.parameters(), path, provenance)

    def save_vision(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the vision branch (see ``l3hpc.avc.vision.load_vision``)."""
        save_vision(path, self.vision_spec, _arrays(self.vision), provenance)

    def save(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the whole network (see ``load_avc``)."""
        audio = self.parameters()
        joint = audio.spec.dim + self.vision_spec.dim
        shapes = [*audio.spec.layers(), *self.vision_spec.layers(), *head_layers(joint, HIDDEN)]
        save_arrays(path, {"audio": audio.spec.to_dict(), "vision": self.vision_spec.to_dict()},
                    shapes, (*audio.layers, *_arrays(self.vision), *self.head), provenance)


def build_avc(
    audio: NetworkSpec | Parameters | keras.Model, vision: VisionSpec | None = None, *,
    vision_weights: str | Path | None = None, freeze_vision: bool = False,
    bn_momentum: float = BN_MOMENTUM, fused: bool = False, seed: int = 20180216,
) -> AvcNetwork:
    """The correspondence network of L3: audio ++ vision → Dense 128 ReLU → Dense 2 softmax.

    Parameters
    ----------
    audio: a network to start afresh (``NetworkSpec``), with given weights (``Parameters``), or any
        Keras model from a spectrogram (bands, times, 1) to an embedding (dim,), used as it is.
    vision: the vision network; default: that of ``vision_weights``, or the published one.
    vision_weights: file to start the vision branch from (see ``load_vision``).
    freeze_vision: the vision branch is not trained: its weights and moving statistics stay.
    bn_momentum, fused: see ``l3hpc.models.network.build``.
    seed: of all fresh weights (He-normal, the same on every machine).

    Kernels carry an L2 penalty of 1e-5, as published. Raises ``InputError`` where the vision
    weights are of another network than ``vision``.
    """
    arrays: Layers | None = None
    if vision_weights is not None:
        found, arrays = load_vision(vision_weights)
        if vision is not None and vision.filters != found.filters:
            raise InputError(f"is of filters {list(found.filters)}", where=str(vision_weights),
                             allowed=f"filters {list(vision.filters)}")
        vision = vision or found
    vision = vision or VisionSpec()
    spec = audio if isinstance(audio, NetworkSpec) else getattr(audio, "spec", None)
    if isinstance(audio, (NetworkSpec, Parameters)):
        assert spec is not None
        ears = network.build(spec, bn_momentum, fused=fused)
        network.assign(ears, audio if isinstance(audio, Parameters) else
                       Parameters(spec, random_layers(spec.layers(), seed)))
    else:
        ears = audio
    eyes = build_vision(vision, bn_momentum, fused=fused)
    _assign(eyes, arrays or random_layers(vision.layers(), seed, VISION_SEED))
    eyes.trainable = not freeze_vision
    model = _join(ears, eyes)
    joint = int(ears.output_shape[-1]) + vision.dim
    for name, values in zip(("fusion", "correspondence"), random_layers(
            head_layers(joint, HIDDEN), seed, 2 * VISION_SEED), strict=True):
        model.get_layer(name).set_weights(list(values))
    return AvcNetwork(model, ears, eyes, vision, spec if isinstance(spec, NetworkSpec) else None)


def build_vision(spec: VisionSpec, bn_momentum: float = BN_MOMENTUM, *,
                 fused: bool = False) -> keras.Model:
    """Pictures (batch, size, size, 3) in [-1, 1] → (batch, ``spec.dim``) float32, fresh weights.

    As published, also in this: in the second convolution the ReLU stands before the normalisation,
    and poolings round odd sizes up.
    """
    layer = FusedNormalisation if fused else keras.layers.BatchNormalization
    picture = keras.Input((spec.size, spec.size, 3), name="picture")

    def normalise(x: Any, number: int) -> Any:
        return layer(momentum=bn_momentum, epsilon=BN_EPSILON, name=f"norm_{number}")(x)

    x = normalise(picture, 0)
    for number, count in enumerate(spec.filters, 1):
        name = "vision_embedding_layer" if number == 8 else f"conv_{number}"
        x = keras.layers.Conv2D(count, 3, padding="same", kernel_initializer="he_normal",
                                kernel_regularizer=_decay(), name=name)(x)
        relu = keras.layers.ReLU(name=f"relu_{number}")
        x = normalise(relu(x), number) if number == 2 else relu(normalise(x, number))
        if number in (2, 4, 6):
            x = keras.layers.MaxPooling2D(2, padding="same", name=f"pool_{number // 2}")(x)
    x = keras.layers.MaxPooling2D(spec.pool, padding="same", name="pool_4")(x)
    x = keras.layers.Flatten(dtype="float32", name="embedding")(x)
    return keras.Model(picture, x, name="l3_vision")


def load_avc(path: str | Path) -> AvcNetwork:
    """The whole network that ``AvcNetwork.save`` wrote. Raises ``InputError`` for other files."""
    from l3hpc.models.weight_files import open_network

    with open_network(Path(path)) as stored:
        told = stored.spec or {}
        if not isinstance(told.get("audio"), dict) or not isinstance(told.get("vision"), dict):
            raise InputError("is not a whole audio-visual network", where=str(path),
                             allowed="avc.h5 of avc_train")
        spec = NetworkSpec.from_dict(told["audio"])
        vision = VisionSpec.from_dict(told["vision"])
        arrays = tuple(layer.read() for layer in stored.layers)
    shapes = [*spec.layers(), *vision.layers(), *head_layers(spec.dim + vision.dim, HIDDEN)]
    if [tuple(array.shape for array in one) for one in arrays] != [one for _, one in shapes]:
        raise InputError(f"its {len(arrays)} weighted layers are not those of its spec",
                         where=str(path))
    middle = len(spec.layers())
    whole = build_avc(Parameters(spec, arrays[:middle]), vision)
    _assign(whole.vision, arrays[middle:-2])
    for name, values in zip(("fusion", "correspondence"), arrays[-2:], strict=True):
        whole.model.get_layer(name).set_weights(list(values))
    return whole


def _join(ears: keras.Model, eyes: keras.Model) -> keras.Model:
    sound = keras.Input(ears.input_shape[1:], name="spectrogram")
    picture = keras.Input(eyes.input_shape[1:], name="picture")
    # the published order: vision before audio
    x = keras.layers.Concatenate(name="both", dtype="float32")([eyes(picture), ears(sound)])
    for name, count, activation in (("fusion", HIDDEN, "relu"), ("correspondence", 2, "softmax")):
        x = keras.layers.Dense(count, activation, kernel_initializer="he_normal", dtype="float32",
                               kernel_regularizer=_decay(), name=name)(x)
    return keras.Model([sound, picture], x, name="l3_avc")


def _decay() -> keras.regularizers.Regularizer:
    return keras.regularizers.L2(network.WEIGHT_DECAY)


def _arrays(model: keras.Model) -> Layers:
    return tuple(tuple(np.asarray(array, np.float32) for array in layer.get_weights())
                 for layer in network.weighted_layers(model))


def _assign(model: keras.Model, arrays: Layers) -> None:
    for layer, values in zip(network.weighted_layers(model), arrays, strict=True):
        layer.set_weights(list(values))
