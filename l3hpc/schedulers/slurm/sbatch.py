"""One submission to Slurm and its outcome.

sbatch may submit the job and then report an error, hang, or be a site's wrapper that prints
something else. The queue is therefore searched for the script before anything is repeated,
cancelled or reported. ``submit`` retries, ``_submit`` is one attempt.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l3hpc.console.progress import doing
from l3hpc.errors import ClusterError, command_line
from l3hpc.io.owners import current_user
from l3hpc.io.processes import descendants
from l3hpc.schedulers.jobs import JobId
from l3hpc.schedulers.requests import GivenUpError, NotReachedError, OutcomeUnknownError
from l3hpc.schedulers.slurm import parsing, queue
from l3hpc.schedulers.slurm.commands import (
    error_text,
    is_several,
    is_unreachable,
    on_cluster,
    slurm_environment,
)
from l3hpc.schedulers.slurm.identity import Identity
from l3hpc.workspace.states import JobState

TIMEOUT_S = 120.0
# while sbatch hangs: a job waits one minute for its pickle, so it has to be found in time
QUERY_EVERY_S = 15.0
QUERIES_S = (0.0, 2.0, 5.0, 10.0, 15.0)  # a busy controller lists a job late
RETRY_S = (5.0, 10.0, 20.0, 40.0) + (60.0,) * 60  # while Slurm does not respond
GIVE_UP_S = 900.0
KILLED_S = 5.0  # to end, for a process that was killed
TOO_LATE_S = 45.0  # a job that has run for so long may not find its pickle any more
# So that a Ctrl-C at the terminal does not end sbatch halfway. A session of its own would do that,
# too, but Linux shares a busy processor among sessions, and a new one waits for its first turn.
_OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {
    "start_new_session": True}
_SENTENCE = re.compile(r"Submitted batch job (\d+)(?: on cluster ([\w.-]+))?")
_BARE_ID = re.compile(r"(\d+)(?:;([\w.-]+))?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Submission:
    """What to submit, and how to find it in the queue.

    Attributes
    ----------
    command : sequence of str
        sbatch and its arguments, the script last.
    identity : Identity
        Matches any job of that script; its ``cluster`` is the value of ``--clusters`` ('' for
        none).
    recorded : callable
        Returns the base ids of the jobs that are on record.
    notify : callable
        Receives messages for the user who is waiting.
    pause : callable
        Waits for a number of seconds; may raise to stop.
    give_up_s : float
        How long to retry while Slurm does not respond, seconds.
    environment : dict of str to str
        That of sbatch.
    meanwhile : callable
        Called as soon as sbatch has started, and now and then while it hangs; never raises.
    waiting : callable
        As in ``JobRequest``.
    """

    command: Sequence[str]
    identity: Identity
    recorded: Callable[[], Collection[str]] = tuple
    notify: Callable[[str], None] = lambda text: None
    pause: Callable[[float], None] = time.sleep
    give_up_s: float = field(default_factory=lambda: GIVE_UP_S)
    environment: Mapping[str, str] = field(default_factory=slurm_environment)
    meanwhile: Callable[[], None] = lambda: None
    waiting: Callable[[Callable[[], str]], contextlib.AbstractContextManager[None]] = (
        lambda lookup: contextlib.nullcontext())


def sbatch_command(script: Path, after: Sequence[str], kill_on_invalid_dep: bool,
                   clusters: str = "", after_any: Sequence[str] = ()) -> list[str]:
    """Return the command that submits a script.

    Dependencies are given here because the command line takes precedence over the environment and
    the script.

    Parameters
    ----------
    script
        The script.
    after
        Ids of the jobs that must succeed first (``afterok``).
    kill_on_invalid_dep
        Whether Slurm cancels the job if one of them fails.
    clusters
        The value of ``--clusters``.
    after_any
        Ids of the jobs that must end first (``afterany``).
    """
    command = on_cluster(["sbatch", "--parsable"], clusters)
    kinds = {"afterok": after, "afterany": after_any}
    if dependencies := ",".join(":".join([kind, *ids]) for kind, ids in kinds.items() if ids):
        command.append(f"--dependency={dependencies}")
    if after:
        # without it, a job whose parent has failed would stay pending for ever
        command.append(f"--kill-on-invalid-dep={'yes' if kill_on_invalid_dep else 'no'}")
    return [*command, str(script)]


def submit(submission: Submission, started: object = None, *, doubtful: bool = False) -> JobId:
    """Submit a script to Slurm once.

    Parameters
    ----------
    submission
        What to submit.
    started
        What ``start`` returned for it, if that was called.
    doubtful
        Whether an earlier attempt got no answer.

    Returns
    -------
    JobId
        The job.

    Raises
    ------
    NotReachedError
        If Slurm cannot be reached; nothing was submitted.
    OutcomeUnknownError
        If neither sbatch nor squeue shows whether the job was submitted.
    ClusterError
        If Slurm refused the job.
    """
    began = time.monotonic()
    try:
        for wait in RETRY_S:
            try:
                job = _submit(submission, started)
                break
            except NotReachedError as error:
                doubtful, started = True, None
                left = submission.give_up_s - (time.monotonic() - began)
                if wait > left:
                    minutes = (submission.give_up_s - left) / 60
                    raise NotReachedError(f"{error.message}; giving up after {minutes:.0f} min",
                                          hint=error.hint) from None
                submission.notify(f"{error.message}: nothing was submitted; trying again in "
                               f"{wait:.0f} s, for up to {left / 60:.0f} min")
                submission.pause(wait)
    except (ClusterError, GivenUpError):
        raise
    except BaseException:  # Ctrl-C, or cancelled by another command, meanwhile
        submission.notify("interrupted: looking in the queue for a job that was submitted after "
                          "all, to cancel it")
        with contextlib.suppress(ClusterError):
            # its id is on no record: nobody else would find it
            found = [job for job, _ in _find_jobs(submission)]
            with submission.waiting(lambda: _lookup_command(submission)):
                queue.cancel(found)
        raise
    if doubtful:
        with contextlib.suppress(ClusterError):
            _cancel_duplicates(submission, job)
    return job


def _submit(submission: Submission, started: object) -> JobId:
    answer = _run(submission, started)
    if isinstance(answer, JobId):
        return answer
    code, out, err = answer
    out, err = _COLOUR.sub("", out), _COLOUR.sub("", err)
    if code == 0:
        printed = _printed_ids(out, err)
        # output without a final line end was truncated, perhaps within the number
        complete = (out or err).endswith("\n") and (
            _SENTENCE.search(out + err) or _BARE_ID.fullmatch(out.strip()))
        cluster_is_known = printed and (
            printed[0].cluster or not is_several(submission.identity.cluster))
        if len(printed) == 1 and complete and cluster_is_known:
            return _with_cluster(printed[0], submission)
        return _from_the_queue(submission, printed, out, err)
    message = error_text("sbatch", err or out) if code is not None else \
        f"sbatch did not respond within {TIMEOUT_S:.0f} s"
    reached = not is_unreachable(message)
    if reached and ("submission failed" in message.lower() or "error:" in err):
        # a site's wrapper may fail after sbatch has succeeded
        with contextlib.suppress(ClusterError):
            if job := _adopt(submission, _find_jobs(submission), message):
                return job
        raise ClusterError(message)
    submission.notify(f"{message}: checking the queue for the job")
    # without a connection the job cannot have been submitted, so one query is enough
    queries = QUERIES_S[:1] if "connect failure" in message else QUERIES_S
    if job := _search(submission, message, queries):
        return job
    if reached:
        raise ClusterError(message)
    raise NotReachedError(message, hint=f"Is the cluster up? {command_line('doctor')}")


class _Sbatch(subprocess.Popen[str]):
    """A process whose end the kernel reports. ``Popen.wait`` with a time limit looks for the end
    again and again, after growing pauses, which makes each sbatch some milliseconds longer.
    """

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended, for so many seconds."""
        if timeout is not None and self.returncode is None:
            with contextlib.suppress(OSError):  # Linux before 5.3
                handle = os.pidfd_open(self.pid)
                try:
                    ended = select.poll()
                    ended.register(handle, select.POLLIN)
                    ended.poll(max(timeout, 0) * 1000)
                finally:
                    os.close(handle)
                timeout = 0
        return super().wait(timeout)

    def close(self) -> None:
        """Read no more of what it writes."""
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()


