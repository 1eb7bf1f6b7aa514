"""The records of runs: ``<workspace>/runs/<run>/run.json``, written whole or not at all.

``run_record`` has what a record holds, and ``run_names`` which runs there are. Here records are
written and read, and runs found: commands accept a unique beginning of a name, or ``latest``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.config.resources import Resources
from l3hpc.errors import InputError, nearest, report_damage
from l3hpc.io.files import (
    atomic_file,
    json_bytes,
    parse_json,
    read_bounded,
    read_json,
    write_json,
)
from l3hpc.io.owners import who_decides
from l3hpc.io.syncing import Syncing
from l3hpc.io.values import check_mapping, short_repr
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_names import NAME, names, not_a_folder, unknown_run
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord
from l3hpc.workspace.states import StepState

LATEST = "latest"
MAX_TASKS = 10_000_000  # more than a step can have, and few enough to count them one by one


class _Resources(TypedDict):
    """``Resources`` in a record (tests use fractions of a minute)."""

    cpus: NotRequired[int]
    mem_mb: NotRequired[int]
    gpus: NotRequired[int]
    time_min: NotRequired[float]
    pack: NotRequired[int]


class _Combination(TypedDict):
    """One combination of a sweep: the values chosen, and base step → step."""

    values: dict[str, Any]
    steps: dict[str, str]


class _Options(TypedDict):
    """The part of a run's options that is read again."""

    combinations: NotRequired[list[_Combination]]


class _NotedAttempt(TypedDict):
    """One line of ``attempts.jsonl``."""

    step: str
    first: bool
    attempt: dict[str, Any]


def write(workspace: Path, record: RunRecord, *, durable: bool = True,
          syncing: Syncing | None = None) -> None:
    """Replace the record of a run by one rename, and clear the attempts noted beside it.

    Parameters
    ----------
    workspace
        The workspace folder.
    record
        The record, which has these attempts already.
    durable
        Wait until it is on disk.
    syncing
        Wait for this as well, and not for the rename: until the disk has that, too, the former
        record and the noted attempts are there, and say the same but for the state of the run.
    """
    folder = Workspace(workspace).run(record.run)
    if syncing is None:
        write_json(folder.record, record.to_json(), durable=durable)
    else:
        syncing.add((folder.attempts, folder.path))
        syncing.start()
        with atomic_file(folder.record, durable=False) as stream:
            stream.write(json_bytes(record.to_json()))
            stream.flush()
            os.fsync(stream.fileno())
            # before the rename, because these attempts are cleared; raised by the next ``wait``
            with contextlib.suppress(OSError):
                syncing.wait()
    # after the rename: a kill in between only repeats what is in the record already
    folder.attempts.unlink(missing_ok=True)


def note_attempts(workspace: Path, run: str, attempts: Mapping[str, Attempt], *,
                  first: bool) -> None:
    """Note the jobs of one sbatch in ``attempts.jsonl``, at that moment and in one write.

    ``read`` adds them to the record until the next ``write``.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        Name of the run.
    attempts
        Step → attempt.
    first
        Whether they are the first jobs of this submission of the step.
    """
    text = "".join(json.dumps({"step": step, "first": first, "attempt": attempt.to_json()}) + "\n"
                   for step, attempt in attempts.items())
    # one write of whole lines, which a reader sees completely or not at all
    with open(Workspace(workspace).run(run).attempts, "a", encoding="utf-8") as stream:
        stream.write(text)


def add_attempt(entry: StepRecord, attempt: Attempt, *, first: bool) -> None:
    """Enter a submitted job into the record of its step.

    Parameters
    ----------
    entry
        The step in the record of its run.
    attempt
        What was submitted.
    first
        Whether it is the first job of this submission of the step.
    """
    before = [] if first else entry.submitted_tasks
    entry.state, entry.job = StepState.SUBMITTED, attempt.job
    entry.submitted_tasks = [*before, *attempt.tasks]
    entry.attempts.append(attempt)


def _add_noted_attempts(path: Path, record: RunRecord) -> None:
    """Add what was noted after the record was last written (the writer was killed, or is at work).
    """
    try:
        content = read_bounded(path)
    except FileNotFoundError:
        return
    except InputError as error:
        report_damage(error)
        return
    except OSError as error:
        report_damage(InputError(f"cannot be read: {error.strerror}", where=str(path)))
        return
    entries = {entry.name: entry for entry in record.steps}
    # the last one is being written, or its writer was killed
    *lines, _ = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            noted = check_mapping(_NotedAttempt, parse_json(line, path), "line")
            entry = entries[noted["step"]]
            attempt = Attempt.from_json(noted["attempt"], "attempt")
        except (InputError, KeyError) as error:
            reason = error.message if isinstance(error, InputError) else f"no step {error}"
            report_damage(InputError(f"damaged: {reason}", where=f"{path}:{number}"))
            continue
        # in both places, if the writer was killed after the record and before clearing these lines
        if attempt not in entry.attempts:
            add_attempt(entry, attempt, first=noted["first"])


