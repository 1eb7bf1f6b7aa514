"""Many recordings: which are meant, what comes out, and that one bad file is one bad file."""

import dataclasses
import os
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc.audio.files import AudioError
from l3hpc.embedding import batch, embed
from l3hpc.embedding.batch import EmbedSettings, embed_all
from l3hpc.embedding.embed import AudioWarning, get_embedding
from l3hpc.embedding.folders import EmbedTask, output_name, plan_embedding
from l3hpc.embedding.model import load_model
from l3hpc.errors import InputError


def tasks_of(*arguments, **options):
    return plan_embedding(*arguments, **options).tasks


def names(works, base):
    return [(str(work.recording.relative_to(base)), str(work.output.relative_to(base.parent)))
            for work in works]


def test_folders_keep_their_levels(folder):
    out = folder.parent / "out"
    assert names(tasks_of([folder], out), folder) == [
        ("a.wav", "out/a.npz"), ("broken.wav", "out/broken.npz"), ("empty.wav", "out/empty.npz"),
        ("short.wav", "out/short.npz"), ("silent.wav", "out/silent.npz"),
        ("street/b.flac", "out/street/b.npz"), ("street/night/a.ogg", "out/street/night/a.npz")]
    assert names(tasks_of([folder / "street"]), folder) == [
        ("street/b.flac", "in/street/b.npz"), ("street/night/a.ogg", "in/street/night/a.npz")]


def test_globs_and_files_mean_each_recording_once(folder, monkeypatch):
    (folder.parent / "link.wav").symlink_to(folder / "a.wav")
    works = tasks_of([folder / "a.wav", folder / "**/*.ogg", folder / "*.wav",
                      folder / "s*"], format="csv")
    assert [os.path.relpath(work.recording, folder) for work in works] == [
        "a.wav", "street/night/a.ogg", "broken.wav", "empty.wav", "short.wav", "silent.wav",
        "street/b.flac"]
    assert len(tasks_of([folder, folder / "street", os.path.relpath(folder / "street")],
                        folder.parent / "out")) == 7
    (folder / "street/back").symlink_to(folder)  # a link that leads back
    assert len(tasks_of([folder])) == 7
    monkeypatch.chdir(folder)
    assert len(tasks_of(["a.wav", folder / "a.wav"])) == 1


def test_a_link_to_a_recording_has_an_output_of_its_own(folder):
    out = folder.parent / "out"
    (folder / "street/a.wav").symlink_to(folder / "a.wav")
    (folder / "z.wav").symlink_to("a.wav")
    found = names(tasks_of([folder], out), folder)
    assert len(found) == 9
    assert ("street/a.wav", "out/street/a.npz") in found and ("z.wav", "out/z.npz") in found
    assert len(tasks_of([folder / "a.wav", folder / "street/a.wav"])) == 2
    # one output, one sound
    assert len(tasks_of([folder / "a.wav", folder / "street/a.wav"], out)) == 1


@pytest.mark.parametrize(("suffix", "format_", "name"), [
    (None, "npz", "x.y.npz"), ("", "npz", "x.y.npz"), ("emb", "npz", "x.y_emb.npz"),
    (".emb", "h5", "x.y.emb.h5"), ("emb", "csv", "x.y_emb.csv")])
def test_outputs_are_named_as_by_openl3(folder, suffix, format_, name):
    assert output_name(folder / "x.y.wav", suffix, format_) == name


