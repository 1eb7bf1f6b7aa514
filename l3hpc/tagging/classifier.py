"""Trains the tag classifier on embeddings of clips, keeps the epoch that is best on validate.

Everything follows from the seed: weights, and the order of the clips in every epoch. A trained
classifier is one HDF5 file of arrays with its settings as JSON; loading executes nothing.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from l3hpc.arrays.rows import RowFile
from l3hpc.datasets.sonyc_ust import Taxonomy
from l3hpc.errors import InputError, L3hpcError, check_choice
from l3hpc.io.files import write_bytes
from l3hpc.io.hdf5 import numeric_dataset, open_hdf5, read_attributes
from l3hpc.tagging import network
from l3hpc.tagging.predictions import Predictions, from_coarse, from_fine

POOLINGS = ("max", "mean", "softmax")
FORMAT = "l3hpc tag classifier 1"
_PREDICT_FRAMES = 1 << 16
_BLOCK_BYTES = 4 << 20  # of embeddings read at once in training

Matrix = np.ndarray | RowFile
OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is built and trained; defaults as the DCASE 2020 baseline, without layers.

    batch_size counts clips for ``mil`` and frames for ``framewise``; patience counts epochs
    without a lower val_loss.
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
    """Samples per batch where nobody states it: 64, fewer where an epoch would have under 16.

    A power of two from 4 to 64; ``samples`` are clips for ``mil`` and frames for ``framewise``.
    """
    return min(64, max(4, 1 << max(samples // 16, 1).bit_length() - 1))


@dataclass
class Classifier:
    """A trained classifier.

    mean, scale: (dim,) float32, of the training frames (0 and 1 where not standardised).
    history: one dict per epoch, {epoch (from 1), loss, val_loss}; best_epoch: whose weights it has.
    """

    config: ClassifierConfig
    taxonomy: Taxonomy
    mean: np.ndarray
    scale: np.ndarray
    model: Any
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0

    def frame_probabilities(self, x: np.ndarray) -> np.ndarray:
        """(clips, frames, dim) → (clips, frames, tags); framewise models only."""
        clips, frames, dim = x.shape
        return self._call(x.reshape(-1, dim)).reshape(clips, frames, -1)

    def predict(self, x: Matrix, pooling: str = "mean",
                rows: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of the tags, (clips, frames, dim) → (clips, tags) float32.

        pooling: ``max``, ``mean`` or ``softmax`` (mean weighted by the softmax of the values) over
        frames, for framewise models; a mil model pools by itself. rows: numbers of the clips to
        predict, in that order (None: all).
        """
        check_choice("pooling", pooling, POOLINGS)
        wanted = np.arange(len(x)) if rows is None else rows
        step = max(1, _PREDICT_FRAMES // x.shape[1])
        return np.concatenate([self._pooled(x[wanted[first:first + step]], pooling)
                               for first in range(0, len(wanted), step)])

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
        """A whole predictions table: both levels, filled as the published pipeline does."""
        fill = from_coarse if self.config.level == "coarse" else from_fine
        return fill(files, self.predict(x, pooling, rows), self.taxonomy)

    def save(self, path: Path | str) -> None:
        """Write one HDF5 file (arrays, and settings as JSON), in one rename."""
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
        """Read what ``save`` wrote; raises ``InputError`` for any other file."""
        with open_hdf5(path) as file:
            try:
                settings = json.loads(read_attributes(file, Path(path)).get("settings", "{}"))
                right = settings.get("format") == FORMAT and isinstance(
                    file.get("weights"), h5py.Group)
            except InputError:
                raise
            except (ValueError, TypeError, AttributeError):  # not JSON, or not an object
                right = False
            if not right:
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
    """Train on (x, y) and return the classifier of the epoch with the lowest loss on validate.

    x, x_validate: float32 (clips, frames, dim), in memory or on disk; y, y_validate: targets of
    ``Annotations.targets`` at ``config.level``. ``on_epoch(epoch, {loss, val_loss, best})`` is
    called after every epoch. Losses include the L2 penalty, as Keras reports them.

    Raises ``InputError`` for empty or mismatching arrays, ``L3hpcError`` when training diverges.
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
        if not math.isfinite(loss + val_loss):
            raise L3hpcError(f"the loss is not a number any more in epoch {epoch}",
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
    """Mean and standard deviation (1 where it is 0) over all frames, float32 (dim,) each."""
    flat = x.reshape(-1, x.shape[-1])
    shift = flat[0].astype(np.float64)
    total, square = np.zeros_like(shift), np.zeros_like(shift)
    for first in range(0, len(flat), _PREDICT_FRAMES):
        block = flat[first:first + _PREDICT_FRAMES] - shift
        total += block.sum(axis=0)
        square += np.square(block).sum(axis=0)
    mean = total / len(flat)
    spread = np.sqrt(np.maximum(square / len(flat) - mean ** 2, 0))
    spread[spread < 1e-7 * (1 + np.abs(mean + shift))] = 1
    return (mean + shift).astype(np.float32), spread.astype(np.float32)


def _untrained(config: ClassifierConfig, taxonomy: Taxonomy, mean: np.ndarray,
               scale: np.ndarray) -> Classifier:
    tags = len(taxonomy.coarse) if config.level == "coarse" else len(taxonomy.complete_fine)
    model = network.build(
        config.model, len(mean), tags, hidden_layers=config.hidden_layers,
        hidden_size=config.hidden_size, l2=config.l2, seed=config.seed,
        normalize=config.model == "framewise" and not config.standardize)
    return Classifier(config, taxonomy, mean, scale, model)


def _check_arrays(x: Matrix, y: np.ndarray, x_validate: Matrix, y_validate: np.ndarray) -> None:
    for split, one, targets in (("train", x, y), ("validate", x_validate, y_validate)):
        if not len(one):
            raise InputError(f"split '{split}' has no clips with embeddings",
                             allowed="both train and validate need some")
        if len(one) != len(targets):
            raise InputError(f"split '{split}': {len(one)} clips, {len(targets)} targets")
    if x.shape[2] != x_validate.shape[2]:
        raise InputError(f"train has {x.shape[2]} dimensions, validate {x_validate.shape[2]}")


class _Loop:
    """A compiled pass over one set: whole epochs in one call, embeddings read block by block."""

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
        self.optimizer.build(self.model.trainable_variables)
        self._epoch = tf.function(self._train_graph)
        self._evaluate = tf.function(self._loss_graph)

    def train(self, order: np.ndarray) -> float:
        """One epoch in the given order of samples; the mean loss."""
        return float(self._epoch(tf.constant(order, tf.int64)))

    def loss(self) -> float:
        """The mean loss with the weights as they are."""
        return float(self._evaluate())

    def _read(self, places: Any) -> tuple[Any, Any]:
        """Embeddings and targets of the samples of these numbers."""
        def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.x[rows], self.y[rows // self.repeat]

        x, y = tf.numpy_function(read, [places], (tf.float32, tf.float32))
        x.set_shape((None, *self.x.shape[1:]))
        y.set_shape((None, *self.y.shape[1:]))
        return x, y

    def _penalty(self) -> Any:
        return tf.add_n(self.model.losses) if self.model.losses else tf.constant(0.0)

    def _train_graph(self, order: Any) -> Any:
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

    def _loss_graph(self) -> Any:
        total = tf.constant(0.0)
        for first in tf.range(0, self.samples, self.large_batch):
            places = tf.range(first, tf.minimum(first + self.large_batch, self.samples))
            x, y = self._read(places)
            loss = self.loss_of(y, self.model((x - self.mean) / self.scale, training=False))
            total += loss * tf.cast(tf.shape(places)[0], tf.float32)
        return total / self.samples + self._penalty()
