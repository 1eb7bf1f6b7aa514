"""Every CSV table is read in one place, which names what is wrong with a file, and the line."""

import csv
import io
import os
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l3hpc.avc.audioset import read_segments
from l3hpc.datasets import corpus, labelled, sonyc_ust
from l3hpc.datasets.check import check_folder
from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError
from l3hpc.io import tables
from l3hpc.report.collect import read_epochs
from l3hpc.steps.embed import annotated_recordings
from l3hpc.tagging.annotations import Annotations
from l3hpc.tagging.predictions import read as read_predictions

ROOT = Path(__file__).resolve().parents[2]
TEXT = "file,sensor,timestamp\na.wav,roof,1511272800\nb.wav,café,1511272801\n"


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def refusal(path, needed=("file", "sensor")):
    with pytest.raises(InputError) as caught:
        list(tables.read_rows(path, "table", needed))
    assert str(path) in str(caught.value)
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("quoted", [False, True])
def test_usual_tables_are_read_with_their_lines(tmp_path, end, mark, quoted):
    text = TEXT.replace(",roof", ',"ro""of,\nup"') if quoted else TEXT
    path = write(tmp_path / "a.csv", mark + text.replace("\n", end))
    found = list(tables.read_rows(path, "table"))
    assert found[0] == (1, ["file", "sensor", "timestamp"])
    assert [line for line, _ in found] == ([1, 3, 4] if quoted else [1, 2, 3])
    assert found[1][1][1] == (f'ro"of,{end}up' if quoted else "roof")
    assert [row["sensor"] for _, row in tables.read_records(path, "table")][1] == "café"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
                         min_size=2, max_size=2), max_size=6))
def test_what_pythons_writer_writes_is_read(tmp_path_factory, rows):
    stream = io.StringIO()
    csv.writer(stream).writerows([["one", "two"], *rows])
    path = write(tmp_path_factory.mktemp("t") / "a.csv", stream.getvalue())
    assert [row for _, row in tables.read_rows(path, "table")] == [["one", "two"], *rows]


