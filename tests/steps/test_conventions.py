"""The front end of a network can be another one by name, and what its file left open is told."""

import json
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from l3hpc.audio import conventions
from l3hpc.audio.framing import frame_audio
from l3hpc.models import weights
from l3hpc.pipelines.resolve import parse_value
from l3hpc.steps import step
from l3hpc.steps.extract import note_network


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype(np.float32)
    soundfile.write(folder / "a.wav", noise, 16000, "FLOAT")
    return folder, frame_audio(noise, 16000, 0.5)[0]


@pytest.mark.parametrize(("name", "key"), [("extract", "weights"), ("embed", "student")])
def test_a_convention_by_name_is_used_and_recorded(runner, audio, teacher, name, key):
    folder, frames = audio
    options = {"audio": folder, key: str(teacher), "hop": 0.5, "center": True}
    own = weights.load(teacher).embed(frames)
    runner.run(name, {**options, "convention": "C"})
    with h5py.File(runner.artifact(name) / "0000/embeddings.h5") as file:
        found, told = file["l3_embedding"][()], json.loads(file.attrs["teacher"])
    assert "front end openl3-0.4-librosa" in told["label"] and told["spec"]["convention"] == "C"
    expected = weights.load(teacher, geometry={"convention": "C"}).embed(frames)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.abs(found - own).max() > 0.05 * np.abs(own).max()


@pytest.mark.parametrize("name", ["extract", "embed"])
def test_a_step_stores_the_letter_whichever_way_a_convention_is_written(name):
    params = step(name).params_type
    for alias, letter in [("kapre-0.1", "A"), ("openl3-0.4-kapre", "B"),
                          ("openl3-0.4-librosa", "C"), ("embedding-approx", "D")]:
        named, old = params(audio="x", convention=alias), params(audio="x", convention=letter)
        assert named == old and named.model_dump(mode="json")["convention"] == letter
        assert params(**named.model_dump()) == named
    for alias, letter in conventions.ALIASES.items():  # all that --frontend takes
        if letter != "A'":
            assert params(audio="x", convention=alias).convention == letter
            assert params(audio="x", convention=parse_value(params, "convention", alias)) == \
                params(audio="x", convention=letter)
    assert params(audio="x").convention == "own"


def test_a_convention_that_depends_on_the_batch_has_no_place_in_a_step():
    with pytest.raises(ValidationError, match="convention"):
        step("extract").params_type(audio="x", convention="A'")
    with pytest.raises(ValidationError, match="convention"):
        step("extract").params_type(audio="x", convention="kapre-0.1-batch")


def test_what_a_weight_file_left_open_is_told(tmp_path, teacher):
    path = tmp_path / "many.h5"
    parameters, _ = weights.load_parameters(teacher, geometry={"n_mels": 400})
    weights.save(parameters, path)
    said = []
    task = SimpleNamespace(progress=SimpleNamespace(note=said.append), threads=1)
    note_network(task, "student", str(path), weights.load(path, engine="tensorflow"),
                 SimpleNamespace(precision="float32", engine="tensorflow"))
    assert said[0].startswith("student: many.h5: l3hpc, 24-d") and "engine tensorflow" in said[0]
    assert said[1].startswith("student: ") and "of 400 mel bands hold no DFT bin" in said[1]
    assert len(said) == 2
    named = path.rename(tmp_path / weights.BEST_STUDENT)
    weights.save(parameters, named, {"teacher": {"label": "a.h5: 512-d"}})
    note_network(task, "student", str(named), weights.load(named, engine="tensorflow"),
                 SimpleNamespace(precision="float32", engine="tensorflow"))
    assert said[2].startswith("student of a.h5: l3hpc, 24-d")  # and not student twice
