"""Looking at data sets: every fault is found, named with examples, and counted."""

import csv
import os
import shutil

import h5py
import numpy as np
import pytest
import soundfile

from l3hpc.cli import cli
from l3hpc.datasets import sonyc_ust
from l3hpc.datasets.check import check_audio, check_embeddings, check_folder, check_table
from l3hpc.datasets.clip_columns import ClipTable
from l3hpc.datasets.synth import City, make_city
from l3hpc.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "city"
    make_city(folder, City(2, 2, 20, 1.0, 8000, 2))
    return folder


@pytest.fixture
def ust(made, tmp_path):
    shutil.copytree(made / "sonyc_ust", tmp_path / "ust")
    return tmp_path / "ust"


def change(folder, edit):
    path = folder / "annotations.csv"
    with open(path, newline="") as stream:
        rows = list(csv.reader(stream))
    rows = edit(rows) or rows
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def problems(folder):
    return {problem.subject: str(problem) for problem in sonyc_ust.find_problems(folder)}


def test_a_good_data_set_has_no_problems_and_is_counted(ust):
    findings = sonyc_ust.inspect_sonyc_ust(ust, listen=True)
    assert findings.problems == [] and findings.remarks == []
    counts = findings.counts
    assert counts["version"] == 2 and counts["rows"] == 20 * 3 + 8 * 2
    assert counts["clips"] == {"train": 12, "validate": 4, "test": 4}
    assert counts["agreed"] == {"train": 0, "validate": 4, "test": 4}
    assert sum(counts["agreed_positives"].values()) >= 8
    assert counts["rates"] == {"8000": 20} and counts["hours"] == round(20 / 3600, 3)


