"""Packed jobs: an element of a job array that runs several tasks, one after another.

With ``pack: 8`` the tasks 0 to 7 are element 0, 8 to 15 element 1, and so on. The script starts
itself again for each task, so that every task has its own markers, logs and exit code, and one that
fails does not stop those after it. The time limit covers all of them together. If the job is
requeued with more memory or time for one task, that applies to all of them: it is a single job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VARIABLE = "L3HPC_PACK"  # set by the script: when its job began, and its tasks
_kept: dict[str, str] = {}


@dataclass(frozen=True)
class PackedJob:
    """The packed job that a process belongs to.

    Attributes
    ----------
    started : float
        When it began, unix seconds by the clock of the node.
    tasks : tuple of int
        Indices of all its tasks.
    """

    started: float
    tasks: tuple[int, ...]


def of_this_process(environment: Mapping[str, str] | None = None) -> PackedJob | None:
    """Return the packed job that started this process; None if there is none.

    Parameters
    ----------
    environment
        Environment variables; None: those of this process, or what ``keep`` has kept.
    """
    text = ({**_kept, **os.environ} if environment is None else environment).get(VARIABLE, "")
    started, *tasks = text.split() or [""]
    try:
        return PackedJob(float(started), tuple(map(int, tasks)))
    except ValueError:  # not set, or not by our script
        return None


def keep() -> None:
    """Keep what the environment says, and remove it: jobs that this process submits are others."""
    _kept[VARIABLE] = os.environ.pop(VARIABLE, "")


def words(tasks: Sequence[int]) -> str:
    """Format task indices as words of bash, which expands ``{0..7}``.

    Parameters
    ----------
    tasks
        The indices, in the order in which they are run.

    Examples
    --------
    >>> words([0, 1, 2, 3, 7])
    '{0..3} 7'
    """
    spans: list[list[int]] = []
    for task in tasks:
        if spans and task == spans[-1][1] + 1:
            spans[-1][1] = task
        else:
            spans.append([task, task])
    return " ".join(str(first) if first == last else f"{{{first}..{last}}}"
                    for first, last in spans)
