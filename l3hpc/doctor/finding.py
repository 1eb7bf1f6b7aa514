"""One line of the doctor's answer, and a careful way to ask other programs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from l3hpc.errors import L3hpcError
from l3hpc.schedulers.slurm.commands import for_slurm

State = Literal["green", "yellow", "red", "off"]


@dataclass(frozen=True)
class Line:
    """What one check found.

    state: green (right), yellow (works, but look at it), red (will not work), off (not needed, or
    not set up). ``todo`` says what to do, and is never empty when the state is red.
    """

    check: str
    state: State
    words: str
    todo: str = ""

    def as_json(self) -> dict[str, str]:
        """The line as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What a program said. ``code`` is None when it could not be started or did not answer."""

    code: int | None
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last line of its complaint."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit code {self.code}"


Ask = Callable[[Sequence[str]], Answer]


def ask(command: Sequence[str], timeout: float = 60.0) -> Answer:
    """Run a program with an English locale and no inherited Slurm options; never raises."""
    try:
        done = subprocess.run(list(command), capture_output=True, encoding="utf-8",
                              errors="replace", timeout=timeout, check=False,
                              env={**for_slurm(), "LC_ALL": "C"}, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return Answer(None, "", f"{command[0]} is not installed here")
    except OSError as error:
        return Answer(None, "", f"{command[0]} cannot be started: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"{command[0]} did not answer within {timeout:g} s")
    return Answer(done.returncode, done.stdout, done.stderr)


def from_error(check: str, error: L3hpcError, todo: str = "") -> Line:
    """A red line from an error; what the error allows or hints is what to do."""
    words = f"{error.where}: {error.message}" if error.where else error.message
    advice = " ".join(part for part in (error.allowed, error.hint) if part)
    return Line(check, "red", words, advice or todo or "see the message")
