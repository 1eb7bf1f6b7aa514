"""Inside a job: whether it is requeued after its command has failed, and after a restart.

    python -m l3hpc.worker.requeue FOLDER TASK ended CODE < EVIDENCE
    python -m l3hpc.worker.requeue FOLDER TASK restarted RESTARTS NODE < ATTEMPTS
    python -m l3hpc.worker.requeue FOLDER TASK held|refused MESSAGE

FOLDER is that of the step in the run. The first two decide, note the decision in the markers of the
task, and print what the script has to request from Slurm (``again requeue``, ``again requeuehold``,
``change …``, ``helper …``; nothing: it ends). They may run in a container without Slurm's commands,
and in a job that has just used up its memory. The last one notes Slurm's reply. Scripts of early
versions call ``failed CODE`` and ``restarted``: for them Slurm is called from here.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from l3hpc.errors import ClusterError, L3hpcError
from l3hpc.io.files import read_json
from l3hpc.io.values import one_line
from l3hpc.schedulers import packing, requeue_policy
from l3hpc.schedulers.requeue_policy import Decision
from l3hpc.schedulers.slurm import requeue as slurm
from l3hpc.schedulers.slurm.commands import call
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.states import RunState

KILLED = (137, 9)
REQUEUE = 85  # exit code of a command that is to be requeued
TOO_MANY_TIMEOUTS = "UncompletedJobError"  # submitit's error after too many time limits
MEMORY_ERRORS = ("MemoryError", "ResourceExhaustedError", "_ArrayMemoryError")
BEFORE_LIMIT = "signal before its time limit"
MAX_EVIDENCE = 262_144
_OUT_OF_MEMORY = re.compile(
    r"^OUT_OF_MEMORY\b"                       # accounting, of the job or a step
    r"|^oom_kill [1-9]"                       # the control group's counter
    r"|Detected \d+ oom[-_]kill event"        # slurmstepd, where control groups limit
    r"|exceeded (?:job |step )?memory limit"  # slurmstepd, where it polls (OverMemoryKill)
    r"|tasks? [\d,-]+: Out Of Memory"         # srun
    r"|out of memory: Killed process|oom-kill:constraint=|invoked oom-killer"  # the kernel
    r"|std::bad_alloc",
    re.MULTILINE | re.IGNORECASE)
# srun could not start the command on a node that is overloaded or loses its connections (such as
# exit code 167, of Slurm's error 4007). Any other reason, such as a wrong MPI type, would return.
_NOT_LAUNCHED = re.compile(
    r"^srun: .*\bApplication launch failed: "
    r"(Job credential expired|Slurmd could not (?:connect IO|spawn I/O thread|fork job)"
    r"|.*(?:timed out|connection|communication).*)$",
    re.MULTILINE | re.IGNORECASE)


def job_id() -> str:
    """Return the id of this job as scontrol takes it: ``12``, or ``13_4`` in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID", "")


def ran_out_of_memory(evidence: str) -> bool:
    """Whether there is evidence that memory ran out.

    Parameters
    ----------
    evidence
        States from accounting, counters of the control group, and the log of this attempt.

    Examples
    --------
    >>> ran_out_of_memory("COMPLETED"), ran_out_of_memory("oom_kill 1")
    (False, True)
    """
    return _OUT_OF_MEMORY.search(evidence) is not None


def after_end(folder: Path, task: int, code: int, evidence: str) -> Decision | None:
    """Decide whether a task whose command has failed is requeued.

    It is if it requests that (``REQUEUE``), if there is evidence that memory ran out, if its node
    was too busy for srun to start it there, and if Slurm's warning arrived before Python had
    installed its handler. A SIGKILL alone does not show that memory ran out. Nothing of a cancelled
    run is requeued.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    code
        Exit code of the command.
    evidence
        As in ``ran_out_of_memory``.

    Returns
    -------
    Decision or None
        What the task requests from now on; None if it is not requeued.
    """
    marks = markers.read_task(StepFolder(folder).markers, task)
    kind = str((marks.error or {}).get("type", ""))
    if is_cancelled(folder) or kind == TOO_MANY_TIMEOUTS and marks.gave_up:
        return None
    if kind == TOO_MANY_TIMEOUTS:
        reason = requeue_policy.decide(requeue_policy.read(folder), requeue_policy.TIME,
                                       marks.requeues).words
        markers.give_up(StepFolder(folder).markers, task, reason, time.time())
        return None
    if code == REQUEUE:
        return decide(folder, task,
                      requeue_policy.TIME if near_time_limit(folder, task) else BEFORE_LIMIT)
    # Python had no handler yet: with one, the task would have left a checkpoint and another code
    if code == requeue_policy.WARNED and marks.error is None:
        return decide(folder, task, requeue_policy.TIME)
    # an error of the task itself explains its end, whatever else the log says of memory
    if kind in MEMORY_ERRORS or marks.error is None and ran_out_of_memory(evidence):
        return decide(folder, task, requeue_policy.MEMORY)
    if marks.error is None and (failed := _NOT_LAUNCHED.search(evidence)):
        _log(f"srun could not start the command on this node: {one_line(failed[1])}")
        return decide(folder, task, requeue_policy.NODE)
    if code in KILLED and marks.error is None:
        _log("killed by signal 9; no evidence that memory was the cause")
    return None


