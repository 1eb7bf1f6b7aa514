"""Inside a job: what to do when its command has ended with an error, and after a restart.

    python -m l3hpc.worker.requeue FOLDER TASK ended CODE < SIGNS
    python -m l3hpc.worker.requeue FOLDER TASK restarted RESTARTS NODE < ATTEMPTS
    python -m l3hpc.worker.requeue FOLDER TASK held|refused WORDS

FOLDER is the step's folder in the run. The first two decide, note the decision in the task's
markers and print what the script is to ask of Slurm (``again requeue``, ``again requeuehold``,
``change …``, ``helper …``; nothing: it ends). They may run in a container without Slurm's commands,
and in a job that has just used up its memory. The last one notes what Slurm said. Scripts of
versions before ask for ``failed CODE`` and ``restarted``: there Slurm is called from here.
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

from l3hpc.errors import ClusterError, L3hpcError
from l3hpc.io.files import read_json
from l3hpc.schedulers import requeue_policy
from l3hpc.schedulers.requeue_policy import Decision
from l3hpc.schedulers.slurm import requeue as slurm
from l3hpc.schedulers.slurm.commands import call
from l3hpc.workspace import markers
from l3hpc.workspace.layout import StepFolder
from l3hpc.workspace.states import RunState

KILLED = (137, 9)
REQUEUE = 85  # the exit code by which a command says that it goes on later
WARNING_S = 150.0  # the signal comes 90 s before the limit, and Slurm counts to the minute
TOO_OFTEN = "UncompletedJobError"  # submitit's word for a job that met its time limit too often
MEMORY_ERRORS = ("MemoryError", "ResourceExhaustedError", "_ArrayMemoryError")
SIGNALLED = "signal before its time limit"
MOST_SIGNS = 262_144
_OUT_OF_MEMORY = re.compile(
    r"^OUT_OF_MEMORY\b"                       # accounting, of the job or a step
    r"|^oom_kill [1-9]"                       # the control group's counter
    r"|Detected \d+ oom[-_]kill event"        # slurmstepd, where control groups limit
    r"|exceeded (?:job |step )?memory limit"  # slurmstepd, where it polls (OverMemoryKill)
    r"|tasks? [\d,-]+: Out Of Memory"         # srun
    r"|out of memory: Killed process|oom-kill:constraint=|invoked oom-killer"  # the kernel
    r"|std::bad_alloc",
    re.MULTILINE | re.IGNORECASE)


def job_id() -> str:
    """This job's id as scontrol takes it: ``12``, or ``13_4`` in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID", "")


def ran_out_of_memory(signs: str) -> bool:
    """Whether anything of this says that memory ran out: states of accounting, counters of the
    control group, the log of this attempt."""
    return _OUT_OF_MEMORY.search(signs) is not None


def after_end(folder: Path, task: int, code: int, signs: str) -> Decision | None:
    """Whether and how a task whose command ended with ``code`` goes back to the queue.

    It does where it asks for that (``REQUEUE``), where something says that memory ran out, and
    where Slurm's warning met a Python that had only just started and did not listen yet. A signal 9
    alone says nothing of memory. What belongs to a cancelled run stays where it is.
    """
    marks = markers.read(StepFolder(folder).markers).get(task, markers.TaskMarks())
    kind = str((marks.error or {}).get("type", ""))
    if _cancelled(folder) or kind == TOO_OFTEN and marks.gave_up:
        return None
    if kind == TOO_OFTEN:
        words = requeue_policy.decide(requeue_policy.read(folder), requeue_policy.TIME,
                                      marks.requeues).words
        markers.give_up(StepFolder(folder).markers, task, words, time.time())
        return None
    if code == REQUEUE:
        return decide(folder, task,
                      requeue_policy.TIME if near_time_limit(folder, task) else SIGNALLED)
    if code == requeue_policy.WARNED and marks.error is None:
        return decide(folder, task, requeue_policy.TIME)
    if kind in MEMORY_ERRORS or marks.error is None and ran_out_of_memory(signs):
        return decide(folder, task, requeue_policy.MEMORY)
    if code in KILLED and marks.error is None:
        _say("killed by signal 9; no evidence that memory was the cause")
    return None


def after_restart(folder: Path, task: int, restarts: int, here: str, attempts: str
                  ) -> Decision | None:
    """Note why the job was started again, where that is not known yet; leave a node that failed.

    attempts: of this job, as ``sacct`` lists them (State|NodeList|End). A job that wakes up on the
    node where its last attempt ended as NODE_FAIL goes back to the queue without that node.
    """
    marks = markers.read(StepFolder(folder).markers).get(task, markers.TaskMarks())
    if len(marks.requeues) >= restarts:
        return None
    state, node = _last_end(attempts)
    reason = requeue_policy.NODE if state == "NODE_FAIL" else requeue_policy.PREEMPTED \
        if state == "PREEMPTED" else "requeued by Slurm"
    markers.add_requeue(StepFolder(folder).markers, task, reason, time.time(), host=node)
    if (reason, node) == (requeue_policy.NODE, here):
        return decide(folder, task, requeue_policy.NODE, here)
    return None


