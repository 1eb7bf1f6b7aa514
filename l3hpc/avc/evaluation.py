"""How often the network is right about pairs that it has never seen, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.avc.batches import AvcData
from l3hpc.console.progress import Progress

if TYPE_CHECKING:
    from l3hpc.avc.network import AvcNetwork

CONFIDENCE = 0.95


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
