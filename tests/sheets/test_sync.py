"""After any sync the sheet equals the fold: each row once, typed, in its columns."""

import pytest
from waiting import until

from l3hpc.errors import HeaderDriftError, InputError, L3hpcError, OfflineError
from l3hpc.ledger.schema import MAIN_TABS, TABS
from l3hpc.ledger.store import waiting_rows

pytestmark = pytest.mark.slow

MSE = "embedding_approx_mse"


def epochs(world, name, count, first=0):
    for epoch in range(first, first + count):
        world.record(name, epoch, latest_train_loss=1 / (epoch + 1),
                     latest_validation_loss=2 / (epoch + 1))


def test_init_makes_both_tabs_and_a_second_time_nothing(world):
    assert world.init() == list(MAIN_TABS)
    for name, width in zip(MAIN_TABS, (28, 35), strict=True):
        sheet = world.server.book.named(name)
        assert sheet["grid"][0] == TABS[name].titles and sheet["columns"] == width
        assert sheet["frozen"] == 1 and len(sheet["views"]) == 1 and len(sheet["rules"]) == 1
        assert [item["warningOnly"] for item in sheet["protected"]] == [True]
    assert world.init() == []


def test_init_widens_and_titles_an_empty_tab_and_refuses_a_foreign_one(world):
    sheet = world.server.book.add({"title": MSE})
    assert sheet["columns"] == 26
    world.init()
    assert world.server.book.named(MSE)["grid"][0] == TABS[MSE].titles
    other = world.server.book.add({"title": "classifier"})
    other["grid"][0][0] = "mine"
    with pytest.raises(HeaderDriftError):
        world.init(["classifier"])
    assert world.server.book.named("classifier")["grid"][0][1] is None


def test_init_writes_over_nothing_that_is_typed_meanwhile(world):
    sheet = world.server.book.add({"title": MSE, "gridProperties": {"columnCount": 28}})

    def type_first(book):
        world.server.before_batch = None
        book.named(MSE)["grid"][0][0] = "hers"
    world.server.before_batch = type_first
    world.init()
    sheet = world.server.book.named(MSE)
    assert sheet["grid"][0] == TABS[MSE].titles and sheet["grid"][1][0] == "hers"


def test_rows_are_written_once_and_brought_up_to_date(world):
    world.init()
    world.record("a", num_epochs=5, state="running")
    epochs(world, "a", 2)
    report = world.sync()
    assert (report.inserted, report.updated) == (1, 0)
    row = world.row("a")
    assert row["Latest Epoch"] == 1 and row["Best Valid Loss"] == 1.0 and row["# Epochs"] == 5
    epochs(world, "a", 2, 2)
    world.record("b", num_epochs=7)
    report = world.sync()
    assert (report.inserted, report.updated) == (1, 1)
    world.assert_equal_to_fold()
    assert world.row("a")["Latest Epoch"] == 3


def test_an_idle_pass_is_two_requests_and_a_busy_one_four(world):
    world.init()
    epochs(world, "a", 1)
    world.server.log.clear()
    assert world.sync().requests == len(world.server.log) == 4
    world.server.log.clear()
    assert world.sync().requests == len(world.server.log) == 2


def test_both_tabs_in_one_batch(world):
    world.init()
    epochs(world, "a", 1)
    world.record("a", tab="sonyc_ust", micro_auprc=0.8, pca=True, class_auprc={"dog": 0.1})
    world.server.log.clear()
    world.sync()
    assert sum(path.endswith(":batchUpdate") for _, path in world.server.log) == 1
    (row,) = world.rows("sonyc_ust")
    assert row["Micro AUPRC"] == 0.8 and row["PCA"] is True
    assert row["Coarse Tag AUPRC"] == '{"dog": 0.1}'


AWKWARD = ["=1+1", "007", "1e5", "2021-06-11", "TRUE", "NaN", "'quoted", "a\nb", "🎧", "+1", "-",
           "@", "x" * 60_000]


def test_text_stays_text_whatever_it_looks_like(world):
    world.init()
    for number, text in enumerate(AWKWARD):
        world.record(str(number), emb_key=text, learning_rate=float("nan"), num_epochs=number)
    world.sync()
    for number, text in enumerate(AWKWARD):
        row = world.row(str(number))
        assert row["Emb key"] == (text if len(text) < 50_000 else text[:49_993] + "… (cut)")
        assert row["Learning Rate"] == "NaN" and row["# Epochs"] == number
    assert world.sync().requests == 2


