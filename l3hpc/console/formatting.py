"""Text for people: durations, ages, exit codes and progress, and tables of plain text.

Every table that a command prints is laid out by ``table_lines``. ``rich`` gives the number of
terminal cells of a character (two for most East Asian ones, none for combining accents). Its
``Table`` is not used, because it cuts and wraps lines to the width of the terminal, so that
``grep`` and ``awk`` would not find what they look for.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from l3hpc.io.values import count_of, one_line

_LONGEST_S = 10 * 365 * 86400.0  # nothing of ours is older
UNLIMITED = sys.maxsize  # width of a column without ``at_most``
# Characters of one cell each. Most tables have no others, and so do not need to import rich.
_ONE_CELL = re.compile("[ -~\u00a0-\u02ff\u2013\u2026\u2192\u00d7\u2605]*")


def clock(seconds: float | None) -> str:
    """Format a duration as ``0:07``, ``1:02:03`` or ``2-03:04:05``; ``–`` for None.

    Examples
    --------
    >>> clock(7), clock(3723), clock(None)
    ('0:07', '1:02:03', '–')
    """
    if seconds is None:
        return "–"
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def file_size(size: int) -> str:
    """Format the size of files, in decimal units as ``ls -h --si`` does.

    Parameters
    ----------
    size
        Bytes.

    Examples
    --------
    >>> file_size(532), file_size(768_528), file_size(2_304_792), file_size(15_000_000_000)
    ('532 bytes', '769 kB', '2.3 MB', '15.0 GB')
    """
    if size < 1000:
        return f"{size} bytes"
    if size < 999_500:
        return f"{size / 1e3:.0f} kB"
    for unit, scale in (("MB", 1e6), ("GB", 1e9)):
        if size < 999.95 * scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e12:,.1f} TB"


@functools.lru_cache(4096)
def parse_slurm_time(text: str) -> float | None:
    """Parse Slurm's ``days-hours:minutes:seconds``; None for anything else.

    Examples
    --------
    >>> parse_slurm_time("1-02:03:04"), parse_slurm_time("UNLIMITED")
    (93784.0, None)
    """
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    try:
        numbers = [float(part) for part in parts]
        total = sum(number * 60 ** power for power, number in enumerate(reversed(numbers)))
        return total + (int(days) * 86400 if dash else 0)
    except ValueError:
        return None


def age(then: float, now: float | None = None) -> str:
    """Format the time since ``then`` (seconds since the epoch; ``now`` defaults to the clock).

    Examples
    --------
    >>> age(0, 300), age(0, 90_000), age(0, 1_000_000)
    ('5 min ago', 'yesterday', '11 days ago')
    """
    passed = (time.time() if now is None else now) - then
    if not -60 <= passed < _LONGEST_S:  # this clock is wrong, or the other one was
        try:
            return f"at {local_time(then)} by another clock"
        except (ValueError, OverflowError, OSError):
            return "at an unknown time"
    if passed < 60:
        return "just now"
    if passed < 3600:
        return f"{int(passed // 60)} min ago"
    if passed < 86400:
        return f"{int(passed // 3600)} h ago"
    days = int(passed // 86400)
    return "yesterday" if days == 1 else f"{days} days ago"


def local_time(then: float) -> str:
    """Format a time (seconds since the epoch) as ``14:05``, or with its date if not today."""
    local = time.localtime(then)
    today = time.localtime()
    same = (local.tm_year, local.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", local)


def describe_exit(code: int) -> str:
    """Describe the exit code of a script, with the signal that ended it.

    Examples
    --------
    >>> describe_exit(1), describe_exit(143), describe_exit(-15)
    ('exit 1', 'ended by SIGTERM (exit 143)', 'ended by SIGTERM (exit 143)')
    """
    if code < 0:  # as Python reports the signal that ended a process
        code = 128 - code
    if code == 137:
        return "killed by signal 9; no evidence that memory was the cause"
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
    """Describe the progress state of a task (see ``l3hpc.console.progress``).

    Examples
    --------
    >>> describe_progress({"phase": "epoch", "done": 12, "total": 300, "loss": 0.41234})
    'epoch 12/300, loss 0.4123'
    >>> describe_progress({"phase": "training", "done": 3, "total": 12, "unit": "epochs",
    ...                    "epoch": 3, "batch": "8/34"})
    'training 3/12 epochs, batch 8/34'
    """
    phase, done, total = progress.get("phase"), progress.get("done") or 0, progress.get("total")
    fields = {"phase", "done", "total", "unit", "elapsed_s", "time", "beat", "written", "activity"}
    parts = []
    if phase:
        parts.append(f"{phase} {amount(done, total or None, progress.get('unit') or '')}".rstrip())
    parts += [str(progress["activity"])] if progress.get("activity") else []
    for name, value in progress.items():
        # an epoch that is counted already would read as the one that is running
        if name not in fields and value is not None and f"{name}s" != progress.get("unit"):
            parts.append(detail(name, value))
    left = remaining_s(progress)
    if left is not None:
        parts.append(f"{clock(left)} left")
    return ", ".join(parts)


def detail(name: str, value: object) -> str:
    """Describe one value of a progress; a whole number with a name in the plural is a count.

    Parameters
    ----------
    name, value
        The value and its name.

    Examples
    --------
    >>> detail("recordings", 10), detail("rows", 1), detail("val_loss", 0.412345)
    ('10 recordings', '1 row', 'val loss 0.4123')
    """
    words = name.replace("_", " ")
    if isinstance(value, int) and words.endswith("s"):
        return count_of(value, words.removesuffix("s"))
    return f"{words} {value:.4g}" if isinstance(value, float) else f"{words} {value}"


def amount(done: int, total: int | None, unit: str) -> str:
    """How much is done; empty where nothing is counted.

    Parameters
    ----------
    done, total
        Units that are finished, and all of them (None: unknown).
    unit
        The unit, in the plural; may be empty.

    Examples
    --------
    >>> amount(1200, None, "rows"), amount(3, 8, ""), amount(0, None, "")
    ('1,200 rows', '3/8', '')
    """
    if total is None:
        return f"{done:,} {unit}".rstrip() if done or unit else ""
    return f"{done:,}/{total:,} {unit}".rstrip()


def remaining_s(progress: dict[str, Any] | None) -> float | None:
    """Estimate the seconds until a task is done, at its pace so far.

    Parameters
    ----------
    progress
        The progress state of the task; None if it has written none.

    Returns
    -------
    float or None
        Seconds; None in the first 5 s and if the total is unknown.
    """
    state = progress or {}
    done, total = state.get("done") or 0, state.get("total")
    elapsed = state.get("elapsed_s") or 0
    if total and done and done < total and elapsed > 5:
        return float(elapsed / done * (total - done))
    return None


def describe_limit(until_s: float, progress: dict[str, Any] | None) -> str:
    """Describe a time limit that ends in ``until_s`` seconds, and warn of too slow a pace.

    Examples
    --------
    >>> describe_limit(4200, {"done": 1, "total": 100, "elapsed_s": 60})
    'limit in 1:10:00 (too short at this pace)'
    """
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
        The cells, row by row, all rows of the same length. A header is a row like any other.
        Control characters are escaped.
    right
        Numbers of the columns (from 0) that are aligned to the right.
    indent
        Text before each line.
    gap
        Text between two columns.
    at_least, at_most
        Column number → smallest or largest width in cells. A longer text is never cut; it
        pushes the rest of its own line to the right.

    Returns
    -------
    list of str
        One line per row, without spaces at its end.

    Examples
    --------
    >>> table_lines([("step", "tasks"), ("extract", "4"), ("fit", "1,200")], right={1})
    ['  step     tasks', '  extract      4', '  fit      1,200']
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    least, most = at_least or {}, at_most or {}
    widths = [min(max(*map(cell_width, column), least.get(number, 0)), most.get(number, UNLIMITED))
              for number, column in enumerate(zip(*cells, strict=True))]
    return [(indent + gap.join(pad(cell, wide, right=number in right)
                               for number, (cell, wide) in enumerate(zip(row, widths, strict=True)))
             ).rstrip() for row in cells]


def pad(text: str, cells: int, *, right: bool = False) -> str:
    """Pad a text with spaces.

    Parameters
    ----------
    text
        The text.
    cells
        Width in terminal cells; longer texts are not cut.
    right
        Align to the right.
    """
    space = " " * (cells - cell_width(text))
    return space + text if right else text + space


def cell_width(text: str) -> int:
    """Return the number of terminal cells of a text.

    Examples
    --------
    >>> cell_width("fit"), cell_width("音声")
    (3, 4)
    """
    if _ONE_CELL.fullmatch(text):
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
