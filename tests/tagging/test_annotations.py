"""Annotations: both versions, votes, the agreed annotator, refusals with place."""

import numpy as np
import pytest

from l3hpc.errors import InputError
from l3hpc.tagging.annotations import Annotations

ROWS = [
    ("train", 1, "01_000002.wav", 5, {"1-1_small-sounding-engine": 1, "1_engine": 1}),
    ("train", 1, "01_000002.wav", 6, {"5-3_siren": 1, "5_alert-signal": 1}),
    ("train", 0, "00_000001.wav", 5, {"8-1_dog-barking-whining": -1, "8_dog": -1}),
    ("train", 0, "00_000001.wav", 7, {"8-1_dog-barking-whining": -1, "8_dog": -1}),
    ("validate", 2, "02_000003.wav", 5, {"6-X_music-from-uncertain-source": 1, "6_music": 1}),
    ("validate", 2, "02_000003.wav", 0, {"7-3_large-crowd": 1, "7_human-voice": 1}),
    ("validate", 2, "02_000003.wav", -2, {"8-1_dog-barking-whining": 1, "8_dog": 1}),
    ("validate", 3, "03_000004.wav", 5, {"8-1_dog-barking-whining": 1, "8_dog": 1}),
]


@pytest.fixture(params=[1, 2])
def annotations(request, write_annotations, taxonomy):
    path = write_annotations(ROWS, taxonomy, version=request.param)
    loaded = Annotations.load(path, taxonomy)
    assert loaded.version == request.param
    return loaded


def test_files_and_splits(annotations):
    assert annotations.files() == ["00_000001.wav", "01_000002.wav", "02_000003.wav",
                                   "03_000004.wav"]
    assert annotations.files("validate") == ["02_000003.wav", "03_000004.wav"]
    assert annotations.splits() == ["train", "validate"]


def present(annotations, row, level):
    names = {"fine": annotations.taxonomy.fine_columns,
             "coarse": annotations.taxonomy.coarse_columns}[level]
    return [names[place] for place in np.flatnonzero(row)]


def test_targets_any_volunteer_unless_agreed_and_minus_one_is_no_vote(annotations):
    files = ["02_000003.wav", "00_000001.wav", "01_000002.wav", "03_000004.wav"]
    fine, coarse = annotations.targets(files, "fine"), annotations.targets(files, "coarse")
    assert fine.shape == (4, 29) and coarse.shape == (4, 8) and fine.dtype == np.float32
    assert [present(annotations, row, "fine") for row in fine] == [
        ["7-3_large-crowd"], [], ["1-1_small-sounding-engine", "5-3_siren"],
        ["8-1_dog-barking-whining"]]
    assert [present(annotations, row, "coarse") for row in coarse] == [
        ["7_human-voice"], [], ["1_engine", "5_alert-signal"], ["8_dog"]]


def test_ground_truth_is_annotator_zero_only(annotations):
    files, fine, coarse = annotations.ground_truth("validate")
    assert files == ["02_000003.wav"]
    assert present(annotations, fine[0], "fine") == ["7-3_large-crowd"]
    assert present(annotations, coarse[0], "coarse") == ["7_human-voice"]
    with pytest.raises(InputError) as caught:
        annotations.ground_truth("train")
    assert "splits with agreed annotations: validate" in str(caught.value)


def test_ground_truth_is_sorted_by_name(write_annotations, taxonomy):
    rows = [("test", 1, name, 0, {"8_dog": heard}) for name, heard in
            (("b.wav", 1), ("c.wav", 0), ("a.wav", 0))]
    found = Annotations.load(write_annotations(rows, taxonomy), taxonomy)
    files, _, coarse = found.ground_truth("test")
    assert files == ["a.wav", "b.wav", "c.wav"]
    assert coarse[:, 7].tolist() == [False, True, False]


def test_unknown_names_are_refused(annotations):
    with pytest.raises(InputError, match="no annotation of 'x.wav'"):
        annotations.targets(["x.wav"], "fine")
    with pytest.raises(InputError, match="did you mean 'coarse'"):
        annotations.targets([], "corase")
    with pytest.raises(InputError, match="did you mean 'validate'"):
        annotations.ground_truth("validation")


