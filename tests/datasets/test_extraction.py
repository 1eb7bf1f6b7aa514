"""Extraction of odd recordings: each is skipped, the others are embedded."""

import csv
import threading
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc.console.progress import Progress
from l3hpc.datasets import extraction
from l3hpc.datasets.check import check_audio
from l3hpc.datasets.corpus import scan_recordings
from l3hpc.datasets.extraction import Extraction
from l3hpc.errors import InputError, L3hpcError

RATE = 2000


class Network:
    """An embedding that shows its input: mean and maximum."""

    rate, window_s, dim = RATE, 1.0, 2

    def embed(self, frames, batch_size=None, on_batch=None):
        frames = frames[:]
        return np.stack([frames.mean(1), frames.max(1)], axis=1).astype(np.float32)


def noise(seconds):
    return np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * RATE)).astype(np.float32)


def extract(tmp_path, **options):
    """What became of the recordings in ``audio``: the result, and the reasons of the skipped."""
    audio = tmp_path / "audio"
    result = Extraction(Network(), {"kind": "test"}, audio, scan_recordings(audio), 1.0, False,
                        tmp_path / "scratch", max_failed=0.9, **options).run(
                            tmp_path / "embeddings.h5", tmp_path / "skipped.csv")
    with open(tmp_path / "skipped.csv", newline="") as stream:
        return result, {row["file"]: row["reason"] for row in csv.DictReader(stream)}


def test_links_to_nothing_and_damaged_rows_are_skipped(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "good.wav", noise(3), RATE)
    for name in ("gone.wav", "gone.h5"):
        (audio / name).symlink_to(tmp_path / "nowhere")
    with h5py.File(audio / "rows.h5", "w") as file:
        rows = file.create_dataset("audio", (70, RATE), "f4", chunks=(1, RATE), fletcher32=True)
        rows[...] = noise(70).reshape(70, RATE)
        place = rows.id.get_chunk_info(66).byte_offset
    with open(audio / "rows.h5", "r+b") as stream:
        stream.seek(place + 100)
        stream.write(b"damage")
    # in blocks of four, so that whole blocks of the damaged file are already written
    result, reasons = extract(tmp_path, block=4)
    assert reasons == dict.fromkeys(("gone.h5", "gone.wav", "rows.h5"), "unreadable")
    assert (result["rows"], result["recordings"], result["skipped"]) == (3, 1, 3)
    with h5py.File(tmp_path / "embeddings.h5") as file:
        np.testing.assert_allclose(file["l3_embedding"][:, 1], noise(3).reshape(3, RATE).max(1),
                                   atol=1e-4)


