import gzip
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from l3hpc.audio.mels import mel_filterbank
from l3hpc.errors import InputError
from l3hpc.models import weights
from l3hpc.models.parameters import Parameters, untrained
from l3hpc.models.spec import NetworkSpec, openl3_spec
from l3hpc.models.weight_files import open_network

TINY = (2, 2, 3, 3, 4, 4, 5, 5)
STUDENT = NetworkSpec(8000, 32, 160, 256, filters=TINY)
TEACHER = NetworkSpec(48000, 256, 242, 2048, filters=TINY, tail="embedding")
REAL = Path(__file__).parents[2].parent / "shared/real/edgel3/edgel3_sea_ust_audio_emb_64.h5.gz"


@pytest.mark.parametrize(("name", "representation"), [
    ("openl3_audio_mel256_env.h5", "mel256"), ("openl3_audio_mel128_music.h5", "mel128"),
    ("openl3_audio_linear_env-v0_4_0.h5.gz", "linear")])
def test_openl3_04_files_are_told_by_name(tmp_path, reference, name, representation):
    layers = reference.random_layers(TEACHER)
    path = reference.write_keras2(tmp_path / name, layers)
    info = weights.describe_weights(path)
    expected = openl3_spec(representation)
    assert info.kind == "openl3" and info.notes == ()
    assert info.spec == NetworkSpec(48000, expected.n_mels, 242, expected.n_dft, filters=TINY,
                                    tail="embedding")
    assert len(info.layers) == 16 and weights.embedding_dim(path) == 5
    assert weights.embedding_dim(path, embedding_size=60) == 60
    parameters, _ = weights.load_parameters(path)
    for found, wanted in zip(parameters.layers, layers, strict=True):
        for left, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(left, right)


def test_full_size_openl3_file(tmp_path, reference):
    path = reference.write_keras2(tmp_path / "openl3_audio_mel256_env.h5",
                                  reference.random_layers(openl3_spec()))
    assert weights.describe_weights(path).spec == openl3_spec("mel256", 512)
    assert weights.describe_weights(path, embedding_size=6144).spec == openl3_spec("mel256", 6144)
    with pytest.raises(InputError, match="512 or 6144"):
        weights.describe_weights(path, embedding_size=100)


def test_a_nameless_teacher_is_mel256_and_says_that_this_is_assumed(tmp_path, reference):
    path = reference.write_keras2(tmp_path / "w.h5", reference.random_layers(TEACHER))
    info = weights.describe_weights(path)
    assert info.spec == TEACHER and any("mel256" in note for note in info.notes)
    stated = weights.describe_weights(path, geometry={"n_mels": 128})
    assert stated.spec.n_mels == 128 and not stated.notes


@pytest.mark.parametrize(("rate", "dft", "mels", "fmax"), [
    (8000, 1024, 64, None), (16000, 512, 40, None), (22050, 1024, 64, 8000.0)])
def test_stored_matrices_tell_rate_mels_and_dft(tmp_path, reference, rate, dft, mels, fmax):
    bank = mel_filterbank(rate, dft, mels, fmax).astype(np.float32)
    path = reference.write_keras2(
        tmp_path / "w.h5", reference.random_layers(STUDENT),
        frontend=reference.kapre_arrays(dft, bank))
    info = weights.describe_weights(path, geometry={"hop": 170})
    assert (info.spec.rate, info.spec.n_dft, info.spec.n_mels, info.spec.fmax, info.spec.hop) == (
        rate, dft, mels, fmax, 170)
    assert info.kind == "edgel3-sea" and len(info.layers) == 17


def test_old_openl3_and_sparse_edgel3_have_a_front_end_layer(tmp_path, reference):
    bank = mel_filterbank(48000, 2048, 256).astype(np.float32)
    for name, zeros, kind in (("old.h5", 0.0, "openl3"),
                              ("edgel3_ft_audio_sparsity_95.45.h5", 0.9, "edgel3-sparse")):
        path = reference.write_keras2(
            tmp_path / name, reference.random_layers(TEACHER, zeros=zeros),
            frontend=reference.kapre_arrays(2048, bank), full_model=zeros > 0)
        info = weights.describe_weights(path)
        assert (info.kind, info.spec, len(info.layers)) == (kind, TEACHER, 16)


