"""Columns stand below each other, whatever the cells hold."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc.console import formatting


def test_columns_are_aligned_and_lines_end_without_spaces():
    rows = [("step", "tasks", "state"), ("extract", "4", "done"), ("fit", "1,200", "")]
    assert formatting.table_lines(rows, right={1}) == [
        "  step     tasks  state", "  extract      4  done", "  fit      1,200"]
    assert formatting.table_lines(rows[1:], indent="", gap=" | ", at_least={0: 9}) == [
        "extract   | 4     | done", "fit       | 1,200 |"]
    assert formatting.table_lines([]) == []


def test_a_text_beyond_the_largest_width_is_whole_and_pushes_its_own_line_only():
    assert formatting.table_lines([("a" * 8, "x"), ("b", "y")], indent="", at_most={0: 3}) == [
        "aaaaaaaa  x", "b    y"]


def test_wide_and_combining_characters_take_the_cells_that_a_terminal_gives_them():
    lines = formatting.table_lines([("音声", "x"), ("e\u0301", "y"), ("abcd", "z")], indent="")
    assert lines == ["音声  x", "e\u0301     y", "abcd  z"]


def test_control_characters_are_written_out_before_they_are_measured():
    assert formatting.table_lines([("a\x1b[2J", "x"), ("b\n", "y")], indent="") == [
        "a\\x1b[2J  x", "b\\n       y"]


@pytest.mark.parametrize("text", ["fit", "–", "…/train", "a → b", "4 × 2", "★ best", "é"])
def test_what_is_measured_without_rich_has_the_width_that_rich_gives(text):
    from rich.cells import cell_len

    assert formatting.cell_width(text) == cell_len(text) == len(text)


@pytest.mark.slow
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_every_second_column_begins_in_the_same_cell(rows):
    lines = formatting.table_lines([(first, f"|{second}") for first, second in rows], indent="")
    places = {formatting.cell_width(line[:line.index("|", len(formatting.one_line(first)))])
              for line, (first, _) in zip(lines, rows, strict=True)}
    assert len(places) == 1


def test_a_table_of_plain_words_does_not_load_rich():
    code = ("import sys; from l3hpc.console.formatting import table_lines;"
            "table_lines([('fit', '–', 'done')]); sys.exit('rich' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