def start(submission: Submission) -> _Sbatch:
    """Start sbatch, and do not wait for it: ``submit`` does.

    Parameters
    ----------
    submission
        What to submit.

    Raises
    ------
    ClusterError
        If it cannot be started.
    """
    try:
        return _Sbatch(
            list(submission.command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8", errors="replace", env=submission.environment,
            **_OWN_GROUP)
    except FileNotFoundError:
        raise ClusterError("sbatch is not available on this machine",
                           hint="Log in to the cluster, or use --cluster local.") from None
    except OSError as error:
        raise ClusterError(f"cannot run sbatch: {error.strerror}") from None


def has_answered(started: object) -> bool:
    """Whether an sbatch has ended.

    Parameters
    ----------
    started
        What ``start`` returned.
    """
    return isinstance(started, _Sbatch) and started.poll() is not None


def _run(submission: Submission, started: object) -> JobId | tuple[int | None, str, str]:
    """Run sbatch, or wait for the one that was started: its exit code (None if it hangs) and its
    output. While it hangs, the queue is searched; a job found there is the result.
    """
    process = started if isinstance(started, _Sbatch) else start(submission)
    try:
        submission.meanwhile()
        end = time.monotonic() + TIMEOUT_S  # to wait, however long that took
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired), doing("waiting for sbatch"), \
                    submission.waiting(lambda: _lookup_command(submission)):
                out, err = process.communicate(timeout=min(left, QUERY_EVERY_S))
                return process.returncode, out, err
            with contextlib.suppress(ClusterError):
                if job := _adopt(submission, _find_jobs(submission), "sbatch does not respond"):
                    return job
            submission.meanwhile()
        return None, "", ""
    finally:
        give_up(process)
        process.close()


