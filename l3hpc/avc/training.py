"""Train and evaluate the audio-visual network: the loop of ``l3hpc.models.training`` on pairs.

The loss is cross-entropy plus the kernels' L2 penalty; where a student's training reports its mean
absolute error, this one reports the share of wrong answers. ``evaluate`` says how often the network
is right about pairs it has never seen, with a confidence interval. Importing this module imports
TensorFlow.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from l3hpc.arrays.threads import read_ahead
from l3hpc.avc.network import AvcNetwork, VisionSpec, build_avc
from l3hpc.avc.pairs import AvcData
from l3hpc.console.progress import Progress
from l3hpc.io.files import write_text
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.training.engine import Engine
from l3hpc.models.training.loop import HISTORY, Training
from l3hpc.models.training.state import Status

if TYPE_CHECKING:
    from l3hpc.avc.network import AvcNetwork

LATEST, BEST_LOSS, BEST_ACCURACY = (
    "avc_latest.h5", "avc_best_valid_loss.h5", "avc_best_valid_accuracy.h5")
COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Start:
    """What training starts from.

    audio: given weights of the audio branch (None: fresh). vision: its network; vision_weights and
    freeze_vision: see ``build_avc``.
    """

    vision: VisionSpec | None = None
    audio: Parameters | None = None
    vision_weights: Path | None = None
    freeze_vision: bool = False


class AvcEngine(Engine):
    """``Engine`` for ((spectrograms, pictures), labels): cross-entropy and share of wrong answers.
    """

    def __init__(self, spec: NetworkSpec, start: Start, **options: Any) -> None:
        self._begin = start
        self.network: AvcNetwork
        super().__init__(spec, **options)

    def _network(self, bn_momentum: float, seed: int) -> Any:
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
                 tf.TensorSpec((None, size, size, 3))), tf.TensorSpec((None, 2))]

    def _errors(self, x: Any, y: Any, training: bool) -> tuple[Any, Any, Any]:
        given = tf.cast(self.model(list(x), training=training), tf.float32)
        wrong = tf.not_equal(tf.argmax(given, axis=-1), tf.argmax(y, axis=-1))
        losses = self.model.losses
        penalty = tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else 0.0
        chance = tf.reduce_sum(given * y, axis=-1)  # of the right answer
        return (-tf.math.log(tf.maximum(chance, 1e-7)), tf.cast(wrong, tf.float32),
                tf.convert_to_tensor(penalty))


@dataclass
class AvcTraining(Training):
    """``Training`` of an audio-visual network; ``data`` gives what ``AvcData`` gives.

    ``folder`` then holds the whole networks (``LATEST``, ``BEST_LOSS``, ``BEST_ACCURACY``) and
    ``history.csv``. The status' ``best_mae`` is the lowest share of wrong answers.
    """

    start: Start = Start()

    def make_engine(self) -> AvcEngine:
        """The audio-visual network and its compiled steps."""
        return AvcEngine(self.spec, self.start, **self.engine_options())

    @property
    def network(self) -> AvcNetwork:
        """The network being trained."""
        assert isinstance(self.engine, AvcEngine)
        return self.engine.network

    def _save_models(self, after: Status) -> None:
        row = told(after.history[-1])
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
        writer.writerows(told(row) for row in self.status.history)
        write_text(self.folder / HISTORY, stream.getvalue())

    def _details(self) -> dict[str, Any]:
        found = super()._details()
        if self.status.history:
            found["val_accuracy"] = told(self.status.history[-1])["val_accuracy"]
        return found


def told(row: dict[str, float]) -> dict[str, float]:
    """A row of the status' history in the words of ``COLUMNS``."""
    return {"epoch": row["epoch"], "loss": row["loss"],
            "accuracy": 1 - row["mean_absolute_error"], "val_loss": row["val_loss"],
            "val_accuracy": 1 - row["val_mean_absolute_error"],
            "learning_rate": row["learning_rate"]}


@dataclass(frozen=True)
class Accuracy:
    """Right answers among ``pairs``.

    interval: exact binomial (Clopper and Pearson 1934) of 95 %, which takes the pairs as
    independent; pairs of one video are less so. matching_right, non_matching_right: shares of each
    half (NaN-free: None where there is no such pair).
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
        """All of it, JSON-ready."""
        return {**asdict(self), "interval": list(self.interval), "accuracy": self.accuracy}


def accuracy(given: np.ndarray, labels: np.ndarray) -> Accuracy:
    """From the network's output and the labels, both (n, 2)."""
    answer, truth = np.argmax(given, axis=1), np.argmax(labels, axis=1)
    right = answer == truth
    halves = [float(right[truth == half].mean()) if (truth == half).any() else None
              for half in (1, 0)]
    return Accuracy(len(right), int(right.sum()), interval(int(right.sum()), len(right)),
                    halves[0], halves[1])


def interval(right: int, pairs: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact binomial interval of a share."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, right, pairs - right + 1)) if right else 0.0
    high = float(beta.ppf(1 - tail, right + 1, pairs - right)) if right < pairs else 1.0
    return low, high


def evaluate(network: AvcNetwork, data: AvcData, batch_size: int = 64,
             progress: Progress | None = None) -> Accuracy:
    """The accuracy of ``network`` on all pairs of ``data``."""
    import tensorflow as tf

    progress = progress or Progress()
    progress.start("evaluating", total=data.batches.rows, unit="pairs")
    model = network.model
    run = tf.function(lambda sound, picture: model([sound, picture], training=False),
                      reduce_retracing=True)
    given, labels = [], []
    for (sound, picture), label in read_ahead(data.batch, data.batches.chunks(batch_size)):
        given.append(run(tf.constant(sound), tf.constant(picture)).numpy())
        labels.append(label)
        progress.advance(len(label))
    progress.finish()
    return accuracy(np.concatenate(given), np.concatenate(labels))
