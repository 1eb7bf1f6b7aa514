"""TFLite, ONNX and Keras files with a sidecar: understood, refused, and computed."""

import importlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from l3hpc.audio.framing import frame_audio
from l3hpc.audio.frontends import Frontend
from l3hpc.audio.resample import resample
from l3hpc.cli import cli
from l3hpc.datasets.pair_cache import prepare_cache
from l3hpc.datasets.training_pairs import find_pairs
from l3hpc.embedding.embed import get_embedding
from l3hpc.embedding.model import load_model
from l3hpc.errors import InputError
from l3hpc.io.files import write_json
from l3hpc.steps.extract import Extract
from l3hpc.steps.task import Task
from l3hpc.teachers import find
from l3hpc.teachers.base import Options
from l3hpc.teachers.graph import Graph, Tensor
from l3hpc.teachers.logmel import LogMel
from l3hpc.teachers.study import study

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from schemas import check_schema  # noqa: E402

pytestmark = pytest.mark.slow
RATE, SECONDS, DIM = 1000, 3, 5


@pytest.fixture(scope="module")
def files(tmp_path_factory, tried):
    """A classifier of 3 s at 1 kHz as Keras and TFLite, and a function for its embedding."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    audio = keras.Input((SECONDS * RATE,), name="audio")
    x = keras.layers.Reshape((30, 100, 1))(audio)
    x = keras.layers.Conv2D(DIM, 3, strides=2, activation="relu", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(audio, keras.layers.Dense(7, activation="softmax", name="classes")(x))
    folder = tmp_path_factory.mktemp("files")
    model.save(folder / "net.keras")
    (folder / "net.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    tried(folder / "net.tflite")
    kernel, bias = model.get_layer("conv").get_weights()

    def embed(frames):
        maps = np.asarray(frames).reshape(-1, 30, 100)
        blocks = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), (1, 2))[:, ::2, ::2]
        found = np.einsum("nijab,abc->nijc", blocks, kernel[:, :, 0]) + bias
        return np.maximum(found, 0).mean((1, 2))
    return folder, embed


@pytest.fixture
def net(files, tmp_path):
    """``net(ending, **values)``: a copy of a file, with a sidecar if values are given."""
    def make(ending, **values):
        path = tmp_path / f"net{ending}"
        path.write_bytes((files[0] / f"net{ending}").read_bytes())
        if values:
            (tmp_path / "net.teacher.yaml").write_text(yaml.safe_dump(values))
        return path
    return make


def sidecar(path):
    found = study(path, {"rate": RATE}).sidecar
    return found.model_dump(exclude_none=True)


def signal(seconds, rate=RATE, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize("ending", [".tflite", ".keras"])
def test_what_a_file_does_not_say_is_asked_for_and_the_rest_is_found(net, ending):
    path = net(ending)
    asked = study(path, {})
    assert asked.sidecar is None and asked.dim is None
    assert [text.partition(":")[0] for text in asked.missing] == ["the rate of the audio"]
    assert asked.reasons["output"].startswith("input of the last layer")
    found = study(path, {"rate": RATE})
    assert (found.dim, found.sidecar.window, found.missing) == (DIM, SECONDS, ())
    other = study(path, {"rate": RATE, "output": found.graph.outputs[0].name})
    assert other.dim == 7 and other.reasons["output"] == "as stated"


@pytest.mark.parametrize("ending", [".tflite", ".keras"])
def test_embeddings_are_those_of_the_named_tensor_and_window(files, net, ending):
    path = net(ending)
    net(ending, **sidecar(path))
    model = load_model(path)
    assert (model.rate, model.window_s, model.dim) == (RATE, SECONDS, DIM)
    sound = signal(7)
    found, times = get_embedding(sound, RATE, path, hop_size=0.5)
    frames, expected_times = frame_audio(sound, RATE, 0.5, True, SECONDS)
    np.testing.assert_allclose(found, files[1](frames), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(times, expected_times)
    np.testing.assert_array_equal(model.embed(frames, batch_size=2), model.embed(frames))


def test_a_shorter_window_is_padded_on_both_sides(files, net, tmp_path):
    path = str(net(".tflite", **sidecar(net(".tflite"))))
    teacher = find.load(path, Options(window_s=1.0))
    frames = signal(4).reshape(4, -1)
    assert (teacher.window_s, "1 s padded to 3 s" in teacher.label) == (1.0, True)
    np.testing.assert_allclose(teacher.embed(frames),
                               files[1](np.pad(frames, ((0, 0), (RATE, RATE)))), rtol=1e-4)
    short = load_model(path, window=1)
    np.testing.assert_array_equal(short.embed(frames), teacher.embed(frames))
    assert "1 s padded to 3 s" in short.recognised.label
    params = Extract().parse({"audio": tmp_path, "weights": path, "window": 4})
    with pytest.raises(InputError, match="takes windows of 3 s, not of 4 s"):
        Extract().check(params, {})
    with pytest.raises(InputError, match="takes windows of 3 s, not of 4 s"):
        load_model(path, window=4)


def test_maps_are_pooled_over_all_axes_but_the_values(files, net):
    path = net(".keras")
    net(".keras", **{**sidecar(path), "output": "conv", "pool": "mean", "scale": 0.5})
    frames = signal(6).reshape(2, -1)
    found = find.load(str(path)).embed(frames)
    np.testing.assert_allclose(found, files[1](frames * 0.5), rtol=1e-4, atol=1e-6)


def test_the_fingerprint_is_that_of_the_file_and_of_each_value(net):
    values = sidecar(net(".tflite"))
    path = net(".tflite", **values)
    first = find.fingerprint(str(path))
    place = path.with_name("net.teacher.yaml")
    place.write_text("# a comment\n" + place.read_text())
    assert find.fingerprint(str(path)) == first
    net(".tflite", **{**values, "scale": 2.0})
    assert find.fingerprint(str(path)) != first
    known = find.identity(str(path))
    assert (known["kind"], known["dim"], known["window"]) == ("tflite", DIM, 3.0)
    assert known["sidecar"]["scale"] == 2.0


@pytest.mark.parametrize(("change", "message"), [
    ({"rate": 2000}, "3 s at 2000 Hz are 6,000 samples, but net.tflite takes"),
    ({"output": "nothing"}, "has no tensor 'nothing'"), ({"window": 0}, "window is 0"),
    ({"colour": "red"}, "unknown key 'colour'"), ({"pool": "sum"}, "pool is 'sum'"),
    ({"frontend": {"n_mels": 8, "n_dft": 64, "hop": 32}}, "a spectrogram of 92 x 8"),
])
def test_a_sidecar_that_does_not_fit_is_refused(net, change, message):
    path = net(".tflite", **{**sidecar(net(".tflite")), **change})
    with pytest.raises(InputError, match="(?s)" + message.replace("'", ".")) as caught:
        find.describe(str(path))
    assert "net.teacher.yaml" in str(caught.value.where)


def test_the_command_writes_the_sidecar_and_says_what_is_missing(net, monkeypatch, capsys):
    path = net(".tflite")

    def call(*words):
        code = cli.main(["teacher", "describe", str(path), *words], standalone_mode=False)
        return code, capsys.readouterr().out
    code, text = call("--write")
    assert code == 1 and "missing  the rate of the audio: --rate HZ" in text
    code, text = call("--rate", "1000", "--set", "scale=0.25", "--write")
    assert code == 0 and "embeddings of 5 values, one per 3 s of audio" in text
    assert text.endswith(f"next: l3hpc submit upstream --weights {path} --dry-run\n")
    stored = yaml.safe_load(path.with_name("net.teacher.yaml").read_text())
    assert (stored["rate"], stored["window"], stored["scale"]) == (1000, 3.0, 0.25)
    code, text = call("--json")
    found = json.loads(text)
    assert found["dim"] == 5 and found["reasons"]["scale"] == "from net.teacher.yaml"
    assert found["missing"] == [] and found["sidecar"] is None


@pytest.mark.parametrize(("words", "message"), [
    (["--rate", "0"], "--rate: rate is 0: input should be greater than or equal to 1000"),
    (["--set", "rate.x=5"], "rate is {'x': 5}"),
    (["--set", "rate=abc"], "rate is 'abc'"),
    (["--set", "input.x=5"], "input is {'x': 5}"),
    (["--rate", "1000", "--set", "window.x=5"], "window is {'x': 5}"),
    (["--set", "frontend=1"], "frontend is 1"),
    (["--set", "frontend=1", "--set", "frontend.x=5"], "frontend has a value and keys"),
    (["--rate", "1000", "--output", "conv", "--set", "pool=mean", "--set", "axis=99"],
     "the axis 99 of conv"),
    (["--rate", "1000", "--output", "conv", "--set", "pool=mean", "--set", "axis=-5"],
     "the axis -5 of conv")])
def test_values_that_are_not_allowed_are_refused_whatever_is_missing(net, words, message):
    with pytest.raises(InputError) as refused:
        cli.main(["teacher", "describe", str(net(".keras")), *words], standalone_mode=False)
    assert message in str(refused.value)


def test_names_in_a_file_do_not_break_lines(monkeypatch, net, capsys):
    odd = Tensor("a\nb\x1b[31m", (None, 3), "float32")
    graph = Graph("Keras", (odd,), (odd,), {odd.name: odd}, ())
    monkeypatch.setattr("l3hpc.teachers.study.read_graph", lambda path: graph)
    stated = f"output={json.dumps(odd.name)}"
    cli.main(["teacher", "describe", str(net(".tflite")), "--set", stated], standalone_mode=False)
    text = capsys.readouterr().out
    assert "inputs   a\\nb\\x1b[31m (?, 3)\n" in text and "\x1b" not in text


def test_the_form_of_what_describe_says(net, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", embedding=np.ones((1, 7)), timestamps=[0.0])
    asked = net(".tflite")
    calls = [(asked,), (asked, "--rate", RATE, "--write"), (asked,), (tmp_path,), ("untrained",)]
    said = []
    for words in calls:
        cli.main(["teacher", "describe", *map(str, words), "--json"], standalone_mode=False)
        said.append(json.loads(capsys.readouterr().out))
    check_schema("teacher-describe", said)


def test_what_needs_no_sidecar_is_described_too(net, capsys):
    assert cli.main(["teacher", "describe", "untrained"], standalone_mode=False) == 0
    text = capsys.readouterr().out
    assert "network of the L3 family" in text and "rate     48,000 Hz" in text
    assert cli.main(["teacher", "describe", str(net(".keras"))], standalone_mode=False) == 0
    assert "missing  the rate" in capsys.readouterr().out
    for name in ("nowhere.h5", "nowhere.onnx"):
        with pytest.raises(InputError, match="no such file") as caught:
            cli.main(["teacher", "describe", name, "--rate", "8000"], standalone_mode=False)
        assert caught.value.where == name


@pytest.mark.parametrize(("stated", "where", "message"), [
    ({"output": "pol"}, "--output", "did you mean 'pool'"),
    ({"scal": 3, "rate": None}, "--set", "did you mean 'scale'"),  # whatever else is missing
    ({"frontend": {"n_mel": 8}}, "--set", "did you mean 'n_mels'"),
    ({"rate": 10}, "--rate", "rate is 10"),
    ({"rate": 2000, "window": 3}, "net.keras", "takes audio"),
])
def test_a_stated_value_is_refused_by_the_name_of_its_option(net, stated, where, message):
    path = net(".keras")
    with pytest.raises(InputError, match=message) as caught:
        study(path, {key: value for key, value in {"rate": RATE, **stated}.items() if value})
    assert str(caught.value.where).endswith(where)


@pytest.mark.parametrize(("ending", "front"), [
    (".keras", {}), (".h5", {"layout": "bands-times"}), (".keras", {"center": "zeros"})])
def test_a_sequential_network_of_spectrograms_is_understood(tmp_path, ending, front):
    import keras

    shape = (32, 62, 1) if front.get("layout") else (62, 32, 1)
    model = keras.Sequential([
        keras.Input(shape), keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(24, activation="relu", name="hidden"), keras.layers.Dense(5)])
    path = tmp_path / f"net{ending}"
    model.save(path)
    stated = {"rate": 16_000, "frontend": {"n_mels": 32, "n_dft": 512, "hop": 256, **front}}
    asked = study(path, stated)
    window = asked.missing[0].rpartition(" ")[2]
    assert asked.values["output"] == "hidden" and len(asked.missing) == 1
    assert window == ("0.976" if "center" in front else "1.008")
    assert study(path, {**stated, "window": float(window)}).dim == 24


def test_a_hear_package_has_the_sidecar_too(files, net, tmp_path, monkeypatch):
    path = net(".tflite", **sidecar(net(".tflite")))
    cli.main(["export", str(path), "--hear", "-o", str(tmp_path / "hear_net")],
             standalone_mode=False)
    assert {one.name for one in (tmp_path / "hear_net").iterdir()} == {
        "__init__.py", "net.tflite", "net.teacher.yaml"}
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("hear_net")
    model = package.load_model()
    assert (model.sample_rate, model.scene_embedding_size) == (16000, DIM)
    sound = signal(4, 16000)
    embeddings, times = package.get_timestamp_embeddings(sound[np.newaxis], model)
    assert times.numpy()[0].tolist() == [50.0 * number for number in range(81)]
    padded = np.pad(resample(sound, 16000, RATE), (0, 1500))
    expected, _ = get_embedding(padded, RATE, path, hop_size=0.05)
    np.testing.assert_allclose(embeddings.numpy()[0], expected[:81], rtol=1e-4, atol=1e-6)


def test_only_networks_of_the_l3_family_have_engines_and_precision(net, tmp_path):
    path = net(".tflite", **sidecar(net(".tflite")))
    for name, value in (("engine", "ncnn"), ("precision", "int8"), ("convention", "B")):
        params = Extract().parse({"audio": tmp_path, "weights": str(path), name: value})
        with pytest.raises(InputError, match=name):
            Extract().check(params, {})


@pytest.mark.parametrize("layer", [
    {"class_name": "Lambda", "module": "keras.layers", "config": {}},
    {"class_name": "system", "module": "os", "config": {}},
    {"class_name": "function", "module": "keras.utils", "config": "get_file"}])
def test_a_keras_file_with_code_is_refused_before_keras_reads_it(tmp_path, monkeypatch, layer):
    import zipfile

    import keras

    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {
            "layers": [layer]}}))
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(InputError, match="code|not an ordinary layer"):
        study(path, {})


@pytest.mark.parametrize("units", [300_000, 10 ** 12])
def test_a_keras_file_takes_no_more_memory_than_its_weights(net, tmp_path, units):
    """The layer is refused before it is made: 10^12 units would not fit anywhere."""
    large = tmp_path / "large.keras"
    with zipfile.ZipFile(net(".keras")) as source, zipfile.ZipFile(large, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                content = content.replace(b'"units": 7', b'"units": %d' % units)
            target.writestr(name, content)
    with pytest.raises(InputError, match="describes more weights than it holds") as refused:
        study(large, {"rate": RATE})
    assert refused.value.where == str(large)


def test_a_file_without_a_sidecar_names_the_command_that_writes_it(net):
    with pytest.raises(InputError) as caught:
        find.describe(str(net(".tflite")))
    assert "l3hpc teacher describe" in str(caught.value.hint)


@pytest.mark.parametrize(("center", "student_s"), [(True, 1.0), (False, 1.0), (True, None)])
def test_a_student_learns_the_window_around_the_centre_of_the_teachers(files, net, tmp_path, center,
                                                                       student_s):
    """From extract to the training cache: rows, their windows, and the samples that each sees."""
    path = net(".tflite", **sidecar(net(".tflite")))
    audio = tmp_path / "audio"
    audio.mkdir()
    sounds = {"a.wav": signal(8, seed=1), "b.wav": signal(4.3, seed=2)}
    for name, sound in sounds.items():
        soundfile.write(audio / name, sound, RATE, subtype="FLOAT")
    step = Extract()
    params = step.parse({"audio": audio, "weights": str(path), "hop": 0.5, "center": center})
    step.check(params, {})
    out = tmp_path / "extract/0000"
    out.mkdir(parents=True)
    result = step.run(params, Task(out, tmp_path / "scratch", {}, threads=1,
                                   shard=step.shards(params, {})[0]))
    write_json(out / "result.json", result)
    assert (result["dim"], result["teacher"]["window"], result["engine"]) == (DIM, 3.0, "tflite")

    pairs = find_pairs(tmp_path / "extract", None, None)
    assert pairs.window_s == SECONDS
    front = Frontend(RATE, 64, 50, 8, window_s=student_s or pairs.window_s)
    cache = prepare_cache(pairs, front, tmp_path / "cache")
    cut = [frame_audio(sound, RATE, 0.5, center, SECONDS)[0] for sound in sounds.values()]
    expected = np.concatenate([files[1](frames) for frames in cut])
    np.testing.assert_allclose(cache.targets[np.arange(pairs.rows)], expected, rtol=1e-4, atol=1e-6)
    width = front.samples
    first = SECONDS * RATE // 2 - width // 2
    seen = np.concatenate([frames[:, first:first + width] for frames in cut])
    np.testing.assert_allclose(cache.spectra[np.arange(pairs.rows)], front(seen), atol=1e-3)


def test_the_log_mel_of_a_sidecar_is_that_of_the_conventions_where_they_agree():
    """Front end C: centred, Slaney mels of the magnitude, decibels over 80 below the maximum."""
    frames = signal(2, 8000).reshape(2, -1)
    front = Frontend(8000, 512, 128, 32, convention="C")
    mel = LogMel(n_mels=32, n_dft=512, hop=128, mel="slaney", norm="area", power=1, center="zeros",
                 log="decibel", range_db=80, layout="bands-times")
    assert mel.shape(8000) == front.shape
    found = mel(frames, 8000)
    np.testing.assert_allclose(found - found.max((1, 2), keepdims=True), front(frames), atol=2e-3)
    other = LogMel(n_mels=32, n_dft=512, length=400, hop=160, fmin=125, fmax=3800, offset=0.001,
                   mean=1.0, std=2.0)
    assert other(frames, 8000).shape == (2, *other.shape(8000)) == (2, 48, 32)
    spectrum = np.abs(np.fft.rfft(frames[0, 160:560] * np.hanning(401)[:400], 512)) ** 2
    np.testing.assert_allclose(other(frames, 8000)[0, 1], (np.log(
        spectrum @ other.filterbank(8000) + 0.001) - 1) / 2, rtol=1e-4)


def test_an_onnx_file_is_read_computed_and_refused_where_it_holds_other_operators(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    weight = np.random.default_rng(0).normal(size=(7, DIM)).astype(np.float32)

    def save(domain=""):
        nodes = [make.make_node("Reshape", ["audio", "shape"], ["map"]),
                 make.make_node("ReduceMean", ["map", "axes"], ["vector"], keepdims=0),
                 make.make_node("Gemm", ["vector", "w"], ["classes"], transB=1, domain=domain)]
        graph = make.make_graph(
            nodes, "net",
            [make.make_tensor_value_info("audio", 1, ["n", 3000])],
            [make.make_tensor_value_info("classes", 1, ["n", 7])],
            [onnx.numpy_helper.from_array(np.array([-1, 600, DIM]), "shape"),
             onnx.numpy_helper.from_array(np.array([1]), "axes"),
             onnx.numpy_helper.from_array(weight, "w")])
        path = tmp_path / "net.onnx"
        onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9),
                  path)
        return path

    path = save()
    with pytest.raises(InputError) as caught:
        find.describe(str(path))
    assert "l3hpc teacher describe" in str(caught.value.hint)
    found = study(path, {"rate": RATE})
    assert found.values["output"] == "vector" and found.dim == DIM
    (tmp_path / "net.teacher.yaml").write_text(yaml.safe_dump(sidecar(path)))
    frames = signal(20 * SECONDS).reshape(20, -1)
    np.testing.assert_allclose(load_model(path).embed(frames),
                               frames.reshape(20, 600, DIM).mean(1), atol=1e-6)
    save(domain="com.example")
    with pytest.raises(InputError, match="operators that ONNX does not define"):
        find.describe(str(path))


ONNX_PLACES = ("initializer", "constant", "branch", "sparse", "function")


@pytest.mark.parametrize("place", ONNX_PLACES)
def test_an_onnx_file_never_reads_other_files(tmp_path, place):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, proto = onnx.helper, onnx.TensorProto
    outside = proto(name="w", data_type=1, dims=[3000, 2], data_location=proto.EXTERNAL)
    outside.external_data.add(key="location", value="other.bin")
    (tmp_path / "other.bin").write_bytes(bytes(3000 * 2 * 4))
    constant = make.make_node("Constant", [], ["w"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside)
    nodes, weights, sparse, functions = [], [], [], []
    if place == "initializer":
        weights = [outside]
    elif place == "constant":
        nodes = [constant]
    elif place == "branch":
        branch = make.make_graph([constant], "b", [],
                                 [make.make_tensor_value_info("w", 1, [3000, 2])])
        nodes = [make.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch)]
        weights = [onnx.numpy_helper.from_array(np.array(True), "c")]
    elif place == "sparse":
        outside.dims[:] = [2]
        sparse = [onnx.SparseTensorProto(
            values=outside, dims=[3000, 2],
            indices=onnx.numpy_helper.from_array(np.array([0, 1]), "i"))]
    else:
        functions = [make.make_function("own", "weights", [], ["w"], [constant],
                                        [make.make_opsetid("", 18)])]
        nodes = [make.make_node("weights", [], ["w"], domain="own")]
    graph = make.make_graph(
        [*nodes, make.make_node("MatMul", ["audio", "w"], ["vector"])], "net",
        [make.make_tensor_value_info("audio", 1, ["n", 3000])],
        [make.make_tensor_value_info("vector", 1, ["n", 2])], weights, sparse_initializer=sparse)
    model = make.make_model(
        graph, functions=functions, ir_version=9,
        opset_imports=[make.make_opsetid("", 18), make.make_opsetid("own", 1)])
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="weights in other files"):
        study(tmp_path / "net.onnx", {"rate": RATE})


def test_an_onnx_file_that_computes_another_shape_than_it_states_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node("MatMul", ["audio", "w"], ["e"]), make.make_node("Relu", ["e"], ["o"])],
        "net", [make.make_tensor_value_info("audio", 1, ["n", 3000])],
        [make.make_tensor_value_info("o", 1, ["n", 16])],
        [onnx.numpy_helper.from_array(np.ones((3000, 8), np.float32), "w")])
    path = tmp_path / "net.onnx"
    path.write_bytes(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)],
                                     ir_version=9).SerializeToString())
    (tmp_path / "net.teacher.yaml").write_text(
        yaml.safe_dump({"rate": RATE, "window": SECONDS, "input": "audio", "output": "o"}))
    with pytest.raises(InputError, match="8 values per window, but states 16") as refused:
        load_model(path).embed(signal(2 * SECONDS).reshape(2, -1))
    assert refused.value.where == str(path)
