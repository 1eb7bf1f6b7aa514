"""The logs of a step: finding the file, reading its end, and following it while it grows."""

from __future__ import annotations

import codecs
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import open_regular
from l3hpc.workspace import artifacts, attempts, markers, run_archive
from l3hpc.workspace.layout import StepFolder, Workspace
from l3hpc.workspace.run_record import RunRecord, StepRecord
from l3hpc.workspace.states import StepState

POLL_S = 0.5
TAIL_BYTES = 65_536
MAX_LINE = 300  # characters
_EPILOGUE = re.compile(
    r"^srun: error: \S+: tasks? [\d,-]+: "
    r"|^srun: (Terminating|Force Terminated|forcing job termination|got SIGCONT|Job step aborted"
    r"|launch/slurm: _step_signal)"
    r"|^l3hpc: killed by signal"
    r"|^\S.*: line \d+: +\d+ (Killed|Terminated)\b"  # bash, of a killed Python
    r"|^(\S*slurmstepd\S*:|\[\S+\]) error: \*\*\* (STEP|JOB) ")  # since Slurm 26.05 with the time
_UNFINISHED = re.compile(r"(\r|\x1b(\[[\d;:]{0,30})?)\Z")
_SRUN_FAILS = re.compile(r"\bsrun: (error|fatal|command not found|not found|No such file)")


def find_log(
    workspace: Path, record: RunRecord, step: StepRecord, *, task: int | None = None,
    which: str = "err",
) -> Path:
    """Find the log of one task, of the latest attempt that has it.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record of the run.
    step
        The step in it.
    task
        Index of the task. None: the first failed task, else the first running one, else the first.
    which
        ``err`` or ``out``.

    Returns
    -------
    Path
        The file; it may not exist yet.

    Raises
    ------
    InputError
        If the step has no log, or no such task.
    """
    if step.state is StepState.REUSED and not step.attempts:
        raise InputError(f"{step.name} was done before this run, so it has no log here",
                         hint=f"Its artifact: {step.artifact}")
    jobs = attempts.latest(step)
    if not jobs:
        raise InputError(f"{step.name} of {record.run} was not submitted, so it has no log")
    if task is not None and task not in jobs:
        raise InputError(f"{step.name} of {record.run} has no task {task}",
                         allowed=f"tasks: {_spans(sorted(jobs))}")
    index = task if task is not None else _default_task(workspace, record, step, sorted(jobs))
    return existing_log(Workspace(workspace).run(record.run).step(step.name), step, index, which)


def existing_log(folder: StepFolder, step: StepRecord, index: int, which: str = "err") -> Path:
    """Return the latest log of a task; of a packed job that of the job, if the task has none.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    step
        The step in the record of the run.
    index
        Index of the task.
    which
        ``err`` or ``out``.

    Returns
    -------
    Path
        The file; it may not exist yet.
    """
    own = folder.log(attempts.log_names(step)[index], which)
    if log_size(own) is not None:
        return own
    return log_of_job(folder, step, index, which) or own


def log_of_job(folder: StepFolder, step: StepRecord, index: int, which: str = "err"
               ) -> Path | None:
    """Return the log of a packed job, where Slurm says why it has ended the job.

    Parameters
    ----------
    folder
        Folder of the step in the run.
    step
        The step in the record of the run.
    index
        Index of one of its tasks.
    which
        ``err`` or ``out``.

    Returns
    -------
    Path or None
        None if it is empty, or the task has a job for itself.
    """
    if index not in attempts.packed(step):
        return None
    path = folder.log(attempts.latest(step)[index], which)
    return path if log_size(path) else None


def pieces(path: Path) -> Iterator[str]:
    """Read a log piece by piece, also of a packed run; a piece ends with a line where it can.

    Parameters
    ----------
    path
        What ``find_log`` returned.

    Yields
    ------
    str
        About a million characters.

    Raises
    ------
    InputError
        If the archive of the run is damaged.
    OSError
        If there is no such file, or it cannot be read.
    """
    decoder, rest = _decoder(), ""
    for block in _blocks(path):
        text = rest + decoder.decode(block)
        end = text.rfind("\n") + 1
        if not end and len(text) >= run_archive.BLOCK:  # a line without end is not collected
            end = _whole(text)
        rest = text[end:]
        if end:
            yield text[:end]
    if last := rest + decoder.decode(b"", final=True):
        yield last


def _whole(text: str) -> int:
    """How much of a text ends neither within a line end nor within the code of a colour."""
    found = _UNFINISHED.search(text)
    return found.start() if found else len(text)


