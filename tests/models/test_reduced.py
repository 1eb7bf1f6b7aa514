"""Reduced precision: the integers are those of the definition, and the deviation is told truly."""

import itertools
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.datasets import corpus
from l3hpc.datasets.windows import evenly_spaced, sample_windows
from l3hpc.errors import InputError, L3hpcError
from l3hpc.installation import install_command
from l3hpc.models import engines, openvino_engine, precision, quantisation, weights
from l3hpc.models.openvino_engine import OpenVinoEngine, calibrate
from l3hpc.models.parameters import Parameters
from l3hpc.models.quantisation import Calibration, equalise, patch_moment, quantise, round_together
from l3hpc.models.spec import NetworkSpec

pytestmark = pytest.mark.slow

FILTERS = (8, 8, 16, 16, 24, 24, 32, 32)
SPECS = {
    "student": NetworkSpec(8000, 32, 160, 512, filters=FILTERS),
    "linear head": NetworkSpec(8000, 32, 160, 512, filters=FILTERS, head="linear"),
    "several windows of the pool": NetworkSpec(8000, 32, 160, 512, filters=FILTERS,
                                               tail="embedding", emb_dim=12 * 32),
    "odd maps": NetworkSpec(8000, 27, 90, 512, filters=FILTERS, tail="embedding"),
}
REAL = Path(__file__).parents[2].parent / "shared/real"


@pytest.fixture
def network(reference):
    return lambda name="student", seed=0: Parameters(
        SPECS[name], tuple(reference.random_layers(SPECS[name], seed))).folded()


def pictures(spec, count, seed=0):
    """Spectrograms of noise bursts, tones and hum: not all alike."""
    rng = np.random.default_rng(seed)
    time = np.arange(spec.rate) / spec.rate
    frames = [rng.standard_normal(spec.rate) * np.exp(-rng.uniform(0, 8) * time)
              + rng.uniform(0, 2) * np.sin(2 * np.pi * rng.uniform(100, 3000) * time)
              for _ in range(count)]
    return spec.frontend(0.1 * np.array(frames, np.float32))


def integer_embedding(reference, network, spectrogram):
    """One embedding by whole numbers alone, from the definition of ``QuantisedNetwork``."""
    y = spectrogram.astype(np.float64) * np.float32(network.scale) + np.float32(network.shift)
    x = np.stack([np.maximum(y, 0), np.maximum(-y, 0)], -1)
    for index, layer in enumerate(network.convolutions):
        q = np.clip(np.rint(x * 255 / layer.limit), 0, 255)
        sums = reference.convolve(q, layer.kernel.astype(np.float64), 0)
        x = sums * layer.limit / 255 * layer.step + layer.bias
        if layer.relu:
            x = np.maximum(x, 0)
        if index in (1, 3, 5):
            x = reference.pool(x, (2, 2))
    return reference.pool(x, network.spec.pool).reshape(-1)


@pytest.mark.parametrize("name", SPECS)
def test_float32_equals_tensorflow(network, name):
    folded = network(name)
    frames = pictures(folded.spec, 5)
    expected = engines.make_engine("tensorflow", folded, 2).run(frames)
    found = OpenVinoEngine(folded, 2).run(frames)
    assert found.shape == expected.shape == (5, folded.spec.dim) and found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(expected).max() > 0


exact_int8 = pytest.mark.skipif(precision.slow_warning("int8") is not None, reason=(
    "this processor has no instructions for int8: OpenVINO cuts sums off at 16 bits"))


@exact_int8
@pytest.mark.parametrize("name", SPECS)
def test_int8_equals_the_integers_of_its_definition(reference, network, name):
    folded = network(name)
    frames = pictures(folded.spec, 5)
    quantised = quantise(folded, calibrate(folded, frames[:3], 2))
    found = OpenVinoEngine(quantised, 2).run(frames)
    expected = np.stack([integer_embedding(reference, quantised, frame) for frame in frames])
    wrong = np.abs(found - expected) / np.abs(expected).max()
    # a value that lies between two levels may round either way, and now and then one does
    assert np.median(wrong) < 1e-5 and wrong.max() < 0.01
    assert np.abs(found - OpenVinoEngine(folded, 2).run(frames)).max() > 1e-4