def decide(folder: Path, task: int, cause: str, node: str = "") -> Decision | None:
    """Ask the step's policy, and note in the markers what it says; None: given up."""
    marks = markers.read(StepFolder(folder).markers).get(task, markers.TaskMarks())
    decision = Decision(True, SIGNALLED) if cause == SIGNALLED else \
        requeue_policy.decide(requeue_policy.read(folder), cause, marks.requeues, node)
    if not decision.again:
        markers.give_up(StepFolder(folder).markers, task, decision.words, time.time())
        _say(decision.words)
        return None
    markers.add_requeue(StepFolder(folder).markers, task, cause, time.time(), words=decision.words,
                        mem_mb=decision.mem_mb, time_min=decision.time_min,
                        exclude=decision.exclude, host=socket.gethostname())
    _say(f"{decision.words}; asking Slurm to put the job back")
    return decision


def answer(folder: Path, decision: Decision | None) -> list[str]:
    """The lines from which the script learns what to ask of Slurm."""
    if decision is None:
        return []
    changes = slurm.arguments(decision)
    rules = requeue_policy.read(folder)
    return [f"again {'requeuehold' if changes else 'requeue'}",
            *(f"change {change}" for change in changes),
            *(f"helper {word}" for word in (*rules.helper_memory, *rules.helper))]


def refused(folder: Path, task: int, words: str) -> None:
    """Slurm does not put the task back: it is given up, and status says why."""
    marks = markers.read(StepFolder(folder).markers).get(task, markers.TaskMarks())
    cause = str(marks.requeues[-1].get("reason", "")) if marks.requeues else "failed"
    reason = " ".join(words.split()) or "it gave no reason"
    _say(f"Slurm does not put the job back: {reason}")
    marked = StepFolder(folder).markers
    markers.drop_last_requeue(marked, task)
    markers.give_up(marked, task, f"{cause}; Slurm does not put it back: {reason}", time.time())


def held(folder: Path, task: int, words: str) -> None:
    """No helper job could be submitted: the task waits for ``l3hpc resume``."""
    _say(f"no helper job could be submitted ({' '.join(words.split())}); the job stays held until "
         "l3hpc resume")
    markers.hold(StepFolder(folder).markers, task)


def act(folder: Path, task: int, decision: Decision | None) -> bool:
    """Ask Slurm from here, for scripts and commands that do not do it themselves; says whether the
    task is on its way back to the queue."""
    if decision is None:
        return False
    changes, log = slurm.arguments(decision), StepFolder(folder).helper_log
    name = f"{os.environ.get('SLURM_JOB_NAME', 'l3')}-heal"
    try:
        if changes:
            slurm.send_helper(job_id(), changes, requeue_policy.read(folder), log, name)
    except ClusterError as error:
        held(folder, task, error.message)
    try:
        slurm.requeue(job_id(), hold=bool(changes))
    except ClusterError as error:
        refused(folder, task, error.message)
        return False
    return True


def near_time_limit(folder: Path, task: int) -> bool:
    """Whether this attempt has used up its time, but for the warning that Slurm gives."""
    marks = markers.read(StepFolder(folder).markers).get(task, markers.TaskMarks())
    if marks.started is None:
        return True
    minutes = requeue_policy.granted_resources(requeue_policy.read(folder), marks.requeues)[1]
    return time.time() - marks.started > minutes * 60 - WARNING_S


def _cancelled(folder: Path) -> bool:
    with contextlib.suppress(OSError, L3hpcError, ValueError, AttributeError):
        return bool(read_json(StepFolder(folder).run.record).get("state") == RunState.CANCELLED)
    return False


def _last_end(attempts: str) -> tuple[str, str]:
    """(state, node) of the job's attempt before this one, ("", "") where accounting is silent."""
    ended = [line.split("|") for line in attempts.splitlines()
             if line.count("|") == 2 and not line.endswith("|Unknown")]
    if not ended:
        return "", ""
    last = max(ended, key=lambda parts: parts[2])
    return last[0].split(" ")[0], last[1]


def _signs(folder: Path) -> str:
    """What a script of a version before does not hand over: accounting's word, and the log since
    the command last began."""
    signs = _ask("--parsable2", "--format", "State")
    with contextlib.suppress(OSError), open(StepFolder(folder).log(job_id()), "rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - MOST_SIGNS, 0))
        signs += log.read().decode(errors="replace").rpartition("Starting with ")[2]
    return signs


def _ask(*words: str) -> str:
    with contextlib.suppress(ClusterError):
        return call(["sacct", "--noheader", "--jobs", job_id(), *words], timeout_s=20)
    return ""


def _say(words: str) -> None:
    print(f"l3hpc: {words}", file=sys.stderr, flush=True)  # standard output is for the script


def _stdin() -> str:
    return sys.stdin.buffer.read(MOST_SIGNS).decode(errors="replace")


def main(arguments: Sequence[str]) -> int:
    """The command lines above."""
    folder, task, what = Path(arguments[0]), int(arguments[1]), arguments[2]
    rest = list(arguments[3:])
    if what == "failed":  # by a script of a version before
        return 0 if act(folder, task, after_end(folder, task, int(rest[0]), _signs(folder))) else 1
    if what == "restarted" and not rest:
        attempts = _ask("--allocations", "--duplicates", "--parsable2", "--format",
                        "State,NodeList,End")
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0)
        here = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        act(folder, task, after_restart(folder, task, restarts, here, attempts))
    elif what == "ended":
        decision = after_end(folder, task, int(rest[0]), _stdin())
        sys.stdout.write("".join(f"{line}\n" for line in answer(folder, decision)))
    elif what == "restarted":
        decision = after_restart(folder, task, int(rest[0]), rest[1], _stdin())
        sys.stdout.write("".join(f"{line}\n" for line in answer(folder, decision)))
    else:
        {"held": held, "refused": refused}[what](folder, task, " ".join(rest))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