def test_old_linear_openl3_has_two_front_end_arrays(tmp_path, reference):
    path = reference.write_keras2(tmp_path / "w.h5", reference.random_layers(TEACHER),
                                  frontend=reference.kapre_arrays(512, None))
    spec = weights.describe_weights(path).spec
    assert spec.n_mels is None and spec.n_dft == 512 and spec.rate == 48000 and spec.hop == 242


def test_full_model_states_its_front_end_itself(tmp_path, reference):
    path = reference.write_keras2(
        tmp_path / "w.h5", reference.random_layers(STUDENT), full_model=True,
        config=reference.kapre_config(16000, 40, 512, 200, 7000.0))
    spec = weights.describe_weights(path).spec
    assert (spec.rate, spec.n_mels, spec.n_dft, spec.hop, spec.fmax) == (16000, 40, 512, 200, 7000)


def test_trainers_file_names_tell_the_geometry(tmp_path, reference):
    layers = reference.random_layers(STUDENT)
    path = reference.write_keras2(
        tmp_path / "l3_audio_20200304183233_16000_40_200_512_half_fmax_7000.h5", layers)
    spec = weights.describe_weights(path).spec
    assert (spec.rate, spec.n_mels, spec.hop, spec.n_dft, spec.fmax) == (16000, 40, 200, 512, 7000)
    sea = reference.write_keras2(tmp_path / "edgel3_sea_ust_audio_emb_5.h5", layers)
    spec = weights.describe_weights(sea).spec
    assert (spec.rate, spec.n_mels, spec.hop, spec.n_dft) == (8000, 64, 160, 1024)


def test_a_nameless_student_asks_for_its_geometry(tmp_path, reference):
    path = reference.write_keras2(tmp_path / "w.h5", reference.random_layers(STUDENT))
    with pytest.raises(InputError, match="rate, n_mels, hop, n_dft unknown"):
        weights.describe_weights(path)
    info = weights.describe_weights(path, geometry={
        "rate": 8000, "n_mels": 32, "hop": 160, "n_dft": 256, "head": "linear",
        "convention": "A'"})
    assert info.spec.head == "linear" and info.spec.convention == "A'"
    with pytest.raises(InputError, match="did you mean 'rate'"):
        weights.describe_weights(path, geometry={"rat": 1})


def test_a_wrong_file_is_refused_layer_by_layer(tmp_path, reference):
    layers = reference.random_layers(TEACHER)
    layers[3] = (np.zeros((5, 5, 2, 2)), np.zeros(2))
    path = reference.write_keras2(tmp_path / "openl3_audio_mel256_env.h5", layers)
    with pytest.raises(InputError) as caught:
        weights.load_parameters(path)
    message = str(caught.value)
    assert "1 of 16 weighted layers differ (16 found, 16 expected)" in message
    assert " 4 conv2d_27: found (5, 5, 2, 2) (2,), expected conv (3, 3, 2, 2) (2,)" in message
    assert message.count(": found ") == 1 and "more" not in message


def test_of_many_layers_that_differ_the_first_ones_are_shown(tmp_path, reference):
    layers = reference.random_layers(TEACHER)[:6]
    path = reference.write_keras2(tmp_path / "openl3_audio_mel256_env.h5", layers)
    with pytest.raises(InputError) as caught:
        weights.load_parameters(path)
    assert "15 of 16 weighted layers differ (6 found, 16 expected)" in caught.value.message
    shown = caught.value.allowed.splitlines()
    assert [line.split()[0] for line in shown] == ["2", "3", "4", "5", "and"]
    assert shown[0].startswith(" 2 conv2d_29: found (3, 3, 1, 2) (2,), expected conv ")
    assert shown[-1] == "and 11 more"


