"""The taxonomy: SONYC-UST's own, order, columns, refusals."""

import pytest

from l3hpc.datasets.taxonomy import Taxonomy, sonyc_ust_taxonomy
from l3hpc.errors import InputError


def test_sonyc_ust_has_8_categories_and_29_tags(taxonomy):
    assert len(taxonomy.coarse) == 8 and len(taxonomy.fine) == 29
    assert len(taxonomy.complete_fine) == 23
    assert taxonomy.fine_columns[0] == "1-1_small-sounding-engine"
    assert taxonomy.fine_columns[3] == "1-X_engine-of-uncertain-size"
    assert taxonomy.coarse_columns == [
        "1_engine", "2_machinery-impact", "3_non-machinery-impact", "4_powered-saw",
        "5_alert-signal", "6_music", "7_human-voice", "8_dog"]
    assert taxonomy.other(3) is None and taxonomy.other(8) is None
    assert taxonomy.fine[taxonomy.other(6)].name == "music-from-uncertain-source"
    assert [taxonomy.fine[place].name for place in taxonomy.complete(5)] == [
        "car-horn", "car-alarm", "siren", "reverse-beeper"]


def test_round_trip_keeps_everything(tmp_path, taxonomy):
    taxonomy.save(tmp_path / "t.yaml")
    assert Taxonomy.load(tmp_path / "t.yaml") == sonyc_ust_taxonomy()


def test_file_order_decides_and_text_numbers_are_fine(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "coarse: {'10': ten, 2: two}\nfine:\n  2: {x: other, '2': b, 1: a}\n  10: {1: c}\n")
    taxonomy = Taxonomy.load(tmp_path / "t.yaml")
    assert taxonomy.coarse_columns == ["10_ten", "2_two"]
    assert taxonomy.fine_columns == ["10-1_c", "2-X_other", "2-2_b", "2-1_a"]
    assert taxonomy.complete(2) == [2, 3] and taxonomy.other(2) == 1


@pytest.mark.parametrize(("text", "words"), [
    ("- 1\n", "not a taxonomy"),
    ("coarse: {1: a}\n", "not a taxonomy"),
    ("coarse: {1: a}\nfine: {2: {1: b}}\n", "have different categories"),
    ("coarse: {one: a}\nfine: {one: {1: b}}\n", "'one' is not a tag number"),
    ("coarse: {1: a}\nfine: {1: b}\n", "fine.1 is not a mapping"),
    ("coarse: {1: a}\nfine: {1: {X: b}}\n", "no fine tag beside X"),
    ("coarse: {1: a, 2: a}\nfine: {1: {1: b}, 2: {1: b}}\n", "'a' occurs twice"),
    ("coarse: {1: 7}\nfine: {1: {1: b}}\n", "coarse.1: 7 is not a tag name"),
    ("coarse: {1: a\n", "not valid YAML"),
    ("!!python/object/apply:os.getcwd []\n", "not plain data"),
])
def test_broken_files_are_refused(tmp_path, text, words):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        Taxonomy.load(tmp_path / "t.yaml")
    assert words in str(caught.value) and "t.yaml" in str(caught.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Taxonomy.load(tmp_path / "none.yaml")
