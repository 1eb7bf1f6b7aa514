"""What one task requests; not in ``profile``, so that reading a record does not import pydantic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from l3hpc.config.units import format_memory, format_time
from l3hpc.io.values import count_of

_AMOUNTS: dict[str, Callable[[int], str]] = {
    "cpus": lambda number: count_of(number, "core"), "mem_mb": format_memory,
    "gpus": lambda number: count_of(number, "GPU") if number else "no GPU"}


@dataclass(frozen=True)
class Resources:
    """What one task of a step requests.

    Attributes
    ----------
    cpus, gpus : int
        Cores and GPUs.
    mem_mb : int
        Memory, MiB.
    time_min : int
        Time limit, minutes.
    pack : int
        How many tasks one job runs, one after another.
    """

    cpus: int = 1
    mem_mb: int = 2048
    gpus: int = 0
    time_min: int = 60
    pack: int = 1

    @property
    def job_min(self) -> int:
        """Time limit of one job, minutes: that of all its tasks together."""
        return self.time_min * self.pack

    @property
    def time_text(self) -> str:
        """The time limit of a job: ``4 h``, or ``8 × 4 h`` for eight tasks."""
        limit = format_time(self.time_min)
        return f"{self.pack} × {limit}" if self.pack > 1 else limit

    def warned_at_once(self, warning_s: int) -> str:
        """Say that the time limit of a job is too short; empty if it is not.

        Parameters
        ----------
        warning_s
            How long before its limit a job may be warned, seconds.
        """
        if 60 * self.job_min > warning_s or not warning_s:
            return ""
        return (f"a time limit of {format_time(self.job_min)} is too short: a job is warned up to "
                f"{warning_s} s before its limit, and would be requeued as soon as it starts; at "
                f"least {format_time(warning_s // 60 + 1)}")

    def within_time(self, step: str, most_min: int) -> str:
        """Return the option that makes the request fit a time limit, which it exceeds.

        Parameters
        ----------
        step
            Name of the step.
        most_min
            The limit, minutes.
        """
        if self.time_min <= most_min:  # only all tasks of a job together are too long
            return f"--set {step}.pack={most_min // self.time_min}"
        return f"--set {step}.time={most_min}m"

    def packed(self, tasks: int) -> Resources:
        """Return the same request without room for more tasks than there are.

        Parameters
        ----------
        tasks
            Number of tasks.
        """
        return self if self.pack <= max(tasks, 1) else replace(self, pack=max(tasks, 1))

    def not_granted(self, asked: Mapping[str, int], tasks: int, profile: str) -> list[str]:
        """Say what of an explicit request a task is not given, or has no effect.

        Parameters
        ----------
        asked
            What was asked for, by the names of the fields.
        tasks
            How many tasks there are to run.
        profile
            Name of the cluster profile.

        Returns
        -------
        list of str
            Clauses for a note; empty where everything is given.
        """
        less = [name for name in _AMOUNTS if asked.get(name, 0) > getattr(self, name)]
        notes = []
        if less:
            wanted, given = (", ".join(_AMOUNTS[name](value(name)) for name in less)
                             for value in (asked.__getitem__, self.__getattribute__))
            notes.append(f"{wanted} requested; {profile} has {given} for it")
        if asked.get("pack", 1) > tasks:
            notes.append("pack has no effect on a single task" if tasks == 1 else
                         f"pack {asked['pack']} is more than the {tasks} tasks to run: one job")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; ``pack`` only if it is not 1."""
        value = vars(self).copy()
        if self.pack == 1:  # as it was before there were packed jobs
            del value["pack"]
        return value
