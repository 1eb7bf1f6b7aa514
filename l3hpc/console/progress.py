"""Progress reports: a bar on a terminal, lines in a log, a small JSON file for ``l3hpc status``.

Scientific code and steps receive a ``Progress`` and call ``start``, ``advance`` and ``note``; they
never print. The base class shows nothing, and ``default_progress`` chooses between a bar and lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from l3hpc.console import formatting, terminal
from l3hpc.io.files import write_json
from l3hpc.io.values import escape_controls, one_line

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_EVERY_S = 10.0
STATE_EVERY_S = 2.0


class Progress:
    """Counts units of work in named phases; the base class shows nothing (notebooks, tests).

    Starting a phase ends the previous one.

    Attributes
    ----------
    phase : str
        The current phase; empty if there is none.
    done, total : int
        Units that are finished, and of the whole phase (None: unknown).
    unit : str
        The unit, in the plural.
    details : dict
        Further values to show, such as an epoch and its loss.
    started : float
        When the phase began, on the monotonic clock, in seconds.

    Examples
    --------
    >>> progress = Progress()
    >>> progress.start("embedding", total=1200, unit="frames")
    >>> progress.advance(32, loss=0.4123456)
    >>> progress.line()
    'embedding: 32/1,200 frames, loss 0.4123'
    >>> progress.finish()
    """

    def __init__(self) -> None:
        self.phase = ""
        self.total: int | None = None
        self.unit = ""
        self.done = 0
        self.details: dict[str, Any] = {}
        self.started = time.monotonic()

    def start(self, phase: str, total: int | None = None, unit: str = "") -> None:
        """Start a phase of ``total`` units (None if unknown)."""
        if self.phase:
            self.finish()
        self.phase, self.total, self.unit, self.done = phase, total, unit, 0
        self.details = {}
        self.started = time.monotonic()
        self.show(force=True)

    def advance(self, count: int = 1, **details: object) -> None:
        """Count finished units; ``details`` replace earlier ones of the same name."""
        self.done += count
        self.details.update(details)
        self.show()

    def note(self, text: str) -> None:
        """Show a message, such as a warning or a decision."""

    def finish(self) -> None:
        """End the current phase."""
        if self.phase:
            self.show(force=True)
            self.phase = ""

    def show(self, force: bool = False) -> None:
        """Update the display; unless ``force``, only if its interval has passed."""

    def snapshot(self) -> dict[str, Any]:
        """Return phase, done, total, unit, elapsed_s and the details, ready for JSON."""
        return {
            "phase": self.phase, "done": self.done, "total": self.total, "unit": self.unit,
            "elapsed_s": round(time.monotonic() - self.started, 3), **self.details,
        }

    def line(self) -> str:
        """Return the state as one line of text, with the pace and the remaining time."""
        amount = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        elapsed = time.monotonic() - self.started
        parts = [f"{self.phase}: {amount} {self.unit}".rstrip()]
        parts += [f"{name} {_short(value)}" for name, value in self.details.items()]
        if self.done and elapsed > 1:
            parts.append(f"{self.done / elapsed:.3g} {self.unit or 'units'}/s")
            if self.total and self.done < self.total:
                left = elapsed / self.done * (self.total - self.done)
                parts.append(f"{formatting.clock(left)} left")
        return ", ".join(parts)


class LogProgress(Progress):
    """Shows plain lines, at most one in ten seconds, for job logs and pipes.

    Parameters
    ----------
    stream
        Where the lines go; None for standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._last = 0.0

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def show(self, force: bool = False) -> None:
        now = time.monotonic()
        if self.phase and (force or now - self._last >= LINE_EVERY_S):
            self._last = now
            print(self.line(), file=self._stream, flush=True)


class BarProgress(Progress):
    """Shows a bar on a terminal (drawn by rich on standard error)."""

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[details]}", markup=False), TimeRemainingColumn(),
            console=terminal.console(),
        )
        self._task: TaskID | None = None

    def start(self, phase: str, total: int | None = None, unit: str = "") -> None:
        super().start(phase, total, unit)
        terminal.start_bars(self._bar)
        label = one_line(f"{phase} ({unit})" if unit else phase)
        self._task = self._bar.add_task(label, total=total, details="")

    def note(self, text: str) -> None:
        self._bar.console.print(escape_controls(text), markup=False, emoji=False)

    def show(self, force: bool = False) -> None:
        if self._task is not None:
            details = " ".join(f"{name} {_short(value)}" for name, value in self.details.items())
            self._bar.update(self._task, completed=self.done, details=one_line(details))

    def finish(self) -> None:
        super().finish()
        self._task = None
        self._bar.stop()


class StateProgress(Progress):
    """Passes everything on to another ``Progress`` and keeps a JSON state file up to date.

    The file is replaced at most every two seconds. ``l3hpc status`` reads it, and it serves as a
    heartbeat: ``time`` is the clock of the writer, and ``beat`` grows with every write.

    Parameters
    ----------
    path
        The state file.
    inner
        Shows the progress.
    clock
        Returns the time in seconds since the epoch.
    """

    def __init__(
        self, path: Path, inner: Progress, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._path, self._inner, self._clock = Path(path), inner, clock
        self._last = float("-inf")
        self._beat = 0

    def start(self, phase: str, total: int | None = None, unit: str = "") -> None:
        self._inner.start(phase, total, unit)
        super().start(phase, total, unit)

    def advance(self, count: int = 1, **details: object) -> None:
        self._inner.advance(count, **details)
        super().advance(count, **details)

    def note(self, text: str) -> None:
        self._inner.note(text)

    def finish(self) -> None:
        self._inner.finish()
        super().finish()

    def show(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._last >= STATE_EVERY_S:
            self._last = now
            self._beat += 1
            state = {**self.snapshot(), "time": self._clock(), "beat": self._beat}
            write_json(self._path, {key: _json_ready(value) for key, value in state.items()})


def default_progress() -> Progress:
    """Return a bar if standard error is a terminal, and plain lines otherwise."""
    return BarProgress() if sys.stderr.isatty() else LogProgress()


def _json_ready(value: object) -> object:
    # NaN and infinity are not JSON; of all numbers they alone do not give 0 here.
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