@exact_int8
def test_what_exceeds_the_ranges_is_clipped_and_does_not_wrap_around(reference, network):
    folded = network()
    frames = pictures(folded.spec, 4)
    seen = calibrate(folded, frames, 2)
    quiet = Calibration(tuple(peak / 5 for peak in seen.peaks), seen.moment)
    quantised = quantise(folded, quiet)
    found = OpenVinoEngine(quantised, 2).run(frames)
    expected = np.stack([integer_embedding(reference, quantised, frame) for frame in frames])
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    exact = OpenVinoEngine(folded, 2).run(frames)
    assert np.linalg.norm(expected - exact) > 0.3 * np.linalg.norm(exact)


def in_bfloat16(network):
    """The engine that computes in it on this processor."""
    from l3hpc.models.engines import TensorFlowEngine

    one = OpenVinoEngine if openvino_engine.computes_bfloat16() else TensorFlowEngine
    return one(network, 2, "bfloat16")


@pytest.mark.parametrize("name", SPECS)
def test_int8_and_bfloat16_stay_near(network, name):
    folded = network(name)
    frames = pictures(folded.spec, 24)
    exact = OpenVinoEngine(folded, 2).run(frames[12:]).astype(np.float64)
    quantised = quantise(folded, calibrate(folded, frames[:12], 2))
    for engine, least in ((OpenVinoEngine(quantised, 2), 0.998),
                          (in_bfloat16(folded), 0.9998)):
        found = engine.run(frames[12:]).astype(np.float64)
        cosines = (found * exact).sum(1) / np.linalg.norm(found, axis=1) \
            / np.linalg.norm(exact, axis=1)
        assert least < cosines.mean() < 1 - 1e-9
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert 1e-4 < error < (0.06 if engine.precision == "int8" else 0.02)


def test_both_libraries_mean_the_same_by_bfloat16(network):
    if not openvino_engine.computes_bfloat16():
        pytest.skip("OpenVINO computes in float32 on this processor, whatever is asked")
    from l3hpc.models.engines import TensorFlowEngine

    folded = network()
    frames = pictures(folded.spec, 8)
    exact = OpenVinoEngine(folded, 2).run(frames)
    for engine in (OpenVinoEngine(folded, 2, "bfloat16"),
                   TensorFlowEngine(folded, 2, "bfloat16")):
        found = engine.run(frames)
        assert found.dtype == np.float32
        assert 1e-4 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.02


def test_the_kernels_are_of_the_precision(network):
    if precision.slow_warning("int8") or precision.slow_warning("bfloat16"):
        pytest.skip("this processor has no instructions for them")
    folded = network()
    quantised = quantise(folded, calibrate(folded, pictures(folded.spec, 2), 2))
    for engine, mark in ((OpenVinoEngine(quantised, 2), "i8"),
                         (OpenVinoEngine(folded, 2, "bfloat16"), "bf16"),
                         (OpenVinoEngine(folded, 2), "f32")):
        assert len(engine.kernels) == 8
        assert all(kernel.lower().endswith(mark) for kernel in engine.kernels)


def test_an_embedding_does_not_depend_on_the_batch_or_the_threads(network):
    folded = network()
    frames = pictures(folded.spec, 7)
    quantised = quantise(folded, calibrate(folded, frames, 1))
    whole = OpenVinoEngine(quantised, 1).run(frames)
    engine = OpenVinoEngine(quantised, 3)
    assert np.array_equal(engine.run(frames), whole)
    assert np.array_equal(np.concatenate([engine.run(frames[:1]), engine.run(frames[1:6]),
                                          engine.run(frames[6:])]), whole)
    assert engine.run(frames[:0]).shape == (0, folded.spec.dim)


