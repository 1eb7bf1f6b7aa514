"""Markers, as scripts of this and of earlier versions write them, whole and in part."""

import json
import os

import pytest

from l3hpc.errors import collect_damage
from l3hpc.workspace import markers
from l3hpc.workspace.markers import TaskMarks


@pytest.fixture
def write(tmp_path):
    """Write a marker: text, or JSON values; ``at``: when, by the clock of the file server."""
    def make(name, content, at=50.0):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        os.utime(path, (at, at))
    return make


def damaged(folder):
    with collect_damage() as found:
        markers.read(folder)
    return [os.path.basename(str(error.where)).partition(":")[0] for error in found]


@pytest.mark.parametrize(("content", "begin"), [
    ('{"job": "12", "time": 40, "restarts": 1}', {"job": "12", "time": "40", "restarts": "1"}),
    ("job=12 node=n1 time=40", {"job": "12", "node": "n1", "time": "40"}),  # an early version
    ("job=12 odd", {"job": "12", "time": "50.0"}),
])
def test_what_a_begin_marker_states(tmp_path, write, content, begin):
    write("3.begin", content)
    assert markers.read(tmp_path) == {3: TaskMarks(begin=begin)}
    assert markers.read_task(tmp_path, 3).started == float(begin["time"])
    assert damaged(tmp_path) == []


def test_an_empty_begin_marker_shows_that_the_job_began(tmp_path, write):
    write("3.begin", "")
    assert markers.read_task(tmp_path, 3).started == 50.0
    assert damaged(tmp_path) == ["3.begin"]


@pytest.mark.parametrize(("content", "expected"), [
    ('{"code": 0, "time": 60, "job": "12"}', TaskMarks(exit_code=0, exited=60.0, exit_job="12")),
    ('{"code": 3}', TaskMarks(exit_code=3, exited=50.0)),
    ('{"code": 3, "time": 0}', TaskMarks(exit_code=3, exited=50.0)),
    ("exit=3 time=60", TaskMarks(exit_code=3, exited=60.0)),
    ("137\n", TaskMarks(exit_code=137, exited=50.0)),
    ('{"code": 1, "time": 60, "stage": "setup"}',
     TaskMarks(exit_code=1, exited=60.0, in_setup=True)),
    ('{"code": 143, "time": 60, "signal": "TERM", "stage": "step"}',
     TaskMarks(exit_code=143, exited=60.0, terminated=True)),
    ('{"code": 138, "time": 60, "signal": "USR1"}', TaskMarks(exit_code=138, exited=60.0)),
])
def test_what_an_exit_marker_states(tmp_path, write, content, expected):
    write("3.exit", content)
    assert markers.read_task(tmp_path, 3) == expected
    assert damaged(tmp_path) == []


@pytest.mark.parametrize(("name", "content"), [
    ("3.exit", ""), ("3.exit", "code=x"), ("3.exit", '{"time": 3}'), ("3.exit", "nan"),
    ("3.progress.json", "[]"), ("3.progress.json", '{"done": "many"}'),
    ("3.progress.json", '{"total": []}'), ("3.progress.json", '{"elapsed_s": "x"}'),
    ("3.error.json", '{"tail": "x"}'), ("3.error.json", "3"), ("3.gave_up.json", "[]"),
    ("3.requeues.json", "{}"), ("3.requeues.json", "[3]"),
    ("3.requeues.json", '[{"mem_mb": "x"}]'), ("3.requeues.json", '[{"time_min": 1.5}]'),
    ("3.requeues.json", '[{"restarts": "1"}]'), ("3.requeues.json", '[{"exclude": 3}]'),
    ("3.requeues.json", '[{"reason": "a"}, {"mem_mb": []}]'),
])
def test_a_marker_of_another_form_is_damage_and_says_nothing(tmp_path, write, name, content):
    write(name, content)
    write("4.begin", "job=1")
    assert damaged(tmp_path) == [name]
    found = markers.read(tmp_path)
    assert found[4].begin["job"] == "1"
    marks = found[3]
    assert (marks.exit_code, marks.progress, marks.error, marks.gave_up, marks.requeues) == (
        None, None, None, "", [])


def test_other_files_are_no_markers(tmp_path, write):
    for name in (".3.12.step", ".3.failed", "3.begin.tmp", "x.exit", "1234567890.exit", "3.exits"):
        write(name, "1")
    assert markers.read(tmp_path) == {} and damaged(tmp_path) == []


