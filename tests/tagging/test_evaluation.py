"""Scoring of predictions files: order, missing parts, many categories, speed, intervals."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from l3hpc.datasets.taxonomy import Taxonomy, sonyc_ust_taxonomy
from l3hpc.errors import InputError
from l3hpc.tagging import predictions as predictions_file
from l3hpc.tagging.annotations import Annotations
from l3hpc.tagging.evaluation import evaluate, published
from l3hpc.tagging.predictions import Predictions

spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def made_annotations(taxonomy, fine, coarse, split="validate"):
    clips = len(fine)
    names = np.array([f"{clip:02d}_{clip:06d}.wav" for clip in range(clips)], object)
    return Annotations(taxonomy, np.full(clips, split, object), np.full(clips, "0", object), names,
                       np.zeros(clips, np.int64), fine.astype(np.int8), coarse.astype(np.int8), 2)


def expected(taxonomy, fine, coarse, predicted):
    out = {}
    for level in ("fine", "coarse"):
        rows = []
        for place, category in enumerate(taxonomy.coarse):
            group = [at for at, column in enumerate(taxonomy.fine_columns)
                     if column.split("-")[0] == str(category.id)]  # "1" and "12" are two
            tags = [at for at in group if not taxonomy.fine[at].is_x]
            other = next((at for at in group if taxonomy.fine[at].is_x), None)
            if level == "coarse":
                rows.append(reference.counts(coarse[:, [place]], predicted.coarse[:, [place]]))
            elif other is None:
                rows.append(reference.counts(fine[:, tags], predicted.fine[:, tags]))
            else:
                rows.append(reference.counts(fine[:, tags], predicted.fine[:, tags],
                                             fine[:, other], predicted.fine[:, other]))
        areas = [reference.area(one) for one in rows]
        micro = reference.micro(rows)
        out[level] = {"micro_auprc": reference.area(micro), "micro_f1": reference.f1(micro),
                      "macro_auprc": float(np.mean(areas)),
                      "class_auprc": dict(zip([tag.name for tag in taxonomy.coarse], areas,
                                              strict=True))}
    return out


def close(got, want):
    assert got.keys() == want.keys()
    for level in want:
        for key in ("micro_auprc", "micro_f1", "macro_auprc"):
            assert got[level][key] == pytest.approx(want[level][key], abs=1e-12)
        assert got[level]["class_auprc"] == pytest.approx(want[level]["class_auprc"], abs=1e-12)


def case(taxonomy, rng, clips, decimals=2):
    fine = rng.random((clips, len(taxonomy.fine))) < 0.2
    coarse = rng.random((clips, len(taxonomy.coarse))) < 0.4
    files = [f"{clip:02d}_{clip:06d}.wav" for clip in range(clips)]
    noisy = np.clip(0.4 * fine + 0.6 * rng.random(fine.shape), 0, 1).round(decimals)
    predicted = Predictions(files, noisy, rng.random(coarse.shape).round(decimals))
    return fine, coarse, predicted


def test_equal_to_the_reference_on_the_real_taxonomy(taxonomy, rng):
    for clips in (3, 48):
        fine, coarse, predicted = case(taxonomy, rng, clips)
        result = evaluate(predicted, made_annotations(taxonomy, fine, coarse), taxonomy)
        close(published(result), expected(taxonomy, fine, coarse, predicted))
        json.dumps(result, allow_nan=False)


def taxonomy_of(categories):
    """Some categories have no X, as in SONYC-UST; the first has none, the eleventh has one."""
    return Taxonomy(
        {n: f"category-{n}" for n in range(1, categories + 1)},
        {n: {1: f"a{n}", 2: f"b{n}", **({} if n % 3 == 1 else {"X": f"x{n}"})}
         for n in range(1, categories + 1)})


def agreed_rows(taxonomy, fine, coarse, rng):
    """Rows of an annotation file in any order; volunteers and the team disagree with annotator 0.

    Clips of another split and clips without annotator 0 are among them.
    """
    names = [*taxonomy.fine_columns, *taxonomy.coarse_columns]
    found = []
    for clip, present in enumerate(np.concatenate([fine, coarse], axis=1)):
        file = f"{clip:02d}_{clip:06d}.wav"
        for annotator, heard in ((0, present), (7, ~present), (-3, ~present)):
            found.append(("validate", clip, file, annotator,
                          dict(zip(names, heard * 1, strict=True))))
    found.append(("test", 1, "77_000077.wav", 0, dict.fromkeys(names, 1)))
    found.append(("validate", 1, "78_000078.wav", 4, dict.fromkeys(names, 1)))
    return [found[place] for place in rng.permutation(len(found))]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("categories", [8, 12])
def test_files_of_both_versions_and_any_number_of_categories(
        categories, version, write_annotations, rng, tmp_path):
    taxonomy = sonyc_ust_taxonomy() if categories == 8 else taxonomy_of(categories)
    fine, coarse, predicted = case(taxonomy, rng, 14)
    taxonomy.save(tmp_path / "taxonomy.yaml")
    annotations = write_annotations(agreed_rows(taxonomy, fine, coarse, rng), taxonomy,
                                    version=version)
    predictions_file.write(tmp_path / "p.csv", predicted, taxonomy)
    result = evaluate(tmp_path / "p.csv", annotations, tmp_path / "taxonomy.yaml")
    close(published(result), expected(taxonomy, fine, coarse, predicted))
    assert result["files"] == 14 and result["warnings"] == []
    first = [at for at, column in enumerate(taxonomy.fine_columns) if column.startswith("1-")]
    assert next(iter(result["fine"]["class_positives"].values())) == fine[:, first].any(1).sum()


def rewritten(path, target, change):
    """A copy of a CSV file whose table (a list of rows, header first) was changed."""
    with open(path, newline="") as stream:
        table = change(list(csv.reader(stream)))
    with open(target, "w", newline="") as stream:
        csv.writer(stream).writerows(table)
    return target


@pytest.fixture
def scored(taxonomy, rng, tmp_path):
    """(annotations, predictions file, what it scores, its truth and predictions)."""
    fine, coarse, predicted = case(taxonomy, rng, 20)
    annotations = made_annotations(taxonomy, fine, coarse)
    predictions_file.write(tmp_path / "p.csv", predicted, taxonomy)
    return annotations, tmp_path / "p.csv", (fine, coarse, predicted)


@pytest.mark.parametrize("seed", range(5))
def test_order_of_rows_and_columns_does_not_matter(taxonomy, scored, tmp_path, seed):
    annotations, path, (_, _, predicted) = scored
    shuffle = np.random.default_rng(seed)

    def change(table):
        columns = shuffle.permutation(len(table[0]))
        rows = 1 + shuffle.permutation(len(table) - 1)
        return [[table[row][column] for column in columns] for row in (0, *rows)]

    straight = evaluate(predicted, annotations, taxonomy, bootstrap=3)
    assert evaluate(path, annotations, taxonomy, bootstrap=3) == straight
    shuffled = rewritten(path, tmp_path / "s.csv", change)
    assert evaluate(shuffled, annotations, taxonomy, bootstrap=3) == straight


def without(path, target, gone):
    return rewritten(path, target, lambda table: [
        [cell for cell, name in zip(row, table[0], strict=True) if name not in gone]
        for row in table])


@pytest.mark.parametrize("gone", [["1-X_engine-of-uncertain-size"], "X"])
def test_missing_columns_of_uncertain_tags_count_as_zero_with_a_warning(
        taxonomy, scored, tmp_path, gone):
    annotations, path, (fine, coarse, predicted) = scored
    if gone == "X":
        gone = [tag.column for tag in taxonomy.fine if tag.is_x]
        assert len(gone) == 6
    result = evaluate(without(path, tmp_path / "g.csv", gone), annotations, taxonomy)
    assert result["warnings"] == [f"column '{name}' is missing: taken as 0" for name in gone]
    for names, values in ((taxonomy.fine_columns, predicted.fine),
                          (taxonomy.coarse_columns, predicted.coarse)):
        values[:, [names.index(name) for name in gone if name in names]] = 0
    close(published(result), expected(taxonomy, fine, coarse, predicted))


@pytest.mark.parametrize("gone", ["5-3_siren", "8_dog"])
def test_a_level_with_missing_columns_is_refused(taxonomy, scored, tmp_path, gone):
    annotations, path, _ = scored
    with pytest.raises(InputError, match=f"g.csv:1: column '{gone}' is missing"):
        evaluate(without(path, tmp_path / "g.csv", [gone]), annotations, taxonomy)


@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_a_level_without_any_column_is_not_scored(taxonomy, scored, tmp_path, level):
    annotations, path, _ = scored
    gone = taxonomy.fine_columns if level == "coarse" else taxonomy.coarse_columns
    result = evaluate(without(path, tmp_path / "g.csv", gone), annotations, taxonomy)
    other = "fine" if level == "coarse" else "coarse"
    assert result[level] == evaluate(path, annotations, taxonomy)[level] and other not in result
    assert result["warnings"] == [
        f"no columns of the {other} tags: only the {level} ones are scored"]


@pytest.mark.parametrize(("change", "words"), [
    (lambda values: values * 100, r"values range from [0-9.]+ to \d+\n.*from 0 to 1\n.*percent"),
    (lambda values: np.log((values + 1e-9) / (1 - values + 1e-9)), "values range from -.*sigmoid"),
    (lambda values: values - 0.5, r"values range from -0\.\d+ to .*sigmoid"),
    (lambda values: np.log(values + 1e-9), "values range from .*logarithms"),
    (lambda values: values * 255, "values range from [0-9.]+ to 25"),
    (lambda values: np.where(values == values.max(), 1.01, values),
     r"is 1.01; values range from [0-9.e-]+ to 1.01\n[^\n]*$"),  # no percent
    (lambda values: np.where(values == values.max(), np.nan, values), "is 'nan'"),
    (lambda values: np.where(values == values.max(), np.inf, values), "is 'inf'"),
])
def test_values_that_are_no_probabilities_are_refused(taxonomy, rng, tmp_path, change, words):
    """Percent scored 0.578 in place of 0.242 when what lay outside [0, 1] was cut off."""
    fine, coarse, predicted = case(taxonomy, rng, 20)
    annotations = made_annotations(taxonomy, fine, coarse)
    for level in ("coarse", "fine"):
        values = {"fine": predicted.fine, "coarse": predicted.coarse}
        values[level] = change(values[level])
        wrong = Predictions(predicted.files, **values)
        predictions_file.write(tmp_path / "p.csv", wrong, taxonomy)
        with pytest.raises(InputError) as caught:
            evaluate(tmp_path / "p.csv", annotations, taxonomy)
        assert re.search(words, str(caught.value), re.DOTALL), caught.value
        assert re.match(rf"{tmp_path}/p.csv:\d+: \d", str(caught.value))  # line and column
        with pytest.raises(InputError, match="allowed|probabilities"):  # from Python as well
            evaluate(wrong, annotations, taxonomy)


def test_rounding_outside_the_range_is_cut_off(taxonomy, scored, tmp_path):
    annotations, path, _ = scored
    near = rewritten(path, tmp_path / "n.csv", lambda table: [table[0], *(
        [row[0], *("1.0000001" if cell == "1" else "-1e-9" if cell == "0" else cell
                   for cell in row[1:])] for row in table[1:])])
    assert evaluate(near, annotations, taxonomy) == evaluate(path, annotations, taxonomy)


@pytest.mark.parametrize(("header", "words"), [
    (lambda name: f"{name}_presence", "It has '1-1_.*_presence': these are annotations"),
    (lambda name: name.upper(), "resembles '1-1_.*must match exactly"),
    (lambda name: f" {name}", "resembles '1-1_"),
    (lambda name: f"tag{name[:1]}{hash(name)}", "audio_filename, then 1_engine"),
])
def test_a_file_without_any_known_tag_is_refused(taxonomy, scored, tmp_path, header, words):
    """It scored 0.000 with exit code 0."""
    annotations, path, _ = scored
    wrong = rewritten(path, tmp_path / "w.csv", lambda table: [
        [table[0][0], *map(header, table[0][1:])], *table[1:]])
    with pytest.raises(InputError, match="w.csv:1: no column is a tag of the taxonomy") as caught:
        evaluate(wrong, annotations, taxonomy)
    assert re.search(words, str(caught.value))
    alone = rewritten(path, tmp_path / "a.csv", lambda table: [row[:1] for row in table])
    with pytest.raises(InputError, match="no column is a tag of the taxonomy"):
        evaluate(alone, annotations, taxonomy)


def test_columns_that_tell_no_clips_apart_are_named(taxonomy, scored, tmp_path):
    annotations, path, _ = scored
    for count in (2, 30):
        same = rewritten(path, tmp_path / "c.csv", lambda table, count=count: [table[0], *(
            [row[0], *["0.5"] * count, *row[1 + count:]] for row in table[1:])])
        warnings = evaluate(same, annotations, taxonomy)["warnings"]
        if count == 2:
            assert warnings == [f"column '{name}' has the same value for all 20 clips"
                                for name in taxonomy.fine_columns[:2]]
        else:
            assert len(warnings) == 1 and warnings[0].startswith("30 columns (1-1_")
    empty = rewritten(path, tmp_path / "c.csv", lambda table: [table[0], *(
        [row[0], *["0"] * (len(row) - 1)] for row in table[1:])])
    assert evaluate(empty, annotations, taxonomy)["warnings"] == ["every value is 0"]


def test_a_split_without_any_tag_cannot_be_scored(taxonomy, rng):
    fine, coarse, predicted = case(taxonomy, rng, 5)
    nothing = made_annotations(taxonomy, fine & False, coarse & False)
    with pytest.raises(InputError, match="no clip of split 'validate' has a tag"):
        evaluate(predicted, nothing, taxonomy)


def test_columns_of_no_tag_are_passed_over_with_a_warning(taxonomy, scored, tmp_path):
    annotations, path, _ = scored
    more = rewritten(path, tmp_path / "m.csv", lambda table: [
        [*table[0], "9_helicopter", "3-X_x"], *([*row, "loud", "1"] for row in table[1:])])
    result = evaluate(more, annotations, taxonomy)
    assert result.pop("warnings") == [
        "column '9_helicopter' is not a tag of the taxonomy: ignored",
        "column '3-X_x' is not a tag of the taxonomy: ignored"]
    assert result == {key: value for key, value in evaluate(path, annotations, taxonomy).items()
                      if key != "warnings"}


def test_missing_and_extra_clips_are_refused_by_name(taxonomy, rng):
    fine, coarse, predicted = case(taxonomy, rng, 5)
    annotations = made_annotations(taxonomy, fine, coarse)
    wrong = Predictions([*predicted.files[:4], "99_000099.wav"], predicted.fine, predicted.coarse)
    with pytest.raises(InputError) as caught:
        evaluate(wrong, annotations, taxonomy)
    assert "1 missing (04_000004.wav)" in str(caught.value)
    assert "1 not among them (99_000099.wav)" in str(caught.value)
    fewer = Predictions(predicted.files[:1], predicted.fine[:1], predicted.coarse[:1])
    with pytest.raises(InputError, match=r"4 missing \(01_000001.wav, .*, …\)"):
        evaluate(fewer, annotations, taxonomy)
    with pytest.raises(InputError, match="split 'test' has no agreed annotations"):
        evaluate(predicted, annotations, taxonomy, "test")


def test_where_recalls_are_equal_the_higher_threshold_comes_first():
    """One hit, one alarm, two hits at once; the other order of the tie gives 2/3, not 7/12."""
    taxonomy = Taxonomy({1: "one"}, {1: {1: "a"}})
    truth = np.array([[True], [False], [True], [True]])
    values = np.array([[0.9], [0.8], [0.6], [0.6]])
    files = [f"{clip:02d}_{clip:06d}.wav" for clip in range(4)]
    result = evaluate(Predictions(files, values, values),
                      made_annotations(taxonomy, truth, truth), taxonomy)
    for level in ("fine", "coarse"):
        assert result[level]["class_auprc"]["one"] == pytest.approx(7 / 12, abs=1e-15)
        assert result[level]["micro_auprc"] == pytest.approx(7 / 12, abs=1e-15)


def test_curves_have_at_most_200_points(taxonomy, rng):
    fine, coarse, predicted = case(taxonomy, rng, 300, decimals=9)
    result = evaluate(predicted, made_annotations(taxonomy, fine, coarse), taxonomy)
    for level in ("fine", "coarse"):
        for curve in result[level]["curves"].values():
            assert len(curve["recall"]) == len(curve["precision"]) == len(curve["threshold"]) == 200
            assert curve["threshold"][0] == 1.0 and curve["threshold"] == sorted(
                curve["threshold"], reverse=True)


def test_every_number_has_its_interval(taxonomy, rng):
    fine, coarse, predicted = case(taxonomy, rng, 60)
    annotations = made_annotations(taxonomy, fine, coarse)
    result = evaluate(predicted, annotations, taxonomy, bootstrap=100)
    assert result == evaluate(predicted, annotations, taxonomy, bootstrap=100)
    assert result != evaluate(predicted, annotations, taxonomy, bootstrap=100, seed=1)
    narrow = evaluate(predicted, annotations, taxonomy, bootstrap=100, confidence=0.5)
    for level in ("fine", "coarse"):
        found, inner = result[level]["confidence"], narrow[level]["confidence"]
        assert (found["level"], inner["level"], found["samples"]) == (0.95, 0.5, 100)
        assert found["method"] == "percentiles over clips drawn with replacement"
        numbers = published(result)[level]
        assert set(found) == set(numbers) | {"level", "samples", "method"}
        assert list(found["class_auprc"]) == list(numbers["class_auprc"])
        pairs = [(numbers[key], found[key], inner[key])
                 for key in ("micro_auprc", "micro_f1", "macro_auprc")]
        pairs += [(value, found["class_auprc"][name], inner["class_auprc"][name])
                  for name, value in numbers["class_auprc"].items()]
        for value, (low, high), (inner_low, inner_high) in pairs:
            assert low < inner_low < inner_high < high and low < value < high < low + 0.7
    assert "confidence" not in evaluate(predicted, annotations, taxonomy)["fine"]


def test_positives_and_curves_are_told(taxonomy, rng):
    fine, coarse, predicted = case(taxonomy, rng, 10)
    result = evaluate(predicted, made_annotations(taxonomy, fine, coarse), taxonomy)
    assert result["coarse"]["class_positives"]["dog"] == int(coarse[:, 7].sum())
    assert result["fine"]["class_positives"]["engine"] == int(fine[:, :4].any(axis=1).sum())
    curve = result["coarse"]["curves"]["dog"]
    assert curve["threshold"][0] == 1.0 and curve["recall"][-1] == 1.0
    assert set(result["fine"]["curves"]) == {tag.name for tag in taxonomy.coarse} | {"micro"}
