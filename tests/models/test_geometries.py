"""Every published network, on every engine, against the float64 chain from audio to embedding."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.models import engines
from l3hpc.models.embedder import Embedder
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec, openl3_spec, student_spec

pytestmark = pytest.mark.slow

_spec = importlib.util.spec_from_file_location(
    "audio_reference", Path(__file__).parents[1] / "audio/reference.py")
sound = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sound)

# name: (networks that differ in the last pooling alone, share of zeros in the kernels)
NETWORKS = {
    **{f"openl3 {name}": ([openl3_spec(name, size) for size in (512, 6144)], 0.0)
       for name in ("linear", "mel128", "mel256")},
    "edgel3 sparse": ([openl3_spec("mel256", 512)], 0.9545),
    "training teacher": ([NetworkSpec(48000, 256, 242, 2048)], 0.0),
    **{f"student {dim}": ([student_spec(emb_dim=dim, head=head)], 0.0)
       for dim, head in ((512, "relu"), (256, "relu"), (128, "linear"), (64, "relu"))},
}
SHAPES = {"openl3 linear": ((257, 197), (32, 24)), "openl3 mel128": ((128, 199), (16, 24)),
          "openl3 mel256": ((256, 199), (32, 24)), "edgel3 sparse": ((256, 199), (32, 24)),
          "training teacher": ((256, 199), (32, 24))}


def engine(name, network):
    try:
        return engines.make_engine(name, network, 2)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def chain(reference):
    """(parameters, audio, last map in float64) of a network, computed once."""
    known = {}

    def make(name):
        if name not in known:
            (spec, *_), zeros = NETWORKS[name]
            layers = reference.random_layers(spec, seed=5, zeros=zeros)
            audio = np.random.default_rng(7).normal(0, 0.1, (1, spec.rate)).astype(np.float32)
            picture = sound.spectrograms(audio, spec.rate, spec.n_dft, spec.hop, spec.n_mels)[0]
            known[name] = (layers, audio, picture, reference.forward(
                picture, layers, spec.tail, spec.head, (1, 1)))
        return known[name]

    return make


@pytest.mark.parametrize("computer", engines.CPU_ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_embeddings_equal_the_float64_chain_on_every_engine(name, computer, chain, reference):
    specs, _ = NETWORKS[name]
    layers, audio, picture, flat = chain(name)
    shape, last = SHAPES.get(name, ((64, 50), (8, 6)))
    assert picture.shape == shape
    final = flat.reshape(*last, specs[0].filters[-1])
    for spec in specs:
        parameters = Parameters(spec, tuple(layers))
        expected = reference.pool(final, spec.pool).reshape(-1)
        network = Embedder(parameters, name, engine=engine(computer, parameters.folded()))
        found = network.embed(audio)[0]
        assert found.shape == expected.shape == (spec.dim,)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
        assert (expected < 0).any() == (spec.tail == "embedding" or spec.head == "linear")
