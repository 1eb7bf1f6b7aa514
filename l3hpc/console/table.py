"""Tables in plain text: every table that a command prints is laid out here.

``rich`` says how many cells of a terminal a character takes (two for most of East Asia, none for
an accent that combines). Its ``Table`` is not used: it cuts and wraps to the width of a terminal,
where lines of ours stay whole so that ``grep`` and ``awk`` find what they look for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence

from l3hpc.io.text import one_line

LONGEST = sys.maxsize  # a column without ``at_most``
# characters that take one cell each: most tables have no others, and so need not import rich
_ONE_CELL = re.compile("[ -~\u00a0-\u02ff\u2013\u2026\u2192\u00d7\u2605]*")


def lines(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), indent: str = "  ",
          gap: str = "  ", at_least: Mapping[int, int] | None = None,
          at_most: Mapping[int, int] | None = None) -> list[str]:
    """Lay out rows as lines of text with aligned columns.

    Parameters
    ----------
    rows
        The cells, row by row, all rows of one length; a header is a row like any other.
        Control characters in a cell are written out.
    right
        Numbers of the columns (from 0) that are aligned to the right.
    indent
        What stands before each line.
    gap
        What stands between two columns.
    at_least, at_most
        Column number → smallest or largest width in cells. A longer text is never cut: it
        pushes the rest of its own line to the right.

    Returns
    -------
    list of str
        One line per row, without spaces at its end.

    Examples
    --------
    >>> lines([("step", "tasks"), ("extract", "4"), ("fit", "1,200")], right={1})
    ['  step     tasks', '  extract      4', '  fit      1,200']
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    least, most = at_least or {}, at_most or {}
    widths = [min(max(*map(width, column), least.get(number, 0)), most.get(number, LONGEST))
              for number, column in enumerate(zip(*cells, strict=True))]
    return [(indent + gap.join(padded(cell, wide, right=number in right)
                               for number, (cell, wide) in enumerate(zip(row, widths, strict=True)))
             ).rstrip() for row in cells]


def padded(text: str, cells: int, *, right: bool = False) -> str:
    """Return ``text`` with spaces up to ``cells`` cells: behind it, or before it if ``right``."""
    space = " " * (cells - width(text))
    return space + text if right else text + space


def width(text: str) -> int:
    """Return how many cells of a terminal ``text`` takes.

    Examples
    --------
    >>> width("fit"), width("音声")
    (3, 4)
    """
    if _ONE_CELL.fullmatch(text):
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
