"""The two classifier networks and their losses, in Keras.

``mil`` is a multiple-instance network with one prediction per clip, by AutoPool over its frames.
``framewise`` classifies every frame separately, with the clip's tags as its target.

Both may have auxiliary heads on the last hidden layer, which predict the sensor of the clip, or for
each tag whether its source is near or far. What they predict is a further input of the tag output.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from l3hpc.datasets.taxonomy import Taxonomy


@keras.saving.register_keras_serializable(package="l3hpc")
class AutoPool(keras.layers.Layer):
    """Pools (batch, frames, tags) to (batch, tags) by a softmax-weighted mean [1]_.

    out_c = Σ_t x_tc · softmax_t(a_c · x_tc), where a_c is learned. It starts at 0, the plain mean,
    and grows towards the maximum for tags that single frames decide; below 0 it tends to the
    minimum.

    Parameters
    ----------
    constraint
        Keep a_c ≥ 0.

    References
    ----------
    .. [1] B. McFee, J. Salamon and J. P. Bello, "Adaptive pooling operators for weakly labeled
       sound event detection", IEEE/ACM Transactions on Audio, Speech, and Language Processing 26
       (2018).
    """

    def __init__(self, constraint: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.constraint = constraint

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "constraint": self.constraint}

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.alpha = self.add_weight(
            name="alpha", shape=(input_shape[-1],), initializer="zeros",
            constraint=keras.constraints.NonNeg() if self.constraint else None)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        weight = ops.softmax(self.alpha * inputs, axis=1)
        return ops.sum(inputs * weight, axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], input_shape[-1])


def build(model: str, dim: int, tags: int, *, hidden_layers: int, hidden_size: int, l2: float,
          normalize: bool, seed: int, sensors: int = 0, proximity: bool = False,
          autopool_constraint: bool = True) -> keras.Model:
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
    sensors
        Outputs of the layer ``sensor``, a softmax over the sensors (0: no such layer).
    proximity
        Add the layer ``proximity``, with a softmax over (near, far) for each tag.
    autopool_constraint
        Whether AutoPool's weights are kept at 0 or above; for 'mil'.

    Returns
    -------
    keras.Model
        The network, not trained. Shapes of the auxiliary layers: (…, sensors) and (…, tags, 2), for
        'mil' with the frames.
    """
    inputs = keras.Input((None, dim) if model == "mil" else (dim,))
    x = keras.layers.BatchNormalization()(inputs) if normalize else inputs

    def dense(units: int, activation: str, number: int, name: str | None = None
              ) -> keras.layers.Layer:
        return keras.layers.Dense(
            units, activation=activation, kernel_regularizer=keras.regularizers.L2(l2), name=name,
            # A seed for each layer: with the same one, layers of one shape would start alike.
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed * 1000 + number))

    for number in range(hidden_layers):
        x = dense(hidden_size, "relu", number + 1)(x)
    heads = []
    if sensors:
        heads.append(dense(sensors, "softmax", 101, "sensor")(x))
    if proximity:
        frames = (-1,) if model == "mil" else ()
        pairs = keras.layers.Reshape((*frames, tags, 2))(dense(2 * tags, "linear", 102)(x))
        pairs = keras.layers.Softmax(name="proximity")(pairs)
        heads.append(keras.layers.Reshape((*frames, 2 * tags))(pairs))
    if heads:
        x = keras.layers.Concatenate()([x, *heads])
    x = dense(tags, "sigmoid", 0)(x)
    return keras.Model(inputs, AutoPool(autopool_constraint)(x) if model == "mil" else x)


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


def sensor_loss(sensor: keras.KerasTensor, probability: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy of the sensors, averaged over the batch.

    Parameters
    ----------
    sensor
        Number of each clip's sensor, (batch,).
    probability
        Output of the layer ``sensor``, (batch, sensors) or (batch, frames, sensors); frames are
        averaged first.
    """
    if len(probability.shape) == 3:
        probability = ops.mean(probability, axis=1)
    target = ops.one_hot(sensor, probability.shape[-1])
    return -ops.mean(ops.sum(target * _log(probability), axis=-1))


def proximity_loss(proximity: keras.KerasTensor, probability: keras.KerasTensor
                   ) -> keras.KerasTensor:
    """Cross-entropy of near and far, summed over the tags and averaged over the batch.

    Every tag has a cross-entropy of its own, and adds nothing where its target is 0.

    Parameters
    ----------
    proximity
        1 near, −1 far, 0 unknown, (batch, tags).
    probability
        Output of the layer ``proximity``, (batch, tags, 2) or (batch, frames, tags, 2); frames are
        averaged first.
    """
    if len(probability.shape) == 4:
        probability = ops.mean(probability, axis=1)
    near, far = ops.cast(proximity > 0, "float32"), ops.cast(proximity < 0, "float32")
    likely = _log(probability)
    return -ops.mean(ops.sum(near * likely[..., 0] + far * likely[..., 1], axis=-1))


def laplacian(target: np.ndarray) -> np.ndarray:
    """Graph Laplacian of the co-occurrence of tags.

    Parameters
    ----------
    target
        Targets, 0 to 1, shape (clips, tags).

    Returns
    -------
    ndarray of float32, shape (tags, tags)
        D − A: A has the number of clips with both tags divided by that of all clips, and 0 on the
        diagonal, D has the sums of A's rows on its diagonal.

    Examples
    --------
    >>> laplacian(np.array([[1, 1], [1, 0]])).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    target = np.asarray(target, np.float64)
    adjacent = target.T @ target / len(target)
    np.fill_diagonal(adjacent, 0)
    return (np.diag(adjacent.sum(axis=1)) - adjacent).astype(np.float32)


def cooccurrence_loss(total: keras.KerasTensor, graph: np.ndarray) -> keras.KerasTensor:
    """yᵀ L y of the predictions y of a batch, summed over its samples.

    It is small where tags that occur together are predicted equally often.

    Parameters
    ----------
    total
        y, (tags,), or of several batches (batches, tags).
    graph
        L, from ``laplacian``.
    """
    return ops.sum(total * ops.matmul(total, graph), axis=-1)


def _cross_entropy(target: keras.KerasTensor, probability: keras.KerasTensor) -> keras.KerasTensor:
    # log(0) would be infinite; 1e-7 is Keras's own limit.
    p = ops.clip(probability, 1e-7, 1 - 1e-7)
    return -(target * ops.log(p) + (1 - target) * ops.log(1 - p))


def _log(probability: keras.KerasTensor) -> keras.KerasTensor:
    return ops.log(ops.clip(probability, 1e-7, 1 - 1e-7))
