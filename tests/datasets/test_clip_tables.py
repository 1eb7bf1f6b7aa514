"""Any table of clips: columns found or named, labels, folds given or made, and what is refused."""

import time
from collections import Counter

import pytest

from l3hpc.datasets.clip_columns import ClipTable
from l3hpc.datasets.clip_tables import read_files, read_table
from l3hpc.datasets.labelled import read_labelled
from l3hpc.errors import InputError


@pytest.fixture
def table(tmp_path):
    """Writes birds/labels.csv of the given rows, and an empty file for each name in ``files``."""
    def write(text, files=()):
        folder = tmp_path / "birds"
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        folder.mkdir(exist_ok=True)
        (folder / "labels.csv").write_text(text)
        return folder / "labels.csv"
    return write


def rows(*lines):
    return "\n".join(lines) + "\n"


def many(classes="ab", per_class=6, header="file,label,site"):
    """A table with ``per_class`` clips of each class, three to a site."""
    return rows(header, *(f"{name}{number}.wav,{name},{name}{number // 3}"
                          for name in classes for number in range(per_class)))


PLAIN = rows("file,label,fold", "a.wav,owl,1", "b.wav,wren,1", "c.wav,owl,2", "d.wav,wren,2")


def test_columns_are_found_by_their_usual_names(table):
    found = read_table(ClipTable(table(PLAIN)))
    assert (found.kind, found.classes, found.folds, found.part) == (
        "birds", ("owl", "wren"), [1, 2], "")
    assert [(clip.file, clip.fold, clip.label, clip.source) for clip in found.clips] == [
        ("a.wav", 1, 0, "a.wav"), ("b.wav", 1, 1, "b.wav"), ("c.wav", 2, 0, "c.wav"),
        ("d.wav", 2, 1, "d.wav")]
    assert found.columns == "files of 'file', labels of 'label', folds of 'fold'"


def test_columns_can_be_named(table):
    path = table(PLAIN.replace("file,label,fold", "Take,what,part"))
    with pytest.raises(InputError, match="no column of files was found") as refused:
        read_table(ClipTable(path))
    assert "Take, what, part" in refused.value.allowed and "--file-column" in refused.value.hint
    named = {"file_column": "Take", "label_column": "what", "fold_column": "part"}
    assert read_table(ClipTable(path, **named)).folds == [1, 2]
    with pytest.raises(InputError, match="has no column 'when'"):
        read_table(ClipTable(path, **{**named, "group_column": "when"}))


@pytest.mark.parametrize(("stem", "given", "name"), [
    ("labels", None, "birds"), ("owls-2024", None, "owls-2024"), ("labels", "Night", "Night")])
def test_the_data_set_has_a_name(table, stem, given, name):
    path = table(PLAIN)
    path = path.rename(path.with_name(f"{stem}.csv"))
    assert read_table(ClipTable(path, name=given)).kind == name


def test_the_tables_of_the_known_data_sets_are_cases(esc50, us8k):
    """Same clips, folds and order of the classes, found without naming anything but numbers."""
    for folder, number, group in ((esc50(), "target", "src_file"), (us8k(), "classID", "fsID")):
        known = read_labelled(folder)
        found = read_table(ClipTable(known.table, known.audio, label_column=number,
                                     group_column=group))
        assert found.clips == known.clips
        assert found.classes == tuple(map(str, known.ids))
        assert set(read_table(ClipTable(known.table, known.audio)).classes) == set(known.classes)


def test_a_name_may_lack_its_folder_or_suffix(table):
    text = PLAIN.replace("a.wav", "a").replace("b.wav", "deep/b")
    path = table(text, ["x/a.wav", "deep/b.flac", "y/c.wav", "d.wav", "a.txt"])
    assert read_files(ClipTable(path)) == ["x/a.wav", "deep/b.flac", "y/c.wav", "d.wav"]
    table(text, ["z/a.ogg"])
    with pytest.raises(InputError, match=r"'a' may be x/a.wav or z/a.ogg"):
        read_files(ClipTable(path))


def test_absolute_names_below_the_folder(table):
    path = table(PLAIN)
    path.write_text(PLAIN.replace("a.wav", str(path.parent / "a.wav")))
    assert read_files(ClipTable(path))[0] == "a.wav"


def test_two_names_of_one_file_are_refused(table):
    path = table(PLAIN.replace("b.wav", "x/a.wav"), ["x/a.wav", "c.wav", "d.wav"])
    with pytest.raises(InputError, match="'a.wav' and 'x/a.wav' are the same file"):
        read_files(ClipTable(path))


