"""Inside a job: what to do when its command failed, at its time limit, and after a restart.

    python -m l3hpc.workflow.healing.job FOLDER TASK failed CODE
    python -m l3hpc.workflow.healing.job FOLDER TASK restarted

FOLDER is the step's folder in the run. ``failed`` ends with 0 when the task is on its way back to
the queue, and with 1 when nothing heals here. Starts without anything heavy: it may run in a job
that has just used up its memory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from l3hpc.errors import ClusterError
from l3hpc.workflow import markers
from l3hpc.workflow.healing import policy, slurm
from l3hpc.workflow.shell import call

KILLED = (137, 9)
WARNING_S = 150.0  # the signal comes 90 s before the limit, and Slurm counts to the minute
TOO_OFTEN = "UncompletedJobError"  # submitit's word for a job that met its time limit too often
MEMORY_ERRORS = ("MemoryError", "ResourceExhaustedError", "_ArrayMemoryError")


def job_id() -> str:
    """This job's id as scontrol takes it: ``12``, or ``13_4`` in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID", "")


def after_failure(folder: Path, task: int, code: int) -> bool:
    """Put the task back where its failure was a want of memory, or where Slurm's warning met a
    Python that had only just started and did not listen yet; says whether it did."""
    marks = markers.read(folder / "markers").get(task, markers.TaskMarks())
    kind = str((marks.error or {}).get("type", ""))
    if kind == TOO_OFTEN:
        decision = policy.decide(policy.read(folder), policy.TIME, marks.requeues)
        markers.give_up(folder / "markers", task, decision.words, time.time())
        return False
    if code == policy.WARNED and marks.error is None:
        return heal(folder, task, policy.TIME)
    if kind not in MEMORY_ERRORS and (code not in KILLED or marks.error is not None):
        return False
    return heal(folder, task, policy.MEMORY)


def heal(folder: Path, task: int, cause: str, node: str = "") -> bool:
    """Decide, write it down, and send the task back; False where it is given up or refused."""
    marks = markers.read(folder / "markers").get(task, markers.TaskMarks())
    rules = policy.read(folder)
    decision = policy.decide(rules, cause, marks.requeues, node)
    if not decision.again:
        markers.give_up(folder / "markers", task, decision.words, time.time())
        print(f"l3hpc: {decision.words}", flush=True)
        return False
    changes = slurm.arguments(decision)
    name = f"{os.environ.get('SLURM_JOB_NAME', 'l3')}-heal"
    held = bool(changes) and not slurm.send_helper(job_id(), changes, rules,
                                                   folder / "logs" / "heal.log", name)
    print(f"l3hpc: {decision.words}; back to the queue", flush=True)
    markers.add_requeue(folder / "markers", task, cause, time.time(), words=decision.words,
                        mem_mb=decision.mem_mb, time_min=decision.time_min,
                        exclude=decision.exclude, held=held, host=socket.gethostname())
    try:
        slurm.put_back(job_id(), hold=bool(changes))
    except ClusterError as error:
        print(f"l3hpc: {error}", flush=True)
        markers.take_back_requeue(folder / "markers", task)
        markers.give_up(folder / "markers", task,
                        f"{cause}; Slurm does not put it back: {error.message}", time.time())
        return False
    return True


def near_time_limit(folder: Path, task: int) -> bool:
    """Whether this attempt has used up its time, but for the warning that Slurm gives."""
    marks = markers.read(folder / "markers").get(task, markers.TaskMarks())
    if marks.started is None:
        return True
    minutes = policy.granted(policy.read(folder), marks.requeues)[1]
    return time.time() - marks.started > minutes * 60 - WARNING_S


def at_time_limit(folder: Path, task: int) -> bool:
    """Near the time limit: put a task that needs more time back; False: requeue it as it is."""
    marks = markers.read(folder / "markers").get(task, markers.TaskMarks())
    decision = policy.decide(policy.read(folder), policy.TIME, marks.requeues)
    return decision.time_min is not None and heal(folder, task, policy.TIME)


def after_restart(folder: Path, task: int) -> None:
    """Note why the job was started again, where that is not known yet; leave a node that failed.

    A job that wakes up on the node whose slurmd was started again since it last began, or whose
    last attempt ended as NODE_FAIL there, goes back to the queue without that node.
    """
    marks = markers.read(folder / "markers").get(task, markers.TaskMarks())
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0)
    if len(marks.requeues) >= restarts:
        return
    state, node = _last_end(job_id())
    reason = policy.NODE if state == "NODE_FAIL" else policy.PREEMPTED \
        if state == "PREEMPTED" else "requeued by Slurm"
    markers.add_requeue(folder / "markers", task, reason, time.time(), host=node)
    here = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    if reason == policy.NODE and node == here:
        heal(folder, task, policy.NODE, here)


def _last_end(job: str) -> tuple[str, str]:
    """(state, node) of the job's attempt before this one, ("", "") where accounting is silent."""
    with contextlib.suppress(ClusterError):
        text = call(["sacct", "--noheader", "--allocations", "--duplicates", "--parsable2",
                     "--jobs", job, "--format", "State,NodeList,End"], timeout_s=20)
        ended = [line.split("|") for line in text.splitlines()
                 if line.count("|") == 2 and not line.endswith("|Unknown")]
        if ended:
            last = max(ended, key=lambda parts: parts[2])
            return last[0].split(" ")[0], last[1]
    return "", ""


def main(words: Sequence[str]) -> int:
    """The command line above."""
    folder, task, what = Path(words[0]), int(words[1]), words[2]
    if what == "restarted":
        after_restart(folder, task)
        return 0
    return 0 if after_failure(folder, task, int(words[3])) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