def after_restart(folder: Path, task: int, restarts: int, here: str, attempts: str
                  ) -> Decision | None:
    """Note why the job was restarted, unless that is known; leave a node that failed.

    A job that restarts on the node where its last attempt ended as NODE_FAIL is requeued without
    that node.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    restarts
        How often Slurm has restarted the job.
    here
        This node.
    attempts
        The attempts of this job, as ``sacct`` lists them (State|NodeList|End).

    Returns
    -------
    Decision or None
        None if it stays here.
    """
    marks = markers.read_task(StepFolder(folder).markers, task)
    # Each restart is noted once, by the attempt that asked for it or by the one after. Their number
    # alone does not show it: where a node cannot start a job, Slurm restarts it without its script.
    noted = [entry.get("restarts") for entry in marks.requeues]
    if restarts - 1 in noted or None in noted and len(noted) >= restarts:  # None: earlier versions
        return None
    state, node = _last_attempt(attempts)
    reason = requeue_policy.NODE if state == "NODE_FAIL" else requeue_policy.PREEMPTED \
        if state == "PREEMPTED" else "requeued by Slurm"
    markers.add_requeue(StepFolder(folder).markers, task, reason, time.time(), host=node,
                        restarts=restarts - 1)
    if (reason, node) == (requeue_policy.NODE, here):
        return decide(folder, task, requeue_policy.NODE, here)
    return None


def decide(folder: Path, task: int, cause: str, node: str = "") -> Decision | None:
    """Apply the policy of the step, and note the decision in the markers.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    cause
        What happened: a cause of ``requeue_policy``, or ``BEFORE_LIMIT``.
    node
        The node that failed, for ``requeue_policy.NODE``.

    Returns
    -------
    Decision or None
        None if the task is given up.
    """
    requeues, others = _requeues(folder, task)
    decision = Decision(True, BEFORE_LIMIT) if cause == BEFORE_LIMIT else requeue_policy.decide(
        requeue_policy.read(folder), cause, requeues, node, others)
    if not decision.again:
        markers.give_up(StepFolder(folder).markers, task, decision.words, time.time())
        _log(decision.words)
        return None
    markers.add_requeue(StepFolder(folder).markers, task, cause, time.time(), words=decision.words,
                        mem_mb=decision.mem_mb, time_min=decision.time_min,
                        exclude=decision.exclude, host=socket.gethostname())
    _log(f"{decision.words}; requeueing the job")
    return decision


def script_lines(folder: Path, decision: Decision | None) -> list[str]:
    """Return the lines that tell the script what to request from Slurm.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    decision
        The decision; no lines for None.
    """
    if decision is None:
        return []
    changes = slurm.arguments(decision)
    rules = requeue_policy.read(folder)
    return [f"again {'requeuehold' if changes else 'requeue'}",
            *(f"change {change}" for change in changes),
            *(f"helper {word}" for word in (*rules.helper_memory, *rules.helper))]


def note_refused(folder: Path, task: int, message: str) -> None:
    """Note that Slurm refused to requeue a task: it is given up, and status shows why.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    message
        Slurm's reply.
    """
    marks = markers.read_task(StepFolder(folder).markers, task)
    cause = str(marks.requeues[-1].get("reason", "")) if marks.requeues else "failed"
    reason = " ".join(message.split()) or "no reason given"
    _log(f"Slurm did not requeue the job: {reason}")
    folder_of_markers = StepFolder(folder).markers
    markers.drop_last_requeue(folder_of_markers, task)
    markers.give_up(folder_of_markers, task, f"{cause}; Slurm did not requeue it: {reason}",
                    time.time())


def note_held(folder: Path, task: int, message: str) -> None:
    """Note that no helper job could be submitted: the task stays held until ``l3hpc resume``.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    message
        Slurm's reply.
    """
    _log(f"could not submit a helper job ({' '.join(message.split())}); the job stays held until "
         "the run is resumed")
    markers.hold(StepFolder(folder).markers, task)


