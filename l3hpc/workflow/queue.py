"""What Slurm says of our jobs: one squeue and at most one sacct, whatever the number of jobs.

Both may be missing, slow or broken; then the answer says so and status lives on markers alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from l3hpc.errors import ClusterError
from l3hpc.workflow.shell import call
from l3hpc.workflow.words import seconds

SQUEUE_S = 20.0
SACCT_S = 20.0
MAX_IDS_LENGTH = 100_000
_WIDTHS = {"JobArrayID": 40, "State": 24, "Reason": 60, "TimeUsed": 20, "StartTime": 24,
           "RestartCnt": 12, "TimeLimit": 20, "exit_code": 16, "NodeList": 64}
_PLACES = {name: slice(end - width, end) for (name, width), end in zip(
    _WIDTHS.items(), itertools.accumulate(_WIDTHS.values()), strict=True)}
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL",
         "DEADLINE", "PREEMPTED", "REVOKED")


@dataclass(frozen=True)
class LiveJob:
    """A job or array task that squeue lists. start: expected or real, unix seconds."""

    state: str
    reason: str
    elapsed_s: float | None
    start: float | None
    restarts: int
    limit_s: float | None

    @property
    def held(self) -> bool:
        """Whether it waits to be let go by its own user (a requeue holds it so)."""
        return self.reason in ("JobHeldUser", "job requeued in held state")


@dataclass(frozen=True)
class EndedJob:
    """A job or array task that sacct remembers. exit_code: of the script (128 + n: a signal)."""

    state: str
    exit_code: int | None
    elapsed_s: float | None
    node: str


@dataclass
class Answer:
    """live, ended: by task id (``12`` or ``13_4``). squeue, sacct: whether they answered (None:
    not asked). notes: why not, in words."""

    live: dict[str, LiveJob] = field(default_factory=dict)
    ended: dict[str, EndedJob] = field(default_factory=dict)
    squeue: bool | None = None
    sacct: bool | None = None
    notes: list[str] = field(default_factory=list)


def squeue_command(users: Iterable[str]) -> list[str]:
    """What ``status`` asks squeue, and ``doctor`` tries: every job of these users."""
    fields = ",".join(f"{name}:{width}" for name, width in _WIDTHS.items())
    return ["squeue", "--noheader", "--array", "--states=all",
            "--user", ",".join(sorted(set(users))), "--Format", fields]


def sacct_command(
    jobs: Iterable[str], *, users: Iterable[str] = (), since: float = 0.0, duplicates: bool = False
) -> list[str]:
    """What ``status`` asks sacct, and ``doctor`` tries: these base ids.

    users, since (unix seconds): asked for instead where the ids do not fit on a command line.
    duplicates: also the attempts before a requeue. Only options that 22.05 and later take: not
    ``--array``, without which pending array tasks come as ``13_[0-2]`` (see ``expand``).
    """
    which = ["--jobs", ",".join(sorted(set(jobs), key=lambda job: (len(job), job)))]
    if len(which[1]) > MAX_IDS_LENGTH:
        start = datetime.fromtimestamp(since).isoformat(timespec="seconds")
        which = ["--user", ",".join(sorted(set(users))), "--starttime", start]
    return ["sacct", "--noheader", "--allocations", "--parsable2",
            *(["--duplicates"] if duplicates else []), *which,
            "--format", "JobID,State,ExitCode,ElapsedRaw,NodeList"]


def ask_squeue(users: Iterable[str], answer: Answer) -> None:
    """Add every job of ``users`` that waits or runs, and those that ended so recently that Slurm
    still knows them (MinJobAge), which helps where there is no accounting. One call."""
    try:
        text = call(squeue_command(users), timeout_s=SQUEUE_S)
    except ClusterError as error:
        answer.squeue = False
        answer.notes.append(error.message)
        return
    answer.squeue = True
    live, ended = parse_squeue(text)
    answer.live.update(live)
    answer.ended.update(ended)


def scripts(user: str) -> dict[str, str]:
    """Base id → path of the script, of every job of a user that waits or runs. One call; a
    ``ClusterError`` where squeue does not answer."""
    text = call(["squeue", "--noheader", "--user", user, "--Format", "JobArrayID:40,Command:4096"],
                timeout_s=SQUEUE_S)
    return {line[:40].strip().partition("_")[0]: line[40:].strip() for line in text.splitlines()
            if line.strip()}


def ask_sacct(
    jobs: Iterable[str], answer: Answer, *, users: Iterable[str] = (), since: float = 0.0
) -> None:
    """Add what accounting remembers of these base ids. One call; none for no ids.

    users, since: as in ``sacct_command``.
    """
    wanted = set(jobs)
    if not wanted:
        return
    try:
        text = call(sacct_command(wanted, users=users, since=since), timeout_s=SACCT_S)
    except ClusterError as error:
        answer.sacct = False
        answer.notes.append(error.message)
        return
    answer.sacct = True
    for job, ended in parse_sacct(text).items():
        answer.ended.setdefault(job, ended)  # squeue knows the recent ones better


def ask_history(jobs: Iterable[str]) -> list[tuple[str, EndedJob]] | None:
    """Every attempt, requeued ones too, of these base ids: (task id, how it ended); None where
    accounting does not answer. One call."""
    wanted = sorted(set(jobs))
    if not wanted:
        return []
    try:
        text = call(sacct_command(wanted, duplicates=True), timeout_s=SACCT_S)
    except ClusterError:
        return None
    return [(job, ended) for line in text.splitlines()
            for job, ended in parse_sacct(line).items()]


def parse_squeue(text: str) -> tuple[dict[str, LiveJob], dict[str, EndedJob]]:
    """``squeue --Format`` lines of the fixed widths above, by task id: what lives, what ended."""
    jobs: dict[str, LiveJob] = {}
    over: dict[str, EndedJob] = {}
    for line in text.splitlines():
        values = {name: line[place].strip() for name, place in _PLACES.items()}
        if not values["JobArrayID"]:
            continue
        if values["State"] in _OVER:
            code = _exit_code(values["exit_code"])
            for job in expand(values["JobArrayID"]):
                over[job] = EndedJob(values["State"], code, seconds(values["TimeUsed"]),
                                     values["NodeList"])
            continue
        live = LiveJob(
            state=values["State"], reason=values["Reason"], elapsed_s=seconds(values["TimeUsed"]),
            start=_moment(values["StartTime"]), limit_s=seconds(values["TimeLimit"]),
            restarts=int(values["RestartCnt"]) if values["RestartCnt"].isdigit() else 0)
        for job in expand(values["JobArrayID"]):
            jobs[job] = live
    return jobs, over


def parse_sacct(text: str) -> dict[str, EndedJob]:
    """``sacct --parsable2`` lines (JobID, State, ExitCode, ElapsedRaw, NodeList), by task id."""
    jobs = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) < 5 or "." in parts[0]:
            continue
        state = parts[1].split(" ")[0].rstrip("+")  # "CANCELLED by 1000"
        elapsed = float(parts[3]) if parts[3].isdigit() else None
        ended = EndedJob(state, _exit_code(parts[2]), elapsed, parts[4])
        for job in expand(parts[0]):
            jobs[job] = ended
    return jobs


def expand(job: str) -> list[str]:
    """``13_[0-2,5%2]`` → ``13_0, 13_1, 13_2, 13_5``; anything else as it is.

    A list that Slurm has cut short (``13_[0,2,4...]``) counts as far as it is certain: its last
    number may have lost digits.
    """
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(\.\.\.)?(%\d+)?\]", job)
    if match is None:
        return [job]
    names = []
    parts = match[2].strip(",").split(",")
    for part in parts[:-1] if match[3] else parts:
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        names += [f"{match[1]}_{index}"
                  for index in range(int(first), int(last or first) + 1, int(step or 1))]
    return names


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
