"""PyTorch's front end and networks equal those of NumPy and TensorFlow; batches keep their order.

On the CPU: what only a GPU does (page-locked memory, streams, tf32) is run by ``benchmarks.gpu``.
"""

import multiprocessing

import numpy as np
import pytest
from lively import lively

torch = pytest.importorskip("torch", reason="the engine torch needs PyTorch (extra torch)")

from l3hpc.audio.framing import JoinedFrames, cut_frames  # noqa: E402
from l3hpc.audio.frontends import OPENL3_FRONTENDS, Frontend  # noqa: E402
from l3hpc.embedding.embed import get_embedding  # noqa: E402
from l3hpc.embedding.model import load_model  # noqa: E402
from l3hpc.errors import InputError, L3hpcError  # noqa: E402
from l3hpc.models import engines, precision, weights  # noqa: E402
from l3hpc.models.embedder import Embedder  # noqa: E402
from l3hpc.models.spec import NetworkSpec, openl3_spec  # noqa: E402
from l3hpc.models.torch_engine import TorchEngine  # noqa: E402
from l3hpc.models.torch_network import HALVINGS, TorchFrontend, TorchNetwork, fastest  # noqa: E402

SPEC = NetworkSpec(8000, 32, 160, 512, filters=(4, 4, 8, 8, 8, 8, 12, 12))
SPECS = {
    "student": SPEC,
    "linear head": NetworkSpec(8000, 32, 160, 512, filters=SPEC.filters, head="linear"),
    "six convolutions": NetworkSpec(8000, 32, 160, 512, filters=SPEC.filters[:6], tail="embedding"),
    "several windows of the pool": NetworkSpec(48000, 256, 242, 2048, tail="embedding",
                                               filters=(2, 2, 2, 2, 4, 4, 512, 512),
                                               emb_dim=6144),
}


def noise(frames, rate=8000, seed=2):
    return np.random.default_rng(seed).normal(0, 0.1, (frames, rate)).astype(np.float32)


def embedder(parameters=None, **options):
    parameters = parameters or lively(SPEC)
    return Embedder(parameters, "test", engine=TorchEngine(parameters.folded(), 2, **options))


@pytest.mark.parametrize("letter", ["A", "B", "C", "D"])
@pytest.mark.parametrize("name", OPENL3_FRONTENDS)
def test_the_front_end_equals_that_of_the_cpu(name, letter):
    own = OPENL3_FRONTENDS[name]
    frontend = Frontend(own.rate, own.n_dft, own.hop, own.n_mels, convention=letter)
    frames = noise(3, own.rate)
    frames[1, 20000:] = 0
    found = TorchFrontend(frontend, torch.device("cpu"))(torch.from_numpy(frames)).numpy()
    expected = frontend(frames)
    assert found.shape == expected.shape == (3, *frontend.shape)
    assert np.abs(found - expected).max() <= 1e-3
    assert found.max() == 0 and found.min() == -80


def test_silence_is_zero_decibels_everywhere():
    frontend = SPEC.frontend
    found = TorchFrontend(frontend, torch.device("cpu"))(torch.zeros(2, 8000)).numpy()
    np.testing.assert_array_equal(found, frontend(np.zeros((2, 8000), np.float32)))


@pytest.mark.parametrize("name", SPECS)
def test_embeddings_equal_tensorflows(name):
    network = lively(SPECS[name]).folded()
    frames = np.random.default_rng(1).uniform(
        -80, 0, (5, *network.spec.frontend.shape)).astype(np.float32)
    expected = engines.make_engine("tensorflow", network, 2).run(frames)
    found = engines.make_engine("torch", network, 2).run(frames)
    assert found.shape == expected.shape == (5, network.spec.dim)
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 5, 7, 9), (3, 64, 8, 3), (2, 1, 2, 2)])
def test_all_ways_of_pooling_give_the_same_bits_in_the_same_layout(shape, kind):
    x = torch.from_numpy(np.random.default_rng(3).normal(size=shape)).to(kind)
    x[0, 0, 0, 1], x[0, -1, 1, 0] = torch.nan, torch.inf
    x = x.contiguous(memory_format=torch.channels_last)
    expected = torch.nn.functional.max_pool2d(x, 2)
    for name, halve in HALVINGS.items():
        found = halve(x)
        assert found.is_contiguous(memory_format=torch.channels_last), name
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", HALVINGS)
def test_the_teacher_is_the_same_with_each_way_of_pooling(name):
    network = lively(openl3_spec()).folded()
    ours, plain = (TorchNetwork(network, torch.device("cpu"), "float32") for _ in range(2))
    ours.halvings = dict.fromkeys(range(len(network.convolutions)), HALVINGS[name])
    x = torch.from_numpy(np.random.default_rng(1).uniform(
        -80, 0, (2, *network.spec.frontend.shape)).astype(np.float32))
    with torch.inference_mode():
        assert torch.equal(ours(x), plain(x))


def test_the_fastest_way_of_pooling_is_taken(monkeypatch):
    """With a clock in place of the events of a GPU, which the machines of the tests do not have."""
    now, used = [0.0], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.at - self.at

    def way(name, first, later):
        def halve(x):
            now[0] += later if name in used else first
            used.append(name)
            return x
        return halve

    monkeypatch.setattr(torch.cuda, "Event", Event)
    slow, quick = way("slow", 0.1, 3.0), way("quick", 99.0, 1.0)  # its kernel is loaded first
    assert fastest([slow, quick], torch.zeros(1)) is quick


def test_the_teacher_equals_tensorflows_from_sound_on():
    parameters = lively(openl3_spec())
    expected = Embedder(parameters, "test", threads=2).embed(noise(3, 48000))
    found = embedder(parameters).embed(noise(3, 48000))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("hop_s", [0.5, 0.1, 0.0301, 1.0, 2.0])  # views of one signal, and copies