@pytest.mark.parametrize("second", ["./a.wav", ".//a.wav", "{folder}/a.wav", "link.wav"])
def test_a_second_name_of_a_file_that_is_there_is_refused(table, second):
    path = table("", ["a.wav", "c.wav", "d.wav"])
    (path.parent / "link.wav").symlink_to("a.wav")
    path.write_text(PLAIN.replace("b.wav", second.format(folder=path.parent)))
    with pytest.raises(InputError, match="'a.wav' and '.*' are the same file: .*wav"):
        read_files(ClipTable(path))


@pytest.mark.parametrize(("column", "cells", "given"), [
    ("tags", ("owl;wren", "wren", "owl", "owl ; rain", "rain"), {}),
    ("tags", ("owl|wren", "wren|", "owl", "rain|owl|owl", "rain"), {}),
    ("tags", ('"owl,wren"', "wren", "owl", '"owl,rain"', "rain"), {"label_separator": ","}),
    ("owl,rain,wren", ("1,0,1", "0,0,1", "true,,False", "1.0,1,0", "0,1,0"),
     {"label_column": "owl, rain,wren"})])
def test_several_labels(table, column, cells, given):
    lines = [f"{index}.wav,{index % 2},{cell}" for index, cell in enumerate(cells)]
    found = read_table(ClipTable(table(rows(f"file,fold,{column}", *lines)), **given))
    assert found.several and found.classes == ("owl", "rain", "wren")
    assert [clip.labels for clip in found.clips] == [(0, 2), (2,), (0,), (0, 1), (1,)]


def test_a_comma_is_not_taken_for_a_separator_unasked(table):
    path = table(PLAIN.replace("owl", '"owl, barn"'))
    with pytest.raises(InputError, match="may be one label or several") as refused:
        read_table(ClipTable(path))
    assert "--label-separator" in refused.value.hint
    one = read_table(ClipTable(path, label_separator="none"))
    assert one.classes == ("owl, barn", "wren") and not one.several


def test_folds_that_are_made_are_stratified_and_repeatable(table):
    path = table(many(per_class=10))
    found = read_table(ClipTable(path))
    assert found.folds == [1, 2, 3, 4, 5]
    assert set(Counter((clip.fold, clip.label) for clip in found.clips).values()) == {2}
    again, other = read_table(ClipTable(path)), read_table(ClipTable(path, seed=1))
    assert again.digest() == found.digest() != other.digest()


def test_folds_that_are_made_keep_groups_together(table):
    found = read_table(ClipTable(table(many(per_class=12)), group_column="site", folds=4))
    sites = {(clip.source, clip.fold) for clip in found.clips}
    assert found.folds == [1, 2, 3, 4] and len(sites) == 8
    assert {clip.source for clip in found.clips} >= {"a0", "b3"}
    assert found.columns.endswith("4 folds made with groups of 'site'")


def test_groups_in_several_folds_are_counted(table):
    text = rows("file,label,fold,site", "a.wav,owl,1,n", "b.wav,wren,1,n", "c.wav,owl,2,n",
                "d.wav,wren,2,s", "e.wav,owl,3,s", "f.wav,wren,3,t")
    found = read_table(ClipTable(table(text), group_column="site"))
    assert found.columns.endswith("folds of 'fold', 2 of 3 groups of 'site' in several folds")
    assert read_table(ClipTable(table(text))).columns.endswith("folds of 'fold'")


def test_a_number_of_folds_replaces_those_that_were_found(table):
    text = PLAIN + "e.wav,owl,1\nf.wav,wren,1\n"
    assert len(read_table(ClipTable(table(text), folds=3)).folds) == 3
    with pytest.raises(InputError, match="cannot be combined"):
        read_table(ClipTable(table(text), folds=3, fold_column="fold"))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("b.wav,wren,1", "b.wav,wren,x", "1 of 4 clips have an unknown fold in the column 'fold': "
                                     "b.wav (line 3: 'x')"),
    (",1\n", ",\n", "2 of 4 clips have an unknown fold in the column 'fold': a.wav (line 2: '')"),
    ("b.wav,wren", "b.wav, ", "1 of 4 clips have no label: b.wav (line 3)"),
    ("d.wav,wren", "d.wav,rain", "2 of 3 classes have one clip: 'rain' (d.wav), 'wren' (b.wav)"),
    ("wren,2", "wren,1", "1 of 2 classes have clips in one fold only: 'wren' (b.wav)"),
    ("wren", "owl", "has a single class: 'owl'"),
    ("b.wav", "a.wav", "'a.wav' is listed twice (as in line 2)"),
    ("b.wav", "../b.wav", "'../b.wav' is not a file below the folder of audio"),
    ("b.wav", "/etc/b.wav", "'/etc/b.wav' is not a file below the folder of audio"),
    ("b.wav", "", "'' is not a file below the folder of audio"),
    ("label,", "what,", "no column of labels was found"),
])
def test_what_is_refused(table, old, new, message):
    with pytest.raises(InputError) as refused:
        read_table(ClipTable(table(PLAIN.replace(old, new))))
    assert refused.value.message.startswith(message)