def test_a_header_that_tells_no_length_gives_the_same_rows(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.flac", noise(3), RATE)
    data = bytearray((audio / "a.flac").read_bytes())
    data[21] &= 0xF0  # of the 36 bits that count the samples
    data[22:26] = bytes(4)
    (audio / "b.flac").write_bytes(data)
    result, reasons = extract(tmp_path)
    assert reasons == {} and result["rows"] == 6
    with h5py.File(tmp_path / "embeddings.h5") as file:
        np.testing.assert_array_equal(file["l3_embedding"][:3], file["l3_embedding"][3:])


class Fragile(Network):
    """Gives NaN for windows with a sample above 0.9; counts what it was asked for."""

    def embed(self, frames, batch_size=None, on_batch=None):
        found = super().embed(frames)
        found[found[:, 1] > 0.9] = np.nan
        return found


def test_a_recording_whose_embeddings_are_not_finite_is_the_one_that_is_skipped(tmp_path):
    """In the middle of a block, over several blocks, and never a good file beside it."""
    audio = tmp_path / "audio"
    audio.mkdir()
    for name, seconds, loud in (("a.wav", 3, None), ("b.wav", 11, 9), ("c.wav", 2, None),
                                ("d.wav", 2, 0), ("e.wav", 3, None)):
        sound = noise(seconds)
        if loud is not None:
            sound[loud * RATE + 7] = 0.95
        soundfile.write(audio / name, sound, RATE, subtype="FLOAT")
    said = []
    for block in (4, 1000):
        progress = Progress()
        progress.note = said.append
        place = tmp_path / str(block)
        place.mkdir()
        result = Extraction(Fragile(), {"kind": "test"}, audio, scan_recordings(audio), 1.0, False,
                            place / "scratch", max_failed=0.4, block=block,
                            progress=progress).run(place / "e.h5", place / "skipped.csv")
        assert result["rows"] == 8 and result["recordings"] == 3 and result["skipped"] == 2
        assert (place / "skipped.csv").read_text() == \
            "file,reason\nb.wav,unreadable\nd.wav,unreadable\n"
        with h5py.File(place / "e.h5") as file:
            assert np.isfinite(file["l3_embedding"][()]).all()
            assert file["recording"][()].tolist() == [0] * 3 + [2] * 2 + [4] * 3
    assert "skipped b.wav: gives 1 embedding that is not finite (unreadable)" in said
    with pytest.raises(L3hpcError, match=r"2 of 5 recordings cannot be used: b\.wav .*, d\.wav "
                       ) as caught:
        Extraction(Fragile(), {"kind": "test"}, audio, scan_recordings(audio), 1.0, False,
                   tmp_path / "again", max_failed=0.3, settings=("embed.max_failed", "folds.x"),
                   ).run(tmp_path / "e.h5", tmp_path / "s.csv")
    error = caught.value
    assert "b.wav (gives 1 embedding that is not finite), d.wav (unreadable)" in error.message
    assert "at most 30% may be unusable (embed.max_failed)" in error.allowed
    assert error.hint.endswith(" with --set embed.max_failed=0.5 --set folds.x=0.5")
    assert not any("\n" in part for part in (error.message, error.allowed, error.hint))


def test_repaired_recordings_are_read_again_by_the_next_attempt(tmp_path):
    """Also one whose first blocks are written: its rows are those of the new file alone."""
    audio = tmp_path / "audio"
    audio.mkdir()
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(audio / name, noise(6), RATE, subtype="FLOAT")
    recordings = scan_recordings(audio)
    broken = np.concatenate([noise(5), np.full(RATE, 0.95, np.float32)])
    soundfile.write(audio / "b.wav", broken, RATE, subtype="FLOAT")
    (audio / "c.wav").write_bytes(b"RIFF")

    def attempt():
        return Extraction(Fragile(), {"kind": "test"}, audio, recordings, 1.0, False,
                          tmp_path / "scratch", block=4, max_failed=0.5,
                          ).run(tmp_path / "e.h5", tmp_path / "s.csv")

    with pytest.raises(L3hpcError, match=r"b\.wav \(gives .*, c\.wav \(unreadable"):
        attempt()
    for _ in range(2):  # the reason is stated again, as it is now
        (audio / "c.wav").unlink(missing_ok=True)
        with pytest.raises(L3hpcError, match="2 of 3 recordings cannot be used") as caught:
            attempt()
        assert "or remove them and submit it again" in caught.value.hint
    soundfile.write(audio / "b.wav", -noise(6), RATE, subtype="FLOAT")
    soundfile.write(audio / "c.wav", noise(6), RATE, subtype="FLOAT")
    assert attempt()["rows"] == 18
    with h5py.File(tmp_path / "e.h5") as file:
        assert sorted(file["recording"][()].tolist()) == [0] * 6 + [1] * 6 + [2] * 6
        of_b = file["recording"][()] == 1
        np.testing.assert_allclose(file["l3_embedding"][of_b, 0],
                                   -noise(6).reshape(6, RATE).mean(1), atol=1e-4)


def test_the_extraction_ends_when_more_recordings_are_unusable_than_allowed(tmp_path):
    """What is embedded by then is kept, and the next attempt reads the others alone."""
    audio = tmp_path / "audio"
    audio.mkdir()
    names = [f"{number:02d}.wav" for number in range(40)]
    broken = np.concatenate([noise(3), np.full(RATE, 0.95, np.float32)])
    for name in names:
        soundfile.write(audio / name, noise(4), RATE, subtype="FLOAT")
    for name in names[10:14]:
        soundfile.write(audio / name, broken, RATE, subtype="FLOAT")
    recordings, embedded = scan_recordings(audio), []

    class Counting(Fragile):
        def embed(self, frames, batch_size=None, on_batch=None):
            embedded.append(len(frames))
            return super().embed(frames, batch_size, on_batch)

    def attempt():
        embedded.clear()
        return Extraction(Counting(), {"kind": "test"}, audio, recordings, 1.0, False,
                          tmp_path / "scratch", block=4, max_failed=0.05,
                          ).run(tmp_path / "e.h5", tmp_path / "s.csv")

    with pytest.raises(L3hpcError, match=r"^\S+ [34] of 40 recordings cannot be used "
                                         r"\(2[3-6] more were not read\): 10\.wav") as caught:
        attempt()
    assert sum(embedded) <= 17 * 4
    assert f"(l3hpc data check {audio} --listen finds all)" in caught.value.hint
    for name in names[10:14]:
        soundfile.write(audio / name, noise(4), RATE, subtype="FLOAT")
    assert attempt()["rows"] == 160 and sum(embedded) <= 30 * 4
    # what cannot be opened is known before the network has begun, and all of it
    for name in names[20:]:
        (audio / name).write_bytes(b"RIFF")
    (tmp_path / "scratch" / "extraction.json").unlink()
    with pytest.raises(L3hpcError, match=r"20 of 40 recordings cannot be used \(20 more were"):
        attempt()
    assert embedded in ([], [0])


def test_a_recording_that_is_added_after_the_submission_is_read(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(3), RATE, subtype="FLOAT")
    (audio / "recordings.csv").write_text(
        "file,sensor,timestamp\na.wav,s,1511254800\nb.wav,s,1511258400\n")
    recordings = scan_recordings(audio)  # as the submission did
    assert [one.size < 0 for one in recordings] == [False, True]

    def attempt():
        return Extraction(Fragile(), {"kind": "test"}, audio, recordings, 1.0, False,
                          tmp_path / "scratch", block=4).run(tmp_path / "e.h5", tmp_path / "s.csv")

    with pytest.raises(L3hpcError, match=r"b\.wav \(no such file\)"):
        attempt()
    soundfile.write(audio / "b.wav", noise(3), RATE, subtype="FLOAT")
    assert attempt()["rows"] == 6
    assert (tmp_path / "s.csv").read_text().splitlines()[1:] == []


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "loop/b.wav", "a.wav/b.wav"])
def test_a_name_that_no_file_can_have_is_that_of_a_missing_recording(tmp_path, name):
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / "loop").symlink_to("loop")
    soundfile.write(audio / "a.wav", noise(3), RATE, subtype="FLOAT")
    (audio / "recordings.csv").write_text(
        f"file,sensor,timestamp\na.wav,s,1511254800\n{name},s,1511258400\n")
    with pytest.raises(L3hpcError, match=r"b?\.wav \(no such file\)"):
        Extraction(Fragile(), {"kind": "test"}, audio, scan_recordings(audio), 1.0, False,
                   tmp_path / "scratch", block=4).run(tmp_path / "e.h5", tmp_path / "s.csv")