@pytest.mark.parametrize(("change", "words"), [
    (lambda rows: rows + [("valid", 1, "x.wav", 1, {})], [":10", "unknown split 'valid'",
                                                          "did you mean 'validate'"]),
    (lambda rows: rows + [("train", 2, "02_000003.wav", 9, {})], ["'02_000003.wav' is in two"]),
    (lambda rows: rows + [rows[0]], [":10", "annotator 5 tagged '01_000002.wav' twice", "line 2"]),
    (lambda rows: rows + [("train", 1, "x.wav", 1, {"1_engine": 2})],
     [":10", "1_engine_presence is '2'", "-1 for not annotated"]),
    (lambda rows: rows + [("train", 1, "x.wav", 1, {"1_engine": "yes"})],
     [":10", "1_engine_presence is 'yes'"]),
    (lambda rows: rows + [("train", 1, "x.wav", 1, {"8_dog": 0.5})], [":10", "8_dog_presence"]),
    (lambda rows: rows + [("train", 1, "x.wav", 1, {"8_dog": ""})], ["8_dog_presence is ''"]),
    (lambda rows: rows + [("train", 1, "x.wav", "bob", {})], [":10", "annotator_id is 'bob'"]),
    (lambda rows: rows + [("train", 1, "x.wav", 1.5, {})], [":10", "annotator_id is '1.5'"]),
    (lambda rows: rows + [("train", 1, "x.wav", "inf", {})], [":10", "annotator_id is 'inf'"]),
    (lambda rows: rows + [("train", 1, "", 1, {})], [":10", "audio_filename is empty"]),
])
def test_broken_rows_are_refused_with_the_line(write_annotations, taxonomy, change, words):
    path = write_annotations(change(list(ROWS)), taxonomy)
    with pytest.raises(InputError) as caught:
        Annotations.load(path, taxonomy)
    for word in words:
        assert word in str(caught.value)


def test_missing_columns_and_files_are_refused(write_annotations, taxonomy, tmp_path):
    path = write_annotations(ROWS, taxonomy)
    path.write_text(path.read_text().replace("5-3_siren_presence", "5-3_sirens_presence"))
    with pytest.raises(InputError) as caught:
        Annotations.load(path, taxonomy)
    assert "column '5-3_siren_presence' is missing" in str(caught.value)
    assert "did you mean '5-3_sirens_presence'" in str(caught.value)
    with pytest.raises(InputError, match="none.csv: no such file"):
        Annotations.load(tmp_path / "none.csv", taxonomy)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="not a CSV table"):
        Annotations.load(tmp_path / "empty.csv", taxonomy)


def test_numbers_may_be_written_in_other_ways(write_annotations, taxonomy):
    rows = [("train", 1, "NA", "5.0", {"1_engine": "1.0", "8_dog": " -1", "6_music": "+1"}),
            ("train", 1, "nan", 5, {"1_engine": "0.0", "8_dog": "-1.0"})]
    found = Annotations.load(write_annotations(rows, taxonomy), taxonomy)
    assert found.files() == ["NA", "nan"]  # names, not missing values
    assert found.annotator.tolist() == [5, 5]
    assert found.coarse[:, [0, 5, 7]].tolist() == [[1, 1, -1], [0, 0, -1]]
    assert found.fine.dtype == found.coarse.dtype == np.int8 and not found.fine.any()


def test_a_table_without_rows(write_annotations, taxonomy):
    found = Annotations.load(write_annotations([], taxonomy), taxonomy)
    assert found.files() == [] and found.fine.shape == (0, 29) and found.coarse.shape == (0, 8)


