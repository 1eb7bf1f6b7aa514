"""Why Slurm says that a job waits: its reason codes in words, and which of them are holds."""

from __future__ import annotations

from l3hpc.schedulers.base import Hold, JobState

REASONS = {
    "Dependency": "waits for earlier steps",
    "DependencyNeverSatisfied": "an earlier step failed",
    "Priority": "other jobs have a higher priority",
    "Resources": "waits for free nodes",
    "None": "about to start",
    "BeginTime": "its start time has not come",
    "Licenses": "waits for a licence",
    "JobHeldUser": "held by its user",
    "JobHeldAdmin": "held by an administrator",
    "JobArrayTaskLimit": "as many array tasks run as the pipeline allows",
    "PartitionTimeLimit": "asks for more time than the partition allows",
    "PartitionNodeLimit": "asks for more nodes than the partition allows",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "NodeDown": "a node it needs is down",
    "ReqNodeNotAvail": "nodes it asks for are down, drained or reserved",
    "Reservation": "waits for its reservation",
    "QOSMaxJobsPerUserLimit": "you have as many running jobs as your QOS allows",
    "QOSMaxCpuPerUserLimit": "you use as many cores as your QOS allows",
    "QOSMaxGRESPerUser": "you use as many GPUs as your QOS allows",
    "QOSGrpCpuLimit": "your QOS has no more cores now",
    "AssocGrpCpuLimit": "your account has no more cores now",
    "AssocGrpGRES": "your account has no more GPUs now",
    "AssocMaxJobsLimit": "you have as many running jobs as your account allows",
    "AssocGrpCPUMinutesLimit": "your account has used its core hours",
    "InvalidAccount": "the account is not valid",
    "InvalidQOS": "the QOS is not valid",
    "job requeued in held state": "held after a requeue",
    "JobHoldMaxRequeue": "held after too many requeues",
    "launch failed requeued held": "could not start on its node, and is held",
    "BadConstraints": "no node has what it asks for",
}

_HOLDS = {
    "JobHeldUser": Hold.USER,
    "job requeued in held state": Hold.REQUEUED,
    "JobHoldMaxRequeue": Hold.REQUEUED,
    "launch failed requeued held": Hold.LAUNCH,  # a failing Prolog, say
    "JobHeldAdmin": Hold.ADMINISTRATOR,
}


def in_words(code: str) -> str:
    """Slurm's reason for a pending job in words, with its own word where it is not known."""
    plain = code.strip("() ")
    known = REASONS.get(plain) or REASONS.get(plain.split(",")[0])
    return f"{known} ({plain})" if known and plain not in ("None",) else known or plain


def hold(state: JobState, code: str) -> Hold | None:
    """Why a job is held; None where it is not (or has still to end before)."""
    return _HOLDS.get(code) if state.is_waiting else None
