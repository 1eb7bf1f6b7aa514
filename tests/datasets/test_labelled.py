"""The two layouts: what is read, what is refused and where, what an inspection names."""

from pathlib import Path

import pytest

from l3hpc.datasets import labelled
from l3hpc.datasets.check import check_folder, check_labelled
from l3hpc.datasets.labelled import LabelledClip
from l3hpc.errors import InputError

REAL = Path(__file__).parents[2].parent / "shared/real"


def test_esc50_is_read(esc50):
    found = labelled.read_labelled(esc50())
    assert (found.kind, found.classes, found.ids) == (
        "ESC-50", ("dog", "hen", "sneezing"), (0, 7, 21))
    assert found.folds == [1, 2, 3] and len(found.clips) == 18
    assert found.clips[2] == LabelledClip("1-1070-A-7.wav", 1, 1, "1070")
    assert [one.size > 0 for one in found.recordings()] == [True] * 18


def test_a_name_that_no_file_can_have_is_missing_audio(esc50, us8k):
    for folder, name in ((esc50(), "1-1070-A-7.wav"), (us8k(), "103-3-0-1.wav")):
        table = labelled.read_labelled(folder).table
        table.write_text(table.read_text().replace(name, "x" * 300 + ".wav"))
        found = {one.subject: one for one in check_labelled(folder).problems}
        assert found["missing audio"].examples[0].endswith("x" * 300 + ".wav")
        assert [one.size for one in labelled.read_labelled(folder).recordings()].count(-1) == 1


def test_esc10_is_what_the_table_flags(esc50):
    found = labelled.read_labelled(esc50(), "esc10")
    assert (found.kind, found.classes, found.ids) == ("ESC-10", ("dog", "sneezing"), (0, 21))
    assert len(found.clips) == 12 and {clip.label for clip in found.clips} == {0, 1}


def test_us8k_is_read_with_its_fold_folders(us8k):
    found = labelled.read_labelled(us8k())
    assert (found.kind, found.classes, found.ids) == (
        "UrbanSound8K", ("car_horn", "dog_bark"), (1, 3))
    assert found.clips[3] == LabelledClip("fold1/103-3-0-1.wav", 1, 1, "103")
    assert (found.audio / found.clips[3].file).is_file()
    with pytest.raises(InputError, match="no subset esc10"):
        labelled.read_labelled(found.table.parents[1], "esc10")


def test_a_missing_file_has_no_size(esc50):
    folder = esc50()
    (folder / "audio/1-1070-A-7.wav").unlink()
    gone = [one.file for one in labelled.read_labelled(folder).recordings() if one.size < 0]
    assert gone == ["1-1070-A-7.wav"]


@pytest.mark.parametrize(("old", "new", "message", "line"), [
    ("src_file", "fold", "column 'fold' occurs twice", 1),
    ("category", "name", "column 'category' is missing", 1),
    ("1-1000-B-0.wav,1,", "1-1000-B-0.wav,6,", "fold 6", 3),
    ("1-1000-B-0.wav,1,", "1-1000-B-0.wav,2,", "fold is 2, but 1 by the file name", 3),
    ("1-1000-B-0.wav,1,0,", "1-1000-B-0.wav,1,x,", "target 'x' is not a whole number", 3),
    ("1-1000-B-0.wav,1,0,dog", "1-1000-B-0.wav,1,0,cat", "class 0 has two names: 'cat' here", 3),
    ("1-1000-B-0.wav,1,0,", "1-1000-B-0.wav,1,7,", "target is 7, but 0 by the file name", 3),
    ("1-1000-B-0.wav", "1-1000-A-0.wav", "'1-1000-A-0.wav' is listed twice (as in line 2)", 3),
    ("1-1000-B-0.wav", "../B.wav", "'../B.wav' is not a plain file name", 3),
])
def test_a_broken_table_is_refused_with_its_line(esc50, old, new, message, line):
    table = esc50(audio=False) / "meta/esc50.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError) as refused:
        labelled.read_labelled(table.parents[1])
    assert refused.value.message.startswith(message)
    assert refused.value.where == f"{table}:{line}"