def test_the_first_array_exists_before_the_threads(network, monkeypatch):
    """Two threads that ask OpenVINO for their first array at the same moment wait for each other
    for ever, once in many times: so here it is counted who asks."""
    asked, make = [], openvino_engine._Request.__init__

    def noted(request, compiled):
        make(request, compiled)
        assert isinstance(vars(request)["outputs"], np.ndarray)
        asked.append(threading.current_thread())

    monkeypatch.setattr(openvino_engine._Request, "__init__", noted)
    engine = OpenVinoEngine(network(), 2)
    assert asked == [threading.main_thread()]
    engine.run(pictures(SPECS["student"], 4))
    assert set(asked) > {threading.main_thread()}


# ranges -------------------------------------------------------------------------------------------


def test_what_is_observed_is_what_the_network_computes(reference, network):
    folded = network()
    frames = pictures(folded.spec, 3)
    seen = calibrate(folded, frames, 2)
    peaks = [np.zeros(count) for count in FILTERS[:7]]
    for frame in frames:
        x = (frame.astype(np.float64) * folded.scale + folded.shift)[..., None]
        for index, layer in enumerate(folded.convolutions[:7]):
            x = np.maximum(reference.convolve(x, layer.kernel.astype(np.float64), layer.bias), 0)
            peaks[index] = np.maximum(peaks[index], x.max(axis=(0, 1)))
            if index in (1, 3, 5):
                x = reference.pool(x, (2, 2))
    for found, expected in zip(seen.peaks, peaks, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())
    again = calibrate(folded, frames[::-1], 1)
    for found, expected in zip(again.peaks, seen.peaks, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_same_frames_give_the_same_integers(network):
    folded = network()
    frames = pictures(folded.spec, 4)
    one, other = (quantise(folded, calibrate(folded, frames, 2)) for _ in range(2))
    for a, b in zip(one.convolutions, other.convolutions, strict=True):
        assert np.array_equal(a.kernel, b.kernel) and a.limit == b.limit
        assert a.kernel.dtype == np.int8 and a.kernel.min() >= -127


def test_the_moment_is_of_the_pixels_under_a_filter():
    spectrograms = np.random.default_rng(0).uniform(-80, 0, (2, 4, 5)).astype(np.float32)
    expected = np.zeros((9, 9))
    for spectrogram in spectrograms:
        padded = np.zeros((6, 7))
        padded[1:-1, 1:-1] = spectrogram * 0.05 + 2
        for row, column in itertools.product(range(4), range(5)):
            patch = padded[row:row + 3, column:column + 3].ravel()
            expected += np.outer(patch, patch)
    np.testing.assert_allclose(patch_moment(spectrograms, 0.05, 2), expected / 40, rtol=1e-6)


def test_equalised_channels_compute_the_same_and_are_nearer_to_each_other(network):
    folded = network()
    frames = pictures(folded.spec, 4)
    seen = calibrate(folded, frames, 2)
    same, peaks = equalise(folded, seen.peaks)
    exact = OpenVinoEngine(folded, 2).run(frames)
    assert np.abs(OpenVinoEngine(same, 2).run(frames) - exact).max() < 1e-5 * np.abs(exact).max()
    for before, after, found in zip(seen.peaks, peaks, calibrate(same, frames, 2).peaks,
                                    strict=True):
        np.testing.assert_allclose(found, after, rtol=1e-4, atol=1e-4 * after.max())
        heard = before > quantisation.QUIET * before.max()
        np.testing.assert_allclose(after[heard] / after.max(),
                                   (before[heard] / before.max()) ** 0.75, rtol=1e-5)


def test_int8_takes_equalised_channels(network):
    folded = network()
    folded.convolutions[1].kernel[..., 0] *= 0.05
    folded.convolutions[1].bias[0] *= 0.05
    seen = calibrate(folded, pictures(folded.spec, 4), 2)
    quantised = quantise(folded, seen)
    same, peaks = equalise(folded, seen.peaks)
    for layer, exact, peak in zip(quantised.convolutions[1:], same.convolutions[1:], peaks,
                                  strict=True):
        assert layer.limit == pytest.approx(float(peak.max()))
        assert (np.abs(layer.kernel * layer.step - exact.kernel) <= 0.501 * layer.step).all()
        assert (np.abs(layer.kernel).max(axis=(0, 1, 2)) == 127).all()
    first, exact = quantised.convolutions[0], same.convolutions[0]
    np.testing.assert_array_equal(first.kernel[:, :, :1],
                                  round_together(exact.kernel / first.step, seen.moment))
    np.testing.assert_array_equal(first.kernel[:, :, 1:], -first.kernel[:, :, :1])
    assert first.limit == pytest.approx(
        max(abs(folded.shift), abs(folded.shift - 80 * folded.scale)))


def test_a_layer_that_is_silent_or_has_an_empty_filter_is_no_division_by_zero(network):
    folded = network()
    folded.convolutions[2].kernel[..., 0] = 0
    frames = pictures(folded.spec, 2)
    seen = calibrate(folded, frames, 2)
    dead = Calibration((np.zeros(8, np.float32), *seen.peaks[1:]), seen.moment)
    quantised = quantise(folded, dead)
    assert quantised.convolutions[1].limit > 0
    assert np.isfinite([layer.limit for layer in quantised.convolutions]).all()
    assert all(np.isfinite(layer.step).all() and (layer.step > 0).all()
               for layer in quantised.convolutions)
    assert np.isfinite(OpenVinoEngine(quantised, 2).run(frames)).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_weights_are_rounded_to_the_least_error(seed):
    rng = np.random.default_rng(seed)
    kernel = rng.uniform(-127, 127, (3, 3, 1, 3))
    kernel[0, 0, 0, 0] = 127
    patches = rng.normal(0, 1, (40, 9)) + rng.normal(0, 3)
    moment = patches.T @ patches / 40
    found = round_together(kernel, moment)
    assert np.array_equal(found, np.rint(found)) and np.abs(found).max() <= 127
    assert np.abs(found - kernel).max() < 1
    for index in range(3):
        exact = kernel[:, :, 0, index].ravel()

        def error(values, exact=exact):
            return np.mean((patches @ (values - exact)) ** 2)

        least = min(error(np.clip(np.floor(exact) + way, -127, 127))
                    for way in itertools.product((0, 1), repeat=9))
        assert error(found[:, :, 0, index].ravel()) == pytest.approx(least)
    assert np.array_equal(round_together(kernel, np.eye(9)), np.rint(kernel))


# the choice ---------------------------------------------------------------------------------------


@pytest.fixture
def student(tmp_path, reference):
    path = tmp_path / "student.h5"
    weights.save(Parameters(SPECS["student"], tuple(reference.random_layers(SPECS["student"]))),
                 path)
    return path


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda: False)
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)