def test_only_the_wanted_tasks_are_read(tmp_path, write):
    for task in range(4):
        write(f"{task}.exit", str(task))
    assert {task: mark.exit_code for task, mark in markers.read(tmp_path, {1, 3, 7}).items()} == {
        1: 1, 3: 3}
    assert markers.read(tmp_path / "none") == {}


def test_what_belongs_to_the_job_that_is_asked_about():
    again = [{"reason": "out of memory", "mem_mb": 3}]
    mine = TaskMarks(begin={"job": "12_3"}, exit_code=1, exited=5.0, exit_job="12_3",
                     in_setup=True, terminated=True, requeues=again, gave_up="x",
                     error={"type": "E"})
    assert mine.of("12_3") == mine
    assert mine.of("13_3") == TaskMarks(requeues=again, gave_up="x")
    # the script of an earlier job ended after this one had begun
    late = TaskMarks(begin={"job": "13_3"}, exit_code=1, exited=5.0, exit_job="12_3",
                     in_setup=True, terminated=True, error={"type": "E"})
    assert late.of("13_3") == TaskMarks(begin={"job": "13_3"}, error={"type": "E"})
    # early versions did not say whose the exit is, nor, of a damaged marker, whose the begin
    assert TaskMarks(begin={"time": "1"}, exit_code=1).of("13_3").exit_code == 1
    assert TaskMarks(exit_code=1).of("13_3").exit_code == 1


def test_how_often_it_was_restarted_and_what_it_requests():
    assert (TaskMarks().restarts, TaskMarks().requested) == (0, {})
    marks = TaskMarks(begin={"restarts": "3"}, requeues=[
        {"mem_mb": 1}, {"reason": "time limit", "time_min": 9, "exclude": "n1", "words": "w"}])
    assert (marks.restarts, marks.requested) == (3, {"time_min": 9, "exclude": "n1"})
    assert TaskMarks(begin={"restarts": "x"}, requeues=[{}, {}]).restarts == 2


def test_a_requeue_is_added_held_and_taken_back(tmp_path, write):
    markers.hold(tmp_path, 3)  # of none
    assert not (tmp_path / "3.requeues.json").exists()
    markers.add_requeue(tmp_path, 3, "node failure", 1.0, exclude=None, words="w")
    write("3.begin", {"job": "12", "restarts": 2})
    markers.add_requeue(tmp_path, 3, "out of memory", 2.0, mem_mb=7)
    markers.add_requeue(tmp_path, 3, "preempted", 3.0, restarts=5)
    first, second, third = markers.read_task(tmp_path, 3).requeues
    assert first == {"reason": "node failure", "time": 1.0, "words": "w"}
    assert second == {"reason": "out of memory", "time": 2.0, "mem_mb": 7, "restarts": 2}
    assert third == {"reason": "preempted", "time": 3.0, "restarts": 5}
    markers.drop_last_requeue(tmp_path, 3)
    markers.hold(tmp_path, 3)
    assert markers.read_task(tmp_path, 3).requeues == [first, {**second, "held": True}]


def test_markers_of_before_are_forgotten_and_nothing_else(tmp_path, write):
    write("3.exit", "1", at=10.0)
    write("4.exit", "1", at=30.0)
    write(".3.failed", "1", at=10.0)
    write("notes", "1", at=10.0)
    markers.forget(tmp_path, 30.0)
    assert sorted(os.listdir(tmp_path)) == [".3.failed", "4.exit", "notes"]


def test_why_a_task_is_given_up_and_what_a_packed_job_keeps(tmp_path):
    markers.give_up(tmp_path, 3, "out of memory", 1.0)
    markers.keep_failure(tmp_path, 3, "12_0", 4)
    assert markers.read_task(tmp_path, 3) == TaskMarks(gave_up="out of memory")
    assert (tmp_path / ".3.failed").read_text() == "12_0 4\n"


def test_a_folder_and_a_marker_that_cannot_be_read_are_damage(tmp_path, write):
    (tmp_path / "file").write_text("")
    assert damaged(tmp_path / "file") == ["file"]
    (tmp_path / "3.exit").mkdir()
    (tmp_path / "4.exit").symlink_to(tmp_path / "gone")
    write("5.exit", "0")
    assert sorted(damaged(tmp_path)) == ["3.exit", "4.exit"]
    assert markers.read_task(tmp_path, 5).exit_code == 0
