"""The records of runs: ``<workspace>/runs/<run>/run.json``, written whole or not at all.

A run is named by its folder. Commands accept a unique beginning of the name, or ``latest``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from l3hpc.config.capabilities import LOCAL, SLURM, Capabilities
from l3hpc.config.capabilities import of as capabilities_of
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError, nearest, report_damage
from l3hpc.io.files import open_regular, parse_json, read_bounded, read_json, write_json
from l3hpc.io.values import check_mapping, dataclass_from, short_repr
from l3hpc.workspace.layout import ArtifactFolder, RunFolder, Workspace
from l3hpc.workspace.markers import RunState, StepState

LATEST = "latest"
MOST_TASKS = 10_000_000  # more than a step can have, and few enough to count them one by one
_NAME = re.compile(r"(?!\.{1,2}$)[^/\0]+")


class _Attempt(TypedDict):
    job: str
    array: bool
    tasks: list[int]
    time: float
    offset: NotRequired[int]
    requeues: NotRequired[dict[str, Any]]
    script: NotRequired[str | None]
    cluster: NotRequired[str | None]


@dataclass
class Attempt:
    """One submission of a step.

    Attributes
    ----------
    job : str
        The id that the scheduler gave: ``12``, of an array its base id, and ``12_3`` for a step
        that was one task of an array of several steps.
    array : bool
        Whether the script of the step is an array of its own.
    tasks : list of int
        Indices of the tasks that were submitted.
    time : float
        Unix seconds.
    script : str or None
        The script's path; records of early versions lack it.
    offset : int
        Of an array whose own indices start later than the tasks: task index minus array index.
    cluster : str
        What Slurm was asked for by ``--clusters`` ('' for its default).
    requeues : dict of str to list
        Task index → its requeues, of an attempt that came after others.
    """

    job: str
    array: bool
    tasks: list[int]
    time: float
    script: str | None = None
    offset: int = 0
    cluster: str = ""
    requeues: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The id without the index of an array's task."""
        return self.job.partition("_")[0]

    @property
    def task_ids(self) -> dict[int, str]:
        """Task index → id of its job or array task."""
        return {index: f"{self.job}_{index - self.offset}" if self.array else self.job
                for index in self.tasks}

    def to_json(self) -> dict[str, Any]:
        """JSON values; what says nothing is left out."""
        value = {"job": self.job, "array": self.array, "tasks": self.tasks, "time": self.time}
        rest = {"script": self.script, "offset": self.offset or None,
                "cluster": self.cluster or None, "requeues": self.requeues or None}
        return value | {name: item for name, item in rest.items() if item is not None}

    @classmethod
    def from_json(cls, value: Any, what: str) -> Attempt:
        """The attempt read back. what: its name in the message of an ``InputError``."""
        known = check_mapping(_Attempt, value, what)
        return cls(known["job"], known["array"], known["tasks"], known["time"],
                   known.get("script"), known.get("offset", 0), known.get("cluster") or "",
                   known.get("requeues", {}))


@dataclass
class StepRecord:
    """What the record of a run says of one step.

    state: ``planned``, ``submitted`` or ``reused``. job: the latest job id (base id of an array).
    submitted_tasks: indices of the tasks that were submitted with ``job``. attempts: every
    submission of this step, oldest first.
    """

    name: str
    kind: str
    artifact: str
    tasks: int
    needs: list[str]
    state: StepState = StepState.PLANNED
    job: str | None = None
    submitted_tasks: list[int] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)
    waits_for: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)