def test_another_network_is_refused_with_the_next_command(tmp_path, reference):
    dense = [(np.zeros((512, 128)), np.zeros(128)), (np.zeros((128, 2)), np.zeros(2))]
    path = reference.write_keras2(tmp_path / "mlp.h5", dense)
    with pytest.raises(InputError, match="none of its 2 weighted layers fits") as caught:
        weights.describe_weights(path)
    assert str(caught.value).endswith(f"l3hpc teacher describe {path}")
    missing = reference.write_keras2(tmp_path / "short.h5", reference.random_layers(TEACHER)[:-1])
    with pytest.raises(InputError, match="15 found, 16 expected"):
        weights.describe_weights(missing)


def test_files_that_are_no_weight_files(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"junk")
    with gzip.open(tmp_path / "b.h5.gz", "wb") as stream:
        stream.write(b"junk")
    with zipfile.ZipFile(tmp_path / "c.keras", "w") as archive:
        archive.writestr("x", "y")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"] = np.zeros(3)
    (tmp_path / "e.h5.gz").write_bytes(b"\x1f\x8bjunk")
    for name in ("a.h5", "b.h5.gz", "c.keras", "d.h5", "e.h5.gz", "none.h5", "."):
        with pytest.raises(InputError) as caught:
            weights.describe_weights(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_truncated_and_overwritten_files_are_refused_or_read(tmp_path, reference):
    path = reference.write_keras2(tmp_path / "edgel3_sea_x.h5", reference.random_layers(STUDENT))
    data = path.read_bytes()
    refused = 0
    for cut in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError):
            weights.load_parameters(path)
        path.write_bytes(data[:cut].ljust(len(data), b"\0"))
        try:
            weights.load_parameters(path)
        except InputError:
            refused += 1
    assert refused > 20


def test_values_that_are_not_numbers_are_refused(tmp_path, reference):
    layers = reference.random_layers(STUDENT)
    layers[1][0][0, 0, 0, 0] = np.nan
    path = reference.write_keras2(tmp_path / "edgel3_sea_x.h5", layers)
    with pytest.raises(InputError, match="conv2d_29.*finite"):
        weights.load_parameters(path)


def test_own_format_round_trip(tmp_path, reference):
    spec = NetworkSpec(8000, 32, 160, 256, 3500.0, TINY, head="linear")
    parameters = Parameters(spec, tuple(reference.random_layers(spec)))
    weights.save(parameters, tmp_path / "s.h5", {"run": "r1"})
    info = weights.describe_weights(tmp_path / "s.h5")
    assert (info.kind, info.spec) == ("l3hpc", spec)
    again, _ = weights.load_parameters(tmp_path / "s.h5")
    for found, wanted in zip(again.layers, parameters.layers, strict=True):
        for left, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(left, right)
    with open_network(tmp_path / "s.h5") as stored:
        assert stored.provenance == {"run": "r1"}
    first = (tmp_path / "s.h5").read_bytes()
    time.sleep(1.1)  # HDF5 stamps seconds where it is allowed to
    weights.save(parameters, tmp_path / "s.h5", {"run": "r1"})
    assert (tmp_path / "s.h5").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]
    with pytest.raises(InputError, match="have length 5, not 7"):
        weights.describe_weights(tmp_path / "s.h5", embedding_size=7)


def test_own_format_damaged_or_newer(tmp_path):
    parameters = untrained(STUDENT, 1)
    for change, match in ((lambda file: file.attrs.__setitem__("version", 9), "version 9"),
                          (lambda file: file.attrs.__delitem__("spec"), "damaged"),
                          (lambda file: file.attrs.__setitem__("spec", "{"), "damaged"),
                          (lambda file: file["layers"].__delitem__("03_conv"), "16 found"),
                          (lambda file: file["layers/03_conv"].__delitem__("bias"), "layers")):
        weights.save(parameters, tmp_path / "s.h5")
        with h5py.File(tmp_path / "s.h5", "r+") as file:
            change(file)
        with pytest.raises(InputError, match=match):
            weights.describe_weights(tmp_path / "s.h5")


