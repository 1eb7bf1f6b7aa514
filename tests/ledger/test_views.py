"""Views show the fold exactly: selection, text tables, CSV, XLSX."""

import csv
import dataclasses
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.errors import InputError
from l3hpc.ledger.cells import MAX_CHARACTERS, cell, cells, same_cell
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.views import as_text, exports, select

MSE, UST = TABS["embedding_approx_mse"], TABS["sonyc_ust"]


def row(name, tab=MSE, beside=None, when=0.0, **values):
    return Row(tab, (f"/models/{name}",), {"model_dir": f"/models/{name}", **values},
               extra=beside or {}, first_time=when, last_time=when)


ROWS = [row("a", best_validation_loss=0.5, train_batch_size=128, approx_mode="pca"),
        row("b", best_validation_loss=0.4, train_batch_size=256, approx_mode="pca",
            beside={"note": "random-weight teacher", "state": "running"}),
        row("c", best_validation_loss="NaN", train_batch_size=128, approx_mode="pca")]


def names(rows):
    return [item.key[0][-1] for item in rows]


def test_best_first_and_unknown_last():
    assert names(select.sort_rows(ROWS, MSE)) == ["b", "a", "c"]
    assert names(select.sort_rows(ROWS, MSE, "-Best Valid Loss")) == ["a", "b", "c"]
    assert names(select.sort_rows(ROWS, MSE, "Train Batch Size")) == ["a", "c", "b"]
    assert select.best_rows(ROWS, MSE) == [ROWS[1]]
    scores = [row(name, UST, micro_auprc=value) for name, value in (("a", 0.7), ("b", 0.8))]
    assert names(select.sort_rows(scores, UST)) == ["b", "a"]
    assert select.best_rows([], UST) == []


@pytest.mark.parametrize(("condition", "found"), [
    ("Train Batch Size=128", "ac"), ("Train Batch Size != 128", "b"),
    ("train batch size>=200", "b"),
    ("Approximation mode=pca", "abc"), ("Approximation mode=umap", ""),
    ("Best Valid Loss<0.45", "b"), ("model_dir=/models/a", "a"), ("# Epochs=", "abc")])
def test_where(condition, found):
    assert "".join(names(select.filter_rows(ROWS, MSE, [condition]))) == found


def test_where_understands_titles_with_signs_and_refuses_nonsense():
    score = row("a", UST, micro_f1=0.5)
    assert select.filter_rows([score], UST, ["Micro F1 (@0.5)>=0.5"]) == [score]
    with pytest.raises(InputError, match="no column 'Nothing'"):
        select.filter_rows(ROWS, MSE, ["Nothing=1"])
    with pytest.raises(InputError, match="is not a condition"):
        select.filter_rows(ROWS, MSE, ["Student"])


def test_only_columns_that_differ():
    assert [column.title for column in select.differing_columns(ROWS, MSE)] == [
        "Model Dir", "Train Batch Size", "Best Valid Loss"]


def test_find_by_the_end_of_a_key():
    assert select.find_row(ROWS, MSE, "b") is ROWS[1]
    runs = [row(f"{name}/artifacts/train") for name in ("up-1a2b", "up-77c0")]
    assert select.find_row(runs, MSE, "up-77c0") is select.find_row(runs, MSE, "77c0") is runs[1]
    with pytest.raises(InputError, match="3 rows"):
        select.find_row([row("x/1"), row("y/1"), row("z/1")], MSE, "/1")
    with pytest.raises(InputError, match="no row"):
        select.find_row(ROWS, MSE, "zzz")


def test_running_becomes_stale():
    running = row("a", beside={"state": "running"}, when=1000.0)
    assert select.row_state(running, now=1100.0) == "running"
    assert select.row_state(running, now=10_000.0) == "stale"
    assert select.row_state(row("a", beside={"state": "finished"}), now=1e9) == "finished"


def test_the_table_marks_the_best_row_and_shows_notes():
    lines, left_out = as_text.table_lines(select.sort_rows(ROWS, MSE), MSE,
                                          select.differing_columns(ROWS, MSE), now=0)
    assert lines == [
        "  Model Dir  Train Batch Size  Best Valid Loss",
        "★ /models/b               256           0.4000  [running; random-weight teacher]",
        "  /models/a               128           0.5000",
        "  /models/c               128              NaN"]
    assert left_out == 0


def test_a_note_that_all_rows_have_is_written_once():
    rows = [row(name, beside={"note": "random-weight teacher"}) for name in "ab"]
    lines, _ = as_text.table_lines(rows, MSE, select.differing_columns(rows, MSE))
    assert [line.strip() for line in lines] == [
        "Model Dir", "/models/a", "/models/b", "all: random-weight teacher"]


