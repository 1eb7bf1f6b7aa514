"""What people make of a sheet beside its cells, and what does not fit into one request."""

import pytest

from l3hpc.errors import HeaderDriftError
from l3hpc.ledger.cells import MAX_CHARACTERS, cell_text, quoted_argument
from l3hpc.ledger.journal.fold import Fold, Row
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.sheets.repair import plan_header_repair, restore_headers, unknown_rows

pytestmark = pytest.mark.slow

MSE = "embedding_approx_mse"
TITLES = TABS[MSE].titles


def filled(world, names="abc"):
    world.init()
    for name in names:
        world.record(name, num_epochs=5)
        world.record(name, 0, latest_train_loss=1.0)
    world.sync()


def updated(world, *names):
    for name in names:
        world.record(name, 1, latest_train_loss=0.5)


def sheet_of(world):
    return world.server.book.named(MSE)


def folded(world, rows):
    """The journals hold these rows: (tab, key, values)."""
    fold = Fold(rows={(tab, key): Row(TABS[tab], key, {
        **dict(zip(TABS[tab].key, key, strict=True)), **values}) for tab, key, values in rows})
    world.store.fold = lambda history=False: fold


@pytest.mark.parametrize("path", ["/data/" + "x" * 200, "/wörk/🎧" * 20])
def test_a_sync_larger_than_a_request_is_several(world, path, monkeypatch):
    """Google accepts 10,485,760 bytes at once, whatever the number of rows; here it takes less."""
    monkeypatch.setattr("l3hpc.ledger.sheets.requests.BYTES_AT_ONCE", 100_000)
    monkeypatch.setattr("sheets_server.BYTES_LIMIT", 120_000)
    tabs = ["embedding_approx_mse", "classifier"]
    world.init(tabs)
    rows = [(tab, tuple(f"{path}/{tab}/{number}/{name}" for name in TABS[tab].key),
             {column.field: path for column in TABS[tab].columns
              if column.kind == "text" and column.field not in TABS[tab].key})
            for tab in tabs for number in range(40)]
    folded(world, rows)
    sizes = watched(world)
    report = world.sync()
    assert (report.inserted, report.problems) == (80, [])
    assert len(sizes) > 2 and max(sizes) < 110_000
    assert all(len(world.server.grid(tab)) == 40 for tab in tabs)
    folded(world, [(tab, key, dict.fromkeys(values, path + "/new")) for tab, key, values in rows])
    sizes.clear()
    report = world.sync(policy="ours")
    assert (report.updated, report.problems) == (80, [])
    assert len(sizes) >= 4 and max(sizes) < 110_000
    assert {row[TABS[tab].index("username")] for tab in tabs
            for row in world.server.grid(tab)} == {path + "/new"}


def watched(world):
    """The sizes of the writing requests from now on."""
    from l3hpc.ledger.sheets import client as sheets
    sizes = []
    real = sheets.request_bytes
    world_sheets = world.sheets

    def measured(book="book-one"):
        made = world_sheets(book)
        for name in ("batch", "write_by_filter"):
            method = getattr(made, name)
            setattr(made, name, lambda value, method=method: (
                sizes.append(real(list(value)) + 40), method(value))[1])
        return made
    world.sheets = measured
    return sizes


def test_a_row_that_no_request_can_hold_is_refused_by_name(world):
    """42 cells of 25,000 characters that JSON spells with twelve bytes each."""
    tab = TABS["emb_approx_sonyc_ust"]
    world.init([tab.name])
    key, huge = ("/o", "huge", "mean"), dict.fromkeys(tab.fields, "🎧" * 25_000)
    folded(world, [(tab.name, ("/o", "small", "mean"), {"num_epochs": 1}), (tab.name, key, {
        name: value for name, value in huge.items() if name not in tab.key})])
    report = world.sync()
    assert report.inserted == 1
    (problem,) = report.problems
    assert problem["kind"] == "too large" and problem["key"] == list(key)
    assert "Google accepts 10,485,760" in problem["text"]
    assert "its longest cell is Date (25,000 characters)" in problem["text"]


def test_a_request_above_the_limit_is_refused_here_and_there(world):
    from l3hpc.errors import L3hpcError
    from l3hpc.ledger.sheets import client as module
    sheets = world.sheets()
    request = {"addSheet": {"properties": {"title": "x" * 10_500_000}}}
    with pytest.raises(L3hpcError, match="larger than Google accepts"):
        sheets.batch([request])
    module.MAX_BYTES, kept = 10**9, module.MAX_BYTES
    try:
        with pytest.raises(module.Refused, match="payload size exceeds the limit"):
            sheets.batch([request])
    finally:
        module.MAX_BYTES = kept


