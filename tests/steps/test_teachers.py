"""Teachers that are no weight file, through the steps and before submission."""

import json

import numpy as np
import pytest
import soundfile
from invoke import invoke

from l3hpc import steps
from l3hpc.datasets.training_pairs import find_pairs
from l3hpc.errors import InputError
from l3hpc.steps import prune

TIMES = np.arange(31) / 10


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    (folder / "park").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.wav", "b.flac", "park/c.wav"):
        soundfile.write(folder / name, rng.uniform(-0.5, 0.5, 24000), 8000)
    return folder


@pytest.fixture
def ready(tmp_path):
    folder = tmp_path / "ready"
    (folder / "park").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in ("a", "b", "park/c"):
        np.savez(folder / f"{name}.npz", embedding=rng.standard_normal((31, 6)), timestamps=TIMES)
    return folder


def test_ready_embeddings_are_learnt_by_the_windows_of_their_times(runner, audio, ready):
    runner.run("extract", {"audio": audio, "weights": str(ready), "hop": 0.5})
    assert runner.results["extract"][0]["rows"] == 3 * 6
    assert runner.results["extract"][0]["teacher"]["label"] == "embeddings in ready"
    pairs = find_pairs(runner.artifact("extract"), None, None)
    assert (pairs.rows, pairs.dim) == (18, 6)
    for unit in pairs.units:
        name = unit.audio.removeprefix(f"{audio}/").rsplit(".", 1)[0]
        rows = unit.target.read(unit.target_first, unit.target_first + unit.count)
        expected = np.load(ready / f"{name}.npz")["embedding"][5 * unit.windows]
        np.testing.assert_array_equal(rows, expected.astype(np.float32))
    runner.run("sample", {"samples": 6, "method": "dpp", "timescale": "day"})
    runner.run("fit", {"approx": "pca", "emb_dim": 2})
    runner.run("reduce")
    assert find_pairs(runner.artifact("extract"), runner.artifact("reduce"), None).dim == 2


def submit(tmp_path, audio, *words):
    return invoke("submit", "upstream", "--audio-dir", audio, "--workspace", tmp_path / "ws",
                  "--emb-dim", 4, "--width", 0.25, "--dry-run", *words)


def test_what_does_not_match_is_refused_before_submission(tmp_path, audio, ready):
    shown = submit(tmp_path, audio, "--weights", ready).stdout
    assert "teacher ready, hop 0.5 s, centred" in shown and "pca: 6 → 4" in shown
    with pytest.raises(InputError, match="3 of 3 files do not match their recordings: a.npz"):
        submit(tmp_path, audio, "--weights", ready, "--set", "extract.hop=0.25")
    (ready / "b.npz").rename(ready / "x.npz")
    with pytest.raises(InputError, match="1 of 3 recordings have no embeddings: b.flac; "
                                         "1 of 3 files of embeddings have no recording: x.npz"):
        submit(tmp_path, audio, "--weights", ready)
    with pytest.raises(InputError, match="hear:no_such: there is no module no_such"):
        submit(tmp_path, audio, "--weights", "hear:no_such.module")


def test_embeddings_of_ordinary_audio_are_not_paired_by_row(tmp_path, audio, ready):
    """Refused before submission, not by the last job."""
    with pytest.raises(InputError, match="no audio for 2 of 2 files of embeddings: a.npz, b.npz"
                       ) as refused:
        submit(tmp_path, audio, "--from", "sample", "--sampling", "random", "--embedding-dir",
               ready)
    assert f"l3hpc submit upstream --weights {ready}, without --from" in refused.value.hint


def test_clips_may_be_embedded_from_more_than_their_own_files(runner, audio, ready, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file,label\na.wav,x\n")
    params = {"table": table, "audio": audio, "student": str(ready), "hop": 0.1, "center": True}
    runner.run("embed", params)
    assert runner.results["embed"][0]["recordings"] == 1


def test_a_teacher_is_evaluated_like_a_student(audio, ready, tmp_path, monkeypatch):
    table = tmp_path / "labels.csv"
    copies = dict(zip("defghi", "yxxxyy", strict=True))
    table.write_text("file,label\na.wav,x\nb.flac,x\npark/c.wav,y\n" + "".join(
        f"{name}.wav,{label}\n" for name, label in copies.items()))
    for name in copies:
        (audio / f"{name}.wav").write_bytes((audio / "a.wav").read_bytes())
        (ready / f"{name}.npz").write_bytes((ready / "a.npz").read_bytes())
    monkeypatch.chdir(tmp_path)
    words = ("submit", "clips", "--table", table, "--audio", audio, "--folds", 2, "--workspace",
             "ws", "--dry-run", "--set", "embed.hop=0.5", "--set", "folds.valid_fold=false")
    assert f"student {ready}" in invoke(*words, "--student", "ready").stdout
    with pytest.raises(InputError, match="there is no module no_such"):
        invoke(*words, "--student", "hear:no_such")
    with pytest.raises(InputError, match="'nothing' is neither a run nor a file"):
        invoke(*words, "--student", "nothing")


def test_only_networks_of_the_family_are_pruned(ready, audio):
    with pytest.raises(InputError, match="embeddings in ready cannot be pruned") as refused:
        prune.check(prune.JudgeParams(weights=str(ready), audio=audio), "prune")
    assert refused.value.where == "prune.weights"


def test_a_stated_window_counts_and_must_fit(audio, ready, teacher):
    extract = steps.step("extract")

    def fingerprint(**params):
        return json.dumps(extract.digests(extract.parse({"audio": audio, **params})))

    assert fingerprint(weights=str(ready)) != fingerprint(weights=str(ready), window=3)
    params = extract.parse({"audio": audio, "weights": str(teacher), "window": 3})
    with pytest.raises(InputError, match="window 3 s does not fit"):
        extract.check(params, {})
