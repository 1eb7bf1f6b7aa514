"""One value, one cell: the types and limits that every view and the sheet share.

A cell is text, a finite number, a truth value or empty. Text never becomes a formula, a date or a
number on the way: ``"=1+1"`` and ``"007"`` stay what they are.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from l3hpc.errors import shell_word
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.journal.records import nonfinite_name
from l3hpc.ledger.schema import Column, Tab

Cell = str | int | float | bool | None

MAX_CHARACTERS = 50_000  # the limit of a Google Sheets cell
MAX_EXACT = 2**53
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_CUT = "… (cut)"


def cell(column: Column, value: Any) -> Cell:
    """Return a recorded value as a cell.

    Parameters
    ----------
    column
        Says how the cell is typed.
    value
        What was recorded. A value of another type than the column's becomes text.

    Returns
    -------
    str, int, float, bool or None
        Text has no control characters and is not longer than a sheet takes; numbers are finite
        (``"NaN"`` and ``"Infinity"`` are text), and exact (larger integers are text).
    """
    if value is None:
        return None
    if column.kind == "bool" and isinstance(value, bool):
        return value
    if (column.kind != "text" and isinstance(value, (int, float)) and not isinstance(value, bool)
            and (isinstance(value, float) or abs(value) <= MAX_EXACT)):
        return value if math.isfinite(value) else nonfinite_name(value)
    return cell_text(value)


def cell_text(value: Any) -> str:
    """``value`` as cell text: JSON for lists and objects, no control characters, cut to size."""
    if isinstance(value, float) and not math.isfinite(value):
        return nonfinite_name(value)
    words = value if isinstance(value, str) else (
        json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value))
    words = _CONTROL.sub("\ufffd", words.replace("\r\n", "\n"))
    return shortened(words, MAX_CHARACTERS)


def shortened(words: str, most: int) -> str:
    """``words``, cut to ``most`` UTF-16 units, as Google Sheets and Excel count characters (a
    character beyond U+FFFF is two)."""
    raw = words.encode("utf-16-le", "surrogatepass")
    if len(raw) <= 2 * most:
        return words
    return raw[:2 * (most - len(_CUT))].decode("utf-16-le", "ignore") + _CUT


def quoted_argument(word: str) -> str:
    """``word`` quoted for a shell command that a person pastes; one like an option stands behind
    ``--``."""
    return f"-- {shell_word(word)}" if word.startswith("-") else shell_word(word)


def cells(row: Row) -> list[Cell]:
    """All cells of a row, in column order."""
    return [cell(column, row.values.get(column.field)) for column in row.tab.columns]


def key_cells(tab: Tab, key: tuple[str, ...]) -> tuple[str, ...]:
    """A row's key as the text its key cells show."""
    return tuple(cell_text(part) for part in key)


def cell_shows(column: Column, shown: Any, value: Any) -> bool:
    """Whether a cell of ``column`` shows ``value``. A sheet makes a number of digits that a person
    types, so in a column of text the number 20210611 shows the text ``20210611``."""
    return same_cell(shown, value) or (
        column.kind == "text" and shown not in (None, "") and value not in (None, "")
        and cell_text(shown) == cell_text(value))


def same_cell(one: Any, other: Any) -> bool:
    """Whether two cells show the same: text exactly, numbers to 12 digits, empty equals empty.

    Examples
    --------
    >>> same(0.1 + 0.2, 0.3), same(None, ""), same("5", 5), same(True, 1)
    (True, True, False, False)
    """
    if one in (None, "") or other in (None, ""):
        return one in (None, "") and other in (None, "")
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-12, abs_tol=0.0)
    return type(one) is type(other) and bool(one == other)