def test_refused_before_anything_is_done(folder, tmp_path):
    soundfile.write(folder / "a.flac", np.zeros(100), 8000)
    with pytest.raises(InputError, match=r"a\.flac and .*a\.wav would both be written to"):
        tasks_of([folder])
    # however the folder is written
    with pytest.raises(InputError, match="would both be written to"):
        tasks_of([folder / "a.wav", os.path.relpath(folder / "a.flac")])
    with pytest.raises(InputError, match="no such file or folder"):
        tasks_of([folder / "none.wav"])
    (tmp_path / "bare").mkdir()
    for nothing, why in (([], "^no inputs"), ([tmp_path / "bare"], "contains no recordings"),
                         ([folder / "*.aiff"], "no file matches")):
        with pytest.raises(InputError, match=why):
            tasks_of(nothing)
    with pytest.raises(InputError, match="contains a /"):
        tasks_of([folder / "a.wav"], suffix="a/b")
    with pytest.raises(InputError, match="csv, h5, npz"):
        tasks_of([folder / "a.wav"], format="pickle")


@pytest.fixture
def alone(model):
    """The model with a network that is not called for two parts at a time, nor on a thread."""
    class Runner:
        def embed(self, frames, *_):
            assert threading.current_thread() is threading.main_thread()
            return model.runner.embed(frames)

    return dataclasses.replace(model, runner=Runner())


@pytest.mark.parametrize(("most", "seconds", "wanted"), [
    (4, 99, [4, 4, 1]),
    (99, 99, [9]),
    (99, 2, [3, 3, 3]),  # frames whose starts are two seconds apart end a piece
])
@pytest.mark.parametrize("share", [1, 2])
def test_the_next_piece_of_a_recording_is_read_while_the_network_computes(
        model, alone, monkeypatch, most, seconds, wanted, share):
    used = model if share == 2 else alone
    assert used.shares_threads == (share == 2)
    monkeypatch.setattr(embed, "PIECE", most * share)
    monkeypatch.setattr(embed, "PIECE_BYTES", 4 * 8000 * seconds * share)
    read, pieces = [threading.Event() for _ in range(9)], {}
    signal = np.arange(9 * 8000, dtype=np.float32)

    def blocks():
        for number, event in enumerate(read):
            event.set()
            yield signal[8000 * number:8000 * (number + 1)]

    def waiting(_model, frames, _, on_batch):
        piece = np.concatenate(frames.parts(0, len(frames)))
        first = int(piece[0, 0]) // 8000
        pieces[first] = len(piece)
        # A frame of a second for each block; the next piece is there, too.
        assert read[min(first + len(piece) + wanted[0], 9) - 1].wait(120)
        on_batch(len(piece))
        return piece[:, :5]

    monkeypatch.setattr(type(model), "embed", waiting)
    told = []
    found = list(embed.embed_blocks(blocks(), 8000, used,
                                    EmbedSettings(hop_size=1.0, center=False), None, told.append))
    assert [pieces[first] for first in sorted(pieces)] == wanted == [len(one) for one, _ in found]
    assert np.concatenate([one for one, _ in found])[:, 0].tolist() == signal[::8000].tolist()
    assert np.concatenate([times for _, times in found]).tolist() == list(range(9))
    assert sorted(told) == sorted(wanted)


def test_two_parts_are_embedded_at_once_where_the_engine_shares_its_threads(model, monkeypatch):
    both = threading.Barrier(2)

    def together(_model, frames, *_):
        both.wait(120)
        return frames

    monkeypatch.setattr(type(model), "embed", together)
    parts = [(np.full((2, 5), number), number) for number in range(4)]
    found = list(model.embed_each([*parts[:3], (None, "nothing"), parts[3]]))
    assert [item for _, item in found] == [0, 1, 2, "nothing", 3]
    assert [embeddings.tolist() for embeddings, _ in found] == [
        *([[number] * 5] * 2 for number in range(3)), [], [[3] * 5] * 2]


def test_after_an_error_no_part_is_embedded_to_its_end(model, monkeypatch):
    begun, batches = threading.Event(), []

    def endless(_model, frames, _, on_batch):
        while True:
            batches.append(on_batch(1))
            begun.set()
            time.sleep(0.001)

    def parts():
        yield np.zeros((1, 5)), 0
        assert begun.wait(120)
        raise OSError("no more")

    monkeypatch.setattr(type(model), "embed", endless)
    with pytest.raises(OSError, match="no more"):
        list(model.embed_each(parts()))
    assert batches


