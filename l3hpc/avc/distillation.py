"""Soft labels of a trained correspondence network, from which a smaller one learns.

The loss is that of Hinton, Vinyals and Dean [1]_: with the student's logits z, the teacher's v, and
softmax at temperature T, (1 − λ) · H(label, softmax(z)) + λ · T² · H(softmax(v / T), softmax(z /
T)). T² keeps the gradient of the second term as large as that of the first. The pairs are stored as
they are shown, augmentation included, so that the teacher sees each of them once, beforehand.

References
----------
.. [1] G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network",
   arXiv:1503.02531 (2015).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l3hpc.arrays.threads import read_ahead
from l3hpc.avc.batches import AvcData, Batches
from l3hpc.avc.vision import VisionSpec
from l3hpc.console.progress import Progress
from l3hpc.errors import InputError
from l3hpc.io.files import write_bytes
from l3hpc.io.npz import read_npy
from l3hpc.models.spec import NetworkSpec
from l3hpc.models.weight_files import open_network

if TYPE_CHECKING:
    from l3hpc.avc.network import AvcNetwork


@dataclass(frozen=True)
class Distillation:
    """How much the teacher counts.

    Attributes
    ----------
    temperature
        T, from 1: the higher, the more of the teacher's doubt is taught.
    soft_weight
        λ, the weight of the soft labels, in (0, 1].
    """

    temperature: float
    soft_weight: float


@dataclass(frozen=True)
class TaughtData:
    """``AvcData`` in which a teacher's soft labels follow the labels.

    Attributes
    ----------
    data
        The pairs.
    soft
        Of every pair, (n, 2) float32.
    """

    data: AvcData
    soft: np.ndarray

    def batch(self, rows: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """The examples of some rows.

        Parameters
        ----------
        rows
            (n,) row numbers.

        Returns
        -------
        inputs
            As ``AvcData.batch``.
        labels
            (n, 4) float32: the labels, and the soft labels.
        """
        inputs, labels = self.data.batch(rows)
        return inputs, np.concatenate([labels, self.soft[rows]], axis=1)


def teach(
    data: AvcData, teacher: Path, distillation: Distillation, scratch: Path, batch_size: int = 64,
    progress: Progress | None = None,
) -> TaughtData:
    """Add a teacher's soft labels to pairs.

    Parameters
    ----------
    data
        The pairs.
    teacher
        Its file, of ``AvcNetwork.save``.
    distillation
        With the temperature.
    scratch
        Folder in which its logits are kept for a restart: it may be ten times as large as its
        student.
    batch_size, progress
        As for ``teacher_logits``.

    Returns
    -------
    TaughtData
        The pairs with soft labels.
    """
    from l3hpc.avc.network import load_avc

    path = scratch / "teacher_logits.npy"
    if not path.is_file():
        image = io.BytesIO()
        np.save(image, teacher_logits(load_avc(teacher), data.batches, batch_size, progress))
        write_bytes(path, image.getvalue())
    return TaughtData(data, soften(read_npy(path), distillation.temperature))


def soften(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax at a temperature.

    Parameters
    ----------
    logits
        (n, classes).
    temperature
        Above 0.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        Probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.avc.distillation import soften
    >>> soften(np.log([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.6669999957084656, 0.3330000042915344]]
    """
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    powers = np.exp(scaled)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def describe_avc(path: Path) -> tuple[NetworkSpec, VisionSpec]:
    """The branches of a whole network, without loading its weights or TensorFlow.

    Parameters
    ----------
    path
        A file that ``AvcNetwork.save`` wrote.

    Returns
    -------
    audio
        The audio branch.
    vision
        The vision branch.

    Raises
    ------
    InputError
        The file holds anything else.
    """
    with open_network(path) as stored:
        specs = stored.spec or {}
    if not isinstance(specs.get("audio"), dict) or not isinstance(specs.get("vision"), dict):
        raise InputError("is not a whole audio-visual network", where=str(path),
                         allowed="avc_best_valid_loss.h5 of avc_train")
    return NetworkSpec.from_dict(specs["audio"]), VisionSpec.from_dict(specs["vision"])


def teacher_logits(
    teacher: AvcNetwork, batches: Batches, batch_size: int = 64, progress: Progress | None = None,
) -> np.ndarray:
    """What a network computes for every pair before its softmax.

    Parameters
    ----------
    teacher
        The network; its own front end makes the spectrograms.
    batches
        The pairs.
    batch_size
        Pairs at a time.
    progress
        Shows how many pairs are done.

    Returns
    -------
    ndarray of float32, shape (n, 2)
        Logits: not matching, matching.
    """
    import keras
    import tensorflow as tf

    assert teacher.audio_spec is not None
    data = AvcData(batches, teacher.audio_spec.frontend)
    # Not from the probabilities, which are 0 or 1 in float32 where the teacher is sure.
    hidden = keras.Model(teacher.model.inputs, teacher.model.get_layer("fusion").output)
    kernel, bias = teacher.head[1]
    run = tf.function(lambda sound, image: hidden([sound, image], training=False),
                      reduce_retracing=True)
    progress = progress or Progress()
    progress.start("asking the teacher", total=batches.rows, unit="pairs")
    found = []
    for (sound, image), _ in read_ahead(data.batch, batches.chunks(batch_size)):
        found.append(run(tf.constant(sound), tf.constant(image)).numpy() @ kernel + bias)
        progress.advance(len(sound))
    progress.finish()
    return np.concatenate(found)
