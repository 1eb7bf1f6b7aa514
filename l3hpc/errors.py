"""The errors that are shown to users, and the exit code of a command for each of them.

A message states what is wrong and where; ``allowed`` states what would be accepted; ``hint`` is the
next command or action. The command line prints these without a traceback (unless ``--debug``).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

from l3hpc.parameter_names import as_arguments as as_arguments
from l3hpc.parameter_names import by_hand as by_hand
from l3hpc.parameter_names import named as named
from l3hpc.parameter_names import option as option
from l3hpc.parameter_names import repair_and_repeat as repair_and_repeat
from l3hpc.parameter_names import setting as setting

_Error = TypeVar("_Error", bound="L3hpcError")

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
    EXIT_OFFLINE: "the results sheet, a tracker or a notification service cannot be reached; "
                  "try again later",
    EXIT_INTERRUPTED: "interrupted (Ctrl-C), or cancelled from another shell while submitting",
}

# Characters that break a line or control a terminal, and what is shown for them: C0, DEL, C1, line
# and paragraph separators, bidirectional overrides.
ESCAPES = {number: f"\\x{number:02x}" if number < 32 else f"\\u{number:04x}" for number in (
    *range(32), *range(127, 160), *range(0x2028, 0x202f), *range(0x2066, 0x206a))
           } | {9: "\\t", 10: "\\n", 13: "\\r"}


class Lines(str):
    """The lines of a hint, or of what is allowed.

    In any other text of an error line ends are escaped: file names and cells of tables may hold
    them, and would look like further lines of the message.

    Parameters
    ----------
    parts
        The lines, or the ``Lines`` of another error; None and empty ones are left out.

    Examples
    --------
    >>> print(Lines("missing: a\\nb.wav", None, "try again"))
    missing: a\\nb.wav
    try again
    """

    def __new__(cls, *parts: str | None) -> Lines:
        return super().__new__(cls, "\n".join(_escaped(part) for part in parts if part))

    def __getnewargs__(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.split("\n"))


def _escaped(text: str) -> str:
    return text if isinstance(text, Lines) else text.translate(ESCAPES)


class L3hpcError(Exception):
    """Work failed for a reason that the user can understand and act on.

    Parameters
    ----------
    message
        What is wrong, as one sentence. It has no full stop if it ends in a value.
    where
        The location: ``file:line``, a cell, an option, or a parameter as STEP.NAME.
    allowed
        What would have been accepted.
    hint
        What to type or do next. Several lines, here or in ``allowed``, are ``Lines``.

    Attributes
    ----------
    exit_code : int
        The exit code of a command that ends with this error.
    """

    exit_code = EXIT_FAILED

    def __init__(
        self, message: str, *, where: str | None = None, allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        # here, so that no message and no command that shows it can forget it
        message = _escaped(message)
        super().__init__(message)
        self.message = message
        self.where = named(where) if where else where  # not escaped: programs open it
        self.allowed = _escaped(allowed) if allowed else allowed
        self.hint = _escaped(hint) if hint else hint

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, longest: int | None = None) -> list[str]:
        """Return the lines of the error: where and what, what is allowed, what to do.

        Parameters
        ----------
        longest
            Characters of a line. Longer ones are cut in the middle, but never those of the hint:
            half a command is none.
        """
        first = f"{self.where}: {self.message}" if self.where else self.message
        told = Lines(first, self.allowed).split("\n")
        if longest is not None:
            told = [line if len(line) <= longest else f"{line[:longest // 2]} … {line[-200:]}"
                    for line in told]
        return [*told, *(Lines(self.hint).split("\n") if self.hint else ())]

    def replaced(self: _Error, message: str | None = None, *, where: str | None = None,
                 hint: str | None = None) -> _Error:
        """Return a copy of this error, of the same class, with other words.

        Parameters
        ----------
        message, where, hint
            The new ones; where one is None, that of this error.
        """
        error = _rebuilt(type(self), self.message if message is None else message, self.__dict__)
        for name, value in (("where", where), ("hint", hint)):
            if value is not None:
                setattr(error, name, value)
        return error

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), self.message, self.__dict__))


def _rebuilt(kind: type[_Error], message: str, state: dict[str, object]) -> _Error:
    """Return an error of this class without its constructor, whose parameters may be others."""
    error = kind.__new__(kind, message)
    error.__dict__.update(state, message=message)
    return error


class InputError(L3hpcError, ValueError):
    """Input was refused before anything was submitted or written.

    It is a ``ValueError`` too, which notebooks and scikit-learn expect for a wrong argument. Code
    that catches ``ValueError`` around calls into l3hpc must re-raise this class first.
    """

    exit_code = EXIT_USAGE


class HeaderDriftError(L3hpcError):
    """The columns of a results tab differ from the declared ones."""

    exit_code = EXIT_HEADER_DRIFT


class ClusterError(L3hpcError):
    """The batch system refused a job or cannot be reached."""

    exit_code = EXIT_CLUSTER


class OfflineError(L3hpcError):
    """A remote service cannot be reached at the moment; the command can be repeated later."""

    exit_code = EXIT_OFFLINE


Words = Sequence[str]  # of a command, without "l3hpc"
_complete: Callable[[Words], Words] = tuple
_started_in: str | None = None  # the folder in which the command was typed, before -C


@contextlib.contextmanager
def completed_commands(complete: Callable[[Words], Words]) -> Iterator[None]:
    """Complete the commands and paths that messages name while the block runs.

    The command line does so: what it was told about where things are (``-C``, ``--config``) has to
    be told to the next command too (``command_line``), and paths start from the folder of the
    person, which ``-C`` does not change (``shell_path``). It holds in all threads, as the working
    directory does.

    Parameters
    ----------
    complete
        Called with the words of a command; returns them with the options that they need.
    """
    global _complete, _started_in
    before = _complete, _started_in
    _complete, _started_in = complete, None
    with contextlib.suppress(OSError):  # the folder has been removed
        _started_in = os.getcwd()
    try:
        yield
    finally:
        _complete, _started_in = before


def command_line(*words: object) -> str:
    """Return an ``l3hpc`` command for a hint, quoted so that it can be pasted into a shell.

    On the command line it repeats the options that say where things are (``completed_commands``).
    A message names a command in no other way.

    Parameters
    ----------
    words
        The command and its arguments.

    Examples
    --------
    >>> command_line("resume", "my run")
    "l3hpc resume 'my run'"
    """
    return " ".join(("l3hpc", *map(shell_word, _complete([str(word) for word in words]))))


def shell_path(path: str | os.PathLike[str]) -> str:
    """Return ``path_from_shell`` quoted, so that it can be pasted.

    Examples
    --------
    >>> shell_path(os.path.abspath("my runs/log")), shell_path("/dev/null")
    ("'my runs/log'", '/dev/null')
    """
    return shell_word(path_from_shell(path))


def path_from_shell(path: str | os.PathLike[str]) -> str:
    """Return a path as seen from the folder in which the command was typed, without ``..`` inside.

    Parameters
    ----------
    path
        The path; a relative one starts in the working directory, which may be that of ``-C``.

    Returns
    -------
    str
        Relative to that folder where it is below it, otherwise absolute; without ``-C``, one that
        is relative stays as it is.
    """
    text = os.fspath(path)
    with contextlib.suppress(OSError):
        here = os.getcwd()
        start = _started_in or here
        relative = os.path.relpath(os.path.join(here, text), start)
        if relative.split(os.sep)[0] != os.pardir:
            text = relative
        elif start != here or os.path.isabs(text):
            text = os.path.abspath(text)
    return text


def shell_word(word: object) -> str:
    r"""Quote a value as one word of a shell command (bash, zsh).

    Examples
    --------
    >>> print(shell_word("a b"), shell_word("a\nb"))
    'a b' $'a\x0ab'
    """
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    # Python decodes file names that are not UTF-8 with surrogates; these are the original bytes.
    data = text.encode("utf-8", "surrogateescape")
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
    """Suggest the valid name that is closest to ``word``, and list the valid names.

    Parameters
    ----------
    word
        What was given; only a string can be close to a name.
    valid
        The names that are allowed.

    Returns
    -------
    str
        ``did you mean 'x'? valid: x, y, z``, or only ``valid: x, y, z`` if no name is close.

    Examples
    --------
    >>> nearest("trian", ["train", "fit"])
    "did you mean 'train'? valid: fit, train"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1) if isinstance(word, str) else []
    listing = f"valid: {', '.join(names)}"
    return f"did you mean {close[0]!r}? {listing}" if close else listing


# what was reported, by its text: a file that several readers come across is reported once
_damage: ContextVar[tuple[list[InputError], set[str]] | None] = ContextVar("damage", default=None)


@contextlib.contextmanager
def collect_damage() -> Iterator[list[InputError]]:
    """Collect the errors that are passed to ``report_damage`` while the block runs.

    Yields
    ------
    list of InputError
        Grows while the block runs: one error for each file that was skipped.
    """
    errors: list[InputError] = []
    token = _damage.set((errors, set()))
    try:
        yield errors
    finally:
        _damage.reset(token)


def report_damage(error: InputError) -> None:
    """Record that a file cannot be used and is skipped; ignored outside ``collect_damage``."""
    collected = _damage.get()
    if collected is None:
        return
    errors, known = collected
    text = str(error)
    if text not in known:
        known.add(text)
        errors.append(error)
