"""Numbers as a person reads them: clocks, ages, exit codes, progress.

Tables in plain text: every table that a command prints is laid out here.

``rich`` says how many cells of a terminal a character takes (two for most of East Asia, none for
an accent that combines). Its ``Table`` is not used: it cuts and wraps to the width of a terminal,
where lines of ours stay whole so that ``grep`` and ``awk`` find what they look for.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from l3hpc.io.values import one_line

LONGEST = sys.maxsize  # a column without ``at_most``
# characters that take one cell each: most tables have no others, and so need not import rich
_ONE_CELL = re.compile("[ -~\u00a0-\u02ff\u2013\u2026\u2192\u00d7\u2605]*")


def clock(seconds: float | None) -> str:
    """``0:07``, ``1:02:03`` or ``2-03:04:05``; ``–`` for None."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@functools.lru_cache(4096)
def parse_slurm_time(text: str) -> float | None:
    """Slurm's ``days-hours:minutes:seconds`` as seconds; None for anything else."""
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    try:
        numbers = [float(part) for part in parts]
        total = sum(number * 60 ** power for power, number in enumerate(reversed(numbers)))
        return total + (int(days) * 86400 if dash else 0)
    except ValueError:
        return None


def age(then: float, now: float | None = None) -> str:
    """``just now``, ``5 min ago``, ``3 h ago``, ``yesterday``, ``12 days ago``."""
    passed = (time.time() if now is None else now) - then
    if passed < 60:
        return "just now"
    if passed < 3600:
        return f"{int(passed // 60)} min ago"
    if passed < 86400:
        return f"{int(passed // 3600)} h ago"
    days = int(passed // 86400)
    return "yesterday" if days == 1 else f"{days} days ago"


def local_time(then: float) -> str:
    """A time of today as ``14:05``, any other as ``2026-11-20 14:05``."""
    local = time.localtime(then)
    today = time.localtime()
    same = (local.tm_year, local.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", local)


def describe_exit(code: int) -> str:
    """An exit code of a script in words."""
    if code == 137:
        return "killed by signal 9; nothing says that memory was the cause"
    if code == 127:
        return "exit 127: a command was not found"
    if code > 128:
        import signal

        try:
            return f"ended by {signal.Signals(code - 128).name} (exit {code})"
        except ValueError:
            pass
    return f"exit {code}"


def describe_progress(progress: dict[str, Any]) -> str:
    """``epoch 12/300, loss 0.412`` from a task's progress state."""
    phase, done, total = progress.get("phase"), progress.get("done") or 0, progress.get("total")
    known = {"phase", "done", "total", "unit", "elapsed_s", "time", "beat", "written"}
    words = []
    if phase:
        amount = f"{done:,}/{total:,}" if total else f"{done:,}"
        unit = progress.get("unit") or ""
        words.append(f"{phase} {amount} {unit}".rstrip())
    for name, value in progress.items():
        if name not in known and value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            words.append(f"{name.replace('_', ' ')} {shown}")
    left = remaining_s(progress)
    if left is not None:
        words.append(f"{clock(left)} left")
    return ", ".join(words)


def remaining_s(progress: dict[str, Any] | None) -> float | None:
    """Seconds until a task is done at its pace so far; None where that cannot be told yet."""
    known = progress or {}
    done, total = known.get("done") or 0, known.get("total")
    elapsed = known.get("elapsed_s") or 0
    if total and done and done < total and elapsed > 5:
        return float(elapsed / done * (total - done))
    return None


def describe_limit(until_s: float, progress: dict[str, Any] | None) -> str:
    """``limit in 1:10:00``, and whether the pace so far is too slow for it."""
    left = remaining_s(progress)
    late = left is not None and left > until_s
    return f"limit in {clock(max(until_s, 0))}" + (" (too short at this pace)" if late else "")


def table_lines(rows: Sequence[Sequence[str]], *, right: Collection[int] = (), indent: str = "  ",
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
    widths = [min(max(*map(cell_width, column), least.get(number, 0)), most.get(number, LONGEST))
              for number, column in enumerate(zip(*cells, strict=True))]
    return [(indent + gap.join(pad(cell, wide, right=number in right)
                               for number, (cell, wide) in enumerate(zip(row, widths, strict=True)))
             ).rstrip() for row in cells]


def pad(text: str, cells: int, *, right: bool = False) -> str:
    """Return ``text`` with spaces up to ``cells`` cells: behind it, or before it if ``right``."""
    space = " " * (cells - cell_width(text))
    return space + text if right else text + space


def cell_width(text: str) -> int:
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
