"""The fused normalisation is Keras's: values, gradients, moving statistics."""

import numpy as np
import pytest


def layers(channels, momentum=0.9):
    import keras

    from l3hpc.models.network import FusedNormalisation

    made = [kind(momentum=momentum, epsilon=1e-3)
            for kind in (FusedNormalisation, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(0)
    start = [rng.normal(size=channels), rng.normal(size=channels), rng.normal(size=channels),
             rng.uniform(0.5, 2, channels)]
    for layer in made:
        layer.build((None, 5, 4, channels))
        layer.set_weights(start)
    return made


@pytest.mark.parametrize(("rows", "channels"), [(6, 3), (2, 1), (1, 8)])
def test_training_gives_the_same_values_gradients_and_statistics(rows, channels):
    import tensorflow as tf

    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(3.0, 2.0, (rows, 5, 4, channels)), tf.float32)
    weigh = tf.constant(rng.normal(size=x.shape), tf.float32)
    found = []
    for layer in layers(channels):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            total = tf.reduce_sum(y * weigh)
        gradients = tape.gradient(total, [x, *(v.value for v in layer.trainable_variables)])
        found.append([y, *gradients, *layer.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
    flat = np.asarray(x, np.float64).reshape(-1, channels)
    start = layers(channels)[1].get_weights()
    np.testing.assert_allclose(found[0][-2], 0.9 * start[2] + 0.1 * flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found[0][-1], 0.9 * start[3] + 0.1 * flat.var(axis=0), rtol=1e-5)


def test_a_single_value_has_no_variance():
    """One row of one position: the operation's sample variance would be a division by 0."""
    import keras

    from l3hpc.models.network import FusedNormalisation

    layer = FusedNormalisation(momentum=0.5)
    y = layer(keras.ops.full((1, 1, 1, 2), 7.0), training=True)
    np.testing.assert_allclose(y, 0.0, atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.5)
    np.testing.assert_allclose(layer.moving_mean, 3.5)


def test_inference_uses_the_moving_statistics():
    x = np.random.default_rng(2).normal(size=(3, 5, 4, 2)).astype(np.float32)
    fused, keras_own = layers(2)
    np.testing.assert_allclose(fused(x, training=False), keras_own(x, training=False), rtol=1e-6)
    for one, other in zip(fused.get_weights(), keras_own.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_half_precision_keeps_statistics_in_float32():
    import keras

    from l3hpc.models.network import FusedNormalisation

    layer = FusedNormalisation(momentum=0.0, dtype="mixed_bfloat16")
    x = np.random.default_rng(3).normal(100.0, 1.0, (64, 8, 8, 1)).astype(np.float32)
    y = layer(keras.ops.cast(x, "bfloat16"), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    rounded = np.asarray(keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32"))
    assert layer.moving_variance.dtype == "float32"
    np.testing.assert_allclose(layer.moving_mean, [rounded.mean()], rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, [rounded.var()], rtol=1e-3)