def sounds(count, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 8000)) * np.linspace(0.01, 0.3, count)[:, None]).astype(
        np.float32)


def test_a_loaded_network_says_its_precision_and_comes_with_the_exact_one(student, no_gpu):
    frames = sounds(6)
    for name in ("bfloat16", "int8"):
        reduced, exact = precision.load_reduced(student, name, frames, threads=2)
        assert reduced.label == f"{exact.label}, {name}"
        openvino = name == "int8" or openvino_engine.computes_bfloat16()
        assert {reduced.engine.name, exact.engine.name} == {
            "openvino" if openvino else "tensorflow"}
        assert (reduced.engine.precision, exact.engine.precision) == (name, "float32")
        expected = weights.load(student, engine="tensorflow").embed(frames)
        assert np.abs(exact.embed(frames) - expected).max() < 1e-5 * np.abs(expected).max()
        found = precision.deviation(reduced, exact, sounds(5, 1))
        assert found.frames == 5 and 0.99 < found.least_cosine <= found.cosine < 1
        assert 0 < found.relative_error <= found.largest_relative_error < 0.2
        found.refuse(name)
    whole = sounds(6)
    as_integers = (whole * 32768).astype(np.int16)
    near, _ = precision.load_reduced(student, "int8", as_integers, threads=2)
    np.testing.assert_allclose(near.embed(whole), precision.load_reduced(
        student, "int8", whole, threads=2)[0].embed(whole), atol=0.05, rtol=0.05)


