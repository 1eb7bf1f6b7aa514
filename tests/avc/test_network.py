"""The audio-visual network: published counts, float64 references, frozen halves, files, losses."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

import reference  # noqa: E402
from lazymodule import LazyModule  # noqa: E402

from l3hpc.errors import InputError  # noqa: E402
from l3hpc.models import weights  # noqa: E402
from l3hpc.models.parameters import untrained  # noqa: E402
from l3hpc.models.spec import NetworkSpec, openl3_spec  # noqa: E402

keras, avc = LazyModule("keras"), LazyModule("l3hpc.avc.network")
training = LazyModule("l3hpc.avc.training")
distillation = LazyModule("l3hpc.avc.distillation")
AUDIO = NetworkSpec(2000, 16, 100, 256, filters=(2, 3, 2, 3, 2, 3, 4, 5))


def vision_spec():
    return avc.VisionSpec(18, (2, 3, 2, 3, 2, 3, 4, 6))  # 18 → 9 → 5 → 3: odd sizes round up


@pytest.fixture(scope="module")
def network():
    return avc.build_avc(AUDIO, vision_spec(), seed=3)


def inputs(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-80, 0, (count, *AUDIO.frontend.shape, 1)).astype(np.float32),
            rng.uniform(-1, 1, (count, 18, 18, 3)).astype(np.float32)]


def test_published_sizes():
    """L3: 9,516,434 parameters; the vision branch has 4,693,068 of them, the head 131,458."""
    def count(layers):
        return sum(int(np.prod(shape)) for _, shapes in layers for shape in shapes)

    vision, teacher = avc.VisionSpec(), NetworkSpec(48000, 256, 242, 2048)
    assert vision.pool == 28 and vision.dim == 512
    assert count(vision.layers()) == 4_693_068
    assert count(avc.head_layers(1024)) == 131_458
    whole = avc.build_avc(teacher)
    assert whole.model.count_params() == 9_516_434
    assert whole.model.output_shape == (None, 2)
    assert avc.build_avc(openl3_spec()).model.count_params() == 9_514_386  # without the last norm


def test_vision_against_float64():
    """From the definition; the second convolution's ReLU comes before its normalisation."""
    layers = reference.random_layers(vision_spec(), 4)
    layers[0] = tuple(np.resize(np.float32(values), 3) for values in (
        [1.2, 0.8, 1], [0.1, 0, -0.2], [0.2, -0.1, 0], [0.5, 1, 1.5]))
    model = avc.build_vision(vision_spec())
    for layer, arrays in zip([one for one in model.layers if one.weights], layers, strict=True):
        layer.set_weights(list(arrays))
    image = inputs(1)[1]
    x = image[0].astype(np.float64)
    rest = [tuple(array.astype(np.float64) for array in one) for one in layers]
    x = reference.normalise(x, *rest.pop(0))
    for number in range(1, 9):
        x = reference.convolve(x, *rest.pop(0))
        if number == 2:
            x = reference.normalise(np.maximum(x, 0), *rest.pop(0))
        else:
            x = np.maximum(reference.normalise(x, *rest.pop(0)), 0)
        if number in (2, 4, 6):
            odd = [(0, side % 2) for side in x.shape[:2]]
            x = reference.pool(np.pad(x, [*odd, (0, 0)], constant_values=-np.inf), (2, 2))
    np.testing.assert_allclose(model(image).numpy()[0], x.max(axis=(0, 1)), rtol=1e-4)


def test_fusion_against_float64(network):
    sound, image = inputs(4)
    joint = np.concatenate([network.vision(image), network.audio(sound)], axis=1)
    (kernel, bias), (last, end) = network.head
    hidden = np.maximum(joint.astype(np.float64) @ kernel + bias, 0)
    scores = np.exp((values := hidden @ last + end) - values.max(axis=1, keepdims=True))
    expected = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(network.model([sound, image]), expected, rtol=1e-4, atol=1e-6)