SPLIT = rows("file,label,set,site", "a.wav,owl,train,n", "b.wav,wren,Training,n",
             "c.wav,owl,val,n", "d.wav,owl, test,s", "e.wav,wren,train,s")


def test_a_split_takes_the_place_of_folds(table):
    path = table(SPLIT)
    found = read_table(ClipTable(path, split_column="set", group_column="site"))
    assert [clip.fold for clip in found.clips] == [1, 1, 2, 3, 1]
    assert (found.has_split, found.tested_folds, found.small_folds()) == (True, [3], [])
    assert found.columns == (
        "files of 'file', labels of 'label', split of 'set': 3 to train, 1 to validate, 1 to test, "
        "2 of 2 groups of 'site' in several parts, no test clips of 1 of 2 classes: wren")
    numbers = {"train": "1", "Training": "1", "val": "2", " test": "3"}
    text = SPLIT
    for word, number in numbers.items():
        text = text.replace(f",{word},", f",{number},")
    path.write_text(text.replace("c.wav,owl", "c.wav,wren"))
    folds = read_table(ClipTable(path, fold_column="set", group_column="site"))
    path.write_text(SPLIT.replace("c.wav,owl", "c.wav,wren"))
    split = read_table(ClipTable(path, split_column="set", group_column="site"))
    # the same clips in the same parts are learned and tested in another way
    assert folds.clips == split.clips and folds.digest() != split.digest()


@pytest.mark.parametrize(("old", "new", "message"), [
    (",val,", ",extra,", r"1 of 5 clips are in no part of the split in the column 'set': c.wav "
                         r"\(line 4: 'extra'\)"),
    (",val,", ",,", r"1 of 5 clips are in no part"),
    (", test,", ",train,", "no clip is in the part test"),
    ("e.wav,wren,train", "e.wav,rain,test", r"1 of 3 classes have no clip to train on: 'rain'")])
def test_a_split_that_cannot_be_learned_is_refused(table, old, new, message):
    with pytest.raises(InputError, match=message):
        read_table(ClipTable(table(SPLIT.replace(old, new)), split_column="set"))


def test_a_split_that_nobody_named_is_mentioned(table):
    path = table(many(header="file,label,set").replace("a0\n", "train\n"))
    assert "split" not in read_table(ClipTable(path)).columns  # other words are no split
    text = many(header="file,label,set")
    for word, part in (("a0", "train"), ("a1", "test"), ("b0", "Train"), ("b1", "val")):
        text = text.replace(f",{word}\n", f",{part}\n")
    found = read_table(ClipTable(table(text)))
    assert found.columns.endswith("5 folds made, the split of 'set' is not used "
                                  "(--split-column set)")


@pytest.mark.parametrize("other", [{"fold_column": "set"}, {"folds": 5}])
def test_a_split_and_folds_exclude_each_other(table, other):
    with pytest.raises(InputError, match="a split and folds cannot be combined"):
        read_table(ClipTable(table(SPLIT), split_column="set", **other))


def test_too_few_groups_or_clips_for_the_folds(table):
    with pytest.raises(InputError, match="4 groups are too few for 5 folds") as refused:
        read_table(ClipTable(table(many()), group_column="site"))
    assert (refused.value.allowed, refused.value.hint) == (
        "2 to 4 folds", "Use fewer (--folds N), or another --group-column.")
    with pytest.raises(InputError, match="2 groups are too few for 3 folds") as refused:
        read_table(ClipTable(table(many("a")), folds=3, group_column="site"))
    assert (refused.value.allowed, refused.value.hint) == (
        "2 folds", "Use fewer (--folds 2 --set folds.valid_fold=false), or another --group-column.")
    with pytest.raises(InputError, match="1 group is too few for 5 folds") as refused:
        read_table(ClipTable(table(many("a", 3)), group_column="site"))
    assert refused.value.allowed == "at least two groups"
    with pytest.raises(InputError, match="no class has as many as 7 clips"):
        read_table(ClipTable(table(many()), folds=7))


def test_a_missing_table_or_folder(table, tmp_path):
    with pytest.raises(InputError, match="no such folder of audio"):
        read_files(ClipTable(table(PLAIN), tmp_path / "none"))
    with pytest.raises(InputError, match="no such table of clips"):
        read_table(ClipTable(tmp_path / "none.csv"))


