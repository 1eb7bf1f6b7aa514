"""A surface that fails on purpose, in all ways, so that the harness can be tested."""

from __future__ import annotations

import signal
import time

from .runner import Case, Fault, Surface, Verdict


class Harness(Surface):
    """Not part of a whole run."""

    name = "harness"
    share = 0

    def judge(self, case: Case) -> Verdict:
        (case.folder / "input").write_text("x" * len(case.changes))
        kind = int(case.folder.name)
        if kind == 0:
            raise Fault("a wrong answer")
        if kind == 1:
            raise ZeroDivisionError
        if kind == 2:
            time.sleep(60)
        if kind == 3:
            signal.raise_signal(signal.SIGKILL)
        return Verdict(kind % 2 == 0, 2)
