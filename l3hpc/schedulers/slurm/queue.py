"""Why Slurm says that a job waits: its reason codes in words, and which of them are holds.

What Slurm says of our jobs: one squeue and at most one sacct for each cluster of the site.

Both may be missing, slow or broken; then the answer says so and status lives on markers alone.
``Answer`` holds all jobs that were listed, ``Answer.of`` those of them that are ours: a job id
alone is no identity (see ``identity``).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from l3hpc.console.formatting import parse_slurm_time
from l3hpc.errors import ClusterError
from l3hpc.schedulers.base import EndedJob, Hold, JobState, LiveJob, StepJobs
from l3hpc.schedulers.slurm.commands import call, on_cluster, several
from l3hpc.schedulers.slurm.identity import Identity, Origin

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
SQUEUE_S = 20.0
SACCT_S = 20.0
MAX_IDS_LENGTH = 100_000
MOST_TASKS = 4_000_001  # the largest MaxArraySize that Slurm takes
_JOB = re.compile(r"\d+([_+]\S+)?")
_SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?(?::(\d{1,9}))?")
_WIDTHS = {"JobArrayID": 40, "State": 24, "Reason": 60, "TimeUsed": 20, "StartTime": 24,
           "RestartCnt": 12, "TimeLimit": 20, "exit_code": 16, "NodeList": 64, "Cluster": 40,
           "SubmitTime": 24}
_END = "\x1f"  # after each of the columns that may be of any length; width 0 prints them whole
_WHOLE = ("Name", "Command", "STDOUT")
_ACCOUNTED = "JobID,State,ExitCode,ElapsedRaw,NodeList,Cluster,Submit,JobName,SubmitLine"
_UNKNOWN = ("(null)", "N/A", "n/a", "None", "Unknown")
_PLACES = {name: slice(end - width, end) for (name, width), end in zip(
    _WIDTHS.items(), itertools.accumulate(_WIDTHS.values()), strict=True)}


def in_words(code: str) -> str:
    """Slurm's reason for a pending job in words, with its own word where it is not known."""
    plain = code.strip("() ")
    known = REASONS.get(plain) or REASONS.get(plain.split(",")[0])
    return f"{known} ({plain})" if known and plain not in ("None",) else known or plain


def hold(state: JobState, code: str) -> Hold | None:
    """Why a job is held; None where it is not (or has still to end before)."""
    return _HOLDS.get(code) if state.is_waiting else None


@dataclass(frozen=True)
class QueuedJob(LiveJob):
    """A job or array task that squeue lists. reason: Slurm's word for why it waits."""

    reason: str = ""
    origin: Origin = Origin()


@dataclass(frozen=True)
class AccountedJob(EndedJob):
    """A job or array task that sacct remembers, or that squeue still shows after its end."""

    origin: Origin = Origin()


Job = TypeVar("Job", QueuedJob, AccountedJob)


@dataclass
class Answer:
    """live, ended: by task id, every job that was listed under it, on whatever cluster and whoever
    submitted it. squeue, sacct: whether they answered (None: not asked). notes: why not, in words.
    silent: clusters whose squeue did not answer ('' for the default one)."""

    live: dict[str, list[QueuedJob]] = field(default_factory=dict)
    ended: dict[str, list[AccountedJob]] = field(default_factory=dict)
    squeue: bool | None = None
    sacct: bool | None = None
    notes: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)

    def add(self, other: Answer) -> None:
        """Take over what another cluster answered."""
        for task, live in other.live.items():
            self.live.setdefault(task, []).extend(live)
        for task, ended in other.ended.items():
            self.ended.setdefault(task, []).extend(ended)
        if other.squeue is not None:
            self.squeue = other.squeue and self.squeue is not False
        self.notes += other.notes
        self.silent |= other.silent

    def of(self, ids: Mapping[str, Identity]) -> StepJobs:
        """What of it are these jobs (task id → identity)."""
        live, ended = dict[str, LiveJob](), dict[str, EndedJob]()
        for task, job in ids.items():
            if (waiting := _ours(self.live, task, job)) is not None:
                live[task] = waiting
            if (over := _ours(self.ended, task, job)) is not None:
                ended[task] = over
        silent = self.squeue is False
        if self.silent:
            silent = any(job.cluster in self.silent for job in ids.values())
        return StepJobs(live, ended, self.squeue is not None, "squeue" if silent else "")

    def submitted_with(self, wanted: Identity
                       ) -> dict[tuple[str, str], list[QueuedJob | AccountedJob]]:
        """(cluster to query, base id) → its tasks, of the jobs submitted with one script. Of any
        other job, and of one of which Slurm shows neither script nor log, nothing is known."""
        found: dict[tuple[str, str], list[QueuedJob | AccountedJob]] = {}
        for jobs in (self.live, self.ended):
            for task, seen in jobs.items():
                for job in seen:
                    shown = job.origin.script or job.origin.line or job.origin.output
                    if shown and wanted.owns(job.origin):
                        place = (job.origin.asked, task.partition("_")[0])
                        found.setdefault(place, []).append(job)
        return found


