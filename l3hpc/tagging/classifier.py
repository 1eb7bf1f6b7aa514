"""The tag classifier: training on embeddings of clips, prediction, and its file.

Training keeps the weights of the epoch with the lowest validation loss. Initial weights and the
order of the clips follow from the seed. A trained classifier is one HDF5 file of arrays with its
settings as JSON; loading it executes no code.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from l3hpc.arrays.rows import RowFile
from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, L3hpcError, check_choice
from l3hpc.io.files import write_bytes
from l3hpc.io.hdf5 import numeric_dataset, open_hdf5, read_attributes
from l3hpc.tagging import network
from l3hpc.tagging.predictions import Predictions, from_coarse, from_fine

POOLINGS = ("max", "mean", "softmax")
FORMAT = "l3hpc tag classifier 1"
_PREDICT_FRAMES = 1 << 16
_BLOCK_BYTES = 4 << 20  # of embeddings that are read at once in training

Matrix = np.ndarray | RowFile
OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is built and trained; by default as the DCASE 2020 baseline without layers.

    Attributes
    ----------
    level : str
        'coarse' or 'fine'.
    model : str
        'mil' or 'framewise'.
    hidden_layers, hidden_size : int
        Number and size of the hidden layers.
    learning_rate, l2 : float
        Learning rate of Adam, and L2 penalty on the weights.
    batch_size : int
        Clips per batch for 'mil', frames for 'framewise'.
    epochs, patience : int
        Maximum number of epochs, and epochs without a lower validation loss before stopping.
    standardize : bool
        Scale embeddings to mean 0 and variance 1 over the training frames.
    seed : int
        Seed of weights and batch order.
    """

    level: str = "coarse"
    model: str = "mil"
    hidden_layers: int = 0
    hidden_size: int = 128
    learning_rate: float = 1e-3
    l2: float = 1e-5
    batch_size: int = 64
    epochs: int = 100
    patience: int = 20
    standardize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid in (("level", ("coarse", "fine")), ("model", ("mil", "framewise"))):
            check_choice(name, getattr(self, name), valid)