@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu", "cpu"]])
def test_rows_come_in_order_from_any_kind_of_frames(hop_s, devices):
    parts = [cut_frames(noise(1, length, seed)[0], 8000, hop_s)[0]
             for seed, length in enumerate([4000, 30000, 8000, 20001])]
    frames = JoinedFrames(parts)
    parameters = lively(SPEC)
    expected = Embedder(parameters, "test", threads=2).embed(frames)
    finished = []
    found = embedder(parameters, devices=devices).embed(frames, 3, finished.append)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert sum(finished) == len(frames) and set(finished[:-1]) <= {3}


def test_integers_views_and_batches_of_any_size_give_the_same():
    whole = (noise(1, 48000)[0] * 20000).astype(np.int16)
    frames = np.lib.stride_tricks.sliding_window_view(whole, 8000)[::1000]
    network = embedder()
    expected = network.embed(frames.astype(np.float32) / 32768)
    for size in (1, 7, len(frames), 1000):
        np.testing.assert_allclose(network.embed(frames, size), expected, atol=1e-5)
        reverse = network.embed(frames[::-1, ::-1], size)
        np.testing.assert_allclose(
            reverse, network.embed(np.ascontiguousarray(frames[::-1, ::-1])), atol=1e-5)


def test_no_frames_give_no_embeddings():
    assert embedder().embed(np.empty((0, 8000), np.float32)).shape == (0, 12)


def test_an_error_while_reading_is_raised_and_the_engine_goes_on():
    engine = TorchEngine(lively(SPEC).folded(), 2)

    def read(number):
        if number == 5:
            raise OSError("gone")
        return [noise(2)]

    with pytest.raises(OSError, match="gone"):
        list(engine.embed_audio(read, range(9)))
    assert sum(map(len, engine.embed_audio(read, range(5)))) == 10


def test_who_stops_early_leaves_nothing_behind():
    engine = TorchEngine(lively(SPEC).folded(), 2)
    first = next(engine.embed_audio(lambda number: [noise(2, seed=number)], range(9)))
    again = next(engine.embed_audio(lambda number: [noise(2, seed=number)], range(9)))
    np.testing.assert_array_equal(first, again)


def test_the_batch_wide_convention_is_normalised_over_its_batch():
    spec = NetworkSpec(8000, 32, 160, 512, filters=SPEC.filters, convention="A'")
    parameters = lively(spec)
    frames = noise(6) * np.array([1, 0.01, 1, 1, 0.1, 1], np.float32)[:, None]
    expected = Embedder(parameters, "test", threads=2).embed(frames, 4)
    found = embedder(parameters).embed(frames, 4)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_bfloat16_is_close_and_its_deviation_is_measured(tmp_path):
    file = tmp_path / "student.h5"
    weights.save(lively(SPEC), file)
    reduced, exact = precision.load_reduced(file, "bfloat16", engine="torch")
    assert (reduced.engine.name, reduced.engine.precision) == ("torch", "bfloat16")
    found = precision.deviation(reduced, exact, noise(8))
    assert 1e-4 < found.relative_error < 0.05 and found.cosine > 0.999


def test_what_it_cannot_compute_is_refused():
    network = lively(SPEC).folded()
    with pytest.raises(InputError, match="no GPU here that computes in tf32") as caught:
        TorchEngine(network, 1, "tf32", devices=["cpu"])
    assert "compute capability 8.0" in caught.value.hint
    with pytest.raises(InputError, match="does not compute in int8"):
        TorchEngine(network, 1, "int8")
    with pytest.raises(InputError, match="does not compute in tf32"):
        precision.check_engine("tf32", "ncnn", "extract")
    precision.check_engine("tf32", "auto", "extract")
    assert set(precision.required_packages("tf32")) == {"torch"}


def test_get_embedding_takes_it_by_name(tmp_path):
    file = tmp_path / "student.h5"
    weights.save(lively(SPEC), file)
    model = load_model(file, engine="torch", threads=2)
    assert model.engine == "torch" and "engine torch" in model.description
    sound = noise(1, 30000)[0]
    found, times = get_embedding(sound, 8000, model, hop_size=0.25)
    expected, _ = get_embedding(sound, 8000, load_model(file, engine="ncnn"), hop_size=0.25)
    assert len(found) == len(times)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("gpu", "chosen"), [(True, "torch"), (False, "tensorflow")])
def test_auto_takes_it_where_it_sees_a_gpu(monkeypatch, gpu, chosen):
    monkeypatch.setattr(engines, "has_gpu", lambda: True)
    monkeypatch.setattr(engines.torch_engine, "sees_gpu", lambda: gpu)
    network = lively(SPEC).folded()
    assert engines.choose(network, 1).name == chosen
    assert engines.reason(SPEC) == "there is a GPU"


def _forked(engine, pipe):
    try:
        engine.run(SPEC.frontend(noise(1)))
        pipe.send("computed")
    except L3hpcError as error:
        pipe.send(error.message)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # that forking with threads is unsafe
def test_a_forked_process_is_told_to_spawn():
    engine = TorchEngine(lively(SPEC).folded(), 1)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_forked, args=(engine, there))
    child.start()
    assert here.poll(30) and "cannot compute in a forked process" in here.recv()
    child.join()


def test_the_first_convolution_as_a_product_is_the_same():
    network = TorchEngine(lively(SPEC).folded(), 2)._devices[0].network
    x = torch.from_numpy(np.random.default_rng(4).normal(0, 1, (3, 32, 50)).astype(np.float32))
    with torch.inference_mode():
        expected = network.layer(x[:, None], 0, None)
        found = network.first_by_product(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
