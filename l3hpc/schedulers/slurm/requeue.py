"""Requeueing a job: the calls to Slurm that put it back, change its request and release it.

A job cannot change its own request: requeueing ends its script at once, and only a pending job can
be given more memory. So the job is requeued and held, and a small helper job changes and releases
it once it is pending. Where jobs may not submit jobs, it stays held until ``l3hpc resume`` makes
the same two calls. The scripts of this version do all of it in bash; this module is for ``resume``
and for scripts of earlier versions. As a program it is the helper job.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from l3hpc.errors import ClusterError
from l3hpc.schedulers.requeue_policy import Decision, Policy
from l3hpc.schedulers.slurm.commands import call, is_unreachable, on_cluster

HELPER_MIN = 10
WAIT_S = 300.0
_TIMEOUT_S = 60
_RETRY_S = (2.0, 5.0, 15.0, 30.0)
_POLL_S = 0.5
_STATE = re.compile(r"^[A-Z_]+$", re.MULTILINE)  # not a message of the site


def requeue(job: str, *, hold: bool) -> None:
    """Put a job back into the queue; Slurm ends the calling script soon after.

    Parameters
    ----------
    job
        ``12`` or ``13_4``.
    hold
        Whether it is held there until it is released.

    Raises
    ------
    ClusterError
        If Slurm refuses.
    """
    _scontrol(["requeuehold" if hold else "requeue", job])


def send_helper(job: str, changes: Sequence[str], policy: Policy, log: Path, name: str) -> None:
    """Submit the helper job that will change and release a job.

    Parameters
    ----------
    job
        ``12`` or ``13_4``.
    changes
        What ``arguments`` returned.
    policy
        The policy of the step, which has the helper's sbatch options and Python.
    log
        The log of the helper job.
    name
        The name of the helper job.

    Raises
    ------
    ClusterError
        If that is refused; the job then stays held until ``l3hpc resume``.
    """
    command = shlex.join([policy.python, "-m", __name__, job, *changes])
    call(["sbatch", "--parsable", f"--job-name={name}", *policy.helper_memory,
          f"--time={HELPER_MIN}", "--ntasks=1", f"--output={str(log).replace('%', '%%')}",
          "--open-mode=append", *policy.helper, "--wrap", command], timeout_s=_TIMEOUT_S)


def arguments(decision: Decision) -> list[str]:
    """Return the arguments of ``scontrol update`` for a decision.

    Parameters
    ----------
    decision
        What the job is to request.
    """
    changes = []
    if decision.mem_mb is not None:
        changes.append(f"MinMemoryNode={decision.mem_mb}")
    if decision.time_min is not None:
        changes.append(f"TimeLimit={decision.time_min}")
    if decision.exclude is not None:
        changes.append(f"ExcNodeList={decision.exclude}")
    return changes


def release(
    job: str, changes: Sequence[str], *, wait_s: float = WAIT_S, cluster: str = ""
) -> None:
    """Change the request of a job and release it, once it is pending.

    Parameters
    ----------
    job
        ``12`` or ``13_4``; the caller has checked that it is ours.
    changes
        What ``arguments`` returned.
    wait_s
        How long to wait for it to be pending, seconds.
    cluster
        As in ``jobs.JobId``.

    Raises
    ------
    ClusterError
        If it does not come back to the queue, or Slurm refuses the change; it then stays held.
    """
    end = time.monotonic() + wait_s
    while True:
        listed = call(on_cluster(["squeue", "--noheader", "--array", "--jobs", job, "--format",
                                  "%T"], cluster), timeout_s=_TIMEOUT_S)
        states = _STATE.findall(listed)
        if states and set(states) == {"PENDING"}:
            break
        if not states or time.monotonic() > end:
            raise ClusterError(f"job {job} did not come back to the queue within {wait_s:.0f} s "
                               f"(it is {', '.join(states) or 'gone'})")
        time.sleep(_POLL_S)
    if changes:
        _scontrol(["update", f"JobId={job}", *changes], cluster)
    _scontrol(["release", job], cluster)


def _scontrol(command: Sequence[str], cluster: str = "") -> None:
    """Call scontrol, again where its reply is lost."""
    for wait in (*_RETRY_S, None):
        try:
            call(on_cluster(["scontrol", *command], cluster), timeout_s=_TIMEOUT_S)
            return
        except ClusterError as error:
            # a second call changes nothing; a job that was requeued does not live to make it
            again = is_unreachable(error.message) or "try again" in error.message
            if wait is None or not again:
                raise
            time.sleep(wait)


def main(argv: Sequence[str]) -> int:
    """Run ``python -m l3hpc.schedulers.slurm.requeue JOB CHANGE…``: the helper job.

    Parameters
    ----------
    argv
        The job and the changes.

    Returns
    -------
    int
        Exit code.
    """
    try:
        release(argv[0], argv[1:])
    except ClusterError as error:
        print(f"l3hpc: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