def batch_for(samples: int) -> int:
    """Default batch size: 64, or less if an epoch would have fewer than 16 batches.

    Parameters
    ----------
    samples
        Clips for 'mil', frames for 'framewise'.

    Returns
    -------
    int
        A power of two from 4 to 64.

    Examples
    --------
    >>> from l3hpc.tagging.classifier import batch_for
    >>> batch_for(10_000), batch_for(200)
    (64, 8)
    """
    return min(64, max(4, 1 << max(samples // 16, 1).bit_length() - 1))


@dataclass
class Classifier:
    """A trained classifier.

    Attributes
    ----------
    config : ClassifierConfig
        How it was built and trained.
    taxonomy : Taxonomy
        The tags.
    mean, scale : ndarray of float32, shape (dim,)
        Of the training frames; 0 and 1 if not standardised.
    model : keras.Model
        The network.
    history : list of dict
        ``epoch`` (from 1), ``loss`` and ``val_loss`` of every epoch.
    best_epoch : int
        The epoch whose weights the network has.
    """

    config: ClassifierConfig
    taxonomy: Taxonomy
    mean: np.ndarray
    scale: np.ndarray
    model: keras.Model
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0

    def frame_probabilities(self, x: np.ndarray) -> np.ndarray:
        """Probabilities of the tags in every frame, for framewise models.

        Parameters
        ----------
        x
            Embeddings, shape (clips, frames, dim).

        Returns
        -------
        ndarray of float32, shape (clips, frames, tags)
            0 to 1.
        """
        clips, frames, dim = x.shape
        return self._call(x.reshape(-1, dim)).reshape(clips, frames, -1)

    def predict(self, x: Matrix, pooling: str = "mean",
                rows: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of the tags in every clip.

        Parameters
        ----------
        x
            Embeddings, shape (clips, frames, dim).
        pooling
            Over the frames, for framewise models: 'max', 'mean' or 'softmax' (the mean weighted by
            the softmax of the values).
        rows
            Numbers of the clips to predict, in that order (None: all).

        Returns
        -------
        ndarray of float32, shape (clips, tags)
            0 to 1.

        Raises
        ------
        InputError
            For an unknown pooling.
        """
        check_choice("pooling", pooling, POOLINGS)
        clips = np.arange(len(x)) if rows is None else rows
        step = max(1, _PREDICT_FRAMES // x.shape[1])
        return np.concatenate([self._pooled(x[clips[first:first + step]], pooling)
                               for first in range(0, len(clips), step)])

    def _pooled(self, x: np.ndarray, pooling: str) -> np.ndarray:
        if self.config.model == "mil":
            return self._call(x)
        frames = self.frame_probabilities(x)
        if pooling == "max":
            return np.asarray(frames.max(axis=1))
        if pooling == "mean":
            return np.asarray(frames.mean(axis=1))
        weight = np.exp(frames - frames.max(axis=1, keepdims=True))
        return np.asarray((frames * weight).sum(axis=1) / weight.sum(axis=1))

    def predictions(self, files: Sequence[str], x: Matrix, pooling: str = "mean",
                    rows: np.ndarray | None = None) -> Predictions:
        """A table of predictions with both levels, filled as in the published pipeline.

        Parameters
        ----------
        files
            Names of the clips.
        x, pooling, rows
            As for ``predict``.
        """
        fill = from_coarse if self.config.level == "coarse" else from_fine
        return fill(files, self.predict(x, pooling, rows), self.taxonomy)

    def save(self, path: Path | str) -> None:
        """Write one HDF5 file atomically: arrays, and settings as JSON."""
        memory = io.BytesIO()
        settings = {
            "format": FORMAT, "config": asdict(self.config), "best_epoch": self.best_epoch,
            "history": self.history, "coarse": [list(tag) for tag in self.taxonomy.coarse],
            "fine": [list(tag[:3]) for tag in self.taxonomy.fine],
        }
        with h5py.File(memory, "w") as file:
            file.attrs["settings"] = json.dumps(settings)
            file["mean"], file["scale"] = self.mean, self.scale
            for number, array in enumerate(self.model.get_weights()):
                file[f"weights/{number:02d}"] = array
        write_bytes(Path(path), memory.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> Classifier:
        """Read a classifier that ``save`` wrote.

        Raises
        ------
        InputError
            For any other file, and a damaged one.
        """
        with open_hdf5(path) as file:
            try:
                settings = json.loads(read_attributes(file, Path(path)).get("settings", "{}"))
                is_classifier = settings.get("format") == FORMAT and isinstance(
                    file.get("weights"), h5py.Group)
            except InputError:
                raise
            except (ValueError, TypeError, AttributeError):  # not JSON, or not an object
                is_classifier = False
            if not is_classifier:
                raise InputError("not a tag classifier", where=str(path),
                                 allowed="classifier_<level>.h5 that the classify step wrote")
            mean = numeric_dataset(file, "mean", "f")[()]
            scale = numeric_dataset(file, "scale", "f")[()]
            weights = [numeric_dataset(file, f"weights/{name}", "f")[()]
                       for name in sorted(file["weights"])]
        try:
            fine: dict[int, dict[str, str]] = {}
            for coarse, number, name in settings["fine"]:
                fine.setdefault(coarse, {})[number] = name
            taxonomy = Taxonomy(dict(settings["coarse"]), fine, str(path))
            classifier = _untrained(ClassifierConfig(**settings["config"]), taxonomy, mean, scale)
            classifier.model.set_weights(weights)
            classifier.history = settings["history"]
            classifier.best_epoch = settings["best_epoch"]
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"is a damaged tag classifier: {str(error)[:200]}", where=str(path),
                             hint="Train it again: the step classify.") from None
        return classifier

    def _call(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.model((x - self.mean) / self.scale, training=False))


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
    mean, scale = standardizer(x) if config.standardize else (
        np.zeros(x.shape[2], np.float32), np.ones(x.shape[2], np.float32))
    classifier = _untrained(config, taxonomy, mean, scale)
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


def standardizer(x: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over all frames.

    Parameters
    ----------
    x
        Embeddings, shape (clips, frames, dim).

    Returns
    -------
    mean, scale : ndarray of float32, shape (dim,)
        The scale of a constant dimension is 1.
    """
    flat = x.reshape(-1, x.shape[-1])
    # Sums of squares about the first frame: about 0 they would lose digits where means are large.
    shift = flat[0].astype(np.float64)
    total, square = np.zeros_like(shift), np.zeros_like(shift)
    for first in range(0, len(flat), _PREDICT_FRAMES):
        block = flat[first:first + _PREDICT_FRAMES] - shift
        total += block.sum(axis=0)
        square += np.square(block).sum(axis=0)
    mean = total / len(flat)
    spread = np.sqrt(np.maximum(square / len(flat) - mean ** 2, 0))
    # Of a constant column rounding alone is left, which the division would blow up.
    spread[spread < 1e-7 * (1 + np.abs(mean + shift))] = 1
    return (mean + shift).astype(np.float32), spread.astype(np.float32)


def _untrained(config: ClassifierConfig, taxonomy: Taxonomy, mean: np.ndarray,
               scale: np.ndarray) -> Classifier:
    """A classifier with initial weights."""
    tags = len(taxonomy.coarse) if config.level == "coarse" else len(taxonomy.complete_fine)
    model = network.build(
        config.model, len(mean), tags, hidden_layers=config.hidden_layers,
        hidden_size=config.hidden_size, l2=config.l2, seed=config.seed,
        normalize=config.model == "framewise" and not config.standardize)
    return Classifier(config, taxonomy, mean, scale, model)


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
        self.mean, self.scale = tf.constant(classifier.mean), tf.constant(classifier.scale)
        frames = x.shape[1]
        self.batch = config.batch_size
        self.large_batch = max(1, _PREDICT_FRAMES // (frames if config.model == "mil" else 1))
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
                x = (block_x[start:start + self.batch] - self.mean) / self.scale
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
            loss = self.loss_of(y, self.model((x - self.mean) / self.scale, training=False))
            total += loss * tf.cast(tf.shape(places)[0], tf.float32)
        return total / self.samples + self._penalty()
