"""``l3hpc embed``: what it prints, writes and ends with."""

import json
import os
import signal
import subprocess
import sys

import click
import numpy as np
import pytest
import soundfile

from l3hpc.embedding.model import load_model
from l3hpc.models import weights
from l3hpc.models.parameters import untrained
from l3hpc.models.spec import NetworkSpec
from l3hpc.workspace import records
from l3hpc.workspace.run_record import RunRecord, StepRecord

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
                              "have an output; --overwrite embeds them again)\n")


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
    (("-m", "student.h5", "-mtype", "sea"), None, None, "the model is given twice"),
    (("-i", "linear", "-mtype", "sea"), None, None, "cannot be combined"),
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
    assert "this model comes from a random-weight teacher, so these embeddings mean nothing" in out
    code, out, err = say("embed", "in/a.wav", "-m", "untrained", "--hop-size", "1", "-o", "random")
    assert "the weights of this model are random, so these embeddings mean nothing" in out


def trained(place, run, created, *names, options=None, folder="workspace"):
    """Pretend that a run has trained students."""
    steps = []
    for number, name in enumerate(names):
        artifact = place / f"{folder}/artifacts/train/{run}{number}"
        (artifact / "0000").mkdir(parents=True)
        weights.save(untrained(SEA, number), artifact / "0000/model_best_valid_loss.h5")
        (artifact / "0000/result.json").write_text("{}")
        link = place / f"{folder}/runs/{run}/artifacts/{name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(artifact)
        steps.append(StepRecord(name, "train", str(artifact), 1, []))
    records.write(place / folder, RunRecord(
        run, "upstream", "local", created, "you", "h", [], options or {}, "submitted", steps))


@pytest.mark.parametrize("words", [("embed", "in", "-m"), ("export", "-o", "out", "--fp32")])
def test_the_student_of_a_run(place, say, words):
    code, _, err = say(*words, "latest", "--dry-run")
    assert code == 2 and "no run in" in err and "has trained a student" in err
    trained(place, "one", 1.0, "train")
    trained(place, "swept", 2.0, "train-4", "train-8", options={"combinations": [
        {"values": {"emb-dim": dim}, "steps": {"train": f"train-{dim}"}} for dim in ("4", "8")]})
    folder = "workspace/runs/one"
    for name in ("one", "on", "one/train", "swept/train-8", "sw/train-8",
                 "latest/train-8", "latest/train", folder,
                 f"{folder}/artifacts/train", f"{folder}/artifacts/train/0000",
                 "workspace/runs/swept/artifacts/train-8"):
        code, out, err = say(*words, name, "--dry-run")
        assert code == 0 and "model_best_valid_loss.h5" in out + err, name
    for name in ("latest", "swept", "swe"):
        code, _, err = say(*words, name, "--dry-run")
        assert code == 2 and "swept/train-4 (emb-dim=4); swept/train-8 (emb-dim=8)" in err
    code, _, err = say(*words, "workspace/runs/swept", "--dry-run")
    assert code == 2 and "workspace/runs/swept/artifacts/train-8" in err
    code, _, err = say(*words, "swept/train-9", "--dry-run")
    assert code == 2 and "has no train step 'train-9'" in err
    code, _, err = say(*words, "latest/train-9", "--dry-run")
    assert code == 2 and "has a finished step 'train-9' with a network" in err
    trained(place, "elsewhere", 1.0, "train", folder="other")
    assert say(*words, "elsewhere", "--dry-run")[0] == 2
    code, out, err = say(*words, "elsewhere", "--dry-run", "--workspace", "other")
    assert code == 0 and "model_best_valid_loss.h5" in out + err
    trained(place, "once", 1.0, "train")
    code, _, err = say(*words, "on", "--dry-run")
    assert code == 2 and "'on' matches 2 runs once, one" in " ".join(err.split())
    trained(place, "sea-64-b", 1.0, "train")  # a published model is no beginning of a run
    code, _, err = say(*words, "sea-64", "--dry-run")
    assert code == 2 and "edgel3" in err
    # a file, and a model in a folder of models, come before a run of that name
    weights.save(untrained(SEA, 0), place / "models/latest.h5")
    code, out, err = say(*words, "latest", "--dry-run")
    assert code == 0 and "latest.h5" in out + err


def test_the_folder_of_a_run_in_python(place):
    trained(place, "one", 1.0, "train")
    loaded = load_model("workspace/runs/one", engine="ncnn")
    assert loaded.recognised.file.name == "model_best_valid_loss.h5" and loaded.dim == 4


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
    trained(place, "season-1", 1.0, "train")
    context = click.Context(click.Command("embed"))
    found = complete_model(context, None, "sea")
    assert [one.value for one in found] == ["sea-mine", "season-1", "sea"]
    assert found[-1].type == "file"
    (place / "workspace").rename(place / "other")
    context.params["workspace_dir"] = "other"
    assert "season-1" in [one.value for one in complete_model(context, None, "sea")]


