"""The tag classifier: how it is built, its predictions, and its file.

A trained classifier is one HDF5 file of arrays with its settings as JSON; loading it executes no
code. ``training`` trains it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import keras
import numpy as np

from l3hpc.arrays.row_file import RowFile
from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError, check_choice
from l3hpc.io.files import write_bytes
from l3hpc.io.hdf5 import numeric_dataset, open_hdf5, read_attributes
from l3hpc.tagging import network
from l3hpc.tagging.clip_inputs import ClipInputs, InputScaling, rows_at_once
from l3hpc.tagging.predictions import Predictions, from_coarse, from_fine

POOLINGS = ("max", "mean", "softmax")
OPTIMIZERS = ("adam", "lbfgs")
FORMAT = "l3hpc tag classifier 1"

Matrix = np.ndarray | RowFile | ClipInputs


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
    pca : bool
        Give the network the principal components of the embeddings, each scaled to variance 1.
    pca_components : int or None
        How many (None: as many as dimensions).
    sensor_factor, proximity_factor : bool
        Auxiliary outputs: the sensor, and near or far for each tag. Their losses are added to that
        of the tags, and their predictions are further inputs of the tag output.
    cooccurrence_loss : bool
        Add ``cooccurrence_loss_factor`` · yᵀ L y to the loss of a batch, where y are its summed
        predictions and L is the graph Laplacian of the tags' co-occurrence in the training clips.
    cooccurrence_loss_factor : float
        Its factor.
    autopool_constraint : bool
        Keep the weights of AutoPool at 0 or above; for 'mil'.
    optimizer : str
        'adam' or 'lbfgs'. L-BFGS-B minimises the loss of all training clips; an epoch is one of its
        iterations, and the learning rate does not count.

    Raises
    ------
    InputError
        For a value that is not allowed; for 'framewise' without a constraint of AutoPool, and with
        'lbfgs' without standardising.
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
    pca: bool = False
    pca_components: int | None = None
    sensor_factor: bool = False
    proximity_factor: bool = False
    cooccurrence_loss: bool = False
    cooccurrence_loss_factor: float = 1e-5
    autopool_constraint: bool = True
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        for name, valid in (("level", ("coarse", "fine")), ("model", ("mil", "framewise")),
                            ("optimizer", OPTIMIZERS)):
            check_choice(name, getattr(self, name), valid)
        if self.model == "framewise" and not self.autopool_constraint:
            raise InputError("a framewise classifier has no AutoPool", where="autopool_constraint",
                             hint="Use model 'mil'.")
        if self.model == "framewise" and self.optimizer == "lbfgs" and not self.standardize:
            raise InputError("L-BFGS has no batches by which a framewise classifier normalises its "
                             "input", where="standardize", hint="Use standardize: true.")


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
    scaling : InputScaling
        What is applied to the inputs, with statistics of the training frames.
    model : keras.Model
        The network.
    history : list of dict
        ``epoch`` (from 1), ``loss`` and ``val_loss`` of every epoch.
    best_epoch : int
        The epoch whose weights the network has.
    sensors : tuple of str
        What the auxiliary output for the sensor tells apart.
    """

    config: ClassifierConfig
    taxonomy: Taxonomy
    scaling: InputScaling
    model: keras.Model
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    sensors: tuple[str, ...] = ()

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
            For an unknown pooling, inputs of another length than in training, and clips without
            frames.
        """
        check_choice("pooling", pooling, POOLINGS)
        if x.shape[2] != len(self.scaling.mean):
            raise InputError(f"{x.shape[2]} values per frame; the classifier was trained on "
                             f"{len(self.scaling.mean)}")
        if not x.shape[1]:
            raise InputError("clips of 0 frames", allowed="one frame or more")
        clips = np.arange(len(x)) if rows is None else rows
        step = rows_at_once(x)
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
            "history": self.history, "sensors": list(self.sensors),
            "coarse": [list(tag) for tag in self.taxonomy.coarse],
            "fine": [list(tag[:3]) for tag in self.taxonomy.fine],
        }
        with h5py.File(memory, "w") as file:
            file.attrs["settings"] = json.dumps(settings)
            file["mean"], file["scale"] = self.scaling.mean, self.scaling.scale
            if self.scaling.projection is not None:
                file["projection"] = self.scaling.projection
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
            scaling = InputScaling(*(numeric_dataset(file, name, "f")[()]
                                     for name in ("mean", "scale", "projection")
                                     if name in file or name != "projection"))
            weights = [numeric_dataset(file, f"weights/{name}", "f")[()]
                       for name in sorted(file["weights"])]
        try:
            fine: dict[int, dict[str, str]] = {}
            for coarse, number, name in settings["fine"]:
                fine.setdefault(coarse, {})[number] = name
            taxonomy = Taxonomy(dict(settings["coarse"]), fine, str(path))
            classifier = untrained(ClassifierConfig(**settings["config"]), taxonomy, scaling,
                                   settings.get("sensors", ()))
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
        return np.asarray(self.model(self.scaling(x), training=False))


def untrained(config: ClassifierConfig, taxonomy: Taxonomy, scaling: InputScaling,
              sensors: Sequence[str] = ()) -> Classifier:
    """A classifier with initial weights.

    Parameters
    ----------
    config
        How it is built.
    taxonomy
        The tags.
    scaling
        What is applied to its inputs.
    sensors
        All sensors, for ``config.sensor_factor``.

    Returns
    -------
    Classifier
        Its weights follow from the seed.
    """
    tags = len(taxonomy.coarse) if config.level == "coarse" else len(taxonomy.complete_fine)
    model = network.build(
        config.model, scaling.width, tags, hidden_layers=config.hidden_layers,
        hidden_size=config.hidden_size, l2=config.l2, seed=config.seed,
        normalize=config.model == "framewise" and not config.standardize,
        sensors=len(sensors) if config.sensor_factor else 0, proximity=config.proximity_factor,
        autopool_constraint=config.autopool_constraint)
    return Classifier(config, taxonomy, scaling, model, sensors=tuple(sensors))
