"""Progress reports: a bar on a terminal, lines in a log, a small JSON file for ``l3hpc status``.

Scientific code and steps receive a ``Progress`` and call ``start``, ``advance`` and ``note``; they
never print. The base class shows nothing, and ``default_progress`` chooses between a bar and lines.

Code far below that has to wait (TensorFlow starts, engines are measured, a step is compiled, Slurm
answers) says so with ``doing``, which reaches the progress of the command or job that is running
(``reporting``). Without one, as in a notebook, it shows nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from l3hpc.console import formatting, terminal
from l3hpc.io.files import write_json
from l3hpc.io.values import one_line

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_EVERY_S = 10.0
STATE_EVERY_S = 2.0
SAME_EVERY_S = 60.0
DELAY_S = 1.0  # after which a command shows what it waits for


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
        Further values to show, such as an epoch and its loss. A whole number with a name in the
        plural is a count: ``10 recordings``.
    activity : str
        What is waited for now, besides the phase; empty for nothing.
    started : float
        When the phase began, on the monotonic clock, in seconds.

    Examples
    --------
    >>> progress = Progress()
    >>> progress.start("embedding", total=1200, unit="frames")
    >>> progress.advance(32, loss=0.4123456)
    >>> progress.line()
    'embedding: 32/1,200 frames, loss 0.4123'
    >>> progress.advance(32, recordings=10)
    >>> progress.line()
    'embedding: 64/1,200 frames, loss 0.4123, 10 recordings'
    >>> progress.finish()
    """

    def __init__(self) -> None:
        self.phase = ""
        self.total: int | None = None
        self.unit = ""
        self.done = 0
        self.details: dict[str, Any] = {}
        self.activity = ""
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
        """Count finished units; ``details`` replace earlier ones of their name (None: none)."""
        self.done += count
        self.details.update(details)
        for name in [name for name, value in details.items() if value is None]:
            del self.details[name]
        self.show()

    @contextmanager
    def doing(self, what: str, *, at_once: bool = False) -> Iterator[None]:
        """Show ``what`` while the block runs; ``at_once``: it is known to take seconds."""
        before, self.activity = self.activity, what
        self.show(force=True)
        try:
            yield
        finally:
            self.activity = before

    @property
    def is_doing(self) -> bool:
        """Whether a block of ``doing`` runs."""
        return bool(self.activity)

    def note(self, text: str) -> None:
        """Show a message of one line, such as a warning or a decision, whatever names it holds."""

    def finish(self) -> None:
        """End the current phase."""
        if self.phase:
            self.show(force=True)
        # what is waited for next is not part of it
        self.phase, self.total, self.unit, self.done, self.details = "", None, "", 0, {}

    def show(self, force: bool = False) -> None:
        """Update the display; unless ``force``, only if its interval has passed."""

    def snapshot(self) -> dict[str, Any]:
        """Return phase, done, total, unit, elapsed_s, activity and the details, ready for JSON."""
        return {
            "phase": self.phase, "done": self.done, "total": self.total, "unit": self.unit,
            "elapsed_s": round(time.monotonic() - self.started, 3),
            **({"activity": self.activity} if self.activity else {}), **self.details,
        }

    def line(self) -> str:
        """Return the state as one line of text, with the pace and the remaining time."""
        amount = formatting.amount(self.done, self.total, self.unit)
        elapsed = time.monotonic() - self.started
        parts = [f"{self.phase}: {amount}" if amount else self.phase] if self.phase else []
        parts += [self.activity] if self.activity else []
        parts += self._shown_details()
        if self.done and elapsed > 1:
            parts.append(f"{self.done / elapsed:.3g} {self.unit or 'units'}/s")
            if self.total and self.done < self.total:
                left = elapsed / self.done * (self.total - self.done)
                parts.append(f"{formatting.clock(left)} left")
        return ", ".join(parts)

    def _shown_details(self) -> list[str]:
        # an epoch that is counted already would read as the one that is running
        return [formatting.detail(name, value) for name, value in self.details.items()
                if f"{name}s" != self.unit]


