"""What every scheduler is given: the calls of a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Call:
    """Task ``task`` of a step, as one job or as element ``index`` of an array runs it.

    work: what is pickled and called. folder: for the pickle and the logs.
    """

    work: Callable[[], Any]
    folder: Path
    task: int
    index: int = 0