def test_fresh_weights_depend_on_the_seed_alone_and_are_he_normal(network):
    again, other = (avc.build_avc(AUDIO, vision_spec(), seed=seed) for seed in (3, 4))
    for mine, same, its in zip(network.model.weights, again.model.weights, other.model.weights,
                               strict=True):
        np.testing.assert_array_equal(mine, same)
        if mine.path.endswith("kernel"):
            assert np.abs(np.asarray(mine) - np.asarray(its)).max() > 0
    wide = avc.build_avc(NetworkSpec(2000, 16, 100, 256, filters=(64,) * 8),
                         avc.VisionSpec(8, (64,) * 8))
    eyes = [one.kernel for one in wide.vision.layers if hasattr(one, "kernel")]
    ears = [one.kernel for one in wide.audio.layers if hasattr(one, "kernel")]
    for kernel, inputs_of in ((ears[-1], 9 * 64), (eyes[-1], 9 * 64), (wide.head[0][0], 128)):
        np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / inputs_of), rtol=0.05)
    assert all((np.asarray(a) != np.asarray(b)).any() for a, b in zip(ears, eyes, strict=True)
               if a.shape == b.shape)


def test_every_kernel_carries_the_penalty(network):
    kernels = [np.asarray(one, np.float64) for one in network.model.weights
               if one.path.endswith("kernel")]
    assert len(kernels) == 18
    expected = 1e-5 * sum((kernel ** 2).sum() for kernel in kernels)
    np.testing.assert_allclose(float(sum(network.model.losses)), expected, rtol=1e-5)


def test_files_come_back(network, tmp_path):
    sound, image = inputs(3)
    network.save(tmp_path / "avc.h5", {"epoch": 3})
    network.save_audio(tmp_path / "audio.h5")
    network.save_vision(tmp_path / "vision.h5")
    np.testing.assert_array_equal(avc.load_avc(tmp_path / "avc.h5").model([sound, image]),
                                  network.model([sound, image]))
    assert weights.describe_weights(tmp_path / "audio.h5").spec == AUDIO
    for name in ("avc.h5", "vision.h5"):
        spec, layers = avc.load_vision(tmp_path / name)
        assert spec == vision_spec()
        for arrays, layer in zip(layers, [one for one in network.vision.layers if one.weights],
                                 strict=True):
            for mine, its in zip(arrays, layer.get_weights(), strict=True):
                np.testing.assert_array_equal(mine, its)
    with pytest.raises(InputError, match="holds no vision network"):
        avc.load_vision(tmp_path / "audio.h5")
    with pytest.raises(InputError, match="not a whole audio-visual network"):
        avc.load_avc(tmp_path / "vision.h5")
    with pytest.raises(InputError, match="not a network spec"):
        weights.describe_weights(tmp_path / "avc.h5")  # no audio network by itself
    with pytest.raises(InputError, match="has filters"):
        avc.build_avc(AUDIO, avc.VisionSpec(18), vision_weights=tmp_path / "vision.h5")


def test_openl3_s_image_weights_start_a_vision_branch(tmp_path):
    """Sixteen weighted layers as openl3 stores them, without the last normalisation."""
    layers = reference.random_layers(vision_spec(), 1)
    layers[0] = tuple(np.resize(array, 3) for array in layers[0])
    reference.write_keras2(tmp_path / "openl3_image_mel256_env.h5", layers[:-1])
    spec, found = avc.load_vision(tmp_path / "openl3_image_mel256_env.h5")
    assert spec == avc.VisionSpec(224, vision_spec().filters) and len(found) == 17
    for mine, its in zip(found[:-1], layers[:-1], strict=True):
        for one, same in zip(mine, its, strict=True):
            np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(found[-1][0], 1)
    audio = tmp_path / "openl3_audio_mel256_env.h5"
    reference.write_keras2(audio, reference.random_layers(AUDIO))
    with pytest.raises(InputError, match="not those of a vision network"):
        avc.load_vision(audio)
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(InputError):
        avc.load_vision(tmp_path / "bad.h5")


def test_given_audio_parameters_and_keras_models_are_taken_as_they_are():
    given = untrained(AUDIO, 77)
    found = avc.build_avc(given, vision_spec()).parameters()
    for mine, its in zip(found.layers, given.layers, strict=True):
        for one, same in zip(mine, its, strict=True):
            np.testing.assert_array_equal(one, same)
    sound = keras.Input((*AUDIO.frontend.shape, 1))
    own = keras.Model(sound, keras.layers.Dense(7)(keras.layers.Flatten()(sound)))
    network = avc.build_avc(own, vision_spec())
    assert network.audio is own
    assert network.model.get_layer("fusion").kernel.shape == (vision_spec().dim + 7, 128)
    with pytest.raises(InputError, match="without a network spec"):
        network.parameters()


