"""``hear:package.module`` teachers: the user's own code, its version, and refusals."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from invoke import invoke

from l3hpc.embedding.embed import get_embedding
from l3hpc.embedding.model import load_model
from l3hpc.errors import InputError
from l3hpc.models import weights
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec
from l3hpc.teachers import find, hear
from l3hpc.teachers.base import Options

# mean and energy of a sound; the attributes of the model are arguments of a test
CODE = """
import tensorflow as tf

class Model(tf.Module):
    def __init__(self, weights):
        self.weights, self.sample_rate = weights, {rate}
        self.timestamp_embedding_size = self.scene_embedding_size = {size}

def load_model(model_file_path=""):
    {load}
    return {model}

def get_timestamp_embeddings(audio, model):
    raise NotImplementedError

def get_scene_embeddings(audio, model):
    {scene}
    assert audio.dtype == tf.float32
    return tf.stack([tf.reduce_mean(audio, 1), tf.reduce_mean(audio ** 2, 1)], 1)
"""
NUMBERS = itertools.count()
pytestmark = pytest.mark.slow


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(rate=…, size=…, load=…, model=…, name=…)`` writes one that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(rate=16000, size=2, load="", model="Model(model_file_path)", scene="",
             code=CODE):
        name = f"own_teacher_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(
            code.format(rate=rate, size=size, load=load, model=model, scene=scene)
            if code is CODE else code)
        importlib.invalidate_caches()
        return name

    yield make
    for name in [name for name in sys.modules if name.startswith("own_teacher_")]:
        del sys.modules[name]


def test_the_embedding_of_a_window_is_its_scene_embedding(module):
    name = f"hear:{module()}"
    teacher = find.load(name, Options(window_s=0.5))
    assert (teacher.rate, teacher.dim, teacher.window_s) == (16000, 2, 0.5)
    assert (teacher.label, teacher.engine_name) == (name, "tensorflow")
    frames = np.random.default_rng(0).uniform(-1, 1, (70, 8000)).astype(np.float32)
    done = []
    embeddings = teacher.embed(frames, on_batch=done.append)
    assert embeddings.dtype == np.float32 and done == [32, 32, 6]
    np.testing.assert_allclose(
        embeddings, np.stack([frames.mean(1), (frames ** 2).mean(1)], 1), atol=1e-6)
    np.testing.assert_array_equal(teacher.embed(frames, batch_size=70), embeddings)
    with pytest.raises(InputError, match="a batch size of -1 frames"):  # not an array of anything
        teacher.embed(frames, batch_size=-1)
    integers = (frames * 32767).astype(np.int16)
    np.testing.assert_allclose(teacher.embed(integers), embeddings, atol=1e-4)
    with pytest.raises(InputError, match="frames of shape"):
        teacher.embed(frames[:, 1:])


def test_a_module_is_described_without_options(module):
    name = f"hear:{module()}"
    known = find.describe(name)
    assert (known.kind, known.rate, known.dim, known.window_s) == ("hear", 16000, 2, 1.0)
    assert find.identity(name)["digest"] and known.spec is None


def test_a_module_is_a_model_too(module, tmp_path):
    """load_model, get_embedding, pickling, and l3hpc embed."""
    import pickle

    import soundfile

    name = f"hear:{module()}"
    model = load_model(name)
    assert (model.rate, model.dim, model.engine) == (16000, 2, "tensorflow")
    assert name in model.description and "module of the HEAR interface" in model.description
    sound = np.random.default_rng(0).uniform(-1, 1, 32000).astype(np.float32)
    embeddings, times = get_embedding(sound, 16000, model, hop_size=0.5, center=False)
    np.testing.assert_allclose(embeddings[1, 0], sound[8000:24000].mean(), atol=1e-6)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.embed(sound[np.newaxis, :16000]), embeddings[:1])
    soundfile.write(tmp_path / "a.wav", sound, 16000, "FLOAT")
    invoke("embed", tmp_path / "a.wav", "-m", name, "-n", "-t", 0.5, "-q")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["embedding"], embeddings)
    half = pickle.loads(pickle.dumps(load_model(name, window=0.5)))
    embeddings, times = get_embedding(sound, 16000, half, hop_size=0.5, center=False)
    assert half.window_s == 0.5 and len(times) == 4
    np.testing.assert_allclose(embeddings[1, 0], sound[8000:16000].mean(), atol=1e-6)
    invoke("embed", tmp_path / "a.wav", "-m", name, "-n", "-t", 0.5, "--window", 0.5, "-q", "-ow")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["embedding"], embeddings)
    with pytest.raises(InputError, match="this model gives 2 values, not 64"):
        load_model(name, embedding_size=64)
    with pytest.raises(InputError, match="no front end that can be stated"):
        load_model(name, frontend="kapre-0.1")


def test_modules_and_folders_are_described_on_the_command_line(module, tmp_path):
    name = f"hear:{module()}"
    shown = invoke("teacher", "describe", name).stdout
    assert shown.splitlines()[:2] == [f"{name}: module of the HEAR interface", "rate     16,000 Hz"]
    assert json.loads(invoke("teacher", "describe", name, "--json").stdout)["dim"] == 2
    np.savez(tmp_path / "a.npz", embedding=np.ones((1, 7)), timestamps=[0.0])
    assert "embeddings of 7 values" in invoke("teacher", "describe", tmp_path).stdout
    with pytest.raises(InputError, match="--rate, --write describe a network file"):
        invoke("teacher", "describe", tmp_path, "--rate", 8000, "--write")


def test_our_own_module_is_a_teacher_too(tmp_path, networks):
    spec = NetworkSpec(8000, 32, 160, 256, filters=(2, 2, 3, 3, 4, 4, 5, 5))
    path = tmp_path / "student.h5"
    weights.save(Parameters(spec, tuple(networks.random_layers(spec))), path)
    name = f"hear:l3hpc.hear@{path}"
    teacher = find.load(name)
    assert (teacher.rate, teacher.dim) == (16000, 5)
    assert teacher.embed(np.ones((2, 16000), np.float32)).shape == (2, 5)
    first = find.fingerprint(name)
    path.write_bytes(path.read_bytes() + b"0")
    assert find.fingerprint(name) != first


def test_code_that_no_distribution_installed_counts_by_its_files(tmp_path, module):
    name = module()
    first = find.fingerprint(f"hear:{name}")
    assert first.startswith(f"hear:{name} ")
    (tmp_path / f"{name}.py").write_text("changed = True\n")
    assert find.fingerprint(f"hear:{name}") != first
    package = tmp_path / "own_teacher_package"
    (package / "below").mkdir(parents=True)
    for path in (package / "__init__.py", package / "below" / "__init__.py", package / "other.py"):
        path.write_text("")
    importlib.invalidate_caches()
    first = hear.code_version("own_teacher_package.below")
    (package / "other.py").write_text("used = 1\n")
    assert hear.code_version("own_teacher_package.below") != first


def test_weights_may_be_a_folder(tmp_path, module):
    weights = tmp_path / "checkpoint"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    name = f"hear:{module()}@{weights}"
    assert find.load(name).model.model.weights == str(weights)
    first = find.fingerprint(name)
    (weights / "a.bin").write_bytes(b"2")
    assert find.fingerprint(name) != first


def test_an_installed_distribution_counts_by_its_version():
    """``packaging`` is installed as a wheel everywhere; l3hpc may be installed as editable."""
    from importlib.metadata import version

    assert hear.code_version("packaging.version") == f"packaging {version('packaging')}"


@pytest.mark.parametrize(("name", "message"), [
    ("hear:./own.py", "'./own.py' is not the name of a Python module"),
    ("hear:", "'' is not the name of a Python module"),
    ("hear:no_such_teacher", "there is no module no_such_teacher"),
    ("hear:l3hpc.no_such.module", "there is no module l3hpc.no_such"),
    ("hear:l3hpc.hear@nowhere.h5", "there are no weights 'nowhere.h5'"),
    ("hear:l3hpc.hear", "no model was given"),
    ("hear:l3hpc.errors", "no load_model, get_timestamp_embeddings, get_scene_embeddings")])
def test_a_module_that_cannot_be_used_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        find.describe(name)


@pytest.mark.parametrize(("changed", "message"), [
    ({"load": "import no_such_package"}, "load_model failed: ModuleNotFoundError: No module named"),
    ({"model": "object()"}, "load_model gives a object"),
    ({"rate": "'16 kHz'"}, "the model has no sample_rate, or not as a whole number"),
    ({"size": "2.0"}, "no timestamp_embedding_size, scene_embedding_size, or not as a whole"),
    ({"code": "import no_such_package"}, "importing it failed: ModuleNotFoundError"),
    ({"code": "def load_model(: pass"}, "importing it failed: SyntaxError"),
    ({"code": "import sys; sys.exit(0)"}, "importing it failed: SystemExit: 0"),
    ({"load": "raise SystemExit"}, "load_model failed: SystemExit"),
    ({"load": "raise ValueError('a\\n' * 9999)"}, r"ValueError: (a\\n){100}\nTry"),
    ({"rate": 10 ** 9}, "a sample_rate of 1000000000 Hz"),
    ({"rate": 1}, "a sample_rate of 1 Hz")])
def test_a_module_that_breaks_the_rules_is_refused(module, changed, message):
    name = module(**changed)
    with pytest.raises(InputError, match=message) as refused:
        find.describe(f"hear:{name}")
    assert name in refused.value.where


def test_a_name_that_python_cannot_look_up_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(InputError, match="finding it failed: ValueError"):
        find.describe("hear:__main__")


@pytest.mark.parametrize(("scene", "message"), [
    ("raise SystemExit(0)", "get_scene_embeddings failed: SystemExit: 0"),
    ("dict()['x']", "get_scene_embeddings failed: KeyError: 'x'"),
    ("return ['a', 'b']", "values of the type <U1"),
    ("return [[1], [1, 2]]", "get_scene_embeddings failed: ValueError"),
    ("return None", "values of the type object"),
    ("return tf.complex(audio[:, :2], audio[:, :2])", "values of the type complex64")])
def test_scene_embeddings_that_are_no_numbers_are_refused(module, scene, message):
    name = f"hear:{module(scene=scene)}"
    teacher = find.load(name)
    with pytest.raises(InputError, match=message) as refused:
        teacher.embed(np.zeros((2, 16000), np.float32))
    assert refused.value.where == name


def test_a_module_leaves_standard_output_and_the_folder_alone(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    noisy = "import os; print('noise'); os.chdir('/')"
    name = f"hear:{module(load=noisy)}"
    shown = invoke("teacher", "describe", name, "--json")
    assert json.loads(shown.stdout)["dim"] == 2 and "noise" in shown.stderr
    assert Path.cwd() == tmp_path


def test_embeddings_of_another_length_are_refused(module):
    teacher = find.load(f"hear:{module(size=3)}")
    with pytest.raises(InputError, match=r"gave the shape \(1, 2\) for 1 sounds"):
        teacher.embed(np.zeros((1, 16000), np.float32))


def test_a_model_of_pytorch_computes_without_gradients(module):
    pytest.importorskip("torch")
    code = """
import torch

class Model(torch.nn.Module):
    sample_rate, timestamp_embedding_size, scene_embedding_size = 16000, 1, 1

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.drop = torch.nn.Dropout(0.9)

def load_model(model_file_path=""):
    return Model()

def get_timestamp_embeddings(audio, model):
    raise NotImplementedError

def get_scene_embeddings(audio, model):
    return model.drop(model.scale * audio.mean(1, keepdim=True))
"""
    teacher = find.load(f"hear:{module(code=code)}")
    frames = np.random.default_rng(0).uniform(-1, 1, (3, 16000)).astype(np.float32)
    np.testing.assert_allclose(teacher.embed(frames), 2 * frames.mean(1, keepdims=True), atol=1e-6)
    assert teacher.engine_name == "torch"
