"""What a model file is, is told from the file itself; names are tried that lie or say nothing."""

import gzip
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from l3hpc.audio.mels import mel_filterbank
from l3hpc.embedding import model_files
from l3hpc.embedding.model import load_model
from l3hpc.embedding.model_files import recognise
from l3hpc.errors import InputError
from l3hpc.models import weights
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec, openl3_spec

pytestmark = pytest.mark.slow
TINY = (2, 2, 3, 3, 4, 4, 5, 5)
SEA = NetworkSpec(8000, 64, 160, 1024, filters=TINY)
TEACHER = NetworkSpec(48000, 256, 242, 2048, filters=TINY, tail="embedding")
FRONTS = {"linear": (512, None, (257, 197)), "mel128": (2048, 128, (128, 199)),
          "mel256": (2048, 256, (256, 199))}


def front_end(networks, representation):
    n_dft, mels, _ = FRONTS[representation]
    bank = None if mels is None else mel_filterbank(48000, n_dft, mels)
    return networks.kapre_arrays(n_dft, bank)


def without_front_end(path):
    """Make 0.4's file of 0.2's as the migration did: delete the spectrogram layer in place."""
    with h5py.File(path, "a") as file:
        listed = list(file.attrs["layer_names"])
        file.attrs["layer_names"] = [name for name in listed if b"spectrogram" not in name]
        for name in listed:
            if b"spectrogram" in name:
                del file[name]


