"""The states of tasks, steps and runs.

They are text as well: records and ``--json`` hold the plain word, and an older record is read as it
is. What a scheduler says of a job is a ``JobState`` (``l3hpc.schedulers.base``).

Markers: the small files in which a job notes its begin, progress, error, requeues and exit.

The script writes ``<task>.begin`` first, an empty ``.<task>.step`` after the setup lines, and
``<task>.exit`` last (from its EXIT trap). The worker inside keeps ``<task>.progress.json`` up to
date and writes ``<task>.error.json`` when it fails. These files are all that ``l3hpc status`` needs
when Slurm does not answer.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import parse_json, read_bounded, write_json
from l3hpc.io.values import has_type

MAX_BYTES = 2**20
_NAME = re.compile(
    r"([0-9]{1,9})\.(begin|exit|progress\.json|error\.json|requeues\.json|gave_up\.json)")


class _State(str, Enum):
    """A state that prints as its word (a plain ``str, Enum`` prints as ``TaskState.LOST``)."""

    __str__ = str.__str__

    @property
    def is_active(self) -> bool:
        """Whether it still waits, runs or comes back to the queue."""
        return self.value in _ACTIVE

    @property
    def is_terminal(self) -> bool:
        """Whether it stays so until somebody submits again."""
        return self.value in _TERMINAL


class TaskState(_State):
    """An unfinished task of a step that was submitted (a finished one has its result)."""

    WAITING = "waiting"  # for earlier steps
    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"
    FAILED = "failed"
    BLOCKED = "blocked"  # a step that it needs will not be done
    LOST = "lost"
    CANCELLED = "cancelled"


class StepState(_State):
    """A step: as its record has it (planned, submitted, reused), or as its tasks make it."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    REUSED = "reused"  # done before this run, or meanwhile by another
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    LOST = "lost"
    CANCELLED = "cancelled"

    @property
    def is_done(self) -> bool:
        """Whether its artifact is complete."""
        return self in (StepState.DONE, StepState.REUSED)

    @property
    def is_stuck(self) -> bool:
        """Whether steps behind it cannot run."""
        return self in (StepState.FAILED, StepState.CANCELLED, StepState.LOST, StepState.BLOCKED)


class RunState(_State):
    """A run: as its record has it (submitting, submitted, refused, cancelled), or as its steps make
    it."""

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    TESTED = "tested"  # ``submit --test-only``: nothing is kept
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


_ACTIVE = frozenset({"submitting", "waiting", "queued", "running", "requeued"})
_TERMINAL = frozenset({"done", "reused", "failed", "blocked", "lost", "cancelled", "refused"})


@dataclass
class TaskMarks:
    """The content of the markers of one task. A field is empty where there is no such marker.

    Attributes
    ----------
    begin : dict of str to str or None
        ``job``, ``node``, ``time`` …
    exit_code : int or None
        Of the script.
    exited : float or None
        Unix seconds.
    in_setup : bool
        Whether the script ended before its step began, in the setup lines or earlier.
    asked_to_end : bool
        Whether it was sent TERM: cancelled, preempted or at its time limit.
    progress : dict or None
        The latest progress of the step, with ``written`` (unix seconds of the file).
    error : dict or None
        ``type``, ``message``, ``where``, ``hint``, ``tail``.
    requeues : list of dict
        For each requeue ``reason``, ``time``, and what the task has asked for since then.
    gave_up : str
        Why the task does not go back to the queue any more.
    """

    begin: dict[str, str] | None = None
    exit_code: int | None = None
    exited: float | None = None
    in_setup: bool = False
    asked_to_end: bool = False
    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    requeues: list[dict[str, Any]] = field(default_factory=list)
    gave_up: str = ""

    @property
    def wanted(self) -> dict[str, Any]:
        """What the last requeue asks for: some of ``mem_mb``, ``time_min`` and ``exclude``."""
        last = self.requeues[-1] if self.requeues else {}
        return {name: last[name] for name in ("mem_mb", "time_min", "exclude") if name in last}

    def of(self, job: str) -> TaskMarks:
        """The markers as far as they are about this job, and not an earlier one of the task."""
        if self.begin is None or self.begin.get("job", job) == job:
            return self
        # these two are never of an earlier job: resume removes them
        return TaskMarks(requeues=self.requeues, gave_up=self.gave_up)

    @property
    def started(self) -> float | None:
        """Unix seconds at which the script began, by the node's clock."""
        return _number((self.begin or {}).get("time"))

    @property
    def restarts(self) -> int:
        """How often the job was started again under its id."""
        noted = _number((self.begin or {}).get("restarts"))
        return max(int(noted or 0), len(self.requeues))


def path(folder: Path, index: int, what: str) -> Path:
    """The marker ``what`` (``begin``, ``error.json`` …) of task ``index`` in a markers folder."""
    return Path(folder) / f"{index}.{what}"