@pytest.mark.parametrize("name", ["=1+1", "007", "2021-06-11", "a'b \"c\"", "🎧", "y" * 60_000])
def test_awkward_keys_find_their_row(world, name):
    world.init()
    world.record("x", model_dir=name)
    world.sync()
    world.record("x", 3, model_dir=name, latest_train_loss=0.5)
    assert world.sync().updated == 1
    assert len(world.rows()) == 1 and world.rows()[0]["Latest Epoch"] == 3


def test_two_spreadsheets_get_the_same_rows(world):
    from sheets_book import Book
    world.server.books["book-two"] = Book("second")
    world.init()
    world.init(book="book-two")
    epochs(world, "a", 3)
    assert world.sync().inserted == 1
    assert world.sync(book="book-two").inserted == 1
    assert world.sync(book="book-two").inserted == 0


def test_more_rows_than_the_grid_holds(world):
    world.init()
    for number in range(450):
        world.record(str(number), num_epochs=number)
        world.journals.pop(str(number)).close()
    report = world.sync()
    assert report.inserted == 450
    world.assert_equal_to_fold()
    assert world.sync().requests == 2


def test_header_drift_names_every_cell_and_writes_nothing(world):
    world.init()
    world.record("a", tab="sonyc_ust", micro_auprc=0.8)
    world.sync()
    world.record("b", tab="sonyc_ust", micro_auprc=0.9)
    sheet = world.server.book.named("sonyc_ust")
    for row in sheet["grid"]:
        row.insert(31, None)
    sheet["columns"] += 1
    sheet["grid"][0][31] = "Notes"
    before = world.server.grid("sonyc_ust")
    with pytest.raises(HeaderDriftError) as error:
        world.sync()
    assert error.value.exit_code == 3
    assert error.value.message == ("tab 'sonyc_ust' of 'UST results' has changed columns; nothing "
                                   "was written.")
    assert error.value.allowed.splitlines()[:2] == [
        "AF1: expected 'Micro AUPRC', found 'Notes'",
        "AG1: expected 'Micro F1 (@0.5)', found 'Micro AUPRC'"]
    assert error.value.hint.startswith("Someone inserted a column at AF. Undo it in the sheet")
    assert world.server.grid("sonyc_ust") == before


def test_two_swapped_headings_are_named_and_nothing_is_written(world):
    """The values below still stand in their old columns, or were moved with them: who knows?"""
    world.init()
    world.record("a", tab="sonyc_ust", micro_auprc=0.8)
    world.sync()
    world.record("a", tab="sonyc_ust", micro_auprc=0.9)
    heads = world.server.book.named("sonyc_ust")["grid"][0]
    heads[31], heads[33] = heads[33], heads[31]
    before = world.server.grid("sonyc_ust")
    with pytest.raises(HeaderDriftError) as error:
        world.sync()
    first, second = error.value.allowed.splitlines()[:2]
    assert first.startswith("AF1: expected 'Micro AUPRC', found ")
    assert second.startswith("AH1: expected ") and second.endswith("found 'Micro AUPRC'")
    assert world.server.grid("sonyc_ust") == before


def test_a_renamed_tab_is_still_found_and_a_missing_one_is_named(world):
    world.init()
    world.record("a", num_epochs=1)
    world.server.book.named(MSE)["title"] = "our results"
    world.sync()
    assert len(world.server.grid("our results")) == 1
    world.record("a", tab="classifier", test_acc=0.5)
    with pytest.raises(HeaderDriftError, match="has no tab 'classifier'"):
        world.sync()


@pytest.mark.parametrize("place", [0, 9])
def test_our_marked_tab_wins_over_a_plain_one_of_its_name(world, place):
    world.init()
    epochs(world, "a", 1)
    world.sync()
    book = world.server.book
    book.named(MSE)["title"] = "our results"
    book.add({"title": MSE})
    book.sheets.insert(place, book.sheets.pop())
    epochs(world, "a", 1, 1)
    assert world.sync().problems == [] and world.init() == []
    assert [row[TABS[MSE].index("latest_epoch")] for row in world.server.grid("our results")] == [1]
    assert world.server.grid(MSE) == []