def test_the_deviation_in_numbers():
    exact = np.array([[3, 4], [0, 0], [0, 2]], np.float32)
    wrong = np.array([[4, 3], [1, 0], [0, 1]], np.float32)
    sides = [SimpleNamespace(embed=lambda frames, values=values: values)
             for values in (wrong, exact)]
    found = precision.deviation(*sides, None)
    assert found.as_json() == {
        "frames": 2, "relative_error": pytest.approx((2 ** 0.5 / 5 + 0.5) / 2),
        "largest_relative_error": pytest.approx(0.5), "cosine": pytest.approx(0.98),
        "least_cosine": pytest.approx(0.96)}
    assert str(found) == ("relative error 0.39 (at most 0.5), cosine 0.98000 (at least 0.96000) "
                          "against float32 on 2 frames")
    found.refuse("int8")
    silent = SimpleNamespace(embed=lambda frames: np.zeros((3, 2), np.float32))
    assert precision.deviation(sides[0], silent, None) is None
    assert precision.deviation(silent, sides[1], None).cosine == 0
    with pytest.raises(L3hpcError, match="int8 are too far off: relative error 1 ") as refused:
        precision.deviation(silent, sides[1], None).refuse("int8")
    assert "0.95" in str(refused.value)


@pytest.mark.parametrize(("name", "engine"), [
    ("int8", "ncnn"), ("int8", "tensorflow"), ("bfloat16", "ncnn")])
def test_an_engine_that_cannot_is_refused(name, engine, student):
    with pytest.raises(InputError, match=f"{engine} does not compute in {name}") as refused:
        precision.check_engine(name, engine, "embed")
    assert refused.value.where == "embed.engine" and "auto" in refused.value.allowed
    assert "embed.precision" in refused.value.hint
    with pytest.raises(InputError, match="does not compute"):
        precision.load_reduced(student, name, sounds(2), engine=engine)


@pytest.mark.parametrize(("name", "engine"), [
    ("float32", "ncnn"), ("bfloat16", "auto"), ("bfloat16", "tensorflow"), ("int8", "auto")])
def test_an_engine_that_can_is_not(name, engine):
    precision.check_engine(name, engine, "embed")


def test_without_openvino_int8_says_what_to_install_and_bfloat16_takes_tensorflow(
        student, no_gpu, monkeypatch):
    assert precision.required_packages("int8") == {"openvino": install_command("reduced")}
    assert precision.required_packages("bfloat16") == precision.required_packages("float32") == {}
    monkeypatch.setattr(openvino_engine, "available", lambda: False)
    with pytest.raises(InputError, match="openvino is not installed") as refused:
        precision.load_reduced(student, "int8", sounds(2))
    assert "[reduced]" in refused.value.hint
    reduced, exact = precision.load_reduced(student, "bfloat16")
    assert reduced.engine.name == exact.engine.name == "tensorflow"
    assert precision.deviation(reduced, exact, sounds(3)).relative_error > 1e-4


@pytest.mark.parametrize(("name", "value"), [
    ("CUDA_VISIBLE_DEVICES", "0"), ("SLURM_JOB_GPUS", "1,2")])
