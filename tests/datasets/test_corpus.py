"""The listing of a corpus: names, tables, what is refused, and what changes its digest."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from people import BOB, as_person, root

from l3hpc.datasets import corpus
from l3hpc.errors import InputError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"RIFF")


@pytest.mark.parametrize(("name", "sensor", "timestamp"), [
    ("n1/clip.wav", "n1", None),
    ("n1/deep/x_1511272800.wav", "n1", 1511272800.0),
    ("node-a_b_1511272800.5.flac", "node-a_b", 1511272800.5),
    ("node_20171121T140000Z.wav", "node", 1511272800.0),
    ("20171121_140000.WAV", "unknown", 1511272800.0),
    ("00_000066.wav", "unknown", None),
    ("2-50667-B-41.ogg", "unknown", None),
    ("node_20171399T140000.wav", "unknown", None),
])
def test_names_tell_sensor_and_time(name, sensor, timestamp):
    assert corpus.sensor_and_time(name) == (sensor, timestamp)


def test_scan_lists_audio_of_every_kind_sorted_and_passes_over_the_rest(tmp_path):
    touch(tmp_path, "b/2.OGG", "b/1.flac", "a/x.wav", "notes.txt", ".hidden/x.wav", "a/.x.wav")
    with h5py.File(tmp_path / "audio.h5", "w") as file:
        file["audio"] = np.zeros((2, 8), np.int16)
    with h5py.File(tmp_path / "embeddings.h5", "w") as file:
        file["l3_embedding"] = np.zeros((2, 8), np.float32)
    found = corpus.scan_recordings(tmp_path)
    assert [item.file for item in found] == ["a/x.wav", "audio.h5", "b/1.flac", "b/2.OGG"]
    assert [item.sensor for item in found] == ["a", "unknown", "b", "b"]
    assert found[0].size == 4 and found[0].mtime_ns > 0


def test_table_wins_and_names_fill_the_gaps(tmp_path):
    touch(tmp_path, "a/x.wav", "a/y_1511272800.wav", "c/extra.wav")
    (tmp_path / "recordings.csv").write_text(
        "file,sensor,timestamp,level_dba\n"
        "a/x.wav,north,2017-11-21T09:00:00-05:00,61.5\n"
        "./a/y_1511272800.wav,,,\n"
        "gone.wav,north,1511272801,\n")
    by_name = {item.file: item for item in corpus.scan_recordings(tmp_path)}
    assert by_name["a/x.wav"].sensor == "north"
    assert by_name["a/x.wav"].timestamp == 1511272800.0
    assert by_name["a/x.wav"].level == 61.5
    assert by_name["a/y_1511272800.wav"].sensor == "a"
    assert by_name["a/y_1511272800.wav"].timestamp is None
    assert by_name["c/extra.wav"].sensor == "c"
    assert (by_name["gone.wav"].size, by_name["gone.wav"].mtime_ns) == (-1, 0)


@pytest.mark.parametrize(("text", "words"), [
    ("file,sensor\n", "column 'timestamp' is missing"),
    ("file,sensor,timestamp,levle_dba\n", "did you mean 'level_dba'"),
    ("file,sensor,timestamp\nx.wav,a,noon\n", "recordings.csv:2: 'noon' is not a time"),
    ("file,sensor,timestamp\nx.wav,a,inf\n", "recordings.csv:2: 'inf' is not a time"),
    ("file,sensor,timestamp\n../x.wav,a,1\n", "not a path below"),
    ("file,sensor,timestamp\nx.wav,a,1\nx.wav,a,2\n", "recordings.csv:3: 'x.wav' is listed twice"),
    ("file,sensor,timestamp,level_dba\nx.wav,a,1,loud\n", "level_dba 'loud' is not a number"),
])
def test_broken_tables_are_refused_with_the_line(tmp_path, text, words):
    touch(tmp_path, "x.wav")
    (tmp_path / "recordings.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        corpus.scan_recordings(tmp_path)
    assert words in str(caught.value)


def test_a_table_that_is_not_utf_8_is_refused(tmp_path):
    touch(tmp_path, "x.wav")
    (tmp_path / "recordings.csv").write_bytes("file,sensor,timestamp\nx.wav,café,1\n"
                                              .encode("latin-1"))
    with pytest.raises(InputError, match="not a CSV table in UTF-8") as caught:
        corpus.scan_recordings(tmp_path)
    assert caught.value.where == str(tmp_path / "recordings.csv") + ":2"
    assert f"iconv -f LATIN1 -t UTF-8 {tmp_path}/recordings.csv" in caught.value.hint


def test_a_link_to_nothing_is_a_recording_that_is_not_there(tmp_path):
    touch(tmp_path, "x.wav")
    for name in ("gone.wav", "gone.h5"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    found = {item.file: (item.size, item.mtime_ns) for item in corpus.scan_recordings(tmp_path)}
    assert found.pop("x.wav")[0] == 4
    assert found == {"gone.h5": (-1, 0), "gone.wav": (-1, 0)}


def test_file_names_that_are_not_utf_8_are_refused_and_shown_safely(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    touch(tmp_path, "ça va.wav", name)
    with pytest.raises(InputError, match="1 file name is not UTF-8") as caught:
        corpus.scan_recordings(tmp_path)
    assert "first caf\\xe9.wav" in str(caught.value).encode("utf-8").decode()
    assert [item.file for item in corpus.scan_recordings(tmp_path, any_name=True)] == sorted(
        [name, "ça va.wav"])
    assert corpus.printable("ça\\x") == "ça\\x"


def test_recordings_with_the_same_npz_file_are_refused():
    made = [corpus.Recording(name, "s", None, None, 4, 0)
            for name in ("a/x.wav", "b/x.flac", "x.wav", "x.1.wav", "a/x.flac")]
    gone = corpus.Recording("x.flac", "s", None, None, -1, 0)
    corpus.refuse_same_npz([*made[:4], gone], "embed.npz")
    with pytest.raises(InputError) as caught:
        corpus.refuse_same_npz(made, "embed.npz")
    assert str(caught.value).splitlines()[0] == (
        "embed.npz: a/x.wav and a/x.flac would both become npz/a/x.npz")


def test_embed_refuses_the_same_npz_file_before_it_begins(tmp_path):
    from l3hpc.steps import step

    embed = step("embed")

    touch(tmp_path, "x.wav", "x.flac")
    (shard,) = embed.shards(embed.params_type(audio=tmp_path), {})
    assert len(shard["recordings"]) == 2
    with pytest.raises(InputError, match=r"x\.flac and x\.wav would both become npz/x\.npz"):
        embed.shards(embed.params_type(audio=tmp_path, npz=True), {})


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        corpus.scan_recordings(tmp_path / "none")
    with pytest.raises(InputError, match="holds no audio"):
        corpus.scan_recordings(tmp_path)


def test_digest_follows_the_content_of_the_listing(tmp_path):
    touch(tmp_path, "x.wav")
    before = corpus.scan_recordings(tmp_path)
    again = corpus.scan_recordings(tmp_path)
    assert corpus.manifest_digest(before) == corpus.manifest_digest(again)
    assert [corpus.Recording.from_json(item.as_json()) for item in before] == before
    (tmp_path / "x.wav").write_bytes(b"RIFF.")
    after = corpus.scan_recordings(tmp_path)
    assert corpus.manifest_digest(before) != corpus.manifest_digest(after)


def test_listing_needs_no_numpy(tmp_path):
    touch(tmp_path, "x.wav")
    code = ("import sys; from l3hpc.datasets import corpus; "
            f"assert corpus.scan_recordings({str(tmp_path)!r}); assert 'numpy' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_formats_of_all_commands(tmp_path):
    from l3hpc.audio.formats import SOUND_SUFFIXES
    from l3hpc.datasets.corpus import describe_ignored_files, scan_recordings
    from l3hpc.embedding.folders import plan_embedding

    for suffix in SOUND_SUFFIXES:
        (tmp_path / f"x{suffix[1:]}{suffix.upper()}").touch()
    (tmp_path / "y.wav").touch()
    (tmp_path / "y.mp4").touch()  # the film of y.wav
    (tmp_path / "z.caf").touch()
    names = [one.file for one in scan_recordings(tmp_path)]
    assert len(names) == len(SOUND_SUFFIXES) + 1 and "y.mp4" not in names
    assert names == [work.recording.name for work in plan_embedding([tmp_path]).tasks]
    assert describe_ignored_files(tmp_path) == "2 other files: 1 .mp4, 1 .caf"


@root
def test_a_folder_that_may_not_be_read_is_refused_by_every_listing():
    """For ``os.walk`` and ``glob`` it is empty: recordings would silently be missing."""
    from l3hpc.avc.videos import _walk
    from l3hpc.datasets import corpus
    from l3hpc.embedding import folders
    from l3hpc.pipelines.planned import fingerprint_of_folder

    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        for sensor in ("s1", "s2"):
            (place / sensor).mkdir()
            (place / sensor / "s_1500000000.wav").write_bytes(b"")
        listings = [lambda: corpus.scan_recordings(place), lambda: fingerprint_of_folder(place),
                    lambda: list(_walk(place)), lambda: list(folders._in_folder(place, []))]
        for listing in listings:
            listing()
        (place / "s2").chmod(0o700)
        for listing in listings:
            said = as_person(BOB, listing, "s2: cannot be read: Permission denied")
            assert said.startswith("InputError")
    finally:
        shutil.rmtree(place)


def test_a_table_may_write_accents_in_another_way_than_the_file_system(tmp_path):
    (tmp_path / "cafe\u0301.wav").touch()
    (tmp_path / "recordings.csv").write_text(
        "file,sensor,timestamp\ncaf\u00e9.wav,s1,1511272800\n", encoding="utf-8")
    recording, = corpus.scan_recordings(tmp_path)
    assert (recording.file, recording.sensor, recording.size) == ("cafe\u0301.wav", "s1", 0)
    with (tmp_path / "recordings.csv").open("a", encoding="utf-8") as table:
        table.write("cafe\u0301.wav,s2,1511272800\n")
    with pytest.raises(InputError, match="has two rows for cafe"):
        corpus.scan_recordings(tmp_path)
