"""Engines agree, and the choice between them is measured once, remembered, and can be forced."""

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.models import engines, ncnn_engine, weights
from l3hpc.models.embedder import Embedder
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec

SPECS = {
    "student": NetworkSpec(8000, 32, 160, 512, filters=(4, 4, 8, 8, 8, 8, 12, 12), tail="student"),
    "linear head": NetworkSpec(8000, 32, 160, 512, filters=(4, 4, 8, 8, 8, 8, 12, 12),
                               tail="student", head="linear"),
    "several windows of the pool": NetworkSpec(48000, 256, 242, 2048, tail="embedding",
                                               filters=(2, 2, 2, 2, 4, 4, 512, 512),
                                               emb_dim=6144),
}


def lively(spec, seed=3):
    """An untrained network whose biases and normalisations are not neutral."""
    rng = np.random.default_rng(seed)
    layers = []
    for (kind, _), arrays in zip(spec.layers(), untrained(spec, seed).layers, strict=True):
        if kind == "conv":
            layers.append((arrays[0], rng.normal(0, 0.1, arrays[1].shape).astype(np.float32)))
        else:
            layers.append(tuple(rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
                                for array in arrays))
    return Parameters(spec, tuple(layers))


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engines, "_gpu", lambda: False)
    return tmp_path / "l3hpc" / "engines.json"


@pytest.mark.parametrize("name", SPECS)
def test_ncnn_equals_tensorflow(name):
    network = lively(SPECS[name]).folded()
    frames = np.random.default_rng(1).uniform(
        -80, 0, (5, *network.spec.frontend.shape)).astype(np.float32)
    expected = engines.make("tensorflow", network, 2).run(frames)
    found = engines.make("ncnn", network, 2).run(frames)
    assert found.shape == expected.shape == (5, network.spec.dim)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(expected).max() > 0


def test_an_embedding_does_not_depend_on_the_batch_or_the_threads():
    parameters = lively(SPECS["student"])
    audio = np.random.default_rng(2).normal(0, 0.1, (7, 8000)).astype(np.float32)

    def embedded(threads, batch):
        engine = engines.make("ncnn", parameters.folded(), threads)
        return Embedder(parameters, "test", threads=threads, engine=engine).embed(audio, batch)

    assert np.array_equal(embedded(1, 3), embedded(3, 7))


def test_the_faster_engine_is_measured_once_and_remembered(remembered, monkeypatch):
    network = lively(SPECS["student"]).folded()
    asked = []

    def seconds(engine, _):
        asked.append(engine.name)
        return {"tensorflow": 2.0, "ncnn": 1.0}[engine.name]

    monkeypatch.setattr(engines, "seconds_per_frame", seconds)
    assert engines.choose(network, 2).name == "ncnn"
    assert engines.choose(network, 2).name == "ncnn"
    assert sorted(asked) == ["ncnn", "tensorflow"]
    assert remembered.is_file()
    engines.choose(network, 1)
    assert len(asked) == 4  # other threads: another measurement
    remembered.write_text("{damaged")
    engines.choose(network, 2)
    assert len(asked) == 6


def test_a_real_measurement_gives_a_time_for_each(remembered):
    network = lively(SPECS["student"]).folded()
    for name in engines.NAMES:
        assert 0 < engines.seconds_per_frame(engines.make(name, network, 1), network) < 10


def test_the_engine_can_be_forced(remembered):
    network = lively(SPECS["student"]).folded()
    assert engines.choose(network, 1, "tensorflow").name == "tensorflow"
    assert engines.choose(network, 1, "ncnn").name == "ncnn"
    with pytest.raises(InputError, match="no engine 'torch'"):
        engines.choose(network, 1, "torch")
    assert not remembered.exists()


def test_without_ncnn_tensorflow_computes_and_a_forced_ncnn_says_what_to_install(
        remembered, monkeypatch):
    network = lively(SPECS["student"]).folded()
    monkeypatch.setattr(ncnn_engine, "available", lambda: False)
    assert engines.choose(network, 1).name == "tensorflow"
    with pytest.raises(InputError, match="not installed") as refused:
        engines.choose(network, 1, "ncnn")
    assert "l3hpc[fast]" in str(refused.value)


def test_a_gpu_means_tensorflow(remembered, monkeypatch):
    monkeypatch.setattr(engines, "_gpu", lambda: True)
    assert engines.choose(lively(SPECS["student"]).folded(), 1).name == "tensorflow"


def test_a_loaded_network_uses_the_wanted_engine(tmp_path, remembered):
    path = tmp_path / "student.h5"
    weights.save(lively(SPECS["student"]), path)
    assert weights.load(path, engine="ncnn").engine.name == "ncnn"
    assert weights.load(path, engine="tensorflow").engine.name == "tensorflow"
