"""Train and evaluate the audio-visual network: the loop of ``l3hpc.models.training`` on pairs.

The loss is cross-entropy, on request also with a teacher's soft labels
(``l3hpc.avc.distillation``), plus the kernels' L2 penalty; where a student's training reports its
mean absolute error, this one reports the share of wrong answers. ``evaluate`` measures the accuracy
on pairs that were not used in training, with a confidence interval. Importing this module imports
TensorFlow.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from l3hpc.arrays.threads import read_ahead
from l3hpc.avc.batches import AvcData
from l3hpc.avc.distillation import Distillation
from l3hpc.avc.network import AvcNetwork, build_avc
from l3hpc.avc.vision import VisionSpec
from l3hpc.console.progress import Progress
from l3hpc.io.files import write_text
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.loop import HISTORY, Training
from l3hpc.models.training.state import Status
from l3hpc.models.training.tensorflow_engine import Errors, Inputs, TensorFlowTrainingEngine

if TYPE_CHECKING:
    from l3hpc.avc.network import AvcNetwork

LATEST, BEST_LOSS, BEST_ACCURACY = (
    "avc_latest.h5", "avc_best_valid_loss.h5", "avc_best_valid_accuracy.h5")
COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class InitialNetworks:
    """What training starts from.

    Attributes
    ----------
    vision
        The vision network; None: the published one, or that of ``vision_weights``.
    audio
        Weights of the audio branch; None: new ones.
    vision_weights
        See ``build_avc``.
    freeze_vision
        See ``build_avc``.
    """

    vision: VisionSpec | None = None
    audio: Parameters | None = None
    vision_weights: Path | None = None
    freeze_vision: bool = False


class AvcEngine(TensorFlowTrainingEngine):
    """``TensorFlowTrainingEngine`` on pairs: cross-entropy and share of wrong answers.

    Batches are ((spectrograms, images), labels); with a distillation, those of ``TaughtData``.

    Parameters
    ----------
    spec
        The audio network.
    start
        What training starts from.
    distillation
        How the soft labels count; None: there are none.
    options
        Arguments of ``TensorFlowTrainingEngine``.

    Attributes
    ----------
    network
        The network being trained.
    """

    def __init__(self, spec: NetworkSpec, start: InitialNetworks,
                 distillation: Distillation | None = None, **options: Any) -> None:
        self._begin, self._distillation = start, distillation
        self.network: AvcNetwork
        super().__init__(spec, **options)

    def _network(self, bn_momentum: float, seed: int) -> keras.Model:
        start = self._begin
        self.network = build_avc(
            start.audio or self.spec, start.vision, vision_weights=start.vision_weights,
            freeze_vision=start.freeze_vision, bn_momentum=bn_momentum, fused=True, seed=seed)
        return self.network.model

    def _batch_signature(self) -> Any:
        if self.replicas > 1:
            return None
        size = self.network.vision_spec.size
        return [(tf.TensorSpec((None, *self.spec.frontend.shape, 1)),
                 tf.TensorSpec((None, size, size, 3))),
                tf.TensorSpec((None, 4 if self._distillation else 2))]

    def _errors(self, x: Inputs, y: tf.Tensor, training: bool) -> Errors:
        predicted = tf.cast(self.model(list(x), training=training), tf.float32)
        labels = y[:, :2]
        wrong = tf.not_equal(tf.argmax(predicted, axis=-1), tf.argmax(labels, axis=-1))
        losses = self.model.losses
        penalty = tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else 0.0
        probability = tf.reduce_sum(predicted * labels, axis=-1)  # of the right answer
        # As Keras's cross-entropy, which also stops at 1e-7: a probability of 0 would be an
        # infinite loss.
        loss = -tf.math.log(tf.maximum(probability, 1e-7))
        if self._distillation is not None:
            temperature, share = self._distillation.temperature, self._distillation.soft_weight
            # Logarithms of probabilities are logits up to a constant, which softmax ignores.
            logits = tf.math.log(tf.maximum(predicted, 1e-7))
            soft_loss = -tf.reduce_sum(
                y[:, 2:] * tf.nn.log_softmax(logits / temperature), axis=-1)
            loss = (1 - share) * loss + share * temperature**2 * soft_loss
        return loss, tf.cast(wrong, tf.float32), tf.convert_to_tensor(penalty)


@dataclass
class AvcTraining(Training):
    """``Training`` of an audio-visual network; ``data`` is an ``AvcData`` or a ``TaughtData``.

    ``folder`` then holds the whole networks (``LATEST``, ``BEST_LOSS``, ``BEST_ACCURACY``) and
    ``history.csv``. The status' ``best_mae`` is the lowest share of wrong answers.

    Attributes
    ----------
    start
        What training starts from.
    distillation
        How the soft labels of a ``TaughtData`` count.
    """

    start: InitialNetworks = InitialNetworks()
    distillation: Distillation | None = None

    def make_engine(self) -> AvcEngine:
        """Build the audio-visual network and its compiled steps.

        Returns
        -------
        AvcEngine
            Ready to train.
        """
        return AvcEngine(self.spec, self.start, self.distillation, **self.engine_options())

    @property
    def network(self) -> AvcNetwork:
        """The network being trained."""
        assert isinstance(self.engine, AvcEngine)
        return self.engine.network

    def _save_models(self, after: Status) -> None:
        row = history_row(after.history[-1])
        provenance = {**self.provenance, "epoch": after.epoch - 1, "val_loss": row["val_loss"],
                      "val_accuracy": row["val_accuracy"]}
        self.network.save(self.folder / LATEST, provenance)
        if after.best_loss_epoch == after.epoch - 1:
            self.network.save(self.folder / BEST_LOSS, provenance)
        if after.best_mae_epoch == after.epoch - 1:
            self.network.save(self.folder / BEST_ACCURACY, provenance)

    def _write_history(self) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history_row(row) for row in self.status.history)
        write_text(self.folder / HISTORY, stream.getvalue())

    def _details(self) -> dict[str, Any]:
        details = super()._details()
        if self.status.history:
            details["val_accuracy"] = history_row(self.status.history[-1])["val_accuracy"]
        return details


def history_row(row: dict[str, float]) -> dict[str, float]:
    """A row of the status' history with the names of ``COLUMNS``.

    Parameters
    ----------
    row
        With the names of ``l3hpc.models.training.state.COLUMNS``.

    Returns
    -------
    dict
        Accuracies in place of mean absolute errors.
    """
    return {"epoch": row["epoch"], "loss": row["loss"],
            "accuracy": 1 - row["mean_absolute_error"], "val_loss": row["val_loss"],
            "val_accuracy": 1 - row["val_mean_absolute_error"],
            "learning_rate": row["learning_rate"]}


@dataclass(frozen=True)
class Accuracy:
    """The accuracy on some pairs.

    Attributes
    ----------
    pairs
        Their number.
    right
        Right answers.
    interval
        Exact binomial interval (Clopper and Pearson 1934) of 95%, which takes the pairs as
        independent; pairs of one video are less so.
    matching_right
        Share of right answers among matching pairs; None without any.
    non_matching_right
        Share of right answers among the others; None without any.
    """

    pairs: int
    right: int
    interval: tuple[float, float]
    matching_right: float | None
    non_matching_right: float | None

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.pairs

    def as_json(self) -> dict[str, Any]:
        """All values, JSON-ready."""
        return {**asdict(self), "interval": list(self.interval), "accuracy": self.accuracy}


def pair_accuracy(predicted: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Compute the accuracy from the network's output.

    Parameters
    ----------
    predicted
        (n, 2) probabilities.
    labels
        (n, 2), one-hot.

    Returns
    -------
    Accuracy
        On n pairs.
    """
    answer, truth = np.argmax(predicted, axis=1), np.argmax(labels, axis=1)
    right = answer == truth
    halves = [float(right[truth == half].mean()) if (truth == half).any() else None
              for half in (1, 0)]
    return Accuracy(len(right), int(right.sum()), binomial_interval(int(right.sum()), len(right)),
                    halves[0], halves[1])