def test_locate_finds_the_parts_under_any_usual_name(ust, made, tmp_path):
    assert sonyc_ust.locate_sonyc_ust(made) == sonyc_ust.locate_sonyc_ust(made / "sonyc_ust")
    (ust / "dcase-ust-taxonomy.yaml").rename(ust / "my-taxonomy.yaml")
    paths = sonyc_ust.locate_sonyc_ust(ust)
    assert paths.taxonomy.name == "my-taxonomy.yaml" and paths.audio == ust / "audio"
    paths.taxonomy.unlink()
    with pytest.raises(InputError, match="holds no dcase-ust-taxonomy.yaml"):
        sonyc_ust.locate_sonyc_ust(ust)
    with pytest.raises(InputError, match="holds no annotations.csv"):
        sonyc_ust.locate_sonyc_ust(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        sonyc_ust.locate_sonyc_ust(tmp_path / "none")


def test_faults_of_rows_are_named_with_their_lines(ust):
    def edit(rows):
        rows[1][0] = "valid"
        rows[4][3] = "bob"
        rows.append(list(rows[5]))
        rows[7][12] = "2"
        rows.append(rows[8][:-1])

    change(ust, edit)
    found = problems(ust)
    assert "line 2 ('valid', did you mean 'validate'?" in found["split"]
    assert found["annotator"].endswith("line 5 ('bob')")
    assert found["duplicate"].startswith("1 row repeats") and "(as line 6)" in found["duplicate"]
    assert "line 8 (1-1_small-sounding-engine_presence: '2')" in found["presence"]
    assert "(77 for 78)" in found["cells"]
    assert "00_000000.wav (valid, train)" in found["splits"]


def test_faults_of_columns_and_taxonomy_are_named(ust):
    def edit(rows):
        rows[0][rows[0].index("5-3_siren_presence")] = "5-3_sirens_presence"

    change(ust, edit)
    words = [str(problem) for problem in sonyc_ust.find_problems(ust)]
    assert words == [
        "1 tag of the taxonomy has no column in annotations.csv: 5-3_siren_presence",
        "1 tag column of annotations.csv is not in the taxonomy: 5-3_sirens_presence"]

    def drop(rows):
        rows[0][1] = "sensor"

    change(ust, drop)
    assert "sensor_id" in problems(ust)["columns"]
    (ust / "dcase-ust-taxonomy.yaml").write_text("fine: []\n")
    assert "not a taxonomy" in problems(ust)["taxonomy"]


def test_faults_of_audio_are_named(ust):
    audio = sorted((ust / "audio").iterdir())
    audio[0].unlink()
    audio[1].write_bytes(b"no audio at all")
    soundfile.write(audio[2], np.zeros(0), 8000)
    soundfile.write(audio[3], np.zeros(8000), 8000)
    soundfile.write(audio[4], np.ones(4000) / 2, 8000)
    soundfile.write(ust / "audio" / "99_999999.wav", np.ones(8000) / 2, 8000)
    findings = sonyc_ust.inspect_sonyc_ust(ust, listen=True)
    found = {problem.subject: problem for problem in (*findings.problems, *findings.remarks)}
    assert found["missing audio"].examples == (audio[0].name,)
    assert found["unreadable"].examples == (audio[1].name,)
    assert found["empty"].examples == (audio[2].name,)
    assert found["silent"].examples == (audio[3].name,)
    assert str(found["length"]) == f"1 clip is not 1 s long: {audio[4].name} (0.5 s)"
    assert found["extra audio"].examples == ("99_999999.wav",)
    assert {"length", "extra audio"} == {problem.subject for problem in findings.remarks}
    assert "silent" not in problems(ust)  # only listening tells


def test_a_clip_whose_name_no_file_can_have_is_missing(ust):
    table = ust / "annotations.csv"
    name = min(path.name for path in (ust / "audio").iterdir())
    table.write_text(table.read_text().replace(name, "x" * 300 + ".wav"))
    found = {problem.subject: problem for problem in sonyc_ust.inspect_sonyc_ust(ust).problems}
    assert found["missing audio"].examples == ("x" * 300 + ".wav",)


def test_splits_that_are_needed(ust):
    def edit(rows):
        return [row for row in rows if row[0] != "validate" or row[3] != "0"]

    change(ust, edit)
    assert problems(ust) == {
        "agreed": "no agreed annotations (annotator_id 0) in a split that is scored: validate"}
    change(ust, lambda rows: [row for row in rows if row[0] != "train"])
    assert problems(ust)["empty split"] == "no clips in a required split: train"

    def share(rows):
        for row in rows[1:]:
            row[1] = "7"

    change(ust, share)
    assert sonyc_ust.inspect_sonyc_ust(ust).counts["sensors"] == 1


def test_recordings(made, tmp_path):
    folder = tmp_path / "audio"
    shutil.copytree(made / "audio", folder)
    assert check_audio(folder).problems == []
    counts = check_audio(folder).counts
    assert counts["recordings"] == 4 and len(counts["sensors"]) == 2
    assert counts["first"].startswith("2017-11-20T") and counts["rates"] == {"8000": 4}
    with open(folder / "recordings.csv", "a") as stream:
        stream.write("gone.wav,x,\n")
    soundfile.write(folder / "short.wav", np.ones(800) / 2, 8000)
    findings = check_audio(folder)
    assert [str(one) for one in findings.problems] == [
        "1 recording is missing: gone.wav",
        "1 file is shorter than 1 s: short.wav"]
    assert [one.subject for one in findings.remarks] == ["sensor", "timestamp"]


def test_odd_recordings_are_named_and_the_others_looked_at(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.full(8000, 0.25), 8000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # of the 36 bits that count the samples: 0, as written into a pipe
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    name = os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fsencode(tmp_path / name), np.full(8000, 0.25), 8000, format="WAV")
    for listen in (False, True):
        findings = check_audio(tmp_path, listen=listen)
        assert [str(one) for one in findings.problems] == [
            "1 recording is missing: gone.wav", f"1 file name is not UTF-8: {name}"]
        assert findings.counts["hours"] == round(2 / 3600, 3)
        assert findings.counts["rates"] == {"8000": 2} and findings.counts["recordings"] == 3


def test_embeddings_and_what_is_neither(tmp_path):
    with pytest.raises(InputError, match="holds no data set"):
        check_folder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        check_folder(tmp_path / "none")
    (tmp_path / "train").mkdir()
    for name, dim in (("a", 3), ("b", 3), ("c", 4)):
        with h5py.File(tmp_path / "train" / f"{name}.h5", "w") as file:
            file["l3_embedding"] = np.zeros((5, dim), np.float32)
            file["audio"] = np.ones((5, 8000), np.int16)
    both = check_folder(tmp_path)
    assert [one.kind for one in both] == ["recordings", "embeddings"]
    findings = check_embeddings(tmp_path)
    assert findings.counts["rows"] == 10 and findings.counts["splits"] == {"train": 3}
    assert "c.h5" in str(findings.problems[0])
    assert "has 4 dimensions, 3 expected" in str(findings.problems[0])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "broken.npz").write_bytes(b"")
    with pytest.raises(InputError, match="not a readable NPZ"):
        check_folder(tmp_path / "x")


def test_listening_finds_lengths_that_are_not_as_stated(tmp_path):
    """Cut off, joined, without a length; and what is no recording is counted by kind."""
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.4, 0.4, 24000)
    for name in ("cut.wav", "killed.wav", "longer.wav", "whole.wav", "quiet.wav", "odd.wav"):
        soundfile.write(tmp_path / name, sound, 8000)
    data = (tmp_path / "whole.wav").read_bytes()
    at = data.index(b"data") + 4
    (tmp_path / "cut.wav").write_bytes(data[:-16000])
    (tmp_path / "killed.wav").write_bytes(data[:at] + bytes(4) + data[at + 4:])
    (tmp_path / "longer.wav").write_bytes(data[:at] + (16000).to_bytes(4, "little") + data[at + 4:])
    soundfile.write(tmp_path / "quiet.wav", sound * 1e-5, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "odd.wav", sound * 1e30, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "song.mp3", sound, 8000)
    (tmp_path / "a.caf").touch()
    (tmp_path / "b.txt").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    findings = check_audio(tmp_path, listen=True)
    found = {problem.subject: problem for problem in findings.problems}
    assert sorted(found) == ["length", "unreadable"]
    assert found["length"].examples == (
        "cut.wav (ends early: 2.000 s of audio, header states 3.000 s)",
        "longer.wav (is longer than its header states: 3.000 s of audio, header states 1.000 s)")
    assert found["unreadable"].examples == ("odd.wav", "pipe.wav")
    remarks = {problem.subject: problem for problem in findings.remarks}
    assert remarks["no length"].examples == ("killed.wav",)
    assert remarks["quiet"].examples == ("quiet.wav (largest sample 4.0e-06)",)
    assert str(remarks["other files"]) == "ignored: 2 other files: 1 .caf, 1 .txt"
    assert findings.counts["recordings"] == 8 and findings.counts["rates"] == {"8000": 7}
    assert findings.counts["hours"] == round((2 + 5 * 3) / 3600, 3)


