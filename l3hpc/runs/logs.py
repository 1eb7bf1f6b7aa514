"""The logs of a step: which file is meant, its text, and following it while it grows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from l3hpc.errors import InputError
from l3hpc.io.files import open_regular
from l3hpc.workspace import artifacts, attempts, markers
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.markers import StepState
from l3hpc.workspace.records import RunRecord, StepRecord

POLL_S = 0.5
TAIL_BYTES = 65_536
MOST_SHOWN = 300  # characters of a line
_EPILOGUE = re.compile(
    r"^srun: error: \S+: tasks? [\d,-]+: |^srun: (Terminating|launch/slurm: _step_signal)"
    r"|^l3hpc: killed by signal|^\S*slurmstepd\S*: error: \*\*\* STEP")
_SRUN_FAILS = re.compile(r"\bsrun: (error|fatal|command not found|not found|No such file)")


def find(
    workspace: Path, record: RunRecord, step: StepRecord, *, task: int | None = None,
    which: str = "err",
) -> Path:
    """The log file of one task (``which``: ``err`` or ``out``) of the latest attempt that has it.

    Without ``task``: the first failed one, else the first that runs, else the first at all. An
    ``InputError`` says why there is none.
    """
    if step.state is StepState.REUSED:
        raise InputError(f"{step.name} was done before this run: it has no log here",
                         hint=f"Its artifact: {step.artifact}")
    jobs = attempts.latest(step)
    if not jobs:
        raise InputError(f"{step.name} of {record.run} was not submitted: it has no log")
    if task is not None and task not in jobs:
        raise InputError(f"{step.name} of {record.run} has no task {task}",
                         allowed=f"tasks: {_spans(sorted(jobs))}")
    index = task if task is not None else _interesting(workspace, record, step, sorted(jobs))
    return Workspace(workspace).run(record.run).step(step.name).log(jobs[index], which)


def tail(path: Path, limit: int = TAIL_BYTES) -> str:
    """The end of a file, from a line's beginning, at most ``limit`` bytes."""
    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - limit, 0))
        data = stream.read()
    if size > limit:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def end_of(path: Path, *, began: bool) -> list[str]:
    """The last lines of the log of a job that left no error of its own, at most three.

    What srun and this package add about the end itself is left out, where there is anything else.
    began: the step or its setup lines were at work; elsewhere a complaint of srun is the cause, and
    the hint about it comes with it.
    """
    try:
        text = tail(path, 16_384)
    except OSError:
        return []
    lines = [line.strip()[:MOST_SHOWN] for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not _EPILOGUE.search(line)]
    if not began and any(_SRUN_FAILS.search(line) for line in told):
        return [*told[-2:], "where srun does not work: srun: false in the profile (cluster.yaml)"]
    return (told or lines)[-3:]


def follow(
    path: Path, ended: Callable[[], bool], *, ask_every_s: float = POLL_S
) -> Iterator[str]:
    """What is in the file, then what gets appended, until ``ended()``; also before it exists.

    Polls (a network file system tells of no changes); a file that was emptied is read from its
    beginning again. ``ended`` may cost something, so it is called every ``ask_every_s`` only.
    """
    at, over, asked = 0, False, float("-inf")
    while True:
        if time.monotonic() - asked >= ask_every_s:
            over, asked = ended(), time.monotonic()
        if path.exists():
            size = path.stat().st_size
            if size < at:
                at = 0
            if size > at:
                with open_regular(path) as stream:
                    stream.seek(at)
                    data = stream.read()
                at += len(data)
                yield data.decode(errors="replace")
                continue
        if over:
            return
        time.sleep(POLL_S)


def _interesting(
    workspace: Path, record: RunRecord, step: StepRecord, indices: list[int]
) -> int:
    marks = markers.read(Workspace(workspace).run(record.run).step(step.name).markers)
    done = artifacts.finished(Path(step.artifact))
    open_tasks = [index for index in indices if index not in done]
    told = {index: marks[index].of(attempts.latest(step)[index]) for index in open_tasks
            if index in marks}
    failed = [index for index, each in told.items() if each.exit_code]
    begun = [index for index, each in told.items() if each.begin]
    return (failed or begun or open_tasks or indices)[0]


def _spans(indices: list[int]) -> str:
    if indices == list(range(indices[0], indices[-1] + 1)):
        return f"{indices[0]} to {indices[-1]}" if len(indices) > 1 else str(indices[0])
    return ", ".join(map(str, indices[:20])) + (", …" if len(indices) > 20 else "")