def test_untrained_is_named_seeded_and_the_same_everywhere():
    assert weights.describe_weights("untrained:7").label == (
        "untrained L3 (seed 7): random weights, for demonstration only")
    assert weights.embedding_dim("untrained") == 512
    assert weights.identity("untrained:7")["digest"] == "untrained-7"
    assert weights.identity("untrained:7") != weights.identity("untrained:8")
    assert weights.untrained_seed("untrained") == weights.DEFAULT_SEED
    assert weights.untrained_seed("weights.h5") is None
    with pytest.raises(InputError, match="untrained:SEED"):
        weights.describe_weights("untrained:x")
    kernel = untrained(STUDENT, 7).layers[1][0]
    np.testing.assert_allclose(kernel[0, 0, 0], [0.3748198, -0.6047032], rtol=1e-6)
    assert not np.array_equal(untrained(STUDENT, 8).layers[1][0], kernel)


def test_conventions_are_named_and_shown():
    stated = {"convention": "B"}
    info = weights.describe_weights("untrained:7", geometry=stated)
    assert info.spec.convention == "B" and info.label.endswith("front end openl3-0.4-kapre")
    assert weights.load_parameters("untrained:7", geometry=stated)[0].spec == info.spec
    identity = weights.identity("untrained:7", geometry=stated)
    assert identity["spec"]["convention"] == "B"
    assert weights.identity("untrained:7", geometry={"convention": "openl3-0.4-kapre"}) == identity
    with pytest.raises(InputError, match="unknown front-end convention 'Z'"):
        weights.describe_weights("untrained", geometry={"convention": "Z"})
    with pytest.raises(InputError, match="keys"):
        weights.describe_weights("untrained", geometry={"rat": 1})


def test_a_files_empty_bands_are_named_but_for_the_teachers_own(tmp_path, reference):
    path = reference.write_keras2(tmp_path / "x_8000_512_160_1024.h5",
                                  reference.random_layers(STUDENT))
    info = weights.describe_weights(path, geometry={"convention": "D"})
    assert info.label.endswith("front end embedding-approx")
    assert any(note.startswith("20 of 512 mel bands hold no DFT bin") and note.endswith(": 0, 3, 6,"
               " 9, 12, 15, 18, 21, 26, 29, 34, 37, 42, 47, 52, 57, 64, 71, 78, 91")
               for note in info.notes)
    path = reference.write_keras2(tmp_path / "openl3_audio_mel256_env.h5",
                                  reference.random_layers(TEACHER))
    assert weights.describe_weights(path).notes == ()
    assert weights.describe_weights(path, geometry={"convention": "B"}).spec.convention == "B"
    assert weights.describe_weights(path, geometry={"n_dft": 1024, "rate": 24000}).notes == (
        "7 of 256 mel bands hold no DFT bin and are always at the floor: 0, 3, 6, 9, 14, 19, 30",)


def test_untrained_kernels_are_he_normal():
    kernel = untrained(openl3_spec(), 1).layers[13][0]
    assert kernel.shape == (3, 3, 256, 512)
    deviation = np.sqrt(2 / (9 * 256))
    assert kernel.std() == pytest.approx(deviation, rel=5e-3)
    assert np.abs(kernel).max() <= 2 * deviation / 0.8796256 * 1.0001


def test_identity_follows_the_content(tmp_path):
    weights.save(untrained(STUDENT, 1), tmp_path / "a.h5")
    weights.save(untrained(STUDENT, 2), tmp_path / "b.h5")
    first, second = weights.identity(tmp_path / "a.h5"), weights.identity(tmp_path / "b.h5")
    assert first["kind"] == "l3hpc" and first["dim"] == 5 and len(first["digest"]) == 32
    assert first["digest"] != second["digest"]


