"""Training of the tag classifier on embeddings of clips.

Training keeps the weights of the epoch with the lowest validation loss. Initial weights and the
order of the clips follow from the seed. Adam trains on batches; L-BFGS-B minimises the loss of all
clips, which are read in blocks for every evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, L3hpcError
from l3hpc.tagging import network
from l3hpc.tagging.classifier import Classifier, ClassifierConfig, Matrix, untrained
from l3hpc.tagging.clip_inputs import fit_scaling, rows_at_once

OnEpoch = Callable[[int, dict[str, float]], None]


def train(config: ClassifierConfig, taxonomy: Taxonomy, x: Matrix, y: np.ndarray,
          x_validate: Matrix, y_validate: np.ndarray, *, sensors: Sequence[str] = (),
          sensor: np.ndarray | None = None, proximity: np.ndarray | None = None,
          on_epoch: OnEpoch | None = None) -> Classifier:
    """Train a classifier, and keep the epoch with the lowest validation loss.

    The loss in training is that of the tags and the L2 penalty, as in Keras, and those that
    ``config`` adds: of the sensor, of the proximities, of the co-occurrence. The validation loss
    has the first two only, so that one epoch is compared with another by what it predicts: the
    sensors of the validation clips may not occur in training at all.

    Parameters
    ----------
    config
        How it is built and trained.
    taxonomy
        The tags.
    x, x_validate
        Embeddings, float32, shape (clips, frames, dim), in memory or on disk.
    y, y_validate
        Targets from ``Annotations.targets`` at ``config.level``; values between 0 and 1 count as
        probabilities.
    sensors
        Names of all sensors, for ``config.sensor_factor``.
    sensor
        Of each training clip its place in ``sensors``, shape (clips,).
    proximity
        For ``config.proximity_factor``: 1 near, −1 far, 0 unknown, of each training clip and tag
        that the classifier predicts, shape (clips, tags).
    on_epoch
        Called after every epoch with its number and {loss, val_loss, best}.

    Returns
    -------
    Classifier
        The trained classifier.

    Raises
    ------
    InputError
        For empty arrays, shapes that do not match, and missing sensors or proximities.
    L3hpcError
        When training diverges.
    """
    _check_arrays(x, y, x_validate, y_validate)
    scaling = fit_scaling(x, standardize=config.standardize, pca=config.pca,
                          components=config.pca_components)
    classifier = untrained(config, taxonomy, scaling, sensors if config.sensor_factor else ())
    loop = Loop(classifier, x, y, _sensor_of(config, sensors, sensor, len(y)),
                _proximity_of(config, classifier, proximity, len(y)))
    epochs = _Epochs(classifier, Loop(classifier, x_validate, y_validate), on_epoch)
    if config.optimizer == "adam":
        rng = np.random.default_rng(config.seed)
        while not epochs.ended:
            epochs.end(loop.train(rng.permutation(loop.samples)))
    else:
        _minimize(classifier, loop, epochs)
    classifier.model.set_weights(epochs.best_weights)
    return classifier


class _Epochs:
    """The epochs of a training: their losses, the best weights, and when it ends."""

    def __init__(self, classifier: Classifier, validate: Loop, on_epoch: OnEpoch | None) -> None:
        self._classifier, self._validate, self._on_epoch = classifier, validate, on_epoch
        self._best, self.best_weights = math.inf, classifier.model.get_weights()
        self.ended = False

    def end(self, loss: float) -> None:
        """Validate the weights of an epoch with this training loss, and record it."""
        classifier, config = self._classifier, self._classifier.config
        epoch, val_loss = len(classifier.history) + 1, self._validate.loss()
        # No comparison with NaN is true: the loop would go on until its patience ends.
        if not math.isfinite(loss + val_loss):
            raise L3hpcError(
                f"training diverged: the loss is not finite in epoch {epoch}",
                hint=f"Use a learning rate below {config.learning_rate:g}."
                if config.optimizer == "adam" else "Are all embeddings finite?")
        classifier.history.append({"epoch": epoch, "loss": loss, "val_loss": val_loss})
        if val_loss < self._best:
            self._best, classifier.best_epoch = val_loss, epoch
            self.best_weights = classifier.model.get_weights()
        if self._on_epoch:
            self._on_epoch(epoch, {"loss": loss, "val_loss": val_loss, "best": self._best})
        self.ended = (epoch >= config.epochs
                      or epoch - classifier.best_epoch >= config.patience)


def _minimize(classifier: Classifier, loop: Loop, epochs: _Epochs) -> None:
    """Train with L-BFGS-B; an epoch is one iteration."""
    from scipy import optimize

    config, model = classifier.config, classifier.model
    order = np.arange(loop.samples)
    # Its batches are to be as mixed as those of Adam; otherwise the file is read in its order.
    if config.cooccurrence_loss:
        order = np.random.default_rng(config.seed).permutation(loop.samples)
    start = np.concatenate([np.ravel(one) for one in model.trainable_variables], dtype=np.float64)
    bounds = [(0, None) if variable.constraint is not None else (None, None)
              for variable in model.trainable_variables for _ in range(math.prod(variable.shape))]

    def value(vector: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = loop.value(vector, order)
        if not classifier.history and not math.isfinite(loss):
            epochs.end(loss)
        return loss, gradient

    def callback(intermediate_result: optimize.OptimizeResult) -> None:
        loop.assign(intermediate_result.x)
        epochs.end(float(intermediate_result.fun))
        if epochs.ended:
            raise StopIteration

    found = optimize.minimize(
        value, start, jac=True, method="L-BFGS-B", bounds=bounds, callback=callback,
        # A search along a line has at most 20 steps: the number of iterations decides.
        options={"maxiter": config.epochs, "maxfun": 21 * config.epochs + 1})
    if not classifier.history:  # no step lowers the loss of the initial weights
        loop.assign(start)
        epochs.end(float(found.fun))


def _check_arrays(x: Matrix, y: np.ndarray, x_validate: Matrix, y_validate: np.ndarray) -> None:
    """Refuse empty splits, and shapes that do not match."""
    for split, one, targets in (("train", x, y), ("validate", x_validate, y_validate)):
        if not len(one):
            raise InputError(f"split '{split}' has no clips with embeddings",
                             allowed="train and validate need at least one clip each")
        if 0 in one.shape:
            raise InputError(f"split '{split}': embeddings of shape {tuple(one.shape)}",
                             allowed="(clips, frames, dimensions), each one or more")
        if len(one) != len(targets):
            raise InputError(f"split '{split}': {len(one)} clips, {len(targets)} targets")
    if x.shape[2] != x_validate.shape[2]:
        raise InputError(f"train has {x.shape[2]} dimensions, validate {x_validate.shape[2]}")


def _sensor_of(config: ClassifierConfig, sensors: Sequence[str], sensor: np.ndarray | None,
               clips: int) -> np.ndarray | None:
    """The sensors' numbers, checked; None without ``sensor_factor``."""
    if not config.sensor_factor:
        return None
    if len(sensors) < 2:
        raise InputError(f"an output for the sensor needs two sensors, found {len(sensors)}",
                         where="sensor_factor", hint="Train without sensor_factor.")
    if sensor is None or np.shape(sensor) != (clips,):
        raise InputError(f"needs one sensor for each of {clips} clips", where="sensor_factor")
    numbers = np.asarray(sensor, np.int64)
    if numbers.min() < 0 or numbers.max() >= len(sensors):
        raise InputError("the number of a sensor is out of range", where="sensor_factor",
                         allowed=f"0 to {len(sensors) - 1}")
    return numbers


