"""Swept options stand to the right of everything else, in the right rows, whatever people do."""

import pytest

from l3hpc.ledger.schema import TABS
from l3hpc.workspace import records
from l3hpc.workspace.run_record import RunRecord, StepRecord

pytestmark = pytest.mark.slow

MSE = "embedding_approx_mse"
WIDTH = len(TABS[MSE].columns)


@pytest.fixture
def swept(world):
    """A sweep of three students, and a run that was no sweep, all in the sheet."""
    workspace = world.store.workspace
    (workspace / "runs/sweep").mkdir(parents=True)
    records.write(workspace, RunRecord("sweep", "upstream", "local", 1.0, "ada", "login1", [], {
        "combinations": [{"values": {"emb-dim": dim, "approx": approx}, "steps": {"train": dim}}
                         for dim, approx in (("64", "pca"), ("128", "umap"), ("256", "pca"))]},
        "submitted", [StepRecord(dim, "train", f"/store/{dim}", 1, [])
                      for dim in ("64", "128", "256")]))
    world.init()
    for dim in ("64", "128", "256"):
        world.record(dim, run="sweep", step=dim, num_epochs=5)
    world.record("alone", num_epochs=7)
    return world


def shown(world):
    """Model Dir → what stands to the right of the declared columns, by title; and the titles."""
    header, *rows = world.server.book.named(MSE)["grid"]
    return {row[1]: dict(zip(header[WIDTH:], row[WIDTH:], strict=True)) for row in rows if row[1]}


VALUES = {
    "/m/64": {"emb-dim": 64, "approx": "pca"}, "/m/128": {"emb-dim": 128, "approx": "umap"},
    "/m/256": {"emb-dim": 256, "approx": "pca"}, "/m/alone": {"emb-dim": None, "approx": None}}


def test_columns_of_their_own_behind_the_declared_ones(swept):
    report = swept.sync()
    assert (report.inserted, report.swept, report.notes) == (4, 6, [])
    assert swept.server.book.named(MSE)["grid"][0][:WIDTH] == TABS[MSE].titles
    assert shown(swept) == VALUES
    swept.assert_equal_to_fold()
    swept.server.log.clear()
    assert swept.sync().requests == len(swept.server.log) == 2


def test_columns_rows_and_cells_of_people_stay(swept):
    sheet = swept.server.book.named(MSE)
    sheet["columns"] += 1
    for row in sheet["grid"]:
        row.append(None)
    sheet["grid"][0][WIDTH] = "remarks"
    swept.sync()
    assert [*shown(swept)["/m/64"]] == ["remarks", "emb-dim", "approx"]
    sheet = swept.server.book.named(MSE)
    for row in sheet["grid"]:  # she moves a column, sorts, and types
        row.insert(WIDTH, row.pop(WIDTH + 2))
    sheet["grid"][1:] = sheet["grid"][:0:-1]
    [line] = [row for row in sheet["grid"] if row[1] == "/m/128"]
    line[WIDTH] = "hers"
    swept.record("256", run="sweep", step="256", latest_train_loss=0.5)
    assert swept.sync().swept == 0
    assert {key: (row["approx"], row["emb-dim"]) for key, row in shown(swept).items()} == {
        "/m/64": ("pca", 64), "/m/128": ("hers", 128), "/m/256": ("pca", 256),
        "/m/alone": (None, None)}


def test_a_row_that_was_deleted_gets_its_options_with_its_return(swept):
    swept.sync()
    grid = swept.server.book.named(MSE)["grid"]
    grid.remove(next(row for row in grid if row[1] == "/m/64"))
    assert swept.sync().swept == 0
    (swept.store.state_path("book-one")).unlink()
    [row] = [row for row in swept.store.fold().rows_of(MSE) if row.key == ("/m/64",)]
    assert swept.sync(restore=[row]).swept == 2
    assert shown(swept) == VALUES


def once(world, moment, action, which):
    """At the ``which``-th of these moments a person does something."""
    count = 0

    def act(book):
        nonlocal count
        count += 1
        if count == which:
            action(book)
    setattr(world.server, moment, act)


def reverse(book):
    sheet = book.named(MSE)
    book.reorder(sheet, [row for row in sheet["grid"][1:] if row[1]][::-1])


def insert_column(book):
    sheet = book.named(MSE)
    sheet["columns"] += 1
    for row in sheet["grid"]:
        row.insert(WIDTH, None)


@pytest.mark.parametrize(("moment", "which", "action", "follows"), [
    ("before_batch", 2, insert_column, True), ("before_batch", 3, reverse, True),
    ("after_batch", 3, reverse, False), ("after_batch", 3, insert_column, True),
    ("before_write", 1, reverse, False), ("before_write", 1, insert_column, True)])
def test_whatever_a_person_moves_meanwhile(swept, moment, which, action, follows):
    """Batch 1 adds the rows, 2 the columns, 3 the anchors; then cells are written."""
    swept.server.book.follows_sort = follows
    once(swept, moment, action, which)
    swept.sync()
    swept.sync()
    now = {key: {title: value for title, value in row.items() if title} for key, row in
           shown(swept).items()}
    assert now == VALUES
    assert not any(row.get(None) for row in shown(swept).values())  # nor in her new column
    swept.assert_equal_to_fold()
