"""The result of a check, as ``doctor``, ``config check`` and ``data check`` report it.

The module lies below all packages, because both ``datasets`` and ``doctor`` use it and neither may
import the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from l3hpc.errors import L3hpcError, Lines
from l3hpc.io.values import one_line

Severity = Literal["green", "yellow", "red", "off"]


@dataclass(frozen=True)
class Finding:
    """The result of one check, and what to do about it.

    Attributes
    ----------
    subject : str
        What was checked: ``Python``, ``paths.audio``, ``missing audio``.
    severity : {'green', 'yellow', 'red', 'off'}
        Fine; works, but needs attention; will not work; not needed or not set up.
    message : str
        The result.
    advice : str
        What to do; empty if there is nothing to do.
    count : int
        How many times it occurs.
    examples : tuple of str
        The first few locations: a file, or ``file:line``.
    """

    subject: str
    severity: Severity
    message: str
    advice: str = ""
    count: int = 1
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # both hold names of files and cells of tables; only advice may have several lines
        object.__setattr__(self, "message", one_line(self.message))
        object.__setattr__(self, "advice", Lines(self.advice))

    @property
    def ok(self) -> bool:
        """Whether a run can start in spite of it."""
        return self.severity != "red"

    def __str__(self) -> str:
        if not self.examples:
            return self.message
        more = self.count - len(self.examples)
        return f"{self.message}: {', '.join(map(one_line, self.examples))}" + (
            f" and {more:,} more" if more > 0 else "")


def from_error(subject: str, error: L3hpcError, advice: str = "") -> Finding:
    """Make a red finding from an error.

    Parameters
    ----------
    subject : str
        What was checked.
    error : L3hpcError
        Its ``allowed`` and ``hint`` become the advice.
    advice : str
        The advice for an error that has neither.

    Returns
    -------
    Finding
        Red, with the location and message of the error.
    """
    message = f"{error.where}: {error.message}" if error.where else error.message
    own = Lines(error.allowed, error.hint).replace("\n", " ")
    return Finding(subject, "red", message, own or advice or "see the message")
