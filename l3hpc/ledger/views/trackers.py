"""Rows of the ledger as experiment trackers take them: parameters, metrics per epoch, tags, links.

``mlflow_store`` and ``wandb_folder`` write them. Files are never copied: a tracker gets the paths
of artifacts, which stay where they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from l3hpc.io.files import digest
from l3hpc.ledger.cells import Cell
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import Column, Tab
from l3hpc.ledger.store import key_json
from l3hpc.ledger.views import as_text, select
from l3hpc.ledger.views.runs import BOUND

LINKS = ("artifact", "log", "report")
LATEST = "latest_"  # the fields of columns whose every epoch is a point of a metric


@dataclass(frozen=True)
class Point:
    """A value of a metric.

    Attributes
    ----------
    step
        Epoch, counted from 1; 0 for a value that belongs to no epoch.
    value
        A finite number.
    time
        When it was recorded, in seconds since the Unix epoch.
    """

    step: int
    value: float
    time: float


@dataclass(frozen=True)
class TrackedRun:
    """One row as a run of an experiment tracker.

    Attributes
    ----------
    identity
        16 hexadecimal digits that stand for tab and key: a row that is exported again is the same
        run.
    experiment
        Name of the tab.
    name
        Name of the run, with the step if it has several rows.
    state
        ``finished``, ``failed``, ``running``, ``stale`` (no record for an hour) or empty.
    started, ended
        Times of the first and the last record, in seconds since the Unix epoch.
    parameters
        Field, or swept option → value; empty ones are left out.
    metrics
        Name → its points in the order of steps.
    tags
        Where the row comes from: run, step, job, host, user, commit, note and others.
    links
        ``artifact``, ``log``, ``report`` → path.
    """

    identity: str
    experiment: str
    name: str
    state: str
    started: float
    ended: float
    parameters: dict[str, str | int | float | bool] = field(default_factory=dict)
    metrics: dict[str, list[Point]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


@dataclass
class Exported:
    """How many runs a tracker got.

    Attributes
    ----------
    new, updated, unchanged
        Numbers of runs.
    notes
        What could not be written, and why.
    """

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    notes: list[str] = field(default_factory=list)


def tracked_runs(rows: Iterable[Row], tab: Tab) -> list[TrackedRun]:
    """Return rows as runs of an experiment tracker.

    Parameters
    ----------
    rows
        Rows of one tab, folded with ``history=True``.
    tab
        The tab of ``view_tabs``.
    """
    rows = list(rows)
    return [_tracked(row, tab, name)
            for row, name in zip(rows, as_text.row_names(rows), strict=True)]


def _tracked(row: Row, tab: Tab, name: str) -> TrackedRun:
    """Return one row as a run."""
    run = TrackedRun(
        identity=digest([tab.name, key_json(row.key)])[:16], experiment=tab.name, name=name,
        state=select.row_state(row), started=row.first_time, ended=row.last_time)
    for column in tab.columns:
        value = select.cell_of(row, column)
        # a bound is a run itself, and one that is evaluated later would change this one
        if value is None or value == "" or column is BOUND:
            continue
        if not column.update:
            run.parameters[column.field.removeprefix("--")] = value
        else:
            _add_result(run, row, column, value)
    for epoch in sorted(row.epochs):
        values = row.epochs[epoch]
        for metric, value in values.items():
            number = finite_number(value)
            if metric != "time" and number is not None:
                run.metrics.setdefault(metric, []).append(
                    Point(epoch + 1, number, values.get("time") or row.last_time))
    for origin in (row.origin, row.extra):
        run.tags.update({key: str(value) for key, value in origin.items()
                         if key in ("job", "host", "commit", "run", "step", "pipeline", "cluster",
                                    "note") and value not in (None, "")})
    run.tags["key"] = " ".join(row.key)
    run.links.update({kind: str(row.extra[kind]) for kind in LINKS if row.extra.get(kind)})
    return run


def _add_result(run: TrackedRun, row: Row, column: Column, value: Cell) -> None:
    """Add a result to the metrics of a run, or to its tags if it is a text."""
    if column.field.startswith(LATEST):
        return  # every epoch is a point of its own
    if isinstance(value, (int, float)):
        run.metrics[column.field] = [Point(0, value, row.last_time)]
        return
    for name, number in _numbers(value).items():
        run.metrics[f"{column.field}/{name}"] = [Point(0, number, row.last_time)]
    if not _numbers(value):
        run.tags[column.field] = str(value)


def _numbers(value: Cell) -> dict[str, float]:
    """Return the numbers of a JSON object such as ``{"engine": 0.75}``; empty for another text."""
    try:
        found = json.loads(str(value))
    except ValueError:
        return {}
    return {str(name): number for name, each in found.items()
            if (number := finite_number(each)) is not None} if isinstance(found, dict) else {}