def requeue_now(folder: Path, task: int, decision: Decision | None) -> bool:
    """Call Slurm from here, for scripts and commands that do not do it themselves.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    decision
        The decision.

    Returns
    -------
    bool
        Whether the task is being requeued.
    """
    if decision is None:
        return False
    changes, log = slurm.arguments(decision), StepFolder(folder).helper_log
    name = f"{os.environ.get('SLURM_JOB_NAME', 'l3')}-heal"
    try:
        if changes:
            slurm.send_helper(job_id(), changes, requeue_policy.read(folder), log, name)
    except ClusterError as error:
        note_held(folder, task, error.message)
    try:
        # also without a helper job: once the script ends, Slurm cancels what depends on it
        slurm.requeue(job_id(), hold=bool(changes))
    except ClusterError as error:
        note_refused(folder, task, error.message)
        return False
    return True


def near_time_limit(folder: Path, task: int) -> bool:
    """Whether this attempt has used up its time, apart from the warning period.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    task
        Index of the task.
    """
    packed = packing.of_this_process()
    started = markers.read_task(StepFolder(folder).markers, task).started
    if packed is not None:  # the tasks before this one have used up a part of the time
        started = packed.started
    if started is None:
        return True
    requeues, others = _requeues(folder, task)
    minutes = requeue_policy.granted_to_job(requeue_policy.read(folder), [requeues, *others])[1]
    return time.time() - started > minutes * 60 - requeue_policy.WARNING_S


def _requeues(folder: Path, task: int) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """The requeues of a task, and those of each other task of its packed job; without memory that
    the job has not got: somebody released it, or its node failed, before its request was changed.
    """
    packed = packing.of_this_process()
    own, others = requeue_policy.requeues_of(folder, task, packed.tasks if packed else ())
    everyone = [own, *others]
    has = os.environ.get("SLURM_MEM_PER_NODE", "")
    requested = {requeue_policy.read(folder).mem_mb,
                 *(entry.get("mem_mb") for each in everyone for entry in each)}
    if has.isdecimal() and int(has) in requested:  # another number: the site has its own rules
        everyone = [[{name: value for name, value in entry.items()
                      if name != "mem_mb" or value <= int(has)} for entry in each]
                    for each in everyone]
    return everyone[0], everyone[1:]


def is_cancelled(folder: Path) -> bool:
    """Whether the run has been cancelled.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    """
    with contextlib.suppress(OSError, L3hpcError, ValueError, AttributeError):
        return bool(read_json(StepFolder(folder).run.record).get("state") == RunState.CANCELLED)
    return False


def _last_attempt(attempts: str) -> tuple[str, str]:
    """(state, node) of the attempt of the job before this one, ("", "") without accounting."""
    ended = [line.split("|") for line in attempts.splitlines()
             # without an end: this attempt itself
             if line.count("|") == 2 and not line.endswith("|Unknown")]
    if not ended:
        return "", ""
    last = max(ended, key=lambda parts: parts[2])
    return last[0].split(" ")[0], last[1]


def _collect_evidence(folder: Path) -> str:
    """What scripts of early versions do not pass: the state in accounting, and the log since the
    command last began.
    """
    evidence = _sacct("--parsable2", "--format", "State")
    with contextlib.suppress(OSError), open(StepFolder(folder).log(job_id()), "rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - MAX_EVIDENCE, 0))
        evidence += log.read().decode(errors="replace").rpartition("Starting with ")[2]
    return evidence


def _sacct(*options: str) -> str:
    with contextlib.suppress(ClusterError):
        return call(["sacct", "--noheader", "--jobs", job_id(), *options], timeout_s=20)
    return ""


def _log(text: str) -> None:
    # standard output is read by the script
    print(f"l3hpc: {text}", file=sys.stderr, flush=True)


def _stdin() -> str:
    return sys.stdin.buffer.read(MAX_EVIDENCE).decode(errors="replace")


def main(arguments: Sequence[str]) -> int:
    """Run one of the command lines above.

    Parameters
    ----------
    arguments
        Its arguments.

    Returns
    -------
    int
        Exit code.
    """
    folder, task, what = Path(arguments[0]), int(arguments[1]), arguments[2]
    rest = list(arguments[3:])
    if what == "failed":  # from a script of an early version
        decision = after_end(folder, task, int(rest[0]), _collect_evidence(folder))
        return 0 if requeue_now(folder, task, decision) else 1
    if what == "restarted" and not rest:
        attempts = _sacct("--allocations", "--duplicates", "--parsable2", "--format",
                          "State,NodeList,End")
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0)
        here = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        requeue_now(folder, task, after_restart(folder, task, restarts, here, attempts))
    elif what == "ended":
        decision = after_end(folder, task, int(rest[0]), _stdin())
        sys.stdout.write("".join(f"{line}\n" for line in script_lines(folder, decision)))
    elif what == "restarted":
        decision = after_restart(folder, task, int(rest[0]), rest[1], _stdin())
        sys.stdout.write("".join(f"{line}\n" for line in script_lines(folder, decision)))
    else:
        {"held": note_held, "refused": note_refused}[what](folder, task, " ".join(rest))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
