"""Subsets of AudioSet by class names: descendants, exclusions, refusals."""

import json

import pytest

from l3hpc.avc.audioset import (
    Ontology,
    Segment,
    group_items,
    read_segments,
    select_segments,
    select_videos,
    split_items,
    video_id,
)
from l3hpc.errors import InputError

#  Sound > Animal > Dog > Bark;  Sound > Music > Dog song (also below Dog);  Rattle twice
CLASSES = [
    ("/m/sound", "Sounds", ["/m/animal", "/m/music", "/m/r1", "/m/r2"]),
    ("/m/animal", "Animal", ["/m/dog"]), ("/m/dog", "Dog", ["/m/bark", "/m/song"]),
    ("/m/bark", "Bark", []), ("/m/music", "Music", ["/m/song"]), ("/m/song", "Dog song", []),
    ("/m/r1", "Rattle", []), ("/m/r2", "Rattle", []),
    ("/m/horn", "Vehicle horn, car horn, honking", []),
]
LIST = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=5, num_segs=5, num_unique_labels=5, num_positive_labels=7
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/bark,/m/music"
-0DdlOuIFUI, 50.000, 60.000, "/m/music"
a_b-c_d-e_f, 30.000, 40.000, "/m/song"
00000000000, 30.000, 40.000, "/m/r2"
11111111111, 30.000, 40.000, "/m/horn"
"""


@pytest.fixture
def ontology(tmp_path):
    path = tmp_path / "ontology.json"
    path.write_text(json.dumps([{"id": one, "name": name, "child_ids": below}
                                for one, name, below in CLASSES]))
    return path


@pytest.fixture
def segments(tmp_path):
    path = tmp_path / "segments.csv"
    path.write_text(LIST)
    return path


def test_segments_are_read_as_audioset_writes_them(segments):
    found = read_segments(segments)
    assert found[0] == Segment("--4gqARaEJE", 0.0, 10.0, ("/m/bark", "/m/music"))
    assert [one.video for one in found][1:3] == ["-0DdlOuIFUI", "a_b-c_d-e_f"]


@pytest.mark.parametrize(("line", "what"), [
    ("--4gqARaEJE, 0.000, ten, \"/m/a\"", ":9: not a segment"),
    ("short, 0.000, 10.000, \"/m/a\"", "id of 11 characters"),
    ("--4gqARaEJE, 10.000, 5.000, \"/m/a\"", "start before end"),
    ("--4gqARaEJE, 0.000, 10.000", "at least one label"),
])
def test_a_broken_line_is_named(segments, line, what):
    segments.write_text(LIST + line + "\n")
    with pytest.raises(InputError, match=what):
        read_segments(segments)


@pytest.mark.parametrize(("include", "exclude", "numbers"), [
    ((), (), [0, 1, 2, 3, 4]),
    (("Music",), (), [0, 1, 2]),  # with the song below it
    (("animal",), (), [0, 2]),  # any case; two levels down
    (("Animal",), ("Music",), []),  # exclusion wins, also over a label's second parent
    (("Music",), ("Bark",), [1, 2]),
    ((), ("Dog",), [1, 3, 4]),
    (("Rattle",), (), [3]),  # both classes of that name
    (("/m/bark",), (), [0]),
    (("Vehicle horn, car horn, honking",), (), [4]),
])
def test_subsets(ontology, segments, include, exclude, numbers):
    every = read_segments(segments)
    found = select_segments(every, Ontology.read(ontology), include, exclude)
    assert found == [every[number] for number in numbers]


def test_unknown_names_are_refused_with_the_nearest(ontology, segments):
    with pytest.raises(InputError, match="no class 'Dogs'") as refusal:
        select_segments(read_segments(segments), Ontology.read(ontology), ["Dogs"])
    assert "did you mean 'Dog'" in str(refusal.value)
    with pytest.raises(InputError, match="one of its 8 names|one of its 9 names"):
        Ontology.read(ontology).find("xyzzy42")


def test_a_class_that_is_included_and_excluded_is_refused(ontology, segments):
    with pytest.raises(InputError, match="'Dog' is both included and excluded"):
        select_segments(read_segments(segments), Ontology.read(ontology), ["Dog"],
                        ["Animal", "Music"])


def test_a_circle_in_the_ontology_ends(tmp_path):
    path = tmp_path / "o.json"
    path.write_text(json.dumps([{"id": "a", "name": "A", "child_ids": ["b"]},
                                {"id": "b", "name": "B", "child_ids": ["a"]}]))
    assert Ontology.read(path).with_descendants(["A"]) == {"a", "b"}


@pytest.mark.parametrize(("content", "what"), [
    ("{}", "a JSON list"), ("[{\"id\": \"a\"}]", "entry 1 has no id or no name"),
    ("[{\"id\": \"a\", \"name\": \"A\", \"child_ids\": [\"b\"]}]", "child b that is not a class"),
    ("[{\"id\": \"a\", \"name\": \"A\"}, {\"id\": \"a\", \"name\": \"B\"}]", "twice"),
    ("[", "not valid JSON"),
])
def test_a_broken_ontology_is_refused(tmp_path, content, what):
    path = tmp_path / "o.json"
    path.write_text(content)
    with pytest.raises(InputError, match=what):
        Ontology.read(path)


@pytest.mark.parametrize(("name", "found"), [
    ("--4gqARaEJE.mp4", "--4gqARaEJE"), ("video/a_b-c_d-e_f_30000_40000.mkv", "a_b-c_d-e_f"),
    ("Y--4gqARaEJE.wav", "--4gqARaEJE"), ("--4gqARaEJEx.mp4", None), ("holiday.mp4", None),
    ("a_b-c_d-e_f.f137.mp4", "a_b-c_d-e_f"),
])
def test_videos_by_file_name(name, found):
    assert video_id(name, {"--4gqARaEJE", "a_b-c_d-e_f"}) == found


def test_files_of_a_subset(tmp_path, ontology, segments):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("--4gqARaEJE.mp4", "-0DdlOuIFUI_50.mp4", "00000000000.mp4", "other.mp4"):
        (folder / name).write_bytes(b"x")
    found = select_videos(folder, [segments], ontology, ["Music"])
    assert [one.file for one in found] == ["--4gqARaEJE.mp4", "-0DdlOuIFUI_50.mp4"]
    assert len(select_videos(folder)) == 4
    assert len(select_videos(folder, [segments])) == 3
    with pytest.raises(InputError, match="none of 4 videos is among the 1"):
        select_videos(folder, [segments], ontology, ["Vehicle horn, car horn, honking"])


def test_splits_are_whole_disjoint_and_of_at_least_two():
    parts = split_items(range(30), 0.1, 0.2, 5)
    assert {name: len(items) for name, items in parts.items()} == {
        "train": 21, "validate": 3, "test": 6}
    assert sorted(one for items in parts.values() for one in items) == list(range(30))
    assert split_items(range(30), 0.1, 0.2, 5) == parts != split_items(range(30), 0.1, 0.2, 6)
    assert {len(items) for items in split_items(range(6), 0, 0, 1).values()} == {2}
    with pytest.raises(InputError, match="5 videos are too few"):
        split_items(range(5), 0.1, 0.1, 1)
    with pytest.raises(InputError, match="leave fewer than two to train"):
        split_items(range(10), 0.5, 0.4, 1)


def test_no_group_is_of_a_single_video():
    for count in range(2, 40):
        for size in range(2, 12):
            found = group_items(list(range(count)), size)
            assert [one for group in found for one in group] == list(range(count))
            assert min(map(len, found)) >= 2
            assert max(map(len, found)) <= max(size, 3)
