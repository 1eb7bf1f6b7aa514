"""Extraction: right windows in the right rows, from any kind of file, whatever interrupts it."""

import csv
import os
import threading

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc import steps
from l3hpc.audio.formats import FileState
from l3hpc.audio.framing import frame_audio
from l3hpc.audio.levels import frame_levels
from l3hpc.console.progress import Progress
from l3hpc.datasets import extraction
from l3hpc.datasets.corpus import Recording, scan_recordings
from l3hpc.datasets.extraction import Extraction
from l3hpc.datasets.extraction_blocks import BlocksOnDisk
from l3hpc.errors import L3hpcError
from l3hpc.io.files import read_json

pytestmark = pytest.mark.slow
RATE = 2000


class Network:
    """An embedding that shows its input: mean, maximum, first and last sample."""

    rate, window_s, dim = RATE, 1.0, 4

    def __init__(self, stop_after=None):
        self.left = stop_after
        self.sizes = []

    def embed(self, frames, batch_size=None, on_batch=None):
        frames = frames[:]
        self.sizes.append(len(frames))
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return np.stack([frames.mean(1), frames.max(1), frames[:, 0], frames[:, -1]],
                        axis=1).astype(np.float32)


def noise(seconds, rate=RATE, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)


def extract(folder, out, network=None, **options):
    out.mkdir(exist_ok=True)
    return Extraction(network or Network(), {"kind": "test"}, folder, scan_recordings(folder), 0.5,
                      True, out / "scratch", **options).run(
                          out / "embeddings.h5", out / "skipped.csv")


def read(out):
    with h5py.File(out / "embeddings.h5") as file:
        return {name: file[name][()] for name in (
            "l3_embedding", "recording", "frame", "start", "timestamp", "loudness")} | {
            "file": list(file["recordings/file"].asstr()[()]), "attrs": dict(file.attrs)}