def protect(world, **area):
    sheet_of(world)["protected"].append({
        "protectedRangeId": 9, "description": "final", "range": {
            "sheetId": sheet_of(world)["id"], **area}})


def test_a_protected_row_stops_only_itself_and_is_named(world):
    filled(world)
    protect(world, startRowIndex=2, endRowIndex=3)
    updated(world, "a", "b", "c")
    world.record("d", num_epochs=1)
    report = world.sync()
    (problem,) = report.problems
    assert (problem["kind"], problem["tab"], problem["key"]) == ("protected", MSE, ["/m/b"])
    assert problem["text"].startswith("row 3 (/m/b) is not updated: T3, U3, Y3")
    assert "'final'" in problem["text"] and "Protected sheets and ranges" in problem["text"]
    assert [row["Latest Epoch"] for row in world.rows()] == [1, 0, 1, None]
    sheet_of(world)["protected"].pop()
    assert world.sync().problems == [] and world.row("b")["Latest Epoch"] == 1


def test_a_protected_tab_stops_only_itself(world):
    filled(world)
    protect(world)
    updated(world, "a")
    world.record("new", num_epochs=1)
    world.record("a", tab="sonyc_ust", micro_auprc=0.8)
    report = world.sync()
    assert [(one["kind"], one["key"]) for one in report.problems] == [
        ("protected", ["/m/a"]), ("protected", ["/m/new"])]
    assert len(world.rows("sonyc_ust")) == 1 and len(world.rows()) == 3
    sheet_of(world)["protected"][-1]["unprotectedRanges"] = [{"startRowIndex": 1}]
    assert world.sync().problems == [] and len(world.rows()) == 4


def test_a_protection_that_google_does_not_tell_of_is_named_all_the_same(world):
    """It is seen only when the write is refused: that row is left out, the others are written."""
    filled(world)
    protect(world, startRowIndex=2, endRowIndex=3)
    updated(world, "a", "b", "c")
    real = world.server.book.get

    def without(*words):
        answer = real()
        for sheet in answer["sheets"]:
            sheet["protectedRanges"] = []
        return answer
    type(world.server.book).get, kept = without, type(world.server.book).get
    try:
        real = lambda: kept(world.server.book)  # noqa: E731
        report = world.sync()
    finally:
        type(world.server.book).get = kept
    (problem,) = report.problems
    assert problem["kind"] == "refused" and problem["key"] == ["/m/b"]
    assert "edit a protected cell" in problem["text"]
    assert [row["Latest Epoch"] for row in world.rows()] == [1, 0, 1]


@pytest.mark.parametrize("inserted", [False, True])
def test_a_header_among_the_rows_is_put_back(world, inserted):
    filled(world)
    grid = sheet_of(world)["grid"]
    before = [list(row) for row in grid]
    if inserted:
        grid.insert(0, [None] * 28)
    else:
        grid[0:3] = [grid[1], grid[2], grid[0]]
    updated(world, "a")
    with pytest.raises(HeaderDriftError) as error:
        world.sync()
    assert f"Its header is in row {2 if inserted else 3}:" in error.value.allowed
    assert error.value.hint.startswith("l3hpc ledger repair ")
    with pytest.raises(HeaderDriftError):
        world.init()
    found = plan_header_repair(world.store, world.sheets())
    assert [one.describe() for one in found[MSE]] == [
        f"row {2 if inserted else 3} (the header) moves to row 1"]
    restore_headers(world.store, world.sheets(), found)
    grid = sheet_of(world)["grid"]
    assert [row for row in grid if row[0] or row[1]] == [
        row for row in before if row[0] or row[1]]
    assert world.sync().problems == []
    world.assert_equal_to_fold()


def test_a_header_that_was_sorted_and_changed(world):
    filled(world)
    grid = sheet_of(world)["grid"]
    grid[0:2] = [grid[1], grid[0]]
    grid[1][19] = "epoch"
    found = plan_header_repair(world.store, world.sheets())
    assert [one.describe() for one in found[MSE]] == [
        "row 2 (the header) moves to row 1", "T1: 'epoch' → 'Latest Epoch'"]
    restore_headers(world.store, world.sheets(), found)
    assert sheet_of(world)["grid"][0] == TITLES
    world.assert_equal_to_fold()


def test_a_chart_with_the_name_of_a_tab(world):
    filled(world)
    world.server.book.add_chart("sonyc_ust (1)")
    world.server.book.add_chart("distillation")
    updated(world, "a")
    assert world.sync().problems == [] and world.row("a")["Latest Epoch"] == 1
    assert world.init() == []
    with pytest.raises(HeaderDriftError, match="'distillation' of 'UST results' is a chart"):
        world.init(["distillation"])
    world.record("x", tab="distillation", model_dir="/x")
    with pytest.raises(HeaderDriftError, match="is a chart, not a table") as error:
        world.sync()
    assert error.value.hint == "Rename it in the sheet, then: l3hpc ledger init"


