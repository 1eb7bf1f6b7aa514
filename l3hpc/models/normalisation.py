"""Batch normalisation for training, in one fused operation. Importing this module imports
TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class FusedNormalisation(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` over (batch, bands, times, channels), faster in training.

    Keras computes the statistics and applies them in a dozen operations that each read the whole
    tensor; here it is one forwards and one backwards. Outputs, gradients and moving statistics are
    the same up to rounding.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise by the batch when ``training``, else (or frozen) by the moving statistics."""
        if not training or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32),
            epsilon=self.epsilon, is_training=True)
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
        variance *= (count - 1) / count  # the operation's is that of a sample, Keras's is not
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs
