import threading
from pathlib import Path

import numpy as np
import pytest

from l3hpc.audio.framing import JoinedFrames, frame_audio
from l3hpc.audio.frontends import Frontend
from l3hpc.errors import InputError
from l3hpc.models import weights
from l3hpc.models.embedder import Embedder
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec, parameter_count, student_spec

TINY = (2, 2, 3, 3, 4, 4, 5, 5)
SPEC = NetworkSpec(8000, 32, 160, 256, filters=TINY)
REAL = Path(__file__).parents[2].parent / "shared/real"


def noise(count, rate=8000, seed=0):
    return (np.random.default_rng(seed).standard_normal((count, rate)) * 0.1).astype(np.float32)


def embedder(spec, reference, seed=0):
    parameters = Parameters(spec, tuple(reference.random_layers(spec, seed)))
    return Embedder(parameters, "test"), parameters


def largest_relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("spec", [
    SPEC,
    NetworkSpec(8000, 32, 160, 256, filters=TINY, head="linear"),
    NetworkSpec(8000, 32, 160, 256, filters=TINY, tail="embedding"),
    NetworkSpec(8000, 32, 160, 256, filters=TINY, tail="embedding", emb_dim=60),
    NetworkSpec(8000, 33, 90, 256, 3000.0, TINY, convention="D"),
    NetworkSpec(8000, None, 160, 128, filters=TINY, tail="embedding"),
    NetworkSpec(48000, 128, 242, 2048, filters=TINY, tail="embedding", emb_dim=60)],
    ids=lambda spec: f"{spec.rate}-{spec.n_mels}-{spec.tail}-{spec.head}-{spec.dim}")
def test_equals_float64_reference(spec, reference):
    layers = reference.random_layers(spec)
    layers[-1][1][:] -= np.linspace(0, 3, 5)  # the last bias or beta: signs on both sides of zero
    parameters = Parameters(spec, tuple(layers))
    frames = noise(2, spec.rate)
    found = Embedder(parameters, "test").embed(frames)
    expected = np.stack([
        reference.forward(picture, parameters.layers, spec.tail, spec.head, spec.pool)
        for picture in spec.frontend(frames)])
    assert found.shape == (2, spec.dim) and found.dtype == np.float32
    assert largest_relative_error(found, expected) < 1e-4
    assert (found.min() >= 0) == (spec.tail == "student" and spec.head == "relu")


def test_batches_do_not_matter_and_nothing_is_traced_again(reference):
    engine, _ = embedder(SPEC, reference)
    frames = noise(11)
    done = []
    whole = engine.embed(frames, on_batch=done.append)
    assert done == [11]
    for size in (1, 3, 4, 11, 64):
        np.testing.assert_allclose(engine.embed(frames, batch_size=size), whole, rtol=1e-4,
                                   atol=1e-5)
    engine.embed(frames, batch_size=4, on_batch=done.append)
    assert done == [11, 4, 4, 3]
    assert engine.engine.traces == 1


def test_integers_no_frames_and_refusals(reference):
    engine, _ = embedder(SPEC, reference)
    frames = noise(2)
    whole = np.round(frames * 32768).astype(np.int16)
    np.testing.assert_allclose(engine.embed(whole), engine.embed(whole / np.float32(32768)))
    assert engine.embed(np.zeros((0, 8000))).shape == (0, 5)
    assert np.isfinite(engine.embed(np.zeros((1, 8000)))).all()
    with pytest.raises(InputError, match=r"\(2, 4000\)"):
        engine.embed(frames[:, :4000])
    for size in (-1, 0):
        with pytest.raises(InputError, match=f"a batch size of {size} frames"):
            engine.embed(frames, batch_size=size)


@pytest.mark.parametrize("convention", ["A", "A'", "D"])
def test_frames_of_several_signals_are_joined_without_copying_them(reference, convention):
    spec = NetworkSpec(8000, 32, 160, 256, filters=TINY, convention=convention)
    engine, _ = embedder(spec, reference)
    arrays = [frame_audio(noise(1, length, seed=length)[0], 8000, 0.1, False)[0]
              for length in (30_000, 8000, 20_000)]
    joined = JoinedFrames(arrays)
    expected = engine.embed(np.concatenate(arrays), batch_size=5)
    done = []
    found = engine.embed(joined, batch_size=5, on_batch=done.append)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert sum(done) == len(joined) == len(expected)


def test_spectrograms_are_made_while_the_network_computes(reference):
    """The second batch's are there before the first batch is through."""
    made = threading.Event()

    class Waiting:
        name, few_shapes = "waiting", False

        def run(self, spectrograms):
            assert made.wait(120)
            return np.zeros((len(spectrograms), 5), np.float32)

    class Frames(JoinedFrames):
        def parts(self, start, stop):
            if start == 2:
                made.set()
            return super().parts(start, stop)

    found = Embedder(untrained(SPEC, 0), "x", engine=Waiting()).embed(Frames([noise(4)]), 2)
    assert found.shape == (4, 5)


def test_another_engine_can_take_over(reference):
    class Mean:
        name = "mean"
        few_shapes = False

        def batch_size(self, activation_bytes):
            return 2

        def run(self, spectrograms):
            return np.repeat(spectrograms.mean(axis=(1, 2))[:, None], 5, axis=1)

    parameters = untrained(SPEC, 0)
    frames = noise(3)
    found = Embedder(parameters, "x", engine=Mean()).embed(frames)
    np.testing.assert_allclose(found[:, 0], SPEC.frontend(frames).mean(axis=(1, 2)), rtol=1e-5)


