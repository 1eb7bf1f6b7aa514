"""The rows of the results tables that belong to a run; folds, and several seeds, together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from l3hpc.errors import InputError, report_damage
from l3hpc.io.values import count_of
from l3hpc.ledger.journal.fold import Row
from l3hpc.ledger.schema import TABS
from l3hpc.ledger.store import Store
from l3hpc.ledger.views.as_text import format_value
from l3hpc.ledger.views.folds import (
    FOLD,
    deviation_of,
    grouped,
    is_fold,
    mean_of,
    measured,
    seed_of,
)
from l3hpc.ledger.views.select import cell_of, readable_cell
from l3hpc.web.html import Table
from l3hpc.web.svg import number


@dataclass(frozen=True)
class LedgerRow:
    """One row of a results tab: pairs of column title and value, in the order of the tab.

    ``in_folds``: whether it is in a ``FoldTable`` too.
    """

    tab: str
    cells: tuple[tuple[str, str], ...]
    in_folds: bool = False


@dataclass(frozen=True)
class FoldTable:
    """The folds of a cross-validation, or the rows of several seeds, together, with their mean.

    Attributes
    ----------
    tab
        The results tab.
    common
        Pairs of column title and value, where all rows agree.
    titles
        The columns in which they differ.
    rows
        Number of the fold or seed, or ``mean``, and the values in these columns.
    part
        What a row is: ``fold`` or ``seed``.
    """

    tab: str
    common: tuple[tuple[str, str], ...]
    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    part: str = "fold"


def ledger_rows(workspace: Path, run: str, artifacts: Mapping[str, Path],
                every_row: bool = True) -> tuple[tuple[LedgerRow, ...], tuple[FoldTable, ...]]:
    """Return the rows of the results tables that belong to a run.

    Parameters
    ----------
    workspace
        Folder of the workspace.
    run
        Name of the run.
    artifacts
        Name of a step → its artifact folder.
    every_row
        As in ``collect``.

    Returns
    -------
    rows : tuple of LedgerRow
        The rows that the run recorded; in tabs where it recorded none, those of earlier runs whose
        artifacts it reused.
    folds : tuple of FoldTable
        One for each cross-validation of several folds, and for several seeds, among them.
    """
    # a row names its folder by a link in the run that made it, so real paths are compared
    real = {Path(path).resolve() for path in artifacts.values()}
    own: dict[tuple[str, tuple[str, ...]], Row] = {}
    reused: dict[tuple[str, tuple[str, ...]], Row] = {}
    try:
        recorded = Store(workspace).fold().rows
    except InputError as error:  # of another user: everything else can be shown
        report_damage(error)
        return (), ()
    for place, row in recorded.items():
        mine = row.extra.get("run") == run or f"/runs/{run}/" in "/".join(row.key)
        # of a step with several tasks, a row may name the folder of one
        # not Path.resolve, which fails on links in a circle: anybody may have made this row
        named = [Path(os.path.realpath(part)) for part in row.key if part.startswith("/")]
        shown = any(path in real or path.parent in real for path in named)
        if shown or mine and every_row:
            (own if mine else reused)[place] = row
    tabs = {tab for tab, _ in own}
    found = own | {place: row for place, row in reused.items() if place[0] not in tabs}
    groups = grouped(found[place] for place in sorted(found))
    return (tuple(LedgerRow(row.tab.name, _shown_cells(row), len(group) > 1)
                  for group in groups for row in group),
            tuple(_fold_table(group) for group in groups if len(group) > 1))


def _shown_cells(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((column.title, "" if (value := readable_cell(row, column)) is None
                  else format_value(value)) for column in row.tab.columns)


def _fold_table(folds: Sequence[Row]) -> FoldTable:
    tab, mean = folds[0].tab, mean_of(folds, folds[0].tab)
    scored = measured(tab)
    differing, common = [], []
    for column in tab.columns:
        values = [readable_cell(row, column) for row in folds]
        if column.field in (FOLD, *tab.key) or all(value in (None, "") for value in values):
            continue
        texts = [format_value(value) for value in values]
        if column in scored or len(set(texts)) > 1:
            deviation = deviation_of(mean, column)
            texts.append(format_value(cell_of(mean, column)) + (
                "" if deviation is None else f" ± {format_value(deviation)}"))
            differing.append((column.title, texts))
        else:
            common.append((column.title, texts[0]))
    part = "fold" if is_fold(folds[0]) else "seed"
    names = [*(format_value(row.values[FOLD] if part == "fold" else seed_of(row))
               for row in folds), "mean"]
    return FoldTable(
        tab.name, tuple(common), tuple(title for title, _ in differing),
        tuple((name, *(texts[place] for _, texts in differing))
              for place, name in enumerate(names)), part)


# --- on the page ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Record:
    """A row of the results tables: a line per filled column, and a note about the empty ones."""

    tab: str
    filled: Sequence[tuple[str, str]]
    note: str


@dataclass(frozen=True)
class Folds:
    """Folds, or several seeds: what they have in common, and a table of the rest."""

    tab: str
    common: Sequence[tuple[str, str]]
    table: Table


def folds_shown(found: FoldTable) -> Folds:
    """Return folds, or several seeds, as they are shown, with their mean in the last row."""
    columns = TABS[found.tab].columns if found.tab in TABS else ()
    labels = {column.title: column.label for column in columns}
    heading = (found.part, *(labels.get(title, title) for title in found.titles))
    return Folds(found.tab, [(labels.get(title, title), value) for title, value in found.common],
                 Table(heading, found.rows,
                       numeric=range(1, len(found.titles) + 1)))


def record(row: LedgerRow) -> Record:
    """Return a row of the results tables as it is shown: filled columns and a note."""
    columns = TABS[row.tab].columns if row.tab in TABS else ()
    labels = {column.title: column.label for column in columns}
    filled = [(labels.get(title, title), _by_class(value))
              for title, value in row.cells if value not in ("", "-")]
    empty = [title for title, value in row.cells if value in ("", "-")]
    note = count_of(len(row.cells), "column")
    if empty:
        note += f", {len(empty)} of them empty: {', '.join(empty)}"
    return Record(row.tab, filled, note)


def _by_class(value: str) -> str:
    """Return a cell as it is read: of values by class, ``engine 0.612, dog 0.438``."""
    if not value.startswith("{"):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return ", ".join(f"{name} {number(one) if isinstance(one, (int, float)) else '–'}"
                     for name, one in found.items())