def test_a_narrow_table_keeps_key_and_best_and_counts_the_rest():
    lines, left_out = as_text.table_lines(ROWS[:2], MSE, select.differing_columns(ROWS, MSE),
                                          width=64, now=0)
    assert left_out == 1 and "Best Valid Loss" in lines[0] and "Emb Len" not in lines[0]


def test_long_keys_show_what_tells_them_apart():
    long = [row("x" * 50 + "/student-128/1a2b"), row("x" * 50 + "/student-128/77c0")]
    lines, _ = as_text.table_lines(long, MSE, select.differing_columns(long, MSE))
    assert [line.strip() for line in lines] == ["Model Dir (part)", "…/1a2b", "…/77c0"]
    runs = [row(f"{name}/artifacts/train") for name in ("upstream-20261120-1a2b", "mine")]
    assert as_text.short_keys(runs) == ["…/upstream-20261120-1a2b/…", "…/mine/…"]
    assert as_text.short_keys([row("a"), row("b")]) == ["/models/a", "/models/b"]
    one = as_text.short_keys([row("x" * 50 + "/artifacts/train")])
    assert one == ["…/artifacts/train"]
    assert as_text.short_keys([row("y" * 60), row("y" * 60)])[0].endswith("yyy")


def test_side_by_side_ends_with_the_notes_of_the_rows():
    one, other = (dataclasses.replace(row, extra={**row.extra, "note": "random weights"})
                  for row in ROWS[:2])
    assert as_text.side_by_side([one, other], MSE)[-1] == "random weights"
    plain = dataclasses.replace(other, extra={})
    assert as_text.side_by_side([one, plain], MSE)[-1] \
        == f"{as_text.row_names([one, plain])[0]}: random weights"


def test_side_by_side_shows_differences_to_the_first():
    lines = as_text.side_by_side(ROWS[:2], MSE)
    assert [line.split("  ")[0] for line in lines[1:-1]] == ["Train Batch Size", "Best Valid Loss"]
    assert "256 (+128)" in lines[1] and "0.4000 (-0.1)" in lines[2]


def test_a_person_reads_dates_with_the_year_first_and_values_by_tag_as_text(tmp_path):
    """The sheet and the files for other programs keep the published forms."""
    tab = TABS["emb_approx_sonyc_ust"]
    rows = [Row(tab, ("/o", name), {"output_dir": "/o", "exp_id": name, "date": date,
                                    "class_auprc": '{"dog": 0.123456, "rain": 1.0}'})
            for name, date in (("new", "01/02/2027 08:00:00"), ("old", "11/29/2026 05:41:35"),
                               ("typed", "last week"))]
    date, tags = tab.column("date"), tab.column("class_auprc")
    assert [select.readable_cell(one, date) for one in rows] == [
        "2027-01-02 08:00:00", "2026-11-29 05:41:35", "last week"]
    assert select.readable_cell(rows[0], tags) == "dog 0.1235, rain 1"
    assert select.cell_of(rows[0], date) == "01/02/2027 08:00:00"
    text = exports.csv_text(rows, tab)
    assert "01/02/2027" in text and "2027-01" not in text
    assert select.sort_rows(rows[:2], tab, "Date") == [rows[1], rows[0]]
    for condition, found in (("Date=2026-11-29", [1]), ("Date>=2027", [0]), ("Date<2027", [1]),
                             ("Date=11/29/2026 05:41:35", [1]), ("Date!=2026-11", [0])):
        assert select.filter_rows(rows[:2], tab, [condition]) == [rows[each] for each in found]
    exports.write_html(tmp_path / "r.html", {tab: rows})
    assert "2027-01-02 08:00:00" in (tmp_path / "r.html").read_text()


def test_a_row_that_is_alone_leaves_out_folders_and_what_is_empty():
    one = row("a", best_validation_loss=0.25, train_data_dir="/data/audio", approx_mode="-")
    one.extra = {"run": "upstream-1", "state": "finished", "report": "/ws/report.html",
                 "pipeline": "all", "output_dir": "/o", "student_run": "upstream-0"}
    one.origin = {"job": "7", "host": "n1"}
    lines, left_out = as_text.row_lines(one, MSE)
    assert [line.split("  ")[1] for line in lines if line] == [
        "Best Valid Loss", "report", "state", "student_run", "job"]
    every, none = as_text.row_lines(one, MSE, everything=True)
    assert none == 0 and left_out == len([line for line in every if line]) - 5
    assert any("/data/audio" in line for line in every)


