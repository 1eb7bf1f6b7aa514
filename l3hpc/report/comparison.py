"""What distinguishes the combinations of a sweep, or several runs, and what came out of each.

Metrics come from the rows of the results tables and from what steps return, without naming a step:
the columns that tell how good a result is, first those of the last step. Whether a higher or a
lower value is better follows from the rule of the column, or from words in its name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from l3hpc.io.files import read_json, task_folders
from l3hpc.ledger.journal.fold import Row, finite_number
from l3hpc.ledger.schema import direction
from l3hpc.ledger.store import Store
from l3hpc.report.collect import history_of, loaded_step, or_note, read_epochs
from l3hpc.report.networks import has_random_weights
from l3hpc.report.results import Comparison, Epoch, Metric, Variant
from l3hpc.runs.status import CombinationStatus
from l3hpc.steps import ReportItem
from l3hpc.workspace import artifacts
from l3hpc.workspace.layout import ArtifactFolder
from l3hpc.workspace.run_record import RunRecord, StepRecord

MOST_METRICS = 8
Chain = Mapping[str, StepRecord]  # name in the pipeline → the step
Rows = Mapping[Path, Sequence[Row]]  # artifact → its rows of the results tables


@dataclass(frozen=True)
class _Value:
    """A value of a metric, the metric, and what it is measured against (see ``Variant``)."""

    metric: Metric
    value: float
    target: tuple[str, ...] = ()


def chains(record: RunRecord, combinations: Sequence[CombinationStatus]) -> list[Chain]:
    """Return the steps of each combination of a sweep; of another run, all its steps.

    Parameters
    ----------
    record
        The record of the run.
    combinations
        The combinations in its status.
    """
    by_name = {step.name: step for step in record.steps}
    if not combinations:
        return [by_name]
    return [{base: by_name[name] for base, name in each.steps.items() if name in by_name}
            for each in combinations]


def of_sweep(record: RunRecord, combinations: Sequence[CombinationStatus], rows: Rows
             ) -> Comparison | None:
    """Compare the combinations of a sweep.

    Parameters
    ----------
    record
        The record of the run.
    combinations
        The combinations in its status.
    rows
        What ``rows_by_artifact`` returned.

    Returns
    -------
    Comparison or None
        None if the run is no sweep. A damaged training history is left out with a note.
    """
    if not combinations:
        return None
    notes: list[str] = []
    shared = set.intersection(*(set(each.steps.values()) for each in combinations)) \
        if len(combinations) > 1 else set()
    # what all have in common says nothing about any, also while nothing else is done
    found = [(each, values_of({base: step for base, step in chain.items()
                               if step.name not in shared}, rows), history(chain, notes))
             for each, chain in zip(combinations, chains(record, combinations), strict=True)]
    metrics = metrics_of([values for _, values, _ in found])
    return Comparison(
        tuple(combinations[0].values), metrics,
        tuple(Variant(", ".join(f"{name}={value}" for name, value in each.values.items()),
                      each.values, str(each.state), _as_mapping(values, metrics), epochs,
                      each.result, epochs_of=kind, target=_target(values, metrics))
              for each, values, (kind, epochs) in found), notes=tuple(dict.fromkeys(notes)))


@dataclass(frozen=True)
class ComparedRun:
    """A run beside others: record, steps, state, result of the last step, address of its report."""

    record: RunRecord
    chain: Chain
    state: str
    result: str = ""
    address: str = ""


def of_runs(runs: Sequence[ComparedRun], rows: Rows) -> Comparison:
    """Compare runs by the parameters in which they differ.

    Parameters
    ----------
    runs
        At least one.
    rows
        What ``rows_by_artifact`` returned.

    Returns
    -------
    Comparison
        In this order. What is damaged is left out with a note.
    """
    notes: list[str] = []
    values = [values_of(one.chain, rows) for one in runs]
    params = [dict(_parameters(one.chain, notes)) for one in runs]
    names = dict.fromkeys(name for each in params for name in each)
    differing = [name for name in names
                 if len({each[name] for each in params if name in each}) > 1]
    metrics = metrics_of(values)
    return Comparison(tuple(differing), metrics, tuple(
        Variant(one.record.run, {name: own.get(name, "–") for name in differing}, one.state,
                _as_mapping(found, metrics), epochs, one.result, one.address,
                has_random_weights(Path(step.artifact) for step in one.chain.values()), kind,
                _target(found, metrics))
        for one, own, found, (kind, epochs) in zip(
            runs, params, values, [history(one.chain, notes) for one in runs], strict=True)),
        of_runs=True,
        notes=tuple(dict.fromkeys(notes)))


def _parameters(chain: Chain, notes: list[str]) -> Iterator[tuple[str, str]]:
    """``step.parameter`` and value of everything that decides a result."""
    for base, record in chain.items():
        content: Any = or_note(partial(_config, ArtifactFolder(record.artifact).config), {},
                               f"What {base} was given", notes)
        params = content.get("params") if isinstance(content, dict) else None
        step = loaded_step(record.kind)
        if not isinstance(params, dict):
            continue
        for name, value in (params if step is None else step.shown_params(params)).items():
            if step is None or name not in step.not_in_fingerprint:
                yield f"{base}.{name}", "none" if value is None else str(value)


# --- metrics --------------------------------------------------------------------------------------

def rows_by_artifact(workspace: Path) -> dict[Path, list[Row]]:
    """Return the rows of the results tables by the artifact that they name.

    Parameters
    ----------
    workspace
        The workspace folder.
    """
    found: dict[Path, list[Row]] = {}
    for row in Store(workspace).fold().rows.values():
        # a row names its folder, or that of a task in it, by a link in the run that made it
        for path in {Path(os.path.realpath(part)) for part in row.key if part.startswith("/")}:
            found.setdefault(path.parent if path.name.isdecimal() else path, []).append(row)
    return found


def values_of(chain: Chain, rows: Rows) -> list[_Value]:
    """Return the metrics of a chain of steps, those of the last step first.

    After them stand the numbers of which it is not known whether higher or lower ones are better.

    Parameters
    ----------
    chain
        The steps.
    rows
        What ``rows_by_artifact`` returned.
    """
    found: dict[str, _Value] = {}
    others: dict[str, _Value] = {}
    for base, record in reversed(list(chain.items())):
        own = rows.get(Path(record.artifact).resolve(), ())
        for one in (*_from_rows(own), *_from_results(base, record, bool(own))):
            (found if one.metric.better else others).setdefault(one.metric.name, one)
    return [*found.values(), *others.values()]


def headline(chain: Chain, rows: Rows) -> tuple[str, float] | None:
    """Return name and value of the most important metric of a chain; None if it has none.

    Parameters
    ----------
    chain
        The steps.
    rows
        What ``rows_by_artifact`` returned.
    """
    return next(((one.metric.name, one.value) for one in values_of(chain, rows)
                 if one.metric.better), None)


def _from_rows(rows: Sequence[Row]) -> Iterator[_Value]:
    """The result columns of the rows of a step, as means over them (over folds, for example)."""
    # a combination is chosen by validate and by one level of tags (coarse before fine), also where
    # others have rows of their own: a mean over them would compare different things
    rows = [row for row in rows if row.extra.get("split") != "test"] or rows
    level = min((str(row.values.get("label_mode", "")) for row in rows), default="")
    rows = [row for row in rows if str(row.values.get("label_mode", "")) == level]
    if not rows:
        return
    tab = rows[0].tab
    # ``latest_`` columns tell how far a training is, not how good its result
    columns = [column for column in tab.columns if column.update and column.kind == "number"
               and not column.field.startswith("latest_")]
    columns.sort(key=lambda column: column.field != tab.rank)
    target = tuple(str(rows[0].values.get(field)) for field in tab.comparable)
    for column in columns:
        better = "lower" if column.rule == "min" else "higher" if column.rule == "max" \
            else direction(column.field)
        numbers = [number for row in rows if row.tab is tab
                   and (number := finite_number(row.values.get(column.field))) is not None]
        if numbers and better:
            yield _Value(Metric(column.title, better), sum(numbers) / len(numbers), target)


def _from_results(base: str, record: StepRecord, has_rows: bool) -> Iterator[_Value]:
    """The numbers that a step returned, as means over its tasks; what it recorded in the results
    tables is left out.
    """
    results = [result.get("summary") for result in artifacts.results(Path(record.artifact))]
    summaries = [summary for summary in results if isinstance(summary, dict)]
    for name in dict.fromkeys(name for summary in summaries for name in summary):
        if has_rows and name != "parameters":
            continue
        numbers = [number for summary in summaries
                   if (number := _number(summary.get(name))) is not None]
        if numbers:
            yield _Value(Metric(f"{base}: {name.replace('_', ' ')}", direction(name)),
                         sum(numbers) / len(numbers))


def _number(value: Any) -> float | None:
    """The number in a result: itself, or the mean of a statistic."""
    if isinstance(value, dict):
        value = value.get("mean")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def metrics_of(found: Iterable[Sequence[_Value]]) -> tuple[Metric, ...]:
    """Return the metrics that any variant has, without those that are the same in all of them.

    Parameters
    ----------
    found
        The values of each variant.
    """
    values: dict[Metric, list[float]] = {}
    for each in found:
        for one in each:
            values.setdefault(one.metric, []).append(one.value)
    # numbers that are neither good nor bad are all that steps of other people may have
    if any(metric.better for metric in values):
        values = {metric: numbers for metric, numbers in values.items() if metric.better}
    differing = [metric for metric, numbers in values.items() if len(set(numbers)) > 1]
    return tuple((differing or list(values))[:MOST_METRICS])


def _as_mapping(values: Sequence[_Value], metrics: Sequence[Metric]) -> dict[str, float]:
    return {one.metric.name: one.value for one in values if one.metric in metrics}


def _target(values: Sequence[_Value], metrics: Sequence[Metric]) -> tuple[str, ...]:
    return next((one.target for one in values if metrics and one.metric == metrics[0]), ())


def _config(path: Path) -> Any:
    return read_json(path) if path.is_file() else {}


def history(chain: Chain, notes: list[str]) -> tuple[str, tuple[Epoch, ...]]:
    """Return the kind of the last step that has a training history, and its epochs.

    Parameters
    ----------
    chain
        The steps.
    notes
        Receives a sentence about each history that is damaged.
    """
    steps = [(loaded_step(record.kind), record) for record in reversed(list(chain.values()))]
    trainings = [record for step, record in steps
                 if step is not None and ReportItem.TRAINING in step.report_items]
    for record in trainings or [record for step, record in steps if step is not None]:
        folders = task_folders(Path(record.artifact)) if Path(record.artifact).is_dir() else []
        path = None if not folders else folders[0] / "history.csv" if trainings else (
            history_of(folders[0]))
        found: tuple[Epoch, ...] = ()
        if path is not None and (found := or_note(partial(read_epochs, path), found,
                                                  "A training history", notes)):
            return record.kind, found
    return "", ()
