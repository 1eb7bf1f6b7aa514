"""Predictions files: layout, exact round trip, levels filled from one another, refusals."""

import csv

import numpy as np
import pytest

from l3hpc.datasets.taxonomy import Taxonomy
from l3hpc.errors import InputError
from l3hpc.tagging import predictions


def test_layout_and_round_trip(tmp_path, taxonomy, rng):
    values = rng.random((3, 37)).astype(np.float32)
    made = predictions.Predictions(["b.wav", "c.wav", "a.wav"], values[:, :29], values[:, 29:])
    predictions.write(tmp_path / "p.csv", made, taxonomy)
    with open(tmp_path / "p.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["audio_filename", *taxonomy.fine_columns, *taxonomy.coarse_columns]
    assert [row[0] for row in rows[1:]] == ["a.wav", "b.wav", "c.wav"] and len(rows[0]) == 38
    back = predictions.read(tmp_path / "p.csv", taxonomy)
    assert back.files == ["a.wav", "b.wav", "c.wav"] and back.warnings == []
    np.testing.assert_array_equal(back.fine.astype(np.float32), values[[2, 0, 1], :29])
    np.testing.assert_array_equal(back.coarse.astype(np.float32), values[[2, 0, 1], 29:])


def test_a_fine_classifier_fills_categories_with_its_likeliest_tag(taxonomy, rng):
    complete = rng.random((4, 23))
    made = predictions.from_fine(list("abcd"), complete, taxonomy)
    assert made.fine.shape == (4, 29) and not made.fine[:, [t.is_x for t in taxonomy.fine]].any()
    np.testing.assert_array_equal(made.fine[:, taxonomy.complete_fine], complete)
    np.testing.assert_array_equal(made.coarse[:, 0], complete[:, :3].max(axis=1))
    np.testing.assert_array_equal(made.coarse[:, 7], complete[:, 22])


def test_a_coarse_classifier_leaves_fine_tags_at_zero(taxonomy, rng):
    coarse = predictions.from_coarse(list("ab"), rng.random((2, 8)), taxonomy)
    assert not coarse.fine.any() and coarse.fine.shape == (2, 29)


def test_files_without_a_prediction_are_filled_with_zeros(taxonomy, rng):
    found = predictions.from_coarse(list("ca"), rng.random((2, 8)), taxonomy)
    whole = predictions.complete(found, list("abc"))
    assert whole.files == list("abc")
    np.testing.assert_array_equal(whole.coarse, [found.coarse[1], np.zeros(8), found.coarse[0]])
    assert whole.fine.shape == (3, 29)


@pytest.mark.parametrize(("text", "words"), [
    ("file,8_dog\na.wav,1\n", "column 'audio_filename' is missing"),
    ("audio_filename,8_dog\na.wav,loud\n", "p.csv:2: 8_dog is 'loud'"),
    ("audio_filename,8_dog\n\na.wav,0.5\n\n\nb.wav,\n", "p.csv:6: 8_dog is ''"),
    ("audio_filename,8_dog\na.wav,inf\n", "p.csv:2: 8_dog is 'inf'"),
    ("audio_filename,8_dog\na.wav,nan\n", "p.csv:2: 8_dog is 'nan'"),
    ("audio_filename,8_dog\na.wav,1\n\na.wav,1\n", "p.csv:4: 'a.wav' is listed twice"),
    ("audio_filename,8_dog\na.wav,1\na.wav,1\n", "It is also in line 2."),
    ("audio_filename,8_dog\n,1\n", "p.csv:2: audio_filename is empty"),
    ("audio_filename,8_dog\na.wav,1\nb.wav\n", "p.csv:3: 1 cell, the header has 2"),
    ("\naudio_filename,8_dog,8_dog\n", "p.csv:2: column '8_dog' occurs twice"),
    ("\n\n", "not a CSV table (it is empty)"),
    ("", "not a CSV table"),
])
def test_broken_files_are_refused(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    taxonomy = Taxonomy({8: "dog"}, {8: {1: "bark"}})
    with pytest.raises(InputError) as caught:
        predictions.read(tmp_path / "p.csv", taxonomy)
    assert words in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path, taxonomy):
    (tmp_path / "p.csv").write_bytes(b"audio_filename,8_dog\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="not a CSV table"):
        predictions.read(tmp_path / "p.csv", taxonomy)
    with pytest.raises(InputError, match="none.csv: no such file"):
        predictions.read(tmp_path / "none.csv", taxonomy)


def test_blank_lines_and_a_byte_order_mark_are_no_matter(tmp_path):
    taxonomy = Taxonomy({8: "dog"}, {8: {1: "bark"}})
    (tmp_path / "p.csv").write_text(
        "\ufeffaudio_filename,8_dog\n\nb.wav,0.25\n\na.wav,1e-1\n", encoding="utf-8")
    read = predictions.read(tmp_path / "p.csv", taxonomy)
    assert read.files == ["b.wav", "a.wav"]
    assert read.coarse[:, 0].tolist() == [0.25, 0.1]


def test_a_table_without_rows_has_no_clips(tmp_path):
    taxonomy = Taxonomy({8: "dog"}, {8: {1: "bark"}})
    (tmp_path / "p.csv").write_text("audio_filename,8_dog\n")
    read = predictions.read(tmp_path / "p.csv", taxonomy)
    assert read.files == [] and read.fine.shape == (0, 1) and read.coarse.shape == (0, 1)
