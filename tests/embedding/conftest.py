import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

from l3hpc.embedding.model import load_model
from l3hpc.models import weights
from l3hpc.models.parameters import Parameters
from l3hpc.models.spec import NetworkSpec

TESTS = Path(__file__).parents[1]
TINY = (2, 2, 3, 3, 4, 4, 5, 5)
SPEC = NetworkSpec(8000, 32, 160, 256, filters=TINY)


def module(place):
    spec = importlib.util.spec_from_file_location(place.replace("/", "_"), TESTS / f"{place}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="session")
def networks():
    """The network in float64, and writers of weight files as Keras 2 left them."""
    return module("models/reference")


@pytest.fixture(scope="session")
def spectra():
    """The front ends in float64."""
    return module("audio/reference")


@pytest.fixture(scope="session")
def student(tmp_path_factory, networks):
    """A student of 5 values at 8 kHz with random weights, in our own format."""
    path = tmp_path_factory.mktemp("student") / "student.h5"
    weights.save(Parameters(SPEC, tuple(networks.random_layers(SPEC))), path)
    return path


@pytest.fixture(scope="session")
def model(student):
    return load_model(student, engine="ncnn")


@pytest.fixture
def sound():
    """``sound(seconds, rate)``: noise over a tone, float32."""
    def make(seconds, rate=8000, seed=0):
        rng = np.random.default_rng(seed)
        time = np.arange(int(seconds * rate)) / rate
        return (0.1 * rng.standard_normal(len(time))
                + 0.2 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    return make


@pytest.fixture
def folder(tmp_path, sound):
    """Recordings of all kinds, at several levels."""
    place = tmp_path / "in"
    (place / "street/night").mkdir(parents=True)
    soundfile.write(place / "a.wav", sound(2.3, 44100), 44100)
    soundfile.write(place / "street/b.flac", np.stack([sound(1.5, 16000)] * 2, 1), 16000)
    soundfile.write(place / "street/night/a.ogg", sound(3, 8000), 8000)
    soundfile.write(place / "short.wav", sound(0.3), 8000)
    soundfile.write(place / "silent.wav", np.zeros(12000), 8000)
    soundfile.write(place / "empty.wav", np.zeros(0), 8000)
    (place / "broken.wav").write_bytes(b"RIFF nothing")
    (place / "notes.txt").write_text("no audio")
    (place / ".hidden.wav").write_bytes(b"")
    return place
