"""What a refusal of sbatch means: whether to wait, what to do about it, and whether waiting helps.

A full queue is waited for. An array that is larger than the limit never fits, however long one
waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from l3hpc.config.profile import ClusterProfile
from l3hpc.errors import ClusterError
from l3hpc.io.files import current_user
from l3hpc.schedulers.base import DependencyGoneError, QueueFullError
from l3hpc.schedulers.slurm import queue
from l3hpc.schedulers.slurm.commands import call

TIMEOUT_S = 20.0


_FULL = ("AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit", "MaxSubmitJobsPerUser",
         "QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerAccountLimit",
         "MaxSubmitJobsPerAccount", "QOSGrpSubmitJobsLimit")
_DEPENDENCY = "Job dependency problem"


def classified(error: ClusterError) -> ClusterError:
    """A refusal of sbatch as the error that says what can be done: wait, look again, or nothing."""
    hint = error.hint or hint_for(error.message)
    if any(word in error.message for word in _FULL):
        return QueueFullError(error.message, hint=hint)
    if _DEPENDENCY in error.message:
        return DependencyGoneError(error.message, hint=hint)
    error.hint = hint
    return error


def hint_for(words: str) -> str:
    """What to do about a refusal of sbatch, where that can be told from its words."""
    hints = {
        "invalid partition": "Set partition: of the profile in cluster.yaml; `sinfo` lists them.",
        "invalid account": "Set account: of the profile in cluster.yaml to one of yours: "
                           "sacctmgr show associations user=$USER",
        "invalid qos": "Set qos: of the profile in cluster.yaml.",
        "node configuration is not available": "No node has all of that: ask for less with --set "
                                               "STEP.mem=…, STEP.cpus=… or STEP.gpus=…, or look at "
                                               "gpu_type: and constraint: (sinfo -o '%P %G %f').",
        "job dependency problem": "Look at what it waits for: l3hpc status; then l3hpc resume.",
        "time limit": "Ask for less time with --set STEP.time=…, or another partition.",
        "gres": "Set gpu_request: and gpu_type: of the profile in cluster.yaml.",
        "invalid job array": "Set limits.array in cluster.yaml to MaxArraySize "
                             "(scontrol show config).",
        "memory specification": "Set memory_request: of the profile in cluster.yaml.",
    }
    lowered = words.lower()
    for part, hint in hints.items():
        if part in lowered:
            return hint
    return "Check the profile in cluster.yaml: l3hpc config show; l3hpc doctor"


@dataclass(frozen=True)
class _Limit:
    """A limit by Slurm's word for it. table, columns: where sacctmgr shows it. own: whether only
    this person's jobs count."""

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
    """Raise ``ClusterError`` where so many jobs at once never fit: with the number, where sacctmgr
    tells it.

    Parameters
    ----------
    kind : str
        Of the step.
    jobs : int
        Tasks of the array; 1 for a job.
    error : ClusterError
        What sbatch said of the limit.
    again : bool
        Whether it said so before. Only then an empty queue counts: a job may just have left it.
    """
    limit = next(one for one in _LIMITS if one.word in error.message)
    most = _most(profile, kind, limit)
    what = f"{jobs:,} array tasks can never fit" if jobs > 1 else "no job can be submitted"
    hint = "Ask your site for a higher limit." if jobs == 1 else (
        f"limits: {{array: {most or 'N'}}} of the profile in cluster.yaml splits the array; each "
        "part is submitted when there is room.")
    if most is not None and jobs > most:
        raise ClusterError(f"{what}: at most {most:,} job{'s' * (most != 1)} may wait or run at "
                           f"once ({limit.word})", hint=hint)
    if most is None and limit.own and again and not _own_jobs(profile.slurm_clusters):
        raise ClusterError(f"{what}: none of your jobs waits or runs, and Slurm refuses it all the "
                           f"same ({limit.word})", hint=hint)


def _own_jobs(clusters: str) -> bool:
    """Whether this person has any job that counts; True where nobody can say."""
    answer = queue.Answer()
    queue.ask_squeue([current_user()], answer, clusters)
    return answer.squeue is False or bool(answer.live)


def _most(profile: ClusterProfile, kind: str, limit: _Limit) -> int | None:
    """The highest limit of this kind that can apply; None where that is not known for certain."""
    over = profile.at(kind)
    if limit.table == "qos":
        name = over.qos or profile.qos
        which = [name] if name else []
        rows = _rows(["qos", *which], f"format=name,{limit.column}")
    else:
        there = [f"cluster={clusters}"] if (clusters := profile.slurm_clusters) else []
        rows = _rows(["associations", f"user={current_user()}", *there],
                     f"format=account,{limit.column}")
        if profile.account:
            rows = [row for row in rows if row[0] == profile.account]
    numbers = [_number(row[1]) for row in rows if len(row) > 1]
    known = [number for number in numbers if number is not None]
    return max(known) if known and len(known) == len(numbers) else None


def _rows(what: Iterable[str], wanted: str) -> list[list[str]]:
    try:
        text = call(["sacctmgr", "--noheader", "--parsable2", "show", *what, wanted],
                    timeout_s=TIMEOUT_S)
    except ClusterError:
        return []
    return [line.split("|") for line in text.splitlines() if line.strip()]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d+", text.strip()) else None