def test_rows_are_the_frames_of_the_recordings(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    signals = {f"a_{1511272800 + 60 * number}.wav": noise(2 + number, seed=number)
               for number in range(4)}
    for name, signal in signals.items():
        soundfile.write(audio / name, signal, RATE, subtype="FLOAT")
    result = extract(audio, tmp_path / "out", block=3)
    found = read(tmp_path / "out")
    assert result["rows"] == len(found["frame"])
    assert result["recordings"] == 4
    at = 0
    for number, name in enumerate(sorted(signals)):
        frames, times = frame_audio(signals[name], RATE, 0.5, True)
        rows = slice(at, at + len(frames))
        at += len(frames)
        np.testing.assert_array_equal(found["recording"][rows], number)
        np.testing.assert_array_equal(found["frame"][rows], np.arange(len(frames)))
        np.testing.assert_array_equal(found["start"][rows], times)
        np.testing.assert_array_equal(found["l3_embedding"][rows], Network().embed(frames))
        np.testing.assert_allclose(found["timestamp"][rows], 1511272800 + 60 * number + times)
        np.testing.assert_allclose(found["loudness"][rows],
                                   frame_levels(signals[name], RATE, 1.0, 0.5, True), atol=1e-4)
    assert at == result["rows"]
    assert found["attrs"]["audio"] == str(audio)


@pytest.mark.parametrize(("suffix", "subtype", "tolerance"), [
    ("wav", "PCM_16", 4e-5), ("wav", "PCM_24", 2e-7), ("wav", "PCM_32", 1e-7),
    ("wav", "DOUBLE", 1e-7), ("flac", "PCM_16", 4e-5)])
def test_any_depth_and_channel_count(tmp_path, suffix, subtype, tolerance):
    audio = tmp_path / "audio"
    audio.mkdir()
    left, right = noise(2, seed=1), noise(2, seed=2)
    soundfile.write(audio / f"x.{suffix}", np.stack([left, right], 1), RATE, subtype=subtype)
    extract(audio, tmp_path / "out")
    frames, _ = frame_audio((left + right) / 2, RATE, 0.5, True)
    np.testing.assert_allclose(read(tmp_path / "out")["l3_embedding"], Network().embed(frames),
                               atol=2 * tolerance)


def test_hdf5_rows_are_windows_as_they_are(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    rows = (noise(7) * 32767).astype(np.int16).reshape(7, 1, RATE)
    with h5py.File(audio / "x.h5", "w") as file:
        file["audio"] = rows
    result = extract(audio, tmp_path / "out")
    assert result["rows"] == 7
    np.testing.assert_allclose(read(tmp_path / "out")["l3_embedding"],
                               Network().embed(rows[:, 0] / np.float32(32768)), atol=1e-7)


def test_unusable_audio_is_listed_with_its_reason(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "good.wav", noise(2), RATE)
    soundfile.write(audio / "silent.wav", np.zeros(2 * RATE), RATE)
    soundfile.write(audio / "short.wav", noise(0.5), RATE)
    soundfile.write(audio / "empty.wav", np.zeros(0), RATE)
    (audio / "text.wav").write_text("no audio")
    (audio / "recordings.csv").write_text(
        "file,sensor,timestamp\ngood.wav,a,\nlost.wav,a,\n")
    result = extract(audio, tmp_path / "out", max_failed=0.9)
    assert (result["recordings"], result["skipped"]) == (1, 5)
    with open(tmp_path / "out/skipped.csv") as stream:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    assert reasons == {"silent.wav": "silent", "short.wav": "too short", "empty.wav": "empty",
                       "text.wav": "unreadable", "lost.wav": "unreadable"}
    assert result["reasons"]["unreadable"] == 2
    # the silent one is the last that is found, and one too many by then
    with pytest.raises(L3hpcError, match=r"4 of 6 recordings cannot be used \(one more was not read"
                       r"\): empty.wav") as caught:
        extract(audio, tmp_path / "strict", max_failed=0.5)
    assert "max_failed" in str(caught.value)


def test_a_sensor_level_becomes_the_mean_of_its_recording(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(3), RATE)
    soundfile.write(audio / "b.wav", noise(3, seed=5), RATE)
    (audio / "recordings.csv").write_text(
        "file,sensor,timestamp,level_dba\na.wav,s,0,61.5\nb.wav,s,60,\n")
    extract(audio, tmp_path / "out")
    found = read(tmp_path / "out")
    first = found["loudness"][found["recording"] == 0].astype(float)
    assert 10 * np.log10(np.mean(10 ** (first / 10))) == pytest.approx(61.5, abs=1e-4)
    assert found["loudness"][found["recording"] == 1].max() < 0


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_killed_at_any_block_it_ends_the_same(tmp_path, stop_after):
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(4):
        soundfile.write(audio / f"{number}.wav", noise(2 + number, seed=number), RATE)
    (audio / "bad.wav").write_text("no audio")
    options = {"block": 4, "max_failed": 0.5}
    extract(audio, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        extract(audio, tmp_path / "killed", Network(stop_after), **options)
    network = Network()
    extract(audio, tmp_path / "killed", network, **options)
    assert (tmp_path / "whole/embeddings.h5").read_bytes() == (
        tmp_path / "killed/embeddings.h5").read_bytes()
    whole = Network()
    extract(audio, tmp_path / "again", whole, **options)
    assert sum(network.sizes) < sum(whole.sizes) or stop_after == 0


@pytest.mark.parametrize("ahead", [0, 1 << 20])
@pytest.mark.parametrize("threads", [1, 4, 100])
def test_reading_ahead_changes_nothing(tmp_path, monkeypatch, threads, ahead):
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(12):
        soundfile.write(audio / f"{number}.wav", noise(1 + number / 3, seed=number), RATE)
    soundfile.write(audio / "5.wav", np.zeros(RATE), RATE)
    options = {"block": 4, "max_failed": 0.5}
    extract(audio, tmp_path / "plain", **options)
    readers = set()
    whole = extraction.read_pieces

    def watched(*arguments, **options):
        readers.add(threading.current_thread())
        yield from whole(*arguments, **options)

    monkeypatch.setattr(extraction, "read_pieces", watched)
    monkeypatch.setattr(extraction, "AHEAD_BYTES", ahead)
    result = extract(audio, tmp_path / "ahead", threads=threads, **options)
    assert result["reasons"] == {"silent": 1}
    assert (tmp_path / "plain/embeddings.h5").read_bytes() == (
        tmp_path / "ahead/embeddings.h5").read_bytes()
    # long recordings are read where they are used, short ones elsewhere
    assert (threading.current_thread() in readers) == (ahead == 0)
    assert len(readers) <= (min(threads, extraction.READERS) if ahead else 1)


def test_without_levels_nothing_is_measured_and_all_else_is_the_same(tmp_path, monkeypatch):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(3), RATE)
    result = extract(audio, tmp_path / "with")
    assert 0 < result["windows_per_s"] < 1e6
    monkeypatch.setattr("l3hpc.audio.levels.level_blocks", None)
    extract(audio, tmp_path / "without", levels=False)
    plain, bare = read(tmp_path / "with"), read(tmp_path / "without")
    assert np.isnan(bare.pop("loudness")).all() and not np.isnan(plain.pop("loudness")).any()
    for name, values in plain.items():
        np.testing.assert_array_equal(bare[name], values)


def test_nothing_left_to_embed_has_no_rate(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(3), RATE)
    extract(audio, tmp_path / "out")
    assert extract(audio, tmp_path / "out")["windows_per_s"] is None


def test_scratch_of_other_settings_is_not_used(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(3), RATE)
    extract(audio, tmp_path / "out")
    out = tmp_path / "out"
    recordings = scan_recordings(audio)
    result = Extraction(Network(), {"kind": "other"}, audio, recordings, 1.0, False,
                        out / "scratch").run(out / "embeddings.h5", out / "skipped.csv")
    assert result["rows"] == 3


@pytest.mark.slow
def test_the_step_labels_an_untrained_teacher(tmp_path, runner):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(1, 48000), 48000)
    done = runner.run("extract", {"audio": audio, "weights": "untrained:5", "hop": 1.0})
    assert "untrained" in done.results[0]["teacher"]["label"]
    assert "random weights" in done.results[0]["teacher"]["label"]
    assert done.results[0]["dim"] == 512
    assert done.text == f"{done.results[0]['rows']} rows of 1 recording"


@pytest.mark.parametrize("name", ["extract", "embed"])
def test_the_engine_and_why_are_noted_and_in_the_result(runner, city, teacher, monkeypatch, name):
    notes = []
    monkeypatch.setattr(Progress, "note", lambda self, text: notes.append(text))
    key = "weights" if name == "extract" else "student"
    done = runner.run(name, {"audio": city / "audio", key: str(teacher), "engine": "ncnn",
                             "hop": 0.5})
    assert {result["engine"] for result in done.results} == {"ncnn"}
    assert any("engine ncnn (as requested), 2 threads" in note for note in notes)
    with h5py.File(done.folder / "0000/embeddings.h5") as file:
        assert np.isnan(file["loudness"][()]).all() == (name == "embed")


def test_missing_files_of_the_frozen_list_are_skipped(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(2), RATE)
    recordings = [*scan_recordings(audio), Recording("gone.wav", "s", None, None, 10, 0)]
    out = tmp_path / "out"
    out.mkdir()
    result = Extraction(Network(), {}, audio, recordings, 0.5, True, out / "scratch",
                        max_failed=0.5).run(out / "embeddings.h5", out / "skipped.csv")
    assert result["reasons"] == {"unreadable": 1}


class Recorder(Network):
    """A network during whose first batch another program writes into a recording."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def embed(self, frames, batch_size=None, on_batch=None):
        if not self.sizes:
            with open(self.path, "ab") as file:
                file.write(bytes(4 * RATE))
        return super().embed(frames, batch_size, on_batch)


def test_a_recording_that_grows_while_it_is_read_is_left_out(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(3):
        soundfile.write(audio / f"{number}.wav", noise(30, seed=number), RATE)
    progress = Progress()
    notes = []
    progress.note = notes.append
    # so long that it is read piece by piece, behind the network
    recorded = audio / "0.wav"
    soundfile.write(recorded, noise(3000), RATE)
    result = extract(audio, tmp_path / "out", Recorder(recorded), block=4, max_failed=0.5,
                     progress=progress)
    assert (result["recordings"], result["reasons"]) == (2, {"unreadable": 1})
    assert {*read(tmp_path / "out")["recording"]} == {1, 2}
    assert any("changed while it was read" in note for note in notes)
    assert result["changed"] == 1


def test_what_has_changed_since_the_submission_is_embedded_and_said(tmp_path):
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    out.mkdir()
    for number in range(4):
        soundfile.write(audio / f"{number}.wav", noise(2, seed=number), RATE)
    listed = scan_recordings(audio)
    soundfile.write(audio / "0.wav", noise(3), RATE)
    os.utime(audio / "1.wav")
    (audio / "2.wav").unlink()
    progress, notes = Progress(), []
    progress.note = notes.append
    result = Extraction(Network(), {"kind": "test"}, audio, listed, 0.5, True, out / "scratch",
                        max_failed=0.5, progress=progress,
                        ).run(out / "embeddings.h5", out / "skipped.csv")
    assert (result["recordings"], result["skipped"], result["changed"]) == (3, 1, 2)
    assert any(note.startswith("2 recordings have changed since the submission: 0.wav, 1.wav")
               for note in notes)
    text = steps.step("extract").summary([result, result])
    assert text == "28 rows of 6 recordings, 2 skipped, 4 changed since the submission"
    assert "changed" not in extract(audio, tmp_path / "again")


def test_what_a_recording_was_when_it_was_read_is_recorded(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "0.wav", noise(40), RATE)
    soundfile.write(audio / "1.wav", np.zeros(4000), RATE)  # skipped
    soundfile.write(audio / "2.wav", noise(2), RATE)
    extract(audio, tmp_path / "out", max_failed=0.5)
    with h5py.File(tmp_path / "out/embeddings.h5") as file:
        found = np.stack([file[f"recordings/{name}"][()] for name in FileState._fields], axis=1)
    assert tuple(found[0]) == FileState.of(audio / "0.wav")
    assert tuple(found[1]) == (-1, -1, -1)
    assert tuple(found[2]) == FileState.of(audio / "2.wav")


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_recording_that_is_replaced_between_two_attempts_is_read_again(tmp_path, is_whole):
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    # of one that is longer than a piece, the first block holds only the beginning
    seconds = 6 if is_whole else 200
    for number in range(3):
        soundfile.write(audio / f"{number}.wav", noise(seconds, seed=number), RATE)
    listed = scan_recordings(audio)
    out.mkdir()

    def attempt(network, progress=None):
        return Extraction(network, {"kind": "test"}, audio, listed, 0.5, True, out / "scratch",
                          block=5, progress=progress or Progress()).run(
                              out / "embeddings.h5", out / "skipped.csv")

    with pytest.raises(KeyboardInterrupt):
        attempt(Network(stop_after=2 if is_whole else 1))
    done = BlocksOnDisk(out / "scratch", read_json(out / "scratch/extraction.json")["settings"]
                        ).finished()
    assert done.windows[0] == (None if is_whole else 256)
    soundfile.write(audio / "0.wav", noise(seconds, seed=7), RATE)
    os.utime(audio / "0.wav", (1, 1))
    progress, notes = Progress(), []
    progress.note = notes.append
    attempt(Network(), progress)
    assert any(note.startswith("1 recording has changed since the attempt before: 0.wav;")
               for note in notes)
    extract(audio, tmp_path / "whole")
    killed, whole = read(out), read(tmp_path / "whole")
    order = np.lexsort((killed["frame"], killed["recording"]))
    np.testing.assert_array_equal(killed["l3_embedding"][order], whole["l3_embedding"])


def test_all_of_a_task_may_be_unusable_where_that_is_asked_for(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(2):
        soundfile.write(audio / f"{number}.wav", noise(0.5), RATE)
    with pytest.raises(L3hpcError, match="2 of 2 recordings cannot be used"):
        extract(audio, tmp_path / "strict", max_failed=0.99)
    result = extract(audio, tmp_path / "out", max_failed=1.0)
    assert (result["rows"], result["skipped"], result["reasons"]) == (0, 2, {"too short": 2})
    assert read(tmp_path / "out")["l3_embedding"].shape == (0, 4)
