"""The audio-visual network as a Keras model. Importing this module imports TensorFlow.

Two branches (audio: ``l3hpc.models.network``; vision: ``build_vision``) end in embeddings; a fusion
head on both decides whether they belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from l3hpc.avc.vision import (
    HIDDEN,
    Layers,
    VisionSpec,
    head_layers,
    load_vision,
    save_arrays,
    save_vision,
)
from l3hpc.errors import InputError
from l3hpc.models import network
from l3hpc.models.network import FusedNormalisation
from l3hpc.models.parameters import BN_EPSILON, BN_MOMENTUM, Parameters, random_layers
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weight_files import open_network
from l3hpc.models.weights import save

VISION_SEED = 1000  # number of the first vision layer, so that audio and vision draw differently


@dataclass(frozen=True)
class AvcNetwork:
    """The whole network and its branches.

    Attributes
    ----------
    model
        Spectrograms (batch, bands, times, 1) and images (batch, size, size, 3) in [-1, 1] →
        probabilities (batch, 2): not matching, matching.
    audio
        The audio branch, which shares its weights with ``model``.
    vision
        The vision branch, which shares its weights with ``model``.
    vision_spec
        The vision network.
    audio_spec
        The audio network; None for a branch that was given as a Keras model.
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
        """The current weights of the audio branch.

        Returns
        -------
        Parameters
            float32 arrays.

        Raises
        ------
        InputError
            The branch was given as a Keras model.
        """
        if self.audio_spec is None:
            raise InputError("the audio branch was given as a Keras model, without a network spec")
        return network.parameters_of(self.audio, self.audio_spec)

    def save_audio(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the audio branch as a network like any other of this package.

        Parameters
        ----------
        path
            The file.
        provenance
            JSON-ready values that describe where the network comes from.
        """
        save(self.parameters(), path, provenance)

    def save_vision(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the vision branch, which ``load_vision`` reads.

        Parameters
        ----------
        path
            The file.
        provenance
            JSON-ready values that describe where the network comes from.
        """
        save_vision(path, self.vision_spec, _arrays(self.vision), provenance)

    def save(self, path: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write the whole network, which ``load_avc`` reads.

        Parameters
        ----------
        path
            The file.
        provenance
            JSON-ready values that describe where the network comes from.
        """
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
    """Build the correspondence network of L3: audio ++ vision → Dense 128 ReLU → Dense 2 softmax.

    Kernels have an L2 penalty of 1e-5, as published.

    Parameters
    ----------
    audio
        A network with new weights (``NetworkSpec``), with given weights (``Parameters``), or any
        Keras model from a spectrogram (bands, times, 1) to an embedding (dim,), which is used as it
        is.
    vision
        The vision network; None: that of ``vision_weights``, or the published one.
    vision_weights
        File with the first weights of the vision branch (see ``load_vision``).
    freeze_vision
        Whether the vision branch is not trained: its weights and moving statistics stay.
    bn_momentum
        See ``l3hpc.models.network.build``.
    fused
        See ``l3hpc.models.network.build``.
    seed
        Of all new weights (He-normal, the same on every machine).

    Returns
    -------
    AvcNetwork
        Ready to train.

    Raises
    ------
    InputError
        The vision weights are of another network than ``vision``.
    """
    arrays: Layers | None = None
    if vision_weights is not None:
        stored, arrays = load_vision(vision_weights)
        if vision is not None and vision.filters != stored.filters:
            raise InputError(f"has filters {list(stored.filters)}", where=str(vision_weights),
                             allowed=f"filters {list(vision.filters)}")
        vision = vision or stored
    vision = vision or VisionSpec()
    spec = audio if isinstance(audio, NetworkSpec) else getattr(audio, "spec", None)
    if isinstance(audio, (NetworkSpec, Parameters)):
        assert spec is not None
        audio_branch = network.build(spec, bn_momentum, fused=fused)
        network.assign(audio_branch, audio if isinstance(audio, Parameters) else
                       Parameters(spec, random_layers(spec.layers(), seed)))
    else:
        audio_branch = audio
    vision_branch = build_vision(vision, bn_momentum, fused=fused)
    # Drawn by our own generator, as the audio branch: Keras's initial values change with its
    # version.
    _assign(vision_branch, arrays or random_layers(vision.layers(), seed, VISION_SEED))
    vision_branch.trainable = not freeze_vision
    model = _join_branches(audio_branch, vision_branch)
    joint = int(audio_branch.output_shape[-1]) + vision.dim
    for name, values in zip(("fusion", "correspondence"), random_layers(
            head_layers(joint, HIDDEN), seed, 2 * VISION_SEED), strict=True):
        model.get_layer(name).set_weights(list(values))
    return AvcNetwork(model, audio_branch, vision_branch, vision,
                      spec if isinstance(spec, NetworkSpec) else None)


def build_vision(spec: VisionSpec, bn_momentum: float = BN_MOMENTUM, *,
                 fused: bool = False) -> keras.Model:
    """Build a vision network with new weights.

    As published, also in this: in the second convolution the ReLU is before the normalisation, and
    poolings round odd sizes up.

    Parameters
    ----------
    spec
        The network.
    bn_momentum
        See ``l3hpc.models.network.build``.
    fused
        See ``l3hpc.models.network.build``.

    Returns
    -------
    keras.Model
        Images (batch, size, size, 3) in [-1, 1] → (batch, ``spec.dim``) float32.
    """
    layer = FusedNormalisation if fused else keras.layers.BatchNormalization
    image = keras.Input((spec.size, spec.size, 3), name="image")

    def normalise(x: keras.KerasTensor, number: int) -> keras.KerasTensor:
        return layer(momentum=bn_momentum, epsilon=BN_EPSILON, name=f"norm_{number}")(x)

    x = normalise(image, 0)
    for number, count in enumerate(spec.filters, 1):
        name = "vision_embedding_layer" if number == 8 else f"conv_{number}"
        x = keras.layers.Conv2D(count, 3, padding="same", kernel_initializer="he_normal",
                                kernel_regularizer=_decay(), name=name)(x)
        relu = keras.layers.ReLU(name=f"relu_{number}")
        x = normalise(relu(x), number) if number == 2 else relu(normalise(x, number))
        if number in (2, 4, 6):
            x = keras.layers.MaxPooling2D(2, padding="same", name=f"pool_{number // 2}")(x)
    x = keras.layers.MaxPooling2D(spec.pool, padding="same", name="pool_4")(x)
    # float32 also under mixed precision, as the embedding of the audio branch.
    x = keras.layers.Flatten(dtype="float32", name="embedding")(x)
    return keras.Model(image, x, name="l3_vision")


def load_avc(path: str | Path) -> AvcNetwork:
    """Load a whole network that ``AvcNetwork.save`` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    AvcNetwork
        With its weights.

    Raises
    ------
    InputError
        The file holds anything else.
    """
    with open_network(Path(path)) as stored:
        specs = stored.spec or {}
        if not isinstance(specs.get("audio"), dict) or not isinstance(specs.get("vision"), dict):
            raise InputError("is not a whole audio-visual network", where=str(path),
                             allowed="avc_best_valid_loss.h5 of avc_train")
        spec = NetworkSpec.from_dict(specs["audio"])
        vision = VisionSpec.from_dict(specs["vision"])
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


def _join_branches(audio: keras.Model, vision: keras.Model) -> keras.Model:
    """Both branches, with the fusion head on top."""
    sound = keras.Input(audio.input_shape[1:], name="spectrogram")
    image = keras.Input(vision.input_shape[1:], name="image")
    # The published order: vision before audio.
    x = keras.layers.Concatenate(name="both", dtype="float32")([vision(image), audio(sound)])
    for name, count, activation in (("fusion", HIDDEN, "relu"), ("correspondence", 2, "softmax")):
        x = keras.layers.Dense(count, activation, kernel_initializer="he_normal", dtype="float32",
                               kernel_regularizer=_decay(), name=name)(x)
    return keras.Model([sound, image], x, name="l3_avc")


def _decay() -> keras.regularizers.Regularizer:
    return keras.regularizers.L2(network.WEIGHT_DECAY)


def _arrays(model: keras.Model) -> Layers:
    return tuple(tuple(np.asarray(array, np.float32) for array in layer.get_weights())
                 for layer in network.weighted_layers(model))


def _assign(model: keras.Model, arrays: Layers) -> None:
    for layer, values in zip(network.weighted_layers(model), arrays, strict=True):
        layer.set_weights(list(values))