@dataclass
class RunRecord:
    """``run.json``: who submitted what, where and when.

    state: ``submitting``, ``submitted``, ``refused`` or ``cancelled``. local: run by the runner of
    this machine instead of Slurm. slots: ``cpus`` and ``mem_mb`` that a local run may use at once.
    folder: the working folder of the submission. note: why a run was refused or cancelled.
    sync_job: the job that brings the run's rows to the results sheet. clusters: what stands behind
    Slurm's ``--clusters`` for this run ('' for the default of Slurm's commands). scheduler: of its
    jobs, where it is neither of the two that ``local`` tells apart.
    """

    run: str
    pipeline: str
    cluster: str
    created: float
    user: str
    host: str
    command: list[str]
    options: dict[str, Any]
    state: RunState
    steps: list[StepRecord]
    schema: int = 1
    local: bool = False
    slots: dict[str, int] = field(default_factory=dict)
    folder: str = ""
    note: str = ""
    sync_job: str | None = None
    clusters: str = ""
    scheduler: str = ""

    @property
    def executor(self) -> str:
        """The scheduler that has its jobs, as a profile names it."""
        return self.scheduler or (LOCAL if self.local else SLURM)

    @property
    def capabilities(self) -> Capabilities:
        """What that scheduler can do."""
        return capabilities_of(self.executor)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        value = asdict(self)
        for step, entry in zip(value["steps"], self.steps, strict=True):
            step["attempts"] = [attempt.to_json() for attempt in entry.attempts]
        if not self.scheduler:
            del value["scheduler"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunRecord:
        """The record read back from JSON values."""
        steps = value.get("steps") if isinstance(value, dict) else None
        if not isinstance(steps, list):
            raise InputError("it has no list of steps")
        made_steps = [_made_step(step, f"steps[{place}]") for place, step in enumerate(steps)]
        fields = _with_state(RunState, {**value, "steps": made_steps}, "record")
        return dataclass_from(cls, fields, "record")


def _made_step(value: Any, what: str) -> StepRecord:
    value = _with_state(StepState, value, what)
    if isinstance(value, dict) and isinstance(value.get("attempts"), list):
        name = f"attempt of {value.get('name')}"
        value = {**value, "attempts": [Attempt.from_json(one, name) for one in value["attempts"]]}
    return dataclass_from(StepRecord, value, what)


def _with_state(kind: type[StepState | RunState], value: Any, what: str) -> Any:
    """JSON values with the word for a state as that state."""
    if not isinstance(value, dict) or not isinstance(value.get("state"), str):
        return value
    try:
        return {**value, "state": kind(value["state"])}
    except ValueError:
        raise InputError(f"{what}.state cannot be {short_repr(value['state'])}") from None


class Asked(TypedDict):
    """``Resources`` in a record (a part of a minute in a test)."""

    cpus: NotRequired[int]
    mem_mb: NotRequired[int]
    gpus: NotRequired[int]
    time_min: NotRequired[float]


class Combination(TypedDict):
    """One of a sweep's: what was chosen, and base step → step."""

    values: dict[str, Any]
    steps: dict[str, str]


class Options(TypedDict):
    """What the options of a run must hold for a reader, where they hold it."""

    combinations: NotRequired[list[Combination]]


class Frozen(TypedDict):
    """What ``config.json`` must hold for another submission of its step."""

    params: dict[str, Any]
    inputs: dict[str, str]
    fingerprint: str
    shards: list[dict[str, Any]]
    labels: NotRequired[dict[str, Any]]


class Noted(TypedDict):
    """One line of ``attempts.jsonl``."""

    step: str
    first: bool
    attempt: dict[str, Any]


def write(workspace: Path, record: RunRecord) -> None:
    """Replace the record of a run by one rename; what was noted beside it is in it now."""
    folder = Workspace(workspace).run(record.run)
    write_json(folder.record, record.to_json())
    folder.attempts.unlink(missing_ok=True)


def note_attempts(workspace: Path, run: str, attempts: Mapping[str, Attempt], *,
                  first: bool) -> None:
    """Note what one sbatch submitted, at that moment: step → attempt, a line each in one write,
    which ``read`` adds to the record until the next ``write``. first: of this submission of the
    step."""
    text = "".join(json.dumps({"step": step, "first": first, "attempt": attempt.to_json()}) + "\n"
                   for step, attempt in attempts.items())
    with open(Workspace(workspace).run(run).attempts, "a", encoding="utf-8") as stream:
        stream.write(text)


def add_attempt(entry: StepRecord, attempt: Attempt, *, first: bool) -> None:
    """Enter a submitted job into the record of its step."""
    before = [] if first else entry.submitted_tasks
    entry.state, entry.job = StepState.SUBMITTED, attempt.job
    entry.submitted_tasks = [*before, *attempt.tasks]
    entry.attempts.append(attempt)


def _add_noted(path: Path, record: RunRecord) -> None:
    """What was noted after the record was last written (the writer was killed, or is at work)."""
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
    *lines, _ = content.split(b"\n")  # the last one is being written, or its writer was killed
    for number, line in enumerate(lines, start=1):
        try:
            noted = check_mapping(Noted, parse_json(line, path), "line")
            entry = entries[noted["step"]]
            attempt = Attempt.from_json(noted["attempt"], "attempt")
        except (InputError, KeyError) as error:
            words = error.message if isinstance(error, InputError) else f"no step {error}"
            report_damage(InputError(f"damaged: {words}", where=f"{path}:{number}"))
            continue
        if attempt not in entry.attempts:
            add_attempt(entry, attempt, first=noted["first"])


def read(workspace: Path, run: str) -> RunRecord:
    """The record of the run with exactly this name."""
    folder = Workspace(workspace).run(run)
    path = folder.record
    try:
        value = read_json(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise InputError("is a broken link", where=str(path), hint=_lost(run)) from None
        raise unknown_run(workspace, run) from None
    except InputError as error:
        error.hint = error.hint or _lost(run)
        raise
    try:
        record = RunRecord.from_json(value)
        _check(record, run)
    except InputError as error:
        raise InputError(f"not a record of a run: {error.message}", where=str(path),
                         hint=_lost(run)) from None
    _add_noted(folder.attempts, record)
    return record


def _check(record: RunRecord, run: str) -> None:
    """Refuse a record whose names would lead to another folder, or whose attempts are damaged."""
    if record.run != run:
        raise InputError(f"it names the run {short_repr(record.run)}")
    for entry in record.steps:
        if not _NAME.fullmatch(entry.name):
            raise InputError(f"{short_repr(entry.name)} is not the name of a step")
        if not 0 <= entry.tasks <= MOST_TASKS:
            raise InputError(f"{entry.name} has {entry.tasks:,} tasks")
        check_mapping(Asked, entry.resources, f"resources of {entry.name}")
        if odd := entry.resources.keys() - Resources.__dataclass_fields__:
            unknown = ", ".join(map(short_repr, odd))
            raise InputError(f"resources of {entry.name}: unknown {unknown}")
    names = {entry.name for entry in record.steps}
    for each in check_mapping(Options, record.options, "options").get("combinations", ()):
        if not names.issuperset(each["steps"].values()):
            raise InputError("a combination has steps that the run has not")


def _lost(run: str) -> str:
    return ("It was damaged, or written by another version of l3hpc. Other runs are not affected.\n"
            f"Restore it from a backup, or remove the folder of {run} and submit again: what is "
            "finished is used again.")


def config(workspace: Path, run: str, entry: StepRecord, command: Sequence[str]) -> dict[str, Any]:
    """The frozen config of one step of a run.

    One that is missing or damaged (by a power failure on a disk that does not keep its word) is
    made again from the artifact's; without that the ``InputError`` names what to type.

    command: of the run's submission, as its record has it.
    """
    path = Workspace(workspace).run(run).step(entry.name).config
    try:
        return _whole_config(path)
    except (OSError, InputError) as error:
        if isinstance(error, InputError):
            report_damage(InputError(error.message, where=error.where or str(path)))
        with contextlib.suppress(OSError, InputError):
            artifact = ArtifactFolder(entry.artifact)
            kept = _whole_config(artifact.config)
            if kept["fingerprint"] == artifact.fingerprint:
                found = {**kept, "run": run, "name": entry.name}
                write_json(path, found)
                return found
    state = "empty or damaged" if path.exists() else "missing"
    raise InputError(f"the frozen settings of step {entry.name} are {state}", where=str(path),
                     hint="Submit it again; finished steps are used as they are: "
                          + shlex.join(["l3hpc", *command[1:]])) from None


def replace_damaged_config(artifact: Path) -> None:
    """Remove an artifact's config.json that a power failure emptied or cut off, before the next run
    leaves its own there."""
    path = ArtifactFolder(artifact).config
    with contextlib.suppress(OSError), open_regular(path) as stream:
        begun = stream.read(1) == b"{"
        stream.seek(max(os.fstat(stream.fileno()).st_size - 2, 0))
        if not begun or stream.read(2) != b"}\n":
            path.unlink()


def _whole_config(path: Path) -> dict[str, Any]:
    value = check_mapping(Frozen, read_json(path), "config")
    return {**value, "labels": value.get("labels", {}), "version": value.get("version")}


def names(workspace: Path) -> list[str]:
    """The names of all recorded runs, in alphabetical order."""
    try:
        entries = list(os.scandir(Workspace(workspace).runs))
    except FileNotFoundError:
        return []
    return sorted(entry.name for entry in entries
                  if not entry.name.startswith(".")
                  and os.path.lexists(RunFolder(entry.path).record))


def read_all(workspace: Path, broken: list[InputError] | None = None) -> list[RunRecord]:
    """All records, the newest run first. One that cannot be read is an ``InputError``; with
    ``broken`` it is left out, and its error added there."""
    records = []
    for name in names(workspace):
        try:
            records.append(read(workspace, name))
        except InputError as error:
            if broken is None:
                raise
            broken.append(error)
    return sorted(records, key=lambda record: (record.created, record.run), reverse=True)


def find(workspace: Path, text: str) -> str:
    """The one run that ``text`` means: its name, a unique beginning of it, or ``latest``."""
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
        listed = ", ".join(matches[:8]) + (", …" if len(matches) > 8 else "")
        raise InputError(f"{text!r} is the beginning of {len(matches)} runs", allowed=listed)
    raise unknown_run(workspace, text)


def _latest(workspace: Path) -> str:
    """The newest run; an ``InputError`` where that may be one whose record is damaged."""
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
            raise InputError("the newest run may be one that cannot be read: name the run instead "
                             "of latest", where=error.where, allowed=error.message)
    return newest


def step(record: RunRecord, name: str) -> StepRecord:
    """The step ``name`` of a run; an ``InputError`` with the valid names for any other."""
    for entry in record.steps:
        if entry.name == name:
            return entry
    raise InputError(f"run {record.run} has no step {name!r}",
                     allowed=nearest(name, [entry.name for entry in record.steps]))


def unknown_run(workspace: Path, text: str) -> InputError:
    """The error for a run that does not exist, with the nearest names."""
    known = names(workspace)
    where = f"no run {text!r} in {Workspace(workspace).runs}"
    if not known:
        return InputError(where, hint="Nothing was submitted yet in this workspace: l3hpc submit")
    if len(known) > 20:
        import difflib

        known = difflib.get_close_matches(text, known, n=5, cutoff=0.3) or known[-5:]
    return InputError(where, allowed=nearest(text, known))