def binomial_interval(right: int, pairs: int, confidence: float = CONFIDENCE
                      ) -> tuple[float, float]:
    """Exact binomial interval of a share.

    Parameters
    ----------
    right
        Right answers.
    pairs
        All answers, at least 1.
    confidence
        In (0, 1).

    Returns
    -------
    low
        Lower end, in [0, 1].
    high
        Upper end, in [0, 1].

    References
    ----------
    C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika 26, 1934.

    Examples
    --------
    >>> [round(end, 3) for end in binomial_interval(9, 10)]
    [0.555, 0.997]
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, right, pairs - right + 1)) if right else 0.0
    high = float(beta.ppf(1 - tail, right + 1, pairs - right)) if right < pairs else 1.0
    return low, high


def evaluate(network: AvcNetwork, data: AvcData, batch_size: int = 64,
             progress: Progress | None = None) -> Accuracy:
    """Measure the accuracy of a network on all pairs.

    Parameters
    ----------
    network
        The network.
    data
        The pairs.
    batch_size
        Pairs per batch.
    progress
        Shows how many pairs are done.

    Returns
    -------
    Accuracy
        With its confidence interval.
    """
    import tensorflow as tf

    progress = progress or Progress()
    progress.start("evaluating", total=data.batches.rows, unit="pairs")
    model = network.model
    run = tf.function(lambda sound, image: model([sound, image], training=False),
                      reduce_retracing=True)
    predicted, labels = [], []
    for (sound, image), label in read_ahead(data.batch, data.batches.chunks(batch_size)):
        predicted.append(run(tf.constant(sound), tf.constant(image)).numpy())
        labels.append(label)
        progress.advance(len(label))
    progress.finish()
    return pair_accuracy(np.concatenate(predicted), np.concatenate(labels))
