"""Small and published geometries with weights that are not neutral; conversions made once."""

import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from l3hpc.export import interpreter
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec, student_spec

SPECS = {
    "small": NetworkSpec(8000, 32, 320, 512, filters=(4, 4, 6, 6, 8, 8, 8, 8)),
    "wide": NetworkSpec(8000, 64, 160, 512, filters=(8, 8, 4, 4, 4, 4, 4, 4)),
    "odd maps": NetworkSpec(8000, 27, 290, 512, filters=(3, 5, 4, 6, 5, 7, 8, 9), head="linear"),
    "student 2": student_spec(head="relu"),
}


def random_layers(spec, seed):
    rng = np.random.default_rng(seed)
    layers = []
    for kind, shapes in spec.layers():
        if kind == "conv":
            kernel = rng.standard_normal(shapes[0]) * np.sqrt(2 / np.prod(shapes[0][:3]))
            arrays = (kernel, rng.standard_normal(shapes[1]) * 0.1)
        else:
            arrays = (rng.uniform(0.5, 1.5, shapes[0]), rng.standard_normal(shapes[1]) * 0.2,
                      rng.standard_normal(shapes[2]) * 0.2, rng.uniform(0.5, 1.5, shapes[3]))
        layers.append(tuple(array.astype(np.float32) for array in arrays))
    layers[0] = tuple(np.array([value], np.float32) for value in (1.2, 0.1, -40.0, 300.0))
    return tuple(layers)


def sounds(rate, count, seed=0):
    """Bursts of noise over tones, (n, rate) float32: not all alike."""
    rng = np.random.default_rng(seed)
    time = np.arange(rate) / rate
    return np.array([0.1 * (rng.standard_normal(rate) * np.exp(-rng.uniform(0, 8) * time)
                            + rng.uniform(0, 2) * np.sin(2 * np.pi * rng.uniform(100, 3000) * time))
                     for _ in range(count)], np.float32)


@functools.cache
def _made(name, form):
    from l3hpc.export.conversion import convert

    parameters = Parameters(SPECS[name], random_layers(SPECS[name], 3))
    network = parameters.folded()
    spectrograms = SPECS[name].frontend(sounds(SPECS[name].rate, 6))
    return SimpleNamespace(spec=SPECS[name], parameters=parameters, network=network,
                           spectrograms=spectrograms,
                           flatbuffer=convert(network, form, spectrograms))


@pytest.fixture(scope="session")
def made():
    """(name of a spec, format) to network, spectrograms and the converter's flatbuffer."""
    return _made


@pytest.fixture(scope="session")
def parameters():
    """Name of a spec to parameters."""
    return lambda name: Parameters(SPECS[name], random_layers(SPECS[name], 3))


@pytest.fixture(scope="session")
def audio(tmp_path_factory):
    """A folder of eight short recordings at 8 kHz."""
    import soundfile

    folder = tmp_path_factory.mktemp("audio")
    for number, signal in enumerate(sounds(16000, 8, 5)):
        soundfile.write(folder / f"{number}.wav", signal, 8000)
    return folder


@pytest.fixture
def tflite_micro():
    """Skips where there is no TFLite Micro interpreter."""
    try:
        interpreter.micro_python()
    except interpreter.MicroUnavailable as error:
        pytest.skip(f"TFLite Micro: {error.message}")


REAL = Path(__file__).parents[2].parent / "shared/real"


@pytest.fixture(scope="session")
def real():
    """The folder of published weights and real recordings; skips where it is not."""
    if not (REAL / "edgel3").is_dir() or not (REAL / "esc10/audio").is_dir():
        pytest.skip("published weights and real recordings are not here")
    return REAL