def test_parts_are_embedded_one_by_one_by_other_networks(model, alone, sound):
    frames = sound(4).reshape(4, 8000)
    parts = [(frames[:1], "a"), (None, "nothing"), (frames[1:], "b")]
    found = list(alone.embed_each(parts))
    assert [item for _, item in found] == ["a", "nothing", "b"]
    assert np.array_equal(np.concatenate([one for one, _ in found]), model.embed(frames))


def test_the_next_group_of_recordings_is_collected_while_the_network_computes(
        model, monkeypatch, tmp_path, sound):
    for number in range(12):
        soundfile.write(tmp_path / f"{number:02d}.wav", sound(1.0), 8000)
    monkeypatch.setattr(batch, "GROUP_FRAMES", 6)
    monkeypatch.setattr(batch, "allocated_cores", lambda: 1)
    found, seen, real = {}, threading.Event(), batch._read

    def read(task, *rest):
        found[task.recording.name] = real(task, *rest)
        if task.recording.name == "08.wav":
            seen.set()
        return found[task.recording.name]

    def waiting(_model, frames, *_):
        # The next group, 3 to 5, has been taken from those that were read ahead, and more are read.
        assert seen.wait(120)
        return np.ones((len(frames), 5), np.float32)

    monkeypatch.setattr(batch, "_read", read)
    monkeypatch.setattr(type(model), "embed", waiting)
    settings = EmbedSettings(hop_size=1.0, center=False)
    results = list(embed_all(model, tasks_of([tmp_path]), settings))
    assert [one.task.recording.name for one in results] == sorted(found)
    assert {(one.state, one.frames) for one in results} == {("done", 1)}


def test_groups_grow_and_what_is_not_a_short_recording_is_alone(monkeypatch):
    monkeypatch.setattr(batch, "FIRST_FRAMES", 2)
    short = [batch._Read(EmbedTask(Path(f"{number}.wav"), Path(f"{number}.npz")), np.zeros((1, 9)))
             for number in range(16)]
    failed, long = (batch._Read(EmbedTask(Path(name), Path(name)), error=error)
                    for name, error in (("failed", "why"), ("long", None)))
    assert list(batch._groups([], 6)) == []
    assert list(batch._groups([failed, *short[:15], long, short[15]], 6)) == [
        failed, short[:2], short[2:6], short[6:12], short[12:15], long, short[15:]]


def test_one_bad_file_is_one_bad_file(folder, model):
    works = tasks_of([folder], folder.parent / "out")
    found = list(embed_all(model, works, EmbedSettings(hop_size=0.25)))
    assert [one.task for one in found] == works
    told = [(one.task.recording.name, one.state, one.frames, one.message[:34]) for one in found]
    assert told == [
        ("a.wav", "done", 9, ""), ("broken.wav", "failed", 0, "not a readable sound file: Format "),
        ("empty.wav", "failed", 0, "contains no samples"),
        ("short.wav", "done", 1, "is 0.300 s long; padded with zeros"),
        ("silent.wav", "done", 5, "every sample is zero"), ("b.flac", "done", 5, ""),
        ("a.ogg", "done", 11, "")]
    for one in found:
        assert one.task.output.exists() == (one.state == "done")
        if one.state == "done" and not one.message:
            signal, rate = soundfile.read(one.task.recording, dtype="float32")
            wanted, times = get_embedding(signal, rate, model, hop_size=0.25)
            with np.load(one.task.output, allow_pickle=False) as file:
                assert sorted(file) == ["embedding", "timestamps"]
                assert (file["embedding"].dtype, file["timestamps"].dtype) == ("f4", "f8")
                np.testing.assert_allclose(file["embedding"], wanted, rtol=1e-5, atol=1e-5)
                np.testing.assert_array_equal(file["timestamps"], times)
    assert not list(folder.parent.rglob("*.tmp"))


