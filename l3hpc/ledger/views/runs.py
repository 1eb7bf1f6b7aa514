"""What views add to the rows of the ledger: the name of the run, for sweeps the value of each swept
option, and beside the score of a student that of its bound.

Journals do not hold these values, because a sweep may reuse what an earlier run computed. A row
names its run and step, the record of that run names the step's artifact, and every sweep that uses
the same artifact says which values it stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from l3hpc.errors import InputError, report_damage
from l3hpc.ledger.journal.fold import Fold, Row, finite_number
from l3hpc.ledger.schema import CLASSIFIER_FIELDS, TABS, Column, Tab
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import RunRecord

RUN = Column("Run", "--run")  # like options, no field of a step begins with dashes
# the score of the teacher, through the φ that the student of a row learnt, by the same judge
BOUND = Column("Bound", "--bound", "number", update=True)

Swept = dict[str, str]  # option → value as typed


def view_tabs(found: Fold, workspace: Path) -> dict[str, Tab]:
    """Add names of runs, values of swept options, and artifact, log and report to rows.

    Parameters
    ----------
    found
        The rows, which get these values.
    workspace
        Folder of the workspace, whose records of runs are read.

    Returns
    -------
    dict of str to Tab
        Name → the tab, with a column for each swept option after the declared ones, and the
        column ``BOUND`` where there are rows of students and of teachers. Damaged records are
        reported and left out.
    """
    name_rows(found)
    rows = {name: found.rows_of(tab) for name, tab in TABS.items()}
    if not any(row.extra.get("run") for each in rows.values() for row in each):
        return {name: _with_bounds(tab, rows[name]) for name, tab in TABS.items()}
    artifacts, swept = _artifacts_and_sweeps(_read_records(workspace))
    tabs = {}
    links: dict[tuple[str, str], dict[str, str]] = {}
    for name, tab in TABS.items():
        values = []
        for row in rows[name]:
            place = _step(row)
            artifact = artifacts.get(place, "")
            if artifact:
                if place not in links:
                    links[place] = {"artifact": artifact, **_files_of(workspace, *place)}
                row.extra = links[place] | row.extra
            values.append((row, swept.get(artifact, {})))
        tabs[name] = _with_bounds(_with_columns(tab, values), rows[name])
    return tabs


def is_bound(row: Row) -> bool:
    """Return whether a row is that of a teacher, which its students cannot be expected to beat."""
    return bool(row.extra.get("bound_of"))


def name_rows(found: Fold) -> None:
    """Add the names of runs to rows, without reading the records of runs.

    Parameters
    ----------
    found
        The rows, which get the names.
    """
    for tab in TABS.values():
        rows = found.rows_of(tab)
        for row, name in zip(rows, run_names(rows), strict=True):
            if name:
                row.values[RUN.field] = name


def swept_columns(tab: Tab) -> list[Column]:
    """Return the columns of swept options of a tab of ``view_tabs``."""
    return [column for column in tab.columns if is_swept(column)]


def is_swept(column: Column) -> bool:
    """Return whether a column is that of a swept option."""
    return column.field.startswith("--") and column not in (RUN, BOUND)


def run_names(rows: Sequence[Row]) -> list[str]:
    """Return a name for each row that its run and step make unique.

    Parameters
    ----------
    rows
        Rows of one tab.

    Returns
    -------
    list of str
        The run; where it has several rows, with the step; where the step has several, also with
        the end of the key, and of both its parts if one is not enough. Empty for rows without a
        run.
    """
    candidates = [_candidates(row) for row in rows]
    counts = Counter(name for names in candidates for name in names)
    return [next((name for name in names if counts[name] == 1), names[-1]) if names else ""
            for names in candidates]


def _candidates(row: Row) -> list[str]:
    """Return possible names of a row, the shortest first; none if it has no run."""
    run, step = _step(row)
    if not run:
        return []
    longer = f"{run}/{step}" if step else run
    # texts after the run, because an Exp. ID begins with it; the step in place of its folder
    ends = [end for part in (row.key[1:] or row.key)
            if (end := part.rsplit("/", 1)[-1].removeprefix(run).lstrip("-"))]
    return list(dict.fromkeys([run, longer, *(f"{longer}/{end}" for end in ends),
                               "/".join([longer, *ends])]))


def _step(row: Row) -> tuple[str, str]:
    """Return run and step of a row as texts; empty where the row does not name them."""
    return str(row.extra.get("run") or ""), str(row.extra.get("step") or "")


def _files_of(workspace: Path, run: str, step: str) -> dict[str, str]:
    """Return the logs of a step and the report of its run, as far as they exist."""
    folder = Workspace(workspace.absolute()).run(run)
    found = {"log": folder.step(step).logs, "report": folder.report}
    return {name: str(path) for name, path in found.items() if path.exists()}


def _read_records(workspace: Path) -> list[RunRecord]:
    """Return the records of all runs, the newest first."""
    broken: list[InputError] = []
    found: list[RunRecord] = []
    try:
        found = records.read_all(workspace, broken)
    except InputError as error:
        broken.append(error)
    except OSError as error:
        broken.append(InputError(f"cannot be read: {error.strerror}", where=str(error.filename)))
    # without them, results lack names of options, which must not keep anybody from the results
    for problem in broken:
        report_damage(problem)
    return found


def _artifacts_and_sweeps(runs: Iterable[RunRecord],
                          ) -> tuple[dict[tuple[str, str], str], dict[str, Swept]]:
    """Return (run, step) → artifact, and artifact → the swept values that it stands for."""
    artifacts: dict[tuple[str, str], str] = {}
    swept: dict[str, Swept] = {}
    for run in runs:
        own = {step.name: step.artifact for step in run.steps}
        artifacts |= {(run.run, name): artifact for name, artifact in own.items()}
        for artifact, values in run.swept().items():
            swept[artifact] = values | swept.get(artifact, {})
    return artifacts, swept


def _with_columns(tab: Tab, values: Sequence[tuple[Row, Swept]]) -> Tab:
    """Return the tab with columns for the options that any row has, and fill them in."""
    options = {option: None for _, own in values for option in own}
    columns = []
    for option in options:
        texts = [own[option] for _, own in values if option in own]
        numbers = {text: number for text in texts if (number := _number(text)) is not None}
        column = Column(option, f"--{option}", "number" if len(numbers) == len(set(texts))
                        else "text")
        columns.append(column)
        for row, own in values:
            if option in own:
                text = own[option]
                row.values[column.field] = numbers[text] if column.kind == "number" else text
    return replace(tab, columns=(*tab.columns, *columns))


def _with_bounds(tab: Tab, rows: Sequence[Row]) -> Tab:
    """Return the tab with the column ``BOUND`` if it has rows of students and of teachers; fill it.

    The bound has the target of the student, the same settings of the classifier and the same split.
    Of several runs the newest counts, with the mean of its rows (seeds, for example).
    """
    judged: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in (one for one in rows if is_bound(one)):
        runs = judged.setdefault(_judge(row, str(row.extra["bound_of"])), {})
        runs.setdefault(str(row.extra.get("run")), []).append(row)
    for row in rows:
        runs = judged.get(_judge(row, str(row.extra.get("target"))), {})
        newest = max(runs.values(), key=lambda own: max(one.last_time for one in own), default=[])
        scores = [score for one in newest
                  if (score := finite_number(one.values.get(tab.rank))) is not None]
        if scores:
            row.values[BOUND.field] = sum(scores) / len(scores)
    # also where no student has one: empty cells say that no teacher's row was judged the same way
    mixed = len({is_bound(row) for row in rows}) > 1
    return replace(tab, columns=(*tab.columns, BOUND)) if mixed else tab


def _judge(row: Row, target: str) -> tuple[str, ...]:
    """Return what two rows have in common whose scores can be compared, with the target."""
    return (target, str(row.extra.get("split")),
            *(repr(row.values.get(field)) for field in CLASSIFIER_FIELDS))


def _number(text: str) -> int | float | None:
    """Return the number that a text is; None if it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