def test_proximity_is_that_of_most_annotators_and_unknown_for_a_tie(write_annotations, taxonomy):
    small, large, siren = (f"{tag}_proximity" for tag in (
        "1-1_small-sounding-engine", "1-3_large-sounding-engine", "5-3_siren"))
    unsure = "6-X_music-from-uncertain-source_proximity"
    rows = [("train", 9, "a", 1, {small: "near", siren: "far", unsure: "far"}),
            ("train", 9, "a", 2, {small: "near", siren: "near"}),
            ("train", 9, "a", -3, {small: "far", large: "far", siren: "notsure"}),
            ("validate", 10, "b", 0, {large: "far"}), ("test", 10, "c", 0, {})]
    path = write_annotations(rows, taxonomy)
    found = Annotations.load(path, taxonomy, proximity=True)
    fine = found.proximities(["b", "a", "c"], "fine")
    assert fine.shape == (3, 23) and fine.dtype == np.int8
    complete = [taxonomy.fine_columns[tag] for tag in taxonomy.complete_fine]
    told = {(row, complete[place].split("_")[0]): fine[row, place]
            for row, place in zip(*np.nonzero(fine), strict=True)}
    assert told == {(0, "1-3"): -1, (1, "1-1"): 1, (1, "1-3"): -1}
    # engine in clip a: two near, two far; the X of music counts for its category
    assert found.proximities(["b", "a", "c"], "coarse").tolist() == [
        [-1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, -1, 0, 0], [0] * 8]
    with pytest.raises(InputError, match="the proximities were not read"):
        Annotations.load(path, taxonomy).proximities(["a"], "fine")
    path = write_annotations([("train", 1, "a", 1, {small: "close"})], taxonomy)
    with pytest.raises(InputError, match="1-1_small-sounding-engine_proximity is 'close'"):
        Annotations.load(path, taxonomy, proximity=True)
    Annotations.load(path, taxonomy)  # what is not used is not checked


def test_sensors_are_those_of_the_whole_table_in_the_order_of_their_numbers(
        write_annotations, taxonomy):
    rows = [("train", sensor, name, 1, {}) for sensor, name in ((10, "a"), (9, "b"))]
    found = Annotations.load(write_annotations([*rows, ("test", 2, "c", 0, {})], taxonomy),
                             taxonomy)
    assert found.all_sensors == ["2", "9", "10"]
    assert found.sensor_numbers(["c", "a", "b"]).tolist() == [0, 2, 1]
    found = Annotations.load(write_annotations([*rows, ("test", "b2", "c", 0, {})], taxonomy),
                             taxonomy)
    assert found.all_sensors == ["10", "9", "b2"]


def test_volunteers_alone_or_whoever_annotated(taxonomy, write_annotations):
    path = write_annotations([
        ("train", "0", "a.wav", 3, {"8_dog": 1}),
        ("train", "0", "a.wav", 0, {"6_music": 1}),
        ("train", "0", "a.wav", -1, {"1_engine": 1}),
        ("train", "1", "b.wav", -1, {"1_engine": 1})], taxonomy)
    found = Annotations.load(path, taxonomy)
    columns = [tag.column for tag in taxonomy.coarse]

    def heard(files, **options):
        return [[columns[tag] for tag in np.flatnonzero(row)]
                for row in found.targets(files, "coarse", **options)]

    assert heard(["b.wav", "a.wav"]) == [["1_engine"], ["6_music"]]
    assert heard(["a.wav"], volunteers=True) == [["8_dog"]]
    with pytest.raises(InputError, match="no annotation of 'b.wav' by volunteers"):
        heard(["a.wav", "b.wav"], volunteers=True)
    assert found.annotated_by(["b.wav", "a.wav"], "volunteers") == ["a.wav"]
    assert found.annotated_by(["b.wav", "a.wav"], "agreed") == ["a.wav"]


def test_split_by_sensor_replaces_that_of_the_table(taxonomy, write_annotations):
    found = Annotations.load(write_annotations([
        ("train", "0", "a.wav", 0, {}), ("train", "1", "b.wav", 1, {}),
        ("test", "2", "c.wav", 1, {})], taxonomy), taxonomy)
    other = found.with_split({"0": "validate", "1": "train", "2": "train", "9": "test"})
    assert other.splits() == ["train", "validate"] and other.files("train") == ["b.wav", "c.wav"]
    assert other.ground_truth("validate")[0] == ["a.wav"] and found.files("train") == [
        "a.wav", "b.wav"]
    with pytest.raises(InputError, match=r"s.csv: does not list sensors '1', '2' of the "
                                         r"annotations \(2 clips\)"):
        found.with_split({"0": "train"}, "s.csv")