def test_what_exists_is_skipped_unless_it_shall_be_overwritten(folder, model):
    works = tasks_of([folder / "a.wav", folder / "short.wav", folder / "street/b.flac"])
    works[1].output.write_bytes(b"mine")
    states = [one.state for one in embed_all(model, works, EmbedSettings())]
    assert states == ["done", "skipped", "done"] and works[1].output.read_bytes() == b"mine"
    before = works[0].output.read_bytes()
    again = list(embed_all(model, works, EmbedSettings(hop_size=0.5)))
    assert [one.state for one in again] == ["skipped"] * 3
    assert works[0].output.read_bytes() == before
    again = list(embed_all(model, works, EmbedSettings(hop_size=0.5, overwrite=True)))
    assert [one.state for one in again] == ["done"] * 3
    assert len(np.load(works[0].output)["timestamps"]) == 5


@pytest.mark.parametrize("long_s", [60.0, 1.0])
def test_a_folder_in_place_of_an_output_is_no_output(folder, model, monkeypatch, long_s):
    monkeypatch.setattr(batch, "LONG_S", long_s)
    (work,) = tasks_of([folder / "a.wav"])
    work.output.mkdir()
    (outcome,) = embed_all(model, [work], EmbedSettings())
    assert (outcome.state, outcome.message) == ("failed", f"{work.output}: Is a directory")


def test_a_name_that_is_not_utf_8_is_a_name(folder, model):
    name = os.fsdecode(b"caf\xe9")
    (folder / "a.wav").rename(folder / f"{name}.wav")
    (folder / f"{name}_bad.wav").write_bytes(b"RIFF")
    works = tasks_of([folder / f"{name}.wav", folder / f"{name}_bad.wav",
                      folder / "short.wav"])
    found = list(embed_all(model, works, EmbedSettings()))
    assert [one.state for one in found] == ["done", "failed", "done"]
    assert found[1].message.startswith("not a readable sound file: ")
    assert b"caf\xe9.npz" in os.listdir(os.fsencode(folder))


def test_a_length_that_the_header_does_not_tell(folder, model):
    soundfile.write(folder / "s.flac", soundfile.read(folder / "a.wav")[0], 44100)
    (known,) = tasks_of([folder / "s.flac"])
    (folder / "piped").mkdir()
    data = bytearray((folder / "s.flac").read_bytes())
    data[21] &= 0xF0  # of the 36 bits that count the samples
    data[22:26] = bytes(4)
    (folder / "piped/s.flac").write_bytes(data)
    (piped,) = tasks_of([folder / "piped"])
    found = list(embed_all(model, [known, piped], EmbedSettings()))
    assert [(one.state, one.frames, one.message) for one in found] == [("done", 19, "")] * 2
    found, wanted = (np.load(work.output)["embedding"] for work in (piped, known))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_three_formats_hold_the_same(folder, model):
    found = {}
    for kind in ("npz", "h5", "csv"):
        (work,) = tasks_of([folder / "a.wav"], format=kind)
        list(embed_all(model, [work], EmbedSettings(center=False)))
        found[kind] = work.output
    with np.load(found["npz"]) as file:
        embedding, times = file["embedding"], file["timestamps"]
    with h5py.File(found["h5"]) as file:
        np.testing.assert_array_equal(file["embedding"][()], embedding)
        np.testing.assert_array_equal(file["timestamps"][()], times)
        assert file["embedding"].dtype == np.float32
        assert "8000 Hz, 32 mels" in file.attrs["model"] and file.attrs["hop_size"] == 0.1
        assert file.attrs["center"] == 0 and file.attrs["random_weights"] == 0
    lines = found["csv"].read_text().splitlines()
    assert lines[0] == "timestamp,e0,e1,e2,e3,e4"
    table = np.array([line.split(",") for line in lines[1:]])
    np.testing.assert_array_equal(table[:, 1:].astype(np.float32), embedding)  # every bit
    np.testing.assert_allclose(table[:, 0].astype(float), times, atol=1e-9)


