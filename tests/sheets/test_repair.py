"""Columns that people renamed, moved, inserted or deleted are put back, and nothing else moves."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l3hpc.errors import HeaderDriftError
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.sheets.repair import (
    change_requests,
    column_changes,
    plan_header_repair,
    restore_headers,
)

pytestmark = pytest.mark.slow

MSE = "embedding_approx_mse"
TITLES = TABS[MSE].titles


@pytest.fixture
def filled(world):
    """Three rows, a person's column behind the declared ones, and a person's row."""
    world.init()
    for name in "abc":
        world.record(name, num_epochs=5, emb_key=f"pca_{name}")
        for epoch in range(2):
            world.record(name, epoch, latest_train_loss=ord(name) / (epoch + 2),
                         latest_validation_loss=ord(name) / (epoch + 3))
    world.sync()
    sheet = world.server.book.named(MSE)
    insert(sheet, 28, "remarks")
    sheet["grid"][2][28] = "nice"
    sheet["grid"][5][0] = "a person's own line"
    return world


def insert(sheet, place, title):
    sheet["columns"] += 1
    for row in sheet["grid"]:
        row.insert(place, None)
    sheet["grid"][0][place] = title


def move(sheet, place, to):
    for row in sheet["grid"]:
        row.insert(to, row.pop(place))


def delete(sheet, place):
    sheet["columns"] -= 1
    for row in sheet["grid"]:
        del row[place]


def rename(sheet, place, title):
    sheet["grid"][0][place] = title


DRIFT = {
    "renamed": (lambda sheet: rename(sheet, 19, "epoch"), ["T1: 'epoch' → 'Latest Epoch'"]),
    "erased": (lambda sheet: rename(sheet, 7, None), ["H1: None → 'Emb key'"]),
    "inserted": (lambda sheet: insert(sheet, 5, "Notes"), ["column F ('Notes') moves to AC"]),
    "moved": (lambda sheet: move(sheet, 25, 2), ["column C ('Best Valid Loss') moves to Z"]),
    "deleted": (lambda sheet: delete(sheet, 20), [
        "column U is inserted for 'Latest Train Loss'", "U1: None → 'Latest Train Loss'"]),
    "the key moved": (lambda sheet: move(sheet, 1, 9), ["column J ('Model Dir') moves to B"]),
}


@pytest.mark.parametrize("kind", DRIFT)
def test_columns_are_put_back(filled, kind):
    sheet = filled.server.book.named(MSE)
    before = [list(row[:28]) for row in sheet["grid"]]
    drift, words = DRIFT[kind]
    drift(sheet)
    found = plan_header_repair(filled.store, filled.sheets())
    said = [change.describe() for change in found[MSE]]
    assert said == words or kind == "moved" and len(said) >= 1
    restore_headers(filled.store, filled.sheets(), found)
    sheet = filled.server.book.named(MSE)
    assert sheet["grid"][0][:28] == TITLES
    assert plan_header_repair(filled.store, filled.sheets()) == {}
    if kind != "deleted":
        assert [list(row[:28]) for row in sheet["grid"]] == before
    filled.sync(policy="ours")
    own = next(row for row in sheet["grid"] if row[0] == "a person's own line")
    remarks = filled.server.book.named(MSE)["grid"][0].index("remarks")
    assert filled.server.book.named(MSE)["grid"][2][remarks] == "nice"
    sheet = filled.server.book.named(MSE)
    sheet["grid"] = [row for row in sheet["grid"] if row[0] != own[0]]
    filled.assert_equal_to_fold()


def test_several_at_once(filled):
    sheet = filled.server.book.named(MSE)
    before = [list(row[:28]) for row in sheet["grid"]]
    rename(sheet, 20, "loss")
    insert(sheet, 3, "mine")
    move(sheet, 22, 1)
    restore_headers(filled.store, filled.sheets(), plan_header_repair(
        filled.store, filled.sheets()))
    assert [row[:28] for row in filled.server.book.named(MSE)["grid"]] == before


def test_in_doubt_nothing_is_written(filled):
    sheet = filled.server.book.named(MSE)
    rename(sheet, 4, "Emb Train")  # an empty column: its cells tell nothing …
    insert(sheet, 5, "Notes")  # … and its place neither
    before = filled.server.grid(MSE)
    with pytest.raises(HeaderDriftError, match="cannot tell which column was 'Emb Train Dir'"):
        plan_header_repair(filled.store, filled.sheets())
    assert filled.server.grid(MSE) == before
    sheet["grid"][0][4:6] = ["Emb Train Dir", "Emb Train Dir"]
    with pytest.raises(HeaderDriftError, match="is in E1 and F1"):
        plan_header_repair(filled.store, filled.sheets())


def test_columns_changed_again_meanwhile_are_left(filled):
    sheet = filled.server.book.named(MSE)
    rename(sheet, 19, "epoch")
    found = plan_header_repair(filled.store, filled.sheets())
    rename(sheet, 18, "interval")
    with pytest.raises(HeaderDriftError):
        restore_headers(filled.store, filled.sheets(), found)
    assert sheet["grid"][0][18:20] == ["interval", "epoch"]


STEPS = st.lists(st.one_of(
    st.tuples(st.just(move), st.integers(0, 27), st.integers(0, 27)),
    st.tuples(st.just(insert), st.integers(0, 28), st.sampled_from(["x", "y", "z"])),
    st.tuples(st.just(delete), st.integers(0, 27))), max_size=5)


@given(STEPS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_moves_and_own_columns(steps):
    """Whatever was moved, inserted and deleted: the declared columns come back with their cells."""
    from sheets_book import Book
    book = Book("any")
    sheet = book.add({"title": MSE, "gridProperties": {"rowCount": 3, "columnCount": 28}})
    sheet["grid"] = [list(TITLES), [f"cell {title}" for title in TITLES], [None] * 28]
    for step in steps:
        numbers = [min(value, sheet["columns"] - 1) if isinstance(value, int) else value
                   for value in step[1:]]
        step[0](sheet, *numbers)
    own = [row for row in zip(*sheet["grid"], strict=True) if row[0] not in TITLES]
    kept = {row[0]: row for row in zip(*sheet["grid"], strict=True) if row[0] in TITLES}
    made = column_changes(TABS[MSE], sheet["grid"], {}, "tab") if not any(
        title in "xyz" for title, *_ in own) or len(kept) == 28 else None
    if made is None:
        return  # own and missing columns side by side: told apart by place, or refused
    book.apply(change_requests(made, sheet["id"], sheet["columns"]))
    columns = list(zip(*sheet["grid"], strict=True))
    assert [column[0] for column in columns[:28]] == TITLES
    for column in columns[:28]:
        assert column == kept.get(column[0], (column[0], None, None))
    assert sorted(columns[28:]) == sorted(own)