def give_up(started: object) -> bool:
    """Kill an sbatch, with all that it has started.

    Parameters
    ----------
    started
        What ``start`` returned.

    Returns
    -------
    bool
        False if it has ended already.
    """
    if not isinstance(started, _Sbatch) or started.poll() is not None:
        return False
    # a wrapper script would leave the real sbatch behind, which ``timeout`` puts into a group of
    # its own
    others = descendants(started.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    for pid in others:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    # what has escaped all the same may keep the pipes open for hours
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.communicate(timeout=KILLED_S)
    started.close()
    started.poll()
    return True


def _lookup_command(submission: Submission) -> str:
    """The command that shows whether the job of a script is in the queue."""
    found = None
    with contextlib.suppress(OSError):
        text = Path(submission.command[-1]).read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^#SBATCH --job-name=(.*)$", text, re.MULTILINE)
    name = [f"--name={word}" for word in shlex.split(found[1])[:1]] if found else []
    return shlex.join(on_cluster(["squeue", "--me", *name], submission.identity.cluster))


def _printed_ids(out: str, err: str) -> list[JobId]:
    """Every job id in the output, each once: in sbatch's sentence, or alone on a line. Whatever
    else a site prints is ignored.
    """
    matches = (_SENTENCE.findall(out) or _SENTENCE.findall(err)) + [
        match.groups(default="") for line in out.splitlines()
        if (match := _BARE_ID.fullmatch(line.strip()))]
    return list(dict.fromkeys(JobId(number, cluster) for number, cluster in matches))


def _from_the_queue(submission: Submission, printed: list[JobId], out: str, err: str) -> JobId:
    """The job of an sbatch that reported success, but no clear id."""
    output = " ".join((out + err).split())[:200] or "nothing"
    printed_ids = {job.id for job in printed}
    for wait in QUERIES_S:
        if wait:
            submission.pause(wait)
        try:
            found = [job for job, _ in _find_jobs(submission, ended=True)]
        except ClusterError as error:
            # without its line end, the number may have lost digits
            if len(printed) == 1 and (out or err).endswith("\n") \
                    and not is_several(submission.identity.cluster):
                return _with_cluster(printed[0], submission)
            raise OutcomeUnknownError(f"sbatch printed {output!r} instead of a job id, and the "
                                      f"queue cannot be checked ({error.message})") from None
        if certain := [job for job in found if job.id in printed_ids] or found:
            # Slurm lists jobs that were cancelled earlier for some minutes
            return certain[-1]
    if printed:
        raise OutcomeUnknownError(f"sbatch printed {output!r}, but the queue has no job with this "
                                  "script")
    raise ClusterError(f"sbatch printed {output!r} instead of a job id, and the queue has no job "
                       "with this script",
                       hint=f"Run the command yourself: {shlex.join(submission.command)}")


def _search(submission: Submission, message: str, queries: Sequence[float]) -> JobId | None:
    """Search for the job; None once the queue has been seen without it often enough."""
    end = time.monotonic() + submission.give_up_s
    retries, waits = iter(RETRY_S), list(queries)
    while waits:
        submission.pause(waits[0])
        try:
            found = _find_jobs(submission)
        except ClusterError as error:
            wait = next(retries)
            if time.monotonic() + wait > end:
                raise OutcomeUnknownError(
                    f"{message}; the queue cannot be checked either ({error.message})") from None
            submission.notify(f"{error.message}: trying again in {wait:.0f} s")
            submission.pause(wait)
            continue
        if found:
            return _adopt(submission, found, message)
        waits.pop(0)
    return None


def _find_jobs(submission: Submission, *, ended: bool = False
          ) -> list[tuple[JobId, list[parsing.QueuedJob | parsing.AccountedJob]]]:
    """Jobs of the script that are not on record, oldest first, with their tasks. ended: also those
    that have ended. A ``ClusterError`` if the queue cannot be queried.
    """
    with submission.waiting(lambda: _lookup_command(submission)):
        answer = queue.query(current_user(), [submission.identity.cluster])
    recorded = submission.recorded()
    found = [(JobId(number, cluster), tasks)
             for (cluster, number), tasks in answer.submitted_with(submission.identity).items()
             if number not in recorded
             # of an array that is being cancelled none is; one task may end before the others
             and (ended or any(_is_alive(task) for task in tasks))]
    return sorted(found, key=lambda each: int(each[0].id))


def _is_alive(task: parsing.QueuedJob | parsing.AccountedJob) -> bool:
    """Whether it is pending or running. One that has just been cancelled is listed until it has
    ended.
    """
    return isinstance(task, parsing.QueuedJob) and task.state is not JobState.COMPLETING


def _adopt(submission: Submission,
           found: list[tuple[JobId, list[parsing.QueuedJob | parsing.AccountedJob]]], message: str
           ) -> JobId | None:
    """The job that was submitted after all. One that has run too long without its pickle is
    cancelled, and so are all others but the first.
    """
    usable = [job for job, tasks in found
              if max((task.elapsed_s or 0.0 for task in tasks), default=0.0) < TOO_LATE_S]
    surplus = [job for job, _ in found if job not in usable[:1]]
    with submission.waiting(lambda: _lookup_command(submission)):
        queue.cancel(surplus)
    if not usable:
        return None
    submission.notify(f"{message}, but the job was submitted: {usable[0].id}")
    return usable[0]


def _cancel_duplicates(submission: Submission, job: JobId) -> None:
    """After an attempt with an unclear outcome: cancel its job, if it has appeared by now."""
    found = [other for other, _ in _find_jobs(submission) if other.id != job.id]
    if found:
        submission.notify(f"an earlier attempt also submitted {_ids(found)}: cancelled")
        queue.cancel(found)


def _with_cluster(job: JobId, submission: Submission) -> JobId:
    """The job with its cluster: the one that sbatch names, or the only one it was sent to."""
    requested = submission.identity.cluster
    return JobId(job.id, job.cluster or ("" if is_several(requested) else requested))


def _ids(jobs: Sequence[JobId]) -> str:
    return ", ".join(job.id for job in jobs)