@pytest.fixture(scope="module")
def frozen(network, tmp_path_factory):
    """An engine whose vision branch is frozen."""
    path = tmp_path_factory.mktemp("frozen") / "vision.h5"
    network.save_vision(path)
    start = training.InitialNetworks(vision_weights=path, freeze_vision=True)
    return training.AvcEngine(AUDIO, start, seed=1, learning_rate=1e-2, deterministic=False)


def test_losses_are_cross_entropy_and_share_of_wrong_answers(frozen):
    x, y = tuple(inputs(5)), np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1]]
    given = frozen.model(list(x), training=False).numpy().astype(np.float64)
    penalty = float(sum(frozen.model.losses))
    loss, wrong = frozen.validate([frozen.put((x, y))])
    np.testing.assert_allclose(loss, -np.log((given * y).sum(axis=1)).mean() + penalty, rtol=1e-5)
    assert wrong == pytest.approx((given.argmax(axis=1) != y.argmax(axis=1)).mean())


def test_the_loss_of_soft_labels_is_that_of_hinton(network):
    """The formula in float64, its value and its gradient, from the logits of both networks."""
    import tensorflow as tf

    temperature, share = 3.0, 0.7
    start = training.InitialNetworks(vision_spec())
    engine = training.AvcEngine(AUDIO, start, distillation.Distillation(temperature, share),
                                seed=1, learning_rate=1e-2, deterministic=False)
    rng = np.random.default_rng(0)
    z, v = rng.normal(size=(2, 6, 2)) * 3
    y = np.eye(2)[[0, 1, 1, 0, 1, 0]]

    def softmax(values):
        powers = np.exp(values)
        return powers / powers.sum(axis=1, keepdims=True)

    soft = softmax(v / temperature)
    np.testing.assert_allclose(distillation.soften(v, temperature), soft, rtol=1e-6)
    expected = (-(1 - share) * (y * np.log(softmax(z))).sum(axis=1)
                - share * temperature**2 * (soft * np.log(softmax(z / temperature))).sum(axis=1))
    slope = ((1 - share) * (softmax(z) - y)
             + share * temperature * (softmax(z / temperature) - soft))
    logits = tf.Variable(z, dtype=tf.float32)
    engine.model = lambda x, training: tf.nn.softmax(logits)
    engine.model.losses = []
    with tf.GradientTape() as tape:
        loss, wrong, _ = engine._errors((), tf.constant(np.hstack([y, soft]), tf.float32), True)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, logits), slope, atol=1e-5)
    np.testing.assert_array_equal(wrong, z.argmax(axis=1) != y.argmax(axis=1))


def test_a_frozen_vision_branch_stays_as_it_is(frozen):
    """Weights and moving statistics, while all others move."""
    eyes = [np.array(array) for array in frozen.network.vision.get_weights()]
    mine = {id(one) for one in frozen.network.vision.weights}
    rest = [one for one in frozen.model.weights if id(one) not in mine]
    before = [one.numpy().copy() for one in rest]
    assert len(rest) == len(frozen.model.weights) - len(eyes) > 50
    batch = frozen.put((tuple(inputs(6)), np.eye(2, dtype=np.float32)[[0, 1] * 3]))
    for step in range(3):
        frozen.train(batch, first=step == 0)
    for old, new in zip(eyes, frozen.network.vision.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    still = [one.path for old, one in zip(before, rest, strict=True)
             if (old == one.numpy()).all()]
    assert still == []
    assert not frozen.network.vision.trainable_variables


def test_a_free_vision_branch_learns_in_either_kind_of_normalisation(network):
    """Frozen fused normalisations normalise by their moving statistics, free ones by the batch."""
    image = inputs(6)[1]
    for fused in (False, True):
        eyes = avc.build_vision(vision_spec(), fused=fused)
        seen = eyes(image, training=True).numpy()
        assert np.abs(seen - eyes(image, training=False)).max() > 1e-3
        before = [np.array(array) for array in eyes.get_weights()]
        eyes.trainable = False
        np.testing.assert_allclose(eyes(image, training=True), eyes(image, training=False),
                                   rtol=1e-6)
        for old, new in zip(before, eyes.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    assert len(network.vision.trainable_variables) == 4 * 8 + 2


@pytest.mark.parametrize("values", [{"size": 4}, {"filters": (1, 2)}, {"filters": (0,) * 8}])
def test_impossible_vision_networks_are_refused(values):
    with pytest.raises(InputError):
        avc.VisionSpec(**values)
