"""A person rearranges columns and tabs between any two requests of a sync: what she has stays, no
value of ours stands below another heading, and once it is undone everything is as it should be.
"""

import pytest
from sheets_world import MSE, epochs, filled

from l3hpc.errors import HeaderDriftError, L3hpcError
from l3hpc.ledger.schema import TABS

pytestmark = pytest.mark.slow
OTHER = 4321  # the id of another tab
REMARKS = len(TABS[MSE].columns)  # a column of hers, behind ours


def insert_column(sheet, place, title):
    sheet["columns"] += 1
    for row in sheet["grid"]:
        row.insert(place, None)
    sheet["grid"][0][place] = title


def delete_column(sheet, place):
    sheet["columns"] -= 1
    return [row.pop(place) for row in sheet["grid"]]


def put_column(sheet, place, cells):
    sheet["columns"] += 1
    for row, cell in zip(sheet["grid"], cells, strict=False):
        row.insert(place, cell)
    for row in sheet["grid"][len(cells):]:
        row.insert(place, None)


def ours(book):
    """The tab, whatever it is called now; a syncer leaves another object than it found."""
    number, = [sheet["id"] for sheet in book.sheets if sheet["title"] in (MSE, "our results")
               and sheet["id"] != OTHER]
    return book.sheet(number)


def inserts(place, title):
    def act(book):
        insert_column(ours(book), place, title)

        def undo(book):
            cells = delete_column(ours(book), place)
            assert cells == [title, *[None] * (len(cells) - 1)], "we wrote into her column"
        return undo
    return act


def moves(start, stop):
    def act(book):
        put_column(ours(book), stop, delete_column(ours(book), start))
        return lambda book: put_column(ours(book), start, delete_column(ours(book), stop))
    return act


def names_columns(*titles):
    """Writes other headings: place and title in turn."""
    def act(book):
        heading = ours(book)["grid"][0]
        before = list(heading)
        for place, title in zip(titles[::2], titles[1::2], strict=True):
            heading[place] = title

        def undo(book):
            ours(book)["grid"][0][:] = before
        return undo
    return act


def swaps_headings(one, other):
    titles = TABS[MSE].titles
    return names_columns(one, titles[other], other, titles[one])


def renames_the_tab(book):
    ours(book)["title"] = "our results"

    def undo(book):
        # another of its name, which she or a syncer has made
        book.sheets[:] = [one for one in book.sheets if one["title"] != MSE]
        ours(book)["title"] = MSE
    return undo


def takes_the_name(book):
    """Renames the tab, and makes an empty one of its name."""
    undo = renames_the_tab(book)
    book.add({"title": MSE, "sheetId": OTHER})
    return undo


ACTIONS = {
    "inserts a column in front": inserts(0, "notes"),
    "inserts one without a title": inserts(7, None),
    "inserts one in between": inserts(20, "notes"), "inserts one behind": inserts(REMARKS, "notes"),
    "moves the keys to the right": moves(1, 12), "moves a loss to the left": moves(22, 3),
    "moves hers to the front": moves(REMARKS, 0), "renames a column": names_columns(21, "loss"),
    "empties a heading": names_columns(20, None), "swaps two headings": swaps_headings(20, 24),
    "renames the tab": renames_the_tab,
    "gives its name to another tab": takes_the_name,
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_a_person_rearranges_between_any_two_requests(world, action):
    filled(world, "abc")
    sheet = world.server.book.named(MSE)
    insert_column(sheet, REMARKS, "remarks")
    hers = {}
    for row in sheet["grid"][1:]:
        if row[1]:
            hers[row[1]] = row[REMARKS] = f"of {row[1]}"
    for moment in range(12):
        epochs(world, "a", 1, 10 + moment)
        epochs(world, f"new{moment}", 1)
        left, undo = [moment], []

        def between(book, left=left, undo=undo):
            left[0] -= 1
            if left[0] == -1:
                undo.append(action(book))
        world.server.between = between
        try:
            world.sync()
        except L3hpcError as error:
            assert str(error)
        world.server.between = lambda book: None
        for one in undo:
            one(world.server.book)
        report = world.sync()
        assert {item["kind"] for item in report.problems} <= {"deleted"}, (moment, report.problems)
        grid = world.server.book.named(MSE)["grid"]
        assert {row[1]: row[REMARKS] for row in grid[1:] if row[REMARKS]} == hers, moment
        assert world.sync().requests == 2, moment
        shown = [list(row) for row in grid]
        delete_column(world.server.book.named(MSE), REMARKS)
        world.assert_equal_to_fold()
        for row, before in zip(grid, shown, strict=True):
            row[:] = before
        world.server.book.named(MSE)["columns"] += 1
        if not undo:
            break
    else:
        pytest.fail("a sync with more requests than were tried")


def test_columns_that_cannot_be_told_apart_are_not_said_to_be_restored(world):
    filled(world, "abc")
    epochs(world, "new", 1)
    acted = []

    def act(book):
        if not acted:
            acted.append(inserts(5, "Best Train Loss")(book))
    world.server.before_batch = act
    with pytest.raises(HeaderDriftError, match="a title is missing or occurs twice, so what was"):
        world.sync()
    acted[0](world.server.book)
    kinds = {(item["kind"], *item["key"]) for item in world.sync().problems}
    assert kinds == {("conflict", "/m/new")}
    world.sync(policy="ours")
    assert world.sync().problems == []