class Together(Network):
    """Computes two blocks at once, or waits for ever; ``engine`` says that it can."""

    engine = SimpleNamespace(name="test", few_shapes=False, batch_size=len, run=len,
                             run_batches=len)

    def __init__(self):
        self.both = threading.Barrier(2)

    def embed(self, frames, **_):
        self.both.wait(60)
        return super().embed(frames)


class Alone(Network):
    """Notices when it is called for two blocks at once."""

    def __init__(self):
        self.busy = threading.Lock()

    def embed(self, frames, **_):
        assert self.busy.acquire(blocking=False)
        time.sleep(0.01)
        self.busy.release()
        return super().embed(frames)


@pytest.mark.parametrize("kind", [Together, Alone])
def test_two_blocks_are_embedded_at_once_where_the_engine_shares_its_threads(tmp_path, kind):
    audio = tmp_path / "audio"
    audio.mkdir()
    sound = noise(16)
    for number, part in enumerate(np.split(sound, 4)):
        soundfile.write(audio / f"{number}.wav", part, RATE, subtype="FLOAT")
    result = Extraction(kind(), {"kind": "test"}, audio, scan_recordings(audio), 1.0, False,
                        tmp_path / "scratch", block=4).run(tmp_path / "e.h5", tmp_path / "s.csv")
    assert result["rows"] == 16
    with h5py.File(tmp_path / "e.h5") as file:
        assert np.array_equal(file["l3_embedding"][:, 1], sound.reshape(16, RATE).max(axis=1))
        assert file["recording"][()].tolist() == [index // 4 for index in range(16)]
        assert file["frame"][()].tolist() == [0, 1, 2, 3] * 4


def test_after_an_error_no_block_is_embedded_to_its_end(tmp_path, monkeypatch):
    (tmp_path / "audio").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / f"audio/{number}.wav", noise(4), RATE)
    begun, read = threading.Event(), extraction.read_pieces

    def endless(self, frames, batch_size=None, on_batch=None):
        while True:
            on_batch(0)
            begun.set()
            time.sleep(0.001)

    def pieces(path, *args, **options):
        if path.name == "1.wav":
            assert begun.wait(120)
            raise MemoryError("no more")
        return read(path, *args, **options)

    monkeypatch.setattr(Network, "embed", endless)
    monkeypatch.setattr(extraction, "read_pieces", pieces)
    with pytest.raises(MemoryError, match="no more"):
        extract(tmp_path, block=4)


