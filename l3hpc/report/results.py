"""The results folder: the report page and the small files that people keep, replaced as a whole."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from l3hpc.errors import InputError
from l3hpc.io.files import task_folders, write_json, write_text
from l3hpc.report.collect import by_kind, known_step
from l3hpc.report.findings import Findings, LedgerRow
from l3hpc.report.page import page

PAGE = "report.html"
SUMMARY = "summary.json"
LARGEST = 100 * 10**6


def write_results(target: Path, findings: Findings, artifacts: Mapping[str, Path]) -> Path:
    """Write the results folder of a run: the page, ``summary.json``, copies, rows of the tables.

    Parameters
    ----------
    target
        The folder. One that was written before is replaced as a whole.
    findings
        What ``collect`` found.
    artifacts
        Name of a step → its artifact folder, as for ``collect``.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        ``target`` is a file, or a folder with something else in it.
    """
    target = Path(target)
    if target.exists() and not (target / SUMMARY).is_file() and (
            not target.is_dir() or any(target.iterdir())):
        raise InputError("is not a results folder", where=str(target),
                         hint="Use another folder, or move this one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    fresh.mkdir()
    try:
        _copy(fresh, by_kind(artifacts, findings.steps))
        for tab in dict.fromkeys(row.tab for row in findings.ledger):
            write_text(fresh / "ledger" / f"{tab}.csv",
                       csv_text([row for row in findings.ledger if row.tab == tab]))
        write_text(fresh / PAGE, page(findings))
        write_json(fresh / SUMMARY, _plain(asdict(findings)))
        if target.exists():
            shutil.rmtree(target)
        os.rename(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target / PAGE


def csv_text(rows: Sequence[LedgerRow]) -> str:
    """The rows of one tab: header and a line each, quoted as spreadsheets read it; formulas are
    text."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow([title for title, _ in rows[0].cells])
    for row in rows:
        writer.writerow([f"'{value}" if _is_formula(value) else value for _, value in row.cells])
    return stream.getvalue()


def _is_formula(value: str) -> bool:
    """Whether a spreadsheet might compute ``value``: a sign in front of what is no number."""
    try:
        float(value)
    except ValueError:
        return value.startswith(("=", "+", "-", "@", "\t", "\r")) and value != "-"
    return False


def _plain(value: object) -> object:
    """JSON values: what is not a finite number is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _copy(folder: Path, artifacts: Mapping[str, Path]) -> None:
    for kind, artifact in artifacts.items():
        step = known_step(kind)
        done = task_folders(artifact) if step is not None and artifact.is_dir() else []
        for task in done:
            for pattern in step.kept_files if step is not None else ():
                for source in sorted(task.glob(pattern)):
                    if not source.is_file() or source.stat().st_size > LARGEST:
                        continue
                    place = folder / kind / (task.name if len(done) > 1 else "") / source.name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, place)