def duplicate(world, place, title=None):
    book = world.server.book
    book.apply([{"duplicateSheet": {"sourceSheetId": sheet_of(world)["id"],
                                    "insertSheetIndex": place,
                                    **({"newSheetName": title} if title else {})}}])


@pytest.mark.parametrize("place", [0, 3])
def test_a_duplicate_of_a_tab_does_not_get_its_rows(world, place):
    filled(world)
    duplicate(world, place)
    copied = world.server.grid(f"Copy of {MSE}")
    updated(world, "a")
    world.record("new", num_epochs=1)
    assert world.sync().problems == [] and world.init() == []
    assert world.server.grid(f"Copy of {MSE}") == copied
    assert world.row("a")["Latest Epoch"] == 1 and len(world.rows()) == 4
    sheet_of(world)["title"] = "ours"  # the original is ours even if the copy takes its name
    world.server.book.named(f"Copy of {MSE}")["title"] = MSE
    updated(world, "b")
    assert world.sync().problems == []
    assert world.server.grid(MSE) == copied and len(world.server.grid("ours")) == 4


def test_which_of_two_copies_is_ours_is_asked_for_where_nothing_tells(world):
    from l3hpc.ledger.sheets.grid import tab_identity
    filled(world)
    del world.server.book.metadata[tab_identity(MSE)]  # a sheet of the version before
    world.server.book.metadata[77] = {
        "metadataId": 77, "metadataKey": "t", "metadataValue": MSE, "visibility": "DOCUMENT",
        "location": {"sheetId": sheet_of(world)["id"]}}
    duplicate(world, 0, "second")
    sheet_of(world)["title"] = "first"
    updated(world, "a")
    with pytest.raises(HeaderDriftError, match="cannot tell which tab") as error:
        world.sync()
    assert error.value.allowed == "one of: 'second', 'first'"
    world.server.book.named("first")["title"] = MSE
    assert world.sync().problems == [] and world.row("a")["Latest Epoch"] == 1
    assert tab_identity(MSE) in world.server.book.metadata


@pytest.mark.parametrize("words", ["a" + "🎧" * 24_999, "a" + "🎧" * 25_000, "é" * 50_001])
def test_characters_of_a_cell_are_counted_as_google_does(world, words):
    world.init()
    world.record("a", emb_key=words)
    world.record("b", model_dir=words)
    assert world.sync().problems == []
    shown = {row["Emb key"] for row in world.rows()} - {None}
    (cell,) = shown
    units = len(cell.encode("utf-16-le")) // 2
    assert units <= MAX_CHARACTERS and (cell == words or cell.endswith("… (cut)"))
    assert (cell == words) == (len(words.encode("utf-16-le")) // 2 <= MAX_CHARACTERS)
    assert units > MAX_CHARACTERS - 3 or cell == words
    assert world.sync().requests == 2 and cell_text(words) == cell


@pytest.mark.parametrize("shown", ["/m/a ", "\u00a0/m/\u200ba", "/m/ a\n"])
def test_a_key_with_other_white_space_is_still_its_row(world, shown):
    filled(world)
    world.cell("a", "Model Dir", shown)
    updated(world, "a")
    report = world.sync()
    assert [one["kind"] for one in report.problems] == ["conflict"]
    assert "(Model Dir): the sheet has" in report.problems[0]["text"]
    (row,) = [row for row in world.rows() if row["Model Dir"] == shown]
    assert row["Latest Epoch"] == 1 and len(world.rows()) == 3
    assert unknown_rows(world.store, world.sheets(), [TABS[MSE]]) == []
    assert world.sync(policy="ours").problems == []
    world.assert_equal_to_fold()


def test_a_key_with_other_white_space_that_another_row_has_is_not_taken(world):
    filled(world, ["a", "a b", "ab"])
    world.cell("ab", "Model Dir", "/m/a  b")
    kinds = [one["kind"] for one in world.sync().problems]
    assert kinds == ["conflict"] and len(world.rows()) == 3


@pytest.mark.parametrize("word", ["plain", "it's", "$(id)", "two\nlines", "\x1b[2J", "--yes", "é",
                                  "\u202e", "a'\\b\n"])
def test_a_word_to_paste_is_one_word(word):
    import subprocess
    quoted = quoted_argument(word)
    assert quoted.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s' {quoted.removeprefix('-- ')}"
                           if not word.startswith("-") else f"printf {quoted}"],
                          capture_output=True)
    assert done.stdout.decode() == word