def test_what_is_passed_over_is_counted_by_kind(place, say):
    for name in ("in/a.caf", "in/deep/c.CAF", "in/notes.txt", "in/README", "in/.hidden"):
        (place / name).write_bytes(b"x")
    words = ("embed", "in", "-m", "student.h5", "--engine", "ncnn")
    code, out, err = say(*words)
    assert code == 0 and "2 embedded" in out
    assert "ignored 4 other files: 2 .caf, 1 without a suffix, 1 .txt\n" in err
    code, out, _ = say(*words, "--json")  # the outputs beside the recordings are none of these
    assert json.loads(out)["passed_over"] == "4 other files: 2 .caf, 1 without a suffix, 1 .txt"


def test_one_missing_input_does_not_stop_the_others(place, say):
    (place / "empty").mkdir()
    os.mkfifo(place / "pipe.wav")
    words = ("embed", "in/none.wav", "in", "empty", "pipe.wav", "in/*.aiff", "-m", "student.h5",
             "--engine", "ncnn")
    code, _, err = say(*words, "--dry-run")
    assert code == 1 and not list(place.rglob("*.npz"))
    code, out, err = say(*words)
    assert code == 1 and "2 embedded" in out and len(list(place.rglob("*.npz"))) == 2
    assert err.splitlines()[-4:] == [
        "failed: in/none.wav: no such file or folder", "failed: empty: contains no recordings",
        "failed: pipe.wav: is a named pipe, not a file",
        "failed: in/*.aiff: no file matches"]
    code, out, _ = say(*words, "--json")
    assert code == 1 and not json.loads(out)["ok"]
    assert list(json.loads(out)["failed_inputs"]) == ["in/none.wav", "empty", "pipe.wav",
                                                      "in/*.aiff"]


def test_equal_names_keep_their_folders(place, say):
    soundfile.write("in/deep/a.wav", soundfile.read("in/a.wav")[0], 8000)
    words = ("-m", "student.h5", "--engine", "ncnn", "-o", "out")
    code, _, _ = say("embed", "in/**/*.wav", *words)
    assert code == 0
    found = sorted(path.relative_to(place / "out").as_posix()
                   for path in (place / "out").rglob("*.npz"))
    assert found == ["a.npz", "deep/a.npz", "deep/b.npz"]
    code, _, _ = say("embed", "in/a.wav", "in/deep/a.wav", *words[:-1], "files")
    assert code == 0
    assert (place / "files/a.npz").is_file() and (place / "files/deep/a.npz").is_file()
    code, _, _ = say("embed", "in/deep/*.wav", *words[:-1], "flat")  # as ever without need
    assert sorted(os.listdir("flat")) == ["a.npz", "b.npz"]


def test_a_fifo_in_a_folder_is_one_bad_recording(place, say):
    os.mkfifo(place / "in/x.wav")
    (place / "in/y.wav").symlink_to("/dev/zero")
    signal.alarm(60)
    try:
        code, out, err = say("embed", "in", "-m", "student.h5", "--engine", "ncnn")
    finally:
        signal.alarm(0)
    assert code == 1 and "2 embedded" in out and "2 failed" in out
    assert "failed: in/x.wav: is a named pipe, not a file" in err
    assert "failed: in/y.wav: is a device, not a file" in err


def test_samples_and_lengths_that_cannot_be_meant(place, say):
    sound, _ = soundfile.read("in/a.wav", dtype="float32")
    sound[9000] = 1e29
    soundfile.write("in/odd.wav", sound, 8000, "FLOAT")
    data = (place / "in/a.wav").read_bytes()
    (place / "in/cut.wav").write_bytes(data[:len(data) // 2])
    code, out, err = say("embed", "in", "-m", "student.h5", "--engine", "ncnn")
    assert code == 1 and "3 embedded" in out
    assert "failed: in/odd.wav: contains samples of up to 1.0e+29, which no recording has" in err
    assert "warning: in/cut.wav: ends early: 1.499 s of audio, header states 3.000 s" in err


@pytest.mark.parametrize("hop", ["1e12", "inf", "nan", "-1"])
def test_hops_are_checked_before_anything_is_done(place, say, hop):
    code, _, err = say("embed", "in", "-m", "student.h5", "-t", hop)
    assert code == 2 and "hop" in err and "Traceback" not in err
    assert not list(place.rglob("*.npz"))
