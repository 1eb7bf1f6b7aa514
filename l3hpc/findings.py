"""What a check found: the one form in which doctor, ``config check`` and ``data check`` answer.

It lies beneath all packages: data sets and the doctor describe what they see with it, and neither
may import the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from l3hpc.errors import L3hpcError

Severity = Literal["green", "yellow", "red", "off"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do about it.

    Attributes
    ----------
    subject : str
        What was looked at: ``Python``, ``paths.audio``, ``missing audio``.
    severity : {'green', 'yellow', 'red', 'off'}
        Right; works, but look at it; will not work; not needed or not set up.
    message : str
        What was found, in words.
    advice : str
        What to do; empty where there is nothing to do or nothing to advise.
    count : int
        How often it was found.
    examples : tuple of str
        The first few places: a file, or ``file:line``.
    """

    subject: str
    severity: Severity
    message: str
    advice: str = ""
    count: int = 1
    examples: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a run may go on in spite of it."""
        return self.severity != "red"

    def __str__(self) -> str:
        if not self.examples:
            return self.message
        more = self.count - len(self.examples)
        return f"{self.message}: {', '.join(self.examples)}" + (
            f" and {more:,} more" if more > 0 else "")


def from_error(subject: str, error: L3hpcError, advice: str = "") -> Finding:
    """A red finding from an error.

    Parameters
    ----------
    subject : str
        What was looked at.
    error : L3hpcError
        What it allows and hints is the advice.
    advice : str
        What to do where the error does not say.
    """
    message = f"{error.where}: {error.message}" if error.where else error.message
    own = " ".join(part for part in (error.allowed, error.hint) if part)
    return Finding(subject, "red", message, own or advice or "see the message")