def read(folder: Path) -> dict[int, TaskMarks]:
    """Read all markers of a step.

    Parameters
    ----------
    folder : Path
        The step's folder of markers; it need not exist.

    Returns
    -------
    dict of int to TaskMarks
        By task index. Damaged markers are left out and noted as damage.
    """
    tasks: dict[int, TaskMarks] = {}
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return tasks
    except OSError as error:
        report_damage(InputError(f"cannot be read: {error.strerror}", where=str(folder)))
        return tasks
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None:
            continue
        marks = tasks.setdefault(int(match[1]), TaskMarks())
        try:
            content = read_bounded(Path(entry.path), MAX_BYTES)
            if not _take(marks, match[2], content, entry):
                parse_json(content, entry.path)
                raise InputError("not an exit marker", where=entry.path)
        except InputError as error:
            report_damage(error)
        except OSError as error:
            # replaced at this moment, perhaps by another machine
            gone = error.errno in (errno.ENOENT, errno.ESTALE) and not entry.is_symlink()
            if not gone:
                report_damage(InputError(f"cannot be read: {error.strerror}", where=entry.path))
    return tasks


def forget(folder: Path, before: float) -> None:
    """Remove the markers that were written before a moment (unix seconds).

    A cluster that starts counting again gives a new job the number of an earlier one, whose markers
    would be taken for those of the new job.
    """
    for entry in os.scandir(folder):
        if _NAME.fullmatch(entry.name) and entry.stat().st_mtime < before:
            Path(entry.path).unlink(missing_ok=True)


def add_requeue(folder: Path, index: int, reason: str, when: float, **asked: Any) -> None:
    """Note that a task goes back to the queue.

    Parameters
    ----------
    reason : str
        Why.
    when : float
        Unix seconds.
    **asked
        What the task asks for from now on (``mem_mb``, ``time_min``, ``exclude``), and ``words``
        for a person; None is left out.
    """
    marks = read(folder).get(index, TaskMarks())
    known = {key: value for key, value in asked.items() if value not in (None, False)}
    write_json(path(folder, index, "requeues.json"),
               [*marks.requeues, {"reason": reason, "time": when, **known}])


def hold(folder: Path, index: int) -> None:
    """Note that the last requeue waits for ``l3hpc resume``: no helper job will change it."""
    requeues = read(folder).get(index, TaskMarks()).requeues
    if requeues:
        write_json(path(folder, index, "requeues.json"),
                   [*requeues[:-1], {**requeues[-1], "held": True}])


def take_back_requeue(folder: Path, index: int) -> None:
    """Forget the last requeue: Slurm refused it."""
    marks = read(folder).get(index, TaskMarks())
    write_json(path(folder, index, "requeues.json"), marks.requeues[:-1])


def give_up(folder: Path, index: int, words: str, when: float) -> None:
    """Note why a task does not go back to the queue any more."""
    write_json(path(folder, index, "gave_up.json"), {"words": words, "time": when})


def _take(marks: TaskMarks, what: str, content: bytes, file: os.DirEntry[str]) -> bool:
    """Enter the content of one marker; False where it has no content of that kind."""
    written = file.stat().st_mtime
    text = content.decode("utf-8", "replace")
    # an empty one still shows that the job began
    if what == "begin":
        pairs = _pairs(text)
        marks.begin = {"time": str(written)} | pairs
        return bool(pairs)
    if what == "exit":
        pairs = _pairs(text)
        code = _number(pairs.get("code", pairs.get("exit", text.strip())))
        marks.exit_code = None if code is None else int(code)
        marks.exited = _number(pairs.get("time")) or written
        marks.in_setup = pairs.get("stage") == "setup"
        marks.asked_to_end = pairs.get("signal") == "TERM"
        return code is not None
    value = parse_json(content, file.path)
    if what == "requeues.json":
        if not isinstance(value, list) or not all(_is_requeue(entry) for entry in value):
            return False
        marks.requeues = value
        return True
    if not isinstance(value, dict):
        return False
    if what == "progress.json":
        if not all(has_type(value.get(name), float | None)
                   for name in ("done", "total", "elapsed_s")):
            return False
        marks.progress = {**value, "written": written}
    elif what == "error.json":
        if not has_type(value.get("tail"), list | None):
            return False
        marks.error = value
    else:
        marks.gave_up = str(value.get("words", ""))
    return True


def _is_requeue(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        has_type(entry.get(name), int | None) for name in ("mem_mb", "time_min")) \
        and has_type(entry.get("exclude"), str | None)


def _pairs(text: str) -> dict[str, str]:
    """``key=value`` words, or a JSON object, as text values."""
    value = _json(text)
    if isinstance(value, dict):
        return {str(key): str(entry) for key, entry in value.items()}
    words = (word.partition("=") for word in text.split())
    return {key: rest for key, sign, rest in words if sign}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if has_type(number, float) else None