ONE, TWO = "h\u00e9ron", "he\u0301ron"  # the same word, as Linux and as macOS write it


def test_a_word_is_one_label_however_its_accents_are_written(table):
    path = table(rows("file,label,fold", f"a.wav,{ONE},1", "b.wav,owl,1", f"c.wav,{TWO},2",
                      "d.wav,owl,2", f"e.wav,{ONE};{TWO},1"))
    found = read_table(ClipTable(path))
    assert found.classes == (ONE, "owl")
    assert [clip.labels for clip in found.clips] == [(0,), (1,), (0,), (1,), (0,)]
    path = table(rows(f"file,{TWO},owl,fold", "a.wav,1,0,1", "b.wav,0,1,1", "c.wav,1,1,2",
                      "d.wav,0,1,2"))
    assert read_table(ClipTable(path, label_column=f"{ONE},owl")).classes == (ONE, "owl")


def test_a_file_is_found_however_its_accents_are_written(table):
    path = table(PLAIN.replace("a.wav", f"{ONE}.wav").replace("b.wav", f"b/{TWO}.wav"),
                 files=[f"{TWO}.wav", f"b/{ONE}.wav", "c.wav", "d.wav"])
    assert [clip.file for clip in read_table(ClipTable(path)).clips] == [
        f"{TWO}.wav", f"b/{ONE}.wav", "c.wav", "d.wav"]


def test_a_column_of_labels_counts_once(table):
    path = table(rows(f"file,{ONE},{TWO},fold", "a.wav,1,0,1", "b.wav,0,1,2"))
    for named in (f"{ONE},{ONE}", f"{ONE},{TWO}"):
        with pytest.raises(InputError, match=f"names the column '{ONE}' twice"):
            read_table(ClipTable(path, label_column=named))


@pytest.mark.parametrize("cell", ["2", "yes", "owl"])
def test_several_label_columns_hold_ones_and_zeros(table, cell):
    path = table(rows("file,a,b,fold", "a.wav,1,0,1", f"b.wav,0,{cell},1", "c.wav,True,0.0,2"))
    with pytest.raises(InputError, match=f"b is '{cell}'") as refused:
        read_table(ClipTable(path, label_column="a,b"))
    assert str(refused.value.where).endswith("labels.csv:3") and "1 or 0" in refused.value.allowed


def test_a_hidden_file_is_no_clip(table):
    """Finder leaves ._NAME beside each file on a foreign disk."""
    path = table(PLAIN.replace(".wav", ""), files=(
        "x/a.wav", "x/b.wav", "x/c.wav", "x/d.wav", "x/._a.wav", ".trash.wav"))
    assert [clip.file for clip in read_table(ClipTable(path)).clips] == [
        f"x/{name}.wav" for name in "abcd"]
    hidden = table(PLAIN.replace("a.wav", "._a"), files=())
    assert read_table(ClipTable(hidden)).clips[0].file == "._a"  # as it is: no file of it


def test_odd_labels_are_mentioned(table):
    path = table(rows("file,a,b,c,fold", "a.wav,1,0,0,1", "b.wav,1,1,0,1", "c.wav,1,1,0,2",
                      "d.wav,1,0,0,2"))
    found = read_table(ClipTable(path, label_column="a,b,c"))
    assert found.classes == ("a", "b")
    assert "no clip has the label 'c', every clip has the label 'a', folds" in found.columns
    path = table(PLAIN.replace("c.wav,owl", "c.wav,Owl").replace("2\n", "2\ne.wav,owl,2\n", 1)
                 + "f.wav,Owl,1\n")
    assert "'Owl', 'owl' differ only in case or spaces" in read_table(ClipTable(path)).columns


def test_thousands_of_label_columns_are_read_in_time_and_not_all_listed(table):
    names = [f"tag{number}" for number in range(5000)]
    path = table(rows(",".join(["file", *names, "fold"]), *(
        f"{number}.wav," + ",".join("10"[(number + place) % 2] for place in range(5000))
        + f",{number // 4}" for number in range(20))))
    start = time.process_time()
    found = read_table(ClipTable(path, label_column=",".join(names)))
    assert time.process_time() - start < 2  # 5 when each column was looked up by reading all
    assert len(found.classes) == 5000
    assert found.columns.count("tag") == 30 and "and 4,970 more" in found.columns
    with pytest.raises(InputError, match="has no column 'tagg'") as refused:
        read_table(ClipTable(path, label_column="tag1,tagg"))
    assert "and 4,972 more" in refused.value.allowed
