"""The two classifier networks and their losses, in Keras.

``mil`` is a multiple-instance network with one prediction per clip, by AutoPool over its frames.
``framewise`` classifies every frame separately, with the clip's tags as its target.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from l3hpc.datasets.taxonomy import Taxonomy


@keras.saving.register_keras_serializable(package="l3hpc")
class AutoPool(keras.layers.Layer):
    """Pools (batch, frames, tags) to (batch, tags) by a softmax-weighted mean [1]_.

    out_c = Σ_t x_tc · softmax_t(a_c · x_tc), where a_c ≥ 0 is learned. It starts at 0, the plain
    mean, and grows towards the maximum for tags that single frames decide.

    References
    ----------
    .. [1] B. McFee, J. Salamon and J. P. Bello, "Adaptive pooling operators for weakly labeled
       sound event detection", IEEE/ACM Transactions on Audio, Speech, and Language Processing 26
       (2018).
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.alpha = self.add_weight(name="alpha", shape=(input_shape[-1],), initializer="zeros",
                                     constraint=keras.constraints.NonNeg())

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        weight = ops.softmax(self.alpha * inputs, axis=1)
        return ops.sum(inputs * weight, axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[-1])


def build(model: str, dim: int, tags: int, *, hidden_layers: int, hidden_size: int, l2: float,
          normalize: bool, seed: int) -> keras.Model:
    """Build a classifier network; its outputs are probabilities.

    Parameters
    ----------
    model
        'mil': (batch, frames, dim) → (batch, tags). 'framewise': (batch, dim) → (batch, tags).
    dim
        Length of an embedding.
    tags
        Number of tags.
    hidden_layers, hidden_size
        Number and size of the hidden layers.
    l2
        L2 penalty on the weights.
    normalize
        Begin with a batch normalisation (published: framewise without standardisation).
    seed
        Determines all initial weights.

    Returns
    -------
    keras.Model
        The network, not trained.
    """
    inputs = keras.Input((None, dim) if model == "mil" else (dim,))
    x = keras.layers.BatchNormalization()(inputs) if normalize else inputs

    def dense(units: int, activation: str, number: int) -> keras.layers.Layer:
        return keras.layers.Dense(
            units, activation=activation, kernel_regularizer=keras.regularizers.L2(l2),
            # A seed for each layer: with the same one, layers of one shape would start alike.
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed * 1000 + number))

    for number in range(hidden_layers):
        x = dense(hidden_size, "relu", number + 1)(x)
    x = dense(tags, "sigmoid", 0)(x)
    return keras.Model(inputs, AutoPool()(x) if model == "mil" else x)


class TagLoss:
    """Binary cross-entropy of targets (batch, columns) and probabilities (batch, tags).

    coarse: the mean over all elements. fine: the columns are all fine tags including X. The sum
    over the complete tags, without those of a category whose X is true (which of them are present
    is unknown), then the mean over the batch.

    Parameters
    ----------
    level
        'coarse' or 'fine'.
    taxonomy
        The tags.
    """

    def __init__(self, level: str, taxonomy: Taxonomy) -> None:
        self.level = level
        self.tags = (list(range(len(taxonomy.coarse))) if level == "coarse"
                     else taxonomy.complete_fine)
        # (columns, tags): 1 where the column is the X of the tag's category.
        self._unknown = np.zeros((len(taxonomy.fine), len(self.tags)), np.float32)
        if level == "fine":
            for place, tag in enumerate(self.tags):
                other = taxonomy.other(taxonomy.fine[tag].coarse)
                if other is not None:
                    self._unknown[other, place] = 1

    def __call__(self, target: keras.KerasTensor, probability: keras.KerasTensor
                 ) -> keras.KerasTensor:
        if self.level == "coarse":
            return ops.mean(_cross_entropy(target, probability))
        known = 1.0 - ops.matmul(target, self._unknown)
        complete = ops.take(target, self.tags, axis=1)
        return ops.mean(ops.sum(known * _cross_entropy(complete, probability), axis=1))


def _cross_entropy(target: keras.KerasTensor, probability: keras.KerasTensor) -> keras.KerasTensor:
    # log(0) would be infinite; 1e-7 is Keras's own limit.
    p = ops.clip(probability, 1e-7, 1 - 1e-7)
    return -(target * ops.log(p) + (1 - target) * ops.log(1 - p))