def _ours(jobs: Mapping[str, list[Job]], task: str, job: Identity) -> Job | None:
    """Of the jobs of one id the one that is ``job``; of several attempts the last."""
    found = [seen for seen in jobs.get(task, ()) if job.owns(seen.origin)]
    return max(found, key=lambda seen: seen.origin.submitted or 0.0, default=None)


def squeue_command(users: Iterable[str], cluster: str = "") -> list[str]:
    """What ``status`` asks squeue, and ``doctor`` tries: every job of these users."""
    fields = [f"{name}:{width}" for name, width in _WIDTHS.items()]
    fields += [f"{name}:0{_END}" for name in _WHOLE]
    return on_cluster(["squeue", "--noheader", "--array", "--states=all",
                       "--user", ",".join(sorted(set(users))), "--Format", ",".join(fields)],
                      cluster)


def sacct_command(
    jobs: Iterable[str], *, users: Iterable[str] = (), since: float = 0.0, cluster: str = "",
    fields: str = _ACCOUNTED,
) -> list[str]:
    """What ``status`` asks sacct, and ``doctor`` tries: these base ids, every attempt of them.

    users, since (unix seconds): asked for instead where the ids do not fit on a command line. Only
    options that 22.05 and later take: not ``--array``, without which pending array tasks come as
    ``13_[0-2]`` (see ``expand``). ``--duplicates``: the attempts before a requeue, and jobs that
    had the id before Slurm began to count again.
    """
    which = ["--jobs", ",".join(sorted(set(jobs), key=lambda job: (len(job), job)))]
    if len(which[1]) > MAX_IDS_LENGTH:
        start = datetime.fromtimestamp(since).isoformat(timespec="seconds")
        which = ["--user", ",".join(sorted(set(users))), "--starttime", start]
    return on_cluster(["sacct", "--noheader", "--allocations", "--parsable2", "--duplicates",
                       *which, "--format", fields], cluster)


def ask_squeue(users: Iterable[str], answer: Answer, cluster: str = "") -> None:
    """Add every job of ``users`` that waits or runs, and those that ended so recently that Slurm
    still knows them (MinJobAge), which helps where there is no accounting. One call."""
    try:
        text = call(squeue_command(users, cluster), timeout_s=SQUEUE_S)
    except ClusterError as error:
        answer.squeue = False
        answer.silent.add(cluster)
        answer.notes.append(error.message + (f" (cluster {cluster})" if cluster else ""))
        return
    answer.squeue = answer.squeue is not False
    live, ended = parse_squeue(text, cluster)
    for task, job in live:
        answer.live.setdefault(task, []).append(job)
    for task, over in ended:
        answer.ended.setdefault(task, []).append(over)


def ask(user: str, clusters: Iterable[str]) -> Answer:
    """What squeue of each of these clusters says; a ``ClusterError`` where one does not answer."""
    answer = Answer()
    for cluster in sorted(clusters):
        ask_squeue([user], answer, cluster)
    if not answer.squeue:
        raise ClusterError(answer.notes[0], hint="Try again when Slurm answers.")
    return answer


def ask_sacct(
    jobs: Iterable[str], answer: Answer, *, users: Iterable[str] = (), since: float = 0.0,
    cluster: str = "",
) -> None:
    """Add what accounting remembers of these base ids. One call; none for no ids.

    users, since: as in ``sacct_command``.
    """
    wanted = set(jobs)
    if not wanted:
        return
    try:
        text = _sacct(wanted, users, since, cluster)
    except ClusterError as error:
        answer.sacct = False
        answer.notes.append(error.message + (f" (cluster {cluster})" if cluster else ""))
        return
    answer.sacct = answer.sacct is not False
    for task, job in parse_sacct(text):
        answer.ended.setdefault(task, []).append(job)


def _sacct(jobs: set[str], users: Iterable[str], since: float, cluster: str) -> str:
    try:
        return call(sacct_command(jobs, users=users, since=since, cluster=cluster),
                    timeout_s=SACCT_S)
    except ClusterError as error:
        if "SubmitLine" not in error.message:  # it came with 21.08
            raise
        fields = _ACCOUNTED.removesuffix(",SubmitLine")
        return call(sacct_command(jobs, users=users, since=since, cluster=cluster, fields=fields),
                    timeout_s=SACCT_S)