def test_a_folder_of_neither_is_refused(tmp_path):
    for place, message in ((tmp_path, "holds neither"), (tmp_path / "none", "no such folder")):
        with pytest.raises(InputError, match=message):
            labelled.read_labelled(place)
    assert not labelled.is_labelled_dataset(tmp_path)


def test_what_counts_as_another_data_set(esc50):
    folder = esc50(audio=False)
    first = labelled.read_labelled(folder)
    assert first.digest() == labelled.read_labelled(folder).digest()
    assert first.digest() != labelled.read_labelled(folder, "esc10").digest()
    table = folder / "meta/esc50.csv"
    table.write_text(table.read_text().replace("1-1000-B-0.wav,1,0,dog,True,1000",
                                               "1-1000-B-0.wav,1,0,dog,True,1000 "))
    assert labelled.read_labelled(folder).digest() == first.digest()
    table.write_text(table.read_text().replace(",hen,", ",rooster,"))
    assert labelled.read_labelled(folder).digest() != first.digest()


def test_missing_extra_and_shared_sources_are_named(us8k):
    folder = us8k()
    (folder / "audio/fold2/203-3-0-1.wav").unlink()
    (folder / "audio/fold2/203-3-0-1_pitch2.wav").write_bytes(b"no audio")
    table = folder / "metadata/UrbanSound8K.csv"
    table.write_text(table.read_text() + "103-3-1-0.wav,103,0,1,1,3,3,dog_bark\n")
    (findings,) = check_folder(folder)
    assert findings.kind == "UrbanSound8K"
    assert [(one.subject, one.count, one.examples) for one in findings.problems] == [
        ("missing audio", 2, ("fold2/203-3-0-1.wav", "fold3/103-3-1-0.wav")),
        ("folds", 7, ("fold 4", "fold 5", "fold 6"))]
    assert {one.subject: one.examples for one in findings.remarks} == {
        "extra audio": ("fold2/203-3-0-1_pitch2.wav",), "source": ("103 (1, 3)",),
        "size": ("13",), "classes": ()}
    assert findings.counts["folds"] == {"1": 4, "2": 4, "3": 5}
    assert findings.counts["rates"] == {"8000": 11}


def test_folds_without_clips_or_audio_are_problems(us8k, esc50):
    folder = us8k(folds=10, per_fold=4)
    assert not check_labelled(folder).problems
    for path in (folder / "audio/fold3").iterdir():
        path.unlink()
    table = folder / "metadata/UrbanSound8K.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True)
                             if line.split(",")[5] != "10"))
    problems = check_labelled(folder).problems
    assert [str(one) for one in problems if one.subject == "folds"] == [
        "1 of 10 folds have no clips in the table: fold 10",
        "1 of 10 folds have no audio: fold 3"]
    folder = esc50(folds=5, per_fold=9)
    table = folder / "meta/esc50.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True)
                             if not line.startswith("2-") or "2-2000-A-0" in line))
    found = check_labelled(folder)
    assert [str(one) for one in found.problems] == [
        "1 fold has far fewer clips than the others: fold 2 (1)"]
    assert "3 of 50 classes" in [str(one) for one in found.remarks]


def test_a_class_that_a_fold_lacks_is_a_remark(esc50):
    folder = esc50(audio=False)
    table = folder / "meta/esc50.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True)
                             if not line.startswith("2-") or ",7," not in line))
    remarks = {one.subject: one.examples for one in check_labelled(folder).remarks}
    assert remarks["class"] == ("hen in fold 2",)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real recordings beside the project")
def test_the_real_tables():
    esc10 = labelled.read_labelled(REAL / "esc10", "esc10")
    assert (len(esc10.clips), len(esc10.classes), esc10.folds) == (400, 10, [1, 2, 3, 4, 5])
    if (REAL / "us8k").is_dir():
        us8k = labelled.read_labelled(REAL / "us8k")
        assert (len(us8k.clips), us8k.ids) == (8732, tuple(range(10)))
        sources = {}
        for clip in us8k.clips:
            sources.setdefault(clip.source, set()).add(clip.fold)
        assert sorted(name for name, folds in sources.items() if len(folds) > 1) == [
            "106905", "132016", "176638", "180937", "77751"]