def _proximity_of(config: ClassifierConfig, classifier: Classifier, proximity: np.ndarray | None,
                  clips: int) -> np.ndarray | None:
    """The proximities, checked; None without ``proximity_factor``."""
    if not config.proximity_factor:
        return None
    shape = (clips, classifier.model.output_shape[-1])
    if proximity is None or np.shape(proximity) != shape:
        found = "none" if proximity is None else f"an array of shape {np.shape(proximity)}"
        raise InputError(f"needs proximities of shape {shape}, found {found}",
                         where="proximity_factor")
    if not np.isin(proximity, (-1, 0, 1)).all():
        raise InputError("a proximity is out of range", where="proximity_factor",
                         allowed="1 near, -1 far, 0 unknown")
    return np.asarray(proximity, np.int8)


class Loop:
    """A compiled pass over one split: a whole epoch in one call, embeddings read in blocks.

    Parameters
    ----------
    classifier
        Its network is trained or validated.
    x, y
        Embeddings and targets of the split.
    sensor, proximity
        Targets of the auxiliary outputs, as for ``train``; None: their losses do not count.
    """

    def __init__(self, classifier: Classifier, x: Matrix, y: np.ndarray,
                 sensor: np.ndarray | None = None, proximity: np.ndarray | None = None) -> None:
        config = classifier.config
        self.model = classifier.model
        heads = [name for name, target in (("sensor", sensor), ("proximity", proximity))
                 if target is not None]
        self.network = keras.Model(self.model.inputs, {
            "tags": self.model.output,
            **{name: self.model.get_layer(name).output for name in heads}})
        self.loss_of = network.TagLoss(config.level, classifier.taxonomy)
        self.scaled = classifier.scaling.on_device()
        frames = x.shape[1]
        self.batch = config.batch_size
        self.repeat = 1 if config.model == "mil" else frames  # samples with the same target
        self.x = x if config.model == "mil" else x.reshape(-1, x.shape[2])
        self.y = np.asarray(y, np.float32)
        self.sensor = np.zeros(len(y), np.int64) if sensor is None else sensor
        self.proximity = np.zeros((len(y), 0), np.int8) if proximity is None else proximity
        self.graph = network.laplacian(self.y[:, self.loss_of.tags])
        self.factor = config.cooccurrence_loss_factor if config.cooccurrence_loss else 0.0
        self.samples = len(self.x)
        self.at_once = rows_at_once(self.x)
        self.block = self.batch * max(1, self.at_once // self.batch)
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        # Outside the graph: a tf.function may create variables only when it is first traced.
        self.optimizer.build(self.model.trainable_variables)
        self._epoch = tf.function(self._train_graph)
        self._evaluate = tf.function(self._loss_graph)
        self._value = tf.function(self._value_graph)

    def train(self, order: np.ndarray) -> float:
        """Train one epoch with Adam.

        Parameters
        ----------
        order
            Numbers of all samples, clips or frames.

        Returns
        -------
        float
            The mean loss.
        """
        return float(self._epoch(tf.constant(order, tf.int64)))

    def loss(self) -> float:
        """The mean loss of the tags with the current weights, and the penalty."""
        return float(self._evaluate())

    def value(self, vector: np.ndarray, order: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss in training over all samples.

        Parameters
        ----------
        vector
            The trainable weights, one after the other.
        order
            Numbers of all samples; those of a batch follow each other.

        Returns
        -------
        loss : float
            With the penalty.
        gradient : ndarray of float64
            As long as ``vector``.
        """
        self.assign(vector)
        loss, gradient = self._value(tf.constant(order, tf.int64))
        return float(loss), gradient.numpy()

    def assign(self, vector: np.ndarray) -> None:
        """Set the trainable weights.

        Parameters
        ----------
        vector
            All of them, one after the other.
        """
        start = 0
        for variable in self.model.trainable_variables:
            stop = start + math.prod(variable.shape)
            variable.assign(vector[start:stop].reshape(variable.shape))
            start = stop

    def _read(self, places: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Embeddings, targets, sensors and proximities of the samples of these numbers."""
        def read(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            clips = rows // self.repeat
            return self.x[rows], self.y[clips], self.sensor[clips], self.proximity[clips]

        arrays = (self.x, self.y, self.sensor, self.proximity)
        read_arrays = tf.numpy_function(read, [places],
                                        (tf.float32, tf.float32, tf.int64, tf.int8))
        for one, source in zip(read_arrays, arrays, strict=True):
            one.set_shape((None, *source.shape[1:]))
        return tuple(read_arrays)

    def _penalty(self) -> tf.Tensor:
        return tf.add_n(self.model.losses) if self.model.losses else tf.constant(0.0)

    def _batch_loss(self, samples: Sequence[tf.Tensor]) -> tf.Tensor:
        """The loss in training of samples from ``_read``, without the penalty."""
        x, y, sensor, proximity = samples
        found = self.network(self.scaled(x), training=True)
        loss = self.loss_of(y, found["tags"])
        if "sensor" in found:
            loss += network.sensor_loss(sensor, found["sensor"])
        if "proximity" in found:
            loss += network.proximity_loss(proximity, found["proximity"])
        if self.factor:
            loss += self.factor * self._cooccurrence(found["tags"])
        return loss

    def _cooccurrence(self, probability: tf.Tensor) -> tf.Tensor:
        """The mean over the batches that these samples make, of the loss of co-occurrence."""
        batch = tf.range(tf.shape(probability)[0]) // self.batch
        total = tf.math.segment_sum(probability, batch)
        # Each sample weighs equally, as in the loss of an epoch: the last batch may be smaller.
        return tf.reduce_mean(tf.gather(network.cooccurrence_loss(total, self.graph), batch))

    def _train_graph(self, order: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for first in tf.range(0, self.samples, self.block):
            block = self._read(order[first:first + self.block])
            for start in tf.range(0, tf.shape(block[0])[0], self.batch):
                batch = [one[start:start + self.batch] for one in block]
                with tf.GradientTape() as tape:
                    loss = self._batch_loss(batch) + self._penalty()
                variables = self.model.trainable_variables
                self.optimizer.apply(tape.gradient(loss, variables), variables)
                total += loss * tf.cast(tf.shape(batch[0])[0], tf.float32)
        return total / self.samples

    def _value_graph(self, order: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self.model.trainable_variables
        # Sums over many blocks in double precision: a line search compares nearly equal values.
        total = tf.constant(0.0, tf.float64)
        size = sum(math.prod(variable.shape) for variable in variables)
        gradient = tf.zeros(size, tf.float64)
        for first in tf.range(0, self.samples, self.block):
            block = self._read(order[first:first + self.block])
            with tf.GradientTape() as tape:
                loss = self._batch_loss(block)
            share = tf.cast(tf.shape(block[0])[0], tf.float64) / self.samples
            total += share * tf.cast(loss, tf.float64)
            gradient += share * self._flat(tape.gradient(loss, variables))
        with tf.GradientTape() as tape:
            penalty = self._penalty()
        gradient += self._flat(tape.gradient(
            penalty, [one.value for one in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO))
        return total + tf.cast(penalty, tf.float64), gradient

    def _flat(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.cast(tf.concat([tf.reshape(one, [-1]) for one in gradients], 0), tf.float64)

    def _loss_graph(self) -> tf.Tensor:
        total = tf.constant(0.0)
        for first in tf.range(0, self.samples, self.at_once):
            places = tf.range(first, tf.minimum(first + self.at_once, self.samples))
            x, y, _, _ = self._read(places)
            loss = self.loss_of(y, self.model(self.scaled(x), training=False))
            total += loss * tf.cast(tf.shape(places)[0], tf.float32)
        return total / self.samples + self._penalty()