def test_peoples_columns_and_rows_stay(world):
    world.init()
    sheet = world.server.book.named(MSE)
    sheet["columns"] += 1
    for row in sheet["grid"]:
        row.append(None)
    sheet["grid"][0][28] = "remarks"
    world.record("a", num_epochs=1)
    world.sync()
    sheet = world.server.book.named(MSE)
    sheet["grid"][1][28] = "nice"
    sheet["grid"][2][0] = "a person's own line"
    epochs(world, "a", 3)
    world.record("b", num_epochs=1)
    world.sync()
    rows = world.server.grid(MSE)
    assert rows[0][28] == "nice" and rows[1][0] == "a person's own line"
    assert rows[2][1] == "/m/b"


def test_a_deleted_row_is_reported_not_made_again_until_restored(world):
    world.init()
    epochs(world, "a", 1)
    epochs(world, "b", 1)
    world.sync()
    del world.server.book.named(MSE)["grid"][1]
    for _ in range(2):
        report = world.sync()
        assert [item["kind"] for item in report.problems] == ["deleted"]
        assert [row["Model Dir"] for row in world.rows()] == ["/m/b"]
    (row,) = [row for row in world.store.fold().rows_of(MSE) if row.key == ("/m/a",)]
    assert world.sync(restore=[row]).inserted == 1
    assert world.sync().problems == []
    world.assert_equal_to_fold()


def test_a_deleted_row_can_be_agreed_with(world):
    world.init()
    epochs(world, "a", 1)
    world.sync()
    del world.server.book.named(MSE)["grid"][1]
    world.sync(policy="theirs")
    assert world.sync().problems == [] and world.rows() == []


def test_a_row_deleted_before_the_state_was_lost_is_still_known(world):
    world.init()
    epochs(world, "a", 1)
    world.sync()
    world.store.state_path("book-one").unlink()
    del world.server.book.named(MSE)["grid"][1]
    assert [item["kind"] for item in world.sync().problems] == ["deleted"]


def test_duplicates_are_reported_and_none_is_touched(world):
    world.init()
    epochs(world, "a", 1)
    world.sync()
    grid = world.server.book.named(MSE)["grid"]
    grid[2] = list(grid[1])
    epochs(world, "a", 2, 1)
    report = world.sync()
    assert [item["kind"] for item in report.problems] == ["duplicate"]
    assert "rows 2, 3" in report.problems[0]["text"]
    assert [row["Latest Epoch"] for row in world.rows()] == [0, 0]


@pytest.mark.parametrize("lose_state", [False, True])
def test_a_typed_cell_is_a_conflict_by_policy(world, lose_state):
    world.init()
    world.record("a", num_epochs=5, emb_key="pca_1")
    epochs(world, "a", 1)
    world.sync()
    world.cell("a", "Emb key", "typed")
    world.cell("a", "Latest Train Loss", 123)
    if lose_state:
        world.store.state_path("book-one").unlink()
    epochs(world, "a", 1, 1)
    for _ in range(2):
        report = world.sync()
        assert sorted(item["text"].split(":")[0] for item in report.problems) == [
            "H2 (Emb key)", "U2 (Latest Train Loss)"]
        assert world.row("a")["Emb key"] == "typed" and world.row("a")["Latest Train Loss"] == 123
        assert world.row("a")["Latest Epoch"] == 1  # the other cells go on
    assert world.sync(policy="ours").problems == []
    world.assert_equal_to_fold()
    world.cell("a", "Emb key", "typed again")
    world.sync(policy="theirs")
    epochs(world, "a", 1, 2)
    assert world.sync().problems == []
    assert world.row("a")["Emb key"] == "typed again" and world.row("a")["Latest Epoch"] == 2


def test_a_cleared_cell_is_a_conflict_an_unfilled_one_is_filled(world):
    world.init()
    world.record("a", num_epochs=5)
    world.sync()
    world.record("a", emb_key="later")
    world.sync()
    assert world.row("a")["Emb key"] == "later"
    world.cell("a", "Emb key", None)
    assert [item["kind"] for item in world.sync().problems] == ["conflict"]