def read(workspace: Path, run: str) -> RunRecord:
    """Read the record of a run.

    Parameters
    ----------
    workspace
        The workspace folder.
    run
        The exact name of the run.

    Returns
    -------
    RunRecord
        With the attempts noted beside it.

    Raises
    ------
    InputError
        If there is no such run, or its record is damaged.
    """
    folder = Workspace(workspace).run(run)
    path = folder.record
    try:
        value = read_json(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise InputError("is a broken symbolic link", where=str(path),
                             hint=_restore_hint(run)) from None
        raise unknown_run(workspace, run) from None
    except InputError as error:
        if not Workspace(workspace).runs.is_dir():
            raise not_a_folder(workspace) from None
        may_read = os.access(path, os.R_OK, effective_ids=True)
        error.hint = error.hint or (_restore_hint(run) if may_read else who_decides(path))
        raise
    try:
        record = RunRecord.from_json(value)
        _check(record, run)
    except InputError as error:
        raise InputError(f"is not a valid run record: {error.message}", where=str(path),
                         hint=_restore_hint(run)) from None
    _add_noted_attempts(folder.attempts, record)
    return record


def _check(record: RunRecord, run: str) -> None:
    """Refuse a record whose names would lead to another folder, or whose attempts are damaged."""
    if record.run != run:
        raise InputError(f"it belongs to the run {short_repr(record.run)}")
    for entry in record.steps:
        if not NAME.fullmatch(entry.name):
            raise InputError(f"{short_repr(entry.name)} is not the name of a step")
        if not 0 <= entry.tasks <= MAX_TASKS:
            raise InputError(f"{entry.name} has {entry.tasks:,} tasks")
        check_mapping(_Resources, entry.resources, f"resources of {entry.name}")
        if odd := entry.resources.keys() - Resources.__dataclass_fields__:
            unknown = ", ".join(map(short_repr, odd))
            raise InputError(f"resources of {entry.name}: unknown {unknown}")
    names = {entry.name for entry in record.steps}
    for each in check_mapping(_Options, record.options, "options").get("combinations", ()):
        if not names.issuperset(each["steps"].values()):
            raise InputError("a combination lists steps that the run does not have")


def _restore_hint(run: str) -> str:
    return ("It is damaged, or was written by another version of l3hpc. Other runs are not "
            f"affected.\nRestore it from a backup, or remove the folder of {run} and submit again: "
            "finished steps are reused.")


def read_all(workspace: Path, broken: list[InputError] | None = None) -> list[RunRecord]:
    """Read all records, the newest run first.

    Parameters
    ----------
    workspace
        The workspace folder.
    broken
        Receives the errors of records that cannot be read, which are then left out.

    Returns
    -------
    list of RunRecord
        In descending order of ``created``.

    Raises
    ------
    InputError
        If a record cannot be read and ``broken`` is None.
    """
    return newest_first(each(workspace, broken))


def newest_first(found: Iterable[RunRecord]) -> list[RunRecord]:
    """Sort records in descending order of ``created``.

    Parameters
    ----------
    found
        The records.
    """
    return sorted(found, key=lambda record: (record.created, record.run), reverse=True)


def each(workspace: Path, broken: list[InputError] | None = None) -> Iterator[RunRecord]:
    """Read one record after another, in alphabetical order.

    Parameters
    ----------
    workspace, broken
        As in ``read_all``.

    Yields
    ------
    RunRecord
        The record of a run.
    """
    for name in names(workspace):
        try:
            record = read(workspace, name)
        except InputError as error:
            if broken is None:
                raise
            broken.append(error)
        else:
            yield record


def find(workspace: Path, text: str) -> str:
    """Find the run that a text stands for.

    Parameters
    ----------
    workspace
        The workspace folder.
    text
        A name, a unique beginning of one, or ``latest``.

    Returns
    -------
    str
        The name of the run.

    Raises
    ------
    InputError
        If no run or several runs match.
    """
    known = names(workspace)
    if text in known:
        return text
    if not known:
        raise unknown_run(workspace, text)
    if text == LATEST:
        return _latest(workspace)
    matches = [name for name in known if text and name.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(matches[:8]) + (", …" if len(matches) > 8 else "")
        raise InputError(f"{text!r} matches {len(matches)} runs", allowed=shown)
    raise unknown_run(workspace, text)


def _latest(workspace: Path) -> str:
    """The newest run; an ``InputError`` if that may be one whose record is damaged."""
    created: dict[str, float] = {}
    broken: dict[str, InputError] = {}
    for name in names(workspace):
        try:
            created[name] = read(workspace, name).created
        except InputError as damage:
            broken[name] = damage
    newest = max(created, key=lambda name: (created[name], name), default="")
    for name, error in broken.items():
        changed = os.lstat(Workspace(workspace).run(name)).st_mtime
        if not newest or changed > created[newest]:
            raise InputError("the latest run cannot be determined: this record cannot be read",
                             where=error.where, allowed=error.message,
                             hint="Give the name of a run instead of 'latest'.")
    return newest


def step(record: RunRecord, name: str) -> StepRecord:
    """Return one step of a record.

    Parameters
    ----------
    record
        The record of a run.
    name
        Name of the step.

    Raises
    ------
    InputError
        If there is no such step; lists the valid names.
    """
    for entry in record.steps:
        if entry.name == name:
            return entry
    raise InputError(f"run {record.run} has no step {name!r}",
                     allowed=nearest(name, [entry.name for entry in record.steps]))
