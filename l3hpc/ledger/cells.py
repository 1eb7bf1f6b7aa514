"""Values as cells: the types and limits that all views and the Google Sheet share.

A cell is text, a finite number, a boolean or empty. Text is never turned into a formula, a date or
a number: ``"=1+1"`` and ``"007"`` stay as they are.
"""

from __future__ import annotations

import json
import math
import re

from l3hpc.errors import shell_word
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.journal.records import nonfinite_name
from l3hpc.ledger.schema import Column, Tab

Cell = str | int | float | bool | None

MAX_CHARACTERS = 50_000  # the limit of a Google Sheets cell
MAX_EXACT = 2**53  # integers beyond this are not exact as a spreadsheet's double
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_CUT = "… (cut)"


def cell(column: Column, value: object) -> Cell:
    """Return a recorded value as a cell.

    Parameters
    ----------
    column
        Its kind decides the type of the cell.
    value
        The recorded value. One of another type than the column's becomes text.

    Returns
    -------
    str, int, float, bool or None
        Text has no control characters and at most ``MAX_CHARACTERS``. Numbers are finite and
        exact: ``"NaN"``, ``"Infinity"`` and integers beyond 2**53 are text.

    Examples
    --------
    >>> from l3hpc.ledger.schema import Column
    >>> cell(Column("Loss", "loss", "number"), 0.5), cell(Column("Loss", "loss", "number"), "n/a")
    (0.5, 'n/a')
    """
    if value is None:
        return None
    if column.kind == "bool" and isinstance(value, bool):
        return value
    if (column.kind != "text" and isinstance(value, (int, float)) and not isinstance(value, bool)
            and (isinstance(value, float) or abs(value) <= MAX_EXACT)):
        return value if math.isfinite(value) else nonfinite_name(value)
    return cell_text(value)


def cell_text(value: object) -> str:
    """Return a value as the text of a cell.

    Parameters
    ----------
    value
        Lists and objects become JSON.

    Returns
    -------
    str
        Without control characters, and cut to ``MAX_CHARACTERS``.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return nonfinite_name(value)
    text = value if isinstance(value, str) else (
        json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value))
    text = _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))
    return shortened(text, MAX_CHARACTERS)


def shortened(text: str, limit: int) -> str:
    """Return ``text``, cut to at most ``limit`` UTF-16 units.

    Google Sheets and Excel count characters in these units: one beyond U+FFFF counts twice.
    """
    raw = text.encode("utf-16-le", "surrogatepass")
    if len(raw) <= 2 * limit:
        return text
    # "ignore" drops half of a surrogate pair at the cut
    return raw[:2 * (limit - len(_CUT))].decode("utf-16-le", "ignore") + _CUT


def quoted_argument(argument: str) -> str:
    """Return an argument of a shell command, quoted; one that looks like an option follows ``--``.

    Examples
    --------
    >>> quoted_argument("a b"), quoted_argument("-x")
    ("'a b'", '-- -x')
    """
    return f"-- {shell_word(argument)}" if argument.startswith("-") else shell_word(argument)


def cells(row: Row) -> list[Cell]:
    """Return all cells of a row, in column order."""
    return [cell(column, row.values.get(column.field)) for column in row.tab.columns]


def key_cells(tab: Tab, key: tuple[str, ...]) -> tuple[str, ...]:
    """Return the key of a row as the text of its key cells."""
    return tuple(cell_text(part) for part in key)


def cell_shows(column: Column, shown: object, value: object) -> bool:
    """Return whether a cell shows a value.

    Parameters
    ----------
    column
        The column of the cell.
    shown
        Content of the cell in the sheet.
    value
        The value to compare with. A sheet turns digits that a person types into a number, so in a
        column of text the number 20210611 shows the text ``20210611``.
    """
    return same_cell(shown, value) or (
        column.kind == "text" and shown not in (None, "") and value not in (None, "")
        and cell_text(shown) == cell_text(value))


def same_cell(first: object, second: object) -> bool:
    """Return whether two cells are equal: text exactly, numbers to 12 digits, empty to empty.

    Examples
    --------
    >>> same_cell(0.1 + 0.2, 0.3), same_cell(None, ""), same_cell("5", 5), same_cell(True, 1)
    (True, True, False, False)
    """
    if first in (None, "") or second in (None, ""):
        return first in (None, "") and second in (None, "")
    # before the numbers: True equals 1 in Python, but not in a sheet
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, (int, float)) and isinstance(second, (int, float)):
        return math.isclose(first, second, rel_tol=1e-12, abs_tol=0.0)
    return type(first) is type(second) and bool(first == second)