def test_default_batch_keeps_memory_bounded(reference):
    engine, _ = embedder(SPEC, reference)
    assert engine.engine.batch_size(256 * 199 * 64 * 4) <= 80
    assert engine.engine.batch_size(1) == 512
    assert engine.engine.batch_size(1 << 40) == 1


def test_untrained_by_name_is_labelled(reference):
    engine = weights.load("untrained:3")
    assert (engine.rate, engine.dim, engine.trained) == (48000, 512, False)
    assert engine.label.startswith("untrained L3 (seed 3)")


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_keras_3_files_of_this_family(tmp_path, reference, suffix):
    import keras

    from l3hpc.models import network

    keras.utils.clear_session()
    spec = NetworkSpec(8000, 32, 160, 256, filters=TINY, head="linear")
    model = network.build_with_frontend(spec)
    network.assign(model, Parameters(spec, tuple(reference.random_layers(spec))))
    path = tmp_path / f"student_8000_32_160_256{suffix}"
    if suffix == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    stated = {"head": "linear"} if suffix == ".weights.h5" else {}
    info = weights.describe_weights(path, geometry=stated)
    assert info.kind == "keras3" and info.spec == spec
    frames = noise(3)
    found = weights.load(path, geometry=stated).embed(frames)
    assert largest_relative_error(found, np.asarray(model(frames))) < 1e-4


def test_a_keras_compiled_and_trained_model_is_read_past_its_optimizer(tmp_path, reference):
    from l3hpc.models import network

    spec = NetworkSpec(8000, 32, 160, 256, filters=TINY)
    model = network.build_with_frontend(spec)
    network.assign(model, untrained(spec, 1))
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(noise(4), np.ones((4, 5)), verbose=0)
    model.save(tmp_path / "m.keras")
    assert weights.describe_weights(tmp_path / "m.keras").spec == spec
    model.save_weights(tmp_path / "m_8000_32_160_256.weights.h5")
    parameters, info = weights.load_parameters(tmp_path / "m_8000_32_160_256.weights.h5")
    assert "head" in info.notes[0]
    for found, wanted in zip(parameters.layers, network.parameters_of(model, spec).layers,
                             strict=True):
        for left, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(left, right)


def test_student_round_trip_through_our_format(tmp_path, reference):
    from l3hpc.models import network

    spec = NetworkSpec(8000, 32, 160, 256, filters=TINY, head="linear")
    model = network.build_with_frontend(spec)
    network.assign(model, untrained(spec, 4))
    weights.save(network.parameters_of(model, spec), tmp_path / "s.h5", {"run": "x"})
    frames = noise(3)
    again = weights.load(tmp_path / "s.h5")
    assert again.trained and again.spec == spec
    assert largest_relative_error(again.embed(frames), np.asarray(model(frames))) < 1e-4
    with pytest.raises(InputError, match="17 of 17|of 17 weighted"):
        network.parameters_of(model, student_spec())


@pytest.mark.parametrize("emb_dim", [512, 64])
def test_keras_model_has_the_published_parameters(emb_dim):
    from l3hpc.models import network

    spec = student_spec(emb_dim=emb_dim)
    model = network.build_with_frontend(spec)
    assert model.count_params() == parameter_count(spec)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == parameter_count(
        spec, trainable=True)
    assert model.output_shape == (None, emb_dim) and model.input_shape == (None, 8000)
    kernels = [layer for layer in model.layers if layer.name.startswith(("conv", "audio_"))]
    assert len(kernels) == 8 and kernels[-1].name == "audio_embedding_layer"
    assert all(float(layer.kernel_regularizer.l2) == pytest.approx(1e-5) for layer in kernels)


def test_openl3_keras_model_loads_an_openl3_file_as_keras_does(tmp_path, reference):
    """Keras' own legacy loader and ours put the same arrays into the same places."""
    from l3hpc.models import network

    spec = NetworkSpec(48000, 128, 242, 2048, filters=TINY, tail="embedding", emb_dim=60)
    path = reference.write_keras2(tmp_path / "openl3_audio_mel128_env.h5",
                                  reference.random_layers(spec))
    model = network.build(spec)
    model.load_weights(path)
    frames = noise(2, 48000)
    pictures = Frontend(48000, 2048, 242, 128)(frames)[..., None]
    found = weights.load(path, embedding_size=60).embed(frames)
    assert largest_relative_error(found, np.asarray(model(pictures))) < 1e-4


@pytest.mark.skipif(not (REAL / "edgel3").is_dir(),
                    reason="the published Student 3 is not beside the project")
def test_published_student_3_embeds_real_audio_as_the_reference_does(reference):
    from l3hpc.audio.files import read_audio
    from l3hpc.audio.framing import frame_audio

    path = REAL / "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz"
    folder = REAL / "esc10/audio"
    if folder.is_dir():
        signal, rate = read_audio(sorted(folder.glob("*.ogg"))[20], 8000)
        frames = frame_audio(signal, rate, 1.0)[0][1:4]
    else:
        frames = noise(3)
    engine = weights.load(path)
    found = engine.embed(frames)
    parameters, info = weights.load_parameters(path)
    expected = np.stack([reference.forward(picture, parameters.layers, "student", "relu", (8, 6))
                         for picture in info.spec.frontend(frames)])
    assert found.shape == (3, 64) and (found >= 0).all() and found.any(axis=1).all()
    assert largest_relative_error(found, expected) < 1e-4
