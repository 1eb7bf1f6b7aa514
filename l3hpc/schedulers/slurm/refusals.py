"""What a refusal of sbatch means: whether waiting helps, and what to do about it.

A full queue is waited for. An array that is larger than the limit can never be submitted, however
long one waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from l3hpc.config.profile import ClusterProfile
from l3hpc.errors import ClusterError, command_line
from l3hpc.io.owners import current_user
from l3hpc.schedulers.requests import DependencyGoneError, QueueFullError
from l3hpc.schedulers.slurm import queue
from l3hpc.schedulers.slurm.commands import call

SACCTMGR_S = 20.0
_FULL = ("AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit", "MaxSubmitJobsPerUser",
         "QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerAccountLimit",
         "MaxSubmitJobsPerAccount", "QOSGrpSubmitJobsLimit")
_DEPENDENCY = "Job dependency problem"


def classify(error: ClusterError) -> ClusterError:
    """Turn a refusal of sbatch into the error that says what can be done: wait, check again, or
    nothing.

    Parameters
    ----------
    error
        The refusal.

    Returns
    -------
    ClusterError
        A ``QueueFullError``, a ``DependencyGoneError``, or the same error with a hint.
    """
    hint = error.hint or hint_for(error.message)
    if any(word in error.message for word in _FULL):
        return QueueFullError(error.message, hint=hint)
    if _DEPENDENCY in error.message:
        return DependencyGoneError(error.message, hint=hint)
    error.hint = hint
    return error


def hint_for(message: str) -> str:
    """Return what to do about a refusal of sbatch.

    Parameters
    ----------
    message
        What sbatch printed.
    """
    hints = {
        "invalid partition": "Set partition: in the profile (cluster.yaml) to one that `sinfo` "
                             "lists.",
        "invalid account": "Set account: in the profile (cluster.yaml) to one of yours: "
                           "sacctmgr show associations user=$USER",
        "invalid qos": "Set qos: in the profile (cluster.yaml).",
        "node configuration is not available": "No node has all of these resources: request less "
                                               "with --set STEP.mem=…, STEP.cpus=… or STEP.gpus=…, "
                                               "or check gpu_type: and constraint: in the profile "
                                               "(sinfo -o '%P %G %f').",
        "job dependency problem": "Check the jobs that it depends on with "
                                  f"{command_line('status')}; then {command_line('resume')}.",
        "time limit": "Request less time with --set STEP.time=…, or set another partition.",
        "gres": "Set gpu_request: and gpu_type: in the profile (cluster.yaml).",
        "invalid job array": "Set limits.array in cluster.yaml to MaxArraySize "
                             "(scontrol show config).",
        "memory specification": "Set memory_request: in the profile (cluster.yaml).",
    }
    lowered = message.lower()
    for part, hint in hints.items():
        if part in lowered:
            return hint
    return (f"Check the profile in cluster.yaml: {command_line('config', 'show')}; "
            + command_line("doctor"))


@dataclass(frozen=True)
class _Limit:
    """A limit by Slurm's name for it. table, column: where sacctmgr shows it. own: whether only the
    jobs of this user count.
    """

    word: str
    table: str
    column: str
    own: bool


_LIMITS = (
    _Limit("AssocMaxSubmitJobLimit", "associations", "maxsubmitjobs", True),
    _Limit("AssocGrpSubmitJobsLimit", "associations", "grpsubmitjobs", False),
    _Limit("QOSMaxSubmitJobPerUserLimit", "qos", "maxsubmitjobsperuser", True),
    _Limit("MaxSubmitJobsPerUser", "qos", "maxsubmitjobsperuser", True),
    _Limit("QOSMaxSubmitJobPerAccountLimit", "qos", "maxsubmitjobsperaccount", False),
    _Limit("MaxSubmitJobsPerAccount", "qos", "maxsubmitjobsperaccount", False),
    _Limit("QOSGrpSubmitJobsLimit", "qos", "grpsubmitjobs", False),
)


def check_fits(profile: ClusterProfile, kind: str, jobs: int, error: ClusterError, *,
               again: bool) -> None:
    """Check that a request can ever be submitted under a limit that was reached.

    Parameters
    ----------
    profile
        The cluster profile.
    kind
        Kind of the step.
    jobs
        Number of tasks of the array; 1 for a job.
    error
        The refusal.
    again
        Whether there was such a refusal before. Only then an empty queue counts as evidence: at the
        first one a job may just have left it.

    Raises
    ------
    ClusterError
        If it cannot; states the limit, if sacctmgr shows it.
    """
    limit = next(one for one in _LIMITS if one.word in error.message)
    most = _most(profile, kind, limit)
    what = f"an array of {jobs:,} tasks can never be submitted" if jobs > 1 \
        else "no job can be submitted"
    hint = "Ask your site for a higher limit." if jobs == 1 else (
        f"limits: {{array: {most or 'N'}}} in the profile (cluster.yaml) splits the array; each "
        "part is submitted when there is room.")
    if most is not None and jobs > most:
        raise ClusterError(f"{what}: at most {most:,} job{'s' * (most != 1)} may be pending or "
                           f"running at once ({limit.word})", hint=hint)
    if most is None and limit.own and again and not _own_jobs(profile.slurm_clusters):
        raise ClusterError(f"{what}: you have no pending or running job, and Slurm still refuses "
                           f"it ({limit.word})", hint=hint)


def _own_jobs(clusters: str) -> bool:
    """Whether this user has any job that counts; True if that cannot be determined."""
    answer = queue.Answer()
    queue.query_squeue([current_user()], answer, clusters)
    return answer.squeue is False or bool(answer.live)


def _most(profile: ClusterProfile, kind: str, limit: _Limit) -> int | None:
    """The highest limit of this kind that can apply; None if that is not known for certain."""
    over = profile.at(kind)
    if limit.table == "qos":
        name = over.qos or profile.qos
        which = [name] if name else []
        rows = _rows(["qos", *which], f"format=name,{limit.column}")
    else:
        where = [f"cluster={clusters}"] if (clusters := profile.slurm_clusters) else []
        rows = _rows(["associations", f"user={current_user()}", *where],
                     f"format=account,{limit.column}")
        if profile.account:
            rows = [row for row in rows if row[0] == profile.account]
    numbers = [_number(row[1]) for row in rows if len(row) > 1]
    limits = [number for number in numbers if number is not None]
    # several rows: it is not known which of them Slurm applies, so the highest counts, and none if
    # one row has no limit
    return max(limits) if limits and len(limits) == len(numbers) else None


def _rows(what: Iterable[str], columns: str) -> list[list[str]]:
    try:
        text = call(["sacctmgr", "--noheader", "--parsable2", "show", *what, columns],
                    timeout_s=SACCTMGR_S)
    except ClusterError:
        return []
    return [line.split("|") for line in text.splitlines() if line.strip()]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d+", text.strip()) else None