@pytest.mark.parametrize("rate", [8000, 11025])
def test_long_recordings_are_read_in_pieces_and_give_the_same(tmp_path, model, sound, rate,
                                                              monkeypatch):
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 30_000)
    monkeypatch.setattr(batch, "LONG_S", 10.0)
    monkeypatch.setattr(embed, "PIECE", 7)
    path = tmp_path / "long.wav"
    soundfile.write(path, sound(23.7, rate), rate, "FLOAT")
    read = []
    monkeypatch.setattr(batch, "read_audio", lambda *_, **__: read.append(1))
    task = EmbedTask(path, tmp_path / "long.npz")
    (outcome,) = embed_all(model, [task], EmbedSettings(hop_size=0.3))
    assert outcome.state == "done" and not read
    wanted, times = get_embedding(sound(23.7, rate), rate, model, hop_size=0.3)
    with np.load(outcome.task.output) as file:
        np.testing.assert_allclose(file["embedding"], wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(file["timestamps"], times, rtol=0, atol=1e-12)


def test_a_long_silence_is_noticed(tmp_path, model, monkeypatch):
    monkeypatch.setattr(batch, "LONG_S", 1.0)
    soundfile.write(tmp_path / "s.wav", np.zeros(20_000), 8000)
    (outcome,) = embed_all(model, tasks_of([tmp_path / "s.wav"]), EmbedSettings())
    assert (outcome.state, outcome.message) == ("done", "every sample is zero")
    with pytest.warns(AudioWarning, match="s.wav: every sample is zero"):
        get_embedding(tmp_path / "s.wav", model=model)


def test_a_batch_wide_convention_takes_recordings_one_by_one(folder, student, monkeypatch):
    monkeypatch.setattr(batch, "LONG_S", 2.0)  # a.wav and a.ogg are long
    model = load_model(student, frontend="A'", engine="ncnn")
    works = tasks_of([folder / "a.wav", folder / "street"], folder.parent / "out")
    for one in embed_all(model, works, EmbedSettings()):
        signal, rate = soundfile.read(one.task.recording, dtype="float32")
        np.testing.assert_allclose(np.load(one.task.output)["embedding"],
                                   get_embedding(signal, rate, model)[0], rtol=1e-6, atol=1e-6)


def test_the_published_resampler_in_files_long_and_short(folder, model, monkeypatch):
    (work,) = tasks_of([folder / "a.wav"])
    signal, rate = soundfile.read(work.recording, dtype="float32")
    wanted, _ = get_embedding(signal, rate, model, resampler="kaiser_best")
    for long_s in (60.0, 1.0):
        monkeypatch.setattr(batch, "LONG_S", long_s)
        list(embed_all(model, [work], EmbedSettings(overwrite=True, resampler="kaiser_best")))
        np.testing.assert_allclose(np.load(work.output)["embedding"], wanted, rtol=1e-6, atol=1e-6)


def test_refusals_of_files(folder, model, tmp_path):
    with pytest.raises(AudioError, match="contains no samples"):
        get_embedding(folder / "empty.wav", model=model)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["audio"] = np.zeros((2, 8000))
    with pytest.raises(AudioError, match="rows are separate recordings"):
        get_embedding(tmp_path / "rows.h5", model=model)
    with pytest.raises(InputError, match="hop of"):
        list(embed_all(model, [], EmbedSettings(hop_size=1e-6)))


def test_a_folder_that_cannot_be_written_is_an_outcome(folder, model):
    (folder / "in the way").write_text("a file")
    works = [EmbedTask(folder / "a.wav", folder / "in the way/a.npz"),
             EmbedTask(folder / "short.wav", folder / "short.npz")]
    found = list(embed_all(model, works, EmbedSettings()))
    assert [one.state for one in found] == ["failed", "done"]
    assert "in the way" in found[0].message
