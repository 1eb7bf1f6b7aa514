"""Training of the tag classifier on embeddings of clips.

Training keeps the weights of the epoch with the lowest validation loss. Initial weights and the
order of the clips follow from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, L3hpcError
from l3hpc.tagging import network
from l3hpc.tagging.classifier import PREDICT_FRAMES, Classifier, ClassifierConfig, Matrix, untrained
from l3hpc.tagging.clip_inputs import fit_scaling

_BLOCK_BYTES = 4 << 20  # of embeddings that are read at once

OnEpoch = Callable[[int, dict[str, float]], None]


def train(config: ClassifierConfig, taxonomy: Taxonomy, x: Matrix, y: np.ndarray,
          x_validate: Matrix, y_validate: np.ndarray, *,
          on_epoch: OnEpoch | None = None) -> Classifier:
    """Train a classifier, and keep the epoch with the lowest validation loss.

    Parameters
    ----------
    config
        How it is built and trained.
    taxonomy
        The tags.
    x, x_validate
        Embeddings, float32, shape (clips, frames, dim), in memory or on disk.
    y, y_validate
        Targets from ``Annotations.targets`` at ``config.level``.
    on_epoch
        Called after every epoch with its number and {loss, val_loss, best}. Losses include the L2
        penalty, as in Keras.

    Returns
    -------
    Classifier
        The trained classifier.

    Raises
    ------
    InputError
        For empty arrays, and shapes that do not match.
    L3hpcError
        When training diverges.
    """
    _check_arrays(x, y, x_validate, y_validate)
    scaling = fit_scaling(x, standardize=config.standardize, pca=config.pca,
                          components=config.pca_components)
    classifier = untrained(config, taxonomy, scaling)
    loop = _Loop(classifier, x, y)
    validate = _Loop(classifier, x_validate, y_validate)
    rng = np.random.default_rng(config.seed)
    best, best_weights = math.inf, classifier.model.get_weights()
    for epoch in range(1, config.epochs + 1):
        loss = loop.train(rng.permutation(loop.samples))
        val_loss = validate.loss()
        # No comparison with NaN is true: the loop would go on until its patience ends.
        if not math.isfinite(loss + val_loss):
            raise L3hpcError(f"training diverged: the loss is not finite in epoch {epoch}",
                             hint=f"Use a learning rate below {config.learning_rate:g}.")
        classifier.history.append({"epoch": epoch, "loss": loss, "val_loss": val_loss})
        if val_loss < best:
            best, classifier.best_epoch = val_loss, epoch
            best_weights = classifier.model.get_weights()
        if on_epoch:
            on_epoch(epoch, {"loss": loss, "val_loss": val_loss, "best": best})
        if epoch - classifier.best_epoch >= config.patience:
            break
    classifier.model.set_weights(best_weights)
    return classifier


def _check_arrays(x: Matrix, y: np.ndarray, x_validate: Matrix, y_validate: np.ndarray) -> None:
    """Refuse empty splits, and shapes that do not match."""
    for split, one, targets in (("train", x, y), ("validate", x_validate, y_validate)):
        if not len(one):
            raise InputError(f"split '{split}' has no clips with embeddings",
                             allowed="train and validate need at least one clip each")
        if len(one) != len(targets):
            raise InputError(f"split '{split}': {len(one)} clips, {len(targets)} targets")
    if x.shape[2] != x_validate.shape[2]:
        raise InputError(f"train has {x.shape[2]} dimensions, validate {x_validate.shape[2]}")


class _Loop:
    """A compiled pass over one split: a whole epoch in one call, embeddings read in blocks."""

    def __init__(self, classifier: Classifier, x: Matrix, y: np.ndarray) -> None:
        config = classifier.config
        self.model = classifier.model
        self.loss_of = network.TagLoss(config.level, classifier.taxonomy)
        self.scaled = classifier.scaling.on_device()
        frames = x.shape[1]
        self.batch = config.batch_size
        self.large_batch = max(1, PREDICT_FRAMES // (frames if config.model == "mil" else 1))
        self.repeat = 1 if config.model == "mil" else frames  # samples with the same target
        self.x = x if config.model == "mil" else x.reshape(-1, x.shape[2])
        self.y = np.asarray(y, np.float32)
        self.samples = len(self.x)
        batch_bytes = 4 * self.batch * math.prod(self.x.shape[1:])
        self.block = self.batch * max(1, _BLOCK_BYTES // batch_bytes)
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        # Outside the graph: a tf.function may create variables only when it is first traced.
        self.optimizer.build(self.model.trainable_variables)
        self._epoch = tf.function(self._train_graph)
        self._evaluate = tf.function(self._loss_graph)

    def train(self, order: np.ndarray) -> float:
        """Train one epoch in the given order of samples; returns the mean loss."""
        return float(self._epoch(tf.constant(order, tf.int64)))

    def loss(self) -> float:
        """The mean loss with the current weights."""
        return float(self._evaluate())

    def _read(self, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Embeddings and targets of the samples of these numbers."""
        def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.x[rows], self.y[rows // self.repeat]

        x, y = tf.numpy_function(read, [places], (tf.float32, tf.float32))
        x.set_shape((None, *self.x.shape[1:]))
        y.set_shape((None, *self.y.shape[1:]))
        return x, y

    def _penalty(self) -> tf.Tensor:
        return tf.add_n(self.model.losses) if self.model.losses else tf.constant(0.0)

    def _train_graph(self, order: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for first in tf.range(0, self.samples, self.block):
            block_x, block_y = self._read(order[first:first + self.block])
            for start in tf.range(0, tf.shape(block_x)[0], self.batch):
                x = self.scaled(block_x[start:start + self.batch])
                y = block_y[start:start + self.batch]
                with tf.GradientTape() as tape:
                    loss = self.loss_of(y, self.model(x, training=True)) + self._penalty()
                variables = self.model.trainable_variables
                self.optimizer.apply(tape.gradient(loss, variables), variables)
                total += loss * tf.cast(tf.shape(x)[0], tf.float32)
        return total / self.samples

    def _loss_graph(self) -> tf.Tensor:
        total = tf.constant(0.0)
        for first in tf.range(0, self.samples, self.large_batch):
            places = tf.range(first, tf.minimum(first + self.large_batch, self.samples))
            x, y = self._read(places)
            loss = self.loss_of(y, self.model(self.scaled(x), training=False))
            total += loss * tf.cast(tf.shape(places)[0], tf.float32)
        return total / self.samples + self._penalty()
