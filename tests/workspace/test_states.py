"""States are enumerations that are text as well; the code compares with them, never with a word."""

import ast
import json
from pathlib import Path

import pytest

import l3hpc
from l3hpc.errors import InputError
from l3hpc.workspace.records import RunRecord
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
