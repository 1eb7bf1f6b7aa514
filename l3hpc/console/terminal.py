"""Everything that is printed passes here: no locale breaks it, and no value steers the terminal.

``safe_output`` puts a ``SafeStream`` in the place of standard output and standard error. It writes
control characters out (escape sequences, carriage returns, bidirectional overrides: ``\\x1b``,
``\\u202e``), and characters that the stream's encoding lacks in ASCII. What this program itself
sends to a terminal, colours and bars, goes through ``with_controls``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO, cast

from l3hpc.io.values import ESCAPED, encodable, escape_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress

SIZES = {"COLUMNS": range(20, 1001), "LINES": range(4, 1001)}  # what else these say is no terminal


class SafeStream:
    """A text stream over another one, which never fails for a character.

    controls: let control characters through (for bars, whose texts are escaped before).
    """

    def __init__(self, stream: TextIO, *, controls: bool = False) -> None:
        self.stream, self._controls = stream, controls
        self.broken = False  # the reader of the pipe has gone

    closed = False

    def write(self, text: str) -> int:
        """Write it, all of it, as well as the stream can show it."""
        shown = text if self._controls else escape_controls(text)
        with self._noticing():
            self.stream.write(encodable(shown, self.encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write them one by one."""
        for line in lines:
            self.write(line)

    @property
    def encoding(self) -> str:
        """Of the stream below."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:
        """What happens to characters that it lacks."""
        return ESCAPED

    def flush(self) -> None:
        """Flush the stream below."""
        with self._noticing():
            self.stream.flush()

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Of the stream below."""
        return self.stream.fileno()

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.broken = True
            raise

    def writable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Never."""
        return False


def with_controls(stream: TextIO) -> TextIO:
    """The same stream for what may hold control sequences of our own, and nobody else's."""
    return _output(stream.stream, controls=True) if isinstance(stream, SafeStream) else stream


def console() -> Console:
    """rich's console on standard error, in any locale."""
    from rich.console import Console

    return Console(file=with_controls(sys.stderr))


def start_bars(bars: Live | Progress) -> None:
    """Start rich's bars, which put streams of their own in the place of ours."""
    bars.start()
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), SafeStream):
            setattr(sys, name, _output(getattr(sys, name)))


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """While the block runs, what is printed is safe to look at and cannot fail for a character."""
    before = sys.stdout, sys.stderr
    install_safe_output()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def install_safe_output() -> None:
    """The same for good, for a process of our own (a job)."""
    _fill_standard_descriptors()
    for name, sizes in SIZES.items():
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdigit() and int(value[:9]) in sizes):
            os.environ.pop(name, None)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before we started
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if not isinstance(stream, SafeStream):
            setattr(sys, name, _output(stream))


def restart_in_utf8() -> None:
    """Start again in UTF-8 mode where the locale is ASCII: paths in our files are UTF-8, and could
    not be opened there."""
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def discard_output(stream: TextIO) -> None:
    """Nobody reads the stream any more: what is left in it goes nowhere, also at the very end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _output(stream: TextIO, *, controls: bool = False) -> TextIO:
    return cast("TextIO", SafeStream(stream, controls=controls))


def _fill_standard_descriptors() -> None:
    """No file of ours may get the number of a closed standard stream: children write there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