def ask_history(ids: Mapping[str, Identity]) -> list[tuple[str, EndedJob]] | None:
    """Every attempt, requeued ones too, of these jobs (task id → identity): (task id, how it
    ended); None where accounting does not answer. One call for each cluster."""
    clusters: dict[str, set[str]] = {}
    for job in ids.values():
        clusters.setdefault(job.cluster, set()).add(job.base)
    answer = Answer()
    for cluster, jobs in clusters.items():
        ask_sacct(jobs, answer, cluster=cluster)
    if answer.sacct is False:
        return None
    return [(task, ended) for task, seen in answer.ended.items() if task in ids
            for ended in seen if ids[task].owns(ended.origin)]


def parse_squeue(
    text: str, cluster: str = ""
) -> tuple[list[tuple[str, QueuedJob]], list[tuple[str, AccountedJob]]]:
    """The lines of ``squeue_command``, each with its task id: what lives, what ended."""
    jobs: list[tuple[str, QueuedJob]] = []
    over: list[tuple[str, AccountedJob]] = []
    for line in text.split("\n"):
        values = {name: line[place].strip() for name, place in _PLACES.items()}
        if not _JOB.fullmatch(values["JobArrayID"]):  # a heading, a site's greeting
            continue
        rest = [_known(word) for word in line[_PLACES["SubmitTime"].stop:].split(_END)]
        name, script, output = (*rest, "", "", "")[:3]
        at = _known(values["Cluster"])
        origin = Origin(at, script, name, output, submitted=_moment(values["SubmitTime"]),
                        asked=at if several(cluster) else cluster)
        state, why = JobState(values["State"]), values["Reason"]
        if state.is_terminal:
            code = _exit_code(values["exit_code"])
            ended = AccountedJob(state, code, parse_slurm_time(values["TimeUsed"]),
                                 values["NodeList"], origin)
            over += [(job, ended) for job in expand(values["JobArrayID"])]
            continue
        live = QueuedJob(
            state, in_words(why), parse_slurm_time(values["TimeUsed"]),
            start=_moment(values["StartTime"]), limit_s=parse_slurm_time(values["TimeLimit"]),
            restarts=int(values["RestartCnt"]) if values["RestartCnt"].isdigit() else 0,
            after_others=why.startswith("Dependency"), never="DependencyNeverSatisfied" in why,
            hold=hold(state, why), reason=why, origin=origin)
        jobs += [(job, live) for job in expand(values["JobArrayID"])]
    return jobs, over


def parse_sacct(text: str) -> list[tuple[str, AccountedJob]]:
    """The lines of ``sacct_command``, each with its task id. (A name may hold the separator; then
    it reaches into the submit line, whose end counts.)"""
    jobs = []
    for line in text.split("\n"):
        parts = line.split("|", 8)
        if len(parts) < 5 or "." in parts[0] or not parts[0][:1].isdigit():
            continue
        state = JobState(parts[1].split(" ")[0].rstrip("+"))  # "CANCELLED by 1000"
        elapsed = float(parts[3]) if parts[3].isdigit() else None
        cluster, submitted, name, submit_line = (*parts[5:], "", "", "", "")[:4]
        origin = Origin(_known(cluster), name=name, line=_known(submit_line),
                        submitted=_moment(submitted))
        ended = AccountedJob(state, _exit_code(parts[2]), elapsed, parts[4], origin)
        jobs += [(job, ended) for job in expand(parts[0])]
    return jobs


def _known(word: str) -> str:
    return "" if word.strip() in _UNKNOWN else word


def expand(job: str) -> list[str]:
    """``13_[0-2,5%2]`` → ``13_0, 13_1, 13_2, 13_5``; anything else as it is.

    A list that Slurm has cut short (``13_[0,2,4...]``) counts as far as it is certain: its last
    number may have lost digits. One that no Slurm can mean (garbled, or more tasks than an array
    may have) stays as it is.
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
    if indices and max(each.stop for each in indices) > MOST_TASKS \
            or sum(map(len, indices)) > MOST_TASKS:
        return [job]
    return [f"{match[1]}_{index}" for each in indices for index in each]


def _exit_code(text: str) -> int | None:
    """sacct's ``code:signal`` as the shell counts; squeue gives the whole wait status."""
    code, colon, number = text.partition(":")
    if not code.isdigit():
        return None
    if colon:
        return 128 + int(number) if number.isdigit() and int(number) else int(code)
    status = int(code)
    return status >> 8 if status >= 256 else 128 + status if status else 0


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