def test_older_journals_never_lower_or_worsen(world, tmp_path):
    world.init()
    epochs(world, "a", 5)
    world.sync()
    shown = world.rows()
    (path,) = world.store.journal.glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    world.sync()
    assert world.rows() == shown
    path.write_bytes(b"".join(lines))
    assert world.sync().problems == []


def test_rows_pasted_from_the_csv_are_recognised(world):
    world.init()
    world.record("a", num_epochs=5)
    from l3hpc.ledger.cells import cells
    (row,) = world.store.fold().rows_of(MSE)
    world.server.book.named(MSE)["grid"][1] = cells(row)
    assert world.sync().inserted == 0
    assert len(world.rows()) == 1
    del world.server.book.named(MSE)["grid"][1]
    assert [item["kind"] for item in world.sync().problems] == ["deleted"]


def test_adopted_rows_become_rows_like_others(world):
    from l3hpc.ledger.sheets.repair import adopt, unknown_rows
    world.init()
    grid = world.server.book.named(MSE)["grid"]
    grid[1][0], grid[1][1], grid[1][10], grid[1][25] = "bob", "/by/hand", 300, 0.25
    taken = unknown_rows(world.store, world.sheets(), [TABS[MSE]])
    assert [row.key for row in taken] == [("/by/hand",)]
    adopt(world.store, taken, "ada")
    assert unknown_rows(world.store, world.sheets(), [TABS[MSE]]) == []
    (row,) = world.store.fold().rows_of(MSE)
    assert row.values["num_epochs"] == 300 and row.values["best_validation_loss"] == 0.25
    assert "adopted" in row.extra["note"]
    assert world.sync().problems == [] and len(world.rows()) == 1


def test_digits_that_a_person_typed_into_a_text_column_are_that_text(world):
    from l3hpc.ledger.sheets.repair import adopt, unknown_rows
    tab = TABS["sonyc_ust"]
    world.init()
    line = [None] * 35
    for name, value in (("username", "bob"), ("output_dir", "/o/x"), ("exp_id", 20210611),
                        ("git_commit", 1234567), ("micro_auprc", 0.4)):
        line[tab.index(name)] = value
    world.server.book.named("sonyc_ust")["grid"][1] = line
    adopt(world.store, unknown_rows(world.store, world.sheets(), [tab]), "ada")
    assert world.sync().problems == [] and world.sync().requests == 2
    assert world.rows("sonyc_ust")[0]["Commit"] == 1234567
    (row,) = world.store.fold().rows_of(tab)
    assert world.store.state("book-one").last(row)[tab.index("git_commit")] == "1234567"
    assert world.store.state("book-one").is_confirmed(row)
    for commit in ("ab", "abc"):
        world.record("x", tab="sonyc_ust", output_dir="/o/x", exp_id="20210611", git_commit=commit)
    assert world.sync().problems == []  # what stood there was ours
    assert world.rows("sonyc_ust")[0]["Commit"] == "abc"


def test_text_that_only_looks_like_a_number_is_not_that_number(world):
    world.init()
    world.record("a", emb_key="007")
    world.sync()
    world.cell("a", "Emb key", 7)
    assert [item["kind"] for item in world.sync().problems] == ["conflict"]


def test_credentials_are_checked(world, tmp_path):
    world.key.chmod(0o640)
    with pytest.raises(InputError, match="can be read by others"):
        world.sheets()
    world.key.chmod(0o600)
    with pytest.raises(InputError, match="no spreadsheet with the id"):
        world.sync(book="nowhere")
    for fault, words in (("403", "not shared with ledger@test.iam"),
                         ("403-disabled", "Google Sheets API is not enabled")):
        world.server.faults = lambda method, path, fault=fault: fault
        with pytest.raises(InputError, match=words) as error:
            world.sync()
        assert len(str(error.value).splitlines()) == 2 and error.value.hint
    world.server.faults = lambda method, path: "401"
    with pytest.raises(L3hpcError, match="does not accept the credentials"):
        world.sync()
    (tmp_path / "other.json").write_text('{"type": "authorized_user"}')
    (tmp_path / "other.json").chmod(0o600)
    world.key = tmp_path / "other.json"
    with pytest.raises(InputError, match="not a service account's key"):
        world.sheets()


