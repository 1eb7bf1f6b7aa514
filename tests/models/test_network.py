"""The Keras networks are those of the publications, constant by constant."""

import numpy as np
import pytest
from lazymodule import LazyModule

from l3hpc.errors import InputError
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec, openl3_spec

keras, network = LazyModule("keras"), LazyModule("l3hpc.models.network")
TINY = (2, 2, 3, 3, 4, 4, 5, 5)
STUDENT = NetworkSpec(8000, 32, 160, 256, filters=TINY)


@pytest.mark.parametrize("spec", [
    STUDENT, NetworkSpec(8000, 32, 160, 256, filters=TINY, head="linear"),
    NetworkSpec(8000, 32, 160, 256, filters=TINY, tail="embedding")],
    ids=["relu", "linear", "embedding"])
def test_layers_in_order_with_their_published_constants(spec):
    model = network.build(spec)
    kinds = [type(layer).__name__ for layer in model.layers[1:]]
    block = ["Conv2D", "BatchNormalization", "ReLU"]
    last = block[:1] if spec.tail == "embedding" else block if spec.head == "relu" else block[:2]
    assert kinds == ["BatchNormalization", *(block * 2 + ["MaxPooling2D"]) * 3, *block, *last,
                     "MaxPooling2D", "Flatten"]
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon, layer.axis) == (0.99, 1e-3, -1)
        elif isinstance(layer, keras.layers.Conv2D):
            assert layer.kernel_size == (3, 3) and layer.strides == (1, 1) and layer.use_bias
            assert layer.padding == "same"
            assert float(layer.kernel_regularizer.l2) == pytest.approx(1e-5)
            assert isinstance(layer.kernel_initializer, keras.initializers.HeNormal)
    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert [pool.pool_size for pool in pools] == [(2, 2)] * 3 + [spec.pool]
    assert [pool.strides for pool in pools] == [(2, 2)] * 3 + [spec.pool]
    assert [pool.padding for pool in pools] == ["valid"] * 3 + ["same"]
    assert [layer.name for layer in model.layers if layer.name.startswith(("conv", "audio"))] == [
        *(f"conv_{number}" for number in range(1, 8)), "audio_embedding_layer"]
    shapes = [tuple(tuple(array.shape) for array in layer.get_weights())
              for layer in network.weighted_layers(model)]
    assert shapes == [shapes for _, shapes in spec.layers()]


def test_momentum_can_be_another():
    model = network.build(STUDENT, 0.5)
    assert {layer.momentum for layer in model.layers
            if isinstance(layer, keras.layers.BatchNormalization)} == {0.5}


def test_openl3_has_its_published_count_in_keras():
    model = network.build(openl3_spec("mel256", 6144))
    assert model.count_params() == 4_689_860
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 4_687_042
    assert model.output_shape == (None, 6144) and model.input_shape == (None, 256, 199, 1)


def test_embeddings_stay_float32_in_mixed_precision():
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = network.build_with_frontend(STUDENT)
        assert np.asarray(model(np.zeros((1, 8000), np.float32))).dtype == np.float32
        assert model.get_layer("conv_1").compute_dtype == "bfloat16"
    finally:
        keras.mixed_precision.set_dtype_policy(before)


@pytest.mark.parametrize("frontend", [True, False])
def test_a_new_network_depends_on_the_seed_alone(frontend):
    model = (network.build_with_frontend if frontend else network.build)(STUDENT)
    network.assign(model, untrained(STUDENT, 3))
    assert model.input_shape == ((None, 8000) if frontend else (None, 32, 50, 1))
    for found, wanted in zip(network.parameters_of(model, STUDENT).layers,
                             untrained(STUDENT, 3).layers, strict=True):
        for left, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == np.float32


def test_parameters_of_another_network_do_not_fit():
    teacher = NetworkSpec(8000, 32, 160, 256, filters=TINY, tail="embedding")
    model = network.build(STUDENT)
    with pytest.raises(InputError, match="has 17 weighted layers, the parameters 16"):
        network.assign(model, untrained(teacher, 0))
    with pytest.raises(InputError, match="17 found, 16 expected"):
        network.parameters_of(model, teacher)
    with pytest.raises(InputError):
        Parameters(STUDENT, untrained(teacher, 0).layers)
