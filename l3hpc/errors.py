"""The errors a person may see, and the exit code that each of them ends a command with.

A message says what was wrong and where; ``allowed`` says what would be right; ``hint`` is the next
command or action. The command line prints these three and no traceback (unless ``--debug``).
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HEADER_DRIFT = 3
EXIT_CLUSTER = 4
EXIT_OFFLINE = 75
EXIT_INTERRUPTED = 130

EXIT_CODES = {
    EXIT_OK: "done, or nothing to do",
    EXIT_FAILED: "the work failed: a step, a check or a ledger row (conflict)",
    EXIT_USAGE: "refused: bad option, file or combination; nothing was submitted or written",
    EXIT_HEADER_DRIFT: "the sheet's columns differ from the declared ones; nothing was written",
    EXIT_CLUSTER: "the cluster refused the jobs or does not respond",
    EXIT_OFFLINE: "the results sheet cannot be reached; nothing is lost, try again later",
    EXIT_INTERRUPTED: "interrupted (Ctrl-C), or cancelled from another shell while submitting",
}


_LINE_ENDS = {10: "\\n", 13: "\\r"}


class L3hpcError(Exception):
    """Work failed for a reason that a person can understand and act on.

    Parameters
    ----------
    message: what was wrong, in one sentence, without a trailing full stop where a value ends it.
    where: the place: ``file:line``, a key, a cell, an option.
    allowed: what would have been accepted.
    hint: what to type or do next.
    """

    exit_code = EXIT_FAILED

    def __init__(
        self, message: str, *, where: str | None = None, allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.allowed = allowed
        self.hint = hint

    def __str__(self) -> str:
        where = "" if self.where is None else self.where.translate(_LINE_ENDS)  # a file's name
        first = f"{where}: {self.message}" if where else self.message
        return "\n".join(part for part in (first, self.allowed, self.hint) if part)

    def __reduce__(self) -> tuple[object, ...]:
        state = {"where": self.where, "allowed": self.allowed, "hint": self.hint}
        return (type(self), (self.message,), state)


class InputError(L3hpcError, ValueError):
    """Input was refused before anything was submitted or written.

    Also a ``ValueError``, which is what a notebook and scikit-learn expect of a wrong argument.
    Code that catches ``ValueError`` around our own calls lets this one through first.
    """

    exit_code = EXIT_USAGE


class HeaderDriftError(L3hpcError):
    """A results tab has other columns than the declared ones."""

    exit_code = EXIT_HEADER_DRIFT


class ClusterError(L3hpcError):
    """The batch system refused a job or cannot be reached."""

    exit_code = EXIT_CLUSTER


class OfflineError(L3hpcError):
    """A remote service cannot be reached now; trying again later is right."""

    exit_code = EXIT_OFFLINE


def command_line(*words: object) -> str:
    """``l3hpc resume RUN`` for a hint: as a person may paste it, whatever a name or path holds."""
    return " ".join(("l3hpc", *(shell_word(word) for word in words)))


def shell_word(word: object) -> str:
    """A value as one word of a shell's command line (bash, zsh)."""
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    data = text.encode("utf-8", "surrogateescape")  # as the system has a name that is not UTF-8
    return "$'" + "".join(chr(byte) if 32 <= byte < 127 and byte not in b"\\'"
                          else f"\\x{byte:02x}" for byte in data) + "'"


def check_choice(what: str, value: object, valid: Iterable[str], *, where: str | None = None
                 ) -> str:
    """Return ``value`` if it is one of the ``valid`` names; otherwise raise ``InputError``.

    Parameters
    ----------
    what
        What the value is, for the message: ``unknown {what} {value}``.
    value
        Any object, since a notebook may pass anything; only a string can be valid.
    valid
        The names that are allowed.
    where
        The option, key or file that the value comes from.

    Raises
    ------
    InputError
        ``value`` is not one of ``valid``; the message suggests the nearest name.

    Examples
    --------
    >>> check_choice("norm", "l2", ("l1", "l2"))
    'l2'
    """
    names = list(valid)
    # Not `value in names` alone: an array compares element by element, and has no truth value.
    if isinstance(value, str) and value in names:
        return value
    raise InputError(f"unknown {what} {value!r:.60}", where=where, allowed=nearest(value, names))


def nearest(word: object, valid: Iterable[str]) -> str:
    """``did you mean 'x'? valid: a, b, c``, or just the valid names when nothing is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1) if isinstance(word, str) else []
    listing = f"valid: {', '.join(names)}"
    return f"did you mean {close[0]!r}? {listing}" if close else listing


_damage: ContextVar[list[InputError] | None] = ContextVar("damage", default=None)


@contextlib.contextmanager
def collect_damage() -> Iterator[list[InputError]]:
    """Collect what ``report_damage`` is told while the block runs: files that were left aside."""
    found: list[InputError] = []
    token = _damage.set(found)
    try:
        yield found
    finally:
        _damage.reset(token)


def report_damage(error: InputError) -> None:
    """Say that a file cannot be used, and that the work goes on without it."""
    found = _damage.get()
    if found is not None and str(error) not in map(str, found):
        found.append(error)