def test_int8_is_refused_where_a_gpu_was_granted(student, no_gpu, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="this task has a GPU") as refused:
        precision.load_reduced(student, "int8", sounds(2))
    assert "gpus=0" in refused.value.hint


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_int8_is_computed_beside_a_gpu_that_is_not_ours(student, no_gpu, monkeypatch, value):
    monkeypatch.setattr(engines, "has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert precision.load_reduced(student, "int8", sounds(2))[0].engine.name == "openvino"


def test_on_a_gpu_bfloat16_is_tensorflow(student, no_gpu, monkeypatch):
    monkeypatch.setattr(engines, "has_gpu", lambda: True)
    assert precision.load_reduced(student, "bfloat16")[0].engine.name == "tensorflow"


def test_bfloat16_by_tensorflow_when_asked(student, no_gpu):
    reduced, _ = precision.load_reduced(student, "bfloat16", engine="tensorflow")
    assert reduced.engine.name == "tensorflow"


def test_int8_needs_frames(student, no_gpu):
    for frames in (None, np.empty((0, 8000), np.float32)):
        with pytest.raises(InputError, match="needs frames to measure its ranges"):
            precision.load_reduced(student, "int8", frames)


def test_a_processor_without_instructions_is_told(monkeypatch):
    monkeypatch.setattr(precision, "_flags", lambda: {"avx2", "avx_vnni"})
    assert precision.slow_warning("int8") is None
    assert "no instructions for bfloat16 (avx512_bf16" in precision.slow_warning("bfloat16")
    monkeypatch.setattr(precision, "_flags", lambda: {"avx2"})
    assert "cuts long sums off at 16 bits" in precision.slow_warning("int8")


def test_a_library_that_would_compute_in_float32_is_not_taken_for_bfloat16(
        student, no_gpu, monkeypatch):
    """OpenVINO takes the precision for a hint, and says nothing where it does not follow it."""
    monkeypatch.setattr(openvino_engine, "computes_bfloat16", lambda: False)
    reduced, exact = precision.load_reduced(student, "bfloat16")
    assert reduced.engine.name == exact.engine.name == "tensorflow"
    monkeypatch.setattr(openvino_engine, "computes_bfloat16", lambda: True)
    assert precision.load_reduced(student, "bfloat16")[0].engine.name == "openvino"


# real recordings ----------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real recordings beside the project")
def test_the_published_student_on_real_recordings(no_gpu):
    folder = REAL / "esc10/audio"
    recordings = corpus.scan_recordings(folder)

    def windows(which, count):
        return sample_windows(folder, evenly_spaced(which, 16), 8000, 0.5, True, count)

    path = REAL / "edgel3/edgel3_sea_ust_audio_emb_64.h5.gz"
    frames, others = windows(recordings, 48), windows(recordings[7:-7], 48)
    for name, cosine, error in (("int8", 0.998, 0.04), ("bfloat16", 0.9998, 0.015)):
        found = precision.deviation(*precision.load_reduced(path, name, frames, threads=2), others)
        assert found.frames > 40
        assert cosine < found.cosine < 1 and 1e-3 < found.relative_error < error


AFTER_IT_WENT = """
import gc, os, signal, threading
import numpy as np
import openvino
from openvino import opset13 as ops
from l3hpc.models.openvino_engine import _compile

picture = ops.parameter([1, 3, 64, 64], np.float32)
convolved = ops.convolution(picture, ops.constant(np.ones((8, 3, 3, 3), np.float32)),
                            [1, 1], [1, 1], [1, 1], [1, 1])
held = [_compile(openvino.Model([convolved], [picture]), 1, "float32")]
held[0](np.ones((1, 3, 64, 64), np.float32))
thread = threading.Thread(target=lambda: (held.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("a checkpoint is written"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_are_handled_after_a_network_has_gone():
    """In a process of its own: without the one core that stays this is a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", AFTER_IT_WENT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "a checkpoint is written\n"), done.stderr
