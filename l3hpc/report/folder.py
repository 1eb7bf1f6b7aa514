"""Writes the results folder of a run: the page, and the small files worth keeping.

The demonstration shows its results in it. The folder is replaced as a whole.
"""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

from l3hpc.errors import InputError, report_damage
from l3hpc.io.files import read_json, task_folders, write_json, write_text
from l3hpc.ledger.views.exports import FORMULA_STARTS
from l3hpc.report.collect import by_kind, loaded_step, step_error
from l3hpc.report.data import ReportData, StepFacts
from l3hpc.report.ledger_rows import LedgerRow
from l3hpc.report.page import page
from l3hpc.workspace.layout import ArtifactFolder

PAGE = "report.html"
SUMMARY = "summary.json"
LARGEST_COPY = 100 * 10**6  # bytes; larger files stay in the artifact only


def write_results(target: Path, data: ReportData, artifacts: Mapping[str, Path]) -> Path:
    """Write the results folder of a run.

    It holds the page, ``summary.json``, copies of the files that steps keep, and the rows of the
    results tables as CSV. What a step keeps in a way that is refused is left out with a note on
    the page and a warning.

    Parameters
    ----------
    target
        The folder. A results folder that exists is replaced as a whole.
    data
        The result of ``collect``.
    artifacts
        Name of a step → its artifact folder, as for ``collect``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        ``target`` is a file, or a folder with other contents.
    """
    target = Path(target)
    if target.exists() and not (target / SUMMARY).is_file() and (
            not target.is_dir() or any(target.iterdir())):
        raise InputError("is not a results folder", where=str(target),
                         hint="Use another folder, or move this one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # written beside the old folder and renamed, so that a failure leaves the old one whole
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    fresh.mkdir()
    try:
        refused = _copy_kept_files(fresh, artifacts, data.steps)
        data = replace(data, notes=(*data.notes, *refused))
        for tab in dict.fromkeys(row.tab for row in data.ledger):
            write_text(fresh / "ledger" / f"{tab}.csv",
                       csv_text([row for row in data.ledger if row.tab == tab]))
        write_text(fresh / PAGE, page(data))
        write_json(fresh / SUMMARY, _as_json(asdict(data)))
        if target.exists():
            shutil.rmtree(target)
        os.rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target / PAGE


def csv_text(rows: Sequence[LedgerRow]) -> str:
    """Return the rows of one tab as CSV, with a header; formulas are quoted so that they stay text.

    Parameters
    ----------
    rows
        At least one, all of the same tab.
    """
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow([title for title, _ in rows[0].cells])
    for row in rows:
        writer.writerow([f"'{value}" if _is_formula(value) else value for _, value in row.cells])
    return stream.getvalue()


def _is_formula(value: str) -> bool:
    """Return whether a spreadsheet might evaluate ``value``; negative numbers are harmless."""
    try:
        float(value)
    except ValueError:
        return value.startswith(FORMULA_STARTS) and value != "-"
    return False


def _as_json(value: object) -> object:
    """Return ``value`` as JSON values, with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _copy_kept_files(folder: Path, artifacts: Mapping[str, Path], steps: Sequence[StepFacts]
                     ) -> list[str]:
    """Copy the files that each step keeps into ``folder``; return notes about what was refused."""
    notes: list[str] = []
    kinds = {one.name: one.kind or one.name for one in steps}
    latest = by_kind(artifacts, steps)
    for name, artifact in artifacts.items():
        kind = kinds.get(name, name)
        step = loaded_step(kind)
        if step is None or not artifact.is_dir():
            continue
        # Steps that a pipeline defines itself have their names in common with no other step.
        label = name if step.takes_any else kind
        if label == kind and latest[kind] != Path(artifact):
            continue
        patterns = step.files_to_keep(_params(artifact))
        tasks = task_folders(artifact)
        problems: list[str] = []
        for task in tasks:
            subfolder = folder / label / (task.name if len(tasks) > 1 else "")
            files, refused = _kept_files(patterns, task)
            problems += refused
            for source in files:
                subfolder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, subfolder / source.name)
        for problem in dict.fromkeys(problems):
            error = step_error(kind, f"kept_files: {problem}")
            report_damage(error)
            notes.append(f"Files of a step are not copied. {error}")
    return notes


def _params(artifact: Path) -> Mapping[str, Any]:
    """Return the frozen parameters of an artifact; empty if they cannot be read."""
    try:
        config = read_json(ArtifactFolder(artifact).config)
    except (OSError, InputError):
        return {}
    params = config.get("params") if isinstance(config, dict) else None
    return params if isinstance(params, dict) else {}


def _kept_files(patterns: Sequence[str], task: Path) -> tuple[list[Path], list[str]]:
    """Return the files of a task that match the step's patterns, and what was refused, and why."""
    files: dict[Path, None] = {}
    problems = []
    for pattern in patterns:
        if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
            problems.append(f"{pattern!r} points outside the artifact")
            continue
        try:
            matches = sorted(task.glob(pattern))
        except (ValueError, IndexError):  # an empty pattern, or a misplaced **
            problems.append(f"{pattern!r} is not a pattern of file names")
            continue
        for source in matches:
            # a symbolic link in the output may lead to any file of the user
            if not source.resolve().is_relative_to(task.resolve()):
                problems.append(f"{source} links to a file outside the artifact")
            elif source.is_file() and source.stat().st_size <= LARGEST_COPY:
                files[source] = None
    return list(files), problems
