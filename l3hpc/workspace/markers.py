"""Markers: the small files in which a job notes its begin, progress, error, requeues and exit.

The script writes ``<task>.begin`` first, an empty ``.<task>.<job>.step`` after the setup lines, and
``<task>.exit`` last (from its EXIT trap). The worker inside keeps ``<task>.progress.json`` up to
date and writes ``<task>.error.json`` if it fails. These files are all that ``l3hpc status`` needs
when Slurm does not respond. At the end the script removes ``.<task>.<job>.step``, and after exit
code 0 ``<task>.progress.json``.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import parse_json, read_bounded, write_json
from l3hpc.io.values import has_type

MAX_BYTES = 2**20
_NAME = re.compile(
    r"([0-9]{1,9})\.(begin|exit|progress\.json|error\.json|requeues\.json|gave_up\.json)")


@dataclass
class TaskMarks:
    """The contents of the markers of one task. A field is empty if there is no such marker.

    Attributes
    ----------
    begin : dict of str to str or None
        ``job``, ``node``, ``time`` …
    exit_code : int or None
        Exit code of the script.
    exited : float or None
        When the script ended, unix seconds.
    exit_job : str
        The job whose script that was; empty if it is not stated.
    in_setup : bool
        Whether the script ended before its step began, in the setup lines or earlier.
    terminated : bool
        Whether it received SIGTERM: cancelled, preempted or at its time limit.
    progress : dict or None
        The latest progress of the step, with ``written`` (unix seconds of the file).
    error : dict or None
        ``type``, ``message``, ``where``, ``hint``, ``tail``.
    requeues : list of dict
        For each requeue ``reason``, ``time``, and what the task has requested since then.
    gave_up : str
        Why the task is not requeued any more.
    """

    begin: dict[str, str] | None = None
    exit_code: int | None = None
    exited: float | None = None
    exit_job: str = ""
    in_setup: bool = False
    terminated: bool = False
    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    requeues: list[dict[str, Any]] = field(default_factory=list)
    gave_up: str = ""

    @property
    def requested(self) -> dict[str, Any]:
        """What the last requeue requests: some of ``mem_mb``, ``time_min`` and ``exclude``."""
        last = self.requeues[-1] if self.requeues else {}
        return {name: last[name] for name in ("mem_mb", "time_min", "exclude") if name in last}

    def of(self, job: str) -> TaskMarks:
        """Return the markers of one job, without those of an earlier job of the task.

        Parameters
        ----------
        job
            Id of the job (``12``) or array task (``13_4``).
        """
        if self.begin is not None and self.begin.get("job", job) != job:
            # resume removes these two before it submits: they are never those of an earlier job
            return TaskMarks(requeues=self.requeues, gave_up=self.gave_up)
        if self.exit_job not in ("", job):  # a cancelled one, which ended after this one had begun
            return replace(self, exit_code=None, exited=None, exit_job="", in_setup=False,
                           terminated=False)
        return self

    @property
    def started(self) -> float | None:
        """When the script began, unix seconds by the clock of the node."""
        return _number((self.begin or {}).get("time"))

    @property
    def restarts(self) -> int:
        """How often the job was restarted under its id."""
        noted = _number((self.begin or {}).get("restarts"))
        return max(int(noted or 0), len(self.requeues))


def path(folder: Path, index: int, what: str) -> Path:
    """Return the path of a marker.

    Parameters
    ----------
    folder
        The markers folder of a step.
    index
        Index of the task.
    what
        ``begin``, ``error.json`` …
    """
    return Path(folder) / f"{index}.{what}"


def read(folder: Path | str, tasks: Container[int] | None = None) -> dict[int, TaskMarks]:
    """Read the markers of a step.

    Parameters
    ----------
    folder
        The markers folder of the step; it need not exist.
    tasks
        Indices of the tasks whose markers are read; None: of all tasks.

    Returns
    -------
    dict of int to TaskMarks
        By task index. Damaged markers are left out and noted as damage.
    """
    while (found := _read_loose(folder, tasks)) is None:
        found = _read_packed(Path(folder), tasks)
        # in neither: there are none yet, or the run has been unpacked in between
        if found is not None or not os.path.isdir(folder):
            return found or {}
    return found


def _read_loose(folder: Path | str, tasks: Container[int] | None) -> dict[int, TaskMarks] | None:
    """Read the markers in the folder; None if there is none, or it went while it was read."""
    found: dict[int, TaskMarks] = {}
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return None
    except OSError as error:
        report_damage(InputError(f"cannot be read: {error.strerror}", where=str(folder)))
        return found
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None or tasks is not None and int(match[1]) not in tasks:
            continue
        marks = found.setdefault(int(match[1]), TaskMarks())
        try:
            content = read_bounded(Path(entry.path), MAX_BYTES)
            if not _store(marks, match[2], content, entry.path, entry.stat().st_mtime):
                parse_json(content, entry.path)
                raise InputError("not an exit marker", where=entry.path)
        except InputError as error:
            report_damage(error)
        except OSError as error:
            # replaced while it was being read, perhaps by another machine (hence ESTALE)
            gone = error.errno in (errno.ENOENT, errno.ESTALE) and not entry.is_symlink()
            if not gone:
                report_damage(InputError(f"cannot be read: {error.strerror}", where=entry.path))
            elif not os.path.isdir(folder):  # packed while it was being read
                return None
    return found


def _read_packed(folder: Path, tasks: Container[int] | None) -> dict[int, TaskMarks] | None:
    """Read the markers of a run whose files ``l3hpc runs pack`` has put into one; None if it is
    not packed.
    """
    from l3hpc.workspace import run_archive  # zipfile takes longer to import than most markers

    found: dict[int, TaskMarks] = {}

    def wanted(name: str) -> bool:
        match = _NAME.fullmatch(name)
        return match is not None and (tasks is None or int(match[1]) in tasks)

    archived = run_archive.read_all(folder, MAX_BYTES, wanted)
    if archived is None:
        return None
    for name, file, content in archived:
        match = _NAME.fullmatch(name)
        assert match is not None
        marks = found.setdefault(int(match[1]), TaskMarks())
        try:
            if not _store(marks, match[2], content, file.name, file.changed_ns / 1e9):
                raise InputError("not an exit marker", where=file.name)
        except InputError as error:
            report_damage(error)
    return found


def read_task(folder: Path, index: int) -> TaskMarks:
    """Read the markers of one task; those of the others, which may be thousands, are not opened.

    Parameters
    ----------
    folder
        The markers folder of the step; it need not exist.
    index
        Index of the task.
    """
    return read(folder, {index}).get(index, TaskMarks())


def forget(folder: Path, before: float) -> None:
    """Remove the markers that were written before a given time.

    A cluster that starts counting again gives a new job the id of an earlier one, whose markers
    would be taken for those of the new job.

    Parameters
    ----------
    folder
        The markers folder of a step.
    before
        Unix seconds.
    """
    for entry in os.scandir(folder):
        if _NAME.fullmatch(entry.name) and entry.stat().st_mtime < before:
            Path(entry.path).unlink(missing_ok=True)


def add_requeue(folder: Path, index: int, reason: str, when: float,
                **requested: int | str | None) -> None:
    """Note that a task is requeued.

    Parameters
    ----------
    folder
        The markers folder of the step.
    index
        Index of the task.
    reason
        Why it is requeued.
    when
        Unix seconds.
    **requested
        What the task requests from now on (``mem_mb``, ``time_min``, ``exclude``), ``words``, the
        description that status shows, and ``restarts``, how often its job had been restarted when
        the attempt began that ends now (default: as its begin marker says); None is left out.
    """
    marks = read_task(folder, index)
    restarts = _number((marks.begin or {}).get("restarts"))
    noted = {"restarts": None if restarts is None else int(restarts), **requested}
    noted = {key: value for key, value in noted.items() if value is not None}
    write_json(path(folder, index, "requeues.json"),
               [*marks.requeues, {"reason": reason, "time": when, **noted}])


def hold(folder: Path, index: int) -> None:
    """Note that the last requeue waits for ``l3hpc resume``: no helper job will change it.

    Parameters
    ----------
    folder
        The markers folder of the step.
    index
        Index of the task.
    """
    requeues = read_task(folder, index).requeues
    if requeues:
        write_json(path(folder, index, "requeues.json"),
                   [*requeues[:-1], {**requeues[-1], "held": True}])


def drop_last_requeue(folder: Path, index: int) -> None:
    """Remove the note of the last requeue: Slurm refused it.

    Parameters
    ----------
    folder
        The markers folder of the step.
    index
        Index of the task.
    """
    marks = read_task(folder, index)
    write_json(path(folder, index, "requeues.json"), marks.requeues[:-1])


def keep_failure(folder: Path, index: int, job: str, code: int) -> None:
    """Note for the script of a packed job that a task has failed: it is not repeated when the job
    is requeued because of another one.

    Parameters
    ----------
    folder
        The markers of the step.
    index
        Index of the task.
    job
        Id of the job, an element of an array.
    code
        Exit code of the task.
    """
    (folder / f".{index}.failed").write_text(f"{job} {code}\n", encoding="utf-8")


def give_up(folder: Path, index: int, reason: str, when: float) -> None:
    """Note why a task is not requeued any more.

    Parameters
    ----------
    folder
        The markers folder of the step.
    index
        Index of the task.
    reason
        The explanation that status shows.
    when
        Unix seconds.
    """
    write_json(path(folder, index, "gave_up.json"), {"words": reason, "time": when})


def _store(marks: TaskMarks, what: str, content: bytes, path: str, written: float) -> bool:
    """Store the content of one marker; False if it is not of the expected form. written: by the
    clock of the file server; a marker of an early version states no time of its own.
    """
    text = content.decode("utf-8", "replace")
    # an empty marker, as a full disk leaves it, still shows that the job began
    # early versions wrote key=value pairs, later ones JSON
    if what == "begin":
        pairs = _pairs(text)
        marks.begin = {"time": str(written)} | pairs
        return bool(pairs)
    if what == "exit":
        pairs = _pairs(text)
        code = _number(pairs.get("code", pairs.get("exit", text.strip())))
        marks.exit_code = None if code is None else int(code)
        marks.exited = _number(pairs.get("time")) or written
        marks.exit_job = str(pairs.get("job", ""))
        marks.in_setup = pairs.get("stage") == "setup"
        marks.terminated = pairs.get("signal") == "TERM"
        return code is not None
    value = parse_json(content, path)
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


def _is_requeue(entry: object) -> bool:
    return isinstance(entry, dict) and all(
        has_type(entry.get(name), int | None) for name in ("mem_mb", "time_min", "restarts")) \
        and has_type(entry.get("exclude"), str | None)


def _pairs(text: str) -> dict[str, str]:
    """Parse ``key=value`` words, or a JSON object, as text values."""
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