@pytest.mark.parametrize("encoding", [
    "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("lines", [1, 400])
def test_utf_16_is_named_with_and_without_a_mark(tmp_path, encoding, lines):
    text = refusal(write(tmp_path / "a b.csv", (TEXT * lines).encode(encoding)))
    assert text.startswith(f": is UTF-{encoding[4:6]} text\na CSV table in UTF-8\niconv -f UTF-")
    assert f"-t UTF-8 '{tmp_path}/a b.csv'" in text


@pytest.mark.parametrize(("data", "words"), [
    (TEXT.encode("latin-1"), r":3: not a CSV table in UTF-8: byte 0xe9 is not valid\n.*LATIN1"),
    ((TEXT[:44] + TEXT[44:] * 9000).encode("latin-1"), r":3: not a CSV table in UTF-8"),
    (TEXT.replace("\n", "\r").encode("latin-1"), r":3: not a CSV table in UTF-8"),
    (TEXT[:30] + "\0" + TEXT[30:], r":2: contains a NUL byte"),
    (TEXT * 3000 + "\0", r":9001: contains a NUL byte"),
    (TEXT.replace(",", ";"), ":1: is separated by semicolons\na CSV table with commas"),
    (TEXT.replace(",", "\t"), ":1: is separated by tabs"),
    (TEXT.replace(",", "|"), ":1: is separated by vertical bars"),
    (TEXT.replace("sensor,", "level,dB;sensor;").replace("file,", "file;"), "is separated by semi"),
    ('"file";"sensor";"timestamp"\n"a.wav";"x";"1"\n', ":1: is separated by semicolons"),
    ("\ufefffile;sensor\na.wav;x\n", ":1: is separated by semicolons"),
    ("sep=;\n" + TEXT.replace(",", ";"), ":1: starts with Excel's line 'sep='"),
    ("sep=,\n" + TEXT, ":1: starts with Excel's line 'sep='"),
    (TEXT.replace("roof", '"roof'), ":2: a quotation mark that is opened in this row is never"),
    (TEXT.replace("roof", '"roof"top'), ":2: not a CSV table: there is text after a closing"),
    (TEXT.replace("roof", "r" * 200_000), ":2: cell 2 of this row has 200,000 characters"),
    (TEXT.replace("roof", '"' + "r,\n" * 90_000 + '"'), ":2: cell 2 of this row has 270,000 char"),
    ("x" * (1 << 24) + "\n", ":1: line of more than 16,777,216 characters"),
    (TEXT.replace("sensor", "Sensor"), ":1: column 'sensor' is missing\ndid you mean 'Sensor'"),
    (TEXT.replace("sensor", " sensor"), "column 'sensor' is missing\ndid you mean ' sensor'"),
    (TEXT.replace("sensor", "sensors"), "column 'sensor' is missing\ndid you mean 'sensors'"),
    (TEXT.replace("sensor", "x"), "column 'sensor' is missing\nit has: file, x, timestamp"),
    (TEXT.replace("sensor", "file"), ":1: column 'file' occurs twice"),
    (TEXT + "c.wav,1\n", ":4: 2 cells, the header has 3"),
    ("", "it is empty"), ("\n\r\n", "it is empty"),
    (b"PK\x03\x04" + bytes(50), "is an Excel workbook or a ZIP file"),
    (b"\x1f\x8b" + bytes(50), "is compressed with gzip.*\ngunzip -k|Unpack it: gunzip -k"),
    (b"<!DOCTYPE html>", "is a web page"), (b"version https://git-lfs.github.com", "git lfs pull"),
])
def test_each_fault_is_named_with_its_line(tmp_path, data, words):
    assert re.search(words, refusal(write(tmp_path / "a.csv", data)))


def test_a_long_row_of_short_cells_is_no_fault(tmp_path):
    path = write(tmp_path / "a.csv", ",".join(f"c{i}" for i in range(40_000)) + "\n")
    assert len(next(tables.read_rows(path, "table"))[1]) == 40_000


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    assert "is a named pipe" in refusal(tmp_path / "a.csv")
    assert "no such file" in refusal(tmp_path / "b.csv")


# everything that reads a table -----------------------------------------------------------------


TAXONOMY = Taxonomy({1: "engine"}, {1: {1: "small", 2: "large"}}, "t.yaml")
SOURCES = {
    "recordings.csv": (corpus.read_table, "file,sensor,timestamp\na.wav,roof,1511272800\n"),
    "annotations.csv": (
        lambda path: Annotations.load(path, TAXONOMY),
        "split,sensor_id,audio_filename,annotator_id,1-1_small_presence,1-2_large_presence,"
        "1_engine_presence\ntrain,1,a.wav,0,1,0,1\n"),
    "embedded.csv": (
        lambda path: annotated_recordings(path, path.parent),
        "split,audio_filename,sensor_id\ntrain,a.wav,1\n"),
    "predictions.csv": (
        lambda path: read_predictions(path, TAXONOMY),
        "audio_filename,1-1_small,1-2_large,1_engine\na.wav,0.5,0.5,0.5\n"),
    "esc50.csv": (
        lambda path: labelled.read_labelled(path.parent),
        "filename,fold,target,category,esc10\n1-1-A-0.wav,1,0,dog,True\n"),
    "segments.csv": (read_segments, '# a list\nabcdefghijk, 0.000, 10.000, "/m/1,/m/2"\n'),
    "history.csv": (read_epochs, "epoch,loss,val_loss\n0,1.0,2.0\n"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_table_is_read_by_the_same_reader(tmp_path, name):
    call, text = SOURCES[name]
    path = tmp_path / name
    call(write(path, text))
    call(write(path, ("\ufeff" + text).replace("\n", "\r\n")))
    for data, words in (
            (text.encode("utf-16"), "is UTF-16 text"), (text.encode("utf-16-le"), "is UTF-16 text"),
            (text.replace("a", "\xe9").encode("latin-1"), "not a CSV table in UTF-8"),
            (text + "\0", "contains a NUL byte"), (text + '"', "is never closed"),
            (text + '"' + "x," * 100_000 + '"\n', "has 200,000 characters")):
        with pytest.raises(InputError, match=words) as caught:
            call(write(path, data))
        assert name in str(caught.value)
    if name != "segments.csv":
        for separator, words in ((";", "semicolons"), ("\t", "tabs")):
            with pytest.raises(InputError, match=f"{name}:1: is separated by {words}"):
                call(write(path, text.replace(",", separator)))


def test_no_other_module_reads_csv():
    found = [f"{path.relative_to(ROOT)}: {line.strip()}"
             for path in sorted((ROOT / "l3hpc").rglob("*.py"))
             for line in path.read_text().splitlines()
             if re.search(r"csv\.(reader|DictReader)\(|read_csv\(|read_excel\(|load_workbook\(|"
                          r"\b(loadtxt|genfromtxt)\(", line)]
    assert [line for line in found if not line.startswith("l3hpc/io/tables.py")] == []


# recordings.csv ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [
    ("1511272800", 1511272800), ("1511272800.25", 1511272800.25), ("1.5112728e9", 1511272800),
    ("2017-11-21T14:00:00Z", 1511272800), ("2017-11-21T14:00:00", 1511272800),
    ("2017-11-21 14:00:00", 1511272800), ("2017-11-21T14:00Z", 1511272800),
    ("2017-11-21T14", 1511272800), ("20171121T140000Z", 1511272800),
    ("20171121 140000", 1511272800), ("2017-11-21t14:00:00z", 1511272800),
    ("2017-11-21T14:00:00.123Z", 1511272800.123), ("2017-11-21T14:00:00,5", 1511272800.5),
    ("2017-11-21T14:00:00.123456789Z", 1511272800.123456789),
    ("2017-11-21T14:00:00.1", 1511272800.1), ("2017-11-21T09:00:00-05:00", 1511272800),
    ("2017-11-21T09:00:00.5-0500", 1511272800.5), ("2017-11-21T09:00:00-05", 1511272800),
    ("2017-11-21T19:30:00+05:30", 1511272800), ("2017-11-21 14:00:00 UTC", 1511272800),
    ("2017-11-21", 1511222400), ("", None), ("nan", None),
])
def test_times_of_recordings(tmp_path, text, seconds):
    path = write(tmp_path / "recordings.csv", f'file,sensor,timestamp\na.wav,roof,"{text}"\n')
    assert corpus.read_table(path)["a.wav"][1] == (
        None if seconds is None else pytest.approx(seconds, abs=1e-6))


@pytest.mark.parametrize(("text", "words"), [
    ("1511272800123", "'1511272800123' is a time in milliseconds\n"),
    ("1511272800123.5", "is a time in milliseconds"),
    ("1511272800123456", "is a time in microseconds"),
    ("1511272800123456789", "is a time in nanoseconds"),
    ("-1", "outside 1970 to 2100"), ("1e300", "outside 1970 to 2100"),
    ("3000-01-01T00:00:00Z", "outside 1970 to 2100"), ("1900-01-01", "outside 1970 to 2100"),
    ("2017-13-21T09:00:00", "is not a time"), ("2017-11-21T25:00:00", "is not a time"),
    ("2017-11-21T09:00:00+25:00", "is not a time"), ("21.11.2017 09:00", "is not a time"),
    ("11/21/2017", "is not a time"), ("yesterday", "is not a time"), ("2017-1121", "is not a time"),
])
def test_times_that_cannot_be_meant_are_refused_with_their_line(tmp_path, text, words):
    path = write(tmp_path / "recordings.csv", f"file,sensor,timestamp\na.wav,roof,{text}\n")
    write(tmp_path / "a.wav", b"")
    for call in (corpus.read_table, lambda path: corpus.scan_recordings(path.parent),
                 lambda path: check_folder(path.parent)):
        with pytest.raises(InputError, match=words) as caught:
            call(path)
        assert "recordings.csv:2" in str(caught.value)
    if "milliseconds" in words:
        assert "In seconds it is 1511272800.12" in str(caught.value)


def test_more_columns_are_fine_and_a_misspelled_one_is_not(tmp_path):
    text = "id,file,sensor,timestamp,level_dba,notes\n7,a.wav,roof,1511272800,61.5,windy\n"
    path = write(tmp_path / "recordings.csv", text)
    assert corpus.read_table(path) == {"a.wav": ("roof", 1511272800.0, 61.5)}
    write(path, text.replace(",61.5,windy", ""))  # short rows end with empty cells
    assert corpus.read_table(path) == {"a.wav": ("roof", 1511272800.0, None)}
    for wrong in ("level_dbA", "Level_dba", "level_db", " level_dba"):
        with pytest.raises(InputError, match=f"unknown column '{wrong}'"):
            corpus.read_table(write(path, text.replace("level_dba", wrong)))
    with pytest.raises(InputError, match="column 'timestamp' is missing"):
        corpus.read_table(write(path, text.replace("timestamp", "time")))


def test_a_broken_table_is_what_data_check_says(tmp_path):
    """Not "holds no data set": the folder has recordings, and a table that cannot be read."""
    write(tmp_path / "a.wav", b"")
    write(tmp_path / "recordings.csv", "file;sensor;timestamp\na.wav;roof;1\n")
    with pytest.raises(InputError, match="recordings.csv:1: is separated by semicolons"):
        check_folder(tmp_path)


def test_data_check_names_what_ends_the_annotations(tmp_path):
    write(tmp_path / "dcase-ust-taxonomy.yaml", (
        "coarse:\n  1: engine\nfine:\n  1:\n    1: small\n    2: large\n"))
    text = SOURCES["annotations.csv"][1]
    for data, words in ((text.encode("utf-16"), "is UTF-16 text"),
                        (text.replace(",", ";"), "annotations.csv:1: is separated by semicolons"),
                        (text + '"' + "x" * 140_000 + '"\n', "cell 1 of this row has 140,000 char"),
                        (text.replace("a.wav", "\xe9.wav").encode("latin-1"), "0xe9")):
        write(tmp_path / "annotations.csv", data)
        assert any(words in str(problem) for problem in sonyc_ust.find_problems(tmp_path)), words


def test_a_workbook_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as file:
        file.writestr("xl/workbook.xml", "<x/>")
    assert "Save it as CSV in UTF-8" in refusal(tmp_path / "a.csv")
