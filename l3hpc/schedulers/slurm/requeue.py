"""The calls to Slurm: put a job back and hold it, then, once it waits, ask for more and let it go.

A job cannot change its own request: requeueing ends its script at once, and only a pending job can
be given more memory. So a tiny helper job does it; where jobs may not submit jobs, the task stays
held until ``l3hpc resume`` does the same two calls. The scripts of this version do all of it in
bash; these are for ``resume``, and for scripts of versions before.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from l3hpc.errors import ClusterError
from l3hpc.schedulers.requeue_policy import Decision, Policy
from l3hpc.schedulers.slurm.commands import call, not_reached, on_cluster

TIMEOUT_S = 60
HELPER_MIN = 10
WAIT_S = 300.0
RETRY_S = (2.0, 5.0, 15.0, 30.0)


def put_back(job: str, *, hold: bool) -> None:
    """Send ``job`` (``12`` or ``13_4``) back to the queue; Slurm ends the calling script soon
    after. Raises ``ClusterError`` where Slurm refuses."""
    _scontrol(["requeuehold" if hold else "requeue", job])


def send_helper(job: str, changes: Sequence[str], policy: Policy, log: Path, name: str) -> None:
    """Submit the helper job that will change ``job`` and let it go. Raises ``ClusterError`` where
    that is refused; then the job stays held until ``l3hpc resume``."""
    command = shlex.join([policy.python, "-m", "l3hpc.schedulers.slurm.requeue", job, *changes])
    call(["sbatch", "--parsable", f"--job-name={name}", *policy.helper_memory,
          f"--time={HELPER_MIN}", "--ntasks=1", f"--output={str(log).replace('%', '%%')}",
          "--open-mode=append", *policy.helper, "--wrap", command], timeout_s=TIMEOUT_S)


def arguments(decision: Decision) -> list[str]:
    """What ``scontrol update`` is to change for this decision."""
    words = []
    if decision.mem_mb is not None:
        words.append(f"MinMemoryNode={decision.mem_mb}")
    if decision.time_min is not None:
        words.append(f"TimeLimit={decision.time_min}")
    if decision.exclude is not None:
        words.append(f"ExcNodeList={decision.exclude}")
    return words


def release(
    job: str, changes: Sequence[str], *, wait_s: float = WAIT_S, cluster: str = ""
) -> None:
    """Once ``job`` is pending: change its request and let it go.

    cluster: as in ``identity.JobId``. The caller knows that the job is ours.
    Raises ``ClusterError`` where it does not come back to the queue, or Slurm refuses the change;
    then it is left held, with the reason in the helper's log.
    """
    end = time.monotonic() + wait_s
    while True:
        states = call(on_cluster(["squeue", "--noheader", "--array", "--jobs", job, "--format",
                                  "%T"], cluster), timeout_s=TIMEOUT_S).split()
        if states and set(states) == {"PENDING"}:
            break
        if not states or time.monotonic() > end:
            raise ClusterError(f"job {job} did not come back to the queue within {wait_s:.0f} s "
                               f"(it is {', '.join(states) or 'gone'})")
        time.sleep(0.5)
    if changes:
        _scontrol(["update", f"JobId={job}", *changes], cluster)
    _scontrol(["release", job], cluster)


def _scontrol(words: Sequence[str], cluster: str = "") -> None:
    """Where Slurm does not say what it did it is asked again: a second time changes nothing. (A job
    that was put back does not live to ask twice.)"""
    for wait in (*RETRY_S, None):
        try:
            call(on_cluster(["scontrol", *words], cluster), timeout_s=TIMEOUT_S)
            return
        except ClusterError as error:
            if wait is None or not not_reached(error.message):
                raise
            time.sleep(wait)


def main(words: Sequence[str]) -> int:
    """``python -m l3hpc.schedulers.slurm.requeue JOB CHANGE…``: the helper job."""
    try:
        release(words[0], words[1:])
    except ClusterError as error:
        print(f"l3hpc: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
