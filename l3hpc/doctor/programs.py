"""Other programs that the doctor asks: never an exception, always in English."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l3hpc.schedulers.slurm.commands import for_slurm


@dataclass(frozen=True)
class Answer:
    """What a program printed. ``code`` is None where it could not be started or did not answer."""

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
