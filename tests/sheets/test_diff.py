"""What happens to one cell that shows something else than the journal: the rules of a sync."""

import pytest

from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.sheets import diff

TAB = TABS["embedding_approx_mse"]


def action(field, ours, theirs, last=None, past=(), ahead=False):
    row = Row(TAB, ("/m/1",))
    return diff._action(row, TAB.columns[TAB.index(field)], ours, theirs, last, ahead,
                        lambda row, field: past)


@pytest.mark.parametrize(("field", "ours", "theirs", "last", "past", "ahead", "expected"), [
    # empty: never written, or cleared by a person
    ("username", "ada", None, None, (), False, "write"),
    ("username", "ada", None, "ada", (), False, "conflict"),
    # what we wrote, or once had; anything else is a person's
    ("username", "ada", "bob", "bob", (), False, "write"),
    ("username", "ada", "bob", None, ("bob",), False, "write"),
    ("username", "ada", "eve", "bob", ("carl",), False, "conflict"),
    ("username", "ada", "eve", None, (), False, "conflict"),
    # newer journals than ours wrote the latest and the best values
    ("latest_train_loss", 0.5, 0.4, 0.4, (), True, "leave"),
    ("latest_train_loss", 0.5, 0.4, 0.4, (), False, "write"),
    ("num_epochs", 5, 4, 4, (), True, "write"),
    ("best_train_loss", 0.5, 0.4, 0.4, (), False, "leave"),
    ("best_train_loss", 0.4, 0.5, 0.5, (), False, "write"),
    ("best_train_loss", 0.4, "NaN", "NaN", (), False, "write"),
    # a better value of nobody's is a person's all the same
    ("best_train_loss", 0.5, 0.4, None, (), True, "conflict"),
])
def test_what_is_done_with_a_cell(field, ours, theirs, last, past, ahead, expected):
    assert action(field, ours, theirs, last, past, ahead) == expected


def test_the_best_accuracy_is_the_highest():
    tab = TABS["distillation"]
    column = tab.columns[tab.index("best_validation_acc")]
    assert diff._sheet_is_better(column, 0.9, 0.8) and not diff._sheet_is_better(column, 0.7, 0.8)
    assert not diff._sheet_is_better(column, 0.8, 0.8)
    assert not diff._sheet_is_better(column, None, 0.8)


@pytest.mark.parametrize(("ours", "theirs", "ahead"), [
    (3, 4, True), (4, 4, False), (5, 4, False), (None, 4, True), (3, None, False),
    (3, "four", False), ("NaN", 4, True), (None, None, False)])
def test_whether_the_sheet_shows_a_later_epoch(ours, theirs, ahead):
    shown = [None] * len(TAB.columns)
    shown[TAB.index("latest_epoch")] = theirs
    row = Row(TAB, ("/m/1",), {} if ours is None else {"latest_epoch": ours})
    assert diff._is_ahead(row, shown) is ahead
