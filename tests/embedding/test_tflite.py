"""TFLite models: told from their tables, run as they are, and refused where they hold code."""

import json

import flatbuffers
import numpy as np
import pytest

from l3hpc.audio.frontends import Frontend
from l3hpc.embedding.embed import get_embedding
from l3hpc.embedding.model import load_model
from l3hpc.embedding.model_files import recognise
from l3hpc.errors import InputError
from l3hpc.models import tflite, weights
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec

SPEC = NetworkSpec(8000, 64, 160, 1024, filters=(2, 2, 3, 3, 4, 4, 5, 5))


@pytest.fixture(scope="module")
def networks_of(tmp_path_factory, networks):
    """(our file, its Keras model) of ``SPEC`` or another."""
    from l3hpc.models import network

    def make(spec=SPEC, frontend=False):
        parameters = Parameters(spec, tuple(networks.random_layers(spec)))
        path = tmp_path_factory.mktemp("own") / "own.h5"
        weights.save(parameters, path)
        model = network.build_with_frontend(spec) if frontend else network.build(spec)
        network.assign(model, parameters)
        return path, model
    return make


def convert(model, frames=None):
    """TFLite bytes; with frames in full integers."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if frames is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([frame[None, ..., None]] for frame in frames)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def with_metadata(data, text):
    """The same model with an entry ``l3hpc`` in its metadata."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "l3hpc", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def float_model(tmp_path_factory, networks_of, tried):
    own, model = networks_of()
    path = tmp_path_factory.mktemp("tflite") / "x.tflite"
    path.write_bytes(convert(model))
    tried(path)
    return own, path