def test_describing_never_imports_tensorflow():
    code = ("import sys; from l3hpc.models import weights; weights.identity('untrained');"
            "import l3hpc.models.embedder;"
            "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'scipy')))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not REAL.is_file(), reason="the published Student 3 is not beside the project")
def test_published_student_3_describes_itself():
    info = weights.describe_weights(REAL)
    assert info.kind == "edgel3-sea" and info.notes == ()
    assert info.spec == NetworkSpec(8000, 64, 160, 1024, None, (32, 32, 64, 64, 128, 128, 64, 64))
    assert weights.embedding_dim(REAL) == 64


@pytest.mark.parametrize("made_by, plan, name", [
    ("finetune", "95.45", "teacher.h5, pruned (95.45) and fine-tuned"),
    ("distill", "10,20", "teacher.h5, pruned (10,20) and distilled"),
    ("prune", "95.45", "teacher.h5, pruned (95.45)"),
    ("finetune", "none", "teacher.h5, fine-tuned"), ("prune", "none", "teacher.h5, reduced"),
    ("prune", None, "teacher.h5, pruned (own plan)")])
@pytest.mark.parametrize("file", ["model_best_valid_acc.h5", "model_latest.h5", "network.h5"])
def test_a_compressed_teacher_is_named_by_what_was_done_to_it(tmp_path, made_by, plan, name, file):
    """A fine-tuned one was called a student, although it learnt no embeddings."""
    weights.save(untrained(STUDENT, 2), tmp_path / file, {
        "teacher": {"label": "teacher.h5: l3hpc, 512-d"}, "target": "audio-visual correspondence",
        "plan": plan, "made_by": made_by})
    info = weights.describe_weights(tmp_path / file)
    assert info.label.startswith(f"{name}: l3hpc, ")
    assert bool(info.target) is (made_by != "finetune")


def test_a_student_of_random_weights_says_so_wherever_it_goes(tmp_path):
    path, second = tmp_path / "student.h5", tmp_path / "second.h5"
    weights.save(untrained(STUDENT, 0), path, {"teacher": weights.identity("untrained:3")})
    told = weights.identity(path)
    assert weights.random_weights_note(told) == weights.RANDOM_WEIGHTS
    assert "random-weight teacher" in told["label"]
    weights.save(untrained(STUDENT, 0), second, {"teacher": told})
    assert weights.random_weights_note(weights.identity(second)) == weights.RANDOM_WEIGHTS
    weights.save(untrained(STUDENT, 0), second, {"teacher": {"label": "published"}})
    assert weights.random_weights_note(weights.identity(second)) is None
    assert weights.random_weights_note(None) is None


@pytest.mark.parametrize("teacher, reduction, name", [
    ("openl3.h5: keras2, 512-d, 48000 Hz", {"approx": "pca", "dim": 64},
     "student of openl3.h5, PCA 64-d"),
    ("hear:own.birds", None, "student of hear:own.birds"),
    ("a\n\x1b[31mb" + "c" * 99, None, "student of a\\n\\x1b[31mb" + "c" * 48),
    ("a.h5", {"approx": 3, "dim": 2}, "student of a.h5, 3 2-d"),
    ("a.h5", {"approx": "pca", "dim": "2"}, "student of a.h5"),
    (3, None, "model_best_valid_loss.h5")])
def test_a_student_is_named_by_what_it_learnt(tmp_path, teacher, reduction, name):
    """Each training names its files alike: their names tell nothing in a table or a title."""
    path = tmp_path / weights.BEST_STUDENT
    weights.save(untrained(STUDENT, 2), path, {"teacher": {"label": teacher}, "target": "k",
                                               "reduction": reduction})
    assert weights.describe_weights(path).label.startswith(f"{name}: l3hpc, ")
    named = path.rename(tmp_path / "mine.h5")
    assert weights.describe_weights(named).label.startswith("mine.h5: l3hpc, ")