def _decoder() -> codecs.IncrementalDecoder:
    """For pieces of a text: a character may be divided between two."""
    return codecs.getincrementaldecoder("utf-8")("replace")


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        stream = open_regular(path)
    except FileNotFoundError:
        archived = run_archive.read_blocks(path)
        if archived is not None:
            yield from archived
            return
        stream = open_regular(path)  # the run may have been unpacked in between
    with stream:
        while block := stream.read(run_archive.BLOCK):
            yield block


def log_size(path: Path) -> int | None:
    """Return the size of a log, bytes, also of a packed run; None if there is none.

    Parameters
    ----------
    path
        What ``find_log`` returned.
    """
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    try:
        if (size := run_archive.file_size(path)) is not None:
            return size
    except InputError as error:
        report_damage(error)
    # the run may have been unpacked in between
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return None


def tail(path: Path, limit: int = TAIL_BYTES) -> str:
    """Read the end of a file, from the beginning of a line if one begins there.

    Parameters
    ----------
    path
        The file.
    limit
        Largest number of bytes.
    """
    data, size = b"", 0
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, 2)
            stream.seek(max(size - limit, 0))
            data = stream.read(limit)
    except FileNotFoundError:
        for block in _blocks(path):
            data, size = (data + block)[-limit:], size + len(block)
    if size > limit:
        data = data.partition(b"\n")[2] or data  # a progress bar may be one long line
    return data.decode(errors="replace")


def last_lines(path: Path, *, began: bool) -> list[str]:
    """Return the last lines of the log of a job that left no error marker, at most three.

    Of a line longer than ``MAX_LINE`` the beginning is returned, and that the log has the rest.
    What srun and this package add about the end itself is left out, if there is anything else.

    Parameters
    ----------
    path
        The log.
    began
        Whether the step or its setup lines had begun. If not, a complaint of srun is the cause, and
        a hint about it is added.
    """
    try:
        text = tail(path, 16_384)
    except (OSError, InputError):
        return []
    lines = [_shortened(line.strip()) for line in text.splitlines() if line.strip()]
    relevant = [line for line in lines if not _EPILOGUE.search(line)]
    if not began and any(_SRUN_FAILS.search(line) for line in relevant):
        return [*relevant[-2:],
                "if srun does not work here, set srun: false in the profile (cluster.yaml)"]
    return (relevant or lines)[-3:]


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} … (cut; the log has all of it)"


def follow(
    path: Path, ended: Callable[[], bool], *, ask_every_s: float = POLL_S
) -> Iterator[str]:
    """Yield what is in a file, then what is appended to it; it may not exist yet.

    The file is polled, because network file systems do not report changes. A file that was
    truncated is read from its beginning again.

    Parameters
    ----------
    path
        The file.
    ended
        Whether nothing will be appended any more; may be expensive.
    ask_every_s
        Time between two calls of ``ended``, seconds.

    Yields
    ------
    str
        The next piece of text.
    """
    offset, is_over, asked, decoder, rest = 0, False, float("-inf"), _decoder(), ""
    while True:
        # before reading, so that what is written until the end is still read
        if time.monotonic() - asked >= ask_every_s:
            is_over, asked = ended(), time.monotonic()
        if path.exists():
            size = path.stat().st_size
            if size < offset:
                offset, decoder, rest = 0, _decoder(), ""
            if size > offset:
                with open_regular(path) as stream:
                    stream.seek(offset)
                    data = stream.read(run_archive.BLOCK)
                offset += len(data)
                text = rest + decoder.decode(data)
                rest = text[_whole(text):]
                yield text[:len(text) - len(rest)]
                continue
        if is_over:
            if last := rest + decoder.decode(b"", final=True):
                yield last
            return
        time.sleep(POLL_S)


def _default_task(
    workspace: Path, record: RunRecord, step: StepRecord, indices: list[int]
) -> int:
    """The first failed task, else the first that has begun, else the first unfinished one."""
    done = artifacts.finished(Path(step.artifact))
    open_tasks = [index for index in indices if index not in done]
    marks = markers.read(Workspace(workspace).run(record.run).step(step.name).markers, open_tasks)
    current = {index: marks[index].of(attempts.latest(step)[index]) for index in open_tasks
               if index in marks}
    failed = [index for index, each in current.items() if each.exit_code]
    begun = [index for index, each in current.items() if each.begin]
    return (failed or begun or open_tasks or indices)[0]


def _spans(indices: list[int]) -> str:
    if indices == list(range(indices[0], indices[-1] + 1)):
        return f"{indices[0]} to {indices[-1]}" if len(indices) > 1 else str(indices[0])
    return ", ".join(map(str, indices[:20])) + (", …" if len(indices) > 20 else "")