@pytest.mark.parametrize("representation", FRONTS)
@pytest.mark.parametrize("version", ["0.2", "0.4", "0.4 gzipped"])
def test_openl3_whatever_its_file_is_called(tmp_path, networks, representation, version):
    lie = "openl3_audio_linear_music" if representation == "mel256" else "openl3_audio_mel256_env"
    path = networks.write_keras2(tmp_path / f"{lie}.h5", networks.random_layers(TEACHER),
                                 frontend=front_end(networks, representation))
    if version != "0.2":
        without_front_end(path)
    if version == "0.4 gzipped":
        path.with_suffix(".h5.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path = path.with_suffix(".h5.gz")
    found = recognise(path)
    assert (found.network, found.format, found.rate) == ("openl3", "Keras 2 weights", 48000)
    assert found.frontend.shape == FRONTS[representation][2] and found.frontend.convention == "A"
    assert found.frontend.n_dft == FRONTS[representation][0] and found.frontend.hop == 242
    assert found.dim == 5 and found.dims == (5, 60) and found.notes == ()
    assert found.evidence == ("stored matrices" if version == "0.2" else
                              "room of removed matrices")
    if representation != "mel128":  # its last map of 16 x 24 pools to 4 x 3 too
        assert recognise(path, embedding_size=60).dim == 60


def test_the_real_size_of_openl3s_embeddings(tmp_path, networks):
    path = networks.write_keras2(tmp_path / "x.h5", networks.random_layers(openl3_spec()),
                                 frontend=front_end(networks, "mel256"))
    found = recognise(path)
    assert found.dims == (512, 6144) and found.dim == 512
    assert "256 mels, DFT 2048, hop 242, front end kapre-0.1 (known from: stored matrices)" in (
        str(found))
    assert recognise(path, embedding_size=6144).dim == 6144
    with pytest.raises(InputError, match="512 or 6144"):
        recognise(path, embedding_size=128)


@pytest.mark.parametrize("room", [0, 40_000, 900_000, 17_600_000, 30_000_000])
def test_other_room_in_a_file_tells_nothing(tmp_path, networks, room):
    path = networks.write_keras2(tmp_path / "x.h5", networks.random_layers(TEACHER))
    with h5py.File(path, "a") as file:
        file["before"] = np.zeros(room, np.uint8)
        file["after"] = np.zeros(1000, np.uint8)
        del file["before"]
    found = recognise(path)
    assert found.evidence == "usual" and "mel256 at 48 kHz assumed" in found.notes[0]
    assert recognise(path, input_repr="linear").frontend.shape == (257, 197)
    assert recognise(path, input_repr="linear").evidence == "stated"


def test_where_the_file_is_silent_the_name_is_believed_and_this_is_noted(tmp_path, networks):
    path = networks.write_keras2(tmp_path / "openl3_audio_mel128_env.h5",
                                 networks.random_layers(TEACHER))
    found = recognise(path)
    assert found.frontend.shape == (128, 199) and found.evidence == "file name"
    assert found.notes == (
        "the file does not state its front end; the one in its name was used",)


@pytest.mark.parametrize("full", [False, True])
def test_sparse_edgel3_with_17_weighted_layers(tmp_path, networks, full):
    path = networks.write_keras2(
        tmp_path / "w.h5", networks.random_layers(TEACHER, zeros=0.9), full_model=full,
        frontend=front_end(networks, "mel256"),
        config=networks.kapre_config(48000, 256, 2048, 242) if full else None)
    with h5py.File(path) as file:
        root = file["model_weights"] if full else file
        assert sum(len(root[name].attrs["weight_names"]) > 0
                   for name in root.attrs["layer_names"]) == 17
    found = recognise(path)
    assert (found.network, found.frontend.shape) == ("edgel3-sparse", (256, 199))
    assert found.format == ("Keras 2 model" if full else "Keras 2 weights")
    assert found.evidence == ("configuration" if full else "stored matrices")


@pytest.mark.parametrize("full", [False, True])
def test_sea_with_18_weighted_layers(tmp_path, networks, full):
    bank = mel_filterbank(8000, 1024, 64)
    path = networks.write_keras2(
        tmp_path / "openl3_audio_linear_env.h5", networks.random_layers(SEA), full_model=full,
        frontend=networks.kapre_arrays(1024, bank),
        config=networks.kapre_config(8000, 64, 1024, 160) if full else None)
    with h5py.File(path) as file:
        root = file["model_weights"] if full else file
        assert sum(len(root[name].attrs["weight_names"]) > 0
                   for name in root.attrs["layer_names"]) == 18
    found = recognise(path)
    assert (found.network, found.rate, found.dim) == ("edgel3-sea", 8000, 5)
    assert found.frontend == SEA.frontend


@pytest.mark.parametrize("ending", [".keras", ".weights.h5", ".h5"])
def test_keras_3_files(tmp_path, networks, sound, ending):
    from l3hpc.models import network

    parameters = Parameters(SEA, tuple(networks.random_layers(SEA)))
    keras_model = network.build_with_frontend(SEA)
    network.assign(keras_model, parameters)
    path = tmp_path / f"mel256{ending}"  # a name that says something else
    (keras_model.save_weights if ending == ".weights.h5" else keras_model.save)(path)
    stated = {} if ending != ".weights.h5" else {
        "geometry": {"rate": 8000, "n_mels": 64, "hop": 160, "n_dft": 1024}}
    found = recognise(path, **stated)
    assert (found.network, found.frontend, found.dim) == ("edgel3-sea", SEA.frontend, 5)
    assert found.format == ("Keras 3 weights" if stated else "Keras 3 model")
    frames = sound(2).reshape(2, 8000)
    wanted = np.asarray(keras_model(frames))
    have = load_model(path, engine="ncnn", **stated).embed(frames)
    np.testing.assert_allclose(have, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_our_own(student, model):
    found = recognise(student)
    assert found == model.recognised and found.format == "l3hpc" and found.evidence == "spec"
    assert model.rate == 8000 and model.dim == 5 and model.frontend.n_mels == 32
    assert "engine ncnn" in model.description and "8000 Hz, 32 mels" in model.description
    assert repr(model) == f"<Model: {model.description}>"
    assert found.as_json()["frontend"]["shape"] == [32, 50]


def test_untrained_says_that_it_is_random():
    found = recognise("untrained:7")
    assert found.random_weights and found.file is None and found.dims == (512, 6144)


@pytest.mark.parametrize(("name", "convention"), [
    ("A", "A"), ("A'", "A'"), ("A′", "A'"), ("B", "B"), ("kapre", "B"), ("librosa", "C"),
    ("C", "C"), ("D", "D"), ("kapre-0.1.4", "A"), ("kapre-0.1", "A"), ("kapre-0.1-batch", "A'"),
    ("openl3-0.4-kapre", "B"), ("openl3-0.4-librosa", "C"), ("embedding-approx", "D")])
def test_front_ends_by_name(student, name, convention):
    assert recognise(student, frontend=name).frontend.convention == convention


def test_refusals(tmp_path, student):
    with pytest.raises(InputError, match="no such weight file"):
        load_model(tmp_path / "none.h5")
    with pytest.raises(InputError, match="unknown front end 'E'"):
        recognise(student, frontend="E")
    with pytest.raises(InputError, match="unknown input representation"):
        recognise(student, input_repr="mel64")
    with pytest.raises(InputError, match="have length 5, not 6"):
        load_model(student, embedding_size=6)
    with pytest.raises(InputError, match="takes windows of 1 s, not of 3 s"):
        load_model(student, window=3)
    for window in (0, -1, 61, float("nan"), "1", True):
        with pytest.raises(InputError, match=r"window is .*") as refused:
            load_model(student, window=window)
        assert refused.value.allowed == "seconds above 0, at most 60; or None"


# names --------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(model_files.VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.mark.parametrize(("name", "file"), [
    ("sea-64", "edgel3_sea_ust_audio_emb_64.h5.gz"), ("edgel3-sea-512",
                                                      "edgel3_sea_ust_audio_emb_512.h5"),
    ("edgel3-ft-95.45", "edgel3_ft_audio_sparsity_95.45.h5"),
    ("sparse-kd-87", "edgel3_kd_audio_sparsity_87.0.h5"),
    ("openl3-mel256-music", "openl3_audio_mel256_music-v0_4_0.h5.gz"),
    ("openl3-linear-env-512", "openl3_audio_linear_env.h5"),
    ("mine", "mine.keras"), ("mine", "mine.h5"), ("mine.h5", "mine.h5"), ("mine", "mine.tflite")])
