"""Records: states are enumerations that are text too, attempts are written as they were read."""

import ast
import json
from pathlib import Path

import pytest

import l3hpc
from l3hpc.errors import InputError
from l3hpc.workspace import records
from l3hpc.workspace.local_jobs import LocalJob
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord
from l3hpc.workspace.states import RunState, StepState, TaskState

PACKAGE = Path(l3hpc.__file__).parent
WORDS = {state.value for kind in (TaskState, StepState, RunState) for state in kind}
# other things have states too: recordings that are embedded, rows of the results tables
ELSEWHERE = {"embedding", "ledger", "export", "avc"}


def compared(tree):
    """Every word with which something called ``state`` is compared or that it is set to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides, others = [node.left], node.comparators
        elif isinstance(node, ast.Assign):
            sides, others = node.targets, [node.value]
        elif isinstance(node, ast.keyword) and node.arg == "state":
            sides, others = [ast.Name("state")], [node.value]
        else:
            continue
        if "state" in " ".join(map(ast.unparse, sides)):
            yield from ((part.value, getattr(part, "lineno", 0)) for other in others
                        for part in ast.walk(other) if isinstance(part, ast.Constant))


def test_no_state_is_compared_with_a_word():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in ELSEWHERE:
            found += [f"{place}:{line}: {word}" for word, line in
                      compared(ast.parse(path.read_text())) if word in WORDS]
    assert not found


@pytest.mark.parametrize("text", [
    'step.state == "failed"', 'run.state in ("done", "reused")', 'record.state = "cancelled"',
    'StepRecord(state="planned")', 'value["state"] == "submitted"'])
def test_the_search_finds_every_comparison(text):
    assert {word for word, _ in compared(ast.parse(text))} & WORDS


def test_a_state_is_its_word_for_every_reader():
    assert json.dumps({"state": StepState.DONE}) == '{"state": "done"}'
    assert f"{RunState.LOST}" == str(RunState.LOST) == RunState.LOST == "lost"
    assert f"{TaskState.RUNNING:>9}" == "  running"
    assert StepState(TaskState.BLOCKED) is StepState.BLOCKED
    assert {"done": 1}[StepState.DONE] == 1


def test_every_state_moves_or_stays_or_is_not_submitted():
    neither = {state for kind in (TaskState, StepState, RunState) for state in kind
               if state.is_active == state.is_terminal}
    assert neither == {StepState.PLANNED, StepState.SUBMITTED, RunState.SUBMITTED, RunState.TESTED}


@pytest.mark.parametrize("change", [{"state": "asleep"}, {"state": 7}])
def test_a_record_with_an_unknown_state_is_damaged(change):
    with pytest.raises(InputError, match="state cannot be"):
        RunRecord.from_json({"run": "a", "pipeline": "p", "cluster": "c", "created": 1.0,
                             "user": "u", "host": "h", "command": [], "options": {},
                             "state": "submitted", "steps": [], **change})


@pytest.mark.parametrize("value", [
    {"job": "12", "array": False, "tasks": [0], "time": 1.5},
    {"job": "12", "array": False, "tasks": [0], "time": 1.5, "script": ""},
    {"job": "12", "array": True, "tasks": [1000, 1003], "time": 1.5, "script": "/w/script-1.sbatch",
     "offset": 1000, "cluster": "two", "requeues": {"1000": [{"reason": "time limit"}]}}])
def test_an_attempt_is_written_as_it_was_read(value):
    attempt = Attempt.from_json(value, "attempt of fit")
    assert attempt.to_json() == value
    assert list(attempt.task_ids) == value["tasks"]


def test_tasks_of_a_later_array_are_counted_from_its_offset():
    assert Attempt("12", True, [1000, 1003], 1.0, offset=1000).task_ids == {
        1000: "12_0", 1003: "12_3"}
    assert Attempt("12_4", False, [0], 1.0).task_ids == {0: "12_4"}
    assert Attempt("12_4", False, [0], 1.0).base == "12"


def test_the_first_job_of_a_submission_replaces_the_tasks_of_the_one_before():
    entry = StepRecord("fit", "fit", "/a", 4, StepState.SUBMITTED, submitted_tasks=[0, 1, 2, 3])
    records.add_attempt(entry, Attempt("12", True, [2], 1.0), first=True)
    records.add_attempt(entry, Attempt("13", True, [3], 1.0), first=False)
    assert entry.submitted_tasks == [2, 3] and entry.job == "13"


@pytest.mark.parametrize("value", [
    {"state": "PENDING", "step": "fit", "task": 0, "job": "2", "array": False, "after": ["1"]},
    {"state": "RUNNING", "step": "fit", "task": 3, "job": "2", "array": True, "after": [],
     "pid": 77, "start": 1234, "host": "n1", "started": 1.5, "kernel_kills": 0, "restarts": 2,
     "mem_mb": 400, "time_min": 2.5, "warned": True},
    {"state": "COMPLETED", "step": "fit", "task": 0, "job": "2", "array": False, "after": [],
     "exit": 0, "started": 1.0, "ended": 2.0}])
def test_a_local_job_is_written_as_it_was_read(value):
    assert LocalJob.from_json(value, "2").to_json() == value


def test_a_local_job_of_an_earlier_version_may_hold_nulls():
    value = {"state": "PENDING", "step": "fit", "task": 0, "job": "2", "array": False, "after": []}
    assert LocalJob.from_json({**value, "pid": None, "later": 1}, "2").to_json() == value
    with pytest.raises(InputError, match="2.task cannot be"):
        LocalJob.from_json({**value, "task": "x"}, "2")


@pytest.mark.parametrize("state", [{}, [], None, 3, "GONE"])
def test_a_local_job_in_an_unknown_state_is_refused(state):
    value = {"state": state, "step": "fit", "task": 0, "job": "2", "array": False, "after": []}
    with pytest.raises(InputError, match="2"):
        LocalJob.from_json(value, "2")
