"""Engines agree, and the choice between them is measured once, remembered, and can be forced."""

import subprocess
import sys

import numpy as np
import pytest
from lively import lively

from l3hpc.errors import InputError
from l3hpc.io.files import read_json, write_json
from l3hpc.models import engines, ncnn_engine, torch_engine, weights
from l3hpc.models.embedder import Embedder
from l3hpc.models.spec import NetworkSpec, openl3_spec

SPECS = {
    "student": NetworkSpec(8000, 32, 160, 512, filters=(4, 4, 8, 8, 8, 8, 12, 12), tail="student"),
    "linear head": NetworkSpec(8000, 32, 160, 512, filters=(4, 4, 8, 8, 8, 8, 12, 12),
                               tail="student", head="linear"),
    "several windows of the pool": NetworkSpec(48000, 256, 242, 2048, tail="embedding",
                                               filters=(2, 2, 2, 2, 4, 4, 512, 512),
                                               emb_dim=6144),
}


@pytest.fixture
def _untimed_engines():
    """Here they are timed."""


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engines, "has_gpu", lambda: False)
    return tmp_path / "l3hpc" / "engines.json"


@pytest.mark.parametrize("name", SPECS)
def test_ncnn_equals_tensorflow(name):
    network = lively(SPECS[name]).folded()
    frames = np.random.default_rng(1).uniform(
        -80, 0, (5, *network.spec.frontend.shape)).astype(np.float32)
    expected = engines.make_engine("tensorflow", network, 2).run(frames)
    found = engines.make_engine("ncnn", network, 2).run(frames)
    assert found.shape == expected.shape == (5, network.spec.dim)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize(("mels", "strip_rows", "starts"), [
    (32, 8, [(0, 10), (6, 18), (14, 26), (22, 32)]),
    (32, 12, [(0, 14), (10, 26), (22, 32)]),
    (32, 20, [(0, 22), (18, 32)]),
    (None, 64, [(0, 66), (62, 130), (126, 194), (190, 257)]),  # the last row has no output
    (32, 32, []),
])
def test_strips_of_the_first_block_give_what_ncnn_gives_for_whole_maps(
        monkeypatch, mels, strip_rows, starts):
    spec = NetworkSpec(8000, mels, 160, 512, filters=(4, 4, 8, 8, 8, 8, 12, 12), tail="student")
    network = lively(spec).folded()
    bands, times = spec.frontend.shape
    frames = np.random.default_rng(1).uniform(-80, 0, (3, bands, times)).astype(np.float32)
    monkeypatch.setattr(ncnn_engine, "STRIP_BYTES", 1 << 30)
    whole = engines.make_engine("ncnn", network, 1).run(frames)
    monkeypatch.setattr(ncnn_engine, "STRIP_BYTES", strip_rows * 4 * 4 * times)
    block = ncnn_engine.strips(network.spec)
    assert [(strip.first, strip.stop) for strip in block] == starts
    assert [row for strip in block for row in range(bands)[strip.target]] == \
        list(range(bands // 2 if starts else 0))
    found = engines.make_engine("ncnn", network, 2).run(frames)
    assert np.array_equal(found, whole)


def test_the_maps_of_a_strip_fit_into_a_cache():
    teacher = lively(openl3_spec("mel256", 512)).folded()
    block = ncnn_engine.strips(teacher.spec)
    assert len(block) == 32  # of 8 rows: 64 maps of 8 x 199 values are 407,552 bytes
    assert block[1] == ncnn_engine.Strip("middle", 6, 18, slice(4, 8))
    # A student's maps are small enough.
    assert not ncnn_engine.strips(SPECS["student"])


def test_an_embedding_does_not_depend_on_the_batch_or_the_threads():
    parameters = lively(SPECS["student"])
    audio = np.random.default_rng(2).normal(0, 0.1, (7, 8000)).astype(np.float32)

    def embedded(threads, batch):
        engine = engines.make_engine("ncnn", parameters.folded(), threads)
        return Embedder(parameters, "test", threads=threads, engine=engine).embed(audio, batch)

    assert np.array_equal(embedded(1, 3), embedded(3, 7))


@pytest.mark.parametrize("faster", ["ncnn", "tensorflow"])
def test_the_faster_engine_is_measured_once_and_remembered(remembered, monkeypatch, faster):
    network = lively(SPECS["student"]).folded()
    asked = []

    def seconds(name, spec, threads):
        asked.append((name, spec, threads))
        return 0.02 if name == faster else 0.04

    monkeypatch.setattr(engines, "seconds_per_frame", seconds)
    assert engines.reason(network.spec, 2) == "measured on this node"
    assert engines.choose(network, 2).name == faster
    assert engines.choose(network, 2).name == faster
    assert sorted(asked, key=str) == [("ncnn", network.spec, 2), ("tensorflow", network.spec, 2)]
    assert remembered.is_file()
    said = engines.reason(network.spec, 2)
    assert f"{faster} 50" in said and " 25" in said and said.endswith("frames/s")
    engines.choose(network, 1)
    assert len(asked) == 4  # other threads: another measurement
    remembered.write_text("{damaged")
    engines.choose(network, 2)
    assert len(asked) == 6
    monkeypatch.setattr("importlib.metadata.version", lambda package: "9.9")
    engines.choose(network, 2)
    assert len(asked) == 8  # an upgrade


def test_what_is_remembered_may_be_anything(remembered, monkeypatch):
    monkeypatch.setattr(engines, "seconds_per_frame", lambda *_: 0.5)
    network = lively(SPECS["student"]).folded()
    key = engines._key(network.spec, 1)
    for value in ("ncnn", None, 3, {"ncnn": 2}, {"ncnn": "fast", "tensorflow": 1}):
        write_json(remembered, {key: value})
        assert engines.choose(network, 1).name in engines.CPU_ENGINES
        assert read_json(remembered) == {key: {"ncnn": 2.0, "tensorflow": 2.0}}


def test_an_engine_that_fails_is_not_chosen(remembered, monkeypatch):
    measured = engines.seconds_per_frame
    spec = SPECS["student"]
    monkeypatch.setattr(engines, "seconds_per_frame", lambda name, spec, threads: measured(
        "missing" if name == "tensorflow" else name, spec, threads))
    assert engines.choose(lively(spec).folded(), 1).name == "ncnn"
    speeds = engines._cached_speeds(spec, 1)
    assert speeds["tensorflow"] == 0 and 1 < speeds["ncnn"] < 1e5


def test_a_node_where_no_engine_could_be_timed_is_measured_again(remembered, monkeypatch):
    monkeypatch.setattr(engines, "seconds_per_frame", lambda *_: float("inf"))
    network = lively(SPECS["student"]).folded()
    assert engines.choose(network, 1).name == "tensorflow" and not remembered.exists()
    write_json(remembered, {engines._key(network.spec, 1): {"ncnn": 0.0, "tensorflow": 0.0}})
    monkeypatch.setattr(engines, "seconds_per_frame",
                        lambda name, *_: 0.1 if name == "ncnn" else 0.2)
    assert engines.choose(network, 1).name == "ncnn"


def test_a_trial_leaves_nothing_behind(tmp_path):
    """ncnn computes without TensorFlow in the process, also when TensorFlow was measured."""
    weights.save(lively(SPECS["student"]), tmp_path / "student.h5")
    program = """
import sys
from l3hpc.models import engines, torch_engine, weights
spec = weights.describe_weights(sys.argv[1]).spec
assert 0 < engines.seconds_per_frame("tensorflow", spec, 1) < 60
found = weights.load(sys.argv[1], threads=1, engine="ncnn")
import numpy as np
found.embed(np.zeros((1, 8000), np.float32))
print([name for name in ("tensorflow", "keras", "pandas", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "student.h5"],
                          capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_engine_can_be_forced(remembered):
    network = lively(SPECS["student"]).folded()
    assert engines.choose(network, 1, "tensorflow").name == "tensorflow"
    assert engines.choose(network, 1, "ncnn").name == "ncnn"
    with pytest.raises(InputError, match="unknown engine 'jax'"):
        engines.choose(network, 1, "jax")
    assert not remembered.exists()
    assert engines.reason(network.spec, 1, "ncnn") == "as requested"


def test_where_pytorch_is_missing_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(torch_engine, "available", lambda: False)
    with pytest.raises(InputError, match="the engine torch is not installed") as caught:
        engines.make_engine("torch", lively(SPECS["student"]).folded(), 1)
    assert "[torch]" in caught.value.hint
    assert not torch_engine.sees_gpu()


def test_without_ncnn_tensorflow_computes_and_a_forced_ncnn_says_what_to_install(
        remembered, monkeypatch):
    network = lively(SPECS["student"]).folded()
    monkeypatch.setattr(ncnn_engine, "available", lambda: False)
    assert engines.choose(network, 1).name == "tensorflow"
    assert "[fast]" in engines.reason(network.spec, 1)
    with pytest.raises(InputError, match="not installed") as refused:
        engines.choose(network, 1, "ncnn")
    assert "[fast]" in str(refused.value)


def test_a_gpu_means_tensorflow(remembered, monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda: True)
    assert engines.choose(lively(SPECS["student"]).folded(), 1).name == "tensorflow"
    assert engines.reason(SPECS["student"], 1) == "there is a GPU"


def test_a_loaded_network_uses_the_wanted_engine(tmp_path, remembered):
    path = tmp_path / "student.h5"
    weights.save(lively(SPECS["student"]), path)
    assert weights.load(path, engine="ncnn").engine.name == "ncnn"
    assert weights.load(path, engine="tensorflow").engine.name == "tensorflow"
