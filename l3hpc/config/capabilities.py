"""What the schedulers can do: the ``executor`` of a cluster profile and its capabilities.

They are below the schedulers themselves because planning and previews need them too. A scheduler
adds its own with ``schedulers.register``.
"""

from __future__ import annotations

from dataclasses import dataclass

from l3hpc.errors import InputError


@dataclass(frozen=True)
class Capabilities:
    """What a scheduler can do, and what it needs.

    Attributes
    ----------
    remote : bool
        Jobs run on other machines than the one that submits them: those must see the workspace, may
        have another Python, and their hours are charged to somebody.
    runner : bool
        No daemon starts the jobs: the submitting command does, or leaves a runner in the
        background.
    accounting : bool
        It remembers attempts that ended without a result.
    step_arrays : bool
        Steps of a sweep can be submitted together, as one job array.
    after_end : bool
        A job can depend on the end of others, whether they succeed or not.
    clusters : bool
        A site may have several clusters, and a job names the one it is meant for.
    warning_s : int
        How long before its time limit a job may be warned, seconds; 0 if that depends on the limit.
    """

    remote: bool = True
    runner: bool = False
    accounting: bool = False
    step_arrays: bool = False
    after_end: bool = False
    clusters: bool = False
    warning_s: int = 0


LOCAL, SLURM = "local", "slurm"
KNOWN = {
    LOCAL: Capabilities(remote=False, runner=True),
    SLURM: Capabilities(accounting=True, step_arrays=True, after_end=True, clusters=True,
                        warning_s=150),
}


def of(executor: str) -> Capabilities:
    """Return the capabilities of a scheduler.

    Parameters
    ----------
    executor
        Its name.

    Raises
    ------
    InputError
        If there is no such scheduler.
    """
    try:
        return KNOWN[executor]
    except KeyError:
        raise InputError(f"there is no executor {executor!r}",
                         allowed=f"valid: {', '.join(KNOWN)}") from None
