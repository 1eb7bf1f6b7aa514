"""Every model that l3hpc reads, as a module of the HEAR 2021 interface.

HEAR (Holistic Evaluation of Audio Representations) compares audio embeddings on 19 tasks. Its tools
take the name of a Python module, here ``l3hpc.hear``, and the path of its weights::

    hear-validator l3hpc.hear --model student.h5

``l3hpc export --hear`` writes a package with the weights inside, for tools that give no path.

The networks are computed as everywhere in l3hpc (see ``l3hpc.models.engines``), outside of the
graph of TensorFlow: embeddings have no gradient, and the weights are not variables of the module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from l3hpc.audio.framing import CutFrames, JoinedFrames, cut_frames, frame_starts, window_samples
from l3hpc.audio.resample import resample_rows
from l3hpc.embedding import model as models
from l3hpc.embedding.embed import HOP_S, check_embedding
from l3hpc.errors import InputError, command_line
from l3hpc.models.tensorflow_log import import_tensorflow

import_tensorflow()

import tensorflow as tf  # noqa: E402

RATES = (16000, 22050, 44100, 48000)  # those that the validator accepts, in all its versions
TIMESTAMP_HOP_MS = 50  # the longest interval that HEAR recommends


class HearModel(tf.Module):
    """A model with the attributes that HEAR asks for.

    Parameters
    ----------
    model : l3hpc.embedding.model.Model
        From ``l3hpc.load_model``.

    Attributes
    ----------
    model : l3hpc.embedding.model.Model
        What computes the embeddings.
    sample_rate : int
        Hz. The lowest rate of HEAR that has all frequencies that the network hears; a student of
        8 kHz announces 16,000, and its audio is resampled.
    timestamp_embedding_size, scene_embedding_size : int
        Length of an embedding.
    """

    def __init__(self, model: models.Model) -> None:
        super().__init__()
        self.model = model
        self.sample_rate = next((rate for rate in RATES if rate >= model.rate), RATES[-1])
        self.timestamp_embedding_size = self.scene_embedding_size = int(model.dim)


def load_model(model_file_path: str = "", **options: Any) -> HearModel:
    """Load a model for ``get_timestamp_embeddings`` and ``get_scene_embeddings``.

    Parameters
    ----------
    model_file_path
        A file or a name, as for ``l3hpc.load_model``.
    **options
        Further arguments of ``l3hpc.load_model``.

    Returns
    -------
    HearModel
        The model and the three attributes of the interface.

    Raises
    ------
    InputError
        No path was given, or as from ``l3hpc.load_model``.

    References
    ----------
    J. Turian et al., "HEAR: Holistic Evaluation of Audio Representations", NeurIPS 2021
    Competitions and Demonstrations Track.
    """
    if not model_file_path:
        raise InputError("no model was given", where="l3hpc.hear", allowed=models.PATTERNS,
                         hint="hear-validator l3hpc.hear --model student.h5; or write a package "
                              "with its weights: " + command_line(
                                  "export", "student.h5", "--hear", "-o", "hear_student"))
    return HearModel(models.load_model(model_file_path, **options))


def get_timestamp_embeddings(audio: tf.Tensor, model: HearModel) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute an embedding every 50 milliseconds.

    Embedding i is that of the window (one second, or as long as the model's) around ``50 * i``
    milliseconds. At both ends, half a window of zeros is added to the sound.

    Parameters
    ----------
    audio
        (sounds, samples) in [-1, 1] at ``model.sample_rate``, at least one sample.
    model
        From ``load_model``.

    Returns
    -------
    embeddings
        (sounds, times, size) float32.
    timestamps
        (sounds, times) float32 in milliseconds, the centres of the windows: from 0 to the last
        multiple of 50 that is not after the end.

    Raises
    ------
    InputError
        The audio has another shape.
    AudioError
        The embeddings are not finite.
    """
    rows = _resampled(audio, model)
    rate, window = model.model.rate, window_samples(model.model.window_s, model.model.rate)
    count = 1 + audio.shape[1] * 1000 // (model.sample_rate * TIMESTAMP_HOP_MS)
    starts = frame_starts(0, count, rate, TIMESTAMP_HOP_MS / 1000)
    before = window // 2
    padded = np.pad(rows, ((0, 0), (before, window - before)))
    embeddings = _embed(model, [CutFrames(row, starts, window) for row in padded])
    times = np.arange(count, dtype=np.float32) * TIMESTAMP_HOP_MS
    return tf.constant(embeddings), tf.constant(np.tile(times, (len(rows), 1)))


def get_scene_embeddings(audio: tf.Tensor, model: HearModel) -> tf.Tensor:
    """Compute one embedding per sound: the mean over windows 0.1 s apart.

    The windows lie within the sound. A sound of less than a window is extended with zeros, and so
    is the end of a longer one, by less than 0.1 s.

    Parameters
    ----------
    audio, model
        As for ``get_timestamp_embeddings``.

    Returns
    -------
    tensorflow.Tensor
        (sounds, size) float32.

    Raises
    ------
    InputError, AudioError
        As from ``get_timestamp_embeddings``.
    """
    rows = _resampled(audio, model)
    rate = model.model.rate
    embeddings = _embed(model, [
        cut_frames(row, rate, HOP_S, False, model.model.window_s)[0] for row in rows])
    return tf.constant(embeddings.mean(axis=1, dtype=np.float64), tf.float32)


def _resampled(audio: tf.Tensor, model: HearModel) -> np.ndarray:
    """The audio (sounds, samples) at the rate of the network."""
    rows = np.asarray(audio, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"audio has the shape {rows.shape}", where="audio",
                         allowed="(sounds, samples), at least one of each")
    return resample_rows(rows, model.sample_rate, model.model.rate)


def _embed(model: HearModel, frames: list[np.ndarray | CutFrames]) -> np.ndarray:
    """Embeddings (sounds, windows, size) of the windows of each sound, equally many."""
    embeddings = model.model.embed(JoinedFrames(frames))
    check_embedding(embeddings, model.model, None)
    return embeddings.reshape(len(frames), -1, model.model.dim)
