"""Safe standard streams: no locale makes printing fail, and no value controls the terminal.

``safe_output`` replaces standard output and standard error by a ``SafeStream``, which escapes
control characters (escape sequences, carriage returns, bidirectional overrides: ``\\x1b``,
``\\u202e``) and characters that the encoding does not have. Colours and bars of l3hpc itself go
through ``with_controls``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, TextIO, cast

from l3hpc.io.values import ESCAPED, encodable, escape_controls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress

# Plausible sizes of a terminal; other values of these variables are ignored.
SIZES = {"COLUMNS": range(20, 1001), "LINES": range(4, 1001)}


class SafeStream:
    """A text stream that escapes what the stream below it cannot or must not show.

    Parameters
    ----------
    stream
        The stream to write to.
    controls
        Let control characters pass; for bars and colours, whose texts were escaped before.
    lossy
        Drop what cannot be written (a full disk, a reader that has gone). For messages beside the
        work, which must not end it.

    Attributes
    ----------
    broken : bool
        Whether the reader of the pipe has gone.
    """

    closed = False  # rich and click ask for it

    def __init__(self, stream: TextIO, *, controls: bool = False, lossy: bool = False) -> None:
        self.stream, self._controls, self.lossy = stream, controls, lossy
        self.broken = False
        self._other: SafeStream | None = None  # to the same stream

    def write(self, text: str | bytes) -> int:
        """Write a text and return its length."""
        # click from 8.5 on writes what a shell completes as UTF-8
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        shown = text if self._controls else escape_controls(text)
        with self._detecting_faults():
            self.stream.write(encodable(shown, self.encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines one by one."""
        for line in lines:
            self.write(line)

    @property
    def encoding(self) -> str:
        """The encoding of the stream below."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:
        """The error handler for characters that the encoding does not have."""
        return ESCAPED

    def flush(self) -> None:
        """Flush the stream below."""
        with self._detecting_faults():
            self.stream.flush()

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The file descriptor of the stream below."""
        return self.stream.fileno()

    @contextlib.contextmanager
    def _detecting_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            for one in filter(None, (self, self._other)):
                one.broken = one.broken or isinstance(error, BrokenPipeError)
            if not self.lossy:
                raise

    def writable(self) -> bool:
        """Always true."""
        return True

    def readable(self) -> bool:
        """Always false."""
        return False


def with_controls(stream: TextIO) -> TextIO:
    """Return a stream that lets l3hpc's own control sequences pass.

    Parameters
    ----------
    stream
        A ``SafeStream``; any other stream is returned unchanged.
    """
    if not isinstance(stream, SafeStream):
        return stream
    made = SafeStream(stream.stream, controls=True, lossy=stream.lossy)
    made._other = stream
    return cast("TextIO", made)


def console() -> Console:
    """Return a rich console on standard error that works in any locale."""
    from rich.console import Console

    return Console(file=with_controls(sys.stderr))


def start_bars(bars: Live | Progress) -> None:
    """Start rich's bars and keep the standard streams safe."""
    bars.start()
    # rich replaces the standard streams, so that what is printed appears above the bars.
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), SafeStream):
            setattr(sys, name, SafeStream(getattr(sys, name), lossy=name == "stderr"))


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Make the standard streams safe while the block runs."""
    before = sys.stdout, sys.stderr
    install_safe_output()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def install_safe_output(lossy: Collection[str] = ("stderr",)) -> None:
    """Make the standard streams safe for the rest of the process.

    Parameters
    ----------
    lossy
        Those of ``stdout`` and ``stderr`` that may lose what cannot be written. A job works on
        although the disk of its logs is full.
    """
    _fill_standard_descriptors()
    for name, sizes in SIZES.items():
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdigit() and int(value[:9]) in sizes):
            os.environ.pop(name, None)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the process started
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream, lossy=name in lossy))
            if name in lossy:
                atexit.register(_give_up, stream)


def _give_up(stream: TextIO) -> None:
    """Discard what cannot be written: Python would try once more, and end with exit code 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        discard_output(stream)


def restart_in_utf8() -> None:
    """Restart the process in UTF-8 mode if the locale is ASCII.

    Paths in l3hpc's files are UTF-8 and could not be opened otherwise.
    """
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def discard_output(stream: TextIO) -> None:
    """Redirect a stream that nobody reads to /dev/null, so that flushing it at exit works."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _fill_standard_descriptors() -> None:
    """Open /dev/null for closed standard streams.

    Otherwise a file could get the descriptor of one, and child processes would write into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