def test_the_first_blocks_are_small(tmp_path, monkeypatch):
    (tmp_path / "audio").mkdir()
    for number in range(20):
        soundfile.write(tmp_path / f"audio/{number:02d}.wav", noise(1), RATE)
    monkeypatch.setattr(extraction, "FIRST_BLOCK", 2)
    sizes, embed = [], Network.embed
    monkeypatch.setattr(Network, "embed", lambda self, frames, **_:
                        sizes.append(len(frames)) or embed(self, frames))
    assert extract(tmp_path, block=8)[0]["rows"] == 20
    assert sizes == [2, 4, 8, 6]


def test_a_network_that_gives_no_numbers_is_named_and_no_recording(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", noise(3), RATE)
    network = Network()
    network.embed = lambda frames, **_: np.full((len(frames), 2), np.inf, np.float32)
    with pytest.raises(InputError, match="the network gives non-finite embeddings for any"):
        Extraction(network, {"kind": "test"}, audio, scan_recordings(audio), 1.0, False,
                   tmp_path / "scratch").run(tmp_path / "e.h5", tmp_path / "s.csv")


def test_a_header_with_a_rate_of_1_hz_costs_its_own_file_alone(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "good.wav", noise(3), RATE)
    soundfile.write(audio / "slow.wav", noise(3)[:50], 1)
    with h5py.File(audio / "slow.h5", "w") as file:
        file["audio"] = noise(3).reshape(3, RATE)
        file["audio"].attrs["rate"] = 1
    said = []
    progress = Progress()
    progress.note = said.append
    result = Extraction(Network(), {"kind": "test"}, audio, scan_recordings(audio), 0.5, False,
                        tmp_path / "scratch", max_failed=0.9, progress=progress).run(
                            tmp_path / "embeddings.h5", tmp_path / "skipped.csv")
    assert (result["recordings"], result["skipped"]) == (1, 2)
    assert all("has a sample rate of 1 Hz, less than one sample per hop" in words for words in said)


def test_samples_beyond_any_recording_count_as_an_unreadable_file(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    for name, peak in (("a.wav", 0.3), ("b.wav", 1e29), ("c.wav", 0.3)):
        soundfile.write(audio / name, noise(3) * peak, RATE, subtype="FLOAT")
    data = (audio / "c.wav").read_bytes()
    (audio / "c.wav").write_bytes(data[:-3 * RATE])
    said = []
    progress = Progress()
    progress.note = said.append
    result, reasons = extract(tmp_path, progress=progress)
    assert reasons == {"b.wav": "unreadable"} and result["rows"] == 3 + 3
    assert said[0].startswith("skipped b.wav: contains samples of up to ")
    assert said[1].startswith("c.wav ends early: 2.250 s of audio, header states 3.000 s")


def test_a_line_end_in_a_name_starts_no_line_of_its_own(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / "a\nhint: all is well.wav").touch()
    with pytest.raises(L3hpcError) as caught:
        extract(tmp_path)
    assert "a\\nhint: all is well.wav (" in caught.value.message
    [found] = check_audio(audio).problems
    assert str(found).endswith(": a\\nhint: all is well.wav")