def test_a_spectrogram_of_a_published_shape(float_model, sound):
    own, path = float_model
    found = recognise(path)
    assert (found.network, found.format, found.rate, found.dim) == (
        "tflite", "TFLite, float32", 8000, 5)
    assert found.frontend == SPEC.frontend and found.evidence == "input shape"
    assert "shape of its input is that of a published one" in found.notes[0]
    wanted, _ = get_embedding(sound(1.7), 8000, load_model(own, engine="ncnn"))
    model = load_model(path)
    assert model.engine == "tflite"
    seen = []
    have, times = get_embedding(sound(1.7), 8000, model, batch_size=5, on_batch=seen.append)
    assert seen == [5, 5, 3] and len(times) == 13
    np.testing.assert_allclose(have, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    with pytest.raises(InputError, match="gives 5 values, not 6"):
        recognise(path, embedding_size=6)


def test_integers_go_in_and_out_by_their_scales(networks_of, tmp_path, sound, tried):
    own, keras_model = networks_of()
    frames = SPEC.frontend(sound(40, seed=3).reshape(-1, 8000))
    path = tmp_path / "int8.tflite"
    path.write_bytes(convert(keras_model, frames))
    tried(path)
    model = load_model(path)
    assert model.recognised.format == "TFLite, int8"
    exact = load_model(own, engine="ncnn").embed(sound(10).reshape(-1, 8000))
    found = model.embed(sound(10).reshape(-1, 8000))
    assert found.dtype == np.float32 and len(np.unique(found)) > 10
    cosine = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.min() > 0.98 and not np.array_equal(found, exact)


def test_metadata_state_the_front_end(float_model, networks_of, tmp_path, sound, tried):
    spec = NetworkSpec(16000, 40, 200, 512, 7000.0, filters=SPEC.filters)
    own, keras_model = networks_of(spec)
    data = convert(keras_model)
    bare, told = tmp_path / "bare.tflite", tmp_path / "told.tflite"
    bare.write_bytes(data)
    front = {"rate": 16000, "n_dft": 512, "hop": 200, "n_mels": 40, "fmax": 7000.0,
             "convention": "A"}
    told.write_bytes(with_metadata(data, json.dumps({"spec": spec.to_dict(), "else": 1})))
    tried(told)
    with pytest.raises(InputError, match="40 bands x 80 times and does not state how"):
        recognise(bare)
    stated = {key: front[key] for key in ("rate", "n_dft", "hop", "n_mels", "fmax")}
    assert recognise(bare, geometry=stated).frontend == spec.frontend
    found = recognise(told)
    assert found.frontend == spec.frontend and found.evidence == "l3hpc" and found.notes == ()
    assert recognise(told, frontend="B").frontend.convention == "B"
    wanted = load_model(own, engine="ncnn").embed(sound(2, 16000).reshape(2, -1))
    np.testing.assert_allclose(load_model(told).embed(sound(2, 16000).reshape(2, -1)), wanted,
                               rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    wrong = tmp_path / "wrong.tflite"
    for text, said in ((json.dumps({"spec": {**front, "hop": 100}}), "computes 40 x 160"),
                       (json.dumps({"spec": {"rate": 16000}}),
                        "does not describe a valid front end"),
                       (json.dumps({"spec": {**front, "rate": "1"}}), "does not describe"),
                       ("[]", "not a JSON object"), ("{", "not a readable TFLite model")):
        wrong.write_bytes(with_metadata(data, text))
        with pytest.raises(InputError, match=said):
            recognise(wrong)


def test_a_model_that_takes_audio(tmp_path, sound, tried):
    import keras

    audio = keras.Input((8000,))
    x = keras.layers.Reshape((80, 100, 1))(audio)
    x = keras.layers.Conv2D(3, 3)(x)
    model = keras.Model(audio, keras.layers.GlobalMaxPooling2D()(x))
    path = tmp_path / "audio.tflite"
    path.write_bytes(convert(model))
    tried(path)
    found = recognise(path)
    assert (found.rate, found.frontend, found.dim, found.evidence) == (8000, None, 3, "audio input")
    assert "takes audio" in str(found) and found.as_json()["frontend"] is None
    frames = sound(2).reshape(2, 8000)
    np.testing.assert_allclose(load_model(path).embed(frames), np.asarray(model(frames)),
                               rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="shape"):
        load_model(path).embed(frames[:, :100])


def test_foreign_operators_are_refused(tmp_path):
    """A model with TensorFlow's own operators could write files, among other things."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, 8000))])
    def write(x):
        tf.io.write_file(str(tmp_path / "written"), "x")
        return x[:, :4]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([write.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS,
                                           tf.lite.OpsSet.SELECT_TF_OPS]
    path = tmp_path / "evil.tflite"
    path.write_bytes(converter.convert())
    for call in (recognise, load_model):
        with pytest.raises(InputError, match=r"evil.tflite: holds an operator .*FlexWriteFile"):
            call(path)
    assert not (tmp_path / "written").exists()


def test_damaged_files(float_model, tmp_path):
    data = float_model[1].read_bytes()
    path = tmp_path / "damaged.tflite"
    for cut in (8, 20, 60, 300):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match="damaged.tflite"):
            load_model(path)
    with pytest.raises(InputError, match="invalid rate of a front end"):
        recognise(float_model[1], geometry={"rate": "x"})


def test_a_file_that_would_end_the_process_is_refused_by_name(float_model, tmp_path, monkeypatch):
    """TensorFlow Lite does not check a damaged file, and crashes on some: in another process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    crashing, fine = tmp_path / "crashing", tmp_path / "fine"
    for python, does in ((crashing, "kill -s SEGV $$"), (fine, "exit 0")):
        python.write_text(f"#!/bin/sh\n{does}\n")
        python.chmod(0o755)
    monkeypatch.setattr(tflite.sys, "executable", str(crashing))
    with pytest.raises(InputError, match=r"x.tflite: is damaged: .*\(SIGSEGV\)"):
        load_model(float_model[1])
    monkeypatch.setattr(tflite.sys, "executable", str(fine))
    load_model(float_model[1])  # a file that went well is remembered
    monkeypatch.setattr(tflite.sys, "executable", str(crashing))
    assert load_model(float_model[1]).engine == "tflite"


def test_front_end_that_makes_another_shape(float_model):
    with pytest.raises(InputError, match="this front end computes"):
        recognise(float_model[1], geometry={"hop": 100})
    assert recognise(float_model[1], frontend="A'").frontend == Frontend(
        8000, 1024, 160, 64, None, "A'")
