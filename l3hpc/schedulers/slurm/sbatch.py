"""What a refusal of sbatch means: whether to wait, what to do about it, and whether waiting helps.

A full queue is waited for. An array that is larger than the limit never fits, however long one
waits.

One submission to Slurm and its outcome.

sbatch may submit the job and then report an error, hang, or be a site's wrapper that prints
something else. The queue is searched for the script before anything is repeated, cancelled or
reported.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from l3hpc.config.profile import ClusterProfile
from l3hpc.errors import ClusterError, command_line
from l3hpc.io.files import current_user
from l3hpc.schedulers.base import (
    DependencyGoneError,
    JobId,
    JobState,
    NotReachedError,
    OutcomeUnknownError,
    QueueFullError,
)
from l3hpc.schedulers.slurm import queue
from l3hpc.schedulers.slurm.commands import (
    call,
    for_slurm,
    not_reached,
    on_cluster,
    program_words,
    several,
)
from l3hpc.schedulers.slurm.identity import Identity

TEST_ONLY_TIMEOUT_S = 20.0


_FULL = ("AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit", "MaxSubmitJobsPerUser",
         "QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerAccountLimit",
         "MaxSubmitJobsPerAccount", "QOSGrpSubmitJobsLimit")
_DEPENDENCY = "Job dependency problem"
TIMEOUT_S = 120.0
LOOK_EVERY_S = 15.0  # while sbatch is silent: a job waits a minute for the task we give it
LOOKS_S = (0.0, 2.0, 5.0, 10.0, 15.0)  # a busy controller shows a job late
RETRY_S = (5.0, 10.0, 20.0, 40.0) + (60.0,) * 60  # between looks at a queue that is silent
GIVE_UP_S = 900.0
TOO_LATE_S = 45.0
CANCEL_WAITS_S = (2.0, 5.0, 15.0)
_SAID = re.compile(r"Submitted batch job (\d+)(?: on cluster ([\w.-]+))?")
_BARE = re.compile(r"(\d+)(?:;([\w.-]+))?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


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
                    timeout_s=TEST_ONLY_TIMEOUT_S)
    except ClusterError:
        return []
    return [line.split("|") for line in text.splitlines() if line.strip()]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d+", text.strip()) else None


@dataclass(frozen=True)
class Submission:
    """What to submit, and how to look for it.

    Attributes
    ----------
    command: sbatch and its words, with the script last.
    wanted: any job of that script; ``cluster`` as it stands behind ``--clusters`` ('' for none).
    known: base ids of the jobs that are on record.
    say: takes lines for the person who waits. pause: waits so many seconds; may raise to stop.
    give_up_s: how long to retry while Slurm does not answer.
    """

    command: Sequence[str]
    wanted: Identity
    known: Callable[[], Collection[str]] = tuple
    say: Callable[[str], None] = lambda words: None
    pause: Callable[[float], None] = time.sleep
    give_up_s: float = field(default_factory=lambda: GIVE_UP_S)


def sbatch_command(script: Path, after: Sequence[str], kill_on_invalid_dep: bool,
                   clusters: str = "", behind: Sequence[str] = ()) -> list[str]:
    """The command that submits ``script``; dependencies stand here because the command line wins
    over the environment and over the script."""
    command = on_cluster(["sbatch", "--parsable"], clusters)
    kinds = {"afterok": after, "afterany": behind}
    if words := ",".join(":".join([kind, *ids]) for kind, ids in kinds.items() if ids):
        command.append(f"--dependency={words}")
    if after:
        command.append(f"--kill-on-invalid-dep={'yes' if kill_on_invalid_dep else 'no'}")
    return [*command, str(script)]


def submit(submission: Submission) -> JobId:
    """Hand a script to Slurm once; return the job.

    Raises
    ------
    NotReachedError: Slurm cannot be reached, and nothing was submitted.
    OutcomeUnknownError: neither sbatch nor squeue shows whether the job was submitted.
    ClusterError: Slurm refused the job.
    """
    began, doubtful = time.monotonic(), False
    try:
        for wait in RETRY_S:
            try:
                job = _submit(submission)
                break
            except NotReachedError as error:
                doubtful = True
                left = submission.give_up_s - (time.monotonic() - began)
                if wait > left:
                    minutes = (submission.give_up_s - left) / 60
                    raise NotReachedError(f"{error.message}; gave up after {minutes:.0f} min",
                                          hint=error.hint) from None
                submission.say(f"{error.message}: nothing was submitted; trying again in "
                               f"{wait:.0f} s, for up to {left / 60:.0f} min")
                submission.pause(wait)
    except ClusterError:
        raise
    except BaseException:  # Ctrl-C, or cancelled by another command, meanwhile
        with contextlib.suppress(ClusterError):
            cancel([job for job, _ in _look(submission)])
        raise
    if doubtful:
        with contextlib.suppress(ClusterError):
            _cancel_twins(submission, job)
    return job


def _submit(submission: Submission) -> JobId:
    answer = _run(submission)
    if isinstance(answer, JobId):
        return answer
    code, out, err = answer
    if code == 0:
        named = _named(out, err)
        # an answer without its line end was cut short, perhaps within the number
        clear = (out or err).endswith("\n") and (
            _SAID.search(out + err) or _BARE.fullmatch(out.strip()))
        placed = named and (named[0].cluster or not several(submission.wanted.cluster))
        if len(named) == 1 and clear and placed:
            return _placed(named[0], submission)
        return _from_the_queue(submission, named, out, err)
    words = program_words("sbatch", err or out) if code is not None else \
        f"sbatch did not answer within {TIMEOUT_S:.0f} s"
    reached = not not_reached(words)
    if reached and ("submission failed" in words.lower() or "error:" in err):
        with contextlib.suppress(ClusterError):  # a wrapper may fail after sbatch was done
            if job := _taken(submission, _look(submission), words):
                return job
        raise ClusterError(words)
    submission.say(f"{words}: checking the queue for the job")
    once = "connect failure" in words
    if job := _search(submission, words, LOOKS_S[:1] if once else LOOKS_S):
        return job
    if reached:
        raise ClusterError(words)
    raise NotReachedError(words, hint="Is the cluster up? l3hpc doctor")


def _run(submission: Submission) -> JobId | tuple[int | None, str, str]:
    """Run sbatch: its exit code (None: it hangs) and what it said. Where it is silent for long, the
    queue is asked meanwhile; a job that is found there is the answer."""
    try:
        process = subprocess.Popen(
            list(submission.command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8", errors="replace", env=for_slurm(),
            start_new_session=True)
    except FileNotFoundError:
        raise ClusterError("sbatch is not on this machine",
                           hint="Log in to the cluster, or use --cluster local.") from None
    except OSError as error:
        raise ClusterError(f"sbatch cannot be run: {error.strerror}") from None
    end = time.monotonic() + TIMEOUT_S
    try:
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=min(left, LOOK_EVERY_S))
                return process.returncode, out, err
            with contextlib.suppress(ClusterError):
                if job := _taken(submission, _look(submission), "sbatch does not answer"):
                    return job
        return None, "", ""
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _named(out: str, err: str) -> list[JobId]:
    """Every job id in the output, each once: in sbatch's sentence, or a number alone on a line,
    whatever a site prints besides."""
    out, err = _COLOUR.sub("", out), _COLOUR.sub("", err)
    said = (_SAID.findall(out) or _SAID.findall(err)) + [
        match.groups(default="") for line in out.splitlines()
        if (match := _BARE.fullmatch(line.strip()))]
    return list(dict.fromkeys(JobId(number, cluster) for number, cluster in said))


def _from_the_queue(submission: Submission, named: list[JobId], out: str, err: str) -> JobId:
    """The job of an sbatch that reported success, but no clear id."""
    said = " ".join((out + err).split())[:200] or "nothing"
    wanted = {job.id for job in named}
    for wait in LOOKS_S:
        if wait:
            submission.pause(wait)
        try:
            found = [job for job, _ in _look(submission, ended=True)]
        except ClusterError as error:
            if len(named) == 1 and not several(submission.wanted.cluster):
                return _placed(named[0], submission)
            raise OutcomeUnknownError(f"sbatch printed {said!r} instead of a job id, and the "
                                      f"queue cannot be checked ({error.message})") from None
        if certain := [job for job in found if job.id in wanted] or found:
            return certain[-1]  # what was cancelled earlier is shown for some minutes
    if named:
        raise OutcomeUnknownError(f"sbatch printed {said!r}, but the queue has no job with this "
                                  "script")
    raise ClusterError(f"sbatch printed {said!r} instead of a job id, and the queue has no job "
                       "with this script",
                       hint=f"Try it by hand: {shlex.join(submission.command)}")


def _search(submission: Submission, words: str, looks: Sequence[float]) -> JobId | None:
    """Look for the job; None once the queue has been seen without it often enough."""
    end = time.monotonic() + submission.give_up_s
    retries, waits = iter(RETRY_S), list(looks)
    while waits:
        submission.pause(waits[0])
        try:
            found = _look(submission)
        except ClusterError as error:
            wait = next(retries)
            if time.monotonic() + wait > end:
                raise OutcomeUnknownError(
                    f"{words}; the queue cannot be checked either ({error.message})") from None
            submission.say(f"{error.message}: asking again in {wait:.0f} s")
            submission.pause(wait)
            continue
        if found:
            return _taken(submission, found, words)
        waits.pop(0)
    return None


def _look(submission: Submission, *, ended: bool = False
          ) -> list[tuple[JobId, list[queue.QueuedJob | queue.AccountedJob]]]:
    """Jobs of the script that are not on record, oldest first, with their tasks. A
    ``ClusterError`` where the queue does not answer. ended: also those that are over."""
    answer, known = queue.ask(current_user(), [submission.wanted.cluster]), submission.known()
    found = [(JobId(number, cluster), tasks)
             for (cluster, number), tasks in answer.submitted_with(submission.wanted).items()
             if number not in known
             and (ended or all(_is_alive(task) for task in tasks))]
    return sorted(found, key=lambda each: int(each[0].id))


def _is_alive(task: queue.QueuedJob | queue.AccountedJob) -> bool:
    """Whether it waits or runs. One that was cancelled a moment ago is shown until it has ended."""
    return isinstance(task, queue.QueuedJob) and task.state is not JobState.COMPLETING


def _taken(submission: Submission,
           found: list[tuple[JobId, list[queue.QueuedJob | queue.AccountedJob]]], words: str
           ) -> JobId | None:
    """The job that was submitted after all. One that has run too long without its task is
    cancelled, and so is every other one but the first."""
    usable = [job for job, tasks in found
              if max((task.elapsed_s or 0.0 for task in tasks), default=0.0) < TOO_LATE_S]
    surplus = [job for job, _ in found if job not in usable[:1]]
    cancel(surplus)
    if not usable:
        return None
    submission.say(f"{words}, but the job was submitted: {usable[0].id}")
    return usable[0]


def _cancel_twins(submission: Submission, job: JobId) -> None:
    """After an attempt whose outcome was unclear: cancel its job, if it has turned up by now."""
    found = [other for other, _ in _look(submission) if other.id != job.id]
    if found:
        submission.say(f"an earlier attempt had submitted {_ids(found)} as well: cancelled")
        cancel(found)


def _placed(job: JobId, submission: Submission) -> JobId:
    """The job with its cluster: the one that sbatch names, or the only one it was sent to."""
    asked = submission.wanted.cluster
    return JobId(job.id, job.cluster or ("" if several(asked) else asked))


def cancel(jobs: Sequence[JobId], run: str = "") -> None:
    """One scancel for each cluster, in the order given. Ids that Slurm forgot are no error.

    The caller has checked that these jobs are ours. Where scancel gets no answer, the queue is
    checked and scancel repeated; a ``ClusterError`` lists what may be left.
    """
    for cluster in dict.fromkeys(job.cluster for job in jobs):
        _cancel(cluster, [job.id for job in jobs if job.cluster == cluster], run)


def _cancel(cluster: str, ids: list[str], run: str) -> None:
    for wait in (*CANCEL_WAITS_S, None):
        try:
            call(on_cluster(["scancel", *ids], cluster), timeout_s=60)
            return
        except ClusterError as error:
            if "Invalid job id" in error.message or "already complet" in error.message:
                return
            if not not_reached(error.message):
                raise
            words = error.message
        left = _left(cluster, ids)
        if left == []:
            return
        if wait is None:
            state = "still in the queue" if left else "may still be in the queue"
            raise ClusterError(f"{words}; {state}: {' '.join(left or ids)}",
                               hint=f"When Slurm answers: {command_line('cancel', run or 'RUN')}")
        ids = left or ids
        time.sleep(wait)


def _left(cluster: str, ids: list[str]) -> list[str] | None:
    """Which of these jobs wait or run; None where the queue does not answer."""
    try:
        live = queue.ask(current_user(), [cluster]).live
    except ClusterError:
        return None
    left = {task for task, jobs in live.items() if any(job.state is not JobState.COMPLETING
                                                        for job in jobs)}
    bases = {task.partition("_")[0] for task in left}
    return [job for job in ids if job in left or job in bases]


def _ids(jobs: Sequence[JobId]) -> str:
    return ", ".join(job.id for job in jobs)