def test_application_default_credentials(world, monkeypatch, tmp_path):
    from l3hpc.ledger.sheets.client import credentials
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(world.key))
    world.init()
    world.record("a", num_epochs=1)
    world.key, key = None, world.key
    assert world.sync().inserted == 1
    key.chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        world.sync()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(InputError, match="there are no Google credentials"):
        credentials(None)


def test_a_slow_google_is_given_up_and_its_late_work_does_no_harm(world, monkeypatch):
    """The batch times out here and is applied there a moment later; it was sent again meanwhile."""
    from l3hpc.ledger.sheets import client
    world.init()
    epochs(world, "a", 2)
    monkeypatch.setattr(client, "TIMEOUT_S", (60.0, 2.0))
    left = ["slow", "slow"]
    world.server.faults = lambda method, path: left.pop() if left and path.endswith(
        ":batchUpdate") else None
    world.sync()
    until(lambda: world.server.late == 2)
    assert not left and any("ReadTimeout" in line for line in world.said)
    monkeypatch.undo()
    world.assert_equal_to_fold()
    assert world.sync().requests == 2


def test_a_clock_that_is_wrong_changes_nothing(world, monkeypatch):
    from l3hpc.ledger.journal import records
    world.init()
    for epoch, moment in enumerate((5e9, 1.0, 2e9)):
        monkeypatch.setattr(records.time, "time", lambda moment=moment: moment)
        epochs(world, "a", 1, epoch)
    monkeypatch.setattr(records.time, "time", lambda: 7.0)
    world.journals.pop("a").close()
    epochs(world, "a", 2, 2)  # a second process repeats an epoch
    monkeypatch.undo()
    world.sync()
    world.assert_equal_to_fold()
    assert world.row("a")["Latest Epoch"] == 3


def test_infinities_are_text(world):
    world.init()
    world.record("a", learning_rate=float("inf"), latest_train_loss=-float("inf"))
    world.sync()
    row = world.row("a")
    assert (row["Learning Rate"], row["Latest Train Loss"]) == ("Infinity", "-Infinity")
    assert row["Best Train Loss"] is None and world.sync().requests == 2


def test_only_loopback_may_stand_in_for_google(world):
    from l3hpc.ledger.sheets.client import BASE, base_url
    assert base_url({}) == BASE
    for address in ("http://example.org", "https://127.0.0.1:1", "http://127.0.0.1.evil.org",
                    "http://127.0.0.1@evil.org"):
        with pytest.raises(InputError, match="only a loopback"):
            base_url({"L3HPC_SHEETS_URL": address})


@pytest.mark.parametrize("fault", ["429", "500", "503", "html", "html-200", "drop"])
def test_back_off_has_an_end_and_keeps_everything(world, fault):
    world.init()
    epochs(world, "a", 1)
    world.server.faults = lambda method, path: fault
    world.slept.clear()
    with pytest.raises(OfflineError) as error:
        world.sync()
    assert error.value.exit_code == 75
    assert len(world.slept) == 11 and 60 < sum(world.slept) < 64 * 11
    world.server.faults = lambda method, path: None
    assert world.sync().inserted == 1


def test_a_wrong_key_is_named_without_showing_it(world, tmp_path):
    import json

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from l3hpc.errors import L3hpcError
    info = json.loads(world.key.read_text())
    info["private_key"] = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()).decode()
    world.key.write_text(json.dumps(info))
    with pytest.raises(L3hpcError, match="refused to sign in ledger@test.iam") as error:
        world.sync()
    assert "PRIVATE" not in str(error.value) and "invalid_grant" not in str(error.value)


def test_a_sheet_without_an_optional_tab_gets_the_rows_of_all_others(world):
    extra = "emb_approx_sonyc_ust"
    world.init()
    world.record("a", num_epochs=5)
    world.record("a", tab=extra, aggregation_type="combined", emb_dim=8)
    report = world.sync()
    assert report.inserted == 1 and not report.problems
    assert f"has no tab '{extra}'" in report.notes[0] and "l3hpc ledger init" in report.notes[0]
    state = world.store.state("book-one")
    assert state.absent == [extra]
    assert waiting_rows(world.store.fold().rows.values(), state) == []
    world.init([extra])
    report = world.sync()
    assert report.inserted == 1 and not report.notes
    assert [row["Emb Dim"] for row in world.rows(extra) if row["Exp. ID"] == "a"] == [8]
    assert world.store.state("book-one").absent == []