@pytest.mark.parametrize("folder", ["models", "data/l3hpc/models"])
def test_published_names_are_published_files(place, name, file, folder):
    (place / folder).mkdir(parents=True, exist_ok=True)
    (place / folder / file).touch()
    found, named = model_files.find_model(name)
    assert found == place / folder / file
    assert named.options.get("input_repr") in (None, "mel256", "linear")
    assert model_files.available_models() == [file.partition(".h5")[0] if ".h5" in file else "mine"]


def test_a_folder_called_like_a_model_does_not_hide_it(place):
    for name in ("sea-64", "mine", "untrained", "bare"):
        (place / name).mkdir()
    (place / "models/edgel3_sea_ust_audio_emb_64.h5").touch()
    (place / "models/mine.h5").touch()
    assert model_files.find_model("sea-64")[0] == place / "models/edgel3_sea_ust_audio_emb_64.h5"
    assert model_files.find_model("mine")[0] == place / "models/mine.h5"
    assert model_files.find_model("untrained")[0] == "untrained"
    for bare in (place / "bare", "bare"):
        with pytest.raises(InputError, match="is a folder without a trained network"):
            model_files.find_model(bare)
    (place / "file").touch()
    (place / "models/file.h5").touch()
    assert model_files.find_model("file")[0] == model_files.find_model("./file")[0] == Path("file")


def test_openl3s_names_say_size_and_front_end():
    assert model_files.parse_name("openl3-mel128-env").options == {
        "input_repr": "mel128", "embedding_size": 6144}
    assert model_files.parse_name("openl3-mel128-env-512").options["embedding_size"] == 512


@pytest.mark.parametrize(("name", "said"), [
    ("sea-64", "curl -Lo .*edgel3_sea_ust_audio_emb_64.h5.gz https://github.com/"),
    ("openl3-mel256-music", "curl -Lo .*openl3_audio_mel256_music-v0_4_0.h5.gz https://"),
    ("mine", "l3hpc ships no weights: give the path of your"),
    ("latest", "the folder of a run that trained a student, such as workspace/runs/RUN")])
def test_a_missing_name_says_what_to_do(place, name, said):
    with pytest.raises(InputError, match=said):
        load_model(name)


@pytest.mark.parametrize(("name", "allowed"), [
    ("sea-65", "512, 256, 128, 64"), ("edgel3-ft-90.5", "53.5, 63.5, 72.3, 87.0, 95.45"),
    ("openl3-mel256-env-100", "512, 6144")])
def test_models_that_were_never_published(name, allowed):
    with pytest.raises(InputError, match=allowed):
        model_files.find_model(name)


def test_a_file_that_is_not_what_its_name_says_is_refused(place, networks):
    networks.write_keras2(place / "models/edgel3_ft_audio_sparsity_95.45.h5",
                          networks.random_layers(TEACHER))  # dense
    with pytest.raises(InputError, match="does not contain what its name states"):
        load_model("edgel3-ft-95.45")
    weights.save(untrained(SEA, 0), place / "models/edgel3_sea_ust_audio_emb_64.h5")
    with pytest.raises(InputError, match="have length 5, not 64"):
        load_model("sea-64")


def test_options_of_edgel3_and_openl3_are_names():
    assert model_files.published_name() is None
    assert model_files.published_name(model_type="sea") == "sea-128"
    assert model_files.published_name(model_type="sea", emb_dim=64) == "sea-64"
    assert model_files.published_name(model_type="sparse") == "edgel3-ft-95.45"
    assert model_files.published_name(retrain_type="kd", sparsity="87.0") == "edgel3-kd-87.0"
    assert model_files.published_name(content_type="env") == "openl3-mel256-env-6144"
    assert model_files.published_name(input_repr="linear", embedding_size=512) == (
        "openl3-linear-music-512")
    with pytest.raises(InputError, match="cannot be combined"):
        model_files.published_name(model_type="sea", content_type="env")


def test_a_description_names_what_is_known_and_no_more(tmp_path):
    found = recognise("untrained")
    assert str(found) == ("untrained: L3 audio network (openl3); 48000 Hz, 256 mels, DFT 2048, "
                          "hop 242, front end kapre-0.1; 512 values per frame")
    stated = replace(found, file=tmp_path / "student.h5", format="l3hpc", random_weights=False)
    assert str(stated).startswith("student.h5: L3 audio network (openl3), l3hpc; 48000 Hz, ")
    assert "front end kapre-0.1 (stated in the file); 512" in str(stated)
