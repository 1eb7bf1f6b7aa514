"""Extraction of odd recordings: each is skipped, the others are embedded."""

import csv

import h5py
import numpy as np
import soundfile

from l3hpc.datasets.corpus import scan
from l3hpc.datasets.extraction import Extraction

RATE = 2000


class Network:
    """An embedding that shows its input: mean and maximum."""

    rate, dim = RATE, 2

    def embed(self, frames, batch_size=None, on_batch=None):
        frames = frames[:]
        return np.stack([frames.mean(1), frames.max(1)], axis=1).astype(np.float32)


def noise(seconds):
    return np.random.default_rng(0).uniform(-0.5, 0.5, int(seconds * RATE)).astype(np.float32)


def extract(tmp_path, **options):
    """What became of the recordings in ``audio``: the result, and the reasons of the skipped."""
    result = Extraction(Network(), {"kind": "test"}, tmp_path / "audio", scan(tmp_path / "audio"),
                        1.0, False, tmp_path / "scratch", max_failed=0.9, **options).run(
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
