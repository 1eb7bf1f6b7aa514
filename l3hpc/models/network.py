"""The audio networks as Keras models, for training. Importing this module imports TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l3hpc.audio.frontend_layer import MelFrontend
from l3hpc.errors import InputError
from l3hpc.models.parameters import BN_EPSILON, BN_MOMENTUM, Parameters
from l3hpc.models.spec import NetworkSpec

WEIGHT_DECAY = 1e-5


class FusedNormalisation(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` over (batch, bands, times, channels), faster in training.

    Keras computes the statistics and applies them in a dozen operations that each read the whole
    tensor; here it is one forwards and one backwards. Outputs, gradients and moving statistics are
    the same up to rounding.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None,
             mask: tf.Tensor | None = None) -> tf.Tensor:
        """Normalise by the batch in training, else (or if frozen) by the moving statistics.

        Parameters
        ----------
        inputs
            (batch, bands, times, channels).
        training
            Whether to use, and update from, the statistics of the batch.
        mask
            Not used.

        Returns
        -------
        tensorflow.Tensor
            The shape of ``inputs``.
        """
        if not training or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
            # The operation takes its parameters in float32, also under mixed precision.
            inputs, tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32),
            epsilon=self.epsilon, is_training=True)
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
        # The operation gives the unbiased variance; Keras uses the biased one.
        variance *= (count - 1) / count
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs


def build(spec: NetworkSpec, bn_momentum: float = BN_MOMENTUM, *,
          fused: bool = False) -> keras.Model:
    """Build a network: spectrograms (batch, bands, times, 1) to embeddings (batch, dim) float32.

    Convolutions are He-normal with an L2 penalty of 1e-5 on their kernels, as published. Under
    mixed precision the output stays float32.

    Parameters
    ----------
    spec
        The network.
    bn_momentum
        Momentum of the normalisations' moving statistics.
    fused
        Whether to use ``FusedNormalisation``: the same network, faster in training.

    Returns
    -------
    keras.Model
        With new weights.
    """
    layer = FusedNormalisation if fused else keras.layers.BatchNormalization
    spectrogram = keras.Input((*spec.frontend.shape, 1), name="spectrogram")
    return keras.Model(spectrogram, _embed(spectrogram, spec, bn_momentum, layer), name="l3_audio")


def build_with_frontend(spec: NetworkSpec) -> keras.Model:
    """Build a network from audio (batch, samples) in [-1, 1] to embeddings (batch, dim).

    The weights (and their order) are those of ``build``: the front end has none.

    Parameters
    ----------
    spec
        The network.

    Returns
    -------
    keras.Model
        ``MelFrontend``, then the layers of ``build``.
    """
    audio = keras.Input((spec.frontend.samples,), name="audio")
    front = MelFrontend(spec.rate, spec.n_dft, spec.hop, spec.n_mels, spec.fmax, spec.convention,
                        spec.window_s, name="frontend")
    return keras.Model(audio, _embed(front(audio), spec), name="l3_student")


def weighted_layers(model: keras.Model) -> list[Any]:
    """The layers of a model that have weights.

    Parameters
    ----------
    model
        Any Keras model.

    Returns
    -------
    list
        Keras layers, in order.
    """
    return [layer for layer in model.layers if layer.weights]


def assign(model: keras.Model, parameters: Parameters) -> None:
    """Put weights into a model of ``build`` or ``build_with_frontend``.

    Parameters
    ----------
    model
        The model; it is changed.
    parameters
        The weights.

    Raises
    ------
    InputError
        The model has another number of weighted layers.
    """
    layers = weighted_layers(model)
    if len(layers) != len(parameters.layers):
        raise InputError(f"the model has {len(layers)} weighted layers, the parameters "
                         f"{len(parameters.layers)}")
    for layer, arrays in zip(layers, parameters.layers, strict=True):
        layer.set_weights(list(arrays))


def parameters_of(model: keras.Model, spec: NetworkSpec) -> Parameters:
    """The current weights of a model.

    Parameters
    ----------
    model
        The model.
    spec
        Its network.

    Returns
    -------
    Parameters
        float32 arrays.

    Raises
    ------
    InputError
        The model is another network.
    """
    return Parameters(spec, tuple(
        tuple(np.asarray(array, dtype=np.float32) for array in layer.get_weights())
        for layer in weighted_layers(model)))


def _embed(x: keras.KerasTensor, spec: NetworkSpec, bn_momentum: float = BN_MOMENTUM,
           normalisation: type[keras.layers.Layer] = keras.layers.BatchNormalization
           ) -> keras.KerasTensor:
    """Apply the layers of the network to ``x``."""
    def normalise(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return normalisation(momentum=bn_momentum, epsilon=BN_EPSILON, name=name)(x)

    x = normalise(x, "norm_0")
    for index, count in enumerate(spec.filters):
        last = index == len(spec.filters) - 1
        x = keras.layers.Conv2D(
            count, 3, padding="same", kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(WEIGHT_DECAY),
            name="audio_embedding_layer" if last else f"conv_{index + 1}")(x)
        if not last or spec.final_norm:
            x = normalise(x, f"norm_{index + 1}")
        if not last or (spec.final_norm and spec.head == "relu"):
            x = keras.layers.ReLU(name=f"relu_{index + 1}")(x)
        if index in spec.halvings:
            x = keras.layers.MaxPooling2D(2, name=f"pool_{index // 2 + 1}")(x)
    x = keras.layers.MaxPooling2D(spec.pool, padding="same", name="pool_4")(x)
    return keras.layers.Flatten(dtype="float32", name="embedding")(x)