FORMULAS = ["=1+1", "+1", "-1", "@x", "\tx"]


def test_the_one_column_that_counts_from_0_says_so_wherever_a_person_reads_it():
    """Steps and reports count epochs from 1, the published sheet's "Latest Epoch" from 0."""
    rows = [row("a", latest_epoch=11), row("b", latest_epoch=5)]
    for lines in (as_text.table_lines(rows, MSE, [MSE.column("latest_epoch")])[0],
                  as_text.side_by_side(rows, MSE), as_text.row_lines(rows[0], MSE)[0]):
        assert sum("Latest Epoch (from 0)" in line for line in lines) == 1, lines
    assert MSE.column("Latest Epoch (from 0)") is MSE.column("Latest Epoch")
    assert "Latest Epoch" in exports.csv_text(rows, MSE) and "from 0" not in exports.csv_text(
        rows, MSE)
    assert [one.field for tab in TABS.values() for one in tab.columns if one.note] == [
        "latest_epoch"] * sum(tab.has("latest_epoch") for tab in TABS.values())


def test_csv_has_exactly_the_declared_columns_and_guards_formulas():
    values = dict(zip(["username", "train_data_dir", "validation_data_dir", "emb_key",
                       "model_repr"], FORMULAS, strict=True))
    text = exports.csv_text([row("a", **values, latest_train_loss=-0.1, num_epochs=300)], MSE)
    header, line = csv.reader(io.StringIO(text))
    assert header == MSE.titles
    filled = dict(zip(MSE.fields, line, strict=True))
    assert [filled[name] for name in values] == ["'" + text for text in FORMULAS]
    assert filled["latest_train_loss"] == "-0.1" and filled["num_epochs"] == "300"
    assert filled["best_train_mae"] == ""


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_csv_numbers_read_back_the_same(value):
    assert float(exports.csv_field(value)) == value


AWKWARD = ["=1+1", "007", "1e5", "2021-06-11", "TRUE", "NaN", "a\nb", "🎧", "\x00\x1b\ufffe", ""]


def test_xlsx_cells_are_typed_and_hold_no_formula(tmp_path):
    import openpyxl

    rows = [row(str(number), username=text, num_epochs=3, best_validation_loss=0.25 + number)
            for number, text in enumerate(AWKWARD)]
    exports.write_xlsx(tmp_path / "r.xlsx", {MSE: rows, UST: [row("s", UST, pca=True)]})
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == ["embedding_approx_mse", "sonyc_ust"]
    sheet = book["embedding_approx_mse"]
    assert [item.value for item in sheet[1]] == MSE.titles
    assert sheet.freeze_panes == "A2"
    read = [sheet.cell(line, 1) for line in range(2, 2 + len(AWKWARD))]
    assert [item.value for item in read[:8]] == AWKWARD[:8]
    assert not any(item.data_type == "f" for line in sheet.iter_rows() for item in line)
    assert all(item.data_type == "s" for item in read[:9])
    assert sheet.cell(2, MSE.index("num_epochs") + 1).value == 3
    assert sheet.cell(2, 1).fill.fgColor.rgb.endswith("FFF2CC")
    assert sheet.cell(3, 1).fill.fill_type is None
    assert book["sonyc_ust"].cell(2, UST.index("pca") + 1).value is True


@pytest.mark.parametrize(("field", "value", "expected"), [
    ("username", "007", "007"), ("username", 7, "7"), ("num_epochs", 7, 7),
    ("num_epochs", "7", "7"), ("num_epochs", float("nan"), "NaN"),
    ("num_epochs", 2**60, str(2**60)), ("username", None, None), ("username", "a\r\nb", "a\nb"),
    ("username", "\ud800", "\ufffd"), ("num_epochs", True, "True")])
def test_cells(field, value, expected):
    got = cell(MSE.column(field), value)
    assert got == expected and type(got) is type(expected)


def test_long_text_is_cut_to_what_a_sheet_takes():
    got = cell(MSE.columns[0], "x" * 60_000)
    assert isinstance(got, str) and len(got) == MAX_CHARACTERS and got.endswith("… (cut)")
    assert cells(row("a", class_auprc={"a": 1}))[0] is None


def test_same_cells():
    assert same_cell(None, "") and same_cell(5, 5.0) and same_cell(0.1 + 0.2, 0.3)
    for first, second in (("5", 5), (True, 1), ("a", "A"), (0, None)):
        assert not same_cell(first, second)
