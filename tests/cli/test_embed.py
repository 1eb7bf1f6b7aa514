"""``l3hpc embed``: what it prints, writes and ends with."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from l3hpc.models import weights
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec

TINY = (2, 2, 2, 2, 2, 2, 2, 4)
SEA = NetworkSpec(8000, 32, 160, 256, filters=TINY)
TEACHER = NetworkSpec(48000, 256, 242, 2048, filters=TINY, tail="embedding")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Recordings in in/, a student, and an empty folder of models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("L3HPC_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("L3_MODEL_PATH", raising=False)
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    rng = np.random.default_rng(0)
    soundfile.write("in/a.wav", rng.uniform(-0.3, 0.3, 24000), 8000)
    soundfile.write("in/deep/b.wav", rng.uniform(-0.3, 0.3, 16000), 8000)
    weights.save(untrained(SEA, 0), tmp_path / "student.h5")
    return tmp_path


def test_a_folder(place, say):
    code, out, err = say("embed", "in", "-m", "student.h5", "-o", "out", "--engine", "ncnn")
    assert code == 0
    assert out == "2 recordings: 2 embedded (42 frames of 4 values)\n"
    assert err.splitlines()[0].startswith("student.h5: SEA student, l3hpc; 8000 Hz, 32 mels")
    with np.load("out/deep/b.npz") as file:
        assert sorted(file) == ["embedding", "timestamps"]
        assert file["embedding"].shape == (16, 4)
    code, out, _ = say("embed", "in", "-m", "student.h5", "-o", "out", "--engine", "ncnn")
    assert (code, out) == (0, "2 recordings: 0 embedded (0 frames of 4 values), 2 skipped (they "
                              "exist; --overwrite embeds them again)\n")


def test_one_bad_file_is_reported_and_ends_with_1(place, say):
    (place / "in/bad.wav").write_bytes(b"no sound")
    soundfile.write("in/still.wav", np.zeros(8000), 8000)
    code, out, err = say("embed", "in", "-m", "student.h5", "--engine", "ncnn", "--json")
    found = json.loads(out)
    assert code == 1 and not found["ok"]
    assert (found["done"], found["skipped"], found["failed"], found["frames"]) == (3, 0, 1, 48)
    assert found["model"]["network"] == "edgel3-sea" and found["model"]["dim"] == 4
    assert [one["state"] for one in found["recordings"]] == ["done", "failed", "done", "done"]
    assert found["recordings"][0] == {"recording": "in/a.wav", "output": "in/a.npz",
                                      "state": "done", "frames": 26, "message": ""}
    assert "failed: in/bad.wav: not a readable sound file" in err
    assert "warning: in/still.wav: every sample is zero" in err


@pytest.mark.parametrize(("words", "name", "frames"), [
    (("-t", "0.5", "-n", "-x", "emb"), "a_emb.npz", 5),
    (("--audio-hop-size", "0.5", "--no-audio-centering", "--audio-batch-size", "2"), "a.npz", 5),
    (("--hop-size", "1", "--no-centering", "--suffix", ".x", "--format", "h5"), "a.x.h5", 3),
    (("-ab", "3", "-af", "kapre", "-q", "--format", "csv"), "a.csv", 26)])
def test_options_of_openl3_and_edgel3(place, say, words, name, frames):
    code, _, err = say("embed", "in/a.wav", "-m", "student.h5", "--engine", "ncnn", *words, "-ow")
    assert code == 0 and (place / "in" / name).is_file()
    code, out, _ = say("embed", "in/a.wav", "-m", "student.h5", "--engine", "ncnn", *words,
                       "--json", "--overwrite")
    assert json.loads(out)["frames"] == frames
    if "kapre" in words:
        assert json.loads(out)["model"]["frontend"]["convention"] == "B"
        assert err == ""


@pytest.mark.parametrize(("words", "file", "spec", "said"), [
    (("-mtype", "sea", "-e", "4"), None, None, "512, 256, 128, 64"),
    (("--model-type", "sea", "--emb-dim", "64"), "edgel3_sea_ust_audio_emb_64.h5",
     NetworkSpec(8000, 64, 160, 1024, filters=(*TINY[:7], 64)), "64 mels"),
    (("-i", "linear", "-c", "env", "-as", "512"), None, None,
     "openl3_audio_linear_env-v0_4_0.h5.gz"),
    (("-retrain", "kd", "-sp", "87.0"), None, None, "edgel3_kd_audio_sparsity_87.0.h5"),
    (("-m", "student.h5", "-mtype", "sea"), None, None, "a model is named twice"),
    (("-i", "linear", "-mtype", "sea"), None, None, "name two models"),
    (("-m", "student.h5", "--frontend", "E"), None, None, "unknown front end 'E'"),
    ((), None, None, "l3hpc ships no weights: --model FILE, or paths.weights in cluster.yaml")])
def test_models_by_option(place, say, words, file, spec, said):
    if file is not None:
        weights.save(untrained(spec, 0), place / "models" / file)
    code, out, err = say("embed", "in", *words, "--dry-run")
    assert code == (2 if file is None else 0)
    assert said in err
    assert not list(place.rglob("*.npz"))


def test_the_model_of_cluster_yaml_and_random_weights_are_told(place, say):
    weights.save(untrained(TEACHER, 0), place / "t.h5", {"teacher": {"random_weights": True}})
    (place / "cluster.yaml").write_text("paths: {weights: t.h5}\n")
    code, out, err = say("embed", "in/a.wav", "--engine", "ncnn", "--hop-size", "1")
    assert code == 0 and "48000 Hz, 256 mels" in err
    assert "these embeddings mean nothing: random-weight teacher" in out


def test_a_dry_run_writes_nothing(place, say):
    (place / "in/a.npz").touch()
    code, out, _ = say("embed", "in", "-m", "student.h5", "--dry-run")
    assert code == 0
    assert out.splitlines() == ["skip   in/a.wav -> in/a.npz",
                                "embed  in/deep/b.wav -> in/deep/b.npz", "nothing was written"]
    code, out, _ = say("embed", "in", "-m", "student.h5", "--dry-run", "--json", "-ow")
    assert [one["action"] for one in json.loads(out)["recordings"]] == ["embed", "embed"]
    assert not (place / "in/deep/b.npz").exists() and not (place / "in/a.npz").stat().st_size


def test_a_folder_in_place_of_an_output_is_reported(place, say):
    (place / "in/a.npz").mkdir()
    code, out, _ = say("embed", "in/a.wav", "-m", "student.h5", "--dry-run")
    assert out.splitlines()[0] == "embed  in/a.wav -> in/a.npz"
    code, out, err = say("embed", "in/a.wav", "-m", "student.h5", "--engine", "ncnn")
    assert code == 1 and "1 failed" in out and "skipped" not in out
    assert "failed: in/a.wav: in/a.npz: Is a directory" in err


def test_names_that_are_not_utf_8_are_printed_safely(place):
    (place / os.fsdecode(b"in/caf\xe9.wav")).write_bytes(b"RIFF")
    words = [sys.executable, "-m", "l3hpc", "embed", "in", "-m", "student.h5", "--engine", "ncnn"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}

    def run(*more):
        return subprocess.run([*words, *more], capture_output=True, env=environment)

    dry = run("--dry-run")
    assert dry.returncode == 0
    assert b"embed  in/caf\\xe9.wav -> in/caf\\xe9.npz\n" in dry.stdout
    done = run("--json")
    assert done.returncode == 1
    found = json.loads(done.stdout.decode("ascii"))
    assert [one["state"] for one in found["recordings"]] == ["done", "failed", "done"]
    assert os.fsencode(found["recordings"][1]["recording"]) == b"in/caf\xe9.wav"
    assert b"failed: in/caf\\xe9.wav: not a readable sound file" in done.stderr


def test_refusals(place, say):
    assert say("embed")[0] == 2
    assert say("embed", "nowhere", "-m", "student.h5")[0] == 2
    assert say("embed", "in", "-m", "student.h5", "-t", "0")[0] == 2
    assert say("embed", "in", "-m", "none.h5")[0] == 2
    code, _, err = say("embed", "in", "-m", "student.h5", "-t", "1e-9")
    assert code == 2 and "hop" in err


def test_names_of_models_complete(place):
    from l3hpc.cli.embed import complete_model

    (place / "models/sea-mine.keras").touch()
    found = complete_model(None, None, "sea")
    assert [one.value for one in found] == ["sea-mine", "sea"] and found[1].type == "file"
