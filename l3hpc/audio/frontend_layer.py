"""The mel front end as a Keras layer, for students that take audio and are saved as one model.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l3hpc.audio.conventions import letter_of, name_of
from l3hpc.audio.frontends import RANGE_DB, Frontend, hann
from l3hpc.errors import InputError


@keras.saving.register_keras_serializable(package="l3hpc")
class MelFrontend(keras.layers.Layer):
    """Converts audio (batch, rate) to spectrograms (batch, bands, times, 1) in dB.

    The result equals that of ``Frontend`` within 1e-3 dB. The layer has no weights, so that weight
    files of the published packages and of students without a front end can be loaded. Its output is
    float32, also under mixed precision.

    Parameters
    ----------
    rate, n_dft, hop, n_mels, fmax
        As for ``Frontend``.
    convention
        ``kapre-0.1`` (or its letter) is the only one.
    window_s
        Length of a frame in seconds.
    **kwargs
        Passed to ``keras.layers.Layer``.

    Raises
    ------
    InputError
        Another convention, or a geometry that does not fit a frame.
    """

    def __init__(self, rate: int, n_dft: int, hop: int, n_mels: int | None,
                 fmax: float | None = None, convention: str = "A", window_s: float = 1.0,
                 **kwargs: Any) -> None:
        # Decibels of small energies lose their digits in float16, so a policy of mixed precision
        # does not apply here.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if letter_of(convention) != "A":
            raise InputError(f"no layer for front-end convention {name_of(convention)!r}",
                             allowed=f"{name_of('A')!r}; for others call Frontend on the audio")
        self.frontend = Frontend(rate, n_dft, hop, n_mels, fmax, convention, window_s)

    def call(self, audio: tf.Tensor) -> tf.Tensor:
        """Compute the spectrograms (batch, bands, times, 1) of frames (batch, samples)."""
        front = self.frontend
        before, after = front.padding()
        # Padded here: kapre's "same" zeros are not those that tf.signal.frame would add at the end.
        padded = tf.pad(tf.cast(audio, front.dtype), [[0, 0], [before, after]])
        window = tf.constant(hann(front.n_dft).astype(front.dtype))
        windows = tf.signal.frame(padded, front.n_dft, front.hop) * window
        spectrum = tf.signal.rfft(windows)
        energy = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
        if front.n_mels is not None:
            energy = tf.matmul(energy, tf.constant(front.filterbank().astype(np.float32)))
        decibels = tf.math.log(tf.maximum(energy, front.floor)) * (
            front.decibel_factor / float(np.log(10.0)))
        decibels -= tf.reduce_max(decibels, axis=[1, 2], keepdims=True)
        decibels = tf.cast(tf.maximum(decibels, -RANGE_DB), tf.float32)
        return tf.transpose(decibels, [0, 2, 1])[..., tf.newaxis]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (batch, bands, times, 1)."""
        return (input_shape[0], *self.frontend.shape, 1)

    def get_config(self) -> dict[str, Any]:
        """Return the geometry, ready for JSON, from which Keras makes the layer again."""
        front = self.frontend
        window = {} if front.window_s == 1 else {"window_s": front.window_s}
        return {**super().get_config(), "rate": front.rate, "n_dft": front.n_dft,
                "hop": front.hop, "n_mels": front.n_mels, "fmax": front.fmax,
                "convention": front.convention, **window}
