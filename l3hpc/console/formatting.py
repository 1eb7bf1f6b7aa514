"""Numbers as a person reads them: clocks, ages, exit codes, progress."""

from __future__ import annotations

import functools
import time
from typing import Any


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
def seconds(text: str) -> float | None:
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


def moment(then: float) -> str:
    """A time of today as ``14:05``, any other as ``2026-11-20 14:05``."""
    local = time.localtime(then)
    today = time.localtime()
    same = (local.tm_year, local.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", local)


def exit_words(code: int) -> str:
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


def progress_words(progress: dict[str, Any]) -> str:
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
    left = left_s(progress)
    if left is not None:
        words.append(f"{clock(left)} left")
    return ", ".join(words)


def left_s(progress: dict[str, Any] | None) -> float | None:
    """Seconds until a task is done at its pace so far; None where that cannot be told yet."""
    known = progress or {}
    done, total = known.get("done") or 0, known.get("total")
    elapsed = known.get("elapsed_s") or 0
    if total and done and done < total and elapsed > 5:
        return float(elapsed / done * (total - done))
    return None


def limit_words(until_s: float, progress: dict[str, Any] | None) -> str:
    """``limit in 1:10:00``, and whether the pace so far is too slow for it."""
    left = left_s(progress)
    late = left is not None and left > until_s
    return f"limit in {clock(max(until_s, 0))}" + (" (too short at this pace)" if late else "")
