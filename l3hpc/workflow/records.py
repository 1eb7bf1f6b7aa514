"""The records of runs: ``<workspace>/runs/<run>/run.json``, written whole or not at all.

A run is named by its folder. Commands accept a unique beginning of the name, or ``latest``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, nearest
from l3hpc.files import read_json, write_json
from l3hpc.workflow.model import RunRecord, StepRecord

LATEST = "latest"
NOTED = "attempts.jsonl"


def runs_folder(workspace: Path) -> Path:
    """The folder that holds one folder per run."""
    return Path(f"{workspace}/runs")


def run_folder(workspace: Path, run: str) -> Path:
    """The folder of one run."""
    return Path(f"{workspace}/runs/{run}")


def step_folder(workspace: Path, run: str, step: str) -> Path:
    """The folder of one step of a run: config.json, script.sbatch, logs/, markers/."""
    return Path(f"{workspace}/runs/{run}/steps/{step}")


def logs_folder(workspace: Path, run: str, step: str) -> Path:
    """Where a step's logs are (submitit keeps its own files there too)."""
    return Path(f"{step_folder(workspace, run, step)}/logs")


def markers_folder(workspace: Path, run: str, step: str) -> Path:
    """Where a step's markers are."""
    return Path(f"{step_folder(workspace, run, step)}/markers")


def write(workspace: Path, record: RunRecord) -> None:
    """Replace the record of a run by one rename; what was noted beside it is in it now."""
    folder = run_folder(workspace, record.run)
    write_json(folder / "run.json", record.to_json())
    (folder / NOTED).unlink(missing_ok=True)


def note_attempts(workspace: Path, run: str, attempts: Mapping[str, Mapping[str, Any]], *,
                  first: bool) -> None:
    """Note what one sbatch submitted, at that moment: step → attempt, a line each in one write,
    which ``read`` adds to the record until the next ``write``. first: of this submission of the
    step."""
    text = "".join(json.dumps({"step": step, "first": first, "attempt": attempt}) + "\n"
                   for step, attempt in attempts.items())
    with open(run_folder(workspace, run) / NOTED, "a", encoding="utf-8") as stream:
        stream.write(text)


def add_attempt(entry: StepRecord, attempt: Mapping[str, Any], *, first: bool) -> None:
    """Enter a submitted job into the record of its step."""
    before = [] if first else entry.submitted_tasks
    entry.state, entry.job = "submitted", attempt["job"]
    entry.submitted_tasks = [*before, *attempt["tasks"]]
    entry.attempts.append(dict(attempt))


def _add_noted(folder: Path, record: RunRecord) -> None:
    """What was noted after the record was last written (the writer was killed, or is at work)."""
    try:
        lines = (folder / NOTED).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    entries = {entry.name: entry for entry in record.steps}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # being written, or torn
            noted = json.loads(line)
            entry = entries[noted["step"]]
            if noted["attempt"] not in entry.attempts:
                add_attempt(entry, noted["attempt"], first=noted["first"])


def read(workspace: Path, run: str) -> RunRecord:
    """The record of the run with exactly this name."""
    path = run_folder(workspace, run) / "run.json"
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise unknown_run(workspace, run) from None
    try:
        record = RunRecord.from_json(value)
        _add_noted(path.parent, record)
        return record
    except (TypeError, KeyError) as error:
        raise InputError(f"not a record of a run: {error}", where=str(path),
                         hint="It was written by another version, or by hand.") from None


def config(workspace: Path, run: str, entry: StepRecord, command: Sequence[str]) -> dict[str, Any]:
    """The frozen config of one step of a run.

    One that is missing or damaged (by a power failure on a disk that does not keep its word) is
    made again from the artifact's; without that the ``InputError`` names what to type.

    command: of the run's submission, as its record has it.
    """
    path = step_folder(workspace, run, entry.name) / "config.json"
    try:
        return _whole_config(path)
    except (OSError, InputError):
        with contextlib.suppress(OSError, InputError):
            kept = _whole_config(Path(entry.artifact) / "config.json")
            if kept["fingerprint"] == Path(entry.artifact).name:
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
    path = artifact / "config.json"
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        begun = stream.read(1) == b"{"
        if begun:
            stream.seek(-2, os.SEEK_END)
        if not begun or stream.read(2) != b"}\n":
            path.unlink()


def _whole_config(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict) or {"params", "inputs", "fingerprint", "shards"} - set(value):
        raise InputError("not a frozen step config", where=str(path))
    return {**value, "labels": value.get("labels", {}), "version": value.get("version")}


def names(workspace: Path) -> list[str]:
    """The names of all recorded runs, in alphabetical order."""
    try:
        entries = list(os.scandir(runs_folder(workspace)))
    except FileNotFoundError:
        return []
    return sorted(entry.name for entry in entries
                  if not entry.name.startswith(".") and os.path.exists(f"{entry.path}/run.json"))


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
        return read_all(workspace)[0].run
    matches = [name for name in known if text and name.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(matches[:8]) + (", …" if len(matches) > 8 else "")
        raise InputError(f"{text!r} is the beginning of {len(matches)} runs", allowed=shown)
    raise unknown_run(workspace, text)


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
    where = f"no run {text!r} in {runs_folder(workspace)}"
    if not known:
        return InputError(where, hint="Nothing was submitted yet in this workspace: l3hpc submit")
    if len(known) > 20:
        import difflib

        known = difflib.get_close_matches(text, known, n=5, cutoff=0.3) or known[-5:]
    return InputError(where, allowed=nearest(text, known))
