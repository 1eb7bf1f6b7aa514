"""The output of squeue and sacct as jobs, and Slurm's reasons in plain English."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import datetime

from l3hpc.console.formatting import parse_slurm_time
from l3hpc.schedulers.jobs import EndedJob, Hold, LiveJob
from l3hpc.schedulers.slurm.commands import is_several
from l3hpc.schedulers.slurm.identity import Origin
from l3hpc.workspace.states import JobState

_REASONS = {
    "Dependency": "waiting for earlier steps",
    "DependencyNeverSatisfied": "an earlier step failed",
    "Priority": "other jobs have a higher priority",
    "Resources": "waiting for free nodes",
    "None": "about to start",
    "BeginTime": "its start time has not been reached",
    "Licenses": "waiting for a licence",
    "JobHeldUser": "held by its user",
    "JobHeldAdmin": "held by an administrator",
    "JobArrayTaskLimit": "as many array tasks are running as the profile allows",
    "PartitionTimeLimit": "requests more time than the partition allows",
    "PartitionNodeLimit": "requests more nodes than the partition allows",
    "PartitionConfig": "no node of the partition has the requested resources",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "NodeDown": "a node it needs is down",
    "ReqNodeNotAvail": "requested nodes are down, drained or reserved",
    "Reservation": "waiting for its reservation",
    "QOSMaxJobsPerUserLimit": "you have as many running jobs as your QOS allows",
    "QOSMaxCpuPerUserLimit": "you use as many cores as your QOS allows",
    "QOSMaxGRESPerUser": "you use as many GPUs as your QOS allows",
    "QOSGrpCpuLimit": "all cores of your QOS are in use",
    "AssocGrpCpuLimit": "all cores of your account are in use",
    "AssocGrpGRES": "all GPUs of your account are in use",
    "AssocMaxJobsLimit": "you have as many running jobs as your account allows",
    "AssocGrpCPUMinutesLimit": "your account has used its core hours",
    "InvalidAccount": "the account is not valid",
    "InvalidQOS": "the QOS is not valid",
    "job requeued in held state": "held after a requeue",
    "JobHoldMaxRequeue": "held after too many requeues",
    "launch failed requeued held": "held because it could not start on its node",
    "BadConstraints": "no node has the requested resources",
}

_HOLDS = {
    "JobHeldUser": Hold.USER,
    "job requeued in held state": Hold.REQUEUED,
    "JobHoldMaxRequeue": Hold.REQUEUED,
    "launch failed requeued held": Hold.LAUNCH,  # a failing Prolog, say
    "JobHeldAdmin": Hold.ADMINISTRATOR,
}

MAX_TASKS = 4_000_001  # the largest MaxArraySize that Slurm accepts
WIDTHS = {"JobArrayID": 40, "State": 24, "Reason": 60, "TimeUsed": 20, "StartTime": 24,
          "RestartCnt": 12, "TimeLimit": 20, "exit_code": 16, "NodeList": 64, "Cluster": 40,
          "SubmitTime": 24}
WHOLE = ("Name", "Command", "STDOUT")  # columns of any length, after those of fixed width
END = "\x1f"  # ends each of these
_JOB = re.compile(r"\d+([_+]\S+)?")
_SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?(?::(\d{1,9}))?")
_UNKNOWN = ("(null)", "N/A", "n/a", "None", "Unknown")
_COLUMNS = {name: slice(end - width, end) for (name, width), end in zip(
    WIDTHS.items(), itertools.accumulate(WIDTHS.values()), strict=True)}


def reason_text(code: str) -> str:
    """Explain why a job is pending.

    Parameters
    ----------
    code
        Slurm's reason code.

    Returns
    -------
    str
        Plain English with the code in parentheses; the code alone if it is not known.
    """
    plain = code.strip()
    # not strip("()"): a reason may end in a parenthesis of its own, as RaisedSignal:9(Killed) does,
    # and squeue cuts long ones, with the last parenthesis
    if plain.startswith("("):
        plain = plain[1:]
        plain = (plain.removesuffix(")") if plain.count(")") > plain.count("(") else plain).strip()
    text = _REASONS.get(plain) or _REASONS.get(plain.split(",")[0])
    return f"{text} ({plain})" if text and plain != "None" else text or plain


def hold_of(state: JobState, code: str) -> Hold | None:
    """Return why a job is held.

    Parameters
    ----------
    state
        Its state.
    code
        Slurm's reason code.

    Returns
    -------
    Hold or None
        None if it is not held, or is still running.
    """
    return _HOLDS.get(code) if state.is_waiting else None


@dataclass(frozen=True)
class QueuedJob(LiveJob):
    """A job or array task that squeue lists.

    Attributes
    ----------
    reason_code : str
        Slurm's code for why it is pending.
    origin : Origin
        Where it comes from.
    """

    reason_code: str = ""
    origin: Origin = Origin()


@dataclass(frozen=True)
class AccountedJob(EndedJob):
    """A job or array task that sacct remembers, or that squeue still lists after its end.

    Attributes
    ----------
    origin : Origin
        Where it comes from.
    """

    origin: Origin = Origin()


def parse_squeue(
    text: str, cluster: str = ""
) -> tuple[list[tuple[str, QueuedJob]], list[tuple[str, AccountedJob]]]:
    """Parse the output of ``squeue_command``.

    Parameters
    ----------
    text
        The output.
    cluster
        The cluster that was queried.

    Returns
    -------
    tuple
        Live and ended jobs, each with its task id.
    """
    jobs: list[tuple[str, QueuedJob]] = []
    over: list[tuple[str, AccountedJob]] = []
    # not splitlines: it also cuts at characters such as \x1e and \x85, which a job's name may
    # contain
    for line in text.split("\n"):
        values = {name: line[column].strip() for name, column in _COLUMNS.items()}
        # a heading, or a message of the site
        if not _JOB.fullmatch(values["JobArrayID"]):
            continue
        rest = [_value(word) for word in line[_COLUMNS["SubmitTime"].stop:].split(END)]
        name, script, output = (*rest, "", "", "")[:3]
        at = _value(values["Cluster"])
        origin = Origin(at, script, name, output, submitted=_unix_time(values["SubmitTime"]),
                        queried=at if is_several(cluster) else cluster)
        state, why = JobState(values["State"]), values["Reason"]
        if state.is_terminal:
            code = _exit_code(values["exit_code"])
            ended = AccountedJob(state, code, parse_slurm_time(values["TimeUsed"]),
                                 values["NodeList"], origin)
            over += [(job, ended) for job in expand(values["JobArrayID"])]
            continue
        live = QueuedJob(
            state, reason_text(why), parse_slurm_time(values["TimeUsed"]),
            start=_unix_time(values["StartTime"]), limit_s=parse_slurm_time(values["TimeLimit"]),
            restarts=int(values["RestartCnt"]) if values["RestartCnt"].isdigit() else 0,
            waits_for_jobs=why.startswith("Dependency"),
            dependency_failed="DependencyNeverSatisfied" in why,
            hold=hold_of(state, why), reason_code=why, origin=origin)
        jobs += [(job, live) for job in expand(values["JobArrayID"])]
    return jobs, over


def parse_sacct(text: str) -> list[tuple[str, AccountedJob]]:
    """Parse the output of ``sacct_command``.

    A job name may contain the separator. It then spills into the submit line, of which only the end
    matters.

    Parameters
    ----------
    text
        The output.

    Returns
    -------
    list of (str, AccountedJob)
        Task ids and jobs.
    """
    jobs = []
    for line in text.split("\n"):
        parts = line.split("|", 8)
        # a step of a job (12.batch), or a message of the site
        if len(parts) < 5 or "." in parts[0] or not parts[0][:1].isdigit():
            continue
        state = JobState(parts[1].split(" ")[0].rstrip("+"))  # "CANCELLED by 1000"
        elapsed = float(parts[3]) if parts[3].isdigit() else None
        cluster, submitted, name, submit_line = (*parts[5:], "", "", "", "")[:4]
        origin = Origin(_value(cluster), name=name, line=_value(submit_line),
                        submitted=_unix_time(submitted))
        ended = AccountedJob(state, _exit_code(parts[2]), elapsed, parts[4], origin)
        jobs += [(job, ended) for job in expand(parts[0])]
    return jobs


def _value(word: str) -> str:
    return "" if word.strip() in _UNKNOWN else word


def expand(job: str) -> list[str]:
    """Expand the id of a pending array into those of its tasks.

    A list that Slurm has truncated (``13_[0,2,4...]``) counts as far as it is certain: its last
    number may have lost digits. One that no Slurm can mean (garbled, or more tasks than an array
    may have) is returned as it is.

    Parameters
    ----------
    job
        An id as squeue or sacct prints it.

    Examples
    --------
    >>> expand("13_[0-2,5%2]")
    ['13_0', '13_1', '13_2', '13_5']
    >>> expand("12")
    ['12']
    """
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(\.\.\.)?(%\d+)?\]", job)
    if match is None:
        return [job]
    indices: list[range] = []
    parts = match[2].strip(",").split(",")
    for part in parts[:-1] if match[3] else parts:
        span = _SPAN.fullmatch(part)
        if span is None or span[3] and not int(span[3]):
            return [job]
        indices.append(range(int(span[1]), int(span[2] or span[1]) + 1, int(span[3] or 1)))
    if indices and max(each.stop for each in indices) > MAX_TASKS \
            or sum(map(len, indices)) > MAX_TASKS:
        return [job]
    return [f"{match[1]}_{index}" for each in indices for index in each]


def _exit_code(text: str) -> int | None:
    """Convert sacct's ``code:signal`` to a shell's exit code; squeue prints the whole wait status.
    """
    code, colon, number = text.partition(":")
    if not code.isdigit():
        return None
    if colon:
        return 128 + int(number) if number.isdigit() and int(number) else int(code)
    status = int(code)
    return status >> 8 if status >= 256 else 128 + status if status else 0


def _unix_time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