def test_listening_to_long_rows_takes_them_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.audio.decoding.BLOCK", 1000)
    rows = np.zeros((2, 9000), np.int16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["audio"] = rows
        file["audio"].attrs["rate"] = 1000
    assert [one.subject for one in check_audio(tmp_path, listen=True).problems] == ["silent"]
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["audio"][1, 8999] = 7000
    assert check_audio(tmp_path, listen=True).problems == []


def test_without_ffmpeg_its_installation_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("l3hpc.audio.decoding.find_ffmpeg", lambda: None)
    soundfile.write(tmp_path / "a.wav", np.full(8000, 0.25), 8000)
    (tmp_path / "b.m4a").write_bytes(b"....")
    (problem,) = check_audio(tmp_path).problems
    assert str(problem) == "1 file needs ffmpeg, which is not installed: b.m4a"
    assert "apt-get install ffmpeg" in problem.advice


@pytest.fixture
def table(tmp_path):
    """12 clips of two classes; one is missing, one is empty, one file is in no row."""
    audio = tmp_path / "birds/audio"
    audio.mkdir(parents=True)
    lines = ["file,label,set,fold,site"]
    for number in range(12):
        if number != 3:
            sound = np.ones(0 if number == 5 else 800) / (number + 1)
            soundfile.write(audio / f"{number}.wav", sound, 8000)
        part = ("train", "validate", "test")[number // 2 % 3]
        lines.append(f"{number}.wav,{('owl', 'wren')[number % 2]},{part},{number // 6},"
                     f"s{number // 3}")
    soundfile.write(audio / "more.wav", np.ones(800) / 2, 8000)
    (tmp_path / "birds/labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "birds/labels.csv"


def test_a_table_of_clips_is_checked_as_it_is_submitted(table):
    found = check_table(ClipTable(table, table.parent / "audio", split_column="set",
                                  group_column="site"))
    assert (found.kind, found.counts["clips"], found.counts["classes"]) == (
        "table of clips birds", 12, 2)
    assert found.counts["parts"] == {"train": 4, "validate": 4, "test": 4}
    assert found.counts["columns"].startswith("files of 'file', labels of 'label', split of 'set'")
    assert {one.subject: one.examples for one in found.problems} == {
        "missing audio": ("3.wav",), "empty": ("5.wav",)}
    remarks = {one.subject: one for one in found.remarks}
    assert remarks["extra audio"].examples == ("more.wav",)
    assert str(remarks["group"]).startswith("4 groups of 'site' have clips in several parts")
    folds = check_table(ClipTable(table, table.parent / "audio"))
    assert folds.counts["folds"] == {"0": 6, "1": 6} and "group" not in {
        one.subject for one in folds.remarks}


def test_a_table_of_clips_is_checked_on_the_command_line(table, capsys):
    words = ["data", "check", str(table), "--audio", str(table.parent / "audio")]
    assert cli.main([*words, "--split-column", "set"], standalone_mode=False) == 1
    said = capsys.readouterr().out
    assert "parts              train 4, validate 4, test 4" in said
    assert "problem: 1 clip has no audio: 3.wav" in said
    with pytest.raises(InputError, match="--audio: only for a table of clips"):
        cli.main(["data", "check", str(table.parent), *words[3:]], standalone_mode=False)
    with pytest.raises(InputError, match="a split and folds cannot be combined"):
        cli.main([*words, "--split-column", "set", "--folds", "3"], standalone_mode=False)


def test_a_table_that_lies_in_the_folder_is_named_with_the_command_that_checks_it(table, capsys):
    """Whoever checks the folder believes that its labels were checked, too."""
    folder = table.parent
    (folder / "audio/0.csv").write_text("about 0.wav alone\n")
    assert cli.main(["data", "check", str(folder)], standalone_mode=False) == 1
    said = capsys.readouterr().out
    assert "remark: 1 table was not checked: labels.csv\n" in said
    command = f"l3hpc data check {table} --audio {folder / 'audio'}"
    assert f"          As a table of clips: {command}\n" in said
    assert cli.main(command.split()[1:], standalone_mode=False) == 1
    beside = table.rename(folder / "audio/labels.csv")
    [remark] = [one for one in check_audio_of(folder).remarks if one.subject == "table"]
    assert remark.advice == f"As a table of clips: l3hpc data check {beside}"
    beside.write_text("")
    assert [one.subject for one in check_audio_of(folder).remarks].count("table") == 1


def check_audio_of(folder):
    [found] = check_folder(folder)
    return found