class LogProgress(Progress):
    """Shows plain lines, at most one in ten seconds, for job logs and pipes.

    Parameters
    ----------
    stream
        Where the lines go; None for standard error.
    delay_s
        An activity is shown once it has lasted so long, in seconds.
    """

    def __init__(self, stream: TextIO | None = None, delay_s: float = 0.0) -> None:
        super().__init__()
        self._stream = stream
        self._delay_s = delay_s
        self._late: threading.Timer | None = None  # shows the activity that has just begun
        self._said: dict[str, float] = {}  # activity → when that was shown last
        self._last = 0.0

    @contextmanager
    def doing(self, what: str, *, at_once: bool = False) -> Iterator[None]:
        before, self.activity = self.activity, what
        outer, self._late = self._late, None
        if outer is not None and not outer.finished.is_set():  # not shown yet: both in one line
            outer.cancel()
            what = f"{before}: {what}"
        if at_once or not self._delay_s:
            self._print(what)
        else:
            self._late = threading.Timer(self._delay_s, self._print_again, [what])
            self._late.daemon = True
            self._late.start()
        try:
            yield
        finally:
            if self._late is not None:
                self._late.cancel()
                self._late = None
            self.activity = before

    def note(self, text: str) -> None:
        self._print(text)

    def finish(self) -> None:
        # a phase without counts has nothing to say at its end
        if self.phase and (self.total is not None or self.done):
            self.show(force=True)
        self.phase = ""

    def show(self, force: bool = False) -> None:
        now = time.monotonic()
        if self.phase and (force or now - self._last >= LINE_EVERY_S):
            self._last = now
            self._print(self.line())

    def _print_again(self, what: str) -> None:
        """Say what is waited for, unless that was said within the last minute: ``status --watch``
        waits for the scheduler every few seconds.
        """
        now = time.monotonic()
        if now - self._said.get(what, -SAME_EVERY_S) >= SAME_EVERY_S:
            self._said[what] = now
            self._print(what)

    def _print(self, text: str) -> None:
        print(one_line(text), file=self._stream or sys.stderr, flush=True)


class BarProgress(Progress):
    """Shows a bar on a terminal (drawn by rich on standard error)."""

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False), BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TextColumn("{task.fields[details]}", markup=False), TimeRemainingColumn(),
            console=terminal.console(),
        )
        self._task: TaskID | None = None
        self._lines = LogProgress(delay_s=DELAY_S)  # for what is done while nothing is counted

    @contextmanager
    def doing(self, what: str, *, at_once: bool = False) -> Iterator[None]:
        if self._task is None:
            with self._lines.doing(what, at_once=at_once):
                yield
            return
        with super().doing(what):
            yield
        self.show(force=True)

    @property
    def is_doing(self) -> bool:
        return super().is_doing or self._lines.is_doing

    def start(self, phase: str, total: int | None = None, unit: str = "") -> None:
        super().start(phase, total, unit)
        terminal.start_bars(self._bar)
        label = one_line(f"{phase} ({unit})" if unit else phase)
        self._task = self._bar.add_task(label, total=total, amount="", details="")
        self.show(force=True)

    def note(self, text: str) -> None:
        self._bar.console.print(one_line(text), markup=False, emoji=False)

    def show(self, force: bool = False) -> None:
        if self._task is not None:
            details = [self.activity, *self._shown_details()] if self.activity \
                else self._shown_details()
            self._bar.update(
                self._task, completed=self.done,
                amount=formatting.amount(self.done, self.total, ""),
                details=one_line(", ".join(details)))

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
    """

    def __init__(self, path: Path, inner: Progress) -> None:
        super().__init__()
        self._path, self._inner = Path(path), inner
        self._last = float("-inf")
        self._beat = 0

    @contextmanager
    def doing(self, what: str, *, at_once: bool = False) -> Iterator[None]:
        with self._inner.doing(what, at_once=at_once), super().doing(what):
            yield
        self.show(force=True)

    def start(self, phase: str, total: int | None = None, unit: str = "") -> None:
        self._inner.start(phase, total, unit)
        # already ended by the line above: ``finish`` would end the phase that has just begun there
        self.phase = ""
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
            state = {**self.snapshot(), "time": time.time(), "beat": self._beat}
            write_json(self._path, {key: _json_ready(value) for key, value in state.items()})


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def reporting(progress: Progress) -> Iterator[None]:
    """Show on ``progress`` what is done in the block (see ``doing``)."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def doing(what: str, *, at_once: bool = False, alone: bool = False) -> Iterator[None]:
    """Say what is waited for while the block runs.

    Parameters
    ----------
    what
        A few words, such as ``measuring engines``.
    at_once
        Whether it is known to take seconds. A command shows other activities after ``DELAY_S``.
    alone
        Leave it out where something else is being done already: to start TensorFlow says more than
        to wait for python.

    Examples
    --------
    >>> with reporting(LogProgress(sys.stdout)), doing("measuring engines"):
    ...     pass
    measuring engines
    """
    progress = _current.get()
    if progress is None or alone and progress.is_doing:
        yield
        return
    with progress.doing(what, at_once=at_once):
        yield


def default_progress() -> Progress:
    """Return a bar if standard error is a terminal, and plain lines otherwise.

    What the rest of the command does is shown there (``reporting``).
    """
    progress = BarProgress() if sys.stderr.isatty() else LogProgress(delay_s=DELAY_S)
    _current.set(progress)
    return progress


def _json_ready(value: object) -> object:
    # NaN and infinity are not JSON; of all numbers they alone do not give 0 here.
    if isinstance(value, float) and value - value != 0:
        return None
    return value
